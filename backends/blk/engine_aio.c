/* SPDX-License-Identifier: MIT
 *
 * aio=native: Linux AIO (io_submit), whose transfers are asynchronous with direct=on only. The system calls are used as
 * they are.
 */
#include <errno.h>
#include <limits.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "blk.h"

#define MAX_BATCH 64
#define MAX_EVENTS 1024

struct sc_pool {
    aio_context_t context;
    struct iocb blocks[MAX_EVENTS];
    struct iocb *free[MAX_EVENTS];
    unsigned free_count;
    struct iocb *batch[MAX_BATCH];
    unsigned batch_count;
};

static int open_aio(struct sc_worker *worker)
{
    struct sc_pool *state = calloc(1, sizeof(*state));
    if (!state)
        return -ENOMEM;
    worker->completion_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->completion_fd < 0 || syscall(SYS_io_setup, MAX_EVENTS, &state->context) < 0) {
        int result = -errno;
        if (worker->completion_fd >= 0)
            close(worker->completion_fd);
        free(state);
        return result;
    }
    for (unsigned i = 0; i < MAX_EVENTS; i++)
        state->free[state->free_count++] = &state->blocks[i];
    worker->pool = state;
    return 0;
}

static void close_aio(struct sc_worker *worker)
{
    syscall(SYS_io_destroy, worker->pool->context);
    free(worker->pool);
    close(worker->completion_fd);
}

static void fail(struct sc_worker *worker, struct iocb *block, int error)
{
    struct sc_blk_request *request = (struct sc_blk_request *)(uintptr_t)block->aio_data;
    worker->pool->free[worker->pool->free_count++] = block;
    request->result = error;
    sc_blk_complete(worker, request);
}

static void flush_aio(struct sc_worker *worker)
{
    struct sc_pool *state = worker->pool;
    unsigned done = 0;
    while (done < state->batch_count) {
        long count = syscall(SYS_io_submit, state->context, (long)(state->batch_count - done), state->batch + done);
        if (count > 0)
            done += (unsigned)count;
        else if (errno != EAGAIN && errno != EINTR)
            fail(worker, state->batch[done++], -errno);
    }
    state->batch_count = 0;
}

static void fill(struct iocb *block, struct sc_blk *blk, struct sc_blk_request *request, int completion_fd)
{
    bool write = request->operation == SC_OP_WRITE;
    memset(block, 0, sizeof(*block));
    block->aio_data = (uint64_t)(uintptr_t)request;
    block->aio_fildes = (uint32_t)blk->options.fd;
    block->aio_lio_opcode = write ? IOCB_CMD_PWRITEV : IOCB_CMD_PREADV;
    block->aio_buf = (uint64_t)(uintptr_t)(request->bounce ? &request->bounce_iov : request->iov);
    block->aio_nbytes = request->bounce ? 1 : request->iov_count;
    block->aio_offset = (int64_t)request->offset;
    block->aio_rw_flags = write && blk->writethrough ? RWF_DSYNC : 0;
    block->aio_flags = IOCB_FLAG_RESFD;
    block->aio_resfd = (uint32_t)completion_fd;
}

static void submit_aio(struct sc_worker *worker, struct sc_blk_request *request)
{
    struct sc_pool *state = worker->pool;
    bool transfer = request->operation == SC_OP_READ || request->operation == SC_OP_WRITE;
    if (!transfer || state->free_count == 0 || request->iov_count > IOV_MAX) {
        request->result = sc_blk_execute(worker->blk, request);
        sc_blk_complete(worker, request);
        return;
    }
    struct iocb *block = state->free[--state->free_count];
    fill(block, worker->blk, request, worker->completion_fd);
    state->batch[state->batch_count++] = block;
    if (state->batch_count == MAX_BATCH)
        flush_aio(worker);
}

static void reap_aio(struct sc_worker *worker)
{
    struct sc_pool *state = worker->pool;
    struct io_event events[MAX_BATCH];
    struct timespec now = {0};
    if (worker->in_flight == 0)
        return;
    long count = syscall(SYS_io_getevents, state->context, 0L, (long)MAX_BATCH, events, &now);
    for (long i = 0; i < count; i++) {
        struct sc_blk_request *request = (struct sc_blk_request *)(uintptr_t)events[i].data;
        state->free[state->free_count++] = (struct iocb *)(uintptr_t)events[i].obj;
        sc_blk_finish(worker, request, events[i].res);
    }
}

const struct sc_engine sc_engine_aio = {
    .name = "native",
    .open = open_aio,
    .close = close_aio,
    .submit = submit_aio,
    .flush = flush_aio,
    .reap = reap_aio,
    .wait = sc_poll_wait,
    .watch = sc_poll_watch,
};
