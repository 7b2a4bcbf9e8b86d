#!/bin/sh
# `make run` as a newcomer sees it: a minimal Debian 12 that has git, make and nothing else of what we need.
# This machine's configuration of apt and pip is copied in, so that the newcomer reaches the same mirrors. Needs root.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
[ "$(id -u)" -eq 0 ] || {
    echo "the newcomer's chroot needs root" >&2
    exit 1
}
# A mount namespace of its own: however this ends, no mount is left behind for a build to walk into.
[ -n "${STRATOCELL_NEWCOMER:-}" ] || exec env STRATOCELL_NEWCOMER=1 unshare --mount --propagation slave "$0" "$@"
command -v mmdebstrap >/dev/null || apt-get install -y --no-install-recommends mmdebstrap

root=$(mktemp -d /var/tmp/stratocell-newcomer.XXXXXX)
cleanup() {
    umount --recursive --lazy "$root/dev" "$root/sys" "$root/proc" 2>/dev/null || true
    rm -rf --one-file-system "$root"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

set --
echo "making a minimal Debian 12"
sources=$(ls /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null | head -n 1)
for file in $(grep -ls '^ *Acquire' /etc/apt/apt.conf.d/*); do
    set -- "$@" "--aptopt=$file"
done
mmdebstrap --variant=minbase --include=git,make,ca-certificates --quiet "$@" bookworm "$root" "$sources"

copy() {
    [ -e "$1" ] || return 0
    mkdir -p "$root$(dirname "$1")"
    cp -rL "$1" "$root$(dirname "$1")/"
}
for place in /etc/apt/apt.conf.d /etc/apt/auth.conf.d /etc/resolv.conf /etc/hosts /etc/pip.conf "$HOME/.config/pip" \
    /etc/ssl/certs/ca-certificates.crt; do
    copy "$place"
done
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind --make-rslave /dev "$root/dev"
git clone -q "$here" "$root/root/stratocell"

environment=$(env | grep -i '^\(https\?_proxy\|no_proxy\|pip_[a-z_]*\|ssl_cert[a-z_]*\|requests_ca[a-z_]*\)=' || true)
echo "make run, for the first time"
# shellcheck disable=SC2086 # one word per variable
chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 $environment \
    make -C /root/stratocell run </dev/null
echo "make run, once more"
# shellcheck disable=SC2086
chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 $environment \
    make -C /root/stratocell run </dev/null
