package xmpp

import (
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// XEP-0045 clause by clause: what an occupant with privileges does, and what becomes of it, for the provider and for the
// others. The other clauses have tests of their own: 7 (entering, leaving, messages) in muc_test.go and messages_test.go.
func TestClauses(t *testing.T) {
	covers(t, "kick, ban, voice, affiliations, configuration, destroying", "XEP-0045 8 to 10", "both", "stanzas")
	const muc = "http://jabber.org/protocol/"
	admin := func(items string) string { return "<query xmlns='" + muc + "muc#admin'>" + items + "</query>" }
	conf := func(fields string) string {
		return "<query xmlns='" + muc + "muc#owner'><x xmlns='jabber:x:data' type='submit'>" + fields + "</x></query>"
	}
	ben := "benvolio@xmpp.example"
	for _, c := range []struct {
		clause, query string
		before        func(w *world)
		kind          adapter.IntentKind // 0: none
		check         func(in adapter.Intent) bool
		shown         string // to Ben
		condition     string // of the answer
	}{
		{clause: "8.2 kicking an occupant", query: admin("<item role='none' nick='juliet'><reason>enough</reason></item>"), kind: adapter.Remove,
			check: func(in adapter.Intent) bool { return in.Target == julietURI && in.Reason == "enough" }, shown: "juliet unavailable none/none 307"},
		{clause: "8.2 kicking oneself", query: admin("<item role='none' nick='Romeo'/>"), condition: "not-allowed"},
		{clause: "8.2 kicking nobody", query: admin("<item role='none' nick='nobody'/>"), condition: "item-not-found"},
		{clause: "8.3 granting voice", query: admin("<item role='participant' nick='juliet'/>"), before: func(w *world) { w.mute(julietURI) }, kind: adapter.ChangeRole,
			check: func(in adapter.Intent) bool { return in.Role == 2 }, shown: "juliet  member/participant"},
		{clause: "8.4 revoking voice", query: admin("<item role='visitor' nick='juliet'/>"), kind: adapter.ChangeRole,
			check: func(in adapter.Intent) bool { return in.Role == 5 }, shown: "juliet  member/visitor"},
		{clause: "8.4 revoking an admin's voice", query: admin("<item role='visitor' nick='Romeo'/>"), condition: "not-allowed"},
		{clause: "8.5 the voice list", query: admin("<item role='visitor' nick='juliet'/><item role='visitor' jid='" + ben + "'/>"), kind: adapter.ChangeRole,
			check: func(in adapter.Intent) bool { return in.Role == 5 }, shown: "Ben  member/visitor 110"},
		{clause: "9.1 banning a participant", query: admin("<item affiliation='outcast' jid='" + juliet + "'><reason>rude</reason></item>"), kind: adapter.Ban,
			check: func(in adapter.Intent) bool { return in.Target == julietURI && in.Reason == "rude" }, shown: "juliet unavailable outcast/none 301"},
		{clause: "9.1 banning somebody who is not there", query: admin("<item affiliation='outcast' jid='tybalt%matrix.example@" + testUsers + "'/>"), kind: adapter.Ban,
			check: func(in adapter.Intent) bool { return in.Target.ID == "tybalt" }},
		{clause: "9.1 banning oneself", query: admin("<item affiliation='outcast' jid='romeo@xmpp.example'/>"), condition: "conflict"},
		{clause: "9.2 unbanning", query: admin("<item affiliation='none' jid='tybalt%matrix.example@" + testUsers + "'/>"), before: func(w *world) { w.ban("tybalt") }, kind: adapter.Unban,
			check: func(in adapter.Intent) bool { return in.Target.ID == "tybalt" }},
		{clause: "9.3 granting membership", query: admin("<item affiliation='member' jid='nurse%matrix.example@" + testUsers + "'/>"), kind: adapter.Invite,
			check: func(in adapter.Intent) bool { return in.Target.ID == "nurse" }, shown: "nurse  member/participant"},
		{clause: "9.3 granting membership to the banned", query: admin("<item affiliation='member' jid='tybalt%matrix.example@" + testUsers + "'/>"), before: func(w *world) { w.ban("tybalt") }, kind: adapter.Invite,
			check: func(in adapter.Intent) bool { return in.Target.ID == "tybalt" }, shown: "tybalt  member/participant"},
		{clause: "9.4 revoking membership", query: admin("<item affiliation='none' jid='" + juliet + "'/>"), kind: adapter.Remove,
			check: func(in adapter.Intent) bool { return in.Target == julietURI }, shown: "juliet unavailable none/none 321"},
		{clause: "9.6 granting moderator status", query: admin("<item role='moderator' nick='juliet'/>"), kind: adapter.ChangeRole,
			check: func(in adapter.Intent) bool { return in.Role == 3 }, shown: "juliet  admin/moderator"},
		{clause: "9.7 revoking moderator status", query: admin("<item role='participant' nick='juliet'/>"), before: func(w *world) { w.promote(julietURI) }, kind: adapter.ChangeRole,
			check: func(in adapter.Intent) bool { return in.Role == 2 }, shown: "juliet  member/participant"},
		{clause: "9.7 revoking an owner's moderator status", query: admin("<item role='participant' nick='Romeo'/>"), condition: "not-allowed"},
		{clause: "10.3 granting owner status", query: admin("<item affiliation='owner' jid='" + juliet + "'/>"), kind: adapter.ChangeRole,
			check: func(in adapter.Intent) bool { return in.Role == 4 }, shown: "juliet  owner/moderator"},
		{clause: "10.6 granting admin status", query: admin("<item affiliation='admin' jid='" + juliet + "'/>"), kind: adapter.ChangeRole,
			check: func(in adapter.Intent) bool { return in.Role == 3 }, shown: "juliet  admin/moderator"},
		{clause: "10.6 granting admin status to a newcomer", query: admin("<item affiliation='admin' jid='nurse%matrix.example@" + testUsers + "'/>"), kind: adapter.Invite,
			check: func(in adapter.Intent) bool { return in.Role == 3 }},
		{clause: "no such affiliation", query: admin("<item affiliation='king' jid='" + juliet + "'/>"), condition: "bad-request"},
		{clause: "no such role", query: admin("<item role='king' nick='juliet'/>"), condition: "bad-request"},
		{clause: "10.2 the name", query: conf("<field var='muc#roomconfig_roomname'><value>The Balcony</value></field>"), kind: adapter.SetMetadata,
			check: func(in adapter.Intent) bool {
				return *in.Metadata.Name == "The Balcony" && in.Metadata.Description == nil
			}, shown: "message : 104"},
		{clause: "10.2 the description", query: conf("<field var='muc#roomconfig_roomdesc'><value>high</value></field>"), kind: adapter.SetMetadata,
			check: func(in adapter.Intent) bool { return *in.Metadata.Description == "high" }},
		{clause: "10.2 open to all", query: conf("<field var='muc#roomconfig_membersonly'><value>0</value></field>"), kind: adapter.SetPolicy,
			check: func(in adapter.Intent) bool { return *in.Policy.Open && in.Policy.History == nil }, shown: "message : 104"},
		{clause: "10.2 publicly listed", query: conf("<field var='muc#roomconfig_publicroom'><value>true</value></field>"), kind: adapter.SetPolicy,
			check: func(in adapter.Intent) bool { return *in.Policy.Discoverable }},
		{clause: "10.2 the history", query: conf("<field var='mimi#history'><value>1</value></field>"), kind: adapter.SetPolicy,
			check: func(in adapter.Intent) bool { return *in.Policy.History }},
		{clause: "10.2 the most participants", query: conf("<field var='muc#roomconfig_maxusers'><value>50</value></field>"), kind: adapter.SetPolicy,
			check: func(in adapter.Intent) bool { return *in.Policy.MaxUsers == 50 }},
		{clause: "10.2 name and policy at once", query: conf("<field var='muc#roomconfig_roomname'><value>X</value></field><field var='muc#roomconfig_publicroom'><value>1</value></field>"), kind: adapter.SetPolicy,
			check: func(in adapter.Intent) bool { return *in.Policy.Discoverable }},
		{clause: "10.2 nothing has changed", query: conf("<field var='muc#roomconfig_publicroom'><value>0</value></field><field var='muc#roomconfig_persistentroom'><value>1</value></field>")},
		{clause: "10.2 a password", query: conf("<field var='muc#roomconfig_passwordprotectedroom'><value>1</value></field>"), condition: "not-acceptable"},
		{clause: "10.2 anonymous", query: conf("<field var='muc#roomconfig_whois'><value>moderators</value></field>"), condition: "not-acceptable"},
		{clause: "10.2 no number", query: conf("<field var='muc#roomconfig_maxusers'><value>many</value></field>"), condition: "not-acceptable"},
		{clause: "10.2 too long", query: conf("<field var='muc#roomconfig_roomname'><value>" + strings.Repeat("x", 5000) + "</value></field>"), condition: "not-acceptable"},
		{clause: "10.2 cancelled", query: "<query xmlns='" + muc + "muc#owner'><x xmlns='jabber:x:data' type='cancel'/></query>"},
		{clause: "10.2 no form", query: "<query xmlns='" + muc + "muc#owner'/>", condition: "bad-request"},
		{clause: "10.9 destroying", query: "<query xmlns='" + muc + "muc#owner'><destroy><reason>over</reason></destroy></query>", kind: adapter.DestroyRoom,
			check: func(in adapter.Intent) bool { return true }, shown: "Ben unavailable none/none 110"},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w := newBalcony(t)
			w.addLocal(benURI)
			w.join(benvolio, balcony, "Ben")
			if c.before != nil {
				c.before(w)
			}
			var n int
			w.tw.do(func() { n = len(w.tw.intents) })
			mark := w.mark()
			e := w.ask(testRooms, romeo, balcony, "set", c.query)
			if c.condition != "" {
				wantError(t, e, c.condition)
			} else if e.attr("type") != "result" {
				t.Fatal(e)
			}
			var in adapter.Intent
			w.tw.do(func() {
				if len(w.tw.intents) > n {
					in = w.tw.intents[len(w.tw.intents)-1]
				}
			})
			if in.Kind != c.kind || c.check != nil && !c.check(in) {
				t.Errorf("%+v", in)
			}
			if c.shown != "" {
				w.expect(mark, c.shown, func(e *element) bool { return to(benvolio)(e) && clauseLine(e) == c.shown })
			}
			// Nobody who is not an owner or admin may do it.
			if c.kind != adapter.DestroyRoom && strings.Contains(c.query, "muc#owner") {
				wantError(t, w.ask(testRooms, benvolio, balcony, "set", c.query), "forbidden")
			}
		})
	}
}

func clauseLine(e *element) string {
	if e.Local == "message" && e.child(nsMUCUser, "x") != nil {
		return "message : " + codesOf(e)
	}
	return line(e)
}

// promote makes somebody an admin.
func (w *world) promote(u mimiuri.URI) {
	w.tw.do(func() {
		r := w.tw.room(balconyURI)
		w.tw.setRole(r, u, 3)
		w.tw.emit(r, adapter.Event{Kind: adapter.RoleChanged, User: u, Actor: romeoURI, Role: 3})
	})
	w.tw.must(w.tw.delivered(balconyURI))
}

// mute makes somebody a visitor, ban bans somebody elsewhere.
func (w *world) mute(u mimiuri.URI) {
	w.tw.do(func() {
		r := w.tw.room(balconyURI)
		w.tw.setRole(r, u, 5)
		w.tw.emit(r, adapter.Event{Kind: adapter.RoleChanged, User: u, Actor: romeoURI, Role: 5})
	})
	w.tw.must(w.tw.delivered(balconyURI))
}

func (w *world) ban(name string) {
	w.tw.do(func() {
		r := w.tw.room(balconyURI)
		u := mimiuri.URI{Domain: "matrix.example", Kind: mimiuri.User, ID: name}
		r.info.Banned = append(r.info.Banned, u)
		w.tw.emit(r, adapter.Event{Kind: adapter.Banned, User: u, Actor: romeoURI})
	})
	w.tw.must(w.tw.delivered(balconyURI))
}

// XEP-0045 9.2 and 9.5: the lists; 6.4: what is said of a room; 10.2: the form.
func TestListsAndInfo(t *testing.T) {
	covers(t, "room information and lists", "XEP-0030, XEP-0045 6.4", "from MIMI", "stanzas")
	w := newBalcony(t)
	w.ban("tybalt")
	e := w.ask(testRooms, romeo, balcony, "get", "<query xmlns='http://jabber.org/protocol/muc#admin'><item affiliation='outcast'/></query>")
	if q := e.child(nsMUCAdmin, "query"); q == nil || len(q.Kids) != 1 || q.Kids[0].attr("jid") != "tybalt%matrix.example@"+testUsers {
		t.Error(e)
	}
	w.tw.do(func() {
		r := w.tw.room(balconyURI)
		r.info.Open, r.info.Discoverable, r.info.Description, r.info.MaxUsers = true, true, "high up", 50
	})
	for _, who := range []string{romeo, benvolio} {
		e = w.ask(testRooms, who, balcony, "get", "<query xmlns='http://jabber.org/protocol/disco#info'/>")
		text := e.String()
		for _, want := range []string{"muc_public", "muc_open", "muc_moderated", "muc_nonanonymous", "urn:xmpp:mam:2", "urn:xmpp:message-moderate:1", "high up", "<value>50</value>"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s is missing in %s", want, text)
			}
		}
	}
	e = w.ask(testRooms, benvolio, testRooms, "get", "<query xmlns='http://jabber.org/protocol/disco#items'/>")
	if q := e.child(nsDiscoItem, "query"); len(q.Kids) != 1 || q.Kids[0].attr("jid") != balcony {
		t.Error(e)
	}
	x := w.ask(testRooms, romeo, balcony, "get", "<query xmlns='http://jabber.org/protocol/muc#owner'/>").child(nsMUCOwner, "query").child(nsData, "x")
	for name, want := range map[string]string{confName: "balcony", confDesc: "high up", confPublic: "1", confMembers: "0", confMaxUsers: "50", confHistory: "0"} {
		if got := formValue(x, name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	// 7.10: whoever may join may register, which is joining.
	if e := w.ask(testRooms, benvolio, balcony, "set", "<query xmlns='jabber:iq:register'><username>Ben</username></query>"); e.attr("type") != "result" || w.tw.count(adapter.JoinRoom) != 1 {
		t.Error(e)
	}
}

// 8.6 and 7.4: without voice nothing is sent; a role that changes elsewhere is shown.
func TestVoice(t *testing.T) {
	w := newBalcony(t)
	w.addLocal(benURI)
	w.join(benvolio, balcony, "Ben")
	mark := w.mark()
	w.mute(benURI)
	w.expect(mark, "his role", func(e *element) bool { return to(romeo)(e) && line(e) == "Ben  member/visitor" })
	w.toRooms("<message type='groupchat' id='x' from='%s' to='%s'><body>x</body></message>", benvolio, balcony)
	wantError(t, w.expect(mark, "an error", isError(benvolio, "x")), "forbidden")
}

// A notice of the provider is shown to whom it is for.
func TestNotice(t *testing.T) {
	w := newBalcony(t)
	mark := w.mark()
	w.tw.do(func() {
		w.tw.emit(w.tw.room(balconyURI), adapter.Event{Kind: adapter.Notice, Notice: "the hub cannot be reached"})
	})
	if e := w.expect(mark, "the notice", isMessage(romeo, "the hub cannot be reached")); e.attr("from") != balcony {
		t.Error(e)
	}
}

// XEP-0045 section 10.1: a room that somebody has made is locked to whoever was not invited until its owner has said how it is to be.
// An instant room is open, listed and has its history, as its form says before; one that is configured is as configured.
func TestNewRooms(t *testing.T) {
	covers(t, "new rooms: locked, instant, reserved", "XEP-0045 10.1", "both", "stanzas")
	submit := func(fields string) string {
		return "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'>" + fields + "</x></query>"
	}
	fields := func(e *element) map[string]string {
		out := map[string]string{}
		for _, f := range e.child(nsMUCOwner, "query").child(nsData, "x").Kids {
			out[f.attr("var")] = f.text(nsData, "value")
		}
		return out
	}
	for _, c := range []struct {
		name, form string
		public     bool
	}{
		{"instant", "", true},
		{"reserved, as offered", aField("FORM_TYPE", nsRoomConf) + aField("muc#roomconfig_membersonly", "0") + aField("muc#roomconfig_publicroom", "1") + aField("mimi#history", "1"), true},
		{"reserved, for members only", aField("muc#roomconfig_membersonly", "1") + aField("muc#roomconfig_publicroom", "0"), false},
		{"reserved, with a name and nothing else", aField("muc#roomconfig_roomname", "The Balcony"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.tw.do(func() {
				w.tw.refuse = func(in adapter.Intent) error {
					if r := w.tw.rooms[in.Room]; in.Kind == adapter.JoinRoom && r.known && !r.info.Open {
						return fault.New(fault.Forbidden, "this room is by invitation only")
					}
					return nil
				}
			})
			w.join(romeo, balcony, "Romeo")
			wantError(t, w.join(benvolio, balcony, "Ben"), "item-not-found")
			get := "<query xmlns='http://jabber.org/protocol/muc#owner'/>"
			f := fields(w.ask(testRooms, romeo, balcony, "get", get))
			if f["muc#roomconfig_membersonly"] != "0" || f["muc#roomconfig_publicroom"] != "1" || f["mimi#history"] != "1" || f["muc#roomconfig_passwordprotectedroom"] != "0" {
				t.Errorf("the form of a new room: %v", f)
			}
			w.restart()
			if e := w.ask(testRooms, romeo, balcony, "set", submit(c.form)); e.attr("type") != "result" {
				t.Fatal(e)
			}
			w.tw.must(w.tw.delivered(balconyURI))
			w.tw.do(func() {
				if i := w.tw.room(balconyURI).info; i.Open != c.public || i.Discoverable != c.public || i.History != c.public {
					t.Errorf("%+v", i)
				}
			})
			if e := w.join(benvolio, balcony, "Ben"); c.public && e.attr("type") != "" || !c.public && conditionOf([]*element{e.child("", "error")}) != "registration-required" {
				t.Error(e)
			}
			yes := map[bool]string{true: "1", false: "0"}
			if f := fields(w.ask(testRooms, romeo, balcony, "get", get)); f["muc#roomconfig_membersonly"] != yes[!c.public] || f["muc#roomconfig_publicroom"] != yes[c.public] {
				t.Errorf("the form afterwards: %v", f)
			}
			if !c.public {
				return
			}
			// 6.5: who is in a room that is listed and open is no secret; 6.6: but nobody else asks about an occupant.
			tybalt := "tybalt@xmpp.example/x"
			items := "<query xmlns='http://jabber.org/protocol/disco#items'/>"
			if n := len(w.ask(testRooms, tybalt, balcony, "get", items).child(nsDiscoItem, "query").Kids); n != 2 {
				t.Errorf("%d occupants are listed", n)
			}
			wantError(t, w.ask(testRooms, tybalt, balcony+"/Romeo", "get", items), "bad-request")
			wantError(t, w.ask(testRooms, romeo, balcony+"/Ben", "get", items), "service-unavailable")
		})
	}
}

// XEP-0045 7.2.7 and 7.2.9: the banned, and a room that is full.
func TestNotLetIn(t *testing.T) {
	covers(t, "joining: banned, full", "XEP-0045 7.2", "to MIMI", "stanzas")
	w := newBalcony(t)
	w.tw.do(func() {
		r := w.tw.room(balconyURI)
		r.info.Open, r.info.MaxUsers = true, 2
		r.info.Banned = append(r.info.Banned, benURI)
		w.tw.refuse = func(in adapter.Intent) error { return fault.New(fault.Forbidden, "no") }
	})
	wantError(t, w.join(benvolio, balcony, "Ben"), "forbidden")
	wantError(t, w.join("tybalt@xmpp.example/x", balcony, "Tybalt"), "service-unavailable")
}

// XEP-0045 7.6 and 7.14 with 18.9 (stable_id): what an occupant's presence brings about comes back with its id.
func TestPresenceIDs(t *testing.T) {
	w := newBalcony(t)
	mark := w.mark()
	w.toRooms("<presence id='p1' from='%s' to='%s/Montague'/>", romeo, balcony)
	w.expect(mark, "the new nick", func(e *element) bool {
		return to(romeo)(e) && hasCode(e, "110") && e.attr("id") == "p1" && e.attr("type") == ""
	})
	mark = w.mark()
	w.toRooms("<presence id='p2' type='unavailable' from='%s' to='%s/Montague'/>", romeo, balcony)
	e := w.expect(mark, "the end", func(e *element) bool { return to(romeo)(e) && e.attr("type") == "unavailable" })
	if e.attr("id") != "p2" || !hasCode(e, "110") {
		t.Error(e)
	}
}

// XEP-0045 10.9: every occupant is told that the room is destroyed and why, the owner too.
func TestDestroyed(t *testing.T) {
	w := newBalcony(t)
	w.addLocal(benURI)
	w.join(benvolio, balcony, "Ben")
	mark := w.mark()
	w.ask(testRooms, romeo, balcony, "set", "<query xmlns='http://jabber.org/protocol/muc#owner'><destroy><reason>moved</reason></destroy></query>")
	for _, who := range []string{romeo, benvolio} {
		e := w.expect(mark, "the end for "+who, func(e *element) bool { return to(who)(e) && hasCode(e, "110") })
		if d := e.child(nsMUCUser, "x").child(nsMUCUser, "destroy"); d.text(nsMUCUser, "reason") != "moved" || e.attr("type") != "unavailable" {
			t.Error(e)
		}
	}
}
