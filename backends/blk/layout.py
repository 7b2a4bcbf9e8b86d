"""virtio-blk's feature bits and configuration space (virtio 1.2, 5.2.3 and 5.2.4)."""

from __future__ import annotations

import struct

F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY, F_CONFIG_WCE, F_MQ = 2, 5, 6, 9, 10, 11, 12
F_DISCARD, F_WRITE_ZEROES = 13, 14
F_INDIRECT_DESC, F_EVENT_IDX, F_VERSION_1, F_RING_PACKED = 28, 29, 32, 34

SECTOR = 512
WCE_OFFSET = 32
MAX_RANGE_SECTORS = 0xFFFFFFFF >> 9
# capacity, size_max, seg_max, geometry, blk_size, physical_block_exp, alignment_offset, min_io_size, opt_io_size, wce,
# num_queues, max_discard_sectors, max_discard_seg, discard_sector_alignment, max_write_zeroes_sectors,
# max_write_zeroes_seg, write_zeroes_may_unmap
CONFIG = struct.Struct("<QII4xIBBHIBxHIIIIIB3x")


def config_space(*, size: int, block_size: int, seg_max: int, physical_exponent: int, wce: bool, queues: int) -> bytes:
    """The configuration space of a disk of `size` bytes in blocks of `block_size`."""
    alignment = max(1, (block_size << physical_exponent) // SECTOR)
    return CONFIG.pack(
        size // SECTOR, 0, seg_max, block_size, physical_exponent, 0, 1 << physical_exponent, 0, wce, queues,
        MAX_RANGE_SECTORS, 1, alignment, MAX_RANGE_SECTORS, 1, 1,
    )  # fmt: skip


def bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)
