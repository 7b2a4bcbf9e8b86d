/* SPDX-License-Identifier: GPL-2.0-only
 *
 * Backends write guest memory that holds translated code: each marks the pages it wrote in the vhost dirty log, after
 * the data and before it publishes the used element. Here the marks become dropped translations, before
 * the guest can learn of the write by an interrupt, or by running into the page.
 */
#include "tcg.h"

#include <errno.h>

/* Bit n of the log is guest page n; the owner table counts pages of the engine's RAM space. */
static bool ram_page(const struct tcg_vm *vm, uint64_t guest_page, uint32_t *page)
{
    uint64_t address = guest_page << TCG_PAGE_BITS;

    for (unsigned i = 0; i < vm->ram_count; i++) {
        const struct tcg_ram *ram = &vm->ram[i];

        if (address >= ram->gpa && address - ram->gpa < ram->size) {
            *page = (ram->ram_address + (address - ram->gpa)) >> TCG_PAGE_BITS;
            return true;
        }
    }
    return false;
}

static bool guest_page(const struct tcg_vm *vm, uint32_t page, uint64_t *guest)
{
    uint64_t address = (uint64_t)page << TCG_PAGE_BITS;

    for (unsigned i = 0; i < vm->ram_count; i++) {
        const struct tcg_ram *ram = &vm->ram[i];

        if (address >= ram->ram_address && address - ram->ram_address < ram->size) {
            *guest = (ram->gpa + (address - ram->ram_address)) >> TCG_PAGE_BITS;
            return true;
        }
    }
    return false;
}

static void drop_marked(struct tcg_vm *vm, uint64_t word, uint64_t marks)
{
    while (marks) {
        uint64_t bit = __builtin_ctzll(marks);
        uint32_t page;

        marks &= marks - 1;
        if (ram_page(vm, word * 64 + bit, &page))
            tcg_code_drop(vm, page);
    }
}

/* Backends, other processes, set bits at any time: each word is taken atomically. */
void tcg_log_collect(struct tcg_vm *vm)
{
    if (!vm->log)
        return;
    pthread_mutex_lock(&vm->log_lock);
    atomic_store(&vm->log_collecting, true);
    for (uint64_t word = 0; word < vm->log_words; word++)
        if (atomic_load_explicit(&vm->log[word], memory_order_relaxed))
            drop_marked(vm, word, atomic_exchange(&vm->log[word], 0));
    atomic_store(&vm->log_collecting, false);
    pthread_mutex_unlock(&vm->log_lock);
}

/* The engine is about to map `page` for execution. A clear mark counts only when no collector has just taken it. */
void tcg_log_check_page(struct tcg_vm *vm, uint32_t page)
{
    uint64_t guest, mark;

    if (!vm->log || !guest_page(vm, page, &guest) || guest / 64 >= vm->log_words)
        return;
    mark = 1ull << (guest & 63);
    if (!(atomic_load(&vm->log[guest / 64]) & mark) && !atomic_load(&vm->log_collecting))
        return;
    pthread_mutex_lock(&vm->log_lock);
    if (atomic_fetch_and(&vm->log[guest / 64], ~mark) & mark)
        tcg_code_drop(vm, page);
    pthread_mutex_unlock(&vm->log_lock);
}

int sc_tcg_attach_dirty_log(struct tcg_vm *vm, uint64_t address, uint64_t size)
{
    if (address & 7 || size < 8)
        return -EINVAL;
    pthread_mutex_lock(&vm->log_lock);
    vm->log_words = size / 8;
    vm->log = (_Atomic uint64_t *)(uintptr_t)address;
    pthread_mutex_unlock(&vm->log_lock);
    return 0;
}
