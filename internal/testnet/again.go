package testnet

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
)

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

// AgainOnPostgres runs all tests of the calling test's package again, in a process of its own, with a PostgreSQL server in
// place of SQLite. without is a pattern of the tests that are not run again: the calling one, and others with build tag live.
func AgainOnPostgres(t Test, without string) {
	t.Helper()
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
	cmd := exec.CommandContext(ctx, exe, "-test.v", "-test.count=1", "-test.skip", without, "-test.timeout", "10m")
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
