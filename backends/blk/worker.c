/* SPDX-License-Identifier: MIT
 *
 * A worker thread: takes requests from its queues, hands them to the engine, publishes what is done, sleeps when there
 * is nothing to do. Control (the Python side) only ever touches queues of a paused worker.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "blk.h"

#define BATCH 8

static void publish(struct sc_worker *worker)
{
    while (worker->touched) {
        unsigned index = (unsigned)__builtin_ctzll(worker->touched);
        worker->touched &= worker->touched - 1;
        sc_vq_publish(&worker->blk->queues[index]);
    }
}

static bool serves(const struct sc_virtqueue *vq)
{
    return vq->ready && vq->enabled && !vq->broken;
}

/* Take what is there, a few at a time, so that the guest works on the first while the next are done; true when there
 * was something. */
static bool serve_queue(struct sc_worker *worker, struct sc_virtqueue *vq, int64_t *delay)
{
    struct sc_blk *blk = worker->blk;
    bool any = false;
    for (uint32_t budget = BATCH; budget > 0 && sc_blk_has_free(blk, vq->index); budget--) {
        if (__atomic_load_n(&blk->exclusive_wanted, __ATOMIC_SEQ_CST) || !sc_vq_has_available(vq))
            break;
        bool again = vq->resubmit_next < vq->resubmit_count; /* had its turn before the crash */
        int64_t left = again ? 0 : sc_throttle_wait(&blk->throttle, blk->throttle.interval ? sc_now() : 0);
        if (left > 0) {
            *delay = left;
            break;
        }
        struct sc_blk_request *request = blk->free[vq->index];
        request->vq = vq;
        if (sc_vq_pop(vq, &request->chain) <= 0)
            break;
        blk->free[vq->index] = request->next ? request->next : request + 1;
        sc_blk_begin(worker, request);
        any = true;
    }
    return any;
}

static bool serve(struct sc_worker *worker, int64_t *delay)
{
    bool any = false;
    for (uint32_t i = 0; i < worker->queue_count; i++) {
        struct sc_virtqueue *vq = &worker->blk->queues[worker->queues[i]];
        if (serves(vq))
            any |= serve_queue(worker, vq, delay);
    }
    worker->blk->engine->flush(worker);
    worker->blk->engine->reap(worker);
    any |= worker->touched != 0;
    publish(worker);
    return any;
}

static bool attention(const struct sc_worker *worker)
{
    return __atomic_load_n(&worker->pause, __ATOMIC_ACQUIRE) || __atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE);
}

static bool work_waits(const struct sc_worker *worker)
{
    for (uint32_t i = 0; i < worker->queue_count; i++) {
        const struct sc_virtqueue *vq = &worker->blk->queues[worker->queues[i]];
        if (serves(vq) && sc_blk_has_free(worker->blk, vq->index) && sc_vq_has_available(vq))
            return true;
    }
    return false;
}

static bool set_notifications(struct sc_worker *worker, bool on)
{
    bool arrived = false;
    for (uint32_t i = 0; i < worker->queue_count; i++) {
        struct sc_virtqueue *vq = &worker->blk->queues[worker->queues[i]];
        if (!serves(vq))
            continue;
        if (!on)
            sc_vq_disable_notifications(vq);
        else
            arrived |= sc_vq_enable_notifications(vq) && sc_blk_has_free(worker->blk, vq->index);
    }
    return arrived;
}

/* Another request often follows at once; looking for it for a moment is cheaper than being woken for it. */
static bool spin(struct sc_worker *worker)
{
    uint32_t limit = worker->blk->options.poll_ns;
    if (!limit)
        return false;
    for (uint64_t end = sc_now() + limit; sc_now() < end;) {
        worker->blk->engine->reap(worker);
        if (worker->touched || work_waits(worker) || attention(worker))
            return true;
        __builtin_ia32_pause();
    }
    return false;
}

/* By what is left in its doorbells a front-end sees that somebody is deaf, and looks at him again and again. They are
 * taken before the rings are looked at for the last time: who comes later rings anew. Nor may a front-end's blocking
 * descriptor hold us. */
static void take_doorbells(struct sc_worker *worker)
{
    for (; worker->rung; worker->rung &= worker->rung - 1) {
        const struct sc_virtqueue *vq = &worker->blk->queues[__builtin_ctzll(worker->rung)];
        uint64_t count;
        struct iovec iov = {.iov_base = &count, .iov_len = sizeof(count)};
        if (vq->kick_fd >= 0 && preadv2(vq->kick_fd, &iov, 1, -1, RWF_NOWAIT) < 0)
            continue; /* the same ring was heard twice */
    }
}

static void idle(struct sc_worker *worker, int64_t delay)
{
    if (delay < 0 && spin(worker))
        return;
    take_doorbells(worker);
    if (__atomic_load_n(&worker->blk->exclusive_wanted, __ATOMIC_SEQ_CST))
        delay = 1000000;
    bool arrived = set_notifications(worker, true);
    if (!(arrived && delay < 0) && !attention(worker))
        worker->blk->engine->wait(worker, delay);
    set_notifications(worker, false);
}

static void park(struct sc_worker *worker)
{
    while (worker->in_flight) {
        worker->blk->engine->flush(worker);
        worker->blk->engine->reap(worker);
        if (worker->in_flight && !worker->touched)
            worker->blk->engine->wait(worker, 10000000);
        publish(worker);
    }
    publish(worker); /* what `spin` has taken: a ring that is stopped now must have it, and its memory may go away */
    pthread_mutex_lock(&worker->mutex);
    worker->paused = true;
    pthread_cond_broadcast(&worker->changed);
    while (worker->pause && !worker->stop)
        pthread_cond_wait(&worker->changed, &worker->mutex);
    worker->paused = false;
    pthread_mutex_unlock(&worker->mutex);
    worker->blk->engine->watch(worker);
}

void *sc_worker_main(void *argument)
{
    struct sc_worker *worker = argument;
    if (worker->blk->options.thread_name[0]) /* before the engine is open: its threads inherit the name */
        prctl(PR_SET_NAME, worker->blk->options.thread_name);
    int result = worker->blk->engine->open(worker);
    pthread_mutex_lock(&worker->mutex);
    worker->open_result = result;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->mutex);
    if (result < 0)
        return NULL;
    while (!__atomic_load_n(&worker->stop, __ATOMIC_ACQUIRE)) {
        if (__atomic_load_n(&worker->pause, __ATOMIC_ACQUIRE))
            park(worker);
        int64_t delay = -1;
        if (!serve(worker, &delay))
            idle(worker, delay);
    }
    worker->blk->engine->close(worker);
    return NULL;
}

void sc_poll_watch(struct sc_worker *worker)
{
    (void)worker; /* the list is made anew for each wait */
}

static void drain(int fd)
{
    uint64_t value;
    if (read(fd, &value, sizeof(value)) < 0)
        return; /* somebody else was faster */
}

void sc_poll_wait(struct sc_worker *worker, int64_t nanoseconds)
{
    struct pollfd fds[SC_MAX_QUEUES + 2];
    struct sc_virtqueue *rung[SC_MAX_QUEUES + 2] = {NULL};
    nfds_t count = 0;
    fds[count++] = (struct pollfd){.fd = worker->control_fd, .events = POLLIN};
    fds[count++] = (struct pollfd){.fd = worker->completion_fd, .events = POLLIN};
    for (uint32_t i = 0; i < worker->queue_count; i++) {
        struct sc_virtqueue *vq = &worker->blk->queues[worker->queues[i]];
        if (!vq->ready || vq->kick_fd < 0)
            continue;
        rung[count] = vq;
        fds[count++] = (struct pollfd){.fd = vq->kick_fd, .events = POLLIN};
    }
    struct timespec limit = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
    if (ppoll(fds, count, nanoseconds < 0 ? NULL : &limit, NULL) <= 0)
        return;
    for (nfds_t i = 0; i < count; i++) {
        if (!(fds[i].revents & POLLIN))
            continue;
        drain(fds[i].fd);
        if (rung[i])
            rung[i]->stats->kicks++;
    }
}
