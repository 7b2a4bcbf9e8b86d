/* SPDX-License-Identifier: MIT
 *
 * The loop of a vCPU thread. Accesses that the bus answers never leave it.
 *
 * A kick cannot be lost: the kicker first sets `immediate_exit`, then signals the thread if it is in sc_kvm_run; the
 * thread first says that it is there, then enters KVM_RUN, which looks at `immediate_exit` before the guest. Whichever
 * comes second sees the other. Only the thread itself clears the flag, just before it reports the kick.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kvm_internal.h"

#define LONG_PAUSE_NS 500000000ull /* well below the guest's soft-lockup limit */

struct sc_kvm_vcpu {
    struct sc_kvm_vm *vm;
    int fd;
    struct kvm_run *run;
    atomic_int thread;   /* kernel id of the thread in sc_kvm_run, or 0 */
    bool access_pending; /* the last exit was an access with parts not yet offered to the bus */
    bool cold_pending;   /* ... and its present part was given to Python */
    uint32_t done;       /* parts (PIO: elements, MMIO: bytes) answered */
    uint64_t run_count;
    uint64_t kicked_at;
};

static _Thread_local pid_t this_thread;

static void kick_handler(int signal_number)
{
    (void)signal_number; /* only there to interrupt KVM_RUN */
}

static void install_handler(void)
{
    struct sigaction action = {.sa_handler = kick_handler, .sa_flags = SA_RESTART};
    sigaction(KVM_KICK_SIGNAL, &action, NULL);
}

void kvm_install_kick_signal(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_handler);
}

/* --- creation ---------------------------------------------------------------------------------------------------- */

static int set_up(struct sc_kvm_vcpu *vcpu, uint32_t apic_id, const struct sc_kvm_topology *topology,
                  struct sc_kvm_error *error)
{
    struct kvm_cpuid_table cpuid;
    int result = kvm_need_irqchip(vcpu->vm, error);
    if (result < 0)
        return result;
    result = vcpu->fd = kvm_step(vcpu->vm->fd, KVM_CREATE_VCPU, (void *)(uintptr_t)apic_id, "KVM_CREATE_VCPU", error);
    if (result < 0)
        return result;
    kvm_guest_cpuid(vcpu->vm, apic_id, topology, &cpuid);
    result = kvm_step(vcpu->fd, KVM_SET_CPUID2, &cpuid, "KVM_SET_CPUID2", error);
    if (result < 0)
        return result;
    void *run = mmap(NULL, (size_t)vcpu->vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED)
        return kvm_fail(error, errno, "mmap of kvm_run");
    vcpu->run = run;
    return kvm_set_firmware_state(vcpu->fd, error);
}

int sc_kvm_vcpu_new(struct sc_kvm_vm *vm, uint32_t apic_id, const struct sc_kvm_topology *topology,
                    struct sc_kvm_vcpu **created, struct sc_kvm_error *error)
{
    struct sc_kvm_vcpu *vcpu = calloc(1, sizeof *vcpu);
    if (!vcpu)
        return kvm_fail(error, ENOMEM, "memory");
    vcpu->vm = vm;
    vcpu->fd = -1;
    int result = set_up(vcpu, apic_id, topology, error);
    if (result < 0) {
        sc_kvm_vcpu_free(vcpu);
        return result;
    }
    *created = vcpu;
    return 0;
}

void sc_kvm_vcpu_free(struct sc_kvm_vcpu *vcpu)
{
    if (!vcpu)
        return;
    if (vcpu->run)
        munmap(vcpu->run, (size_t)vcpu->vm->run_size);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
    free(vcpu);
}

int sc_kvm_boot_vcpu(struct sc_kvm_vcpu *vcpu, const struct sc_kvm_boot_registers *registers,
                     struct sc_kvm_error *error)
{
    int result = kvm_set_long_mode(vcpu->fd, registers, error);
    return result < 0 ? result : kvm_set_local_interrupts(vcpu->fd, error);
}

int sc_kvm_instruction_pointer(struct sc_kvm_vcpu *vcpu, uint64_t *rip)
{
    struct kvm_regs regs;
    if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0)
        return -errno;
    *rip = regs.rip;
    return 0;
}

/* --- accesses ---------------------------------------------------------------------------------------------------- */

/* An access that crosses a page comes in two pieces of any length; the bus knows powers of two. */
static uint32_t mmio_part(uint32_t left)
{
    return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Describe the next part; returns where its data is in the run page, NULL when there is none. */
static uint8_t *next_part(struct sc_kvm_vcpu *vcpu, struct sc_access *access)
{
    struct kvm_run *run = vcpu->run;
    uint8_t *data;
    *access = (struct sc_access){0};
    if (run->exit_reason == KVM_EXIT_IO) {
        if (vcpu->done >= run->io.count)
            return NULL;
        access->is_pio = 1;
        access->address = run->io.port;
        access->size = run->io.size;
        access->is_write = run->io.direction == KVM_EXIT_IO_OUT;
        data = (uint8_t *)run + run->io.data_offset + (size_t)vcpu->done * run->io.size;
    } else {
        if (vcpu->done >= run->mmio.len)
            return NULL;
        access->address = run->mmio.phys_addr + vcpu->done;
        access->size = mmio_part(run->mmio.len - vcpu->done);
        access->is_write = run->mmio.is_write;
        data = run->mmio.data + vcpu->done;
    }
    if (access->is_write)
        memcpy(&access->data, data, access->size);
    return data;
}

static void part_done(struct sc_kvm_vcpu *vcpu, const struct sc_access *access, uint8_t *data, uint64_t value)
{
    if (!access->is_write)
        memcpy(data, &value, access->size);
    vcpu->done += access->is_pio ? 1 : access->size;
}

/* Answer the parts of an access; returns SC_EXIT_COLD when Python has to, 0 when all are answered. */
static int answer_access(struct sc_kvm_vcpu *vcpu, struct sc_exit *exit)
{
    struct sc_access access;
    uint8_t *data;
    while ((data = next_part(vcpu, &access))) {
        if (vcpu->cold_pending) {
            vcpu->cold_pending = false;
            part_done(vcpu, &access, data, exit->access.data);
        } else if (sc_bus_access(vcpu->vm->bus, &access)) {
            part_done(vcpu, &access, data, access.data);
        } else {
            vcpu->cold_pending = true;
            exit->access = access;
            return SC_EXIT_COLD;
        }
    }
    vcpu->access_pending = false;
    return 0;
}

/* --- other exits ------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static int describe(struct sc_exit *exit, int reason, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(exit->message, sizeof exit->message, format, arguments);
    va_end(arguments);
    return reason;
}

static unsigned long long instruction_pointer(struct sc_kvm_vcpu *vcpu)
{
    uint64_t rip = 0;
    sc_kvm_instruction_pointer(vcpu, &rip);
    return rip;
}

static int internal_error(struct sc_kvm_vcpu *vcpu, struct sc_exit *exit)
{
    const struct kvm_run *run = vcpu->run;
    unsigned long long rip = instruction_pointer(vcpu);
    if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION)
        return describe(exit, SC_EXIT_FAILED, "KVM internal error %u at guest address %#llx", run->internal.suberror,
                        rip);
    char bytes[3 * 16 + 1] = " unknown";
    if (run->emulation_failure.ndata >= 1 &&
        run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)
        for (int i = 0; i < run->emulation_failure.insn_size && i < 15; i++)
            sprintf(bytes + 3 * i, " %02x", run->emulation_failure.insn_bytes[i]);
    return describe(exit, SC_EXIT_FAILED, "KVM cannot emulate the instruction at guest address %#llx, bytes%s", rip,
                    bytes);
}

static int system_event(const struct kvm_run *run, struct sc_exit *exit)
{
    switch (run->system_event.type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
        return SC_EXIT_POWEROFF;
    case KVM_SYSTEM_EVENT_RESET:
        return SC_EXIT_RESET;
    default:
        return describe(exit, SC_EXIT_FAILED, "KVM system event %u", run->system_event.type);
    }
}

/* What KVM_RUN returned with; 0: go on. */
static int handle_exit(struct sc_kvm_vcpu *vcpu, struct sc_exit *exit)
{
    const struct kvm_run *run = vcpu->run;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
    case KVM_EXIT_MMIO:
        vcpu->access_pending = true;
        vcpu->done = 0;
        return answer_access(vcpu, exit);
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        return 0;
    case KVM_EXIT_SHUTDOWN:
        return describe(exit, SC_EXIT_SHUTDOWN, "triple fault");
    case KVM_EXIT_SYSTEM_EVENT:
        return system_event(run, exit);
    case KVM_EXIT_INTERNAL_ERROR:
        return internal_error(vcpu, exit);
    case KVM_EXIT_FAIL_ENTRY:
        return describe(exit, SC_EXIT_FAILED, "the hardware refused to enter the guest, reason %#llx",
                        (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
    default:
        return describe(exit, SC_EXIT_FAILED, "unexpected KVM exit %u at guest address %#llx", run->exit_reason,
                        instruction_pointer(vcpu));
    }
}

/* --- the loop ---------------------------------------------------------------------------------------------------- */

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int take_kick(struct sc_kvm_vcpu *vcpu)
{
    if (!__atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST))
        return 0; /* another signal, meant for this process */
    __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    vcpu->kicked_at = now();
    return SC_EXIT_KICKED;
}

static int run_error(struct sc_kvm_vcpu *vcpu, struct sc_exit *exit, int error)
{
    if (error == EINTR || error == EAGAIN)
        return take_kick(vcpu);
    if (error == EFAULT)
        return describe(exit, SC_EXIT_FAILED,
                        "KVM_RUN: the host could not provide a page of guest memory, at guest address %#llx",
                        instruction_pointer(vcpu));
    return describe(exit, SC_EXIT_FAILED, "KVM_RUN: %s", strerror(error));
}

static int loop(struct sc_kvm_vcpu *vcpu, struct sc_exit *exit)
{
    int reason = vcpu->access_pending ? answer_access(vcpu, exit) : 0;
    while (!reason) {
        int result = ioctl(vcpu->fd, KVM_RUN, 0);
        vcpu->run_count++;
        reason = result < 0 ? run_error(vcpu, exit, errno) : handle_exit(vcpu, exit);
    }
    return reason;
}

/* A thread may have been started with the kick signal blocked. */
static void prepare_thread(void)
{
    sigset_t kick;
    sigemptyset(&kick);
    sigaddset(&kick, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
    this_thread = (pid_t)syscall(SYS_gettid);
}

/* After a pause, tell the guest, so that its watchdogs do not take the gap for a lock-up. Guests without kvm-clock:
 * EINVAL. */
static void excuse_pause(struct sc_kvm_vcpu *vcpu)
{
    if (now() - vcpu->kicked_at > LONG_PAUSE_NS)
        ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
    vcpu->kicked_at = 0;
}

int sc_kvm_run(struct sc_kvm_vcpu *vcpu, struct sc_exit *exit)
{
    if (!this_thread)
        prepare_thread();
    if (vcpu->kicked_at)
        excuse_pause(vcpu);
    exit->message[0] = 0;
    atomic_store(&vcpu->thread, this_thread);
    int reason = loop(vcpu, exit);
    atomic_store(&vcpu->thread, 0);
    exit->reason = (uint32_t)reason;
    exit->run_count = vcpu->run_count;
    return reason;
}

void sc_kvm_kick(struct sc_kvm_vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    int thread = atomic_load(&vcpu->thread);
    if (thread)
        syscall(SYS_tgkill, getpid(), thread, KVM_KICK_SIGNAL);
}
