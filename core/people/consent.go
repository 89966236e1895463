package people

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// States as they are stored.
const (
	none    = uint8(adapter.ConsentNone)
	asking  = uint8(adapter.ConsentAsking)
	asked   = uint8(adapter.ConsentAsked)
	granted = uint8(adapter.ConsentGranted)
	refused = uint8(adapter.ConsentRefused)
)

// Kinds of what is told, and flags of what is shown.
const (
	kindRequest = 0
	kindUpdate  = 1

	flagAsked    = 1
	flagAnswered = 2
)

// questionsThatWait is the limit by which what others want of one user is capped, as the admin is told of it.
const questionsThatWait = "questions that wait"

type verdict int

const (
	no verdict = iota
	yes
	ask // only by asking
)

// relation is everything stored by which it is decided what other may do with local.
type relation struct {
	local, other, room mimiuri.URI
	all, one           *store.Consent // for all rooms, and for room; the same if there is none
	policy             string
	rooms              int
}

// read reads a relation: the same statements for everybody.
func (p *People) read(tx *store.Tx, local, other, room mimiuri.URI) (*relation, error) {
	r := &relation{local: local, other: other, room: room, policy: p.settings().Policy}
	user := local.String()
	var err error
	if r.all, err = tx.Consent(user, other.String(), ""); err != nil {
		return nil, err
	}
	if r.one, err = tx.Consent(user, other.String(), room.String()); err != nil {
		return nil, err
	}
	if room.IsZero() {
		r.one = r.all
	}
	person, _, err := tx.Person(user)
	if err != nil {
		return nil, err
	}
	if person.Policy != "" {
		r.policy = person.Policy
	}
	r.rooms, err = tx.CountMember(user)
	return r, err
}

// decide says what the other may do with the local user.
func (p *People) decide(r *relation) verdict {
	if p.blocked(r.local, r.other, r.room) {
		return no
	}
	for _, c := range []*store.Consent{r.one, r.all} {
		switch c.Grants {
		case granted:
			return yes
		case refused:
			return no
		}
	}
	switch r.policy {
	case PolicyEveryone:
		return yes
	case PolicyAsk:
		return ask
	}
	return no // contacts are those that have a row
}

// invitationAsks reports whether under the policy ask the network's invitation is the question of who adds somebody to a room.
func (p *People) invitationAsks() bool {
	switch p.settings().Ask {
	case AskByInvitation:
		return true
	case AskByQuestion:
		return false
	}
	if len(p.cfg.Adapters) > 0 { // the first is the network's; what comes after it is for the admin
		if x, ok := p.cfg.Adapters[0].(adapter.InvitationAdapter); ok {
			return x.InvitationAsks()
		}
	}
	return true
}

// questions reports whether a request for this scope can be put to the person before anything else happens. It depends on
// nothing but the provider and the scope.
func (p *People) questions(room mimiuri.URI) bool {
	return !p.invitationAsks() || room.IsZero() && len(p.shows) > 0
}

// May reports whether other may add local to the room (any room, if it is zero): for key material. It does the same whatever
// the answer, and whether or not there is such a user.
func (p *People) May(ctx context.Context, local, other, room mimiuri.URI) (ok bool, err error) {
	err = p.cfg.Store.View(ctx, func(tx *store.Tx) error {
		r, err := p.read(tx, local, other, room)
		if err != nil {
			return err
		}
		v := p.decide(r)
		ok = (v == yes || v == ask && p.invitationAsks()) && r.rooms < p.settings().Limits.Rooms
		return nil
	})
	return ok, err
}

// exists asks every adapter, also when one has said yes.
func (p *People) exists(ctx context.Context, user mimiuri.URI) (bool, error) {
	found := false
	for _, a := range p.cfg.Adapters {
		ok, err := p.cfg.LocalUser(ctx, a, user)
		if err != nil {
			return false, fault.Wrap(fault.Unavailable, "it cannot be said now; please try again", err)
		}
		found = found || ok
	}
	return found, nil
}

// outcome is what a transaction about consent writes. What it does not want to write it writes for nobody.
type outcome struct {
	row   *store.Consent
	flags uint8
	show  bool
	tell  *store.ConsentOut
}

func (p *People) write(tx *store.Tx, o *outcome) error {
	now := p.now()
	row, show, tell := o.row, o.row, o.tell
	if row == nil {
		row = &store.Consent{}
	}
	if !o.show || show == nil {
		show = &store.Consent{}
	}
	if tell == nil {
		tell = &store.ConsentOut{}
	}
	row.Since = now
	if err := tx.PutConsent(row); err != nil {
		return err
	}
	for _, a := range p.shows {
		if err := tx.PutConsentEvent(&store.ConsentEvent{Adapter: a.name, User: show.User, Other: show.Other, Room: show.Room, Flags: o.flags}, now); err != nil {
			return err
		}
	}
	return tx.PutConsentOut(tell, now)
}

// out is something for the other's provider; this one is asked by a call.
func out(local, other, room mimiuri.URI, kind uint8, op wire.ConsentOperation) *store.ConsentOut {
	return &store.ConsentOut{Peer: other.Domain, User: local.String(), Other: other.String(), Room: room.String(), Kind: kind, Op: uint8(op)}
}

// entry reads a ConsentEntry whose local user is ours; from has been authenticated.
func (p *People) entry(from string, body []byte, update bool) (e *wire.ConsentEntry, ours, theirs mimiuri.URI, err error) {
	if e, err = wire.ParseConsentEntry(body); err != nil {
		return nil, ours, theirs, err
	}
	ours, theirs = e.Target, e.Requester
	if update {
		ours, theirs = theirs, ours
	}
	switch {
	case update != (e.Operation == wire.ConsentGrant || e.Operation == wire.ConsentRevoke):
		err = fault.New(fault.Malformed, "this operation belongs to the other endpoint of consent")
	case theirs.Domain != from:
		err = fault.New(fault.Forbidden, "the user who says so is of another provider")
	case ours.Domain != p.cfg.Domain:
		err = fault.New(fault.NotFound, "this is not the provider of that user")
	case ours == theirs:
		err = fault.New(fault.Malformed, "consent is between two users")
	}
	return e, ours, theirs, err
}

// errNobody is what every request gets where nobody can be asked.
var errNobody = fault.New(fault.NotFound, "there is no such user, or they do not want to be asked")

// heard is what both endpoints of consent do: it finds out whether the local user exists, counts what the peer does, reads how the two
// stand and writes what decide makes of it, for users who do not exist as well. decide may be called again for the same word. more, if
// not nil, is read in the same transaction.
func (p *People) heard(ctx context.Context, from string, body []byte, update bool, limit string, most func(*Limits) int,
	decide func(tx *store.Tx, r *relation, e *wire.ConsentEntry, exists bool) (outcome, error), more func(tx *store.Tx, local, other mimiuri.URI) error) (local mimiuri.URI, e *wire.ConsentEntry, err error) {
	e, local, other, err := p.entry(from, body, update)
	if err != nil {
		return local, e, err
	}
	exists, err := p.exists(ctx, local)
	if err != nil {
		return local, e, err
	}
	var over error
	err = p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		over = nil
		if from != p.cfg.Domain {
			if over = p.useBoth(tx, other, from, limit, most(&p.settings().Limits)); fault.Is(over, fault.Limited) {
				return nil // what was counted stays counted
			} else if over != nil {
				return over
			}
		}
		r, err := p.read(tx, local, other, e.RoomID)
		if err != nil {
			return err
		}
		o, err := decide(tx, r, e, exists)
		if err == nil {
			err = p.write(tx, &o)
		}
		if err == nil && more != nil {
			err = more(tx, local, other)
		}
		return err
	})
	if err == nil {
		err = over
	}
	return local, e, err
}

// RequestConsent is port.People's, for users of this provider. It says nothing of what becomes of the request.
func (p *People) RequestConsent(ctx context.Context, from, _ string, body []byte) error {
	fresh, granted, full := false, false, false
	local, e, err := p.heard(ctx, from, body, false, "consent", func(l *Limits) int { return l.ConsentRequests }, func(tx *store.Tx, r *relation, e *wire.ConsentEntry, exists bool) (o outcome, err error) {
		fresh, granted, full = false, false, false
		open, err := tx.CountAsked(r.local.String())
		if err != nil {
			return o, err
		}
		row := r.one
		v := p.decide(r)
		if v == ask && !p.questions(e.RoomID) {
			v = yes
		}
		switch {
		case !exists:
		case e.Operation == wire.ConsentCancel:
			if row.Grants == asked {
				row.Grants, row.AskedUntil = none, 0
				o.row, o.show = row, true
			}
		case v == yes:
			o.tell, granted = out(r.local, r.other, e.RoomID, kindUpdate, wire.ConsentGrant), true
		case v == ask && row.Grants != asked && r.all.Grants != asked && open >= p.settings().Limits.Pending:
			full = true
		case v == ask && row.Grants != asked && r.all.Grants != asked:
			row.Grants, row.AskedUntil = asked, p.now()+questionLife.Milliseconds()
			o.row, o.show, o.flags, fresh = row, true, flagAsked, true
		}
		return o, nil
	}, nil)
	if err != nil {
		return err
	}
	if fresh {
		p.Counters.Asked.Add(1)
	}
	if full { // beside the answer, which comes no later for it
		go p.TooMuch(local, questionsThatWait)
	}
	p.kickAll()
	if e.Operation == wire.ConsentRequest && !granted && !p.questions(e.RoomID) {
		return errNobody
	}
	return nil
}

// UpdateConsent is port.People's, for users of this provider.
func (p *People) UpdateConsent(ctx context.Context, from, _ string, body []byte) error {
	var waits []store.Wait
	answered, full := false, false
	local, _, err := p.heard(ctx, from, body, true, "consent updates", func(l *Limits) int { return l.Invites }, func(tx *store.Tx, r *relation, e *wire.ConsentEntry, exists bool) (o outcome, err error) {
		n, err := tx.CountUnsolicited(r.local.String())
		if err != nil {
			return o, err
		}
		state := granted
		if e.Operation == wire.ConsentRevoke {
			state = refused
		}
		row := r.one
		answered = row.Granted == asking
		if e.RoomID.IsZero() { // it answers what was asked for single rooms as well
			n, err := tx.EndAsking(r.local.String(), r.other.String(), asking, state)
			if err != nil {
				return o, err
			}
			answered = n > 0
		}
		known := row.Since > 0 // without a row it is unsolicited
		full = exists && !known && n >= p.settings().Limits.Pending
		if exists && !full {
			row.Granted, row.AskingUntil = state, 0
			o.row, o.show = row, true
			if answered {
				o.flags = flagAnswered
			}
		}
		return o, nil
	}, func(tx *store.Tx, local, other mimiuri.URI) (err error) {
		waits, err = tx.WaitsFor(local.String(), other.String())
		return err
	})
	if err != nil {
		return err
	}
	if answered {
		p.Counters.Answered.Add(1)
	}
	if full {
		go p.TooMuch(local, questionsThatWait)
	}
	p.kickAll()
	p.wake(waits)
	return nil
}

func (p *People) wake(waits []store.Wait) {
	for _, w := range waits {
		if room, err := mimiuri.ParseKind(w.Room, mimiuri.Room); err == nil {
			p.cfg.Wake(room, w.Seq)
		}
	}
}

// pair checks what a local user says about another.
func (p *People) pair(local, other, room mimiuri.URI) error {
	switch {
	case local.Kind != mimiuri.User || local.Domain != p.cfg.Domain:
		return fault.New(fault.Forbidden, "only users of this provider act through it")
	case other.Kind != mimiuri.User:
		return fault.New(fault.Malformed, "this is not a user")
	case other == local:
		return fault.New(fault.Malformed, "these are you yourself")
	case !room.IsZero() && room.Kind != mimiuri.Room:
		return fault.New(fault.Malformed, "this is not a room")
	}
	return nil
}

// Consent is adapter.People's.
func (p *People) Consent(ctx context.Context, local, other, room mimiuri.URI, action adapter.ConsentAction) error {
	if err := p.pair(local, other, room); err != nil {
		return err
	}
	var waits []store.Wait
	user, them := local.String(), other.String()
	err := p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		waits = nil
		r, err := p.read(tx, local, other, room)
		if err != nil {
			return err
		}
		row := r.one
		switch action {
		case adapter.AskConsent:
			return p.ask(tx, r)
		case adapter.GrantConsent, adapter.RefuseConsent:
			o, state := outcome{row: row}, granted
			switch {
			case action == adapter.GrantConsent:
				o.tell = out(local, other, room, kindUpdate, wire.ConsentGrant)
			case row.Grants == granted: // they know; a question that is refused is not answered
				o.tell = out(local, other, room, kindUpdate, wire.ConsentRevoke)
				fallthrough
			default:
				state = refused
			}
			if row.Grants == state {
				return nil
			}
			if err := p.countContact(tx, row); err != nil {
				return err
			}
			row.Grants, row.AskedUntil = state, 0
			if err := p.write(tx, &o); err != nil {
				return err
			}
			if room.IsZero() { // it answers what was asked for single rooms as well
				return tx.EndAsked(user, them, asked, state)
			}
			return nil
		case adapter.ForgetConsent:
			if row.Granted != asking {
				return nil
			}
			row.Granted, row.AskingUntil = none, 0
			if err := p.write(tx, &outcome{row: row, tell: out(local, other, room, kindRequest, wire.ConsentCancel)}); err != nil {
				return err
			}
			waits, err = tx.WaitsFor(user, them)
			return err
		}
		return fault.New(fault.Malformed, "unknown kind of request")
	})
	if err == nil {
		p.kickAll()
		p.wake(waits)
	}
	return err
}

// countContact refuses a row more than a user may have.
func (p *People) countContact(tx *store.Tx, row *store.Consent) error {
	if row.Since > 0 {
		return nil
	}
	n, err := tx.CountConsents(row.User)
	if err == nil && n >= p.settings().Limits.Contacts {
		err = p.over(row.User, "contacts", p.now()+time.Hour.Milliseconds(), fmt.Sprintf("you have %d contacts, and more are not allowed", n))
	}
	return err
}

// ask asks the other for consent, unless it is granted or asked for. Who asks lets themselves be asked back: the other may
// then add them as well.
func (p *People) ask(tx *store.Tx, r *relation) error {
	row := r.one
	if slices.Contains([]uint8{asking, granted}, row.Granted) {
		return nil
	}
	if p.blockedByAdmin(r.other, r.room) || p.Peer(r.other.Domain) != nil {
		return fault.New(fault.Forbidden, "the administrator has blocked them")
	}
	if err := p.countContact(tx, row); err != nil {
		return err
	}
	l := p.settings().Limits.ConsentRequests
	if err := p.use(tx, r.local.String(), "consent", time.Hour, l, fmt.Sprintf("you may ask %d people an hour for their consent; please wait a little", l)); err != nil {
		return err
	}
	row.Granted, row.AskingUntil = asking, p.now()+questionLife.Milliseconds()
	if row.Grants == none || row.Grants == asked {
		row.Grants, row.AskedUntil = granted, 0
	}
	return p.write(tx, &outcome{row: row, tell: out(r.local, r.other, r.room, kindRequest, wire.ConsentRequest)})
}

// Ask is called when an invitation was refused for want of consent. If the target can be asked, or has been, the invitation
// (the room's intent seq) waits: Wake is called when it is worth another try. A fault says why it does not wait, for the
// person.
func (p *People) Ask(ctx context.Context, by, target, room mimiuri.URI, seq uint64) error {
	if err := p.pair(by, target, room); err != nil {
		return err
	}
	user, them := by.String(), target.String()
	var no error // ends the wait, and is no reason to undo that
	err := p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		no = nil
		r, err := p.read(tx, by, target, room)
		if err != nil {
			return err
		}
		waited, err := tx.Waits(user, them, room.String(), seq)
		if err != nil {
			return err
		}
		if r.one.Granted == asking || r.all.Granted == asking {
			return tx.PutWait(user, them, room.String(), seq)
		}
		switch {
		case r.one.Granted == refused || r.all.Granted == refused:
			no = fault.New(fault.Forbidden, "they do not want to be added to rooms by you")
		case waited && r.one.Granted == granted:
			no = fault.New(fault.Unavailable, "they have just agreed; it is tried again") // the refusal may be from before
		case waited:
			no = fault.New(fault.Forbidden, "there is no such user, or they do not want to be added to rooms")
		}
		if no != nil {
			return tx.EndWait(user, them, room.String(), seq)
		}
		if r.one.Granted == granted {
			r.one.Granted = none // they have taken it back without a word
		}
		if err := p.ask(tx, r); err != nil {
			return err
		}
		return tx.PutWait(user, them, room.String(), seq)
	})
	if err == nil {
		err = no
		p.kickAll()
	}
	return err
}

// Waiting reports whether an invitation waits for an answer that has not come.
func (p *People) Waiting(ctx context.Context, by, target, room mimiuri.URI, seq uint64) (waits bool, err error) {
	err = p.cfg.Store.View(ctx, func(tx *store.Tx) error {
		if waits, err = tx.Waits(by.String(), target.String(), room.String(), seq); err != nil || !waits {
			return err
		}
		waits = false
		for _, scope := range []string{room.String(), ""} {
			row, err := tx.Consent(by.String(), target.String(), scope)
			if err != nil {
				return err
			}
			if scope != "" && row.Granted == granted {
				return nil
			}
			waits = waits || row.Granted == asking
		}
		return nil
	})
	return waits, err
}

// Expire ends the questions that were open for 30 days.
func (p *People) Expire(ctx context.Context) error {
	for {
		var rows []store.Consent
		err := p.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			rows, err = tx.ConsentsOver(p.now(), 256)
			return err
		})
		if err != nil || len(rows) == 0 {
			return err
		}
		var waits []store.Wait
		err = p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
			waits = nil
			for i := range rows {
				row, now := &rows[i], p.now()
				row, err := tx.Consent(row.User, row.Other, row.Room)
				if err != nil {
					return err
				}
				if row.AskedUntil > 0 && row.AskedUntil < now {
					row.Grants, row.AskedUntil = none, 0
				}
				if row.AskingUntil > 0 && row.AskingUntil < now {
					row.Granted, row.AskingUntil = none, 0
				}
				if err := p.write(tx, &outcome{row: row, show: true}); err != nil {
					return err
				}
				w, err := tx.WaitsFor(row.User, row.Other)
				if err != nil {
					return err
				}
				waits = append(waits, w...)
				if row.Grants == none && row.Granted == none {
					if err := tx.DeleteConsent(row.User, row.Other, row.Room); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		p.Counters.Expired.Add(uint64(len(rows)))
		p.kickAll()
		p.wake(waits)
	}
}

// Contacts is adapter.People's.
func (p *People) Contacts(ctx context.Context, local mimiuri.URI) ([]adapter.Contact, error) {
	var rows []store.Consent
	if err := p.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		rows, err = tx.ConsentsOf(local.String())
		return err
	}); err != nil {
		return nil, err
	}
	list := make([]adapter.Contact, 0, len(rows))
	for i := range rows {
		if c := p.contact(&rows[i]); c.Grants != adapter.ConsentNone || c.Granted != adapter.ConsentNone {
			list = append(list, c)
		}
	}
	return list, nil
}

func (p *People) contact(row *store.Consent) adapter.Contact {
	u, _ := mimiuri.Parse(row.Other) // written by us
	c := adapter.Contact{User: u, Grants: adapter.ConsentState(row.Grants), Granted: adapter.ConsentState(row.Granted)}
	if row.Since > 0 {
		c.Since = time.UnixMilli(row.Since).UTC()
	}
	if row.Room != "" {
		c.Room, _ = mimiuri.Parse(row.Room)
	}
	if local, err := mimiuri.Parse(row.User); err == nil && p.blocked(local, u, c.Room) {
		c.Grants = adapter.ConsentBlocked
	}
	return c
}

// SetConsentPolicy is adapter.People's; an empty policy is the provider's.
func (p *People) SetConsentPolicy(ctx context.Context, local mimiuri.URI, policy string) error {
	if policy != "" && !slices.Contains(Policies, policy) {
		return fault.New(fault.Malformed, "the policies are ask, contacts, everyone and nobody")
	}
	if local.Kind != mimiuri.User || local.Domain != p.cfg.Domain {
		return fault.New(fault.Forbidden, "only users of this provider act through it")
	}
	return p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		person, _, err := tx.Person(local.String())
		if err != nil {
			return err
		}
		person.Policy = policy
		return tx.PutPerson(&person)
	})
}

// ConsentPolicy is adapter.People's.
func (p *People) ConsentPolicy(ctx context.Context, local mimiuri.URI) (policy string, err error) {
	policy = p.settings().Policy
	err = p.cfg.Store.View(ctx, func(tx *store.Tx) error {
		person, _, err := tx.Person(local.String())
		if err == nil && person.Policy != "" {
			policy = person.Policy
		}
		return err
	})
	return policy, err
}
