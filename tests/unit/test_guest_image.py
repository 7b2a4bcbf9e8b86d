"""The guest image: what the tests boot is what they say it is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.guest.cpio import Archive
from tools.guest.modules import ModuleTree
from tools.guest.tiny_programs import program


def write_module(directory: Path, name: str, depends: str) -> None:
    (directory / f"{name}.ko").write_bytes(b"\x7fELF junk\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0")


def test_modules_load_after_what_they_depend_on(tmp_path: Path) -> None:
    write_module(tmp_path, "virtio-blk", "virtio_ring,virtio")
    write_module(tmp_path, "virtio_ring", "virtio")
    write_module(tmp_path, "virtio", "")
    tree = ModuleTree(tmp_path)
    assert tree.load_order(["virtio_blk", "ext4"]) == ["virtio", "virtio_ring", "virtio_blk"]
    assert tree.path("virtio_blk").name == "virtio-blk.ko"


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is missing (Debian package busybox-static)")
def test_an_archive_unpacks_to_what_went_in(tmp_path: Path) -> None:
    archive = Archive()
    archive.directory("bin")
    archive.file("bin/tool", b"\0\1content", 0o755)
    archive.symlink("bin/link", "tool")
    subprocess.run(["busybox", "cpio", "-i"], input=archive.finish(), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "bin" / "link").read_bytes() == b"\0\1content"
    assert (tmp_path / "bin" / "tool").stat().st_mode & 0o777 == 0o755


def test_an_archive_is_the_same_each_time() -> None:
    def build() -> bytes:
        archive = Archive()
        archive.directory("dev")
        archive.file("init", b"#!/bin/sh\n", 0o755)
        return archive.finish()

    assert build() == build()


@pytest.mark.parametrize("number", [1, 2, 127, 200])
def test_a_tiny_program_returns_its_own_number_and_shares_no_code(tmp_path: Path, number: int) -> None:
    path = tmp_path / "program"
    path.write_bytes(program(number))
    path.chmod(0o755)
    assert subprocess.run([path], check=False).returncode == number
    one, other = program(number), program(number + 1)
    same = sum(a == b for a, b in zip(one[200:3900], other[200:3900], strict=True))
    assert same < 0.45 * 3700  # only the opcodes
