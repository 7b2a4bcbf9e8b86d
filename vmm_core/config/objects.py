"""`-object` (facts 1.9; the user's document, "iothread Configuration" and "RNG Configuration")."""

from __future__ import annotations

from vmm_core.config.addresses import IntegerList
from vmm_core.config.draft import add_unique
from vmm_core.config.kinds import BOOL, GIB, ID, PATH, TEXT, TRUE_FALSE, Size, words
from vmm_core.config.records import IothreadConfig
from vmm_core.config.table import Body, Key, by_name, read_class
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.draft import Draft

MAX_IOTHREADS = 8
_ID = Key("id", ID, "name of the object", required=True)
_MEMORY = (
    _ID,
    Key("size", Size(1, 512 * GIB), "size of the memory", required=True),
    Key("host-nodes", IntegerList(127), "NUMA nodes of the host"),
    Key("policy", words("default", "preferred", "bind", "interleave"), "NUMA policy", "default"),
    Key("dump-guest-core", BOOL, "include it in core dumps", True),
    Key("mem-prealloc", BOOL, "touch it before the VM starts", False),
)


def _memory(name: str, help: str, share: bool, *keys: Key) -> Body:
    shared = Key("share", BOOL, "share it with other processes", share)
    return Body(f"memory-backend-{name}", help, (*_MEMORY, *keys, shared), mark="B", built=False)


OBJECTS = by_name(
    (
        Body("iothread", f"a thread for a disk's or card's I/O; at most {MAX_IOTHREADS}", (_ID,)),
        Body(
            "rng-random",
            "a source of random numbers",
            (_ID, Key("filename", PATH, "character device, such as /dev/random", required=True)),
            built=False,
        ),
        _memory("ram", "anonymous memory", False),
        _memory("file", "memory in a file", True, Key("mem-path", PATH, "file or directory", required=True)),
        _memory("memfd", "memory in an unnamed file", True),
        Body(
            "tls-creds-x509",
            "certificates for -vnc",
            (
                _ID,
                Key("dir", PATH, "directory of the certificates", required=True),
                Key("endpoint", words("server", "client"), "side of the connection"),
                Key("verify-peer", TRUE_FALSE, "ask clients for a certificate", True),
            ),
            built=False,
        ),
        Body(
            "authz-simple",
            "who may connect to -vnc",
            (_ID, Key("identity", TEXT, "name of the user", required=True)),
            built=False,
        ),
    )
)
BODIES = {"object": tuple(OBJECTS.values())}


def _read_object(draft: Draft, text: str) -> None:
    body, values = read_class(OBJECTS, text)
    name = values["id"]
    add_unique(draft.objects, name, "Object")
    draft.objects[name] = body.name
    if body.name == "iothread":
        if len(draft.iothreads) == MAX_IOTHREADS:
            raise VmmError(f"at most {MAX_IOTHREADS} iothreads can be configured")
        draft.iothreads.append(IothreadConfig(id=name))
    if not body.built:
        draft.unbuilt.append(f"object {body.name}")


READERS = {"object": _read_object}
