"""One virtual machine: accelerator, memory, machine and vCPUs put together, and its life from build to shutdown."""

from __future__ import annotations

import os

from vmm_core import log
from vmm_core._native import ffi, lib
from vmm_core.accel import probe
from vmm_core.bus.dispatch import Bus
from vmm_core.errors import VmmError
from vmm_core.machine.microvm import MachineEvents, Microvm, ram_pieces
from vmm_core.memory.guest_memory import GuestMemory
from vmm_core.serial import SerialPort
from vmm_core.storage import Disk, OwnDisk, add_disks
from vmm_core.vcpus import Vcpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.accel.base import AccelVm
    from vmm_core.chardev.base import Chardev
    from vmm_core.config.records import VmConfig
    from vmm_core.loop import EventLoop
    from vmm_core.supervisor.resources import Resources
    from vmm_core.supervisor.spawner import Spawner
    from vmm_core.vhost.dirty_log import DirtyLog

    Listener = Callable[[str, dict[str, object]], None]

UP_INTERVAL = 0.01  # seconds between looks at whether all backends are there
STOP_LIMIT = 5.0  # seconds for vCPU threads to leave the guest at shutdown
GUEST_SHUTDOWN = "guest-shutdown"


class Vm:
    """Methods are for the event loop's thread, except the `request_*` ones, which any thread may call."""

    def __init__(self, config: VmConfig, loop: EventLoop) -> None:
        self.config = config
        self.loop = loop
        self.exit_status = 0
        self._on_up: Callable[[], None] | None = None
        self._on_down: Callable[[str], None] = log.error
        self.accel_name, self.accel_reason = probe.choose(config.machine.accel)
        log.info(f"accelerator {self.accel_name}: {self.accel_reason}")
        self.bus = Bus()
        self.memory = GuestMemory(config.memory, config.machine, ram_pieces(config.memory.size))
        self.accel_vm = self._create_accel_vm()
        for region in self.memory.regions:
            self.accel_vm.add_ram(region.gpa, region.size, region.host_address)
        self.accel_vm.create_vcpus(config.cpus.cpus)
        events = MachineEvents(self._guest_power_off, self._guest_reset)
        self.machine = Microvm(config, self.accel_vm, self.bus, self.memory, events)
        self.vcpus = Vcpus(self.accel_vm, self.bus, config.cpus.cpus, self._vcpu_exit)
        self.serial = self._add_serial() if config.serial else None
        self.dirty_log = self._create_dirty_log()
        self.disks: list[Disk] = add_disks(self, self.dirty_log)
        self.chardevs: list[Chardev] = []
        self.named_fds: dict[str, int] = {}  # QMP getfd
        self.spawner: Spawner | None = None  # its owner's, for those who ask
        self._listeners: list[Listener] = []
        self._shutting_down = False
        self._resources: Resources | None = None

    def _create_accel_vm(self) -> AccelVm:
        if self.accel_name == "kvm":
            from vmm_core.accel.kvm.vm import KvmVm

            return KvmVm(self.bus.handle, self.config.cpus)
        if self.accel_name == "tcg":
            from vmm_core.accel.tcg.vm import TcgVm

            return TcgVm(self.bus.handle, self.config.cpus)
        from vmm_core.accel.test.vm import TestVm

        return TestVm(self.bus.handle, self.loop)

    def _add_serial(self) -> SerialPort:
        port, gsi = self.machine.serial_place()
        return SerialPort(self.accel_vm, self.bus, self.loop, port, gsi)

    def _create_dirty_log(self) -> DirtyLog | None:
        """A software CPU must learn which pages backends write: it may have translated the code in them."""
        if not self.accel_vm.needs_dirty_log or not self.config.devices:
            return None
        from vmm_core.vhost.dirty_log import DirtyLog

        dirty_log = DirtyLog(self.memory.regions[-1].end)
        self.accel_vm.attach_dirty_log(int(ffi.cast("uintptr_t", ffi.from_buffer(dirty_log.map))), dirty_log.size)
        return dirty_log

    @property
    def paused(self) -> bool:
        return self.vcpus.paused

    def iothread_pid(self, iothread: str) -> int:
        """The process in which the iothread runs: the backend of the disk that names it, else the core."""
        for disk in self.disks:
            if isinstance(disk, OwnDisk) and disk.iothread == iothread and disk.backend:
                return disk.backend.pid
        return os.getpid()

    @property
    def resources(self) -> Resources:
        """Accounts and limits of the backends."""
        if self._resources is None:
            from vmm_core.supervisor.resources import Resources

            self._resources = Resources(self)
        return self._resources

    def release_resources(self) -> None:
        """The backends have ended: forget their accounts, remove their control groups. Twice does no harm."""
        if self._resources is not None:
            self._resources.close()
            self._resources = None

    def subscribe(self, listener: Listener) -> None:
        """Call `listener(event, data)` for each QMP event, on the event loop's thread."""
        self._listeners.append(listener)

    def boot(self) -> None:
        """Load the kernel and prepare the boot CPU: the last step that can fail for the user's files."""
        if self.accel_name == "test" and self.config.boot.kernel is None:
            return
        apic_ids = self.accel_vm.apic_ids()
        registers = self.machine.boot(apic_ids, decompress=self.accel_name == "tcg")
        self.accel_vm.set_boot_registers(registers)

    def start(self) -> None:
        """Let the guest run (or wait, with `-S`)."""
        self.vcpus.start(paused=self.config.freeze)

    def when_up(self, ready: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Call `ready` once every disk has its backend, or `failed` with the reason when one cannot be started."""
        self._on_up, self._on_down = ready, failed
        self._check_up()

    def _check_up(self) -> None:
        if self._on_up is None:
            return
        if all(disk.is_up for disk in self.disks):
            ready, self._on_up = self._on_up, None
            ready()
        else:
            self.loop.call_later(UP_INTERVAL, self._check_up)

    def pause(self) -> None:
        """QMP `stop`: GenericError when paused already, as StratoVirt has it."""
        if self.paused:
            raise VmmError("the VM is paused already")
        self.vcpus.pause()
        self.emit("STOP")

    def resume(self) -> None:
        """QMP `cont`."""
        if not self.paused:
            raise VmmError("the VM is running already")
        self.vcpus.resume()
        self.emit("RESUME")

    def power_down(self) -> None:
        """QMP `system_powerdown`: the power button; a guest that does not listen is shut down, as StratoVirt does."""
        self.emit("POWERDOWN")
        if self.paused or not self.machine.pm.press_power_button():
            self.shut_down("host-qmp-system-powerdown", guest=False)

    def reset(self) -> None:
        """QMP `system_reset`: on a microvm a reset ends the VM."""
        self.emit("RESET", {"guest": False})
        self.shut_down("host-qmp-system-reset", guest=False)

    def request_shutdown(self, reason: str, *, guest: bool, status: int = 0) -> None:
        """Shut down soon; from any thread."""
        self.loop.call_soon(lambda: self.shut_down(reason, guest=guest, status=status))

    def shut_down(self, reason: str, *, guest: bool, status: int = 0) -> None:
        """Stop the vCPUs, tell the listeners, leave the event loop. Later calls do nothing."""
        if self._shutting_down:
            return
        self._shutting_down = True
        self.exit_status = status
        log.info(f"shutting down: {reason}")
        if not self.vcpus.stop(STOP_LIMIT):
            log.warn(f"a vCPU was still busy {STOP_LIMIT:g} s after the order to stop")
        self.emit("SHUTDOWN", {"guest": guest, "reason": reason})
        self.loop.stop()

    def fail(self, message: str) -> None:
        """Something without which the VM cannot go on failed: end it with exit status 1."""
        log.error(message)
        if self._on_up is not None:
            self._on_up = None
            self._on_down(message)
        self.shut_down("internal-error", guest=False, status=1)

    def close(self) -> None:
        """Give back terminal, sockets and backends. Twice does no harm."""
        for chardev in self.chardevs:
            chardev.close()
        self.chardevs = []
        for disk in self.disks:
            disk.close()
        self.disks = []

    def emit(self, event: str, data: dict[str, object] | None = None) -> None:
        for listener in self._listeners:
            listener(event, data or {})

    def _guest_power_off(self) -> None:
        self.request_shutdown(GUEST_SHUTDOWN, guest=True)

    def _guest_reset(self) -> None:
        """A microvm has no reset: a reboot ends it, and whoever runs VMs starts a new one."""
        self.request_shutdown(GUEST_SHUTDOWN, guest=True)

    def _vcpu_exit(self, reason: int, message: str) -> None:
        """A vCPU thread ended; on that thread."""
        if reason == lib.SC_EXIT_FAILED:
            log.error(f"{message or 'a vCPU failed'}; the VM ends")
            self.request_shutdown("internal-error", guest=False, status=1)
        else:
            log.info(message or f"the guest asked to stop (exit reason {reason})")
            self.request_shutdown(GUEST_SHUTDOWN, guest=True)
