package xmpp

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
)

// account is romeo's account at a server that grants privileges, in the stub.
type account struct {
	w         *world
	roster    map[string]*element // items by address
	bookmarks map[string]*element
	log       []string
	refuse    bool
}

func newAccount(t *testing.T) *account {
	w := newBalcony(t)
	a := &account{w: w, roster: map[string]*element{}, bookmarks: map[string]*element{}}
	w.stub.mu.Lock()
	w.received = a.received
	w.stub.mu.Unlock()
	return a
}

// received answers what a server's account answers; stub.mu is held.
func (a *account) received(e *element) {
	c := a.w.conns[testUsers]
	if c == nil || e.Local != "iq" || e.attr("type") != "get" && e.attr("type") != "set" || e.attr("from") != testUsers {
		return
	}
	answer := func(typ, body string) {
		fmt.Fprintf(c, "<iq type='%s' id='%s' from='%s' to='%s'>%s</iq>", typ, e.attr("id"), e.attr("to"), e.attr("from"), body)
	}
	if e.attr("to") != "romeo@"+testDomain || a.refuse {
		answer("error", "<error type='auth'><forbidden xmlns='"+nsStanzas+"'/></error>")
		return
	}
	if q := e.child(nsRoster, "query"); q != nil {
		if e.attr("type") == "get" {
			body := ""
			for _, i := range a.roster {
				body += i.String()
			}
			answer("result", "<query xmlns='"+nsRoster+"'>"+body+"</query>")
			return
		}
		item := q.child(nsRoster, "item")
		a.roster[item.attr("jid")] = item
		a.log = append(a.log, "roster "+item.attr("jid")+" "+item.attr("subscription"))
		answer("result", "")
		return
	}
	inner := find(e.child(nsPrivilege, "privileged_iq").Kids, nsClient, "iq")
	if inner == nil { // read with the stanza's own namespace
		inner = find(e.child(nsPrivilege, "privileged_iq").Kids, "", "iq")
	}
	ps := inner.child(nsPubSub, "pubsub")
	body := ""
	switch {
	case ps.child(nsPubSub, "items") != nil:
		id := ps.child(nsPubSub, "items").child(nsPubSub, "item").attr("id")
		items := ""
		if b := a.bookmarks[id]; b != nil {
			items = "<item id='" + id + "'>" + b.String() + "</item>"
		}
		body = "<pubsub xmlns='" + nsPubSub + "'><items node='" + nsBookmarks + "'>" + items + "</items></pubsub>"
	case ps.child(nsPubSub, "publish") != nil:
		item := ps.child(nsPubSub, "publish").child(nsPubSub, "item")
		a.bookmarks[item.attr("id")] = item.child(nsBookmarks, "conference")
		a.log = append(a.log, "publish "+item.attr("id"))
		if x := ps.child(nsPubSub, "publish-options").child(nsData, "x"); formValue(x, "pubsub#access_model") != "whitelist" {
			a.w.t.Errorf("a bookmark for everybody to see: %s", e)
		}
	case ps.child(nsPubSub, "retract") != nil:
		id := ps.child(nsPubSub, "retract").child(nsPubSub, "item").attr("id")
		delete(a.bookmarks, id)
		a.log = append(a.log, "retract "+id)
	}
	answer("result", "<privilege xmlns='"+nsPrivilege+"'><forwarded xmlns='"+nsForward+"'><iq xmlns='"+nsClient+"' type='result' id='"+inner.attr("id")+"'>"+body+"</iq></forwarded></privilege>")
}

func (a *account) grant(from, ns, perms string) {
	a.w.toUsers("<message from='%s' to='%s'><privilege xmlns='%s'>%s</privilege></message>", from, testUsers, ns, perms)
}

const allPerms = "<perm access='roster' type='both'/><perm access='iq'><namespace ns='" + nsPubSub + "' type='both'/></perm>"

// until waits for what was done to the account, and gives it.
func (a *account) until(n int) []string {
	a.w.t.Helper()
	a.w.wait(fmt.Sprintf("%d things are done", n), func() bool { return len(a.log) >= n })
	a.w.quiet(romeo)
	a.w.stub.mu.Lock()
	defer a.w.stub.mu.Unlock()
	return slices.Clone(a.log)
}

// still waits until all that is to be kept has been looked at.
func (a *account) still() {
	a.w.t.Helper()
	done := make(chan bool)
	a.w.tw.adapter.cur.Load().work.post("keep", func() { close(done) })
	<-done
}

// Rosters and bookmarks are kept where the server lets the component do so, and nothing depends on it.
func TestPrivileges(t *testing.T) {
	covers(t, "rosters and bookmarks, where the server grants it", "XEP-0356, XEP-0402", "from MIMI", "stanzas")
	a := newAccount(t)
	w := a.w
	item := func() *element {
		w.stub.mu.Lock()
		defer w.stub.mu.Unlock()
		return a.roster[juliet]
	}
	// Without: nothing is asked of the account; nor if somebody else pretends to grant something.
	a.grant("evil.example", nsPrivilege, allPerms)
	w.consents(adapter.ConsentEvent{Answered: true, Contact: adapter.Contact{Granted: adapter.ConsentGranted, Grants: adapter.ConsentGranted}})
	w.quiet(romeo)
	a.still()
	if got := a.until(0); len(got) != 0 {
		t.Fatalf("%q", got)
	}
	// Once it is granted, what there is appears.
	a.grant(testDomain, nsPrivilege, allPerms)
	if got := a.until(2); !slices.Contains(got, "roster "+juliet+" both") || !slices.Contains(got, "publish "+balcony) || len(got) != 2 {
		t.Fatalf("%q", got)
	}
	if b := a.bookmarks[balcony]; b.attr("autojoin") != "true" || b.text(nsBookmarks, "nick") != "Romeo" {
		t.Errorf("%s", b)
	}
	// Granted again, as after a new stream: nothing changes, and what the person has changed stays.
	w.stub.mu.Lock()
	a.roster[juliet].set("name", "My Juliet").add(textEl(nsRoster, "group", "Loves"))
	delete(a.bookmarks, balcony)
	w.stub.mu.Unlock()
	a.grant(testDomain, nsPrivilege, allPerms)
	w.quiet(romeo)
	a.still() // posts what is to be looked at
	a.still()
	if got := a.until(2); len(got) != 2 {
		t.Errorf("%q", got)
	}
	w.consents(adapter.ConsentEvent{Contact: adapter.Contact{Granted: adapter.ConsentRefused, Grants: adapter.ConsentGranted}})
	a.until(3)
	if i := item(); i.attr("subscription") != "from" || i.attr("name") != "My Juliet" || i.text(nsRoster, "group") != "Loves" {
		t.Errorf("%s", i)
	}
	// Consents by command.
	w.tw.do(func() { w.tw.people.contacts = nil })
	w.says(romeo, "refuse "+juliet)
	a.until(4)
	if i := item(); i.attr("subscription") != "none" {
		t.Errorf("%s", i)
	}
	// Rooms: another one comes, one of their own is left as it is; leaving takes it out.
	const tower = "tower@" + testRooms
	w.stub.mu.Lock()
	a.bookmarks[tower] = el(nsBookmarks, "conference", "name", "mine")
	w.stub.mu.Unlock()
	if e := w.join(romeo, tower, "Romeo"); e.attr("type") != "" {
		t.Fatal(e)
	}
	w.quiet(romeo)
	a.still()
	if got := a.until(4); len(got) != 4 || a.bookmarks[tower].attr("name") != "mine" {
		t.Errorf("%q", got)
	}
	w.says(romeo, "leave balcony")
	if got := a.until(5); got[4] != "retract "+balcony {
		t.Errorf("%q", got)
	}
	// An account that does not: it is left at that.
	w.stub.mu.Lock()
	a.refuse = true
	w.stub.mu.Unlock()
	w.consents(adapter.ConsentEvent{Answered: true, Contact: adapter.Contact{Granted: adapter.ConsentGranted}})
	a.still()
	if got := a.until(5); len(got) != 5 {
		t.Errorf("%q", got)
	}
	// A new stream without privileges.
	w.stub.mu.Lock()
	a.refuse = false
	w.stub.mu.Unlock()
	w.restart()
	w.quiet(romeo)
	w.consents(adapter.ConsentEvent{Answered: true, Contact: adapter.Contact{Granted: adapter.ConsentGranted}})
	a.still()
	if got := a.until(5); len(got) != 5 {
		t.Errorf("%q", got)
	}
	// The first form, of ejabberd: rosters only.
	a.grant(testDomain, nsPrivilege1, "<perm access='roster' type='both'/>")
	if got := a.until(6); got[5] != "roster "+juliet+" to" {
		t.Errorf("%q", got)
	}
	if strings.Contains(w.tw.logs.String(), "panic") {
		t.Error(w.tw.logs.String())
	}
}
