"""`-drive` (facts 1.5; the user's document, "Disk Configuration")."""

from __future__ import annotations

from vmm_core.config.draft import add_unique
from vmm_core.config.kinds import BOOL, DISCARD, ID, MIB, PATH, Integer, Size, words
from vmm_core.config.records import DriveConfig
from vmm_core.config.table import Body, Key, read_body
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_core.config.draft import Draft

_CACHE = Size(1, 32 * MIB)

DRIVE = Body(
    "",
    "a disk's image: a regular file or a block device",
    (
        Key("id", ID, "name of the drive; required unless if=pflash"),
        Key("file", PATH, "image file or block device", required=True),
        Key("if", words("none", "pflash"), "none: for a -device; pflash: firmware", "none"),
        Key("unit", Integer(0, 1), "number of the pflash"),
        Key("readonly", BOOL, "the guest may not write", False),
        Key("direct", BOOL, "bypass the host's page cache (O_DIRECT)", True),
        Key(
            "aio",
            words("off", "native", "io_uring", "threads"),
            "how requests reach the host; default native with direct=on, else off",
        ),
        Key("throttling.iops-total", Integer(0, 1_000_000), "requests a second on average; 0: no limit", 0),
        Key("media", words("disk", "cdrom"), "kind of medium", "disk"),
        Key("discard", DISCARD, "unmap: the guest's discards free space in the image", False),
        Key("detect-zeroes", words("off", "on", "unmap"), "turn writes of zeroes into zeroing, or unmapping", "off"),
        Key("format", words("raw", "qcow2"), "format of the image", "raw"),
        Key("l2-cache-size", _CACHE, "size of qcow2's table cache", mark="B"),
        Key("refcount-cache-size", _CACHE, "size of qcow2's reference count cache", mark="B"),
    ),
)
BODIES = {"drive": (DRIVE,)}


def _read_drive(draft: Draft, text: str) -> None:
    values = read_body(DRIVE, text)
    _check_interface(values)
    _check_format(values)
    drive = DriveConfig(
        id=values["id"] or "",
        path=values["file"],
        interface=values["if"],
        unit=values["unit"],
        readonly=values["readonly"],
        direct=values["direct"],
        aio=_aio(values["aio"], values["direct"]),
        iops_total=values["throttling.iops-total"],
        media=values["media"],
        discard=values["discard"],
        detect_zeroes=values["detect-zeroes"],
        format=values["format"],
    )
    if drive.id:
        add_unique((other.id for other in draft.drives), drive.id, "Drive")
    if drive.unit is not None:
        add_unique((str(other.unit) for other in draft.drives), str(drive.unit), "Pflash unit")
    draft.drives.append(drive)


def _check_interface(values: dict[str, Any]) -> None:
    if len(values["file"].rpartition("/")[2]) > 255:
        raise VmmError("the name of an image file has at most 255 characters")
    if values["if"] == "pflash":
        if values["unit"] is None:
            raise VmmError("if=pflash needs unit=0 or unit=1")
        if values["format"] != "raw":
            raise VmmError("if=pflash takes format=raw only")
    elif values["id"] is None:
        raise VmmError(f"the required argument 'id' was not provided ({DRIVE.keys[0].help})")
    elif values["unit"] is not None:
        raise VmmError("unit is for if=pflash only")


def _check_format(values: dict[str, Any]) -> None:
    if values["format"] == "raw" and (values["l2-cache-size"] or values["refcount-cache-size"]):
        raise VmmError("l2-cache-size and refcount-cache-size are for format=qcow2 only")


def _aio(aio: str | None, direct: bool) -> str:
    if aio is None:
        return "native" if direct else "off"
    if aio == "native" and not direct:
        raise VmmError("aio=native needs direct=on")
    if aio == "off" and direct:
        raise VmmError("aio=off needs direct=off: requests that bypass the page cache are not served in line")
    return aio


READERS = {"drive": _read_drive}
