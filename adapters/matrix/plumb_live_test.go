//go:build live

package matrix

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestPlumb: an existing Matrix room becomes the portal of an existing MIMI room, when an admin elsewhere has agreed.
func TestPlumb(t *testing.T) {
	w := newWorld(t)
	juliet, nurse := w.user("juliet"), w.user("nurse")
	hall := w.tw.newRoom("mimi://xmpp.example/r/hall", "Hall", romeo, mercutio)
	w.tw.add(hall, romeo, local("juliet"))
	old := w.accept(juliet)
	w.tw.settled(w.ctx)
	square, err := juliet.CreateRoom(w.ctx, "Square", false, nurse.UserID, w.bot())
	w.must(err)
	_, err = nurse.WaitInvite(w.ctx, square)
	w.must(err)
	w.must(nurse.Join(w.ctx, square))
	w.membership(juliet, square, w.bot(), "join")

	feature(t, "plumbing an existing room", "m.room.message", "both", "matrix-nio")
	ask := func(c *testnet.NioClient, line, answer string) {
		t.Helper()
		ev, err := c.SendText(w.ctx, square, line, "")
		w.must(err)
		w.notice(c, square, ev, answer)
	}
	ask(nurse, "!mimi plumb "+hall.String(), "You need power level 100")
	ask(juliet, "!mimi plumb mimi://xmpp.example/r/elsewhere", "Join it first")
	ask(juliet, "!mimi plumb "+hall.String(), "The other side has to agree")
	question := w.tw.intent(w.ctx, "the question", func(in adapter.Intent) bool { return in.Kind == adapter.SendMessage && in.Room == hall })
	text, _ := question.Content.PlainText()
	code := regexp.MustCompile(`confirm (\w+)$`).FindStringSubmatch(text)
	if code == nil || !strings.Contains(text, square) || question.Actor.String() != local("juliet") {
		t.Fatalf("asked %q by %s", text, question.Actor)
	}
	_, err = juliet.WaitEvent(w.ctx, old, func(e testnet.MatrixEvent) bool { return e.Text() == text })
	w.must(err)
	// Neither somebody who is no admin nor another code is an answer.
	w.tw.say(hall, mercutio, "confirm "+code[1])
	w.tw.say(hall, romeo, "confirm 12345678")
	w.tw.settled(w.ctx)
	if p, _, err := w.bridge().st.portal(w.ctx, hall); err != nil || string(p.room) != old {
		t.Fatalf("plumbed without an agreement: %+v, %v", p, err)
	}
	w.tw.say(hall, romeo, " Confirm "+strings.ToLower(code[1]))
	w.tw.settled(w.ctx)
	w.membership(juliet, square, ghostOf(romeo), "join")
	_, err = juliet.WaitEvent(w.ctx, square, func(e testnet.MatrixEvent) bool { return e.Text() == "This room is "+hall.String()+" now." })
	w.must(err)
	w.tw.until(w.ctx, "who was there is in the MIMI room", func() bool { return w.tw.isIn(hall, local("nurse")) })
	w.must2(nurse.SendText(w.ctx, square, "hear me, hall", ""))
	w.tw.intent(w.ctx, "from the square", sends("hear me, hall"))
	w.tw.say(hall, mercutio, "ask for me tomorrow")
	heard, err := nurse.WaitText(w.ctx, square, "ask for me tomorrow")
	w.must(err)
	if heard.Sender != ghostOf(mercutio) {
		t.Errorf("by %s", heard.Sender)
	}
	w.left(juliet, old)
	t.Run("an admin removes the bot", func(t *testing.T) {
		w.must(juliet.Kick(w.ctx, square, w.bot(), "enough"))
		for _, who := range []string{"juliet", "nurse"} {
			w.tw.intent(w.ctx, who+" leaves", func(in adapter.Intent) bool {
				return in.Kind == adapter.LeaveRoom && in.Room == hall && in.Actor.ID == who
			})
		}
		w.membership(juliet, square, ghostOf(romeo), "leave")
		w.membership(juliet, square, ghostOf(mercutio), "leave")
	})
	_, err = juliet.WaitEvent(w.ctx, old, func(e testnet.MatrixEvent) bool {
		return strings.Contains(e.Text(), "has moved to another Matrix room, "+square)
	})
	w.must(err)
	w.tw.settled(w.ctx)
	w.quiet()
}

// TestNotTwice: where another bridge to MIMI is, or one that has the same people, this one does not come as well; and what bridges say, this one
// included, does not come round.
func TestNotTwice(t *testing.T) {
	w := newWorldWith(t, func(c *Config) { c.Notices = false })
	juliet := w.user("juliet")
	feature(t, "no double bridging", "m.bridge", "from Matrix", "matrix-nio")
	setState := func(room, typ, key string, body map[string]any) {
		w.raw(juliet, http.MethodPut, "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/state/"+typ+"/"+url.PathEscape(key), body)
	}
	other := map[string]any{"bridgebot": "@other:" + server, "protocol": map[string]any{"id": "mimi"}, "channel": map[string]any{"id": "x"}}

	t.Run("inviting a ghost into a bridged room", func(t *testing.T) {
		room, err := juliet.CreateRoom(w.ctx, "Bridged", false)
		w.must(err)
		setState(room, "m.bridge", "other://x", other)
		w.must(juliet.Invite(w.ctx, room, ghostOf(romeo)))
		_, err = juliet.WaitEvent(w.ctx, room, func(e testnet.MatrixEvent) bool {
			return e.Sender == ghostOf(romeo) && strings.Contains(e.Text(), "Another bridge connects this room to MIMI already")
		})
		w.must(err)
		w.membership(juliet, room, ghostOf(romeo), "leave")
		w.tw.intent(w.ctx, "the room made for it is closed", func(in adapter.Intent) bool { return in.Kind == adapter.DestroyRoom })
		w.must2(juliet.SendText(w.ctx, room, "to nobody", ""))
	})
	t.Run("with the bot in it", func(t *testing.T) {
		room, err := juliet.CreateRoom(w.ctx, "Bridged, too", false, w.bot())
		w.must(err)
		w.membership(juliet, room, w.bot(), "join")
		setState(room, "uk.half-shot.bridge", "other://x", other)
		ev, err := juliet.SendText(w.ctx, room, "plumb mimi://xmpp.example/r/hall", "")
		w.must(err)
		w.notice(juliet, room, ev, "Another bridge connects this room")
		made := w.tw.count(func(in adapter.Intent) bool { return in.Kind == adapter.CreateRoom })
		w.must(juliet.Invite(w.ctx, room, ghostOf(romeo)))
		w.membership(juliet, room, ghostOf(romeo), "leave")
		if n := w.tw.count(func(in adapter.Intent) bool { return in.Kind == adapter.CreateRoom }); n != made {
			t.Error("a room was made for it")
		}
	})
	t.Run("a puppet of the same person", func(t *testing.T) {
		puppet := w.user("xmpp_romeo=40xmpp.example")
		room, err := juliet.CreateRoom(w.ctx, "Puppets", false, puppet.UserID)
		w.must(err)
		_, err = puppet.WaitInvite(w.ctx, room)
		w.must(err)
		w.must(puppet.Join(w.ctx, room))
		w.must(juliet.Invite(w.ctx, room, w.bot()))
		w.membership(juliet, room, w.bot(), "join")
		w.must(juliet.Invite(w.ctx, room, ghostOf(romeo)))
		w.membership(juliet, room, ghostOf(romeo), "leave")
		_, err = juliet.WaitEvent(w.ctx, room, func(e testnet.MatrixEvent) bool { return strings.Contains(e.Text(), "Another bridge has "+romeo) })
		w.must(err)
		w.must(juliet.Invite(w.ctx, room, ghostOf(mercutio))) // nobody has him
		w.membership(juliet, room, ghostOf(mercutio), "join")
	})

	feature(t, "notices are not passed on unless that is set", "m.notice", "from Matrix", "matrix-nio")
	uri := w.tw.newRoom("mimi://xmpp.example/r/hall", "Hall", romeo)
	w.tw.add(uri, romeo, local("juliet"))
	w.tw.settled(w.ctx)
	p, _, err := w.bridge().st.portal(w.ctx, uri)
	w.must(err)
	w.must(juliet.Join(w.ctx, string(p.room)))
	w.must2(juliet.Send(w.ctx, string(p.room), "m.room.message", map[string]any{"msgtype": "m.notice", "body": "beep"}, ""))
	w.tw.say(uri, romeo, "round and round")
	_, err = juliet.WaitText(w.ctx, string(p.room), "round and round")
	w.must(err)
	w.must2(juliet.SendText(w.ctx, string(p.room), "I am real", ""))
	w.tw.intent(w.ctx, "a person's word", sends("I am real"))
	w.tw.settled(w.ctx)
	if got := w.tw.textsOf(uri); !slices.Equal(got, []string{"romeo: round and round", "juliet: I am real"}) {
		t.Errorf("the MIMI room heard %q", got)
	}
	if n := w.tw.count(sends("to nobody")); n != 0 {
		t.Error("what was said in the room of another bridge was taken")
	}
}
