package client

import (
	"context"

	"github.com/mimibridge/mimibridge/core/store"
)

// What a node does for the rooms that are its own, when several share a database.

// Reload reads a room again, which was another node's, looks for its work, and compares it with what was shown of it, as is done with all
// rooms at the start.
func (c *Client) Reload(room string) {
	c.rooms.Reload(room)
	c.step(room)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil || c.ctx.Err() != nil {
		return // Run begins with all of them
	}
	c.taken = append(c.taken, room)
	if c.comparing {
		return
	}
	c.comparing = true
	c.workers.Add(1)
	go func(ctx context.Context) {
		defer c.workers.Done()
		for {
			c.mu.Lock()
			if len(c.taken) == 0 || ctx.Err() != nil {
				c.taken, c.comparing = nil, false // at once: whoever adds one from here on begins anew
				c.mu.Unlock()
				return
			}
			next := c.taken[0]
			c.taken = c.taken[1:]
			c.mu.Unlock()
			if _, err := c.reconcile(ctx, []string{next}); err != nil && ctx.Err() == nil {
				c.cfg.Log.Error().Err(err).Str("room", next).Msg("comparing a room with what was shown of it")
			}
		}
	}(c.ctx)
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
