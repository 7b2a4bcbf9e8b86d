/* SPDX-License-Identifier: MIT
 *
 * Hardware virtualization through /dev/kvm: the virtual machine, its vCPUs, and the loop each vCPU thread runs.
 * Functions return 0 or -errno; where several ioctls may fail, `error->step` names the one that did.
 */
#ifndef STRATOCELL_KVM_H
#define STRATOCELL_KVM_H

#include <stdbool.h>
#include <stdint.h>

#include "bus.h"

struct sc_kvm_vm;
struct sc_kvm_vcpu;

struct sc_kvm_error {
    int32_t code; /* errno; 0: `step` is a whole sentence's subject, e.g. a missing capability */
    char step[60];
};

/* CPUs of each level in the level around it. Every level takes as many APIC id bits as its count needs. */
struct sc_kvm_topology {
    uint32_t threads;
    uint32_t cores;
    uint32_t clusters;
    uint32_t dies;
};

struct sc_kvm_boot_registers {
    uint64_t rip, rsi, rsp, cr3;
    uint64_t gdt_base, idt_base;
    uint16_t gdt_limit, idt_limit;
};

struct sc_kvm_speed {
    uint64_t nanoseconds; /* CPU time for the loop alone; 0: it did not finish within the limit */
    uint32_t iterations;
};

/* Begin to make a VM, on a thread of its own, for the next sc_kvm_vm_new with the same device, and before that to probe
 * it for the next sc_kvm_probe (unless `iterations` is 0); and give it back if none came for it. For one thread, as are
 * those two. */
void sc_kvm_vm_begin(const char *path, uint32_t iterations, uint64_t limit_ns);
void sc_kvm_vm_forget(void);
int sc_kvm_vm_new(const char *path, struct sc_bus *bus, struct sc_kvm_vm **vm, struct sc_kvm_error *error);
void sc_kvm_vm_free(struct sc_kvm_vm *vm); /* after its vCPUs */
const struct sc_irqchip *sc_kvm_irqchip(const struct sc_kvm_vm *vm);

/* Returns the memory slot's number. */
int sc_kvm_add_ram(struct sc_kvm_vm *vm, uint64_t gpa, uint64_t size, uint64_t host_address);
int sc_kvm_track_dirty(struct sc_kvm_vm *vm, bool enabled);
/* Fill `bitmap` (1 bit per 4 KiB page of the slot, padded to 8 bytes) with the pages written since the last call. */
int sc_kvm_take_dirty(struct sc_kvm_vm *vm, uint32_t slot, uint64_t *bitmap);

int sc_kvm_doorbell(struct sc_kvm_vm *vm, bool add, uint64_t address, uint32_t size, bool match_any, uint64_t match,
                    int fd);
int sc_kvm_irqfd(struct sc_kvm_vm *vm, bool add, uint32_t gsi, int fd);

/* What the guest's kvm-clock shows, in nanoseconds. */
int sc_kvm_get_clock(struct sc_kvm_vm *vm, uint64_t *nanoseconds);
int sc_kvm_set_clock(struct sc_kvm_vm *vm, uint64_t nanoseconds);

int sc_kvm_vcpu_new(struct sc_kvm_vm *vm, uint32_t apic_id, const struct sc_kvm_topology *topology,
                    struct sc_kvm_vcpu **vcpu, struct sc_kvm_error *error);
void sc_kvm_vcpu_free(struct sc_kvm_vcpu *vcpu);
int sc_kvm_boot_vcpu(struct sc_kvm_vcpu *vcpu, const struct sc_kvm_boot_registers *registers,
                     struct sc_kvm_error *error);

/* Run the guest on the calling thread until something needs Python; returns exit->reason. */
int sc_kvm_run(struct sc_kvm_vcpu *vcpu, struct sc_exit *exit);
/* Make the present or next sc_kvm_run return SC_EXIT_KICKED; from any thread. */
void sc_kvm_kick(struct sc_kvm_vcpu *vcpu);
/* What a person debugging a guest wants to know first; call while the vCPU is stopped. */
int sc_kvm_instruction_pointer(struct sc_kvm_vcpu *vcpu, uint64_t *rip);

/* Time a loop of two instructions in a throw-away VM, for at most `limit_ns`. */
int sc_kvm_probe(const char *path, uint32_t iterations, uint64_t limit_ns, struct sc_kvm_speed *speed,
                 struct sc_kvm_error *error);

#endif
