"""`-machine` and `-accel` (facts 1.4)."""

from __future__ import annotations

from vmm_core.config.kinds import BOOL, Choice, words
from vmm_core.config.table import Body, Key, read_body

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.draft import Draft

ACCELERATOR = Choice({"kvm": "kvm", "kvm:tcg": "auto", "tcg": "tcg", "test": "test", "auto": "auto"})
BUILT_MACHINES = ("microvm",)

MACHINE = Body(
    "",
    "type of the machine and its properties",
    (
        Key("type", words("none", "microvm", "q35", "virt", any_case=True), "type of the machine", "microvm"),
        Key("dump-guest-core", BOOL, "include guest memory in core dumps", True),
        Key("mem-share", BOOL, "share guest memory with other processes", False),
        Key("accel", ACCELERATOR, "as -accel, which wins over it", mark="B"),
        Key("usb", BOOL, "accepted without effect", False, mark="L"),
        Key("gic-version", words("3"), "version of the interrupt controller (virt only)", mark="B"),
    ),
    first="type",
)
ACCEL = Body(
    "",
    "what runs the virtual CPUs",
    (
        Key(
            "type",
            ACCELERATOR,
            "auto takes kvm where a probe shows that it works, else tcg, the software CPU; kvm:tcg is auto",
            "auto",
            required=True,
        ),
    ),
    first="type",
    mark="B",
)
BODIES = {"machine": (MACHINE,), "accel": (ACCEL,)}


def _read_machine(draft: Draft, text: str) -> None:
    values = read_body(MACHINE, text)
    kind = values["type"]
    draft.machine = draft.machine.replace(
        type=kind,
        accel=values["accel"] or "auto",
        dump_guest_core=values["dump-guest-core"],
        mem_share=values["mem-share"],
    )
    if kind not in BUILT_MACHINES:
        draft.unbuilt.insert(0, f"machine type '{kind}'")
    elif values["gic-version"]:
        draft.unbuilt.append("-machine gic-version")


def _read_accel(draft: Draft, text: str) -> None:
    draft.accel = read_body(ACCEL, text)["type"]


READERS = {"machine": _read_machine, "accel": _read_accel}
