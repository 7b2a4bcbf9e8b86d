"""`stratovirt-exporter`: OpenMetrics of one VM, or of all in the run directory, over a unix socket or loopback TCP.

Each scrape asks the VMs' monitors (`readings.py`); between scrapes it does nothing and keeps no connection.
"""

from __future__ import annotations

import argparse
import ipaddress
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from vmm_core.errors import VmmError
from vmm_core.metrics.families import families
from vmm_core.metrics.readings import monitors, read_all
from vmm_core.sockets import listen_unix, remove_all

DEFAULT_LISTEN = "127.0.0.1:9595"
CLIENT_LIMIT = 10.0  # seconds for a client to say what it wants and to take it
OPEN_METRICS = "application/openmetrics-text"
PATHS = ("/metrics", "/")


class VmCollector(Collector):
    """Asks the VMs when it is collected; `places` says which, anew each time: VMs come and go."""

    def __init__(self, places: Callable[[], dict[str, str]]) -> None:
        self._places = places
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            places = self._places()
            readings, _failures = read_all(places)
        yield from families(readings, [name for name in places if name not in {each.vm for each in readings}])

    def describe(self) -> list[Metric]:
        return []


class Handler(BaseHTTPRequestHandler):
    """GET /metrics, and nothing else."""

    timeout = CLIENT_LIMIT
    server_version = "stratovirt-exporter"
    registry: CollectorRegistry

    def do_GET(self) -> None:
        if self.path.partition("?")[0] not in PATHS:
            self.send_error(404)
            return
        encode, content_type = choose_encoder(self.headers.get("Accept") or "")
        try:
            body = encode(self.registry)
        except VmmError as error:
            self.send_error(500, str(error))
            return
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Scrapes are no news."""

    def address_string(self) -> str:
        return "client"


class TcpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main() -> int:
    """The console script."""
    return run(sys.argv[1:])


def run(arguments: Sequence[str]) -> int:
    """Serve until interrupted; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(VmCollector(lambda: places(options)))
        if options.once:
            sys.stdout.write(choose_encoder(OPEN_METRICS)[0](registry).decode())
            return 0
        server = listen(options.listen, registry)
    except (VmmError, OSError) as error:
        sys.stderr.write(f"stratovirt-exporter: {error}\n")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.serve_forever(poll_interval=3600)
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
        remove_all()
    return 0


def places(options: argparse.Namespace) -> dict[str, str]:
    """The monitors that the options name."""
    if options.qmp:
        return {options.vm or Path(options.qmp).stem: options.qmp}
    found = monitors(options.run_directory)
    return {options.vm: found.get(options.vm, "")} if options.vm else found


def listen(where: str, registry: CollectorRegistry) -> TcpServer | UnixServer:
    """Listen at `unix:PATH` (mode 0600) or at a loopback `ADDRESS:PORT`; VmmError for any other place."""
    handler = type("BoundHandler", (Handler,), {"registry": registry})
    if where.startswith("unix:"):
        return _listen_unix(where.removeprefix("unix:"), handler)
    host, _, port = where.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError as error:
        raise VmmError(f"{where}: expected unix:PATH or ADDRESS:PORT") from error
    if not address.is_loopback or not port.isdigit() or int(port) > 65535:
        raise VmmError(f"{where}: only loopback addresses; put a proxy that authenticates in front for others")
    server = type("Server", (TcpServer,), {"address_family": 10 if address.version == 6 else 2})
    made: TcpServer = server((str(address), int(port)), handler)
    return made


def _listen_unix(path: str, handler: type[Handler]) -> UnixServer:
    server = UnixServer(path, handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=listen_unix(path, "--listen").detach())
    server.socket.setblocking(True)
    return server


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Options that say which VMs."""
    parser.add_argument("--vm", default="", metavar="NAME", help="only this VM; default: all in the run directory")
    parser.add_argument("--run-directory", default="", metavar="DIR", help="default: $STRATOCELL_RUN_DIR or the user's")
    parser.add_argument("--qmp", default="", metavar="PATH", help="the monitor of one VM, wherever it is")


def interval(text: str) -> float:
    """The value of an option: seconds between readings."""
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not from 0.1 to 3600 seconds")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stratovirt-exporter", description="Metrics of virtual machines for Prometheus.", allow_abbrev=False
    )
    parser.add_argument(
        "--listen", default=DEFAULT_LISTEN, metavar="WHERE", help=f"unix:PATH or ADDRESS:PORT; default {DEFAULT_LISTEN}"
    )
    parser.add_argument("--once", action="store_true", help="print the metrics and end")
    add_choice(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
