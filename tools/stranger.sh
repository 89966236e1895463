#!/usr/bin/env bash
# A stranger on a bare machine: from the static binary to a bridged message with Prosody, by the commands of docs/quickstart.md.
#
# The machine is a root file system made by debootstrap, with a network of its own that has only a loopback. Needs root rights, debootstrap and
# Go. STRANGER_ROOT names a root file system that is there already, with prosody, python3-slixmpp, sudo and openssl. The clock starts
# when the machine is there: at the binary. Transcript on standard output.
set -euo pipefail
cd "$(dirname "$0")/.."
limit=900
work=$(mktemp -d)
root=${STRANGER_ROOT:-$work/root}
trap 'rm -rf --one-file-system "$work"' EXIT

CGO_ENABLED=0 go build -tags goolm -trimpath -ldflags=-s -o "$work/mimibridge" ./cmd/mimibridge

if [ ! -d "$root/usr" ]; then
	echo "# a bare machine: debootstrap"
	codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -1)
	debootstrap --variant=minbase "$codename" "$root" "$mirror" >"$work/debootstrap.log" 2>&1 || { tail "$work/debootstrap.log"; exit 1; }
	cp -a /etc/apt/. "$root/etc/apt/"
	cp /etc/resolv.conf "$root/etc/"
	cp -an /usr/share/keyrings/. "$root/usr/share/keyrings/"
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod 755 "$root/usr/sbin/policy-rc.d"
	chroot "$root" sh -c 'export DEBIAN_FRONTEND=noninteractive; apt-get -q update && apt-get -q -y --no-install-recommends install prosody python3-slixmpp sudo openssl ca-certificates' >"$work/apt.log" 2>&1 || { tail "$work/apt.log"; exit 1; }
fi

# One that was used before is made bare again.
chroot "$root" userdel mimibridge 2>/dev/null || true
rm -rf "$root/stranger" "$root/etc/mimibridge" "$root/var/lib/mimibridge" "$root/srv/other" "$root/usr/local/bin/mimibridge" "$root/etc/prosody/conf.d/mimibridge.cfg.lua"
mkdir -p "$root/stranger/packaging"
printf '127.0.0.1 localhost %s\n' "$(hostname)" >"$root/etc/hosts"
cp "$work/mimibridge" "$root/stranger/mimibridge"
cp packaging/mimibridge.service "$root/stranger/packaging/"
cp tools/stranger-inside.sh tools/stranger-romeo.py docs/quickstart.md "$root/stranger/"

began=$(date +%s)
unshare --net --mount --pid --fork sh -ec '
	ip link set lo up
	mount -t proc proc "$1/proc"
	mount -t tmpfs tmpfs "$1/run"
	exec chroot "$1" /bin/bash /stranger/stranger-inside.sh' sh "$root"
took=$(($(date +%s) - began))
echo "# from the binary to the bridged message: $took s"
[ "$took" -lt "$limit" ]
