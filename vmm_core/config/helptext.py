"""What `-help` and `-version` print; generated from the option table."""

from __future__ import annotations

from vmm_core.config.catalogue import IGNORED_MARK, bodies, body_synopsis, state, value_synopsis
from vmm_core.config.options import OPTIONS
from vmm_core.config.table import Option

_INDENT = " " * 4
_WIDTH = 100
_COMPATIBLE = "2.5.0"  # the release of StratoVirt whose interface this is


def version() -> str:
    """Return the version line, in StratoVirt's form."""
    return f"StratoVirt {_COMPATIBLE} commit-id stratocell-{_own_version()}"


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    try:
        return installed_version("stratocell")
    except PackageNotFoundError:
        return "uninstalled"


def usage() -> str:
    """Return the whole text of `-help`."""
    lines = [
        "Usage: stratovirt [-OPTION [VALUE...]]...",
        "",
        "A virtual machine monitor with the command line of StratoVirt. Keys in brackets may be left out.",
        "Sizes are in MiB without a suffix K, M or G. Everything after -- is ignored.",
        "",
    ]
    ignored = [option for option in OPTIONS if option.mark == IGNORED_MARK]
    for option in OPTIONS:
        if option.mark != IGNORED_MARK:
            lines += _describe(option)
    lines += ["Accepted for libvirt's sake, without effect:"]
    lines += [f"{_INDENT}{' '.join(f'-{option.name}' for option in ignored)}"]
    return "\n".join(lines) + "\n"


def _describe(option: Option) -> list[str]:
    names = ", ".join(f"-{name}" for name in (option.name, *option.aliases))
    remark = state(option.mark, option.built)
    tables = bodies(option)
    value = "" if tables else value_synopsis(option)
    lines = [f"{names} {value}".rstrip(), f"{_INDENT}{option.help}{f' ({remark})' if remark else ''}"]
    for body in tables:
        remark = state(body.mark, body.built and option.built)
        lines += _wrap(body_synopsis(body) + ([f"  ({remark})"] if remark else []))
    return lines


def _wrap(pieces: list[str]) -> list[str]:
    lines = [_INDENT * 2]
    for piece in pieces:
        if len(lines[-1]) + len(piece) > _WIDTH and lines[-1].strip():
            lines.append(_INDENT * 3)
        lines[-1] += piece
    return lines
