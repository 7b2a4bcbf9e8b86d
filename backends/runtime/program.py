"""A backend as a program of its own (vhost-user, "Backend program conventions").

`--socket-path=PATH` or `--fd=FDNUM`; `--print-capabilities`; SIGTERM ends it at once; it never daemonises, and what
cannot work fails early with one line on standard error and exit status 1.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import socket
import stat
import sys
from typing import TYPE_CHECKING

from backends.runtime.device import DeviceError
from backends.runtime.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.runtime.device import Device

PRINT_CAPABILITIES = "--print-capabilities"


class ProgramError(Exception):
    """Why the program cannot start; one line."""


class Program:
    """Subclass per device type: `type` and `features` as in vhost-user.json, `open_device` from the options."""

    type = ""
    features: tuple[str, ...] = ()
    description = ""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this device type."""

    def open_device(self, options: argparse.Namespace) -> Device:
        """Open everything the device needs; ProgramError, DeviceError or OSError when that fails."""
        raise ProgramError(f"{self.type}: no device")

    def confine(self, options: argparse.Namespace, device: Device, fds: list[int]) -> None:
        """Give up every right that serving does not need, keeping `fds` and the device's; called when all are open."""

    def run(self, arguments: Sequence[str] | None = None) -> int:
        """The program's whole life; returns its exit status."""
        arguments = sys.argv[1:] if arguments is None else arguments
        if PRINT_CAPABILITIES in arguments:
            print(json.dumps({"type": self.type, "features": list(self.features)}))
            return 0
        options = self._parser().parse_args(arguments)
        try:
            self._serve(options)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            return self._fail(f"{where}{error.strerror or error}")
        except (ProgramError, DeviceError) as error:
            return self._fail(str(error))
        return 0

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(description=self.description, allow_abbrev=False)
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument("--socket-path", metavar="PATH", help="listen for front-ends on this unix socket")
        where.add_argument("--fd", type=int, metavar="FDNUM", help="serve on this descriptor: connected, or listening")
        parser.add_argument(PRINT_CAPABILITIES, action="store_true", help="print the capabilities as JSON and exit")
        self.add_arguments(parser)
        return parser

    def _serve(self, options: argparse.Namespace) -> None:
        device = self.open_device(options)
        server = Server(device)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: server.stop())
        try:
            fd, listening = self._socket(options)
            self.confine(options, device, [fd, *server.descriptors()])
            if listening:
                server.serve_listener(fd)
            else:
                server.serve_connection(fd)
        finally:
            if options.socket_path:
                _remove(options.socket_path)
            device.close()
            server.close()

    def _socket(self, options: argparse.Namespace) -> tuple[int, bool]:
        """Return the socket and whether it is a listening one."""
        if options.socket_path:
            return listen(options.socket_path), True
        if not stat.S_ISSOCK(os.fstat(options.fd).st_mode):
            raise ProgramError(f"--fd={options.fd} is not a socket")
        given = socket.socket(fileno=options.fd)
        listening = bool(given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        if listening:
            given.setblocking(False)  # now, for the sandbox has no way to
        return given.detach(), listening

    def _fail(self, line: str) -> int:
        print(f"{self.type or 'backend'}: {line}", file=sys.stderr)
        return 1


def listen(path: str) -> int:
    """Return a socket that listens at `path` and does not block, replacing a stale one; ProgramError if another program
    listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ProgramError(f"cannot listen at {path}: {error.strerror or error}") from error
            _remove_stale(path)
            sock.bind(path)
        sock.listen(8)
        return sock.detach()
    finally:
        sock.close()


def _remove_stale(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ProgramError(f"cannot listen at {path}: a file of that name exists")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise ProgramError(f"cannot listen at {path}: another program does")
    os.unlink(path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # inside the sandbox there is no such path; the next start replaces a stale socket
