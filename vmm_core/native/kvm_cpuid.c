/* SPDX-License-Identifier: MIT
 *
 * What CPUID tells the guest: all that KVM supports on this host, with the guest's own topology in place of the host's
 * (Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm_internal.h"

enum { LEVEL_NONE = 0, LEVEL_THREAD = 1, LEVEL_CORE = 2, LEVEL_MODULE = 3, LEVEL_DIE = 5 };

#define LEAF1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF1_ECX_X2APIC (1u << 21)
#define LEAF1_ECX_HYPERVISOR (1u << 31)
#define LEAF1_EDX_HTT (1u << 28)
#define EXT1_ECX_CMP_LEGACY (1u << 1)
#define EXT1_ECX_TOPOLOGY (1u << 22)

/* APIC id bits below each level, and CPUs in one unit of it. */
struct layout {
    uint32_t apic_id;
    uint32_t core_shift, module_shift, die_shift, package_shift;
    uint32_t per_core, per_module, per_die, per_package;
    bool extended; /* there are levels that leaf 0xB cannot express */
};

static uint32_t bits_for(uint32_t count)
{
    uint32_t bits = 0;
    while ((1u << bits) < count)
        bits++;
    return bits;
}

static struct layout lay_out(uint32_t apic_id, const struct sc_kvm_topology *topology)
{
    struct layout layout = {.apic_id = apic_id};
    layout.core_shift = bits_for(topology->threads);
    layout.module_shift = layout.core_shift + bits_for(topology->cores);
    layout.die_shift = layout.module_shift + bits_for(topology->clusters);
    layout.package_shift = layout.die_shift + bits_for(topology->dies);
    layout.per_core = topology->threads;
    layout.per_module = layout.per_core * topology->cores;
    layout.per_die = layout.per_module * topology->clusters;
    layout.per_package = layout.per_die * topology->dies;
    layout.extended = topology->clusters > 1 || topology->dies > 1;
    return layout;
}

static uint32_t at_most(uint32_t value, uint32_t limit)
{
    return value < limit ? value : limit;
}

static void feature_leaf(const struct sc_kvm_vm *vm, const struct layout *layout, struct kvm_cpuid_entry2 *entry)
{
    uint32_t logical = at_most(1u << layout->package_shift, 255);
    entry->ebx = (entry->ebx & 0xffff) | logical << 16 | layout->apic_id << 24;
    entry->ecx |= LEAF1_ECX_HYPERVISOR | LEAF1_ECX_X2APIC;
    if (vm->tsc_deadline)
        entry->ecx |= LEAF1_ECX_TSC_DEADLINE;
    entry->edx = layout->per_package > 1 ? entry->edx | LEAF1_EDX_HTT : entry->edx & ~LEAF1_EDX_HTT;
}

/* Leaf 4 and AMD's 0x8000001D: EAX bits 14-25 say how many APIC ids share the cache, less one. L1 and L2 belong to a
 * core, L3 to a die. */
static void cache_leaf(const struct layout *layout, struct kvm_cpuid_entry2 *entry)
{
    if (!(entry->eax & 0x1f))
        return;
    uint32_t level = entry->eax >> 5 & 7;
    uint32_t shift = level <= 2 ? layout->core_shift : layout->die_shift;
    entry->eax = (entry->eax & ~(0xfffu << 14)) | at_most((1u << shift) - 1, 0xfff) << 14;
    if (entry->function != 4)
        return;
    uint32_t cores = (1u << (layout->package_shift - layout->core_shift)) - 1;
    entry->eax = (entry->eax & ~(0x3fu << 26)) | at_most(cores, 0x3f) << 26;
}

static void amd_leaf(const struct layout *layout, struct kvm_cpuid_entry2 *entry)
{
    switch (entry->function) {
    case 0x80000001:
        entry->ecx |= EXT1_ECX_TOPOLOGY;
        entry->ecx = layout->per_package > 1 ? entry->ecx | EXT1_ECX_CMP_LEGACY : entry->ecx & ~EXT1_ECX_CMP_LEGACY;
        break;
    case 0x80000008:
        entry->ecx = layout->package_shift << 12 | at_most(layout->per_package - 1, 255);
        break;
    case 0x8000001d:
        cache_leaf(layout, entry);
        break;
    case 0x8000001e:
        entry->eax = layout->apic_id;
        entry->ebx = (layout->per_core - 1) << 8 | (layout->apic_id >> layout->core_shift & 0xff);
        entry->ecx = layout->apic_id >> layout->die_shift;
        break;
    default:
        break;
    }
}

static bool is_topology_leaf(uint32_t function)
{
    return function == 0xb || function == 0x1f || function == 0x80000026;
}

static void add_level(struct kvm_cpuid_table *table, uint32_t leaf, uint32_t index, uint32_t shift, uint32_t cpus,
                      uint32_t level, const struct layout *layout)
{
    if (table->header.nent == KVM_CPUID_ROOM)
        return;
    table->entries[table->header.nent++] = (struct kvm_cpuid_entry2){
        .function = leaf,
        .index = index,
        .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        .eax = shift,
        .ebx = cpus,
        .ecx = level << 8 | index,
        .edx = layout->apic_id,
    };
}

/* EAX is the shift to the next level; the last level's reaches the package. */
static void topology_leaves(struct kvm_cpuid_table *table, const struct layout *layout)
{
    add_level(table, 0xb, 0, layout->core_shift, layout->per_core, LEVEL_THREAD, layout);
    add_level(table, 0xb, 1, layout->package_shift, layout->per_package, LEVEL_CORE, layout);
    add_level(table, 0xb, 2, 0, 0, LEVEL_NONE, layout);
    if (!layout->extended)
        return;
    add_level(table, 0x1f, 0, layout->core_shift, layout->per_core, LEVEL_THREAD, layout);
    add_level(table, 0x1f, 1, layout->module_shift, layout->per_module, LEVEL_CORE, layout);
    add_level(table, 0x1f, 2, layout->die_shift, layout->per_die, LEVEL_MODULE, layout);
    add_level(table, 0x1f, 3, layout->package_shift, layout->per_package, LEVEL_DIE, layout);
    add_level(table, 0x1f, 4, 0, 0, LEVEL_NONE, layout);
}

static bool is_amd(const struct kvm_cpuid_table *table)
{
    for (uint32_t i = 0; i < table->header.nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &table->entries[i];
        if (entry->function == 0)
            return !memcmp(&entry->ebx, "Auth", 4) || !memcmp(&entry->ebx, "Hygo", 4);
    }
    return false;
}

static void adjust(const struct sc_kvm_vm *vm, const struct layout *layout, bool amd, struct kvm_cpuid_entry2 *entry)
{
    uint32_t top_leaf = layout->extended ? 0x1f : 0xb;
    if (entry->function == 0 && entry->eax < top_leaf)
        entry->eax = top_leaf;
    else if (entry->function == 1)
        feature_leaf(vm, layout, entry);
    else if (entry->function == 4)
        cache_leaf(layout, entry);
    else if (amd)
        amd_leaf(layout, entry);
}

void kvm_guest_cpuid(const struct sc_kvm_vm *vm, uint32_t apic_id, const struct sc_kvm_topology *topology,
                     struct kvm_cpuid_table *table)
{
    struct layout layout = lay_out(apic_id, topology);
    bool amd = is_amd(&vm->supported);
    table->header = (struct kvm_cpuid2){0};
    for (uint32_t i = 0; i < vm->supported.header.nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &vm->supported.entries[i];
        if (is_topology_leaf(entry->function))
            continue;
        struct kvm_cpuid_entry2 *copy = &table->entries[table->header.nent++];
        *copy = *entry;
        adjust(vm, &layout, amd, copy);
    }
    topology_leaves(table, &layout);
}

int kvm_supported_cpuid(int device_fd, struct kvm_cpuid_table *table, struct sc_kvm_error *error)
{
    table->header.nent = KVM_CPUID_ROOM;
    return kvm_step(device_fd, KVM_GET_SUPPORTED_CPUID, table, "KVM_GET_SUPPORTED_CPUID", error);
}
