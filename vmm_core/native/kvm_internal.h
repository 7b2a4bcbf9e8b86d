/* SPDX-License-Identifier: MIT
 *
 * Shared by the kvm_*.c files only.
 */
#ifndef STRATOCELL_KVM_INTERNAL_H
#define STRATOCELL_KVM_INTERNAL_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "kvm.h"

#define KVM_CPUID_ROOM 256
#define KVM_KICK_SIGNAL SIGRTMIN
#define KVM_SLOT_ROOM 64

struct kvm_cpuid_table {
    struct kvm_cpuid2 header;
    struct kvm_cpuid_entry2 entries[KVM_CPUID_ROOM];
};

struct sc_kvm_vm {
    int device_fd;
    int fd;
    int run_size;
    bool tsc_deadline;
    struct sc_bus *bus;
    struct sc_irqchip irqchip;
    struct kvm_cpuid_table supported;
    pthread_mutex_t lock; /* of what follows */
    bool has_irqchip;
    uint32_t slot_count;
    struct kvm_userspace_memory_region slots[KVM_SLOT_ROOM];
};

/* An ioctl; on failure notes its name and returns -errno. */
int kvm_step(int fd, unsigned long request, const void *argument, const char *name, struct sc_kvm_error *error);
int kvm_fail(struct sc_kvm_error *error, int code, const char *step);

/* A VM without a bus; and the one that sc_kvm_vm_begin made from the device at `path`, NULL if there is none. */
int kvm_vm_make(const char *path, struct sc_kvm_vm **vm, struct sc_kvm_error *error);
struct sc_kvm_vm *kvm_vm_take_early(const char *path);
/* A probe, and the one that sc_kvm_vm_begin made; false if there is none like it, or it was taken before. */
int kvm_probe(const char *path, uint32_t iterations, uint64_t limit_ns, struct sc_kvm_speed *speed,
              struct sc_kvm_error *error);
bool kvm_take_early_probe(const char *path, uint32_t iterations, struct sc_kvm_speed *speed, struct sc_kvm_error *error,
                          int *result);

int kvm_open(const char *path, struct sc_kvm_error *error);
int kvm_create_vm(int device_fd, struct sc_kvm_error *error);
int kvm_need_irqchip(struct sc_kvm_vm *vm, struct sc_kvm_error *error);
int kvm_supported_cpuid(int device_fd, struct kvm_cpuid_table *table, struct sc_kvm_error *error);
void kvm_guest_cpuid(const struct sc_kvm_vm *vm, uint32_t apic_id, const struct sc_kvm_topology *topology,
                     struct kvm_cpuid_table *table);

/* State that firmware would have left behind in every CPU. */
int kvm_set_firmware_state(int vcpu_fd, struct sc_kvm_error *error);
int kvm_set_long_mode(int vcpu_fd, const struct sc_kvm_boot_registers *registers, struct sc_kvm_error *error);
int kvm_set_local_interrupts(int vcpu_fd, struct sc_kvm_error *error);

void kvm_install_kick_signal(void);

#endif
