package people

import (
	"context"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

const (
	peersAtOnce = 16
	maxRetry    = time.Hour
	showAtOnce  = 64
	maxShow     = time.Minute
)

// tell brings to other providers what waits for them. A peer that cannot be reached is tried again, with a growing pause,
// until what waits is 30 days old.
func (p *People) tell(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, peersAtOnce)
	var mu sync.Mutex
	busy := map[string]bool{}
	for {
		var peers []string
		var next int64
		err := p.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			peers, next, err = tx.ConsentDue(p.now())
			return err
		})
		if ctx.Err() != nil {
			return
		}
		pause := p.poll()
		if err != nil {
			p.cfg.Log.Error().Err(err).Msg("reading what is to be told about consent")
			pause = time.Second
		} else if next > 0 {
			pause = min(pause, max(time.Duration(next-p.now())*time.Millisecond, 0)+10*time.Millisecond)
		}
		for _, peer := range peers {
			mu.Lock()
			was := busy[peer]
			busy[peer] = true
			mu.Unlock()
			if was {
				continue
			}
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer func() {
					<-places
					mu.Lock()
					delete(busy, peer)
					mu.Unlock()
					kick(p.out) // something may have come meanwhile
				}()
				p.guarded("telling a peer about consent", func() { p.tellPeer(ctx, peer) })
			}()
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-p.out:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// tellPeer tells one peer everything that waits, until it fails.
func (p *People) tellPeer(ctx context.Context, peer string) {
	for {
		var list []store.ConsentOut
		err := p.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			list, err = tx.ConsentOutFor(peer, 64)
			return err
		})
		if err != nil || len(list) == 0 {
			return
		}
		for i := range list {
			o := &list[i]
			err := p.tellOne(ctx, o)
			if ctx.Err() != nil {
				return
			}
			if fault.Temporary(err) {
				p.Counters.TellFailed.Add(1)
				pause := min(p.cfg.Retry<<min(o.Tries, 20), maxRetry)
				if pause <= 0 {
					pause = maxRetry
				}
				p.cfg.Log.Warn().Err(err).Str("peer", peer).Dur("again_in", pause).Msg("a peer could not be told about consent; it is tried again")
				p.update(ctx, func(tx *store.Tx) error { return tx.DelayConsentOut(peer, p.now()+pause.Milliseconds()) })
				return
			}
			if request := o.Kind == kindRequest && wire.ConsentOperation(o.Op) == wire.ConsentRequest; request && !p.requested(ctx, o, err) {
				time.Sleep(time.Second) // it is looked at again at once
				return
			}
			if err != nil && !fault.Is(err, fault.NotFound) { // it will never be taken
				p.cfg.Log.Warn().Err(err).Str("peer", peer).Msg("a peer refuses what it was told about consent")
			}
			p.Counters.Told.Add(1)
			if !p.update(ctx, func(tx *store.Tx) error { return tx.EndConsentOut(o) }) {
				time.Sleep(time.Second) // it is looked at again at once
				return
			}
		}
	}
}

// requested notes what the other provider said to a request: that it was received, or that there is nobody who could be asked.
func (p *People) requested(ctx context.Context, o *store.ConsentOut, answer error) bool {
	var waits []store.Wait
	ok := p.update(ctx, func(tx *store.Tx) (err error) {
		waits = nil
		row, err := tx.Consent(o.User, o.Other, o.Room)
		if err != nil || row.Granted != asking {
			return err
		}
		if answer != nil {
			row.Granted, row.AskingUntil = none, 0
			if err := p.write(tx, &outcome{row: row, show: true, flags: flagAnswered}); err != nil {
				return err
			}
		}
		waits, err = tx.WaitsFor(o.User, o.Other)
		return err
	})
	if answer != nil {
		p.kickAll()
		p.wake(waits)
		return ok
	}
	for _, w := range waits {
		if room, err := mimiuri.ParseKind(w.Room, mimiuri.Room); err == nil {
			p.cfg.Asked(room, w.Seq)
		}
	}
	return ok
}

func (p *People) update(ctx context.Context, fn func(tx *store.Tx) error) bool {
	err := p.cfg.Store.Update(context.WithoutCancel(ctx), fn)
	if err != nil {
		p.cfg.Log.Error().Err(err).Msg("writing what is between people")
	}
	return err == nil
}

func (p *People) tellOne(ctx context.Context, o *store.ConsentOut) error {
	local, err := mimiuri.Parse(o.User)
	if err != nil {
		return fault.Wrap(fault.Malformed, "", err)
	}
	other, err := mimiuri.Parse(o.Other)
	if err != nil {
		return fault.Wrap(fault.Malformed, "", err)
	}
	e := &wire.ConsentEntry{Operation: wire.ConsentOperation(o.Op), Requester: local, Target: other}
	if o.Kind == kindUpdate {
		e.Requester, e.Target = other, local
	}
	if o.Room != "" {
		if e.RoomID, err = mimiuri.Parse(o.Room); err != nil {
			return fault.Wrap(fault.Malformed, "", err)
		}
	}
	peers := p.cfg.Peers
	if o.Peer == p.cfg.Domain {
		peers = p
	}
	if o.Kind == kindUpdate {
		return peers.UpdateConsent(ctx, p.cfg.Domain, o.Peer, e.Marshal())
	}
	return peers.RequestConsent(ctx, p.cfg.Domain, o.Peer, e.Marshal())
}

// show shows an adapter what has changed, until it was taken.
func (p *People) show(ctx context.Context, a consentAdapter) {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		more, err := p.showSome(ctx, a)
		wait := p.poll()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			p.Counters.ShowFailed.Add(1)
			pause = min(max(250*time.Millisecond, 2*pause), maxShow)
			p.cfg.Log.Warn().Err(err).Str("adapter", a.name).Dur("again_in", pause).Msg("a change of a contact could not be shown; it is kept")
			select { // another kick does not make the network come back
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		case more:
			pause = 0
			continue
		}
		pause = 0
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-a.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (p *People) showSome(ctx context.Context, a consentAdapter) (more bool, err error) {
	var list []store.ConsentEvent
	err = p.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		list, err = tx.ConsentEvents(a.name, showAtOnce)
		return err
	})
	if err != nil {
		return false, err
	}
	for i := range list {
		e := &list[i]
		var row *store.Consent
		if err := p.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			row, err = tx.Consent(e.User, e.Other, e.Room)
			return err
		}); err != nil {
			return false, err
		}
		local, err := mimiuri.Parse(e.User)
		if err == nil {
			ev := adapter.ConsentEvent{Local: local, Contact: p.contact(row), Asked: e.Flags&flagAsked != 0, Answered: e.Flags&flagAnswered != 0}
			if ev.Asked && row.Grants != asked { // answered, taken back or over meanwhile
				ev.Asked = false
			}
			err = p.deliver(ctx, a, ev)
		}
		if err != nil {
			if fault.Temporary(err) || ctx.Err() != nil {
				return false, err
			}
			p.cfg.Log.Error().Err(err).Str("adapter", a.name).Msg("a change of a contact was given up: the network will not take it")
		}
		p.Counters.Shown.Add(1)
		if err := p.cfg.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error { return tx.EndConsentEvent(e) }); err != nil {
			return false, err
		}
	}
	return len(list) > 0, nil
}

func (p *People) deliver(ctx context.Context, a consentAdapter, ev adapter.ConsentEvent) (err error) {
	err = fault.New(fault.Internal, "the adapter panicked")
	p.guarded("an adapter", func() { err = a.DeliverConsent(ctx, ev) })
	return err
}
