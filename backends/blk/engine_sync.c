/* SPDX-License-Identifier: MIT
 *
 * aio=off: on the worker itself. aio=threads: on a pool of threads. null: nowhere, to measure what the rings alone
 * cost.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "blk.h"

#define POOL_THREADS 4

struct sc_pool {
    struct sc_blk *blk;
    pthread_t threads[POOL_THREADS];
    unsigned started;
    pthread_mutex_t mutex;
    pthread_cond_t more;
    struct sc_blk_request *jobs, **jobs_tail;
    struct sc_blk_request *done;
    int completion_fd;
    bool stop;
};

static void *pool_main(void *argument)
{
    struct sc_pool *pool = argument;
    uint64_t one = 1;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (!pool->jobs && !pool->stop)
            pthread_cond_wait(&pool->more, &pool->mutex);
        if (pool->stop)
            break;
        struct sc_blk_request *request = pool->jobs;
        pool->jobs = request->next;
        if (!pool->jobs)
            pool->jobs_tail = &pool->jobs;
        pthread_mutex_unlock(&pool->mutex);
        request->result = sc_blk_execute(pool->blk, request);
        pthread_mutex_lock(&pool->mutex);
        bool first = !pool->done;
        request->next = pool->done;
        pool->done = request;
        if (first && write(pool->completion_fd, &one, sizeof(one)) < 0)
            continue; /* the counter is full: the worker has been told */
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

static int open_off(struct sc_worker *worker)
{
    worker->completion_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return worker->completion_fd < 0 ? -errno : 0;
}

static void close_off(struct sc_worker *worker)
{
    close(worker->completion_fd);
}

static void stop_pool(struct sc_worker *worker)
{
    struct sc_pool *pool = worker->pool;
    pthread_mutex_lock(&pool->mutex);
    pool->stop = true;
    pthread_cond_broadcast(&pool->more);
    pthread_mutex_unlock(&pool->mutex);
    for (unsigned i = 0; i < pool->started; i++)
        pthread_join(pool->threads[i], NULL);
    free(pool);
    close_off(worker);
}

static int open_pool(struct sc_worker *worker)
{
    int result = open_off(worker);
    struct sc_pool *pool = result < 0 ? NULL : calloc(1, sizeof(*pool));
    if (!pool && result == 0)
        close_off(worker);
    if (!pool)
        return result < 0 ? result : -ENOMEM;
    pool->blk = worker->blk;
    pool->jobs_tail = &pool->jobs;
    pool->completion_fd = worker->completion_fd;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->more, NULL);
    worker->pool = pool;
    while (pool->started < POOL_THREADS && result == 0) {
        result = -pthread_create(&pool->threads[pool->started], NULL, pool_main, pool);
        pool->started += result == 0;
    }
    if (result < 0)
        stop_pool(worker);
    return result;
}

static void submit_pool(struct sc_worker *worker, struct sc_blk_request *request)
{
    struct sc_pool *pool = worker->pool;
    request->next = NULL;
    pthread_mutex_lock(&pool->mutex);
    *pool->jobs_tail = request;
    pool->jobs_tail = &request->next;
    pthread_cond_signal(&pool->more);
    pthread_mutex_unlock(&pool->mutex);
}

static void reap_pool(struct sc_worker *worker)
{
    struct sc_pool *pool = worker->pool;
    if (!__atomic_load_n(&pool->done, __ATOMIC_ACQUIRE))
        return;
    pthread_mutex_lock(&pool->mutex);
    struct sc_blk_request *request = pool->done;
    pool->done = NULL;
    pthread_mutex_unlock(&pool->mutex);
    while (request) {
        struct sc_blk_request *next = request->next;
        sc_blk_complete(worker, request);
        request = next;
    }
}

static void submit_off(struct sc_worker *worker, struct sc_blk_request *request)
{
    request->result = sc_blk_execute(worker->blk, request);
    sc_blk_complete(worker, request);
}

static void submit_null(struct sc_worker *worker, struct sc_blk_request *request)
{
    bool transfer = request->operation == SC_OP_READ || request->operation == SC_OP_WRITE;
    request->result = transfer ? (int64_t)request->length : 0;
    sc_blk_complete(worker, request);
}

static void nothing(struct sc_worker *worker)
{
    (void)worker;
}

const struct sc_engine sc_engine_off = {
    .name = "off",
    .open = open_off,
    .close = close_off,
    .submit = submit_off,
    .flush = nothing,
    .reap = nothing,
    .wait = sc_poll_wait,
    .watch = sc_poll_watch,
};

const struct sc_engine sc_engine_null = {
    .name = "null",
    .open = open_off,
    .close = close_off,
    .submit = submit_null,
    .flush = nothing,
    .reap = nothing,
    .wait = sc_poll_wait,
    .watch = sc_poll_watch,
};

const struct sc_engine sc_engine_threads = {
    .name = "threads",
    .open = open_pool,
    .close = stop_pool,
    .submit = submit_pool,
    .flush = nothing,
    .reap = reap_pool,
    .wait = sc_poll_wait,
    .watch = sc_poll_watch,
};
