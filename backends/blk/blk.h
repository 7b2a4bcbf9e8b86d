/* SPDX-License-Identifier: MIT
 *
 * virtio-blk's data path (virtio 1.2, 5.2): requests from virtqueues to a file and back, on threads without Python.
 */
#ifndef STRATOCELL_BLK_H
#define STRATOCELL_BLK_H

#include <liburing.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "../runtime/guest_memory.h"
#include "../runtime/virtqueue.h"

#define SC_SECTOR 512
#define SC_MAX_QUEUES 32
#define SC_MAX_WORKERS 4
#define SC_MAX_DISCARD_SECTORS (UINT32_MAX >> 9)

enum sc_blk_operation { SC_OP_READ, SC_OP_WRITE, SC_OP_FLUSH, SC_OP_DISCARD, SC_OP_ZERO, SC_OP_NONE };

struct sc_worker;

struct sc_blk_request {
    struct sc_virtqueue *vq;
    struct sc_blk_request *next; /* free one; NULL: the neighbour in memory */
    enum sc_blk_operation operation;
    struct iovec *iov; /* of the data; points into the chain, or at `bounce_iov` */
    uint32_t iov_count;
    uint64_t offset; /* bytes in the image */
    uint64_t length;
    bool unmap;       /* SC_OP_ZERO: may deallocate */
    int64_t result;   /* bytes, or -errno */
    uint32_t written; /* to the guest, without the status byte */
    uint8_t *status;
    uint64_t status_gpa;
    uint64_t started; /* nanoseconds */
    void *bounce;
    struct iovec bounce_iov;
    struct sc_chain chain;
};

struct sc_throttle {
    uint64_t interval; /* nanoseconds of one request; 0: no limit */
    uint64_t next;     /* when the next request is due */
    pthread_mutex_t mutex;
};

struct sc_engine {
    const char *name;
    int (*open)(struct sc_worker *worker);
    void (*close)(struct sc_worker *worker);
    void (*submit)(struct sc_worker *worker, struct sc_blk_request *request); /* completion by sc_blk_complete */
    void (*flush)(struct sc_worker *worker);                                  /* hand over what was submitted */
    void (*reap)(struct sc_worker *worker); /* complete what is done, without waiting */
    void (*wait)(struct sc_worker *worker,
                 int64_t nanoseconds);       /* for a completion, a doorbell or control; < 0: no limit */
    void (*watch)(struct sc_worker *worker); /* doorbells changed */
};

extern const struct sc_engine sc_engine_uring, sc_engine_aio, sc_engine_threads, sc_engine_off, sc_engine_null;

struct sc_pool;

struct sc_worker {
    struct sc_blk *blk;
    pthread_t thread;
    bool running;
    int control_fd;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool pause, paused, stop;
    int open_result; /* 1 until the engine is open */
    uint32_t queues[SC_MAX_QUEUES];
    uint32_t queue_count;
    uint32_t in_flight;
    uint32_t generation; /* of the watched doorbells */
    struct io_uring ring;
    struct sc_pool *pool; /* threads, aio: the engine's own state */
    int completion_fd;
    uint64_t touched; /* bit per queue: something was pushed */
    uint64_t rung;    /* bit per queue: its doorbell was heard, and not taken yet */
};

struct sc_blk_options {
    const char *engine; /* io_uring, native, threads, off, null */
    int fd;
    uint64_t size;      /* bytes */
    uint32_t alignment; /* of offsets, lengths and addresses in bytes; 1 when the page cache is in between */
    uint32_t queues;
    uint32_t queue_size;
    uint32_t workers;
    uint64_t iops;
    bool read_only;
    bool discard;
    bool detect_zeroes;
    bool detect_zeroes_unmap;
    char serial[20];
    uint32_t poll_ns;     /* longest busy wait before sleeping */
    char thread_name[16]; /* of the workers; empty: the process's */
};

struct sc_blk {
    struct sc_blk_options options;
    struct sc_memory memory;
    struct sc_virtqueue queues[SC_MAX_QUEUES];
    struct sc_vq_stats own_stats[SC_MAX_QUEUES];    /* where the counters are when nobody has given a shared page */
    struct sc_blk_request *requests[SC_MAX_QUEUES]; /* queue_size of each */
    struct sc_blk_request *free[SC_MAX_QUEUES];     /* one past the last: there is none */
    struct sc_worker workers[SC_MAX_WORKERS];
    const struct sc_engine *engine;
    struct sc_throttle throttle;
    uint64_t features;
    bool writethrough;
    bool no_punch, no_zero;
    pthread_mutex_t exclusive; /* held while a part of a block is replaced */
    bool exclusive_wanted;     /* nobody begins new requests */
    uint64_t total_in_flight;  /* kept with direct I/O only */
    uint64_t last_log;
    int32_t log_tokens;
};

static inline bool sc_blk_has_free(const struct sc_blk *blk, uint32_t queue)
{
    return blk->free[queue] != blk->requests[queue] + blk->options.queue_size;
}

/* Control, from one thread. All return 0 or -errno. */
struct sc_blk *sc_blk_new(const struct sc_blk_options *options);
/* Create the threads and whatever they need from the kernel; afterwards a seccomp filter may close the rest. */
int sc_blk_start(struct sc_blk *blk);
void sc_blk_free(struct sc_blk *blk);
/* Stop taking requests and wait until none is in flight; sc_blk_resume goes on. */
void sc_blk_pause(struct sc_blk *blk);
void sc_blk_resume(struct sc_blk *blk);
/* Return when what a dead process has still had under way on this image is over. */
void sc_blk_await_predecessor(struct sc_blk *blk);
void sc_blk_set_features(struct sc_blk *blk, uint64_t features);
void sc_blk_set_writethrough(struct sc_blk *blk, bool on);
void sc_blk_set_size(struct sc_blk *blk, uint64_t size);
void sc_blk_set_iops(struct sc_blk *blk, uint64_t iops);
struct sc_virtqueue *sc_blk_queue(struct sc_blk *blk, uint32_t index);
struct sc_memory *sc_blk_memory(struct sc_blk *blk);
/* Count in `stats`, one for each queue, from now on; what is there already is added to. Before sc_blk_start. */
void sc_blk_set_stats(struct sc_blk *blk, struct sc_vq_stats *stats);
/* What direct I/O to `fd` must be aligned to (statx, Linux 6.1), in bytes; 0 when the kernel does not say. */
uint32_t sc_direct_alignment(int fd);

/* Between the files of the data path. */
uint64_t sc_now(void);
void *sc_worker_main(void *argument);
void sc_blk_begin(struct sc_worker *worker, struct sc_blk_request *request);
void sc_blk_complete(struct sc_worker *worker, struct sc_blk_request *request);
/* The same for an asynchronous `result`; what was interrupted or cut short is done again, on the spot. */
void sc_blk_finish(struct sc_worker *worker, struct sc_blk_request *request, int64_t result);
void sc_blk_log(struct sc_blk *blk, const struct sc_blk_request *request, int error);
int64_t sc_blk_execute(struct sc_blk *blk, struct sc_blk_request *request);
/* Count a request as one that a replacement of parts of blocks must wait for, and no longer. */
void sc_exclusive_enter(struct sc_worker *worker);
void sc_exclusive_leave(struct sc_blk *blk);
int64_t sc_throttle_wait(struct sc_throttle *throttle, uint64_t now);
/* Make a request fit direct I/O's alignment; true when it has been executed on the way (`result` is set). */
bool sc_bounce_prepare(struct sc_worker *worker, struct sc_blk_request *request);
void sc_bounce_finish(struct sc_blk_request *request);
/* Wait by poll(2) for doorbells, control and the engine's completion_fd; for engines without a ring. */
void sc_poll_wait(struct sc_worker *worker, int64_t nanoseconds);
void sc_poll_watch(struct sc_worker *worker);

#endif
