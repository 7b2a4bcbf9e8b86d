/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* After <seccomp.h>: both spell a header's guard, but not the same one. */
#include "ipc/confine/seccomp.h"

#define MAX_COMPARES 6

struct sc_filter {
    scmp_filter_ctx rules;
    struct sock_filter *program;
    uint32_t length;
};

int sc_syscall_number(const char *name)
{
    int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR)
        return SC_SYSCALL_UNKNOWN;
    return number < 0 ? SC_SYSCALL_ELSEWHERE : number;
}

struct sc_filter *sc_filter_new(uint32_t default_action)
{
    struct sc_filter *filter = calloc(1, sizeof(*filter));
    if (!filter)
        return NULL;
    filter->rules = seccomp_init(default_action);
    /* A binary tree over the numbers: the hot calls are not found by walking a list. The 32-bit interfaces are for
     * nobody: by default they would cost an intruder only the thread that tries. */
    if (!filter->rules || seccomp_attr_set(filter->rules, SCMP_FLTATR_CTL_OPTIMIZE, 2) ||
        seccomp_attr_set(filter->rules, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS)) {
        sc_filter_free(filter);
        return NULL;
    }
    return filter;
}

int sc_filter_rule(struct sc_filter *filter, uint32_t action, int number, const struct sc_compare *compares,
                   uint32_t count)
{
    struct scmp_arg_cmp arguments[MAX_COMPARES];
    if (count > MAX_COMPARES || !filter->rules)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++)
        arguments[i] =
            SCMP_CMP(compares[i].argument, (enum scmp_compare)compares[i].op, compares[i].value, compares[i].masked);
    return seccomp_rule_add_exact_array(filter->rules, action, number, count, arguments);
}

static int take_program(struct sc_filter *filter, int fd)
{
    struct stat info;
    if (fstat(fd, &info))
        return -errno;
    filter->program = malloc((size_t)info.st_size);
    if (!filter->program)
        return -ENOMEM;
    if (pread(fd, filter->program, (size_t)info.st_size, 0) != info.st_size)
        return -EIO;
    filter->length = (uint32_t)((size_t)info.st_size / sizeof(*filter->program));
    return (int)filter->length;
}

int sc_filter_compile(struct sc_filter *filter)
{
    int fd = memfd_create("seccomp", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int result = seccomp_export_bpf(filter->rules, fd);
    if (!result)
        result = take_program(filter, fd);
    close(fd);
    seccomp_release(filter->rules);
    filter->rules = NULL;
    return result;
}

const uint8_t *sc_filter_code(const struct sc_filter *filter)
{
    return (const uint8_t *)filter->program;
}

struct sc_filter *sc_filter_adopt(const uint8_t *code, uint32_t bytes)
{
    struct sc_filter *filter = calloc(1, sizeof(*filter));
    if (!filter)
        return NULL;
    filter->program = malloc(bytes);
    if (!bytes || bytes % sizeof(*filter->program) || !filter->program) {
        sc_filter_free(filter);
        return NULL;
    }
    memcpy(filter->program, code, bytes);
    filter->length = bytes / (uint32_t)sizeof(*filter->program);
    return filter;
}

int sc_filter_load(const struct sc_filter *filter)
{
    struct sock_fprog program = {.len = (unsigned short)filter->length, .filter = filter->program};
    if (!filter->program)
        return -EINVAL;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return -errno;
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
    if (result > 0)
        return -EBUSY; /* the id of a thread that has a filter of its own */
    return result ? -errno : 0;
}

void sc_filter_free(struct sc_filter *filter)
{
    if (!filter)
        return;
    if (filter->rules)
        seccomp_release(filter->rules);
    free(filter->program);
    free(filter);
}

/* Who handled SIGSYS before: it may have a terminal to restore. */
static struct sigaction former;

static void report_and_die(int number, siginfo_t *info, void *context)
{
    char line[] = "seccomp: forbidden system call, number    ?\n";
    char *digit = strchr(line, '?');
    (void)number, (void)context;
    /* Nothing of stdio may be used in a signal handler. */
    for (int call = info->si_syscall; call > 0; call /= 10)
        *digit-- = (char)('0' + call % 10);
    ssize_t written = write(STDERR_FILENO, line, sizeof(line) - 1);
    (void)written;
    if (!(former.sa_flags & SA_SIGINFO) && former.sa_handler != SIG_DFL && former.sa_handler != SIG_IGN)
        former.sa_handler(number);
    /* SIGSYS is blocked in its handler, so one more forbidden call cannot be caught: the kernel ends the process by it.
     */
    syscall(SYS_ptrace, 0, 0, 0, 0);
    _exit(128 + SIGSYS);
}

int sc_filter_announce_violations(void)
{
    struct sigaction action = {.sa_sigaction = report_and_die, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    return sigaction(SIGSYS, &action, &former) ? -errno : 0;
}

int sc_adopt_orphans(void)
{
    return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) ? -errno : 0;
}
