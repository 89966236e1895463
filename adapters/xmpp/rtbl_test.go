package xmpp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
)

const listService = "pubsub.lists.example"

// listing is a service with a list, in the stub.
type listing struct {
	w          *world
	hashes     []string
	subscribed int
	page       int // 0: all at once
	down       bool
}

// newListing is a world that follows a list. Stanzas to the list's service are answered by it.
func newListing(t *testing.T, page int, hashes ...string) *listing {
	s := newStub(t)
	cfg := testConfig(s.addr)
	cfg.Blocklists = []string{listService}
	l := &listing{w: &world{s, newTwin(t, cfg)}, hashes: hashes, page: page}
	s.received = l.received
	l.w.tw.start()
	s.up()
	l.has(len(hashes))
	return l
}

func (l *listing) received(e *element) {
	c := l.w.conns[testUsers]
	if c == nil || e.Local != "iq" || e.attr("type") != "get" && e.attr("type") != "set" {
		return
	}
	if e.attr("to") != listService || l.down {
		fmt.Fprintf(c, "<iq type='error' id='%s' from='%s' to='%s'><error type='cancel'><service-unavailable xmlns='%s'/></error></iq>", e.attr("id"), e.attr("to"), e.attr("from"), nsStanzas)
		return
	}
	q := e.child(nsPubSub, "pubsub")
	body := ""
	if sub := q.child(nsPubSub, "subscribe"); sub != nil && sub.attr("node") == "muc_bans_sha256" && sub.attr("jid") == testUsers {
		l.subscribed++
	}
	if q.child(nsPubSub, "items") != nil {
		list, rest := l.hashes, ""
		if l.page > 0 {
			after := q.child(nsRSM, "set").text(nsRSM, "after")
			for i, h := range l.hashes {
				if h == after {
					list = l.hashes[i+1:]
				}
			}
			if len(list) > l.page {
				list = list[:l.page]
			}
			if len(list) > 0 {
				rest = fmt.Sprintf("<set xmlns='%s'><last>%s</last></set>", nsRSM, list[len(list)-1])
			}
		}
		for _, h := range list {
			body += "<item id='" + h + "'><report xmlns='urn:xmpp:reporting:1' reason='urn:xmpp:reporting:spam'/></item>"
		}
		body = "<pubsub xmlns='" + nsPubSub + "'><items node='muc_bans_sha256'>" + body + "</items>" + rest + "</pubsub>"
	}
	fmt.Fprintf(c, "<iq type='result' id='%s' from='%s' to='%s'>%s</iq>", e.attr("id"), listService, e.attr("from"), body)
}

// news is a notification of the service.
func (l *listing) news(from, what string) {
	l.w.toUsers("<message from='%s' to='%s'><event xmlns='%s'>%s</event></message>", from, testUsers, nsPubSubEvent, what)
}

// has waits until so many hashes are on the list here.
func (l *listing) has(n int) {
	l.w.t.Helper()
	for i := 0; ; i++ {
		rows := 0
		if err := l.w.tw.db.QueryRow(`SELECT count(*) FROM xmpp_listed`).Scan(&rows); err != nil {
			l.w.t.Fatal(err)
		}
		s := l.w.tw.adapter.cur.Load()
		known := -1
		if s != nil {
			s.lists.mu.Lock()
			known = len(s.lists.set[listService+"/muc_bans_sha256"])
			s.lists.mu.Unlock()
		}
		if rows == n && known == n {
			return
		}
		if i > 3000 {
			l.w.t.Fatalf("%d rows, %d known, not %d", rows, known, n)
		}
		<-tick()
	}
}

// Whoever is on a list may enter no room, send nothing and ask nobody; what they are part of they may leave.
func TestBlocklist(t *testing.T) {
	covers(t, "lists of banned addresses in real time (RTBL)", "XEP-0060", "both", "stanzas")
	ben := hashOf("benvolio@xmpp.example")
	l := newListing(t, 0, hashOf("x@y.example"))
	w := l.w
	if e := w.join(romeo, balcony, "Romeo"); e.attr("type") != "" {
		t.Fatal(e)
	}
	w.tw.do(func() {
		r := w.tw.room(balconyURI)
		w.tw.add(r, julietURI, romeoURI, nil)
		w.tw.add(r, benURI, romeoURI, nil)
	})
	w.tw.must(w.tw.delivered(balconyURI))
	w.join(benvolio, balcony, "Ben")

	// Only the service itself is believed, and only hashes.
	l.news("pubsub.evil.example", "<items node='muc_bans_sha256'><item id='"+ben+"'/></items>")
	l.news(listService, "<items node='other'><item id='"+ben+"'/></items>")
	l.news(listService+"/x", "<items node='muc_bans_sha256'><item id='"+ben+"'/></items>")
	l.news(listService, "<items node='muc_bans_sha256'><item id='benvolio@xmpp.example'/><item id='00'/></items>")
	l.news(listService, "<items node='muc_bans_sha256'><item id='"+strings.ToUpper(ben)+"'/></items>")
	l.has(2)

	n := w.messages()
	refused := func(what, stanza string) {
		t.Helper()
		mark := w.mark()
		if strings.Contains(stanza, "to='"+testUsers) || strings.Contains(stanza, "to='"+juliet) {
			w.toUsers("%s", stanza)
		} else {
			w.toRooms("%s", stanza)
		}
		w.expect(mark, what+" is refused", func(e *element) bool {
			return strings.HasPrefix(e.attr("to"), "benvolio@") && strings.Contains(e.String(), "list of banned addresses")
		})
	}
	refused("a message", "<message type='groupchat' id='m' from='"+benvolio+"' to='"+balcony+"'><body>hello</body></message>")
	refused("a join", "<presence from='"+benvolio+"2' to='"+balcony+"/Ben'><x xmlns='"+nsMUC+"'/></presence>")
	refused("a message to one person", "<message type='chat' id='m' from='"+benvolio+"' to='"+juliet+"'><body>hello</body></message>")
	refused("a question for consent", "<presence type='subscribe' from='benvolio@xmpp.example' to='"+juliet+"'/>")
	refused("making a room", "<message type='chat' id='m' from='"+benvolio+"' to='"+testUsers+"'><body>create tower</body></message>")
	refused("the same as a command", "<iq type='set' id='c' from='"+benvolio+"' to='"+testUsers+"'><command xmlns='"+nsCommands+"' node='create'/></iq>")
	if got := w.messages(); got != n || len(w.did()) != 0 || w.tw.count(adapter.CreateRoom) != 1 {
		t.Errorf("%d messages, %v", got-n, w.did())
	}
	if e := w.ask(testRooms, benvolio, balcony, "set", "<command xmlns='"+nsCommands+"' node='leave'/>"); e.attr("type") != "result" {
		t.Errorf("leaving: %s", e)
	}

	// It holds over a restart while the service cannot be reached, and ends when it is taken back.
	w.stub.mu.Lock()
	l.down = true
	w.stub.mu.Unlock()
	w.restart()
	l.has(2)
	if e := w.join(benvolio, balcony, "Ben"); e.attr("type") != "error" {
		t.Errorf("%s", e)
	}
	l.news(listService, "<items node='muc_bans_sha256'><retract id='"+ben+"'/></items>")
	l.has(1)
	if e := w.join(benvolio, balcony, "Ben"); e.attr("type") != "" {
		t.Errorf("%s", e)
	}

	// People elsewhere, by their address here and by their provider's domain.
	for _, h := range []string{hashOf(juliet), hashOf("matrix.example")} {
		mark := w.mark()
		w.tell(balconyURI, julietURI, content.Text("before"))
		w.expect(mark, "her line", isMessage(romeo, "before"))
		l.news(listService, "<items node='muc_bans_sha256'><item id='"+h+"'/></items>")
		l.has(2)
		mark = w.mark()
		w.tell(balconyURI, julietURI, content.Text("while listed"))
		w.consents(adapter.ConsentEvent{Asked: true, Contact: adapter.Contact{Grants: adapter.ConsentAsked}})
		if got := w.settled(mark, func(e *element) bool { return e.attr("type") == "subscribe" || bodyText(e) == "while listed" }); len(got) != 0 {
			t.Errorf("%s", got)
		}
		if did := w.did(); len(did) == 0 || did[len(did)-1] != "refuse romeo juliet" {
			t.Errorf("%v", did)
		}
		l.news(listService, "<items node='muc_bans_sha256'><retract id='"+h+"'/></items>")
		l.has(1)
	}
	l.news(listService, "<purge node='muc_bans_sha256'/>")
	l.has(0)
}

// A list is read by its pages where the service has some (XEP-0059), and what is on it no more is dropped.
func TestBlocklistPages(t *testing.T) {
	var all []string
	for i := range 25 {
		all = append(all, hashOf(fmt.Sprint(i)))
	}
	l := newListing(t, 10, all...)
	w := l.w
	w.stub.mu.Lock()
	l.hashes = all[20:]
	w.stub.mu.Unlock()
	w.restart()
	l.has(5)
	w.stub.mu.Lock()
	defer w.stub.mu.Unlock()
	if l.subscribed != 2 {
		t.Errorf("subscribed %d times", l.subscribed)
	}
}

// A list that is followed no more is forgotten; what is no list is refused.
func TestBlocklistConfig(t *testing.T) {
	l := newListing(t, 0, hashOf("x"))
	l.w.tw.stop()
	l.w.tw.cfg.Blocklists = nil
	l.w.tw.start()
	l.w.up()
	n := -1
	if err := l.w.tw.db.QueryRow(`SELECT count(*) FROM xmpp_listed`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows, %v", n, err)
	}
	for _, bad := range []string{"", "/node", "a b", "@x/y"} {
		cfg := testConfig("127.0.0.1:1")
		cfg.Blocklists = []string{bad}
		if _, err := New(cfg); err == nil {
			t.Errorf("%q is taken for a list", bad)
		}
	}
}
