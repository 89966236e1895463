package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Setting is one key with what is in force, for people to read.
type Setting struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`  // a secret is "(hidden)"
	Origin string `json:"origin"` // "mimibridge.yaml:12", "environment variable X", "file X" or "default"
}

type field struct {
	key    string
	value  reflect.Value
	secret bool
	zero   bool
}

// fields lists the keys that are not sections, in the order of the structs. A map is one field an entry.
func (c *Config) fields() (out []field) {
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		for i := range v.NumField() {
			sf, f := v.Type().Field(i), v.Field(i)
			tag := sf.Tag.Get("yaml")
			if tag == "-" || !sf.IsExported() {
				continue
			}
			key := strings.TrimPrefix(path+"."+tag, ".")
			if f.Kind() == reflect.Pointer {
				if f.IsNil() {
					if f.Type().Elem().Kind() != reflect.Struct {
						out = append(out, field{key: key, value: reflect.ValueOf(""), zero: true})
					}
					continue
				}
				f = f.Elem()
			}
			switch f.Kind() {
			case reflect.Struct:
				walk(f, key)
			case reflect.Map:
				names := make([]string, 0, f.Len())
				for _, k := range f.MapKeys() {
					names = append(names, k.String())
				}
				slices.Sort(names)
				for _, name := range names {
					out = append(out, field{key: key + "." + name, value: f.MapIndex(reflect.ValueOf(name).Convert(f.Type().Key()))})
				}
			default:
				out = append(out, field{key: key, value: f, secret: sf.Tag.Get("secret") != "", zero: f.IsZero() && v.Field(i).Kind() != reflect.Pointer})
			}
		}
	}
	walk(reflect.ValueOf(c).Elem(), "")
	return out
}

// Settings lists what is in force and where each value comes from. Secrets are hidden; keys without a value are left out.
func (c *Config) Settings() (out []Setting) {
	for _, f := range c.fields() {
		if f.zero {
			continue
		}
		s := Setting{Key: f.key, Value: f.value.Interface(), Origin: "default"}
		if line, ok := c.where[f.key]; ok {
			s.Origin = fmt.Sprintf("%s:%d", c.File, line)
		}
		if f.secret {
			s.Value = "(hidden)"
			if !c.given[f.key] {
				s.Origin = c.secretOrigin(f.key)
			}
		}
		out = append(out, s)
	}
	switch {
	case c.Secrets.KeyEnv != "":
		out = append(out, Setting{"(sealing key)", "(hidden)", "environment variable " + c.Secrets.KeyEnv})
	default:
		out = append(out, Setting{"(sealing key)", "(hidden)", "file " + c.Secrets.KeyFile})
	}
	return out
}

// live reports whether a running daemon takes a key up.
func live(key string) bool {
	switch key {
	case "log.level", "federation.allow", "federation.deny":
		return true
	case "limits.message", "limits.peer_requests_per_second":
		return false
	}
	return strings.HasPrefix(key, "permissions.") || strings.HasPrefix(key, "people.") || strings.HasPrefix(key, "limits.")
}

// Changes compares two configurations: changed are the keys that a running daemon can take up, restart those it cannot.
func Changes(was, next *Config) (changed, restart []string) {
	values := func(c *Config) map[string]string {
		m := map[string]string{"(sealing key)": string(c.Secrets.SealingKey)}
		for _, f := range c.fields() {
			if !f.zero {
				m[f.key] = fmt.Sprint(f.value.Interface())
			}
		}
		return m
	}
	old, now := values(was), values(next)
	for key := range old {
		if _, ok := now[key]; !ok {
			now[key] = "\x00gone"
		}
	}
	for key, v := range now {
		switch {
		case old[key] == v:
		case live(key):
			changed = append(changed, key)
		default:
			restart = append(restart, key)
		}
	}
	slices.Sort(changed)
	slices.Sort(restart)
	return changed, restart
}

// WithLive is c with what can change while it runs taken from next.
func (c *Config) WithLive(next *Config) *Config {
	n := *c
	n.Permissions, n.Log.Level, n.Warnings = next.Permissions, next.Log.Level, next.Warnings
	n.People, n.Federation.Allow, n.Federation.Deny = next.People, next.Federation.Allow, next.Federation.Deny
	n.Limits = next.Limits
	n.Limits.Message, n.Limits.PeerRate = c.Limits.Message, c.Limits.PeerRate
	n.where = make(map[string]int)
	for key, line := range c.where {
		if !live(key) {
			n.where[key] = line
		}
	}
	for key, line := range next.where {
		if live(key) {
			n.where[key] = line
		}
	}
	return &n
}

func (c *Config) secretOrigin(key string) string {
	for _, f := range c.fields() {
		switch {
		case f.zero:
		case f.key == key+"_file":
			return "file " + f.value.String()
		case f.key == key+"_env":
			return "environment variable " + f.value.String()
		}
	}
	return "default"
}
