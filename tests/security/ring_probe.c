/* SPDX-License-Identifier: MIT */
/* Opens a ring as aio=io_uring does, by the very same function, and asks it for everything that there is.
 *
 * Prints `op NUMBER RESULT` for each operation, `flag NUMBER RESULT` for each flag of a submission and
 * `register NUMBER RESULT` for each way to change the ring; a result is 0 or more, or -errno. */
#include "engine_uring.c"
#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>

#define REGISTER_OPERATIONS 40

/* Of the data path, which is not linked: nothing here is a request. */
int64_t sc_blk_execute(struct sc_blk *blk, struct sc_blk_request *request)
{
    (void)blk, (void)request;
    return -ENOSYS;
}

void sc_blk_complete(struct sc_worker *worker, struct sc_blk_request *request)
{
    (void)worker, (void)request;
}

void sc_blk_finish(struct sc_worker *worker, struct sc_blk_request *request, int64_t result)
{
    (void)worker, (void)request, (void)result;
}

bool sc_vq_has_available(const struct sc_virtqueue *vq)
{
    (void)vq;
    return false;
}

static int ask(struct io_uring *ring, unsigned opcode, unsigned flags)
{
    struct io_uring_cqe *cqe;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = (uint8_t)opcode;
    sqe->flags = (uint8_t)flags;
    sqe->fd = flags & IOSQE_FIXED_FILE ? FILE_INDEX : -1;
    sqe->user_data = opcode;
    int result = io_uring_submit_and_wait(ring, 1);
    if (result < 0)
        return result;
    while (!(result = io_uring_peek_cqe(ring, &cqe)) && cqe->user_data != opcode)
        io_uring_cqe_seen(ring, cqe);
    if (result)
        return result;
    result = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return result;
}

static void open_anew(struct sc_worker *worker)
{
    int result = open_ring(worker);
    if (result < 0) {
        fprintf(stderr, "open_ring: %s\n", strerror(-result));
        exit(1);
    }
}

int main(void)
{
    static struct sc_blk blk;
    static struct sc_worker worker = {.blk = &blk};
    blk.options.fd = open("/dev/null", O_RDWR);
    worker.control_fd = eventfd(0, EFD_NONBLOCK);
    open_anew(&worker);
    for (unsigned opcode = 0; opcode < 64; opcode++)
        printf("op %u %d\n", opcode, ask(&worker.ring, opcode, 0));
    for (unsigned flag = 0; flag < 8; flag++) { /* a refused link holds back what follows it: each has its own ring */
        close_ring(&worker);
        open_anew(&worker);
        printf("flag %u %d\n", flag, ask(&worker.ring, IORING_OP_READ, IOSQE_FIXED_FILE | 1u << flag));
    }
    for (unsigned opcode = 0; opcode < REGISTER_OPERATIONS; opcode++)
        printf("register %u %d\n", opcode, register_ring(&worker.ring, opcode, NULL, 0));
    return 0;
}
