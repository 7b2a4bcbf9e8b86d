"""Metrics: what the parsers of others make of them, what hostile VMs can do to the programs that read them."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry
from rich.console import Console

from tools.paths import ROOT
from vmm_core.errors import VmmError
from vmm_core.metrics import exporter, rates, readings, top
from vmm_core.metrics.families import families
from vmm_core.metrics.readings import Backend, Core, Limit, Process, Queue, Reading, ReadingError

GREETING: dict[str, Any] = {"QMP": {"version": {}, "capabilities": []}}


def reading(requests: int = 3, taken: float = 10.0, **backend: Any) -> Reading:
    latency = [0] * 31
    latency[3] = requests
    queue = Queue(requests=requests, read_bytes=4096 * requests, latency=latency, latency_ns=10_000 * requests)
    process = Process(
        cpu_user=1.5, cpu_system=0.5, rss_anonymous=4 << 20, rss_file=1 << 20, pss=5, pss_anonymous=3, pss_file=1
    )
    fields: dict[str, Any] = {
        "id": "disk0", "pid": 7, "state": "running", "process": process, "queues": [queue, Queue()],
        "limits": [Limit("cpu-max", "50%", True, "cgroup v2 cpu")],
        "pressure": {"cpu": {"some": {"avg10": 1.0, "total": 2_000_000.0}}},
    }  # fmt: skip
    return Reading(Core(1, Process(threads=3), 1 << 28), [Backend(**(fields | backend))], "", "web", taken)


def exposed(*known: Reading, down: tuple[str, ...] = ()) -> str:
    class Fixed(Collector):
        def collect(self) -> Any:
            return families(known, down)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Fixed())
    return choose_encoder("application/openmetrics-text")[0](registry).decode()


def samples(text: str) -> dict[str, float]:
    """Each sample as `name{labels in order}`, read by the parser of the format's makers."""
    found = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_another_parser_reads_what_was_meant() -> None:
    found = samples(exposed(reading(), down=("gone",)))
    queue = "backend=disk0,queue=0"
    assert found["stratovirt_vm_up{vm=web}"] == 1
    assert found["stratovirt_vm_up{vm=gone}"] == 0
    assert found["stratovirt_guest_memory_bytes{vm=web}"] == 1 << 28
    assert found["stratovirt_process_cpu_seconds_total{mode=user,process=disk0,vm=web}"] == 1.5
    assert found[f"stratovirt_queue_requests_total{{{queue},vm=web}}"] == 3
    assert found[f"stratovirt_queue_latency_seconds_count{{{queue},vm=web}}"] == 3
    assert found[f"stratovirt_queue_latency_seconds_sum{{{queue},vm=web}}"] == pytest.approx(3e-5)
    assert found["stratovirt_queue_latency_seconds_bucket{backend=disk0,le=8e-06,queue=0,vm=web}"] == 0
    assert found["stratovirt_queue_latency_seconds_bucket{backend=disk0,le=1.6e-05,queue=0,vm=web}"] == 3
    assert found["stratovirt_backend_pressure_seconds_total{backend=disk0,resource=cpu,share=some,vm=web}"] == 2
    assert found["stratovirt_backend_limit_in_force{backend=disk0,limit=cpu-max,value=50%,vm=web}"] == 1


def test_what_the_kernel_would_not_say_is_absent_not_zero() -> None:
    assert "process_open_descriptors{" not in exposed(reading())


def test_a_device_without_process_has_no_figures_of_one() -> None:
    found = samples(exposed(reading(pid=0, state="failed")))
    assert found["stratovirt_backend_up{backend=disk0,vm=web}"] == 0
    assert not any("process=disk0" in name for name in found)


def test_a_device_that_is_called_core_is_not_taken_for_the_core() -> None:
    found = samples(exposed(reading(id="core")))
    assert found["stratovirt_process_cpu_seconds_total{mode=user,process=core (device),vm=web}"] == 1.5
    assert found["stratovirt_process_cpu_seconds_total{mode=user,process=core,vm=web}"] == 0
    assert [row.kind for row in rates.rows(reading(id="core"))] == ["core", "backend"]


def test_docs_list_every_metric_and_no_other() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    documented = set(re.findall(r"^\| `(stratovirt_\w+)`", text, re.MULTILINE))
    assert documented == {
        re.sub(r"_bucket$", "", line.split()[2])
        for line in exposed(reading()).splitlines()
        if line.startswith("# TYPE")
    }


# The programs and VMs that do not behave.


@contextmanager
def vm(directory: Path, talk: Callable[[socket.socket], None]) -> Iterator[dict[str, str]]:
    """A monitor that does `talk` with each client."""
    path = directory / "web" / "monitor.sock"
    path.parent.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(4)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                try:
                    talk(client)
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield readings.monitors(str(directory))
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def says(*messages: object) -> Callable[[socket.socket], None]:
    def talk(client: socket.socket) -> None:
        client.recv(1000)
        for message in messages:
            client.sendall(json.dumps(message).encode() + b"\r\n")

    return talk


def account(**more: Any) -> dict[str, Any]:
    return {"return": {"core": {"pid": 1, "process": {}, "guest-memory": 5}, "backends": [], **more}}


def test_events_before_the_answer_do_not_disturb(tmp_path: Path) -> None:
    with vm(tmp_path, says(GREETING, {"event": "STOP", "data": {}}, account(future="field"))) as places:
        assert readings.read("web", places["web"]).core.guest_memory == 5


@pytest.mark.parametrize(
    "answer",
    [
        {"return": []},
        account(backends=[{"id": 5}]),
        account(backends=[{"id": "d", "queues": [{"kicks": "many"}]}]),
        account(backends=[{"id": "d", "restarts": -1}]),
        account(backends=[{"id": "d", "queues": [{"requests": 10**400}]}]),
        account(backends=[{"id": "d", "queues": [{"latency": [5, -6]}]}]),
        account(backends=[{"id": "d", "queues": [{"latency": [1] * 32}]}]),
        account(backends=[{"id": "d", "process": {"cpu-user": -0.5}}]),
        account(backends=[{"id": "d", "pressure": {"cpu": {"some": {"total": -1}}}}]),
        account(backends=[{"id": "d"}, {"id": "d"}]),
        account(backends=[{"id": "d", "limits": [{"limit": "nice", "value": "1", "in-force": True, "by": ""}] * 2}]),
        account(backends=[{"id": str(number)} for number in range(257)]),
        account(backends=[{"id": str(number), "queues": [{}] * 64} for number in range(33)]),
        {"error": {"class": "GenericError", "desc": "no"}},
        "text",
    ],
)
def test_an_answer_that_is_none_is_an_error_of_one_line(tmp_path: Path, answer: object) -> None:
    with vm(tmp_path, says(GREETING, answer)) as places, pytest.raises(ReadingError) as raised:
        readings.read("web", places["web"])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("flood", [b"x" * 65536, b'{"event":"STOP"}\r\n' * 4096])
def test_a_vm_that_talks_for_ever_is_left_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flood: bytes
) -> None:
    monkeypatch.setattr(readings, "TIME_LIMIT", 0.3)

    def talk(client: socket.socket) -> None:
        while True:
            client.sendall(flood)

    with vm(tmp_path, talk) as places, pytest.raises(ReadingError):
        readings.read("web", places["web"])


def test_a_silent_vm_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "TIME_LIMIT", 0.1)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    with (
        vm(tmp_path / "one", lambda client: print(client.recv(1000), client.recv(1))) as silent,
        vm(tmp_path / "other", says(GREETING, account())) as good,
    ):
        found, failures = readings.read_all({"silent": silent["web"], "good": good["web"]})
    assert [each.vm for each in found] == ["good"]
    assert len(failures) == 1


def test_vms_are_asked_at_the_same_time(tmp_path: Path) -> None:
    """Twenty dead ones cost as long as one: none of these answers before all have been asked."""
    all_asked = threading.Barrier(3)

    def talk(client: socket.socket) -> None:
        client.recv(1000)
        all_asked.wait(10)
        client.sendall(json.dumps(account()).encode() + b"\r\n")

    with ExitStack() as stack:
        places = {}
        for name in ("a", "b", "c"):
            (tmp_path / name).mkdir()
            places[name] = stack.enter_context(vm(tmp_path / name, talk))["web"]
        found, failures = readings.read_all(places)
    assert ([each.vm for each in found], failures) == (["a", "b", "c"], [])


def test_a_directory_whose_name_is_no_text_does_not_silence_the_others(tmp_path: Path) -> None:
    with vm(tmp_path, says(GREETING, account())) as places:
        strange = tmp_path / os.fsdecode(b"x\xff")
        strange.mkdir()
        (strange / "monitor.sock").touch()
        found, failures = readings.read_all(readings.monitors(str(tmp_path)))
    assert [each.vm for each in found] == [*places]
    assert samples(exposed(*found, down=tuple(each.vm for each in failures)))["stratovirt_vm_up{vm=x\\xff}"] == 0


def test_the_exporter_serves_a_unix_socket_and_only_loopback(tmp_path: Path) -> None:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(exporter.VmCollector(lambda: readings.monitors(str(tmp_path / "run"))))
    (tmp_path / "run").mkdir()
    for where in ("0.0.0.0:9595", "192.0.2.1:1", "nowhere", "127.0.0.1:99999"):
        with pytest.raises(VmmError):
            exporter.listen(where, registry)
    server = exporter.listen(f"unix:{tmp_path}/metrics.sock", registry)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with vm(tmp_path / "run", says(GREETING, account())), socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/metrics.sock")
        client.sendall(b"GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    server.shutdown()
    thread.join()
    server.server_close()
    head, _, body = answer.partition("\r\n\r\n")
    assert "200 OK" in head
    assert "application/openmetrics-text" in head
    assert samples(body)["stratovirt_vm_up{vm=web}"] == 1
    assert os.stat(tmp_path / "metrics.sock").st_mode & 0o777 == 0o600


# What top makes of two readings.


def test_rates_are_per_second_between_two_readings() -> None:
    core, disk = rates.rows(reading(requests=203, taken=12.0), reading(requests=3, taken=10.0))
    assert (core.process, core.guest_memory) == ("core", 1 << 28)
    assert disk.requests == 100
    assert disk.read_bytes == 409600
    assert (disk.p50, disk.p99) == (16e-6, 16e-6)
    assert disk.cpu == 0


def test_a_restarted_backend_shows_no_negative_rates() -> None:
    _core, disk = rates.rows(reading(requests=1, pid=8, restarts=1, taken=11.0), reading(requests=9, taken=10.0))
    assert (disk.requests, disk.cpu, disk.restarts) == (0, None, 1)


def test_percentiles_round_up_to_the_end_of_their_bucket() -> None:
    assert rates.percentile([50, 49, 0, 1], 0.5) == 2e-6
    assert rates.percentile([50, 49, 0, 1], 0.99) == 4e-6
    assert rates.percentile([50, 49, 0, 1], 0.999) == 16e-6
    assert rates.percentile([0], 0.5) is None


def test_a_vms_words_do_not_reach_the_terminal_as_they_are() -> None:
    hostile = reading(id="[red]\x1b]0;title\x07")
    console = Console(width=200, record=True, file=open(os.devnull, "w"))
    console.print(top.table(rates.rows(hostile)))
    text = console.export_text(styles=True)
    assert "\x1b]0" not in text
    assert "\\[red]" in text or "[red]" in text


def shown(found: list[rates.Row], width: int, height: int = 50) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(top.table(found, width, height))
    return capture.get().splitlines()


def test_in_a_narrow_terminal_columns_go_instead_of_being_cut() -> None:
    disk = reading(requests=123_456, taken=12.0, restarts=12)
    found = rates.rows(disk, reading(taken=11.0))
    wide, narrow = shown(found, 200), shown(found, 80)
    assert wide[0].split() == " ".join(top.COLUMNS).split()
    assert {"VM", "process", "restarts", "CPU", "memory", "op/s", "read/s", "write/s", "p99"} <= {*narrow[0].split()}
    assert "pid" not in narrow[0]
    assert not [line for line in wide + narrow + shown(found, 60) if "\u2026" in line]


def test_rows_without_room_are_counted() -> None:
    found = rates.rows(reading()) * 20
    lines = shown(found, 80, 24)
    assert len(lines) < 24
    assert "19 more lines" in lines[-1]
    assert "more lines" not in "".join(shown(found, 80))


def test_a_vm_that_does_not_answer_keeps_its_row(tmp_path: Path) -> None:
    (tmp_path / "dead").mkdir()
    (tmp_path / "dead" / "monitor.sock").touch()
    with vm(tmp_path, says(GREETING, account())):
        watch = top.Watch(argparse.Namespace(qmp="", vm="", run_directory=str(tmp_path)))
        rows = watch.take()
    assert [(row.vm, row.state, row.memory) for row in rows] == [("dead", "no answer", None), ("web", "running", 0)]
    assert "no answer" in shown(rows, 80)[1]
    absent = top.Watch(argparse.Namespace(qmp="", vm="gone", run_directory=str(tmp_path)))
    assert [row.state for row in absent.take()] == ["no answer"]
    assert str(absent.failures[0]) == "gone: there is no such VM in the run directory"


def test_units() -> None:
    assert [top.size(value) for value in (None, 1, 1536, 3 << 20, 5 << 40)] == [
        "-",
        "1 B",
        "1.5 KiB",
        "3.0 MiB",
        "5120.0 GiB",
    ]
    assert [top.duration(value) for value in (None, 16e-6, 2e-3, 1.5)] == ["-", "16 us", "2.0 ms", "1.5 s"]


@pytest.mark.parametrize("text", ["nan", "-1", "0", "inf", "1e9"])
def test_an_interval_that_is_none_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"from 0\.1 to 3600 seconds"):
        exporter.interval(text)
