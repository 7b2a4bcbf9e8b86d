"""Linux on the software CPU: user programs see what they see on a real one, on one CPU and on several."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.guest.harness import Guest, Plan
from tools.guest.cpio import Archive
from tools.paths import GUEST

SOURCE = Path(__file__).with_name("tcg_selftest.c")


@pytest.fixture(scope="session")
def selftest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The self-test, linked statically."""
    program = tmp_path_factory.mktemp("selftest") / "selftest"
    command = ["gcc", "-O2", "-static", "-pthread", "-o", str(program), str(SOURCE), "-lm"]
    subprocess.run(command, check=True)
    return program


def initramfs_with(program: Path, directory: Path) -> Path:
    """The guest's initramfs followed by a second archive that holds `program`."""
    archive = Archive()
    archive.file(program.name, program.read_bytes(), 0o755)
    target = directory / "initramfs.cpio"
    target.write_bytes((GUEST / "initramfs.cpio").read_bytes() + archive.finish())
    return target


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_programs_see_a_real_cpu(cpus: int, plan: Plan, selftest: Path) -> None:
    plan.accelerator, plan.cpus = "tcg", cpus
    initramfs = initramfs_with(selftest, plan.directory)
    command = [str(initramfs) if word == str(GUEST / "initramfs.cpio") else word for word in plan.stratovirt()]
    expected = subprocess.run([str(selftest)], capture_output=True, text=True, check=True).stdout
    with Guest(command, plan) as guest:
        guest.wait_ready()
        assert guest.console.check("nproc") == str(cpus)
        assert guest.console.check("/selftest", 120).splitlines() == expected.splitlines()


def test_timer_driven_boots_all_reach_user_space(plan: Plan) -> None:
    """An interrupt that cuts an instruction in two shows as a crash in one boot of many."""
    plan.accelerator, plan.append = "tcg", "stratocell.stop_at=init"
    for _ in range(8):
        with Guest(plan.stratovirt(), plan) as guest:
            guest.console.wait_for("^STRATOCELL init ")
            assert guest.wait_exit() == 0


def test_the_kernel_takes_its_clock_from_the_cpu(plan: Plan) -> None:
    """Nothing is calibrated at boot, no mitigation is paid for, and the clock keeps step with the host's."""
    plan.accelerator = "tcg"
    with Guest(plan.stratovirt(), plan) as guest:
        guest.wait_ready()
        clock = guest.console.check("cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
        assert clock == "tsc"
        messages = guest.console.check("dmesg")
        assert "Detected 1000.000 MHz processor" in messages
        assert "TSC deadline timer available" in messages
        assert "Mitigation: Enhanced / Automatic IBRS" in messages
        assert "unchecked MSR access" not in messages
        assert guest.console.check("cat /sys/devices/system/cpu/vulnerabilities/meltdown") == "Not affected"
