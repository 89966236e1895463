package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSettings(t *testing.T) {
	t.Setenv("MIMI_TOKEN", "t0k3n")
	path := write(t, "domain: example.org\nnetwork:\n  xmpp:\n    secret_file: component.secret\n"+federation+"admin:\n  token_env: MIMI_TOKEN\npermissions:\n  example.org: user\n")
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Setting{}
	for _, s := range c.Settings() {
		got[s.Key] = s
	}
	dir := filepath.Dir(path)
	for _, want := range []Setting{
		{"domain", "example.org", path + ":1"},
		{"network.xmpp.server", "127.0.0.1:5347", "default"},
		{"network.xmpp.secret", "(hidden)", "file " + filepath.Join(dir, "component.secret")},
		{"admin.token", "(hidden)", "environment variable MIMI_TOKEN"},
		{"admin.console", true, "default"},
		{"permissions.example.org", "user", path + ":12"},
		{"(sealing key)", "(hidden)", "file " + filepath.Join(dir, "sealing.key")},
	} {
		if got[want.Key] != want {
			t.Errorf("%+v, want %+v", got[want.Key], want)
		}
	}
	if _, there := got["federation.ca_file"]; there {
		t.Error("a key without a value is listed")
	}
	b, err := json.Marshal(c.Settings())
	if err != nil || bytes.Contains(b, []byte("s3cr3t")) || bytes.Contains(b, []byte("t0k3n")) {
		t.Errorf("%v, or a secret: %s", err, b)
	}
}

func TestChanges(t *testing.T) {
	good := "domain: example.org\nnetwork:\n  xmpp:\n    secret_file: component.secret\n" + federation
	was, err := Load(write(t, good))
	if err != nil {
		t.Fatal(err)
	}
	next, err := Load(write(t, good+"permissions: {example.net: user}\nlog: {level: debug}\nfederation_unused: 1\n"))
	if err == nil {
		t.Fatal("an unknown key was taken")
	}
	if next, err = Parse(was.File, []byte(good+"  listen: \":9443\"\npermissions: {example.net: user}\nlog: {level: debug}\n")); err != nil {
		t.Fatal(err)
	}
	changed, restart := Changes(was, next)
	if s := strings.Join(changed, " "); s != "log.level permissions.example.net permissions.example.org" {
		t.Errorf("changed %s", s)
	}
	if s := strings.Join(restart, " "); s != "federation.listen federation.url" {
		t.Errorf("restart %s", s)
	}
	now := was.WithLive(next)
	if now.Permissions.Level("a@example.net") != User || now.Permissions.Level("a@example.org") != None || now.Log.Level != "debug" || now.Federation.Listen != ":8443" {
		t.Errorf("%+v", now)
	}
	if was.Log.Level != "info" {
		t.Error("the old configuration was changed")
	}
}

// TestSchema: docs/config.schema.json is what the structs say, and knows every key of them.
func TestSchema(t *testing.T) {
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join("..", "docs", "config.schema.json"))
	if err != nil || !bytes.Equal(b, file) {
		t.Errorf("docs/config.schema.json is not current (%v): go run ./cmd/mimibridge config schema > docs/config.schema.json", err)
	}
	var s struct {
		Properties map[string]struct {
			Description string
			Properties  map[string]struct {
				Description string
				Enum        []string
				Properties  map[string]struct{ Description string }
			}
		}
	}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if d := s.Properties["federation"].Properties["listen"].Description; !strings.Contains(d, `Default ":8443"`) {
		t.Errorf("federation.listen is described as %q", d)
	}
	if e := s.Properties["log"].Properties["level"].Enum; len(e) != 5 {
		t.Errorf("log.level is one of %q", e)
	}
	if d := s.Properties["network"].Properties["xmpp"].Properties["secret_env"]; s.Properties["network"].Properties["xmpp"].Properties == nil || d.Description != "" && !strings.Contains(d.Description, "secret") {
		t.Errorf("network.xmpp: %+v", s.Properties["network"])
	}
	if s.Properties["where"].Description != "" || len(s.Properties) < 7 {
		t.Errorf("keys: %+v", s.Properties)
	}
}
