package xmpp

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// tables gives the columns of each table of the schema.
func tables() map[string][]string {
	out := make(map[string][]string)
	for _, m := range regexp.MustCompile(`(?s)CREATE TABLE (\w+) \((.*?)\n\t\)`).FindAllStringSubmatch(strings.Join(schema, "\n"), -1) {
		for _, c := range regexp.MustCompile(`(?m)^\t\t([a-z_]+) +\w`).FindAllStringSubmatch(m[2], -1) {
			out[m[1]] = append(out[m[1]], c[1])
		}
	}
	return out
}

// mentions lists where in the adapter's database a word stands.
func (tw *twin) mentions(word string) (out []string) {
	tw.t.Helper()
	for table, columns := range tables() {
		for _, c := range columns {
			var n int
			if err := tw.db.QueryRow(`SELECT count(*) FROM ` + table + ` WHERE CAST(` + c + ` AS VARCHAR) LIKE '%` + word + `%'`).Scan(&n); err != nil {
				tw.t.Fatal(err)
			}
			if n > 0 {
				out = append(out, fmt.Sprintf("%s.%s: %d", table, c, n))
			}
		}
	}
	slices.Sort(out)
	return out
}

// Each column that names a user is one of those by which users are erased.
func TestPersonalColumns(t *testing.T) {
	all := tables()
	if len(all) < 10 {
		t.Fatalf("%d tables", len(all))
	}
	for table, columns := range all {
		for _, c := range columns {
			if slices.Contains([]string{"person", "other", "sender", "uri", "owner", "actor"}, c) && !slices.Contains(personal, [2]string{table, c}) {
				t.Errorf("%s.%s names users; put it into personal (erase.go)", table, c)
			}
		}
	}
	for _, c := range personal {
		if !slices.Contains(all[c[0]], c[1]) {
			t.Errorf("there is no %s.%s", c[0], c[1])
		}
	}
}

// A user who is deleted stands in no table any more; somebody else's rows stay. Again, also by a daemon started anew, changes nothing.
func TestEraseUser(t *testing.T) {
	w := newBalcony(t)
	ctx := context.Background()
	w.addLocal(benURI)
	w.join(benvolio, balcony, "Ben")
	hers := w.tell(balconyURI, julietURI, content.Text("Ay me!"))
	for i, who := range []string{romeo, benvolio} {
		id := fmt.Sprintf("m%d", i)
		w.toRooms("<message type='groupchat' id='%s' from='%s' to='%s'><body>hello</body><origin-id xmlns='urn:xmpp:sid:0' id='%[1]s'/></message>", id, who, balcony)
		w.toRooms("<message type='groupchat' id='r%s' from='%s' to='%s'><reactions xmlns='urn:xmpp:reactions:0' id='%s'><reaction>x</reaction></reactions></message>", id, who, balcony, hers)
		w.toRooms("<message id='d%s' from='%s' to='%s'><displayed xmlns='urn:xmpp:chat-markers:0' id='%s'/></message>", id, who, balcony, hers)
		w.toRooms("<message type='groupchat' id='e%s' from='%s' to='%s'><displayed xmlns='urn:xmpp:chat-markers:0' id='%s'/></message>", id, who, balcony, hers)
		w.toUsers("<message type='chat' id='s%s' from='%s' to='%s'><body>settings typing off</body></message>", id, who, testUsers)
		w.toUsers("<message type='chat' id='c%s' from='%s' to='%s'><body>in private</body></message>", id, who, juliet)
	}
	w.quiet(romeo)
	w.quiet(benvolio)
	for _, u := range []mimiuri.URI{romeoURI, benURI} {
		w.tw.must(w.tw.adapter.DeliverConsent(ctx, adapter.ConsentEvent{Local: u, Answered: true, Contact: adapter.Contact{User: julietURI, Granted: adapter.ConsentGranted}}))
	}
	w.tw.must(w.tw.until("all is delivered", func() bool {
		for _, r := range w.tw.rooms {
			if r.next < len(r.events) {
				return false
			}
		}
		return len(w.tw.intents) >= 8
	}))
	before := w.tw.mentions("romeo")
	for _, table := range []string{"xmpp_nick.person", "xmpp_occupant.person", "xmpp_sent.person", "xmpp_message.sender", "xmpp_read.person", "xmpp_member.person", "xmpp_contact.person", "xmpp_setting.person"} {
		if !slices.ContainsFunc(before, func(s string) bool { return strings.HasPrefix(s, table+":") }) {
			t.Errorf("nothing of him stands in %s, so this shows nothing; there is %v", table, before)
		}
	}
	ben := w.tw.mentions("benvolio")
	w.tw.do(func() { w.tw.removeUser(w.tw.room(balconyURI), romeoURI, romeoURI, nil) })
	w.tw.must(w.tw.delivered(balconyURI))

	for _, restart := range []bool{false, false, true} {
		if restart {
			w.restart()
		}
		w.tw.must(w.tw.adapter.EraseUser(ctx, romeoURI))
		var left []string
		for _, m := range w.tw.mentions("romeo") {
			if !strings.Contains(m, ".room:") { // the twin names direct rooms by their users; a provider does not
				left = append(left, m)
			}
		}
		if len(left) > 0 {
			t.Errorf("of him there is still: %v", left)
		}
		if now := w.tw.mentions("benvolio"); !slices.Equal(now, ben) {
			t.Errorf("of somebody else: %v, then %v", ben, now)
		}
	}
	// The room goes on, and is shown to who comes without what he wrote.
	mark := w.mark()
	w.join("benvolio@xmpp.example/new", balcony, "Ben")
	w.expect(mark, "her line", isMessage("benvolio@xmpp.example/new", "Ay me!"))
	for _, e := range w.since(mark, func(e *element) bool { return e.Local == "message" && strings.Contains(e.String(), "romeo") }) {
		t.Error(e)
	}
	// Who is not running says so: it is tried again.
	w.tw.mu.Lock()
	a := w.tw.adapter
	w.tw.mu.Unlock()
	w.tw.stop()
	if err := a.EraseUser(ctx, romeoURI); err == nil {
		t.Error("erased without a database")
	}
}

// A user who is still in a room when they are erased is an occupant no more.
func TestEraseOccupant(t *testing.T) {
	w := newBalcony(t)
	mark := w.mark()
	w.tw.must(w.tw.adapter.EraseUser(context.Background(), romeoURI))
	w.expect(mark, "he is out", func(e *element) bool { return to(romeo)(e) && e.attr("type") == "unavailable" })
	if m := w.tw.mentions("romeo"); len(m) > 0 {
		t.Error(m)
	}
}

// What is older than the provider keeps ids is deleted: messages with their files, nicks of people who have left, and of rooms that are
// over everything.
func TestRetention(t *testing.T) {
	w := newBalcony(t)
	w.tell(balconyURI, julietURI, content.Text("old"))
	w.tw.do(func() { w.tw.removeUser(w.tw.room(balconyURI), julietURI, julietURI, nil) })
	w.tw.must(w.tw.delivered(balconyURI))
	w.tw.stop()
	w.wait("the streams are gone", func() bool { return len(w.conns) == 0 })
	count := func(q string) (n int) {
		if err := w.tw.db.QueryRow(q).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	exec := func(q string, args ...any) {
		t.Helper()
		if _, err := w.tw.db.Exec(q, args...); err != nil {
			t.Fatal(err)
		}
	}
	// Another message, of today, and the remains of a room in which nobody is any more; she has left a nick as if her leaving had not been shown.
	old := time.Now().Add(-91 * 24 * time.Hour).UnixMilli()
	exec(`UPDATE xmpp_message SET at = $1`, old)
	exec(`INSERT INTO xmpp_file (room, mimi, part, url) SELECT room, mimi, 0, 'https://files.example/1' FROM xmpp_message`)
	exec(`INSERT INTO xmpp_message (room, mimi, seq, at, sender, kind, id, origin, reply, target, topic, body)
		SELECT room, 'aa', 99, $1, sender, kind, 'aa', '', '', '', '', 99 FROM xmpp_message`, time.Now().UnixMilli())
	exec(`INSERT INTO xmpp_message (room, mimi, seq, at, sender, kind, id, origin, reply, target, topic, body)
		SELECT 'mimi://xmpp.example/r/over', mimi, seq, at, sender, kind, id, origin, reply, target, topic, body FROM xmpp_message WHERE mimi <> 'aa'`)
	exec(`INSERT INTO xmpp_nick (room, person, nick, name) VALUES ($1, 'mimi://matrix.example/u/nurse', 'nurse', '')`, balconyURI.String())
	exec(`INSERT INTO xmpp_member (room, person, seq) VALUES ('mimi://xmpp.example/r/over', 'mimi://xmpp.example/u/romeo', 1)`)
	exec(`INSERT INTO xmpp_sent (room, person, origin, mimi, at) VALUES ('r', 'p', 'o', 'm', $1)`, old)
	w.tw.start()
	w.up()
	w.tw.must(w.tw.soon("what is over is deleted", func() bool {
		return count(`SELECT count(*) FROM xmpp_message`) == 1 && count(`SELECT count(*) FROM xmpp_file`) == 0 && count(`SELECT count(*) FROM xmpp_sent`) == 0 &&
			count(`SELECT count(*) FROM xmpp_member WHERE room LIKE '%over'`) == 0 && count(`SELECT count(*) FROM xmpp_nick WHERE nick = 'nurse'`) == 0
	}))
	if n := count(`SELECT count(*) FROM xmpp_nick WHERE nick = 'Romeo'`); n != 1 {
		t.Errorf("the nick of who is there was deleted")
	}
}

// soon waits until cond holds, which looks at what changes without the twin.
func (tw *twin) soon(what string, cond func() bool) error {
	for range 3000 {
		if cond() {
			return nil
		}
		<-tick()
	}
	return fmt.Errorf("still not: %s", what)
}
