package xmpp

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

const (
	plaza  = "plaza@muc." + testDomain
	botAt  = botLocal + "@" + testUsers
	botFul = botAt + "/plumb"
)

// conference is a chat room of a conference service in the stub: it lets in, sends presence and messages to everybody, and does what
// admins ask for.
type conference struct {
	w     *world
	jid   string
	who   map[string]string // full address by nick
	order []string
	aff   map[string]string // by bare address
	role  map[string]string // by nick, where it is another than participant
	join  map[string]string // by bare address: the condition with which a join is refused
	asked []*element        // requests for voice, and of muc#admin
	n     int
	hide  bool // addresses
}

func newConference(w *world, jid string) *conference {
	c := &conference{w: w, jid: jid, who: map[string]string{}, aff: map[string]string{}, role: map[string]string{}, join: map[string]string{}}
	w.stub.mu.Lock()
	defer w.stub.mu.Unlock()
	w.received = c.received
	return c
}

// out sends to an address, if it is one of the bridge's. stub.mu is held.
func (c *conference) out(to, format string, args ...any) {
	if a, err := parseAddr(to); err == nil && a.domain == testUsers && c.w.conns[testUsers] != nil {
		fmt.Fprintf(c.w.conns[testUsers], format, args...)
	}
}

func (c *conference) item(nick string) string {
	a, _ := parseAddr(c.who[nick])
	aff, role := c.aff[a.bare().String()], c.role[nick]
	if aff == "" {
		aff = "none"
	}
	if role == "" {
		role = "participant"
		if aff == "owner" || aff == "admin" {
			role = "moderator"
		}
	}
	if c.hide {
		return fmt.Sprintf("<item affiliation='%s' role='%s'", aff, role)
	}
	return fmt.Sprintf("<item affiliation='%s' role='%s' jid='%s'", aff, role, c.who[nick])
}

// enter lets somebody in; stub.mu is held.
func (c *conference) enter(full, nick string) {
	old := c.who[nick] != ""
	c.who[nick] = full
	if !old {
		c.order = append(c.order, nick)
	}
	for _, other := range c.order {
		if other != nick {
			c.out(full, "<presence from='%s/%s' to='%s'><x xmlns='%s'>%s/></x></presence>", c.jid, other, full, nsMUCUser, c.item(other))
			c.out(c.who[other], "<presence from='%s/%s' to='%s'><x xmlns='%s'>%s/></x></presence>", c.jid, nick, c.who[other], nsMUCUser, c.item(nick))
		}
	}
	c.out(full, "<presence from='%s/%s' to='%s'><x xmlns='%s'>%s/><status code='110'/></x></presence>", c.jid, nick, full, nsMUCUser, c.item(nick))
}

// leave takes somebody out; stub.mu is held.
func (c *conference) leave(nick, code, actor, reason string) {
	full := c.who[nick]
	if full == "" {
		return
	}
	for _, other := range c.order {
		self := ""
		if other == nick {
			self = "<status code='110'/>"
		}
		status := ""
		if code != "" {
			status = "<status code='" + code + "'/>"
		}
		by := ""
		if actor != "" {
			by = "<actor nick='" + actor + "'/><reason>" + reason + "</reason>"
		}
		c.out(c.who[other], "<presence type='unavailable' from='%s/%s' to='%s'><x xmlns='%s'>%s>%s</item>%s%s</x></presence>", c.jid, nick, c.who[other], nsMUCUser, c.item(nick), by, status, self)
	}
	delete(c.who, nick)
	for i, n := range c.order {
		if n == nick {
			c.order = append(c.order[:i:i], c.order[i+1:]...)
		}
	}
}

// say sends a message of an occupant to everybody; stub.mu is held.
func (c *conference) say(nick, id, kids string) {
	c.n++
	for _, other := range c.order {
		c.out(c.who[other], "<message type='groupchat' id='%s' from='%s/%s' to='%s'>%s<stanza-id xmlns='%s' id='sid-%d' by='%s'/></message>", id, c.jid, nick, c.who[other], kids, nsSID, c.n, c.jid)
	}
}

func (c *conference) nickOf(full string) string {
	for nick, j := range c.who {
		if j == full {
			return nick
		}
	}
	return ""
}

// received is the conference service's side; stub.mu is held.
func (c *conference) received(e *element) {
	to, _ := parseAddr(e.attr("to"))
	from := e.attr("from")
	fromA, _ := parseAddr(from)
	switch {
	case e.Local == "iq" && e.attr("type") == "get":
		c.out(from, "<iq type='error' id='%s' from='%s' to='%s'><error type='cancel'><service-unavailable xmlns='%s'/></error></iq>", e.attr("id"), e.attr("to"), from, nsStanzas)
	case to.bare().String() != c.jid:
	case e.Local == "presence" && e.attr("type") == "" && e.child(nsMUC, "x") != nil:
		if cond := c.join[fromA.bare().String()]; cond != "" {
			c.out(from, "<presence type='error' from='%s' to='%s'><error type='auth'><%s xmlns='%s'/></error></presence>", e.attr("to"), from, cond, nsStanzas)
			return
		}
		if other := c.who[to.resource]; other != "" && other != from {
			c.out(from, "<presence type='error' from='%s' to='%s'><error type='cancel'><conflict xmlns='%s'/></error></presence>", e.attr("to"), from, nsStanzas)
			return
		}
		c.enter(from, to.resource)
	case e.Local == "presence" && e.attr("type") == "unavailable":
		c.leave(c.nickOf(from), "", "", "")
	case e.Local == "message" && e.attr("type") == "groupchat":
		nick := c.nickOf(from)
		if nick == "" || c.role[nick] == "visitor" {
			cond := "not-acceptable"
			if nick != "" {
				cond = "forbidden"
			}
			c.out(from, "<message type='error' id='%s' from='%s' to='%s'><error type='auth'><%s xmlns='%s'/></error></message>", e.attr("id"), c.jid, from, cond, nsStanzas)
			return
		}
		kids := ""
		for _, k := range e.Kids {
			kids += k.String()
		}
		c.say(nick, e.attr("id"), kids)
	case e.Local == "message":
		c.asked = append(c.asked, e)
	case e.Local == "iq":
		c.asked = append(c.asked, e)
		if q := e.child(nsMUCAdmin, "query"); q != nil && len(q.Kids) == 1 {
			item := q.Kids[0]
			switch {
			case item.attr("role") == "participant":
				delete(c.role, item.attr("nick"))
			case item.attr("role") == "none":
				c.leave(item.attr("nick"), "307", c.nickOf(from), "")
			case item.attr("affiliation") != "":
				c.aff[item.attr("jid")] = item.attr("affiliation")
				delete(c.join, item.attr("jid"))
			}
		}
		c.out(from, "<iq type='result' id='%s' from='%s' to='%s'/>", e.attr("id"), c.jid, from)
	}
}

// do runs f as the conference service.
func (c *conference) do(f func()) {
	c.w.stub.mu.Lock()
	defer c.w.stub.mu.Unlock()
	f()
	c.w.changed.Broadcast()
}

// newPlaza is a MIMI room of romeo with juliet in it, and a chat room that he and ben are in; the bridge is its admin.
func newPlaza(t *testing.T, change func(*Config)) (*world, *conference) {
	s := newStub(t)
	cfg := testConfig(s.addr)
	if change != nil {
		change(&cfg)
	}
	w := &world{s, newTwin(t, cfg)}
	w.tw.start()
	s.up()
	w.tw.do(func() {
		r := w.tw.room(balconyURI)
		w.tw.add(r, romeoURI, romeoURI, nil)
		w.tw.setRole(r, romeoURI, 4)
		w.tw.add(r, julietURI, romeoURI, nil)
	})
	w.tw.must(w.tw.delivered(balconyURI))
	c := newConference(w, plaza)
	c.do(func() {
		c.aff["romeo@"+testDomain], c.aff[botAt] = "owner", "admin"
		c.enter(romeo, "Romeo")
		c.enter(benvolio, "Ben")
	})
	return w, c
}

// plumb says it to the gateway and gives the answer.
func (w *world) plumb(text string) string {
	w.t.Helper()
	return w.says(romeo, text)
}

// inRoom waits until somebody takes part in the MIMI room.
func (w *world) takesPart(u mimiuri.URI) {
	w.t.Helper()
	w.tw.must(w.tw.until(u.String()+" takes part", func() bool { _, in := participant(w.tw.rooms[balconyURI].info, u); return in }))
	w.tw.must(w.tw.delivered(balconyURI))
}

func (w *world) isOut(u mimiuri.URI) {
	w.t.Helper()
	w.tw.must(w.tw.until(u.String()+" is out", func() bool { _, in := participant(w.tw.rooms[balconyURI].info, u); return !in }))
	w.tw.must(w.tw.delivered(balconyURI))
}

// groupchats gives what the chat room was sent, from mark on, as "from: body".
func (w *world) groupchats(mark int) (out []string) {
	for _, e := range w.since(mark, func(e *element) bool {
		return e.Local == "message" && e.attr("type") == "groupchat" && e.attr("to") == plaza
	}) {
		from, _ := parseAddr(e.attr("from"))
		if !strings.HasPrefix(e.attr("id"), "say-") {
			out = append(out, from.local+": "+bodyText(e))
		}
	}
	return out
}

// Who may connect what.
func TestPlumbRefusals(t *testing.T) {
	covers(t, "connecting a chat room: who may, and what not", "XEP-0045", "to MIMI", "stanzas")
	for _, c := range []struct {
		clause, line, want string
		change             func(c *conference)
	}{
		{"not a room at the rooms domain", "plumb x@" + testRooms + " balcony", "MIMI room already", nil},
		{"not a person elsewhere", "plumb " + juliet + " balcony", "MIMI room already", nil},
		{"not a room of another server", "plumb x@conference.other.example balcony", "own conference service", nil},
		{"not an account", "plumb romeo@" + testDomain + " balcony", "named by its address", nil},
		{"not with a room one does not take part in", "plumb " + plaza + " elsewhere", "Join it first", nil},
		{"only as its owner", "plumb " + plaza + " balcony", "have to be an owner", func(c *conference) { c.aff["romeo@"+testDomain] = "admin" }},
		{"only while in it", "plumb " + plaza + " balcony", "have to be an owner", func(c *conference) { c.leave("Romeo", "", "", "") }},
		{"not where the bridge is banned", "plumb " + plaza + " balcony", "cannot enter", func(c *conference) { c.join[botAt] = "forbidden" }},
		{"not with another bridge in it, by its address", "plumb " + plaza + " balcony", "Another bridge", func(c *conference) { c.enter("_irc_x@irc.xmpp.example/x", "x") }},
		{"not with another bridge in it, by its nick", "plumb " + plaza + " balcony", "Another bridge", func(c *conference) { c.enter("a@xmpp.example/x", "a[m]") }},
		{"not where nobody's address can be seen", "plumb " + plaza + " balcony", "cannot see who is who", func(c *conference) { c.hide = true }},
		{"neither speakers nor none", "plumb " + plaza + " balcony everybody", "speakers", nil},
	} {
		t.Run(c.clause, func(t *testing.T) {
			w, conf := newPlaza(t, func(c *Config) { c.OtherBridges = []string{"_irc_*@irc.xmpp.example", `*\[m\]`} })
			if c.change != nil {
				conf.do(func() { c.change(conf) })
			}
			if got := w.plumb(c.line); !strings.Contains(got, c.want) {
				t.Errorf("%q", got)
			}
			if n := w.tw.count(adapter.SendMessage) + w.tw.count(adapter.Invite); n != 0 {
				t.Errorf("%d intents", n)
			}
			conf.do(func() {
				if conf.nickOf(botFul) != "" {
					t.Error("the bridge has stayed")
				}
			})
		})
	}
}

// The other side has to agree where who asks is no admin of the MIMI room.
func TestPlumbOtherSide(t *testing.T) {
	covers(t, "an admin of the MIMI room confirms or refuses", "–", "from MIMI", "stanzas")
	for _, answer := range []string{"agree", "refuse"} {
		t.Run(answer, func(t *testing.T) {
			w, c := newPlaza(t, nil)
			w.tw.do(func() {
				w.tw.setRole(w.tw.rooms[balconyURI], romeoURI, 2)
				w.tw.setRole(w.tw.rooms[balconyURI], julietURI, 3)
			})
			w.tw.do(func() { w.tw.emit(w.tw.rooms[balconyURI], adapter.Event{Kind: adapter.Policy, Actor: julietURI}) })
			w.tw.must(w.tw.delivered(balconyURI))
			if got := w.plumb("plumb " + plaza + " balcony"); !strings.Contains(got, "An admin of the MIMI room has to agree") {
				t.Fatalf("%q", got)
			}
			ask := string(w.last().Content.Body.Content)
			_, code, _ := strings.Cut(ask, "agree ")
			code, _, _ = strings.Cut(code, " ")
			if !strings.Contains(ask, plaza) || len(code) != 8 {
				t.Fatalf("%q", ask)
			}
			w.restart() // the question stays
			mark := w.mark()
			w.tell(balconyURI, romeoURI, content.Text(answer+" "+code))  // is no admin
			w.tell(balconyURI, julietURI, content.Text(answer+" other")) // another code
			w.tell(balconyURI, julietURI, content.Text(answer+" "+strings.ToUpper(code)))
			want := "is " + balconyURI.String() + " now"
			if answer == "refuse" {
				want = "does not want"
			}
			w.expect(mark, "romeo is told", func(e *element) bool {
				return e.attr("to") == "romeo@"+testDomain && strings.Contains(bodyText(e), want)
			})
			c.do(func() {
				if in := c.nickOf(botFul) != ""; in != (answer == "agree") {
					t.Errorf("the bridge is in the room: %v", in)
				}
			})
			if n := len(w.since(mark, func(e *element) bool {
				return e.attr("to") == "romeo@"+testDomain && strings.Contains(bodyText(e), want)
			})); n != 1 {
				t.Errorf("%d answers", n)
			}
		})
	}
}

// connected is newPlaza with the two rooms connected, and ben a participant.
func connected(t *testing.T, change func(*Config), words string) (*world, *conference) {
	t.Helper()
	w, c := newPlaza(t, change)
	if got := w.plumb("plumb " + plaza + " balcony" + words); !strings.Contains(got, " is "+balconyURI.String()) {
		t.Fatalf("%q", got)
	}
	w.takesPart(benURI)
	return w, c
}

// Without puppets, or where one cannot enter or has no voice, the bridge speaks; voice is asked for.
func TestPlumbVoices(t *testing.T) {
	covers(t, "puppets: none, or of recent speakers, with voice asked for", "XEP-0045 7.13", "from MIMI", "stanzas")
	t.Run("none", func(t *testing.T) {
		w, c := connected(t, nil, " none")
		mark := w.mark()
		w.tw.say(balconyURI, julietURI, "Ay me!")
		w.tw.must(w.tw.delivered(balconyURI))
		if got := w.groupchats(mark); len(got) != 1 || got[0] != "bridge: juliet: Ay me!" {
			t.Errorf("%q", got)
		}
		c.do(func() {
			if len(c.who) != 3 {
				t.Errorf("%v", c.who)
			}
		})
	})
	t.Run("a nick is taken", func(t *testing.T) {
		w, c := connected(t, nil, "")
		c.do(func() { c.enter("x@other.example/x", "juliet") })
		w.tw.say(balconyURI, julietURI, "Ay me!")
		w.tw.must(w.tw.delivered(balconyURI))
		c.do(func() {
			if !strings.HasPrefix(c.who["juliet (matrix.example)"], juliet) {
				t.Errorf("%v", c.who)
			}
		})
	})
	t.Run("members only", func(t *testing.T) {
		w, c := connected(t, nil, "")
		c.do(func() { c.join[juliet] = "registration-required" })
		mark := w.mark()
		w.tw.say(balconyURI, julietURI, "Ay me!")
		w.tw.must(w.tw.delivered(balconyURI))
		if got := w.groupchats(mark); len(got) != 1 || !strings.HasPrefix(got[0], "juliet%") || c.aff[juliet] != "member" {
			t.Errorf("%q", got)
		}
	})
	t.Run("moderated, and the bridge moderates", func(t *testing.T) {
		w, c := connected(t, nil, "")
		c.do(func() { c.role["juliet"] = "visitor" })
		mark := w.mark()
		w.tw.say(balconyURI, julietURI, "Ay me!")
		w.tw.must(w.tw.delivered(balconyURI))
		if got := w.groupchats(mark); len(got) != 1 || !strings.HasPrefix(got[0], "juliet%") {
			t.Errorf("%q", got)
		}
	})
	t.Run("moderated, and the bridge does not", func(t *testing.T) {
		w, c := connected(t, nil, "")
		c.do(func() { c.role["juliet"], c.aff[botAt] = "visitor", "member"; c.enter(botFul, "MIMI") })
		mark := w.mark()
		w.tw.say(balconyURI, julietURI, "Ay me!")
		w.tw.say(balconyURI, julietURI, "again")
		w.tw.must(w.tw.delivered(balconyURI))
		if got := w.groupchats(mark); len(got) != 2 || got[0] != "bridge: juliet: Ay me!" {
			t.Errorf("%q", got)
		}
		asks := 0
		c.do(func() {
			for _, e := range c.asked {
				if formValue(e.child(nsData, "x"), "muc#role") == "participant" {
					asks++
				}
			}
			delete(c.role, "juliet") // a moderator gives it
			c.enter(c.who["juliet"], "juliet")
		})
		if asks != 1 {
			t.Errorf("voice was asked for %d times", asks)
		}
		w.quiet(romeo)
		mark = w.mark()
		w.tw.say(balconyURI, julietURI, "and again")
		w.tw.must(w.tw.delivered(balconyURI))
		if got := w.groupchats(mark); len(got) != 1 || !strings.HasPrefix(got[0], "juliet%") {
			t.Errorf("%q", got)
		}
	})
	t.Run("at most 50, and not when idle", func(t *testing.T) {
		w, c := connected(t, nil, "")
		for i := range 52 {
			u := mimiuri.MustParse(fmt.Sprintf("mimi://matrix.example/u/p%d", i))
			w.tw.do(func() {
				w.tw.add(w.tw.rooms[balconyURI], u, romeoURI, nil)
				w.tw.message(w.tw.rooms[balconyURI], u, content.Text("I am here"), nil)
			})
		}
		w.tw.must(w.tw.delivered(balconyURI))
		count := func() (n int) {
			c.do(func() {
				for _, full := range c.who {
					if strings.Contains(full, "%") {
						n++
					}
				}
			})
			return n
		}
		if n := count(); n != maxPuppets {
			t.Errorf("%d puppets", n)
		}
		p := w.tw.adapter.cur.Load().plumbOf(balconyURI)
		p.tend(-time.Second)
		w.wait("they have gone", func() bool {
			for _, full := range c.who {
				if strings.Contains(full, "%") {
					return false
				}
			}
			return true
		})
	})
}

// Who was put out of the chat room does not come again, and what the MIMI room did not carry out is not shown.
func TestPlumbKicks(t *testing.T) {
	covers(t, "a puppet that was kicked does not come again", "XEP-0045 8.2", "both", "stanzas")
	w, c := connected(t, nil, "")
	w.tw.say(balconyURI, julietURI, "Ay me!")
	w.tw.must(w.tw.delivered(balconyURI))
	w.tw.do(func() {
		w.tw.refuse = func(in adapter.Intent) error {
			if in.Kind == adapter.Remove {
				return errOwner
			}
			return nil
		}
	})
	c.do(func() { c.leave("juliet", "307", "Romeo", "enough") })
	w.tw.must(w.tw.until("a removal was asked for", func() bool {
		for _, in := range w.tw.intents {
			if in.Kind == adapter.Remove && in.Actor == romeoURI && in.Target == julietURI && in.Reason == "enough" {
				return true
			}
		}
		return false
	}))
	w.tw.must(w.tw.delivered(balconyURI))
	for range 2 {
		mark := w.mark()
		w.tw.say(balconyURI, julietURI, "I am not gone")
		w.tw.must(w.tw.delivered(balconyURI))
		if got := w.groupchats(mark); len(got) != 0 {
			t.Errorf("%q", got)
		}
		w.restart()
		w.expect(mark, "the bridge enters again", func(e *element) bool {
			return e.Local == "presence" && e.attr("to") == plaza+"/MIMI" && e.attr("type") == ""
		})
	}
	// The bridge itself is put out: the rooms are connected no more, and who takes part by the chat room only leaves.
	mark := w.mark()
	c.do(func() { c.leave("MIMI", "301", "Romeo", "") })
	w.expect(mark, "romeo is told", func(e *element) bool {
		return e.attr("to") == "romeo@"+testDomain && strings.Contains(bodyText(e), "put out")
	})
	w.isOut(benURI)
	c.do(func() {
		if c.nickOf(botFul) != "" {
			t.Error("the bridge has come again")
		}
	})
	if e := w.join(romeo, balcony, "Romeo"); e.attr("type") != "" {
		t.Errorf("%s", e)
	}
}

// A circle: what is said in the chat room is said again in it by another bridge, which has it from where it is shown elsewhere.
func TestPlumbCircle(t *testing.T) {
	covers(t, "a circle of bridges ends with one copy of a message", "–", "both", "stanzas")
	w, c := connected(t, func(c *Config) { c.OtherBridges = []string{"*@bifrost.xmpp.example"} }, "")
	// Without another bridge: one copy each.
	n := w.messages()
	c.do(func() { c.say("Ben", "b1", "<body>good morrow</body>") })
	w.tw.must(w.tw.until("it is handed in", func() bool {
		return len(w.tw.intents) > 0 && w.tw.intents[len(w.tw.intents)-1].Kind == adapter.SendMessage
	}))
	w.tw.must(w.tw.delivered(balconyURI))
	// Our own ghosts are never bridged, under whatever nick.
	mark := w.mark()
	w.tw.say(balconyURI, julietURI, "Ay me!")
	w.tw.must(w.tw.delivered(balconyURI))
	c.do(func() { c.enter("other%matrix.example@"+testUsers+"/x", "other") })
	c.do(func() { c.say("other", "o1", "<body>Ay me!</body>") })
	w.quiet(romeo)
	if got := w.messages() - n; got != 1 {
		t.Errorf("%d messages", got)
	}
	if got := w.groupchats(mark); len(got) != 1 {
		t.Errorf("%q", got)
	}
	// Another bridge comes: nothing is carried over, so that there is the one copy that it makes.
	mark = w.mark()
	c.do(func() {
		c.enter("_matrix_romeo@bifrost.xmpp.example/x", "romeo[x]")
		c.say("Ben", "b2", "<body>who is that?</body>")
		c.say("romeo[x]", "x1", "<body>who is that?</body>")
	})
	w.expect(mark, "the room is told", func(e *element) bool { return e.attr("to") == plaza && strings.Contains(bodyText(e), "Another bridge") })
	w.tw.say(balconyURI, julietURI, "can you hear me?")
	w.tw.must(w.tw.delivered(balconyURI))
	w.quiet(romeo)
	if got := w.groupchats(mark); len(got) != 0 {
		t.Errorf("%q", got)
	}
	if got := w.messages() - n; got != 1 {
		t.Errorf("%d messages", got)
	}
	// It goes: and on.
	mark = w.mark()
	c.do(func() { c.leave("romeo[x]", "", "", "") })
	w.expect(mark, "the room is told", func(e *element) bool { return e.attr("to") == plaza && strings.Contains(bodyText(e), "has gone") })
	w.tw.say(balconyURI, julietURI, "and now?")
	w.tw.must(w.tw.delivered(balconyURI))
	if got := w.groupchats(mark); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

// A message that is delivered again, also by a daemon that was started anew, stands in the chat room once.
func TestPlumbOnce(t *testing.T) {
	covers(t, "a message is in a connected chat room once, also after a restart", "XEP-0359", "both", "stanzas")
	w, c := connected(t, nil, "")
	mark := w.mark()
	id := w.tell(balconyURI, julietURI, content.Text("Ay me!"))
	c.do(func() { c.say("Ben", "b1", "<body>good morrow</body>") })
	w.tw.must(w.tw.until("it is handed in", func() bool { return w.tw.intents[len(w.tw.intents)-1].Kind == adapter.SendMessage }))
	w.tw.must(w.tw.delivered(balconyURI))
	w.restart()
	var ev adapter.Event
	w.tw.do(func() {
		for _, e := range w.tw.rooms[balconyURI].events {
			if e.ID == id {
				ev = e
			}
		}
	})
	w.expect(mark, "the bridge is in", func(e *element) bool { return e.Local == "presence" && e.attr("to") == plaza+"/MIMI" })
	if err := w.tw.adapter.Deliver(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	if got := w.groupchats(mark); len(got) != 1 {
		t.Errorf("%q", got)
	}
	n := w.messages()
	c.do(func() { c.n--; c.say("Ben", "b1", "<body>good morrow</body>") }) // the service sends it again, by the same id
	w.quiet(romeo)
	if got := w.messages() - n; got != 0 {
		t.Errorf("%d messages more", got)
	}
	// Refused by the hub: only who said it is told.
	w.tw.do(func() { w.tw.refuse = func(adapter.Intent) error { return errVoice } })
	mark = w.mark()
	c.do(func() { c.say("Ben", "b2", "<body>not this</body>") })
	w.expect(mark, "ben is told", func(e *element) bool {
		return e.attr("to") == "benvolio@"+testDomain && strings.Contains(bodyText(e), "was not carried over")
	})
}
