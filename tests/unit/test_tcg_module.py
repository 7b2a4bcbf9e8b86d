"""The software CPU's module: what a user reads when it is missing, and what the build makes of its headers."""

from __future__ import annotations

import sys
from pathlib import Path

import cffi
import pytest

from vmm_core.accel.tcg import build_tcg, fetch
from vmm_core.accel.tcg.vm import BUILD_COMMAND, load
from vmm_core.errors import VmmError


def test_a_module_that_was_not_built_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vmm_core.accel.tcg._tcg", None)
    with pytest.raises(VmmError, match="the software CPU is not built") as caught:
        load()
    assert BUILD_COMMAND in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_headers_declare_every_call_python_makes() -> None:
    ffi = cffi.FFI()
    ffi.cdef(build_tcg.declarations())
    assert ffi.typeof("struct sc_tcg_boot *").item.fields[0][0] == "rip"
    calls = ("new", "free", "add_ram", "create_vcpus", "set_boot_registers", "attach_dirty_log", "add_irqfd")
    for call in (*calls, "remove_irqfd", "irqchip", "run", "kick"):
        assert f"sc_tcg_{call}(" in build_tcg.declarations()


def test_the_patch_carries_the_marker_that_tells_a_patched_engine_from_a_stock_one() -> None:
    patch = fetch.PATCH.read_text()
    assert "+extern struct stratocell_engine stratocell_engine;" in patch
    assert "STRATOCELL_ENGINE_REVISION" in patch


def test_a_wrong_source_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_tcg, "ENGINE", tmp_path)
    archive = tmp_path / f"unicorn-{fetch.VERSION}.tar.gz"
    archive.write_bytes(b"something else")
    with pytest.raises(ValueError, match="SHA-256"):
        fetch._download()
    assert not archive.exists()
