/* SPDX-License-Identifier: GPL-2.0-only
 *
 * Building and taking down a VM of the software CPU.
 */
#define _GNU_SOURCE
#include "tcg.h"

#include <errno.h>
#include <stdlib.h>

struct tcg_vm *sc_tcg_new(struct sc_bus *bus, uintptr_t bus_access, uint64_t code_buffer)
{
    struct tcg_vm *vm = calloc(1, sizeof(*vm));
    int error;

    if (!vm)
        return NULL;
    vm->bus = bus;
    vm->bus_access = (int (*)(struct sc_bus *, struct sc_access *))bus_access;
    vm->code_buffer = code_buffer;
    vm->irqchip = (struct sc_irqchip){.set = tcg_irq_set, .opaque = vm};
    vm->epoll_fd = vm->wake_fd = vm->pit.timer.fd = -1;
    pthread_mutex_init(&vm->chips, NULL);
    pthread_mutex_init(&vm->services, NULL);
    pthread_mutex_init(&vm->log_lock, NULL);
    tcg_pic_init(vm);
    tcg_pit_init(vm);
    tcg_ioapic_init(vm);
    error = tcg_service_start(vm);
    if (error) {
        sc_tcg_free(vm);
        errno = -error;
        return NULL;
    }
    return vm;
}

struct sc_irqchip *sc_tcg_irqchip(struct tcg_vm *vm)
{
    return &vm->irqchip;
}

/* Regions are kept in the order of their addresses. */
int sc_tcg_add_ram(struct tcg_vm *vm, uint64_t gpa, uint64_t size, uint64_t host_address)
{
    unsigned at = vm->ram_count;
    uint64_t page = (1u << TCG_PAGE_BITS) - 1;

    if (vm->vcpu_count)
        return -EBUSY;
    if (vm->ram_count == TCG_MAX_RAM)
        return -ENOSPC;
    if (!size || ((gpa | size | host_address) & page))
        return -EINVAL;
    for (; at > 0 && vm->ram[at - 1].gpa > gpa; at--)
        vm->ram[at] = vm->ram[at - 1];
    vm->ram[at] = (struct tcg_ram){.gpa = gpa, .size = size, .host = (void *)(uintptr_t)host_address};
    vm->ram_count++;
    return 0;
}

static int create_vcpu(struct tcg_vm *vm, unsigned index, uint32_t apic_id)
{
    struct tcg_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    int error;

    if (!vcpu)
        return -ENOMEM;
    vm->vcpu[index] = vcpu;
    vcpu->vm = vm;
    vcpu->index = index;
    vcpu->apic_id = apic_id;
    vcpu->state = TCG_WAIT_SIPI;
    vcpu->sipi_vector = -1;
    vcpu->lapic.timer.fd = -1;
    tcg_code_queue_init(vcpu);
    error = tcg_engine_open(vcpu);
    if (error)
        return error;
    error = tcg_timer_open(vm, &vcpu->lapic.timer, index);
    if (error)
        return error;
    tcg_engine_reset(vcpu, -1);
    tcg_engine_set_tsc_offset(vcpu, vm->tsc_offset);
    tcg_lapic_init(vcpu);
    return tcg_vcpu_prepare(vcpu);
}

static uint32_t bits_for(uint32_t count)
{
    return count > 1 ? 32 - __builtin_clz(count - 1) : 0;
}

static void set_topology(struct tcg_vm *vm, const struct sc_tcg_topology *topology)
{
    vm->core_shift = bits_for(topology->threads);
    vm->package_shift =
        vm->core_shift + bits_for(topology->cores) + bits_for(topology->clusters) + bits_for(topology->dies);
    vm->per_core = topology->threads;
    vm->per_package = topology->threads * topology->cores * topology->clusters * topology->dies;
}

int sc_tcg_create_vcpus(struct tcg_vm *vm, uint32_t count, const uint32_t *apic_ids,
                        const struct sc_tcg_topology *topology)
{
    int error = 0;

    if (vm->vcpu_count)
        return -EBUSY;
    if (count == 0 || count > TCG_MAX_VCPUS)
        return -EINVAL;
    set_topology(vm, topology);
    vm->tsc_offset = -tcg_now();
    for (unsigned i = 0; i < count && !error; i++)
        error = create_vcpu(vm, i, apic_ids[i]);
    if (!error)
        error = tcg_code_init(vm);
    if (!error)
        vm->vcpu_count = count;
    return error;
}

static void free_vcpu(struct tcg_vcpu *vcpu)
{
    tcg_engine_close(vcpu);
    tcg_timer_close(&vcpu->lapic.timer);
    tcg_code_queue_free(vcpu);
    tcg_vcpu_release(vcpu);
    free(vcpu);
}

void sc_tcg_free(struct tcg_vm *vm)
{
    tcg_service_stop(vm);
    for (unsigned i = 0; i < TCG_MAX_VCPUS; i++)
        if (vm->vcpu[i])
            free_vcpu(vm->vcpu[i]);
    tcg_code_free(vm);
    pthread_mutex_destroy(&vm->chips);
    pthread_mutex_destroy(&vm->services);
    pthread_mutex_destroy(&vm->log_lock);
    free(vm);
}
