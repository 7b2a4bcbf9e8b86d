"""sd_notify: telling systemd that the VM is up, lives, ends (sd_notify(3); Type=notify, WatchdogSec=)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.loop import EventLoop, Timer


class Notifier:
    """Does nothing without $NOTIFY_SOCKET. The watchdog is fed from the event loop: a stuck loop lets it bite."""

    def __init__(self, loop: EventLoop) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        self._loop = loop
        self._timer: Timer | None = None
        period = os.environ.pop("WATCHDOG_USEC", "")
        meant = os.environ.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._period = int(period) / 2e6 if period.isdigit() and meant else 0.0

    @property
    def wanted(self) -> bool:
        """Whether anybody waits for word."""
        return bool(self._address)

    def ready(self) -> None:
        """The VM is up; the watchdog is fed from now on."""
        self._tell(f"READY=1\nMAINPID={os.getpid()}\nSTATUS=running")
        if self._address and self._period:
            self._feed()

    def stopping(self) -> None:
        """The VM ends."""
        if self._timer is not None:
            self._timer.cancel()
        self._tell("STOPPING=1")
        self._address = ""

    def _feed(self) -> None:
        self._tell("WATCHDOG=1")
        self._timer = self._loop.call_later(self._period, self._feed)

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        import _socket as socket

        name = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.sendto(state.encode(), socket.MSG_DONTWAIT, name)
        except OSError:
            pass  # whoever wanted to know is gone
        finally:
            sock.close()
