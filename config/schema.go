package config

import (
	_ "embed"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
)

//go:embed config.go
var source string

// Schema is a JSON schema (draft 2020-12) of the configuration file, for editors. It is made from the structs of this
// package; the descriptions are their comments.
func Schema() ([]byte, error) {
	docs, err := comments()
	if err != nil {
		return nil, err
	}
	s := object(reflect.TypeOf(Config{}), docs)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "mimibridge configuration"
	s["required"] = []string{"domain", "network", "federation"}
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

func object(t reflect.Type, docs map[string]string) map[string]any {
	props := map[string]any{}
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("yaml")
		if tag == "-" || !f.IsExported() {
			continue
		}
		s := value(f.Type, f.Tag, docs)
		doc := docs[t.Name()+"."+f.Name]
		if doc == "" {
			ft := f.Type
			for ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			doc = docs[ft.Name()]
		}
		if doc != "" {
			s["description"] = doc
		}
		props[tag] = s
	}
	return map[string]any{"type": "object", "additionalProperties": false, "properties": props}
}

func value(t reflect.Type, tag reflect.StructTag, docs map[string]string) map[string]any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if enum := tag.Get("enum"); enum != "" {
		return map[string]any{"enum": strings.Fields(enum)}
	}
	switch t.Kind() {
	case reflect.Struct:
		s := object(t, docs)
		s["type"] = []string{"object", "null"}
		return s
	case reflect.Map:
		if t == reflect.TypeOf(Permissions{}) {
			return map[string]any{"type": "object", "additionalProperties": map[string]any{"enum": levelNames[:]}}
		}
		return map[string]any{"type": "object", "additionalProperties": value(t.Elem(), "", docs)}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": value(t.Elem(), "", docs)}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64:
		if t.String() == "time.Duration" {
			return map[string]any{"type": "string"}
		}
		if t == reflect.TypeOf(Octets(0)) || t == reflect.TypeOf(Duration(0)) {
			return map[string]any{"type": []string{"string", "integer"}}
		}
		return map[string]any{"type": "integer"}
	}
	return map[string]any{"type": "string"}
}

// comments gives the doc comments of types ("XMPP") and fields ("XMPP.Server"), on one line.
func comments() (map[string]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	docs := map[string]string{}
	flat := func(g *ast.CommentGroup) string { return strings.Join(strings.Fields(g.Text()), " ") }
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, spec := range g.Specs {
			ts := spec.(*ast.TypeSpec)
			docs[ts.Name.Name] = flat(g.Doc)
			st, ok := ts.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, field := range st.Fields.List {
				for _, name := range field.Names {
					docs[ts.Name.Name+"."+name.Name] = flat(field.Doc)
				}
			}
		}
	}
	return docs, nil
}
