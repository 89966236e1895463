package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestComplete(t *testing.T) {
	for _, tc := range []struct {
		words   []string
		want    []string
		without string
	}{
		{[]string{"ro"}, []string{"room\t"}, "run"},
		{[]string{"room", ""}, []string{"list\t", "show\t", "members\t"}, "run"},
		{[]string{"room", "show", "-"}, []string{"-c\t", "-json\t"}, "list"},
		{[]string{"room", "show", "--j"}, []string{"--json\t"}, "-c"},
		{[]string{"completion", ""}, []string{"bash", "fish", "zsh"}, "room"},
		{[]string{"nonsense", ""}, nil, "run"},
		{nil, []string{"run\t", "version\t"}, "complete"},
	} {
		stdout, stderr, status := mimibridge(t, "", false, append([]string{"complete"}, tc.words...)...)
		if status != 0 || stderr != "" {
			t.Errorf("%q: status %d, %s", tc.words, status, stderr)
		}
		for _, w := range tc.want {
			if !strings.Contains("\n"+stdout, "\n"+w) {
				t.Errorf("%q lacks %q: %s", tc.words, w, stdout)
			}
		}
		for _, line := range strings.Split(stdout, "\n") {
			if word, _, _ := strings.Cut(line, "\t"); word == tc.without {
				t.Errorf("%q gives %q", tc.words, word)
			}
		}
	}
}

// TestBashCompletion has a bash complete, as a person's would.
func TestBashCompletion(t *testing.T) {
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{"ro": "room", "room me": "members", "config show --run": "--running", "completion f": "fish"} {
		script := `source <("$1" completion bash); COMP_WORDS=(mimibridge $2); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _mimibridge; echo "${COMPREPLY[@]}"`
		cmd := exec.Command("bash", "-c", script, "bash", bin, line)
		cmd.Env = append(cmd.Environ(), "PATH="+filepath.Dir(bin)+":/usr/bin:/bin")
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%q: %v, %q, want %q", line, err, out, want)
		}
	}
}
