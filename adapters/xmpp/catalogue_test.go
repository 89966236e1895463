package xmpp

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What people are told of a refusal stands in the catalogue and nowhere else, and says what to do.
func TestCatalogue(t *testing.T) {
	makers := []string{"errNotFound", "errForbidden", "errBadRequest", "errUnsupported", "errNotAcceptable"}
	speakers := []string{"fail", "say", "note"}
	catalogue := regexp.MustCompile(`^(catalogue|.*text)\.go$`)
	advice := regexp.MustCompile(`^[A-Z].+[.;:(].+`)
	verbs, letters := regexp.MustCompile(`%[a-z]`), regexp.MustCompile(`[A-Za-z].* `)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	refusals := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		words := func(n ast.Node) (out string) { // the literals in n that are for people
			ast.Inspect(n, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if s, err := strconv.Unquote(lit.Value); err == nil && letters.MatchString(verbs.ReplaceAllString(s, "")) {
						out += s
					}
				}
				return true
			})
			return out
		}
		ast.Inspect(f, func(n ast.Node) bool {
			refusal, spoken := false, false
			switch n := n.(type) {
			case *ast.CallExpr:
				id, ok := n.Fun.(*ast.Ident)
				refusal = ok && slices.Contains(makers, id.Name)
				spoken = ok && slices.Contains(speakers, id.Name)
			case *ast.CompositeLit:
				id, ok := n.Type.(*ast.Ident)
				refusal = ok && id.Name == "stanzaError" && name != "errors.go"
			}
			text := ""
			if refusal || spoken {
				text = words(n)
			}
			switch {
			case refusal && catalogue.MatchString(name):
				refusals++
				if !advice.MatchString(text) {
					t.Errorf("%s: this does not say what to do: %q", fset.Position(n.Pos()), text)
				}
			case (refusal || spoken) && text != "":
				t.Errorf("%s: %q stands outside the catalogue", fset.Position(n.Pos()), text)
			case refusal && name != "errors.go":
				if c, ok := n.(*ast.CallExpr); ok {
					if lit, ok := c.Args[0].(*ast.BasicLit); ok {
						t.Errorf("%s: a refusal %s that says nothing", fset.Position(n.Pos()), lit.Value)
					}
				}
			}
			return true
		})
	}
	if refusals < 60 {
		t.Errorf("only %d refusals were found", refusals)
	}
}
