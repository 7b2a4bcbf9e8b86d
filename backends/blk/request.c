/* SPDX-License-Identifier: MIT
 *
 * From a descriptor chain to an operation on the image, and from its result to a status byte (virtio 1.2, 5.2.6).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "blk.h"

#define T_IN 0
#define T_OUT 1
#define T_FLUSH 4
#define T_GET_ID 8
#define T_DISCARD 11
#define T_WRITE_ZEROES 13
#define S_OK 0
#define S_IOERR 1
#define S_UNSUPP 2
#define F_RO 5
#define F_FLUSH 9
#define F_DISCARD 13
#define F_WRITE_ZEROES 14
#define SEGMENT_UNMAP 1
#define ID_BYTES 20
#define LOGS_PER_SECOND 5

struct request_header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

struct range_segment {
    uint64_t sector;
    uint32_t sectors;
    uint32_t flags;
};

uint64_t sc_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Copy `length` bytes out of the readable part, taking them off its front. */
static bool take_readable(struct sc_chain *chain, uint32_t *position, void *to, uint64_t length)
{
    uint8_t *target = to;
    while (length > 0) {
        if (*position == chain->readable)
            return false;
        struct iovec *from = &chain->iov[*position];
        uint64_t run = from->iov_len < length ? from->iov_len : length;
        memcpy(target, from->iov_base, run);
        target += run;
        length -= run;
        from->iov_base = (uint8_t *)from->iov_base + run;
        from->iov_len -= run;
        if (from->iov_len == 0)
            ++*position;
    }
    return true;
}

/* The status is the last writable byte; it is taken off the data. */
static bool take_status(struct sc_blk_request *request)
{
    struct sc_chain *chain = &request->chain;
    if (chain->writable == 0)
        return false;
    struct iovec *last = &chain->iov[chain->readable + chain->writable - 1];
    request->status = (uint8_t *)last->iov_base + last->iov_len - 1;
    request->status_gpa = chain->gpa[chain->readable + chain->writable - 1] + last->iov_len - 1;
    last->iov_len--;
    chain->writable_bytes--;
    return true;
}

static uint32_t data_count(const struct iovec *iov, uint32_t count)
{
    return count && iov[count - 1].iov_len == 0 ? count - 1 : count;
}

static int finish(struct sc_blk_request *request, int status)
{
    request->operation = SC_OP_NONE;
    return status;
}

/* The disk may be resized at any time: look once for each request. */
static uint64_t size_now(const struct sc_blk *blk)
{
    return __atomic_load_n(&blk->options.size, __ATOMIC_RELAXED);
}

static int prepare_transfer(struct sc_blk *blk, struct sc_blk_request *request, uint64_t sector, bool write)
{
    if (request->length == 0 || request->length % SC_SECTOR)
        return S_IOERR;
    uint64_t size = size_now(blk);
    if (sector > size / SC_SECTOR || request->length > size - sector * SC_SECTOR)
        return S_IOERR;
    if (write && blk->options.read_only)
        return S_IOERR;
    request->offset = sector * SC_SECTOR;
    request->operation = write ? SC_OP_WRITE : SC_OP_READ;
    return S_OK;
}

static int prepare_range(struct sc_blk *blk, struct sc_blk_request *request, uint32_t position, bool zero)
{
    struct range_segment segment;
    uint64_t bytes = request->length;
    bool offered = blk->features >> (zero ? F_WRITE_ZEROES : F_DISCARD) & 1;
    if (!offered)
        return S_UNSUPP;
    if (blk->options.read_only || bytes == 0 || bytes % sizeof(segment))
        return S_IOERR;
    if (bytes != sizeof(segment))
        return S_UNSUPP; /* max_discard_seg and max_write_zeroes_seg are 1 */
    if (!take_readable(&request->chain, &position, &segment, sizeof(segment)))
        return S_IOERR;
    if (segment.flags & ~(uint32_t)(zero ? SEGMENT_UNMAP : 0))
        return S_UNSUPP;
    uint64_t sectors = size_now(blk) / SC_SECTOR;
    if (segment.sectors == 0 || segment.sectors > SC_MAX_DISCARD_SECTORS || segment.sector > sectors ||
        segment.sectors > sectors - segment.sector)
        return S_IOERR;
    request->offset = segment.sector * SC_SECTOR;
    request->length = (uint64_t)segment.sectors * SC_SECTOR;
    request->unmap = segment.flags & SEGMENT_UNMAP;
    request->operation = zero ? SC_OP_ZERO : SC_OP_DISCARD;
    return S_OK;
}

static int copy_serial(struct sc_blk *blk, struct sc_blk_request *request)
{
    uint64_t left = sizeof(blk->options.serial);
    if (request->chain.writable_bytes < left)
        return S_IOERR;
    const char *from = blk->options.serial;
    for (uint32_t i = 0; left > 0; i++) {
        struct iovec *to = &request->chain.iov[request->chain.readable + i];
        uint64_t run = to->iov_len < left ? to->iov_len : left;
        memcpy(to->iov_base, from, run);
        from += run;
        left -= run;
    }
    request->written = ID_BYTES;
    return finish(request, S_OK);
}

static bool all_zero(const struct iovec *iov, uint32_t count)
{
    static const uint8_t zeroes[4096];
    for (uint32_t i = 0; i < count; i++)
        for (size_t done = 0; done < iov[i].iov_len; done += sizeof(zeroes)) {
            size_t run = iov[i].iov_len - done < sizeof(zeroes) ? iov[i].iov_len - done : sizeof(zeroes);
            if (memcmp((const uint8_t *)iov[i].iov_base + done, zeroes, run))
                return false;
        }
    return true;
}

static void use_readable(struct sc_blk_request *request, uint32_t position)
{
    request->iov = &request->chain.iov[position];
    request->iov_count = request->chain.readable - position;
}

static void use_writable(struct sc_blk_request *request)
{
    request->iov = &request->chain.iov[request->chain.readable];
    request->iov_count = data_count(request->iov, request->chain.writable);
    request->length = request->chain.writable_bytes;
}

/* Fill in the operation; returns the status when there is nothing to be done (operation SC_OP_NONE). */
static int prepare(struct sc_blk *blk, struct sc_blk_request *request)
{
    struct request_header header;
    uint32_t position = 0;
    request->operation = SC_OP_NONE;
    request->written = 0;
    if (!take_readable(&request->chain, &position, &header, sizeof(header)))
        return S_IOERR;
    request->length = request->chain.readable_bytes - sizeof(header);
    switch (header.type) {
    case T_IN:
        use_writable(request);
        return prepare_transfer(blk, request, header.sector, false);
    case T_OUT:
        use_readable(request, position);
        int status = prepare_transfer(blk, request, header.sector, true);
        if (status == S_OK && blk->options.detect_zeroes && all_zero(request->iov, request->iov_count)) {
            request->operation = SC_OP_ZERO;
            request->unmap = blk->options.detect_zeroes_unmap;
        }
        return status;
    case T_FLUSH:
        request->operation = SC_OP_FLUSH;
        return S_OK;
    case T_GET_ID:
        return copy_serial(blk, request);
    case T_DISCARD:
    case T_WRITE_ZEROES:
        return prepare_range(blk, request, position, header.type == T_WRITE_ZEROES);
    default:
        return S_UNSUPP;
    }
}

static void answer(struct sc_worker *worker, struct sc_blk_request *request, int status)
{
    struct sc_blk *blk = worker->blk;
    struct sc_virtqueue *vq = request->vq;
    *request->status = (uint8_t)status;
    sc_memory_mark(vq->memory, request->status_gpa, 1);
    if (status != S_OK) {
        vq->stats->errors++;
        request->written = 0;
    }
    sc_vq_push(vq, &request->chain, request->written + 1);
    worker->touched |= 1ull << vq->index;
    request->next = blk->free[vq->index];
    blk->free[vq->index] = request;
}

static void note_latency(struct sc_virtqueue *vq, uint64_t nanoseconds)
{
    uint64_t microseconds = nanoseconds / 1000;
    unsigned bucket = microseconds < 2 ? 0 : 63u - (unsigned)__builtin_clzll(microseconds);
    vq->stats->latency[bucket > 30 ? 30 : bucket]++;
    vq->stats->latency_ns += nanoseconds;
}

void sc_blk_begin(struct sc_worker *worker, struct sc_blk_request *request)
{
    struct sc_blk *blk = worker->blk;
    struct sc_virtqueue *vq = request->vq;
    vq->stats->requests++;
    if (!take_status(request)) {
        sc_vq_break(vq, -EPROTO); /* nowhere to say what happened */
        request->next = blk->free[vq->index];
        blk->free[vq->index] = request;
        return;
    }
    int status = prepare(blk, request);
    if (request->operation == SC_OP_NONE || status != S_OK) {
        answer(worker, request, status);
        return;
    }
    request->started = sc_now();
    request->bounce = NULL;
    worker->in_flight++;
    vq->stats->in_flight++;
    if (blk->options.alignment > 1)
        sc_exclusive_enter(worker);
    if (blk->options.alignment > 1 && sc_bounce_prepare(worker, request))
        sc_blk_complete(worker, request);
    else
        blk->engine->submit(worker, request);
}

void sc_blk_complete(struct sc_worker *worker, struct sc_blk_request *request)
{
    struct sc_virtqueue *vq = request->vq;
    worker->in_flight--;
    vq->stats->in_flight--;
    if (worker->blk->options.alignment > 1)
        sc_exclusive_leave(worker->blk);
    bool transfer = request->operation == SC_OP_READ || request->operation == SC_OP_WRITE;
    if (request->bounce)
        sc_bounce_finish(request);
    int error = request->result < 0 ? (int)-request->result : 0;
    if (!error && transfer && (uint64_t)request->result < request->length)
        error = EIO; /* the file has become shorter, or its disk is full */
    if (error)
        sc_blk_log(worker->blk, request, error);
    else if (request->operation == SC_OP_READ) {
        request->written = (uint32_t)request->length;
        vq->stats->read_bytes += request->length;
    } else if (request->operation == SC_OP_WRITE)
        vq->stats->written_bytes += request->length;
    note_latency(vq, sc_now() - request->started);
    answer(worker, request, error ? S_IOERR : S_OK);
}

void sc_blk_finish(struct sc_worker *worker, struct sc_blk_request *request, int64_t result)
{
    bool transfer = request->operation == SC_OP_READ || request->operation == SC_OP_WRITE;
    bool again = result == -EAGAIN || result == -EINTR;
    /* Once more tells the file's end from a full disk; no system call moves more than 2 GiB. */
    bool cut = transfer && result > 0 && (uint64_t)result < request->length;
    request->result = again || cut ? sc_blk_execute(worker->blk, request) : result;
    sc_blk_complete(worker, request);
}

/* One line on standard error, a few times a second at most: the guest decides how often this happens. */
void sc_blk_log(struct sc_blk *blk, const struct sc_blk_request *request, int error)
{
    static const char *const names[] = {"read", "write", "flush", "discard", "write-zeroes", "nothing"};
    uint64_t now = sc_now();
    if (now - __atomic_load_n(&blk->last_log, __ATOMIC_RELAXED) > 1000000000u) {
        __atomic_store_n(&blk->last_log, now, __ATOMIC_RELAXED);
        __atomic_store_n(&blk->log_tokens, LOGS_PER_SECOND, __ATOMIC_RELAXED);
    }
    if (__atomic_fetch_sub(&blk->log_tokens, 1, __ATOMIC_RELAXED) <= 0)
        return;
    char line[200];
    int length = snprintf(line, sizeof(line), "%s of %llu bytes at %llu failed: %s\n", names[request->operation],
                          (unsigned long long)request->length, (unsigned long long)request->offset, strerror(error));
    if (write(STDERR_FILENO, line, (size_t)length) < 0)
        return; /* nobody reads the log any more */
}
