package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
)

// pair is the key of the direct rooms of two users.
func pair(a, b string) string {
	us := []string{a, b}
	slices.Sort(us)
	return strings.Join(us, " ")
}

// pair of a direct room, "" if it is none.
func (v *view) pair() string {
	if !v.Direct || len(v.Members) != 2 {
		return ""
	}
	return pair(v.Members[0].User, v.Members[1].User)
}

// keepsDirect reports whether a room can be the direct one of a pair: it is kept by the provider of one of them. Any other hub
// could make one, and be the other user in it.
func keepsDirect(room mimiuri.URI, pair string) bool {
	return slices.ContainsFunc(strings.Fields(pair), func(user string) bool { return uri(user).Domain == room.Domain })
}

// DirectRoom is adapter.People.DirectRoom: the direct room of a local user and another one. Where there is none it is made
// here; where there are several it is the one with the smallest URI of those the local user is in. If one of the two has left
// it, they are brought back, as far as they let themselves. It is on disk when it returns; what fails later is told by
// Refused events of the adapter.
func (c *Client) DirectRoom(ctx context.Context, adapterName string, local, other mimiuri.URI) (mimiuri.URI, error) {
	switch {
	case local.Kind != mimiuri.User || local.Domain != c.cfg.Domain:
		return mimiuri.URI{}, fault.New(fault.Forbidden, "only users of this provider act through it")
	case other.Kind != mimiuri.User:
		return mimiuri.URI{}, fault.New(fault.Malformed, "this is not a user")
	case other == local:
		return mimiuri.URI{}, fault.New(fault.Malformed, "nobody has a direct room with themselves")
	}
	users, now := pair(local.String(), other.String()), c.cfg.Now().UnixMilli()
	room := ""
	err := c.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		room = ""
		intend := func(kind adapter.IntentKind) error {
			p := payload{Kind: kind}
			switch kind {
			case adapter.CreateRoom:
				p.Preset, p.Target = adapter.Direct, other.String()
			case adapter.Invite:
				p.Target = other.String()
			}
			b, err := json.Marshal(p)
			if err != nil {
				return err
			}
			in := &adapter.Intent{Kind: kind, Room: uri(room), Actor: local}
			if kind == adapter.Invite {
				in.Target = other
			}
			if err := c.cfg.People.Admit(tx, in); err != nil {
				return err
			}
			_, err = tx.InsertIntent(&store.Intent{Room: room, Adapter: adapterName, Actor: local.String(), Origin: "direct-" + randomID(8), Payload: b, Created: now})
			return err
		}
		rooms, err := tx.DirectRooms(users)
		if err != nil {
			return err
		}
		left := ""
		for _, id := range rooms {
			if !keepsDirect(uri(id), users) {
				continue
			}
			status, b, ok, err := tx.ClientView(id)
			if err != nil {
				return err
			}
			v, err := parseView(b)
			if err != nil {
				return err
			}
			switch {
			case !ok:
			case status == store.ClientOut && v.here(other.String()) == nil: // nobody is left in it
				if err := tx.DropDirectRoom(id); err != nil {
					return err
				}
			case status == store.ClientOut:
				if left == "" {
					left = id
				}
			case status == store.ClientJoined && v.here(local.String()) == nil:
				if left == "" {
					left = id
				}
			default:
				room = id
				if status == store.ClientNew || v.here(other.String()) != nil {
					return nil
				}
				waiting, err := inviting(tx, room, other.String())
				if err != nil || waiting {
					return err
				}
				return intend(adapter.Invite)
			}
		}
		if left != "" {
			room = left
			waiting, err := inviting(tx, room, "")
			if err != nil || waiting {
				return err
			}
			return intend(adapter.JoinRoom)
		}
		room = mimiuri.URI{Domain: c.cfg.Domain, Kind: mimiuri.Room, ID: "direct-" + randomID(10)}.String()
		if err := tx.EnsureClientRoom(room, now); err != nil {
			return err
		}
		if err := tx.PutDirectRoom(users, room); err != nil {
			return err
		}
		if err := intend(adapter.CreateRoom); err != nil {
			return err
		}
		return intend(adapter.Invite)
	})
	if err != nil {
		return mimiuri.URI{}, err
	}
	c.step(room)
	return uri(room), nil
}

func randomID(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// inviting reports whether an invitation of a user is open in a room, or a return if target is empty.
func inviting(tx *store.Tx, room, target string) (bool, error) {
	open, err := tx.OpenIntents(room, 1000)
	if err != nil {
		return false, err
	}
	for _, in := range open {
		var p payload
		if err := json.Unmarshal(in.Payload, &p); err != nil {
			return false, err
		}
		if p.Target == target && (p.Kind == adapter.Invite || p.Kind == adapter.JoinRoom) {
			return true, nil
		}
	}
	return false, nil
}

// alone holds a message in a direct room whose other side is not there: it waits while they are being brought in, and is
// refused otherwise, since nobody would ever read it. ok is true where there is nothing to hold.
func (r *room) alone(ctx context.Context, in *store.Intent, pl *payload) (ok, more bool, err error) {
	if !r.view.Direct {
		return true, false, nil
	}
	for _, m := range r.view.Members {
		if !m.Away {
			continue
		}
		waiting := false
		err := r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			waiting, err = inviting(tx, r.id, m.User)
			return err
		})
		switch {
		case err != nil:
			return false, false, err
		case waiting:
			more, err := r.deferIntent(ctx, in, pl, fault.New(fault.Unavailable, "they are still being brought into the conversation"))
			return false, more, err
		}
		return false, true, r.refuse(ctx, in, pl, fault.Forbidden, "they are not in this conversation any more")
	}
	return true, false, nil
}
