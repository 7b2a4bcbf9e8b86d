"""`stratovirt-top`: a live table of VMs and their backends, or the same as JSON."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table

from vmm_core.errors import VmmError
from vmm_core.metrics.exporter import add_choice, interval, places
from vmm_core.metrics.rates import CORE, RUNNING, Row, rows, silent
from vmm_core.metrics.readings import Reading, ReadingError, read_all

COLUMNS = (
    "VM", "process", "pid", "state", "restarts", "CPU", "memory", "guest", "op/s", "read/s", "write/s", "errors/s",
    "in flight", "p50", "p99",
)  # fmt: skip
LEFT = ("VM", "process", "state")
EXPENDABLE = ("in flight", "p50", "pid", "guest", "state", "errors/s", "restarts", "p99")  # the first goes first
NO_END = 100_000  # columns and lines of what is no terminal
NAME_WIDTH = 16
FIRST_WAIT = 0.5  # seconds between the two readings that --once needs for its rates


def main() -> int:
    """The console script."""
    return run(sys.argv[1:])


def run(arguments: Sequence[str]) -> int:
    """Show until interrupted; returns the exit status."""
    options = _parser().parse_args(arguments)
    watch = Watch(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the terminal would be left as the table needs it
    try:
        if options.once:
            return _once(watch, options.json)
        if options.json:
            _stream(watch, options.interval)
        else:
            _show(watch, options.interval)
    except VmmError as error:
        sys.stderr.write(f"stratovirt-top: {error}\n")
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    return 0


class Watch:
    """Takes readings and keeps the last of each VM for the rates."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._last: dict[str, Reading] = {}
        self.failures: list[ReadingError] = []

    def take(self) -> list[Row]:
        """One reading of each VM; one that does not answer has a row, too."""
        where = places(self._options)
        readings, self.failures = read_all(where)
        found = {reading.vm: rows(reading, self._last.get(reading.vm)) for reading in readings}
        self._last = {reading.vm: reading for reading in readings}
        return [row for vm in where for row in found.get(vm) or [silent(vm)]]


def _once(watch: Watch, as_json: bool) -> int:
    watch.take()
    time.sleep(FIRST_WAIT)
    found = watch.take()
    for failure in watch.failures:
        sys.stderr.write(f"stratovirt-top: {failure}\n")
    if as_json:
        _print(found)
    else:
        console = Console() if sys.stdout.isatty() else Console(width=NO_END)
        console.print(table(found, console.width))
    return 1 if watch.failures else 0


def _stream(watch: Watch, interval: float) -> None:
    while True:
        _print(watch.take())
        time.sleep(interval)


def _print(found: list[Row]) -> None:
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    sys.stdout.flush()


def _show(watch: Watch, interval: float) -> None:
    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(table(watch.take(), *console.size), refresh=True)
            time.sleep(interval)


def table(found: list[Row], width: int = NO_END, height: int = NO_END) -> Table:
    """The rows for a person: units, dashes for what is not known, backends indented below their VM.

    A column that is cut short tells nothing, so in a narrow terminal there are fewer. Rows without room are counted.
    """
    room = max(1, height - 3)
    rest = len(found) - room
    caption = f"{rest} more lines; --vm NAME shows one VM" if rest > 0 else None if found else "no VM runs"
    ruler = Console(width=NO_END)
    names = [*COLUMNS]
    for name in (*EXPENDABLE, ""):
        shown = _table(found[:room], names, caption)
        if not name or Measurement.get(ruler, ruler.options, shown).maximum <= width:
            break
        names.remove(name)
    return shown


def _table(found: list[Row], names: list[str], caption: str | None) -> Table:
    shown = Table(box=None, header_style="bold", caption=caption, collapse_padding=True, pad_edge=False)
    for name in names:
        widest = NAME_WIDTH if name in ("VM", "process") else None
        shown.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True, max_width=widest)
    for row in found:
        cells = _cells(row)
        shown.add_row(*(cells[name] for name in names), style="" if row.state == RUNNING else "red")
    return shown


def _cells(row: Row) -> dict[str, str]:
    is_core = row.kind == CORE
    values = [
        _plain(row.vm if is_core else ""),
        _plain(row.process if is_core else f"  {row.process}"),
        str(row.pid or "-"),
        _plain(row.state),
        "" if is_core else str(row.restarts),
        "-" if row.cpu is None else f"{100 * row.cpu:.1f}%",
        size(row.memory),
        "" if row.guest_memory is None else size(row.guest_memory),
        *(["", "", "", "", "", "", ""] if is_core else _traffic(row)),
    ]
    return dict(zip(COLUMNS, values, strict=True))


def _traffic(row: Row) -> list[str]:
    return [
        _number(row.requests),
        size(row.read_bytes),
        size(row.written_bytes),
        _number(row.errors),
        str(row.in_flight),
        duration(row.p50),
        duration(row.p99),
    ]


def size(value: float | None) -> str:
    """`1.5 MiB`."""
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """`64 us`, `2.0 ms`."""
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _plain(text: str) -> str:
    """What a VM says goes to a terminal: no control characters, no markup."""
    return "".join(letter if letter.isprintable() else "?" for letter in text).replace("[", "\\[")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stratovirt-top", description="What virtual machines and their backends use.", allow_abbrev=False
    )
    parser.add_argument("--once", action="store_true", help="show one reading and end")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each reading")
    parser.add_argument(
        "--interval", type=interval, default=1.0, metavar="SECONDS", help="between readings; default 1"
    )
    add_choice(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
