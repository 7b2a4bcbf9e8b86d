"""Tests against other people's programs: QEMU in front of our backend, qemu-storage-daemon behind our VM."""
