"""Names that policies may use for system call arguments (x86_64; from the kernel's uapi headers)."""

from __future__ import annotations

CONSTANTS = {
    # <asm-generic/mman-common.h>
    "PROT_READ": 1,
    "PROT_WRITE": 2,
    "PROT_EXEC": 4,
    "MAP_SHARED": 1,
    "MAP_PRIVATE": 2,
    "MAP_ANONYMOUS": 0x20,
    "MADV_DONTNEED": 4,
    "MADV_FREE": 8,
    "MADV_DONTFORK": 10,
    "MADV_HUGEPAGE": 14,
    "MADV_NOHUGEPAGE": 15,
    "MADV_DONTDUMP": 16,
    "MADV_COLLAPSE": 25,
    # <linux/sched.h>
    "CLONE_VM": 0x100,
    "CLONE_THREAD": 0x10000,
    "CLONE_NEW_MASK": 0x7E020000,  # all namespaces
    # <asm/signal.h>
    "SIGKILL": 9,
    # <asm-generic/fcntl.h>
    "F_DUPFD": 0,
    "F_GETFD": 1,
    "F_SETFD": 2,
    "F_GETFL": 3,
    "F_SETFL": 4,
    "F_GETLK": 5,
    "F_OFD_SETLK": 37,
    "F_DUPFD_CLOEXEC": 1030,
    "F_ADD_SEALS": 1033,
    "F_GET_SEALS": 1034,
    "O_NONBLOCK": 0o4000,
    "O_ASYNC": 0o20000,
    "O_RDWR": 2,
    "O_CREATE_MASK": 0o20000100,  # O_CREAT, and what O_TMPFILE has beside O_DIRECTORY
    "O_DIRECT": 0o40000,
    "AT_EMPTY_PATH": 0x1000,
    "FALLOC_FL_KEEP_SIZE": 1,
    "FALLOC_FL_PUNCH_HOLE": 2,
    "FALLOC_FL_ZERO_RANGE": 16,
    # <asm-generic/ioctls.h>, <linux/fs.h>
    "TCGETS": 0x5401,
    "TCSETS": 0x5402,
    "TCSETSW": 0x5403,
    "TCSETSF": 0x5404,
    "TIOCGWINSZ": 0x5413,
    "TIOCGPTN": 0x80045430,
    "TIOCSPTLCK": 0x40045431,
    "FIONREAD": 0x541B,
    "FIONBIO": 0x5421,
    "FIOCLEX": 0x5451,
    "FIONCLEX": 0x5450,
    "BLKGETSIZE64": 0x80081272,
    "BLKSSZGET": 0x1268,
    "BLKPBSZGET": 0x127B,
    "BLKDISCARD": 0x1277,
    "BLKZEROOUT": 0x127F,
    "BLKFLSBUF": 0x1261,
    "BLKROGET": 0x125E,
    "BLKIOMIN": 0x1278,
    "BLKIOOPT": 0x1279,
    # <linux/futex.h>, with FUTEX_PRIVATE_FLAG for those glibc uses so
    "FUTEX_WAIT": 0,
    "FUTEX_WAKE": 1,
    "FUTEX_PRIVATE_FLAG": 128,
    # <linux/prctl.h>
    "PR_SET_NAME": 15,
    "PR_GET_NAME": 16,
    "PR_SET_VMA": 0x53564D41,
    "PR_SET_TIMERSLACK": 29,
    # <sys/resource.h>
    "PRIO_PROCESS": 0,
    "RLIMIT_NPROC": 6,
    # <linux/if.h>, <sys/socket.h>
    "AF_UNIX": 1,
    "AF_INET": 2,
    "AF_INET6": 10,
    "AF_NETLINK": 16,
    "SOL_SOCKET": 1,
    # <linux/kvm.h>: the ioctl type of KVM is 0xAE, in bits 8 to 15
    "IOCTL_TYPE_MASK": 0xFF00,
    "IOCTL_TYPE_KVM": 0xAE00,
    "IOCTL_TYPE_VHOST": 0xAF00,
    # <linux/io_uring.h>
    "IORING_REGISTER_BUFFERS": 0,
    "IORING_UNREGISTER_BUFFERS": 1,
    "IORING_REGISTER_FILES": 2,
    "IORING_REGISTER_BUFFERS2": 15,
    "IORING_REGISTER_BUFFERS_UPDATE": 16,
}
