/* SPDX-License-Identifier: MIT
 *
 * The terminal's settings come back when the core dies of a fatal signal: Python's handlers would not run then.
 */
#include "terminal.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <termios.h>
#include <unistd.h>

/* The last two are fatal until the core handles them, once the machine is built. */
static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGQUIT, SIGTERM, SIGHUP};

static struct termios saved;
static volatile sig_atomic_t guarded_fd = -1;

/* Async-signal-safe: tcsetattr is an ioctl. */
void sc_terminal_restore(void)
{
    int fd = guarded_fd;
    sigset_t stop, before;
    if (fd < 0)
        return;
    guarded_fd = -1;
    /* A process in the background that sets its terminal is stopped, unless it blocks this. */
    sigemptyset(&stop);
    sigaddset(&stop, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &stop, &before);
    tcsetattr(fd, TCSANOW, &saved);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void on_fatal_signal(int number)
{
    sc_terminal_restore();
    signal(number, SIG_DFL);
    raise(number);
}

int sc_terminal_guard(int fd)
{
    if (tcgetattr(fd, &saved) < 0)
        return -1;
    guarded_fd = fd;
    struct sigaction action = {.sa_handler = on_fatal_signal, .sa_flags = SA_NODEFER};
    for (size_t i = 0; i < sizeof(fatal_signals) / sizeof(fatal_signals[0]); i++) {
        struct sigaction former;
        if (sigaction(fatal_signals[i], NULL, &former) == 0 && former.sa_handler == SIG_DFL)
            sigaction(fatal_signals[i], &action, NULL);
    }
    return 0;
}
