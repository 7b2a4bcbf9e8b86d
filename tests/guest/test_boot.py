"""A stock Debian kernel boots to userspace, whatever the size of the VM and the form of the kernel file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.deadlines import SCALE
from tests.guest.harness import Disk, Plan, copy_of_root, start
from tools import run_demo
from tools.guest.vmlinux import extract
from tools.paths import GUEST


@pytest.mark.rig
def test_the_documented_example_boots_works_and_powers_off(short_directory: Path) -> None:
    command = run_demo.command_line(copy_of_root(short_directory), short_directory / "qmp", False, [])
    assert run_demo.run_script(command, 120 * SCALE) == 0


@pytest.mark.rig
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_the_guest_has_the_vcpus_it_was_given(plan: Plan, cpus: int) -> None:
    plan.cpus = cpus
    with start(plan) as guest:
        console = guest.wait_ready(120).console
        assert console.check("nproc") == str(cpus)
        assert console.check("grep -c ^processor /proc/cpuinfo") == str(cpus)
        assert guest.power_off() == 0


@pytest.mark.rig
@pytest.mark.parametrize(("option", "mebibytes"), [("128", 128), ("1G", 1024), ("4G", 4096)])
def test_the_guest_has_the_memory_it_was_given(plan: Plan, option: str, mebibytes: int) -> None:
    plan.memory = option
    with start(plan) as guest:
        console = guest.wait_ready(120).console
        total_kib = int(console.check("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"))
        kernels_own = 40 + 0.04 * mebibytes  # its code, and its records of every page
        assert mebibytes - kernels_own < total_kib / 1024 <= mebibytes
        assert guest.power_off() == 0


def test_every_vcpu_runs_programs_at_the_same_time(plan: Plan) -> None:
    plan.cpus = 2
    with start(plan) as guest:
        console = guest.wait_ready().console
        work = "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; echo done $i"
        command = " ".join(f"taskset {1 << index} sh -c '{work}' &" for index in range(2)) + " wait"
        assert console.check(command).count("done 20000") == 2
        assert int(console.check("awk '/^cpu1/ { print $2 + $4 }' /proc/stat")) >= 0
        assert guest.power_off() == 0


@pytest.mark.parametrize("form", ["vmlinux", "vmlinux.bin"])
def test_an_uncompressed_kernel_boots_as_elf_and_as_raw_image(plan: Plan, form: str) -> None:
    elf = plan.directory / "vmlinux"
    elf.write_bytes(extract(GUEST / "vmlinuz"))
    plan.kernel = plan.directory / form
    if form == "vmlinux.bin":
        subprocess.run(["objcopy", "-O", "binary", str(elf), str(plan.kernel)], check=True)
    with start(plan) as guest:
        guest.wait_ready()
        assert guest.power_off() == 0


@pytest.mark.rig
def test_the_command_line_reaches_the_guest_unchanged_in_front_of_the_devices(disk_plan: Plan) -> None:
    disk_plan.append = "hello=world printk.time=1"
    with start(disk_plan) as guest:
        words = guest.wait_ready().console.check("cat /proc/cmdline").split()
        assert words[: len(disk_plan.kernel_words().split())] == disk_plan.kernel_words().split()
        assert any(word.startswith("virtio_mmio.device=") for word in words)
        assert guest.power_off() == 0


def test_six_disks_are_found_and_told_apart_by_their_serials(plan: Plan) -> None:
    plan.disks.append(Disk(copy_of_root(plan.directory), "direct=off,aio=io_uring", "serial=root"))
    for index in range(1, 6):
        image = plan.directory / f"image{index}"
        image.write_bytes(bytes([index]) * (index << 20))
        plan.disks.append(Disk(image, "direct=off,aio=io_uring", f"serial=number{index}"))
    with start(plan) as guest:
        console = guest.wait_ready().console
        found = console.check("for d in /sys/block/vd*; do echo $(cat $d/serial) $(cat $d/size); done")
        sectors = plan.disks[0].image.stat().st_size // 512
        assert set(found.split("\n")) == {f"root {sectors}", *(f"number{n} {n * 2048}" for n in range(1, 6))}
        assert guest.power_off() == 0
