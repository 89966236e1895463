package client

import (
	"context"
	"errors"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
)

// People decides what may be between users: consent, blocks, limits (core/people). All methods may be called concurrently.
type People interface {
	// Admit checks a local user's intent that is new, inside the transaction that stores it; its fault is for the person.
	Admit(tx *store.Tx, in *adapter.Intent) error
	// Invited counts that by, for whom the provider from asks, wants to add somebody to the room (to any, if it is zero); a
	// fault.Limited is the answer.
	Invited(ctx context.Context, by, room mimiuri.URI, from string) error
	// TooMuch notes that somebody wanted to send what is too large, for the admin.
	TooMuch(who mimiuri.URI, what string)
	// May reports whether other may add local to the room, by the same steps whether there is such a user or not.
	May(ctx context.Context, local, other, room mimiuri.URI) (bool, error)
	// Ask asks target for consent to an invitation (the room's intent seq) that was refused for want of it, unless that is
	// under way. The intent waits until Consented. A fault says why it does not wait.
	Ask(ctx context.Context, by, target, room mimiuri.URI, seq uint64) error
	// Waiting reports whether an invitation waits for an answer to Ask that has not come.
	Waiting(ctx context.Context, by, target, room mimiuri.URI, seq uint64) (bool, error)
	// Sees gives those of local who want to see what sender sent to the room, which may be the direct one of two users.
	Sees(ctx context.Context, local []mimiuri.URI, sender, room mimiuri.URI, direct bool) ([]mimiuri.URI, error)
}

// everybody is People where nothing is decided.
type everybody struct{}

func (everybody) Admit(*store.Tx, *adapter.Intent) error                          { return nil }
func (everybody) Invited(context.Context, mimiuri.URI, mimiuri.URI, string) error { return nil }
func (everybody) TooMuch(mimiuri.URI, string)                                     {}
func (everybody) May(context.Context, mimiuri.URI, mimiuri.URI, mimiuri.URI) (bool, error) {
	return true, nil
}
func (everybody) Ask(context.Context, mimiuri.URI, mimiuri.URI, mimiuri.URI, uint64) error {
	return errNoConsent
}
func (everybody) Waiting(context.Context, mimiuri.URI, mimiuri.URI, mimiuri.URI, uint64) (bool, error) {
	return false, nil
}
func (everybody) Sees(_ context.Context, local []mimiuri.URI, _, _ mimiuri.URI, _ bool) ([]mimiuri.URI, error) {
	return local, nil
}

// errNoConsent is what key material is refused with for a user who is not there or does not want to: one cannot tell.
var errNoConsent = fault.New(fault.Forbidden, "there is no such user, or they do not want to be added to rooms")

// An invitation that waits for consent looks every minute whether the answer has come by way of another node, if there are any,
// and is tried once a day in any case: the answer may have been lost.
const (
	consentLook  = time.Minute
	consentAgain = 24 * time.Hour
)

// waiting reports whether an invitation still waits for consent. It is asked before key packages are.
func (r *room) waiting(ctx context.Context, in *store.Intent, target mimiuri.URI) (bool, error) {
	waits, err := r.c.cfg.People.Waiting(ctx, uri(in.Actor), target, r.uri, in.Seq)
	if err != nil || !waits {
		delete(r.consents, in.Seq)
		return false, err
	}
	now := r.now()
	if last, ok := r.consents[in.Seq]; !ok {
		r.consents[in.Seq] = now
	} else if now.Sub(last) > consentAgain {
		r.consents[in.Seq] = now
		return false, nil
	}
	r.lookAgain(in.Seq)
	return true, nil
}

func (r *room) lookAgain(seq uint64) {
	pause := consentAgain
	if r.c.cfg.Store.Shared() {
		pause = consentLook
	}
	r.deferred[seq] = r.now().Add(pause)
	r.wakeAt(r.deferred[seq])
}

// awaitConsent lets the others pass an invitation that needs the target's consent.
func (r *room) awaitConsent(ctx context.Context, in *store.Intent, pl *payload, target mimiuri.URI) (more bool, err error) {
	err = r.c.cfg.People.Ask(ctx, uri(in.Actor), target, r.uri, in.Seq)
	if err != nil {
		var f *fault.Error
		if ctx.Err() != nil || !errors.As(err, &f) || f.Kind == fault.Internal || f.Kind == fault.Unavailable {
			return r.deferIntent(ctx, in, pl, err)
		}
		return true, r.refuse(ctx, in, pl, f.Kind, fault.Public(err))
	}
	r.consents[in.Seq] = r.now()
	r.lookAgain(in.Seq)
	return true, nil
}

// Asked tells who invites that the question for which the intent waits has been received.
func (c *Client) Asked(in mimiuri.URI, seq uint64) {
	ctx := c.running()
	if ctx == nil || !c.cfg.Store.Mine(in.String()) {
		return
	}
	c.rooms.Post(in.String(), func(r *room) {
		err := r.load(ctx)
		if err == nil {
			err = r.tellAsked(ctx, seq)
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn().Err(err).Msg("who invites could not be told that consent is asked for")
		}
	})
}

func (r *room) tellAsked(ctx context.Context, seq uint64) error {
	in, pl, err := r.intent(ctx, seq)
	if err != nil || in == nil {
		return err
	}
	target := uri(pl.Target)
	e := &eventRow{Kind: adapter.Notice, TS: r.now().UnixMilli(), Local: []string{in.Actor},
		Notice: target.ID + " of " + target.Domain + " is asked whether you may add them. They are added when they agree."}
	return r.commit(ctx, &change{events: []*eventRow{e}})
}

// Consented has an intent that waits for consent worked on now. If the room is another node's, that finds it by itself.
func (c *Client) Consented(in mimiuri.URI, seq uint64) {
	if c.running() == nil || !c.cfg.Store.Mine(in.String()) {
		return
	}
	c.rooms.Post(in.String(), func(r *room) {
		delete(r.deferred, seq)
		r.step()
	})
}
