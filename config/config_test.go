package config

import (
	"fmt"
	"time"

	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write makes a folder with a sealing key, a component secret and mimibridge.yaml, and returns the
// latter's path.
func write(t testing.TB, text string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"mimibridge.yaml":  text,
		"sealing.key":      NewSealingKey(),
		"component.secret": "s3cr3t\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "mimibridge.yaml")
}

const federation = `
federation:
  cert_file: a.crt
  key_file: a.key
`

func TestDefaults(t *testing.T) {
	t.Run("xmpp", func(t *testing.T) {
		path := write(t, "domain: Example.ORG\nnetwork:\n  xmpp:\n    secret_file: component.secret\n"+federation)
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		x := c.Network.XMPP
		for _, tc := range []struct{ name, got, want string }{
			{"domain", c.Domain, "example.org"},
			{"server", x.Server, "127.0.0.1:5347"},
			{"local_domain", x.LocalDomain, "example.org"},
			{"users", x.Users, "mimi.example.org"},
			{"rooms", x.Rooms, "rooms.mimi.example.org"},
			{"secret", x.Secret, "s3cr3t"},
			{"listen", c.Federation.Listen, ":8443"},
			{"url", c.Federation.URL, "https://example.org:8443"},
			{"cert_file", c.Federation.CertFile, filepath.Join(filepath.Dir(path), "a.crt")},
			{"sqlite", c.Storage.SQLite, filepath.Join(filepath.Dir(path), "mimibridge.db")},
			{"level", c.Log.Level, "info"},
		} {
			if tc.got != tc.want {
				t.Errorf("%s is %q, want %q", tc.name, tc.got, tc.want)
			}
		}
		if len(c.Secrets.SealingKey) != 32 {
			t.Errorf("sealing key of %d octets", len(c.Secrets.SealingKey))
		}
	})
	t.Run("matrix", func(t *testing.T) {
		c, err := Load(write(t, "domain: example.org\nnetwork:\n  matrix: {}\n"+federation))
		if err != nil {
			t.Fatal(err)
		}
		m := c.Network.Matrix
		if m.Homeserver != "http://127.0.0.1:8008" || m.ServerName != "example.org" || m.Listen != "127.0.0.1:29333" || filepath.Base(m.Registration) != "registration.yaml" {
			t.Errorf("%+v", m)
		}
	})
	t.Run("no network", func(t *testing.T) {
		path := write(t, "domain: example.org\nnetwork: {}\n"+federation+"admin: {token_env: MIMI_TOKEN, console: false}\n")
		t.Setenv("MIMI_TOKEN", "t0k3n")
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.Network.XMPP != nil || c.Network.Matrix != nil || c.LocalDomain() != "example.org" || *c.Admin.Console || c.Admin.Token != "t0k3n" || c.Admin.Socket != filepath.Join(filepath.Dir(path), "mimibridge.sock") {
			t.Errorf("%+v", c)
		}
	})
	t.Run("the secret from the environment", func(t *testing.T) {
		t.Setenv("MIMI_SECRET", "from env")
		c, err := Load(write(t, "domain: example.org\nnetwork:\n  xmpp:\n    secret_env: MIMI_SECRET\n"+federation))
		if err != nil {
			t.Fatal(err)
		}
		if c.Network.XMPP.Secret != "from env" {
			t.Errorf("secret %q", c.Network.XMPP.Secret)
		}
	})
	t.Run("a secret that others may read is warned about", func(t *testing.T) {
		path := write(t, "domain: example.org\nnetwork:\n  xmpp:\n    secret_file: component.secret\n"+federation)
		if err := os.Chmod(filepath.Join(filepath.Dir(path), "component.secret"), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "chmod o=") {
			t.Errorf("warnings %q", c.Warnings)
		}
	})
}

func TestUnits(t *testing.T) {
	c, err := Load(write(t, "domain: example.org\nnetwork:\n  xmpp:\n    secret_file: component.secret\n"+federation+
		"assets:\n  folder: files\n  max_file: 5 MB\n  quota: 2gb\n  cache: 1048576\nretention:\n  attachments: 2 weeks\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Assets.MaxFile != 5<<20 || c.Assets.Quota != 2<<30 || c.Assets.Cache != 1<<20 || c.Retention.Attachments != 14*Day || filepath.Base(c.Assets.Folder) != "files" {
		t.Errorf("%+v %+v", c.Assets, c.Retention)
	}
	if got := fmt.Sprint(c.Assets.MaxFile, c.Assets.Quota, c.Retention.Attachments, Day, Octets(1000), Duration(90*time.Second), Duration(2*time.Hour)); got != "5 MB 2 GB 14 days 1 day 1000 90 seconds 2 hours" {
		t.Error(got)
	}
	for text, want := range map[string]Duration{"1 day": Day, "90s": Day / 960, "10 minutes": Day / 144, "12h": Day / 2, "1 second": Day / 86400} {
		if got, err := quantity(text, durationUnits); err != nil || Duration(got) != want {
			t.Errorf("%s is %d, %v", text, got, err)
		}
	}
}

func TestErrors(t *testing.T) {
	good := "domain: example.org\nnetwork:\n  xmpp:\n    secret_file: component.secret\n" + federation
	for _, tc := range []struct {
		name, text string
		want       []string // parts of the error
	}{
		{"misspelt key", good + "storage:\n  sqlit: x.db\n", []string{`mimibridge.yaml:10: storage: unknown key "sqlit"`, "did you mean sqlite?"}},
		{"misspelt section", good + "federatoin: {}\n", []string{`:9: unknown key "federatoin"`, "did you mean federation?"}},
		{"key of another section", good + "listen: \":1\"\nhomeserver: x\n", []string{`:9: unknown key "listen"`, `:10: unknown key "homeserver"`, "it belongs under network.matrix"}},
		{"unknown key far from all", good + "storage:\n  postgresql_dsn: x.db\n", []string{"the keys here are sqlite, postgres"}},
		{"database in two ways", good + "storage:\n  sqlite: x.db\n  postgres: postgres://u:hush@h/d\n", []string{":9: storage: the database is given in more than one way"}},
		{"database without variable", good + "storage:\n  postgres_env: MIMI_NOT_SET\n", []string{":10: storage.postgres_env: the environment variable"}},
		{"key twice", good + "domain: example.net\n", []string{":9: domain: this key stands here a second time"}},
		{"wrong type", good + "log:\n  level: [a]\n", []string{":10: ", "a list", "write a string"}},
		{"scalar for section", good + "log: debug\n", []string{":9: log: here belongs a list of keys"}},
		{"syntax", good + "log: {\n", []string{"mimibridge.yaml:", "yaml.org"}},
		{"second document", good + "---\na: b\n", []string{"second YAML document"}},
		{"alias", good + "log: &a\n  level: info\nstorage: *a\n", []string{":11: storage: an alias"}},
		{"empty", "", []string{"domain: is missing", "network: is missing", "federation.cert_file: is missing"}},
		{"domain", strings.Replace(good, "example.org", "https://example.org/x", 1), []string{":1: domain:", "is not a domain"}},
		{"two networks", strings.Replace(good, "network:", "network:\n  matrix: {}", 1), []string{":2: network: there are two networks"}},
		{"no component secret", strings.Replace(good, "secret_file: component.secret", "server: a:1", 1), []string{":3: network.xmpp.secret: is missing", "secret_file"}},
		{"a network with nothing under it", strings.Replace(good, "  xmpp:\n    secret_file: component.secret", "  xmpp:", 1), []string{":3: network.xmpp: has nothing under it", "{}"}},
		{"admin token in two ways", good + "admin: {token: a, token_env: B}\n", []string{":9: admin.token: it is given in more than one way", "token_file"}},
		{"two listeners on one port", good + "admin: {listen: \":8443\"}\n", []string{":9: admin.listen: another listener"}},
		{"console is no truth value", good + "admin: {console: maybe}\n", []string{":9: ", "true or false"}},
		{"component secret in two ways", strings.Replace(good, "secret_file:", "secret: x\n    secret_file:", 1), []string{":4: network.xmpp.secret: it is given in more than one way"}},
		{"component secret without file", strings.Replace(good, "component.secret", "nowhere", 1), []string{":4: network.xmpp.secret_file: there is no file"}},
		{"component secret without variable", strings.Replace(good, "secret_file: component.secret", "secret_env: MIMI_NOT_SET", 1), []string{":4: network.xmpp.secret_env: the environment variable \"MIMI_NOT_SET\" is not set"}},
		{"component secret is a folder", strings.Replace(good, "component.secret", ".", 1), []string{":4: network.xmpp.secret_file:"}},
		{"same domain twice", strings.Replace(good, "secret_file", "users: example.org\n    secret_file", 1), []string{"network.xmpp.rooms: local_domain, users and rooms must be three different domains"}},
		{"listen", good + "  listen: 8443\n", []string{":9: federation.listen:", "is not host:port"}},
		{"listen port", good + "  listen: \":99999\"\n", []string{":9: federation.listen:"}},
		{"url", good + "  url: http://example.org/mimi\n", []string{":9: federation.url:", "https://"}},
		{"peer", good + "  peers:\n    other.example: nowhere\n", []string{":10: federation.peers.other.example:"}},
		{"allowed peer", good + "  allow: [\"*.example.net\", \"not a domain\"]\n", []string{":9: federation.allow:", "is not a domain"}},
		{"consent policy", good + "people:\n  consent: perhaps\n", []string{":10: people.consent:", "ask, contacts, everyone or nobody"}},
		{"way to ask", good + "people:\n  ask: nicely\n", []string{":10: people.ask:", "auto, invitation or question"}},
		{"message size", good + "limits:\n  message: 2 MB\n", []string{":10: limits.message:", "768 kB"}},
		{"level", good + "permissions:\n  example.org: owner\n", []string{":10: permissions.example.org:", "none of none, user and admin"}},
		{"permission pattern", good + "permissions:\n  \"*.org\": user\n", []string{":10: permissions.*.org:"}},
		{"permissions differing in case", good + "permissions:\n  example.org: user\n  Example.org: none\n", []string{"differ only in case"}},
		{"log level", good + "log:\n  level: loud\n", []string{":10: log.level: \"loud\" is no level"}},
		{"sealing key missing", good + "secrets:\n  key_file: other.key\n", []string{":10: secrets.key_file: there is no file", "mimibridge init"}},
		{"sealing key is something else", good + "secrets:\n  key_file: component.secret\n", []string{":10: secrets.key_file: it is not a sealing key"}},
		{"size", good + "assets:\n  max_file: 100 parsecs\n", []string{`:10: "100 parsecs" is not a size`, "for instance 100 MB"}},
		{"size of nothing", good + "assets:\n  max_file: 0 MB\n", []string{":10: "}},
		{"size beyond all", good + "assets:\n  max_file: 9999999 TB\n", []string{":10: "}},
		{"quota below a file", good + "assets:\n  quota: 1 MB\n", []string{":10: assets.quota: is less"}},
		{"span of time", good + "retention:\n  attachments: -3 days\n", []string{`:10: "-3 days" is not a span of time`, "for instance 30 days"}},
		{"too large", strings.Repeat("#", maxFile+1), []string{"larger than 1 MiB"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := Load(write(t, tc.text))
			if err == nil {
				t.Fatalf("accepted: %+v", c)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error\n%v\ndoes not contain %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "s3cr3t") {
				t.Error("the error shows the secret")
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		if _, err := Load(filepath.Join(t.TempDir(), "x.yaml")); err == nil || !strings.Contains(err.Error(), "mimibridge init") {
			t.Errorf("error %v", err)
		}
	})
}

func TestPermissions(t *testing.T) {
	own := Permissions{"example.org": "user"}
	listed := Permissions{"alice@example.org": "admin", "example.org": "user", "@Bob:example.org": "none", "*": "none", "trusted.example": "user"}
	for _, tc := range []struct {
		name  string
		p     Permissions
		id    string
		level Level
	}{
		{"own domain", own, "alice@example.org", User},
		{"own domain, matrix", own, "@alice:example.org", User},
		{"other domain", own, "alice@example.net", None},
		{"sub-domain is another domain", own, "alice@a.example.org", None},
		{"domain in the local part", own, "@example.org:evil.example", None},
		{"domain in the resource", own, "a@evil.example/x@example.org", None},
		{"bare domain", own, "example.org", User},
		{"empty", own, "", None},
		{"id before domain", listed, "alice@example.org", Admin},
		{"JIDs fold", listed, "Alice@Example.org", Admin},
		{"full JID", listed, "alice@example.org/phone", Admin},
		{"Matrix IDs do not fold", listed, "@bob:example.org", User},
		{"Matrix ID", listed, "@Bob:example.org", None},
		{"domain before *", listed, "x@trusted.example", User},
		{"*", Permissions{"*": "user"}, "x@y.example", User},
		{"nobody", nil, "x@y.example", None},
		{"bad level", Permissions{"*": "root"}, "x@y.example", None},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.p.Level(tc.id); got != tc.level {
				t.Errorf("%q is %v, want %v", tc.id, got, tc.level)
			}
		})
	}
	t.Run("the list replaces the default", func(t *testing.T) {
		c, err := Load(write(t, "domain: example.org\nnetwork:\n  matrix: {}\npermissions:\n  \"@alice:example.org\": admin\n"+federation))
		if err != nil {
			t.Fatal(err)
		}
		if c.Permissions.Level("@bob:example.org") != None || c.Permissions.Level("@alice:example.org") != Admin {
			t.Errorf("%v", c.Permissions)
		}
	})
}

func TestSealingKey(t *testing.T) {
	text := NewSealingKey()
	if text == NewSealingKey() {
		t.Error("the same key twice")
	}
	for _, bad := range []string{"", "x", strings.TrimSpace(text) + "A", text[:len(text)-3], sealingPrefix} {
		if _, err := ParseSealingKey(bad); err == nil {
			t.Errorf("%q accepted", bad)
		} else if len(bad) > 30 && strings.Contains(err.Error(), bad[30:]) {
			t.Error("the error shows the key")
		}
	}
}

// FuzzParse looks for a configuration that is accepted but incomplete, or that panics.
func FuzzParse(f *testing.F) {
	good := "domain: example.org\nnetwork:\n  xmpp:\n    secret: x\n" + federation
	f.Add([]byte(good))
	f.Add([]byte("domain: a\nnetwork: {matrix: {}}\npermissions: {\"*\": user}\n" + federation))
	f.Add([]byte("a: &a [*a]\n<<: *a\n"))
	f.Add([]byte("- 1\n"))
	f.Add([]byte("federation: {peers: {a: {b: c}}}"))
	name := write(f, good)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(name, b)
		if err != nil {
			return
		}
		if c.Domain == "" || c.LocalDomain() == "" || c.Federation.Listen == "" || c.Federation.URL == "" || c.Storage.SQLite == "" || len(c.Secrets.SealingKey) != 32 {
			t.Errorf("incomplete: %+v", c)
		}
	})
}
