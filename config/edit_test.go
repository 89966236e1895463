package config

import "testing"

func TestSet(t *testing.T) {
	const file = "# top\ndomain: example.org   # ours\nnetwork:\n  xmpp:\n    # the port\n    server: \"127.0.0.1:5347\" # kept\n    users: 'it''s'\nlog: {level: info}\n"
	for _, tc := range []struct{ name, key, value, want string }{
		{"plain", "domain", "example.net", "# top\ndomain: example.net   # ours\nnetwork:\n  xmpp:\n    # the port\n    server: \"127.0.0.1:5347\" # kept\n    users: 'it''s'\nlog: {level: info}\n"},
		{"quoted", "network.xmpp.server", `"h:1"`, "# top\ndomain: example.org   # ours\nnetwork:\n  xmpp:\n    # the port\n    server: \"h:1\" # kept\n    users: 'it''s'\nlog: {level: info}\n"},
		{"single quotes", "network.xmpp.users", "x", "# top\ndomain: example.org   # ours\nnetwork:\n  xmpp:\n    # the port\n    server: \"127.0.0.1:5347\" # kept\n    users: x\nlog: {level: info}\n"},
		{"a new key", "network.xmpp.rooms", "r", "# top\ndomain: example.org   # ours\nnetwork:\n  xmpp:\n    # the port\n    server: \"127.0.0.1:5347\" # kept\n    users: 'it''s'\n    rooms: r\nlog: {level: info}\n"},
		{"a new section", "federation.listen", `":1"`, file + "\nfederation:\n  listen: \":1\"\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Set(file, tc.key, tc.value)
			if err != nil || got != tc.want {
				t.Errorf("%v\n%s", err, got)
			}
		})
	}
	for _, bad := range [][2]string{{"log.level", "x"}, {"network.xmpp", "x"}} {
		if got, err := Set(file, bad[0], bad[1]); err == nil {
			t.Errorf("%s was set: %s", bad[0], got)
		}
	}
	if _, err := Set("", "domain", "x"); err == nil {
		t.Error("an empty file was changed")
	}
}
