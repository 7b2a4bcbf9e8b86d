/* SPDX-License-Identifier: MIT
 *
 * Macros for the guest programs of the software CPU's tests.
 */
.set RESULT, 0x500
.set DONE, 0x501
.set IDT, 0x7000
.set DATA, 0x20000
.set LAPIC, 0xfee00000
.set IOAPIC, 0xfec00000
.set MMIO, 0xf0000000

/* Report eax to the test. */
.macro report
    mov dx, RESULT
    out dx, eax
.endm

.macro done
    mov dx, DONE
    out dx, al
.endm

/* Interrupt gate `vector` -> `handler` (a label below 4 GiB). Clobbers eax. */
.macro gate vector, handler
    lea eax, [\handler]
    mov word ptr [IDT + 16 * \vector], ax
    shr eax, 16
    mov word ptr [IDT + 16 * \vector + 6], ax
    mov dword ptr [IDT + 16 * \vector + 2], 0x8e000010
    mov dword ptr [IDT + 16 * \vector + 8], 0
.endm

/* Write a local APIC register. Clobbers rcx and eax. */
.macro apic register, value
    mov ecx, LAPIC + \register
    mov eax, \value
    mov dword ptr [rcx], eax
.endm

/* Write half an I/O APIC redirection entry. Clobbers rcx and eax. */
.macro ioapic register, value
    mov ecx, IOAPIC
    mov dword ptr [rcx], \register
    mov eax, \value
    mov dword ptr [rcx + 0x10], eax
.endm

.macro eoi
    push rcx
    mov ecx, LAPIC + 0xb0
    mov dword ptr [rcx], 0
    pop rcx
.endm
