"""Code that has taken over a backend, as it were: inside the real sandbox it tries whatever it is told.

Over `vhost`: `call NUMBER ARGUMENT…` makes a system call (an argument is a number or `s:TEXT`, a pointer to it) and
answers `RESULT ERRNO`; `thread …` does so on a thread that is older than the filter; `flood` opens descriptors and
`grow` takes memory until refused, answering how much that was; `execute` asks to run what it wrote; `connect PORT`
tries TCP, `reach PATH` a unix socket (`@NAME`: an abstract one).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import threading

from backends.runtime import sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipc.spawn import Message

libc = ctypes.CDLL(None, use_errno=True)
PIECE = 16 << 20
FAR = 1 << 40


class Thread:
    """One older than the filter; makes the calls it is given, one at a time."""

    def __init__(self) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._words: list[str] = []
        self._answer = ""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._go.acquire()
            self._answer = call(self._words)
            self._done.release()

    def call(self, words: list[str]) -> str:
        self._words = words
        self._go.release()
        self._done.acquire()
        return self._answer


def serve(fds: dict[str, int], _options: Message) -> None:
    """The entry point that the spawner calls."""
    thread = Thread()
    sandbox.seal()
    os.write(fds["vhost"], b"ready\n")
    while line := os.read(fds["vhost"], 4096):
        verb, *words = line.decode().rstrip("\n").split("\t")
        if verb == "call":
            answer = call(words)
        elif verb == "thread":
            answer = thread.call(words)
        elif verb == "connect":
            answer = connect(int(words[0]))
        elif verb == "reach":
            answer = reach(words[0])
        else:
            answer = {"flood": flood, "grow": grow, "execute": execute}[verb]()
        os.write(fds["vhost"], answer.encode())


def call(words: list[str]) -> str:
    """Make the system call; returns its result and errno."""
    arguments = [
        ctypes.c_char_p(word[2:].encode()) if word.startswith("s:") else ctypes.c_long(int(word, 0)) for word in words
    ]
    ctypes.set_errno(0)
    result = libc.syscall(*arguments)
    return f"{result} {ctypes.get_errno()}"


def flood() -> str:
    """Duplicate a descriptor until refused."""
    count = 0
    try:
        while count < 100_000:
            os.dup(0)
            count += 1
    except OSError as error:
        return f"{count} {error.errno}"
    return f"{count} 0"


def grow() -> str:
    """Take private memory until refused; bytes."""
    pieces: list[mmap.mmap] = []
    try:
        while len(pieces) * PIECE < FAR:
            pieces.append(mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except OSError as error:
        return f"{len(pieces) * PIECE} {error.errno}"
    return f"{FAR} 0"


def connect(port: int) -> str:
    """Connect to this host's own TCP port."""
    with socket.socket() as sock:
        return f"{sock.connect_ex(('127.0.0.1', port))} 0"


def reach(path: str) -> str:
    """Connect to a unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        return f"{sock.connect_ex(path.replace('@', chr(0), 1))} 0"


def execute() -> str:
    """Ask for a page that can be written and executed."""
    page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return call(["10", str(address), "4096", str(mmap.PROT_READ | mmap.PROT_EXEC)])
