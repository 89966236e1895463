package xmpp

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
)

// left lists what there is in the adapter's database but for the mark that it is being uninstalled.
func (tw *twin) left() (out []string) {
	tw.t.Helper()
	for table := range tables() {
		q := `SELECT count(*) FROM ` + table
		if table == "xmpp_setting" {
			q += ` WHERE name <> '` + settingGone + `'`
		}
		var n int
		if err := tw.db.QueryRow(q).Scan(&n); err != nil {
			tw.t.Fatal(err)
		}
		if n > 0 && table != "xmpp_schema" {
			out = append(out, fmt.Sprintf("%s: %d", table, n))
		}
	}
	slices.Sort(out)
	return out
}

func (tw *twin) uninstall(dry bool) (steps []string, err error) {
	err = tw.adapter.Uninstall(context.Background(), dry, func(step string) { steps = append(steps, step) })
	return steps, err
}

// uninstalled is what the provider does: it tries again while the streams are not there.
func (tw *twin) uninstalled() (steps []string, err error) {
	for range 1000 {
		if steps, err = tw.uninstall(false); !fault.Temporary(err) {
			return steps, err
		}
		<-tick()
	}
	return steps, err
}

// A dry run changes nothing; a server that is away is waited for, also by another process; in the end nothing is left, and nothing comes back.
func TestUninstall(t *testing.T) {
	covers(t, "uninstalling: occupants, contacts, rosters and bookmarks", "XEP-0045 10.9, RFC 6121, XEP-0356", "from MIMI", "stanzas")
	a := newAccount(t)
	w := a.w
	a.grant(testDomain, nsPrivilege, allPerms)
	w.consents(adapter.ConsentEvent{Answered: true, Contact: adapter.Contact{Granted: adapter.ConsentGranted}})
	a.until(2)
	a.still() // it is noted once the server has it
	mark, before, log := w.mark(), w.tw.left(), a.until(2)
	steps, err := w.tw.uninstall(true)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"room " + balcony + " (" + balconyURI.String() + "): tell its 1 occupants, take them out",
		"1 people: end 1 subscriptions to contacts elsewhere, take back 1 bookmarks",
		"empty the adapter's database",
	}
	if !slices.Equal(steps, want) {
		t.Errorf("%q", steps)
	}
	w.quiet(romeo)
	if got := w.tw.left(); !slices.Equal(got, before) {
		t.Errorf("the dry run has changed %q into %q", before, got)
	}
	if got := a.until(2); !slices.Equal(got, log) {
		t.Errorf("the dry run has done %q", got)
	}
	if got := w.since(mark, to(romeo)); len(got) > 0 {
		t.Errorf("the dry run has told %q", got)
	}
	w.tw.say(balconyURI, julietURI, "still here")
	w.expect(mark, "what is said", isMessage(romeo, "still here"))
	w.tw.must(w.tw.delivered(balconyURI))

	// The server takes it and does not say so: it is not done. The daemon is started again, and it goes on.
	w.stub.mu.Lock()
	w.deaf = true
	w.stub.mu.Unlock()
	mark = w.mark()
	failed := make(chan error, 1)
	go func() { _, err := w.tw.uninstall(false); failed <- err }()
	w.expect(mark, "he is told", isMessage(romeo, textUninstalled))
	w.stub.mu.Lock()
	w.deaf = false
	w.conns[testRooms].Close()
	w.stub.mu.Unlock()
	if err := <-failed; !fault.Temporary(err) {
		t.Fatal(err)
	}
	w.restart()
	a.grant(testDomain, nsPrivilege, allPerms)
	mark = w.mark()
	if steps, err = w.tw.uninstalled(); err != nil || !slices.Equal(steps, want) {
		t.Errorf("%q, %v", steps, err)
	}
	w.expect(mark, "he is told", isMessage(romeo, textUninstalled))
	out := w.expect(mark, "he is out", func(e *element) bool { return e.attr("to") == romeo && e.attr("type") == "unavailable" })
	x := out.child(nsMUCUser, "x")
	if out.attr("from") != balcony+"/Romeo" || !hasCode(out, "110") || x.child(nsMUCUser, "destroy").text(nsMUCUser, "reason") != textUninstalled || x.child(nsMUCUser, "item").attr("role") != "none" {
		t.Errorf("%s", out)
	}
	for _, typ := range []string{"unsubscribe", "unsubscribed"} {
		if got := w.since(mark, func(e *element) bool {
			return e.attr("type") == typ && e.attr("from") == juliet && e.attr("to") == "romeo@"+testDomain
		}); len(got) != 1 {
			t.Errorf("%s: %q", typ, got)
		}
	}
	w.stub.mu.Lock()
	log = slices.Clone(a.log)
	w.stub.mu.Unlock()
	if !slices.Equal(log[2:], []string{"roster " + juliet + " remove", "retract " + balcony}) {
		t.Errorf("%q", log)
	}
	if got := w.tw.left(); len(got) > 0 {
		t.Errorf("left in the database: %q", got)
	}

	// Again there is nothing to do.
	if steps, err := w.tw.uninstalled(); err != nil || !slices.Equal(steps, want[2:]) {
		t.Errorf("%q, %v", steps, err)
	}
	// And nothing comes back, whatever is sent, said or granted, or started again.
	for range 2 {
		mark = w.mark()
		w.toRooms("<presence from='%s' to='%s/Romeo' id='late'><x xmlns='http://jabber.org/protocol/muc'/></presence>", romeo, balcony)
		e := w.expect(mark, "an answer", isError(romeo, "late"))
		if !strings.Contains(e.String(), errUninstalled.Text) {
			t.Errorf("%s", e)
		}
		a.grant(testDomain, nsPrivilege, allPerms)
		w.tw.say(balconyURI, julietURI, "hello?")
		w.tw.must(w.tw.delivered(balconyURI))
		w.consents(adapter.ConsentEvent{Answered: true, Contact: adapter.Contact{Granted: adapter.ConsentGranted}})
		if ok, err := w.tw.adapter.LocalUser(t.Context(), romeoURI); ok || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
		w.ask(testUsers, romeo, testUsers, "get", "<ping xmlns='urn:xmpp:ping'/>")
		if got := w.since(mark, func(e *element) bool { return e.attr("type") != "error" }); len(got) > 0 {
			t.Errorf("%q", got)
		}
		if got := w.tw.left(); len(got) > 0 {
			t.Errorf("in the database again: %q", got)
		}
		w.restart()
	}
}

// Where the server grants nothing, it is said what stays; who is not running is called again.
func TestUninstallWithoutPrivileges(t *testing.T) {
	w := newBalcony(t)
	w.consents(adapter.ConsentEvent{Answered: true, Contact: adapter.Contact{Granted: adapter.ConsentGranted}})
	steps, err := w.tw.uninstalled()
	if err != nil || !slices.ContainsFunc(steps, func(s string) bool { return strings.HasPrefix(s, "1 contacts and bookmarks could not be taken back") }) {
		t.Errorf("%q, %v", steps, err)
	}
	if got := w.tw.left(); len(got) > 0 {
		t.Errorf("left in the database: %q", got)
	}
	a := w.tw.adapter
	w.tw.stop()
	if err := a.Uninstall(t.Context(), false, func(string) {}); !fault.Temporary(err) {
		t.Error(err)
	}
}

// A connected chat room is told and left, by the bridge and by puppets, also those of before a restart.
func TestUninstallPlumb(t *testing.T) {
	covers(t, "uninstalling: connected chat rooms are left", "XEP-0045", "from MIMI", "stanzas")
	w, c := newPlaza(t, nil)
	w.plumb("plumb " + plaza + " balcony")
	w.takesPart(benURI)
	said := func(text string) func(*element) bool {
		return func(e *element) bool { return e.attr("to") == plaza && bodyText(e) == text }
	}
	mark := w.mark()
	w.tw.say(balconyURI, julietURI, "Ay me!")
	w.expect(mark, "her puppet speaks", said("Ay me!"))
	w.tw.must(w.tw.delivered(balconyURI))
	inside := func() (ours []string) {
		c.do(func() {
			for nick, full := range c.who {
				if a, err := parseAddr(full); err == nil && a.domain == testUsers {
					ours = append(ours, nick)
				}
			}
		})
		return ours
	}
	if got := inside(); len(got) != 2 {
		t.Fatalf("%q", got)
	}
	if steps, err := w.tw.uninstall(true); err != nil || !strings.Contains(strings.Join(steps, "\n"), "chat room "+plaza+" ("+balconyURI.String()+"): tell its people, leave it with 1 others of the bridge") {
		t.Errorf("%q, %v", steps, err)
	}
	// It has begun when the daemon is started again: both are still in the chat room, and the bridge does not know of the puppet.
	w.tw.must(w.tw.adapter.cur.Load().db.exec(`INSERT INTO xmpp_setting (person, name, value) VALUES ('', $1, 'yes')`, settingGone))
	w.restart()
	if got := inside(); len(got) != 2 {
		t.Fatalf("%q", got)
	}
	intents := 0
	w.tw.do(func() { intents = len(w.tw.intents) })
	mark = w.mark()
	if _, err := w.tw.uninstalled(); err != nil {
		t.Fatal(err)
	}
	w.expect(mark, "the chat room is told", said(textUninstalled))
	if got := inside(); len(got) > 0 {
		t.Errorf("still in the chat room: %q", got)
	}
	if got := w.tw.left(); len(got) > 0 {
		t.Errorf("left in the database: %q", got)
	}
	// What is said there afterwards goes nowhere, and nobody enters again.
	w.restart()
	c.do(func() { c.say("Ben", "late", "<body>hello?</body>") })
	w.ask(testUsers, romeo, testUsers, "get", "<ping xmlns='urn:xmpp:ping'/>")
	w.tw.do(func() {
		if n := len(w.tw.intents); n != intents {
			t.Errorf("%d intents more", n-intents)
		}
	})
	if got := inside(); len(got) > 0 {
		t.Errorf("again in the chat room: %q", got)
	}
}

// Of a user who is deleted the contacts and bookmarks are taken back before they are forgotten.
func TestEraseTakesBack(t *testing.T) {
	a := newAccount(t)
	w := a.w
	a.grant(testDomain, nsPrivilege, allPerms)
	w.consents(adapter.ConsentEvent{Answered: true, Contact: adapter.Contact{Granted: adapter.ConsentGranted}})
	a.until(2)
	a.still()
	w.tw.must(w.tw.adapter.EraseUser(t.Context(), romeoURI))
	if got := a.until(4); !slices.Equal(got[2:], []string{"roster " + juliet + " remove", "retract " + balcony}) {
		t.Errorf("%q", got)
	}
}
