"""`-help`, the manual page and shell completion come from the option table, so they mention every option."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vmm_core.config.catalogue import bodies, documented_keys
from vmm_core.config.completion import script
from vmm_core.config.helptext import usage
from vmm_core.config.manpage import page
from vmm_core.config.options import OPTIONS

_NAMES = [f"-{name}" for option in OPTIONS for name in (option.name, *option.aliases)]


def test_help_mentions_every_option_class_and_key() -> None:
    text = usage()
    words = set(text.replace(",", " ").split())
    assert set(_NAMES) <= words
    for option in OPTIONS:
        for body in bodies(option):
            assert body.name in text
            assert all(key.name in text for key in documented_keys(body))


def test_the_manual_page_mentions_every_option_class_and_key() -> None:
    text = page().replace("\\-", "-")
    for name in _NAMES:
        assert f"\\fB{name}\\fR" in text or f" {name} " in f" {text.replace(chr(10), ' ')} ", name
    for option in OPTIONS:
        for body in bodies(option):
            assert not body.name or f"\\fB{body.name}\\fR" in text
            assert all(f"\\fB{key.name}\\fR" in text for key in documented_keys(body))


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_manual_page_is_valid_roff() -> None:
    result = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"], input=page(), text=True, capture_output=True, check=True
    )
    assert result.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_option_class_and_key(shell: str) -> None:
    text = script(shell)
    words = set(text.replace('"', " ").split())
    assert set(_NAMES) <= words
    for option in OPTIONS:
        if option.mark == "L":
            continue
        for body in bodies(option):
            assert f"'{option.name}:{body.name}')" in text or not documented_keys(body)
            assert all({key.name, f"{key.name}="} & words for key in documented_keys(body))


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_script_is_valid(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n"], input=script(shell), text=True, check=True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-dev", ["-device"]),
        ("-device virtio-blk", ["virtio-blk-device", "virtio-blk-pci"]),
        ("-device virtio-blk-device,dr", ["virtio-blk-device,drive="]),
        ("-drive id=a,aio=", ["off", "native", "io_uring", "threads"]),
        ("-drive id=a,aio=n", ["native"]),
        ("-machine microvm,accel=kvm:", ["tcg"]),
        ("-serial c", ["chardev:"]),
        ("-qmp u", ["unix:"]),
        ("-object iothread,", ["iothread,id="]),
        ("-kernel @vml", ["@vmlinux"]),
        ("-drive readonly=on,file=@vml", ["@vmlinux"]),
    ],
)
def test_bash_offers_what_may_follow(line: str, words: list[str], tmp_path: Path) -> None:
    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    (tmp_path / "vmlinux").touch()
    (tmp_path / "complete.bash").write_text(script("bash"))
    asked = f"stratovirt {line}".replace("@", f"{tmp_path}/")
    commands = f"""
        source {tmp_path}/complete.bash
        COMP_LINE={asked!r} COMP_POINT={len(asked)}
        _stratovirt
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    result = subprocess.run(["bash", "-c", commands], text=True, capture_output=True, check=True)
    assert result.stdout.split() == [word.replace("@", f"{tmp_path}/") for word in words]


@pytest.mark.parametrize(
    ("command", "start"),
    [
        (["vmm_core.config.manpage"], ".TH STRATOVIRT 1"),
        (["vmm_core.config.completion", "bash"], "# bash completion"),
        (["vmm_core.config.completion", "zsh"], "#compdef stratovirt"),
    ],
)
def test_the_generators_run_as_commands(command: list[str], start: str) -> None:
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-m", *command], cwd=root, text=True, capture_output=True, check=True)
    assert result.stdout.startswith(start)
