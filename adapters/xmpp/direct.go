package xmpp

import (
	"context"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// A direct room is a chat with one person elsewhere: there are no occupants, and what is said in it goes between
// the person's address at the users domain and the bare JID of the local user, whose server gives it to all their clients
// and keeps it while none is there.

// directMessage takes in a message to somebody elsewhere.
func (s *service) directMessage(in *packet, user, other mimiuri.URI) error {
	if stateOf(in.kids) != nil && find(in.kids, "", "body") == nil {
		return nil // typing goes no further than this provider
	}
	ctx, cancel := s.timeout()
	defer cancel()
	u, err := s.host.DirectRoom(ctx, user, other)
	if err != nil {
		return err
	}
	r, _, err := s.at(u)
	defer s.release(r)
	if err != nil {
		return err
	}
	return s.take(in, talk{room: u, user: user, direct: true, r: r}, true, func() error { return nil })
}

// privateMessage is XEP-0045 section 7.5: to an occupant alone. Somebody elsewhere gets it in the direct room with them, as
// MIMI rooms have no messages to some; somebody of this server gets it from the room.
func (s *service) privateMessage(in *packet, user, u mimiuri.URI) error {
	r, _, err := s.at(u)
	defer s.release(r)
	if err != nil {
		return err
	}
	r.mu.Lock()
	se := r.sessions[in.from.String()]
	target := r.nicks[nickKey(in.to.resource)]
	r.mu.Unlock()
	switch {
	case se == nil:
		return errNotIn
	case target == nil:
		return errNoNick
	case target.user.Domain != s.domain:
		if encrypted(in.kids) {
			return errOMEMO
		}
		return s.directMessage(in, user, target.user)
	}
	if find(in.kids, "", "body") == nil && stateOf(in.kids) == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*element
	e := el("", "message", "type", "chat", "id", in.id, "from", r.jid.with(se.m.nick).String())
	for _, k := range in.kids {
		if k.Space == nsSID && k.Local == "stanza-id" || k.Space == nsOccupant || k.Space == nsMUCUser {
			continue
		}
		e.add(k)
	}
	e.add(el(nsMUCUser, "x"), r.occupantID(user))
	for _, x := range target.sessions {
		out = append(out, e.with(x.full))
	}
	if len(out) == 0 {
		return errNotThere
	}
	return r.send(out...)
}

// directPeer gives the other of a direct room. r.mu is held.
func (r *room) directPeer(u mimiuri.URI) (mimiuri.URI, bool) {
	for _, m := range r.members {
		if m.user != u {
			return m.user, true
		}
	}
	return mimiuri.URI{}, false
}

// showDirect shows a message of a direct room as a chat. What the local user said themselves their server has shown
// to their other clients (XEP-0280).
func (s *service) showDirect(ctx context.Context, r *room, k *classified) (delivery, error) {
	if k.c.Kind == content.KindStatus {
		return s.showDirectStatus(ctx, r, k)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deliverUser(k.ev, func() ([]*element, error) {
		v := &voice{typ: "chat", from: s.userJID(k.ev.Sender), direct: true, nickOf: func(u mimiuri.URI) (string, addr, bool) {
			return fullName(u), s.userJID(u), true
		}}
		list, err := s.render(ctx, k, v)
		if err != nil {
			return nil, err
		}
		var out []*element
		for _, u := range k.ev.Local {
			if u == k.ev.Sender || u.Domain != s.domain {
				continue
			}
			for _, e := range list {
				if r.s.ctx.Err() == nil {
					out = append(out, e.with(s.userJID(u).String()))
				}
			}
		}
		return out, nil
	})
}

// showStatus shows in a room what somebody has read (XEP-0333).
func (s *service) showStatus(ctx context.Context, r *room, k *classified) (delivery, error) {
	report, ok := k.ev.Content.StatusReport()
	if !ok {
		return delivery{}, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deliver(k.ev, func() ([]*element, error) {
		v := r.voice(k.ev.Sender)
		var newest *messageRow
		for _, st := range report[max(0, len(report)-maxReports):] {
			if st.Status != content.StatusRead {
				continue
			}
			m, err := s.db.message(ctx, k.ev.Room, st.ID)
			if err != nil {
				return nil, err
			}
			if m != nil && (newest == nil || m.seq > newest.seq) {
				newest = m
			}
		}
		if newest == nil {
			return nil, nil
		}
		e := v.stanza(k, "").add(el(nsMarkers, "displayed", "id", newest.mimi.String()), el(nsHints, "store"))
		return r.toAll(e), nil
	}, nil)
}

// maxReports is how many entries of a status report are looked at, the last ones.
const maxReports = 100

// showDirectStatus tells a local user what became of their message: XEP-0184 and XEP-0333.
func (s *service) showDirectStatus(ctx context.Context, r *room, k *classified) (delivery, error) {
	report, ok := k.ev.Content.StatusReport()
	if !ok {
		return delivery{}, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deliverUser(k.ev, func() ([]*element, error) {
		var out []*element
		from := s.userJID(k.ev.Sender).String()
		for i, st := range report[max(0, len(report)-maxReports):] {
			m, err := s.db.message(ctx, k.ev.Room, st.ID)
			if err != nil {
				return nil, err
			}
			if m == nil || m.sender == k.ev.Sender || m.sender.Domain != s.domain {
				continue
			}
			e := el("", "message", "type", "chat", "from", from, "to", s.userJID(m.sender).String(), "id", k.ev.ID.String()+"."+shortHash(string(rune(i))))
			switch st.Status {
			case content.StatusDelivered:
				e.add(el(nsReceipts, "received", "id", m.id))
			case content.StatusRead:
				e.add(el(nsReceipts, "received", "id", m.id), el(nsMarkers, "displayed", "id", m.id))
			default:
				continue
			}
			out = append(out, e.add(el(nsHints, "store")))
		}
		return out, nil
	})
}

// deliverUser is deliver for stanzas of the users domain. r.mu is held.
func (r *room) deliverUser(ev adapter.Event, f func() ([]*element, error)) (d delivery, err error) {
	out, again := r.unconfirmed[ev.Seq]
	if !again {
		if out, err = f(); err != nil {
			return d, err
		}
		r.unconfirmed[ev.Seq] = out
	}
	d.after = func() {
		r := r.s.room(r.uri)
		defer r.s.release(r)
		r.mu.Lock()
		delete(r.unconfirmed, ev.Seq)
		r.mu.Unlock()
	}
	if len(out) > 0 {
		d.user, err = r.s.toUser.send(out...)
	}
	return d, err
}
