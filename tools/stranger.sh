#!/usr/bin/env bash
# A stranger on a bare machine: from the static binary to a bridged message with Prosody or with Synapse, by the commands of
# docs/quickstart.md.
#
#   tools/stranger.sh [prosody|synapse]
#
# The machine is a root file system made by debootstrap, with a network of its own that has only a loopback. Needs root rights, debootstrap and
# Go; for Synapse python3-venv and the Python package index. STRANGER_ROOT names a folder for the root file system; one that is there
# is used again. The clock starts when the machine is there: at the binary. Transcript on standard output.
set -euo pipefail
cd "$(dirname "$0")/.."
server=${1:-prosody}
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
	chroot "$root" sh -c 'export DEBIAN_FRONTEND=noninteractive; apt-get -q update && apt-get -q -y --no-install-recommends install prosody python3-slixmpp python3 sudo openssl ca-certificates' >"$work/apt.log" 2>&1 || { tail "$work/apt.log"; exit 1; }
fi

if [ "$server" = synapse ] && [ ! -d "$root/opt/synapse" ]; then
	# The environment that the tests use, if there is one: its Python is Debian's.
	version=$(sed -n 's/^const SynapseVersion = "\(.*\)"$/\1/p' internal/testnet/synapse.go)
	env=${XDG_CACHE_HOME:-$HOME/.cache}/mimibridge/synapse-$version/env
	if [ ! -d "$env" ]; then
		echo "# Synapse $version, from the Python package index"
		env=$work/env
		/usr/bin/python3 -m venv "$env"
		"$env/bin/python" -m pip install --quiet "matrix-synapse==$version"
	fi
	cp -a "$env" "$root/opt/synapse"
fi

# One that was used before is made bare again.
chroot "$root" userdel mimibridge 2>/dev/null || true
rm -rf "$root/stranger" "$root/etc/mimibridge" "$root/var/lib/mimibridge" "$root/srv/other" "$root/usr/local/bin/mimibridge" "$root/etc/prosody/conf.d/mimibridge.cfg.lua" "$root/etc/matrix-synapse"
mkdir -p "$root/stranger/packaging"
printf '127.0.0.1 localhost %s\n' "$(hostname)" >"$root/etc/hosts"
cp "$work/mimibridge" "$root/stranger/mimibridge"
cp packaging/mimibridge.service "$root/stranger/packaging/"
cp tools/stranger-inside.sh tools/stranger-romeo.py tools/stranger-juliet.py docs/quickstart.md "$root/stranger/"

began=$(date +%s)
unshare --net --mount --pid --fork sh -ec '
	ip link set lo up
	mount -t proc proc "$1/proc"
	mount -t tmpfs tmpfs "$1/run"
	exec chroot "$1" /bin/bash /stranger/stranger-inside.sh "$2"' sh "$root" "$server"
took=$(($(date +%s) - began))
echo "# $server: from the binary to the bridged message, and away again: $took s"
[ "$took" -lt "$limit" ]
