//go:build live

package matrix

import (
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

func TestBot(t *testing.T) {
	w := newWorld(t)
	juliet, nurse := w.user("juliet"), w.user("nurse")
	bot := w.bot()
	room, err := juliet.CreateRoom(w.ctx, "", true, bot)
	w.must(err)
	w.membership(juliet, room, bot, "join")
	_, err = juliet.WaitEvent(w.ctx, room, func(e testnet.MatrixEvent) bool { return e.Sender == bot && e.Text() == helpText })
	w.must(err)
	ask := func(line, answer string) {
		t.Helper()
		ev, err := juliet.SendText(w.ctx, room, line, "")
		w.must(err)
		w.notice(juliet, room, ev, answer)
	}
	ask("help", "Commands:")
	ask("what?", "no such command")
	ask("id "+romeo, ghostOf(romeo))
	ask("id nonsense", "no MIMI user")
	ask("id "+local("nurse"), nurse.UserID)
	ask("join nonsense", "no MIMI room")
	ask("join mimi://xmpp.example/r/nowhere", "You could not join mimi://xmpp.example/r/nowhere: there is no such room.")

	t.Run("joining a room", func(t *testing.T) {
		uri := w.tw.newRoom("mimi://xmpp.example/r/balcony", "Balcony", romeo)
		w.tw.mu.Lock()
		w.tw.rooms[uri].open = true
		w.tw.mu.Unlock()
		w.must2(juliet.SendText(w.ctx, room, "join mimi://xmpp.example/r/balcony", ""))
		portal := w.accept(juliet)
		w.must2(juliet.SendText(w.ctx, portal, "good night", ""))
		w.tw.intent(w.ctx, "good night", sends("good night"))
		w.tw.settled(w.ctx)
	})
	t.Run("in company it has to be addressed", func(t *testing.T) {
		w.must(juliet.Invite(w.ctx, room, nurse.UserID))
		_, err := nurse.WaitInvite(w.ctx, room)
		w.must(err)
		w.must(nurse.Join(w.ctx, room))
		ignored, err := juliet.SendText(w.ctx, room, "help", "")
		w.must(err)
		// A bot does not answer bots.
		robot, err := nurse.Send(w.ctx, room, "m.room.message", map[string]any{"msgtype": "m.notice", "body": "!mimi help"}, "")
		w.must(err)
		asked, err := nurse.SendText(w.ctx, room, "!mimi help", "")
		w.must(err)
		w.notice(nurse, room, asked, "Commands:")
		for _, ev := range nurse.Events() {
			if to := repliesTo(ev.Event()); to == ignored || to == robot {
				t.Errorf("it answered %s", to)
			}
		}
	})
	t.Run("the bot's room becomes a portal", func(t *testing.T) {
		// What is said is a message from the invitation on, also before the ghost has come.
		w.tw.setHold(true)
		w.must(juliet.Invite(w.ctx, room, ghostOf(romeo)))
		w.must2(juliet.SendText(w.ctx, room, "help, Romeo", ""))
		in := w.tw.intent(w.ctx, "help, Romeo", sends("help, Romeo"))
		w.tw.setHold(false)
		w.membership(juliet, room, ghostOf(romeo), "join")
		w.tw.settled(w.ctx)
		if !w.tw.isInLocked(in.Room, local("juliet")) || !w.tw.isInLocked(in.Room, romeo) {
			t.Error("not everybody is in the room")
		}
	})
	w.quiet()
}

func TestPermissions(t *testing.T) {
	w := newWorld(t)
	juliet, paris := w.user("juliet"), w.user("paris")
	w.tw.setLevel(paris.UserID, adapter.LevelNone)

	t.Run("a ghost declines", func(t *testing.T) {
		room, err := paris.CreateRoom(w.ctx, "", false, ghostOf(romeo))
		w.must(err)
		w.declined(paris, room, ghostOf(romeo)) // with a reason, which Dendrite does not pass on
	})
	t.Run("the bot declines", func(t *testing.T) {
		room, err := paris.CreateRoom(w.ctx, "", true, w.bot())
		w.must(err)
		w.declined(paris, room, w.bot())
	})
	t.Run("somebody who is nobody declines", func(t *testing.T) {
		// The homeserver of this test lets users invite IDs that do not exist.
		room, err := juliet.CreateRoom(w.ctx, "", true, "@mimi_nobody:"+server)
		w.must(err)
		w.declined(juliet, room, "@mimi_nobody:"+server)
	})

	room := w.tw.newRoom("mimi://xmpp.example/r/hall", "Hall", romeo)
	w.tw.add(room, romeo, local("juliet"))
	portal := w.accept(juliet)
	t.Run("invited by somebody who may", func(t *testing.T) {
		w.must(juliet.Invite(w.ctx, portal, paris.UserID))
		_, err := paris.WaitInvite(w.ctx, portal)
		w.must(err)
		w.must(paris.Join(w.ctx, portal))
		joined := w.membership(juliet, portal, paris.UserID, "join")
		w.notice(juliet, portal, joined.ID, "may not use this bridge")
		w.membership(juliet, portal, paris.UserID, "leave")
	})
	t.Run("the permission is taken away", func(t *testing.T) {
		w.tw.setLevel(juliet.UserID, adapter.LevelNone)
		ev, err := juliet.SendText(w.ctx, portal, "hello?", "")
		w.must(err)
		w.notice(juliet, portal, ev, "may not use this bridge")
		w.tw.setLevel(juliet.UserID, adapter.LevelUser)
		w.must2(juliet.SendText(w.ctx, portal, "hello!", ""))
		w.tw.intent(w.ctx, "hello!", sends("hello!"))
	})
	if n := w.tw.count(func(in adapter.Intent) bool { return in.Actor.ID == "paris" || in.Target.ID == "paris" }); n != 0 {
		t.Errorf("%d intents about paris", n)
	}
	if n := w.tw.count(sends("hello?")); n != 0 {
		t.Error("it was sent")
	}
}

// declined waits for an invitation to be declined; then the room's only member sees it.
func (w *world) declined(c *testnet.NioClient, room, user string) testnet.MatrixEvent {
	w.t.Helper()
	return w.membership(c, room, user, "leave")
}

// TestLeavingIsRefused: then the user is invited again, for they are in the room.
func TestLeavingIsRefused(t *testing.T) {
	w := newWorld(t)
	juliet, nurse := w.user("juliet"), w.user("nurse")
	room := w.tw.newRoom("mimi://xmpp.example/r/hall", "Hall", romeo)
	w.tw.add(room, romeo, local("juliet"))
	w.tw.add(room, romeo, local("nurse"))
	portal := w.accept(juliet)
	w.accept(nurse)
	w.tw.setRefuse(func(in adapter.Intent) error {
		if in.Kind == adapter.LeaveRoom {
			return fault.New(fault.Forbidden, "nobody leaves before supper")
		}
		return nil
	})
	w.must(juliet.Leave(w.ctx, portal))
	in := w.tw.intent(w.ctx, "leave", func(in adapter.Intent) bool { return in.Kind == adapter.LeaveRoom })
	w.notice(nurse, portal, in.OriginID, "nobody leaves before supper")
	back, err := nurse.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool {
		return e.Type == "m.room.member" && *e.StateKey == juliet.UserID && e.String("membership") == "invite" && e.Sender == w.bot()
	})
	w.must(err)
	w.must(juliet.Join(w.ctx, portal))
	w.must2(juliet.SendText(w.ctx, portal, "supper, then", ""))
	w.tw.intent(w.ctx, "supper, then", sends("supper, then"))
	if n := w.tw.count(func(in adapter.Intent) bool { return in.Kind == adapter.JoinRoom || in.Kind == adapter.Invite }); n != 0 {
		t.Errorf("coming back (%s) became %d intents", back.ID, n)
	}
	w.tw.settled(w.ctx)
}
