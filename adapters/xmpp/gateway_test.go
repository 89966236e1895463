package xmpp

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// says sends a line to the gateway and returns the next line of the gateway.
func (w *world) says(who, text string) string {
	w.t.Helper()
	mark := w.mark()
	w.toUsers("<message type='chat' id='say-%d' from='%s' to='%s'><body>%s</body></message>", mark, who, testUsers, text)
	return bodyText(w.expect(mark, "an answer to "+text, func(e *element) bool {
		return e.Local == "message" && e.attr("to") == who && e.attr("from") == testUsers
	}))
}

func (w *world) last() (in adapter.Intent) {
	w.tw.do(func() { in = w.tw.intents[len(w.tw.intents)-1] })
	return in
}

// All by chat with the gateway.
func TestChat(t *testing.T) {
	w := newWorld(t)
	if got := w.says(romeo, "what?"); got != helpText() {
		t.Errorf("%q", got)
	}
	if got := w.says(romeo, "rooms"); got != "You take part in no room." {
		t.Errorf("%q", got)
	}
	mark := w.mark()
	if got := w.says(romeo, "Create balcony The Balcony"); !strings.Contains(got, "You take part in the room "+balcony) {
		t.Errorf("%q", got)
	}
	if in := w.last(); in.Kind != adapter.CreateRoom || in.Room != balconyURI || in.Name != "The Balcony" {
		t.Errorf("%+v", in)
	}
	// He is a participant and not in the room: it invites him.
	inv := w.expect(mark, "an invitation", func(e *element) bool { return e.attr("from") == balcony && e.attr("to") == "romeo@xmpp.example" })
	if inv.child(nsMUCUser, "x").child(nsMUCUser, "invite") == nil || inv.child(nsDirect, "x").attr("jid") != balcony || !strings.Contains(bodyText(inv), "The Balcony") {
		t.Error(inv)
	}
	if got := w.says(romeo, "invite balcony mimi://matrix.example/u/juliet"); !strings.HasPrefix(got, juliet+" takes part in the room") {
		t.Errorf("%q", got)
	}
	if in := w.last(); in.Kind != adapter.Invite || in.Target != julietURI {
		t.Errorf("%+v", in)
	}
	if got := w.says(romeo, "invite "+balcony+" benvolio@xmpp.example"); !strings.HasPrefix(got, "benvolio@xmpp.example takes part") {
		t.Errorf("%q", got)
	}
	if got := w.says(romeo, "rooms"); got != balcony+" – The Balcony, 3 participants" {
		t.Errorf("%q", got)
	}
	if got := w.says("tybalt@xmpp.example/x", "join balcony"); !strings.HasPrefix(got, "You take part") || w.last().Kind != adapter.JoinRoom {
		t.Errorf("%q", got)
	}
	if got := w.says(romeo, "leave balcony"); got != "You have left the room "+balcony+"." || w.last().Kind != adapter.LeaveRoom {
		t.Errorf("%q", got)
	}
	for text, want := range map[string]string{
		"leave balcony":                    balcony + ": You do not take part in this room",
		"leave a%%b%%c":                    `a%%b%%c: This is no room`,
		"invite balcony benvolio":          `benvolio: This is nobody`,
		"invite balcony bob@other.net":     "The user of this address may not",
		"invite balcony " + juliet:         "Only those who take part",
		"create mimi://hub.example/r/x":    "A room cannot be made at hub.example; make it here",
		"leave":                            "I connect this server",
		"invite balcony":                   "I connect this server",
		"join mimi://hub.example/r/nobody": "That was not done: there is no such room",
		"create balcony":                   "That was not done: this room exists already",
		strings.Repeat("long ", 1000):      "I connect this server",
	} {
		if got := w.says(romeo, text); !strings.HasPrefix(got, want) {
			t.Errorf("%q was answered %q", cut(text, 50), got)
		}
	}
	w.tw.do(func() {
		w.tw.reject = func(adapter.Intent) error { return fault.New(fault.Limited, "too fast") }
	})
	if got := w.says(romeo, "create x"); got != "That was not done: too fast" {
		t.Errorf("%q", got)
	}
	mark = w.mark()
	w.toUsers("<message type='chat' id='s' from='bob@other.net/x' to='%s'><body>help</body></message>", testUsers)
	wantError(t, w.expect(mark, "an error", isError("bob@other.net/x", "s")), "forbidden")
}

// Invitations, in both ways there are, to people elsewhere and to those here.
func TestInvitations(t *testing.T) {
	w := newWorld(t)
	w.join(romeo, balcony, "Romeo")
	mark := w.mark()
	w.toRooms("<message id='i1' from='%s' to='%s'><x xmlns='http://jabber.org/protocol/muc#user'><invite to='%s'><reason>come</reason></invite></x></message>", romeo, balcony, juliet)
	w.expect(mark, "juliet", func(e *element) bool { return to(romeo)(e) && line(e) == "juliet  member/participant" })
	if in := w.last(); in.Kind != adapter.Invite || in.Target != julietURI || in.Actor != romeoURI {
		t.Errorf("%+v", in)
	}
	mark = w.mark()
	w.toUsers("<message id='i2' from='%s' to='nurse%%matrix.example@%s'><x xmlns='jabber:x:conference' jid='%s'/></message>", romeo, testUsers, balcony)
	w.expect(mark, "the nurse", func(e *element) bool { return to(romeo)(e) && line(e) == "nurse  member/participant" })
	// Again: she is there.
	mark = w.mark()
	w.toRooms("<message id='i3' from='%s' to='%s'><x xmlns='http://jabber.org/protocol/muc#user'><invite to='%s'/></x></message>", romeo, balcony, juliet)
	w.quiet(romeo)
	if n := w.tw.count(adapter.Invite); n != 2 {
		t.Errorf("%d invitations", n)
	}
	if got := w.settled(mark, to(romeo)); len(got) != 0 {
		t.Error(got[0])
	}
	// Somebody of this server: the room itself invites him, once he is a participant, at his bare address.
	mark = w.mark()
	w.toRooms("<message id='i4' from='%s' to='%s'><x xmlns='http://jabber.org/protocol/muc#user'><invite to='benvolio@xmpp.example'/></x></message>", romeo, balcony)
	inv := w.expect(mark, "the invitation", to("benvolio@xmpp.example"))
	if inv.attr("from") != balcony || inv.child(nsMUCUser, "x").child(nsMUCUser, "invite").attr("from") != "romeo@xmpp.example" || inv.child(nsDirect, "x").attr("jid") != balcony || inv.attr("type") != "" {
		t.Error(inv)
	}
	w.tw.must(w.tw.delivered(balconyURI))
	mark = w.mark()
	w.toRooms("<message id='i5' from='%s' to='%s'><x xmlns='http://jabber.org/protocol/muc#user'><invite to='benvolio@xmpp.example'/></x></message>", romeo, balcony)
	w.expect(mark, "the invitation again", to("benvolio@xmpp.example"))
	// He declines: that is leaving, and his inviter is told.
	mark = w.mark()
	w.toRooms("<message id='d1' from='%s' to='%s'><x xmlns='http://jabber.org/protocol/muc#user'><decline to='romeo@xmpp.example'><reason>tired</reason></decline></x></message>", benvolio, balcony)
	d := w.expect(mark, "the decline", to("romeo@xmpp.example"))
	if x := d.child(nsMUCUser, "x").child(nsMUCUser, "decline"); x.attr("from") != "benvolio@xmpp.example" || x.text(nsMUCUser, "reason") != "tired" {
		t.Error(d)
	}
	w.expect(mark, "he has left", func(e *element) bool { return to(romeo)(e) && line(e) == "benvolio unavailable none/none" })
	if in := w.last(); in.Kind != adapter.LeaveRoom || in.Actor != benURI {
		t.Errorf("%+v", in)
	}
	// Invited from elsewhere.
	mark = w.mark()
	club := mimiuri.MustParse("mimi://hub.example/r/Club")
	w.tw.do(func() {
		r := w.tw.room(club)
		r.info.Name = "The Club"
		r.info.Participants = []adapter.Participant{{User: julietURI, Send: true, Admin: true}}
		w.tw.add(r, romeoURI, julietURI, nil)
	})
	inv = w.expect(mark, "the invitation", to("romeo@xmpp.example"))
	j := inv.attr("from")
	if j != "~8dm7aog%hub.example@"+testRooms || inv.child(nsMUCUser, "x").child(nsMUCUser, "invite").attr("from") != juliet {
		t.Error(inv)
	}
	if e := w.join(romeo, j, "Romeo"); codesOf(e) != "100 110" {
		t.Error(e)
	}

	for _, c := range []struct{ clause, from, invite, condition string }{
		{"no such address", romeo, "<invite to='x@" + testUsers + "'/>", "item-not-found"},
		{"malformed address", romeo, "<invite to='@@'/>", "jid-malformed"},
		{"no address", romeo, "<invite/>", "jid-malformed"},
		{"a stranger", romeo, "<invite to='bob@other.net'/>", "forbidden"},
		{"not a participant", benvolio, "<invite to='x%matrix.example@" + testUsers + "'/>", "forbidden"},
		{"decline of nothing", benvolio, "<decline to='romeo@xmpp.example'/>", "item-not-found"},
		{"by a stranger", "bob@other.net/x", "<invite to='" + juliet + "'/>", "forbidden"},
		{"thirty at once", romeo, strings.Repeat("<invite to='"+juliet+"'/>", 30), "policy-violation"},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w.t = t
			mark := w.mark()
			w.toRooms("<message id='e' from='%s' to='%s'><x xmlns='http://jabber.org/protocol/muc#user'>%s</x></message>", c.from, balcony, c.invite)
			wantError(t, w.expect(mark, "an error", isError(c.from, "e")), c.condition)
		})
	}
	for _, c := range []struct{ clause, to, stanza, condition string }{
		{"message to a contact, encrypted by the client", juliet, "<body>hi</body><openpgp xmlns='urn:xmpp:openpgp:0'/>", "not-acceptable"},
		{"message to nobody", "juliet@" + testUsers, "<body>hi</body>", "item-not-found"},
		{"own user at the gateway", "romeo%xmpp.example@" + testUsers, "<body>hi</body>", "item-not-found"},
		{"invitation to another service's room", juliet, "<x xmlns='jabber:x:conference' jid='a@muc.xmpp.example'/>", "not-acceptable"},
		{"invitation to no room", juliet, "<x xmlns='jabber:x:conference' jid='A%%b%%c@" + testRooms + "'/>", "item-not-found"},
		{"invitation without room", juliet, "<x xmlns='jabber:x:conference'/>", "not-acceptable"},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w.t = t
			mark := w.mark()
			w.toUsers("<message id='e' from='%s' to='%s'>"+c.stanza+"</message>", romeo, c.to)
			wantError(t, w.expect(mark, "an error", isError(romeo, "e")), c.condition)
		})
	}
}

// XEP-0050.
func TestCommands(t *testing.T) {
	w := newBalcony(t)
	command := func(domain, who, at, node, rest string) *element {
		t.Helper()
		return w.ask(domain, who, at, "set", fmt.Sprintf("<command xmlns='http://jabber.org/protocol/commands' node='%s' %s</command>", node, rest))
	}
	note := func(e *element) string { return e.child(nsCommands, "command").text(nsCommands, "note") }
	submit := func(fields ...string) string {
		s := "action='complete' sessionid='s'><x xmlns='jabber:x:data' type='submit'>"
		for i := 0; i < len(fields); i += 2 {
			s += "<field var='" + fields[i] + "'><value>" + fields[i+1] + "</value></field>"
		}
		return s + "</x>"
	}

	// The list, and what each is.
	items := w.ask(testUsers, romeo, testUsers, "get", "<query xmlns='http://jabber.org/protocol/disco#items' node='http://jabber.org/protocol/commands'/>")
	var nodes []string
	for _, k := range items.child(nsDiscoItem, "query").Kids {
		nodes = append(nodes, k.attr("node"))
	}
	if !slices.Equal(nodes[:4], []string{"leave", "create", "join", "invite"}) || len(nodes) != 4+len(simples) {
		t.Errorf("%v", nodes)
	}
	if e := w.ask(testUsers, romeo, testUsers, "get", "<query xmlns='http://jabber.org/protocol/disco#info' node='leave'/>"); e.child(nsDiscoInfo, "query").child(nsDiscoInfo, "identity").attr("type") != "command-node" {
		t.Error(e)
	}
	items = w.ask(testRooms, romeo, balcony, "get", "<query xmlns='http://jabber.org/protocol/disco#items' node='http://jabber.org/protocol/commands'/>")
	if len(items.child(nsDiscoItem, "query").Kids) != 2 {
		t.Error(items)
	}

	// leave, with a form to choose the room.
	e := command(testUsers, romeo, testUsers, "leave", "action='execute'>")
	c := e.child(nsCommands, "command")
	x := c.child(nsData, "x")
	if c.attr("status") != "executing" || c.attr("sessionid") == "" || x.attr("type") != "form" || c.child(nsCommands, "actions") == nil {
		t.Fatal(e)
	}
	f := x.child(nsData, "field")
	if f.attr("type") != "list-single" || f.child(nsData, "option").text(nsData, "value") != balcony {
		t.Error(e)
	}
	mark := w.mark()
	e = command(testUsers, romeo, testUsers, "leave", submit("room", balcony))
	if c := e.child(nsCommands, "command"); c.attr("status") != "completed" || note(e) != "You have left the room." {
		t.Error(e)
	}
	w.expect(mark, "he is out", func(e *element) bool { return to(romeo)(e) && line(e) == "Romeo unavailable none/none 110" })
	if in := w.last(); in.Kind != adapter.LeaveRoom || in.Actor != romeoURI || in.Room != balconyURI {
		t.Errorf("%+v", in)
	}
	if e := command(testUsers, romeo, testUsers, "leave", ">"); note(e) != "You take part in no room." {
		t.Error(e)
	}
	if e := command(testUsers, romeo, testUsers, "leave", submit("room", balcony)); e.child(nsCommands, "command").child(nsCommands, "note").attr("type") != "error" {
		t.Error(e)
	}

	// The others.
	if e := command(testUsers, romeo, testUsers, "create", ">"); e.child(nsCommands, "command").attr("status") != "executing" {
		t.Error(e)
	}
	if e := command(testUsers, romeo, testUsers, "create", submit("room", "orchard", "name", "The Orchard")); note(e) != "The room is orchard@"+testRooms+"." || w.last().Name != "The Orchard" {
		t.Error(e)
	}
	if e := command(testUsers, romeo, testUsers, "invite", submit("room", "orchard", "person", "mimi://matrix.example/u/juliet")); note(e) != juliet+" takes part in the room now." {
		t.Error(e)
	}
	if e := command(testUsers, romeo, testUsers, "join", submit("room", "mimi://hub.example/r/x")); e.attr("type") != "error" {
		t.Error(e)
	}
	// At the room: no form.
	if e := command(testRooms, romeo, "orchard@"+testRooms, "invite", submit("person", "benvolio@xmpp.example")); note(e) != "benvolio@xmpp.example takes part in the room now." {
		t.Error(e)
	}
	if e := command(testRooms, romeo, "orchard@"+testRooms, "leave", "action='execute'>"); note(e) != "You have left the room." {
		t.Error(e)
	}

	for _, c := range []struct{ clause, domain, who, at, node, rest, condition string }{
		{"unknown", testUsers, romeo, testUsers, "sudo", ">", "item-not-found"},
		{"not at a room", testRooms, romeo, balcony, "create", ">", "item-not-found"},
		{"not at a contact", testUsers, romeo, juliet, "leave", ">", "item-not-found"},
		{"not at the rooms", testRooms, romeo, testRooms, "leave", ">", "item-not-found"},
		{"no such action", testUsers, romeo, testUsers, "leave", "action='explode'>", "bad-request"},
		{"a stranger", testUsers, "bob@other.net/x", testUsers, "leave", ">", "forbidden"},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w.t = t
			wantError(t, command(c.domain, c.who, c.at, c.node, c.rest), c.condition)
		})
	}
	if e := command(testUsers, romeo, testUsers, "leave", "action='cancel' sessionid='s'>"); e.child(nsCommands, "command").attr("status") != "canceled" {
		t.Error(e)
	}
}

// XEP-0077 and muc#admin at a room, as far as they mean participation.
func TestRegisterAndAdmin(t *testing.T) {
	w := newBalcony(t)
	w.addLocal(benURI)
	reg := func(who, typ, inner string) *element {
		return w.ask(testRooms, who, balcony, typ, "<query xmlns='jabber:iq:register'>"+inner+"</query>")
	}
	if e := reg(romeo, "get", ""); e.child(nsRegister, "query").child(nsRegister, "registered") == nil || e.child(nsRegister, "query").text(nsRegister, "username") != "Romeo" {
		t.Error(e)
	}
	if e := reg(romeo, "set", "<username>Montague</username>"); e.attr("type") != "result" {
		t.Error(e)
	}
	if e := w.ask(testRooms, romeo, balcony, "get", "<query xmlns='http://jabber.org/protocol/disco#info' node='x-roomuser-item'/>"); e.child(nsDiscoInfo, "query").child(nsDiscoInfo, "identity").attr("name") != "Montague" {
		t.Error(e)
	}
	wantError(t, reg(romeo, "set", "<username>juliet</username>"), "conflict")
	wantError(t, reg("tybalt@xmpp.example/x", "get", ""), "forbidden")

	admin := func(who, typ, items string) *element {
		return w.ask(testRooms, who, balcony, typ, "<query xmlns='http://jabber.org/protocol/muc#admin'>"+items+"</query>")
	}
	list := func(affiliation string) (out []string) {
		for _, k := range admin(romeo, "get", "<item affiliation='"+affiliation+"'/>").child(nsMUCAdmin, "query").Kids {
			out = append(out, k.attr("jid"))
		}
		return out
	}
	if l := list("owner"); !slices.Equal(l, []string{"romeo@xmpp.example"}) {
		t.Errorf("%v", l)
	}
	if l := list("member"); !slices.Equal(l, []string{"benvolio@xmpp.example", juliet}) {
		t.Errorf("%v", l)
	}
	if l := list("outcast"); len(l) != 0 {
		t.Errorf("%v", l)
	}
	if e := admin(romeo, "set", "<item affiliation='member' jid='nurse%matrix.example@"+testUsers+"'/>"); e.attr("type") != "result" || w.last().Kind != adapter.Invite {
		t.Error(e)
	}
	mark := w.mark()
	if e := admin(romeo, "set", "<item affiliation='none' jid='"+juliet+"'/>"); e.attr("type") != "result" || w.last().Kind != adapter.Remove || w.last().Target != julietURI {
		t.Error(e)
	}
	w.expect(mark, "she is out", func(e *element) bool { return to(romeo)(e) && line(e) == "juliet unavailable none/none 321" })
	wantError(t, admin(romeo, "set", "<item role='none' nick='x'/>"), "item-not-found")
	wantError(t, admin(romeo, "set", ""), "bad-request")
	w.tw.do(func() { w.tw.refuse = func(adapter.Intent) error { return fault.New(fault.Forbidden, "not you") } })
	wantError(t, admin(romeo, "set", "<item affiliation='none' jid='benvolio@xmpp.example'/>"), "forbidden")
	w.tw.do(func() { w.tw.refuse = nil })
	if e := admin(benvolio, "set", "<item affiliation='none' jid='benvolio@xmpp.example'/>"); e.attr("type") != "result" || w.last().Kind != adapter.LeaveRoom {
		t.Error(e)
	}
	wantError(t, w.ask(testRooms, benvolio, balcony, "get", "<query xmlns='http://jabber.org/protocol/muc#owner'/>"), "forbidden")
	// Destroying is for owners, and for who is alone.
	destroy := "<query xmlns='http://jabber.org/protocol/muc#owner'><destroy/></query>"
	mark = w.mark()
	if e := w.ask(testRooms, romeo, balcony, "set", destroy); e.attr("type") != "result" || w.last().Kind != adapter.DestroyRoom {
		t.Error(e)
	}
	w.expect(mark, "he is out", func(e *element) bool { return to(romeo)(e) && line(e) == "Montague unavailable none/none 110" })

	// The registration's end is the participation's.
	w.join(romeo, "orchard@"+testRooms, "Romeo")
	mark = w.mark()
	if e := w.ask(testRooms, romeo, "orchard@"+testRooms, "set", "<query xmlns='jabber:iq:register'><remove/></query>"); e.attr("type") != "result" || w.last().Kind != adapter.LeaveRoom {
		t.Error(e)
	}
	w.expect(mark, "he is out", func(e *element) bool { return to(romeo)(e) && line(e) == "Romeo unavailable none/none 110" })
}

// What each address says of itself, and what it does not offer.
func TestDisco(t *testing.T) {
	w := newBalcony(t)
	info := func(domain, who, at string) (string, []string) {
		e := w.ask(domain, who, at, "get", "<query xmlns='http://jabber.org/protocol/disco#info'/>")
		q := e.child(nsDiscoInfo, "query")
		var f []string
		id := ""
		if q == nil {
			return conditionOf(e.Kids), nil
		}
		for _, k := range q.Kids {
			switch k.Local {
			case "identity":
				id = k.attr("category") + "/" + k.attr("type") + " " + k.attr("name")
			case "feature":
				f = append(f, k.attr("var"))
			}
		}
		return id, f
	}
	for _, c := range []struct {
		clause, domain, who, at, identity string
		features                          []string
	}{
		{"gateway", testUsers, romeo, testUsers, "gateway/mimi MIMI gateway", []string{nsDiscoInfo, nsDiscoItem, nsCommands, nsPing, nsRegister}},
		{"rooms", testRooms, romeo, testRooms, "conference/text MIMI rooms", []string{nsMUC, nsDiscoItem}},
		{"room, to a participant", testRooms, romeo, balcony, "conference/text balcony", []string{nsMUC, "muc_membersonly", "muc_nonanonymous", "muc_persistent", "muc_hidden", nsSID, nsOccupant, nsStableID}},
		{"room, to another", testRooms, benvolio, balcony, "conference/text balcony", []string{nsMUC}},
		{"contact", testUsers, romeo, juliet, "account/registered ", []string{nsDiscoInfo}},
		{"no contact", testUsers, romeo, "juliet@" + testUsers, "item-not-found", nil},
		{"no room", testRooms, romeo, "nowhere@" + testRooms, "item-not-found", nil},
		{"no room's name", testRooms, romeo, "a%b%c@" + testRooms, "item-not-found", nil},
		{"occupant", testRooms, romeo, balcony + "/juliet", "service-unavailable", nil},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w.t = t
			id, f := info(c.domain, c.who, c.at)
			if id != c.identity {
				t.Errorf("%q", id)
			}
			for _, want := range c.features {
				if !slices.Contains(f, want) {
					t.Errorf("%s is not among %v", want, f)
				}
			}
		})
	}
	w.t = t
	items := func(domain, who, at string) (out []string) {
		e := w.ask(domain, who, at, "get", "<query xmlns='http://jabber.org/protocol/disco#items'><set xmlns='http://jabber.org/protocol/rsm'><max>z</max></set></query>")
		for _, k := range e.child(nsDiscoItem, "query").Kids {
			out = append(out, k.attr("jid"))
		}
		return out
	}
	for _, c := range []struct {
		domain, who, at string
		want            []string
	}{
		{testUsers, romeo, testUsers, []string{testRooms}},
		{testUsers, romeo, juliet, nil},
		{testRooms, romeo, testRooms, []string{balcony}},
		{testRooms, benvolio, testRooms, nil},
		{testRooms, romeo, balcony, []string{balcony + "/Romeo", balcony + "/juliet"}},
		{testRooms, benvolio, balcony, nil},
	} {
		if got := items(c.domain, c.who, c.at); !slices.Equal(got, c.want) {
			t.Errorf("%s at %s: %v", c.who, c.at, got)
		}
	}

	for _, c := range []struct{ domain, at, typ, payload, want string }{
		{testUsers, testUsers, "get", "<ping xmlns='urn:xmpp:ping'/>", ""},
		{testUsers, juliet, "get", "<ping xmlns='urn:xmpp:ping'/>", ""},
		{testUsers, testUsers, "get", "<query xmlns='jabber:iq:version'/>", ""},
		{testRooms, balcony, "get", "<query xmlns='jabber:iq:version'/>", ""},
		{testUsers, testUsers, "get", "<query xmlns='jabber:iq:register'/>", ""},
		{testUsers, testUsers, "set", "<query xmlns='jabber:iq:register'/>", ""},
		{testUsers, testUsers, "get", "<query xmlns='jabber:iq:gateway'/>", ""},
		{testUsers, testUsers, "set", "<query xmlns='jabber:iq:gateway'><prompt>mimi://matrix.example/u/juliet</prompt></query>", ""},
		{testUsers, testUsers, "set", "<query xmlns='jabber:iq:gateway'><prompt>nonsense</prompt></query>", "item-not-found"},
		{testUsers, testUsers, "set", "<query xmlns='jabber:iq:register'><remove/></query>", "feature-not-implemented"},
		{testRooms, balcony, "set", "<ping xmlns='urn:xmpp:ping'/>", "bad-request"},
		{testRooms, balcony, "get", "", "bad-request"},
		{testRooms, balcony, "get", "<ping xmlns='urn:xmpp:ping'/><ping xmlns='urn:xmpp:ping'/>", "bad-request"},
		{testRooms, balcony, "nonsense", "<ping xmlns='urn:xmpp:ping'/>", "bad-request"},
	} {
		e := w.ask(c.domain, romeo, c.at, c.typ, c.payload)
		if c.want == "" {
			if e.attr("type") != "result" {
				t.Errorf("%s at %s: %s", c.payload, c.at, e)
			}
		} else if got := conditionOf(e.Kids); got != c.want {
			t.Errorf("%s at %s: %s", c.payload, c.at, e)
		}
	}
	// Answers that nobody waits for are passed over, and do not hold up what comes behind.
	for range 3 {
		w.toRooms("<iq type='result' id='x' from='%s' to='%s'/><iq type='error' id='x' from='%s' to='%s'/>", romeo, balcony, testDomain, testRooms)
		w.toRooms("<iq type='result' id='mb-1' from='%s' to='%s'/>", romeo, testRooms)
	}
	w.quiet(romeo)
}

// Presence at the gateway and at contacts.
func TestSubscriptions(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ typ, at, want string }{
		{"subscribe", testUsers, "subscribed"},
		{"subscribe", "nobody@" + testUsers, "unsubscribed"},
		{"unsubscribe", juliet, "unsubscribed"},
		{"probe", testUsers, ""},
	} {
		mark := w.mark()
		w.toUsers("<presence type='%s' id='p' from='romeo@xmpp.example' to='%s'/>", c.typ, c.at)
		e := w.expect(mark, "an answer", func(e *element) bool { return e.Local == "presence" && e.attr("from") == c.at })
		if e.attr("type") != c.want {
			t.Errorf("%s at %s: %s", c.typ, c.at, e)
		}
	}
}

func TestLocalUser(t *testing.T) {
	w := newWorld(t)
	w.tw.do(func() {
		w.tw.levels["tybalt@xmpp.example"] = adapter.LevelNone
		w.tw.levels["bob@other.net"] = adapter.LevelUser
	})
	for uri, want := range map[string]bool{
		"mimi://xmpp.example/u/romeo":              true,
		"mimi://xmpp.example/u/tybalt":             false,
		"mimi://xmpp.example/u/bob@other.net":      true,
		"mimi://xmpp.example/u/alice@other.net":    false,
		"mimi://xmpp.example/u/romeo@xmpp.example": false,
		"mimi://xmpp.example/u/Romeo":              false,
		"mimi://xmpp.example/u/a%20b":              false,
		"mimi://matrix.example/u/juliet":           false,
		"mimi://xmpp.example/r/romeo":              false,
	} {
		got, err := w.tw.adapter.LocalUser(t.Context(), mimiuri.MustParse(uri))
		if err != nil || got != want {
			t.Errorf("%s: %v %v", uri, got, err)
		}
	}
}

// A flood at one room is answered there, and holds up nobody else.
func TestFlood(t *testing.T) {
	w := newBalcony(t)
	block := make(chan bool)
	release := sync.OnceFunc(func() { close(block) })
	defer release() // or a failure would hang in the cleanup
	w.tw.do(func() {
		w.tw.reject = func(in adapter.Intent) error {
			if in.Kind == adapter.SendMessage && in.Actor == romeoURI {
				w.tw.mu.Unlock()
				<-block
				w.tw.mu.Lock()
			}
			return nil
		}
	})
	mark := w.mark()
	var all strings.Builder
	for i := range queueMax + 100 {
		fmt.Fprintf(&all, "<message type='groupchat' id='f%d' from='%s' to='%s'><body>x%d</body></message>", i, romeo, balcony, i)
	}
	w.toRooms("%s", all.String())
	e := w.expect(mark, "an error", func(e *element) bool { return e.attr("type") == "error" && e.attr("to") == romeo })
	wantError(t, e, "resource-constraint")
	// Another room, and the reader, go on meanwhile.
	w.join(benvolio, "street@"+testRooms, "Ben")
	release()
	w.expect(mark, "the first", isMessage(romeo, "x0"))
}
