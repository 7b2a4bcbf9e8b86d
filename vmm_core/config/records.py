"""What a command line (or QMP's `*-add` commands) becomes: one immutable tree that everything downstream takes.

Units: sizes are bytes, times are milliseconds unless a field's name says otherwise.
Defaults and ranges: docs of each option in `vmm_core.config.options`.
"""

from __future__ import annotations

from vmm_core.config.record import Record

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class CpuTopology(Record):
    """`-smp`: max_cpus == sockets * dies * clusters * cores * threads, 1 <= cpus <= max_cpus <= 254."""

    cpus: int = 1
    max_cpus: int = 1
    sockets: int = 1
    dies: int = 1
    clusters: int = 1
    cores: int = 1
    threads: int = 1


class MemoryConfig(Record):
    """`-m`, `-mem-path`, `-mem-prealloc`."""

    size: int = 256 * MIB
    max_size: int = 256 * MIB
    path: str | None = None
    prealloc: bool = False


class MachineConfig(Record):
    """`-machine` and `-accel`; `accel` is one of auto, kvm, tcg, test (`kvm:tcg` is recorded as auto)."""

    type: str = "microvm"
    accel: str = "auto"
    dump_guest_core: bool = True
    mem_share: bool = False


class BootConfig(Record):
    """`-kernel`, `-initrd`, `-append` (already joined by single spaces)."""

    kernel: str | None = None
    initrd: str | None = None
    append: str = ""


class ChardevConfig(Record):
    """`-chardev` or an inline `-serial`; `kind` is stdio, pty, file, socket or redirect-to-log."""

    id: str
    kind: str
    path: str | None = None
    host: str = "0.0.0.0"
    port: int | None = None
    server: bool = False
    nowait: bool = False


class DriveConfig(Record):
    """`-drive`: the host's side of a disk."""

    id: str
    path: str
    interface: str = "none"
    unit: int | None = None
    readonly: bool = False
    direct: bool = True
    aio: str = "native"
    iops_total: int = 0
    media: str = "disk"
    discard: bool = False
    detect_zeroes: str = "off"
    format: str = "raw"


class DeviceConfig(Record):
    """Base of every `-device`; `driver` is the canonical driver name, `id` may be empty."""

    driver: str
    id: str = ""
    bus: str | None = None
    slot: int | None = None
    function: int = 0
    multifunction: bool = False


class BlkDevice(DeviceConfig):
    """virtio-blk-device, virtio-blk-pci: a disk whose backend process this VMM starts."""

    drive: str
    serial: str = ""
    iothread: str | None = None
    bootindex: int | None = None
    num_queues: int = 1
    queue_size: int = 256
    packed: bool = True


class VhostUserBlkDevice(DeviceConfig):
    """vhost-user-blk-device, vhost-user-blk-pci: a disk behind a foreign vhost-user socket."""

    chardev: str
    num_queues: int = 1
    queue_size: int = 256
    packed: bool = True
    bootindex: int | None = None


class IothreadConfig(Record):
    """`-object iothread`."""

    id: str


DEFAULT_BACKEND = "default"  # stands for all devices without a policy of their own


class BackendPolicy(Record):
    """`-backend`: how one device's backend process is restarted, confined and limited; None: no limit.

    `window` in seconds, `backoff` in milliseconds, `cpu_max` in percent of one CPU, `memory_max` in bytes, `io_*_bps`
    in bytes a second. An `id` of "default" is for all devices without a policy of their own.
    """

    id: str = DEFAULT_BACKEND
    restart: str = "on-failure"  # or "always", "never"
    max_restarts: int = 10
    window: int = 60
    backoff: int = 0
    sandbox: str = "default"  # or "strict"
    cpu_max: int | None = None
    memory_max: int | None = None
    pids_max: int | None = None
    io_read_bps: int | None = None
    io_write_bps: int | None = None
    io_read_iops: int | None = None
    io_write_iops: int | None = None
    cpus: tuple[int, ...] | None = None
    nice: int | None = None


class MonitorConfig(Record):
    """`-qmp` or `-mon`: one QMP listener."""

    kind: str  # "unix" or "tcp"
    path: str | None = None
    host: str | None = None
    port: int | None = None


class VmConfig(Record):
    """A whole virtual machine, checked: no later stage has to ask whether it is consistent."""

    name: str = ""
    machine: MachineConfig = MachineConfig()
    cpus: CpuTopology = CpuTopology()
    memory: MemoryConfig = MemoryConfig()
    boot: BootConfig = BootConfig()
    chardevs: tuple[ChardevConfig, ...] = ()
    serial: str | None = None  # id of a chardev
    drives: tuple[DriveConfig, ...] = ()
    devices: tuple[DeviceConfig, ...] = ()
    iothreads: tuple[IothreadConfig, ...] = ()
    backends: tuple[BackendPolicy, ...] = ()
    monitors: tuple[MonitorConfig, ...] = ()
    freeze: bool = False
    log_path: str | None = None  # None: standard error
    pidfile: str | None = None
    daemonize: bool = False
    seccomp: bool = True
    test_socket: str | None = None

    def backend_policy(self, name: str) -> BackendPolicy:
        """The policy for the backend of the device called `name`."""
        for policy in self.backends:
            if policy.id in (name, DEFAULT_BACKEND):  # the default comes last
                return policy
        return BackendPolicy()
