/* SPDX-License-Identifier: GPL-2.0-only
 *
 * The local APIC of each vCPU at 0xfee00000 (xAPIC): interrupt delivery and priorities, inter-processor interrupts,
 * the timer in one-shot, periodic and TSC-deadline mode. It ticks once per nanosecond.
 */
#include "tcg.h"

#include <string.h>

#define SOFTWARE_ENABLED 0x100
#define LVT_MASKED (1u << 16)
#define DELIVERY(value) (((value) >> 8) & 7)

enum { LVT_TIMER = 0, LVT_LINT0 = 3, LVT_LINT1 = 4 };
enum { MODE_FIXED = 0, MODE_LOWEST = 1, MODE_NMI = 4, MODE_INIT = 5, MODE_STARTUP = 6, MODE_EXTINT = 7 };
enum { TIMER_ONE_SHOT = 0, TIMER_PERIODIC = 1, TIMER_DEADLINE = 2 };

void tcg_lapic_reset(struct tcg_vcpu *vcpu)
{
    struct tcg_lapic *lapic = &vcpu->lapic;

    tcg_timer_set(&lapic->timer, 0);
    memset(lapic->isr, 0, sizeof(lapic->isr));
    memset(lapic->irr, 0, sizeof(lapic->irr));
    memset(lapic->tmr, 0, sizeof(lapic->tmr));
    lapic->ldr = lapic->esr = lapic->icr_low = lapic->icr_high = lapic->initial_count = lapic->divide = 0;
    lapic->tsc_deadline = 0;
    lapic->dfr = 0xffffffff;
    lapic->svr = 0xff;
    lapic->tpr = 0;
    for (int i = 0; i < 6; i++)
        lapic->lvt[i] = LVT_MASKED;
}

void tcg_lapic_init(struct tcg_vcpu *vcpu)
{
    struct tcg_lapic *lapic = &vcpu->lapic;

    tcg_lapic_reset(vcpu);
    lapic->enabled = true;
    lapic->id = vcpu->apic_id << 24;
    if (vcpu->index == 0) /* what firmware leaves behind: 8259 interrupts pass through */
        lapic->lvt[LVT_LINT0] = MODE_EXTINT << 8;
}

static void set_bit(uint64_t *map, int bit)
{
    map[bit >> 6] |= 1ull << (bit & 63);
}

static void clear_bit(uint64_t *map, int bit)
{
    map[bit >> 6] &= ~(1ull << (bit & 63));
}

static bool test_bit(const uint64_t *map, int bit)
{
    return map[bit >> 6] & (1ull << (bit & 63));
}

static int highest_bit(const uint64_t *map)
{
    for (int word = 3; word >= 0; word--)
        if (map[word])
            return word * 64 + 63 - __builtin_clzll(map[word]);
    return -1;
}

static bool active(const struct tcg_lapic *lapic)
{
    return lapic->enabled && (lapic->svr & SOFTWARE_ENABLED);
}

static uint32_t processor_priority(struct tcg_vcpu *vcpu)
{
    uint32_t tpr = tcg_engine_tpr(vcpu);
    int in_service = highest_bit(vcpu->lapic.isr);

    return in_service >= 0 && (in_service & 0xf0) > (int)(tpr & 0xf0) ? (uint32_t)in_service & 0xf0 : tpr;
}

int tcg_lapic_pending(struct tcg_vcpu *vcpu)
{
    int vector = active(&vcpu->lapic) ? highest_bit(vcpu->lapic.irr) : -1;

    if (vector < 0 || (uint32_t)(vector & 0xf0) <= (processor_priority(vcpu) & 0xf0))
        return -1;
    return vector;
}

/* The task priority alone holds an interrupt back: lowering CR8 tells nobody. */
bool tcg_lapic_waits_for_priority(struct tcg_vcpu *vcpu)
{
    int vector = active(&vcpu->lapic) ? highest_bit(vcpu->lapic.irr) : -1;

    return vector >= 0 && (uint32_t)(vector & 0xf0) <= (tcg_engine_tpr(vcpu) & 0xf0);
}

void tcg_lapic_acknowledge(struct tcg_vcpu *vcpu, int vector)
{
    clear_bit(vcpu->lapic.irr, vector);
    set_bit(vcpu->lapic.isr, vector);
}

bool tcg_lapic_accepts_pic(const struct tcg_vcpu *vcpu)
{
    uint32_t lint0 = vcpu->lapic.lvt[LVT_LINT0];

    if (vcpu->index != 0)
        return false;
    return !vcpu->lapic.enabled || (!(lint0 & LVT_MASKED) && DELIVERY(lint0) == MODE_EXTINT);
}

static void raise(struct tcg_vcpu *vcpu, uint8_t vector, bool level)
{
    struct tcg_lapic *lapic = &vcpu->lapic;

    if (!active(lapic))
        return;
    if (vector < 16) {
        lapic->esr |= 1u << 6;
        return;
    }
    set_bit(lapic->irr, vector);
    if (level)
        set_bit(lapic->tmr, vector);
    else
        clear_bit(lapic->tmr, vector);
    tcg_notify(vcpu);
}

static bool is_destination(const struct tcg_vcpu *vcpu, uint32_t destination, bool logical)
{
    const struct tcg_lapic *lapic = &vcpu->lapic;

    if (!logical)
        return destination == 0xff || destination == lapic->id >> 24;
    if (lapic->dfr >> 28 == 0xf)
        return (lapic->ldr >> 24) & destination;
    return (lapic->ldr >> 28) == destination >> 4 && ((lapic->ldr >> 24) & destination & 0xf);
}

static void deliver_one(struct tcg_vcpu *vcpu, uint32_t mode, uint8_t vector, bool level)
{
    switch (mode) {
    case MODE_FIXED:
    case MODE_LOWEST:
        raise(vcpu, vector, level);
        break;
    case MODE_NMI:
        vcpu->nmi_pending = true;
        tcg_notify(vcpu);
        break;
    case MODE_INIT:
        vcpu->init_pending = true;
        vcpu->sipi_vector = -1;
        tcg_notify(vcpu);
        break;
    case MODE_STARTUP:
        if (vcpu->sipi_vector < 0)
            vcpu->sipi_vector = vector;
        tcg_notify(vcpu);
        break;
    }
}

/* Lowest priority goes to a sleeping vCPU if there is one, else to the first that matches. */
static void deliver_lowest(struct tcg_vm *vm, uint32_t destination, bool logical, uint8_t vector, bool level)
{
    struct tcg_vcpu *chosen = NULL;

    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct tcg_vcpu *vcpu = vm->vcpu[i];

        if (!active(&vcpu->lapic) || !is_destination(vcpu, destination, logical))
            continue;
        if (!chosen || (atomic_load(&vcpu->sleeping) && !atomic_load(&chosen->sleeping)))
            chosen = vcpu;
    }
    if (chosen)
        raise(chosen, vector, level);
}

void tcg_lapic_deliver(struct tcg_vm *vm, uint32_t destination, bool logical, uint32_t mode, uint8_t vector, bool level)
{
    if (mode == MODE_LOWEST) {
        deliver_lowest(vm, destination, logical, vector, level);
        return;
    }
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        if (is_destination(vm->vcpu[i], destination, logical))
            deliver_one(vm->vcpu[i], mode, vector, level);
}

static void send_ipi(struct tcg_vcpu *vcpu)
{
    struct tcg_lapic *lapic = &vcpu->lapic;
    struct tcg_vm *vm = vcpu->vm;
    uint32_t shorthand = (lapic->icr_low >> 18) & 3, mode = DELIVERY(lapic->icr_low);
    uint8_t vector = lapic->icr_low;

    if (mode == MODE_INIT && (lapic->icr_low & (1u << 15)) && !(lapic->icr_low & (1u << 14)))
        return; /* INIT level de-assert: only old external APICs listen */
    if (shorthand == 0) {
        tcg_lapic_deliver(vm, lapic->icr_high >> 24, lapic->icr_low & (1u << 11), mode, vector, false);
        return;
    }
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        if (shorthand == 1 ? vm->vcpu[i] == vcpu : shorthand == 2 || vm->vcpu[i] != vcpu)
            deliver_one(vm->vcpu[i], mode, vector, false);
}

static uint32_t timer_mode(const struct tcg_lapic *lapic)
{
    return (lapic->lvt[LVT_TIMER] >> 17) & 3;
}

static uint64_t timer_period(const struct tcg_lapic *lapic)
{
    uint32_t code = (lapic->divide & 3) | ((lapic->divide >> 1) & 4);

    return (uint64_t)lapic->initial_count << ((code + 1) & 7);
}

static uint32_t current_count(const struct tcg_lapic *lapic)
{
    uint64_t now = tcg_now(), period = timer_period(lapic);

    if (!lapic->timer.deadline || !period || timer_mode(lapic) == TIMER_DEADLINE || now >= lapic->timer.deadline)
        return 0;
    return (unsigned __int128)(lapic->timer.deadline - now) * lapic->initial_count / period;
}

static void start_timer(struct tcg_lapic *lapic)
{
    uint64_t period = timer_period(lapic);

    if (timer_mode(lapic) != TIMER_DEADLINE)
        tcg_timer_set(&lapic->timer, period ? tcg_now() + period : 0);
}

void tcg_lapic_set_deadline(struct tcg_vcpu *vcpu, uint64_t tsc)
{
    struct tcg_lapic *lapic = &vcpu->lapic;

    if (timer_mode(lapic) != TIMER_DEADLINE)
        return;
    lapic->tsc_deadline = tsc;
    tcg_timer_set(&lapic->timer, tsc ? tsc - tcg_engine_tsc_offset(vcpu) : 0);
    tcg_lapic_run_timer(vcpu, tcg_now());
}

void tcg_lapic_run_timer(struct tcg_vcpu *vcpu, uint64_t now)
{
    struct tcg_lapic *lapic = &vcpu->lapic;
    uint64_t deadline = lapic->timer.deadline, period = timer_period(lapic);

    if (!deadline || now < deadline)
        return;
    if (timer_mode(lapic) == TIMER_PERIODIC && period) {
        if (period < TCG_SHORTEST_PERIOD)
            period = TCG_SHORTEST_PERIOD;
        deadline += period;
        tcg_timer_set(&lapic->timer, deadline < now ? now + period : deadline);
    } else {
        tcg_timer_set(&lapic->timer, 0);
        lapic->tsc_deadline = 0;
    }
    if (!(lapic->lvt[LVT_TIMER] & LVT_MASKED))
        raise(vcpu, lapic->lvt[LVT_TIMER], false);
}

static void end_of_interrupt(struct tcg_vcpu *vcpu)
{
    struct tcg_lapic *lapic = &vcpu->lapic;
    int vector = highest_bit(lapic->isr);

    if (vector < 0)
        return;
    clear_bit(lapic->isr, vector);
    if (test_bit(lapic->tmr, vector))
        tcg_ioapic_eoi(vcpu->vm, vector);
    if (tcg_lapic_pending(vcpu) >= 0)
        tcg_notify(vcpu);
}

static uint32_t bitmap_word(const uint64_t *map, uint32_t offset)
{
    uint32_t word = (offset >> 4) & 7;

    return map[word >> 1] >> (word & 1 ? 32 : 0);
}

uint32_t tcg_lapic_read(struct tcg_vcpu *vcpu, uint32_t offset)
{
    struct tcg_lapic *lapic = &vcpu->lapic;

    switch (offset) {
    case 0x020:
        return lapic->id;
    case 0x030:
        return 5 << 16 | 0x14;
    case 0x080:
        return tcg_engine_tpr(vcpu);
    case 0x0a0:
        return processor_priority(vcpu);
    case 0x0d0:
        return lapic->ldr;
    case 0x0e0:
        return lapic->dfr;
    case 0x0f0:
        return lapic->svr;
    case 0x100 ... 0x170:
        return bitmap_word(lapic->isr, offset);
    case 0x180 ... 0x1f0:
        return bitmap_word(lapic->tmr, offset);
    case 0x200 ... 0x270:
        return bitmap_word(lapic->irr, offset);
    case 0x280:
        return lapic->esr;
    case 0x300:
        return lapic->icr_low;
    case 0x310:
        return lapic->icr_high;
    case 0x320 ... 0x370:
        return lapic->lvt[(offset - 0x320) >> 4];
    case 0x380:
        return lapic->initial_count;
    case 0x390:
        return current_count(lapic);
    case 0x3e0:
        return lapic->divide;
    }
    return 0;
}

static void write_lvt(struct tcg_lapic *lapic, uint32_t index, uint32_t value)
{
    uint32_t mode = timer_mode(lapic);

    if (!(lapic->svr & SOFTWARE_ENABLED))
        value |= LVT_MASKED;
    lapic->lvt[index] = value & (index == LVT_TIMER ? 0x700ff : 0x1a7ff);
    if (index == LVT_TIMER && timer_mode(lapic) != mode && (mode | timer_mode(lapic)) & TIMER_DEADLINE)
        tcg_timer_set(&lapic->timer, 0);
}

static void write_svr(struct tcg_lapic *lapic, uint32_t value)
{
    lapic->svr = value & 0x3ff;
    if (!(value & SOFTWARE_ENABLED))
        for (int i = 0; i < 6; i++)
            lapic->lvt[i] |= LVT_MASKED;
}

void tcg_lapic_write(struct tcg_vcpu *vcpu, uint32_t offset, uint32_t value)
{
    struct tcg_lapic *lapic = &vcpu->lapic;

    switch (offset) {
    case 0x020:
        lapic->id = value & 0xff000000;
        break;
    case 0x080:
        tcg_engine_set_tpr(vcpu, value & 0xff);
        tcg_notify(vcpu);
        break;
    case 0x0b0:
        end_of_interrupt(vcpu);
        break;
    case 0x0d0:
        lapic->ldr = value & 0xff000000;
        break;
    case 0x0e0:
        lapic->dfr = value | 0x0fffffff;
        break;
    case 0x0f0:
        write_svr(lapic, value);
        break;
    case 0x280:
        lapic->esr = 0;
        break;
    case 0x300:
        lapic->icr_low = value & ~(1u << 12);
        send_ipi(vcpu);
        break;
    case 0x310:
        lapic->icr_high = value & 0xff000000;
        break;
    case 0x320 ... 0x370:
        write_lvt(lapic, (offset - 0x320) >> 4, value);
        break;
    case 0x380:
        lapic->initial_count = value;
        start_timer(lapic);
        break;
    case 0x3e0:
        lapic->divide = value & 0xb;
        break;
    }
}
