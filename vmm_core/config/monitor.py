"""`-qmp` and `-mon` (facts 1.4). Both are optional here; they may stand together."""

from __future__ import annotations

from vmm_core.config.addresses import LISTEN_ADDRESS
from vmm_core.config.kinds import FLAG, ID, words
from vmm_core.config.records import MonitorConfig
from vmm_core.config.table import Body, Key, read_body
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.draft import Draft

QMP = Body(
    "",
    "one QMP listener; a socket left behind by a killed VM is replaced",
    (
        Key("address", LISTEN_ADDRESS, "where to listen", required=True),
        Key("server", FLAG, "must be given: the VM listens", required=True),
        Key("nowait", FLAG, "must be given: the VM starts without a client", required=True),
        Key("iothread", ID, "id of an iothread object; checked only, QMP never waits for device I/O"),
    ),
    first="address",
)
MON = Body(
    "",
    "one QMP listener on a socket chardev",
    (
        Key("chardev", ID, "id of a chardev socket with server and nowait", required=True),
        Key("id", ID, "name of the monitor"),
        Key("mode", words("control"), "must be control", required=True),
    ),
    mark="B",
)
BODIES = {"qmp": (QMP,), "mon": (MON,)}


def _read_qmp(draft: Draft, text: str) -> None:
    values = read_body(QMP, text)
    for key in ("server", "nowait"):
        if not values[key]:
            raise VmmError(f"{key} cannot be off")
    kind, path, host, port = values["address"]
    if values["iothread"]:
        draft.iothread_users.append(("-qmp", values["iothread"]))
    draft.monitors.append(MonitorConfig(kind=kind, path=path, host=host, port=port))


def _read_mon(draft: Draft, text: str) -> None:
    draft.monitor_chardev = read_body(MON, text)["chardev"]


READERS = {"qmp": _read_qmp, "mon": _read_mon}
