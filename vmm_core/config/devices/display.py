"""Graphics and input devices (facts 1.8; the user's document, "virtio-gpu Device Configuration")."""

from __future__ import annotations

from vmm_core.config.devices.common import both, other, pci
from vmm_core.config.kinds import ID, PATH, TRUE_FALSE, Integer, Text, words
from vmm_core.config.table import Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_U32 = (1 << 32) - 1
_SCREEN = (
    Key("max_outputs", Integer(1, 16), "screens", 1, aliases=("max-outputs",)),
    Key("edid", TRUE_FALSE, "describe the screens to the guest", True),
    Key("xres", Integer(1, _U32), "width in pixels", 1024),
    Key("yres", Integer(1, _U32), "height in pixels", 768),
)
_TOUCH = (
    Key("serial", Text(1, 255), "serial number"),
    Key("x", Integer(1, _U32, hexadecimal=True), "largest horizontal position", 0x7FFF),
    Key("y", Integer(1, _U32, hexadecimal=True), "largest vertical position", 0x7FFF),
    Key("touchtype", words("screen", "pad"), "what it is", "screen"),
)
DEVICES = {
    **pci(
        "virtio-gpu-pci",
        "2D graphics; one in a VM",
        (
            *_SCREEN,
            Key(
                "max_hostmem",
                Integer(1, (1 << 64) - 1),
                "memory of the host it may use, in bytes",
                256 << 20,
                aliases=("max-hostmem",),
            ),
            Key("enable_bar0", TRUE_FALSE, "frame buffer in BAR 0", False, aliases=("enable-bar0",), mark="B"),
            Key("cursor_size", Integer(1, 4096), "pixels of the cursor", 128, aliases=("cursor-size",), mark="B"),
        ),
        mark="V",
    ),
    **pci(
        "vhost-user-gpu-pci",
        "graphics behind a foreign vhost-user socket",
        (
            Key("chardev", ID, "id of a chardev socket that connects", required=True),
            Key("num-queues", Integer(2, 32), "queues", 2),
            *_SCREEN,
            Key("virgl", TRUE_FALSE, "3D acceleration", True),
        ),
    ),
    **both("virtio-input", "an input device of the host", (Key("evdev", PATH, "its event device"),), mark="B"),
    **both("virtio-multitouch", "a touch screen or pad", _TOUCH, mark="B"),
    **other("ramfb", "a frame buffer in guest memory", (Key("install", TRUE_FALSE, "install it", False),)),
    **pci(
        "ivshmem-scream",
        "sound over shared memory",
        (
            Key("memdev", ID, "id of a memory-backend object", required=True),
            Key("interface", words("ALSA", "PulseAudio", "Demo"), "sound system of the host", required=True),
            Key("playback", Text(1, 255), "device for output"),
            Key("record", Text(1, 255), "device for input"),
        ),
    ),
}
CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {}
