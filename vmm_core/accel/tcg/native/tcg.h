/* SPDX-License-Identifier: GPL-2.0-only
 *
 * The software CPU: one engine instance per vCPU on shared RAM, and the interrupt controllers and timers of a PC.
 *
 * Locks: `vm->chips` guards every interrupt controller and timer; `vm->services` the irqfd table; each vCPU's
 * `queue_lock` its code queue; `vm->log_lock` the dirty log. Only `queue_lock` is taken inside another one.
 * Nothing is locked while the engine may longjmp: on memory accesses, exceptions and injected interrupts.
 */
#ifndef STRATOCELL_TCG_H
#define STRATOCELL_TCG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

#include "bus.h"

#define TCG_MAX_VCPUS 32 /* one bit each in the table of code owners */
#define TCG_MAX_RAM 4
#define TCG_PAGE_BITS 12
#define TCG_IOAPIC_PINS 24
#define TCG_TICKS_PER_SECOND 1000000000ull /* TSC and local APIC timer: CLOCK_MONOTONIC in nanoseconds */

#define TCG_SHORTEST_PERIOD 100000ull /* ns: a guest cannot keep the service thread busy with periodic timers */

#define TCG_LAPIC_BASE 0xfee00000ull
#define TCG_IOAPIC_BASE 0xfec00000ull

struct uc_struct;
struct CPUState;
struct CPUX86State;
struct tcg_vm;

/* A one-shot timer watched by the service thread; `deadline` 0: off. The descriptor may fire early, never late. */
struct tcg_timer {
    int fd;
    uint64_t deadline;
    uint64_t armed;
};

struct tcg_lapic {
    bool enabled; /* IA32_APIC_BASE */
    uint32_t id, tpr, ldr, dfr, svr, esr, icr_low, icr_high;
    uint32_t lvt[6]; /* timer, thermal, performance, LINT0, LINT1, error: offsets 0x320 to 0x370 */
    uint32_t initial_count, divide;
    uint64_t tsc_deadline;
    uint64_t isr[4], irr[4], tmr[4];
    struct tcg_timer timer;
};

enum tcg_state { TCG_RUNNING, TCG_HALTED, TCG_WAIT_SIPI, TCG_DEAD };

/* A page some other thread wants looked at before this vCPU runs on. */
struct tcg_page_list {
    uint32_t *pages;
    uint32_t count, capacity;
    bool overflow; /* all pages */
};

/* A hole in guest-physical memory, as one vCPU's engine sees it. */
struct tcg_window {
    struct tcg_vcpu *vcpu;
    uint64_t base;
};

struct tcg_vcpu {
    struct tcg_vm *vm;
    unsigned index;
    uint32_t apic_id;
    struct uc_struct *uc;
    struct CPUState *cs;
    struct CPUX86State *env;
    struct tcg_window windows[TCG_MAX_RAM + 1];
    unsigned window_count;
    enum tcg_state state;
    uint32_t dead_reason; /* what every run of a dead vCPU returns */
    uint64_t tsc_adjust, spec_ctrl;

    /* requests from any thread */
    _Atomic uint32_t events; /* futex: changes with every request */
    _Atomic bool sleeping;
    _Atomic bool kicked;
    _Atomic bool in_guest;
    bool alone; /* holds vm->exclusive_pending */

    /* under vm->chips */
    struct tcg_lapic lapic;
    bool nmi_pending, init_pending;
    int sipi_vector; /* -1: none */

    /* code of this vCPU's engine (code.c) */
    pthread_mutex_t queue_lock;
    struct tcg_page_list drop;  /* translations to throw away */
    struct tcg_page_list watch; /* another vCPU translates this page: see writes to it */
    _Atomic bool queue_filled;
    uint32_t rewritten[64]; /* foreign code written in this block, to be dropped once more when it is over */
    unsigned rewritten_count;

    /* the engine runs on a stack of its own, so that an access can wait for Python in the middle of an instruction */
    ucontext_t caller, engine;
    void *stack;
    struct sc_exit *exit;
    uint32_t exit_reason;
    char failure[256];
};

struct tcg_pic {
    uint8_t irr, imr, isr, elcr, lines, vector_base, lowest, icw1, icw4;
    uint8_t init_step;
    bool read_isr, special_mask;
};

struct tcg_pit_channel {
    uint32_t reload;
    uint64_t start;
    uint16_t latch;
    uint8_t mode, access, write_low;
    bool latched, read_high, write_high, gate, active;
};

struct tcg_pit {
    struct tcg_pit_channel channel[3];
    struct tcg_timer timer; /* channel 0 */
    uint8_t speaker;
};

struct tcg_ioapic {
    uint64_t redirection[TCG_IOAPIC_PINS];
    uint32_t lines, select, id;
};

struct tcg_ram {
    uint64_t gpa, size, ram_address;
    void *host;
};

struct tcg_irqfd {
    int fd, given_fd;
    uint32_t gsi;
};

struct tcg_vm {
    struct tcg_vcpu *vcpu[TCG_MAX_VCPUS];
    unsigned vcpu_count;
    uint64_t tsc_offset; /* the guest counts from its creation */
    struct tcg_ram ram[TCG_MAX_RAM];
    unsigned ram_count;
    size_t code_buffer;
    uint32_t core_shift, package_shift, per_core, per_package; /* bits and CPUs */

    struct sc_irqchip irqchip;
    struct sc_bus *bus;
    int (*bus_access)(struct sc_bus *bus, struct sc_access *access);

    pthread_mutex_t chips; /* also the order of all interrupts */
    struct tcg_pic pic[2];
    struct tcg_pit pit;
    struct tcg_ioapic ioapic;

    _Atomic uint32_t *owners; /* per RAM page: vCPUs that may have translated code of it */
    uint64_t owner_pages;

    pthread_mutex_t log_lock;
    _Atomic uint64_t *log;
    uint64_t log_words;
    _Atomic bool log_collecting;

    _Atomic bool exclusive_pending; /* taken by the vCPU that must be alone for one instruction */

    pthread_mutex_t services;
    pthread_t service_thread;
    bool service_running;
    int epoll_fd, wake_fd;
    struct tcg_irqfd *irqfds;
    unsigned irqfd_count;
};

/* How many of each there are in the next larger unit, as CPUID tells it. */
struct sc_tcg_topology {
    uint32_t threads, cores, clusters, dies;
};

/* State of the boot CPU, see BootRegisters in vmm_core/accel/base.py. */
struct sc_tcg_boot {
    uint64_t rip, rsi, rsp, cr3, gdt_base, idt_base;
    uint32_t gdt_limit, idt_limit;
};

uint64_t tcg_now(void); /* ns, CLOCK_MONOTONIC */

/* vm.c, service.c, dirty_log.c, engine.c, run.c: what Python calls. 0 or -errno. */
struct tcg_vm *sc_tcg_new(struct sc_bus *bus, uintptr_t bus_access, uint64_t code_buffer);
void sc_tcg_free(struct tcg_vm *vm);
int sc_tcg_add_ram(struct tcg_vm *vm, uint64_t gpa, uint64_t size, uint64_t host_address);
int sc_tcg_create_vcpus(struct tcg_vm *vm, uint32_t count, const uint32_t *apic_ids,
                        const struct sc_tcg_topology *topology);
void sc_tcg_set_boot_registers(struct tcg_vm *vm, const struct sc_tcg_boot *boot);
int sc_tcg_attach_dirty_log(struct tcg_vm *vm, uint64_t address, uint64_t size);
int sc_tcg_add_irqfd(struct tcg_vm *vm, uint32_t gsi, int fd);
int sc_tcg_remove_irqfd(struct tcg_vm *vm, uint32_t gsi, int fd);
struct sc_irqchip *sc_tcg_irqchip(struct tcg_vm *vm);
uint32_t sc_tcg_run(struct tcg_vm *vm, uint32_t index, struct sc_exit *exit);
void sc_tcg_kick(struct tcg_vm *vm, uint32_t index);

/* run.c */
void tcg_notify(struct tcg_vcpu *vcpu);
void tcg_access(struct tcg_vcpu *vcpu, struct sc_access *access);
int tcg_vcpu_prepare(struct tcg_vcpu *vcpu);
void tcg_vcpu_release(struct tcg_vcpu *vcpu);

/* engine.c */
struct tcg_vcpu *tcg_vcpu_of(struct uc_struct *uc);
int tcg_engine_open(struct tcg_vcpu *vcpu);
void tcg_engine_close(struct tcg_vcpu *vcpu);
void tcg_engine_request_exit(struct tcg_vcpu *vcpu);
uint32_t tcg_engine_run(struct tcg_vcpu *vcpu);
void tcg_engine_step_alone(struct tcg_vcpu *vcpu);
void tcg_engine_reset(struct tcg_vcpu *vcpu, int sipi_vector);
bool tcg_engine_can_interrupt(struct tcg_vcpu *vcpu);
uint32_t tcg_engine_tpr(struct tcg_vcpu *vcpu);
void tcg_engine_set_tpr(struct tcg_vcpu *vcpu, uint32_t tpr);
uint64_t tcg_engine_tsc_offset(struct tcg_vcpu *vcpu);
void tcg_engine_set_tsc_offset(struct tcg_vcpu *vcpu, uint64_t offset);
bool tcg_engine_drop(struct tcg_vcpu *vcpu, uint32_t page); /* true: no code of the page is left */
void tcg_engine_drop_all(struct tcg_vcpu *vcpu);
bool tcg_engine_watch(struct tcg_vcpu *vcpu, uint32_t page); /* true: a write may have passed unseen */
void tcg_engine_watch_all(struct tcg_vcpu *vcpu);

/* What tcg_engine_run returns */
enum { TCG_RAN = 0, TCG_RAN_HALT, TCG_RAN_ALONE, TCG_RAN_SHUTDOWN, TCG_RAN_FAILED };

/* Interrupt state, all under vm->chips */
bool tcg_interrupt_pending(struct tcg_vcpu *vcpu);
int tcg_interrupt_take(struct tcg_vcpu *vcpu);

/* cpu.c */
int tcg_cpuid_hook(struct uc_struct *uc, void *opaque);
int tcg_msr_read(struct uc_struct *uc, uint32_t index, uint64_t *value);
int tcg_msr_write(struct uc_struct *uc, uint32_t index, uint64_t value);

/* lapic.c, under vm->chips */
void tcg_lapic_init(struct tcg_vcpu *vcpu);
void tcg_lapic_reset(struct tcg_vcpu *vcpu);
uint32_t tcg_lapic_read(struct tcg_vcpu *vcpu, uint32_t offset);
void tcg_lapic_write(struct tcg_vcpu *vcpu, uint32_t offset, uint32_t value);
void tcg_lapic_set_deadline(struct tcg_vcpu *vcpu, uint64_t tsc);
void tcg_lapic_run_timer(struct tcg_vcpu *vcpu, uint64_t now);
void tcg_lapic_deliver(struct tcg_vm *vm, uint32_t destination, bool logical, uint32_t mode, uint8_t vector,
                       bool level);
int tcg_lapic_pending(struct tcg_vcpu *vcpu);
bool tcg_lapic_waits_for_priority(struct tcg_vcpu *vcpu);
void tcg_lapic_acknowledge(struct tcg_vcpu *vcpu, int vector);
bool tcg_lapic_accepts_pic(const struct tcg_vcpu *vcpu);

/* ioapic.c, pic8259.c, pit.c, under vm->chips */
void tcg_ioapic_init(struct tcg_vm *vm);
uint32_t tcg_ioapic_read(struct tcg_vm *vm, uint32_t offset);
void tcg_ioapic_write(struct tcg_vm *vm, uint32_t offset, uint32_t value);
void tcg_ioapic_set(struct tcg_vm *vm, uint32_t pin, bool level);
void tcg_ioapic_eoi(struct tcg_vm *vm, uint8_t vector);
void tcg_pic_init(struct tcg_vm *vm);
bool tcg_pic_port(uint64_t port);
uint8_t tcg_pic_read(struct tcg_vm *vm, uint64_t port);
void tcg_pic_write(struct tcg_vm *vm, uint64_t port, uint8_t value);
void tcg_pic_set(struct tcg_vm *vm, uint32_t line, bool level);
bool tcg_pic_pending(struct tcg_vm *vm);
int tcg_pic_acknowledge(struct tcg_vm *vm);
void tcg_pit_init(struct tcg_vm *vm);
bool tcg_pit_port(uint64_t port);
uint8_t tcg_pit_read(struct tcg_vm *vm, uint64_t port);
void tcg_pit_write(struct tcg_vm *vm, uint64_t port, uint8_t value);
void tcg_pit_run_timer(struct tcg_vm *vm, uint64_t now);

/* service.c */
int tcg_service_start(struct tcg_vm *vm);
void tcg_service_stop(struct tcg_vm *vm);
int tcg_timer_open(struct tcg_vm *vm, struct tcg_timer *timer, uint32_t owner);
void tcg_timer_close(struct tcg_timer *timer);
void tcg_timer_set(struct tcg_timer *timer, uint64_t deadline);
void tcg_irq_set(void *opaque, uint32_t gsi, int level);

/* code.c */
bool tcg_code_claim(struct uc_struct *uc, uint64_t page);
bool tcg_code_written(struct uc_struct *uc, uint64_t page, bool own);
void tcg_code_filled(struct uc_struct *uc, uint64_t page);
bool tcg_code_sync(struct tcg_vcpu *vcpu);
int tcg_code_init(struct tcg_vm *vm);
void tcg_code_free(struct tcg_vm *vm);
void tcg_code_queue_init(struct tcg_vcpu *vcpu);
void tcg_code_queue_free(struct tcg_vcpu *vcpu);
void tcg_code_drop(struct tcg_vm *vm, uint32_t page); /* from any thread */

/* dirty_log.c */
void tcg_log_collect(struct tcg_vm *vm);
void tcg_log_check_page(struct tcg_vm *vm, uint32_t page);

#endif
