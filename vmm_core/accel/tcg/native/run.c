/* SPDX-License-Identifier: GPL-2.0-only
 *
 * A vCPU's life: running, halted, waiting for start-up, and its conversation with Python.
 *
 * The engine runs on a stack of its own in the caller's thread. An access that Python must answer switches back to the
 * caller in the middle of the instruction, and the next run switches in again: nothing is executed twice,
 * and the engine never jumps over a frame of Python.
 */
#define _GNU_SOURCE
#include "tcg.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STACK_SIZE (1u << 20)
#define GUARD_SIZE 4096u

uint64_t tcg_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* `deadline` 0: no limit. */
static void futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t deadline)
{
    struct timespec limit = {.tv_sec = deadline / 1000000000u, .tv_nsec = deadline % 1000000000u};

    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, seen, deadline ? &limit : NULL, NULL, FUTEX_BITSET_MATCH_ANY);
}

/* Make the vCPU look at its requests: at the start of its next block, or by waking up. Any thread. */
void tcg_notify(struct tcg_vcpu *vcpu)
{
    if (!vcpu)
        return;
    tcg_engine_request_exit(vcpu);
    atomic_fetch_add(&vcpu->events, 1);
    if (atomic_load(&vcpu->sleeping))
        futex_wake(&vcpu->events);
}

void sc_tcg_kick(struct tcg_vm *vm, uint32_t index)
{
    if (index >= vm->vcpu_count)
        return;
    atomic_store(&vm->vcpu[index]->kicked, true);
    tcg_notify(vm->vcpu[index]);
}

static void yield_to_caller(struct tcg_vcpu *vcpu, uint32_t reason)
{
    vcpu->exit_reason = reason;
    swapcontext(&vcpu->engine, &vcpu->caller);
}

/* While another vCPU is alone, wait outside; a kick is answered even then. */
static void enter_guest(struct tcg_vcpu *vcpu)
{
    const struct timespec pause = {.tv_nsec = 20000};

    for (;;) {
        atomic_store(&vcpu->in_guest, true);
        if (vcpu->alone || !atomic_load(&vcpu->vm->exclusive_pending))
            return;
        atomic_store(&vcpu->in_guest, false);
        if (atomic_exchange(&vcpu->kicked, false))
            yield_to_caller(vcpu, SC_EXIT_KICKED);
        nanosleep(&pause, NULL);
    }
}

static void leave_guest(struct tcg_vcpu *vcpu)
{
    atomic_store(&vcpu->in_guest, false);
}

static void wait_for_others(struct tcg_vcpu *vcpu)
{
    for (unsigned i = 0; i < vcpu->vm->vcpu_count; i++) {
        struct tcg_vcpu *other = vcpu->vm->vcpu[i];

        if (other == vcpu)
            continue;
        tcg_engine_request_exit(other);
        while (atomic_load(&other->in_guest))
            sched_yield();
    }
}

static void run_alone(struct tcg_vcpu *vcpu)
{
    bool free = false;

    if (!atomic_compare_exchange_strong(&vcpu->vm->exclusive_pending, &free, true))
        return; /* somebody else is; the instruction comes back here */
    vcpu->alone = true;
    wait_for_others(vcpu);
    enter_guest(vcpu);
    tcg_engine_step_alone(vcpu);
    leave_guest(vcpu);
    vcpu->alone = false;
    atomic_store(&vcpu->vm->exclusive_pending, false);
}

bool tcg_interrupt_pending(struct tcg_vcpu *vcpu)
{
    return (tcg_lapic_accepts_pic(vcpu) && tcg_pic_pending(vcpu->vm)) || tcg_lapic_pending(vcpu) >= 0;
}

int tcg_interrupt_take(struct tcg_vcpu *vcpu)
{
    int vector;

    if (tcg_lapic_accepts_pic(vcpu) && tcg_pic_pending(vcpu->vm))
        return tcg_pic_acknowledge(vcpu->vm);
    vector = tcg_lapic_pending(vcpu);
    if (vector >= 0)
        tcg_lapic_acknowledge(vcpu, vector);
    return vector;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return !a || (b && b < a) ? b : a;
}

/* Under vm->chips: may the vCPU leave its present state? `deadline`: when its next timer may change the answer. */
static bool should_wake(struct tcg_vcpu *vcpu, uint64_t *deadline)
{
    uint64_t now = tcg_now();

    *deadline = 0;
    if (vcpu->init_pending)
        return true;
    if (vcpu->state == TCG_WAIT_SIPI)
        return vcpu->sipi_vector >= 0;
    tcg_lapic_run_timer(vcpu, now);
    if (vcpu->index == 0)
        tcg_pit_run_timer(vcpu->vm, now);
    *deadline = vcpu->lapic.timer.deadline;
    if (vcpu->index == 0)
        *deadline = earlier(*deadline, vcpu->vm->pit.timer.deadline);
    return vcpu->nmi_pending || (tcg_interrupt_pending(vcpu) && tcg_engine_can_interrupt(vcpu));
}

/* INIT and start-up requests, under vm->chips. INIT to the boot CPU is a reset: there is no firmware to return to. */
static void change_state(struct tcg_vcpu *vcpu)
{
    if (vcpu->init_pending) {
        vcpu->init_pending = vcpu->nmi_pending = false;
        vcpu->state = vcpu->index == 0 ? TCG_DEAD : TCG_WAIT_SIPI;
        vcpu->dead_reason = SC_EXIT_RESET;
        tcg_lapic_reset(vcpu);
        tcg_engine_reset(vcpu, -1);
    }
    if (vcpu->state == TCG_WAIT_SIPI && vcpu->sipi_vector >= 0) {
        tcg_engine_reset(vcpu, vcpu->sipi_vector);
        vcpu->sipi_vector = -1;
        vcpu->state = TCG_RUNNING;
    } else if (vcpu->state == TCG_HALTED) {
        vcpu->state = TCG_RUNNING;
    }
}

static void sleep_until_event(struct tcg_vcpu *vcpu)
{
    uint64_t deadline;

    for (;;) {
        uint32_t seen = atomic_load(&vcpu->events);
        bool wake;

        if (atomic_load(&vcpu->kicked))
            return;
        pthread_mutex_lock(&vcpu->vm->chips);
        wake = should_wake(vcpu, &deadline);
        if (wake)
            change_state(vcpu);
        pthread_mutex_unlock(&vcpu->vm->chips);
        if (wake)
            return;
        atomic_store(&vcpu->sleeping, true);
        futex_wait(&vcpu->events, seen, deadline);
        atomic_store(&vcpu->sleeping, false);
    }
}

static void check_init(struct tcg_vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->vm->chips);
    if (vcpu->init_pending)
        change_state(vcpu);
    pthread_mutex_unlock(&vcpu->vm->chips);
}

static void die(struct tcg_vcpu *vcpu, uint32_t reason)
{
    vcpu->state = TCG_DEAD;
    vcpu->dead_reason = reason;
}

static void run_guest(struct tcg_vcpu *vcpu)
{
    uint32_t result;

    check_init(vcpu);
    if (vcpu->state != TCG_RUNNING)
        return;
    enter_guest(vcpu);
    result = tcg_engine_run(vcpu);
    leave_guest(vcpu);
    vcpu->exit->run_count++;
    switch (result) {
    case TCG_RAN_HALT:
        vcpu->state = TCG_HALTED;
        break;
    case TCG_RAN_ALONE:
        run_alone(vcpu);
        break;
    case TCG_RAN_SHUTDOWN:
        die(vcpu, SC_EXIT_SHUTDOWN);
        break;
    case TCG_RAN_FAILED:
        die(vcpu, SC_EXIT_FAILED);
        break;
    default:
        if (vcpu->vm->vcpu_count > 1)
            sched_yield(); /* often a PAUSE: the one it waits for may need this host CPU */
    }
}

static void engine_main(unsigned high, unsigned low)
{
    struct tcg_vcpu *vcpu = (struct tcg_vcpu *)((uintptr_t)high << 32 | low);

    for (;;) {
        if (atomic_exchange(&vcpu->kicked, false))
            yield_to_caller(vcpu, SC_EXIT_KICKED);
        else if (vcpu->state == TCG_DEAD)
            yield_to_caller(vcpu, vcpu->dead_reason);
        else if (vcpu->state == TCG_RUNNING)
            run_guest(vcpu);
        else
            sleep_until_event(vcpu);
    }
}

uint32_t sc_tcg_run(struct tcg_vm *vm, uint32_t index, struct sc_exit *exit)
{
    struct tcg_vcpu *vcpu = index < vm->vcpu_count ? vm->vcpu[index] : NULL;

    if (!vcpu) {
        snprintf(exit->message, sizeof(exit->message), "there is no vCPU %u", index);
        return exit->reason = SC_EXIT_FAILED;
    }
    vcpu->exit = exit;
    swapcontext(&vcpu->caller, &vcpu->engine);
    exit->reason = vcpu->exit_reason;
    if (exit->reason == SC_EXIT_FAILED)
        snprintf(exit->message, sizeof(exit->message), "%s", vcpu->failure);
    return exit->reason;
}

int tcg_vcpu_prepare(struct tcg_vcpu *vcpu)
{
    uintptr_t self = (uintptr_t)vcpu;

    vcpu->stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (vcpu->stack == MAP_FAILED) {
        vcpu->stack = NULL;
        return -errno;
    }
    if (mprotect(vcpu->stack, GUARD_SIZE, PROT_NONE) || getcontext(&vcpu->engine))
        return -errno;
    vcpu->engine.uc_stack.ss_sp = vcpu->stack;
    vcpu->engine.uc_stack.ss_size = STACK_SIZE;
    makecontext(&vcpu->engine, (void (*)(void))engine_main, 2, (unsigned)(self >> 32), (unsigned)self);
    return 0;
}

void tcg_vcpu_release(struct tcg_vcpu *vcpu)
{
    if (vcpu->stack)
        munmap(vcpu->stack, STACK_SIZE);
}

static bool access_controller(struct tcg_vcpu *vcpu, struct sc_access *access)
{
    uint64_t page = access->address & ~0xfffull;
    uint32_t offset = access->address & 0xfff;
    bool whole = access->size == 4 && !(offset & 15);

    if (page != TCG_LAPIC_BASE && page != TCG_IOAPIC_BASE)
        return false;
    pthread_mutex_lock(&vcpu->vm->chips);
    if (!whole)
        access->data = 0;
    else if (page == TCG_LAPIC_BASE && access->is_write)
        tcg_lapic_write(vcpu, offset, access->data);
    else if (page == TCG_LAPIC_BASE)
        access->data = tcg_lapic_read(vcpu, offset);
    else if (access->is_write)
        tcg_ioapic_write(vcpu->vm, offset, access->data);
    else
        access->data = tcg_ioapic_read(vcpu->vm, offset);
    pthread_mutex_unlock(&vcpu->vm->chips);
    return true;
}

static uint64_t read_chip(struct tcg_vm *vm, uint64_t port)
{
    if (tcg_pic_port(port))
        return tcg_pic_read(vm, port);
    return tcg_pit_port(port) ? tcg_pit_read(vm, port) : 0xff;
}

static void write_chip(struct tcg_vm *vm, uint64_t port, uint8_t value)
{
    if (tcg_pic_port(port))
        tcg_pic_write(vm, port, value);
    else if (tcg_pit_port(port))
        tcg_pit_write(vm, port, value);
}

static bool access_chip(struct tcg_vcpu *vcpu, struct sc_access *access)
{
    if (!tcg_pic_port(access->address) && !tcg_pit_port(access->address))
        return false;
    pthread_mutex_lock(&vcpu->vm->chips);
    if (!access->is_write)
        access->data = 0;
    for (unsigned i = 0; i < access->size; i++) {
        if (access->is_write)
            write_chip(vcpu->vm, access->address + i, access->data >> (8 * i));
        else
            access->data |= read_chip(vcpu->vm, access->address + i) << (8 * i);
    }
    pthread_mutex_unlock(&vcpu->vm->chips);
    return true;
}

/* Answer a guest access to a hole or port, here or in Python. */
void tcg_access(struct tcg_vcpu *vcpu, struct sc_access *access)
{
    struct tcg_vm *vm = vcpu->vm;

    if (access->is_pio ? access_chip(vcpu, access) : access_controller(vcpu, access))
        return;
    if (vm->bus_access(vm->bus, access))
        return;
    vcpu->exit->access = *access;
    leave_guest(vcpu);
    yield_to_caller(vcpu, SC_EXIT_COLD);
    access->data = vcpu->exit->access.data;
    enter_guest(vcpu);
}
