// Package vectors reads, checks and writes test vectors for structs on the wire: the octets, and what they mean as JSON that
// other implementations can build their own values from. docs/vectors.md describes the files.
package vectors

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Vector is one entry of a file.
type Vector struct {
	Struct string          `json:"struct"` // as the draft calls it
	Name   string          `json:"name"`   // what is special about it
	Value  json.RawMessage `json:"value"`
	Octets string          `json:"octets"` // hexadecimal
}

// Value gives what is in a struct, for JSON: see docs/vectors.md.
func Value(v any) any { return value(reflect.ValueOf(v)) }

type marshaler interface{ MarshalTLS(*tlspl.Writer) }

var upper = regexp.MustCompile(`([a-z0-9])([A-Z])`)

// snake is the name of a field in JSON.
func snake(s string) string { return strings.ToLower(upper.ReplaceAllString(s, "${1}_${2}")) }

func value(v reflect.Value) any {
	if !v.IsValid() {
		return nil
	}
	if u, ok := v.Interface().(mimiuri.URI); ok {
		return u.String()
	}
	if v.Kind() == reflect.Pointer && v.IsNil() {
		return nil
	}
	if m, ok := v.Interface().(marshaler); ok {
		return hex.EncodeToString(tlspl.Marshal(m))
	}
	if v.Kind() == reflect.Struct {
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		if m, ok := p.Interface().(marshaler); ok {
			return hex.EncodeToString(tlspl.Marshal(m))
		}
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return value(v.Elem())
	case reflect.Bool:
		return v.Bool()
	case reflect.String:
		return v.String()
	case reflect.Uint64:
		return strconv.FormatUint(v.Uint(), 10) // JSON numbers end at 2^53 for many
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return v.Uint()
	case reflect.Int, reflect.Int64, reflect.Int32:
		return v.Int()
	case reflect.Slice, reflect.Array:
		if v.Type().Elem() == reflect.TypeOf(byte(0)) { // not a list of an enum
			b := make([]byte, v.Len())
			reflect.Copy(reflect.ValueOf(b), v)
			return hex.EncodeToString(b)
		}
		list := make([]any, v.Len())
		for i := range list {
			list[i] = value(v.Index(i))
		}
		return list
	case reflect.Struct:
		o := map[string]any{}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				o[snake(f.Name)] = value(v.Field(i))
			}
		}
		return o
	}
	panic(fmt.Sprintf("vectors: %v has no form in JSON", v.Type()))
}

// Codec reads and writes one struct.
type Codec struct {
	Struct, Name string
	Octets       []byte
	Decode       func([]byte) (any, error)
	Encode       func(any) []byte
}

// Test holds the vectors of a file against codecs: octets decode to the value and the value encodes to the octets; each codec
// has a vector; each function ParseX of the folder's Go files reads a struct that has one, or is in without. With MIMI_WRITE_VECTORS
// set, the file is written first, from the codecs.
func Test(t *testing.T, file, folder string, codecs []Codec, without ...string) {
	t.Helper()
	if os.Getenv("MIMI_WRITE_VECTORS") != "" {
		write(t, file, codecs)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var vs []Vector
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	by := map[string]Codec{}
	for _, c := range codecs {
		by[c.Struct+"\x00"+c.Name] = c
	}
	for _, v := range vs {
		have[v.Struct] = true
		t.Run(v.Struct+" "+v.Name, func(t *testing.T) {
			c, ok := by[v.Struct+"\x00"+v.Name]
			if !ok {
				t.Fatal("nothing here reads it")
			}
			octets, err := hex.DecodeString(v.Octets)
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Decode(octets)
			if err != nil {
				t.Fatal(err)
			}
			j, err := json.Marshal(Value(got))
			if err != nil {
				t.Fatal(err)
			}
			var is, want any
			if json.Unmarshal(j, &is) != nil || json.Unmarshal(v.Value, &want) != nil || !reflect.DeepEqual(is, want) {
				t.Errorf("the value is\n%s, not\n%s", j, v.Value)
			}
			if again := hex.EncodeToString(c.Encode(got)); again != v.Octets {
				t.Errorf("encodes to\n%s, not\n%s", again, v.Octets)
			}
			delete(by, v.Struct+"\x00"+v.Name)
		})
	}
	for _, c := range by {
		t.Errorf("%s %s has no vector in %s: MIMI_WRITE_VECTORS=1 go test writes it", c.Struct, c.Name, file)
	}
	sources, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, s := range sources {
		if strings.HasSuffix(s, "_test.go") {
			continue
		}
		src, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func Parse(\w+)\(`).FindAllStringSubmatch(string(src), -1) {
			found++
			if !slices.Contains(without, m[1]) && !have[m[1]] {
				t.Errorf("Parse%s reads a struct that has no vector", m[1])
			}
		}
	}
	if found == 0 {
		t.Error("no Parse functions were found")
	}
}

func write(t *testing.T, file string, codecs []Codec) {
	t.Helper()
	vs := []Vector{}
	for _, c := range codecs {
		v, err := c.Decode(c.Octets)
		if err != nil {
			t.Fatalf("%s %s: %v", c.Struct, c.Name, err)
		}
		j, err := json.Marshal(Value(v))
		if err != nil {
			t.Fatal(err)
		}
		vs = append(vs, Vector{c.Struct, c.Name, j, hex.EncodeToString(c.Octets)})
	}
	slices.SortFunc(vs, func(a, b Vector) int { return strings.Compare(a.Struct+" "+a.Name, b.Struct+" "+b.Name) })
	b, err := json.MarshalIndent(vs, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
