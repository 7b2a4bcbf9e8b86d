"""`-daemonize` and `-pidfile`: the parent returns only when the VM runs or has failed, and says which."""

from __future__ import annotations

import os

from vmm_core.errors import VmmError

READY = b"\0"
MAX_REASON = 4096


class Readiness:
    """The daemon's way to tell the waiting parent how the start went; without `-daemonize` it tells nobody."""

    def __init__(self, pipe: int = -1) -> None:
        self._pipe = pipe

    def ready(self) -> None:
        """The VM runs: the parent exits with status 0, and nothing leads back to its terminal any more."""
        if self._pipe >= 0:
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.close(null)
            self._tell(READY)

    def failed(self, reason: str) -> None:
        """The start failed: the parent prints `reason` and exits with status 1."""
        self._tell(reason.encode(errors="replace")[:MAX_REASON])

    def _tell(self, message: bytes) -> None:
        if self._pipe >= 0:
            pipe, self._pipe = self._pipe, -1
            try:
                os.write(pipe, message)
            except BrokenPipeError:
                pass  # the parent was killed
            os.close(pipe)


def daemonize() -> Readiness:
    """Go on as a daemon (double fork, new session). The original process waits here and never returns.

    The working directory stays, so that relative paths of the command line mean what they say.

    Call before any thread, descriptor or child process exists that the daemon needs.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(writer)
        _wait_and_exit(reader)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    return Readiness(writer)


def _wait_and_exit(pipe: int) -> None:
    message = b""
    while data := os.read(pipe, MAX_REASON):
        message += data
    if message == READY:
        os._exit(0)
    reason = message.decode(errors="replace") or "the VM ended before it was up"
    os.write(2, f"{reason}\r\n".encode())
    os._exit(1)


def write_pidfile(path: str) -> None:
    """Create `path` with our pid, mode 0600; VmmError when it exists."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise VmmError(f"Pidfile path is existed yet. -pidfile {path}: remove it if its VM is gone") from error
    except OSError as error:
        raise VmmError(f"-pidfile {path}: {error.strerror}") from error
    os.write(fd, str(os.getpid()).encode())
    os.close(fd)
