/* SPDX-License-Identifier: GPL-2.0-only
 *
 * One thread per VM that waits for irqfds and timers, and the interrupt lines devices pull.
 *
 * Event descriptors are watched edge-triggered and never read: each signal is one event, and a peer that reads
 * them behind our back cannot make this thread block.
 */
#include "tcg.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define BATCH 32
#define TAG_IRQFD (1ull << 32)
#define TAG_TIMER (1ull << 33)
#define TAG_QUIT (1ull << 34)
#define OWNER_PIT TCG_MAX_VCPUS

static int watch(struct tcg_vm *vm, int fd, uint64_t tag)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = tag};

    return epoll_ctl(vm->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

/* Devices call this from any thread; KVM's default routing: line n is 8259 line n (below 16) and I/O APIC pin n. */
void tcg_irq_set(void *opaque, uint32_t gsi, int level)
{
    struct tcg_vm *vm = opaque;

    if (gsi >= TCG_IOAPIC_PINS)
        return;
    if (level)
        tcg_log_collect(vm);
    pthread_mutex_lock(&vm->chips);
    if (gsi < 16)
        tcg_pic_set(vm, gsi, level);
    tcg_ioapic_set(vm, gsi, level);
    pthread_mutex_unlock(&vm->chips);
}

static void run_irqfd(struct tcg_vm *vm, int fd)
{
    pthread_mutex_lock(&vm->services);
    for (unsigned i = 0; i < vm->irqfd_count; i++) {
        if (vm->irqfds[i].fd == fd) {
            tcg_irq_set(vm, vm->irqfds[i].gsi, 1);
            tcg_irq_set(vm, vm->irqfds[i].gsi, 0);
            break;
        }
    }
    pthread_mutex_unlock(&vm->services);
}

static void run_timer(struct tcg_vm *vm, uint32_t owner)
{
    struct tcg_timer *timer;

    pthread_mutex_lock(&vm->chips);
    timer = owner == OWNER_PIT ? &vm->pit.timer : &vm->vcpu[owner]->lapic.timer;
    timer->armed = 0;
    if (owner == OWNER_PIT)
        tcg_pit_run_timer(vm, tcg_now());
    else
        tcg_lapic_run_timer(vm->vcpu[owner], tcg_now());
    tcg_timer_set(timer, timer->deadline); /* it fired early: the deadline was moved meanwhile */
    pthread_mutex_unlock(&vm->chips);
}

static void *service_main(void *opaque)
{
    struct tcg_vm *vm = opaque;
    struct epoll_event events[BATCH];

    for (;;) {
        int count = epoll_wait(vm->epoll_fd, events, BATCH, -1);

        for (int i = 0; i < count; i++) {
            uint64_t tag = events[i].data.u64;

            if (tag & TAG_QUIT)
                return NULL;
            if (tag & TAG_IRQFD)
                run_irqfd(vm, (int)(uint32_t)tag);
            else
                run_timer(vm, (uint32_t)tag);
        }
    }
}

int tcg_timer_open(struct tcg_vm *vm, struct tcg_timer *timer, uint32_t owner)
{
    timer->deadline = timer->armed = 0;
    timer->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    return timer->fd < 0 ? -errno : watch(vm, timer->fd, TAG_TIMER | owner);
}

void tcg_timer_close(struct tcg_timer *timer)
{
    if (timer->fd >= 0)
        close(timer->fd);
    timer->fd = -1;
}

/* Moving a deadline back needs no system call: the descriptor fires at the old time and is armed again then. */
void tcg_timer_set(struct tcg_timer *timer, uint64_t deadline)
{
    struct itimerspec spec = {0};

    timer->deadline = deadline;
    if (!deadline || timer->fd < 0 || (timer->armed && timer->armed <= deadline))
        return;
    timer->armed = deadline;
    spec.it_value.tv_sec = deadline / 1000000000u;
    spec.it_value.tv_nsec = deadline % 1000000000u;
    timerfd_settime(timer->fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

int tcg_service_start(struct tcg_vm *vm)
{
    sigset_t all, before;
    int error;

    vm->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    vm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (vm->epoll_fd < 0 || vm->wake_fd < 0)
        return -errno;
    error = watch(vm, vm->wake_fd, TAG_QUIT);
    if (!error)
        error = tcg_timer_open(vm, &vm->pit.timer, OWNER_PIT);
    if (error)
        return error;
    sigfillset(&all); /* signals are for Python's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = -pthread_create(&vm->service_thread, NULL, service_main, vm);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    vm->service_running = !error;
    return error;
}

void tcg_service_stop(struct tcg_vm *vm)
{
    uint64_t one = 1;

    if (vm->service_running && write(vm->wake_fd, &one, sizeof(one)) == sizeof(one))
        pthread_join(vm->service_thread, NULL);
    vm->service_running = false;
    for (unsigned i = 0; i < vm->irqfd_count; i++)
        close(vm->irqfds[i].fd);
    free(vm->irqfds);
    vm->irqfds = NULL;
    vm->irqfd_count = 0;
    tcg_timer_close(&vm->pit.timer);
    if (vm->epoll_fd >= 0)
        close(vm->epoll_fd);
    if (vm->wake_fd >= 0)
        close(vm->wake_fd);
    vm->epoll_fd = vm->wake_fd = -1;
}

static int append_irqfd(struct tcg_vm *vm, uint32_t gsi, int given_fd)
{
    struct tcg_irqfd *grown = realloc(vm->irqfds, (vm->irqfd_count + 1) * sizeof(*grown));
    int fd, error;

    if (!grown)
        return -ENOMEM;
    vm->irqfds = grown;
    fd = fcntl(given_fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return -errno;
    grown[vm->irqfd_count++] = (struct tcg_irqfd){.fd = fd, .given_fd = given_fd, .gsi = gsi};
    error = watch(vm, fd, TAG_IRQFD | (uint32_t)fd);
    if (error) {
        vm->irqfd_count--;
        close(fd);
    }
    return error;
}

int sc_tcg_add_irqfd(struct tcg_vm *vm, uint32_t gsi, int fd)
{
    int error;

    if (gsi >= TCG_IOAPIC_PINS)
        return -EINVAL;
    pthread_mutex_lock(&vm->services);
    error = append_irqfd(vm, gsi, fd);
    pthread_mutex_unlock(&vm->services);
    return error;
}

int sc_tcg_remove_irqfd(struct tcg_vm *vm, uint32_t gsi, int fd)
{
    int error = -ENOENT;

    pthread_mutex_lock(&vm->services);
    for (unsigned i = 0; i < vm->irqfd_count; i++) {
        if (vm->irqfds[i].given_fd != fd || vm->irqfds[i].gsi != gsi)
            continue;
        epoll_ctl(vm->epoll_fd, EPOLL_CTL_DEL, vm->irqfds[i].fd, NULL);
        close(vm->irqfds[i].fd);
        vm->irqfds[i] = vm->irqfds[--vm->irqfd_count];
        error = 0;
        break;
    }
    pthread_mutex_unlock(&vm->services);
    return error;
}
