package mls

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestChapters: the package comment says of every file which chapter it holds, and names none that is not there.
func TestChapters(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	must(t, err)
	files, err := filepath.Glob("*.go")
	must(t, err)
	listed := map[string]bool{}
	_, list, _ := strings.Cut(string(doc), "A file holds a chapter")
	for _, f := range regexp.MustCompile(`[a-z]+\.go`).FindAllString(list, -1) {
		listed[f] = true
	}
	for _, f := range files {
		if f != "doc.go" && !strings.HasSuffix(f, "_test.go") && !listed[f] {
			t.Errorf("doc.go does not say what is in %s", f)
		}
		delete(listed, f)
	}
	for f := range listed {
		t.Errorf("doc.go names %s", f)
	}
}
