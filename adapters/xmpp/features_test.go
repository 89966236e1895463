package xmpp

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of features into docs/xmpp.md")

// covers says in a test what of the specifications it shows; the table in docs/xmpp.md is made of these lines. All four have
// to be literal. direction is "to MIMI", "from MIMI" or "both"; client is who is at the XMPP end.
func covers(t testing.TB, feature, spec, direction, client string) {
	t.Helper()
	t.Logf("feature %s (%s), %s, with %s", feature, spec, direction, client)
}

var coversLine = regexp.MustCompile(`covers\(t, "([^"]+)", "([^"]+)", "([^"]+)", "([^"]+)"\)`)
var funcLine = regexp.MustCompile(`(?m)^func (\w+)\(`)

// featureTable makes the table of the tests' source.
func featureTable(t *testing.T) string {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		src := string(b)
		server := "a stub"
		if strings.Contains(src, "//go:build live") {
			server = "Prosody, ejabberd"
		}
		funcs := funcLine.FindAllStringSubmatchIndex(src, -1)
		for _, m := range coversLine.FindAllStringSubmatchIndex(src, -1) {
			name := ""
			for _, fn := range funcs {
				if fn[0] < m[0] {
					name = src[fn[2]:fn[3]]
				}
			}
			if strings.HasPrefix(name, "live") {
				name = "TestLive" + strings.TrimPrefix(name, "live")
			}
			g := func(i int) string { return src[m[2*i]:m[2*i+1]] }
			rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s | %s | %s |", g(1), g(2), g(3), server, g(4), name))
		}
	}
	sort.Strings(rows)
	return "| feature | specification | direction | server | client | test |\n|---|---|---|---|---|---|\n" + strings.Join(rows, "\n") + "\n"
}

// The table in docs/xmpp.md is what the tests say; go test -run TestFeatureTable -update writes it.
func TestFeatureTable(t *testing.T) {
	const path, begin, end = "../../docs/xmpp.md", "<!-- table: begin -->\n", "<!-- table: end -->\n"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(b), begin)
	table, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatal("docs/xmpp.md has no place for the table")
	}
	want := featureTable(t)
	if *update {
		if err := os.WriteFile(path, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if table != want {
		t.Errorf("docs/xmpp.md is not what the tests say; write it by: go test ./adapters/xmpp -run TestFeatureTable -update\nwant:\n%s", want)
	}
}
