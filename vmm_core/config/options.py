"""The top level of the option table (facts 1.4). Options with sub-parameters name the family module that holds them.

Everything that knows an option's name, arity, help or mark takes it from here: lexer, builder, `-help`, the manual page
and shell completion.
"""

from __future__ import annotations

from vmm_core.config.kinds import PATH, SOCKET_PATH, TEXT, Integer, Path
from vmm_core.config.table import ANY, MANY, NONE, ONE, OPTIONAL, Option

_IGNORED = "accepted for libvirt's sake, without effect"

OPTIONS: tuple[Option, ...] = (
    # The machine.
    Option("name", "V", ONE, "name of the VM", kind=TEXT),
    Option("machine", "V", ONE, "type of the machine and its properties", family="machine"),
    Option("accel", "B", ONE, "what runs the virtual CPUs", family="machine"),
    Option("smp", "V", ONE, "number of virtual CPUs and their topology", family="cpu"),
    Option("cpu", "B", ONE, "model of the virtual CPUs", family="cpu"),
    Option("m", "V", ONE, "size of guest memory", family="memory"),
    Option(
        "mem-path",
        "V",
        ONE,
        "directory of a hugetlbfs mount, or a file, that backs guest memory",
        kind=Path(must_be_absolute=True),
    ),
    Option("mem-prealloc", "B", NONE, "touch all guest memory before the VM starts"),
    Option("numa", "B", MANY, "a NUMA node or a distance between two", family="platform", built=False),
    # What it boots.
    Option("kernel", "V", ONE, "kernel image: bzImage, ELF vmlinux or raw vmlinux.bin", kind=PATH),
    Option("append", "V", MANY, "kernel command line; unquoted words are joined by spaces", family="boot"),
    Option("initrd", "V", ONE, "initial RAM disk", kind=Path(255)),
    # Control.
    Option("qmp", "V", ONE, "listen for QMP clients", family="monitor"),
    Option("mon", "B", ONE, "listen for QMP clients on a chardev", family="monitor"),
    Option("mod-test", "B", ONE, "socket of the test driver; needs accel=test", kind=SOCKET_PATH),
    Option("S", "B", NONE, "start paused, until QMP `cont`", aliases=("freeze",)),
    # Devices and what backs them.
    Option("drive", "V", MANY, "a disk's image", family="drive"),
    Option("netdev", "V", MANY, "a network card's host side", family="netdev", built=False),
    Option("chardev", "V", MANY, "a character device of the host", family="chardev"),
    Option("device", "V", MANY, "a device of the guest", family="devices"),
    Option("serial", "V", ONE, "the serial port", family="chardev"),
    Option("object", "V", MANY, "an I/O thread or another helper object", family="objects"),
    Option("backend", "B", MANY, "restart, sandbox and limits of backend processes", family="backends"),
    Option("vnc", "V", ONE, "VNC server on port 5900+N", family="display", built=False),
    Option("cameradev", "B", MANY, "a camera of the host", family="display", built=False),
    # The process.
    Option("D", "V", OPTIONAL, "log file; empty or absent: standard error", kind=Path()),
    Option("pidfile", "V", ONE, "file for the daemon's process id; must not exist; needs -daemonize", kind=PATH),
    Option("daemonize", "V", NONE, "run in the background; returns when the VM is up or has failed"),
    Option("disable-seccomp", "V", NONE, "do not filter system calls"),
    Option("no-shutdown", "B", NONE, "pause instead of exit when the guest powers off", built=False),
    Option("windows_emu_pid", "B", ONE, "exit when this process ends", kind=Integer(1, 4194304), built=False),
    # Beyond the user's document.
    Option("incoming", "B", ONE, "restore or receive the VM's state", family="platform", built=False),
    Option("trace", "B", ONE, "trace events", family="platform", built=False),
    Option("global", "B", MANY, "a property of all devices of a kind", family="platform", built=False),
    Option("hardware-signature", "B", ONE, "signature in the ACPI FACS", kind=Integer(0, (1 << 32) - 1), built=False),
    Option("smbios", "B", MANY, "an SMBIOS table", family="platform", built=False),
    Option("battery", "B", NONE, "an ACPI battery", built=False),
    *(
        Option(name, "L", ANY, _IGNORED)
        for name in (
            "overcommit",
            "uuid",
            "no-user-config",
            "nodefaults",
            "sandbox",
            "msg",
            "rtc",
            "boot",
            "nographic",
            "realtime",
            "usb",
            "display",
        )
    ),
    # Information.
    Option("help", "V", NONE, "print this text and exit", aliases=("h",)),
    Option("version", "V", NONE, "print the version and exit", aliases=("V",)),
)

BY_NAME: dict[str, Option] = {name: option for option in OPTIONS for name in (option.name, *option.aliases)}
