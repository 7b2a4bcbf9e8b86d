"""A 16550A without a machine: registers by name, the interrupt line as a list of edges."""

from __future__ import annotations

import os
from typing import Any

from vmm_core._native import ffi, lib

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7

IER_RDI, IER_THRI, IER_RLSI, IER_MSI = 1, 2, 4, 8
LSR_DR, LSR_OE, LSR_BI, LSR_THRE, LSR_TEMT = 1, 2, 16, 32, 64
IIR_NONE, IIR_MSI, IIR_THRI, IIR_RDI, IIR_RLSI, IIR_TIMEOUT = 1, 0, 2, 4, 6, 12
LOOP = 16


class UartPort:
    """Drives `sc_uart_*` directly. `edges` holds every change of the interrupt line."""

    def __init__(self, output: int = -1) -> None:
        self.edges: list[int] = []
        self._callback = ffi.callback(
            "void(void *, uint32_t, int)", lambda _opaque, _gsi, level: self.edges.append(level)
        )
        self._chip = ffi.new("struct sc_irqchip *", {"set": self._callback, "opaque": ffi.NULL})
        self.handle: Any = lib.sc_uart_new(self._chip, 4, output)

    @property
    def line(self) -> int:
        return self.edges[-1] if self.edges else 0

    def read(self, register: int) -> int:
        return int(lib.sc_uart_read(self.handle, register))

    def write(self, register: int, value: int) -> None:
        lib.sc_uart_write(self.handle, register, value)

    def source(self) -> int:
        """The interrupt source as a driver reads it."""
        return self.read(IIR) & 0x0F

    def receive(self, data: bytes) -> int:
        return int(lib.sc_uart_receive(self.handle, data, len(data)))

    def send(self, data: bytes) -> None:
        """As a polling driver does."""
        for byte in data:
            assert self.read(LSR) & LSR_THRE
            self.write(THR, byte)

    def pump(self) -> int:
        return int(lib.sc_uart_pump(self.handle))

    def notified(self) -> bool:
        """Whether the event descriptor was signalled since the last call."""
        try:
            return os.eventfd_read(lib.sc_uart_event_fd(self.handle)) > 0
        except BlockingIOError:
            return False

    def close(self) -> None:
        lib.sc_uart_free(self.handle)
