package store

import (
	"strconv"
	"strings"
	"sync"
)

// The SQL of the project is written once, for SQLite, within what PostgreSQL understands after the changes made here:
// words, not structure. See doc.go for what that allows.

// reserved are the words that name columns here and mean something else in PostgreSQL unless quoted.
var reserved = map[string]string{"user": `"user"`, "window": `"window"`}

// types are SQLite's names of types and PostgreSQL's. TEXT compares by octets in both.
var types = map[string]string{"INTEGER": "BIGINT", "BLOB": "BYTEA", "REAL": "DOUBLE PRECISION", "TEXT": `TEXT COLLATE "C"`}

var rewritten sync.Map // of statements: text → PostgreSQL's text

// postgresText makes PostgreSQL's text of a statement (or several, of a schema). The texts of a program are a fixed
// number, so each is made once.
func postgresText(q string) string {
	if p, ok := rewritten.Load(q); ok {
		return p.(string)
	}
	p := rewrite(q)
	rewritten.Store(q, p)
	return p
}

func rewrite(q string) string {
	var b strings.Builder
	b.Grow(len(q) + 32)
	params := 0
	for i := 0; i < len(q); {
		c := q[i]
		switch {
		case c == '\'' || c == '"':
			end := strings.IndexByte(q[i+1:], c)
			if end < 0 {
				end = len(q) - i - 2
			}
			b.WriteString(q[i : i+end+2]) // a doubled quote is two strings side by side: copied just as well
			i += end + 2
		case strings.HasPrefix(q[i:], "--"):
			end := strings.IndexByte(q[i:], '\n')
			if end < 0 {
				end = len(q) - i
			}
			i += end
		case c == '?':
			i++
			from := i
			for i < len(q) && q[i] >= '0' && q[i] <= '9' {
				i++
			}
			if b.WriteByte('$'); from < i {
				b.WriteString(q[from:i])
			} else {
				params++
				b.WriteString(strconv.Itoa(params))
			}
		case isWord(c):
			from := i
			for i < len(q) && isWord(q[i]) {
				i++
			}
			word := q[from:i]
			switch {
			case word == "WITHOUT" && strings.HasPrefix(strings.TrimLeft(q[i:], " "), "ROWID"):
				i += strings.Index(q[i:], "ROWID") + len("ROWID")
			case word == "instr":
				b.WriteString("strpos") // the same arguments in the same order
			case types[word] != "":
				b.WriteString(types[word])
			case reserved[word] != "":
				b.WriteString(reserved[word])
			default:
				b.WriteString(word)
			}
		default:
			b.WriteByte(c)
			i++
		}
	}
	return b.String()
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
