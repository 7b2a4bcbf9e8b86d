"""The guest that `make run` and the tests boot: Debian's stock kernel, an initramfs and an ext4 root disk."""
