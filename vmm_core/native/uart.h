/* SPDX-License-Identifier: MIT
 *
 * The 16550A serial port: registers on the vCPU threads, output straight to a descriptor, input from the main thread.
 */
#ifndef STRATOCELL_UART_H
#define STRATOCELL_UART_H

#include <stdint.h>

#include "bus.h"

/* `chip` (may be NULL: no interrupts) and `out_fd` (-1: discard) must outlive the UART. NULL: out of memory or
 * descriptors. */
struct sc_uart *sc_uart_new(const struct sc_irqchip *chip, uint32_t gsi, int out_fd);
void sc_uart_free(struct sc_uart *uart);

/* Registers 0-7, from any thread. Never blocks on the output's reader. */
uint8_t sc_uart_read(struct sc_uart *uart, uint32_t offset);
void sc_uart_write(struct sc_uart *uart, uint32_t offset, uint8_t value);

/* An eventfd, for the main loop to read and reset: call sc_uart_pump (output waits, or its descriptor broke) and offer
 * input again (there is room after a short sc_uart_receive). */
int sc_uart_event_fd(const struct sc_uart *uart);

/* Input for the guest; returns how many bytes fitted. After a short count the event fd tells when to offer the rest. */
int sc_uart_receive(struct sc_uart *uart, const uint8_t *data, uint32_t length);

/* A break condition on the line (serial consoles: SysRq). */
void sc_uart_receive_break(struct sc_uart *uart);

/* Try to write waiting output; 0: nothing waits, 1: still waiting (watch the output for POLLOUT), -errno, once: the
 * output is broken and has been given up; what follows is discarded until sc_uart_set_output. */
int sc_uart_pump(struct sc_uart *uart);

/* Switch the output to `fd`; -1: discard. Output that still waited is discarded, for it was for another reader. When
 * this returns, the former descriptor is no longer in use. */
void sc_uart_set_output(struct sc_uart *uart, int fd);

/* Back to the state after power-on; waiting output is kept. */
void sc_uart_reset(struct sc_uart *uart);

/* Bytes of output lost because nobody read them and the backlog was full. */
uint64_t sc_uart_lost(struct sc_uart *uart);

#endif
