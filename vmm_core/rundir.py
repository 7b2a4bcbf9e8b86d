"""A place where a VM can be found: `RUN/NAME/monitor.sock`, a QMP socket for exporter, top and whoever looks.

RUN is $STRATOCELL_RUN_DIR, else /run/stratocell for root, else $XDG_RUNTIME_DIR/stratocell; empty: no such place. NAME
is the VM's name, its process id if it has none, both if the name is taken. Everything is for its owner only. It is
made when the guest runs already, and nothing of it may fail the VM. Monitor code is loaded when somebody connects.
"""

from __future__ import annotations

import _socket as socket
import errno
import fcntl
import os

from vmm_core import log
from vmm_core.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.qmp.monitor import Monitor
    from vmm_core.vm import Vm

SOCKET = "monitor.sock"
MAX_CLIENTS = 8
FRESH = ".new."
MAX_NAME = 48  # with RUN it must fit a socket address
MAX_ADDRESS = 107
BACKLOG = 8


def base_directory() -> str:
    """RUN, which need not exist; "" when there is none."""
    given = os.environ.get("STRATOCELL_RUN_DIR")
    if given is not None:
        return given
    if os.geteuid() == 0:
        return "/run/stratocell"
    own = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(own, "stratocell") if own else ""


class RunDirectory:
    """One VM's directory. `open` makes it, `close` removes it; twice does no harm."""

    def __init__(self, vm: Vm) -> None:
        self.path = ""
        self._vm = vm
        self._lock = -1
        self._listener: socket.socket | None = None
        self._monitor: Monitor | None = None

    def open(self) -> None:
        """Make the directory and listen in it; what fails is logged."""
        base = base_directory()
        if not base:
            return
        try:
            os.makedirs(base, 0o700, exist_ok=True)
            _check_owner(base)
            if remove_stale(base):
                from vmm_core.supervisor.cgroups import remove_all_leftovers

                remove_all_leftovers()
            self.path, self._lock, self._listener = _make(base, self._vm.config.name)
        except OSError as error:
            log.info(f"no run directory in {base}: {error.strerror or error}")
            return
        self._vm.loop.add(self._listener.fileno(), READ, self._first_client)

    def close(self) -> None:
        """Hang up and remove the directory."""
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        elif self._listener is not None:
            self._vm.loop.remove(self._listener.fileno())
            self._listener.close()
        self._listener = None
        if self.path:
            _remove(self.path)
            os.close(self._lock)
            self.path = ""

    def _first_client(self, _events: int) -> None:
        from vmm_core.config.records import MonitorConfig
        from vmm_core.qmp.monitor import Monitor

        assert self._listener is not None
        self._vm.loop.remove(self._listener.fileno())
        self._monitor = Monitor(MonitorConfig(kind="unix"), self._listener, self._vm, MAX_CLIENTS)


def remove_stale(base: str) -> bool:
    """Remove the directories of VMs that were killed: nobody holds their lock any more. Returns whether there were."""
    found = False
    for name in os.listdir(base):
        path = os.path.join(base, name)
        if name.startswith(FRESH) and os.path.exists(f"/proc/{name.removeprefix(FRESH)}"):
            continue  # it is just being made
        lock = _lock(path)
        if lock >= 0:
            _remove(path)
            os.close(lock)
            found = True
    return found


def _check_owner(base: str) -> None:
    """OSError if others could put links or directories of theirs where we remove what is stale."""
    status = os.stat(base)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise OSError(errno.EPERM, "others may write there")


def _make(base: str, name: str) -> tuple[str, int, socket.socket]:
    """Put locked directory and socket in place at once, so that nobody meets half of it."""
    pid = str(os.getpid())
    clean = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).lstrip(".")[:MAX_NAME]
    fresh = os.path.join(base, FRESH + pid)
    if len(os.path.join(base, f"{clean}-{pid}", SOCKET).encode()) > MAX_ADDRESS:
        raise OSError(errno.ENAMETOOLONG, "its name is too long for a socket's address")
    _remove(fresh)
    os.mkdir(fresh, 0o700)
    lock = _lock(fresh)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.bind(os.path.join(fresh, SOCKET))
        os.chmod(os.path.join(fresh, SOCKET), 0o600)
        listener.listen(BACKLOG)
        for choice in (clean, f"{clean}-{pid}" if clean else pid):
            if choice and _rename(fresh, os.path.join(base, choice)):
                return os.path.join(base, choice), lock, listener
        raise OSError(errno.EEXIST, "its place is taken")
    except OSError:
        listener.close()
        os.close(lock)
        _remove(fresh)
        raise


def _rename(source: str, target: str) -> bool:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True


def _lock(path: str) -> int:
    """Hold the directory for as long as this process lives; -1 when somebody else does, or it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return -1
    return fd


def _remove(path: str) -> None:
    for change, target in ((os.unlink, os.path.join(path, SOCKET)), (os.rmdir, path)):
        try:
            change(target)
        except OSError:
            pass  # it is gone, or holds what we did not put there
