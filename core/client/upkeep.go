package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"runtime/debug"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/internal/mailbox"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
)

const (
	reconcileEvery = 24 * time.Hour
	reconcilePause = 4 * time.Millisecond // between two rooms, so that nobody notices
)

// nextDue is when the room has to be looked at after a change.
func (r *room) nextDue(ch *change) store.Due {
	d := r.due
	if !ch.full || ch.out || ch.lost {
		return d
	}
	now := r.now()
	if ch.path || d.Refresh == 0 {
		every := r.c.cfg.RefreshEvery // a tenth more or less, so that providers do not meet
		d.Refresh = now.Add(every - every/10 + time.Duration(randUint64()%uint64(every/5+1))).UnixMilli()
	}
	if ch.path {
		d.Leaf = uint32(ch.leaf)
		r.sentSince = 0
		r.c.Counters.Refreshes.Add(1)
	}
	if d.At = d.Refresh; len(r.g.Proposals()) > 0 {
		d.At = 0 // somebody has to commit them
	}
	if wait := time.UnixMilli(d.Refresh).Sub(now); d != r.due && wait < time.Hour { // later ones are found by the hourly look
		r.wakeAt(now.Add(wait))
	}
	return d
}

// refresh changes the keys of a local client by a commit with a path, if it is time: what an intruder has read of this
// provider's keys is of less use from then on (RFC 9420 section 16.6). It is the next client after the last one.
func (r *room) refresh(ctx context.Context) (more bool, err error) {
	if r.g == nil || r.commitPause > 0 && r.now().Before(r.commitAt) {
		return false, nil
	}
	if r.due.Refresh == 0 { // a room from before this was noted
		return true, r.commit(ctx, &change{full: true, ts: r.now().UnixMilli()})
	}
	if r.now().UnixMilli() < r.due.Refresh && r.sentSince < r.c.cfg.RefreshMessages {
		return false, nil
	}
	out := r.leaving()
	others := false
	for _, m := range r.g.Members() {
		others = others || !r.g.IsLocal(m.Leaf)
	}
	var next, first *mls.LeafIndex
	for _, l := range r.g.LocalLeaves() {
		if out.leaves[l] {
			continue
		}
		if first == nil || l < *first {
			first = &l
		}
		if uint32(l) > r.due.Leaf && (next == nil || l < *next) {
			next = &l
		}
	}
	if next == nil {
		next = first
	}
	if next == nil || !others { // all keys of the room are here
		r.sentSince = 0
		d := r.due
		d.Refresh = r.now().Add(r.c.cfg.RefreshEvery).UnixMilli()
		d.At = d.Refresh
		if err := r.c.cfg.Store.Update(ctx, func(tx *store.Tx) error { return tx.PutDue(r.id, d) }); err != nil {
			return false, err
		}
		r.due = d
		return false, nil
	}
	return true, r.startCommit(ctx, *next, mls.CommitOptions{ForcePath: true}, nil)
}

func (c *Client) reconcileDaily(ctx context.Context) {
	defer c.workers.Done()
	for {
		if _, err := c.Reconcile(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Error().Err(err).Msg("comparing the rooms with what was shown of them")
		}
		select {
		case <-time.After(reconcileEvery):
		case <-ctx.Done():
			return
		}
	}
}

// Reconcile compares each joined room as its group has it (participants, roles, metadata, policy) with what the adapters
// were told of it, tells them what they do not know yet, and has local clients join anew that are in a group without its
// keys. It gives the number of rooms that it repaired; Counters.Repaired counts them, too. It reads all rooms, one after the
// other with pauses, and may take minutes. Run does it at the start and daily.
func (c *Client) Reconcile(ctx context.Context) (repaired int, err error) {
	var rooms []string
	err = c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		rooms, err = tx.ClientRooms(store.ClientJoined)
		return err
	})
	if err != nil {
		return 0, err
	}
	return c.reconcile(ctx, rooms)
}

// reconcile does so for some rooms, as far as they are this node's.
func (c *Client) reconcile(ctx context.Context, rooms []string) (repaired int, err error) {
	for _, id := range rooms {
		if !c.cfg.Store.Mine(id) {
			continue
		}
		// First beside the room's goroutine, which most rooms do not have: what is wrong is looked at again on it.
		r := newRoom(c, id)
		r.resumed = true
		wrong, err := r.compareAside(ctx)
		if err == nil && r.broken != "" {
			c.step(id)
		}
		if err == nil && wrong {
			var done bool
			done, err = mailbox.Ask(ctx, c.rooms, id, func(r *room) (bool, error) { return r.repair(ctx) })
			if done {
				repaired++
			}
		}
		switch {
		case ctx.Err() != nil:
			return repaired, ctx.Err()
		case err != nil && !errors.Is(err, errNoRoom):
			c.cfg.Log.Error().Err(err).Str("room", id).Msg("a room could not be compared with what was shown of it")
		}
		select {
		case <-time.After(reconcilePause):
		case <-ctx.Done():
			return repaired, ctx.Err()
		}
	}
	return repaired, nil
}

// compare reports whether the room is another than was shown, or a local client's keys are missing.
func (r *room) compare(ctx context.Context) (wrong bool, err error) {
	if err := r.load(ctx); err != nil || r.g == nil || r.broken != "" {
		return false, err
	}
	lost, err := r.strangers(ctx)
	if err != nil {
		return false, err
	}
	v, err := r.makeView(ctx, r.leaving())
	return err == nil && (len(lost) > 0 || !bytes.Equal(v.marshal(), r.view.marshal())), err
}

// compareAside is compare where no room's goroutine is around it: a state that cannot be looked at ends no more than that.
func (r *room) compareAside(ctx context.Context) (wrong bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Msg("comparing a room panicked")
			wrong, err = false, errors.New("client: panic")
		}
	}()
	return r.compare(ctx)
}

// repair is done on the room's goroutine.
func (r *room) repair(ctx context.Context) (done bool, err error) {
	wrong, err := r.compare(ctx)
	if err != nil || !wrong {
		return false, err
	}
	lost, err := r.strangers(ctx)
	if err != nil {
		return false, err
	}
	ch := &change{full: true, ts: r.now().UnixMilli()}
	for _, u := range lost {
		r.rejoin(ch, uri(u))
	}
	if err := r.commit(ctx, ch); err != nil {
		return false, err
	}
	r.c.Counters.Repaired.Add(1)
	r.log.Warn().Int("events", len(ch.events)).Int("rejoining", len(lost)).Msg("the room was another than was shown; repaired")
	r.step()
	return true, nil
}

// strangers are the local users whose client is in the group without its keys being here, although nothing that brings
// them is on its way: the Welcome came with the epoch in which they were added, or not at all.
func (r *room) strangers(ctx context.Context) (users []string, err error) {
	out := r.leaving()
	for _, m := range r.g.Members() {
		u, _, err := policy.LeafUser(m.Node)
		if err != nil || u.Domain != r.c.cfg.Domain || r.g.IsLocal(m.Leaf) || out.leaves[m.Leaf] {
			continue
		}
		if x := r.view.here(u.String()); x != nil && x.Since < r.g.Epoch() {
			users = append(users, u.String())
		}
	}
	if len(users) == 0 {
		return nil, nil
	}
	waiting := false
	err = r.c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		if users, err = r.genuine(tx, r.g, users, out.leaves); err != nil || len(users) == 0 {
			return err
		}
		n, _, err := tx.SizeInbox(r.id)
		if waiting = n > 0; err != nil || waiting {
			return err
		}
		open, err := tx.OpenIntents(r.id, 1000)
		for _, in := range open {
			var p payload
			if err := json.Unmarshal(in.Payload, &p); err != nil {
				return err
			}
			waiting = waiting || p.Kind == adapter.JoinRoom
		}
		return err
	})
	if waiting {
		return nil, err
	}
	return users, err
}
