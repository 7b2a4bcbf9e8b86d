/* SPDX-License-Identifier: GPL-2.0-only
 *
 * The pair of 8259A interrupt controllers at 0x20/0xa0 with edge/level registers at 0x4d0. Polling mode is not
 * built; no system of the last thirty years uses it.
 */
#include "tcg.h"

enum { INIT_DONE = 0, INIT_ICW2, INIT_ICW3, INIT_ICW4 };

void tcg_pic_init(struct tcg_vm *vm)
{
    vm->pic[0].lowest = vm->pic[1].lowest = 7;
}

bool tcg_pic_port(uint64_t port)
{
    return port == 0x20 || port == 0x21 || port == 0xa0 || port == 0xa1 || port == 0x4d0 || port == 0x4d1;
}

/* The highest pending line that nothing in service outranks, or -1. */
static int best_line(const struct tcg_pic *pic)
{
    uint8_t pending = pic->irr & ~pic->imr;
    uint8_t blocking = pic->special_mask ? pic->isr & ~pic->imr : pic->isr;

    for (int rank = 0; rank < 8; rank++) {
        int line = (pic->lowest + 1 + rank) & 7;

        if (blocking & (1 << line))
            return -1;
        if (pending & (1 << line))
            return line;
    }
    return -1;
}

static int best_master_line(struct tcg_vm *vm)
{
    if (best_line(&vm->pic[1]) >= 0)
        vm->pic[0].irr |= 1 << 2;
    else
        vm->pic[0].irr &= ~(1 << 2);
    return best_line(&vm->pic[0]);
}

bool tcg_pic_pending(struct tcg_vm *vm)
{
    return best_master_line(vm) >= 0;
}

static void update(struct tcg_vm *vm)
{
    if (tcg_pic_pending(vm))
        tcg_notify(vm->vcpu[0]);
}

static void take_line(struct tcg_pic *pic, int line)
{
    uint8_t bit = 1 << line;

    if (!(pic->icw4 & 2))
        pic->isr |= bit;
    if (!(pic->lines & pic->elcr & bit))
        pic->irr &= ~bit;
}

/* Spurious interrupts arrive as line 7, as on the real part. */
int tcg_pic_acknowledge(struct tcg_vm *vm)
{
    struct tcg_pic *master = &vm->pic[0], *slave = &vm->pic[1];
    int line = best_master_line(vm);

    if (line < 0)
        return master->vector_base + 7;
    take_line(master, line);
    if (line != 2)
        return master->vector_base + line;
    line = best_line(slave);
    if (line < 0)
        return slave->vector_base + 7;
    take_line(slave, line);
    return slave->vector_base + line;
}

void tcg_pic_set(struct tcg_vm *vm, uint32_t line, bool level)
{
    struct tcg_pic *pic = &vm->pic[line >> 3];
    uint8_t bit = 1 << (line & 7);

    if (level) {
        if (!(pic->lines & bit))
            pic->irr |= bit;
        pic->lines |= bit;
    } else {
        pic->lines &= ~bit;
        if (pic->elcr & bit)
            pic->irr &= ~bit;
    }
    update(vm);
}

static void end_of_interrupt(struct tcg_pic *pic, uint8_t command)
{
    int line = command & 7;

    if (!(command & 0x40)) {
        for (int rank = 0; rank < 8; rank++) {
            line = (pic->lowest + 1 + rank) & 7;
            if (pic->isr & (1 << line))
                break;
        }
    }
    if (command & 0x20)
        pic->isr &= ~(1 << line);
    if (command & 0x80)
        pic->lowest = line;
}

static void write_command(struct tcg_pic *pic, uint8_t value)
{
    if (value & 0x10) {
        pic->icw1 = value;
        pic->init_step = INIT_ICW2;
        pic->imr = pic->isr = pic->irr = pic->icw4 = 0;
        pic->lowest = 7;
        pic->read_isr = pic->special_mask = false;
    } else if (value & 0x08) {
        if (value & 0x02)
            pic->read_isr = value & 1;
        if (value & 0x40)
            pic->special_mask = value & 0x20;
    } else {
        end_of_interrupt(pic, value);
    }
}

static void write_data(struct tcg_pic *pic, uint8_t value)
{
    switch (pic->init_step) {
    case INIT_ICW2:
        pic->vector_base = value & 0xf8;
        pic->init_step = !(pic->icw1 & 2) ? INIT_ICW3 : pic->icw1 & 1 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW3:
        pic->init_step = pic->icw1 & 1 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW4:
        pic->icw4 = value;
        pic->init_step = INIT_DONE;
        break;
    default:
        pic->imr = value;
    }
}

uint8_t tcg_pic_read(struct tcg_vm *vm, uint64_t port)
{
    const struct tcg_pic *pic = &vm->pic[port >= 0x4d0 ? port & 1 : port >= 0xa0];

    if (port >= 0x4d0)
        return pic->elcr;
    if (port & 1)
        return pic->imr;
    return pic->read_isr ? pic->isr : pic->irr;
}

void tcg_pic_write(struct tcg_vm *vm, uint64_t port, uint8_t value)
{
    struct tcg_pic *pic = &vm->pic[port >= 0x4d0 ? port & 1 : port >= 0xa0];

    if (port == 0x4d0)
        pic->elcr = value & 0xf8;
    else if (port == 0x4d1)
        pic->elcr = value & 0xde;
    else if (port & 1)
        write_data(pic, value);
    else
        write_command(pic, value);
    update(vm);
}
