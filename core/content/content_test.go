package content_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

var (
	ann  = mimiuri.MustParse("mimi://one.example/u/ann")
	room = mimiuri.MustParse("mimi://hub.example/r/tea")
)

func TestText(t *testing.T) {
	m := content.Text("hello")
	if err := m.Stamp(rand.Reader, ann, room); err != nil {
		t.Fatal(err)
	}
	sent := time.Date(2026, 5, 1, 12, 0, 0, 123456789, time.UTC)
	m.SetSenderTimestamp(sent)
	m.SetExternalMessageID([]byte("$abc"), "one.example")
	m.SetSubject("tea")
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := content.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := got.PlainText(); !ok || text != "hello" {
		t.Errorf("text %q, %v", text, ok)
	}
	if s, ok := got.SenderURI(); !ok || s != ann {
		t.Errorf("sender %v, %v", s, ok)
	}
	if r, ok := got.RoomURI(); !ok || r != room {
		t.Errorf("room %v, %v", r, ok)
	}
	if ts, ok := got.SenderTimestamp(); !ok || !ts.Equal(sent.Truncate(time.Millisecond)) {
		t.Errorf("timestamp %v, %v", ts, ok)
	}
	if id, ok := got.ExternalMessageID(); !ok || string(id.ID) != "$abc" || id.Scope != "one.example" {
		t.Errorf("external ID %v, %v", id, ok)
	}
	if s, ok := got.Subject(); !ok || s != "tea" {
		t.Errorf("subject %q, %v", s, ok)
	}
	if got.Salt != m.Salt || got.Salt == [16]byte{} {
		t.Errorf("salt %x", got.Salt)
	}

	m.SetSenderTimestamp(time.Time{})
	m.SetSubject("")
	if _, ok := m.SenderTimestamp(); ok {
		t.Error("the zero time did not remove the timestamp")
	}
	if _, ok := m.Subject(); ok {
		t.Error("the empty subject did not remove the subject")
	}
}

func TestStampRefuses(t *testing.T) {
	m := content.Text("x")
	if err := m.Stamp(rand.Reader, room, ann); err == nil {
		t.Error("took a room as the sender")
	}
	if err := m.Stamp(strings.NewReader("short"), ann, room); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("no randomness: %v", err)
	}
	if len(m.Extensions) != 0 || m.Salt != [16]byte{} {
		t.Error("a failed Stamp changed the message")
	}
}

// TestIDInputs: each of the inputs counts, and lengths keep the two URIs apart.
func TestIDInputs(t *testing.T) {
	other := mimiuri.MustParse("mimi://one.example/u/bob")
	base := content.ID([]byte("m"), ann, room, [16]byte{1})
	for name, id := range map[string]content.MessageID{
		"octets": content.ID([]byte("n"), ann, room, [16]byte{1}),
		"sender": content.ID([]byte("m"), other, room, [16]byte{1}),
		"room":   content.ID([]byte("m"), ann, mimiuri.MustParse("mimi://hub.example/r/tee"), [16]byte{1}),
		"salt":   content.ID([]byte("m"), ann, room, [16]byte{2}),
	} {
		if id == base {
			t.Errorf("the %s does not count", name)
		}
	}
	if base[0] != content.HashSHA256 {
		t.Errorf("algorithm %d", base[0])
	}
	if back, err := content.ParseMessageID(base.String()); err != nil || back != base {
		t.Errorf("ParseMessageID: %v, %v", back, err)
	}
	for _, s := range []string{"", "01", base.String() + "00", strings.Repeat("g", 64)} {
		if _, err := content.ParseMessageID(s); err == nil {
			t.Errorf("ParseMessageID takes %q", s)
		}
	}
}

// Parts of a message in CBOR, to be put together wrongly.
const (
	salt16  = "50" + "000102030405060708090a0b0c0d0e0f"
	null    = "f6"
	empty   = "40"
	noExt   = "a0"
	body    = "85" + "01" + "60" + "01" + "6a746578742f706c61696e" + "4178" // render, "", single, text/plain, 'x'
	nobody  = "83" + "00" + "60" + "00"
	id32    = "5820" + "0101010101010101010101010101010101010101010101010101010101010101"
	headMsg = "87" + salt16
)

// with is a whole message with the given extensions and body.
func with(ext, body string) string { return headMsg + null + empty + null + null + ext + body }

// ext is a message with one extension 255 whose value is given.
func ext(value string) string { return with("a1"+"18ff"+value, body) }

func TestDecodeRefuses(t *testing.T) {
	// The frame itself is good, or the table would prove nothing.
	for _, good := range []string{with(noExt, body), with(noExt, nobody), ext("00"), headMsg + id32 + empty + "82f500" + id32 + noExt + body} {
		if _, err := content.Decode(unhex(t, good)); err != nil {
			t.Fatalf("%s: %v", good, err)
		}
	}
	multi := func(items string) string { return with(noExt, "85"+"01"+"60"+"03"+items) }
	nested := func(levels int) string {
		p := nobody
		for range levels - 1 {
			p = "8501600300" + "82" + p + nobody
		}
		return with(noExt, p)
	}
	external := func(fields string) string {
		return with(noExt, "8f"+"06"+"60"+"02"+"6a746578742f706c61696e"+fields)
	}
	manyParts := "8501600302" + "990400" + strings.Repeat(nobody, 1024)

	for _, c := range []struct{ name, in string }{
		{"nothing", ""},
		{"null", null},
		{"appendix CDDL: six items", "86" + salt16 + null + empty + null + null + noExt},
		{"appendix CDDL: eight items", "88" + salt16 + null + empty + null + null + noExt + body + null},
		{"salt of 15 octets", "874f" + "000102030405060708090a0b0c0d0e" + null + empty + null + null + noExt + body},
		{"salt as text", "8770" + strings.Repeat("61", 16) + null + empty + null + null + noExt + body},
		{"replaces of 31 octets", headMsg + "581f" + strings.Repeat("01", 31) + empty + null + null + noExt + body},
		{"replaces false", headMsg + "f4" + empty + null + null + noExt + body},
		{"topicId null", headMsg + null + null + null + null + noExt + body},
		{"expires with one item", headMsg + null + empty + "81f5" + null + noExt + body},
		{"expires with a number for the boolean", headMsg + null + empty + "820100" + null + noExt + body},
		{"expires after 2106", headMsg + null + empty + "82f41b0000000100000000" + null + noExt + body},
		{"expires negative", headMsg + null + empty + "82f420" + null + noExt + body},
		{"inReplyTo undefined", headMsg + null + empty + null + "f7" + noExt + body},
		{"extensions null", headMsg + null + empty + null + null + null + body},
		{"extensions as an array", headMsg + null + empty + null + null + "80" + body},
		{"senderUri as bytes", with("a1"+"01"+"4161", body)},
		{"roomUri as a number", with("a1"+"02"+"00", body)},
		{"extension named by the empty text", with("a1"+"60"+"00", body)},
		{"extension name of 256 octets", with("a1"+"790100"+strings.Repeat("61", 256)+"00", body)},
		{"extension key as bytes", with("a1"+"4161"+"00", body)},
		{"extension key true", with("a1"+"f5"+"00", body)},
		{"extension key 2^53", with("a1"+"1b0020000000000000"+"00", body)},
		{"extension key -2^53", with("a1"+"3b001fffffffffffff"+"00", body)},
		{"encoding: extension twice", with("a2"+"0a00"+"0a00", body)},
		{"encoding: keys not in order", with("a2"+"0b00"+"0a00", body)},
		{"encoding: length-first order of keys", with("a2"+"20"+"00"+"1818"+"00", body)},
		{"encoding: indefinite array", "9f" + salt16 + null + empty + null + null + noExt + body + "ff"},
		{"encoding: indefinite bytes", ext("5f4161ff")},
		{"encoding: indefinite map", with("bf"+"ff", body)},
		{"encoding: number not shortest, 1 octet", ext("1817")},
		{"encoding: number not shortest, 2 octets", ext("1900ff")},
		{"encoding: number not shortest, 4 octets", ext("1a0000ffff")},
		{"encoding: number not shortest, 8 octets", ext("1b00000000ffffffff")},
		{"encoding: length not shortest", ext("580161")},
		{"encoding: tag not shortest", ext("d80160")},
		{"encoding: big number that fits", ext("c2480102030405060708")},
		{"encoding: big number with a leading zero", ext("c249000102030405060708")},
		{"encoding: big number that is text", ext("c261" + "61")},
		{"encoding: simple value in two octets", ext("f814")},
		{"encoding: double that fits a single", ext("fb3ff0000000000000")},
		{"encoding: single that fits a half", ext("fa3f800000")},
		{"encoding: single that fits a subnormal half", ext("fa33800000")},
		{"encoding: double infinity", ext("fb7ff0000000000000")},
		{"data model: NaN of another kind", ext("f97e01")},
		{"data model: negative NaN", ext("f9fe00")},
		{"data model: double NaN", ext("fb7ff8000000000000")},
		{"data model: inner map key of another type", ext("a1f500")},
		{"data model: inner map key twice", ext("a201000100")},
		{"data model: text not UTF-8", ext("61ff")},
		{"data model: key not UTF-8", with("a1"+"61ff"+"00", body)},
		{"reserved initial byte", ext("1c")},
		{"break outside", ext("ff")},
		{"depth: extension with 5 levels", ext("81818180")},
		{"depth: extension with 5 levels, tag and map", ext("81a100c18101")},
		{"depth: parts with 5 levels", nested(5)},
		{"limit: too many parts", with(noExt, manyParts)},
		{"limit: too many extensions", with("b8"+"41", body)},
		{"array longer than the input", ext("9bffffffffffffffff")},
		{"map longer than the input", ext("bbffffffffffffffff")},
		{"bytes longer than the input", ext("5bffffffffffffffff")},
		{"part that is a map", with(noExt, "a0")},
		{"part without items", with(noExt, "80")},
		{"disposition 256", with(noExt, "83190100"+"60"+"00")},
		{"disposition negative", with(noExt, "8320"+"60"+"00")},
		{"language null", with(noExt, "8301"+null+"00")},
		{"cardinality 4", with(noExt, "830160"+"04")},
		{"null part with content", with(noExt, "84016000"+null)},
		{"single part without content", with(noExt, "84016001"+"6a746578742f706c61696e")},
		{"single part with text as content", with(noExt, "85016001"+"6a746578742f706c61696e"+"6178")},
		{"multipart with semantics 3", multi("03" + "82" + nobody + nobody)},
		{"multipart with one part", multi("00" + "81" + nobody)},
		{"multipart with no part", multi("00" + "80")},
		{"external with encAlg 65536", external("60" + "00" + "00" + "1a00010000" + "40404000406060")},
		{"external with hashAlg 256", external("60" + "00" + "00" + "00" + "404040" + "190100" + "406060")},
		{"external with a null key", external("60" + "00" + "00" + "00" + "f64040" + "00" + "406060")},
		{"external with a big expires", external("60" + "1b0000000100000000" + "00" + "00" + "404040" + "00" + "406060")},
		{"self-described CBOR", "d9d9f7" + with(noExt, body)},
		{"two messages", with(noExt, body) + with(noExt, body)},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := content.Decode(unhex(t, c.in))
			if !errors.Is(err, content.ErrMalformed) && !errors.Is(err, content.ErrLimit) {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, good := range []string{nested(4), ext("818180"), ext("f97e00"), ext("fb3ff199999999999a"), ext("f93c00"),
		ext("fa7f7fffff"), ext("d8548141" + "00"), ext("f8ff"), ext("a3" + "00" + "00" + "4161" + "00" + "6161" + "00"),
		ext("c249010000000000000000")} {
		if _, err := content.Decode(unhex(t, good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

func TestSizeLimit(t *testing.T) {
	m := content.Text(strings.Repeat("x", content.MaxSize))
	if _, err := m.Encode(); !errors.Is(err, content.ErrLimit) {
		t.Errorf("Encode: %v", err)
	}
	m.Body.Content = m.Body.Content[:content.MaxSize-100]
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := content.Decode(append(b, make([]byte, content.MaxSize)...)); !errors.Is(err, content.ErrLimit) {
		t.Errorf("Decode: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	leaf := content.Part{Disposition: content.Render, Cardinality: content.SinglePart, ContentType: "text/plain"}
	deep := leaf
	for range content.MaxDepth {
		deep = content.Part{Cardinality: content.MultiPart, Parts: []content.Part{deep, leaf}}
	}
	for name, change := range map[string]func(*content.Message){
		"cardinality":                func(m *content.Message) { m.Body.Cardinality = 9 },
		"external without External":  func(m *content.Message) { m.Body.Cardinality = content.ExternalPart },
		"one part":                   func(m *content.Message) { m.Body.Cardinality, m.Body.Parts = content.MultiPart, []content.Part{leaf} },
		"too deep":                   func(m *content.Message) { m.Body = deep },
		"content type not UTF-8":     func(m *content.Message) { m.Body.ContentType = "\xff" },
		"key with number and text":   func(m *content.Message) { m.Extensions.Set(content.Key{Int: 7, Text: "x"}, []byte{0}) },
		"key too big":                func(m *content.Message) { m.Extensions.Set(content.Key{Int: 1 << 53}, []byte{0}) },
		"name too long":              func(m *content.Message) { m.Extensions.Set(content.Key{Text: strings.Repeat("n", 256)}, []byte{0}) },
		"extension twice":            func(m *content.Message) { m.Extensions = append(m.Extensions, m.Extensions[0]) },
		"extension without a value":  func(m *content.Message) { m.Extensions.Set(content.Key{Int: 300}, nil) },
		"extension of two values":    func(m *content.Message) { m.Extensions.Set(content.Key{Int: 300}, []byte{0, 0}) },
		"extension not shortest":     func(m *content.Message) { m.Extensions.Set(content.Key{Int: 300}, []byte{0x18, 0}) },
		"senderUri that is no text":  func(m *content.Message) { m.Extensions.Set(content.KeySenderURI, []byte{0}) },
		"too many extensions":        func(m *content.Message) { fill(m, content.MaxExtensions+1) },
		"undefined reserved initial": func(m *content.Message) { m.Extensions.Set(content.Key{Int: 300}, []byte{0x1c}) },
	} {
		t.Run(name, func(t *testing.T) {
			m := content.Text("x")
			m.SetSenderURI(ann)
			if _, err := m.Encode(); err != nil {
				t.Fatal(err)
			}
			change(m)
			if _, err := m.Encode(); !errors.Is(err, content.ErrMalformed) && !errors.Is(err, content.ErrLimit) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func fill(m *content.Message, n int) {
	for i := range n {
		m.Extensions.Set(content.Key{Int: int64(1000 + i)}, []byte{0})
	}
}

// TestExtensionAccessorsRefuse: values of the wrong shape read as absent, they do not break the message.
func TestExtensionAccessorsRefuse(t *testing.T) {
	for name, value := range map[string]string{
		"array": "8101", "empty map": "a0", "seconds missing": "a12200", "other key": "a2010024" + "00",
		"1000 ms": "a20100" + "22" + "1903e8", "text seconds": "a1016161", "after 9999": "a1011b000000ffffffffff",
	} {
		m := content.Text("x")
		m.Extensions.Set(content.KeySenderTimestamp, unhex(t, value))
		if ts, ok := m.SenderTimestamp(); ok {
			t.Errorf("timestamp, %s: %v", name, ts)
		}
	}
	for name, value := range map[string]string{
		"number": "00", "one item": "814161", "text id": "82616160", "PEN 0": "82416100", "empty scope": "82416160", "other tag": "824161c16161",
	} {
		m := content.Text("x")
		m.Extensions.Set(content.KeyExternalMessageID, unhex(t, value))
		if id, ok := m.ExternalMessageID(); ok {
			t.Errorf("external ID, %s: %v", name, id)
		}
	}
	m := content.Text("x")
	m.Extensions.Set(content.KeyExternalMessageID, unhex(t, "82416118ff"))
	if id, ok := m.ExternalMessageID(); !ok || id.PEN != 255 {
		t.Errorf("PEN: %v, %v", id, ok)
	}
	m.Extensions.Set(content.KeyExternalMessageID, unhex(t, "824161d8206161"))
	if id, ok := m.ExternalMessageID(); !ok || id.Scope != "a" {
		t.Errorf("tagged URI: %v, %v", id, ok)
	}
	m.SetRoomURI(ann)
	if r, ok := m.RoomURI(); ok {
		t.Errorf("a user is no room: %v", r)
	}
	m.Extensions.Delete(content.KeyRoomURI)
	m.Extensions.Delete(content.KeyRoomURI)
	if _, ok := m.Extensions.Get(content.KeyRoomURI); ok {
		t.Error("deleted, and still there")
	}
}

// FuzzDecode: what decodes encodes again to the same octets, and its accessors do not fail.
func FuzzDecode(f *testing.F) {
	for _, ex := range examples(f) {
		f.Add(unhex(f, ex.CBOR))
	}
	for _, v := range vectors(f).Messages {
		f.Add(unhex(f, v.CBOR))
	}
	f.Add(unhex(f, ext("c249010000000000000000")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		m, err := content.Decode(b)
		if err != nil {
			if !errors.Is(err, content.ErrMalformed) && !errors.Is(err, content.ErrLimit) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		m.PlainText()
		m.SenderURI()
		m.RoomURI()
		m.SenderTimestamp()
		m.ExternalMessageID()
		m.Subject()
		m.LastSeen()
		m.Classify()
		m.ReadableText(nil)
		m.HTML(nil)
		if r, ok := m.StatusReport(); ok {
			if _, err := r.Encode(); err != nil {
				t.Fatal(err)
			}
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("encoded again it is %x, was %x", again, b)
		}
	})
}
