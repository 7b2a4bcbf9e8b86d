#!/bin/busybox sh
# /init: load the virtio drivers, then give the machine to the disk named by root=; without one, stay here.
# Words of the kernel command line that begin with "stratocell.": stop_at=init, console=commands (see root-init.sh).
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
read -r up _ </proc/uptime
echo "STRATOCELL init $up"

root="" mode=ro stop_at="" console=""
for word in $(cat /proc/cmdline); do
    case $word in
        root=*) root=${word#root=} ;;
        rw) mode=rw ;;
        stratocell.stop_at=*) stop_at=${word#*=} ;;
        stratocell.console=*) console=${word#*=} ;;
    esac
done
[ "$stop_at" = init ] && poweroff -f

while read -r module; do
    case $module in virtio_pci*) [ -d /sys/bus/pci/devices ] || continue ;; esac
    insmod "/modules/$module.ko" || echo "STRATOCELL insmod $module failed"
done </modules/order

serve() {
    echo "STRATOCELL staying in the initramfs"
    if [ "$console" = commands ]; then
        stty -echo
        echo "STRATOCELL ready"
        # Line by line through a pipe: a shell on a terminal would prompt.
        while IFS= read -r line; do printf '%s\n' "$line"; done | sh -s
    else
        setsid cttyhack sh
    fi
    poweroff -f
}
[ -n "$root" ] || serve

waited=0
while [ ! -b "$root" ]; do
    if [ $waited -ge 400 ]; then
        echo "STRATOCELL no root disk $root"
        serve
    fi
    waited=$((waited + 1))
    usleep 25000
done
mount -t ext4 -o $mode "$root" /newroot || { echo "STRATOCELL cannot mount $root"; serve; }
for place in proc sys dev; do mount --move /$place /newroot/$place; done
exec switch_root /newroot /sbin/init
