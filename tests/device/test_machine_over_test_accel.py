"""A whole VM under its monitor: each QMP command and event, against the real process on the `test` accelerator."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from qemu.qmp import ExecuteError, QMPClient

from tests.processes import RawQmp, TestMachine, refusal
from vmm_core.devices import acpi_pm, reset_port
from vmm_core.machine.microvm import PM_PORT, SCI_GSI
from vmm_core.qmp.version import VERSION

TOPOLOGY = ("-smp", "4,maxcpus=8,sockets=2,dies=1,cores=2,threads=2")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[TestMachine]:
    machine = TestMachine(tmp_path, "-serial", "pty", "-object", "iothread,id=io1", *TOPOLOGY)
    yield machine
    machine.close()


def test_the_greeting_is_stratovirts(machine: TestMachine) -> None:
    machine.qmp().close()
    client = RawQmp(str(machine.qmp_path))
    assert client.message() == {"QMP": {"version": VERSION, "capabilities": []}}
    assert VERSION["qemu"] == {"micro": 1, "minor": 0, "major": 5}
    client.close()


def test_every_query_answers_what_management_programs_read(machine: TestMachine, qmp: RawQmp) -> None:
    assert qmp.value("qmp_capabilities") == {}
    assert qmp.value("query-status") == {"running": True, "singlestep": False, "status": "running"}
    assert qmp.value("query-version") == VERSION
    assert qmp.value("query-target") == {"arch": "x86_64"}
    assert qmp.value("query-kvm") == {"enabled": False, "present": os.path.exists("/dev/kvm")}
    assert qmp.value("x-query-accel") == {"name": "test", "reason": "requested"}
    assert [entry["name"] for entry in qmp.value("query-machines")] == ["microvm"]
    assert {entry["name"] for entry in qmp.value("query-events")} >= {
        "SHUTDOWN",
        "STOP",
        "RESUME",
        "RESET",
        "POWERDOWN",
    }
    (serial,) = qmp.value("query-chardev")
    assert serial["label"] == "serial_chardev"
    assert serial["filename"].startswith("pty:/dev/pts/")
    (iothread,) = qmp.value("query-iothreads")
    assert (iothread["id"], iothread["thread-id"]) == ("io1", machine.process.pid)


def test_cpus_are_shown_with_their_threads_and_places(machine: TestMachine, qmp: RawQmp) -> None:
    cpus = qmp.value("query-cpus")
    assert [cpu["CPU"] for cpu in cpus] == [0, 1, 2, 3]
    assert {str(cpu["thread_id"]) for cpu in cpus} <= set(os.listdir(f"/proc/{machine.process.pid}/task"))
    assert cpus[3]["props"] == {"socket-id": 0, "die_id": 0, "core-id": 1, "thread-id": 1}
    possible = qmp.value("query-hotpluggable-cpus")
    assert [("qom-path" in cpu) for cpu in possible] == [True] * 4 + [False] * 4
    assert possible[7]["props"] == {"socket-id": 1, "die_id": 0, "core-id": 1, "thread-id": 1}


def test_the_command_list_and_the_schema_agree(qmp: RawQmp) -> None:
    names = {entry["name"] for entry in qmp.value("query-commands")}
    schema = qmp.value("query-qmp-schema")
    kinds = {entry["name"]: entry for entry in schema}
    assert {entry["name"] for entry in schema if entry["meta-type"] == "command"} == names
    assert kinds["getfd-arguments"]["members"] == [{"name": "fdname", "type": "str"}]
    for entry in schema:
        for member in entry.get("members", []):
            assert member["type"] in kinds


def test_no_listed_command_is_missing(qmp: RawQmp) -> None:
    ending = {"quit", "system_reset", "system_powerdown", "stop", "cont", "getfd"}
    arguments = {entry["name"]: entry["members"] for entry in qmp.value("query-qmp-schema") if "members" in entry}
    for entry in qmp.value("query-commands"):
        needed = [member for member in arguments[f"{entry['name']}-arguments"] if "default" not in member]
        if entry["name"] not in ending and not needed:
            assert "return" in qmp.ask(entry["name"]), entry


def test_pausing_tells_everybody_and_is_refused_twice(qmp: RawQmp) -> None:
    assert "running already" in refusal(qmp.ask("cont"))
    assert qmp.ask("stop")["event"] == "STOP"
    assert qmp.message() == {"return": {}}
    assert qmp.value("query-status") == {"running": False, "singlestep": False, "status": "paused"}
    assert "paused already" in refusal(qmp.ask("stop"))  # and no event before it
    assert qmp.ask("cont")["event"] == "RESUME"
    assert qmp.message() == {"return": {}}
    assert qmp.value("query-status")["running"] is True


def test_a_vm_started_frozen_waits_for_cont(tmp_path: Path) -> None:
    machine = TestMachine(tmp_path, "-S", "-serial", "pty")
    qmp = machine.qmp()
    assert qmp.value("query-status")["status"] == "paused"
    assert qmp.ask("cont")["event"] == "RESUME"
    machine.close()


def test_quit_answers_then_says_shutdown_and_exits_with_0(machine: TestMachine, qmp: RawQmp) -> None:
    assert qmp.ask("quit") == {"return": {}}
    event = qmp.message()
    assert (event["event"], event["data"]) == ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
    assert {"seconds", "microseconds"} == set(event["timestamp"])
    assert qmp.ends()
    assert machine.wait()[0] == 0
    assert not machine.qmp_path.exists()


@pytest.mark.parametrize(
    ("command", "event", "reason"),
    [
        ("system_reset", "RESET", "host-qmp-system-reset"),
        ("system_powerdown", "POWERDOWN", "host-qmp-system-powerdown"),
    ],
)
def test_reset_and_power_button_end_a_microvm_with_their_events(
    machine: TestMachine, qmp: RawQmp, command: str, event: str, reason: str
) -> None:
    assert qmp.ask(command)["event"] == event
    shutdown = qmp.message()
    assert (shutdown["event"], shutdown["data"]["reason"]) == ("SHUTDOWN", reason)
    assert qmp.message() == {"return": {}}
    assert machine.wait()[0] == 0


def test_the_power_button_reaches_a_guest_that_listens_to_it(machine: TestMachine, qmp: RawQmp) -> None:
    machine.drive(f"outw {PM_PORT + acpi_pm.ENABLE:#x} {acpi_pm.POWER_BUTTON}")
    machine.drive("irq_intercept_in")
    assert qmp.ask("system_powerdown")["event"] == "POWERDOWN"
    assert qmp.message() == {"return": {}}
    assert machine.driver.recv(64) == b"IRQ raise %d\n" % SCI_GSI
    assert int(machine.drive(f"inw {PM_PORT + acpi_pm.STATUS:#x}"), 0) & acpi_pm.POWER_BUTTON
    assert qmp.value("query-status")["running"] is True


@pytest.mark.parametrize(
    "request_line",
    [
        pytest.param(
            f"outw {PM_PORT + acpi_pm.CONTROL:#x} {acpi_pm.SLEEP_ENABLE | acpi_pm.S5 << acpi_pm.SLEEP_TYPE_SHIFT:#x}",
            id="power-off",
        ),
        pytest.param(f"outb {reset_port.PORT:#x} {reset_port.PULSE_RESET:#x}", id="reboot"),
    ],
)
def test_a_guest_that_goes_down_by_itself_ends_the_vm_with_0(
    machine: TestMachine, qmp: RawQmp, request_line: str
) -> None:
    machine.driver.sendall(request_line.encode() + b"\n")
    event = qmp.message()
    assert (event["event"], event["data"]) == ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
    assert machine.wait()[0] == 0


def test_the_standard_client_library_works(machine: TestMachine) -> None:
    async def talk() -> None:
        client = QMPClient("test")
        machine.qmp().close()
        await client.connect(str(machine.qmp_path))
        status = await client.execute("query-status")
        assert isinstance(status, dict)
        assert status["running"] is True
        await client.execute("stop")
        with pytest.raises(ExecuteError, match="paused already"):
            await client.execute("stop")
        await client.execute("quit")
        names: list[str] = []
        while not names or names[-1] != "SHUTDOWN":
            names.append(str((await client.events.get())["event"]))
        assert names == ["STOP", "SHUTDOWN"]
        with contextlib.suppress(EOFError):  # the VM hangs up first
            await client.disconnect()

    asyncio.run(talk())
    assert machine.wait()[0] == 0
