#!/bin/sh
# /sbin/init of the root disk. The word stratocell.console= of the kernel command line says who is at the serial port:
#   (absent)   a person: an interactive shell, no login
#   script     nobody: run the fixed demonstration, power off
#   commands   a program: read shell commands, without echo and prompt
export PATH=/bin:/sbin:/usr/bin HOME=/root TERM=linux
mount -t devpts devpts /dev/pts 2>/dev/null || { mkdir -p /dev/pts && mount -t devpts devpts /dev/pts; }
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
hostname stratocell
read -r up _ </proc/uptime
echo "STRATOCELL userspace $up"

finish() {
    sync
    mount -o remount,ro / 2>/dev/null
    poweroff -f
}

console=""
for word in $(cat /proc/cmdline); do
    case $word in stratocell.console=*) console=${word#*=} ;; esac
done
cd /root || cd /
case $console in
    script)
        sh /usr/lib/stratocell/demo.sh
        echo "STRATOCELL demo status $?"
        ;;
    commands)
        stty -echo
        echo "STRATOCELL ready"
        # Line by line through a pipe: a shell on a terminal would prompt.
        while IFS= read -r line; do printf '%s\n' "$line"; done | sh -s
        ;;
    *)
        echo
        echo "This is a shell in the guest. Its root, /dev/vda, is served by a process of its own."
        echo "Leave it with: exit"
        setsid cttyhack sh
        ;;
esac
finish
