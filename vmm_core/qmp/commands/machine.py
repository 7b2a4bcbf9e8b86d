"""What the machine is made of: accelerator, CPUs, chardevs, iothreads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm_core.qmp.registry import Context, NoArguments, command

if TYPE_CHECKING:
    from vmm_core.config.records import CpuTopology

MACHINES = ("microvm",)
MAX_CPUS = 254


@command("query-target")
def query_target(_context: Context, _arguments: NoArguments) -> object:
    return {"arch": "x86_64"}


@command("query-kvm")
def query_kvm(context: Context, _arguments: NoArguments) -> object:
    import os

    return {"enabled": context.vm.accel_name == "kvm", "present": os.path.exists("/dev/kvm")}


@command("x-query-accel")
def query_accel(context: Context, _arguments: NoArguments) -> object:
    """The accelerator in use and why it was chosen."""
    return {"name": context.vm.accel_name, "reason": context.vm.accel_reason}


@command("query-machines")
def query_machines(_context: Context, _arguments: NoArguments) -> object:
    common = {"hotpluggable-cpus": False, "numa-mem-supported": False, "cpu-max": MAX_CPUS, "deprecated": False}
    return [{"name": name, **common} for name in MACHINES]


@command("query-cpus")
def query_cpus(context: Context, _arguments: NoArguments) -> object:
    topology = context.vm.config.cpus
    return [
        {
            "CPU": index,
            "arch": "x86",
            "current": index == 0,
            "halted": False,
            "qom_path": f"/machine/unattached/device[{index}]",
            "thread_id": thread_id,
            "props": place(topology, index),
        }
        for index, thread_id in enumerate(context.vm.vcpus.thread_ids())
    ]


@command("query-hotpluggable-cpus")
def query_hotpluggable_cpus(context: Context, _arguments: NoArguments) -> object:
    """Every possible CPU; those that exist have a path. None can be plugged in on a microvm."""
    config = context.vm.config.cpus
    cpus = []
    for index in range(config.max_cpus):
        cpu: dict[str, object] = {"type": "host-x86-cpu", "vcpus-count": 1, "props": place(config, index)}
        if index < config.cpus:
            cpu["qom-path"] = f"/machine/unattached/device[{index}]"
        cpus.append(cpu)
    return cpus


def place(topology: CpuTopology, index: int) -> dict[str, int]:
    """Where CPU `index` sits, threads varying fastest; the keys are spelled as StratoVirt spells them."""
    rest, thread = divmod(index, topology.threads)
    rest, core = divmod(rest, topology.cores * topology.clusters)
    socket, die = divmod(rest, topology.dies)
    return {"socket-id": socket, "die_id": die, "core-id": core, "thread-id": thread}


@command("query-chardev")
def query_chardev(context: Context, _arguments: NoArguments) -> object:
    return [
        {"label": chardev.id, "filename": chardev.filename, "frontend-open": True} for chardev in context.vm.chardevs
    ]


@command("query-iothreads")
def query_iothreads(context: Context, _arguments: NoArguments) -> object:
    """An iothread is a thread of the backend of the disk that names it; without such a disk its id is the core's."""
    return [
        {
            "id": iothread.id,
            "thread-id": context.vm.iothread_pid(iothread.id),
            "poll-max-ns": 0,
            "poll-grow": 0,
            "poll-shrink": 0,
        }
        for iothread in context.vm.config.iothreads
    ]
