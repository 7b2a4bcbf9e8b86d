"""The `stdio` chardev: the terminal that the VM was started in, raw, or whatever standard input and output are."""

from __future__ import annotations

import os

from vmm_core.chardev.base import Chardev

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_core.config.records import ChardevConfig
    from vmm_core.loop import EventLoop
    from vmm_core.serial import SerialPort

STDIN, STDOUT = 0, 1
ESCAPE, QUIT = 0x01, ord("x")  # Ctrl-a x ends the VM, Ctrl-a Ctrl-a is one Ctrl-a, others go to the guest with it


class StdioChardev(Chardev):
    """In a terminal every key goes to the guest, Ctrl-C too; `Ctrl-a x` asks `on_quit` to end the VM."""

    def __init__(self, config: ChardevConfig, loop: EventLoop, on_quit: Callable[[], None]) -> None:
        super().__init__(config, loop)
        self._on_quit = on_quit
        self._escaped = False
        self._raw = os.isatty(STDIN)

    def attach(self, port: SerialPort) -> None:
        super().attach(port)
        if self._raw:
            from vmm_core.chardev import terminal

            terminal.make_raw(STDIN)
        self._connect(STDIN, STDOUT)

    def close(self) -> None:
        super().close()
        if self._raw:
            from vmm_core.chardev import terminal

            terminal.restore()

    def _filter(self, data: bytes) -> bytes:
        if not self._raw:
            return data
        for_guest = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte == QUIT:
                    self._on_quit()
                    break
                for_guest += bytes([ESCAPE]) if byte == ESCAPE else bytes([ESCAPE, byte])
            elif byte == ESCAPE:
                self._escaped = True
            else:
                for_guest.append(byte)
        return bytes(for_guest)
