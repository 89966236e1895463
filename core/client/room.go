package client

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
)

// room is the state that a room's goroutine owns. Nothing else touches it.
type room struct {
	c   *Client
	id  string
	uri mimiuri.URI
	log zerolog.Logger

	// What follows mirrors the disk; row == nil: not loaded.
	row     *store.ClientRoom
	g       *mls.Group    // nil while there is no group state
	pol     *policy.State // of the epoch
	view    *view         // as stored
	pending *store.Pending
	due     store.Due

	look look // where something may have come since it was last found empty

	// What follows is only timing; losing it costs a delay.
	hubAfter    time.Time            // no request to the hub before
	hubPause    time.Duration        // the last pause
	unreachable bool                 // hubAfter is because the hub could not be reached
	since       time.Time            // since when it could not be reached; zero: it was, when last asked
	reached     bool                 // it was reached when it was last asked by this process
	commitAt    time.Time            // when to commit the proposals of others; zero: no such thing
	commitPause time.Duration        // the last pause after such a commit was refused
	deferred    map[uint64]time.Time // intents that wait for somebody who cannot be reached
	consents    map[uint64]time.Time // invitations that wait for consent, and when they were tried last
	claims      map[uint64]*claim    // key packages for the invitations that wait
	behind      bool                 // something is held for a later epoch
	wrongEpoch  time.Time            // since when the hub has been in another epoch without telling
	proved      uint64               // up to which inbox item the pending commit was tried
	broken      string               // why the group state is of no use any more; a new one is fetched
	poison      uint64               // the inbox item that told so
	doubt       bool                 // something came that does not fit the group's history as it is known here
	doubted     time.Time            // when the hub was last asked because of that
	refusals    int                  // of commits in this epoch
	place       int64                // hub time of what was accepted and waits for what came before it; 0: nothing does
	resumed     bool                 // what was under way at the start has been asked for
	bulky       bool                 // the hub has refused a commit, perhaps since it was too brief
	sentSince   int                  // messages since the last change of keys
	failures    int
	retry       *time.Timer // after a failure: one, however often something else has the room looked at
}

// look says where a room's goroutine has to look for work. Whatever stores some says so afterwards, so that nothing is passed over;
// where it is not known what was stored, all is looked at.
type look struct{ inbox, sent, intents bool }

var everywhere = look{inbox: true, sent: true, intents: true}

func newRoom(c *Client, id string) *room {
	uri, _ := mimiuri.ParseKind(id, mimiuri.Room) // only parsed URIs become keys
	return &room{c: c, id: id, uri: uri, look: everywhere, log: c.cfg.Log.With().Str("room", id).Logger(), deferred: map[uint64]time.Time{}, consents: map[uint64]time.Time{}, claims: map[uint64]*claim{}}
}

// drop forgets the mirrored state, so that it is read from disk again: after a failure to write, and after anything
// was tried on the group that did not happen.
func (r *room) drop() {
	r.row, r.g, r.pol, r.view, r.pending = nil, nil, nil, nil, nil
	r.look = everywhere
}

func (r *room) now() time.Time { return r.c.cfg.Now() }

// atHub reports whether this provider keeps the room.
func (r *room) atHub() bool { return r.uri.Domain == r.c.cfg.Domain }

// errNoRoom: there is no row for the room.
var errNoRoom = fault.New(fault.NotFound, "this room is not known here")

func (r *room) load(ctx context.Context) error {
	if r.row != nil {
		return nil
	}
	var row *store.ClientRoom
	var ratchets []store.Ratchet
	var pending *store.Pending
	var due store.Due
	err := r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		if row, err = tx.ClientRoom(r.id); err != nil || row == nil {
			return err
		}
		if due, err = tx.Due(r.id); err != nil {
			return err
		}
		pending, err = tx.Pending(r.id)
		if err != nil || row.State == nil {
			return err
		}
		if ratchets, err = tx.Ratchets(r.id); errors.Is(err, store.ErrUnseal) {
			row.Damaged, err = err, nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if row == nil {
		return errNoRoom
	}
	v, err := parseView(row.View)
	if err != nil {
		return err
	}
	first := r.row == nil && r.g == nil && !r.resumed
	if row.Status == store.ClientJoined {
		g, pol, err := r.loadGroup(row, ratchets)
		if err != nil && r.broken == "" {
			r.log.Error().Err(err).Msg("the group's state is lost")
			r.broken = "its state is lost"
		}
		r.g, r.pol = g, pol
	}
	row.State = nil // it is long, and the group holds it
	r.row, r.view, r.pending, r.due = row, v, pending, due
	if first && r.g != nil {
		r.logEpoch()
	}
	return nil
}

// rowPending is the kind of the row, at epoch and leaf 0, with what is pending within the epoch (mls.Group.TakeState): a
// proposal is not worth writing a tree of thousands. The other kinds are package mls's.
const rowPending uint8 = 0xff

// loadGroup makes the group of what was read. Both are nil after an error.
func (r *room) loadGroup(row *store.ClientRoom, ratchets []store.Ratchet) (*mls.Group, *policy.State, error) {
	if row.Damaged != nil {
		return nil, nil, row.Damaged
	}
	if row.State == nil {
		return nil, nil, errors.New("client: a room that was joined has no group state")
	}
	var pending []byte
	g, err := mls.LoadGroup(r.c.cfg.MLS, row.State, func(yield func(mls.RatchetRow) bool) {
		for _, x := range ratchets {
			if x.Kind == rowPending {
				pending = x.Data
			} else if !yield(mls.RatchetRow{Epoch: x.Epoch, Leaf: mls.LeafIndex(x.Leaf), Kind: x.Kind, Data: x.Data}) {
				return
			}
		}
	})
	if err == nil && pending != nil {
		err = g.LoadPending(pending)
	}
	if err != nil {
		return nil, nil, err
	}
	pol, err := policy.ParseState(g.AppData())
	if err != nil {
		return nil, nil, err
	}
	return g, pol, nil
}

// copyGroup reads the group once more from disk, to try something on it.
func (r *room) copyGroup(ctx context.Context) (*mls.Group, error) {
	var row *store.ClientRoom
	var ratchets []store.Ratchet
	err := r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		if row, err = tx.ClientRoom(r.id); err != nil || row == nil {
			return errors.Join(err, errNoRoom)
		}
		ratchets, err = tx.Ratchets(r.id)
		return err
	})
	if err != nil {
		return nil, err
	}
	g, _, err := r.loadGroup(row, ratchets)
	return g, err
}

type groupState struct {
	epoch         uint64
	authenticator []byte
}

func (r *room) groupState() groupState {
	h := sha256.Sum256(append([]byte("mimibridge epoch authenticator\x00"), r.g.EpochAuthenticator()...))
	return groupState{r.g.Epoch(), h[:]}
}

// logEpoch tells at which epoch the group is on disk.
func (r *room) logEpoch() {
	s := r.groupState()
	r.log.Debug().Str("event", "epoch").Uint64("epoch", s.epoch).Hex("authenticator", s.authenticator).Int("clients", len(r.g.Members())).Msg("the group is at this epoch")
}

// step works until there is nothing to do now. It is what the room's goroutine runs whenever something may have
// come.
func (r *room) step() {
	r.look = everywhere
	r.run()
}

// run is step where it is known what may have come.
func (r *room) run() {
	ctx := r.c.running()
	for ctx != nil && ctx.Err() == nil {
		more, err := r.once(ctx)
		if err != nil {
			r.drop()
			if ctx.Err() != nil || errors.Is(err, errNoRoom) {
				return
			}
			r.failures++
			pause := min(minPause<<min(r.failures, 8), maxPause)
			r.log.Error().Err(err).Dur("again_in", pause).Msg("a step of the room failed; it is tried again")
			if r.retry != nil {
				r.retry.Stop()
			}
			r.retry = r.wakeAt(r.now().Add(pause))
			return
		}
		r.failures = 0
		if !more {
			return
		}
	}
}

// wakeAt has step run at a time.
func (r *room) wakeAt(t time.Time) *time.Timer {
	return time.AfterFunc(max(t.Sub(r.now()), 0), func() { r.c.step(r.id) })
}

// once does one thing; more is false if there is nothing to do now.
func (r *room) once(ctx context.Context) (more bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Msg("a step of the room panicked")
			more, err = false, errors.New("client: panic")
		}
	}()
	if err := r.load(ctx); err != nil {
		return false, err
	}
	if told, err := r.reachability(ctx); told || err != nil {
		return err == nil, err
	}
	if !r.resumed {
		// What may have been accepted just before this process ended takes its place before what has come since.
		r.resumed = true
		if r.g != nil && r.broken == "" {
			if _, sent, err := r.resend(ctx); sent || err != nil {
				return err == nil, err
			}
		}
	}
	if r.broken == "" {
		until := int64(math.MaxInt64)
		if r.place > 0 {
			until = r.place - 1
		}
		if r.look.inbox {
			if more, err := r.inbox(ctx, until); more || err != nil {
				return more, err
			}
		}
		if r.behind && r.g != nil {
			r.ahead()
			if more, err := r.prove(ctx); more || err != nil {
				return more, err
			}
		}
	}
	if now := r.now(); now.Before(r.hubAfter) {
		return false, nil // wakeAt was set with hubAfter
	}
	if r.pending != nil && (r.broken == "" || r.pending.Kind == pendingExternal) {
		return r.sendPending(ctx)
	}
	if r.broken != "" {
		return r.resync(ctx, r.broken)
	}
	if r.doubt && r.g != nil {
		if more, err := r.check(ctx); more || err != nil {
			return more, err
		}
	}
	if r.patience(2) {
		return r.resync(ctx, "the hub is in a later epoch and its commits did not arrive")
	}
	if r.look.sent {
		if more, sent, err := r.resend(ctx); sent || err != nil {
			return more, err
		}
		r.look.sent = false
	}
	if more, err := r.commitProposals(ctx); more || err != nil {
		return more, err
	}
	if more, err := r.refresh(ctx); more || err != nil {
		return more, err
	}
	if !r.look.intents {
		return false, nil
	}
	return r.intents(ctx)
}

// resend asks again for the message whose request has left, or may have: until it is answered nothing else is begun. sent is
// false if there is none.
func (r *room) resend(ctx context.Context) (more, sent bool, err error) {
	var in *store.Intent
	err = r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		in, err = tx.SentIntent(r.id)
		return err
	})
	if err != nil || in == nil {
		return false, false, err
	}
	pl := new(payload)
	if err := json.Unmarshal(in.Payload, pl); err != nil {
		return false, true, fmt.Errorf("client: stored intent: %w", err)
	}
	more, err = r.send(ctx, in, pl, 0)
	return more, true, err
}

// patience reports whether the hub has been ahead for n times the patience there is with it.
func (r *room) patience(n int) bool {
	return !r.wrongEpoch.IsZero() && r.now().Sub(r.wrongEpoch) >= time.Duration(n)*r.c.cfg.Patience
}

// hubFailed notes that the hub could not be asked and sets the time of the next attempt.
func (r *room) hubFailed(what string, err error) {
	r.hubPause = min(max(minPause, 2*r.hubPause), maxPause)
	r.unreachable, r.reached = true, false
	if r.since.IsZero() {
		r.since = r.now()
	}
	var f *fault.Error
	if errors.As(err, &f) && f.RetryAfter > 0 {
		r.hubPause = min(f.RetryAfter, maxPause)
		r.unreachable = false
	}
	r.log.Warn().Err(err).Str("what", what).Dur("again_in", r.hubPause).Msg("the hub could not be asked; the request is kept")
	r.pauseHub(r.hubPause)
}

func (r *room) pauseHub(d time.Duration) {
	r.hubAfter = r.now().Add(d)
	r.wakeAt(r.hubAfter)
}

func (r *room) hubReached() {
	r.c.heard(r.uri.Domain)
	r.hubPause, r.hubAfter, r.unreachable, r.since, r.reached = 0, time.Time{}, false, time.Time{}, true
}

// hubSpoke: the hub is there; what waits because it was not need not wait any more.
func (r *room) hubSpoke() {
	if r.unreachable {
		r.hubAfter, r.unreachable = time.Time{}, false
	}
	r.since, r.reached = time.Time{}, true
}

// hubSilent: the hub does not answer others of this process, since then.
func (r *room) hubSilent(since time.Time) {
	if r.reached = false; r.since.IsZero() || r.since.After(since) {
		r.since = since
	}
}

// reachability tells the room's users when their hub has not been reached for some time, and when it is back.
func (r *room) reachability(ctx context.Context) (told bool, err error) {
	if r.row.Status != store.ClientJoined || r.atHub() {
		return false, nil
	}
	gone := !r.since.IsZero() && r.now().Sub(r.since) >= r.c.cfg.OfflineAfter
	if gone == r.view.Offline || !gone && !r.reached {
		return false, nil
	}
	v := *r.view
	v.Offline = gone
	notice := fmt.Sprintf("%s, which keeps this room, can be reached again.", r.uri.Domain)
	if gone {
		notice = fmt.Sprintf("%s, which keeps this room, cannot be reached. What is written here will be sent when it is back.", r.uri.Domain)
	}
	ch := &change{view: &v, events: []*eventRow{{Kind: adapter.Notice, TS: r.now().UnixMilli(), Notice: notice, Local: v.local(r.c.cfg.Domain, math.MaxInt64)}}}
	return true, r.commit(ctx, ch)
}

// change is what one step does to a room; commit writes it in one transaction.
type change struct {
	full  bool // the group changed beyond its ratchets: epoch, proposals
	path  bool // the keys of the local client leaf were changed
	leaf  mls.LeafIndex
	view  *view                // without full: what the room looks like now
	fresh []mls.RatchetRow     // the group is another one than before: its rows, in place of those on disk
	out   bool                 // no local leaf is left: forget the group
	lost  bool                 // with out: what is held of the group is of no use
	gone  map[mimiuri.URI]bool // users who are leaving, though the proposals that say so have to be made anew
	over  bool                 // with out: the room has been destroyed
	ts    int64                // hub time of what happened, ms
	actor mimiuri.URI
	// What the change came from, if it was this provider's own intent: its origin goes to the event about
	// subject.
	origin  *originRef
	subject mimiuri.URI

	events []*eventRow
	also   []func(*store.Tx) error
}

type originRef struct {
	adapter, id, hint string
	kind              adapter.IntentKind
	reason            string
	retract           bool
}

func (ch *change) do(fn func(*store.Tx) error) { ch.also = append(ch.also, fn) }

// commit writes the group, the view and the events that the difference of views makes. After an error the
// state in memory is gone and nothing has happened.
func (r *room) commit(ctx context.Context, ch *change) error {
	row := *r.row
	row.State = nil
	rows := ch.fresh
	v := r.view
	if ch.view != nil {
		v, row.View = ch.view, ch.view.marshal()
	}
	if ch.full {
		if !ch.lost {
			pol, err := policy.ParseState(r.g.AppData())
			if err != nil {
				r.drop()
				return fmt.Errorf("client: policy of %s: %w", r.id, err)
			}
			r.pol = pol
			out := r.leaving()
			for u := range ch.gone {
				out.users[u] = true
			}
			if v, err = r.makeView(ctx, out); err != nil {
				r.drop()
				return err
			}
			v.added(r.view, ch.actor, r.c.cfg.Domain)
			// Nobody is left who could commit the removals that are pending: the hub closes the room.
			ch.out = ch.out || !slices.ContainsFunc(r.g.Members(), func(m mls.Member) bool { return !out.leaves[m.Leaf] })
			ch.over = out.over || !pol.Base.PersistentRoom && len(pol.Users()) <= 1
		}
		if ch.out {
			row.Status = store.ClientOut
			v = v.without(r.c.cfg.Domain)
		} else {
			if ch.fresh != nil {
				r.g.ForgetSaved() // what it was loaded from was the request under way
			}
			state, err := r.g.TakeState()
			if err != nil {
				r.drop()
				return err
			}
			row.Status, row.State, row.Epoch = store.ClientJoined, state.Epoch, r.g.Epoch()
			if state.Epoch != nil || state.Pending != nil {
				rows = append(rows, mls.RatchetRow{Kind: rowPending, Data: state.Pending})
			}
		}
		row.View = v.marshal()
	}
	if r.g != nil {
		rows = append(rows, r.g.TakeRatchets()...)
	}
	r.differences(ch, v, row.Epoch)
	due := r.nextDue(ch)
	wake := len(ch.events) > 0
	err := r.c.cfg.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		if ch.view != nil && !ch.full {
			if err := tx.PutClientView(&row); err != nil {
				return err
			}
		}
		switch {
		case ch.out:
			if err := tx.DropDue(r.id); err != nil {
				return err
			}
		case due != r.due:
			if err := tx.PutDue(r.id, due); err != nil {
				return err
			}
		}
		if p := v.pair(); p != "" && ch.full && keepsDirect(r.uri, p) {
			if err := tx.PutDirectRoom(p, r.id); err != nil {
				return err
			}
		}
		if ch.full {
			put := tx.PutClientView
			if row.State != nil || ch.out {
				put = tx.PutClientState
			}
			if err := put(&row); err != nil {
				return err
			}
			if ch.out || ch.fresh != nil {
				if err := tx.DeleteRatchets(r.id); err != nil {
					return err
				}
			}
			if past := uint64(r.c.pastEpochs()); ch.out {
				if err := tx.ForgetSeen(r.id, math.MaxInt64); err != nil {
					return err
				}
			} else if row.Epoch > past {
				if err := tx.ForgetSeen(r.id, row.Epoch-past); err != nil {
					return err
				}
			}
		}
		if !ch.out {
			for _, x := range rows {
				if err := tx.PutRatchet(r.id, &store.Ratchet{Epoch: x.Epoch, Leaf: uint32(x.Leaf), Kind: x.Kind, Data: x.Data}); err != nil {
					return err
				}
			}
		}
		for _, e := range ch.events {
			if err := e.append(tx, r.id); err != nil {
				return err
			}
		}
		for _, fn := range ch.also {
			if err := fn(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.drop()
		return err
	}
	r.look = everywhere
	moved := ch.full && !ch.out && (r.row.Status != row.Status || r.row.Epoch != row.Epoch || ch.fresh != nil)
	row.State = nil
	r.row, r.view, r.due = &row, v, due
	if ch.out {
		r.g, r.pol = nil, nil
	}
	if moved {
		r.logEpoch()
	}
	if wake {
		for _, a := range r.c.cfg.Adapters {
			r.c.startDelivery(deliveryKey{adapter: a.Name(), room: r.id})
		}
	}
	return nil
}

// leaving says whom and what the pending proposals remove.
func (r *room) leaving() going {
	out := going{leaves: map[mls.LeafIndex]bool{}, users: map[mimiuri.URI]bool{}, banned: map[mimiuri.URI]bool{}}
	for _, p := range r.g.Proposals() {
		switch b := p.Proposal.Body.(type) {
		case *mls.Remove:
			out.leaves[b.Removed] = true
		case *mls.SelfRemove:
			out.leaves[p.Sender.Leaf] = true
		case *mls.AppDataUpdate:
			if b.ComponentID == policy.ComponentBaseRoomPolicy {
				base, err := policy.ParseBaseRoomPolicy(b.Update)
				out.over = out.over || err == nil && !base.PersistentRoom
			}
			if b.ComponentID != policy.ComponentParticipantList {
				continue
			}
			u, err := policy.ParseParticipantListUpdate(b.Update)
			if err != nil {
				continue
			}
			for _, i := range u.Removed {
				if int(i) < len(r.pol.Participants) {
					out.users[r.pol.Participants[i].User] = true
				}
			}
			for _, c := range u.Changed {
				if int(c.Index) < len(r.pol.Participants) && r.pol.IsBanned(c.Role) {
					user := r.pol.Participants[c.Index].User
					out.users[user], out.banned[user] = true, true
				}
			}
			for _, a := range u.Added {
				if r.pol.IsBanned(a.Role) {
					out.banned[a.User] = true
				}
			}
		}
	}
	return out
}

// leaf finds the local leaf of a user; ok is false if there is none or it is leaving.
func (r *room) leaf(user mimiuri.URI) (leaf mls.LeafIndex, ok bool) {
	if r.g == nil {
		return 0, false
	}
	out := r.leaving()
	for _, l := range r.g.LocalLeaves() {
		if u, _, err := policy.LeafUser(r.g.Leaf(l)); err == nil && u == user && !out.leaves[l] {
			return l, true
		}
	}
	return 0, false
}

func (c *Client) pastEpochs() int {
	if c.cfg.MLS.PastEpochs > 0 {
		return c.cfg.MLS.PastEpochs
	}
	return 3
}

func hashOf(m *mls.MLSMessage) []byte {
	h := sha256.Sum256(m.Bytes())
	return h[:]
}
