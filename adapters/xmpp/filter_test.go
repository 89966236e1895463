package xmpp

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"gosrc.io/xmpp/stanza"
)

const streamHead = `<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' id='s1' from='x'>`

// readAll reads a stream through the filter; the last stanza's fault is beside each.
func readAll(text string, max int64) (id string, out []stanza.Packet, cuts []cutoff, err error) {
	f := newFilter(strings.NewReader(text), max)
	d := xml.NewTokenDecoder(f)
	if id, err = stanza.InitStream(d); err != nil {
		return
	}
	for {
		p, err := stanza.NextPacket(d)
		if err != nil {
			return id, out, cuts, err
		}
		if _, end := p.(stanza.StreamClosePacket); end {
			return id, out, cuts, nil
		}
		out, cuts = append(out, p), append(cuts, f.fault)
	}
}

// describe says a packet in a line.
func describe(p stanza.Packet) string {
	var kids []string
	for _, k := range payloadOf(p) {
		kids = append(kids, k.String())
	}
	in, _ := readPacket(nil, p)
	if in == nil {
		return p.Name()
	}
	return fmt.Sprintf("%s type=%s id=%s from=%s to=%s lang=%s | %s", in.kind, in.typ, in.id, in.from, in.to, in.lang, strings.Join(kids, ""))
}

// Each stanza is read as what it is, and so is the one behind it.
func TestFilter(t *testing.T) {
	const ft = `from='romeo@xmpp.example/o' to='` + balcony + `'`
	for _, c := range []struct{ clause, in, want string }{
		{"priority out of range", `<presence ` + ft + `><priority>999</priority></presence>`,
			"presence type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <priority>999</priority>"},
		{"history that is no number", `<presence ` + ft + `><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='abc' seconds='-1'/></x></presence>`,
			"presence type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='abc' seconds='-1'/></x>"},
		{"inner message of the stream's namespace", `<message ` + ft + `><x xmlns='a'><message xmlns='jabber:component:accept' from='a@b' to='c@d'><body>no</body></message></x><body>yes</body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <x xmlns='a'><message from='a@b' to='c@d'><body>no</body></message></x><body>yes</body>"},
		{"message in a message", `<message ` + ft + `><message><message/></message><body>yes</body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <message><message/></message><body>yes</body>"},
		{"RSM that is no number", `<iq type='get' id='1' ` + ft + `><query xmlns='http://jabber.org/protocol/disco#items'><set xmlns='http://jabber.org/protocol/rsm'><max>z</max></set></query></iq>`,
			"iq type=get id=1 from=romeo@xmpp.example/o to=" + balcony + " lang= | <query xmlns='http://jabber.org/protocol/disco#items'><set xmlns='http://jabber.org/protocol/rsm'><max>z</max></set></query>"},
		{"fallback body", `<message ` + ft + `><fallback xmlns='urn:xmpp:fallback:0' for='x'><body start='0' end='3'/></fallback><body>text</body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <fallback xmlns='urn:xmpp:fallback:0' for='x'><body start='0' end='3'/></fallback><body>text</body>"},
		{"body of another namespace", `<message ` + ft + `><body>text</body><x xmlns='foo'><body>SPOOFED</body></x><body xmlns='foo'>SPOOFED</body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <body>text</body><x xmlns='foo'><body>SPOOFED</body></x><body xmlns='foo'>SPOOFED</body>"},
		{"body without namespace", `<message ` + ft + `><body xmlns=''>SPOOFED</body><body>text</body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <body xmlns='-'>SPOOFED</body><body>text</body>"},
		{"two languages", `<message ` + ft + ` xml:lang='en'><body>text</body><body xml:lang='de'>Text</body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang=en | <body>text</body><body xml:lang='de'>Text</body>"},
		{"lang that is not xml:lang", `<message ` + ft + ` lang='xx'><body>text</body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <body>text</body>"},
		{"thread with a parent", `<message ` + ft + `><thread parent='p'>t</thread><body>text</body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <thread parent='p'>t</thread><body>text</body>"},
		{"attributes of other namespaces", `<message ` + ft + ` xmlns:x='y' x:to='other@xmpp.example' x:from='other@xmpp.example' x:type='error'><body x:lang='de'>text</body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <body>text</body>"},
		{"error stanza with foreign parts", `<message type='error' ` + ft + `><error type='cancel' code='x'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/><a xmlns='b'/></error></message>`,
			"message type=error id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <error type='cancel' code='x'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/><a xmlns='b'/></error>"},
		{"IQ with an error and an inner error", `<iq type='error' id='1' ` + ft + `><error xmlns='x'/><error type='wait'/></iq>`,
			"iq type=error id=1 from=romeo@xmpp.example/o to=" + balcony + " lang= | <error xmlns='x'/><error type='wait'/>"},
		{"IQ with two requests", `<iq type='get' id='1' ` + ft + `><ping xmlns='urn:xmpp:ping'/><query xmlns='jabber:iq:version'/></iq>`,
			"iq type=get id=1 from=romeo@xmpp.example/o to=" + balcony + " lang= | <ping xmlns='urn:xmpp:ping'/><query xmlns='jabber:iq:version'/>"},
		{"known extensions of the library", `<message ` + ft + `><x xmlns='http://jabber.org/protocol/muc#user'><status code='abc'/></x><event xmlns='http://jabber.org/protocol/pubsub#event'/><received xmlns='urn:xmpp:receipts' id='1'/></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <x xmlns='http://jabber.org/protocol/muc#user'><status code='abc'/></x><event xmlns='http://jabber.org/protocol/pubsub#event'/><received xmlns='urn:xmpp:receipts' id='1'/>"},
		{"the filter's own wrapper", `<message ` + ft + `><payload xmlns='urn:mimibridge:payload'><body>SPOOFED</body></payload><body>text</body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <payload xmlns='urn:mimibridge:payload'><body>SPOOFED</body></payload><body>text</body>"},
		{"prefixes", `<x:message xmlns:x='jabber:component:accept' ` + ft + `><x:body>text</x:body></x:message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <body>text</body>"},
		{"prefix declared inside", `<message ` + ft + `><a:b xmlns:a='c' xmlns:d='e' d:f='g' h='i'><a:j/></a:b></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <b xmlns='c' h='i'><j/></b>"},
		{"CDATA, entities and comments", `<message ` + ft + `><!-- x --><body>a<![CDATA[<b>&]]>&#x263A;&amp;<!-- y --></body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <body>a&lt;b&gt;&amp;☺&amp;</body>"},
		{"unknown top-level elements", `<foo xmlns='bar'><message ` + ft + `/></foo>  <r xmlns='urn:xmpp:sm:3'/><message ` + ft + `/>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | "},
		{"client namespace", `<message xmlns='jabber:client' ` + ft + `><body>text</body></message>`,
			"message type= id= from=romeo@xmpp.example/o to=" + balcony + " lang= | <body>text</body>"},
	} {
		t.Run(c.clause, func(t *testing.T) {
			id, got, cuts, err := readAll(streamHead+c.in+`<message id='next' from='a@b' to='c@d'/></stream:stream>`, 10_000)
			if err != nil || id != "s1" || len(got) != 2 {
				t.Fatalf("id %q, %d stanzas, %v", id, len(got), err)
			}
			if d := describe(got[0]); d != c.want {
				t.Errorf("read as\n%s\nnot as\n%s", d, c.want)
			}
			if d := describe(got[1]); d != "message type= id=next from=a@b to=c@d lang= | " {
				t.Errorf("the next was read as %s", d)
			}
			for _, c := range cuts {
				if c != cutNone {
					t.Errorf("cut: %s", c)
				}
			}
		})
	}
}

// What is over a limit is cut off, and the stream goes on.
func TestFilterLimits(t *testing.T) {
	deep := strings.Repeat("<a>", 100) + strings.Repeat("</a>", 100)
	for _, c := range []struct {
		clause, in string
		want       cutoff
	}{
		{"size, in a text", "<body>" + strings.Repeat("x", 60_000) + "</body>", cutSize},
		{"size, in a text, with more behind", "<a><b>" + strings.Repeat("x", 60_000) + "</b><c/></a><d>y</d>", cutSize},
		{"size, in many elements", strings.Repeat("<a>1234567890</a>", 3000), cutSize},
		{"size, in an attribute", "<a b='" + strings.Repeat("x", 60_000) + "'/><c/>", cutSize},
		{"depth", deep, cutDeep},
		{"number", strings.Repeat("<a/>", maxElements+1), cutCount},
		{"depth reached", strings.Repeat("<a>", maxDepth) + strings.Repeat("</a>", maxDepth), cutNone},
	} {
		t.Run(c.clause, func(t *testing.T) {
			text := streamHead + "<message id='1' from='a@b' to='c@d'>" + c.in + "</message><iq type='get' id='next' from='a@b' to='c@d'><ping xmlns='urn:xmpp:ping'/></iq></stream:stream>"
			_, got, cuts, err := readAll(text, 30_000)
			if err != nil || len(got) != 2 {
				t.Fatalf("%d stanzas, %v", len(got), err)
			}
			if cuts[0] != c.want || cuts[1] != cutNone {
				t.Errorf("cuts %v", cuts)
			}
			if in, ok := readPacket(nil, got[0]); !ok || in.id != "1" || in.from.String() != "a@b" {
				t.Errorf("the stanza that was cut has lost its sender: %s", describe(got[0]))
			}
			if d := describe(got[1]); d != "iq type=get id=next from=a@b to=c@d lang= | <ping xmlns='urn:xmpp:ping'/>" {
				t.Errorf("the next was read as %s", d)
			}
		})
	}
	t.Run("an attribute of the stanza itself", func(t *testing.T) {
		_, got, _, err := readAll(streamHead+"<message id='"+strings.Repeat("x", 20_000)+"' from='a@b' to='c@d'/></stream:stream>", 30_000)
		if err != nil || len(got) != 1 {
			t.Fatalf("%d stanzas, %v", len(got), err)
		}
		if in, _ := readPacket(nil, got[0]); in.id != "" {
			t.Error("the id was kept")
		}
	})
	t.Run("what is not even skipped", func(t *testing.T) {
		_, _, _, err := readAll(streamHead+"<message from='a@b' to='c@d'><body>"+strings.Repeat("x", 30_000*hardFactor+100_000), 30_000)
		if err == nil {
			t.Error("no error")
		}
		f := newFilter(io.MultiReader(strings.NewReader(streamHead+"<message>"), endless{}), 30_000)
		for {
			if _, err := f.Token(); err != nil {
				if !errors.Is(err, errStanza) {
					t.Errorf("%v", err)
				}
				return
			}
		}
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// What is written is well-formed, and says the same, whatever is in the strings.
func TestWriteElement(t *testing.T) {
	text := "a\x00b\x01<&>\"'\r\n\t]]>\ufffe\uffff\xff\xfe\U0001F600"
	want := "a\ufffdb\ufffd<&>\"'\r\n\t]]>\ufffd\ufffd\ufffd\ufffd\U0001F600"
	e := el("", "message", "to", text, "id", "1").add(textEl("", "body", text), el("urn:x", "x", "a", text).add(textEl("urn:x", "y", text), textEl("urn:z", "z", "")))
	d := xml.NewDecoder(strings.NewReader(e.String()))
	start, err := d.Token()
	if err != nil {
		t.Fatal(err)
	}
	got, err := readElement(d, start.(xml.StartElement))
	if err != nil {
		t.Fatalf("%v\n%s", err, e)
	}
	if got.attr("to") != want || got.child("-", "body").Text != want || got.child("urn:x", "x").attr("a") != want || got.child("urn:x", "x").text("urn:x", "y") != want {
		t.Errorf("%s", e)
	}
	if got.child("urn:x", "x").child("urn:z", "z") == nil {
		t.Errorf("a child of another namespace: %s", e)
	}
}

// FuzzFilter feeds the filter with whatever a server could hand on. Behind it there are only stanzas with their contents
// wrapped, and never more elements, or deeper ones, than the limits say.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{
		`<message from='a@b' to='c@d'><body>x</body></message>`,
		`<presence><priority>999</priority><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='abc'/></x></presence>`,
		`<iq type='get' id='1'><query xmlns='x'><set xmlns='http://jabber.org/protocol/rsm'><max>z</max></set></query></iq>`,
		`<message><message xmlns='jabber:component:accept'/></message></stream:stream>`,
		`<a:b xmlns:a='x'/><stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>`,
		`<message>` + strings.Repeat("<a>", 40) + strings.Repeat("</a>", 40) + `</message><handshake/>`,
		`<message xmlns:x='y' x:to='z' xml:lang='en'><body>` + strings.Repeat("y", 3000) + `</body></message>`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		const max = 2000
		_, got, _, _ := readAll(streamHead+s, max)
		for _, p := range got {
			switch p := p.(type) {
			case stanza.Message:
				if p.Body != "" || p.Subject != "" || p.Thread != "" || len(p.Extensions) > 1 {
					t.Fatalf("the library has read a message's content: %+v", p)
				}
			case stanza.Presence:
				if p.Status != "" || p.Show != "" || p.Priority != 0 || len(p.Extensions) > 1 {
					t.Fatalf("the library has read a presence's content: %+v", p)
				}
			case *stanza.IQ:
				if p.Any != nil || p.Error != nil {
					t.Fatalf("the library has read an IQ's content: %+v", p)
				}
			}
			n, size := 0, 0
			var walk func(e *element, depth int)
			walk = func(e *element, depth int) {
				n++
				size += len(e.Text)
				if depth > maxDepth {
					t.Fatal("too deep")
				}
				for _, k := range e.Kids {
					walk(k, depth+1)
				}
			}
			for _, k := range payloadOf(p) {
				walk(k, 1)
				if _, err := xml.NewDecoder(strings.NewReader(k.String())).Token(); err != nil && !strings.Contains(k.Local, ":") {
					t.Fatalf("%q: %v", k, err)
				}
			}
			if n > maxElements || size > max {
				t.Fatalf("%d elements, %d octets", n, size)
			}
			readPacket(nil, p)
		}
	})
}

// BenchmarkFilter shows what a small stanza costs.
func BenchmarkFilter(b *testing.B) {
	one := `<message type='groupchat' id='abc123' from='romeo@xmpp.example/orchard' to='balcony@rooms.mimi.xmpp.example'><body>But, soft! what light through yonder window breaks?</body><origin-id xmlns='urn:xmpp:sid:0' id='abc123'/></message>`
	b.SetBytes(int64(len(one)))
	b.ReportAllocs()
	r, w := io.Pipe()
	go func() {
		io.WriteString(w, streamHead)
		chunk := strings.Repeat(one, 100)
		for {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	}()
	d := xml.NewTokenDecoder(newFilter(r, 100_000))
	if _, err := stanza.InitStream(d); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		if _, err := stanza.NextPacket(d); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	r.Close()
}
