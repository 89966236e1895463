package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Octets is a size: "100 MB", "1 GB", "500 kB" (each 1,024 of the one before), or a number of octets.
type Octets int64

// Duration is a span of time: "30 days", "12 hours", "90 minutes", "10 seconds".
type Duration time.Duration

// Day is one of 24 hours.
const Day = Duration(24 * time.Hour)

// unitCure parts an error text from its cure on the way through the YAML library.
const unitCure = "\x00"

var octetUnits = map[string]int64{"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}

var durationUnits = map[string]int64{
	"s": int64(time.Second), "second": int64(time.Second), "m": int64(time.Minute), "minute": int64(time.Minute),
	"h": int64(time.Hour), "hour": int64(time.Hour), "d": int64(Day), "day": int64(Day), "week": 7 * int64(Day),
}

var errUnit = errors.New("not a number with a unit")

// quantity reads a whole positive number and its unit.
func quantity(s string, units map[string]int64) (int64, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	end := len(s) - len(strings.TrimLeft(s, "0123456789"))
	n, err := strconv.ParseInt(s[:end], 10, 64)
	name := strings.TrimSpace(s[end:])
	unit, ok := units[name]
	if !ok && strings.HasSuffix(name, "s") {
		unit, ok = units[strings.TrimSuffix(name, "s")]
	}
	if err != nil || !ok || n <= 0 || n > math.MaxInt64/unit {
		return 0, errUnit
	}
	return n * unit, nil
}

func unmarshalQuantity(n *yaml.Node, units map[string]int64, what, example string) (int64, error) {
	v, err := quantity(n.Value, units)
	if n.Kind != yaml.ScalarNode || err != nil {
		return 0, &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %q is not %s%sfor instance %s", n.Line, clip(n.Value), what, unitCure, example)}}
	}
	return v, nil
}

// UnmarshalYAML reads a size.
func (o *Octets) UnmarshalYAML(n *yaml.Node) error {
	v, err := unmarshalQuantity(n, octetUnits, "a size", "100 MB")
	*o = Octets(v)
	return err
}

// UnmarshalYAML reads a span of time.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := unmarshalQuantity(n, durationUnits, "a span of time", "30 days")
	*d = Duration(v)
	return err
}

// String gives the largest unit that it is a whole number of.
func (o Octets) String() string {
	for _, u := range []string{"TB", "GB", "MB", "kB"} {
		if n := octetUnits[strings.ToLower(u)]; o != 0 && int64(o)%n == 0 {
			return fmt.Sprintf("%d %s", int64(o)/n, u)
		}
	}
	return strconv.FormatInt(int64(o), 10)
}

// String gives the largest unit that it is a whole number of.
func (d Duration) String() string {
	for _, u := range []string{"day", "hour", "minute"} {
		if n := durationUnits[u]; d != 0 && int64(d)%n == 0 {
			if int64(d) != n {
				u += "s"
			}
			return fmt.Sprintf("%d %s", int64(d)/n, u)
		}
	}
	return fmt.Sprintf("%d seconds", int64(d)/int64(time.Second))
}

// MarshalText lets both stand in YAML and JSON as they are written in the file.
func (o Octets) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// MarshalText lets both stand in YAML and JSON as they are written in the file.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
