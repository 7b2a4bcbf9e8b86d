"""`-smp` and `-cpu` (facts 1.4; the user's document, "Basic Parameters")."""

from __future__ import annotations

from vmm_core.config.kinds import BOOL, Integer, words
from vmm_core.config.records import CpuTopology
from vmm_core.config.table import Body, Key, read_body
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_core.config.draft import Draft

MAX_CPUS = 254
_COUNT = Integer(1, MAX_CPUS)

SMP = Body(
    "",
    "maxcpus = sockets x dies x clusters x cores x threads",
    (
        Key("cpus", _COUNT, "virtual CPUs at start", 1, required=True),
        Key("maxcpus", _COUNT, "virtual CPUs at most; default: the product of the topology, or cpus"),
        Key("sockets", _COUNT, "sockets; default 1, or what maxcpus asks for"),
        Key("dies", _COUNT, "dies in a socket", 1),
        Key("clusters", _COUNT, "clusters in a die", 1),
        Key("cores", _COUNT, "cores in a cluster; default: what maxcpus asks for"),
        Key("threads", _COUNT, "threads in a core; default 1, or what maxcpus asks for"),
    ),
    first="cpus",
)
CPU = Body(
    "",
    "the host's CPU; the keys matter on aarch64 only",
    (
        Key("model", words("host"), "model", "host", required=True),
        Key("pmu", BOOL, "performance monitoring unit", False),
        Key("sve", BOOL, "scalable vector extension", False),
        Key("kvm-steal-time", BOOL, "report stolen time", False),
    ),
    first="model",
    mark="B",
)
BODIES = {"smp": (SMP,), "cpu": (CPU,)}


def topology(values: dict[str, Any]) -> CpuTopology:
    """Derive what is not given, then hold the result to the topology equation."""
    cpus, dies, clusters = values["cpus"], values["dies"], values["clusters"]
    sockets, cores, threads = values["sockets"], values["cores"], values["threads"]
    most = values["maxcpus"]
    if most is None:
        most = sockets * dies * clusters * cores * threads if sockets and cores and threads else cpus
    if cores is None:
        sockets, threads = sockets or 1, threads or 1
        cores = most // (sockets * dies * clusters * threads)
    elif sockets is None:
        threads = threads or 1
        sockets = most // (dies * clusters * cores * threads)
    elif threads is None:
        threads = most // (sockets * dies * clusters * cores)
    if sockets * dies * clusters * cores * threads != most:
        shape = f"sockets={sockets},dies={dies},clusters={clusters},cores={cores},threads={threads}"
        raise VmmError(f"the product of {shape} must be equal to maxcpus, which is {most}")
    if not cpus <= most <= MAX_CPUS:
        raise VmmError(f"cpus={cpus} <= maxcpus={most} <= {MAX_CPUS} does not hold")
    return CpuTopology(
        cpus=cpus, max_cpus=most, sockets=sockets, dies=dies, clusters=clusters, cores=cores, threads=threads
    )


def _read_smp(draft: Draft, text: str) -> None:
    draft.cpus = topology(read_body(SMP, text))


def _read_cpu(draft: Draft, text: str) -> None:
    read_body(CPU, text)


READERS = {"smp": _read_smp, "cpu": _read_cpu}
