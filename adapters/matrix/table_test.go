package matrix

import (
	cmdline "flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = cmdline.Bool("update", false, "write the table of docs/matrix.md")

const (
	tableDoc   = "../../docs/matrix.md"
	tableBegin = "<!-- table: go test ./adapters/matrix -run TestTable -update -->\n"
	tableEnd   = "<!-- end of the table -->"
)

// featureTable is made of the calls of feature in the tests with real homeservers, and of the tests that run on Synapse.
func featureTable(t *testing.T) string {
	files, err := filepath.Glob("*_live_test.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no live tests", err)
	}
	fset := token.NewFileSet()
	synapse, alone := map[string]bool{}, map[string]bool{} // alone: on nothing but Synapse
	type row struct{ cells [4]string }
	var rows []struct {
		row
		test string
	}
	literal := func(e ast.Expr) string {
		l, ok := e.(*ast.BasicLit)
		if !ok {
			return ""
		}
		s, _ := strconv.Unquote(l.Value)
		return s
	}
	for _, name := range files {
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if strings.HasPrefix(name, "synapse") {
				ast.Inspect(d, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok && strings.HasPrefix(id.Name, "Test") {
						synapse[id.Name] = true
					}
					return true
				})
				continue
			}
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(fn.Name.Name, "Test") {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok && id.Name == "StartSynapse" {
					alone[fn.Name.Name] = true
				}
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) != 5 {
					return true
				}
				if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "feature" {
					r := row{}
					for i := range r.cells {
						r.cells[i] = literal(call.Args[i+1])
					}
					rows = append(rows, struct {
						row
						test string
					}{r, fn.Name.Name})
				}
				return true
			})
		}
	}
	slices.SortStableFunc(rows, func(a, b struct {
		row
		test string
	}) int {
		return strings.Compare(a.cells[0], b.cells[0])
	})
	var t2 strings.Builder
	t2.WriteString("| feature | event type | direction | homeserver | client | test |\n|---|---|---|---|---|---|\n")
	for _, r := range rows {
		servers := "Dendrite"
		if alone[r.test] {
			servers = "Synapse"
		} else if synapse[r.test] {
			servers = "Synapse, Dendrite"
		}
		fmt.Fprintf(&t2, "| %s | %s | %s | %s | %s | %s |\n", r.cells[0], r.cells[1], r.cells[2], servers, r.cells[3], r.test)
	}
	return t2.String()
}

// TestTable: the table of docs/matrix.md is what the tests say.
func TestTable(t *testing.T) {
	doc, err := os.ReadFile(tableDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(doc), tableBegin)
	old, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatal("docs/matrix.md has no place for the table")
	}
	want := featureTable(t)
	if old == want {
		return
	}
	if !*update {
		t.Fatalf("the table of docs/matrix.md is not current: go test ./adapters/matrix -run TestTable -update\n%s", want)
	}
	if err := os.WriteFile(tableDoc, []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestTablesAreDocumented: docs/matrix.md says of each table what is in it, and for how long.
func TestTablesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile(tableDoc)
	if err != nil {
		t.Fatal(err)
	}
	tables := regexp.MustCompile(`CREATE TABLE (\w+)`).FindAllStringSubmatch(strings.Join(schema, "\n"), -1)
	if len(tables) < 11 {
		t.Fatalf("%d tables", len(tables))
	}
	for _, m := range tables {
		if !strings.Contains(string(doc), "\n| "+m[1]+" | ") {
			t.Errorf("the table %s has no row in docs/matrix.md", m[1])
		}
	}
}
