//go:build live

package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOtherShells has zsh and fish complete. zsh's own part of it, which shows the list, is stood in for.
func TestOtherShells(t *testing.T) {
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ shell, flag, script, want string }{
		{"zsh", "-fc", `compdef() { }; _describe() { print -l ${(P)2} }; source <(mimibridge completion zsh); words=(mimibridge room me); CURRENT=3; _mimibridge`, "members:list who is in one"},
		{"fish", "-c", `source (mimibridge completion fish | psub); complete -C "mimibridge room me"`, "members\tlist who is in one"},
	} {
		cmd := exec.Command(tc.shell, tc.flag, tc.script)
		cmd.Env = []string{"PATH=" + filepath.Dir(bin) + ":/usr/bin:/bin", "HOME=" + t.TempDir()}
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != tc.want {
			t.Errorf("%s: %v, %q", tc.shell, err, out)
		}
	}
}
