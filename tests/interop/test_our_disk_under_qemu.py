"""Our blk backend serves a stock kernel under Debian's QEMU (vhost-user-blk-pci, software CPU)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest.harness import BASE_APPEND, Guest, Plan, copy_of_root, empty_disk
from tests.interop.processes import need, our_backend, serving
from tools.paths import GUEST

MEMORY = "256M"


def qemu(plan: Plan, sockets: list[Path], device: str) -> list[str]:
    """A q35 with its memory in a shared memfd, as vhost-user needs it."""
    command = ["qemu-system-x86_64", "-M", "q35,memory-backend=ram", "-accel", "tcg", "-cpu", "max,-la57"]
    command += ["-object", f"memory-backend-memfd,id=ram,size={MEMORY},share=on", "-m", MEMORY, "-smp", str(plan.cpus)]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]
    command += ["-kernel", str(GUEST / "vmlinuz"), "-initrd", str(GUEST / "initramfs.cpio")]
    command += ["-append", f"{BASE_APPEND} stratocell.console=commands root=/dev/vda rw"]
    for index, path in enumerate(sockets):
        command += ["-chardev", f"socket,id=disk{index},path={path}"]
        command += ["-device", f"vhost-user-blk-pci,chardev=disk{index}{device}"]
    return command


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("device", "queues"),
    [
        pytest.param(",packed=off,num-queues=1", 1, id="split-1"),
        pytest.param(",packed=on,num-queues=1", 1, id="packed-1"),
        pytest.param(",packed=off,num-queues=2", 2, id="split-2"),
        pytest.param(",packed=on,num-queues=2,queue-size=64", 2, id="packed-2"),
    ],
)
def test_a_stock_guest_runs_from_our_backend_under_qemu(plan: Plan, device: str, queues: int) -> None:
    need("qemu-system-x86_64", "qemu-system-x86")
    plan.cpus = queues
    root, data = copy_of_root(plan.directory), empty_disk(plan.directory / "data", 32 << 20)
    sockets = [plan.directory / "root.sock", plan.directory / "data.sock"]
    option = f"--num-queues={queues}"
    with (
        serving(our_backend(sockets[0], root, option), sockets[0]),
        serving(our_backend(sockets[1], data, option), sockets[1]),
        Guest(qemu(plan, sockets, device), plan) as guest,
    ):
        console = guest.wait_ready(90).console
        console.check("cd /usr/share/stratocell && sha256sum -c SHA256SUMS")
        for mode in ("direct", "cached"):
            assert console.check(f"blkverify /dev/vdb 32 3 4 {mode}", 90).startswith("VERIFY ok")
        features = console.check("cat /sys/block/vdb/device/features")
        assert features[34] == ("1" if "packed=on" in device else "0")
        guest.power_off()
