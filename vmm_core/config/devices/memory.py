"""Balloon, random numbers, pluggable and persistent memory, shared directories (facts 1.8; the user's document)."""

from __future__ import annotations

from vmm_core.config.devices.common import both
from vmm_core.config.kinds import GIB, ID, KIB, TRUE_FALSE, Integer, Size, Text, words
from vmm_core.config.table import Key
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_U64 = (1 << 64) - 1
_MIN_RATE, _MAX_RATE = 64, 1_000_000_000  # bytes a second
_MEMDEV = Key("memdev", ID, "id of a memory-backend object", required=True)
_MEMADDR = Key("memaddr", Integer(0, _U64, hexadecimal=True), "guest-physical address")

DEVICES = {
    **both(
        "virtio-balloon",
        "returns guest memory to the host; one in a VM, not with -mem-path",
        (
            Key("deflate-on-oom", TRUE_FALSE, "give memory back when the guest runs out of it", False),
            Key("free-page-reporting", TRUE_FALSE, "return pages that the guest reports free", False),
            Key("auto-balloon", TRUE_FALSE, "let the guest's load steer it", False, mark="B"),
            Key("membuf-percent", Integer(20, 80), "free memory to leave, in percent", 50, mark="B"),
            Key("monitor-interval", Integer(5, 300), "seconds between looks", 10, mark="B"),
        ),
    ),
    **both(
        "virtio-rng",
        "random numbers",
        (
            Key("rng", ID, "id of an rng-random object", required=True),
            Key("max-bytes", Integer(1, _U64), "bytes in a period"),
            Key("period", Integer(1, _U64), "period in milliseconds"),
        ),
    ),
    **both(
        "virtio-mem",
        "memory that grows and shrinks",
        (
            _MEMDEV,
            _MEMADDR,
            Key("block-size", Size(16 * KIB, 512 * GIB), "unit of change", 32 << 20),
            Key("requested-size", Size(0, 512 * GIB), "size at start", 0),
            Key("node", Integer(0, 127), "NUMA node", 0),
            Key("unplugged-inaccessible", words("auto", "on", "off"), "the guest may not touch unplugged memory"),
        ),
        mark="B",
    ),
    **both("virtio-pmem", "persistent memory in a file", (_MEMDEV, _MEMADDR), mark="B"),
    **both(
        "vhost-user-fs",
        "a directory of the host, shared by a foreign vhost-user socket; needs mem-share=on",
        (
            Key("chardev", ID, "id of a chardev socket", required=True),
            Key("tag", Text(1, 36), "name to mount it by", required=True),
        ),
        mark="B",
    ),
}


def _check_rng(values: dict[str, Any]) -> None:
    most, period = values["max-bytes"], values["period"]
    if (most is None) != (period is None):
        raise VmmError("max-bytes and period go together: give both or neither")
    if most is not None and not _MIN_RATE * period <= most * 1000 <= _MAX_RATE * period:
        raise VmmError(f"max-bytes / period * 1000 must be from {_MIN_RATE} to {_MAX_RATE} bytes a second")


CHECKS = {"virtio-rng-device": _check_rng, "virtio-rng-pci": _check_rng}
