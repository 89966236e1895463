package content

import (
	"iter"
	"mime"
	"strconv"
	"strings"
	"unicode/utf8"
)

// AllParts goes over the part and those in it, depth first, each with its part index (section "Message Bodies"): 0 for the
// part itself, if it is the body.
func (p *Part) AllParts() iter.Seq2[int, *Part] {
	return func(yield func(int, *Part) bool) {
		index := 0
		var walk func(*Part) bool
		walk = func(p *Part) bool {
			if !yield(index, p) {
				return false
			}
			index++
			if p.Cardinality == MultiPart {
				for i := range p.Parts {
					if !walk(&p.Parts[i]) {
						return false
					}
				}
			}
			return true
		}
		walk(p)
	}
}

// PartAt gives the part of the body with a part index.
func (m *Message) PartAt(index int) (*Part, bool) {
	for i, p := range m.Body.AllParts() {
		if i == index {
			return p, true
		}
	}
	return nil, false
}

const (
	cidPrefix = "cid:"
	cidSuffix = "@local.invalid"
)

// CID gives the content ID URI by which a part refers to the part with an index in the same message.
func CID(index int) string { return cidPrefix + strconv.Itoa(index) + cidSuffix }

// ParseCID reads what CID gives; ok is false for everything else.
func ParseCID(uri string) (index int, ok bool) {
	if len(uri) < len(cidPrefix) || !strings.EqualFold(uri[:len(cidPrefix)], cidPrefix) {
		return 0, false
	}
	digits, ok := strings.CutSuffix(uri[len(cidPrefix):], cidSuffix)
	if !ok || digits == "" || len(digits) > 6 || len(digits) > 1 && digits[0] == '0' || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	index, err := strconv.Atoi(digits)
	return index, err == nil
}

// ByCID gives the part that a content ID URI in this message refers to. Only single and external parts can be
// referred to.
func (m *Message) ByCID(uri string) (*Part, bool) {
	index, ok := ParseCID(uri)
	if !ok {
		return nil, false
	}
	p, ok := m.PartAt(index)
	if !ok || p.Cardinality != SinglePart && p.Cardinality != ExternalPart {
		return nil, false
	}
	return p, true
}

// References gives the part indices that a part of text refers to, each once.
func (p *Part) References() (list []int) {
	typ, _ := p.mediaType()
	if p.Cardinality != SinglePart || !strings.HasPrefix(typ, "text/") {
		return nil
	}
	seen := make(map[int]bool)
	for rest := string(p.Content); ; {
		i := strings.Index(rest, cidPrefix)
		if i < 0 {
			return list
		}
		rest = rest[i:]
		end := strings.Index(rest[:min(len(rest), len(cidPrefix)+6+len(cidSuffix))], cidSuffix)
		if end >= 0 {
			if index, ok := ParseCID(rest[:end+len(cidSuffix)]); ok && !seen[index] {
				seen[index] = true
				list = append(list, index)
			}
		}
		rest = rest[len(cidPrefix):]
	}
}

// mediaType gives the type of a single or external part in lower case, and its parameters; an unreadable one is "".
func (p *Part) mediaType() (string, map[string]string) {
	if len(p.ContentType) > 1024 {
		return "", nil
	}
	typ, params, err := mime.ParseMediaType(p.ContentType)
	if err != nil {
		return "", nil
	}
	return typ, params
}

// isUTF8 reports whether a part of text is in UTF-8, by its parameters and in fact.
func (p *Part) isUTF8() bool {
	_, params := p.mediaType()
	switch strings.ToLower(params["charset"]) {
	case "", "utf-8", "us-ascii": // all are UTF-8
		return utf8.Valid(p.Content)
	}
	return false
}

// Capabilities says what a receiver can do with parts.
type Capabilities struct {
	// Rank says how well the receiver can process a part, a SinglePart or an ExternalPart, of a media type (in lower case,
	// "" if there is none or it is not readable): 0 not at all; of alternatives the highest is chosen.
	Rank func(mediaType string, params map[string]string, p *Part) int
	// Languages are what the receiver reads, RFC 5646 tags, the best first. They decide between alternatives that are equally
	// good otherwise.
	Languages []string
}

// Chosen is a part that is to be processed.
type Chosen struct {
	Index       int   // its part index
	Part        *Part // a SinglePart or an ExternalPart
	Disposition Disposition
	References  []int // the parts among those chosen that it refers to
}

// Choose gives the parts that the receiver should process, in order (section "Message Bodies"): of alternatives the best
// one, of a unit all parts or none, of others as many as it can. Parts that a part before refers to by a
// content ID URI come in its References only. Unknown dispositions read as render, a part without one has that of the
// parts around it. Nothing is left if the receiver can process nothing, or there is nothing.
func (m *Message) Choose(c Capabilities) []Chosen {
	ch := chooser{c: c}
	ch.number(&m.Body)
	if s := ch.score(&m.Body); !s.any {
		return nil
	}
	ch.take(&m.Body, Unspecified)
	chosen := make(map[int]bool, len(ch.out))
	for _, x := range ch.out {
		chosen[x.Index] = true
	}
	referred := make(map[int]bool)
	out := ch.out[:0]
	for _, x := range ch.out {
		if referred[x.Index] {
			continue
		}
		for _, i := range x.Part.References() {
			if chosen[i] && i != x.Index && !referred[i] {
				referred[i] = true
				x.References = append(x.References, i)
			}
		}
		out = append(out, x)
	}
	return out
}

type chooser struct {
	c      Capabilities
	next   int
	index  map[*Part]int
	scores map[*Part]score
	out    []Chosen
}

func (ch *chooser) number(body *Part) {
	ch.index, ch.scores = make(map[*Part]int), make(map[*Part]score)
	for i, p := range body.AllParts() {
		ch.index[p] = i
	}
}

// score says how well a part can be processed.
type score struct {
	any      bool // there is something in it that can
	complete bool // all of it can
	rank     int  // that of the best part that can
	language int  // higher is better
}

func (s score) better(t score) bool {
	switch {
	case s.any != t.any:
		return s.any
	case s.complete != t.complete:
		return s.complete
	case s.rank != t.rank:
		return s.rank > t.rank
	}
	return s.language > t.language
}

func (ch *chooser) score(p *Part) (s score) {
	if s, ok := ch.scores[p]; ok {
		return s
	}
	defer func() { ch.scores[p] = s }()
	s.language = ch.language(p.Language)
	switch p.Cardinality {
	case NullPart:
		s.complete = true // nothing is needed for it, and nothing is got from it
	case SinglePart, ExternalPart:
		typ, params := p.mediaType()
		if p.Cardinality == ExternalPart && p.External == nil {
			return s
		}
		if s.rank = ch.c.Rank(typ, params, p); s.rank > 0 {
			s.any, s.complete = true, true
		}
	case MultiPart:
		if p.Semantics == ChooseOne {
			if best := ch.best(p); best != nil {
				b := ch.score(best)
				b.language = max(b.language, s.language)
				return b
			}
			return s
		}
		s.complete = true
		for i := range p.Parts {
			t := ch.score(&p.Parts[i])
			if !t.complete {
				s.complete = false
			}
			if t.any {
				s.any, s.rank, s.language = true, max(s.rank, t.rank), max(s.language, t.language)
			}
		}
		if p.Semantics == SingleUnit && !s.complete {
			s = score{}
		}
	}
	return s
}

// best gives the best alternative, the sender's first of equals, nil if the receiver can process none.
func (ch *chooser) best(p *Part) (best *Part) {
	for i := range p.Parts {
		s := ch.score(&p.Parts[i])
		if s.any && (best == nil || s.better(ch.score(best))) {
			best = &p.Parts[i]
		}
	}
	return best
}

// language ranks a part's language tags: those the receiver reads, then none, then others.
func (ch *chooser) language(tags string) int {
	if tags == "" || len(tags) > 1024 {
		return 1
	}
	best := 0
	for _, tag := range strings.Split(tags, ",") {
		tag = strings.ToLower(strings.TrimSpace(tag))
		for i, l := range ch.c.Languages {
			l = strings.ToLower(l)
			if tag == l || strings.HasPrefix(tag, l+"-") || strings.HasPrefix(l, tag+"-") {
				best = max(best, 2+len(ch.c.Languages)-i)
			}
		}
	}
	return best
}

func (ch *chooser) take(p *Part, around Disposition) {
	d := p.Disposition
	switch {
	case d == Unspecified:
		d = around
	case d > Preview:
		d = Render // section "General handling": as if it were render
	}
	switch p.Cardinality {
	case SinglePart, ExternalPart:
		if ch.score(p).any {
			ch.out = append(ch.out, Chosen{Index: ch.index[p], Part: p, Disposition: d})
		}
	case MultiPart:
		if p.Semantics == ChooseOne {
			if best := ch.best(p); best != nil {
				ch.take(best, d)
			}
			return
		}
		if p.Semantics == SingleUnit && !ch.score(p).complete {
			return
		}
		for i := range p.Parts {
			ch.take(&p.Parts[i], d)
		}
	}
}
