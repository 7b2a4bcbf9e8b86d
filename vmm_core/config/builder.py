"""From a tokenised command line to a checked VmConfig: read each option, refuse what is not built, check the whole."""

from __future__ import annotations

import os

from vmm_core.config.checks import check_combinations, check_host, check_listeners
from vmm_core.config.devices.place import place, records
from vmm_core.config.draft import Draft
from vmm_core.config.kinds import shown
from vmm_core.config.records import BootConfig, MemoryConfig, VmConfig
from vmm_core.config.references import Resolver
from vmm_core.config.table import read_value
from vmm_core.errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmm_core.config.lexer import Occurrence
    from vmm_core.config.records import BackendPolicy
    from vmm_core.config.table import Option


def build(occurrences: Iterable[Occurrence]) -> VmConfig:
    """Return the configuration; raises VmmError.

    Well-formedness comes first, so that a line for a machine or device that is not built is still checked in full.
    """
    draft = Draft()
    for occurrence in occurrences:
        _read(draft, occurrence.option, occurrence.values)
    place(draft)
    rootless = not (draft.chardevs or draft.drives or "initrd" in draft.scalars)
    check_combinations(draft)
    Resolver(draft).resolve()
    backends = _backends(draft)
    check_listeners(draft)
    _refuse_unbuilt(draft)
    config = _assemble(draft, backends)
    check_host(config, rootless)
    return config


def _read(draft: Draft, option: Option, values: list[str]) -> None:
    if option.mark == "L":
        return
    for text in values or [""]:
        try:
            if option.family:
                _reader(option)(draft, text)
            elif option.kind is None or (not text and option.values == "optional"):
                draft.scalars.setdefault(option.name, None)
            else:
                draft.scalars[option.name] = read_value(option.name, option.kind, text)
        except VmmError as error:
            raise VmmError(f'Add args "{shown(text)}" error.') from VmmError(f"-{option.name}: {error}")
    if not option.built:
        draft.unbuilt.append(f"-{option.name}")


def _reader(option: Option) -> Callable[[Draft, str], None]:
    module = __import__(f"vmm_core.config.{option.family}", None, None, ("READERS",))
    reader: Callable[[Draft, str], None] = module.READERS[option.name]
    return reader


def _refuse_unbuilt(draft: Draft) -> None:
    if draft.machine.type == "microvm" and os.uname().machine != "x86_64":
        draft.unbuilt.append(f"machine type 'microvm' on {os.uname().machine}")
    draft.unbuilt.extend(body.name for body, _ in draft.devices if not body.built)
    names = list(dict.fromkeys(draft.unbuilt))
    if len(names) == 1:
        raise VmmError(f"{names[0]} is not built yet")
    if names:
        raise VmmError(f"{', '.join(names[:-1])} and {names[-1]} are not built yet")


def _backends(draft: Draft) -> tuple[BackendPolicy, ...]:
    if not draft.backends:
        return ()
    from vmm_core.config.backends import resolve

    return resolve(draft)


def _assemble(draft: Draft, backends: tuple[BackendPolicy, ...]) -> VmConfig:
    scalars = draft.scalars
    return VmConfig(
        name=scalars.get("name", ""),
        machine=draft.machine.replace(accel=draft.accel or draft.machine.accel),
        cpus=draft.cpus,
        memory=MemoryConfig(path=scalars.get("mem-path"), prealloc="mem-prealloc" in scalars, **draft.memory),
        boot=BootConfig(kernel=scalars.get("kernel"), initrd=scalars.get("initrd"), append=" ".join(draft.append)),
        chardevs=tuple(draft.chardevs),
        serial=draft.serial,
        drives=tuple(draft.drives),
        devices=records(draft),
        iothreads=tuple(draft.iothreads),
        backends=backends,
        monitors=tuple(draft.monitors),
        freeze="S" in scalars,
        log_path=scalars.get("D"),
        pidfile=scalars.get("pidfile"),
        daemonize="daemonize" in scalars,
        seccomp="disable-seccomp" not in scalars,
        test_socket=scalars.get("mod-test"),
    )
