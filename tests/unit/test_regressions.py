"""Bugs that others have shipped in vhost-user, rings, disks and jails: for each the tests here that keep it out."""

from __future__ import annotations

import ast

import pytest

from tools.paths import ROOT

SHIPPED_ELSEWHERE = {
    "DPDK CVE-2018-1059: an address translated without its whole length": [
        "device/test_blk_broken_rings.py::test_buffers_outside_of_guest_memory",
        "device/test_blk_broken_rings.py::test_buffers_and_tables_over_the_hole_between_two_regions",
        "device/test_blk_broken_rings.py::test_an_indirect_table_outside_of_guest_memory",
        "wire/test_server_rings.py::test_a_ring_part_that_is_not_whole_in_one_region_is_refused",
    ],
    "DPDK CVE-2019-14818: descriptors leaked by repeated or surplus ones": [
        "wire/test_server_memory.py::test_ten_thousand_messages_with_surplus_descriptors_leak_nothing",
        "wire/test_server_memory.py::test_ten_thousand_tables_and_calls_leak_nothing",
        "wire/test_server_messages.py::test_surplus_descriptors_are_refused",
    ],
    "DPDK CVE-2020-10722: the dirty log's offset and size overflow": [
        "wire/test_server_memory.py::test_a_log_outside_its_file_or_too_small_ends_the_session",
    ],
    "DPDK CVE-2020-10723: a ring's number cut to a smaller type before it is checked": [
        "wire/test_server_rings.py::test_an_index_past_the_rings_is_refused",
    ],
    "DPDK CVE-2020-10724, 14374 to 14378: lengths not checked, or read twice": [
        "security/test_fuzz_corpus.py::test_no_input_of_the_corpus_breaks_the_device",
        "security/test_fuzz_corpus.py::test_the_harness_sees_a_ring_that_believes_the_driver",
        "device/test_blk_fuzz.py::test_nonsense",
        "wire/test_inflight_replay.py::test_a_region_that_changes_while_it_is_read_leads_nowhere",
    ],
    "DPDK CVE-2020-10725: a ring's address that leads nowhere": [
        "wire/test_server_rings.py::test_a_ring_whose_memory_went_away_does_not_start",
        "wire/test_server_rings.py::test_a_ring_that_is_not_set_up_does_not_start",
    ],
    "DPDK CVE-2020-10726: an inflight region asked for again and again": [
        "wire/test_server_memory.py::test_asking_ten_thousand_times_leaks_nothing",
        "device/test_blk_inflight.py::test_asking_ten_thousand_times_for_a_region_costs_no_memory",
    ],
    "DPDK CVE-2021-3839: the inflight region's queues not checked": [
        "wire/test_server_memory.py::test_a_region_that_is_too_small_is_refused",
        "wire/test_server_memory.py::test_more_rings_than_there_are_end_the_session",
        "device/test_blk_inflight.py::test_a_ring_larger_than_its_part_of_the_region_does_not_start",
        "device/test_blk_inflight.py::test_a_region_full_of_nonsense_harms_nobody",
    ],
    "DPDK CVE-2022-0669: descriptors of a message that was cut off": [
        "wire/test_connection.py::test_descriptors_that_do_not_fit_are_closed",
        "wire/test_server_messages.py::test_a_truncated_message_leaves_nothing_behind",
        "wire/test_server_sessions.py::test_an_inflight_region_that_the_device_refuses_is_not_leaked",
    ],
    "SPDK CVE-2019-9547, rust-vmm: chains without an end, or of more than 4 GiB": [
        "device/test_blk_broken_rings.py::test_a_chain_that_loops",
        "device/test_blk_broken_rings.py::test_a_chain_without_an_end",
        "device/test_blk_broken_rings.py::test_an_indirect_table_that_loops",
        "device/test_blk_broken_rings.py::test_more_bytes_than_a_used_length_can_say",
    ],
    "libvhost-user 85805ee887be: an indirect table larger than its place": [
        "device/test_blk_broken_rings.py::test_an_indirect_table_of_a_wrong_size",
        "device/test_blk_broken_rings.py::test_an_indirect_table_across_two_regions_that_adjoin",
        "device/test_blk_broken_rings.py::test_an_indirect_table_outside_of_guest_memory",
    ],
    "QEMU CVE-2016-5403: more requests than the ring has room": [
        "device/test_blk_broken_rings.py::test_more_requests_than_the_ring_has_descriptors",
        "device/test_blk_fuzz.py::test_requests_that_run_ahead_of_the_ring",
    ],
    "QEMU CVE-2011-2512: a doorbell of a negative queue": [
        "device/test_virtio_mmio.py::test_a_doorbell_of_no_queue_is_ignored",
    ],
    "Firecracker CVE-2026-5747: registers of a running queue": [
        "device/test_virtio_mmio.py::test_registers_of_a_running_queue_are_frozen",
        "device/test_virtio_mmio.py::test_no_status_but_reset_thaws_a_running_device",
        "device/test_virtio_mmio.py::test_no_sequence_of_register_accesses_breaks_the_transport",
    ],
    "QEMU CVE-2021-3748, CVE-2024-3446: descriptors that point at devices": [
        "unit/test_guest_memory.py::test_no_memory_that_a_backend_is_told_of_lies_where_devices_are",
        "device/test_blk_broken_rings.py::test_buffers_outside_of_guest_memory",
    ],
    "QEMU CVE-2023-3180: as much to write as there was to read": [
        "device/test_blk_malformed.py::test_a_serial_number_needs_room",
        "device/test_blk_malformed.py::test_a_read_into_buffers_that_cannot_be_written_is_an_error",
    ],
    "QEMU CVE-2026-48914: SCSI commands to a virtio disk": [
        "device/test_blk_malformed.py::test_requests_of_an_unknown_type_are_unsupported",
    ],
    "cloud-hypervisor CVE-2026-45782: a completion after the reset": [
        "device/test_blk_stop.py::test_a_reset_under_load_leaves_a_disk_that_works",
        "device/test_blk_stop.py::test_stopped_under_load_and_started_again",
        "device/test_blk_program.py::test_a_session_may_end_with_requests_under_way",
    ],
    "cloud-hypervisor GHSA-jmr4-g2hv-mjj6: a guest that writes itself another image format": [
        "device/test_blk_program.py::test_an_image_that_names_a_backing_file_is_bytes_like_any_other",
    ],
    "Firecracker #5969: the event index lost where a ring goes on": [
        "device/test_blk_inflight.py::test_the_event_index_of_a_dead_backend_stalls_nobody",
    ],
    "virtiofsd CVE-2020-35517, Firecracker CVE-2026-1386: links where a jail is built": [
        "device/test_run_directory.py::test_a_link_in_the_run_directory_leads_nowhere",
        "device/test_run_directory.py::test_a_special_file_in_the_run_directory_is_neither_opened_nor_removed",
        "security/test_chroot.py::test_the_sandbox_is_whole_inside_a_chroot",
    ],
    "DPDK 3c929a0bb3, rust-vmm 93b2773: the base of a ring that never was": [
        "wire/test_server_rings.py::test_asking_a_ring_that_never_was_for_its_base_is_harmless",
        "wire/test_server_rings.py::test_a_ring_runs_from_its_first_kick_until_its_base_is_asked_for",
    ],
    "DPDK 5a4fbe79e6: the last index of an inflight region": [
        "wire/test_inflight_replay.py::test_no_region_makes_a_backend_write_outside_of_it",
    ],
    "SPDK 71c1bbeeb5: doorbells without a descriptor": [
        "wire/test_server_rings.py::test_the_no_descriptor_flag_must_tell_the_truth",
    ],
    "rust-vmm 14db3cd: answers that were not negotiated": [
        "wire/test_server_messages.py::test_need_reply_means_nothing_without_reply_ack",
    ],
}


@pytest.mark.parametrize("bug", SHIPPED_ELSEWHERE)
def test_each_bug_that_others_shipped_has_its_tests(bug: str) -> None:
    for place in SHIPPED_ELSEWHERE[bug]:
        path, _, name = place.partition("::")
        tree = ast.parse((ROOT / "tests" / path).read_text())
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in names, place
