/* SPDX-License-Identifier: GPL-2.0-only
 *
 * The I/O APIC (82093AA) at 0xfec00000: 24 pins, edge and level, remote IRR and EOI.
 */
#include "tcg.h"

#define MASKED (1ull << 16)
#define LEVEL (1ull << 15)
#define REMOTE_IRR (1ull << 14)
#define READ_ONLY (1ull << 14 | 1ull << 12)
#define LOGICAL (1ull << 11)

void tcg_ioapic_init(struct tcg_vm *vm)
{
    for (int pin = 0; pin < TCG_IOAPIC_PINS; pin++)
        vm->ioapic.redirection[pin] = MASKED;
}

static void deliver(struct tcg_vm *vm, uint32_t pin)
{
    uint64_t *entry = &vm->ioapic.redirection[pin];
    uint32_t mode = (*entry >> 8) & 7;
    int vector = *entry & 0xff;

    if (*entry & LEVEL)
        *entry |= REMOTE_IRR;
    if (mode == 7) { /* ExtINT: the 8259s hand out the vector */
        if (!tcg_pic_pending(vm))
            return;
        vector = tcg_pic_acknowledge(vm);
        mode = 0;
    }
    tcg_lapic_deliver(vm, *entry >> 56, *entry & LOGICAL, mode, vector, *entry & LEVEL);
}

static void try_level(struct tcg_vm *vm, uint32_t pin)
{
    uint64_t entry = vm->ioapic.redirection[pin];

    if ((entry & LEVEL) && !(entry & (MASKED | REMOTE_IRR)) && (vm->ioapic.lines & (1u << pin)))
        deliver(vm, pin);
}

void tcg_ioapic_set(struct tcg_vm *vm, uint32_t pin, bool level)
{
    struct tcg_ioapic *ioapic = &vm->ioapic;
    bool rising = level && !(ioapic->lines & (1u << pin));

    if (level)
        ioapic->lines |= 1u << pin;
    else
        ioapic->lines &= ~(1u << pin);
    if (ioapic->redirection[pin] & LEVEL)
        try_level(vm, pin);
    else if (rising && !(ioapic->redirection[pin] & MASKED))
        deliver(vm, pin);
}

void tcg_ioapic_eoi(struct tcg_vm *vm, uint8_t vector)
{
    for (uint32_t pin = 0; pin < TCG_IOAPIC_PINS; pin++) {
        uint64_t *entry = &vm->ioapic.redirection[pin];

        if ((*entry & LEVEL) && (*entry & 0xff) == vector) {
            *entry &= ~REMOTE_IRR;
            try_level(vm, pin);
        }
    }
}

static void write_redirection(struct tcg_vm *vm, uint32_t pin, bool high, uint32_t value)
{
    uint64_t *entry = &vm->ioapic.redirection[pin];

    if (high) {
        *entry = (uint32_t)*entry | (uint64_t)value << 32;
        return;
    }
    *entry = (*entry & (0xffffffff00000000ull | READ_ONLY)) | (value & ~READ_ONLY & 0x1ffff);
    if (!(*entry & LEVEL))
        *entry &= ~REMOTE_IRR;
    try_level(vm, pin);
}

uint32_t tcg_ioapic_read(struct tcg_vm *vm, uint32_t offset)
{
    const struct tcg_ioapic *ioapic = &vm->ioapic;
    uint32_t pin = (ioapic->select - 0x10) / 2;

    if (offset == 0)
        return ioapic->select;
    if (offset != 0x10)
        return 0;
    switch (ioapic->select) {
    case 0:
    case 2:
        return ioapic->id;
    case 1:
        return (TCG_IOAPIC_PINS - 1) << 16 | 0x20;
    }
    if (ioapic->select < 0x10 || pin >= TCG_IOAPIC_PINS)
        return 0;
    return ioapic->select & 1 ? ioapic->redirection[pin] >> 32 : ioapic->redirection[pin];
}

void tcg_ioapic_write(struct tcg_vm *vm, uint32_t offset, uint32_t value)
{
    struct tcg_ioapic *ioapic = &vm->ioapic;
    uint32_t pin = (ioapic->select - 0x10) / 2;

    if (offset == 0)
        ioapic->select = value & 0xff;
    else if (offset == 0x40)
        tcg_ioapic_eoi(vm, value);
    else if (offset == 0x10 && ioapic->select == 0)
        ioapic->id = value & 0x0f000000;
    else if (offset == 0x10 && ioapic->select >= 0x10 && pin < TCG_IOAPIC_PINS)
        write_redirection(vm, pin, ioapic->select & 1, value);
}
