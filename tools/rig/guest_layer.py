"""`make test-rig`: the guest layer and some chaos on ordinary KVM, `--long` for all of it.

One pytest runs everything, because starting it costs seconds. A guest boots ten times slower here than on hardware, so
the short form takes one of each kind.
"""

from __future__ import annotations

import sys

from tools.paths import VENV
from tools.rig.machine import RigFailed, RigFroze, run

LIMIT = 2400.0  # seconds
ATTEMPTS = 4
SHORT = (
    "test_boot.py::test_the_documented_example_boots_works_and_powers_off",
    "test_boot.py::test_the_guest_has_the_vcpus_it_was_given[1]",
    "test_boot.py::test_the_guest_has_the_vcpus_it_was_given[4]",
    "test_boot.py::test_the_guest_has_the_memory_it_was_given[128-128]",
    "test_boot.py::test_the_guest_has_the_memory_it_was_given[4G-4096]",
    "test_disk.py::test_random_io_is_verified_however_the_image_is_opened[direct=on,aio=native-2-off]",
    "test_disk.py::test_random_io_is_verified_however_the_image_is_opened[direct=on,aio=io_uring-2-on]",
    "test_delegated_groups.py",
    "test_evicted_programs.py",
    "test_hugepages.py",
    "test_idle.py",
    "test_lifecycle.py::test_a_guest_that_ends_itself_ends_the_vm_with_an_event_and_status_0[power-off]",
    "test_lifecycle.py::test_a_guest_that_ends_itself_ends_the_vm_with_an_event_and_status_0[kernel-panic]",
    "test_lifecycle.py::test_a_stopped_guest_is_silent_and_goes_on_where_it_was",
)
CHAOS = ("tests/faults/test_chaos.py", "--kills", "25")  # for each kind of ring


def main(extra: list[str]) -> int:
    python = str(VENV / "bin" / "python")
    tests = ["tests/guest", *CHAOS] if "--long" in extra else [*(f"tests/guest/{name}" for name in SHORT), *CHAOS]
    command = [python, "-m", "pytest", *tests, "-m", "rig", "--accel", "kvm", "-v", "-p", "no:cacheprovider", *extra]
    try:
        return run_thawed(command)
    except RigFailed as failure:
        print(f"rig: {failure}", file=sys.stderr)
        return 124


def run_thawed(command: list[str]) -> int:
    """Again where the emulated machine froze, which is QEMU's; what fails in a machine that lives fails at once."""
    for attempt in range(1, ATTEMPTS):
        try:
            return run(command, LIMIT)
        except RigFroze as failure:
            again = f"its emulated machine froze, not a guest in it; attempt {attempt + 1} of {ATTEMPTS}"
            print(f"rig: {failure}: {again}", file=sys.stderr)
    return run(command, LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
