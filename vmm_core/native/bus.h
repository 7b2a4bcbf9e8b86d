/* SPDX-License-Identifier: MIT
 *
 * The address decode that every accelerator shares: which guest accesses are answered in C, and which go to Python.
 *
 * An access is first offered to the bus on the vCPU's own thread. Doorbells, the UART and the interrupt registers of
 * virtio-mmio are answered there, without the GIL. Ranges registered as cold leave the vCPU loop with the access in
 * `struct sc_exit`, for Python to answer. Everything else reads as all ones and ignores writes.
 */
#ifndef STRATOCELL_BUS_H
#define STRATOCELL_BUS_H

#include <stdbool.h>
#include <stdint.h>

/* How an interrupt line is driven; filled in by the accelerator. `set` may be called from any thread. */
struct sc_irqchip {
    void (*set)(void *opaque, uint32_t gsi, int level);
    void *opaque;
};

/* One guest access of 1, 2, 4 or 8 bytes; `data` is little-endian, zero-extended. */
struct sc_access {
    uint64_t address;
    uint64_t data;
    uint32_t size;
    uint8_t is_write;
    uint8_t is_pio;
};

/* Why a vCPU's run function returned. */
enum sc_exit_reason {
    SC_EXIT_COLD = 1,     /* `access` must be answered by Python: set access.data for a read, then run again */
    SC_EXIT_KICKED = 2,   /* somebody called kick: look at the pause and stop flags */
    SC_EXIT_SHUTDOWN = 3, /* triple fault */
    SC_EXIT_RESET = 4,    /* guest asked for a reset by an accelerator event */
    SC_EXIT_POWEROFF = 5, /* guest asked for power-off by an accelerator event */
    SC_EXIT_FAILED = 6,   /* the accelerator cannot go on: `message` says why */
};

struct sc_exit {
    uint32_t reason;
    struct sc_access access;
    uint64_t run_count; /* returns from the accelerator's run primitive so far (KVM_RUN), for tests and figures */
    char message[256];
};

struct sc_bus;
struct sc_uart;

struct sc_bus *sc_bus_new(void);
void sc_bus_free(struct sc_bus *bus);

/* Offer an access. Returns 1 when it was answered (reads: access->data is set), 0 when it is cold. */
int sc_bus_access(struct sc_bus *bus, struct sc_access *access);

/* Registration, all -errno on failure (-EEXIST: overlaps another range; -ENOENT on removal). */
int sc_bus_add_cold(struct sc_bus *bus, bool is_pio, uint64_t base, uint64_t length);
int sc_bus_add_uart(struct sc_bus *bus, bool is_pio, uint64_t base, struct sc_uart *uart);
int sc_bus_remove(struct sc_bus *bus, bool is_pio, uint64_t base);

/* virtio-mmio: InterruptStatus (0x60) reads `vring bit | *config_pending`, InterruptACK (0x64) clears the acknowledged
 * bits of *config_pending (bit 1). `page` of 0x200 bytes at `base`; its other registers are cold.
 * `interrupt_state` lives as long as the registration. */
int sc_bus_add_virtio_mmio(struct sc_bus *bus, uint64_t base, uint32_t *interrupt_state);

/* A write of exactly `size` bytes (0: any) to `address`, of value `match` (when `match_any` is false), adds 1 to
 * eventfd `fd`. KVM does this in the kernel; this table serves the software CPU and the test accelerator. May change
 * while vCPUs run. */
int sc_bus_add_doorbell(struct sc_bus *bus, bool is_pio, uint64_t address, uint32_t size, bool match_any,
                        uint64_t match, int fd);
int sc_bus_remove_doorbell(struct sc_bus *bus, bool is_pio, uint64_t address, bool match_any, uint64_t match);

#endif
