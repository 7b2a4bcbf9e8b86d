"""Running one VM: everything in the order that lets the guest's first instruction come early, and the orderly end."""

from __future__ import annotations

import gc
import os
import sys

from vmm_core import log
from vmm_core.errors import VmmError, describe
from vmm_core.loop import EventLoop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from vmm_core.config.records import MonitorConfig, VmConfig
    from vmm_core.daemon import Readiness
    from vmm_core.notify import Notifier
    from vmm_core.qmp.monitor import Monitor
    from vmm_core.rundir import RunDirectory
    from vmm_core.supervisor.spawner import Spawner
    from vmm_core.vm import Vm


def run(config: VmConfig) -> int:
    """Run the VM that `config` describes until it ends; returns the exit status. VmmError: it could not be started."""
    log.configure(2, os.environ.get("STRATOVIRT_LOG_LEVEL"))
    readiness = _detach() if config.daemonize else None
    if config.machine.accel in ("kvm", "auto"):
        from vmm_core.accel.kvm import warm

        warm.start(probe=config.machine.accel == "auto")
    runner = _Runner(config)
    try:
        runner.start()
    except VmmError as error:
        log.error(describe(error))
        runner.clean_up()
        if readiness is None:
            raise
        readiness.failed(describe(error))
        return 1
    except BaseException:
        runner.clean_up()
        raise
    gc.freeze()  # what a VM is made of lives as long as it does: no collection need look at it
    gc.enable()  # the launcher disabled it: nothing that is made on the way here is garbage
    return runner.run(readiness)


def _detach() -> Readiness:
    from vmm_core.daemon import daemonize

    return daemonize()


class _Runner:
    """What one VM needs besides itself: log file, monitors, spawner, signals, pidfile; and taking all of it down."""

    def __init__(self, config: VmConfig) -> None:
        self._config = config
        self._loop = EventLoop()
        self._vm: Vm | None = None
        self._spawner: Spawner | None = None
        self._pidfile = ""
        self._run_directory: RunDirectory | None = None
        self._notifier: Notifier | None = None
        self._listeners: list[tuple[MonitorConfig, _socket.socket]] = []

    def start(self) -> None:
        """Everything up to the guest's first instruction; then ask for the backends, which the guest needs later."""
        config = self._config
        if config.log_path:
            from vmm_core.logfile import LogFile

            LogFile(config.log_path).watch(self._loop)
        self._listen()
        from vmm_core import sandbox, signals
        from vmm_core.vm import Vm

        self._vm = vm = Vm(config, self._loop)
        self._open_chardevs(vm)
        vm.boot()
        self._start_spawner()
        self._write_pidfile()
        signals.install(self._loop, lambda number: vm.shut_down(f"Guest shutdown by signal {number}", guest=False))
        self._connect_test(vm)
        sandbox.install(config.seccomp)
        vm.start()
        if self._spawner is not None:
            from vmm_core.storage import start_backends

            vm.spawner = self._spawner
            self._spawner.release()
            start_backends(vm.disks, self._spawner)
        if "vmm_core.accel.kvm.warm" in sys.modules:
            from vmm_core.accel.kvm import warm

            warm.finish()

    def run(self, readiness: Readiness | None) -> int:
        """Serve until the VM ends; returns the exit status."""
        assert self._vm is not None
        vm = self._vm
        try:
            monitors = self._open_monitors(vm)
            self._make_known(vm, readiness)
            self._loop.run()
            for monitor in monitors:
                monitor.close()
        finally:
            self.clean_up()
        return vm.exit_status

    def _make_known(self, vm: Vm, readiness: Readiness | None) -> None:
        """A place where the VM can be found, and word to whoever waits for it to be up."""
        from vmm_core.notify import Notifier
        from vmm_core.rundir import RunDirectory

        self._run_directory = RunDirectory(vm)
        self._run_directory.open()
        self._notifier = notifier = Notifier(self._loop)

        def ready() -> None:
            if readiness is not None:
                readiness.ready()
            notifier.ready()

        if readiness is not None or notifier.wanted:
            vm.when_up(ready, readiness.failed if readiness is not None else lambda _reason: None)

    def clean_up(self) -> None:
        """Remove what must not be left behind, on every way out. Twice does no harm."""
        if self._notifier is not None:
            self._notifier.stopping()
        if self._run_directory is not None:
            self._run_directory.close()
        if self._vm is not None:
            self._vm.close()
        if self._spawner is not None:
            self._spawner.close()
            self._spawner = None
        if self._vm is not None:
            self._vm.release_resources()
        if self._pidfile:
            try:
                os.unlink(self._pidfile)
            except OSError:
                pass  # somebody else removed it
            self._pidfile = ""
        if "vmm_core.sockets" in sys.modules:
            from vmm_core.sockets import remove_all

            remove_all()

    def _listen(self) -> None:
        """Bind the monitors' sockets early: a management program may connect as soon as the process exists."""
        for monitor in self._config.monitors:
            from vmm_core.sockets import listen_tcp, listen_unix

            if monitor.kind == "unix":
                listener = listen_unix(str(monitor.path), "-qmp")
            else:
                listener = listen_tcp(str(monitor.host), int(monitor.port or 0), "-qmp")
            self._listeners.append((monitor, listener))

    def _start_spawner(self) -> None:
        """Held until the guest runs; not started then, for by that time the filter is in force."""
        from vmm_core.config.records import BlkDevice

        if any(isinstance(device, BlkDevice) for device in self._config.devices):
            from vmm_core.supervisor.spawner import Spawner

            self._spawner = Spawner(self._loop, ["blk"], held=True, seccomp=self._config.seccomp)

    def _open_chardevs(self, vm: Vm) -> None:
        for config in self._config.chardevs:
            if config.id == self._config.serial and vm.serial is not None:
                from vmm_core.chardev.open import open_chardev

                chardev = open_chardev(config, self._loop, lambda: vm.shut_down("terminal", guest=False))
                vm.chardevs.append(chardev)
                chardev.attach(vm.serial)

    def _open_monitors(self, vm: Vm) -> list[Monitor]:
        if not self._listeners:
            return []
        from vmm_core.qmp.monitor import Monitor

        return [Monitor(config, listener, vm) for config, listener in self._listeners]

    def _connect_test(self, vm: Vm) -> None:
        """`-mod-test`: the test drives the VM; when it goes away, the VM has no purpose."""
        if self._config.test_socket is None:
            return
        from vmm_core.accel.test.server import TestServer
        from vmm_core.accel.test.vm import TestVm

        assert isinstance(vm.accel_vm, TestVm)
        TestServer(
            self._config.test_socket,
            vm.accel_vm,
            vm.bus,
            vm.memory,
            self._loop,
            lambda: vm.shut_down("the test is gone", guest=False),
        )

    def _write_pidfile(self) -> None:
        if self._config.pidfile:
            from vmm_core.daemon import write_pidfile

            write_pidfile(self._config.pidfile)
            self._pidfile = self._config.pidfile
