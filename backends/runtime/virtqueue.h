/* SPDX-License-Identifier: MIT
 *
 * The device's side of a virtqueue, split or packed (virtio 1.2, 2.7 and 2.8). One thread owns a queue at a time.
 */
#ifndef STRATOCELL_VIRTQUEUE_H
#define STRATOCELL_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "guest_memory.h"

#define SC_MAX_QUEUE_SIZE 1024
#define SC_MAX_SEGMENTS 1024             /* descriptors of one chain, indirect ones included */
#define SC_MAX_IOV (SC_MAX_SEGMENTS + 8) /* a segment that crosses regions takes more than one */

/* One buffer that the driver made available. iov[0..readable) is for the device to read, the next `writable` to write.
 */
struct sc_chain {
    uint16_t id;       /* split: head descriptor; packed: buffer id */
    uint16_t slots;    /* packed: ring slots that it took */
    uint16_t inflight; /* its entry in the inflight region */
    uint32_t readable;
    uint32_t writable;
    uint64_t readable_bytes;
    uint64_t writable_bytes;
    struct iovec iov[SC_MAX_IOV];
    uint64_t gpa[SC_MAX_IOV];
};

/* Written by the queue's thread alone, so plain stores do; whoever watches reads them from shared memory. The layout is
 * `ipc/queue_stats.py`'s. */
struct sc_vq_stats {
    uint64_t kicks;
    uint64_t calls;
    uint64_t calls_suppressed;
    uint64_t requests;
    uint64_t read_bytes;
    uint64_t written_bytes;
    uint64_t errors;
    uint64_t in_flight;
    uint64_t latency_ns;  /* the sum of all */
    uint64_t latency[31]; /* requests that took [2^i, 2^(i+1)) microseconds; i = 0 takes all below 2 */
};

struct sc_inflight_split;
struct sc_inflight_packed;

struct sc_virtqueue {
    struct sc_memory *memory;
    uint16_t index;
    uint16_t size;
    bool packed, event_idx, indirect;
    bool enabled, ready, broken; /* ready: has rings and a kick descriptor */
    bool notifications_on;
    int kick_fd, call_fd, error_fd;

    uint8_t *descriptors, *driver, *device; /* this process's addresses */
    uint64_t descriptors_gpa, device_gpa;
    bool log_used; /* VHOST_VRING_F_LOG */
    uint64_t log_used_gpa;

    uint16_t next_avail, next_used, signalled_used;
    bool avail_wrap, used_wrap;
    bool signalled_valid;

    struct sc_inflight_split *inflight_split;
    struct sc_inflight_packed *inflight_packed;
    bool inflight_followed; /* this process has run the ring with it: the front-end says where to go on */
    uint64_t inflight_counter;
    uint16_t batch[SC_MAX_QUEUE_SIZE]; /* split: heads pushed but not published */
    uint16_t batch_count;
    uint16_t outstanding; /* split: chains taken and not yet published; an honest driver never has more than `size` */
    uint16_t resubmit[SC_MAX_QUEUE_SIZE];
    uint16_t resubmit_count, resubmit_next;

    struct sc_vq_stats *stats; /* never NULL */
};

/* Rings are set; take `base` (SET_VRING_BASE: split 16 bits, packed 2 x 16 with wrap counters). */
int sc_vq_start(struct sc_virtqueue *vq, uint32_t base);
/* The value of GET_VRING_BASE. */
uint32_t sc_vq_base(const struct sc_virtqueue *vq);

/* Next buffer: 1 found, 0 none, -errno when the driver broke the ring (then `broken` is set, its error eventfd rung).
 */
int sc_vq_pop(struct sc_virtqueue *vq, struct sc_chain *chain);
/* Give a buffer back; `written` bytes were written to it, from its start. Seen by the driver after sc_vq_publish. */
void sc_vq_push(struct sc_virtqueue *vq, const struct sc_chain *chain, uint32_t written);
/* Publish pushed buffers and interrupt the driver if it wants that. */
void sc_vq_publish(struct sc_virtqueue *vq);
/* Ask the driver for doorbells; returns whether buffers have arrived meanwhile. */
bool sc_vq_enable_notifications(struct sc_virtqueue *vq);
void sc_vq_disable_notifications(struct sc_virtqueue *vq);
bool sc_vq_has_available(const struct sc_virtqueue *vq);
/* Interrupt the driver whatever it wants: after a restart nobody knows what it has seen. */
void sc_vq_call(struct sc_virtqueue *vq);

/* Bytes of the inflight region of one queue. */
uint64_t sc_inflight_size(uint16_t queue_size, bool packed);
/* Use a region of `sc_inflight_size` bytes; NULL: none. Before sc_vq_start. */
void sc_vq_set_inflight(struct sc_virtqueue *vq, void *region);

/* The ring has been stopped in good order, nothing is in flight: the region must not be believed next time. */
void sc_inflight_retire(struct sc_virtqueue *vq);

/* Shared by the two ring formats. */
int sc_chain_add(const struct sc_memory *memory, struct sc_chain *chain, uint64_t gpa, uint32_t length, bool writable);
void sc_chain_clear(struct sc_chain *chain);
int sc_vq_break(struct sc_virtqueue *vq, int error);
void sc_chain_mark(const struct sc_memory *memory, const struct sc_chain *chain, uint64_t written);
static inline bool sc_need_event(uint16_t event, uint16_t now, uint16_t before)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

int sc_split_start(struct sc_virtqueue *vq, uint32_t base);
int sc_split_pop(struct sc_virtqueue *vq, struct sc_chain *chain);
void sc_split_push(struct sc_virtqueue *vq, const struct sc_chain *chain, uint32_t written);
bool sc_split_publish(struct sc_virtqueue *vq);
void sc_split_notifications(struct sc_virtqueue *vq, bool on);
bool sc_split_available(const struct sc_virtqueue *vq);

int sc_packed_start(struct sc_virtqueue *vq, uint32_t base);
int sc_packed_pop(struct sc_virtqueue *vq, struct sc_chain *chain);
void sc_packed_push(struct sc_virtqueue *vq, const struct sc_chain *chain, uint32_t written);
bool sc_packed_publish(struct sc_virtqueue *vq);
void sc_packed_notifications(struct sc_virtqueue *vq, bool on);
bool sc_packed_available(const struct sc_virtqueue *vq);

#endif
