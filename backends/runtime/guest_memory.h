/* SPDX-License-Identifier: MIT
 *
 * Guest memory as a backend sees it: the front-end's region table, and the dirty log.
 *
 * Every translation covers a whole length and yields RAM or nothing. The guest may change what is behind an address at
 * any time: readers copy once and look at the copy only.
 */
#ifndef STRATOCELL_GUEST_MEMORY_H
#define STRATOCELL_GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SC_MAX_REGIONS 509 /* as many as GET_MAX_MEM_SLOTS promises */
#define SC_DIRTY_PAGE 4096

struct sc_region {
    uint64_t gpa;
    uint64_t size;
    uint64_t user_address;
    uint8_t *host;
    void *map;
    size_t map_length;
};

struct sc_memory {
    struct sc_region regions[SC_MAX_REGIONS];
    uint32_t count;
    uint8_t *log; /* NULL: no dirty log */
    uint64_t log_size;
    void *log_map;
    size_t log_map_length;
    bool log_enabled;
};

/* Map `size` bytes of `fd` from `offset`. 0 or -errno; the descriptor stays the caller's. */
int sc_memory_add(struct sc_memory *memory, uint64_t gpa, uint64_t size, uint64_t user_address, int fd,
                  uint64_t offset);
int sc_memory_remove(struct sc_memory *memory, uint64_t gpa, uint64_t size, uint64_t user_address);
void sc_memory_clear(struct sc_memory *memory);

/* The longest run of RAM at `gpa`, at most *length bytes, which it is shortened to; NULL when there is none. */
uint8_t *sc_memory_span(const struct sc_memory *memory, uint64_t gpa, uint64_t *length);
/* A front-end's user address, whole in one region, else NULL; *gpa is set. */
uint8_t *sc_memory_user(const struct sc_memory *memory, uint64_t user_address, uint64_t length, uint64_t *gpa);
/* Copy out of guest memory; -EFAULT unless all of it is RAM. */
int sc_memory_read(const struct sc_memory *memory, uint64_t gpa, void *destination, uint64_t length);

/* Map a dirty log: one bit for each page of 4 KiB. 0 or -errno; the descriptor stays the caller's. */
int sc_memory_set_log(struct sc_memory *memory, int fd, uint64_t offset, uint64_t size);
void sc_memory_clear_log(struct sc_memory *memory);
/* Mark [gpa, gpa + length) as written; does nothing without a log. */
void sc_memory_mark(const struct sc_memory *memory, uint64_t gpa, uint64_t length);

#endif
