"""`-numa`, `-incoming`, `-trace`, `-global` and `-smbios` (facts 1.4): their syntax; the features are not built yet."""

from __future__ import annotations

from vmm_core.config.addresses import UUID, IntegerList, is_ipv4
from vmm_core.config.kinds import ID, PATH, SOCKET_PATH, TEXT, TRUE_FALSE, Integer, Invalid, Kind, words
from vmm_core.config.table import Body, Key, by_name, read_body, read_class
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.draft import Draft

_NODE = Integer(0, 127)
_U16 = Integer(0, 65535)
_PORT = Integer(1, 65535)


class StateUri(Kind):
    """`file:DIR`, `unix:PATH` or `tcp:IPv4:PORT`; the value is (scheme, rest)."""

    expects = "file:DIR, unix:PATH or tcp:IPv4:PORT"
    metavar = "file:DIR|unix:PATH|tcp:IPv4:PORT"
    completions = ("file:", "unix:", "tcp:")

    def read(self, text: str) -> tuple[str, str]:
        scheme, colon, rest = text.partition(":")
        if scheme == "file" and colon:
            return scheme, str(PATH.read(rest))
        if scheme == "unix" and colon:
            return scheme, str(SOCKET_PATH.read(rest))
        host, _, port = rest.rpartition(":")
        if scheme != "tcp" or not is_ipv4(host):
            raise Invalid(self.expects)
        return scheme, f"{host}:{_PORT.read(port)}"


NUMA = by_name(
    (
        Body(
            "node",
            "a node",
            (
                Key("nodeid", _NODE, "number of the node", required=True),
                Key("cpus", IntegerList(253), "its virtual CPUs", required=True),
                Key("memdev", ID, "its memory: id of a memory-backend object", required=True),
            ),
            mark="B",
            built=False,
        ),
        Body(
            "dist",
            "the distance between two nodes",
            (
                Key("src", _NODE, "from", required=True),
                Key("dst", _NODE, "to", required=True),
                Key("val", Integer(10, 255), "10 within a node, more between nodes; default 20", required=True),
            ),
            mark="B",
            built=False,
        ),
    )
)
INCOMING = Body(
    "",
    "where the state comes from",
    (
        Key("uri", StateUri(), "source", required=True),
        Key("mapped", TRUE_FALSE, "map a snapshot's memory file instead of copying it", True),
    ),
    first="uri",
    mark="B",
    built=False,
)
TRACE = Body(
    "",
    "what to trace: at least one of both",
    (
        Key("file", PATH, "file that lists events"),
        Key("type", words("all", "events", "scopes"), "what to enable"),
    ),
    mark="B",
    built=False,
)
GLOBAL = Body(
    "",
    "a property of all devices of a kind",
    (Key("pcie-root-port.fast-unplug", Integer(0, 1), "unplug without the guest's consent", 0, required=True),),
    mark="B",
    built=False,
)


def _smbios(number: str, help: str, names: str, *more: Key) -> Body:
    keys = tuple(Key(name, TEXT, f"the table's {name.replace('_', ' ')}") for name in names.split())
    return Body(number, help, (*keys, *more), mark="B", built=False)


SMBIOS = by_name(
    (
        _smbios("0", "firmware", "vendor version date"),
        _smbios(
            "1", "system", "manufacturer product version serial sku family", Key("uuid", UUID, "the system's UUID")
        ),
        _smbios("2", "board", "manufacturer product version serial asset location"),
        _smbios("3", "chassis", "manufacturer version serial sku asset"),
        _smbios(
            "4",
            "processor",
            "manufacturer version serial asset sock_pfx part",
            Key("max-speed", _U16, "MHz at most"),
            Key("current-speed", _U16, "MHz now"),
        ),
        _smbios("17", "memory device", "manufacturer serial asset loc_pfx part bank", Key("speed", _U16, "MT/s")),
    )
)
BODIES = {
    "numa": tuple(NUMA.values()),
    "incoming": (INCOMING,),
    "trace": (TRACE,),
    "global": (GLOBAL,),
    "smbios": tuple(SMBIOS.values()),
}


def _read_numa(draft: Draft, text: str) -> None:
    body, values = read_class(NUMA, text)
    if body.name == "dist" and (values["src"] == values["dst"]) != (values["val"] == 10):
        raise VmmError("the distance of a node to itself is 10, to another node more than 10")


def _read_incoming(draft: Draft, text: str) -> None:
    read_body(INCOMING, text)


def _read_trace(draft: Draft, text: str) -> None:
    if not any(read_body(TRACE, text).values()):
        raise VmmError("needs file= or type=")


def _read_global(draft: Draft, text: str) -> None:
    read_body(GLOBAL, text)


def _read_smbios(draft: Draft, text: str) -> None:
    read_class(SMBIOS, text, "type=")


READERS = {
    "numa": _read_numa,
    "incoming": _read_incoming,
    "trace": _read_trace,
    "global": _read_global,
    "smbios": _read_smbios,
}
