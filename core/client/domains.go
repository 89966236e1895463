package client

import (
	"context"
	"maps"
	"slices"

	"github.com/mimibridge/mimibridge/core/store"
)

// Domains lists the providers that this provider's users share rooms with, hubs included, in no order.
func (c *Client) Domains(ctx context.Context) ([]string, error) {
	found := map[string]bool{}
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		return tx.ClientViews(func(room string, b []byte) error {
			found[uri(room).Domain] = true
			v, err := parseView(b)
			if err != nil {
				return err
			}
			for _, m := range v.Members {
				found[uri(m.User).Domain] = true
			}
			return nil
		})
	})
	delete(found, "")
	return slices.Collect(maps.Keys(found)), err
}
