/* SPDX-License-Identifier: MIT
 *
 * 16550A (National Semiconductor PC16550D data sheet), as drivers probe and use it.
 *
 * The transmitter is infinitely fast, so its holding register is empty again as soon as it is written, with one
 * exception: a driver that sends by interrupt is held back while more output waits than a stalled reader should cost,
 * so nothing is lost. A driver that polls (the kernel's own console, with interrupts off) is never held back: it would
 * burn the CPU.
 *
 * The receiver takes input from a ring; bytes in it count as received. Line errors do not exist, except an overrun in
 * loopback mode and a break.
 */
#include "uart.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "output.h"

enum { RBR_THR = 0, IER = 1, IIR_FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };
enum { IER_RDI = 1, IER_THRI = 2, IER_RLSI = 4, IER_MSI = 8, IER_ALL = 15 };
enum {
    IIR_MSI = 0x00,
    IIR_NONE = 0x01,
    IIR_THRI = 0x02,
    IIR_RDI = 0x04,
    IIR_RLSI = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO = 0xc0
};
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_KEPT = 0xc9 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 16, MCR_ALL = 31 };
enum { LSR_DR = 1, LSR_OE = 2, LSR_BI = 16, LSR_THRE = 32, LSR_TEMT = 64, LSR_ERRORS = 0x1e };
enum { MSR_CTS = 16, MSR_DSR = 32, MSR_RI = 64, MSR_DCD = 128 };

#define FIFO_DEPTH 16u
#define INPUT_ROOM                                                                                                     \
    256u /* a power of two; deeper than the FIFO, so that pasted text does not cost a wake-up per 16 bytes */
#define HIGH_WATER (OUTPUT_ROOM / 2)
#define LOW_WATER (OUTPUT_ROOM / 4)

struct sc_uart {
    pthread_mutex_t lock;
    const struct sc_irqchip *chip;
    uint32_t gsi;
    int level;
    int event_fd;
    uint8_t ier, lcr, mcr, scr, fcr, dll, dlm;
    uint8_t line_errors;  /* LSR bits that reading LSR clears */
    uint8_t modem_status; /* lines in the high half, changes in the low one */
    bool thre_pending;    /* the THRE interrupt has not been acknowledged */
    bool held_back;       /* the transmitter waits for the output's reader */
    bool input_refused;   /* the sender of input waits for room */
    uint32_t input_head, input_tail;
    uint8_t input[INPUT_ROOM];
    struct output output;
};

static uint32_t input_count(const struct sc_uart *uart)
{
    return uart->input_tail - uart->input_head;
}

static uint32_t trigger_level(const struct sc_uart *uart)
{
    static const uint8_t levels[] = {1, 4, 8, 14};
    return uart->fcr & FCR_ENABLE ? levels[uart->fcr >> 6] : 1;
}

/* The highest-priority interrupt. Below the trigger level the character time-out is reported at once: no more input is
 * under way. */
static uint8_t interrupt_source(const struct sc_uart *uart)
{
    if (uart->ier & IER_RLSI && uart->line_errors)
        return IIR_RLSI;
    if (uart->ier & IER_RDI && input_count(uart))
        return input_count(uart) >= trigger_level(uart) ? IIR_RDI : IIR_TIMEOUT;
    if (uart->ier & IER_THRI && uart->thre_pending)
        return IIR_THRI;
    if (uart->ier & IER_MSI && uart->modem_status & 0x0f)
        return IIR_MSI;
    return IIR_NONE;
}

static void update_interrupt(struct sc_uart *uart)
{
    int level = interrupt_source(uart) != IIR_NONE;
    if (level == uart->level)
        return;
    uart->level = level;
    if (uart->chip)
        uart->chip->set(uart->chip->opaque, uart->gsi, level);
}

static void notify(struct sc_uart *uart)
{
    eventfd_write(uart->event_fd, 1);
}

/* --- receiver ---------------------------------------------------------------------------------------------------- */

/* Tell the sender of input that there is room again. */
static void invite_input(struct sc_uart *uart)
{
    if (!uart->input_refused)
        return;
    uart->input_refused = false;
    notify(uart);
}

static uint8_t read_rbr(struct sc_uart *uart)
{
    if (!input_count(uart))
        return 0;
    uint8_t byte = uart->input[uart->input_head++ % INPUT_ROOM];
    if (input_count(uart) <= INPUT_ROOM / 2)
        invite_input(uart);
    return byte;
}

static void clear_input(struct sc_uart *uart)
{
    uart->input_head = uart->input_tail;
    invite_input(uart);
}

/* In loopback mode the driver sees what a real FIFO does when it is full. */
static void receive_loopback(struct sc_uart *uart, uint8_t byte)
{
    uint32_t depth = uart->fcr & FCR_ENABLE ? FIFO_DEPTH : 1;
    if (input_count(uart) < depth) {
        uart->input[uart->input_tail++ % INPUT_ROOM] = byte;
        return;
    }
    uart->line_errors |= LSR_OE;
    if (depth == 1)
        uart->input[uart->input_head % INPUT_ROOM] = byte;
}

/* --- transmitter ------------------------------------------------------------------------------------------------- */

static void hold_back(struct sc_uart *uart)
{
    uint32_t waiting = output_waiting(&uart->output);
    if (waiting >= HIGH_WATER && !uart->held_back) {
        uart->held_back = true;
        uart->thre_pending = false;
    } else if (waiting <= LOW_WATER && uart->held_back) {
        uart->held_back = false;
        uart->thre_pending = true;
    }
}

static bool transmitter_empty(const struct sc_uart *uart)
{
    return !uart->held_back || !(uart->ier & IER_THRI);
}

static void write_thr(struct sc_uart *uart, uint8_t byte)
{
    if (uart->mcr & MCR_LOOP)
        receive_loopback(uart, byte);
    else if (output_put(&uart->output, byte))
        notify(uart);
    uart->thre_pending = !uart->held_back;
    hold_back(uart);
}

/* --- the other registers ----------------------------------------------------------------------------------------- */

static void write_ier(struct sc_uart *uart, uint8_t value)
{
    /* Enabling the interrupt while the transmitter is idle raises it: drivers start sending that way. */
    if (value & ~uart->ier & IER_THRI && !uart->held_back)
        uart->thre_pending = true;
    uart->ier = value & IER_ALL;
}

static void write_fcr(struct sc_uart *uart, uint8_t value)
{
    if ((value ^ uart->fcr) & FCR_ENABLE || (value & FCR_ENABLE && value & FCR_CLEAR_RX))
        clear_input(uart);
    /* The other bits count only while the FIFO is being enabled. */
    uart->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
}

static void update_modem_lines(struct sc_uart *uart)
{
    uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD; /* a peer that is always ready */
    if (uart->mcr & MCR_LOOP)
        lines = (uart->mcr & MCR_RTS ? MSR_CTS : 0) | (uart->mcr & MCR_DTR ? MSR_DSR : 0) |
                (uart->mcr & MCR_OUT1 ? MSR_RI : 0) | (uart->mcr & MCR_OUT2 ? MSR_DCD : 0);
    uint8_t changed = (lines ^ uart->modem_status) & 0xf0;
    if (changed & MSR_RI && lines & MSR_RI)
        changed &= ~MSR_RI; /* only the trailing edge of RI counts */
    uart->modem_status = lines | (uart->modem_status & 0x0f) | changed >> 4;
}

static void write_mcr(struct sc_uart *uart, uint8_t value)
{
    bool reconnected = uart->mcr & MCR_LOOP && !(value & MCR_LOOP);
    uart->mcr = value & MCR_ALL;
    update_modem_lines(uart);
    if (reconnected)
        invite_input(uart);
}

static uint8_t read_iir(struct sc_uart *uart)
{
    uint8_t source = interrupt_source(uart);
    if (source == IIR_THRI)
        uart->thre_pending = false;
    if (source == IIR_TIMEOUT && !(uart->fcr & FCR_ENABLE))
        source = IIR_RDI;
    return source | (uart->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct sc_uart *uart)
{
    uint8_t value = uart->line_errors | (input_count(uart) ? LSR_DR : 0);
    if (transmitter_empty(uart))
        value |= LSR_THRE | LSR_TEMT;
    uart->line_errors = 0;
    return value;
}

static uint8_t read_msr(struct sc_uart *uart)
{
    uint8_t value = uart->modem_status;
    uart->modem_status &= 0xf0;
    return value;
}

static uint8_t read_register(struct sc_uart *uart, uint32_t offset)
{
    bool latch = uart->lcr & LCR_DLAB;
    switch (offset) {
    case RBR_THR:
        return latch ? uart->dll : read_rbr(uart);
    case IER:
        return latch ? uart->dlm : uart->ier;
    case IIR_FCR:
        return read_iir(uart);
    case LCR:
        return uart->lcr;
    case MCR:
        return uart->mcr;
    case LSR:
        return read_lsr(uart);
    case MSR:
        return read_msr(uart);
    case SCR:
        return uart->scr;
    default:
        return 0xff;
    }
}

static void write_register(struct sc_uart *uart, uint32_t offset, uint8_t value)
{
    bool latch = uart->lcr & LCR_DLAB;
    switch (offset) {
    case RBR_THR:
        latch ? (void)(uart->dll = value) : write_thr(uart, value);
        break;
    case IER:
        latch ? (void)(uart->dlm = value) : write_ier(uart, value);
        break;
    case IIR_FCR:
        write_fcr(uart, value);
        break;
    case LCR:
        uart->lcr = value;
        break;
    case MCR:
        write_mcr(uart, value);
        break;
    case SCR:
        uart->scr = value;
        break;
    default: /* LSR and MSR are read-only */
        break;
    }
}

uint8_t sc_uart_read(struct sc_uart *uart, uint32_t offset)
{
    pthread_mutex_lock(&uart->lock);
    uint8_t value = read_register(uart, offset);
    update_interrupt(uart);
    pthread_mutex_unlock(&uart->lock);
    return value;
}

void sc_uart_write(struct sc_uart *uart, uint32_t offset, uint8_t value)
{
    pthread_mutex_lock(&uart->lock);
    write_register(uart, offset, value);
    update_interrupt(uart);
    pthread_mutex_unlock(&uart->lock);
}

/* --- the host's side --------------------------------------------------------------------------------------------- */

static void power_on(struct sc_uart *uart)
{
    uart->ier = uart->lcr = uart->mcr = uart->scr = uart->fcr = 0;
    uart->dll = 12; /* 9600 baud, as firmware leaves it */
    uart->dlm = 0;
    uart->line_errors = 0;
    uart->modem_status = MSR_CTS | MSR_DSR | MSR_DCD;
    uart->thre_pending = false;
    uart->held_back = false;
    clear_input(uart);
    hold_back(uart);
}

struct sc_uart *sc_uart_new(const struct sc_irqchip *chip, uint32_t gsi, int out_fd)
{
    struct sc_uart *uart = calloc(1, sizeof *uart);
    if (!uart)
        return NULL;
    uart->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (uart->event_fd < 0) {
        free(uart);
        return NULL;
    }
    pthread_mutex_init(&uart->lock, NULL);
    uart->chip = chip;
    uart->gsi = gsi;
    output_open(&uart->output, out_fd);
    power_on(uart);
    return uart;
}

void sc_uart_free(struct sc_uart *uart)
{
    if (!uart)
        return;
    close(uart->event_fd);
    pthread_mutex_destroy(&uart->lock);
    free(uart);
}

int sc_uart_event_fd(const struct sc_uart *uart)
{
    return uart->event_fd;
}

int sc_uart_receive(struct sc_uart *uart, const uint8_t *data, uint32_t length)
{
    uint32_t taken = 0;
    pthread_mutex_lock(&uart->lock);
    /* Loopback cuts the line: input waits outside. */
    while (taken < length && input_count(uart) < INPUT_ROOM && !(uart->mcr & MCR_LOOP))
        uart->input[uart->input_tail++ % INPUT_ROOM] = data[taken++];
    uart->input_refused = taken < length;
    update_interrupt(uart);
    pthread_mutex_unlock(&uart->lock);
    return (int)taken;
}

void sc_uart_receive_break(struct sc_uart *uart)
{
    pthread_mutex_lock(&uart->lock);
    if (input_count(uart) < INPUT_ROOM)
        uart->input[uart->input_tail++ % INPUT_ROOM] = 0;
    uart->line_errors |= LSR_BI;
    update_interrupt(uart);
    pthread_mutex_unlock(&uart->lock);
}

int sc_uart_pump(struct sc_uart *uart)
{
    pthread_mutex_lock(&uart->lock);
    int result = output_flush(&uart->output);
    hold_back(uart);
    update_interrupt(uart);
    pthread_mutex_unlock(&uart->lock);
    return result;
}

void sc_uart_set_output(struct sc_uart *uart, int fd)
{
    pthread_mutex_lock(&uart->lock);
    output_open(&uart->output, fd);
    hold_back(uart);
    update_interrupt(uart);
    pthread_mutex_unlock(&uart->lock);
}

void sc_uart_reset(struct sc_uart *uart)
{
    pthread_mutex_lock(&uart->lock);
    power_on(uart);
    update_interrupt(uart);
    pthread_mutex_unlock(&uart->lock);
}

uint64_t sc_uart_lost(struct sc_uart *uart)
{
    pthread_mutex_lock(&uart->lock);
    uint64_t lost = uart->output.lost;
    pthread_mutex_unlock(&uart->lock);
    return lost;
}
