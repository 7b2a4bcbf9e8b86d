/* SPDX-License-Identifier: GPL-2.0-only
 *
 * The 8254 interval timer at 0x40 and the gate and output of channel 2 in port 0x61. Counters are computed from the
 * clock when somebody looks; only channel 0 has a timer behind it, for IRQ 0.
 */
#include "tcg.h"

#define PIT_HZ 1193182ull

void tcg_pit_init(struct tcg_vm *vm)
{
    for (int i = 0; i < 3; i++) {
        vm->pit.channel[i].gate = i != 2;
        vm->pit.channel[i].access = 3;
        vm->pit.channel[i].reload = 0x10000;
    }
}

bool tcg_pit_port(uint64_t port)
{
    return (port >= 0x40 && port <= 0x43) || port == 0x61;
}

static uint64_t ns_to_ticks(uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * PIT_HZ / 1000000000u);
}

static uint64_t ticks_to_ns(uint64_t ticks)
{
    return (uint64_t)((unsigned __int128)ticks * 1000000000u / PIT_HZ) + 1;
}

static bool periodic(const struct tcg_pit_channel *channel)
{
    return channel->mode == 2 || channel->mode == 3;
}

static uint64_t elapsed(const struct tcg_pit_channel *channel)
{
    return channel->active && channel->gate ? ns_to_ticks(tcg_now() - channel->start) : 0;
}

static uint16_t counter(const struct tcg_pit_channel *channel)
{
    uint64_t ticks = elapsed(channel);

    if (channel->mode == 2)
        return channel->reload - ticks % channel->reload;
    if (channel->mode == 3)
        return channel->reload - 2 * ticks % channel->reload;
    return channel->reload - ticks;
}

static bool output(const struct tcg_pit_channel *channel)
{
    uint64_t ticks = elapsed(channel);

    if (channel->mode == 2)
        return ticks % channel->reload != channel->reload - 1;
    if (channel->mode == 3)
        return ticks % channel->reload < (channel->reload + 1) / 2;
    return channel->active && ticks >= channel->reload;
}

static void set_irq0(struct tcg_vm *vm, bool level)
{
    tcg_pic_set(vm, 0, level);
    tcg_ioapic_set(vm, 0, level);
    tcg_ioapic_set(vm, 2, level); /* where ACPI and MP tables usually put the timer */
}

static void load(struct tcg_vm *vm, int index, uint16_t value)
{
    struct tcg_pit_channel *channel = &vm->pit.channel[index];

    channel->reload = value ? value : 0x10000;
    channel->start = tcg_now();
    channel->active = true;
    if (index == 0) {
        set_irq0(vm, false);
        tcg_timer_set(&vm->pit.timer, channel->start + ticks_to_ns(channel->reload));
    }
}

static void latch(struct tcg_pit_channel *channel)
{
    if (channel->latched)
        return;
    channel->latch = counter(channel);
    channel->latched = true;
}

static void write_control(struct tcg_vm *vm, uint8_t value)
{
    int index = value >> 6;
    struct tcg_pit_channel *channel = &vm->pit.channel[index];

    if (index == 3) { /* read-back: counts only, the status latch is not built */
        for (int i = 0; i < 3; i++)
            if ((value & (2 << i)) && !(value & 0x20))
                latch(&vm->pit.channel[i]);
        return;
    }
    if (!(value & 0x30)) {
        latch(channel);
        return;
    }
    channel->access = (value >> 4) & 3;
    channel->mode = (value >> 1) & 7;
    if (channel->mode > 5)
        channel->mode &= 3;
    channel->latched = channel->read_high = channel->write_high = channel->active = false;
    if (index == 0) {
        tcg_timer_set(&vm->pit.timer, 0);
        set_irq0(vm, false);
    }
}

static void write_counter(struct tcg_vm *vm, int index, uint8_t value)
{
    struct tcg_pit_channel *channel = &vm->pit.channel[index];

    if (channel->access == 1) {
        load(vm, index, value);
    } else if (channel->access == 2) {
        load(vm, index, value << 8);
    } else if (!channel->write_high) {
        channel->write_low = value;
        channel->write_high = true;
    } else {
        channel->write_high = false;
        load(vm, index, channel->write_low | value << 8);
    }
}

static uint8_t read_counter(struct tcg_pit_channel *channel)
{
    uint16_t value = channel->latched ? channel->latch : counter(channel);
    bool high = channel->access == 2 || (channel->access == 3 && channel->read_high);

    if (channel->access == 3)
        channel->read_high = !channel->read_high;
    if (channel->access != 3 || high)
        channel->latched = false;
    return high ? value >> 8 : value;
}

uint8_t tcg_pit_read(struct tcg_vm *vm, uint64_t port)
{
    if (port == 0x61) {
        /* bit 4 is the RAM refresh clock: it toggles about every 15 us */
        uint8_t refresh = (tcg_now() / 15085) & 1;

        return vm->pit.speaker | refresh << 4 | output(&vm->pit.channel[2]) << 5;
    }
    return port == 0x43 ? 0xff : read_counter(&vm->pit.channel[port & 3]);
}

void tcg_pit_write(struct tcg_vm *vm, uint64_t port, uint8_t value)
{
    struct tcg_pit_channel *channel = &vm->pit.channel[2];

    if (port == 0x61) {
        if ((value & 1) && !channel->gate)
            channel->start = tcg_now();
        channel->gate = value & 1;
        vm->pit.speaker = value & 3;
    } else if (port == 0x43) {
        write_control(vm, value);
    } else {
        write_counter(vm, port & 3, value);
    }
}

void tcg_pit_run_timer(struct tcg_vm *vm, uint64_t now)
{
    const struct tcg_pit_channel *channel = &vm->pit.channel[0];
    uint64_t deadline = vm->pit.timer.deadline, period = ticks_to_ns(channel->reload);

    if (period < TCG_SHORTEST_PERIOD)
        period = TCG_SHORTEST_PERIOD;
    if (!deadline || now < deadline)
        return;
    set_irq0(vm, false);
    set_irq0(vm, true);
    if (!periodic(channel)) {
        tcg_timer_set(&vm->pit.timer, 0);
        return;
    }
    /* Late by many periods: drop them rather than storm the guest with interrupts. */
    deadline += period;
    tcg_timer_set(&vm->pit.timer, deadline + 20 * period < now ? now + period : deadline);
}
