/* SPDX-License-Identifier: MIT
 *
 * aio=io_uring: one ring per worker carries the I/O and the doorbells, so that one system call waits for both.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "blk.h"

#define RING_ENTRIES 256
#define CQ_ENTRIES 4096
#define MUCH (256u << 10) /* bytes */
#define TAG_DOORBELL 1u   /* requests are aligned, so their low bits are free */
#define TAG_CONTROL 2u
#define TAG_IGNORE 3u
#define TAG_MASK 3u
#define FILE_INDEX 0

static const uint8_t allowed_operations[] = {IORING_OP_READ,     IORING_OP_READV,      IORING_OP_WRITE,
                                             IORING_OP_WRITEV,   IORING_OP_FSYNC,      IORING_OP_FALLOCATE,
                                             IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE};

/* liburing 2.3 declares wrappers for these two and does not export them. */
static int register_ring(struct io_uring *ring, unsigned opcode, const void *argument, unsigned count)
{
    return syscall(SYS_io_uring_register, ring->ring_fd, opcode, argument, count) < 0 ? -errno : 0;
}

/* seccomp does not see what a ring is asked to do: the ring itself refuses everything else. */
static int restrict_ring(struct io_uring *ring)
{
    struct io_uring_restriction rules[sizeof(allowed_operations) + 1];
    memset(rules, 0, sizeof(rules));
    unsigned count = 0;
    for (; count < sizeof(allowed_operations); count++) {
        rules[count].opcode = IORING_RESTRICTION_SQE_OP;
        rules[count].sqe_op = allowed_operations[count];
    }
    rules[count].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    rules[count++].sqe_flags = IOSQE_FIXED_FILE | IOSQE_ASYNC;
    return register_ring(ring, IORING_REGISTER_RESTRICTIONS, rules, count);
}

static int create_ring(struct io_uring *ring)
{
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_R_DISABLED |
            IORING_SETUP_CQSIZE,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE,
        IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE,
    };
    int result = -EINVAL;
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]) && result == -EINVAL; i++) {
        struct io_uring_params parameters = {.flags = flags[i], .cq_entries = CQ_ENTRIES};
        result = io_uring_queue_init_params(RING_ENTRIES, ring, &parameters);
    }
    return result;
}

static struct io_uring_sqe *next_sqe(struct sc_worker *worker)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&worker->ring);
    while (!sqe) {
        io_uring_submit(&worker->ring);
        sqe = io_uring_get_sqe(&worker->ring);
    }
    return sqe;
}

static void watch_fd(struct sc_worker *worker, int fd, uint64_t tag)
{
    struct io_uring_sqe *sqe = next_sqe(worker);
    io_uring_prep_poll_multishot(sqe, fd, POLLIN);
    io_uring_sqe_set_data64(sqe, tag);
}

static uint64_t doorbell_tag(const struct sc_worker *worker, uint32_t index)
{
    return (uint64_t)worker->generation << 16 | index << 2 | TAG_DOORBELL;
}

static int open_ring(struct sc_worker *worker)
{
    int result = create_ring(&worker->ring);
    if (result < 0)
        return result;
    io_uring_ring_dontfork(&worker->ring);
    result = io_uring_register_files(&worker->ring, &worker->blk->options.fd, 1);
    if (result == 0)
        result = restrict_ring(&worker->ring);
    if (result == 0)
        result = register_ring(&worker->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (result < 0) {
        io_uring_queue_exit(&worker->ring);
        return result;
    }
    watch_fd(worker, worker->control_fd, TAG_CONTROL);
    return 0;
}

static void close_ring(struct sc_worker *worker)
{
    io_uring_queue_exit(&worker->ring);
}

static void watch(struct sc_worker *worker)
{
    for (uint32_t i = 0; i < worker->queue_count && worker->generation; i++) {
        struct io_uring_sqe *sqe = next_sqe(worker);
        io_uring_prep_poll_remove(sqe, doorbell_tag(worker, worker->queues[i]));
        io_uring_sqe_set_data64(sqe, TAG_IGNORE);
    }
    worker->generation++;
    worker->rung = 0; /* of descriptors that may be others by now */
    for (uint32_t i = 0; i < worker->queue_count; i++) {
        const struct sc_virtqueue *vq = &worker->blk->queues[worker->queues[i]];
        if (vq->ready && vq->kick_fd >= 0)
            watch_fd(worker, vq->kick_fd, doorbell_tag(worker, vq->index));
    }
    io_uring_submit(&worker->ring);
}

static void prepare_transfer(struct io_uring_sqe *sqe, struct sc_blk_request *request, bool write, bool writethrough)
{
    const struct iovec *iov = request->bounce ? &request->bounce_iov : request->iov;
    unsigned count = request->bounce ? 1 : request->iov_count;
    if (count == 1 && write)
        io_uring_prep_write(sqe, FILE_INDEX, iov->iov_base, (unsigned)iov->iov_len, request->offset);
    else if (count == 1)
        io_uring_prep_read(sqe, FILE_INDEX, iov->iov_base, (unsigned)iov->iov_len, request->offset);
    else if (write)
        io_uring_prep_writev(sqe, FILE_INDEX, iov, count, request->offset);
    else
        io_uring_prep_readv(sqe, FILE_INDEX, iov, count, request->offset);
    if (write && writethrough)
        sqe->rw_flags = RWF_DSYNC;
}

static bool by_ring(const struct sc_blk *blk, const struct sc_blk_request *request)
{
    switch (request->operation) {
    case SC_OP_READ:
    case SC_OP_WRITE:
        return (request->bounce ? 1 : request->iov_count) <= IOV_MAX;
    case SC_OP_ZERO:
        return !blk->no_zero && !request->unmap && !blk->writethrough;
    case SC_OP_DISCARD:
        return !blk->no_punch;
    default:
        return true;
    }
}

/* A lone read of what is in the page cache: a ring, made for many at a time, would only be a detour. */
static bool read_at_once(struct sc_worker *worker, struct sc_blk_request *request)
{
    struct sc_blk *blk = worker->blk;
    if (request->operation != SC_OP_READ || blk->options.alignment > 1 || worker->in_flight > 1 ||
        request->iov_count > IOV_MAX || sc_vq_has_available(request->vq))
        return false;
    ssize_t count = preadv2(blk->options.fd, request->iov, (int)request->iov_count, (off_t)request->offset, RWF_NOWAIT);
    if (count < 0 || (uint64_t)count != request->length)
        return false;
    request->result = count;
    sc_blk_complete(worker, request);
    return true;
}

/* Large copies from and to the page cache go to the ring's own threads: several CPUs copy more than one. */
static bool copies_much(const struct sc_worker *worker, const struct sc_blk_request *request)
{
    bool transfer = request->operation == SC_OP_READ || request->operation == SC_OP_WRITE;
    return transfer && worker->blk->options.alignment == 1 && request->length >= MUCH && worker->in_flight > 1;
}

static void submit(struct sc_worker *worker, struct sc_blk_request *request)
{
    struct sc_blk *blk = worker->blk;
    if (read_at_once(worker, request))
        return;
    if (!by_ring(blk, request)) {
        request->result = sc_blk_execute(blk, request);
        sc_blk_complete(worker, request);
        return;
    }
    struct io_uring_sqe *sqe = next_sqe(worker);
    int mode =
        FALLOC_FL_KEEP_SIZE | (request->operation == SC_OP_DISCARD ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
    if (request->operation == SC_OP_FLUSH)
        io_uring_prep_fsync(sqe, FILE_INDEX, IORING_FSYNC_DATASYNC);
    else if (request->operation == SC_OP_DISCARD || request->operation == SC_OP_ZERO)
        io_uring_prep_fallocate(sqe, FILE_INDEX, mode, (off_t)request->offset, (off_t)request->length);
    else
        prepare_transfer(sqe, request, request->operation == SC_OP_WRITE, blk->writethrough);
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE | (copies_much(worker, request) ? IOSQE_ASYNC : 0));
    io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)request);
}

static void flush(struct sc_worker *worker)
{
    if (io_uring_sq_ready(&worker->ring))
        io_uring_submit(&worker->ring);
}

static void complete(struct sc_worker *worker, struct sc_blk_request *request, int result)
{
    bool range = request->operation == SC_OP_ZERO || request->operation == SC_OP_DISCARD;
    if (range && (result == -EOPNOTSUPP || result == -EINVAL))
        result = -EAGAIN; /* the fallbacks are where it is done on the spot */
    sc_blk_finish(worker, request, result);
}

static void rearm(struct sc_worker *worker, uint64_t data)
{
    uint32_t index = data >> 2 & (SC_MAX_QUEUES - 1);
    if ((data & TAG_MASK) == TAG_CONTROL)
        watch_fd(worker, worker->control_fd, TAG_CONTROL);
    else if ((data & TAG_MASK) == TAG_DOORBELL && data >> 16 == worker->generation && worker->blk->queues[index].ready)
        watch_fd(worker, worker->blk->queues[index].kick_fd, data);
}

static void reap(struct sc_worker *worker)
{
    struct io_uring_cqe *cqe;
    unsigned head, count = 0;
    if (IO_URING_READ_ONCE(*worker->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))
        io_uring_get_events(&worker->ring);
    io_uring_for_each_cqe(&worker->ring, head, cqe)
    {
        uint64_t data = cqe->user_data;
        count++;
        if ((data & TAG_MASK) == 0)
            complete(worker, (struct sc_blk_request *)(uintptr_t)data, cqe->res);
        else {
            if ((data & TAG_MASK) == TAG_DOORBELL) {
                uint32_t index = data >> 2 & (SC_MAX_QUEUES - 1);
                worker->blk->queues[index].stats->kicks++;
                worker->rung |= 1ull << index;
            }
            if (!(cqe->flags & IORING_CQE_F_MORE) && cqe->res >= 0)
                rearm(worker, data);
        }
    }
    io_uring_cq_advance(&worker->ring, count);
}

static void wait_ring(struct sc_worker *worker, int64_t nanoseconds)
{
    struct __kernel_timespec limit = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
    struct io_uring_cqe *cqe;
    if (nanoseconds < 0)
        io_uring_submit_and_wait(&worker->ring, 1);
    else
        io_uring_submit_and_wait_timeout(&worker->ring, &cqe, 1, &limit, NULL);
}

const struct sc_engine sc_engine_uring = {
    .name = "io_uring",
    .open = open_ring,
    .close = close_ring,
    .submit = submit,
    .flush = flush,
    .reap = reap,
    .wait = wait_ring,
    .watch = watch,
};
