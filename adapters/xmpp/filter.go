package xmpp

import (
	"encoding/xml"
	"errors"
	"io"

	"gosrc.io/xmpp/stanza"
)

// Limits of one stanza. Servers have limits of their own on octets; these hold whatever a server lets through.
const (
	maxDepth    = 32   // nested elements below the stanza
	maxElements = 4096 // elements in all
	// hardFactor times Config.MaxStanza is where a stanza is no longer skipped but ends the stream: until
	// then it has to be read, since the next one is behind it.
	hardFactor = 16
)

// nsPayload names the one element in which the filter wraps what a stanza contains. Nothing that comes from
// outside can stand in its place: outside elements are only ever inside of it.
const nsPayload = "urn:mimibridge:payload"

func init() {
	name := xml.Name{Space: nsPayload, Local: "payload"}
	for _, t := range []stanza.PacketType{stanza.PKTMessage, stanza.PKTPresence, stanza.PKTIQ} {
		stanza.TypeRegistry.MapExtension(t, name, payload{})
	}
}

// payload is everything inside a stanza, as raw elements in their order. It is an extension type of
// gosrc.io/xmpp/stanza, whose own decoding of children loses and mixes them up, and gives up on numbers it
// does not like.
type payload struct{ Kids []*element }

// UnmarshalXML implements xml.Unmarshaler.
func (p *payload) UnmarshalXML(d *xml.Decoder, start xml.StartElement) error {
	e, err := readElement(d, start)
	if err != nil {
		return err
	}
	p.Kids = e.Kids
	return nil
}

// Namespace implements stanza.IQPayload: it is what the router matches an IQ by.
func (p *payload) Namespace() string {
	if len(p.Kids) == 0 {
		return ""
	}
	return p.Kids[0].Space
}

// GetSet implements stanza.IQPayload; result sets are read where they are used.
func (p *payload) GetSet() *stanza.ResultSet { return nil }

// payloadOf returns what a stanza contains; a stanza type that the filter does not produce has nothing.
func payloadOf(p stanza.Packet) []*element {
	var list []any
	switch p := p.(type) {
	case stanza.Message:
		for _, x := range p.Extensions {
			list = append(list, x)
		}
	case stanza.Presence:
		for _, x := range p.Extensions {
			list = append(list, x)
		}
	case *stanza.IQ:
		list = append(list, p.Payload)
	}
	for _, x := range list {
		if pl, ok := x.(*payload); ok {
			return pl.Kids
		}
	}
	return nil
}

// cutoff is why a stanza's content was cut off by the filter.
type cutoff uint8

const (
	cutNone  cutoff = iota
	cutSize         // more octets than Config.MaxStanza
	cutDeep         // nested too deep
	cutCount        // too many elements
)

func (f cutoff) String() string {
	switch f {
	case cutSize:
		return "the stanza is too large"
	case cutDeep:
		return "the stanza's elements are nested too deep"
	case cutCount:
		return "the stanza has too many elements"
	}
	return ""
}

// errStanza ends a stream on which a stanza is so large that it is not even skipped.
var errStanza = errors.New("xmpp: a stanza exceeds every limit")

// tokenFilter stands between the XML parser of a stream and stanza.NextPacket. It
//   - drops comments, processing instructions and unknown top-level elements;
//   - passes a stanza's own attributes only if they have no namespace, so that x:to is not taken for to,
//     and xml:lang as the lang that the stanza types know;
//   - wraps everything inside a stanza in one payload element, so that nothing in it meets the types and
//     number parsers of the library, and an inner <message/> cannot end the outer one;
//   - cuts off a stanza that is over a limit and remembers why, leaving the stream intact.
//
// It is an xml.TokenReader for one goroutine.
type tokenFilter struct {
	d   *xml.Decoder
	lim *boundedReader
	max int64 // octets of a stanza

	queue    []xml.Token // to be handed out before reading on
	depth    int         // open elements, the stream's included
	begin    int64       // offset behind the last thing outside of a stanza
	elements int
	cutDepth int // tokens are dropped while depth is above it; 0: not dropping
	cutEnd   []xml.Token
	open     []xml.Name // of the stanza, for cutting it off
	raw      bool       // in a top-level element that is not a stanza

	// fault of the last stanza handed out in full; valid until the next is begun.
	fault cutoff
}

// newFilter reads a stream from r. Stanzas of more than max octets are cut off.
func newFilter(r io.Reader, max int64) *tokenFilter {
	lim := &boundedReader{r: r, max: max*hardFactor + 8192, left: max*hardFactor + 8192}
	return &tokenFilter{d: xml.NewDecoder(lim), lim: lim, max: max}
}

// Token implements xml.TokenReader.
func (f *tokenFilter) Token() (xml.Token, error) {
	for {
		if len(f.queue) > 0 {
			t := f.queue[0]
			f.queue = f.queue[1:]
			return t, nil
		}
		t, err := f.d.Token()
		if err != nil {
			return nil, err
		}
		t = f.next(t)
		if f.depth < 2 {
			f.begin = f.d.InputOffset()
		}
		if t != nil {
			return t, nil
		}
	}
}

// next judges one token; nil drops it. What is to follow it goes into the queue.
func (f *tokenFilter) next(t xml.Token) xml.Token {
	switch t := t.(type) {
	case xml.StartElement:
		f.depth++
		if f.cutDepth > 0 {
			return nil
		}
		switch f.depth {
		case 1:
			return xml.StartElement{Name: t.Name, Attr: plainAttrs(t.Attr)}
		case 2:
			return f.top(t)
		}
		return f.inside(t)
	case xml.EndElement:
		f.depth--
		if f.cutDepth > 0 {
			if f.depth >= f.cutDepth {
				return nil
			}
			// The element at which the cut was made is at its end, or the stanza around it.
			end := f.cutEnd
			f.cutDepth, f.cutEnd = 0, nil
			if f.depth == 1 {
				f.lim.reset()
			}
			if len(end) == 0 {
				return nil
			}
			f.queue = append(f.queue, end[1:]...)
			return end[0]
		}
		if f.depth >= 1 && len(f.open) > 0 {
			t.Name = f.open[len(f.open)-1] // as it was begun
			f.open = f.open[:len(f.open)-1]
		}
		if f.depth == 1 {
			f.lim.reset()
			if !f.raw {
				f.queue = append(f.queue, t)
				return xml.EndElement{Name: payloadName}
			}
			f.raw = false
		}
		return t
	case xml.CharData:
		if f.cutDepth > 0 || f.depth < 2 || f.tooLarge() {
			return nil
		}
		return t
	}
	return nil
}

var payloadName = xml.Name{Space: nsPayload, Local: "payload"}

// top begins a top-level element.
func (f *tokenFilter) top(t xml.StartElement) xml.Token {
	f.fault, f.elements = cutNone, 0
	f.open = append(f.open[:0], t.Name)
	f.raw = false
	switch t.Name.Space {
	case nsComponent, nsClient:
		switch t.Name.Local {
		case "message", "presence", "iq":
			t.Name.Space = nsComponent
			f.open[0] = t.Name
			f.queue = append(f.queue, xml.StartElement{Name: payloadName})
			start := xml.StartElement{Name: t.Name, Attr: plainAttrs(t.Attr)}
			return start
		case "handshake":
			f.raw = true
			return xml.StartElement{Name: t.Name}
		}
	case stanza.NSStream:
		if t.Name.Local == "error" {
			f.raw = true
			return xml.StartElement{Name: t.Name}
		}
	}
	f.cutDepth = f.depth
	return nil
}

// inside takes an element within a top-level one.
func (f *tokenFilter) inside(t xml.StartElement) xml.Token {
	if f.tooLarge() {
		return nil
	}
	f.elements++
	if f.elements > maxElements {
		f.cut(cutCount)
		return nil
	}
	if f.depth-2 > maxDepth {
		f.cut(cutDeep)
		return nil
	}
	f.open = append(f.open, t.Name)
	out := xml.StartElement{Name: t.Name}
	for _, a := range t.Attr {
		// The names are resolved already; declarations would be resolved once more behind the filter.
		if a.Name.Space == "" && a.Name.Local != "xmlns" || isXMLLang(a.Name) {
			out.Attr = append(out.Attr, a)
		}
	}
	return out
}

// tooLarge cuts the stanza off if it has outgrown its limit.
func (f *tokenFilter) tooLarge() bool {
	if f.d.InputOffset()-f.begin <= f.max {
		return false
	}
	f.cut(cutSize)
	return true
}

// cut drops the rest of the stanza; the elements that are open are closed when its end has been read.
func (f *tokenFilter) cut(why cutoff) {
	f.fault = why
	f.cutDepth = 2
	f.cutEnd = nil
	for i := len(f.open) - 1; i >= 0; i-- {
		if i == 0 && !f.raw {
			f.cutEnd = append(f.cutEnd, xml.EndElement{Name: payloadName})
		}
		f.cutEnd = append(f.cutEnd, xml.EndElement{Name: f.open[i]})
	}
	f.raw = false
}

// maxAttr is the most octets an attribute of a stanza may have: a full JID has at most 3,071.
const maxAttr = 4096

// plainAttrs keeps the attributes of a stanza that have no namespace, and xml:lang as lang. Longer ones than
// maxAttr are left out.
func plainAttrs(in []xml.Attr) []xml.Attr {
	var out []xml.Attr
	for _, a := range in {
		switch {
		case len(a.Value) > maxAttr:
		case isXMLLang(a.Name):
			out = append(out, xml.Attr{Name: xml.Name{Local: "lang"}, Value: a.Value})
		case a.Name.Space == "" && a.Name.Local != "xmlns" && a.Name.Local != "lang":
			out = append(out, a)
		}
	}
	return out
}

// boundedReader fails once max octets have been read since the last reset. The XML parser reads ahead by some
// kilobytes, so the bound is not exact.
type boundedReader struct {
	r         io.Reader
	max, left int64
}

func (b *boundedReader) reset() { b.left = b.max }

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errStanza
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}
