"""The machine's UART and the chardev behind it.

Output goes from the vCPU's thread straight to the chardev's descriptor; only what a slow reader leaves behind, and
input, come through the event loop.
"""

from __future__ import annotations

import fcntl
import os

from vmm_core import log
from vmm_core._native import ffi, lib
from vmm_core.bus.dispatch import check
from vmm_core.loop import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.accel.base import AccelVm
    from vmm_core.bus.dispatch import Bus
    from vmm_core.loop import EventLoop


class SerialPort:
    """A 16550A at I/O port `port`, interrupting on line `gsi`. Methods are for the event loop's thread."""

    def __init__(self, vm: AccelVm, bus: Bus, loop: EventLoop, port: int, gsi: int) -> None:
        self._loop = loop
        self._output = -1  # a duplicate: the chardev may watch the same descriptor for input
        self._watched = False
        self._on_space: Callable[[], None] = lambda: None
        self._uart = lib.sc_uart_new(ffi.cast("struct sc_irqchip *", vm.irqchip), gsi, -1)
        if not self._uart:
            raise MemoryError("sc_uart_new")
        check(lib.sc_bus_add_uart(bus.handle, True, port, self._uart), f"serial port {port:#x}")
        self._events = lib.sc_uart_event_fd(self._uart)
        loop.add(self._events, READ, self._attend)

    def set_output(self, fd: int) -> None:
        """Send the guest's output to `fd`; -1: discard it. The former descriptor may be closed afterwards."""
        self._watch_output(False)
        lib.sc_uart_set_output(self._uart, fd)
        if self._output >= 0:
            os.close(self._output)
        self._output = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) if fd >= 0 else -1

    def receive(self, data: bytes) -> int:
        """Give the guest input; returns how many bytes it took. After fewer, `on_space` tells when to go on."""
        return int(lib.sc_uart_receive(self._uart, data, len(data)))

    def on_space(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the guest made room for input after a short `receive`."""
        self._on_space = callback

    def _attend(self, _events: int) -> None:
        os.eventfd_read(self._events)
        self._pump()
        self._on_space()

    def _pump(self, _events: int = 0) -> None:
        """Write what a slow reader left behind, as far as it goes."""
        result = lib.sc_uart_pump(self._uart)
        if result < 0:
            log.warn("the serial port's output is gone; further output is discarded until a reader comes")
        self._watch_output(result == 1)

    def _watch_output(self, wanted: bool) -> None:
        if wanted == self._watched:
            return
        self._watched = wanted
        if wanted:
            self._loop.add(self._output, WRITE, self._pump)
        else:
            self._loop.remove(self._output)
