package core

import (
	"reflect"
	"strings"
	"sync/atomic"
	"unicode"
)

// addCounters adds the exported atomic.Uint64 fields of a struct of counters under snake_case names, so that one that is added
// there needs no line here.
func addCounters(m map[string]uint64, part string, counters any) {
	v := reflect.ValueOf(counters).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		if c, ok := v.Field(i).Addr().Interface().(*atomic.Uint64); ok {
			m[part+"."+snake(f.Name)] = c.Load()
		}
	}
}

func snake(s string) string {
	var b strings.Builder
	for i, r := range s {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
