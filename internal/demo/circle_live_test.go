//go:build live

package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

const (
	conference = "muc." + xmppDomain
	square     = "square@" + conference
)

// TestCircle closes a circle: a chat room of Prosody's own conference service is connected with a MIMI room, that is a Matrix room at
// Dendrite, and another bridge (slixmpp and matrix-nio, here) carries what is said in the Matrix room to the chat room and back. However
// it comes about, each message is in each place once.
func TestCircle(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir := t.TempDir()
	binary := filepath.Join(dir, "mimibridge")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/mimibridge/mimibridge/cmd/mimibridge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var printed bytes.Buffer
	d := &demo{Options: Options{Binary: binary, Out: &printed}, told: map[string]bool{}, progress: &testnet.Progress{W: &printed}, dir: dir, conference: conference}
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("%s", printed.String())
			for _, m := range []*daemon{d.xmpp, d.matrix} {
				if m != nil {
					t.Logf("the end of the log of %s:\n%s", m.domain, testnet.Tail(m.log, 30))
				}
			}
		}
	})
	procs, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(d.start(ctx, procs))
	t.Logf("testtable: server %s", d.prosody.Version)
	t.Logf("testtable: server Dendrite %s", testnet.DendriteVersion)
	// The administrator knows of the other bridge.
	d.xmpp.proc.Stop()
	f, err := os.OpenFile(d.xmpp.config, os.O_APPEND|os.O_WRONLY, 0)
	must(err)
	_, err = fmt.Fprintf(f, "    other_bridges: [\"mercutio@%s\"]\n", xmppDomain)
	must(err)
	must(f.Close())
	must(d.xmpp.start(ctx, procs))
	for _, domain := range []string{gatewayDomain, roomsDomain} {
		for {
			if _, err := d.romeo.IQ(ctx, "get", domain, `<ping xmlns="urn:xmpp:ping"/>`); err == nil {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatal(ctx.Err())
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	must(d.open(ctx))

	// The chat room, with the bridge as an admin.
	_, err = d.romeo.Join(ctx, square, "romeo")
	must(err)
	_, err = d.romeo.IQ(ctx, "set", square, `<query xmlns="http://jabber.org/protocol/muc#owner"><x xmlns="jabber:x:data" type="submit"><field var="FORM_TYPE" type="hidden"><value>http://jabber.org/protocol/muc#roomconfig</value></field><field var="muc#roomconfig_whois"><value>anyone</value></field></x></query>`)
	must(err)
	_, err = d.romeo.IQ(ctx, "set", square, `<query xmlns="http://jabber.org/protocol/muc#admin"><item affiliation="admin" jid="bridge@`+gatewayDomain+`"/></query>`)
	must(err)

	// The other bridge.
	mercutio, err := testnet.StartSlix(procs, d.prosody.C2S, "mercutio@"+xmppDomain, romeoPassword, d.ca.File())
	must(err)
	t.Cleanup(mercutio.Stop)
	nurse, err := testnet.StartNio(procs, d.dendrite.URL, "nurse", julietPassword)
	must(err)
	t.Cleanup(nurse.Stop)
	must(d.juliet.Invite(ctx, d.portal, "@nurse:"+matrixDomain))
	_, err = nurse.WaitInvite(ctx, d.portal)
	must(err)
	must(nurse.Join(ctx, d.portal))
	join := func() {
		t.Helper()
		_, err := mercutio.Join(ctx, square, "mercutio")
		must(err)
	}
	plumb := func() string {
		t.Helper()
		r, err := d.romeo.Command(ctx, gatewayDomain, "plumb", map[string]string{"muc": square, "room": roomURI})
		must(err)
		return strings.Join(r.Notes, " ")
	}

	// While it is in the room, the rooms are not connected.
	join()
	if got := plumb(); !strings.Contains(got, "Another bridge") {
		t.Fatalf("%q", got)
	}
	must(mercutio.Part(ctx, square, "mercutio"))
	_, err = d.romeo.Wait(ctx, func(e testnet.SlixEvent) bool { return e.From == square+"/mercutio" && e.Type == "unavailable" })
	must(err)
	if got := plumb(); !strings.Contains(got, square+" is "+roomURI) {
		t.Fatalf("%q", got)
	}

	// What is said in both places, each with its copies.
	heard := func() (xmpp, matrix map[string]int) {
		xmpp, matrix = map[string]int{}, map[string]int{}
		for _, e := range d.romeo.Events() {
			if e.Kind == "message" && e.Type == "groupchat" && e.Bare() == square {
				_, text, _ := strings.Cut("x: "+e.Body, "line ")
				xmpp[text]++
			}
		}
		list, err := d.juliet.Messages(ctx, d.portal)
		must(err)
		for _, ev := range list {
			if ev.Type == "m.room.message" {
				_, text, _ := strings.Cut("x: "+ev.String("body"), "line ")
				matrix[text]++
			}
		}
		return xmpp, matrix
	}
	everywhere := func(n string) {
		t.Helper()
		for {
			x, m := heard()
			if x[n] > 0 && m[n] > 0 {
				return
			}
			select {
			case <-ctx.Done():
				t.Fatalf("line %s has not come everywhere: %v %v", n, x, m)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	say := func(n string) {
		t.Helper()
		must(d.romeo.Say(ctx, square, "line "+n+"a", "id-"+n))
		everywhere(n + "a")
		_, err := d.juliet.SendText(ctx, d.portal, "line "+n+"b", "txn-"+n)
		must(err)
		everywhere(n + "b")
	}
	say("1")

	// It comes into the room and carries everything from each side to the other.
	relay, over := context.WithCancel(ctx)
	var carrying sync.WaitGroup
	carry := func(next func() (key, who, text string), send func(text, id string) error) {
		defer carrying.Done()
		for i := 0; relay.Err() == nil; i++ {
			key, who, text := next()
			if key == "" {
				continue
			}
			if err := send(who+": "+text, fmt.Sprintf("carried-%s", key)); err != nil && relay.Err() == nil {
				t.Errorf("the other bridge: %v", err)
				return
			}
		}
	}
	join()
	_, err = d.romeo.Wait(ctx, func(e testnet.SlixEvent) bool {
		return e.Bare() == square && e.Kind == "message" && strings.Contains(e.Body, "Nothing is carried over")
	})
	must(err)
	from, at := mercutio.Mark(), nurse.Mark()
	carrying.Add(2)
	go carry(func() (key, who, text string) {
		e, err := mercutio.WaitSince(relay, from, func(e testnet.SlixEvent) bool {
			return e.Kind == "message" && e.Type == "groupchat" && e.Bare() == square && e.Nick() != "mercutio" && !e.Delayed && strings.Contains(e.Body, "line ")
		})
		if err != nil {
			return
		}
		events := mercutio.Events()
		from += slices.IndexFunc(events[from:], func(x testnet.SlixEvent) bool { return x.XML == e.XML }) + 1
		return e.ID, e.Nick(), e.Body
	}, func(text, id string) error { _, err := nurse.SendText(relay, d.portal, text, id); return err })
	go carry(func() (key, who, text string) {
		e, err := nurse.WaitSince(relay, at, func(e testnet.NioEvent) bool {
			ev := e.Event()
			return e.Room == d.portal && ev.Type == "m.room.message" && ev.Sender != "@nurse:"+matrixDomain && strings.Contains(ev.String("body"), "line ")
		})
		if err != nil {
			return
		}
		events := nurse.Events()
		at += slices.IndexFunc(events[at:], func(x testnet.NioEvent) bool { return x.Event().ID == e.Event().ID }) + 1
		return e.Event().ID, e.Event().Sender, e.Event().String("body")
	}, func(text, id string) error { return mercutio.Say(relay, square, text, id) })
	say("2")
	say("3")
	// What went on in a circle would come again: another message each way goes through all that is between.
	say("4")
	over()
	carrying.Wait()

	// It goes: and on as before.
	must(mercutio.Part(ctx, square, "mercutio"))
	_, err = d.romeo.Wait(ctx, func(e testnet.SlixEvent) bool {
		return e.Bare() == square && e.Kind == "message" && strings.Contains(e.Body, "The other bridge has gone")
	})
	must(err)
	say("5")
	x, m := heard()
	for _, n := range []string{"1", "2", "3", "4", "5"} {
		for _, side := range []string{"a", "b"} {
			if x[n+side] != 1 || m[n+side] != 1 {
				t.Errorf("line %s: %d copies in the chat room, %d on Matrix", n+side, x[n+side], m[n+side])
			}
		}
	}
}
