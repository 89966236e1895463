package content

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// writeMarkdown writes a tree as GFM-MIMI that parses to the same tree. If there is so much markup in it that scan would
// refuse it, only the text is written.
func writeMarkdown(doc *node, o *RichOptions) string {
	w := mdWriter{autolink: o != nil && o.Autolink}
	md := strings.Join(w.blocks(doc.kids, false), "\n")
	if cut, _ := scanWork(md); cut == len(md) {
		return md
	}
	text, _ := writeText(doc, false)
	w.autolink = false
	return strings.Join(w.blocks(parseText(text, nil).kids, false), "\n")
}

type mdWriter struct{ autolink bool }

// blocks gives the lines of blocks, with blank lines between them unless tight.
func (w *mdWriter) blocks(list []*node, tight bool) (lines []string) {
	var last *node
	marker := 0
	for _, n := range list {
		if last != nil && !tight {
			lines = append(lines, "")
		}
		// Lists that follow each other are told apart by their markers.
		if last != nil && n.kind == kindList && last.kind == kindList && n.ordered == last.ordered {
			marker = 1 - marker
		} else {
			marker = 0
		}
		lines = append(lines, w.block(n, marker)...)
		last = n
	}
	return lines
}

func (w *mdWriter) block(n *node, marker int) []string {
	switch n.kind {
	case kindPara:
		return strings.Split(w.inlines(n.kids, false), "\n")
	case kindHeading:
		s := w.inlines(n.kids, false)
		if strings.HasSuffix(s, "#") {
			s = s[:len(s)-1] + "&#35;" // or it would be a closing sequence
			if strings.HasSuffix(s, "\\&#35;") {
				s = strings.TrimSuffix(s, "&#35;") + "#" // it is escaped already
			}
		}
		return []string{strings.Repeat("#", max(1, min(int(n.level), 6))) + " " + s}
	case kindRule:
		return []string{"***"}
	case kindCode:
		return codeLines(n)
	case kindQuote:
		lines := w.blocks(n.kids, false)
		for i, l := range lines {
			if l == "" {
				lines[i] = ">"
			} else {
				lines[i] = "> " + l
			}
		}
		return lines
	case kindList:
		return w.list(n, marker)
	case kindTable:
		return w.table(n)
	}
	return nil
}

func codeLines(n *node) []string {
	longest, run := 2, 0
	for i := 0; i < len(n.text); i++ {
		if run++; n.text[i] != '`' {
			run = 0
		}
		longest = max(longest, run)
	}
	fence := strings.Repeat("`", longest+1)
	lines := []string{fence + escapeInfo(n.title)}
	if n.text != "" {
		lines = append(lines, strings.Split(n.text, "\n")...)
	}
	return append(lines, fence)
}

func escapeInfo(s string) string {
	if strings.ContainsAny(s, "`\n\r") {
		return ""
	}
	return strings.NewReplacer(`\`, `\\`, `&`, `\&`).Replace(s)
}

func (w *mdWriter) list(l *node, marker int) (lines []string) {
	for i, item := range l.kids {
		mark := [...]string{"- ", "+ "}[marker]
		if l.ordered {
			mark = strconv.Itoa(int(l.level)+i) + [...]string{". ", ") "}[marker]
		}
		if i > 0 && !l.tight {
			lines = append(lines, "")
		}
		sub := w.blocks(item.kids, l.tight)
		switch item.task {
		case taskOpen:
			sub[0] = "[ ] " + sub[0]
		case taskDone:
			sub[0] = "[x] " + sub[0]
		}
		indent := strings.Repeat(" ", len(mark))
		for j, s := range sub {
			switch {
			case j == 0:
				s = mark + s
			case s != "":
				s = indent + s
			}
			lines = append(lines, s)
		}
	}
	return lines
}

func (w *mdWriter) table(t *node) (lines []string) {
	row := func(r *node) string {
		var b strings.Builder
		b.WriteString("|")
		for _, c := range r.kids {
			b.WriteString(" ")
			b.WriteString(w.inlines(c.kids, true))
			b.WriteString(" |")
		}
		if len(r.kids) == 0 {
			b.WriteString(" |")
		}
		return b.String()
	}
	lines = append(lines, row(t.kids[0]))
	d := "|"
	for _, a := range []byte(t.title) {
		d += [...]string{" --- |", " :-- |", " :-: |", " --: |"}[a]
	}
	lines = append(lines, d)
	for _, r := range t.kids[1:] {
		lines = append(lines, row(r))
	}
	return lines
}

// piece is a piece of a paragraph's Markdown.
type piece struct {
	s    string
	kind byte // 't' text whose first and last character may become references, 'o' and 'c' marks that open and close, 'x' else
}

// inlines gives the Markdown of inlines; it has line feeds only for breaks.
func (w *mdWriter) inlines(list []*node, cell bool) string {
	iw := inlineWriter{cell: cell, autolink: w.autolink, at: strings.IndexByte(plain(list), '@') >= 0}
	iw.write(list, 0)
	iw.settle()
	var b strings.Builder
	for _, p := range iw.pieces {
		b.WriteString(p.s)
	}
	return b.String()
}

type inlineWriter struct {
	pieces   []piece
	cell     bool
	autolink bool
	at       bool // there is an @ in what is written
}

func (w *inlineWriter) put(s string, kind byte) { w.pieces = append(w.pieces, piece{s, kind}) }

// lineStart reports whether what comes next is at the beginning of a line.
func (w *inlineWriter) lineStart() bool {
	if len(w.pieces) == 0 {
		return !w.cell
	}
	return strings.HasSuffix(w.pieces[len(w.pieces)-1].s, "\n")
}

func (w *inlineWriter) write(list []*node, inside int) {
	for i, n := range list {
		switch n.kind {
		case kindText:
			next := kindDoc
			if i+1 < len(list) {
				next = list[i+1].kind
			}
			w.text(n.text, next, inside&inLink == 0)
		case kindSoft:
			w.put("\n", 'x')
		case kindHard:
			// A backslash is seen better than two spaces; after another one it would be misread.
			if l := len(w.pieces); l > 0 && strings.HasSuffix(w.pieces[l-1].s, `\`) {
				w.put("  \n", 'x')
			} else {
				w.put("\\\n", 'x')
			}
		case kindEm, kindStrong, kindStrike:
			mark := map[nodeKind]string{kindEm: "_", kindStrong: "**", kindStrike: "~~"}[n.kind]
			if n.kind == kindEm && w.starFits(list, i, inside) {
				mark = "*"
			}
			w.put(mark, 'o')
			w.write(n.kids, inside|flagOf(n.kind))
			w.put(mark, 'c')
		case kindCodeSpan:
			w.put(codeSpan(n.text, w.cell), 'x')
		case kindLink:
			w.link(n, inside)
		case kindImage:
			w.put("![", 'x')
			w.text(n.text, kindLink, false)
			w.put("]("+target(n, w.cell)+")", 'x')
		}
	}
}

// starFits reports whether * is better than _ for an emphasis: inside of a word, where _ does not work, and if
// no other star is near that it could be taken together with.
func (w *inlineWriter) starFits(list []*node, i, inside int) bool {
	n := list[i]
	if inside&inStrong != 0 || holdsStrong(n.kids) {
		return false
	}
	before, after := ' ', ' '
	if i > 0 && list[i-1].kind == kindText {
		before, _ = utf8.DecodeLastRuneInString(list[i-1].text)
	} else if i > 0 && list[i-1].kind == kindStrong {
		return false
	}
	if i+1 < len(list) && list[i+1].kind == kindText {
		after, _ = utf8.DecodeRuneInString(list[i+1].text)
	} else if i+1 < len(list) && list[i+1].kind == kindStrong {
		return false
	}
	if len(n.kids) == 0 || n.kids[0].kind != kindText || n.kids[len(n.kids)-1].kind != kindText {
		return false
	}
	first, _ := utf8.DecodeRuneInString(n.kids[0].text)
	last, _ := utf8.DecodeLastRuneInString(n.kids[len(n.kids)-1].text)
	return (isWord(before) || isWord(after)) && isWord(first) && isWord(last)
}

func holdsStrong(list []*node) bool {
	for _, n := range list {
		if n.kind == kindStrong || holdsStrong(n.kids) {
			return true
		}
	}
	return false
}

func (w *inlineWriter) link(n *node, inside int) {
	if n.href == "" {
		w.write(n.kids, inside)
		return
	}
	if n.auto && n.title == "" && autolinkable(n.href) && !(w.cell && strings.Contains(n.href, "|")) {
		w.put("<"+n.href+">", 'x')
		return
	}
	w.put("[", 'x')
	w.write(n.kids, inside|inLink)
	w.put("]("+target(n, w.cell)+")", 'x')
}

var (
	titleEscapes    = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "[", `\[`, "]", `\]`, "`", "\\`")
	autolinkEscapes = strings.NewReplacer("<", "%3C", ">", "%3E", " ", "%20")
)

// target gives a link's target and title as they stand in parentheses.
func target(n *node, cell bool) string {
	s := escapeReferences(n.href) // cleanURL left no space, backslash or angle bracket
	if cell {
		s = strings.ReplaceAll(s, "|", "%7C")
	}
	if strings.ContainsAny(s, "()") || s == "" {
		s = "<" + s + ">"
	}
	if n.title != "" {
		t := titleEscapes.Replace(escapeReferences(n.title))
		if cell {
			t = strings.ReplaceAll(t, "|", "&#124;")
		}
		s += ` "` + t + `"`
	}
	return s
}

// autolinkable reports whether a URL can stand in angle brackets: those have no escapes.
func autolinkable(url string) bool {
	colon := strings.IndexByte(url, ':')
	if colon < 2 || colon > 32 || escapeReferences(url) != url {
		return false
	}
	return autolinkSafe(url) == url
}

// autolinkSafe percent-encodes what would end an autolink. mimi URIs as mimiuri writes them have none of it.
func autolinkSafe(url string) string {
	return autolinkEscapes.Replace(url)
}

// escapeReferences keeps ampersands from being read as the beginning of a character reference.
func escapeReferences(s string) string {
	if strings.IndexByte(s, '&') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '&' && looksLikeReference(s[i:]) {
			b.WriteString("&amp;")
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// looksLikeReference is wider than what is one, since parsers know different entities.
func looksLikeReference(s string) bool {
	for i := 1; i < len(s) && i < 40; i++ {
		switch c := s[i]; {
		case c == ';':
			return i > 1
		case c == '#' && i == 1, c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		default:
			return false
		}
	}
	return false
}

func codeSpan(s string, cell bool) string {
	if cell {
		s = strings.ReplaceAll(s, "|", `\|`)
	}
	// The shortest run of backticks that is not in it.
	runs := make(map[int]bool)
	for i := 0; i < len(s); i++ {
		j := i
		for j < len(s) && s[j] == '`' {
			j++
		}
		if j > i {
			runs[j-i] = true
			i = j
		}
	}
	n := 1
	for runs[n] {
		n++
	}
	fence := strings.Repeat("`", n)
	blank := strings.Trim(s, " ") == ""
	if s[0] == '`' || s[len(s)-1] == '`' || !blank && s[0] == ' ' && s[len(s)-1] == ' ' {
		s = " " + s + " "
	}
	return fence + s + fence
}

// text writes literal text. links says whether bare URLs may become links here.
func (w *inlineWriter) text(s string, next nodeKind, links bool) {
	if w.autolink && links {
		for {
			i, j := findURL(s)
			if i < 0 {
				break
			}
			if i > 0 {
				w.literal(s[:i], kindLink)
			}
			w.put("<"+s[i:j]+">", 'x')
			s = s[j:]
		}
	}
	if s != "" {
		w.literal(s, next)
	}
}

func (w *inlineWriter) literal(s string, next nodeKind) {
	var b strings.Builder
	start := 0
	if w.lineStart() {
		start = w.lineHead(&b, s)
	} else if w.cell && len(w.pieces) == 0 && (s[0] == ' ' || s[0] == '\t') {
		start = w.lineHead(&b, s[:1])
	}
	for i := start; i < len(s); i++ {
		c := s[i]
		switch c {
		case '\\':
			switch {
			case i+1 == len(s):
				b.WriteString("&#92;") // what comes next might be a mark or a line's end
				continue
			case isASCIIPunct(s[i+1]):
				b.WriteByte('\\')
			}
		case '*', '`', '[', ']':
			b.WriteByte('\\')
		case '~':
			if i+1 == len(s) {
				b.WriteString("&#126;") // before another one an escaped one counts for some parsers
				continue
			}
			b.WriteByte('\\')
		case '_':
			z := i
			for z < len(s) && s[z] == '_' {
				z++
			}
			mark := `\_`
			if insideWord(s, i, z) {
				mark = "_"
			}
			b.WriteString(strings.Repeat(mark, z-i))
			i = z - 1
			continue
		case '<':
			// Section "Specifics of Github Flavored Markdown in MIMI": the bracket of what would be an HTML tag.
			// Or of what would be an address in angle brackets.
			if i+1 == len(s) || s[i+1] != ' ' && (w.at || strings.IndexByte("=-0123456789", s[i+1]) < 0) {
				b.WriteString("&lt;")
				continue
			}
		case '&':
			if looksLikeReference(s[i:]) {
				b.WriteString("&amp;")
				continue
			}
		case '!':
			if i+1 == len(s) && next == kindLink {
				b.WriteByte('\\')
			}
		case '|':
			if w.cell {
				b.WriteString("&#124;") // \| is read in two ways where a backslash stands before it
				continue
			}
		case ' ', '\t':
			// At the end of a line white space would be lost.
			if i+1 == len(s) && (next == kindSoft || next == kindHard) {
				b.WriteString("&#32;")
				continue
			}
		}
		b.WriteByte(c)
	}
	w.put(b.String(), 't')
}

// lineHead writes what at the beginning of a line would open a block, escaped, and gives its length.
func (w *inlineWriter) lineHead(b *strings.Builder, s string) int {
	switch c := s[0]; c {
	case ' ':
		b.WriteString("&#32;")
		return 1
	case '\t':
		b.WriteString("&#9;")
		return 1
	case '>', '|':
		b.WriteByte('\\')
		b.WriteByte(c)
		return 1
	case '#', '+', '-', '=', ':':
		// Before a word, a number or a hashtag's name it opens nothing.
		rest := s[1:]
		if c == '#' {
			rest = strings.TrimLeft(s, "#")
		}
		if next, _ := utf8.DecodeRuneInString(rest); isWord(next) {
			return 0
		}
		b.WriteByte('\\')
		b.WriteByte(c)
		return 1
	}
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	if n > 0 && n < len(s) && (s[n] == '.' || s[n] == ')') {
		b.WriteString(s[:n])
		b.WriteByte('\\')
		b.WriteByte(s[n])
		return n + 1
	}
	return 0
}

// insideWord reports whether the run of underscores from i to z has letters or digits on both sides, where it marks
// nothing.
func insideWord(s string, i, z int) bool {
	before, _ := utf8.DecodeLastRuneInString(s[:i])
	after, _ := utf8.DecodeRuneInString(s[z:])
	return isWord(before) && isWord(after)
}

func isASCIIPunct(c byte) bool {
	return c >= '!' && c <= '/' || c >= ':' && c <= '@' || c >= '[' && c <= '`' || c >= '{' && c <= '~'
}

// isWord reports whether r is neither white space nor punctuation in any reading of the specification; parsers differ on
// symbols.
func isWord(r rune) bool {
	return r != utf8.RuneError && !unicode.IsSpace(r) && !unicode.IsPunct(r) && !unicode.IsSymbol(r)
}

// edge reports whether r surely is white space or punctuation.
func edge(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsPunct(r) || r < 0x80 && isASCIIPunct(byte(r))
}

// settle makes every mark open or close what it should (CommonMark, "left-flanking delimiter run"), by writing the
// character outside of it as a reference, which is punctuation to the rule, where it is needed.
func (w *inlineWriter) settle() {
	p := w.pieces
	for again := true; again; {
		again = false
		for i := range p {
			step := 1
			if p[i].kind == 'o' {
				step = -1
			} else if p[i].kind != 'c' {
				continue
			}
			in, out := runeAt(p, i-step, -step), runeAt(p, i+step, step)
			if edge(out) || isWord(in) && p[i].s != "_" {
				continue
			}
			// out is a letter or a symbol, so it stands in a text.
			t := &p[i+step]
			if step < 0 {
				r, n := utf8.DecodeLastRuneInString(t.s)
				t.s = t.s[:len(t.s)-n]
				if rest := strings.TrimRight(t.s, `\`); (len(t.s)-len(rest))%2 == 1 {
					t.s = t.s[:len(t.s)-1] + charRef('\\') // it would escape what comes now
				}
				t.s += charRef(r)
			} else {
				r, n := utf8.DecodeRuneInString(t.s)
				t.s = charRef(r) + t.s[n:]
			}
			again = true
		}
	}
}

func charRef(r rune) string { return "&#" + strconv.Itoa(int(r)) + ";" }

// runeAt gives the character of piece i that is next to its neighbour: its last one if dir is negative, else its first one.
func runeAt(p []piece, i, dir int) rune {
	if i < 0 || i >= len(p) {
		return ' '
	}
	if dir < 0 {
		r, _ := utf8.DecodeLastRuneInString(p[i].s)
		return r
	}
	r, _ := utf8.DecodeRuneInString(p[i].s)
	return r
}

// findURL finds a bare http or https URL in text and gives its bounds, -1 if there is none. Punctuation at its end
// and a closing bracket without an opening one are not part of it.
func findURL(s string) (i, j int) {
	for from := 0; ; {
		k := strings.Index(s[from:], "http")
		if k < 0 {
			return -1, -1
		}
		i = from + k
		from = i + 4
		rest := strings.TrimPrefix(s[i+4:], "s")
		if !strings.HasPrefix(rest, "://") {
			continue
		}
		if before, _ := utf8.DecodeLastRuneInString(s[:i]); i > 0 && (isWord(before) || before == '/' || before == '<') {
			continue
		}
		for j = i; j < len(s) && j < i+2048 && !endsURL[s[j]]; j++ {
		}
		if j == i+2048 {
			continue // longer than anybody types
		}
		if k := strings.IndexFunc(s[i:j], unicode.IsSpace); k >= 0 {
			j = i + k
		}
		open := strings.Count(s[i:j], "(") - strings.Count(s[i:j], ")")
		for j > i {
			c := s[j-1]
			if c == ')' && open < 0 {
				open++
			} else if strings.IndexByte(".,;:!?'*_~]", c) < 0 {
				break
			}
			j--
		}
		if clean, ok := cleanURL(s[i:j]); ok && clean == s[i:j] && autolinkable(clean) {
			return i, j
		}
	}
}

// endsURL are the octets that end a bare URL.
var endsURL = func() (t [256]bool) {
	for c := range 0x21 {
		t[c] = true
	}
	for _, c := range []byte("<>\"`|\\^{}\x7f") {
		t[c] = true
	}
	return t
}()
