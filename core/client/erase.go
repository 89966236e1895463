package client

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/internal/mailbox"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
)

// RoomsOf lists the rooms that a local user is in, as far as they are shown.
func (c *Client) RoomsOf(ctx context.Context, user mimiuri.URI) (rooms []mimiuri.URI, err error) {
	id := user.String()
	err = c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		return tx.ClientViews(func(room string, b []byte) error {
			v, err := parseView(b)
			if err == nil && v.here(id) != nil {
				rooms = append(rooms, uri(room))
			}
			return err
		})
	})
	return rooms, err
}

// Involved reports whether a local user is in a room, for the participant list or by a client in the group. It asks the
// room's goroutine, so it has to be called at the node that owns the room.
func (c *Client) Involved(ctx context.Context, in, user mimiuri.URI) (bool, error) {
	id := user.String()
	return mailbox.Ask(ctx, c.rooms, in.String(), func(r *room) (bool, error) {
		if err := r.load(ctx); err != nil {
			return false, err
		}
		if r.row == nil || r.row.Status == store.ClientOut {
			return false, nil
		}
		if r.view != nil && r.view.here(id) != nil || r.pending != nil {
			return true, nil
		}
		return r.g != nil && slices.ContainsFunc(r.g.Members(), func(m mls.Member) bool {
			u, _, err := policy.LeafUser(m.Node)
			return err == nil && u == user
		}), nil
	})
}

// EraseEvents takes a user out of what is kept of a room: what only they saw is deleted, the rest is not theirs to see any
// more.
func (c *Client) EraseEvents(ctx context.Context, room string, user mimiuri.URI) error {
	id := user.String()
	return c.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		changed := map[uint64][]byte{}
		if err := tx.RoomEvents(room, func(e store.Event) error {
			var row eventRow
			if err := json.Unmarshal(e.Payload, &row); err != nil {
				return fmt.Errorf("client: stored event: %w", err)
			}
			i := slices.Index(row.Local, id)
			if i < 0 {
				return nil
			}
			row.Local = slices.Delete(row.Local, i, i+1)
			if len(row.Local) == 0 {
				changed[e.Seq] = nil
				return nil
			}
			b, err := json.Marshal(&row)
			changed[e.Seq] = b
			return err
		}); err != nil {
			return err
		}
		for seq, b := range changed {
			if err := tx.RewriteEvent(room, seq, b); err != nil {
				return err
			}
		}
		return nil
	})
}

// ExportedMessage is a message that a user sent or was shown, for Export.
type ExportedMessage struct {
	Time    time.Time `json:"time"`
	ID      string    `json:"id"`
	Sender  string    `json:"sender"`
	Text    string    `json:"text,omitempty"`
	Content []byte    `json:"content"` // application/mimi-content
}

// ExportMessages calls fn for the messages of a room that are kept and that a user may see, in order. fn must not block on
// the store.
func (c *Client) ExportMessages(ctx context.Context, room string, user mimiuri.URI, fn func(ExportedMessage) error) error {
	id := user.String()
	return c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		return tx.RoomEvents(room, func(e store.Event) error {
			var row eventRow
			if err := json.Unmarshal(e.Payload, &row); err != nil {
				return fmt.Errorf("client: stored event: %w", err)
			}
			if row.Kind != adapter.Message || !slices.Contains(row.Local, id) {
				return nil
			}
			m := ExportedMessage{Time: time.UnixMilli(row.TS).UTC(), ID: fmt.Sprintf("%x", row.ID), Sender: row.Sender, Content: row.Content}
			if c, err := content.Decode(row.Content); err == nil {
				m.Text, _ = c.PlainText()
			}
			return fn(m)
		})
	})
}

// ExportedClient is a user's MLS client, for Export.
type ExportedClient struct {
	URI          string `json:"uri"`
	SignatureKey []byte `json:"signature_key"` // the public one
}

// ExportClient gives a user's client, nil if they have none yet.
func (c *Client) ExportClient(ctx context.Context, user mimiuri.URI) (*ExportedClient, error) {
	var row *store.Identity
	if err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		row, err = tx.Identity(user.String())
		return err
	}); err != nil || row == nil {
		return nil, err
	}
	key := new(mls.SignatureKey)
	if err := key.UnmarshalBinary(row.Secret); err != nil {
		return nil, err
	}
	return &ExportedClient{policy.ClientURI(user, row.Device).String(), key.Public()}, nil
}
