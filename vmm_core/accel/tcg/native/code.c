/* SPDX-License-Identifier: GPL-2.0-only
 *
 * Which vCPU has translated code of which page, and how a write by one reaches the translations of the others.
 *
 * A vCPU claims a page before it reads its code: from then on the others must see their writes to it, so they are
 * told to watch it. A vCPU that could have written it unseen before it got the message tells the owners to drop
 * their translations. A watched write tells the owners at once, and once more when the writing block is over,
 * because the owner may have translated the old bytes again between the message and the store. Messages are taken at
 * the start of the next block, which is soon enough for x86: code modified by another CPU is only guaranteed to be
 * seen after a serializing instruction, and that ends a block.
 */
#define _GNU_SOURCE
#include "tcg.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LIST_LIMIT 4096

int tcg_code_init(struct tcg_vm *vm)
{
    uint64_t end = 0;
    void *table;

    for (unsigned i = 0; i < vm->ram_count; i++)
        if (vm->ram[i].ram_address + vm->ram[i].size > end)
            end = vm->ram[i].ram_address + vm->ram[i].size;
    vm->owner_pages = end >> TCG_PAGE_BITS;
    table = mmap(NULL, vm->owner_pages * sizeof(*vm->owners), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED)
        return -errno;
    vm->owners = table;
    return 0;
}

void tcg_code_free(struct tcg_vm *vm)
{
    if (vm->owners)
        munmap((void *)vm->owners, vm->owner_pages * sizeof(*vm->owners));
    vm->owners = NULL;
}

void tcg_code_queue_init(struct tcg_vcpu *vcpu)
{
    pthread_mutex_init(&vcpu->queue_lock, NULL);
}

void tcg_code_queue_free(struct tcg_vcpu *vcpu)
{
    free(vcpu->drop.pages);
    free(vcpu->watch.pages);
    pthread_mutex_destroy(&vcpu->queue_lock);
}

static void append(struct tcg_page_list *list, uint32_t page)
{
    uint32_t capacity = list->capacity ? list->capacity * 2 : 64;
    uint32_t *grown;

    if (list->overflow || (list->count && list->pages[list->count - 1] == page))
        return;
    if (list->count == list->capacity) {
        grown = capacity <= LIST_LIMIT ? realloc(list->pages, capacity * sizeof(*grown)) : NULL;
        if (!grown) {
            list->overflow = true;
            return;
        }
        list->pages = grown;
        list->capacity = capacity;
    }
    list->pages[list->count++] = page;
}

static void post(struct tcg_vcpu *vcpu, struct tcg_page_list *list, uint32_t page)
{
    pthread_mutex_lock(&vcpu->queue_lock);
    append(list, page);
    atomic_store(&vcpu->queue_filled, true);
    pthread_mutex_unlock(&vcpu->queue_lock);
    tcg_engine_request_exit(vcpu); /* a sleeping vCPU may sleep on: it looks before it runs */
}

static void drop_for(struct tcg_vm *vm, uint32_t page, uint32_t owners)
{
    for (unsigned i = 0; owners; i++, owners >>= 1)
        if (owners & 1)
            post(vm->vcpu[i], &vm->vcpu[i]->drop, page);
}

void tcg_code_drop(struct tcg_vm *vm, uint32_t page)
{
    drop_for(vm, page, atomic_load(&vm->owners[page]));
}

bool tcg_code_claim(struct uc_struct *uc, uint64_t address)
{
    struct tcg_vcpu *vcpu = tcg_vcpu_of(uc);
    struct tcg_vm *vm = vcpu->vm;
    uint32_t page = address >> TCG_PAGE_BITS, self = 1u << vcpu->index, before;

    if (page >= vm->owner_pages)
        return false;
    before = atomic_load_explicit(&vm->owners[page], memory_order_relaxed);
    if (before & self)
        return false;
    before = atomic_fetch_or(&vm->owners[page], self);
    tcg_engine_watch(vcpu, page);
    if (before == 0) /* else everybody watches it already */
        for (unsigned i = 0; i < vm->vcpu_count; i++)
            if (vm->vcpu[i] != vcpu)
                post(vm->vcpu[i], &vm->vcpu[i]->watch, page);
    return true;
}

/* Called before the store is made. */
bool tcg_code_written(struct uc_struct *uc, uint64_t address, bool own)
{
    struct tcg_vcpu *vcpu = tcg_vcpu_of(uc);
    struct tcg_vm *vm = vcpu->vm;
    uint32_t page = address >> TCG_PAGE_BITS, self = 1u << vcpu->index, others;

    if (page >= vm->owner_pages)
        return false;
    others = atomic_load(&vm->owners[page]);
    if (!own && (others & self)) /* the page stops being watched only if nobody claimed it meanwhile */
        others = atomic_fetch_and(&vm->owners[page], ~self);
    others &= ~self;
    if (!others)
        return false;
    drop_for(vm, page, others);
    if (vcpu->rewritten_count < sizeof(vcpu->rewritten) / sizeof(vcpu->rewritten[0]))
        vcpu->rewritten[vcpu->rewritten_count] = page;
    vcpu->rewritten_count++;
    tcg_engine_request_exit(vcpu);
    return true;
}

void tcg_code_filled(struct uc_struct *uc, uint64_t address)
{
    tcg_log_check_page(tcg_vcpu_of(uc)->vm, address >> TCG_PAGE_BITS);
}

static void drop_everything_elsewhere(struct tcg_vcpu *vcpu)
{
    for (unsigned i = 0; i < vcpu->vm->vcpu_count; i++) {
        struct tcg_vcpu *other = vcpu->vm->vcpu[i];

        if (other == vcpu)
            continue;
        pthread_mutex_lock(&other->queue_lock);
        other->drop.overflow = true;
        atomic_store(&other->queue_filled, true);
        pthread_mutex_unlock(&other->queue_lock);
        tcg_engine_request_exit(other);
    }
}

static void repeat_drops(struct tcg_vcpu *vcpu)
{
    unsigned count = vcpu->rewritten_count;

    vcpu->rewritten_count = 0;
    if (count > sizeof(vcpu->rewritten) / sizeof(vcpu->rewritten[0])) {
        drop_everything_elsewhere(vcpu);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        drop_for(vcpu->vm, vcpu->rewritten[i],
                 atomic_load(&vcpu->vm->owners[vcpu->rewritten[i]]) & ~(1u << vcpu->index));
}

static void sync_drops(struct tcg_vcpu *vcpu, const struct tcg_page_list *list)
{
    if (list->overflow) {
        tcg_engine_drop_all(vcpu);
        return;
    }
    for (uint32_t i = 0; i < list->count; i++)
        if (tcg_engine_drop(vcpu, list->pages[i]))
            atomic_fetch_and(&vcpu->vm->owners[list->pages[i]], ~(1u << vcpu->index));
}

static void sync_watches(struct tcg_vcpu *vcpu, const struct tcg_page_list *list)
{
    if (list->overflow) {
        tcg_engine_watch_all(vcpu);
        drop_everything_elsewhere(vcpu);
        return;
    }
    for (uint32_t i = 0; i < list->count; i++)
        if (tcg_engine_watch(vcpu, list->pages[i]))
            drop_for(vcpu->vm, list->pages[i], atomic_load(&vcpu->vm->owners[list->pages[i]]) & ~(1u << vcpu->index));
}

/* On the vCPU's thread between blocks. Returns whether translations may have gone. */
bool tcg_code_sync(struct tcg_vcpu *vcpu)
{
    struct tcg_page_list drop, watch;

    if (vcpu->rewritten_count)
        repeat_drops(vcpu);
    if (!atomic_load(&vcpu->queue_filled))
        return false;
    pthread_mutex_lock(&vcpu->queue_lock);
    drop = vcpu->drop;
    watch = vcpu->watch;
    memset(&vcpu->drop, 0, sizeof(vcpu->drop));
    memset(&vcpu->watch, 0, sizeof(vcpu->watch));
    atomic_store(&vcpu->queue_filled, false);
    pthread_mutex_unlock(&vcpu->queue_lock);
    sync_watches(vcpu, &watch);
    sync_drops(vcpu, &drop);
    free(drop.pages);
    free(watch.pages);
    return drop.count || drop.overflow;
}
