/* SPDX-License-Identifier: MIT
 *
 * Registers at the kernel's 64-bit entry point (facts 3.5), and what firmware would have set before.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm_internal.h"

#define CR0_PE 1u
#define CR0_ET (1u << 4)
#define CR0_PG (1u << 31)
#define CR4_PAE (1u << 5)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define CODE_SELECTOR 0x10
#define DATA_SELECTOR 0x18
#define TASK_SELECTOR 0x20

#define MSR_MISC_ENABLE 0x1a0
#define MISC_ENABLE_FAST_STRING 1
#define MSR_MTRR_DEFAULT_TYPE 0x2ff
#define MTRR_ENABLE_WRITE_BACK (1u << 11 | 6)

#define LAPIC_LVT_LINT0 0x350
#define LAPIC_LVT_LINT1 0x360
#define LVT_MODE 0x700u
#define LVT_MASKED (1u << 16)
#define LVT_EXTINT 0x700u
#define LVT_NMI 0x400u

/* An MSR that this host's KVM does not know is left alone: the guest cannot rely on it either. */
static void set_msr(int vcpu_fd, uint32_t index, uint64_t value)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } msrs = {.header.nmsrs = 1, .entry = {.index = index, .data = value}};
    ioctl(vcpu_fd, KVM_SET_MSRS, &msrs);
}

int kvm_set_firmware_state(int vcpu_fd, struct sc_kvm_error *error)
{
    struct kvm_fpu fpu = {.fcw = 0x37f, .mxcsr = 0x1f80};
    set_msr(vcpu_fd, MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING);
    set_msr(vcpu_fd, MSR_MTRR_DEFAULT_TYPE, MTRR_ENABLE_WRITE_BACK);
    return kvm_step(vcpu_fd, KVM_SET_FPU, &fpu, "KVM_SET_FPU", error);
}

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){.limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1};
}

static void fill_segments(struct kvm_sregs *sregs, const struct sc_kvm_boot_registers *registers)
{
    sregs->cs = flat_segment(CODE_SELECTOR, 0xb);
    sregs->cs.l = 1;
    struct kvm_segment data = flat_segment(DATA_SELECTOR, 0x3);
    data.db = 1;
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->tr = (struct kvm_segment){.limit = 0x67, .selector = TASK_SELECTOR, .type = 0xb, .present = 1};
    sregs->gdt = (struct kvm_dtable){.base = registers->gdt_base, .limit = registers->gdt_limit};
    sregs->idt = (struct kvm_dtable){.base = registers->idt_base, .limit = registers->idt_limit};
}

int kvm_set_long_mode(int vcpu_fd, const struct sc_kvm_boot_registers *registers, struct sc_kvm_error *error)
{
    struct kvm_sregs sregs = {0};
    int result = kvm_step(vcpu_fd, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS", error);
    if (result < 0)
        return result;
    fill_segments(&sregs, registers);
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = registers->cr3;
    sregs.cr4 |= CR4_PAE;
    sregs.efer |= EFER_LME | EFER_LMA;
    result = kvm_step(vcpu_fd, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS", error);
    if (result < 0)
        return result;
    struct kvm_regs regs = {
        .rflags = 2, .rip = registers->rip, .rsi = registers->rsi, .rsp = registers->rsp, .rbp = registers->rsp};
    return kvm_step(vcpu_fd, KVM_SET_REGS, &regs, "KVM_SET_REGS", error);
}

static void set_delivery_mode(struct kvm_lapic_state *lapic, int offset, uint32_t mode)
{
    uint32_t value;
    memcpy(&value, lapic->regs + offset, sizeof value);
    value = (value & ~(LVT_MODE | LVT_MASKED)) | mode;
    memcpy(lapic->regs + offset, &value, sizeof value);
}

/* LINT0 carries the 8259's interrupts, LINT1 NMIs, as the MP table says. */
int kvm_set_local_interrupts(int vcpu_fd, struct sc_kvm_error *error)
{
    struct kvm_lapic_state lapic = {0};
    int result = kvm_step(vcpu_fd, KVM_GET_LAPIC, &lapic, "KVM_GET_LAPIC", error);
    if (result < 0)
        return result;
    set_delivery_mode(&lapic, LAPIC_LVT_LINT0, LVT_EXTINT);
    set_delivery_mode(&lapic, LAPIC_LVT_LINT1, LVT_NMI);
    return kvm_step(vcpu_fd, KVM_SET_LAPIC, &lapic, "KVM_SET_LAPIC", error);
}
