package testnet

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var declared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(\w+ \*testing\.[TF]\)`)

var passed = regexp.MustCompile(`(?m)^--- PASS: `)

// Test is what AgainOnPostgres needs of a *testing.T.
type Test interface {
	Helper()
	Context() context.Context
	Fatal(...any)
	Fatalf(string, ...any)
	Log(...any)
	Logf(string, ...any)
}

// AgainOnPostgres runs the tests of the calling test's package again, in a process of its own, with a PostgreSQL server in
// place of SQLite: all but those with the build tag live, and the named ones, which are about SQLite's files.
func AgainOnPostgres(t Test, without ...string) {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, []byte("//go:build live")) {
			for _, m := range declared.FindAllSubmatch(b, -1) {
				if name := string(m[1]); !slices.Contains(without, name) {
					names = append(names, name)
				}
			}
		}
	}
	pg, err := StartPostgres(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Stop()
	t.Log("testtable: server", pg.Version)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "-test.v", "-test.count=1", "-test.run", "^("+strings.Join(names, "|")+")$", "-test.timeout", "10m")
	cmd.Env = append(os.Environ(), PostgresEnv+"="+pg.URL("postgres"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	n := len(passed.FindAllIndex(out.Bytes(), -1))
	if n == 0 {
		t.Fatal("no test was run again")
	}
	t.Logf("%d tests passed on PostgreSQL", n)
}
