package content

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// writeText writes a tree as plain text. With styled, marks have the marks of XEP-0393. The references count code points
// of the result.
func writeText(doc *node, styled bool) (string, []Reference) {
	w := textWriter{styled: styled}
	lines := w.blocks(doc.kids, false)
	for i, l := range lines {
		lines[i].s = strings.TrimRightFunc(l.s, unicode.IsSpace)
	}
	for len(lines) > 0 && lines[len(lines)-1].s == "" {
		lines = lines[:len(lines)-1]
	}
	var b strings.Builder
	var refs []Reference
	at := 0 // code points so far
	for i, l := range lines {
		if i > 0 {
			b.WriteByte('\n')
			at++
		}
		for _, r := range l.refs {
			r.Begin, r.End = r.Begin+at, r.End+at
			refs = append(refs, r)
		}
		b.WriteString(l.s)
		at += utf8.RuneCountInString(l.s)
	}
	return b.String(), refs
}

// textLine is a line of the result with the references in it.
type textLine struct {
	s    string
	refs []Reference
}

func (l textLine) after(prefix string) textLine {
	if prefix == "" {
		return l
	}
	n := utf8.RuneCountInString(prefix)
	for i := range l.refs {
		l.refs[i].Begin += n
		l.refs[i].End += n
	}
	l.s = prefix + l.s
	return l
}

type textWriter struct{ styled bool }

func (w *textWriter) blocks(list []*node, tight bool) (lines []textLine) {
	for i, n := range list {
		if i > 0 && !tight {
			lines = append(lines, textLine{})
		}
		lines = append(lines, w.block(n)...)
	}
	return lines
}

func (w *textWriter) block(n *node) (lines []textLine) {
	switch n.kind {
	case kindPara:
		return w.inlines(n.kids)
	case kindHeading:
		if w.styled && !holdsStrong(n.kids) {
			return w.inlines([]*node{{kind: kindStrong, kids: n.kids}})
		}
		return w.inlines(n.kids)
	case kindQuote:
		for _, l := range w.blocks(n.kids, false) {
			lines = append(lines, l.after("> "))
		}
	case kindRule:
		lines = []textLine{{s: "———"}}
	case kindCode:
		if w.styled {
			lines = append(lines, textLine{s: "```" + n.title})
		}
		for _, s := range strings.Split(n.text, "\n") {
			lines = append(lines, textLine{s: s})
		}
		if w.styled {
			lines = append(lines, textLine{s: "```"})
		}
	case kindList:
		for i, item := range n.kids {
			mark := "- "
			if n.ordered {
				mark = strconv.Itoa(int(n.level)+i) + ". "
			}
			indent := strings.Repeat(" ", len(mark))
			switch item.task {
			case taskOpen:
				mark += "[ ] "
			case taskDone:
				mark += "[x] "
			}
			for j, l := range w.blocks(item.kids, n.tight) {
				if j == 0 {
					lines = append(lines, l.after(mark))
				} else {
					lines = append(lines, l.after(indent))
				}
			}
		}
	case kindTable:
		for _, r := range n.kids {
			var row textInlines
			for i, c := range r.kids {
				if i > 0 {
					row.put(" | ")
				}
				w.write(&row, c.kids)
			}
			if strings.TrimSpace(strings.Trim(string(row.now), "| ")) == "" {
				continue
			}
			lines = append(lines, row.lines()...)
		}
	}
	return lines
}

// textInlines collects a paragraph's text.
type textInlines struct {
	done []textLine
	now  []byte
	at   int // code points in now
	refs []Reference
}

func (t *textInlines) put(s string) {
	t.now = append(t.now, s...)
	t.at += utf8.RuneCountInString(s)
}

func (t *textInlines) newline() {
	t.done = append(t.done, textLine{string(t.now), t.refs})
	t.now, t.at, t.refs = t.now[:0], 0, nil
}

func (t *textInlines) lines() []textLine {
	t.newline()
	return t.done
}

func (w *textWriter) inlines(list []*node) []textLine {
	var t textInlines
	w.write(&t, list)
	return t.lines()
}

func (w *textWriter) write(t *textInlines, list []*node) {
	for _, n := range list {
		switch n.kind {
		case kindText:
			t.put(n.text)
		case kindSoft, kindHard:
			t.newline()
		case kindEm:
			w.marked(t, n, "_")
		case kindStrong:
			w.marked(t, n, "*")
		case kindStrike:
			w.marked(t, n, "~")
		case kindCodeSpan:
			if w.styled {
				t.put("`" + n.text + "`")
			} else {
				t.put(n.text)
			}
		case kindLink:
			w.link(t, n)
		case kindImage:
			switch {
			case n.text == "":
				t.put(n.href)
			case strings.HasPrefix(n.href, "http"):
				t.put(n.text + " (" + n.href + ")")
			default:
				t.put(n.text)
			}
		}
	}
}

func (w *textWriter) marked(t *textInlines, n *node, mark string) {
	if !w.styled {
		w.write(t, n.kids)
		return
	}
	t.put(mark)
	w.write(t, n.kids)
	t.put(mark)
}

func (w *textWriter) link(t *textInlines, n *node) {
	begin, line := t.at, len(t.done)
	w.write(t, n.kids)
	uri := ""
	if n.mention {
		uri = n.text
	} else if strings.HasPrefix(n.href, "mimi:") {
		uri = n.href
	}
	switch text := plain(n.kids); {
	case uri != "":
		if line == len(t.done) {
			t.refs = append(t.refs, Reference{Begin: begin, End: t.at, URI: uri})
		}
	case n.href == "", sameURL(text, n.href):
	default:
		t.put(" (" + n.href + ")")
	}
}

// sameURL reports whether a link's text is its target to the eye.
func sameURL(text, href string) bool {
	if text == href {
		return true
	}
	_, rest, _ := strings.Cut(href, ":")
	return text == rest || "//"+text == rest || "//"+text+"/" == rest || text+"/" == href
}

// parseText reads plain text into a tree.
func parseText(s string, o *TextOptions) *node {
	r := textReader{}
	if o != nil {
		r.o = *o
	}
	if len(r.o.References) > 0 && cleanText(s) != s {
		r.o.References = nil // their places are not what they were
	}
	s = strings.TrimRight(cleanText(s), " \t\n")
	r.place(s)
	return &node{kind: kindDoc, kids: r.blocks(s, 0, 0)}
}

type textReader struct {
	o    TextOptions
	refs []byteRef
}

// byteRef is a Reference in octets.
type byteRef struct {
	begin, end int
	uri        string
}

// maxReferences bounds the mentions that are looked for in a text.
const maxReferences = 256

// place turns code points into octets and drops references that overlap or are out of bounds.
func (r *textReader) place(s string) {
	if len(r.o.References) == 0 {
		return
	}
	at := make([]int, 0, len(s)+1) // the octet of each code point
	for i := range s {
		at = append(at, i)
	}
	at = append(at, len(s))
	last := 0
	for _, f := range r.o.References[:min(len(r.o.References), maxReferences)] {
		if f.Begin < 0 || f.End <= f.Begin || f.End >= len(at) {
			continue
		}
		b, e := at[f.Begin], at[f.End]
		if b < last || strings.Contains(s[b:e], "\n") {
			continue
		}
		last = e
		r.refs = append(r.refs, byteRef{b, e, f.URI})
	}
}

// blocks reads the lines of s, which begins at octet base of the whole text.
func (r *textReader) blocks(s string, base, nest int) (out []*node) {
	var para []*node
	flush := func() {
		if b := textBlock(para); b != nil {
			out = append(out, b)
		}
		para = nil
	}
	for pos := 0; pos < len(s); {
		end, next := lineEnd(s, pos)
		line := s[pos:end]
		switch {
		case r.o.Styled && strings.HasPrefix(line, "```"):
			flush()
			var code []string
			info := infoWord(line[3:])
			for pos = next; pos < len(s); {
				end, next := lineEnd(s, pos)
				line := s[pos:end]
				pos = next
				if strings.TrimRight(line, " \t") == "```" {
					break
				}
				code = append(code, line)
			}
			out = append(out, &node{kind: kindCode, title: info, text: codeText(strings.Join(code, "\n") + "\n")})
			continue
		case r.o.Styled && strings.HasPrefix(line, ">") && nest < maxNest:
			flush()
			out = append(out, r.quote(s, &pos, base, nest))
			if out[len(out)-1] == nil {
				out = out[:len(out)-1]
			}
			continue
		case strings.Trim(line, " \t") == "":
			// One empty line parts paragraphs, what is more are lines of their own.
			if len(para) > 0 {
				after, _ := lineEnd(s, next)
				if strings.Trim(s[next:after], " \t") == "" {
					para = append(para, &node{kind: kindText, text: nbsp}, &node{kind: kindHard})
				} else {
					flush()
				}
			}
		default:
			para = append(para, r.spans(line, base+pos)...)
			para = append(para, &node{kind: kindHard})
		}
		pos = next
	}
	flush()
	return out
}

// textBlock is block without taking white space off the beginnings of lines.
func textBlock(kids []*node) *node {
	kids = trimEdges(tidy(kids, 0))
	if len(kids) == 0 {
		return nil
	}
	return &node{kind: kindPara, kids: kids}
}

func lineEnd(s string, pos int) (end, next int) {
	if i := strings.IndexByte(s[pos:], '\n'); i >= 0 {
		return pos + i, pos + i + 1
	}
	return len(s), len(s)
}

// quote reads the lines that begin with > from *pos on.
func (r *textReader) quote(s string, pos *int, base, nest int) *node {
	// The lines lose their marks, so places in them shift: each is read for itself with its own base.
	var inner []string
	var bases []int
	for *pos < len(s) {
		end, next := lineEnd(s, *pos)
		line := s[*pos:end]
		if !strings.HasPrefix(line, ">") {
			break
		}
		cut := 1
		if strings.HasPrefix(line[1:], " ") {
			cut = 2
		}
		inner = append(inner, line[cut:])
		bases = append(bases, base+*pos+cut)
		*pos = next
	}
	sub := textReader{o: r.o}
	off := 0
	for i, l := range inner {
		for _, f := range r.refs {
			if f.begin >= bases[i] && f.end <= bases[i]+len(l) {
				sub.refs = append(sub.refs, byteRef{f.begin - bases[i] + off, f.end - bases[i] + off, f.uri})
			}
		}
		off += len(l) + 1
	}
	kids := sub.blocks(strings.Join(inner, "\n"), 0, nest+1)
	if len(kids) == 0 {
		return nil
	}
	return &node{kind: kindQuote, kids: kids}
}

// spans reads the inlines of a line that begins at octet base.
func (r *textReader) spans(line string, base int) []*node {
	if !r.o.Styled {
		return r.plain(line, base, base+len(line))
	}
	// closer[c][i] is the next place from i on where the mark c can close: after something that is no white space.
	var closer [4][]int
	for k := range marks {
		closer[k] = make([]int, len(line)+1)
		closer[k][len(line)] = -1
		for i := len(line) - 1; i >= 0; i-- {
			closer[k][i] = closer[k][i+1]
			if before, _ := utf8.DecodeLastRuneInString(line[:i]); line[i] == marks[k] && i > 0 && !unicode.IsSpace(before) {
				closer[k][i] = i
			}
		}
	}
	return r.span(line, base, 0, len(line), 0, closer)
}

const marks = "*_~`"

// span reads the octets from from to to of a line, which stand in the mark parent, 0 for none.
func (r *textReader) span(line string, base, from, to int, parent byte, closer [4][]int) (out []*node) {
	text := from
	for i := from; i < to; i++ {
		k := strings.IndexByte(marks, line[i])
		if k < 0 || r.inRef(base+i) {
			continue
		}
		// A mark opens at the beginning, after white space, and after another mark that opens.
		if before, _ := utf8.DecodeLastRuneInString(line[:i]); i > from && !unicode.IsSpace(before) || marks[k] == parent || i+2 >= to {
			continue
		}
		if after, _ := utf8.DecodeRuneInString(line[i+1:]); unicode.IsSpace(after) || line[i+1] == line[i] {
			continue
		}
		j := closer[k][i+2]
		if j < 0 || j >= to || r.inRef(base+j) {
			continue
		}
		out = append(out, r.plain(line[text:i], base+text, base+i)...)
		if marks[k] == '`' {
			out = append(out, &node{kind: kindCodeSpan, text: line[i+1 : j]})
		} else {
			out = append(out, &node{kind: [...]nodeKind{kindStrong, kindEm, kindStrike}[k], kids: r.span(line, base, i+1, j, marks[k], closer)})
		}
		i, text = j, j+1
	}
	return append(out, r.plain(line[text:to], base+text, base+to)...)
}

// inRef reports whether the octet is part of a reference.
func (r *textReader) inRef(i int) bool {
	for _, f := range r.refs {
		if i >= f.begin && i < f.end {
			return true
		}
		if f.begin > i {
			break
		}
	}
	return false
}

// plain reads text without marks, from octet from to octet to of the whole.
func (r *textReader) plain(s string, from, to int) (out []*node) {
	at := from
	for _, f := range r.refs {
		if f.begin < at || f.end > to {
			continue
		}
		l := linkTo(f.uri, "", []*node{{kind: kindText, text: s[f.begin-from : f.end-from]}})
		out = append(append(out, r.urls(s[at-from:f.begin-from])...), l...)
		at = f.end
	}
	return append(out, r.urls(s[at-from:])...)
}

func (r *textReader) urls(s string) (out []*node) {
	for r.o.Autolink {
		i, j := findURL(s)
		if i < 0 {
			break
		}
		out = append(out, &node{kind: kindText, text: s[:i]})
		out = append(out, linkTo(s[i:j], "", []*node{{kind: kindText, text: s[i:j]}})...)
		s = s[j:]
	}
	if s != "" {
		out = append(out, &node{kind: kindText, text: s})
	}
	return out
}
