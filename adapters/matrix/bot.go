package matrix

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

const helpText = `This is the bridge to MIMI, the federation of messengers. Commands:
  id mimi://xmpp.example/u/romeo – the Matrix ID of a MIMI user. Invite that ID into a room, and the room becomes a MIMI room.
  join mimi://xmpp.example/r/balcony – join a MIMI room; you are then invited to its Matrix room.
  help – this text.
In a room with more than the two of us, begin with !mimi. To leave a MIMI room, leave its Matrix room.
Messages are encrypted between providers; the end of that encryption is this bridge, not your device.`

// onCommand answers what is said to the bot in a room that is no portal.
func (b *bridge) onCommand(ctx context.Context, ev rawEvent, body object) error {
	m, err := b.st.member(ctx, ev.RoomID, b.hs.bot)
	if err != nil || m.membership != "join" || ev.Type != "m.room.message" || body.str("msgtype") != "m.text" {
		return err
	}
	line, addressed := strings.CutPrefix(strings.TrimSpace(body.str("body")), "!mimi")
	if !addressed {
		users, err := b.hs.joined(ctx, b.hs.bot, ev.RoomID)
		if err != nil {
			return err
		}
		if len(users) > 2 {
			return nil
		}
	}
	if _, ok := localURI(ev.Sender, b.server, b.domain); !ok {
		return nil
	}
	actor, ok := b.person(ev.Sender)
	if !ok {
		return b.say(ctx, ev.RoomID, ev.ID, "forbidden", "You may not use this bridge; its administrator can allow it.")
	}
	command, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
	reply := func(format string, args ...any) error {
		return b.say(ctx, ev.RoomID, ev.ID, "answer", fmt.Sprintf(format, args...))
	}
	switch strings.ToLower(command) {
	case "help", "":
		return reply("%s", helpText)
	case "id":
		uri, err := mimiuri.ParseKind(strings.TrimSpace(arg), mimiuri.User)
		if err != nil {
			return reply("That is no MIMI user. They look like mimi://xmpp.example/u/romeo.")
		}
		if uri.Domain == b.domain {
			if mxid, ok := localID(uri, b.server, b.domain); ok {
				return reply("%s is on Matrix: %s", uri, mxid)
			}
			return reply("There is no such user here.")
		}
		ghost, err := b.ensureGhost(ctx, uri)
		if err != nil {
			return err
		}
		return reply("%s – invite this ID into a room.", ghost)
	case "join":
		uri, err := mimiuri.ParseKind(strings.TrimSpace(arg), mimiuri.Room)
		if err != nil {
			return reply("That is no MIMI room. They look like mimi://xmpp.example/r/balcony.")
		}
		return b.intake(ctx, ev.RoomID, adapter.Intent{Kind: adapter.JoinRoom, Room: uri, Actor: actor, OriginID: string(ev.ID), OriginTime: ev.time()})
	}
	return reply("There is no such command. Write help for those there are.")
}

// speaker is who can speak for the bridge in a Matrix room: the bot, else a ghost, "" if nobody is in it.
func (b *bridge) speaker(ctx context.Context, room id.RoomID) (id.UserID, error) {
	users, err := b.speakers(ctx, room, 1)
	if err != nil || len(users) == 0 {
		return "", err
	}
	return users[0], nil
}

func (b *bridge) speakers(ctx context.Context, room id.RoomID, n int) ([]id.UserID, error) {
	joined, err := b.st.membersOf(ctx, room, "join")
	if err != nil {
		return nil, err
	}
	var out []id.UserID
	for _, u := range joined {
		if u == b.hs.bot {
			out = append([]id.UserID{u}, out...)
		} else if isOurs(u, b.server) && len(out) < n {
			out = append(out, u)
		}
	}
	return out[:min(n, len(out))], nil
}

// say sends a notice, in reply to an event if there is one. It is sent once per room, event and key. Where nobody can
// speak it is left out.
func (b *bridge) say(ctx context.Context, room id.RoomID, replyTo id.EventID, key, text string) error {
	as, err := b.speaker(ctx, room)
	if err != nil {
		return err
	}
	if as == "" {
		b.log.Info().Str("matrix_room", string(room)).Str("notice", key).Msg("nobody of the bridge is in the room to say something")
		return nil
	}
	notice := map[string]any{"msgtype": "m.notice", "body": text, "m.mentions": struct{}{}}
	if replyTo != "" {
		notice["m.relates_to"] = map[string]any{"m.in_reply_to": map[string]any{"event_id": replyTo}}
	}
	_, err = b.sendEvent(ctx, as, room, "m.room.message", txnID("notice", string(room), string(replyTo), key), time.Time{}, notice)
	if err != nil && !fault.Temporary(err) {
		b.log.Info().Err(err).Str("matrix_room", string(room)).Str("notice", key).Msg("the bridge may not speak in the room")
		return nil
	}
	return err
}

func unmarshal(raw json.RawMessage, out any) error {
	if len(raw) == 0 {
		return errNotEvent
	}
	return json.Unmarshal(raw, out)
}
