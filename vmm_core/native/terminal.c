/* SPDX-License-Identifier: MIT
 *
 * The terminal's settings come back when the core dies of a fatal signal: Python's handlers would not run then.
 */
#include "terminal.h"

#include <signal.h>
#include <stddef.h>
#include <termios.h>
#include <unistd.h>

static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGQUIT};

static struct termios saved;
static volatile sig_atomic_t guarded_fd = -1;

/* Async-signal-safe: tcsetattr is an ioctl. */
void sc_terminal_restore(void)
{
    int fd = guarded_fd;
    if (fd >= 0)
        tcsetattr(fd, TCSANOW, &saved);
    guarded_fd = -1;
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
    for (size_t i = 0; i < sizeof(fatal_signals) / sizeof(fatal_signals[0]); i++)
        sigaction(fatal_signals[i], &action, NULL);
    return 0;
}
