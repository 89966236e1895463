#!/usr/bin/env bash
# What tools/stranger.sh does inside the bare machine. example.org has a Prosody with a user romeo, or a Synapse with a user juliet;
# other.example is somebody else's provider, here another mimibridge without a network, with a user bob at its console.
set -euo pipefail
server=$1
cd /stranger
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

say() { printf '\n# %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

say "before: a $server for example.org with a user, a web server's folder, certificates"
mkdir -p /etc/ssl/example.org /etc/ssl/other.example /var/www
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=an authority" -keyout /etc/ssl/ca.key -out /etc/ssl/ca.pem 2>/dev/null
for d in example.org other.example; do
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$d" -keyout "/etc/ssl/$d/privkey.pem" -out "/tmp/$d.csr" 2>/dev/null
	printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$d" >"/tmp/$d.ext"
	openssl x509 -req -in "/tmp/$d.csr" -CA /etc/ssl/ca.pem -CAkey /etc/ssl/ca.key -CAcreateserial -days 20 -extfile "/tmp/$d.ext" -out "/etc/ssl/$d/fullchain.pem" 2>/dev/null
done
chmod 0644 /etc/ssl/ca.pem

# There is no systemd in here: what it would do for us.
cat >/usr/local/sbin/systemctl <<'S'
#!/bin/bash
# restart PIDFILE USER PORT COMMAND
restart() {
	if [ -e "$1" ]; then
		kill "$(cat "$1")"
		for i in $(seq 200); do kill -0 "$(cat "$1" 2>/dev/null)" 2>/dev/null || break; sleep 0.1; done
	fi
	setsid sudo -u "$2" "${@:4}" >>/var/log/server.out 2>&1 </dev/null &
	for i in $(seq 600); do (exec 3<>"/dev/tcp/127.0.0.1/$3") 2>/dev/null && break; sleep 0.1; done
}
case "$*" in
"restart prosody") restart /run/prosody/prosody.pid prosody 5347 prosody -F ;;
"restart matrix-synapse")
	cd /var/lib/matrix-synapse
	restart /var/lib/matrix-synapse/pid matrix-synapse 8008 sh -c 'echo $$ >/var/lib/matrix-synapse/pid
		exec /opt/synapse/bin/python3 -m synapse.app.homeserver --config-path=/etc/matrix-synapse/homeserver.yaml --config-path=/etc/matrix-synapse/conf.d/'
	;;
"enable --now mimibridge")
	cd /var/lib/mimibridge
	setsid sudo -u mimibridge $(sed -n 's/^ExecStart=//p' /etc/systemd/system/mimibridge.service) >/var/log/mimibridge.log 2>&1 </dev/null &
	;;
esac
S
chmod 755 /usr/local/sbin/systemctl

case "$server" in
prosody)
	network=xmpp user=romeo
	mkdir -p /run/prosody
	chown prosody: /run/prosody
	printf 'VirtualHost "example.org"\nc2s_require_encryption = false\nallow_unencrypted_plain_auth = true\n' >/etc/prosody/conf.d/example.org.cfg.lua
	prosodyctl register romeo example.org secret >/dev/null
	systemctl restart prosody
	;;
synapse)
	# As the package of matrix.org sets it up: two places for the configuration, a user of its own.
	network=matrix user=juliet
	id matrix-synapse >/dev/null 2>&1 || useradd --system --user-group --home-dir /var/lib/matrix-synapse --shell /usr/sbin/nologin matrix-synapse
	rm -rf /var/lib/matrix-synapse
	mkdir -p /etc/matrix-synapse/conf.d /var/lib/matrix-synapse
	cat >/etc/matrix-synapse/homeserver.yaml <<'S'
server_name: example.org
signing_key_path: /var/lib/matrix-synapse/signing.key
media_store_path: /var/lib/matrix-synapse/media
database: {name: sqlite3, args: {database: /var/lib/matrix-synapse/homeserver.db}}
listeners: [{port: 8008, type: http, bind_addresses: [127.0.0.1], resources: [{names: [client]}]}]
registration_shared_secret: shared
macaroon_secret_key: macaroon
form_secret: form
report_stats: false
trusted_key_servers: []
S
	chown -R matrix-synapse: /var/lib/matrix-synapse
	(cd /var/lib/matrix-synapse && sudo -u matrix-synapse /opt/synapse/bin/python3 -m synapse.app.homeserver --config-path=/etc/matrix-synapse/homeserver.yaml --generate-keys >/dev/null)
	systemctl restart matrix-synapse
	python3 stranger-juliet.py register
	;;
*) echo "there is no server $server here"; exit 2 ;;
esac

# blocks prints the commands of the quick start that are for everybody, for the network and for the server, one a line.
blocks() {
	awk -v "info=^\`\`\`sh($| $network$| $server$)" '$0 ~ info { on = 1; next } /^```/ { on = 0 } on' quickstart.md
}

say "the quick start, command by command"
while IFS= read -r line <&3; do
	[ -n "$line" ] || continue
	printf '$ %s\n' "$line"
	case "$line" in
	*" init "*)
		bash -ec "$line" </dev/null
		say "no DNS in here, and an authority of its own: two lines that a private set-up needs"
		sed -i 's|^federation:|&\n  ca_file: /etc/ssl/ca.pem\n  peers: { example.org: "127.0.0.1:8443", other.example: "127.0.0.1:9443" }|' /etc/mimibridge/mimibridge.yaml
		say "and on with the quick start"
		;;
	*"mimibridge check"*)
		# The web server that would serve the directory is missing in here; the daemon serves it itself, once it runs.
		bash -ec "$line" </dev/null || true
		;;
	*) bash -ec "$line" </dev/null ;;
	esac
done 3< <(blocks)

for _ in $(seq 100); do sudo -u mimibridge mimibridge health -c /etc/mimibridge/mimibridge.yaml >/dev/null 2>&1 && break; sleep 0.2; done
say "now that it runs"
run sudo -u mimibridge mimibridge check -c /etc/mimibridge/mimibridge.yaml
run sudo -u mimibridge mimibridge status -c /etc/mimibridge/mimibridge.yaml

say "somebody else: other.example, a provider without a network, with bob at its console"
run mimibridge init -c /srv/other/mimibridge.yaml -domain other.example -network none -listen :9443 -cert /etc/ssl/other.example/fullchain.pem -look none >/dev/null
sed -i 's|^federation:|&\n  ca_file: /etc/ssl/ca.pem\n  peers: { example.org: "127.0.0.1:8443", other.example: "127.0.0.1:9443" }|' /srv/other/mimibridge.yaml
mimibridge run -c /srv/other/mimibridge.yaml >/var/log/other.log 2>&1 &
for _ in $(seq 100); do mimibridge health -c /srv/other/mimibridge.yaml >/dev/null 2>&1 && break; sleep 0.2; done

say "$user opens a room, invites bob, and writes; bob answers"
coproc BOB { exec mimibridge chat -json -as bob -c /srv/other/mimibridge.yaml; }
exec 5<&"${BOB[0]}" 6>&"${BOB[1]}"
read -r -t 20 line <&5 # attached
timeout 120 python3 "stranger-$user.py" &
person=$!
room=
while read -r -t 100 line <&5; do
	case "$line" in
	*'"event":"message"'*'wherefore art thou'*)
		echo "bob sees: $line"
		room=$(sed 's/.*"room":"\([^"]*\)".*/\1/' <<<"$line")
		printf '{"do": "say", "room": "%s", "text": "here, at other.example"}\n' "$room" >&6
		break
		;;
	esac
done
[ -n "$room" ] || { echo "bob has seen nothing"; tail -n 20 /var/log/server.out /var/log/mimibridge.log /var/log/other.log; exit 1; }
wait "$person" || { tail -n 20 /var/log/server.out /var/log/mimibridge.log /var/log/other.log; exit 1; }
run sudo -u mimibridge mimibridge room show -c /etc/mimibridge/mimibridge.yaml "$room"

say "and away with it again; it may be run in the middle of a talk"
run sudo -u mimibridge mimibridge uninstall -yes -c /etc/mimibridge/mimibridge.yaml
exec 6>&-
