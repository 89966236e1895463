package client

import (
	"context"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
)

// Inviter is who added a local user to a room, as long as that has not been answered; zero if it has, or nobody did.
func (c *Client) Inviter(ctx context.Context, in, user mimiuri.URI) (by mimiuri.URI, err error) {
	err = c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		_, b, ok, err := tx.ClientView(in.String())
		if err != nil || !ok {
			return err
		}
		v, err := parseView(b)
		if err != nil {
			return err
		}
		if m := v.here(user.String()); m != nil {
			by = uri(m.By)
		}
		return nil
	})
	return by, err
}

// Answered notes that a local user has said whether they want to be in a room.
func (c *Client) Answered(ctx context.Context, in, user mimiuri.URI) error {
	return c.rooms.Do(ctx, in.String(), func(r *room) error {
		if !c.cfg.Store.Mine(r.id) {
			return nil // another node has the room: the same answer again does no harm
		}
		if err := r.load(ctx); err != nil {
			if fault.Is(err, fault.NotFound) {
				return nil
			}
			return err
		}
		v := *r.view
		v.Members = append([]member(nil), v.Members...)
		m := v.here(user.String())
		if m == nil || m.By == "" {
			return nil
		}
		m.By = ""
		return r.commit(ctx, &change{view: &v})
	})
}
