package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	tables, failed, err := read(strings.NewReader(`goos: linux
pkg: example/a
cpu: some
BenchmarkEncrypt/2-2       	     770	    132482 ns/op	     57633 ns/bare	         1.141 x/bare	         1.500 x/target	    7873 B/op	     100 allocs/op
BenchmarkEncrypt/100-2     	    1239	   2069060 ns/op	     36221 ns/bare	         1.752 x/bare	         1.500 x/target	    7885 B/op	     100 allocs/op
BenchmarkMany/message-2    	     100	       960 ns/op	       303.6 B/leaf	     4096 B/target
BenchmarkSpeed/hub-2   	     100	         0 ns/op	       0.5 of-baseline	     0.4 of-baseline/least	     300 MB	      200 MB/most
BenchmarkPeer/Encrypt/100-2 	     10	   4138120 ns/op	   12375000 B/op	     105 allocs/op
BenchmarkPeer/Other/100-2 	     10	   4138120 ns/op
PASS
ok  	example/a	1s
pkg: example/none
PASS
pkg: example/broken
--- FAIL: BenchmarkHalf
    x_test.go:3: broken
FAIL
exit status 1
FAIL	example/broken	0.1s
FAIL
`))
	if err != nil || len(tables) != 3 {
		t.Fatal(tables, err)
	}
	if want := []string{"BenchmarkHalf", "example/broken 0.1s"}; !slices.Equal(failed, want) {
		t.Errorf("failed are %q, not %q", failed, want)
	}
	var b bytes.Buffer
	if targets, missed := tables[0].print(&b, "theirs"); targets != 5 || strings.Join(missed, " ") != "Encrypt/100 Speed/hub MB" {
		t.Errorf("of %d targets missed: %q", targets, missed)
	}
	if targets, _ := tables[1].print(&b, "theirs"); targets != 0 {
		t.Errorf("%d targets of nothing", targets)
	}
	want := `
example/a
              size      time  allocated  against           ratio  target           theirs  allocated  x ours
Encrypt          2  132.5 µs     7873 B  bare     57.6 µs   1.14    1.50  met
Encrypt        100   2.07 ms     7885 B  bare     36.2 µs   1.75    1.50  MISSED  4.14 ms      12 MB     2.0
Many/message          960 ns                                                                                  303.6 B/leaf (target 4096: met)
Speed/hub                                                                                                     0.5 of-baseline (target at least 0.4: met), 300 MB (target at most 200: MISSED)
Peer/Other     100   4.14 ms
3 of 5 targets met; missed: Encrypt/100, Speed/hub MB
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	if _, _, err := read(strings.NewReader("pkg: x\nBenchmarkA-2 1 many ns/op\n")); err == nil {
		t.Error("a result that is none is taken")
	}
}
