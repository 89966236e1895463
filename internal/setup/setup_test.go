package setup

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

// onlyOnPath makes a PATH with the named programs, which do nothing.
func onlyOnPath(t *testing.T, names ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("#!/bin/false\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestInstall(t *testing.T) {
	needs := []Need{
		{Name: "Prosody, an XMPP server", Package: "prosody", Have: func(context.Context) bool { return false }},
		{Name: "slixmpp, an XMPP client", Package: "python3-slixmpp", Have: func(context.Context) bool { return false }},
	}
	t.Run("nothing is missing", func(t *testing.T) {
		onlyOnPath(t)
		if err := Install(t.Context(), nil, Options{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("not a Debian machine", func(t *testing.T) {
		onlyOnPath(t)
		if err := Install(t.Context(), needs, Options{}); err == nil || !strings.Contains(err.Error(), "slixmpp, an XMPP client (Debian calls it python3-slixmpp)") {
			t.Errorf("error %v", err)
		}
	})
	for _, answer := range []string{"n\n", "no\n", "later\n", ""} {
		t.Run("declined by "+strings.TrimSpace(answer), func(t *testing.T) {
			onlyOnPath(t, "apt-get", "sudo")
			var out bytes.Buffer
			err := Install(t.Context(), needs, Options{In: strings.NewReader(answer), Terminal: true, Progress: &testnet.Progress{W: &out}})
			if !errors.Is(err, ErrDeclined) || !strings.Contains(err.Error(), "apt-get install --no-install-recommends prosody python3-slixmpp") {
				t.Errorf("error %v", err)
			}
			if strings.Count(out.String(), "[Y/n]") != 1 {
				t.Errorf("asked: %q", out.String())
			}
		})
	}
}
