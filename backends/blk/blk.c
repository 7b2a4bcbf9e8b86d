/* SPDX-License-Identifier: MIT
 *
 * The disk as control sees it: made, started, paused, changed, freed. Nothing here runs per request.
 */
#include "blk.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORKER_STACK (256u << 10)

static const struct sc_engine *const engines[] = {&sc_engine_uring, &sc_engine_aio, &sc_engine_threads, &sc_engine_off,
                                                  &sc_engine_null};

static const struct sc_engine *find_engine(const char *name)
{
    for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++)
        if (strcmp(engines[i]->name, name) == 0)
            return engines[i];
    return NULL;
}

/* Requests are large, for chains may be long; pages that no chain reaches are never touched, nor are those of requests
 * beyond the most that were ever in flight. */
static int allocate_requests(struct sc_blk *blk, uint32_t index)
{
    size_t length = blk->options.queue_size * sizeof(struct sc_blk_request);
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return -ENOMEM;
    blk->requests[index] = blk->free[index] = memory;
    return 0;
}

static void initialise_queue(struct sc_blk *blk, uint32_t index)
{
    struct sc_virtqueue *vq = &blk->queues[index];
    vq->memory = &blk->memory;
    vq->index = (uint16_t)index;
    vq->stats = &blk->own_stats[index];
    vq->kick_fd = vq->call_fd = vq->error_fd = -1;
}

struct sc_blk *sc_blk_new(const struct sc_blk_options *options)
{
    struct sc_blk *blk = calloc(1, sizeof(*blk));
    if (!blk)
        return NULL;
    blk->options = *options;
    blk->engine = find_engine(options->engine);
    pthread_mutex_init(&blk->throttle.mutex, NULL);
    pthread_mutex_init(&blk->exclusive, NULL);
    sc_blk_set_iops(blk, options->iops);
    for (uint32_t i = 0; i < options->queues; i++) {
        initialise_queue(blk, i);
        if (!blk->engine || allocate_requests(blk, i) < 0) {
            sc_blk_free(blk);
            return NULL;
        }
    }
    return blk;
}

static int start_worker(struct sc_worker *worker)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, WORKER_STACK);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the control thread */
    int result = -pthread_create(&worker->thread, &attributes, sc_worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    worker->running = result == 0;
    if (result < 0)
        return result;
    pthread_mutex_lock(&worker->mutex);
    while (worker->open_result > 0)
        pthread_cond_wait(&worker->changed, &worker->mutex);
    result = worker->open_result;
    pthread_mutex_unlock(&worker->mutex);
    return result;
}

static int start_workers(struct sc_blk *blk)
{
    int result = 0;
    for (uint32_t i = 0; i < blk->options.workers && result == 0; i++) {
        struct sc_worker *worker = &blk->workers[i];
        *worker = (struct sc_worker){.blk = blk, .open_result = 1};
        worker->control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (worker->control_fd < 0)
            return -errno;
        pthread_mutex_init(&worker->mutex, NULL);
        pthread_cond_init(&worker->changed, NULL);
        for (uint32_t queue = i; queue < blk->options.queues; queue += blk->options.workers)
            worker->queues[worker->queue_count++] = queue;
        result = start_worker(worker);
    }
    return result;
}

static void wake(struct sc_worker *worker)
{
    uint64_t one = 1;
    if (write(worker->control_fd, &one, sizeof(one)) < 0)
        return; /* the counter is full: it has been woken */
}

void sc_blk_pause(struct sc_blk *blk)
{
    for (uint32_t i = 0; i < blk->options.workers; i++) {
        struct sc_worker *worker = &blk->workers[i];
        if (!worker->running || worker->open_result < 0)
            continue;
        pthread_mutex_lock(&worker->mutex);
        __atomic_store_n(&worker->pause, true, __ATOMIC_RELEASE);
        wake(worker);
        while (!worker->paused)
            pthread_cond_wait(&worker->changed, &worker->mutex);
        pthread_mutex_unlock(&worker->mutex);
    }
}

void sc_blk_resume(struct sc_blk *blk)
{
    for (uint32_t i = 0; i < blk->options.workers; i++) {
        struct sc_worker *worker = &blk->workers[i];
        if (!worker->running)
            continue;
        pthread_mutex_lock(&worker->mutex);
        __atomic_store_n(&worker->pause, false, __ATOMIC_RELEASE);
        pthread_cond_broadcast(&worker->changed);
        pthread_mutex_unlock(&worker->mutex);
    }
}

static void stop_worker(struct sc_worker *worker)
{
    pthread_mutex_lock(&worker->mutex);
    __atomic_store_n(&worker->stop, true, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->mutex);
    wake(worker);
    pthread_join(worker->thread, NULL);
    worker->running = false;
    close(worker->control_fd);
}

static void stop_workers(struct sc_blk *blk)
{
    for (uint32_t i = 0; i < blk->options.workers; i++)
        if (blk->workers[i].running)
            stop_worker(&blk->workers[i]);
}

static bool asynchronous(const struct sc_blk *blk)
{
    return blk->engine == &sc_engine_uring || blk->engine == &sc_engine_aio;
}

/* Kernels, containers and limits of locked memory may refuse a ring; a disk served by threads is better than none. */
int sc_blk_start(struct sc_blk *blk)
{
    int result = start_workers(blk);
    if (result == 0 || !asynchronous(blk))
        return result;
    char line[160];
    int length = snprintf(line, sizeof(line), "aio=%s is not to be had here (%s): threads do it\n", blk->engine->name,
                          strerror(-result));
    stop_workers(blk);
    blk->engine = &sc_engine_threads;
    result = start_workers(blk);
    if (result == 0 && write(STDERR_FILENO, line, (size_t)length) < 0)
        return 0; /* nobody reads the log */
    return result;
}

void sc_blk_free(struct sc_blk *blk)
{
    sc_blk_pause(blk);
    stop_workers(blk);
    for (uint32_t i = 0; i < blk->options.queues; i++)
        if (blk->requests[i])
            munmap(blk->requests[i], blk->options.queue_size * sizeof(struct sc_blk_request));
    sc_memory_clear_log(&blk->memory);
    sc_memory_clear(&blk->memory);
    free(blk);
}

void sc_blk_set_features(struct sc_blk *blk, uint64_t features)
{
    blk->features = features;
}
void sc_blk_set_writethrough(struct sc_blk *blk, bool on)
{
    blk->writethrough = on;
}
void sc_blk_set_size(struct sc_blk *blk, uint64_t size)
{
    __atomic_store_n(&blk->options.size, size, __ATOMIC_RELAXED);
}

void sc_blk_set_iops(struct sc_blk *blk, uint64_t iops)
{
    pthread_mutex_lock(&blk->throttle.mutex);
    blk->throttle.next = 0; /* nobody waits for a turn of the old rate */
    __atomic_store_n(&blk->throttle.interval, iops ? (1000000000u + iops / 2) / iops : 0, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&blk->throttle.mutex);
}

struct sc_virtqueue *sc_blk_queue(struct sc_blk *blk, uint32_t index)
{
    return &blk->queues[index];
}
struct sc_memory *sc_blk_memory(struct sc_blk *blk)
{
    return &blk->memory;
}

void sc_blk_set_stats(struct sc_blk *blk, struct sc_vq_stats *stats)
{
    for (uint32_t i = 0; i < blk->options.queues; i++)
        blk->queues[i].stats = &stats[i];
}

uint32_t sc_direct_alignment(int fd)
{
    struct statx status;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0 || !(status.stx_mask & STATX_DIOALIGN))
        return 0;
    return status.stx_dio_mem_align > status.stx_dio_offset_align ? status.stx_dio_mem_align
                                                                  : status.stx_dio_offset_align;
}

/* io_uring, unlike Linux AIO, does not wait at a process's end for direct I/O that it has handed to the disk. An old
 * write that lands after a new one to the same place would undo that. Allocating what is allocated has ext4, xfs and
 * btrfs wait for such I/O first; without a file system of that kind this does nothing.
 */
void sc_blk_await_predecessor(struct sc_blk *blk)
{
    if (blk->options.alignment > 1 && !blk->options.read_only && blk->options.size > 0)
        while (fallocate(blk->options.fd, FALLOC_FL_KEEP_SIZE, 0, 1) < 0 && errno == EINTR)
            ;
}
