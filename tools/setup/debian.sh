#!/bin/sh
# Install the Debian packages of the named groups that are missing. Usage: debian.sh GROUP...
# Asks for nothing when nothing is missing; otherwise needs root, or sudo.
set -eu
here=$(dirname "$0")
log=build/logs/debian.log

wanted=""
for group in "$@"; do
    wanted="$wanted $(sed -e 's/#.*//' "$here/debian-$group.txt" | tr '\n' ' ')"
done

if ! command -v dpkg-query >/dev/null; then
    echo "stratocell sets itself up on Debian only; elsewhere install by hand:$wanted" >&2
    exit 1
fi

missing=""
for package in $wanted; do
    case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
        installed) ;;
        *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo"
    command -v sudo >/dev/null || {
        echo "these Debian packages are missing, and there is no sudo: as root run apt-get install$missing" >&2
        exit 1
    }
fi

mkdir -p "$(dirname "$log")"
echo "installing Debian packages:$missing"
install() {
    # shellcheck disable=SC2086 # one word per package
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing </dev/null >>"$log" 2>&1
}
: >"$log"
# Package lists may be absent (a fresh machine) or old (a mirror has moved on): look once more before giving up.
install || {
    $as_root apt-get update </dev/null >>"$log" 2>&1 || true
    install || {
        tail -n 30 "$log" >&2
        echo "installing Debian packages failed; the whole log is $log" >&2
        exit 1
    }
}
