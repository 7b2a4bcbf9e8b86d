/* SPDX-License-Identifier: MIT
 *
 * Writing without ever waiting, and without O_NONBLOCK: that flag belongs to the open file, which standard output
 * shares with the user's shell and with every program on the same terminal.
 */
#define _GNU_SOURCE
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static enum output_kind kind_of(int fd)
{
    struct stat status;
    if (fd < 0)
        return OUTPUT_NONE;
    if (fstat(fd, &status))
        return OUTPUT_TERMINAL;
    if (S_ISSOCK(status.st_mode))
        return OUTPUT_SOCKET;
    if (S_ISREG(status.st_mode))
        return OUTPUT_FILE;
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0 && flags & O_NONBLOCK)
        return OUTPUT_NONBLOCKING;
    return S_ISFIFO(status.st_mode) ? OUTPUT_PIPE : OUTPUT_TERMINAL;
}

void output_open(struct output *output, int fd)
{
    output->fd = fd;
    output->kind = kind_of(fd);
    output->head = output->tail = 0;
    output->error = 0;
}

/* Write what goes in without waiting; -EAGAIN when nothing does. A pipe that polls writable takes PIPE_BUF bytes; of a
 * terminal only one byte is certain. */
static ssize_t write_some(const struct output *output, const uint8_t *data, size_t length)
{
    ssize_t written;
    if (output->kind == OUTPUT_PIPE || output->kind == OUTPUT_TERMINAL) {
        struct pollfd poller = {.fd = output->fd, .events = POLLOUT};
        size_t limit = output->kind == OUTPUT_PIPE ? PIPE_BUF : 1;
        if (poll(&poller, 1, 0) <= 0)
            return -EAGAIN;
        if (poller.revents & POLLNVAL)
            return -EBADF;
        if (!(poller.revents & POLLOUT))
            return -EPIPE;
        length = length < limit ? length : limit;
    }
    if (output->kind == OUTPUT_SOCKET)
        written = send(output->fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    else
        written = write(output->fd, data, length);
    return written < 0 ? -errno : written;
}

static void give_up(struct output *output, int error)
{
    output_open(output, -1);
    output->error = error;
}

static void write_waiting(struct output *output)
{
    while (output_waiting(output)) {
        uint32_t start = output->head % OUTPUT_ROOM;
        uint32_t length = output_waiting(output);
        if (length > OUTPUT_ROOM - start)
            length = OUTPUT_ROOM - start;
        ssize_t written = write_some(output, output->ring + start, length);
        if (written == -EINTR)
            continue;
        if (written == -EAGAIN)
            return;
        if (written < 0)
            give_up(output, (int)written);
        else
            output->head += (uint32_t)written;
    }
}

int output_flush(struct output *output)
{
    write_waiting(output);
    int error = output->error;
    output->error = 0;
    return error ? error : output_waiting(output) > 0;
}

bool output_put(struct output *output, uint8_t byte)
{
    if (output->kind == OUTPUT_NONE)
        return false;
    bool was_waiting = output_waiting(output) > 0;
    if (output_waiting(output) == OUTPUT_ROOM) {
        output->lost++;
        return false;
    }
    output->ring[output->tail++ % OUTPUT_ROOM] = byte;
    if (was_waiting)
        return false;
    write_waiting(output);
    return output->error || output_waiting(output);
}
