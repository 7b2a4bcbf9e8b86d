/* SPDX-License-Identifier: MIT
 *
 * What split and packed rings have in common.
 */
#include "virtqueue.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void signal_eventfd(int fd)
{
    uint64_t one = 1;
    if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
        return; /* the counter is full: whoever waits has been told often enough */
}

static const char *reason(int error)
{
    switch (error) {
    case -EFAULT:
        return "a buffer outside of guest memory";
    case -E2BIG:
        return "a request of too many buffers or bytes";
    case -ELOOP:
        return "a chain that loops";
    case -EOVERFLOW:
        return "more requests than the ring holds";
    case -EPROTO:
        return "a request without room for its status";
    default:
        return "descriptors that make no sense";
    }
}

/* Said once: a broken ring stays so until it is started anew. */
int sc_vq_break(struct sc_virtqueue *vq, int error)
{
    char line[96];
    int length = snprintf(line, sizeof(line), "ring %u is broken by its driver: %s\n", vq->index, reason(error));
    if (!vq->broken && write(STDERR_FILENO, line, (size_t)length) < 0)
        error = error < 0 ? error : -EIO; /* nobody reads the log any more */
    vq->broken = true;
    vq->stats->errors++;
    signal_eventfd(vq->error_fd);
    return error;
}

int sc_vq_start(struct sc_virtqueue *vq, uint32_t base)
{
    vq->broken = false;
    vq->signalled_valid = false;
    vq->batch_count = vq->outstanding = 0;
    vq->resubmit_count = vq->resubmit_next = 0;
    vq->inflight_counter = 0;
    vq->notifications_on = true;
    vq->stats->in_flight = 0; /* a predecessor that died has left its own there */
    int result = vq->packed ? sc_packed_start(vq, base) : sc_split_start(vq, base);
    vq->inflight_followed = true;
    return result;
}

uint32_t sc_vq_base(const struct sc_virtqueue *vq)
{
    if (!vq->packed)
        return vq->next_avail;
    return (uint32_t)vq->next_avail | (uint32_t)vq->avail_wrap << 15 | (uint32_t)vq->next_used << 16 |
           (uint32_t)vq->used_wrap << 31;
}

int sc_vq_pop(struct sc_virtqueue *vq, struct sc_chain *chain)
{
    if (vq->broken)
        return -EIO;
    sc_chain_clear(chain);
    return vq->packed ? sc_packed_pop(vq, chain) : sc_split_pop(vq, chain);
}

void sc_vq_push(struct sc_virtqueue *vq, const struct sc_chain *chain, uint32_t written)
{
    sc_chain_mark(vq->memory, chain, written);
    if (vq->packed)
        sc_packed_push(vq, chain, written);
    else
        sc_split_push(vq, chain, written);
}

void sc_vq_publish(struct sc_virtqueue *vq)
{
    if (vq->packed ? sc_packed_publish(vq) : sc_split_publish(vq))
        sc_vq_call(vq);
    else
        vq->stats->calls_suppressed++;
}

void sc_vq_call(struct sc_virtqueue *vq)
{
    vq->stats->calls++;
    signal_eventfd(vq->call_fd);
}

bool sc_vq_has_available(const struct sc_virtqueue *vq)
{
    if (vq->broken)
        return false;
    if (vq->resubmit_next < vq->resubmit_count)
        return true;
    return vq->packed ? sc_packed_available(vq) : sc_split_available(vq);
}

bool sc_vq_enable_notifications(struct sc_virtqueue *vq)
{
    if (vq->broken)
        return false;
    if (vq->packed)
        sc_packed_notifications(vq, true);
    else
        sc_split_notifications(vq, true);
    vq->notifications_on = true;
    /* The driver reads our wish after it publishes; we look again after publishing the wish. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return sc_vq_has_available(vq);
}

void sc_vq_disable_notifications(struct sc_virtqueue *vq)
{
    if (vq->broken || !vq->notifications_on)
        return;
    vq->notifications_on = false;
    if (vq->packed)
        sc_packed_notifications(vq, false);
    else
        sc_split_notifications(vq, false);
}

void sc_chain_clear(struct sc_chain *chain)
{
    chain->readable = chain->writable = 0;
    chain->readable_bytes = chain->writable_bytes = 0;
    chain->slots = 0;
}

/* Readable buffers come first (2.7.4.2, 2.8.18); all of a buffer must be RAM; the sum must fit the used length. */
int sc_chain_add(const struct sc_memory *memory, struct sc_chain *chain, uint64_t gpa, uint32_t length, bool writable)
{
    if (!writable && chain->writable)
        return -EINVAL;
    uint64_t left = length;
    while (left > 0) {
        uint64_t run = left;
        uint8_t *host = sc_memory_span(memory, gpa, &run);
        uint32_t count = chain->readable + chain->writable;
        if (!host || count == SC_MAX_IOV)
            return host ? -E2BIG : -EFAULT;
        chain->iov[count] = (struct iovec){.iov_base = host, .iov_len = run};
        chain->gpa[count] = gpa;
        *(writable ? &chain->writable : &chain->readable) += 1;
        gpa += run;
        left -= run;
    }
    *(writable ? &chain->writable_bytes : &chain->readable_bytes) += length;
    return chain->readable_bytes + chain->writable_bytes > UINT32_MAX ? -E2BIG : 0;
}

void sc_chain_mark(const struct sc_memory *memory, const struct sc_chain *chain, uint64_t written)
{
    if (!memory->log_enabled)
        return;
    for (uint32_t i = chain->readable; i < chain->readable + chain->writable && written > 0; i++) {
        uint64_t length = chain->iov[i].iov_len < written ? chain->iov[i].iov_len : written;
        sc_memory_mark(memory, chain->gpa[i], length);
        written -= length;
    }
}
