package matrix

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestRegistration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registration.yaml")
	reg, err := NewRegistration(path, "http://127.0.0.1:29333", "a.example:8448")
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	again, err := LoadRegistration(path, "a.example:8448")
	if err != nil {
		t.Fatal(err)
	}
	if again.ASToken != reg.ASToken || again.HSToken != reg.HSToken || again.SenderLocalpart != reg.SenderLocalpart || again.RateLimited || !again.Ephemeral || !again.MSC4190 {
		t.Errorf("%+v, want %+v", again, reg)
	}
	users := regexp.MustCompile(reg.Namespaces.Users[0].Regex)
	for id, want := range map[string]bool{
		"@" + reg.SenderLocalpart + ":a.example:8448": true,
		"@mimi_romeo=xmpp.example:a.example:8448":     true,
		"@mimi_romeo=xmpp.example:aXexample:8448":     false,
		"@mimi_romeo=xmpp.example:a.example":          false,
		"@alice:a.example:8448":                       false,
		"@xmimi_a:a.example:8448":                     false,
	} {
		if users.MatchString(id) != want {
			t.Errorf("%s: %v", id, !want)
		}
	}
	if _, err := NewRegistration(path, "http://127.0.0.1:29333", "a.example"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("overwriting: %v", err)
	}
	other, err := NewRegistration("", "http://127.0.0.1:29333", "a.example")
	if err != nil || other.ASToken == reg.ASToken || other.HSToken == reg.HSToken || other.SenderLocalpart == reg.SenderLocalpart || other.ASToken == other.HSToken {
		t.Errorf("%+v, %v", other, err)
	}
	for _, bad := range [][2]string{{"", "a.example"}, {"127.0.0.1:1", "a.example"}, {"ftp://x", "a.example"}, {"http://x", ""}, {"http://x", "a b"}} {
		if _, err := NewRegistration("", bad[0], bad[1]); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestRegistrationThatDoesNotFit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registration.yaml")
	if _, err := NewRegistration(path, "http://127.0.0.1:29333", server); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Homeserver: "http://127.0.0.1:8008/", ServerName: server, Listen: "127.0.0.1:0", Registration: path}
	if a, err := New(cfg); err != nil || a.Name() != "matrix" {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		out := regexp.MustCompile(old).ReplaceAllString(string(good), new)
		if out == string(good) {
			t.Fatalf("%q is not in the file", old)
		}
		return out
	}
	for name, file := range map[string]string{
		"no YAML":                      "\tx: [",
		"empty":                        "",
		"no token":                     replace(`as_token: .*`, ""),
		"a short token":                replace(`hs_token: .*`, "hs_token: short"),
		"the same token":               regexp.MustCompile(`(as|hs)_token: .*`).ReplaceAllString(string(good), "${1}_token: aaaaaaaaaaaaaaaaaaaaaaaa"),
		"a bot outside the namespace":  replace(`sender_localpart: .*`, "sender_localpart: bridge"),
		"a bot that is a ghost":        replace(`sender_localpart: .*`, "sender_localpart: mimi_x=a.b"),
		"another homeserver's":         strings.ReplaceAll(string(good), `matrix\.example`, `other\.example`),
		"no users":                     replace(`(?s)users:.*?aliases:`, "users: []\n    aliases:"),
		"a regex that is none":         replace(`regex: \^@`, "regex: (^@"),
		"no id":                        replace(`id: mimibridge`, ""),
		"too large":                    string(good) + "#" + strings.Repeat("x", maxRegistration),
		"a token where a list belongs": "namespaces: sekritsekritsekrit",
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := New(cfg)
			if err == nil {
				t.Fatal("it was taken")
			}
			if !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "sekrit") || strings.Contains(err.Error(), "aaaaaaaa") {
				t.Errorf("%v", err)
			}
		})
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]Config{
		"no URL":           {Homeserver: "127.0.0.1:8008", ServerName: server, Listen: "127.0.0.1:0", Registration: path},
		"no server name":   {Homeserver: "http://x", ServerName: "", Listen: "127.0.0.1:0", Registration: path},
		"a long one":       {Homeserver: "http://x", ServerName: strings.Repeat("a", 200), Listen: "127.0.0.1:0", Registration: path},
		"no port":          {Homeserver: "http://x", ServerName: server, Listen: "127.0.0.1", Registration: path},
		"no registration":  {Homeserver: "http://x", ServerName: server, Listen: "127.0.0.1:0", Registration: path + "x"},
		"another server's": {Homeserver: "http://x", ServerName: "other.example", Listen: "127.0.0.1:0", Registration: path},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(bad); err == nil {
				t.Error("it was taken")
			}
		})
	}
}

func TestCut(t *testing.T) {
	for _, s := range []string{"", "short", strings.Repeat("x", 300), strings.Repeat("word ", 100), strings.Repeat("line\n", 100), strings.Repeat("ü\"", 100), strings.Repeat("\x01", 50), strings.Repeat("\U0001F600", 77)} {
		got := cut(s, 100)
		if len(got) > 100 || !strings.HasPrefix(s, got) || !utf8.ValidString(got) || len(got) < min(len(s), 75) {
			t.Errorf("%.20q: %q", s, got)
		}
		if n := jsonSize(s); len(mustJSON(s))-2 > n {
			t.Errorf("%q: %d octets of JSON, counted %d", s, len(mustJSON(s))-2, n)
		}
	}
}
