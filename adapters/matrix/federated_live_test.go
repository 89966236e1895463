//go:build live

package matrix

import (
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestFederated has a second homeserver: what its users can do here, without a permission, with one, and through somebody who lends
// them their voice.
func TestFederated(t *testing.T) {
	ports, err := testnet.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := testnet.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue("homeserver", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	options := func(port int) testnet.HomeserverOptions {
		return testnet.HomeserverOptions{ServerName: fmt.Sprintf("127.0.0.1:%d", port),
			Federation: &testnet.HomeserverFederation{Port: port, CertFile: cert, KeyFile: key, CAFile: ca.File()}}
	}
	t.Log("testtable: server Synapse " + testnet.SynapseVersion)
	here, there := options(ports[0]), options(ports[1])
	w := newWorldOn(t, testnet.StartSynapse, here, func(c *Config) { c.Federate = true })
	away, err := testnet.StartSynapse(w.ctx, there)
	w.must(err)
	t.Cleanup(away.Stop)
	guest := func(name string) *testnet.NioClient {
		w.must(away.CreateUser(w.ctx, name, "secret-of-"+name))
		c, err := testnet.StartNio(w.ctx, away.URL, name, "secret-of-"+name)
		w.must(err)
		t.Cleanup(c.Stop)
		return c
	}
	ghost := func(uri string) string {
		g, _ := ghostID(mustURI(uri), here.ServerName)
		return string(g)
	}
	juliet := w.user("juliet")
	w.tw.setLevel(juliet.UserID, adapter.LevelUser)
	paris, tybalt := guest("paris"), guest("tybalt")

	feature(t, "users of other homeservers get nothing", "m.room.member", "from Matrix", "matrix-nio")
	uri := w.tw.newRoom("mimi://xmpp.example/r/balcony", "Balcony", romeo)
	w.tw.mu.Lock()
	w.tw.rooms[uri].open = true
	w.tw.mu.Unlock()
	alias := "#mimi_balcony=xmpp.example:" + here.ServerName
	for _, c := range []string{"join", "knock"} {
		body := map[string]any{"method": "POST", "path": "/_matrix/client/v3/" + c + "/%23" + strings.TrimPrefix(alias, "#"), "body": map[string]any{}}
		if err := tybalt.Do(w.ctx, "raw", body, nil); err == nil {
			t.Errorf("%s of a room that has just been made for it", c)
		}
	}
	own, err := tybalt.CreateRoom(w.ctx, "His own", false, ghost(mercutio))
	w.must(err)
	w.membership(tybalt, own, ghost(mercutio), "leave")
	direct, err := tybalt.CreateRoom(w.ctx, "", true, w.bot())
	w.must(err)
	w.membership(tybalt, direct, w.bot(), "leave")
	if n := w.tw.count(func(adapter.Intent) bool { return true }); n != 0 {
		t.Errorf("%d intents", n)
	}
	rooms, err := w.tw.Rooms(w.ctx)
	w.must(err)
	if len(rooms) != 1 {
		t.Errorf("rooms %v", rooms)
	}
	b := w.bridge()
	if p, ok, err := b.st.portal(w.ctx, uri); err != nil {
		t.Error(err)
	} else if ok {
		// What the look-up has made: the bot alone is in it, and nobody elsewhere can be.
		state, err := b.hs.allState(w.ctx, b.hs.bot, p.room)
		w.must(err)
		for _, ev := range state {
			if ev.Type == "m.room.create" && string(asObject(ev.Content)["m.federate"]) != "false" || ev.Type == "m.room.member" && id.UserID(*ev.StateKey) != b.hs.bot ||
				ev.Type == "m.room.name" {
				t.Errorf("the room that was looked up has %s: %s", ev.Type, ev.Content)
			}
		}
	}

	feature(t, "guests from other homeservers", "m.room.message", "both", "matrix-nio")
	w.tw.setLevel(paris.UserID, adapter.LevelUser)
	parisURI, _ := localURI(id.UserID(paris.UserID), here.ServerName, twinDomain)
	hall := w.tw.newRoom("mimi://xmpp.example/r/hall", "Hall", romeo)
	w.tw.addAdmin(hall, romeo, local("juliet"))
	w.tw.add(hall, romeo, parisURI.String())
	room := w.accept(juliet)
	_, err = paris.WaitInvite(w.ctx, room)
	w.must(err)
	w.must(paris.Join(w.ctx, room))
	w.membership(juliet, room, paris.UserID, "join")
	w.must2(paris.SendText(w.ctx, room, "I come from afar", ""))
	if in := w.tw.intent(w.ctx, "a guest's word", sends("I come from afar")); in.Actor != parisURI {
		t.Errorf("by %s", in.Actor)
	}
	w.tw.say(hall, romeo, "welcome")
	ev, err := paris.WaitText(w.ctx, room, "welcome")
	w.must(err)
	if ev.Sender != ghost(romeo) {
		t.Errorf("by %s", ev.Sender)
	}

	feature(t, "relay", "m.room.message", "from Matrix", "matrix-nio")
	w.must(juliet.Invite(w.ctx, room, tybalt.UserID))
	_, err = tybalt.WaitInvite(w.ctx, room)
	w.must(err)
	w.must(tybalt.Join(w.ctx, room))
	w.membership(juliet, room, tybalt.UserID, "join")
	w.membership(juliet, room, tybalt.UserID, "leave") // without the relay there is no place for him
	on, err := juliet.SendText(w.ctx, room, "!mimi relay on", "")
	w.must(err)
	w.notice(juliet, room, on, "through you")
	w.must(juliet.Invite(w.ctx, room, tybalt.UserID))
	w.waitFor("tybalt joins again", func() bool { return tybalt.Join(w.ctx, room) == nil })
	w.must2(tybalt.SendText(w.ctx, room, "peace? I hate the word", ""))
	in := w.tw.intent(w.ctx, "a relayed word", sends("tybalt ("+there.ServerName+"): peace? I hate the word"))
	if in.Actor.String() != local("juliet") {
		t.Errorf("by %s", in.Actor)
	}
	w.tw.settled(w.ctx)
	if n := w.tw.count(func(in adapter.Intent) bool {
		return strings.HasPrefix(in.Actor.ID, "tybalt") || strings.HasPrefix(in.Target.ID, "tybalt")
	}); n != 0 {
		t.Errorf("%d intents in tybalt's name", n)
	}
	w.quiet()
}
