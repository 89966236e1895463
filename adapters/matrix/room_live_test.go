//go:build live

package matrix

import (
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// TestInvitedFromHere: a local user makes a room of their own a MIMI room by inviting a ghost, and runs it.
func TestInvitedFromHere(t *testing.T) {
	w := newWorld(t)
	juliet, nurse, paris := w.user("juliet"), w.user("nurse"), w.user("paris")
	tybalt := "mimi://capulet.example/u/" + strings.Repeat("Tybalt_", 40)

	// Paris is in the room before it is a portal. The first words are written before the ghost can have joined: the
	// homeserver does not send them.
	room, err := juliet.CreateRoom(w.ctx, "Orchard", false, paris.UserID)
	w.must(err)
	_, err = paris.WaitInvite(w.ctx, room)
	w.must(err)
	w.must(paris.Join(w.ctx, room))
	w.must2(juliet.SendText(w.ctx, room, "not for MIMI", ""))
	w.must(juliet.Invite(w.ctx, room, ghostOf(romeo)))
	w.must2(juliet.SendText(w.ctx, room, "first words", ""))
	w.must2(paris.SendText(w.ctx, room, "second words", ""))
	w.membership(juliet, room, ghostOf(romeo), "join")
	w.must2(juliet.SendText(w.ctx, room, "third words", ""))
	w.tw.intent(w.ctx, "third words", sends("third words"))

	create := w.tw.intent(w.ctx, "create", func(in adapter.Intent) bool { return in.Kind == adapter.CreateRoom })
	if create.Room.Domain != twinDomain || create.Name != "Orchard" || create.Actor.String() != local("juliet") {
		t.Errorf("created %+v", create)
	}
	uri := create.Room
	invite := w.tw.intent(w.ctx, "invite", func(in adapter.Intent) bool { return in.Kind == adapter.Invite && in.Target.String() == romeo })
	if invite.Room != uri || invite.Actor.String() != local("juliet") {
		t.Errorf("invited %+v", invite)
	}
	w.tw.until(w.ctx, "paris is added too", func() bool { return w.tw.isIn(uri, local("paris")) })
	w.tw.settled(w.ctx)
	want := []string{"juliet: first words", "paris: second words", "juliet: third words"}
	if got := w.tw.textsOf(uri); !slices.Equal(got, want) {
		t.Errorf("the MIMI room heard %q, want %q", got, want)
	}
	if m, err := juliet.Members(w.ctx, room); err != nil || m[w.bot()] != "join" {
		t.Errorf("the bot was not let in: %v, %v", m, err)
	}

	t.Run("a ghost with a long name", func(t *testing.T) {
		// Nobody could type the ID; the bot tells it (see TestBot). The homeserver asks about IDs it does not know.
		b := w.bridge()
		ghost, err := b.ensureGhost(w.ctx, mimiuri.MustParse(tybalt))
		w.must(err)
		w.must(juliet.Invite(w.ctx, room, string(ghost)))
		w.membership(juliet, room, string(ghost), "join")
		w.tw.say(uri, tybalt, "What, drawn, and talk of peace?")
		ev, err := juliet.WaitText(w.ctx, room, "What, drawn, and talk of peace?")
		w.must(err)
		if ev.Sender != string(ghost) || len(ghost) > maxIDLen {
			t.Errorf("sent by %s", ev.Sender)
		}
	})
	t.Run("another local user", func(t *testing.T) {
		w.must(juliet.Invite(w.ctx, room, nurse.UserID))
		_, err := nurse.WaitInvite(w.ctx, room)
		w.must(err)
		w.must(nurse.Join(w.ctx, room))
		in := w.tw.intent(w.ctx, "nurse", func(in adapter.Intent) bool { return in.Kind == adapter.Invite && in.Target.String() == local("nurse") })
		if in.Actor.String() != local("juliet") || in.Room != uri {
			t.Errorf("%+v", in)
		}
		w.must2(nurse.SendText(w.ctx, room, "Madam!", ""))
		w.tw.until(w.ctx, "nurse speaks", func() bool {
			return slices.ContainsFunc(w.tw.events[uri], func(e adapter.Event) bool {
				return e.Kind == adapter.Message && e.Sender.String() == local("nurse")
			})
		})
	})
	t.Run("an invitation is refused", func(t *testing.T) {
		w.tw.setRefuse(func(in adapter.Intent) error {
			if in.Kind == adapter.Invite && in.Target.ID == "nobody" {
				return fault.New(fault.NotFound, "there is no such user")
			}
			return nil
		})
		ghost := ghostOf("mimi://xmpp.example/u/nobody")
		w.must(juliet.Invite(w.ctx, room, ghost))
		ev := w.membership(juliet, room, ghost, "invite")
		w.notice(juliet, room, ev.ID, "there is no such user")
		w.membership(juliet, room, ghost, "leave")
	})
	t.Run("a message is refused", func(t *testing.T) {
		w.tw.setRefuse(func(in adapter.Intent) error {
			if in.Kind == adapter.SendMessage {
				return fault.New(fault.Forbidden, "the room is silent now")
			}
			return nil
		})
		ev, err := juliet.SendText(w.ctx, room, "too much", "")
		w.must(err)
		w.notice(juliet, room, ev, "Not delivered: the room is silent now.")
		w.tw.setRefuse(nil)
		w.tw.mu.Lock()
		w.tw.reject = func(in adapter.Intent) error {
			if in.Kind == adapter.SendMessage {
				return fault.New(fault.TooLarge, "this is more than anybody can bear")
			}
			return nil
		}
		w.tw.mu.Unlock()
		ev, err = juliet.SendText(w.ctx, room, "way too much", "")
		w.must(err)
		w.notice(juliet, room, ev, "Not delivered: this is more than anybody can bear.")
		w.tw.mu.Lock()
		w.tw.reject = nil
		w.tw.mu.Unlock()
	})
	t.Run("kicking", func(t *testing.T) {
		w.tw.setRefuse(func(in adapter.Intent) error {
			if in.Kind == adapter.Remove {
				return fault.New(fault.Forbidden, "not today")
			}
			return nil
		})
		w.must(juliet.Kick(w.ctx, room, ghostOf(romeo), "away"))
		out := w.membership(juliet, room, ghostOf(romeo), "leave")
		w.notice(juliet, room, out.ID, "not today")
		// It is back before the notice; what it says then is its own.
		w.tw.say(uri, romeo, "still here")
		back, err := juliet.WaitText(w.ctx, room, "still here")
		w.must(err)
		if back.Sender != ghostOf(romeo) {
			t.Errorf("%s spoke", back.Sender)
		}
		w.tw.setRefuse(nil)
		w.must(juliet.Kick(w.ctx, room, ghostOf(romeo), "away"))
		w.tw.until(w.ctx, "romeo removed", func() bool { return !w.tw.isIn(uri, romeo) })
		w.tw.settled(w.ctx)
		if m, err := juliet.Members(w.ctx, room); err != nil || m[ghostOf(romeo)] != "leave" {
			t.Errorf("romeo is %q (%v)", m[ghostOf(romeo)], err)
		}
		w.must(juliet.Kick(w.ctx, room, nurse.UserID, ""))
		w.tw.until(w.ctx, "nurse removed", func() bool { return !w.tw.isIn(uri, local("nurse")) })
	})
	t.Run("banning is undone", func(t *testing.T) {
		w.tw.setRefuse(func(in adapter.Intent) error {
			if in.Kind == adapter.Ban {
				return fault.New(fault.Forbidden, "no bans")
			}
			return nil
		})
		defer w.tw.setRefuse(nil)
		long, _ := ghostID(mimiuri.MustParse(tybalt), server)
		w.must(juliet.Do(w.ctx, "ban", map[string]any{"room": room, "user": string(long)}, nil))
		ev := w.membership(juliet, room, string(long), "ban")
		// In a room that the user made the bot has no power to lift a ban, but the notice says what is the case.
		w.notice(juliet, room, ev.ID, "no bans")
		w.tw.say(uri, tybalt, "I hate the word")
		_, err := juliet.WaitEvent(w.ctx, room, func(e testnet.MatrixEvent) bool {
			return e.Sender == w.bot() && strings.HasSuffix(e.Text(), "(capulet.example): I hate the word")
		})
		w.must(err)
	})
	t.Run("everybody leaves", func(t *testing.T) {
		w.must(paris.Leave(w.ctx, room))
		w.tw.until(w.ctx, "paris left", func() bool { return !w.tw.isIn(uri, local("paris")) })
		// The last local user invites herself back in, to see the bridge go.
		w.must(juliet.Leave(w.ctx, room))
		w.tw.until(w.ctx, "juliet left", func() bool { return !w.tw.isIn(uri, local("juliet")) })
		w.tw.settled(w.ctx)
		st := w.bridge().st
		if p, ok, err := st.portal(w.ctx, uri); err != nil || ok {
			t.Errorf("the portal is still there: %+v, %v", p, err)
		}
	})
	w.quiet()
}

// TestFirstInvitationRefused: nobody of the bridge is in the room yet to say why.
func TestFirstInvitationRefused(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	w.tw.setRefuse(func(in adapter.Intent) error {
		if in.Kind == adapter.Invite && in.Target.String() == romeo {
			return fault.New(fault.Unavailable, "xmpp.example cannot be reached")
		}
		return nil
	})
	room, err := juliet.CreateRoom(w.ctx, "", false, ghostOf(romeo))
	w.must(err)
	in := w.tw.intent(w.ctx, "invite", func(in adapter.Intent) bool { return in.Kind == adapter.Invite })
	w.notice(juliet, room, in.OriginID, "xmpp.example cannot be reached")
	w.membership(juliet, room, ghostOf(romeo), "leave")
	w.tw.setRefuse(nil)
	w.must(juliet.Invite(w.ctx, room, ghostOf(mercutio)))
	w.membership(juliet, room, ghostOf(mercutio), "join")
	w.must2(juliet.SendText(w.ctx, room, "you then", ""))
	w.tw.intent(w.ctx, "you then", sends("you then"))
	w.tw.settled(w.ctx)
	if got := w.tw.textsOf(in.Room); !slices.Equal(got, []string{"juliet: you then"}) {
		t.Errorf("heard %q", got)
	}
	if n := w.tw.count(func(in adapter.Intent) bool { return in.Kind == adapter.CreateRoom }); n != 1 {
		t.Errorf("%d rooms made", n)
	}
}

// TestRoomCannotBeMade: the room is refused, then the invitation; the next invitation begins anew.
func TestRoomCannotBeMade(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	w.tw.setRefuse(func(in adapter.Intent) error {
		if in.Kind == adapter.CreateRoom {
			return fault.New(fault.Limited, "you have too many rooms")
		}
		return nil
	})
	room, err := juliet.CreateRoom(w.ctx, "", false, ghostOf(romeo))
	w.must(err)
	in := w.tw.intent(w.ctx, "invite", func(in adapter.Intent) bool { return in.Kind == adapter.Invite })
	w.notice(juliet, room, in.OriginID, "there is no such room")
	w.membership(juliet, room, ghostOf(romeo), "leave")
	w.tw.until(w.ctx, "the refusals are delivered", func() bool { return w.tw.tries[in.Room.String()+"#2"] > 0 })
	w.tw.setRefuse(nil)
	w.waitFor("the portal is forgotten", func() bool {
		_, ok, err := w.bridge().st.portalAt(w.ctx, id.RoomID(room))
		return err == nil && !ok
	})
	w.must(juliet.Invite(w.ctx, room, ghostOf(romeo)))
	w.tw.intent(w.ctx, "another room", func(other adapter.Intent) bool {
		return other.Kind == adapter.CreateRoom && other.Room != in.Room
	})
	w.must2(juliet.SendText(w.ctx, room, "at last", ""))
	w.tw.intent(w.ctx, "at last", sends("at last"))
}

// TestManagedFromElsewhere: a portal of the bot's in which local users have powers, are removed, and are left
// behind when the room closes.
func TestManagedFromElsewhere(t *testing.T) {
	w := newWorld(t)
	juliet, nurse := w.user("juliet"), w.user("nurse")
	room := w.tw.newRoom("mimi://xmpp.example/r/hall", "Hall", romeo, mercutio)
	w.tw.addAdmin(room, romeo, local("juliet"))
	portal := w.accept(juliet)

	t.Run("an admin kicks", func(t *testing.T) {
		_, err := juliet.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool {
			users, _ := e.Content["users"].(map[string]any)
			return e.Type == "m.room.power_levels" && users[juliet.UserID] == float64(levelOwner)
		})
		w.must(err)
		w.must(juliet.Kick(w.ctx, portal, ghostOf(mercutio), ""))
		w.tw.until(w.ctx, "mercutio removed", func() bool { return !w.tw.isIn(room, mercutio) })
	})
	t.Run("a ban is undone", func(t *testing.T) {
		// Nobody bans their like on Matrix.
		w.tw.setRole(room, romeo, 2)
		w.stateIs(juliet, portal, "m.room.power_levels", func(c map[string]any) bool { return users(c)[ghostOf(romeo)] == nil })
		w.tw.setRefuse(func(in adapter.Intent) error {
			if in.Kind == adapter.Ban {
				return fault.New(fault.Forbidden, "he owns the place")
			}
			return nil
		})
		defer w.tw.setRefuse(nil)
		w.must(juliet.Do(w.ctx, "ban", map[string]any{"room": portal, "user": ghostOf(romeo)}, nil))
		ev := w.membership(juliet, portal, ghostOf(romeo), "ban")
		w.notice(juliet, portal, ev.ID, "he owns the place")
		w.tw.settled(w.ctx)
		if m, err := juliet.Members(w.ctx, portal); err != nil || m[ghostOf(romeo)] != "join" {
			t.Errorf("romeo is %q, %v", m[ghostOf(romeo)], err)
		}
	})
	t.Run("a member invites and is heard", func(t *testing.T) {
		w.must(juliet.Invite(w.ctx, portal, nurse.UserID))
		_, err := nurse.WaitInvite(w.ctx, portal)
		w.must(err)
		w.tw.setRefuse(func(in adapter.Intent) error {
			if in.Kind == adapter.Invite && in.Target.ID == "nurse" {
				return fault.New(fault.Forbidden, "no nurses")
			}
			return nil
		})
		w.must(nurse.Join(w.ctx, portal))
		in := w.tw.intent(w.ctx, "nurse", func(in adapter.Intent) bool { return in.Kind == adapter.Invite && in.Target.ID == "nurse" })
		w.notice(juliet, portal, in.OriginID, "no nurses")
		w.membership(juliet, portal, nurse.UserID, "leave")
		w.tw.setRefuse(nil)
	})
	t.Run("added by somebody elsewhere into the same portal", func(t *testing.T) {
		w.tw.add(room, romeo, local("nurse"))
		_, err := juliet.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool {
			return e.Type == "m.room.member" && *e.StateKey == nurse.UserID && e.String("membership") == "invite" && e.Sender == w.bot()
		})
		w.must(err)
		w.must(nurse.Join(w.ctx, portal))
		w.must2(nurse.SendText(w.ctx, portal, "here I am", ""))
		w.tw.intent(w.ctx, "here I am", sends("here I am"))
		if n := w.tw.count(func(in adapter.Intent) bool { return in.Target.ID == "nurse" }); n != 1 {
			t.Errorf("%d intents about nurse", n)
		}
	})
	t.Run("removed by somebody elsewhere", func(t *testing.T) {
		w.tw.remove(room, romeo, local("nurse"))
		ev, err := juliet.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool {
			return e.Type == "m.room.member" && *e.StateKey == nurse.UserID && e.String("membership") == "leave" && e.String("reason") == "removed by romeo (xmpp.example)"
		})
		w.must(err)
		if ev.Sender != w.bot() {
			t.Errorf("by %s", ev.Sender)
		}
		if n := w.tw.count(func(in adapter.Intent) bool { return in.Actor.ID == "nurse" && in.Kind == adapter.LeaveRoom }); n != 0 {
			t.Errorf("being removed became leaving")
		}
	})
	t.Run("a ghost that left by mistake comes back to speak", func(t *testing.T) {
		w.must(w.bridge().hs.leave(w.ctx, id.UserID(ghostOf(romeo)), id.RoomID(portal), ""))
		w.tw.say(room, romeo, "I was away")
		ev, err := juliet.WaitText(w.ctx, portal, "I was away")
		w.must(err)
		if ev.Sender != ghostOf(romeo) {
			t.Errorf("by %s", ev.Sender)
		}
	})
	t.Run("long, odd and unknown messages", func(t *testing.T) {
		long := strings.Repeat("<&\"\\ü\u2028 ", 12000) + "end"
		w.tw.say(room, romeo, long)
		w.tw.say(room, romeo, "a\x00b")
		_, err := juliet.WaitText(w.ctx, portal, "a\uFFFDb")
		w.must(err)
		_, err = juliet.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool {
			return strings.Contains(e.Text(), "the beginning of a long text")
		})
		w.must(err)
		file, err := juliet.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool { return e.String("msgtype") == "m.file" && e.Text() == "message.txt" })
		w.must(err)
		if got := w.downloaded(juliet, file.String("url")); string(got) != long {
			t.Errorf("%d octets of %d came through", len(got), len(long))
		}
		w.tw.send(room, romeo, &content.Message{Body: content.Part{Disposition: content.Render, Cardinality: content.SinglePart, ContentType: content.TypePlain, Content: []byte("\xff")}})
		_, err = juliet.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool {
			return e.Sender == ghostOf(romeo) && e.String("msgtype") == "m.notice" && strings.Contains(e.Text(), "cannot be shown")
		})
		w.must(err)
	})
	w.tw.add(room, romeo, local("nurse"))
	w.tw.settled(w.ctx)
	w.tw.closeRoom(room)
	_, err := juliet.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool {
		return e.Type == "m.room.member" && *e.StateKey == nurse.UserID && e.String("membership") == "leave" && e.String("reason") == "the MIMI room is closed"
	})
	w.must(err)
	w.membership(juliet, portal, w.bot(), "leave")
	_, err = juliet.WaitEvent(w.ctx, portal, func(e testnet.MatrixEvent) bool { return strings.Contains(e.Text(), "is closed") })
	w.must(err)
	if m, err := juliet.Members(w.ctx, portal); err != nil || m[juliet.UserID] != "join" || m[ghostOf(romeo)] != "leave" {
		t.Errorf("members %v, %v", m, err)
	}
	w.tw.settled(w.ctx)
	w.quiet()
}

// TestLargeRoom: a hundred ghosts join when the portal is made, the others when they speak.
func TestLargeRoom(t *testing.T) {
	w := newWorld(t)
	juliet := w.user("juliet")
	users := []string{romeo}
	for i := range 119 {
		users = append(users, "mimi://xmpp.example/u/guest"+string(rune('a'+i/26))+string(rune('a'+i%26)))
	}
	room := w.tw.newRoom("mimi://xmpp.example/r/feast", "Feast", users...)
	w.tw.add(room, romeo, local("juliet"))
	portal := w.accept(juliet)
	members, err := juliet.Members(w.ctx, portal)
	w.must(err)
	joined := 0
	for _, m := range members {
		if m == "join" {
			joined++
		}
	}
	if joined != 100+2 { // the bot, juliet
		t.Errorf("%d have joined", joined)
	}
	last := users[len(users)-1]
	if members[ghostOf(last)] != "" {
		t.Fatalf("%s is %s", last, members[ghostOf(last)])
	}
	w.tw.say(room, last, "a late word")
	ev, err := juliet.WaitText(w.ctx, portal, "a late word")
	w.must(err)
	if ev.Sender != ghostOf(last) {
		t.Errorf("by %s", ev.Sender)
	}
	w.tw.settled(w.ctx)
}
