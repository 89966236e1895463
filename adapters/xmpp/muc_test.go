package xmpp

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// world is the adapter between a stub server and a twin of the provider.
type world struct {
	*stub
	tw *twin
}

func newWorld(t *testing.T) *world {
	s := newStub(t)
	w := &world{s, newTwin(t, testConfig(s.addr))}
	w.tw.start()
	s.up()
	return w
}

// newBalcony is a world in which romeo is in the room balcony and juliet takes part in it.
func newBalcony(t *testing.T) *world {
	w := newWorld(t)
	if e := w.join(romeo, balcony, "Romeo"); e.attr("type") != "" {
		t.Fatal(e)
	}
	// It is to be as it is: for those who are invited.
	w.ask(testRooms, romeo, balcony, "set", "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'>"+
		"<field var='muc#roomconfig_membersonly'><value>1</value></field></x></query>")
	w.tw.do(func() { w.tw.add(w.tw.room(balconyURI), julietURI, romeoURI, nil) })
	w.tw.must(w.tw.delivered(balconyURI))
	return w
}

// restart is what a daemon's restart is to the adapter.
func (w *world) restart() {
	w.t.Helper()
	w.tw.stop()
	w.wait("the streams are gone", func() bool { return len(w.conns) == 0 })
	w.tw.start()
	w.up()
}

// addLocal makes somebody of the server a participant.
func (w *world) addLocal(u mimiuri.URI) {
	w.tw.do(func() { w.tw.add(w.tw.room(balconyURI), u, romeoURI, nil) })
	w.tw.must(w.tw.delivered(balconyURI))
}

// line says a stanza in the order of a join: who, what.
func line(e *element) string {
	from, _ := parseAddr(e.attr("from"))
	switch e.Local {
	case "presence":
		item := e.child(nsMUCUser, "x").child(nsMUCUser, "item")
		return strings.TrimSpace(fmt.Sprintf("%s %s %s/%s %s", from.resource, e.attr("type")+e.text("", "show"), item.attr("affiliation"), item.attr("role"), codesOf(e)))
	case "message":
		if e.child("", "body") == nil && e.child("", "subject") != nil {
			return strings.TrimSpace("subject " + e.text("", "subject"))
		}
		delayed := ""
		if e.child(nsDelay, "delay") != nil {
			delayed = " delayed"
		}
		return "message " + from.resource + ": " + bodyText(e) + delayed
	}
	return e.String()
}

// to accepts what goes to somebody, but for answers and for the messages that ask whether they are there.
func to(who string) func(*element) bool {
	return func(e *element) bool {
		return e.attr("to") == who && e.Local != "iq" && !strings.HasPrefix(e.attr("id"), "probe-")
	}
}

// settled is since, once everything is sent that stanzas handled before have led to.
func (w *world) settled(mark int, match func(*element) bool) []*element {
	w.t.Helper()
	w.quiet(romeo)
	return w.since(mark, match)
}

func lines(list []*element) []string {
	var out []string
	for _, e := range list {
		out = append(out, line(e))
	}
	return out
}

func isSubject(who string) func(*element) bool {
	return func(e *element) bool {
		return e.Local == "message" && e.attr("to") == who && e.child("", "subject") != nil
	}
}

func wantLines(t *testing.T, got []*element, want ...string) {
	t.Helper()
	if l := lines(got); !slices.Equal(l, want) {
		t.Errorf("received\n  %s\nnot\n  %s", strings.Join(l, "\n  "), strings.Join(want, "\n  "))
	}
}

// wantError checks an error stanza; every error has a text for the person, but for those about addresses that offer
// nothing.
func wantError(t *testing.T, e *element, condition string) {
	t.Helper()
	x := e.child("", "error")
	if x == nil || x.child(nsStanzas, condition) == nil {
		t.Errorf("%s is no error %s", e, condition)
		return
	}
	if x.attr("type") == "" || condition != "service-unavailable" && x.text(nsStanzas, "text") == "" {
		t.Errorf("an error without type or text: %s", e)
	}
}

// XEP-0045 10.1: joining a room that does not exist makes it.
func TestCreate(t *testing.T) {
	w := newWorld(t)
	e := w.join(romeo, balcony, "Romeo")
	w.expect(0, "the subject", isSubject(romeo))
	wantLines(t, w.settled(0, to(romeo)), "Romeo  owner/moderator 100 110 201", "subject")
	if e.attr("id") != "join-0" {
		t.Errorf("the presence's id is not returned: %s", e)
	}
	w.tw.do(func() {
		in := w.tw.intents[0]
		if len(w.tw.intents) != 1 || in.Kind != adapter.CreateRoom || in.Room != balconyURI || in.Actor != romeoURI || in.Name != "balcony" {
			t.Errorf("%+v", w.tw.intents)
		}
	})
	// Only once is it new.
	mark := w.mark()
	w.join(romeo, balcony, "Romeo")
	w.expect(mark, "the subject", isSubject(romeo))
	wantLines(t, w.settled(mark, to(romeo)), "Romeo  owner/moderator 100 110", "subject")
	// XEP-0045 10.1.2 and 10.1.3: an instant room, and one that is to be configured.
	if e := w.ask(testRooms, romeo, balcony, "set", "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query>"); e.attr("type") != "result" {
		t.Error(e)
	}
	if e := w.ask(testRooms, romeo, balcony, "get", "<query xmlns='http://jabber.org/protocol/muc#owner'/>"); e.child(nsMUCOwner, "query").child(nsData, "x").attr("type") != "form" {
		t.Error(e)
	}
	if e := w.ask(testRooms, romeo, balcony, "set", "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='cancel'/></query>"); e.attr("type") != "result" {
		t.Error(e)
	}
	wantError(t, w.ask(testRooms, romeo, balcony, "set", "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'><field var='muc#roomconfig_passwordprotectedroom'><value>1</value></field></x></query>"), "not-acceptable")
}

// XEP-0045 7.2: others, self, history, subject.
func TestJoinOrder(t *testing.T) {
	w := newBalcony(t)
	w.tw.say(balconyURI, julietURI, "before")
	w.addLocal(benURI)
	w.tw.say(balconyURI, julietURI, "first")
	w.tw.say(balconyURI, julietURI, "second")
	w.tw.must(w.tw.delivered(balconyURI))

	mark := w.mark()
	w.join(benvolio, balcony, "Ben")
	w.expect(mark, "the subject", isSubject(benvolio))
	wantLines(t, w.settled(mark, to(benvolio)),
		"Romeo  owner/moderator", "juliet  member/participant", "Ben  member/participant 100 110",
		"message juliet: first delayed", "message juliet: second delayed", "subject")
	// He was there before as one who is away, under a nick made for him.
	wantLines(t, w.settled(mark, to(romeo)), "benvolio unavailable member/participant 303", "Ben  member/participant")
	if n := w.tw.count(adapter.JoinRoom); n != 0 {
		t.Errorf("%d intents to join, for a participant", n)
	}

	for history, want := range map[string]int{
		"<history maxstanzas='1'/>": 1, "<history maxstanzas='0'/>": 0, "<history maxchars='0'/>": 0, "<history seconds='0'/>": 0,
		"<history since='1970-01-01T00:00:00Z'/>": 2, "<history maxstanzas='abc'/>": 2, "<history maxstanzas='-1' seconds='x' since='y' maxchars='99999999999999999999'/>": 2, "": 2,
	} {
		mark := w.mark()
		w.toRooms("<presence from='%s' to='%s/Ben'><x xmlns='http://jabber.org/protocol/muc'>%s</x></presence>", benvolio, balcony, history)
		w.expect(mark, "the subject", isSubject(benvolio))
		got := w.since(mark, func(e *element) bool { return e.Local == "message" && e.child(nsDelay, "delay") != nil })
		if len(got) != want {
			t.Errorf("%s gave %d messages, not %d", history, len(got), want)
		}
	}
}

func TestNicks(t *testing.T) {
	w := newBalcony(t)
	w.addLocal(benURI)
	other := "romeo@xmpp.example/phone"

	// 7.2.8: a nick is somebody's, present or not, whatever its capital letters.
	for _, nick := range []string{"romeo", "Juliet", "ROMEO"} {
		wantError(t, w.join(benvolio, balcony, nick), "conflict")
	}
	// 7.2.1: no nick.
	mark := w.mark()
	w.toRooms("<presence id='n' from='%s' to='%s'><x xmlns='http://jabber.org/protocol/muc'/></presence>", benvolio, balcony)
	wantError(t, w.expect(mark, "an error", isError(benvolio, "n")), "jid-malformed")
	wantError(t, w.join(benvolio, balcony, "\U0001F600"), "not-acceptable")

	// Resources of one person share a nick.
	mark = w.mark()
	if e := w.join(other, balcony, "Romeo"); codesOf(e) != "100 110" {
		t.Errorf("the second resource: %s", e)
	}
	other2 := "romeo@xmpp.example/tablet"
	if e := w.join(other2, balcony, "Somebody"); codesOf(e) != "100 110 210" || e.attr("from") != balcony+"/Romeo" {
		t.Errorf("another nick for a third resource: %s", e)
	}
	w.tw.say(balconyURI, julietURI, "to all three")
	for _, who := range []string{romeo, other, other2} {
		w.expect(mark, "the message", isMessage(who, "to all three"))
	}

	// What not every server takes is left out, and said beside it.
	e := w.join(benvolio, balcony, "Ben \U0001F600")
	if e.attr("from") != balcony+"/Ben" || !hasCode(e, "210") || e.text(nsNick, "nick") != "Ben \U0001F600" {
		t.Errorf("a nick of newer characters: %s", e)
	}

	// 7.6: changing nick.
	mark = w.mark()
	w.toRooms("<presence from='%s' to='%s/Benvolio'/>", benvolio, balcony)
	w.expect(mark, "the new nick", func(e *element) bool {
		return e.attr("to") == benvolio && e.attr("from") == balcony+"/Benvolio" && hasCode(e, "110")
	})
	wantLines(t, w.settled(mark, to(benvolio)), "Ben unavailable member/participant 303 110", "Benvolio  member/participant 100 110")
	wantLines(t, w.settled(mark, to(romeo)), "Ben unavailable member/participant 303", "Benvolio  member/participant")
	mark = w.mark()
	w.toRooms("<presence id='c' from='%s' to='%s/romeo'/>", benvolio, balcony)
	wantError(t, w.expect(mark, "an error", isError(benvolio, "c")), "conflict")

	// 7.7: availability.
	mark = w.mark()
	w.toRooms("<presence from='%s' to='%s/Benvolio'><show>away</show><status>thinking</status><priority>999</priority></presence>", benvolio, balcony)
	if e := w.expect(mark, "the availability", to(romeo)); e.text("", "show") != "away" || e.text("", "status") != "thinking" {
		t.Error(e)
	}
	mark = w.mark()
	w.toRooms("<presence from='%s' to='%s/Benvolio'><show>nonsense</show></presence>", benvolio, balcony)
	if e := w.expect(mark, "the availability", to(romeo)); e.child("", "show") != nil {
		t.Error(e)
	}
	// Presence of somebody who is not in the room.
	mark = w.mark()
	w.toRooms("<presence id='p' from='benvolio@xmpp.example/elsewhere' to='%s/Benvolio'/>", balcony)
	wantError(t, w.expect(mark, "an error", isError("benvolio@xmpp.example/elsewhere", "p")), "item-not-found")
}

// The end of a presence is no end of a participation.
func TestLeaving(t *testing.T) {
	for clause, stanza := range map[string]string{
		"unavailable":               "<presence type='unavailable' from='%[1]s' to='%[2]s/Ben'><status>bye</status></presence>",
		"presence error":            "<presence type='error' from='%[1]s' to='%[2]s/Romeo'><error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>",
		"recipient-unavailable":     "<message type='error' id='x' from='%[1]s' to='%[2]s/juliet'><error type='wait'><recipient-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>",
		"remote-server-not-found":   "<message type='error' id='x' from='%[1]s' to='%[2]s'><error type='cancel'><remote-server-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>",
		"XEP-0191, blocked":         "<message type='error' id='x' from='%[1]s' to='%[2]s/juliet'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>",
		"error with a foreign part": "<message type='error' from='%[1]s' to='%[2]s/juliet'><body>x</body><error type='cancel'><a xmlns='b'/><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>",
	} {
		t.Run(clause, func(t *testing.T) {
			w := newBalcony(t)
			w.addLocal(benURI)
			w.join(benvolio, balcony, "Ben")
			mark := w.mark()
			w.toRooms(stanza, benvolio, balcony)
			w.expect(mark, "Ben is away", to(romeo))
			wantLines(t, w.settled(mark, to(romeo)), "Ben xa member/participant")
			w.quiet(romeo)
			if clause == "unavailable" {
				got := w.settled(mark, to(benvolio))
				wantLines(t, got, "Ben unavailable member/none 110")
				if got[0].text("", "status") != "bye" {
					t.Error(got[0])
				}
			} else {
				wantLines(t, w.settled(mark, to(benvolio)))
			}
			mark = w.mark()
			w.tw.say(balconyURI, julietURI, "who is there?")
			w.expect(mark, "the message", isMessage(romeo, "who is there?"))
			w.tw.must(w.tw.delivered(balconyURI))
			if got := w.settled(mark, to(benvolio)); len(got) != 0 {
				t.Errorf("sent to one who has gone: %s", got[0])
			}
			w.tw.do(func() {
				if len(w.tw.intents) != 1 { // romeo's
					t.Errorf("intents: %+v", w.tw.intents[1:])
				}
			})
			// And back, without anybody being asked.
			mark = w.mark()
			w.join(benvolio, balcony, "Ben")
			w.expect(mark, "the missed message", isMessage(benvolio, "who is there?"))
		})
	}
	t.Run("an error that says nothing of the resource", func(t *testing.T) {
		w := newBalcony(t)
		w.toRooms("<message type='error' id='x' from='%s' to='%s'><error type='modify'><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>", romeo, balcony)
		w.quiet(romeo)
		mark := w.mark()
		w.tw.say(balconyURI, julietURI, "still there?")
		w.expect(mark, "the message", isMessage(romeo, "still there?"))
	})
}

// XEP-0410.
func TestSelfPing(t *testing.T) {
	w := newBalcony(t)
	ping := "<ping xmlns='urn:xmpp:ping'/>"
	if e := w.ask(testRooms, romeo, balcony+"/Romeo", "get", ping); e.attr("type") != "result" {
		t.Error(e)
	}
	if e := w.ask(testRooms, romeo, balcony, "get", ping); e.attr("type") != "result" {
		t.Error(e)
	}
	wantError(t, w.ask(testRooms, "romeo@xmpp.example/phone", balcony+"/Romeo", "get", ping), "not-acceptable")
	wantError(t, w.ask(testRooms, benvolio, balcony+"/Romeo", "get", ping), "not-acceptable")
	wantError(t, w.ask(testRooms, romeo, balcony+"/Nobody", "get", ping), "item-not-found")
	wantError(t, w.ask(testRooms, romeo, balcony+"/juliet", "get", ping), "service-unavailable")
	wantError(t, w.ask(testRooms, romeo, "nowhere@"+testRooms+"/Romeo", "get", ping), "not-acceptable")
	w.restart()
	if e := w.ask(testRooms, romeo, balcony+"/Romeo", "get", ping); e.attr("type") != "result" {
		t.Errorf("after a restart: %s", e)
	}
}

// A message is shown when the room has it, to everybody alike, with the id of its sender and the room's.
func TestReflection(t *testing.T) {
	w := newBalcony(t)
	w.addLocal(benURI)
	w.join(benvolio, balcony, "Ben")
	phone := "romeo@xmpp.example/phone"
	w.join(phone, balcony, "Romeo")
	w.tw.do(func() { w.tw.hold = true })
	mark := w.mark()
	w.toRooms("<message type='groupchat' id='abc' xml:lang='en' from='%s' to='%s'><body>But soft!</body><origin-id xmlns='urn:xmpp:sid:0' id='o-1'/>"+
		"<stanza-id xmlns='urn:xmpp:sid:0' id='forged' by='%[2]s'/><occupant-id xmlns='urn:xmpp:occupant-id:0' id='forged'/><x xmlns='foo'><body>SPOOFED</body></x></message>", romeo, balcony)
	w.tw.must(w.tw.until("the intent", func() bool { return len(w.tw.held) == 1 }))
	w.quiet(romeo)
	if got := w.since(mark, func(e *element) bool { return e.Local == "message" }); len(got) != 0 {
		t.Fatalf("shown before it was accepted: %s", got[0])
	}
	w.tw.release()
	w.tw.must(w.tw.delivered(balconyURI))
	var id content.MessageID
	w.tw.do(func() {
		r := w.tw.rooms[balconyURI]
		id = r.events[len(r.events)-1].ID
		in := w.tw.intents[len(w.tw.intents)-1]
		text, _ := in.Content.PlainText()
		ext, _ := in.Content.ExternalMessageID()
		if in.Kind != adapter.SendMessage || in.Actor != romeoURI || text != "But soft!" || in.OriginID != "romeo@xmpp.example|o|o-1" || in.Content.Body.Language != "en" || string(ext.ID) != "abc" {
			t.Errorf("%+v %q", in, text)
		}
	})
	for _, who := range []string{romeo, phone, benvolio} {
		got := w.settled(mark, to(who))
		wantLines(t, got, "message Romeo: But soft!")
		e := got[0]
		var sids, oids []*element
		for _, k := range e.Kids {
			if k.Space == nsSID && k.Local == "stanza-id" {
				sids = append(sids, k)
			}
			if k.Space == nsOccupant {
				oids = append(oids, k)
			}
		}
		if e.attr("id") != "abc" || e.child(nsSID, "origin-id").attr("id") != "o-1" || len(sids) != 1 || sids[0].attr("id") != id.String() || sids[0].attr("by") != balcony ||
			len(oids) != 1 || oids[0].attr("id") == "forged" || e.child("", "body").attr("xml:lang") != "en" || e.child("foo", "x") != nil {
			t.Errorf("%s", e)
		}
	}
}

// The same message sent again is the same message.
func TestSentAgain(t *testing.T) {
	w := newBalcony(t)
	w.addLocal(benURI)
	w.join(benvolio, balcony, "Ben")
	send := func(id, origin, body string) {
		o := ""
		if origin != "" {
			o = "<origin-id xmlns='urn:xmpp:sid:0' id='" + origin + "'/>"
		}
		if id != "" {
			id = "id='" + id + "'"
		}
		w.toRooms("<message type='groupchat' %s from='%s' to='%s'><body>%s</body>%s</message>", id, romeo, balcony, body, o)
	}
	mark := w.mark()
	send("1", "o-1", "with origin")
	first := w.expect(mark, "the message", isMessage(romeo, "with origin"))
	send("2", "", "with id")
	w.expect(mark, "the message", isMessage(benvolio, "with id"))
	w.tw.must(w.tw.delivered(balconyURI))
	for range 2 {
		mark = w.mark()
		send("1", "o-1", "with origin")
		again := w.expect(mark, "the answer", isMessage(romeo, "with origin"))
		if again.attr("id") != "1" || again.child(nsSID, "stanza-id").attr("id") != first.child(nsSID, "stanza-id").attr("id") {
			t.Errorf("%s is another message than %s", again, first)
		}
		send("2", "", "with id")
		w.expect(mark, "the answer", isMessage(romeo, "with id"))
		if got := w.settled(mark, to(benvolio)); len(got) != 0 {
			t.Errorf("shown twice to others: %s", got[0])
		}
		w.restart() // known also afterwards
	}
	if n := w.tw.count(adapter.SendMessage); n != 2 {
		t.Errorf("%d messages", n)
	}
	// Plain ids of some clients begin anew: another text is another message.
	mark = w.mark()
	send("2", "", "another text")
	w.expect(mark, "the message", isMessage(benvolio, "another text"))
	send("", "", "no id")
	w.expect(mark, "the message", isMessage(benvolio, "no id"))
	send("", "", "no id")
	w.tw.must(w.tw.until("both", func() bool { return len(w.tw.rooms[balconyURI].events) > 0 && len(w.tw.intents) >= 6 }))
	w.tw.must(w.tw.delivered(balconyURI))
	if got := w.since(mark, isMessage(benvolio, "no id")); len(got) != 2 {
		t.Errorf("%d messages without id", len(got))
	}
}

// What is no message to the room is answered, or passed over, and never reaches the provider.
func TestNotSent(t *testing.T) {
	w := newBalcony(t)
	w.addLocal(benURI)
	long := strings.Repeat("x", maxStanzaID+1)
	for _, c := range []struct{ clause, from, stanza, condition string }{
		{"7.4 not in the room", benvolio, "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s'><body>x</body></message>", "not-acceptable"},
		{"groupchat to an occupant", romeo, "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s/juliet'><body>x</body></message>", "bad-request"},
		{"chat to the room", romeo, "<message type='chat' id='%[1]s' from='%[2]s' to='%[3]s'><body>x</body></message>", "not-acceptable"},
		{"8.1 a subject that is too long", romeo, "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s'><subject>" + strings.Repeat("x", 3000) + "</subject></message>", "not-acceptable"},
		{"encrypted by the client", romeo, "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s'><body>x</body><encrypted xmlns='eu.siacs.conversations.axolotl'/></message>", "not-acceptable"},
		{"long origin-id", romeo, "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s'><body>x</body><origin-id xmlns='urn:xmpp:sid:0' id='" + long + "'/></message>", "not-acceptable"},
		{"no such room", romeo, "<message type='groupchat' id='%[1]s' from='%[2]s' to='nowhere@" + testRooms + "'><body>x</body></message>", "not-acceptable"},
		{"no room's address", romeo, "<message type='groupchat' id='%[1]s' from='%[2]s' to='a%%%%b%%%%c@" + testRooms + "'><body>x</body></message>", "item-not-found"},
		{"stranger", "bob@other.net/x", "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s'><body>x</body></message>", "forbidden"},
		{"to the service", romeo, "<message type='chat' id='%[1]s' from='%[2]s' to='" + testRooms + "'><body>x</body></message>", "service-unavailable"},
		{"too large", romeo, "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s'><body>" + strings.Repeat("x", 600_000) + "</body></message>", "not-acceptable"},
		{"nested too deep", romeo, "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s'><body>x</body>" + strings.Repeat("<a>", 50) + strings.Repeat("</a>", 50) + "</message>", "not-acceptable"},
		{"receipts", romeo, "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s'><received xmlns='urn:xmpp:receipts' id='x'/></message>", ""},
		{"empty body", romeo, "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s'><body/></message>", ""},
		{"body of another namespace only", romeo, "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s'><x xmlns='foo'><body>SPOOFED</body></x><fallback xmlns='urn:xmpp:fallback:0'><body/></fallback></message>", ""},
		{"an error is not answered", romeo, "<message type='error' id='%[1]s' from='%[2]s' to='nowhere@" + testRooms + "'><body>x</body></message>", ""},
		{"own address", "x@" + testUsers, "<message type='groupchat' id='%[1]s' from='%[2]s' to='%[3]s'><body>x</body></message>", ""},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w.t = t
			mark := w.mark()
			w.toRooms(c.stanza, "m", c.from, balcony)
			if c.condition != "" {
				wantError(t, w.expect(mark, "an error", isError(c.from, "m")), c.condition)
				return
			}
			w.quiet(romeo)
			if got := w.since(mark, func(e *element) bool { return e.Local != "iq" }); len(got) != 0 {
				t.Errorf("answered: %s", got[0])
			}
		})
	}
	if n := w.tw.count(adapter.SendMessage); n != 0 {
		t.Errorf("%d messages reached the provider", n)
	}
	t.Run("without voice", func(t *testing.T) {
		w.t = t
		w.tw.do(func() {
			r := w.tw.room(balconyURI)
			r.info.Participants[0].Send, r.info.Participants[0].Admin = false, false
			w.tw.emit(r, adapter.Event{Kind: adapter.Metadata, Actor: julietURI})
		})
		w.tw.must(w.tw.delivered(balconyURI))
		mark := w.mark()
		w.toRooms("<message type='groupchat' id='v' from='%s' to='%s'><body>x</body></message>", romeo, balcony)
		wantError(t, w.expect(mark, "an error", isError(romeo, "v")), "forbidden")
	})
}

// Of several bodies the one in the message's language is taken, or the first.
func TestBodies(t *testing.T) {
	w := newBalcony(t)
	for i, c := range []struct{ bodies, want, lang string }{
		{"<body>own</body><body xml:lang='de'>eigen</body>", "own", "en"},
		{"<body xml:lang='de'>eigen</body><body>own</body>", "own", "en"},
		{"<body xml:lang='de'>eigen</body><body xml:lang='fr'>propre</body>", "eigen", "de"},
		{"<body xml:lang='not a tag'>x</body>", "x", ""},
		{"<fallback xmlns='urn:xmpp:fallback:0'><body start='0' end='2'/></fallback><body>whole</body>", "whole", "en"},
		{"<thread parent='a'>b</thread><body>&#x1F600; &lt;x&gt;</body>", "\U0001F600 <x>", "en"},
	} {
		mark := w.mark()
		w.toRooms("<message type='groupchat' id='b%d' xml:lang='en' from='%s' to='%s'>%s</message>", i, romeo, balcony, c.bodies)
		e := w.expect(mark, "the message", func(e *element) bool { return e.attr("id") == fmt.Sprintf("b%d", i) })
		if bodyText(e) != c.want || e.child("", "body").attr("xml:lang") != c.lang {
			t.Errorf("%s became %s", c.bodies, e)
		}
	}
}

// Messages of one sender keep their order, however many.
func TestOrder(t *testing.T) {
	w := newBalcony(t)
	const n = 500
	mark := w.mark()
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "<message type='groupchat' id='n%d' from='%s' to='%s'><body>line %d</body></message>", i, romeo, balcony, i)
	}
	w.toRooms("%s", all.String())
	w.expect(mark, "the last", isMessage(romeo, fmt.Sprintf("line %d", n-1)))
	got := w.since(mark, func(e *element) bool { return e.attr("to") == romeo && bodyText(e) != "" })
	if len(got) != n {
		t.Fatalf("%d messages", len(got))
	}
	for i, e := range got {
		if bodyText(e) != fmt.Sprintf("line %d", i) {
			t.Fatalf("message %d: %s", i, e)
		}
	}
}

// What the hub refuses is said to the one who wanted it.
func TestRefused(t *testing.T) {
	w := newBalcony(t)
	refuse := func(kind adapter.IntentKind, err error) {
		w.tw.do(func() {
			w.tw.refuse = func(in adapter.Intent) error {
				if in.Kind == kind {
					return err
				}
				return nil
			}
		})
	}
	text := func(e *element) string { return e.child("", "error").text(nsStanzas, "text") }

	refuse(adapter.SendMessage, fault.New(fault.Forbidden, "the hub does not let you"))
	mark := w.mark()
	w.toRooms("<message type='groupchat' id='r' from='%s' to='%s'><body>x</body></message>", romeo, balcony)
	e := w.expect(mark, "an error", isError(romeo, "r"))
	if wantError(t, e, "forbidden"); text(e) != "the hub does not let you" || e.attr("from") != balcony {
		t.Error(e)
	}
	// What is internal stays inside.
	refuse(adapter.SendMessage, fmt.Errorf("store: disk sda1 is broken"))
	mark = w.mark()
	w.toRooms("<message type='groupchat' id='r2' from='%s' to='%s'><body>x</body></message>", romeo, balcony)
	e = w.expect(mark, "an error", isError(romeo, "r2"))
	if wantError(t, e, "internal-server-error"); strings.Contains(e.String(), "sda1") {
		t.Error(e)
	}
	// Not even taken.
	w.tw.do(func() {
		w.tw.reject = func(in adapter.Intent) error {
			if in.Kind == adapter.SendMessage {
				return fault.New(fault.TooLarge, "too much text")
			}
			return nil
		}
	})
	mark = w.mark()
	w.toRooms("<message type='groupchat' id='r3' from='%s' to='%s'><body>x</body></message>", romeo, balcony)
	wantError(t, w.expect(mark, "an error", isError(romeo, "r3")), "not-acceptable")
	w.tw.do(func() { w.tw.reject = nil })

	refuse(adapter.Invite, fault.New(fault.NotFound, "there is no such user"))
	mark = w.mark()
	w.toRooms("<message id='i' from='%s' to='%s'><x xmlns='http://jabber.org/protocol/muc#user'><invite to='nobody%%matrix.example@%s'/></x></message>", romeo, balcony, testUsers)
	e = w.expect(mark, "an error", isError(romeo, "i"))
	if wantError(t, e, "item-not-found"); text(e) != "there is no such user" {
		t.Error(e)
	}
	mark = w.mark()
	w.toUsers("<message id='d' from='%s' to='nobody%%matrix.example@%s'><x xmlns='jabber:x:conference' jid='%s'/></message>", romeo, testUsers, balcony)
	e = w.expect(mark, "an error", isError(romeo, "d"))
	if wantError(t, e, "item-not-found"); e.attr("from") != "nobody%matrix.example@"+testUsers {
		t.Error(e)
	}

	// Joins.
	refuse(adapter.JoinRoom, fault.New(fault.Forbidden, "by invitation only"))
	e = w.join(benvolio, balcony, "Ben")
	if wantError(t, e, "registration-required"); text(e) != "by invitation only" || e.child(nsMUC, "x") == nil || e.attr("from") != balcony+"/Ben" {
		t.Error(e)
	}
	refuse(adapter.JoinRoom, fault.New(fault.NotFound, ""))
	wantError(t, w.join(benvolio, "club%hub.example@"+testRooms, "Ben"), "item-not-found")
	refuse(adapter.CreateRoom, fault.New(fault.Limited, "too many rooms"))
	wantError(t, w.join(benvolio, "another@"+testRooms, "Ben"), "resource-constraint")
	w.tw.do(func() { w.tw.levels["benvolio@xmpp.example"] = adapter.LevelNone })
	wantError(t, w.join(benvolio, "another@"+testRooms, "Ben"), "forbidden")
	wantError(t, w.join("bob@other.net/x", balcony, "Bob"), "forbidden")
	wantError(t, w.join("other.net", balcony, "Bob"), "forbidden")
}

// Two create a room at once: the second joins it.
func TestCreatedMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.tw.do(func() { w.tw.hold = true })
	mark := w.mark()
	w.toRooms("<presence id='a' from='%s' to='%s/Romeo'><x xmlns='http://jabber.org/protocol/muc'/></presence>", romeo, balcony)
	w.tw.must(w.tw.until("the first", func() bool { return len(w.tw.held) == 1 }))
	w.toRooms("<presence id='b' from='%s' to='%s/Ben'><x xmlns='http://jabber.org/protocol/muc'/></presence>", benvolio, balcony)
	w.tw.must(w.tw.until("the second", func() bool { return len(w.tw.held) == 2 }))
	w.tw.release()
	w.expect(mark, "the subject", isSubject(romeo))
	w.expect(mark, "the subject", isSubject(benvolio))
	wantLines(t, w.settled(mark, to(benvolio)), "Romeo  owner/moderator", "Ben  member/participant 100 110", "subject")
	wantLines(t, w.settled(mark, to(romeo)), "Romeo  owner/moderator 100 110 201", "subject", "Ben  member/participant")
}

// A join that nobody waits for any more leads to no occupancy; asking twice is asking once.
func TestJoinWhileWaiting(t *testing.T) {
	w := newBalcony(t)
	w.tw.do(func() { w.tw.hold = true })
	presence := "<presence id='%s' from='%s' to='%s/%s'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
	mark := w.mark()
	w.toRooms(presence, "1", benvolio, balcony, "Ben")
	w.toRooms(presence, "2", benvolio, balcony, "Benvolio")
	w.tw.must(w.tw.until("the join", func() bool { return len(w.tw.held) == 1 }))
	w.quiet(romeo)
	w.tw.release()
	w.expect(mark, "the subject", isSubject(benvolio))
	wantLines(t, w.settled(mark, to(benvolio)), "Romeo  owner/moderator", "juliet  member/participant", "Benvolio  member/participant 100 110", "subject")
	if n := w.tw.count(adapter.JoinRoom); n != 1 {
		t.Errorf("%d intents", n)
	}

	w.tw.do(func() { w.tw.hold = true })
	mark = w.mark()
	w.toRooms(presence, "3", "tybalt@xmpp.example/x", balcony, "Tybalt")
	w.tw.must(w.tw.until("the join", func() bool { return len(w.tw.held) == 1 }))
	w.toRooms("<presence type='unavailable' from='tybalt@xmpp.example/x' to='%s/Tybalt'/>", balcony)
	w.quiet(romeo)
	w.tw.release()
	w.tw.must(w.tw.delivered(balconyURI))
	wantLines(t, w.settled(mark, to("tybalt@xmpp.example/x")))
}

// Remote participants are occupants, by role, under nicks that are theirs alone.
func TestParticipantsElsewhere(t *testing.T) {
	w := newBalcony(t)
	mark := w.mark()
	w.tw.do(func() {
		r := w.tw.room(balconyURI)
		w.tw.add(r, mimiuri.MustParse("mimi://wire.example/u/romeo"), romeoURI, nil)
		w.tw.add(r, mimiuri.MustParse("mimi://wire.example/u/Juliet"), romeoURI, nil)
		r.info.Participants = append(r.info.Participants, adapter.Participant{User: mimiuri.MustParse("mimi://wire.example/u/%F0%9F%98%80"), Role: 3, RoleName: "admin", Send: true, Admin: true})
		w.tw.emit(r, adapter.Event{Kind: adapter.Joined, User: mimiuri.MustParse("mimi://wire.example/u/%F0%9F%98%80"), Actor: romeoURI})
	})
	w.tw.must(w.tw.delivered(balconyURI))
	got := map[string]*element{}
	for _, e := range w.settled(mark, to(romeo)) {
		got[line(e)] = e
	}
	for want, jid := range map[string]string{
		"romeo (wire.example)  member/participant":  "romeo%wire.example@" + testUsers,
		"Juliet (wire.example)  member/participant": "~99qmoqb5eg%wire.example@" + testUsers,
		"~u2fph00%wire.example  admin/moderator":    "~u2fph00%wire.example@" + testUsers,
	} {
		e := got[want]
		if e == nil {
			t.Errorf("not shown: %s; shown: %v", want, lines(w.settled(mark, to(romeo))))
			continue
		}
		if j := e.child(nsMUCUser, "x").child(nsMUCUser, "item").attr("jid"); j != jid {
			t.Errorf("%s is %s, not %s", want, j, jid)
		}
	}
	if e := got["~u2fph00%wire.example  admin/moderator"]; e != nil && e.text(nsNick, "nick") != "\U0001F600" {
		t.Errorf("the name is not said beside the nick: %s", e)
	}
	mark = w.mark()
	w.tw.say(balconyURI, mimiuri.MustParse("mimi://wire.example/u/Juliet"), "hi")
	w.expect(mark, "a message", isMessage(romeo, "hi"))
	wantLines(t, w.settled(mark, to(romeo)), "message Juliet (wire.example): hi")
	// The same nicks after a restart.
	w.restart()
	mark = w.mark()
	w.join(romeo, balcony, "Romeo")
	w.expect(mark, "the subject", isSubject(romeo))
	l := lines(w.since(mark, func(e *element) bool { return to(romeo)(e) && e.Local == "presence" }))
	if !slices.Contains(l, "Juliet (wire.example)  member/participant") || !slices.Contains(l, "juliet  member/participant") {
		t.Errorf("%v", l)
	}
}

// The end of a participation is the end of the occupancy; who did it is said.
func TestEndOfParticipation(t *testing.T) {
	w := newBalcony(t)
	w.addLocal(benURI)
	w.join(benvolio, balcony, "Ben")
	mark := w.mark()
	w.tw.do(func() { w.tw.removeUser(w.tw.room(balconyURI), julietURI, julietURI, nil) })
	w.expect(mark, "juliet leaves", to(romeo))
	wantLines(t, w.settled(mark, to(romeo)), "juliet unavailable none/none")

	mark = w.mark()
	w.tw.do(func() { w.tw.removeUser(w.tw.room(balconyURI), benURI, romeoURI, nil) })
	e := w.expect(mark, "Ben is out", to(benvolio))
	wantLines(t, []*element{e}, "Ben unavailable none/none 110 321")
	if a := e.child(nsMUCUser, "x").child(nsMUCUser, "item").child(nsMUCUser, "actor"); a.attr("nick") != "Romeo" || a.attr("jid") != "romeo@xmpp.example" {
		t.Error(e)
	}
	w.tw.must(w.tw.delivered(balconyURI))
	wantLines(t, w.settled(mark, to(romeo)), "Ben unavailable none/none 321")
	mark = w.mark()
	w.toRooms("<message type='groupchat' id='x' from='%s' to='%s'><body>x</body></message>", benvolio, balcony)
	wantError(t, w.expect(mark, "an error", isError(benvolio, "x")), "not-acceptable")

	mark = w.mark()
	w.tw.do(func() {
		r := w.tw.room(balconyURI)
		r.info.Subject, r.info.Name = "Act 2", "Capulet's orchard"
		w.tw.emit(r, adapter.Event{Kind: adapter.Metadata, Actor: romeoURI})
	})
	w.expect(mark, "the new subject", isSubject(romeo))
	got := w.settled(mark, to(romeo))
	if len(got) != 2 || codesOf(got[0]) != "104" || got[1].text("", "subject") != "Act 2" || got[1].attr("from") != balcony+"/Romeo" {
		t.Errorf("%v", got)
	}

	mark = w.mark()
	w.tw.do(func() {
		r := w.tw.room(balconyURI)
		r.info.Gone = true
		w.tw.emit(r, adapter.Event{Kind: adapter.Closed})
	})
	e = w.expect(mark, "the end", to(romeo))
	if e.attr("type") != "unavailable" || e.child(nsMUCUser, "x").child(nsMUCUser, "destroy") == nil {
		t.Error(e)
	}
	w.tw.must(w.tw.delivered(balconyURI))
	wantError(t, w.ask(testRooms, romeo, balcony+"/Romeo", "get", "<ping xmlns='urn:xmpp:ping'/>"), "not-acceptable")
}

// A daemon that is started again knows who is where.
func TestRestart(t *testing.T) {
	w := newBalcony(t)
	w.addLocal(benURI)
	w.join(benvolio, balcony, "Ben")
	mark := w.mark()
	w.restart()
	probes := func(who string) func(*element) bool {
		return func(e *element) bool {
			return e.attr("to") == who && e.Local == "message" && strings.HasPrefix(e.attr("id"), "probe-")
		}
	}
	p := w.expect(mark, "romeo is asked", probes(romeo))
	if p.attr("type") != "groupchat" || p.child("", "body") != nil || p.child("", "subject") != nil {
		t.Error(p)
	}
	w.expect(mark, "ben is asked", probes(benvolio))
	// benvolio's resource has gone meanwhile.
	w.toRooms("<message type='error' id='%s' from='%s' to='%s'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>", p.attr("id"), benvolio, balcony)
	w.expect(mark, "Ben is away", func(e *element) bool { return to(romeo)(e) && line(e) == "Ben xa member/participant" })
	mark = w.mark()
	w.tw.say(balconyURI, julietURI, "good morning")
	w.expect(mark, "the message", isMessage(romeo, "good morning"))
	w.toRooms("<message type='groupchat' id='g' from='%s' to='%s'><body>good day</body></message>", romeo, balcony)
	w.expect(mark, "the reflection", isMessage(romeo, "good day"))
	w.tw.must(w.tw.delivered(balconyURI))
	wantLines(t, w.settled(mark, to(benvolio)))
	// What happened while nobody was there to be told is told.
	w.tw.stop()
	w.tw.do(func() {
		w.tw.removeUser(w.tw.room(balconyURI), benURI, romeoURI, nil)
		w.tw.message(w.tw.room(balconyURI), julietURI, content.Text("while you were away"), nil)
	})
	mark = w.mark()
	w.tw.start()
	w.up()
	w.expect(mark, "the message", isMessage(romeo, "while you were away"))
	// And an occupant whose participation has ended is told so.
	w.join(benvolio, balcony, "Ben")
	w.tw.must(w.tw.delivered(balconyURI))
	w.tw.stop()
	w.tw.do(func() { w.tw.removeUser(w.tw.room(balconyURI), benURI, romeoURI, nil) })
	mark = w.mark()
	w.tw.start()
	w.up()
	w.expect(mark, "Ben is out", func(e *element) bool { return to(benvolio)(e) && line(e) == "Ben unavailable none/none 110 321" })
}

// A join is completed although the adapter was started again in the middle of it.
func TestRestartWhileJoining(t *testing.T) {
	w := newBalcony(t)
	w.tw.do(func() { w.tw.hold = true })
	w.toRooms("<presence id='j1' from='%s' to='%s/Ben'><x xmlns='http://jabber.org/protocol/muc'/></presence>", benvolio, balcony)
	w.tw.must(w.tw.until("the join", func() bool { return len(w.tw.held) == 1 }))
	w.restart()
	mark := w.mark()
	w.tw.release()
	w.expect(mark, "the subject", isSubject(benvolio))
	wantLines(t, w.settled(mark, to(benvolio)), "Romeo  owner/moderator", "juliet  member/participant", "Ben  member/participant 100 110", "subject")
	// So is a refusal.
	w.tw.do(func() {
		w.tw.hold = true
		w.tw.refuse = func(adapter.Intent) error { return fault.New(fault.Forbidden, "no") }
	})
	w.toRooms("<message type='groupchat' id='m1' from='%s' to='%s'><body>x</body></message>", benvolio, balcony)
	w.toRooms("<presence id='j2' from='tybalt@xmpp.example/x' to='%s/Tybalt'><x xmlns='http://jabber.org/protocol/muc'/></presence>", balcony)
	w.tw.must(w.tw.until("both", func() bool { return len(w.tw.held) == 2 }))
	w.restart()
	mark = w.mark()
	w.tw.release()
	wantError(t, w.expect(mark, "the refusal", isError(benvolio, "m1")), "forbidden")
	wantError(t, w.expect(mark, "the refusal", isError("tybalt@xmpp.example/x", "j2")), "registration-required")
}

// When the stream was lost with stanzas under way, everybody is shown everybody again.
func TestShownAgain(t *testing.T) {
	w := newBalcony(t)
	w.quiet(romeo)
	w.mu.Lock()
	w.deaf = true
	w.mu.Unlock()
	w.tw.do(func() {
		w.tw.add(w.tw.room(balconyURI), mimiuri.MustParse("mimi://wire.example/u/nurse"), julietURI, nil)
	})
	mark := w.mark()
	w.expect(0, "the nurse", func(e *element) bool { return to(romeo)(e) && line(e) == "nurse  member/participant" })
	w.mu.Lock()
	w.deaf = false
	w.conns[testRooms].Close()
	w.mu.Unlock()
	w.expect(mark, "the nurse again", func(e *element) bool { return to(romeo)(e) && line(e) == "nurse  member/participant" })
	w.expect(mark, "juliet again", func(e *element) bool { return to(romeo)(e) && line(e) == "juliet  member/participant" })
	w.tw.must(w.tw.delivered(balconyURI))
}

// In a large room those are shown who were there early, or have spoken, and oneself.
func TestLargeRoom(t *testing.T) {
	w := newBalcony(t)
	w.tw.do(func() {
		r := w.tw.room(balconyURI)
		for i := range 300 {
			r.info.Participants = append(r.info.Participants, adapter.Participant{User: mimiuri.MustParse(fmt.Sprintf("mimi://wire.example/u/user%03d", i)), Send: true})
		}
		w.tw.add(r, benURI, romeoURI, nil)
	})
	w.tw.must(w.tw.delivered(balconyURI))
	mark := w.mark()
	e := w.join(benvolio, balcony, "Ben")
	if codesOf(e) != "100 110" {
		t.Error(e)
	}
	presences := func(who string, from int) (n int) {
		for _, e := range w.settled(from, to(who)) {
			if e.Local == "presence" {
				n++
			}
		}
		return n
	}
	if n := presences(benvolio, mark); n != maxShown+1 {
		t.Errorf("%d presences", n)
	}
	if n := presences(romeo, mark); n != 0 {
		t.Errorf("%d presences of one who is not shown", n)
	}
	mark = w.mark()
	w.toRooms("<message type='groupchat' id='l' from='%s' to='%s'><body>here I am</body></message>", benvolio, balcony)
	w.expect(mark, "the message", isMessage(romeo, "here I am"))
	wantLines(t, w.settled(mark, to(romeo)), "Ben  member/participant", "message Ben: here I am")
	mark = w.mark()
	w.tw.say(balconyURI, mimiuri.MustParse("mimi://wire.example/u/user299"), "and I")
	w.tw.say(balconyURI, mimiuri.MustParse("mimi://wire.example/u/user299"), "still")
	w.tw.must(w.tw.delivered(balconyURI))
	wantLines(t, w.settled(mark, to(benvolio)), "user299  member/participant", "message user299: and I", "message user299: still")
	mark = w.mark()
	w.tw.do(func() {
		w.tw.removeUser(w.tw.room(balconyURI), mimiuri.MustParse("mimi://wire.example/u/user298"), julietURI, nil)
	})
	w.tw.must(w.tw.delivered(balconyURI))
	wantLines(t, w.settled(mark, to(romeo)))
	if k := w.ask(testRooms, romeo, balcony, "get", "<query xmlns='http://jabber.org/protocol/disco#items'/>").child(nsDiscoItem, "query").Kids; len(k) != 302 {
		t.Errorf("%d items", len(k))
	}
}

// A text that is too long for one stanza comes in several, with ids that are the same each time.
func TestLongText(t *testing.T) {
	s := newStub(t)
	cfg := testConfig(s.addr)
	cfg.MaxBody = 1000
	w := &world{s, newTwin(t, cfg)}
	w.tw.start()
	s.up()
	w.join(romeo, balcony, "Romeo")
	w.expect(0, "the subject", isSubject(romeo))
	text := strings.Repeat("O Romeo & Romeo, wherefore art <thou> Romeo? ", 100)
	mark := w.mark()
	id := w.tw.say(balconyURI, julietURI, text)
	w.tw.must(w.tw.delivered(balconyURI))
	got := w.since(mark, func(e *element) bool { return e.Local == "message" })
	all := ""
	for i, e := range got {
		want := id.String()
		if i > 0 {
			want += fmt.Sprintf(".%d", i+1)
		}
		if e.attr("id") != want || e.child(nsSID, "stanza-id").attr("id") != want {
			t.Errorf("part %d: %s", i, e)
		}
		if n := len(e.child("", "body").String()); n > 1100 {
			t.Errorf("part %d has %d octets", i, n)
		}
		all += bodyText(e)
	}
	if all != text || len(got) < 5 {
		t.Errorf("%d parts, %d octets of %d", len(got), len(all), len(text))
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		in   string
		max  int
		want []string
	}{
		{"", 10, []string{""}},
		{"short", 10, []string{"short"}},
		{"exactly te", 10, []string{"exactly te"}},
		{"aaaaaaaaa bbb", 10, []string{"aaaaaaaaa ", "bbb"}},
		{"aaaaaaaaaabbb", 10, []string{"aaaaaaaaaa", "bbb"}},
		{"aaaaaaa\nb bbb", 10, []string{"aaaaaaa\n", "b bbb"}},
		{"äääääää", 10, []string{"äääää", "ää"}},
		{"&&&", 10, []string{"&&", "&"}},
		{"\U0001F600\U0001F600\U0001F600", 10, []string{"\U0001F600\U0001F600", "\U0001F600"}},
	} {
		if got := split(c.in, c.max); !slices.Equal(got, c.want) {
			t.Errorf("%q by %d: %q", c.in, c.max, got)
		}
	}
}

// What cannot be shown as text is said so, or passed over.
func TestOtherContent(t *testing.T) {
	w := newBalcony(t)
	emit := func(c *content.Message) {
		w.tw.do(func() {
			r := w.tw.room(balconyURI)
			w.tw.emit(r, adapter.Event{Kind: adapter.Message, ID: content.MessageID{1, byte(len(r.events))}, Sender: julietURI, Content: c})
		})
		w.tw.must(w.tw.delivered(balconyURI))
	}
	mark := w.mark()
	reaction := content.Text("+1")
	reaction.Body.Disposition = content.Reaction
	emit(reaction)
	emit(&content.Message{Body: content.Part{Cardinality: content.NullPart}})
	emit(nil)
	if got := w.settled(mark, to(romeo)); len(got) != 0 {
		t.Errorf("shown: %s", got[0])
	}
	emit(&content.Message{Body: content.Part{Disposition: content.Attachment, Cardinality: content.ExternalPart, ContentType: "image/png", External: &content.External{URL: "https://x.example/y"}}})
	if got := w.settled(mark, to(romeo)); len(got) != 1 || bodyText(got[0]) != "https://x.example/y" {
		t.Errorf("%v", got)
	}
}
