"""`-mod-test PATH`: the line protocol that drives the `test` accelerator.

The VMM connects to the test's listening socket. One request a line, one answer a line: `OK [value]` or `FAIL reason`.

| request | meaning |
|---|---|
| `inb/inw/inl PORT`, `outb/outw/outl PORT VALUE` | port I/O |
| `readb/w/l/q ADDRESS`, `writeb/w/l/q ADDRESS VALUE` | 1, 2, 4 or 8 bytes of RAM or MMIO |
| `read ADDRESS SIZE`, `write ADDRESS SIZE 0xHEX`, `memset ADDRESS SIZE BYTE` | blocks of RAM |
| `clock_step [NANOSECONDS]`, `clock_set NANOSECONDS` | the time that devices see; answers the new time |
| `irq_intercept_in` | from now on, send `IRQ raise GSI` and `IRQ lower GSI` |
"""

from __future__ import annotations

import socket

from vmm_core import log
from vmm_core._native import ffi, lib
from vmm_core.errors import VmmError
from vmm_core.loop import HANGUP, READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.accel.test.vm import TestVm
    from vmm_core.bus.dispatch import Bus
    from vmm_core.loop import EventLoop
    from vmm_core.memory.guest_memory import GuestMemory

MAX_LINE = 1 << 20
WIDTHS = {"b": 1, "w": 2, "l": 4, "q": 8}


class TestServer:
    """One connection to the test; when the test goes away, `on_close` is called."""

    __test__ = False

    def __init__(
        self, path: str, vm: TestVm, bus: Bus, memory: GuestMemory, loop: EventLoop, on_close: Callable[[], None]
    ) -> None:
        self._bus = bus
        self._memory = memory
        self._loop = loop
        self._on_close = on_close
        self._buffer = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise VmmError(f"-mod-test {path}: nobody listens there: {error.strerror}") from error
        self._vm = vm
        loop.add(self._socket.fileno(), READ, self._readable)

    def _readable(self, events: int) -> None:
        try:
            data = self._socket.recv(65536)
        except OSError:
            data = b""
        if not data or (events & HANGUP and not data):
            self._close()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_LINE:
            log.warn(f"-mod-test: a line of more than {MAX_LINE} bytes; closing")
            self._close()
            return
        for line in lines:
            self._send(self._answer(line.decode(errors="replace").split()))

    def _close(self) -> None:
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        self._on_close()

    def _send(self, line: str) -> None:
        try:
            self._socket.sendall(line.encode() + b"\n")
        except OSError as error:
            log.warn(f"-mod-test: cannot answer: {error.strerror}")

    def _answer(self, words: list[str]) -> str:
        try:
            return self._execute(words[0], words[1:]) if words else "FAIL empty request"
        except (ValueError, IndexError, TypeError, OverflowError) as error:
            return f"FAIL {' '.join(words)[:80]}: {error}"
        except VmmError as error:
            return f"FAIL {error}"

    def _execute(self, verb: str, words: list[str]) -> str:
        width = WIDTHS.get(verb[-1], 0)
        if verb[:-1] in ("in", "out") and 0 < width <= 4:
            return self._register(True, width, words, write=verb[:-1] == "out")
        if verb[:-1] in ("read", "write") and width:
            return self._register(False, width, words, write=verb[:-1] == "write")
        handler = getattr(self, f"_do_{verb}", None)
        if handler is None:
            raise ValueError("unknown request")
        return str(handler(*words))

    def _register(self, is_pio: bool, size: int, words: list[str], *, write: bool) -> str:
        address = int(words[0], 0)
        value = int(words[1], 0) & (1 << 8 * size) - 1 if write else 0
        if not is_pio and self._in_ram(address, size):
            if write:
                self._memory.write(address, value.to_bytes(size, "little"))
                return "OK"
            return f"OK {int.from_bytes(self._memory.read(address, size), 'little'):#018x}"
        access = ffi.new(
            "struct sc_access *", {"address": address, "data": value, "size": size, "is_write": write, "is_pio": is_pio}
        )
        if not lib.sc_bus_access(self._bus.handle, access):
            self._bus.access(access)
        return "OK" if write else f"OK {access.data:#018x}"

    def _in_ram(self, address: int, size: int) -> bool:
        return any(region.gpa <= address and address + size <= region.end for region in self._memory.regions)

    def _do_read(self, address: str, size: str) -> str:
        length = int(size, 0)
        if not 0 < length <= MAX_LINE // 2:
            raise ValueError(f"size must be 1 to {MAX_LINE // 2}")
        return f"OK 0x{self._memory.read(int(address, 0), length).hex()}"

    def _do_write(self, address: str, size: str, data: str) -> str:
        content = bytes.fromhex(data.removeprefix("0x"))
        if len(content) != int(size, 0):
            raise ValueError(f"{len(content)} bytes of data for a size of {size}")
        self._memory.write(int(address, 0), content)
        return "OK"

    def _do_memset(self, address: str, size: str, byte: str) -> str:
        length = int(size, 0)
        with self._memory.view(int(address, 0), length) as target:
            target[:] = bytes([int(byte, 0)]) * length
        return "OK"

    def _do_clock_step(self, nanoseconds: str = "0") -> str:
        self._vm.clock += int(nanoseconds, 0)
        return f"OK {self._vm.clock}"

    def _do_clock_set(self, nanoseconds: str) -> str:
        self._vm.clock = int(nanoseconds, 0)
        return f"OK {self._vm.clock}"

    def _do_irq_intercept_in(self, *_controller: str) -> str:
        self._vm.on_interrupt = lambda gsi, level: self._send(f"IRQ {'raise' if level else 'lower'} {gsi}")
        return "OK"
