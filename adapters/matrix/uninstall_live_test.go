//go:build live

package matrix

import (
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// left checks what a person sees of a room that the bridge has left.
func (w *world) left(c *testnet.NioClient, room string) {
	w.t.Helper()
	w.membership(c, room, w.bot(), "leave")
	state, err := c.State(w.ctx, room)
	w.must(err)
	for _, ev := range state {
		switch {
		case ev.Type == "m.room.member" && strings.HasPrefix(*ev.StateKey, "@mimi_") && ev.String("membership") != "leave":
			w.t.Errorf("%s is %s", *ev.StateKey, ev.String("membership"))
		case strings.Contains(ev.Type, "bridge") && len(ev.Content) > 0, ev.Type == "m.room.canonical_alias" && ev.String("alias") != "":
			w.t.Errorf("the room still has %s %q: %v", ev.Type, *ev.StateKey, ev.Content)
		}
	}
}

// TestUninstalled: a room that is closed, one that the bridge is taken out of, and then the whole bridge.
func TestUninstalled(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	rooms := map[string]string{}
	for _, name := range []string{"tomb", "hall", "balcony"} {
		uri := w.tw.newRoom("mimi://xmpp.example/r/"+name, name, romeo, mercutio)
		w.tw.addAdmin(uri, romeo, local("juliet"))
		w.tw.settled(w.ctx)
		p, _, err := w.bridge().st.portal(w.ctx, uri)
		w.must(err)
		rooms[name] = string(p.room)
		w.must(juliet.Join(w.ctx, rooms[name]))
	}
	resolves := func(name string) bool {
		return juliet.Do(w.ctx, "raw", map[string]any{"method": "GET", "path": "/_matrix/client/v3/directory/room/%23mimi_" + name + "=xmpp.example:" + server}, nil) == nil
	}
	if !resolves("tomb") {
		t.Error("the alias is not there from the beginning")
	}

	feature(t, "a room is closed", "m.room.member, m.bridge", "to Matrix", "matrix-nio")
	w.tw.closeRoom(mustURI("mimi://xmpp.example/r/tomb"))
	w.left(juliet, rooms["tomb"])
	_, err := juliet.WaitEvent(w.ctx, rooms["tomb"], func(e testnet.MatrixEvent) bool { return strings.Contains(e.Text(), "is closed") })
	w.must(err)
	w.tw.settled(w.ctx)
	w.tw.mu.Lock()
	delete(w.tw.rooms, mustURI("mimi://xmpp.example/r/tomb")) // looking its alias up makes no room
	w.tw.mu.Unlock()

	feature(t, "unplumb", "m.room.message", "from Matrix", "matrix-nio")
	ev, err := juliet.SendText(w.ctx, rooms["hall"], "!mimi unplumb dry", "")
	w.must(err)
	w.notice(juliet, rooms["hall"], ev, "1 users here would leave the MIMI room, and 3 of the bridge this one")
	w.must2(juliet.SendText(w.ctx, rooms["hall"], "!mimi unplumb", ""))
	w.tw.intent(w.ctx, "leaving", func(in adapter.Intent) bool {
		return in.Kind == adapter.LeaveRoom && in.Room.ID == "hall" && in.Actor.ID == "juliet"
	})
	w.left(juliet, rooms["hall"])
	w.tw.settled(w.ctx)

	feature(t, "uninstalling", "m.room.member, m.bridge, accounts", "to Matrix", "matrix-nio")
	var steps []string
	uninstaller := w.adapter().(adapter.Uninstaller)
	w.must(uninstaller.Uninstall(w.ctx, true, func(s string) { steps = append(steps, s) }))
	if m, err := juliet.Members(w.ctx, rooms["balcony"]); err != nil || m[w.bot()] != "join" || m[ghostOf(romeo)] != "join" {
		t.Errorf("the dry run has changed %v, %v", m, err)
	}
	w.must(uninstaller.Uninstall(w.ctx, false, func(s string) { steps = append(steps, s) }))
	t.Logf("%d steps: %q", len(steps), steps)
	w.left(juliet, rooms["balcony"])
	_, err = juliet.WaitEvent(w.ctx, rooms["balcony"], func(e testnet.MatrixEvent) bool {
		return strings.Contains(e.Text(), "is being removed from this server")
	})
	w.must(err)
	for _, name := range []string{"tomb", "hall", "balcony"} {
		if resolves(name) {
			t.Errorf("the alias of %s is still there", name)
		}
	}
	var profile map[string]any
	if err := juliet.Do(w.ctx, "raw", map[string]any{"method": "GET", "path": "/_matrix/client/v3/profile/" + ghostOf(romeo)}, &profile); err == nil && profile["displayname"] != nil && profile["displayname"] != "" {
		t.Errorf("a ghost is still called %v", profile)
	}

	t.Run("installed again", func(t *testing.T) {
		// By a new registration; here the same tokens have to do, as the homeserver knows no others.
		w.stop()
		w.must((&store{sql: w.tw.db}).set(goneKey, ""))
		w.start()
		again := w.tw.newRoom("mimi://xmpp.example/r/again", "Again", romeo)
		w.tw.add(again, romeo, local("juliet"))
		w.tw.settled(w.ctx)
		p, ok, err := w.bridge().st.portal(w.ctx, again)
		w.must(err)
		if !ok {
			t.Fatal("no portal")
		}
		w.must(juliet.Join(w.ctx, string(p.room)))
		w.tw.say(again, romeo, "here I am again")
		said, err := juliet.WaitText(w.ctx, string(p.room), "here I am again")
		w.must(err)
		if said.Sender != ghostOf(romeo) {
			t.Errorf("by %s", said.Sender)
		}
	})
}
