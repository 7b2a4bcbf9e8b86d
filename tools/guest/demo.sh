#!/bin/sh
# The fixed demonstration: shows where it runs, writes to the root disk, and verifies what the disk holds.
fail() {
    echo "demo: $*"
    exit 1
}

show() {
    echo "+ $*"
    "$@"
}

show uname -a
show mount | grep ' / ' || fail "no root file system"
mount | grep -q '^/dev/vda on / type ext4' || fail "/dev/vda is not the root"

show dd if=/dev/urandom of=/root/written bs=64k count=16 2>/dev/null || fail "cannot write to the disk"
show sync
before=$(sha256sum </root/written)
echo 3 >/proc/sys/vm/drop_caches
after=$(sha256sum </root/written)
[ "$before" = "$after" ] || fail "what was written is not what is read"
rm /root/written
echo "written, dropped from memory and read again: the same ($before)"

cd /usr/share/stratocell || fail "no data on the disk"
show sha256sum -c SHA256SUMS || fail "the disk's data is not what was put there"
