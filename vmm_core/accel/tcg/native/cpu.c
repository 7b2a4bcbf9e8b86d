/* SPDX-License-Identifier: GPL-2.0-only
 *
 * What the guest is told about its CPU: CPUID and model specific registers.
 *
 * The model is Intel's Haswell without AVX, with what lets a kernel start fast and honestly on an engine that has no
 * speculation: TSC and APIC frequencies in CPUID (no calibration), TSC deadline timer, and IA32_ARCH_CAPABILITIES
 * that rules out the mitigations (no page table isolation, no retpolines).
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "uc_priv.h"

#include "tcg.h"

#define MAX_LEAF 0x16
#define HYPERVISOR_LEAF 0x40000000u
#define TSC_KHZ (TCG_TICKS_PER_SECOND / 1000)
#define TSC_MHZ (TCG_TICKS_PER_SECOND / 1000000)

#define MSR_PLATFORM_ID 0x17
#define MSR_SPEC_CONTROL 0x48
#define MSR_PREDICT_COMMAND 0x49
#define MSR_ARCH_CAPS 0x10a
#define MSR_TSC_ADJUSTMENT 0x3b
#define MSR_DEADLINE 0x6e0
#define MSR_MICROCODE_UPDATE 0x79
#define MSR_FLUSH_COMMAND 0x10b

#define ARCH_CAPS_RDCL_NO (1ull << 0)
#define ARCH_CAPS_IBRS_ALL (1ull << 1)
#define ARCH_CAPS_SKIP_L1DFL (1ull << 3)
#define ARCH_CAPS_SSB_NO (1ull << 4)
#define ARCH_CAPS_MDS_NO (1ull << 5)
#define ARCH_CAPS_PSCHANGE_NO (1ull << 6)
#define ARCH_CAPS_TAA_NO (1ull << 8)
#define ARCH_CAPS_MMIO_NO (7ull << 13)
#define ARCH_CAPS_BHI_NO (1ull << 20)
#define ARCH_CAPS_PBRSB_NO (1ull << 24)
#define ARCH_CAPS_GDS_NO (1ull << 26)
#define ARCH_CAPS_RFDS_NO (1ull << 27)
#define ARCH_CAPS_ITS_NO (1ull << 62)
#define ARCH_CAPS                                                                                                      \
    (ARCH_CAPS_RDCL_NO | ARCH_CAPS_IBRS_ALL | ARCH_CAPS_SKIP_L1DFL | ARCH_CAPS_SSB_NO | ARCH_CAPS_MDS_NO |             \
     ARCH_CAPS_PSCHANGE_NO | ARCH_CAPS_TAA_NO | ARCH_CAPS_MMIO_NO | ARCH_CAPS_BHI_NO | ARCH_CAPS_PBRSB_NO |            \
     ARCH_CAPS_GDS_NO | ARCH_CAPS_RFDS_NO | ARCH_CAPS_ITS_NO)

struct leaf {
    uint32_t eax, ebx, ecx, edx;
};

static void features(const struct tcg_vcpu *vcpu, struct leaf *leaf)
{
    uint32_t places = 1u << vcpu->vm->package_shift;

    leaf->ebx = (leaf->ebx & 0xffff) | (places < 255 ? places : 255) << 16 | vcpu->apic_id << 24;
    leaf->ecx &= ~(1u << 3 | 1u << 15 | 1u << 17 | 1u << 21); /* MONITOR, PDCM, PCID, x2APIC */
    leaf->ecx |= 1u << 24 | 1u << 31;                         /* TSC deadline, hypervisor */
    leaf->edx &= ~(1u << 7 | 1u << 12 | 1u << 14);            /* MCE, MTRR, MCA */
    leaf->edx |= 1u << 9 | (vcpu->vm->per_package > 1 ? 1u << 28 : 0);
    if (!vcpu->lapic.enabled)
        leaf->edx &= ~(1u << 9);
}

static void extended_features(uint32_t sub, struct leaf *leaf)
{
    if (sub) {
        *leaf = (struct leaf){.edx = sub == 2 ? 1u << 4 : 0}; /* BHI_CTRL: no loop at each system call */
        return;
    }
    leaf->eax = 2;
    leaf->ebx &= ~(1u << 4 | 1u << 9 | 1u << 10 | 1u << 11 | 1u << 14); /* HLE, ERMS, INVPCID, RTM, MPX */
    leaf->ebx |= 1u << 1;                                               /* TSC_ADJUST */
    leaf->ecx = 0;
    leaf->edx = 1u << 26 | 1u << 29; /* SPEC_CTRL, ARCH_CAPABILITIES */
}

static void topology(const struct tcg_vcpu *vcpu, uint32_t level, struct leaf *leaf)
{
    *leaf = (struct leaf){.ecx = level, .edx = vcpu->apic_id};
    if (level == 0) {
        leaf->eax = vcpu->vm->core_shift;
        leaf->ebx = vcpu->vm->per_core;
        leaf->ecx |= 1 << 8;
    } else if (level == 1) {
        leaf->eax = vcpu->vm->package_shift;
        leaf->ebx = vcpu->vm->per_package;
        leaf->ecx |= 2 << 8;
    }
}

static void cache(const struct tcg_vcpu *vcpu, struct leaf *leaf)
{
    const struct tcg_vm *vm = vcpu->vm;
    uint32_t shared = ((leaf->eax >> 5) & 7) <= 2 ? vm->core_shift : vm->package_shift;
    uint32_t cores = (1u << (vm->package_shift - vm->core_shift)) - 1;

    if (leaf->eax & 0x1f)
        leaf->eax = (leaf->eax & 0x3fff) | ((1u << shared) - 1) << 14 | (cores < 63 ? cores : 63) << 26;
}

static void hypervisor(uint32_t index, struct leaf *leaf)
{
    *leaf = (struct leaf){0};
    if (index == HYPERVISOR_LEAF) {
        leaf->eax = HYPERVISOR_LEAF + 0x10;
        memcpy(&leaf->ebx, "TCGTCGTCGTCG", 12);
    } else if (index == HYPERVISOR_LEAF + 0x10) {
        leaf->eax = leaf->ebx = TSC_KHZ;
    }
}

static void adjust(const struct tcg_vcpu *vcpu, uint32_t index, uint32_t sub, struct leaf *leaf)
{
    switch (index) {
    case 0:
        leaf->eax = MAX_LEAF;
        break;
    case 1:
        features(vcpu, leaf);
        break;
    case 4:
        cache(vcpu, leaf);
        break;
    case 6:
        *leaf = (struct leaf){.eax = 1 << 2};
        break; /* the APIC timer never stops */
    case 7:
        extended_features(sub, leaf);
        break;
    case 0xa:
        *leaf = (struct leaf){0};
        break;
    case 0xb:
        topology(vcpu, sub, leaf);
        break;
    case 0x15:
        *leaf = (struct leaf){1, 1, TCG_TICKS_PER_SECOND, 0};
        break;
    case 0x16:
        *leaf = (struct leaf){TSC_MHZ, TSC_MHZ, 100, 0};
        break;
    case 0x80000001u:
        leaf->ecx &= ~(1u << 2);
        break; /* SVM */
    case 0x80000007u:
        *leaf = (struct leaf){.edx = 1 << 8};
        break;
    case 0x80000008u:
        *leaf = (struct leaf){.eax = 40 | 48 << 8};
        break;
    }
}

int tcg_cpuid_hook(struct uc_struct *uc, void *opaque)
{
    const struct tcg_vcpu *vcpu = opaque;
    CPUX86State *env = uc->cpu->env_ptr;
    uint32_t index = env->regs[R_EAX], sub = env->regs[R_ECX];
    struct leaf leaf;

    cpu_x86_cpuid(env, index, sub, &leaf.eax, &leaf.ebx, &leaf.ecx, &leaf.edx);
    if (index >= HYPERVISOR_LEAF && index <= HYPERVISOR_LEAF + 0x10)
        hypervisor(index, &leaf);
    else
        adjust(vcpu, index, sub, &leaf);
    env->regs[R_EAX] = leaf.eax;
    env->regs[R_EBX] = leaf.ebx;
    env->regs[R_ECX] = leaf.ecx;
    env->regs[R_EDX] = leaf.edx;
    return 1;
}

static uint64_t guest_tsc(struct tcg_vcpu *vcpu)
{
    return tcg_now() + tcg_engine_tsc_offset(vcpu);
}

static uint64_t apic_base(const struct tcg_vcpu *vcpu)
{
    return TCG_LAPIC_BASE | (vcpu->index == 0 ? 1u << 8 : 0) | (vcpu->lapic.enabled ? 1u << 11 : 0);
}

/* Registers the engine keeps itself; all others do not exist. */
static bool engine_register(uint32_t index)
{
    switch (index) {
    case 0x174 ... 0x176: /* SYSENTER */
    case 0x1a0:           /* IA32_MISC_ENABLE */
    case 0x198:           /* IA32_PERF_STATUS */
    case 0x277:           /* PAT */
    case 0x8b:            /* microcode revision */
    case 0xc0000080u ... 0xc0000084u:
    case 0xc0000100u ... 0xc0000103u:
        return true;
    }
    return false;
}

int tcg_msr_read(struct uc_struct *uc, uint32_t index, uint64_t *value)
{
    struct tcg_vcpu *vcpu = tcg_vcpu_of(uc);

    switch (index) {
    case MSR_IA32_TSC:
        *value = guest_tsc(vcpu);
        return 1;
    case MSR_TSC_ADJUSTMENT:
        *value = vcpu->tsc_adjust;
        return 1;
    case MSR_IA32_APICBASE:
        *value = apic_base(vcpu);
        return 1;
    case MSR_ARCH_CAPS:
        *value = ARCH_CAPS;
        return 1;
    case MSR_SPEC_CONTROL:
        *value = vcpu->spec_ctrl;
        return 1;
    case MSR_PLATFORM_ID:
        *value = 0;
        return 1;
    case MSR_DEADLINE:
        pthread_mutex_lock(&vcpu->vm->chips);
        *value = vcpu->lapic.tsc_deadline;
        pthread_mutex_unlock(&vcpu->vm->chips);
        return 1;
    }
    return engine_register(index) ? 0 : -1;
}

static int write_apic_base(struct tcg_vcpu *vcpu, uint64_t value)
{
    if ((value & ~0xfffull) != TCG_LAPIC_BASE || (value & (1u << 10)))
        return -1; /* neither moving it nor x2APIC is offered */
    pthread_mutex_lock(&vcpu->vm->chips);
    vcpu->lapic.enabled = value & (1u << 11);
    pthread_mutex_unlock(&vcpu->vm->chips);
    return 1;
}

static void set_tsc(struct tcg_vcpu *vcpu, uint64_t value)
{
    uint64_t offset = value - tcg_now();

    vcpu->tsc_adjust += offset - tcg_engine_tsc_offset(vcpu);
    tcg_engine_set_tsc_offset(vcpu, offset);
}

static void set_tsc_adjust(struct tcg_vcpu *vcpu, uint64_t value)
{
    tcg_engine_set_tsc_offset(vcpu, tcg_engine_tsc_offset(vcpu) + value - vcpu->tsc_adjust);
    vcpu->tsc_adjust = value;
}

int tcg_msr_write(struct uc_struct *uc, uint32_t index, uint64_t value)
{
    struct tcg_vcpu *vcpu = tcg_vcpu_of(uc);

    switch (index) {
    case MSR_IA32_TSC:
        set_tsc(vcpu, value);
        return 1;
    case MSR_TSC_ADJUSTMENT:
        set_tsc_adjust(vcpu, value);
        return 1;
    case MSR_IA32_APICBASE:
        return write_apic_base(vcpu, value);
    case MSR_SPEC_CONTROL:
        vcpu->spec_ctrl = value;
        return 1;
    case MSR_PREDICT_COMMAND:
    case MSR_FLUSH_COMMAND:
    case MSR_MICROCODE_UPDATE:
    case 0x8b:
        return 1;
    case MSR_DEADLINE:
        pthread_mutex_lock(&vcpu->vm->chips);
        tcg_lapic_set_deadline(vcpu, value);
        pthread_mutex_unlock(&vcpu->vm->chips);
        return 1;
    }
    return engine_register(index) ? 0 : -1;
}
