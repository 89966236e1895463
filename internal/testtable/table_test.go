package main

import (
	"bytes"
	"strings"
	"testing"
)

const stream = `{"Action":"start","Package":"github.com/mimibridge/mimibridge/a"}
{"Action":"run","Package":"github.com/mimibridge/mimibridge/a","Test":"TestX"}
{"Action":"output","Package":"github.com/mimibridge/mimibridge/a","Test":"TestX","Output":"    x_test.go:1: testtable: server prosody 0.12.3\n"}
{"Action":"output","Package":"github.com/mimibridge/mimibridge/a","Test":"TestX","Output":"noise of a passing test\n"}
{"Action":"pass","Package":"github.com/mimibridge/mimibridge/a","Test":"TestX","Elapsed":1}
{"Action":"output","Package":"github.com/mimibridge/mimibridge/a","Output":"PASS\n"}
{"Action":"pass","Package":"github.com/mimibridge/mimibridge/a","Elapsed":1.25}
{"Action":"start","Package":"github.com/mimibridge/mimibridge/none"}
{"Action":"output","Package":"github.com/mimibridge/mimibridge/none","Output":"?   \tnone\t[no test files]\n"}
{"Action":"skip","Package":"github.com/mimibridge/mimibridge/none","Elapsed":0}
`

func table1(t *testing.T, s string) (string, *table) {
	t.Helper()
	var out bytes.Buffer
	tab := &table{w: &out}
	if err := tab.read(strings.NewReader(s)); err != nil {
		t.Fatal(err)
	}
	tab.print()
	return out.String(), tab
}

func TestTable(t *testing.T) {
	t.Run("all pass", func(t *testing.T) {
		out, tab := table1(t, stream)
		if tab.failed() != 0 || !strings.HasSuffix(out, "\n1 passed, 0 failed\n") {
			t.Errorf("%s", out)
		}
		row := ""
		for _, l := range strings.Split(out, "\n") {
			if strings.HasPrefix(l, "a ") {
				row = strings.Join(strings.Fields(l), " ")
			}
		}
		if row != "a prosody 0.12.3 1 1.2" {
			t.Errorf("row %q in\n%s", row, out)
		}
		if strings.Contains(out, "noise") || strings.Contains(out, "none  ") {
			t.Errorf("%s", out)
		}
	})
	for _, tc := range []struct{ name, events, want string }{
		{"a failed test", `{"Action":"run","Package":"b","Test":"TestY"}
{"Action":"output","Package":"b","Test":"TestY","Output":"why it failed\n"}
{"Action":"fail","Package":"b","Test":"TestY","Elapsed":1}
{"Action":"fail","Package":"b","Elapsed":1}
`, "why it failed"},
		{"a skipped test", `{"Action":"run","Package":"b","Test":"TestY"}
{"Action":"output","Package":"b","Test":"TestY","Output":"no server\n"}
{"Action":"skip","Package":"b","Test":"TestY"}
{"Action":"pass","Package":"b"}
`, "no server"},
		{"a build that fails", `{"ImportPath":"b [b.test]","Action":"build-output","Output":"b.go:1: undefined: x\n"}
{"ImportPath":"b [b.test]","Action":"build-fail"}
{"Action":"fail","Package":"b","FailedBuild":"b [b.test]"}
`, "undefined: x"},
		{"a panic", `{"Action":"run","Package":"b","Test":"TestY"}
{"Action":"output","Package":"b","Test":"TestY","Output":"panic: boom\n"}
{"Action":"fail","Package":"b","Elapsed":1}
`, "panic: boom"},
		{"words of the go command", "go: cannot find main module\n" + `{"Action":"fail","Package":"b"}` + "\n", "cannot find main module"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, tab := table1(t, stream+tc.events)
			if tab.failed() != 1 || !strings.HasSuffix(out, "\n1 passed, 1 failed\n") || !strings.Contains(out, tc.want) {
				t.Errorf("%s", out)
			}
		})
	}
}
