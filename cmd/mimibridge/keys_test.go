package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/store"
)

// TestKeysRotate: the command, interrupted and begun again; then the new key opens all of the database and the old one nothing.
func TestKeysRotate(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	cfg := file("mimibridge.yaml", "domain: a.example\nnetwork:\n  xmpp:\n    secret: s3cr3t\nfederation:\n  cert_file: c.pem\n  key_file: k.pem\n")
	key := file("sealing.key", config.NewSealingKey())
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	open := func(with []byte) (*store.Store, error) {
		k, err := config.ParseSealingKey(string(with))
		if err != nil {
			t.Fatal(err)
		}
		return store.Open(t.Context(), store.Options{Path: filepath.Join(dir, "mimibridge.db"), Key: k, Domain: "a.example"})
	}
	s, err := open(before)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), func(tx *store.Tx) error {
		return tx.InsertIdentity(&store.Identity{User: "u", Device: "d", Suite: 1, Secret: []byte("the secret")})
	}); err != nil {
		t.Fatal(err)
	}
	rotate := func(ctx context.Context) (int, string) {
		var out bytes.Buffer
		code := run(ctx, &env{in: strings.NewReader(""), out: &out, err: &out}, []string{"keys", "rotate", "-c", cfg})
		return code, out.String()
	}
	if code, out := rotate(t.Context()); code != 1 || !strings.Contains(out, "stop") {
		t.Errorf("while the database is in use: %d %s", code, out)
	}
	s.Close()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if code, out := rotate(gone); code != 1 {
		t.Errorf("interrupted: %d %s", code, out)
	}
	if c, err := config.Load(cfg); err != nil || c.Secrets.NextKey == nil || len(c.Warnings) == 0 {
		t.Errorf("between: %v", err)
	}
	code, out := rotate(t.Context())
	if code != 0 || !strings.Contains(out, "going on") || !strings.Contains(out, "done") {
		t.Fatalf("%d %s", code, out)
	}
	after, err := os.ReadFile(key)
	if err != nil || bytes.Equal(after, before) {
		t.Fatalf("the key file is as it was, %v", err)
	}
	if old, err := os.ReadFile(key + ".old"); err != nil || !bytes.Equal(old, before) {
		t.Errorf("the old key: %v", err)
	}
	for _, f := range []string{key, key + ".old"} {
		if fi, err := os.Stat(f); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, fi, err)
		}
	}
	if _, err := os.Stat(key + ".new"); err == nil {
		t.Error("the new key's file is still there")
	}
	if strings.Contains(out, strings.Fields(string(after))[1]) || strings.Contains(out, strings.Fields(string(before))[1]) {
		t.Error("a key was printed")
	}
	s, err = open(after)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.View(t.Context(), func(tx *store.Tx) error {
		id, err := tx.Identity("u")
		if err == nil && string(id.Secret) != "the secret" {
			t.Error("the secret is another")
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	s.Close()
	if s, err := open(before); err == nil {
		s.Close()
		t.Error("the old key opens the database")
	}
}

func TestDecodeCommand(t *testing.T) {
	decode := func(in string, args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := run(t.Context(), &env{in: strings.NewReader(in), out: &out, err: &errs}, append([]string{"decode"}, args...))
		return code, out.String(), errs.String()
	}
	b, err := content.Text("hello").Encode()
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs := decode(hex.EncodeToString(b), "content", "-", "-sender", "mimi://a.example/u/alice", "-room", "mimi://a.example/r/x")
	if code != 0 || !strings.Contains(out, `"message_id": "01`) {
		t.Errorf("%d %s %s", code, out, errs)
	}
	for name, args := range map[string][]string{"no file": {"content"}, "unknown kind": {"poem", "-"}} {
		if code, _, errs := decode("", args...); code != 2 || errs == "" {
			t.Errorf("%s: %d %s", name, code, errs)
		}
	}
	for name, args := range map[string][]string{"not there": {"content", "/nowhere"}, "no content": {"content", "-"}, "bad URI": {"content", "-", "-sender", "alice"}} {
		if code, _, errs := decode("zz", args...); code != 1 || errs == "" {
			t.Errorf("%s: %d %s", name, code, errs)
		}
	}
}
