/* SPDX-License-Identifier: MIT
 *
 * The inflight region's layout (vhost-user, "In-flight I/O tracking"). The front-end keeps it when a backend dies, so
 * its content may be anything: every index is checked.
 */
#ifndef STRATOCELL_INFLIGHT_H
#define STRATOCELL_INFLIGHT_H

#include <stdint.h>

#define SC_INFLIGHT_VERSION 1

struct sc_inflight_split_entry {
    uint8_t inflight;
    uint8_t padding[5];
    uint16_t next;
    uint64_t counter;
};

struct sc_inflight_split {
    uint64_t features;
    uint16_t version; /* 0: not in use yet */
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct sc_inflight_split_entry desc[];
};

struct sc_inflight_packed_entry {
    uint8_t inflight;
    uint8_t padding;
    uint16_t next;
    uint16_t last;
    uint16_t num;
    uint64_t counter;
    uint16_t id;
    uint16_t flags;
    uint32_t len;
    uint64_t addr;
};

struct sc_inflight_packed {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t free_head;
    uint16_t old_free_head;
    uint16_t used_idx;
    uint16_t old_used_idx;
    uint8_t used_wrap_counter;
    uint8_t old_used_wrap_counter;
    uint8_t padding[7];
    struct sc_inflight_packed_entry desc[];
};

struct sc_virtqueue;

/* A process can be killed between any two stores. Another one then reads what was stored up to there, in the order in
 * which the program stored it, as long as the compiler does not change that.
 */
static inline void sc_inflight_order(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* Note that an entry is to be done again; new requests are counted after it. */
void sc_inflight_resubmit(struct sc_virtqueue *vq, uint16_t entry, uint64_t counter);

/* Order the entries of `vq->resubmit` as the driver submitted them. */
void sc_inflight_sort(struct sc_virtqueue *vq);

#endif
