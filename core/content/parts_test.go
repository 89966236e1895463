package content_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

func single(typ string) content.Part {
	return content.Part{Disposition: content.Render, Cardinality: content.SinglePart, ContentType: typ}
}

func in(lang string, p content.Part) content.Part { p.Language = lang; return p }

func as(d content.Disposition, p content.Part) content.Part { p.Disposition = d; return p }

func holding(text string, p content.Part) content.Part { p.Content = []byte(text); return p }

// likes ranks media types by their place in the list, the last one highest.
func likes(types ...string) content.Capabilities {
	return content.Capabilities{Rank: func(typ string, _ map[string]string, _ *content.Part) int {
		for i, t := range types {
			if t == typ {
				return i + 1
			}
		}
		return 0
	}}
}

// TestChoose holds Choose against section "Message Bodies"; wanted are part indices, and what they refer to.
func TestChoose(t *testing.T) {
	a, b, c, x := single("a/a"), single("b/b"), single("c/c"), single("x/x")
	null := content.Part{}
	html := func(refs ...int) content.Part {
		s := ""
		for _, r := range refs {
			s += `<img src="` + content.CID(r) + `">`
		}
		return holding(s, single("text/html"))
	}
	all := likes("a/a", "b/b", "c/c", "text/html")
	reader := func(langs ...string) content.Capabilities { c := all; c.Languages = langs; return c }
	for _, tc := range []struct {
		name string
		body content.Part
		c    content.Capabilities
		want string
	}{
		{"single", a, all, "0"},
		{"single, not understood", x, all, ""},
		{"null", null, all, ""},
		{"external", content.ExternalBody(content.Attachment, "a/a", content.External{}), all, "0"},
		{"chooseOne: the receiver's best", content.Alternatives(a, c, b), all, "2"},
		{"chooseOne: the sender's first of equals", content.Alternatives(b, a, b), likes("a/a", "b/b"), "1"},
		{"chooseOne: what is not understood", content.Alternatives(x, a), all, "2"},
		{"chooseOne: nothing understood", content.Alternatives(x, x), all, ""},
		{"chooseOne: not the null part", content.Alternatives(null, a), all, "2"},
		{"chooseOne: by language", content.Alternatives(in("en", a), in("fr", a), in("de", a)), reader("de", "fr"), "3"},
		{"chooseOne: by a region of the language", content.Alternatives(in("en", a), in("fr-CH", a)), reader("FR"), "2"},
		{"chooseOne: one of several languages", content.Alternatives(in("en", a), in("it, fr", a)), reader("fr"), "2"},
		{"chooseOne: no language before another one", content.Alternatives(in("en", a), a), reader("fr"), "2"},
		{"chooseOne: ability before language", content.Alternatives(in("fr", a), in("en", b)), reader("fr"), "2"},
		{"singleUnit", content.Unit(a, b), all, "1 2"},
		{"singleUnit: one part not understood", content.Unit(a, x), all, ""},
		{"singleUnit: with a null part", content.Unit(a, null), all, "1"},
		{"singleUnit: all of an inner one", content.Unit(a, content.Together(b, x)), all, ""},
		{"processAll", content.Together(a, b, c), all, "1 2 3"},
		{"processAll: as many as possible", content.Together(a, x, c), all, "1 3"},
		{"processAll: without an inner unit", content.Together(a, content.Unit(b, x), c), all, "1 5"},
		{"chooseOne: what is complete before what is not", content.Alternatives(content.Together(c, x), content.Together(a, b)), all, "5 6"},
		{"chooseOne: what is not complete before nothing", content.Alternatives(content.Unit(c, x), content.Together(a, x)), all, "5"},
		{"cid: skipped after the part that refers to it", content.Together(html(2), a, b), all, "1 with 2 3"},
		{"cid: processed before", content.Together(a, html(1)), all, "1 2 with 1"},
		{"cid: twice", content.Together(html(3, 3), html(3), a), all, "1 with 3 2"},
		{"cid: itself", content.Together(html(1), a), all, "1 2"},
		{"cid: not there", content.Together(html(9), a), all, "1 2"},
		{"cid: not chosen", content.Together(html(2), x), all, "1"},
		{"cid: whatever the disposition", content.Together(html(2), as(content.Attachment, a)), all, "1 with 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := content.New(tc.body)
			if got := chosenBy(m, tc.c); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			m.Classify()
		})
	}
}

func TestChosenDisposition(t *testing.T) {
	body := as(content.Reaction, content.Together(as(content.Unspecified, single("a/a")), as(77, single("a/a")), as(content.Inline, single("a/a"))))
	var got []content.Disposition
	for _, p := range content.New(body).Choose(likes("a/a")) {
		got = append(got, p.Disposition)
	}
	if want := []content.Disposition{content.Reaction, content.Render, content.Inline}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestPartIndex: part indices are zero-based and depth first (section "Complicated Nested Example").
func TestPartIndex(t *testing.T) {
	m := content.New(content.Together(single("a/1"), content.Together(single("a/3"), single("a/4")), content.Unit(content.Part{}, single("a/7"))))
	want := map[int]string{1: "a/1", 3: "a/3", 4: "a/4", 7: "a/7"}
	n := 0
	for i, p := range m.Body.AllParts() {
		if p.ContentType != want[i] {
			t.Errorf("part %d is %q", i, p.ContentType)
		}
		if q, ok := m.PartAt(i); !ok || q != p {
			t.Errorf("PartAt(%d)", i)
		}
		n++
	}
	if _, ok := m.PartAt(8); ok || n != 8 {
		t.Errorf("%d parts", n)
	}
	for range m.Body.AllParts() {
		break
	}
	for uri, want := range map[string]string{"cid:1@local.invalid": "a/1", "CID:7@local.invalid": "a/7", "cid:0@local.invalid": "", "cid:6@local.invalid": "", "cid:8@local.invalid": "",
		"cid:01@local.invalid": "", "cid:+1@local.invalid": "", "cid:1@example.com": "", "cid:@local.invalid": "", "cid:99999999999999999999@local.invalid": "", "1": "", "": ""} {
		p, ok := m.ByCID(uri)
		if ok != (want != "") || ok && p.ContentType != want {
			t.Errorf("%s: %v, %v", uri, p, ok)
		}
	}
	if i, ok := content.ParseCID(content.CID(12)); !ok || i != 12 {
		t.Errorf("CID(12): %d, %v", i, ok)
	}
}

func TestReferences(t *testing.T) {
	for text, want := range map[string][]int{
		"":                               nil,
		"cid:1@local.invalid":            {1},
		"cid:cid:2@local.invalid":        {2},
		"![a](cid:3@local.invalid) cid:": {3},
		"cid:4@local.invalidcid:5@local.invalid cid:4@local.invalid": {4, 5},
		"cid:1234567@local.invalid":                                  nil,
		strings.Repeat("cid:", 20000):                                nil,
	} {
		p := holding(text, single("text/markdown"))
		if got := p.References(); !reflect.DeepEqual(got, want) {
			t.Errorf("%.40q: %v", text, got)
		}
	}
	p := holding("cid:1@local.invalid", single("image/png"))
	if got := p.References(); got != nil {
		t.Errorf("an image refers to %v", got)
	}
}

func TestClassify(t *testing.T) {
	a, b := content.MessageID{1, 2}, content.MessageID{1, 3}
	image := as(content.Reaction, single("image/png"))
	for _, c := range []struct {
		name string
		m    *content.Message
		want string
	}{
		{"a reaction that is an image", &content.Message{InReplyTo: &a, Body: image}, "reaction of " + a.String() + ", in reply to " + a.String() + ", file 0 image/png"},
		{"a reaction to nothing", content.New(as(content.Reaction, content.TextPart("x"))), "message, reactions x"},
		{"parts that are all reactions", &content.Message{InReplyTo: &a, Body: as(content.Unspecified, content.Together(as(content.Reaction, content.TextPart("x")), as(content.Reaction, content.TextPart("y"))))},
			"reaction of " + a.String() + ", in reply to " + a.String() + ", reactions x y"},
		{"a reaction that is not UTF-8", &content.Message{InReplyTo: &a, Body: holding("\xff", as(content.Reaction, single("text/plain")))}, "reaction of " + a.String() + ", in reply to " + a.String()},
		{"text that is not UTF-8", content.New(holding("\xff", single("text/plain"))), "message"},
		{"a delete of what was no reply", content.Delete(b, nil), "delete of " + b.String()},
		{"a delete with unspecified disposition", &content.Message{Replaces: &b}, "delete of " + b.String()},
		{"a profile", content.New(as(content.Icon, single("image/png"))), "profile"},
		{"a preview beside text", content.New(content.Together(content.TextPart("x"), as(content.Preview, single("image/png")))), "message, file 2 image/png"},
		{"an edit that is not understood", &content.Message{Replaces: &b, Body: single("")}, "edit of " + b.String()},
		{"a session beside text", content.New(content.Together(content.TextPart("x"), as(content.Session, content.ExternalBody(content.Session, "", content.External{})))), "message"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := describe(c.m); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	if s := fmt.Sprint(content.Kind(200), content.StatusRead, content.Status(9)); s != "kind 200 read status 9" {
		t.Error(s)
	}
}

func TestMessageText(t *testing.T) {
	m := content.New(content.Together(
		content.Alternatives(in("en", content.MarkdownPart("*hello*")), in("fr", content.MarkdownPart("*bonjour*"))),
		content.Attach("image/png", content.External{URL: "https://a.example"}).Body,
		content.HTMLPart(`<p>see <a href="mimi://a.example/u/b">B</a></p>`)))
	if html, ok := m.HTML(nil, "fr"); !ok || html != `<p><em>bonjour</em></p><p>see <a href="mimi://a.example/u/b">B</a></p>` {
		t.Errorf("HTML %s, %v", html, ok)
	}
	text, refs, ok := m.ReadableText(nil)
	if want := (content.Reference{Begin: 13, End: 14, URI: "mimi://a.example/u/b"}); !ok || text != "_hello_\n\nsee B" || len(refs) != 1 || refs[0] != want {
		t.Errorf("text %q, %v, %v", text, refs, ok)
	}
	if got := m.Mentions(nil); len(got) != 1 || got[0].String() != "mimi://a.example/u/b" {
		t.Errorf("mentions %v", got)
	}
	if text, _, ok := content.Text(" *as it is*\n\n").ReadableText(nil); !ok || text != " *as it is*\n\n" {
		t.Errorf("plain text %q, %v", text, ok)
	}
	if html, ok := content.Text("a <b>\n*c*").HTML(nil); !ok || html != "a &lt;b&gt;<br>*c*" {
		t.Errorf("plain text as HTML %s, %v", html, ok)
	}
	if _, ok := content.React(content.MessageID{}, "x").HTML(nil); ok {
		t.Error("a reaction is text")
	}
}

func TestExpiration(t *testing.T) {
	at, read := time.Unix(1779619200, 0).UTC(), time.Unix(1000, 0).UTC()
	if d, ok := content.Text("").ExpireAt(at).Expires.Deadline(time.Time{}); !ok || !d.Equal(at) {
		t.Errorf("absolute: %v, %v", d, ok)
	}
	m := content.Text("").ExpireAfter(90 * time.Second)
	if d, ok := m.Expires.Deadline(read); !ok || !d.Equal(read.Add(90*time.Second)) {
		t.Errorf("relative: %v, %v", d, ok)
	}
	if _, ok := m.Expires.Deadline(time.Time{}); ok {
		t.Error("relative, and not read")
	}
	if _, ok := content.Text("").Expires.Deadline(read); ok {
		t.Error("never")
	}
	if e := content.Text("").ExpireAt(time.Time{}).Expires; e.Time != 0 {
		t.Errorf("before 1970: %d", e.Time)
	}
	if e := content.Text("").ExpireAt(time.Unix(1<<40, 0)).Expires; e.Time != 1<<32-1 {
		t.Errorf("after 2106: %d", e.Time)
	}
}

// TestCheck holds Check against section "General handling".
func TestCheck(t *testing.T) {
	now := time.Unix(1779619200, 0)
	for name, m := range map[string]*content.Message{
		"replaces of an unknown hash":    {Replaces: &content.MessageID{2}},
		"inReplyTo of an unknown hash":   {InReplyTo: &content.MessageID{}},
		"a long topicId":                 {TopicID: make([]byte, 4097)},
		"expired more than a year ago":   content.Text("").ExpireAt(now.AddDate(-1, 0, -2)),
		"expires in more than a year":    content.Text("").ExpireAt(now.AddDate(1, 0, 2)),
		"expires more than a year after": content.Text("").ExpireAfter(367 * 24 * time.Hour),
	} {
		if err := m.Check(now); !errors.Is(err, content.ErrImplausible) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, m := range map[string]*content.Message{
		"plain":                        content.Text("x"),
		"references":                   content.Edit(content.MessageID{1}, &content.MessageID{1}, content.TextPart("x")),
		"a topicId":                    {TopicID: make([]byte, 4096)},
		"expired a year ago":           content.Text("").ExpireAt(now.AddDate(-1, 0, 0)),
		"expires a year after":         content.Text("").ExpireAfter(365 * 24 * time.Hour),
		"expires at once when it read": content.Text("").ExpireAfter(0),
	} {
		if err := m.Check(now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAuthorized holds Authorized against section "Rendering and authorization of edits and deletes".
func TestAuthorized(t *testing.T) {
	bob := mimiuri.MustParse("mimi://one.example/u/bob")
	a, b := content.MessageID{1, 1}, content.MessageID{1, 2}
	first := content.Reply(a, content.TextPart("x"))
	if !content.Authorized(first, content.Edit(b, &a, content.TextPart("y")), ann, ann) {
		t.Error("an edit of one's own is refused")
	}
	moved := content.Edit(b, &a, content.TextPart("y"))
	moved.TopicID = []byte("t")
	for name, c := range map[string]struct {
		next           *content.Message
		sender, editor mimiuri.URI
	}{
		"somebody else's":     {content.Edit(b, &a, content.TextPart("y")), ann, bob},
		"somebody unknown's":  {content.Edit(b, &a, content.TextPart("y")), mimiuri.URI{}, mimiuri.URI{}},
		"another inReplyTo":   {content.Edit(b, &b, content.TextPart("y")), ann, ann},
		"inReplyTo taken off": {content.Delete(b, nil), ann, ann},
		"another topic":       {moved, ann, ann},
	} {
		if content.Authorized(first, c.next, c.sender, c.editor) {
			t.Errorf("%s is allowed", name)
		}
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct{ name, in string }{
		{"nothing", ""}, {"a map", "a0"}, {"null", "f6"}, {"entry of one item", "8181" + id32}, {"entry of three items", "8183" + id32 + "0000"},
		{"short ID", "8182" + "581f" + strings.Repeat("01", 31) + "00"}, {"null ID", "8182f600"}, {"text ID", "8182" + "7820" + strings.Repeat("61", 32) + "00"},
		{"status 256", "8182" + id32 + "190100"}, {"status negative", "8182" + id32 + "20"}, {"status true", "8182" + id32 + "f5"}, {"status not shortest", "8182" + id32 + "1802"},
		{"fewer entries than said", "8282" + id32 + "02"}, {"something after it", "8182" + id32 + "02" + "00"}, {"indefinite length", "9f82" + id32 + "02ff"},
		{"more entries than octets", "9bffffffffffffffff"}, {"too many entries", "992711" + strings.Repeat("82"+id32+"02", 10001)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r, err := content.DecodeStatus(unhex(t, c.in)); !errors.Is(err, content.ErrMalformed) && !errors.Is(err, content.ErrLimit) || r != nil {
				t.Errorf("got %v, %v", r, err)
			}
		})
	}
	if _, err := content.DecodeStatus(make([]byte, content.MaxSize+1)); !errors.Is(err, content.ErrLimit) {
		t.Errorf("too big: %v", err)
	}
	if _, err := make(content.StatusReport, content.MaxReports+1).Encode(); !errors.Is(err, content.ErrLimit) {
		t.Errorf("too many: %v", err)
	}
	if _, err := content.StatusMessage(make(content.StatusReport, content.MaxReports+1)); !errors.Is(err, content.ErrLimit) {
		t.Errorf("too many in a message: %v", err)
	}
	if _, ok := content.Text("x").StatusReport(); ok {
		t.Error("text is a report")
	}
	if _, ok := content.New(single(content.MediaTypeStatus)).StatusReport(); ok {
		t.Error("nothing is a report")
	}
}

func TestStatusTransitions(t *testing.T) {
	const u, d, r, e, x, h, f = content.StatusUnread, content.StatusDelivered, content.StatusRead, content.StatusExpired, content.StatusDeleted, content.StatusHidden, content.StatusError
	may := map[content.Status][]content.Status{
		u: {r, e, x, h}, d: {u, r, e, x, h}, r: {u, e, x, h}, e: {x}, x: {}, h: {u, r, e, x}, f: {u, d, r, e, x, h}, 99: {u, d, r, e, x, h, f},
	}
	for from, list := range may {
		for _, to := range []content.Status{u, d, r, e, x, h, f} {
			want := false
			for _, s := range list {
				want = want || s == to
			}
			if got := to.MayFollow(from); got != want {
				t.Errorf("%v after %v: %v", to, from, got)
			}
		}
	}
}

func TestLastSeenRefuses(t *testing.T) {
	for name, value := range map[string]string{
		"a number": "00", "a map": "a0", "mixed": "82" + id32 + "82416101", "mixed the other way": "82" + "82416101" + id32, "null": "81f6",
		"short ID": "814101", "external without a scope": "8182416100", "too many": "9a00010000",
	} {
		m := content.Text("x")
		m.Extensions.Set(content.KeyLastSeen, unhex(t, value))
		if l, ok := m.LastSeen(); ok {
			t.Errorf("%s: %+v", name, l)
		}
	}
	m := content.Text("x")
	if _, ok := m.LastSeen(); ok {
		t.Error("there is none")
	}
	if err := m.SetLastSeen(content.LastSeen{IDs: make([]content.MessageID, 1), External: make([]content.ExternalID, 1)}); !errors.Is(err, content.ErrLimit) {
		t.Errorf("mixed: %v", err)
	}
	if err := m.SetLastSeen(content.LastSeen{IDs: make([]content.MessageID, content.MaxLastSeen+1)}); !errors.Is(err, content.ErrLimit) {
		t.Errorf("too many: %v", err)
	}
	if len(m.Extensions) != 0 {
		t.Error("a refused lastSeen changed the message")
	}
}

func TestSubjectLimits(t *testing.T) {
	m := content.Text("x")
	m.SetSubject(strings.Repeat("é", 3000))
	if s, ok := m.Subject(); !ok || s != strings.Repeat("é", 2048) {
		t.Errorf("cut to %d octets, %v", len(s), ok)
	}
	m.SetSubject("a" + strings.Repeat("é", 3000))
	if s, ok := m.Subject(); !ok || len(s) != 4095 {
		t.Errorf("cut to %d octets, %v", len(s), ok)
	}
	m.Extensions.Set(content.KeySubject, append([]byte{0x79, 0x10, 0x01}, make([]byte, 4097)...))
	if s, ok := m.Subject(); ok || s != "" {
		t.Errorf("%d octets are a subject", len(s))
	}
	m.Extensions.Set(content.KeySubject, []byte{0x60})
	if _, ok := m.Subject(); ok {
		t.Error("nothing is a subject")
	}
}

func TestDerivedRefuses(t *testing.T) {
	const good = "87" + id32 + "00" + "40" + "00" + "72" + "6d696d693a2f2f612e6578616d706c652f642f78" + "72" + "6d696d693a2f2f612e6578616d706c652f752f78" + "72" + "6d696d693a2f2f612e6578616d706c652f722f78"
	fix := strings.ReplaceAll(good, "72"+"6d", "74"+"6d") // each URI has 20 octets
	if _, err := content.DecodeDerived(unhex(t, fix)); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{
		"nothing": "", "six items": "86" + fix[2:], "null ID": "87f6" + fix[2+len(id32):], "after it": fix + "00", "cut": fix[:len(fix)-2],
		"user for the client": strings.Replace(fix, "2f642f78", "2f752f78", 1), "no URI": strings.Replace(fix, "6d696d69", "6d696d6a", 1),
		"extended time": "87" + id32 + "d903e9a0" + fix[2+len(id32)+2:], "after the year 9999": "87" + id32 + "1b0100000000000000" + fix[2+len(id32)+2:],
		"leaf of 33 bits": "87" + id32 + "0040" + "1b0000000100000000" + fix[2+len(id32)+6:],
	} {
		if d, err := content.DecodeDerived(unhex(t, s)); !errors.Is(err, content.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	if _, err := content.DecodeDerived(make([]byte, content.MaxSize+1)); !errors.Is(err, content.ErrLimit) {
		t.Errorf("too big: %v", err)
	}
	if _, err := (&content.Derived{Accepted: time.Unix(-1, 0)}).Encode(); !errors.Is(err, content.ErrMalformed) {
		t.Errorf("before 1970: %v", err)
	}
}

// FuzzStatus: what decodes encodes again to the same octets, as a report and as derived values.
func FuzzStatus(f *testing.F) {
	v := vectors(f)
	for _, s := range v.Status {
		f.Add(unhex(f, s.CBOR))
	}
	for _, d := range v.Derived {
		f.Add(unhex(f, d.CBOR))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := content.DecodeStatus(b); err == nil {
			if again, err := r.Encode(); err != nil || string(again) != string(b) {
				t.Fatalf("encoded again it is %x, %v", again, err)
			}
		}
		if d, err := content.DecodeDerived(b); err == nil {
			again, err := d.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if e, err := content.DecodeDerived(again); err != nil || !reflect.DeepEqual(d, e) {
				t.Fatalf("decoded again it is %+v, %v", e, err)
			}
		}
	})
}
