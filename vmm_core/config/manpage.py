"""The manual page, from the option table: `python -m vmm_core.config.manpage > stratovirt.1`."""

from __future__ import annotations

import sys

from vmm_core.config.catalogue import IGNORED_MARK, bodies, documented_keys, spelling, state, value_synopsis
from vmm_core.config.kinds import Choice
from vmm_core.config.options import OPTIONS
from vmm_core.config.table import Body, Key, Option

_INTRODUCTION = """\
A virtual machine monitor with the command line of StratoVirt. Every device runs in a sandboxed process of its own.

An option starts with one dash; all words up to the next option are its values. Options with sub-parameters take
them separated by commas, without spaces; the first one of some options may stand without its name. An option marked
"repeatable" may be given several times. Everything after -- is ignored.

Sizes are in MiB, or have a suffix K, M or G. Where on and off are accepted, so are true, false, yes and no, unless the
key lists true|false only.
"""
_EXAMPLES = (
    (
        "A lightweight VM with one disk, controlled over QMP, its serial port on the terminal:",
        (
            "stratovirt -kernel vmlinux.bin",
            "    -append console=ttyS0 root=/dev/vda rw reboot=k panic=1",
            "    -drive file=rootfs.ext4,id=rootfs,readonly=false",
            "    -device virtio-blk-device,drive=rootfs",
            "    -qmp unix:/tmp/stratovirt.socket,server,nowait",
            "    -serial stdio",
        ),
    ),
    (
        "A disk behind a foreign vhost-user socket:",
        (
            "stratovirt -kernel vmlinux.bin -append console=ttyS0 root=/dev/vda",
            "    -chardev socket,id=c0,path=/run/blk.sock",
            "    -device vhost-user-blk-device,id=b0,chardev=c0",
            "    -serial stdio",
        ),
    ),
)


def page() -> str:
    """Return the page's source for man(7)."""
    lines = ['.TH STRATOVIRT 1 "" stratocell', ".SH NAME", "stratovirt \\- run a virtual machine"]
    lines += [".SH SYNOPSIS", ".B stratovirt", "[\\fB\\-OPTION\\fR [\\fIVALUE\\fR...]]..."]
    lines += [".SH DESCRIPTION", *_paragraphs(_INTRODUCTION), ".SH OPTIONS"]
    for option in OPTIONS:
        if option.mark != IGNORED_MARK:
            lines += _option(option)
    lines += [".SS Accepted for libvirt's sake, without effect"]
    lines += [_escape(" ".join(f"-{option.name}" for option in OPTIONS if option.mark == IGNORED_MARK))]
    lines += [*_closing(), ".SH EXAMPLES"]
    for words, command in _EXAMPLES:
        joined = (f"{line} \\" for line in command[:-1])
        lines += [_escape(words), ".PP", ".EX", *(_escape(line) for line in (*joined, command[-1])), ".EE", ".PP"]
    return "\n".join(lines) + "\n"


def _closing() -> list[str]:
    return [
        ".SH EXIT STATUS",
        "0 when the guest powered off or reset, on QMP quit, and on SIGTERM, SIGINT or SIGHUP;",
        "1 when the command line is wrong or the VM cannot be started.",
        ".SH ENVIRONMENT",
        ".TP",
        "\\fBSTRATOVIRT_LOG_LEVEL\\fR",
        "trace, debug, info (default), warn or error.",
    ]


def _option(option: Option) -> list[str]:
    names = ", ".join(f"\\fB{_escape(f'-{name}')}\\fR" for name in (option.name, *option.aliases))
    tables = bodies(option)
    value = "" if tables else _escape(value_synopsis(option))
    remarks = [state(option.mark, option.built), "repeatable" if option.values == "many" else ""]
    lines = [".TP", f"{names} \\fI{value}\\fR" if value else names, _escape(_sentence(option.help, *remarks))]
    if option.kind and not tables:
        lines += [".br", _escape(f"Takes {option.kind.expects}.")]
    if tables:
        lines += [".RS", *(line for body in tables for line in _body(body, option.built)), ".RE"]
    return lines


def _body(body: Body, option_built: bool) -> list[str]:
    keys = [line for key in documented_keys(body) for line in _key(key, body)]
    if not body.name:
        return keys
    remark = state(body.mark, body.built and option_built)
    heading = [".TP", f"\\fB{_escape(body.name)}\\fR", _escape(_sentence(body.help, remark))]
    return [*heading, ".RS", *keys, ".RE"] if keys else heading


def _key(key: Key, body: Body) -> list[str]:
    name = f"\\fB{_escape(spelling(key).partition('=')[0])}\\fR"
    value = f"=\\fI{_escape(key.kind.metavar)}\\fR" if key.kind.metavar else ""
    remarks = [
        "required" if key.required else "",
        "the name may be left out" if key.name == body.first else "",
        _default(key),
    ]
    text = _sentence(key.help, *remarks)
    expects = f" Takes {key.kind.expects}." if key.kind.metavar and not isinstance(key.kind, Choice) else ""
    return [".TP", name + value, _escape(text + expects)]


def _default(key: Key) -> str:
    if key.default in (None, ""):
        return ""
    return f"{'without this option: ' if key.required else 'default '}{key.kind.show(key.default)}"


def _sentence(text: str, *remarks: str) -> str:
    notes = ", ".join(remark for remark in remarks if remark)
    return f"{text[:1].upper()}{text[1:]}{f' ({notes})' if notes else ''}."


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += [".PP", *(_escape(line) for line in paragraph.splitlines())]
    return lines


def _escape(text: str) -> str:
    """Make text literal for roff: no line is a request, dashes stay dashes."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


if __name__ == "__main__":
    sys.stdout.write(page())
