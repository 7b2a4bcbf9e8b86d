/* SPDX-License-Identifier: MIT */
/* What a process gives up before it serves a device (design section 1). Each function returns 0 or -errno. */
#ifndef SC_SANDBOX_H
#define SC_SANDBOX_H

#include <stdint.h>

#define SC_NS_MOUNT 0x00020000
#define SC_NS_CGROUP 0x02000000
#define SC_NS_UTS 0x04000000
#define SC_NS_IPC 0x08000000
#define SC_NS_PID 0x20000000
#define SC_NS_NET 0x40000000

/* New namespaces (SC_NS_*, or-ed) for this process; SC_NS_PID is for its future children. */
int sc_unshare(uint32_t namespaces);
/* A user namespace in which this process has every capability; it keeps its user and group numbers. */
int sc_user_namespace(void);
/* Replace the root by an empty read-only tmpfs and detach all else; needs a mount namespace of its own. */
int sc_empty_root(void);

/* Empty the bounding set, and make being root worth nothing. Before sc_become, which may lose the right to. */
int sc_lock_capabilities(void);
/* Become this user and group, with no supplementary groups. */
int sc_become(uint32_t uid, uint32_t gid);
/* Empty the ambient, inheritable, permitted and effective sets. */
int sc_drop_capabilities(void);
/* No program started from now on can gain rights. */
int sc_no_new_privileges(void);
/* No core dump, no tracing, /proc/PID belongs to root. */
int sc_undumpable(void);
/* Close every descriptor but those; they must be in ascending order. */
int sc_keep_descriptors(const int32_t *fds, uint32_t count);
/* SIGKILL this process when the last writer of the pipe behind `fd` is gone; -EPIPE if that has happened already. */
int sc_lifeline(int fd);
/* The same for all processes of this one's group. */
int sc_group_lifeline(int fd);
/* Handle everything Landlock knows and allow nothing. Returns the ABI version in force. Before any thread is made. */
int sc_landlock(void);

/* What `ps` shows; 15 bytes count. */
int sc_process_name(const char *name);

#endif
