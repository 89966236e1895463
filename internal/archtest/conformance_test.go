package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestConformanceNamesTests: each test that docs/conformance.md names exists, each row has a state, and what is done or part
// of a draft names a test.
func TestConformanceNamesTests(t *testing.T) {
	have := map[string]bool{}
	fn := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	if err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		for _, m := range fn.FindAllStringSubmatch(string(src), -1) {
			have[m[1]] = true
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(root(t), "docs", "conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, line := range strings.Split(string(doc), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || strings.HasPrefix(line, "|---") || strings.TrimSpace(cells[2]) == "state" {
			if strings.HasPrefix(line, "|") && len(cells) != 6 {
				t.Errorf("a row with %d cells: %s", len(cells), line)
			}
			continue
		}
		rows++
		names := regexp.MustCompile(`\b(?:Test|Fuzz)\w+`).FindAllString(cells[4], -1)
		switch state := strings.TrimSpace(cells[2]); state {
		case "done", "part", "otherwise":
			if len(names) == 0 {
				t.Errorf("no test shows it: %s", line)
			}
		case "not":
		default:
			t.Errorf("state %q: %s", state, line)
		}
		for _, n := range names {
			if !have[n] {
				t.Errorf("there is no %s: %s", n, line)
			}
		}
	}
	if rows < 50 {
		t.Errorf("only %d rows", rows)
	}
}
