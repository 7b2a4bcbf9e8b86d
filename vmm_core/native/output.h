/* SPDX-License-Identifier: MIT
 *
 * Bytes on their way out of the VM through a descriptor that may be shared with others and whose reader may stall.
 * Not locked: the owner is.
 */
#ifndef STRATOCELL_OUTPUT_H
#define STRATOCELL_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#define OUTPUT_ROOM (64u * 1024) /* a power of two */

enum output_kind { OUTPUT_NONE, OUTPUT_NONBLOCKING, OUTPUT_SOCKET, OUTPUT_FILE, OUTPUT_PIPE, OUTPUT_TERMINAL };

struct output {
    int fd;
    enum output_kind kind;
    int error;     /* -errno that ended the descriptor, until reported */
    uint32_t head; /* free-running: next byte to write out */
    uint32_t tail; /* free-running: next free place */
    uint64_t lost;
    uint8_t ring[OUTPUT_ROOM];
};

void output_open(struct output *output, int fd);
static inline uint32_t output_waiting(const struct output *output)
{
    return output->tail - output->head;
}

/* Send a byte or keep it; true when output_flush has something to do or to tell since now. */
bool output_put(struct output *output, uint8_t byte);

/* Write what waits; 0: all gone, 1: the rest has to wait, -errno, once: the descriptor broke and is now ignored. */
int output_flush(struct output *output);

#endif
