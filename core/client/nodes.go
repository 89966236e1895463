package client

import (
	"context"

	"github.com/mimibridge/mimibridge/core/store"
)

// What a node does for the rooms that are its own, when several share a database.

// Reload reads a room again, which was another node's, and looks for its work.
func (c *Client) Reload(room string) {
	c.rooms.Reload(room)
	c.step(room)
}

// Wake has a room look for work that another node may have stored.
func (c *Client) Wake(room string) {
	if c.cfg.Store.Mine(room) {
		c.step(room)
	}
}

// WakeAll does so for all rooms of this node that have some.
func (c *Client) WakeAll(ctx context.Context) error {
	var work []string
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		work, err = tx.RoomsWithWork()
		return err
	})
	for _, r := range work {
		c.Wake(r)
	}
	return err
}

// WakeDeliveries shows what waits for an adapter whose link this node has.
func (c *Client) WakeDeliveries(ctx context.Context, adapter string) {
	var rooms []string
	if err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		rooms, err = tx.RoomsToDeliver(adapter)
		return err
	}); err != nil {
		if ctx.Err() == nil {
			c.cfg.Log.Error().Err(err).Str("adapter", adapter).Msg("looking for events to show")
		}
		return
	}
	for _, r := range rooms {
		c.startDelivery(deliveryKey{adapter: adapter, room: r})
	}
}
