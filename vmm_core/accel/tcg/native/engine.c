/* SPDX-License-Identifier: GPL-2.0-only
 *
 * All that touches Unicorn's inside: instances, entry and exit, exceptions, interrupts, translations.
 *
 * cpu_exec is called directly: uc_emu_start clears exit requests on its way in, so a request could be lost.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "exec/tb-lookup.h"
#include "tcg/tcg.h"
#include "uc_priv.h"
#include <unicorn/unicorn.h>
#include <unicorn/x86.h>
#include "stratocell.h"

#include "tcg.h"

#define PHYSICAL_BITS 52 /* the engine's page walker takes any address up to here */

bool stratocell_watch_page(struct uc_struct *uc, ram_addr_t page);
void do_interrupt_x86_hardirq(CPUX86State *env, int intno, int is_hw);
int cpu_exec(struct uc_struct *uc, CPUState *cpu);
bool tb_page_has_code(struct uc_struct *uc, ram_addr_t addr);
void tb_invalidate_phys_range(struct uc_struct *uc, ram_addr_t start, ram_addr_t end);

struct tcg_vcpu *tcg_vcpu_of(struct uc_struct *uc)
{
    return uc->cpu->opaque;
}

static uint64_t ones(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << (8 * size)) - 1;
}

static uint64_t mmio_read(uc_engine *uc, uint64_t offset, unsigned size, void *opaque)
{
    struct tcg_window *window = opaque;
    struct sc_access access = {.address = window->base + offset, .size = size, .data = ones(size)};

    (void)uc;
    tcg_access(window->vcpu, &access);
    return access.data & ones(size);
}

static void mmio_write(uc_engine *uc, uint64_t offset, unsigned size, uint64_t value, void *opaque)
{
    struct tcg_window *window = opaque;
    struct sc_access access = {
        .address = window->base + offset, .size = size, .is_write = 1, .data = value & ones(size)};

    (void)uc;
    tcg_access(window->vcpu, &access);
}

static uint32_t port_read(uc_engine *uc, uint32_t port, int size, void *opaque)
{
    struct sc_access access = {.address = port, .size = size, .is_pio = 1, .data = ones(size)};

    (void)uc;
    tcg_access(opaque, &access);
    return access.data & ones(size);
}

static void port_write(uc_engine *uc, uint32_t port, int size, uint32_t value, void *opaque)
{
    struct sc_access access = {.address = port, .size = size, .is_pio = 1, .is_write = 1, .data = value & ones(size)};

    (void)uc;
    tcg_access(opaque, &access);
}

static void on_exception(uc_engine *uc, uint32_t number, void *opaque)
{
    (void)number;
    (void)opaque;
    x86_cpu_do_interrupt(uc->cpu);
}

static bool on_invalid_instruction(uc_engine *uc, void *opaque)
{
    CPUX86State *env = uc->cpu->env_ptr;

    (void)opaque;
    env->exception_is_int = 0;
    env->error_code = 0;
    uc->cpu->exception_index = EXCP06_ILLOP;
    x86_cpu_do_interrupt(uc->cpu);
    return true;
}

/* Any thread. The flag is taken at the start of the next block. */
void tcg_engine_request_exit(struct tcg_vcpu *vcpu)
{
    __atomic_fetch_or(&vcpu->cs->interrupt_request, CPU_INTERRUPT_HARD, __ATOMIC_SEQ_CST);
    __atomic_store_n(&vcpu->cs->icount_decr_ptr->u16.high, -1, __ATOMIC_SEQ_CST);
}

bool tcg_engine_can_interrupt(struct tcg_vcpu *vcpu)
{
    return (vcpu->env->eflags & IF_MASK) && !(vcpu->env->hflags & HF_INHIBIT_IRQ_MASK);
}

/* -1: none, -2: the vCPU must leave the guest first. */
static int choose_interrupt(struct tcg_vcpu *vcpu)
{
    CPUX86State *env = vcpu->env;
    int vector = -1;

    pthread_mutex_lock(&vcpu->vm->chips);
    if (vcpu->init_pending) {
        vector = -2;
    } else if (vcpu->nmi_pending && !(env->hflags2 & HF2_NMI_MASK) && !(env->hflags & HF_INHIBIT_IRQ_MASK)) {
        vcpu->nmi_pending = false;
        env->hflags2 |= HF2_NMI_MASK;
        vector = EXCP02_NMI;
    } else if (tcg_interrupt_pending(vcpu) && tcg_engine_can_interrupt(vcpu)) {
        vector = tcg_interrupt_take(vcpu);
    }
    /* held back: ask again when flags or priority change */
    if (vcpu->nmi_pending || tcg_interrupt_pending(vcpu) || tcg_lapic_waits_for_priority(vcpu))
        __atomic_fetch_or(&vcpu->cs->interrupt_request, CPU_INTERRUPT_HARD, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&vcpu->vm->chips);
    return vector;
}

/* The engine calls this between blocks while interrupt_request is not 0; true: look up the next block afresh. */
static bool exec_interrupt(CPUState *cs, int request)
{
    struct tcg_vcpu *vcpu = cs->opaque;
    bool dropped;
    int vector;

    (void)request;
    /* Cleared before looking: what is asked from here on sets it again. */
    __atomic_fetch_and(&cs->interrupt_request, ~CPU_INTERRUPT_HARD, __ATOMIC_SEQ_CST);
    dropped = tcg_code_sync(vcpu);
    if (atomic_load(&vcpu->kicked) || atomic_load(&vcpu->vm->exclusive_pending)) {
        tcg_engine_request_exit(vcpu);
        cs->exit_request = 1;
        return dropped;
    }
    vector = choose_interrupt(vcpu);
    if (vector == -2)
        cs->exit_request = 1;
    if (vector < 0)
        return dropped;
    /* Every interrupt, not only a device's: a driver may also find completions by polling. */
    tcg_log_collect(vcpu->vm);
    if (tcg_code_sync(vcpu))
        dropped = true;
    do_interrupt_x86_hardirq(vcpu->env, vector, 1);
    return true;
}

static uint64_t read_tsc(void)
{
    return tcg_now();
}

static int add_hooks(struct tcg_vcpu *vcpu)
{
    uc_hook hook;
    uc_engine *uc = vcpu->uc;
    uc_err error;

    error = uc_hook_add(uc, &hook, UC_HOOK_INTR, on_exception, vcpu, 1, 0);
    if (!error)
        error = uc_hook_add(uc, &hook, UC_HOOK_INSN_INVALID, on_invalid_instruction, vcpu, 1, 0);
    if (!error)
        error = uc_hook_add(uc, &hook, UC_HOOK_INSN, tcg_cpuid_hook, vcpu, 1, 0, UC_X86_INS_CPUID);
    if (!error)
        error = uc_hook_add(uc, &hook, UC_HOOK_INSN, port_read, vcpu, 1, 0, UC_X86_INS_IN);
    if (!error)
        error = uc_hook_add(uc, &hook, UC_HOOK_INSN, port_write, vcpu, 1, 0, UC_X86_INS_OUT);
    return error ? -EINVAL : 0;
}

static int map_hole(struct tcg_vcpu *vcpu, uint64_t base, uint64_t end)
{
    struct tcg_window *window;

    if (base == end)
        return 0;
    window = &vcpu->windows[vcpu->window_count++];
    *window = (struct tcg_window){.vcpu = vcpu, .base = base};
    if (uc_mmio_map(vcpu->uc, base, end - base, mmio_read, window, mmio_write, window))
        return -ENOMEM;
    return 0;
}

/* RAM, and one device region per hole: the fewer regions, the faster the engine finds one. */
static int map_memory(struct tcg_vcpu *vcpu)
{
    struct tcg_vm *vm = vcpu->vm;
    uint64_t at = 0;
    int error;

    for (unsigned i = 0; i < vm->ram_count; i++) {
        struct tcg_ram *ram = &vm->ram[i];

        error = map_hole(vcpu, at, ram->gpa);
        if (error)
            return error;
        if (uc_mem_map_ptr(vcpu->uc, ram->gpa, ram->size, UC_PROT_ALL, ram->host))
            return -ENOMEM;
        at = ram->gpa + ram->size;
    }
    error = map_hole(vcpu, at, 1ull << PHYSICAL_BITS);
    for (uint32_t i = 0; i < vcpu->uc->mapped_block_count; i++) {
        MemoryRegion *region = vcpu->uc->mapped_blocks[i];

        region->perms = UC_PROT_ALL; /* running into a hole fetches what it reads */
        for (unsigned k = 0; k < vm->ram_count; k++)
            if (region->addr == vm->ram[k].gpa && region->ram_block)
                vm->ram[k].ram_address = region->ram_block->offset;
    }
    return error;
}

static const struct stratocell_engine callbacks = {
    .revision = STRATOCELL_ENGINE_REVISION,
    .claim_code = tcg_code_claim,
    .write_code = tcg_code_written,
    .fill_code = tcg_code_filled,
    .read_msr = tcg_msr_read,
    .write_msr = tcg_msr_write,
    .read_tsc = read_tsc,
};

int tcg_engine_open(struct tcg_vcpu *vcpu)
{
    int error;

    if (stratocell_engine.revision != STRATOCELL_ENGINE_REVISION)
        return -ENOEXEC;
    if (!stratocell_engine.claim_code)
        stratocell_engine = callbacks;
    if (uc_open(UC_ARCH_X86, UC_MODE_64, &vcpu->uc))
        return -ENOMEM;
    uc_ctl_set_cpu_model(vcpu->uc, UC_CPU_X86_HASWELL);
    uc_ctl_set_tcg_buffer_size(vcpu->uc, (uint32_t)vcpu->vm->code_buffer);
    uc_ctl_exits_enable(vcpu->uc);
    error = map_memory(vcpu);
    if (error)
        return error;
    vcpu->cs = vcpu->uc->cpu;
    vcpu->env = vcpu->cs->env_ptr;
    vcpu->cs->opaque = vcpu;
    vcpu->cs->cc->cpu_exec_interrupt = exec_interrupt;
    vcpu->uc->no_exit_request = true;
    vcpu->uc->nested_level = 1;
    cpu_resume(vcpu->cs);
    return add_hooks(vcpu);
}

void tcg_engine_close(struct tcg_vcpu *vcpu)
{
    if (!vcpu->uc)
        return;
    vcpu->uc->nested_level = 0;
    uc_close(vcpu->uc);
    vcpu->uc = NULL;
}

static uint32_t failed(struct tcg_vcpu *vcpu)
{
    snprintf(vcpu->failure, sizeof(vcpu->failure), "the software CPU cannot go on: %s at %#llx (rip %#llx)",
             uc_strerror(vcpu->uc->invalid_error), (unsigned long long)vcpu->uc->invalid_addr,
             (unsigned long long)vcpu->env->eip);
    return TCG_RAN_FAILED;
}

/* Run guest code until something needs attention. */
uint32_t tcg_engine_run(struct tcg_vcpu *vcpu)
{
    struct uc_struct *uc = vcpu->uc;
    CPUState *cs = vcpu->cs;
    int reason;

    uc->invalid_error = UC_ERR_OK;
    uc->stop_request = uc->quit_request = false;
    uc->size_recur_mem = 0;
    cs->halted = 0;
    cs->exit_request = 0;
    reason = cpu_exec(uc, cs); /* first delivers what tcg_engine_step_alone may have raised */
    if (uc->invalid_error != UC_ERR_OK)
        return failed(vcpu);
    switch (reason) {
    case EXCP_HLT:
        return cs->halted ? TCG_RAN_HALT : TCG_RAN_SHUTDOWN;
    case EXCP_ATOMIC:
        return TCG_RAN_ALONE;
    default:
        return TCG_RAN;
    }
}

/* Execute one instruction without CF_PARALLEL, while no other vCPU runs: an atomic access that the host cannot do
 * atomically (misaligned, or to a device). */
void tcg_engine_step_alone(struct tcg_vcpu *vcpu)
{
    CPUState *cs = vcpu->cs;
    CPUX86State *env = vcpu->env;
    struct uc_struct *uc = vcpu->uc;
    uint32_t flags, cflags = 1;
    target_ulong pc, cs_base;
    TranslationBlock *tb, *last;
    uintptr_t left;

    cs->exit_request = 0;
    if (sigsetjmp(uc->jmp_bufs[0], 0) == 0) {
        cs->cc->cpu_exec_enter(cs);
        tb = tb_lookup__cpu_state(cs, &pc, &cs_base, &flags, cflags & CF_HASH_MASK);
        if (!tb)
            tb = tb_gen_code(cs, pc, cs_base, flags, cflags);
        cs->icount_decr_ptr->u16.high = 0;
        left = tcg_qemu_tb_exec(env, tb->tc.ptr);
        last = (TranslationBlock *)(left & ~(uintptr_t)TB_EXIT_MASK);
        if ((left & TB_EXIT_MASK) > TB_EXIT_IDX1)
            cs->cc->synchronize_from_tb(cs, last);
        cs->cc->cpu_exec_exit(cs);
    }
    tcg_engine_request_exit(vcpu); /* whatever was asked for while the flag was down */
}

static void init_fpu(CPUX86State *env)
{
    env->fpuc = 0x37f;
    env->mxcsr = 0x1f80;
    memset(env->fptags, 1, sizeof(env->fptags));
    env->pat = 0x0007040600070406ull;
    env->xcr0 = 1;
    env->old_exception = -1;
}

/* INIT, or INIT and start-up at page `sipi_vector` (-1: not yet). */
void tcg_engine_reset(struct tcg_vcpu *vcpu, int sipi_vector)
{
    CPUX86State *env = vcpu->env;
    uint64_t tsc_offset = env->tsc_offset;

    cpu_reset(vcpu->cs);
    env->tsc_offset = tsc_offset;
    init_fpu(env);
    if (sipi_vector >= 0) {
        cpu_x86_load_seg_cache(env, R_CS, sipi_vector << 8, sipi_vector << 12, 0xffff,
                               DESC_P_MASK | DESC_S_MASK | DESC_CS_MASK | DESC_R_MASK | DESC_A_MASK);
        env->eip = 0;
    }
    tlb_flush(vcpu->cs);
    tcg_engine_request_exit(vcpu); /* cpu_reset clears the flags of pending requests */
}

static void load_flat_segments(CPUX86State *env)
{
    unsigned data = DESC_G_MASK | DESC_B_MASK | DESC_P_MASK | DESC_S_MASK | DESC_W_MASK | DESC_A_MASK;

    cpu_x86_load_seg_cache(env, R_CS, 0x10, 0, 0xffffffff,
                           DESC_G_MASK | DESC_P_MASK | DESC_S_MASK | DESC_CS_MASK | DESC_R_MASK | DESC_A_MASK |
                               DESC_L_MASK);
    for (int segment = 0; segment < 6; segment++)
        if (segment != R_CS)
            cpu_x86_load_seg_cache(env, segment, 0x18, 0, 0xffffffff, data);
    env->tr.selector = 0x20;
    env->tr.limit = 0xffff;
    env->tr.flags = DESC_P_MASK | 11 << DESC_TYPE_SHIFT;
}

void sc_tcg_set_boot_registers(struct tcg_vm *vm, const struct sc_tcg_boot *boot)
{
    struct tcg_vcpu *vcpu = vm->vcpu[0];
    CPUX86State *env = vcpu->env;

    tcg_engine_reset(vcpu, -1);
    env->gdt.base = boot->gdt_base;
    env->gdt.limit = boot->gdt_limit;
    env->idt.base = boot->idt_base;
    env->idt.limit = boot->idt_limit;
    cpu_x86_update_cr4(env, CR4_PAE_MASK);
    env->cr[3] = boot->cr3;
    cpu_load_efer(env, MSR_EFER_LME);
    cpu_x86_update_cr0(env, CR0_PG_MASK | CR0_PE_MASK | CR0_ET_MASK | CR0_WP_MASK | CR0_NE_MASK);
    cpu_load_efer(env, MSR_EFER_LME | MSR_EFER_LMA);
    load_flat_segments(env);
    env->eip = boot->rip;
    env->regs[R_ESI] = boot->rsi;
    env->regs[R_ESP] = boot->rsp;
    cpu_load_eflags(env, 2, -1);
    vcpu->state = TCG_RUNNING;
}

uint32_t tcg_engine_tpr(struct tcg_vcpu *vcpu)
{
    /* CR8 and the TPR register are one; the engine keeps the upper half, which is what matters */
    uint32_t high = (vcpu->env->v_tpr & 0xf) << 4;

    return (vcpu->lapic.tpr & 0xf0) == high ? vcpu->lapic.tpr : high;
}

void tcg_engine_set_tpr(struct tcg_vcpu *vcpu, uint32_t tpr)
{
    vcpu->lapic.tpr = tpr;
    vcpu->env->v_tpr = tpr >> 4;
}

uint64_t tcg_engine_tsc_offset(struct tcg_vcpu *vcpu)
{
    return vcpu->env->tsc_offset;
}

void tcg_engine_set_tsc_offset(struct tcg_vcpu *vcpu, uint64_t offset)
{
    vcpu->env->tsc_offset = offset;
}

bool tcg_engine_drop(struct tcg_vcpu *vcpu, uint32_t page)
{
    ram_addr_t address = (ram_addr_t)page << TCG_PAGE_BITS;

    tb_invalidate_phys_range(vcpu->uc, address, address + (1u << TCG_PAGE_BITS));
    return !tb_page_has_code(vcpu->uc, address);
}

void tcg_engine_drop_all(struct tcg_vcpu *vcpu)
{
    tb_flush(vcpu->cs);
}

bool tcg_engine_watch(struct tcg_vcpu *vcpu, uint32_t page)
{
    return stratocell_watch_page(vcpu->uc, (ram_addr_t)page << TCG_PAGE_BITS);
}

void tcg_engine_watch_all(struct tcg_vcpu *vcpu)
{
    tlb_flush(vcpu->cs);
}
