/* SPDX-License-Identifier: MIT
 *
 * The virtual machine: interrupt controllers, memory slots, doorbells, interrupts by eventfd, dirty log, clock.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kvm_internal.h"

/* Facts 3.1: one page for the identity map, three for the task state segment, in the gap below 4 GiB. */
#define IDENTITY_MAP_ADDRESS 0xfef0c000ull
#define TSS_ADDRESS 0xfef0d000ul

static const struct {
    int number;
    const char *name;
} needed_capabilities[] = {
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_PIT2, "KVM_CAP_PIT2"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

int kvm_fail(struct sc_kvm_error *error, int code, const char *step)
{
    error->code = code;
    snprintf(error->step, sizeof error->step, "%s", step);
    return code ? -code : -ENOTSUP;
}

int kvm_step(int fd, unsigned long request, const void *argument, const char *name, struct sc_kvm_error *error)
{
    int result;
    do
        result = ioctl(fd, request, argument);
    while (result < 0 && errno == EINTR);
    return result < 0 ? kvm_fail(error, errno, name) : result;
}

int kvm_open(const char *path, struct sc_kvm_error *error)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return kvm_fail(error, errno, "open");
    int version = kvm_step(fd, KVM_GET_API_VERSION, NULL, "KVM_GET_API_VERSION", error);
    if (version < 0) {
        close(fd);
        return version;
    }
    if (version != KVM_API_VERSION) {
        close(fd);
        return kvm_fail(error, 0, "KVM API version 12");
    }
    return fd;
}

int kvm_create_vm(int device_fd, struct sc_kvm_error *error)
{
    return kvm_step(device_fd, KVM_CREATE_VM, NULL, "KVM_CREATE_VM", error);
}

static void irq_line(void *opaque, uint32_t gsi, int level)
{
    struct kvm_irq_level line = {.irq = gsi, .level = level != 0};
    ioctl(((struct sc_kvm_vm *)opaque)->fd, KVM_IRQ_LINE, &line); /* fails only for a line that does not exist */
}

static int check_capabilities(const struct sc_kvm_vm *vm, struct sc_kvm_error *error)
{
    for (size_t i = 0; i < sizeof needed_capabilities / sizeof *needed_capabilities; i++)
        if (ioctl(vm->device_fd, KVM_CHECK_EXTENSION, needed_capabilities[i].number) <= 0)
            return kvm_fail(error, 0, needed_capabilities[i].name);
    return 0;
}

/* The addresses must be known before the first vCPU. */
static int set_addresses(struct sc_kvm_vm *vm, struct sc_kvm_error *error)
{
    uint64_t identity_map = IDENTITY_MAP_ADDRESS;
    int result = kvm_step(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map, "KVM_SET_IDENTITY_MAP_ADDR", error);
    return result < 0 ? result : kvm_step(vm->fd, KVM_SET_TSS_ADDR, (void *)TSS_ADDRESS, "KVM_SET_TSS_ADDR", error);
}

static int create_irqchip(struct sc_kvm_vm *vm, struct sc_kvm_error *error)
{
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    int result = kvm_step(vm->fd, KVM_CREATE_IRQCHIP, NULL, "KVM_CREATE_IRQCHIP", error);
    return result < 0 ? result : kvm_step(vm->fd, KVM_CREATE_PIT2, &pit, "KVM_CREATE_PIT2", error);
}

/* As late as possible, that is before the first vCPU or irqfd: creating the interrupt controllers starts a slow grace
 * period in the kernel, and a memory slot added after it waits for its end (5 to 10 ms). */
int kvm_need_irqchip(struct sc_kvm_vm *vm, struct sc_kvm_error *error)
{
    int result = 0;
    pthread_mutex_lock(&vm->lock);
    if (!vm->has_irqchip)
        result = create_irqchip(vm, error);
    if (result >= 0)
        vm->has_irqchip = true;
    pthread_mutex_unlock(&vm->lock);
    return result;
}

static int set_up(struct sc_kvm_vm *vm, const char *path, struct sc_kvm_error *error)
{
    int result = vm->device_fd = kvm_open(path, error);
    if (result >= 0)
        result = check_capabilities(vm, error);
    if (result >= 0)
        result = vm->fd = kvm_create_vm(vm->device_fd, error);
    if (result >= 0)
        result = set_addresses(vm, error);
    if (result >= 0)
        result = kvm_supported_cpuid(vm->device_fd, &vm->supported, error);
    if (result >= 0)
        result = vm->run_size = kvm_step(vm->device_fd, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE", error);
    return result < 0 ? result : 0;
}

int kvm_vm_make(const char *path, struct sc_kvm_vm **created, struct sc_kvm_error *error)
{
    struct sc_kvm_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return kvm_fail(error, ENOMEM, "memory");
    vm->device_fd = vm->fd = -1;
    vm->irqchip = (struct sc_irqchip){.set = irq_line, .opaque = vm};
    pthread_mutex_init(&vm->lock, NULL);
    kvm_install_kick_signal();
    int result = set_up(vm, path, error);
    if (result < 0) {
        sc_kvm_vm_free(vm);
        return result;
    }
    vm->tsc_deadline = ioctl(vm->device_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    *created = vm;
    return 0;
}

int sc_kvm_vm_new(const char *path, struct sc_bus *bus, struct sc_kvm_vm **created, struct sc_kvm_error *error)
{
    *created = kvm_vm_take_early(path);
    int result = *created ? 0 : kvm_vm_make(path, created, error);
    if (result >= 0)
        (*created)->bus = bus;
    return result;
}

void sc_kvm_vm_free(struct sc_kvm_vm *vm)
{
    if (!vm)
        return;
    if (vm->fd >= 0)
        close(vm->fd);
    if (vm->device_fd >= 0)
        close(vm->device_fd);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

const struct sc_irqchip *sc_kvm_irqchip(const struct sc_kvm_vm *vm)
{
    return &vm->irqchip;
}

int sc_kvm_add_ram(struct sc_kvm_vm *vm, uint64_t gpa, uint64_t size, uint64_t host_address)
{
    pthread_mutex_lock(&vm->lock);
    uint32_t slot = vm->slot_count;
    int result = -ENOSPC;
    if (slot < KVM_SLOT_ROOM) {
        struct kvm_userspace_memory_region region = {
            .slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = host_address};
        result = ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : (int)slot;
        if (result >= 0)
            vm->slots[vm->slot_count++] = region;
    }
    pthread_mutex_unlock(&vm->lock);
    return result;
}

int sc_kvm_track_dirty(struct sc_kvm_vm *vm, bool enabled)
{
    int result = 0;
    pthread_mutex_lock(&vm->lock);
    for (uint32_t i = 0; i < vm->slot_count && !result; i++) {
        vm->slots[i].flags = enabled ? KVM_MEM_LOG_DIRTY_PAGES : 0;
        if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &vm->slots[i]) < 0)
            result = -errno;
    }
    pthread_mutex_unlock(&vm->lock);
    return result;
}

int sc_kvm_take_dirty(struct sc_kvm_vm *vm, uint32_t slot, uint64_t *bitmap)
{
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bitmap};
    return ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) < 0 ? -errno : 0;
}

int sc_kvm_doorbell(struct sc_kvm_vm *vm, bool add, uint64_t address, uint32_t size, bool match_any, uint64_t match,
                    int fd)
{
    struct kvm_ioeventfd bell = {.addr = address, .len = size, .fd = fd, .datamatch = match_any ? 0 : match};
    bell.flags = (add ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN) | (match_any ? 0 : KVM_IOEVENTFD_FLAG_DATAMATCH);
    return ioctl(vm->fd, KVM_IOEVENTFD, &bell) < 0 ? -errno : 0;
}

int sc_kvm_irqfd(struct sc_kvm_vm *vm, bool add, uint32_t gsi, int fd)
{
    struct sc_kvm_error error;
    int result = kvm_need_irqchip(vm, &error);
    if (result < 0)
        return result;
    struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = gsi, .flags = add ? 0 : KVM_IRQFD_FLAG_DEASSIGN};
    return ioctl(vm->fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

int sc_kvm_get_clock(struct sc_kvm_vm *vm, uint64_t *nanoseconds)
{
    struct kvm_clock_data clock = {0};
    if (ioctl(vm->fd, KVM_GET_CLOCK, &clock) < 0)
        return -errno;
    *nanoseconds = clock.clock;
    return 0;
}

int sc_kvm_set_clock(struct sc_kvm_vm *vm, uint64_t nanoseconds)
{
    struct kvm_clock_data clock = {.clock = nanoseconds};
    return ioctl(vm->fd, KVM_SET_CLOCK, &clock) < 0 ? -errno : 0;
}
