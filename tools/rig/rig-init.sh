#!/bin/busybox sh
# /init of the rig: the host's / by 9p, read-only, under a tmpfs overlay; then the job in a chroot there.
# The job folder is shared writable: job/run.sh goes in, job/status comes out.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /host /upper /job
mount -t devpts devpts /dev/pts

while read -r module; do
    insmod "/modules/$module.ko" || echo "rig: insmod $module failed"
done </modules/order

fail() {
    echo "rig: $*"
    poweroff -f
}
options=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o $options,cache=none job /job || fail "no job folder"
mount -t 9p -o $options,cache=loose,ro host /host || fail "no host file system"
mount -t tmpfs tmpfs /upper && mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/host,upperdir=/upper/files,workdir=/upper/work overlay /newroot || fail "no overlay"

root=/newroot
mkdir -p $root/proc $root/sys $root/dev $root/tmp $root/run $root/job
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount --move /dev $root/dev
mount -t tmpfs tmpfs $root/dev/shm
mount -t tmpfs tmpfs $root/run
mount --move /job $root/job
mount -t ext4 $root/dev/vda $root/var/tmp || fail "no scratch disk"
ip link set lo up
read -r up _ </proc/uptime
echo "rig: up after $up s"

# While this file changes the rig is alive, however long the job takes.
mknod /dev/null c 1 3
(while sleep 5; do cat /proc/uptime >$root/job/alive; done) &

chroot $root /bin/sh /job/run.sh >$root/dev/ttyS0 2>&1
echo $? >$root/job/status
sync
poweroff -f
