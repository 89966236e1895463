package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/mimibridge/mimibridge/"

// mayImport says for each package of the core what else of this project it may import; what those may import
// it may too. Imports point only up this list. A package that is not here and is not matched below is an
// error: whoever adds one decides where it stands.
var mayImport = map[string][]string{
	"core/fault":            {},
	"core/mimiuri":          {},
	"core/mls/tlspl":        {},
	"core/mls":              {"core/mls/tlspl"},
	"core/content":          {"core/mimiuri", "core/fault"},
	"core/policy":           {"core/mls", "core/mimiuri", "core/fault"},
	"core/wire":             {"core/mls", "core/mimiuri", "core/fault"},
	"core/adapter":          {"core/content", "core/mimiuri", "core/policy", "core/fault"},
	"core/port":             {"core/wire", "core/policy", "core/fault"},
	"core/store":            {"core/fault"},
	"core/assets":           {"core/store", "core/port"},
	"core/internal/mailbox": {"core/fault"},
	"core/hub":              {"core/port", "core/store", "core/adapter", "core/internal/mailbox"},
	"core/client":           {"core/port", "core/store", "core/adapter", "core/internal/mailbox"},
	"core/people":           {"core/port", "core/store", "core/adapter"},
	"core/federation":       {"core/port", "core/store", "core/adapter", "core/internal/mailbox"},
	"core":                  {"core/hub", "core/client", "core/people", "core/federation", "core/assets"},
	"config":                {"core/mimiuri"},
}

// adapterMay is what an adapter may import directly. An adapter elsewhere has the same: nothing of MLS, of the
// hub, of the store.
var adapterMay = []string{"core/adapter", "core/content", "core/mimiuri", "core/policy", "core/fault"}

// pure packages have no network, no disk and no database.
var pure = []string{"core/fault", "core/mimiuri", "core/mls", "core/mls/tlspl", "core/content", "core/policy", "core/wire", "core/port"}

var impure = []string{"net", "net/http", "os", "os/exec", "database/sql", "crypto/tls", "syscall"}

type pkg struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", "live,goolm", "-deps", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		if rel, ok := strings.CutPrefix(p.ImportPath, module); ok {
			p.ImportPath = rel
			pkgs = append(pkgs, p)
		}
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// closure is what a package may import, directly or by way of what it may import.
func closure(name string, into map[string]bool) map[string]bool {
	for _, up := range mayImport[name] {
		if !into[up] {
			into[up] = true
			closure(up, into)
		}
	}
	return into
}

func TestImports(t *testing.T) {
	pkgs := list(t)
	if len(pkgs) < 10 {
		t.Fatalf("go list found %d packages of the project", len(pkgs))
	}
	for _, p := range pkgs {
		t.Run(p.ImportPath, func(t *testing.T) {
			var own []string
			for _, i := range p.Imports {
				if rel, ok := strings.CutPrefix(i, module); ok {
					own = append(own, rel)
				}
			}
			var may map[string]bool
			switch {
			case mayImport[p.ImportPath] != nil:
				may = closure(p.ImportPath, make(map[string]bool))
			case strings.HasPrefix(p.ImportPath, "adapters/"):
				may = make(map[string]bool)
				for _, a := range adapterMay {
					may[a] = true
				}
			case strings.HasPrefix(p.ImportPath, "cmd/"), strings.HasPrefix(p.ImportPath, "internal/"):
				return // the top: everything
			default:
				t.Fatalf("no rule says where this package stands")
			}
			for _, i := range own {
				// A package's own parts are its own affair.
				if !may[i] && !strings.HasPrefix(i, p.ImportPath+"/") {
					t.Errorf("imports %s", i)
				}
			}
			if slices.Contains(pure, p.ImportPath) {
				for _, i := range p.Imports {
					if slices.Contains(impure, i) {
						t.Errorf("imports %s, but has neither network nor disk", i)
					}
				}
			}
		})
	}
}

// TestDependenciesHaveReasons: every module that the project imports has a line in docs/architecture.md.
func TestDependenciesHaveReasons(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root(t), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-tags", "live,goolm", "-f", `{{range .Imports}}{{.}} {{end}}{{range .TestImports}}{{.}} {{end}}{{range .XTestImports}}{{.}} {{end}}`, "./...")
	cmd.Dir = root(t)
	imports, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("go", "list", "-m", "-f", "{{if not .Main}}{{.Path}}{{end}}", "all")
	cmd.Dir = root(t)
	modules, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	for _, i := range strings.Fields(string(imports)) {
		best := ""
		for _, m := range strings.Fields(string(modules)) {
			if (i == m || strings.HasPrefix(i, m+"/")) && len(m) > len(best) {
				best = m
			}
		}
		if best != "" {
			used[best] = true
		}
	}
	if len(used) < 5 {
		t.Fatalf("only %d modules are found to be in use", len(used))
	}
	for m := range used {
		if !strings.Contains(string(doc), "\n| "+m+" | ") {
			t.Errorf("%s has no reason in docs/architecture.md", m)
		}
	}
}

// TestNothingIsSkipped: what a test needs is installed or its absence fails the run.
func TestNothingIsSkipped(t *testing.T) {
	calls := []string{"." + "Skip(", "." + "Skipf(", "." + "SkipNow("}
	files := 0
	err := filepath.WalkDir(root(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != "." || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files++
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for n, line := range strings.Split(string(b), "\n") {
			for _, c := range calls {
				if strings.Contains(line, c) {
					t.Errorf("%s:%d skips", path, n+1)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Error("no test files found")
	}
}
