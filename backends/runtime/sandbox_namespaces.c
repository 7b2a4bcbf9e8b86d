/* SPDX-License-Identifier: MIT */
/* Namespaces and the empty root. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <linux/mount.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox.h"

int sc_unshare(uint32_t namespaces)
{
    return unshare((int)namespaces) ? -errno : 0;
}

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t length = (ssize_t)strlen(text);
    int result = write(fd, text, (size_t)length) == length ? 0 : -errno;
    close(fd);
    return result;
}

int sc_user_namespace(void)
{
    char map[64];
    unsigned uid = geteuid(), gid = getegid();
    if (unshare(CLONE_NEWUSER))
        return -errno;
    snprintf(map, sizeof(map), "%u %u 1\n", uid, uid);
    int result = write_file("/proc/self/uid_map", map);
    if (result)
        return result;
    /* An unprivileged process may map its group only after it gave up setgroups(2). */
    write_file("/proc/self/setgroups", "deny");
    snprintf(map, sizeof(map), "%u %u 1\n", gid, gid);
    return write_file("/proc/self/gid_map", map);
}

/* A directory to mount on: which one does not matter, it is gone afterwards. */
static int mount_empty(void)
{
    static const char *const places[] = {"/tmp", "/proc", "/sys", "/dev", "/run", "/etc", "/usr"};
    int result = -ENOENT;
    for (unsigned i = 0; i < sizeof(places) / sizeof(*places); i++) {
        if (mount("none", places[i], "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,nr_inodes=2,mode=555")) {
            result = -errno;
            continue;
        }
        return chdir(places[i]) ? -errno : 0;
    }
    return result;
}

/* pivot_root(2) refuses a root that is the initramfs; moving the mount over it hides that root for good, since leaving
 * a chroot takes capabilities that are about to be dropped. */
static int enter_root(void)
{
    if (syscall(SYS_pivot_root, ".", ".") == 0)
        return umount2(".", MNT_DETACH) ? -errno : 0;
    if (mount(".", "/", NULL, MS_MOVE, NULL) || chroot("."))
        return -errno;
    return 0;
}

static int configure(int context)
{
    static const char *const options[][2] = {{"size", "4k"}, {"nr_inodes", "2"}, {"mode", "555"}};
    for (unsigned i = 0; i < sizeof(options) / sizeof(*options); i++)
        if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, options[i][0], options[i][1], 0))
            return -errno;
    return syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) ? -errno : 0;
}

/* For a process whose root is no mount point, as in a chroot: it can neither pivot nor keep its mounts from spreading
 * to the host. So the new root is mounted nowhere; what is left behind is as unreachable as for MS_MOVE. */
static int enter_detached_root(void)
{
    const unsigned attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    int context = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
    if (context < 0)
        return -errno;
    int result = configure(context);
    int root = result ? -1 : (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes);
    if (!result && (root < 0 || fchdir(root) || chroot(".")))
        result = -errno;
    if (root >= 0)
        close(root);
    close(context);
    return result;
}

int sc_empty_root(void)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        return errno == EINVAL ? enter_detached_root() : -errno;
    int result = mount_empty();
    if (!result)
        result = enter_root();
    if (result)
        return result;
    if (chdir("/"))
        return -errno;
    const unsigned long flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    return mount(NULL, "/", NULL, flags, NULL) ? -errno : 0;
}
