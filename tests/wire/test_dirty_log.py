"""The dirty log: large enough for all of memory, and of a size that no backend can change."""

from __future__ import annotations

import os

import pytest

from vmm_core.vhost.dirty_log import DIRTY_PAGE, DirtyLog


@pytest.mark.parametrize("memory_end", [1, 4096, 128 << 20, (1 << 32) + 4096, 1 << 40])
def test_there_is_a_bit_for_every_page(memory_end: int) -> None:
    log = DirtyLog(memory_end)
    assert log.size * 8 * DIRTY_PAGE >= memory_end
    assert log.size <= memory_end // DIRTY_PAGE // 8 + 4096
    assert len(log.map) == log.size == os.fstat(log.fd).st_size
    log.close()


@pytest.mark.parametrize("size", [0, 4096, 1 << 30])
def test_nobody_who_has_it_can_resize_it(size: int) -> None:
    log = DirtyLog(1 << 30)
    with pytest.raises(PermissionError):
        os.ftruncate(log.fd, size)
    log.close()
