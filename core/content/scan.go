package content

import "strings"

// goldmark takes time that grows with the square of the input for several kinds of input, and so do other parsers
// at the receivers. scan therefore looks at Markdown before it is parsed, in one pass, and adds up what the
// parser could have to do at most. Where that would be too much the text is taken literally from there on.
//
// The unit of account is a chunk: lines between which no block can end and another begin without being seen here.
// Blank lines part chunks; so do lines that begin at the margin with a bullet or a heading's #. A chunk holds
// one or more of the parser's blocks, never a part of one. Inside code fenced at the margin
// nothing is counted, since nothing in it is parsed.

// Limits of scan.
const (
	maxScan = 256 << 10 // octets that are parsed at all
	maxWork = 12 << 20  // steps of the kinds that grow with the square; about 2 ns each
	maxRise = 40        // containers that may begin on a line, two columns of indentation counted as one

	lineWork = 100 // steps for each container on each line
	cellWork = 500 // steps for each cell of a table
)

// scan splits Markdown into what is parsed and what is literal text. Line ends are line feeds.
func scan(src string) (head, tail string) {
	cut, _ := scanWork(src)
	return src[:cut], src[cut:]
}

// scanWork gives the length of what is parsed and the work that it may take.
func scanWork(src string) (cut, work int) {
	var c chunk
	var fence fenceLine
	var all totals
	start, done := 0, 0    // of the chunk; work of those before it
	deep, blank := 0, true // containers that may be open; whether the line before was blank
	end := func(next int) {
		done += c.work()
		c, start = chunk{}, next
	}
	for pos := 0; pos < len(src); {
		eol := len(src)
		if i := strings.IndexByte(src[pos:], '\n'); i >= 0 {
			eol = pos + i
		}
		line := src[pos:eol]
		next := min(eol+1, len(src))
		if next > maxScan {
			return start, work
		}
		switch {
		case fence.open:
			if fence.close(line); !fence.open {
				end(next)
			}
		case fence.begins(line):
			end(pos)
		case isBlank(line):
			end(next)
			blank = true
		default:
			if c.lines > 0 && beginsBlock(line) {
				end(pos)
			}
			n := rise(line)
			if n > maxRise {
				return start, work
			}
			if n == 0 && blank {
				deep = 0 // a paragraph at the margin, which is no continuation: it ends all containers
			}
			deep, blank = max(deep, n), false
			c.add(line, &all)
		}
		done += lineWork * deep
		w := done + c.work() + all.work()
		if w > maxWork {
			return start, work
		}
		work, pos = w, next
	}
	return len(src), work
}

// totals are counts over all that is parsed, for what the parser does once at the end: it looks for each escaped
// pipe of a table in each code span of the cells that have one.
type totals struct{ pipes, ticks int }

func (t *totals) work() int { return t.pipes * (t.pipes + t.ticks) }

// chunk counts what is in a chunk.
type chunk struct {
	bytes, lines int
	marks        int          // runs of * _ ~
	inert        int          // runs of _ that mark nothing, but are in the list that is searched
	brackets     int          // [ ] and what follows them
	costly       int          // brackets after which the parser looks for an end anywhere in the chunk
	ticks        map[int]bool // lengths of runs of backticks: of each the last one may be looked for to the end of its block
	columns      int          // of a table
	cells        int          // of a table, those that rows lack included
}

// work is an upper bound of the steps that goldmark takes for the chunk beyond those that grow with its length.
func (c *chunk) work() int {
	return c.marks*(c.marks+c.inert) + c.brackets*(c.brackets+c.lines) + c.costly*(c.bytes+16*c.lines) +
		len(c.ticks)*(c.bytes+16*c.lines) + cellWork*c.cells
}

func (c *chunk) add(line string, all *totals) {
	c.bytes += len(line) + 1
	c.lines++
	pipes := 0
	for i := 0; i < len(line); i++ {
		switch ch := line[i]; ch {
		case '\\':
			// What is escaped is no mark, be it in code or not.
			if i++; i < len(line) && line[i] == '|' {
				pipes++
				all.pipes++
			}
		case '*', '_', '~':
			z := i
			for z < len(line) && line[z] == ch {
				z++
			}
			if ch == '_' && insideWord(line, i, z) {
				c.inert++
			} else {
				c.marks++
			}
			i = z - 1
		case '`':
			z := i
			for z < len(line) && line[z] == '`' {
				z++
			}
			if c.ticks == nil {
				c.ticks = make(map[int]bool)
			}
			c.ticks[z-i] = true
			all.ticks++
			i = z - 1
		case '[':
			c.brackets++
		case ']':
			c.brackets++
			if i+1 < len(line) && (line[i+1] == '(' || line[i+1] == '[' || line[i+1] == ':') && !plainTarget(line[i+1:]) {
				c.costly++
			}
		case '|':
			pipes++
		}
	}
	if n := delimiterRow(line); n > 0 {
		c.columns = max(c.columns, n)
	}
	if c.columns > 0 {
		c.cells += max(c.columns, columns(line, pipes))
	}
}

// plainTarget reports whether what follows a ] is a link's target or label that ends soon: there is then nothing to
// look for further on.
func plainTarget(s string) bool {
	open, end := s[0], byte(')')
	if open == '[' {
		end = ']'
	}
	for i := 1; i < len(s) && i < 1000; i++ {
		switch s[i] {
		case end:
			return true
		case ' ', '\t', '"', '\'', '\\', '<', '[', '(':
			return false
		}
	}
	return false
}

// delimiterRow gives the number of columns if the line could be a table's delimiter row, in whatever containers.
func delimiterRow(line string) int {
	pipes, dash := 0, false
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '|':
			pipes++
		case '-':
			dash = true
		case ':', ' ', '\t', '>', '*', '+':
		case '.', ')', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		default:
			return 0
		}
	}
	if !dash {
		return 0
	}
	return columns(line, pipes)
}

// columns gives how many cells a line with so many pipes has.
func columns(line string, pipes int) int {
	line = strings.Trim(line, " \t")
	n := pipes + 1
	if strings.HasPrefix(line, "|") {
		n--
	}
	if strings.HasSuffix(line, "|") {
		n--
	}
	return max(n, 1)
}

// beginsBlock reports whether a line begins a block of its own whatever stands before it, fenced code apart.
func beginsBlock(line string) bool {
	switch line[0] {
	case '-', '+', '*':
		return len(line) > 2 && line[1] == ' ' && !isBlank(line[2:])
	case '#':
		rest := strings.TrimLeft(line, "#")
		return len(line)-len(rest) <= 6 && (rest == "" || rest[0] == ' ')
	}
	return false
}

// rise bounds how many containers a line can be in.
func rise(line string) int {
	n, column := 0, 0
	for i := 0; i < len(line); {
		switch c := line[i]; {
		case c == ' ':
			column++
			i++
		case c == '\t':
			column += 4
			i++
		case c == '>', c == '-', c == '+', c == '*':
			n++
			i++
		case c >= '0' && c <= '9':
			j := i
			for j < len(line) && j < i+10 && line[j] >= '0' && line[j] <= '9' {
				j++
			}
			if j == len(line) || line[j] != '.' && line[j] != ')' {
				return n + column/2
			}
			n++
			i = j + 1
		default:
			return n + column/2
		}
	}
	return n + column/2
}

func isBlank(line string) bool { return strings.Trim(line, " \t") == "" }

// fenceLine follows code fenced at the margin, as the parser does. Such a fence begins code wherever it stands, since
// no other block goes on at the margin but a paragraph, which it interrupts. But where a fence stood that was
// indented or in a container, it is not clear whether the next one at the margin begins or ends code: from there
// on no fence is believed.
type fenceLine struct {
	open, unsure bool
	char         byte
	n            int
}

func (f *fenceLine) begins(line string) bool {
	if f.unsure {
		return false
	}
	if line == "" || line[0] != '`' && line[0] != '~' {
		rest := strings.TrimLeft(line, " \t>*+-.)0123456789")
		f.unsure = strings.HasPrefix(rest, "```") || strings.HasPrefix(rest, "~~~")
		return false
	}
	n := 0
	for n < len(line) && line[n] == line[0] {
		n++
	}
	if n < 3 || line[0] == '`' && strings.IndexByte(line[n:], '`') >= 0 {
		return false
	}
	f.open, f.char, f.n = true, line[0], n
	return true
}

func (f *fenceLine) close(line string) {
	i := 0
	for i < len(line) && i < 4 && line[i] == ' ' {
		i++
	}
	if i > 3 {
		return
	}
	n := 0
	for i+n < len(line) && line[i+n] == f.char {
		n++
	}
	if n >= f.n && isBlank(line[i+n:]) {
		f.open = false
	}
}
