package config

import (
	"errors"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// Set changes one key in the text of a configuration file and leaves everything else, comments included, as it is. Sections that
// are missing are added at the end of the one they belong to. The result is not validated: Parse does that.
func Set(text, key, value string) (string, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return "", fmt.Errorf("config: %w", err)
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return "", errors.New("config: the file has no keys")
	}
	lines := strings.SplitAfter(text, "\n")
	if n := len(lines); lines[n-1] == "" {
		lines = lines[:n-1]
	} else {
		lines[n-1] += "\n"
	}
	at, path := doc.Content[0], strings.Split(key, ".")
	for i, name := range path {
		k, v := child(at, name)
		switch {
		case k == nil:
			return insert(lines, at, i, path[i:], value), nil
		case i == len(path)-1:
			if v.Kind != yaml.ScalarNode || strings.Contains(v.Value, "\n") {
				return "", fmt.Errorf("config: %s is no simple value; change it by hand", key)
			}
			line := lines[v.Line-1]
			start := v.Column - 1
			end := start + scalarLength(line[start:], v.Style)
			lines[v.Line-1] = line[:start] + value + line[end:]
			return strings.Join(lines, ""), nil
		case v.Kind != yaml.MappingNode || v.Style&yaml.FlowStyle != 0:
			return "", fmt.Errorf("config: %s stands in braces; change it by hand", strings.Join(path[:i+1], "."))
		}
		at = v
	}
	return "", errors.New("config: no key")
}

func child(m *yaml.Node, name string) (k, v *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			return m.Content[i], m.Content[i+1]
		}
	}
	return nil, nil
}

// scalarLength is how much of a line the scalar at its beginning takes.
func scalarLength(s string, style yaml.Style) int {
	switch {
	case style&yaml.DoubleQuotedStyle != 0:
		for i := 1; i < len(s); i++ {
			switch s[i] {
			case '\\':
				i++
			case '"':
				return i + 1
			}
		}
	case style&yaml.SingleQuotedStyle != 0:
		for i := 1; i < len(s); i++ {
			if s[i] == '\'' {
				if i+1 < len(s) && s[i+1] == '\'' {
					i++
					continue
				}
				return i + 1
			}
		}
	}
	end := len(strings.TrimRight(s, "\r\n"))
	if i := strings.Index(s, " #"); i >= 0 {
		end = min(end, i)
	}
	return len(strings.TrimRight(s[:end], " \t"))
}

// insert adds keys after the last line of a mapping.
func insert(lines []string, m *yaml.Node, depth int, path []string, value string) string {
	last, indent := lastLine(m), 0
	if len(m.Content) > 0 {
		indent = m.Content[0].Column - 1
	} else {
		indent = 2 * depth
	}
	var add []string
	for i, name := range path {
		line := strings.Repeat(" ", indent+2*i) + name + ":"
		if i == len(path)-1 {
			line += " " + value
		}
		add = append(add, line+"\n")
	}
	if depth == 0 {
		add = append([]string{"\n"}, add...)
		last = len(lines)
	}
	return strings.Join(lines[:last], "") + strings.Join(add, "") + strings.Join(lines[last:], "")
}

func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, c := range n.Content {
		last = max(last, lastLine(c))
	}
	return last
}
