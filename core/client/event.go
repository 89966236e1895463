package client

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"runtime/debug"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
)

// eventRow is an adapter.Event as it is stored, sealed.
type eventRow struct {
	Kind    adapter.EventKind  `json:"kind"`
	TS      int64              `json:"ts"`
	Adapter string             `json:"adapter,omitempty"` // of the origin
	Origin  string             `json:"origin,omitempty"`
	Hint    string             `json:"hint,omitempty"`
	ID      []byte             `json:"id,omitempty"`
	Sender  string             `json:"sender,omitempty"`
	Content []byte             `json:"content,omitempty"`
	User    string             `json:"user,omitempty"`
	Actor   string             `json:"actor,omitempty"`
	Intent  adapter.IntentKind `json:"intent,omitempty"`
	Target  string             `json:"target,omitempty"`
	Fault   fault.Kind         `json:"fault,omitempty"`
	Message string             `json:"message,omitempty"` // for the person
	Local   []string           `json:"local,omitempty"`
	Frank   []byte             `json:"frank,omitempty"` // what a report of abuse needs

	then func(tx *store.Tx, seq uint64) (bool, error) // asked before the row is written; false: leave it out
}

func (e *eventRow) from(o *originRef) {
	if o != nil {
		e.Adapter, e.Origin, e.Hint = o.adapter, o.id, o.hint
	}
}

func (e *eventRow) append(tx *store.Tx, room string) error {
	if e.then != nil {
		if ok, err := e.then(tx, 0); err != nil || !ok {
			return err
		}
	}
	_, err := tx.AppendEvent(room, e.TS, func(uint64) ([]byte, error) { return json.Marshal(e) })
	return err
}

func uri(s string) mimiuri.URI {
	u, _ := mimiuri.Parse(s) // stored by us, or empty
	return u
}

func (e *eventRow) event(room mimiuri.URI, seq uint64) (adapter.Event, error) {
	ev := adapter.Event{Kind: e.Kind, Room: room, Seq: seq, Time: time.UnixMilli(e.TS).UTC(), Sender: uri(e.Sender),
		User: uri(e.User), Actor: uri(e.Actor), Intent: e.Intent, Target: uri(e.Target)}
	copy(ev.ID[:], e.ID)
	if e.Adapter != "" {
		ev.Origin = &adapter.Origin{Adapter: e.Adapter, ID: e.Origin, Hint: e.Hint}
	}
	if e.Content != nil {
		m, err := content.Decode(e.Content)
		if err != nil {
			return ev, fmt.Errorf("client: stored content: %w", err)
		}
		ev.Content = m
	}
	if e.Kind == adapter.Refused {
		ev.Err = fault.New(e.Fault, e.Message)
	}
	for _, l := range e.Local {
		ev.Local = append(ev.Local, uri(l))
	}
	return ev, nil
}

// membership adds the events that lie between the stored view and v.
func (r *room) membership(ch *change, v *view, epoch uint64) {
	if !ch.full {
		return
	}
	old := r.view
	actor := ""
	if !ch.actor.IsZero() {
		actor = ch.actor.String()
	}
	locals := func(v *view, also string) []string {
		l := v.local(r.c.cfg.Domain, epoch)
		for _, x := range l {
			if x == also {
				return l
			}
		}
		if u := uri(also); u.Domain == r.c.cfg.Domain {
			l = append(l, also)
		}
		return l
	}
	add := func(e *eventRow, user string) {
		e.User, e.Actor, e.TS = user, actor, ch.ts
		if actor == "" {
			e.Actor = user
		}
		if ch.origin != nil && user == ch.subject.String() {
			e.from(ch.origin)
		}
		ch.events = append(ch.events, e)
	}
	if ch.lost { // nobody has left; we are told nothing any more
		ch.events = append(ch.events, &eventRow{Kind: adapter.Closed, TS: ch.ts, Local: old.local(r.c.cfg.Domain, math.MaxUint64)})
		return
	}
	first := len(old.Members) == 0 // everybody else was there before us
	for _, m := range old.Members {
		if v.find(m.User) == nil {
			add(&eventRow{Kind: adapter.Left, Local: locals(v, m.User)}, m.User)
		}
	}
	for _, m := range v.Members {
		if old.find(m.User) != nil || first && uri(m.User).Domain != r.c.cfg.Domain {
			continue
		}
		add(&eventRow{Kind: adapter.Joined, Local: locals(v, m.User)}, m.User)
	}
	if !first && (old.Name != v.Name || old.Subject != v.Subject) {
		ch.events = append(ch.events, &eventRow{Kind: adapter.Metadata, TS: ch.ts, Actor: actor, Local: v.local(r.c.cfg.Domain, epoch)})
	}
}

// maxHistory is how many events History gives at once.
const maxHistory = 500

// History is adapter.Host.History.
func (c *Client) History(ctx context.Context, room mimiuri.URI, seqs []uint64) ([]adapter.Event, error) {
	if len(seqs) > maxHistory {
		return nil, fault.Newf(fault.TooLarge, "at most %d messages can be read at once", maxHistory)
	}
	var rows []store.Event
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		rows, err = tx.EventsAt(room.String(), seqs)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make([]adapter.Event, 0, len(rows))
	for _, e := range rows {
		var row eventRow
		if err := json.Unmarshal(e.Payload, &row); err != nil {
			return nil, fmt.Errorf("client: stored event: %w", err)
		}
		ev, err := row.event(room, e.Seq)
		if err != nil {
			return nil, err
		}
		out = append(out, ev)
	}
	return out, nil
}

type deliveryKey struct{ adapter, room string }

// delivery is one room's way to one adapter: at most one goroutine.
type delivery struct{ running, again bool }

func (c *Client) startDelivery(k deliveryKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil || c.ctx.Err() != nil {
		return
	}
	d := c.deliver[k]
	if d == nil {
		d = &delivery{}
		c.deliver[k] = d
	}
	d.again = true
	if d.running {
		return
	}
	for _, a := range c.cfg.Adapters {
		if a.Name() == k.adapter {
			d.running = true
			c.workers.Add(1)
			go c.deliverRoom(c.ctx, a, k, d)
			return
		}
	}
}

func (c *Client) deliverRoom(ctx context.Context, a adapter.Adapter, k deliveryKey, d *delivery) {
	defer c.workers.Done()
	pause := time.Duration(0)
	for {
		c.mu.Lock()
		if !d.again || ctx.Err() != nil {
			d.running = false
			delete(c.deliver, k)
			c.mu.Unlock()
			return
		}
		d.again = false
		c.mu.Unlock()
		err := c.deliverSome(ctx, a, k)
		if err == nil {
			pause = 0
			continue
		}
		if ctx.Err() != nil {
			continue
		}
		c.Counters.DeliveryFailed.Add(1)
		pause = min(max(minPause, 2*pause), maxPause)
		c.cfg.Log.Warn().Err(err).Str("room", k.room).Str("adapter", k.adapter).Dur("again_in", pause).Msg("an event could not be shown; it is kept")
		c.mu.Lock()
		d.again = true
		c.mu.Unlock()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// deliverSome shows a room's events in order until there are none, or one fails for now.
func (c *Client) deliverSome(ctx context.Context, a adapter.Adapter, k deliveryKey) error {
	room := uri(k.room)
	for {
		var events []store.Event
		err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			events, err = tx.Undelivered(k.room, k.adapter, 64)
			return err
		})
		if err != nil || len(events) == 0 {
			return err
		}
		for _, e := range events {
			var row eventRow
			if err := json.Unmarshal(e.Payload, &row); err != nil {
				return fmt.Errorf("client: stored event: %w", err)
			}
			ev, err := row.event(room, e.Seq)
			if err != nil {
				return err
			}
			start := time.Now()
			if err := c.show(ctx, a, ev); err != nil {
				if fault.Temporary(err) || ctx.Err() != nil {
					return err
				}
				c.Counters.Dropped.Add(1)
				c.cfg.Log.Error().Err(err).Str("room", k.room).Str("adapter", k.adapter).Uint64("seq", e.Seq).Msg("an event was given up: the network will not take it")
			}
			err = c.cfg.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error { return tx.Delivered(k.room, k.adapter, e.Seq) })
			if err != nil {
				return err
			}
			c.Counters.Delivered.Add(1)
			c.cfg.Log.Debug().Str("event", "delivered").Str("room", k.room).Str("adapter", k.adapter).Uint8("kind", uint8(row.Kind)).Hex("message_id", row.ID).Uint64("seq", e.Seq).Dur("took", time.Since(start)).Msg("event shown")
		}
	}
}

func (c *Client) show(ctx context.Context, a adapter.Adapter, ev adapter.Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.cfg.Log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Str("adapter", a.Name()).Msg("an adapter panicked")
			err = fault.New(fault.Internal, "")
		}
	}()
	return a.Deliver(ctx, ev)
}
