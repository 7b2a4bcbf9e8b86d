"""Raw mode for the controlling terminal, and its way back on every exit: also when the core crashes.

The settings are restored by `restore` on orderly exits and, in C, by handlers of the fatal signals. Nothing can restore
them after SIGKILL; `stty sane` does it by hand.
"""

from __future__ import annotations

import termios

from vmm_core._native import lib

IFLAG, OFLAG, CFLAG, LFLAG, CC = 0, 1, 2, 3, 6

_fd = -1
_saved: list[int | list[bytes | int]] | None = None


def make_raw(fd: int) -> None:
    """Pass every key on as it is; keep output processing, so that log lines still return the carriage."""
    global _fd, _saved
    saved = termios.tcgetattr(fd)
    _fd, _saved = fd, saved
    lib.sc_terminal_guard(fd)
    mode = termios.tcgetattr(fd)
    mode[IFLAG] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP)
    mode[IFLAG] &= ~(termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
    mode[LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
    mode[CFLAG] = mode[CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[CC][termios.VMIN] = 1
    mode[CC][termios.VTIME] = 0
    termios.tcsetattr(fd, termios.TCSANOW, mode)


def restore() -> None:
    """Put the terminal back as it was; does nothing when it was not changed or is back already."""
    global _saved
    if _saved is not None:
        lib.sc_terminal_restore()
        _saved = None
