package xmpp

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// people is the part of the twin about the people elsewhere.
type people struct {
	contacts []adapter.Contact // of romeo
	did      []string
	policy   string
	profiles map[mimiuri.URI]adapter.Profile
	files    map[string][]byte // by URI
}

func (tw *twin) Consent(_ context.Context, local, other, room mimiuri.URI, action adapter.ConsentAction) error {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	name := [...]string{"", "ask", "grant", "refuse", "forget"}[action]
	tw.people.did = append(tw.people.did, strings.TrimSpace(name+" "+local.ID+" "+other.ID+" "+room.ID))
	for i := range tw.people.contacts {
		if c := &tw.people.contacts[i]; c.User == other && c.Room == room {
			tw.people.contacts = slices.Delete(tw.people.contacts, i, i+1)
			break
		}
	}
	c := adapter.Contact{User: other, Room: room}
	switch action {
	case adapter.AskConsent:
		c.Granted = adapter.ConsentAsking
	case adapter.GrantConsent:
		c.Grants = adapter.ConsentGranted
	case adapter.RefuseConsent:
		c.Grants = adapter.ConsentRefused
	}
	tw.people.contacts = append(tw.people.contacts, c)
	tw.changed.Broadcast()
	return nil
}

func (tw *twin) Contacts(context.Context, mimiuri.URI) ([]adapter.Contact, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	return slices.Clone(tw.people.contacts), nil
}

func (tw *twin) SetConsentPolicy(_ context.Context, _ mimiuri.URI, p string) error {
	if !slices.Contains([]string{"ask", "contacts", "everyone", "nobody"}, p) {
		return fault.New(fault.Malformed, "no such policy")
	}
	tw.do(func() { tw.people.policy = p })
	return nil
}

func (tw *twin) ConsentPolicy(context.Context, mimiuri.URI) (p string, err error) {
	tw.do(func() { p = tw.people.policy })
	if p == "" {
		p = "ask"
	}
	return p, nil
}

func (tw *twin) note(format string, args ...any) error {
	tw.do(func() { tw.people.did = append(tw.people.did, fmt.Sprintf(format, args...)) })
	return nil
}

func (tw *twin) Find(_ context.Context, _ mimiuri.URI, domain, field, value string) ([]adapter.Profile, error) {
	_ = tw.note("find %s %s %s", domain, field, value)
	if domain == "matrix.example" && value == "juliet" {
		return []adapter.Profile{{User: julietURI, Name: "Juliet Capulet"}}, nil
	}
	return nil, nil
}

func (tw *twin) SetProfile(_ context.Context, local mimiuri.URI, p adapter.Profile) error {
	tw.do(func() {
		if tw.people.profiles == nil {
			tw.people.profiles = map[mimiuri.URI]adapter.Profile{}
		}
		tw.people.profiles[local] = p
		tw.changed.Broadcast()
	})
	return tw.note("profile %s %s", p.Name, p.Fields["handle"])
}

func (tw *twin) Profile(_ context.Context, u mimiuri.URI) (p adapter.Profile, ok bool, err error) {
	tw.do(func() { p, ok = tw.people.profiles[u] })
	return p, ok, nil
}

func (tw *twin) Block(_ context.Context, _ mimiuri.URI, t adapter.BlockTarget) error {
	return tw.note("block %s", t)
}

func (tw *twin) Unblock(_ context.Context, _ mimiuri.URI, t adapter.BlockTarget) error {
	return tw.note("unblock %s", t)
}

func (tw *twin) Blocked(context.Context, mimiuri.URI) ([]adapter.BlockTarget, error) {
	return []adapter.BlockTarget{julietURI, balconyURI, mimiuri.MustParse("mimi://evil.example")}, nil
}

func (tw *twin) Report(_ context.Context, local, room mimiuri.URI, id content.MessageID, reason, note string) error {
	return tw.note("report %s %s %s %s", room.ID, id, reason, note)
}

func (tw *twin) SafetyNumber(context.Context, mimiuri.URI, mimiuri.URI, mimiuri.URI) (string, error) {
	return "12345 67890", nil
}

func (tw *twin) Export(_ context.Context, _ mimiuri.URI, w io.Writer) error {
	_, err := io.WriteString(w, `{"user":"romeo"}`)
	return err
}

func (tw *twin) DeleteUser(_ context.Context, u mimiuri.URI) error { return tw.note("delete %s", u.ID) }

func (tw *twin) Publish(_ context.Context, _ mimiuri.URI, r io.Reader, typ string) (string, error) {
	b, err := io.ReadAll(r)
	uri := fmt.Sprintf("https://xmpp.example/asset/%s/%d", typ, len(b))
	tw.do(func() {
		if tw.people.files == nil {
			tw.people.files = map[string][]byte{}
		}
		tw.people.files[uri] = b
	})
	return uri, err
}

func (tw *twin) FetchPublic(_ context.Context, uri string) (io.ReadCloser, string, int64, error) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	b, ok := tw.people.files[uri]
	if !ok {
		return nil, "", 0, fault.New(fault.NotFound, "no such file")
	}
	return io.NopCloser(bytes.NewReader(b)), "image/png", int64(len(b)), nil
}

func (w *world) did() (out []string) {
	w.tw.do(func() { out = slices.Clone(w.tw.people.did) })
	return out
}

func (w *world) subscription(typ string) {
	w.t.Helper()
	w.toUsers("<presence type='%s' from='romeo@xmpp.example' to='%s'/>", typ, juliet)
	w.quiet(romeo)
}

func (w *world) consents(c adapter.ConsentEvent) {
	w.t.Helper()
	c.Local, c.Contact.User = romeoURI, julietURI
	w.tw.do(func() { w.tw.people.contacts = []adapter.Contact{c.Contact} })
	if err := w.tw.adapter.DeliverConsent(w.t.Context(), c); err != nil {
		w.t.Fatal(err)
	}
}

// presences lists what juliet's address has sent to romeo.
func (w *world) presences(mark int) (out []string) {
	for _, e := range w.settled(mark, func(e *element) bool { return e.Local == "presence" && strings.HasPrefix(e.attr("from"), juliet) }) {
		out = append(out, strings.TrimPrefix(e.attr("from"), juliet)+e.attr("type"))
	}
	return out
}

// RFC 6121: a subscription is a consent.
func TestConsents(t *testing.T) {
	covers(t, "consent as subscription", "RFC 6121", "both", "stanzas")
	w := newWorld(t)
	want := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, not %q", what, got, want)
		}
	}
	w.subscription("subscribe")
	w.subscription("subscribe") // a client that asks again
	want("asking", w.did(), "ask romeo juliet")
	mark := w.mark()
	w.consents(adapter.ConsentEvent{Answered: true, Contact: adapter.Contact{Granted: adapter.ConsentGranted}})
	want("the answer", w.presences(mark), "subscribed", "/mimi")
	mark = w.mark()
	w.consents(adapter.ConsentEvent{Contact: adapter.Contact{Granted: adapter.ConsentGranted}})
	want("the same again", w.presences(mark))
	w.toUsers("<presence type='probe' from='%s' to='%s'/>", romeo, juliet)
	want("a probe", w.presences(mark), "/mimi")
	mark = w.mark()
	w.subscription("subscribe")
	want("asking again", w.presences(mark), "subscribed", "/mimi")
	// The daemon is started again: the contact is there again.
	mark = w.mark()
	w.restart()
	w.expect(mark, "the presence", func(e *element) bool { return e.attr("from") == juliet+"/mimi" && e.attr("to") == "romeo@xmpp.example" })

	// The other asks.
	mark = w.mark()
	w.consents(adapter.ConsentEvent{Asked: true, Contact: adapter.Contact{Grants: adapter.ConsentAsked, Granted: adapter.ConsentGranted}})
	want("the question", w.presences(mark), "subscribe")
	w.subscription("subscribed")
	w.subscription("subscribe") // clients that subscribe back by themselves
	want("granting", w.did()[1:], "grant romeo juliet", "ask romeo juliet")

	// It is taken back there, and here.
	w.consents(adapter.ConsentEvent{Contact: adapter.Contact{Granted: adapter.ConsentGranted, Grants: adapter.ConsentGranted}})
	mark = w.mark()
	w.consents(adapter.ConsentEvent{Answered: true, Contact: adapter.Contact{Granted: adapter.ConsentRefused, Grants: adapter.ConsentGranted}})
	want("taken back", w.presences(mark), "unsubscribed", "/mimiunavailable")
	n := len(w.did())
	w.subscription("unsubscribed")
	want("revoking", w.did()[n:], "refuse romeo juliet")
	// Removed from the roster: both, and what is not there is not revoked again; no room is left.
	n = len(w.did())
	w.subscription("unsubscribe")
	w.subscription("unsubscribed")
	want("removing", w.did()[n:])
	if w.tw.count(adapter.LeaveRoom) != 0 {
		t.Error("a room was left")
	}
	// An own question is dropped by unsubscribe; what was granted stays.
	w.tw.do(func() { w.tw.people.contacts = nil })
	w.subscription("subscribe")
	w.subscription("unsubscribe")
	want("dropping", w.did()[n:], "ask romeo juliet", "forget romeo juliet")
	// Pre-approval.
	w.tw.do(func() { w.tw.people.contacts = nil })
	n = len(w.did())
	w.subscription("subscribed")
	want("before they ask", w.did()[n:], "grant romeo juliet")
	// A question for one room is told in words.
	mark = w.mark()
	w.consents(adapter.ConsentEvent{Asked: true, Contact: adapter.Contact{Room: balconyURI, Grants: adapter.ConsentAsked}})
	if e := w.expect(mark, "words", func(e *element) bool { return e.Local == "message" }); !strings.Contains(bodyText(e), balcony) || e.attr("from") != testUsers {
		t.Error(e)
	}
	// Presence of local users goes nowhere.
	mark = w.mark()
	w.toUsers("<presence from='%s' to='%s'><status>here</status></presence>", romeo, juliet)
	if got := w.settled(mark, func(e *element) bool { return strings.Contains(e.String(), "here") }); len(got) != 0 {
		t.Error(got[0])
	}
}

// XEP-0115: what the caps of a contact say is what disco#info answers.
func TestContactInfo(t *testing.T) {
	covers(t, "capabilities of contacts", "XEP-0115", "from MIMI", "stanzas")
	w := newWorld(t)
	e := w.ask(testUsers, romeo, juliet+"/mimi", "get", "<query xmlns='http://jabber.org/protocol/disco#info' node='"+capsNode+"#"+capsVer+"'/>")
	q := e.child(nsDiscoInfo, "query")
	if q == nil || len(q.Kids) != 1+len(contactFeatures) {
		t.Error(e)
	}
}

var picture = []byte("\x89PNG\r\n\x1a\nnot really")

// XEP-0054, XEP-0292, XEP-0084, XEP-0172 of a contact, an occupant and a room.
func TestPictures(t *testing.T) {
	covers(t, "profiles and pictures of people and rooms", "XEP-0054, XEP-0292, XEP-0084, XEP-0153, XEP-0172", "both", "stanzas")
	w := newBalcony(t)
	uri, err := w.tw.Publish(t.Context(), julietURI, bytes.NewReader(picture), "image/png")
	if err != nil {
		t.Fatal(err)
	}
	w.tw.do(func() {
		w.tw.people.profiles = map[mimiuri.URI]adapter.Profile{julietURI: {User: julietURI, Name: "Juliet Capulet", Avatar: uri}}
	})
	data := base64.StdEncoding.EncodeToString(picture)
	for _, c := range []struct{ clause, domain, to, query, want string }{
		{"XEP-0054", testUsers, juliet, "<vCard xmlns='vcard-temp'/>", data},
		{"XEP-0054 name", testUsers, juliet, "<vCard xmlns='vcard-temp'/>", "<FN>Juliet Capulet</FN>"},
		{"XEP-0292", testUsers, juliet, "<vcard xmlns='urn:ietf:params:xml:ns:vcard-4.0'/>", "data:image/png;base64," + data},
		{"XEP-0084 metadata", testUsers, juliet, "<pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='urn:xmpp:avatar:metadata'/></pubsub>", "type='image/png'"},
		{"XEP-0084 data", testUsers, juliet, "<pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='urn:xmpp:avatar:data'/></pubsub>", data},
		{"XEP-0172", testUsers, juliet, "<pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='http://jabber.org/protocol/nick'/></pubsub>", "Juliet Capulet"},
		{"XEP-0054 of an occupant", testRooms, balcony + "/juliet", "<vCard xmlns='vcard-temp'/>", data},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w.t = t
			if e := w.ask(c.domain, romeo, c.to, "get", c.query); e.attr("type") != "result" || !strings.Contains(e.String(), c.want) {
				t.Error(e)
			}
		})
	}
	t.Run("XEP-0153", func(t *testing.T) {
		w.t = t
		w.toUsers("<presence type='subscribe' from='romeo@xmpp.example' to='%s'/>", juliet)
		mark := w.mark()
		w.consents(adapter.ConsentEvent{Answered: true, Contact: adapter.Contact{Granted: adapter.ConsentGranted}})
		if e := w.expect(mark, "the presence", func(e *element) bool { return e.attr("from") == juliet+"/mimi" }); len(e.child(nsVCardX, "x").text(nsVCardX, "photo")) != 40 {
			t.Error(e)
		}
	})
	t.Run("XEP-0054 of a local occupant", func(t *testing.T) {
		w.t = t
		w.addLocal(benURI)
		mark := w.mark()
		w.toRooms("<iq type='get' id='v' from='%s' to='%s/benvolio'><vCard xmlns='vcard-temp'/></iq>", romeo, balcony)
		q := w.expect(mark, "the question", func(e *element) bool { return e.attr("to") == "benvolio@xmpp.example" && e.Local == "iq" })
		w.toRooms("<iq type='result' id='%s' from='tybalt@xmpp.example' to='%s'><vCard xmlns='vcard-temp'><FN>SPOOFED</FN></vCard></iq>", q.attr("id"), balcony)
		w.toRooms("<iq type='result' id='%s' from='benvolio@xmpp.example' to='%s'><vCard xmlns='vcard-temp'><FN>Ben</FN></vCard></iq>", q.attr("id"), balcony)
		a := w.expect(mark, "the answer", func(e *element) bool { return e.attr("to") == romeo && e.attr("id") == "v" })
		if a.child(nsVCard, "vCard").text(nsVCard, "FN") != "Ben" {
			t.Error(a)
		}
	})
	t.Run("a room's", func(t *testing.T) {
		w.t = t
		set := "<vCard xmlns='vcard-temp'><PHOTO><TYPE>image/png</TYPE><BINVAL>" + data + "</BINVAL></PHOTO></vCard>"
		wantError(t, w.ask(testRooms, benvolio, balcony, "set", set), "forbidden")
		wantError(t, w.ask(testRooms, romeo, balcony, "set", "<vCard xmlns='vcard-temp'><PHOTO><TYPE>text/html</TYPE><BINVAL>eA==</BINVAL></PHOTO></vCard>"), "not-acceptable")
		if e := w.ask(testRooms, romeo, balcony, "set", set); e.attr("type") != "result" {
			t.Fatal(e)
		}
		if e := w.ask(testRooms, romeo, balcony, "get", "<vCard xmlns='vcard-temp'/>"); !strings.Contains(e.String(), data) {
			t.Error(e)
		}
		if e := w.ask(testRooms, romeo, balcony, "get", "<query xmlns='http://jabber.org/protocol/disco#info'/>"); !strings.Contains(e.String(), "muc#roominfo_avatarhash") {
			t.Error(e)
		}
	})
}

// XEP-0055.
func TestSearch(t *testing.T) {
	covers(t, "finding people", "XEP-0055", "to MIMI", "stanzas")
	w := newWorld(t)
	if e := w.ask(testUsers, romeo, testUsers, "get", "<query xmlns='jabber:iq:search'/>"); e.child(nsSearch, "query").child(nsData, "x") == nil {
		t.Error(e)
	}
	e := w.ask(testUsers, romeo, testUsers, "set", "<query xmlns='jabber:iq:search'><x xmlns='jabber:x:data' type='submit'>"+aField("domain", "matrix.example")+aField("handle", "juliet")+"</x></query>")
	item := e.child(nsSearch, "query").child(nsData, "x").child(nsData, "item")
	if item == nil || item.Kids[0].text(nsData, "value") != juliet {
		t.Error(e)
	}
	wantError(t, w.ask(testUsers, romeo, testUsers, "set", "<query xmlns='jabber:iq:search'/>"), "not-acceptable")
}

// The same by an ad-hoc command and by a line to the gateway.
func TestSimpleCommands(t *testing.T) {
	covers(t, "commands, and the same by chat", "XEP-0050", "to MIMI", "stanzas")
	covers(t, "forwarded reports", "XEP-0377", "to MIMI", "stanzas")
	w := newBalcony(t)
	id := strings.Repeat("01", 32)
	for _, c := range []struct {
		line, node string
		fields     map[string]string
		did, said  string
	}{
		{"find handle matrix.example juliet", "find", map[string]string{"field": "handle", "domain": "matrix.example", "value": "juliet"}, "find matrix.example handle juliet", juliet + " Juliet Capulet"},
		{"find handle matrix.example nobody", "find", map[string]string{"field": "handle", "domain": "matrix.example", "value": "nobody"}, "find matrix.example handle nobody", textFoundNobody},
		{"ask " + juliet, "ask", map[string]string{"person": juliet}, "ask romeo juliet", textDoneAsk},
		{"allow mimi://matrix.example/u/juliet", "allow", map[string]string{"person": "mimi://matrix.example/u/juliet"}, "grant romeo juliet", textDoneAllow},
		{"refuse " + juliet + " balcony", "refuse", map[string]string{"person": juliet, "room": "balcony"}, "refuse romeo juliet balcony", textDoneRefuse},
		{"refuse nobody", "refuse", map[string]string{"person": "nobody"}, "", "nobody"},
		{"contacts", "contacts", nil, "", juliet},
		{"block " + juliet, "block", map[string]string{"what": juliet}, "block mimi://matrix.example/u/juliet", textDoneBlock},
		{"block evil.example", "block", map[string]string{"what": "evil.example"}, "block mimi://evil.example", textDoneBlock},
		{"unblock " + balcony, "unblock", map[string]string{"what": balcony}, "unblock mimi://xmpp.example/r/balcony", textDoneUnblock},
		{"block !", "block", map[string]string{"what": "!"}, "", "domain"},
		{"blocked", "blocked", nil, "", "evil.example"},
		{"report balcony " + id + " spam very rude", "report", map[string]string{"room": "balcony", "message": id, "reason": "spam", "note": "very rude"}, "report balcony " + id + " spam very rude", textReported},
		{"report balcony x spam", "report", map[string]string{"room": "balcony", "message": "x", "reason": "spam"}, "", "stanza-id"},
		{"safety " + juliet, "safety", map[string]string{"person": juliet}, "", "12345 67890"},
		{"settings", "settings", map[string]string{}, "", "receipts: on"},
		{"settings receipts off consent nobody", "settings", map[string]string{"receipts": "off", "consent": "nobody"}, "", "receipts: off\ntyping: on\nmentions: on\navatar: off\nconsent: nobody"},
		{"settings receipts maybe", "settings", map[string]string{"receipts": "maybe"}, "", "on or off"},
		{"profile Romeo Montague", "profile", map[string]string{"handle": "", "name": "Romeo Montague"}, "profile Romeo Montague", textDoneProfile},
		{"export", "export", nil, "", `{"user":"romeo"}`},
		{"delete no", "delete", map[string]string{"sure": "no"}, "", textNotDeleted},
		{"delete yes", "delete", map[string]string{"sure": "yes"}, "delete romeo", textDeleting},
	} {
		t.Run(c.line, func(t *testing.T) {
			w.t = t
			for _, way := range []string{"chat", "command"} {
				n := len(w.did())
				said := ""
				if way == "chat" {
					said = w.says(romeo, c.line)
				} else {
					x := ""
					if c.fields != nil {
						first := w.ask(testUsers, romeo, testUsers, "set", "<command xmlns='http://jabber.org/protocol/commands' node='"+c.node+"' action='execute'/>")
						if first.child(nsCommands, "command").attr("status") != "executing" {
							t.Errorf("no form: %s", first)
						}
						for k, v := range c.fields {
							x += aField(k, v)
						}
						x = "<x xmlns='jabber:x:data' type='submit'>" + x + "</x>"
					}
					e := w.ask(testUsers, romeo, testUsers, "set", "<command xmlns='http://jabber.org/protocol/commands' node='"+c.node+"' action='complete'>"+x+"</command>")
					said = e.child(nsCommands, "command").text(nsCommands, "note")
				}
				if !strings.Contains(said, c.said) {
					t.Errorf("%s: %q", way, said)
				}
				if did := strings.TrimSpace(strings.Join(w.did()[n:], ",")); did != c.did {
					t.Errorf("%s: did %q, not %q", way, did, c.did)
				}
			}
		})
	}
	// XEP-0377, forwarded.
	w.t = t
	n := len(w.did())
	w.toUsers("<message id='r' from='%s' to='%s'><report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:1:abuse'><stanza-id xmlns='urn:xmpp:sid:0' by='%s' id='%s'/><text>rude</text></report></message>", romeo, testUsers, balcony, id)
	w.quiet(romeo)
	if got := w.did()[n:]; len(got) != 1 || got[0] != "report balcony "+id+" abuse rude" {
		t.Errorf("%q", got)
	}
	mark := w.mark()
	w.toUsers("<message id='r2' from='%s' to='%s'><report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:spam'/></message>", romeo, testUsers)
	wantError(t, w.expect(mark, "an error", isError(romeo, "r2")), "not-acceptable")
}
