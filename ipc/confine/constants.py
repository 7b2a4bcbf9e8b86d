"""Names that policies may use for system call arguments (x86_64; from the kernel's uapi headers)."""

from __future__ import annotations

CONSTANTS = {
    # <asm-generic/mman-common.h>
    "PROT_EXEC": 4,
    "MAP_PRIVATE": 0x02,
    "MAP_TYPE": 0x0F,  # private, or one of the kinds of shared
    "MAP_ANONYMOUS": 0x20,
    "MAP_GROWSDOWN": 0x100,
    # <linux/sched.h>
    "CLONE_THREAD": 0x10000,
    "CLONE_NEW_MASK": 0x7E020000,  # all namespaces
    # <asm/signal.h>
    "SIGKILL": 9,
    # <asm-generic/fcntl.h>
    "F_GETFL": 3,
    "F_SETFL": 4,
    "F_DUPFD_CLOEXEC": 1030,
    "F_ADD_SEALS": 1033,
    "O_NONBLOCK": 0o4000,
    "O_CREATE_MASK": 0o20000100,  # O_CREAT, and what O_TMPFILE has beside O_DIRECTORY
    "AT_EMPTY_PATH": 0x1000,
    # <asm-generic/ioctls.h>, <linux/fs.h>
    "TCGETS": 0x5401,
    "TCSETS": 0x5402,
    "FIONBIO": 0x5421,
    "FIOCLEX": 0x5451,
    "FIONCLEX": 0x5450,
    "BLKGETSIZE64": 0x80081272,
    "BLKSSZGET": 0x1268,
    "BLKPBSZGET": 0x127B,
    # <sys/resource.h>
    "PRIO_PROCESS": 0,
    "RLIMIT_NPROC": 6,
    # <linux/if.h>, <sys/socket.h>
    "AF_UNIX": 1,
    "MSG_OOB": 1,
    # <linux/kvm.h>: the ioctl type of KVM is 0xAE, in bits 8 to 15
    "IOCTL_TYPE_MASK": 0xFF00,
    "IOCTL_TYPE_KVM": 0xAE00,
}
