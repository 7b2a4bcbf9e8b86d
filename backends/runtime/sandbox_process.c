/* SPDX-License-Identifier: MIT */
/* Users, capabilities, descriptors, Landlock and the lifeline. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox.h"

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self 446
#endif

int sc_become(uint32_t uid, uint32_t gid)
{
    if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
        return -errno;
    return 0;
}

static int empty_bounding_set(void)
{
    for (int capability = 0; capability < 64; capability++) {
        int present = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
        if (present < 0)
            break; /* the kernel knows no more */
        if (present && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
            return -errno;
    }
    return 0;
}

int sc_lock_capabilities(void)
{
    const unsigned long bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                               SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                               SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
    int result = empty_bounding_set();
    if (!result && prctl(PR_SET_SECUREBITS, bits, 0, 0, 0))
        result = -errno;
    return result;
}

int sc_drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return syscall(SYS_capset, &header, none) ? -errno : 0;
}

int sc_no_new_privileges(void)
{
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
}

int sc_undumpable(void)
{
    return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) ? -errno : 0;
}

static int close_span(uint32_t first, uint32_t last)
{
    struct rlimit limit;
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0)
        return 0;
    if (errno != ENOSYS || getrlimit(RLIMIT_NOFILE, &limit))
        return -errno;
    for (uint32_t fd = first; fd <= last && fd < limit.rlim_cur; fd++)
        close((int)fd);
    return 0;
}

int sc_keep_descriptors(const int32_t *fds, uint32_t count)
{
    uint32_t next = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (fds[i] < 0 || (uint32_t)fds[i] < next)
            return -EINVAL;
        int result = (uint32_t)fds[i] > next ? close_span(next, (uint32_t)fds[i] - 1) : 0;
        if (result)
            return result;
        next = (uint32_t)fds[i] + 1;
    }
    return close_span(next, UINT32_MAX);
}

static int kill_at_hang_up(int fd, struct f_owner_ex owner)
{
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    if (fcntl(fd, F_SETOWN_EX, &owner) || fcntl(fd, F_SETSIG, SIGKILL) || fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK))
        return -errno;
    /* A hang-up before O_ASYNC was set raised no signal. */
    if (poll(&poller, 1, 0) > 0 && poller.revents & (POLLHUP | POLLERR | POLLNVAL))
        return -EPIPE;
    return 0;
}

int sc_lifeline(int fd)
{
    /* A thread's id would do only as long as that thread lives: name the whole process. */
    return kill_at_hang_up(fd, (struct f_owner_ex){.type = F_OWNER_PID, .pid = getpid()});
}

int sc_group_lifeline(int fd)
{
    return kill_at_hang_up(fd, (struct f_owner_ex){.type = F_OWNER_PGRP, .pid = getpgrp()});
}

/* Not from <linux/landlock.h>: Debian 12's ends at ABI 2. The kernel takes a longer structure if what it does not know
 * is 0. */
struct landlock_attributes {
    uint64_t handled_fs, handled_net, scoped;
};

static struct landlock_attributes everything(int abi)
{
    /* How many file system rights each ABI knows: 13, then REFER, TRUNCATE, -, IOCTL_DEV. */
    static const uint8_t rights[] = {0, 13, 14, 15, 15, 16};
    struct landlock_attributes all = {0};
    all.handled_fs = (1ull << rights[abi > 5 ? 5 : abi]) - 1;
    all.handled_net = abi >= 4 ? 3 : 0; /* bind and connect, TCP */
    all.scoped = abi >= 6 ? 3 : 0;      /* abstract unix sockets, signals */
    return all;
}

int sc_landlock(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1);
    if (abi < 0)
        return -errno;
    struct landlock_attributes all = everything((int)abi);
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);
    if (ruleset < 0)
        return -errno;
    int result = syscall(SYS_landlock_restrict_self, ruleset, 0) ? -errno : (int)abi;
    close(ruleset);
    return result;
}

int sc_process_name(const char *name)
{
    return prctl(PR_SET_NAME, name, 0, 0, 0) ? -errno : 0;
}
