package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const modulePath = "github.com/mimibridge/mimibridge/"

// serverMark is before the name of a server in a test's output.
const serverMark = "testtable: server "

// suite is one row of the table.
type suite struct {
	name                    string
	servers                 []string
	passed, failed, skipped int
	seconds                 float64
	ran                     bool
	output                  map[string][]string // by test, until it has passed
}

func (s *suite) server(line string) {
	if _, name, ok := strings.Cut(line, serverMark); ok {
		if name = strings.TrimSpace(name); name != "" && !slices.Contains(s.servers, name) {
			s.servers = append(s.servers, name)
		}
	}
}

// table collects suites in the order in which they were first heard of.
type table struct {
	w      io.Writer
	suites []*suite
}

func (t *table) suite(name string) *suite {
	for _, s := range t.suites {
		if s.name == name {
			return s
		}
	}
	s := &suite{name: name, output: make(map[string][]string)}
	t.suites = append(t.suites, s)
	return s
}

// event is a line of `go test -json` (go doc test2json), of builds too.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build events
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// read reads `go test -json` until its end and prints what failed, and a line for each package.
func (t *table) read(r io.Reader) error {
	br := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil {
				t.event(e)
			} else {
				fmt.Fprintf(t.w, "%s", line) // the go command's own words
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *table) event(e event) {
	if e.Action == "build-output" {
		fmt.Fprint(t.w, e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	s := t.suite(strings.TrimPrefix(e.Package, modulePath))
	switch e.Action {
	case "output":
		s.server(e.Output)
		s.output[e.Test] = append(s.output[e.Test], e.Output)
	case "run":
		s.ran = true
	case "pass", "fail", "skip":
		if e.Test != "" {
			s.test(t.w, e)
			return
		}
		s.seconds = e.Elapsed
		switch {
		case e.Action == "fail":
			if s.failed == 0 {
				s.failed++ // it did not build, panicked or timed out
			}
			fmt.Fprintf(t.w, "%sFAIL  %s  %.1f s\n", strings.Join(s.output[""], ""), s.name, e.Elapsed)
			for name, lines := range s.output { // tests that a panic or the time limit cut off
				if name != "" {
					fmt.Fprint(t.w, strings.Join(lines, ""))
				}
			}
		case s.ran:
			fmt.Fprintf(t.w, "ok    %s  %.1f s\n", s.name, e.Elapsed)
		}
		s.output = make(map[string][]string)
	}
}

// test counts the result of one test. Subtests count, and so does the test they belong to.
func (s *suite) test(w io.Writer, e event) {
	switch e.Action {
	case "pass":
		s.passed++
	case "skip":
		s.skipped++
		fmt.Fprintf(w, "%s--- SKIP counts as failed: %s %s\n", strings.Join(s.output[e.Test], ""), s.name, e.Test)
	case "fail":
		s.failed++
		fmt.Fprint(w, strings.Join(s.output[e.Test], ""))
	}
	delete(s.output, e.Test)
}

func (t *table) failed() int {
	n := 0
	for _, s := range t.suites {
		n += s.failed + s.skipped
	}
	return n
}

// print prints the table and, as the last line, the totals.
func (t *table) print() {
	rows := [][]string{{"suite", "server and version", "tests", "seconds"}}
	passed, seconds := 0, 0.0
	for _, s := range t.suites {
		if !s.ran && s.failed == 0 {
			continue // a package without tests
		}
		tests := fmt.Sprint(s.passed + s.failed + s.skipped)
		if bad := s.failed + s.skipped; bad > 0 {
			tests += fmt.Sprintf(", %d FAILED", bad)
		}
		servers := strings.Join(s.servers, ", ")
		if servers == "" {
			servers = "none"
		}
		rows = append(rows, []string{s.name, servers, tests, fmt.Sprintf("%.1f", s.seconds)})
		passed += s.passed
		seconds += s.seconds
	}
	width := make([]int, 4)
	for _, r := range rows {
		for i, c := range r {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	fmt.Fprintln(t.w)
	for i, r := range rows {
		fmt.Fprintf(t.w, "%-*s  %-*s  %*s  %*s\n", width[0], r[0], width[1], r[1], width[2], r[2], width[3], r[3])
		if i == 0 {
			fmt.Fprintf(t.w, "%s\n", strings.Repeat("-", width[0]+width[1]+width[2]+width[3]+6))
		}
	}
	fmt.Fprintf(t.w, "\n%d passed, %d failed\n", passed, t.failed())
}
