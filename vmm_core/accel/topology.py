"""APIC ids: how a CPU's number becomes its place in sockets, dies, clusters, cores and threads.

Each level takes as many bits of the id as its count needs (Intel SDM volume 3A, 9.9), so counts that are no powers of
two leave gaps. Ids end at 253 here: 254 is the IOAPIC's at most, 255 the broadcast.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmm_core.config.records import CpuTopology

    Levels = tuple[int, int, int, int]

LAST_ID = 253


def levels(topology: CpuTopology) -> Levels:
    """Return (threads, cores, clusters, dies) per enclosing level, as CPUID shows them.

    A topology whose gaps push an id beyond 253 is shown flat: one package of single-threaded cores.
    """
    exact = (topology.threads, topology.cores, topology.clusters, topology.dies)
    if apic_id(topology.max_cpus - 1, exact) <= LAST_ID:
        return exact
    return (1, topology.max_cpus, 1, 1)


def apic_id(index: int, counts: Levels) -> int:
    """Return the APIC id of CPU `index`, threads varying fastest."""
    result = shift = 0
    for count in counts:
        index, position = divmod(index, count)
        result |= position << shift
        shift += (count - 1).bit_length()
    return result | index << shift


def apic_ids(topology: CpuTopology, count: int) -> list[int]:
    """Return the ids of the first `count` CPUs."""
    counts = levels(topology)
    return [apic_id(index, counts) for index in range(count)]
