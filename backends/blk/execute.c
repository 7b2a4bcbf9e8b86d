/* SPDX-License-Identifier: MIT
 *
 * A request executed on the spot, with the fallbacks for what an image's file system cannot do, and direct I/O's
 * alignment.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "blk.h"

#define MAX_BOUNCE (1u << 20)
#define BOUNCE_ALIGNMENT 4096

/* All of it, or up to the file's end, or -errno. */
static int64_t transfer(struct sc_blk *blk, bool write, void *buffer, uint64_t length, uint64_t offset)
{
    uint64_t done = 0;
    while (done < length) {
        struct iovec rest = {.iov_base = (uint8_t *)buffer + done, .iov_len = length - done};
        int flags = write && blk->writethrough ? RWF_DSYNC : 0;
        ssize_t count = write ? pwritev2(blk->options.fd, &rest, 1, (off_t)(offset + done), flags)
                              : preadv2(blk->options.fd, &rest, 1, (off_t)(offset + done), 0);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -errno;
        if (count == 0)
            break;
        done += (uint64_t)count;
    }
    return (int64_t)done;
}

static int64_t transfer_iov(struct sc_blk *blk, const struct sc_blk_request *request)
{
    const struct iovec *iov = request->bounce ? &request->bounce_iov : request->iov;
    uint32_t parts = request->bounce ? 1 : request->iov_count;
    uint64_t done = 0;
    for (uint32_t i = 0; i < parts; i++) {
        const struct iovec *part = &iov[i];
        int64_t count =
            transfer(blk, request->operation == SC_OP_WRITE, part->iov_base, part->iov_len, request->offset + done);
        if (count < 0)
            return count;
        done += (uint64_t)count;
        if ((uint64_t)count < part->iov_len)
            break;
    }
    return (int64_t)done;
}

static int64_t write_zeroes(struct sc_blk *blk, uint64_t offset, uint64_t length)
{
    void *zeroes;
    if (posix_memalign(&zeroes, BOUNCE_ALIGNMENT, MAX_BOUNCE))
        return -ENOMEM;
    memset(zeroes, 0, MAX_BOUNCE);
    int64_t result = 0;
    for (uint64_t done = 0; done < length && result >= 0; done += MAX_BOUNCE) {
        uint64_t run = length - done < MAX_BOUNCE ? length - done : MAX_BOUNCE;
        result = transfer(blk, true, zeroes, run, offset + done);
    }
    free(zeroes);
    return result < 0 ? result : 0;
}

static bool unsupported(int error)
{
    return error == EOPNOTSUPP || error == ENOTTY || error == ENOSYS;
}

static int64_t punch(struct sc_blk *blk, const struct sc_blk_request *request)
{
    if (!blk->no_punch && fallocate(blk->options.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)request->offset,
                                    (off_t)request->length) == 0)
        return 0;
    if (!blk->no_punch && !unsupported(errno))
        return -errno;
    blk->no_punch = true;
    return -EOPNOTSUPP;
}

static int64_t zero(struct sc_blk *blk, const struct sc_blk_request *request)
{
    if (request->unmap && punch(blk, request) == 0)
        return 0;
    if (!blk->no_zero && fallocate(blk->options.fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)request->offset,
                                   (off_t)request->length) == 0)
        return 0;
    if (!blk->no_zero && !unsupported(errno))
        return -errno;
    blk->no_zero = true;
    return write_zeroes(blk, request->offset, request->length);
}

static int64_t sync_after(struct sc_blk *blk, int64_t result)
{
    if (result < 0 || !blk->writethrough)
        return result;
    return fdatasync(blk->options.fd) < 0 ? -errno : result;
}

int64_t sc_blk_execute(struct sc_blk *blk, struct sc_blk_request *request)
{
    switch (request->operation) {
    case SC_OP_READ:
    case SC_OP_WRITE:
        return transfer_iov(blk, request);
    case SC_OP_FLUSH:
        return fdatasync(blk->options.fd) < 0 ? -errno : 0;
    case SC_OP_DISCARD: {
        int64_t result = punch(blk, request);
        return result == -EOPNOTSUPP ? 0 : result; /* a hint: where it means nothing, nothing is done */
    }
    case SC_OP_ZERO:
        return sync_after(blk, zero(blk, request));
    default:
        return 0;
    }
}

static void copy(const struct sc_blk_request *request, uint64_t position, uint8_t *buffer, uint64_t length,
                 bool to_buffer)
{
    for (uint32_t i = 0; i < request->iov_count && length > 0; i++) {
        const struct iovec *part = &request->iov[i];
        if (position >= part->iov_len) {
            position -= part->iov_len;
            continue;
        }
        uint64_t run = part->iov_len - position < length ? part->iov_len - position : length;
        uint8_t *guest = (uint8_t *)part->iov_base + position;
        memcpy(to_buffer ? buffer : guest, to_buffer ? guest : buffer, run);
        buffer += run;
        length -= run;
        position = 0;
    }
}

/* Somebody else has to get on; our own completions are taken meanwhile, for he may wait for just those. */
static void give_way(struct sc_worker *worker)
{
    worker->blk->engine->reap(worker);
    sched_yield();
}

static bool exclusive_wanted(struct sc_blk *blk)
{
    return __atomic_load_n(&blk->exclusive_wanted, __ATOMIC_SEQ_CST);
}

void sc_exclusive_enter(struct sc_worker *worker)
{
    struct sc_blk *blk = worker->blk;
    __atomic_fetch_add(&blk->total_in_flight, 1, __ATOMIC_SEQ_CST);
    while (exclusive_wanted(blk)) { /* it became so after we were counted, or before: let him go first */
        sc_exclusive_leave(blk);
        blk->engine->flush(worker);
        while (exclusive_wanted(blk))
            give_way(worker);
        __atomic_fetch_add(&blk->total_in_flight, 1, __ATOMIC_SEQ_CST);
    }
}

void sc_exclusive_leave(struct sc_blk *blk)
{
    __atomic_fetch_sub(&blk->total_in_flight, 1, __ATOMIC_SEQ_CST);
}

/* Nobody has anything in flight when this returns. Our own request does not count: another worker may be here, too. */
static void lock_exclusive(struct sc_worker *worker)
{
    struct sc_blk *blk = worker->blk;
    blk->engine->flush(worker);
    sc_exclusive_leave(blk);
    while (pthread_mutex_trylock(&blk->exclusive) != 0)
        give_way(worker);
    __atomic_store_n(&blk->exclusive_wanted, true, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&blk->total_in_flight, __ATOMIC_SEQ_CST) > 0)
        give_way(worker);
    __atomic_fetch_add(&blk->total_in_flight, 1, __ATOMIC_SEQ_CST);
}

static void unlock_exclusive(struct sc_blk *blk)
{
    __atomic_store_n(&blk->exclusive_wanted, false, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&blk->exclusive);
}

/* A file need not end where a block does: what a whole block has added to it is cut off again. */
static int64_t write_blocks(struct sc_blk *blk, void *buffer, uint64_t blocks, uint64_t start, uint64_t end)
{
    int64_t result = transfer(blk, true, buffer, blocks, start);
    struct stat status;
    if (result < 0 || end == start + blocks || fstat(blk->options.fd, &status) < 0)
        return result;
    if (S_ISREG(status.st_mode) && (uint64_t)status.st_size == start + blocks &&
        ftruncate(blk->options.fd, (off_t)end) < 0)
        return -errno;
    return result;
}

/* Chunk by chunk through an aligned buffer, whole blocks at a time. */
static int64_t execute_bounced(struct sc_blk *blk, struct sc_blk_request *request)
{
    uint64_t mask = blk->options.alignment - 1, done = 0;
    bool write = request->operation == SC_OP_WRITE;
    uint8_t *buffer;
    if (posix_memalign((void **)&buffer, BOUNCE_ALIGNMENT, MAX_BOUNCE))
        return -ENOMEM;
    int64_t result = 0;
    while (done < request->length && result >= 0) {
        uint64_t offset = request->offset + done, start = offset & ~mask;
        uint64_t run = request->length - done;
        if (run > MAX_BOUNCE - (offset - start))
            run = MAX_BOUNCE - (offset - start);
        uint64_t blocks = (offset - start + run + mask) & ~mask;
        uint64_t end = start + blocks;
        bool partial = start != offset || blocks != run;
        if (!write || partial)
            result = transfer(blk, false, buffer, blocks, start);
        if (result >= 0 && write) {
            if (partial && (uint64_t)result < blocks) {
                memset(buffer + result, 0, blocks - (uint64_t)result);
                end = (uint64_t)result > offset - start + run ? start + (uint64_t)result : offset + run;
            }
            copy(request, done, buffer + (offset - start), run, true);
            result = write_blocks(blk, buffer, blocks, start, end);
        } else if (result >= 0)
            copy(request, done, buffer + (offset - start), run, false);
        if (result >= 0 && (uint64_t)result < offset - start + run)
            break; /* the file ends here */
        done += run;
    }
    free(buffer);
    return result < 0 ? result : (int64_t)done;
}

static bool aligned(const struct sc_blk_request *request, uint64_t mask)
{
    for (uint32_t i = 0; i < request->iov_count; i++)
        if (((uintptr_t)request->iov[i].iov_base | request->iov[i].iov_len) & mask)
            return false;
    return true;
}

bool sc_bounce_prepare(struct sc_worker *worker, struct sc_blk_request *request)
{
    struct sc_blk *blk = worker->blk;
    uint64_t mask = blk->options.alignment - 1;
    if (request->operation != SC_OP_READ && request->operation != SC_OP_WRITE)
        return false;
    bool whole_blocks = !((request->offset | request->length) & mask);
    if (whole_blocks && aligned(request, mask))
        return false;
    if (whole_blocks && request->length <= MAX_BOUNCE &&
        posix_memalign(&request->bounce, BOUNCE_ALIGNMENT, request->length) == 0) {
        if (request->operation == SC_OP_WRITE)
            copy(request, 0, request->bounce, request->length, true);
        request->bounce_iov = (struct iovec){.iov_base = request->bounce, .iov_len = request->length};
        return false;
    }
    if (request->operation == SC_OP_WRITE)
        lock_exclusive(worker);
    request->result = execute_bounced(blk, request);
    if (request->operation == SC_OP_WRITE)
        unlock_exclusive(blk);
    return true;
}

void sc_bounce_finish(struct sc_blk_request *request)
{
    if (request->operation == SC_OP_READ && request->result > 0)
        copy(request, 0, request->bounce,
             (uint64_t)request->result < request->length ? (uint64_t)request->result : request->length, false);
    free(request->bounce);
    request->bounce = NULL;
}
