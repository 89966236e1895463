package client

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/port"
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
	Role    uint32             `json:"role,omitempty"`
	Banned  bool               `json:"banned,omitempty"`
	Closing bool               `json:"closing,omitempty"`
	Reason  string             `json:"reason,omitempty"`
	Notice  string             `json:"notice,omitempty"`

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
	if err := e.member(tx, room); err != nil {
		return err
	}
	_, err := tx.AppendEvent(room, e.TS, func(uint64) ([]byte, error) { return json.Marshal(e) })
	return err
}

// member keeps the list of who of the local users is where.
func (e *eventRow) member(tx *store.Tx, room string) error {
	switch local := slices.Contains(e.Local, e.User); {
	case e.Kind == adapter.Joined && local:
		return tx.PutMember(e.User, room)
	case e.Kind == adapter.Left && local:
		return tx.DeleteMember(e.User, room)
	case e.Kind == adapter.Closed:
		for _, u := range e.Local { // the hub, if it is here, notes the others
			if err := tx.DeleteMember(u, room); err != nil {
				return err
			}
		}
	}
	return nil
}

func uri(s string) mimiuri.URI {
	u, _ := mimiuri.Parse(s) // stored by us, or empty
	return u
}

func (e *eventRow) event(room mimiuri.URI, seq uint64) (adapter.Event, error) {
	ev := adapter.Event{Kind: e.Kind, Room: room, Seq: seq, Time: time.UnixMilli(e.TS).UTC(), Sender: uri(e.Sender),
		User: uri(e.User), Actor: uri(e.Actor), Intent: e.Intent, Target: uri(e.Target), Role: e.Role, Banned: e.Banned, Closing: e.Closing, Reason: e.Reason, Notice: e.Notice}
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

// differences adds the events that lie between the stored view and v.
func (r *room) differences(ch *change, v *view, epoch uint64) {
	if !ch.full {
		return
	}
	old, own := r.view, r.c.cfg.Domain
	actor := ""
	if !ch.actor.IsZero() {
		actor = ch.actor.String()
	}
	locals := func(v *view, also string) []string {
		l := v.local(own, epoch)
		if also != "" && uri(also).Domain == own && !slices.Contains(l, also) {
			l = append(l, also)
		}
		return l
	}
	add := func(e *eventRow, user string) {
		e.User, e.Actor, e.TS = user, actor, ch.ts
		if actor == "" {
			e.Actor = user
		}
		if o := ch.origin; o != nil && user == ch.subject.String() {
			if o.tells(e.Kind) {
				e.from(o)
			}
			if e.Kind == adapter.Left || e.Kind == adapter.Banned {
				e.Reason = o.reason
			}
			if e.Kind == adapter.Banned && o.retract {
				ch.do(func(tx *store.Tx) error { return r.retract(tx, e.Actor, user) })
			}
		}
		if ch.origin != nil && ch.origin.kind == adapter.DestroyRoom && e.Kind == adapter.Left {
			e.Closing, e.Reason = true, ch.origin.reason
		}
		if len(e.Local) > 0 {
			ch.events = append(ch.events, e)
		}
	}
	closed := func() {
		e := &eventRow{Kind: adapter.Closed, TS: ch.ts, Actor: actor, Local: old.local(own, math.MaxUint64)}
		if ch.origin != nil && ch.origin.kind == adapter.DestroyRoom {
			e.from(ch.origin)
			e.Reason = ch.origin.reason
		}
		ch.events = append(ch.events, e)
	}
	if ch.lost { // nobody has left; we are told nothing any more
		closed()
		return
	}
	first := len(old.Members) == 0 // everybody else was there before us
	for _, m := range old.Members {
		if !m.Away && v.here(m.User) == nil {
			add(&eventRow{Kind: adapter.Left, Banned: slices.Contains(v.Banned, m.User), Local: locals(v, m.User)}, m.User)
		}
	}
	for _, m := range v.Members {
		if m.Away || first && uri(m.User).Domain != own {
			continue
		}
		switch o := old.here(m.User); {
		case o == nil:
			add(&eventRow{Kind: adapter.Joined, Role: m.Role, Local: locals(v, m.User)}, m.User)
		case o.Role != m.Role:
			add(&eventRow{Kind: adapter.RoleChanged, Role: m.Role, Local: locals(v, m.User)}, m.User)
		}
	}
	if !first {
		for _, u := range v.Banned {
			if !slices.Contains(old.Banned, u) {
				add(&eventRow{Kind: adapter.Banned, Local: locals(v, u)}, u)
			}
		}
		for _, u := range old.Banned {
			if !slices.Contains(v.Banned, u) {
				add(&eventRow{Kind: adapter.Unbanned, Local: locals(v, u)}, u)
			}
		}
		about := func(k adapter.EventKind) {
			e := &eventRow{Kind: k, TS: ch.ts, Actor: actor, Local: v.local(own, epoch)}
			if ch.origin != nil && ch.origin.tells(k) {
				e.from(ch.origin)
			}
			if len(e.Local) > 0 {
				ch.events = append(ch.events, e)
			}
		}
		if !old.sameMetadata(v) {
			about(adapter.Metadata)
		}
		if !old.samePolicy(v) && old.Roles != nil { // a view from before they were part of it
			about(adapter.Policy)
		}
	}
	if ch.out && ch.over {
		closed()
	}
}

// tells reports whether events of a kind carry the intent's origin.
func (o *originRef) tells(k adapter.EventKind) bool {
	switch o.kind {
	case adapter.Ban:
		return k == adapter.Banned
	case adapter.Unban:
		return k == adapter.Unbanned
	case adapter.ChangeRole:
		return k == adapter.RoleChanged
	case adapter.SetMetadata:
		return k == adapter.Metadata
	case adapter.SetPolicy:
		return k == adapter.Policy
	case adapter.DestroyRoom:
		return k == adapter.Closed
	}
	return k == adapter.Joined || k == adapter.Left
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
		if ev.Kind == adapter.Message && len(ev.Local) > 0 {
			if ev.Local, err = c.cfg.People.Sees(ctx, ev.Local, ev.Sender, ev.Room, false); err != nil {
				return nil, err
			}
		}
		out = append(out, ev)
	}
	return out, nil
}

type deliveryKey struct{ adapter, room string }

// delivery is one room's way to one adapter: at most one goroutine.
type delivery struct{ running, again bool }

func (c *Client) startDelivery(k deliveryKey) {
	if !c.cfg.Store.Holds(port.LinkLease(k.adapter)) {
		if ctx := c.running(); ctx != nil {
			c.cfg.Store.Signal(ctx, "deliver "+k.adapter)
		}
		return
	}
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
		direct := false
		err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			if events, err = tx.Undelivered(k.room, k.adapter, eventsAtOnce); err != nil || len(events) == 0 {
				return err
			}
			a, _, err := tx.DirectPair(k.room)
			direct = a != ""
			return err
		})
		if err != nil || len(events) == 0 {
			return err
		}
		if b, ok := a.(adapter.BatchAdapter); ok && len(events) > 1 {
			if err := c.deliverBatch(ctx, b, k, events, direct); err != nil {
				return err
			}
			continue
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
			hidden := false
			if ev.Kind == adapter.Message && len(ev.Local) > 0 {
				if ev.Local, err = c.cfg.People.Sees(ctx, ev.Local, ev.Sender, ev.Room, direct); err != nil {
					return err
				}
				hidden = len(ev.Local) == 0 // from somebody whom all who might see it have blocked
			}
			if hidden {
			} else if err := c.show(ctx, a, ev); err != nil {
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
		if len(events) < eventsAtOnce { // for what has come since, this is called again
			return nil
		}
	}
}

// deliverBatch shows several events of a room at once, to an adapter that can take them so.
func (c *Client) deliverBatch(ctx context.Context, a adapter.BatchAdapter, k deliveryKey, events []store.Event, direct bool) error {
	start := time.Now()
	var list []adapter.Event
	var place []int // of each of list in events
	for i, e := range events {
		var row eventRow
		if err := json.Unmarshal(e.Payload, &row); err != nil {
			return fmt.Errorf("client: stored event: %w", err)
		}
		ev, err := row.event(uri(k.room), e.Seq)
		if err != nil {
			return err
		}
		if ev.Kind == adapter.Message && len(ev.Local) > 0 {
			if ev.Local, err = c.cfg.People.Sees(ctx, ev.Local, ev.Sender, ev.Room, direct); err != nil {
				return err
			}
			if len(ev.Local) == 0 { // from somebody whom all who might see it have blocked
				continue
			}
		}
		list, place = append(list, ev), append(place, i)
	}
	done, failed := c.showBatch(ctx, a, k, list)
	behind := len(events)
	if done < len(list) {
		behind = place[done]
		if failed != nil && !fault.Temporary(failed) && ctx.Err() == nil {
			c.Counters.Dropped.Add(1)
			c.cfg.Log.Error().Err(failed).Str("room", k.room).Str("adapter", k.adapter).Uint64("seq", events[behind].Seq).Msg("an event was given up: the network will not take it")
			behind, failed = behind+1, nil
		}
	}
	if behind > 0 {
		seq := events[behind-1].Seq
		if err := c.cfg.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error { return tx.Delivered(k.room, k.adapter, seq) }); err != nil {
			return err
		}
	}
	for _, ev := range list[:done] {
		c.Counters.Delivered.Add(1)
		c.cfg.Log.Debug().Str("event", "delivered").Str("room", k.room).Str("adapter", k.adapter).Uint8("kind", uint8(ev.Kind)).Hex("message_id", ev.ID[:]).Uint64("seq", ev.Seq).Dur("took", time.Since(start)).Msg("event shown")
	}
	return failed
}

func (c *Client) showBatch(ctx context.Context, a adapter.BatchAdapter, k deliveryKey, list []adapter.Event) (done int, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.cfg.Log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Str("adapter", k.adapter).Msg("an adapter panicked")
			done, err = 0, fault.New(fault.Internal, "")
		}
	}()
	if len(list) == 0 {
		return 0, nil
	}
	done, err = a.DeliverBatch(ctx, list)
	return min(max(done, 0), len(list)), err
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
