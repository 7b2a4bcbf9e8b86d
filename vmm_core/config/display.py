"""`-vnc` and `-cameradev` (facts 1.4; the user's document, "VNC Configuration")."""

from __future__ import annotations

from vmm_core.config.addresses import is_ipv4
from vmm_core.config.kinds import FLAG, ID, TEXT, Integer, Invalid, Kind
from vmm_core.config.table import Body, Key, by_name, read_body, read_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.draft import Draft

VNC_PORT_BASE = 5900
_DISPLAY = Integer(0, 65535 - VNC_PORT_BASE)


class VncAddress(Kind):
    """`IPv4:N`; the value is (host, TCP port)."""

    expects = f"IPv4:N with N from 0 to {65535 - VNC_PORT_BASE}"
    metavar = "IPv4:N"

    def read(self, text: str) -> tuple[str, int]:
        host, _, number = text.rpartition(":")
        if not is_ipv4(host):
            raise Invalid(self.expects)
        return host, VNC_PORT_BASE + int(_DISPLAY.read(number))


VNC = Body(
    "",
    "VNC server for one client",
    (
        Key("address", VncAddress(), "where to listen: TCP port 5900+N", required=True),
        Key("tls-creds", ID, "id of a tls-creds-x509 object"),
        Key("sasl", FLAG, "ask for a user name and password", False),
        Key("sasl-authz", ID, "id of an authz-simple object"),
    ),
    first="address",
)
_CAMERA = (
    Key("id", ID, "name of the camera", required=True),
    Key("path", TEXT, "device of the host"),
)
CAMERAS = by_name(
    Body(name, help, _CAMERA, mark="B", built=False)
    for name, help in (("v4l2", "a Video4Linux device"), ("demo", "a test picture"), ("ohcamera", "an OHOS camera"))
)
BODIES = {"vnc": (VNC,), "cameradev": tuple(CAMERAS.values())}


def _read_vnc(draft: Draft, text: str) -> None:
    read_body(VNC, text)


def _read_cameradev(draft: Draft, text: str) -> None:
    read_class(CAMERAS, text)


READERS = {"vnc": _read_vnc, "cameradev": _read_cameradev}
