# Installs Debian packages without letting any service start. $1: service units that are not to start at
# boot either, separated by commas; the rest: packages. Run as root.
set -eu
units=$1
shift
policy=/usr/sbin/policy-rc.d
saved=$policy.mimibridge-saved

restore() {
	if [ -e "$saved" ]; then mv -f "$saved" "$policy"; else rm -f "$policy"; fi
}
trap restore EXIT
trap 'exit 130' INT TERM HUP
# A saved file that is there already is the true one: an earlier run was killed before it could restore.
if [ -e "$policy" ] && [ ! -e "$saved" ]; then mv "$policy" "$saved"; fi
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
install() {
	apt-get -q -y -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 install --no-install-recommends --no-upgrade "$@" </dev/null
}
install "$@" || {
	# The package lists may be missing or old.
	apt-get -q -o DPkg::Lock::Timeout=600 update </dev/null
	install "$@"
}
if [ -n "$units" ] && command -v systemctl >/dev/null 2>&1; then
	for unit in $(echo "$units" | tr , ' '); do
		systemctl disable "$unit" || true
	done
fi
