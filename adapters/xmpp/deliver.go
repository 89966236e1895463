package xmpp

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// delivery is an event that has been sent: the places behind its stanzas on both streams, and what is to be done
// once the server has handled them.
type delivery struct {
	room, user mark
	after      func() // may be nil
}

// confirm waits until the server has handled the stanzas of a delivery.
func (s *service) confirm(ctx context.Context, d delivery) error {
	if err := s.toRoom.confirm(ctx, d.room); err != nil {
		return err
	}
	if err := s.toUser.confirm(ctx, d.user); err != nil {
		return err
	}
	if d.after != nil {
		d.after()
	}
	return nil
}

// show sends the stanzas that show an event. It may be called again for the same event, which gives the same
// stanzas with the same ids.
func (s *service) show(ctx context.Context, ev adapter.Event) (d delivery, err error) {
	if s.ctx.Err() != nil {
		return d, errNotRunning
	}
	if ev.Room.Kind != mimiuri.Room {
		return d, fault.Newf(fault.Malformed, "an event of %q, which is no room", ev.Room)
	}
	switch ev.Kind {
	case adapter.Message:
		d, err = s.showMessage(ctx, ev)
	case adapter.Joined, adapter.Left, adapter.Metadata, adapter.RoleChanged, adapter.Policy, adapter.Banned, adapter.Unbanned:
		if d, err = s.showChange(ctx, ev); err == nil {
			s.plumbChange(ev)
			s.keepBookmark(ev)
		}
	case adapter.Notice:
		d, err = s.showNotice(ctx, ev)
	case adapter.Closed:
		d, err = s.showClosed(ctx, ev)
	case adapter.Refused:
		return s.showRefused(ctx, ev)
	default:
		return d, fault.Newf(fault.Malformed, "an event of the unknown kind %d", ev.Kind)
	}
	if err != nil {
		return d, err
	}
	if h := readHint(ev.Origin); h.Kind == hintChat {
		if d.user, err = s.toUser.send(s.chatLine(h, doneText(s, ev))); err != nil {
			return d, err
		}
	}
	s.settle(ev)
	return d, nil
}

// deliver sends the stanzas that show an event: those that f makes, or, if the event was sent before but not
// confirmed, the same again. r.mu is held. after may be nil.
func (r *room) deliver(ev adapter.Event, f func() ([]*element, error), after func()) (delivery, error) {
	out, again := r.unconfirmed[ev.Seq]
	if !again {
		var err error
		if out, err = f(); err != nil {
			return delivery{}, err
		}
		r.unconfirmed[ev.Seq] = out
	}
	if err := r.send(out...); err != nil {
		return delivery{}, err
	}
	d := delivery{after: func() {
		r := r.s.room(r.uri)
		defer r.s.release(r)
		r.mu.Lock()
		delete(r.unconfirmed, ev.Seq)
		r.mu.Unlock()
		if after != nil {
			after()
		}
	}}
	if len(out) > 0 {
		d.room = r.last
	}
	return d, nil
}

// showMessage shows a message to every occupant who may see it. Only now is it shown to its sender, too.
func (s *service) showMessage(ctx context.Context, ev adapter.Event) (delivery, error) {
	if ev.Content == nil {
		return delivery{}, nil
	}
	r, known, err := s.at(ev.Room)
	defer s.release(r)
	if err != nil {
		return delivery{}, err
	}
	r.mu.Lock()
	direct, may := r.info.Direct, mayDelete(r.info, ev.Sender)
	r.mu.Unlock()
	k, err := s.classify(ctx, ev, may)
	if err != nil {
		return delivery{}, err
	}
	own := ev.Origin != nil && ev.Origin.Adapter == Name
	sentAs := ""
	if own {
		sentAs = ev.Origin.ID
	}
	// First on disk, then in the room: then a repetition by the client is known to be one.
	if !k.void || own {
		row := k.row
		if k.void {
			row.kind = content.KindEmpty
		}
		if err := s.db.keepMessage(ev.Room, row, sentAs); err != nil {
			return delivery{}, err
		}
	}
	if k.void {
		s.log.Info().Str("room", ev.Room.String()).Stringer("kind", k.c.Kind).Msg("a message was left out: it changes one that is not known or is of somebody else")
		return delivery{}, nil
	}
	if !known || s.listed(s.userJID(ev.Sender)) {
		return delivery{}, nil
	}
	s.prepareFiles(ctx, k)
	if p := s.plumbOf(ev.Room); p != nil {
		return delivery{}, p.show(ctx, k)
	}
	if direct {
		return s.showDirect(ctx, r, k)
	}
	if k.c.Kind == content.KindStatus {
		return s.showStatus(ctx, r, k)
	}
	r.mu.Lock()
	info := r.info
	r.mu.Unlock()
	s.plumbAnswer(ev, info)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.fill(); err != nil {
		return delivery{}, err
	}
	var absent []mimiuri.URI
	d, err := r.deliver(ev, func() ([]*element, error) {
		list, err := s.render(ctx, k, r.voice(ev.Sender))
		if err != nil {
			return nil, err
		}
		shown := r.shownAs(k, list)
		var out []*element
		if m := r.members[ev.Sender]; m != nil && !m.shown { // speaks in a large room: is shown from now on
			m.shown = true
			out = r.toOthers(r.presence(m), m)
		}
		for _, se := range r.ordered() {
			if shown.audience[se.m.user] {
				for _, e := range shown.stanzas {
					out = append(out, e.with(se.full))
				}
			}
		}
		r.remember(k, shown)
		absent = r.absent(k, shown.audience)
		more, err := r.mentionNotices(ctx, k, shown, absent)
		return append(out, more...), err
	}, nil)
	return d, err
}

// voice is who speaks in the room. r.mu is held, also while the voice is used.
func (r *room) voice(sender mimiuri.URI) *voice {
	v := &voice{typ: "groupchat", by: r.jid, occupant: r.occupantID(sender), nickOf: func(u mimiuri.URI) (string, addr, bool) {
		if m := r.members[u]; m != nil {
			return m.nick, r.jid.with(m.nick), true
		}
		if row, ok := r.saved[u]; ok {
			return row.nick, r.jid.with(row.nick), true
		}
		return "", addr{}, false
	}}
	if m := r.members[sender]; m != nil {
		v.from, v.nick, v.name = r.jid.with(m.nick), m.nickElement(), m.nick
		return v
	}
	row, ok := r.saved[sender] // has left since
	if !ok {
		row.nick = defaultNick(sender, r.s.domain, func(key string) bool { return r.nicks[key] != nil })
	}
	v.from, v.name = r.jid.with(row.nick), row.nick
	return v
}

// renderEvent shows an event of before. r.mu is held.
func (r *room) renderEvent(ctx context.Context, ev adapter.Event) ([]*element, error) {
	if ev.Content == nil || expired(ev, time.Now()) {
		return nil, nil
	}
	k, err := r.s.classify(ctx, ev, mayDelete(r.info, ev.Sender))
	if err != nil {
		return nil, err
	}
	if k.c.Kind == content.KindStatus {
		return nil, nil
	}
	return r.s.render(ctx, k, r.voice(ev.Sender))
}

func (r *room) shownAs(k *classified, list []*element) shownMessage {
	audience := make(map[mimiuri.URI]bool, len(k.ev.Local))
	for _, u := range k.ev.Local {
		audience[u] = true
	}
	m := shownMessage{id: k.ev.ID, at: k.ev.Time, audience: audience, stanzas: list}
	if e := k.ev.Content.Expires; e != nil {
		if e.Relative {
			m.expires = k.ev.Time.Add(time.Duration(e.Time) * time.Second)
		} else {
			m.expires = time.Unix(int64(e.Time), 0)
		}
	}
	return m
}

// fill reads the past of a room once: from the provider, which keeps it sealed. r.mu is held.
func (r *room) fill() error {
	if r.filled {
		return nil
	}
	ctx, cancel := r.s.timeout()
	defer cancel()
	rows, err := r.s.db.recent(ctx, r.uri, maxHistory)
	if err != nil {
		return err
	}
	var seqs []uint64
	for _, m := range rows {
		seqs = append(seqs, m.seq)
	}
	events, err := r.s.host.History(ctx, r.uri, seqs)
	if err != nil {
		return err
	}
	r.history = r.history[:0]
	for _, ev := range events {
		if ev.Content == nil {
			continue
		}
		k, err := r.s.classify(ctx, ev, mayDelete(r.info, ev.Sender))
		if err != nil {
			return err
		}
		list, err := r.renderEvent(ctx, ev)
		if err != nil {
			return err
		}
		if len(list) > 0 {
			r.remember(k, r.shownAs(k, list))
		}
	}
	r.filled = true
	return nil
}

// remember puts a message into the history, once, and takes what it retracts out. r.mu is held.
func (r *room) remember(k *classified, m shownMessage) {
	if k.c.Kind == content.KindDelete && k.target != nil {
		for i := range r.history {
			if r.history[i].id == k.target.mimi {
				r.history[i].gone = true
			}
		}
	}
	for _, old := range r.history {
		if old.id == m.id {
			return
		}
	}
	if len(r.history) >= maxHistory {
		r.history = append(r.history[:0], r.history[len(r.history)-maxHistory+1:]...)
	}
	r.history = append(r.history, m)
}

// absent lists the local users whom a message mentions and who are not in the room. r.mu is held.
func (r *room) absent(k *classified, audience map[mimiuri.URI]bool) (out []mimiuri.URI) {
	if k.c.Kind != content.KindMessage {
		return nil
	}
	for _, u := range k.c.Mentions {
		m := r.members[u]
		if m != nil && audience[u] && len(m.sessions) == 0 && u.Domain == r.s.domain && u != k.ev.Sender {
			out = append(out, u)
		}
	}
	return out
}

// mentionNotices carry a mention to the bare JID of whoever is not in the room (XEP-0452). r.mu is held.
func (r *room) mentionNotices(ctx context.Context, k *classified, m shownMessage, to []mimiuri.URI) (out []*element, err error) {
	for _, u := range to {
		off, err := r.s.db.setting(ctx, u, settingMentions)
		if err != nil {
			return nil, err
		}
		if off == "off" || len(m.stanzas) == 0 {
			continue
		}
		inner := m.stanzas[0].with(r.jid.String())
		out = append(out, el("", "message", "id", eventID("mention-"+shortHash(u.String()), k.ev), "from", r.jid.String(), "to", r.s.userJID(u).String()).add(
			el(nsMentions, "mentions").add(el(nsForward, "forwarded").add(
				el(nsDelay, "delay", "stamp", stamp(m.at)), inner.inClient()))))
	}
	return out, nil
}

// showChange shows who has come or gone, and a new name or subject.
func (s *service) showChange(ctx context.Context, ev adapter.Event) (delivery, error) {
	r := s.room(ev.Room)
	defer s.release(r)
	info, _, err := s.view(ctx, ev.Room)
	if err != nil {
		return delivery{}, err
	}
	info = withEvent(info, ev)
	if ev.Kind == adapter.Joined && ev.User.Domain == s.domain {
		if err := s.db.keepJoin(ev.Room, ev.User, ev.Seq); err != nil {
			return delivery{}, err
		}
	}
	var removed []mimiuri.URI
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deliver(ev, func() ([]*element, error) {
		r.gen++
		subject, before := r.subject, r.members[ev.User]
		out, gone, err := r.apply(ctx, info, &ev)
		if err != nil {
			return nil, err
		}
		removed = gone
		var more []*element
		switch ev.Kind {
		case adapter.Joined:
			more, err = r.joined(ev, before != nil)
		case adapter.Metadata, adapter.Policy:
			more = r.metadata(ev, r.subject != subject)
		}
		return append(out, more...), err
	}, func() {
		for _, u := range removed {
			r.dropped(u)
		}
	})
}

// joined gives what a new participant is shown themselves. A local one whose join was waiting for this enters now;
// any other local one who is not in the room is invited by it. r.mu is held.
func (r *room) joined(ev adapter.Event, before bool) (out []*element, err error) {
	m := r.members[ev.User]
	if m == nil {
		return nil, nil
	}
	if before { // known from the room's state already, and shown then, if there was a stream
		out = r.toOthers(r.presence(m), m)
	}
	if ev.User.Domain != r.s.domain || r.info.Direct {
		return out, nil
	}
	if h := readHint(ev.Origin); h.Kind == hintJoin {
		more, err := r.admit(ev, h)
		if err == nil && len(m.sessions) == 0 && !before {
			out = r.toOthers(r.presence(m), m) // has not entered after all
		}
		return append(out, more...), err
	}
	if len(m.sessions) > 0 || r.s.plumbOf(ev.Room) != nil {
		return out, nil
	}
	return append(out, r.s.invitation(ev.Room, r.name, ev.User, ev.Actor, readHint(ev.Origin).Reason, eventID("invite", ev))), nil
}

// showNotice shows what the provider has to say about the room, to those who are in it.
func (s *service) showNotice(ctx context.Context, ev adapter.Event) (delivery, error) {
	r, _, err := s.at(ev.Room)
	defer s.release(r)
	if err != nil {
		return delivery{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.info.Direct {
		return delivery{}, nil
	}
	if p := s.plumbOf(ev.Room); p != nil {
		p.say(ev.Notice)
		return delivery{}, nil
	}
	return r.deliver(ev, func() ([]*element, error) {
		local := make(map[mimiuri.URI]bool)
		for _, u := range ev.Local {
			local[u] = true
		}
		e := el("", "message", "type", "groupchat", "id", eventID("notice", ev), "from", r.jid.String()).
			add(textEl("", "body", ev.Notice), el(nsHints, "no-store"))
		var out []*element
		for _, se := range r.ordered() {
			if local[se.m.user] {
				out = append(out, e.with(se.full))
			}
		}
		return out, nil
	}, nil)
}

// eventID is the stable id of a stanza that shows an event and has no id of its own.
func eventID(what string, ev adapter.Event) string {
	return what + "-" + shortHash(ev.Room.String()+" "+strconv.FormatUint(ev.Seq, 10))
}

// admit lets somebody in whose join made them a participant. What is not in memory any more is in the hint.
// r.mu is held.
func (r *room) admit(ev adapter.Event, h hint) ([]*element, error) {
	j := r.joining[ev.Origin.ID]
	if j == nil {
		from, err := parseAddr(h.JID)
		if err != nil {
			return nil, nil
		}
		j = &joining{joinRequest: joinRequest{from: from, nick: h.Nick, id: h.ID, history: historyRequest{max: -1, chars: -1}}}
	}
	if j.cancelled {
		delete(r.joining, ev.Origin.ID)
		return nil, nil
	}
	req := j.joinRequest
	req.user = ev.User
	req.created = ev.Actor == ev.User && len(r.members) == 1 && ev.Room.Domain == r.s.domain
	out, err := r.enter(req)
	var refused *stanzaError
	if errors.As(err, &refused) {
		out, err = []*element{r.joinError(req.from, req.nick, req.id, refused)}, nil
	}
	if err != nil {
		return nil, err // the event comes again
	}
	delete(r.joining, ev.Origin.ID)
	return out, nil
}

// metadata tells of a change of configuration (XEP-0045 section 10.2.1, status 104), and of a new subject. r.mu is held.
func (r *room) metadata(ev adapter.Event, subject bool) []*element {
	id := eventID("meta", ev)
	out := r.toAll(el("", "message", "type", "groupchat", "id", id, "from", r.jid.String()).
		add(el(nsMUCUser, "x").add(el(nsMUCUser, "status", "code", "104"))))
	if subject {
		e := r.subjectMessage().set("id", id+"-s")
		if m := r.members[ev.Actor]; m != nil {
			e.set("from", r.jid.with(m.nick).String())
		}
		out = append(out, r.toAll(e)...)
	}
	return out
}

// joinError tells somebody that they are not in the room.
func (r *room) joinError(to addr, nick, id string, e *stanzaError) *element {
	return el("", "presence", "type", "error", "id", id, "from", r.jid.with(nick).String(), "to", to.String()).
		add(el(nsMUC, "x"), e.element(r.jid.String()))
}

// showClosed shows that the room is over (XEP-0045 section 10.9).
func (s *service) showClosed(ctx context.Context, ev adapter.Event) (delivery, error) {
	r := s.room(ev.Room)
	defer s.release(r)
	if err := r.load(ctx); err != nil {
		return delivery{}, err
	}
	if p := s.plumbOf(ev.Room); p != nil {
		p.closed()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deliver(ev, func() ([]*element, error) {
		var out []*element
		for _, se := range r.ordered() {
			e := r.unavailable(se.m, nil, "110")
			e.child(nsMUCUser, "x").add(el(nsMUCUser, "destroy").add(textEl(nsMUCUser, "reason", cmp.Or(ev.Reason, textClosed))))
			out = append(out, e.with(se.full))
		}
		r.gen++
		r.gone = true
		r.members, r.nicks, r.sessions = make(map[mimiuri.URI]*member), make(map[string]*member), make(map[string]*session)
		r.order = nil
		r.history = nil
		return out, nil
	}, func() {
		if err := s.db.dropRoom(ev.Room); err != nil {
			s.log.Warn().Err(err).Msg("a closed room could not be forgotten")
		}
	})
}

// showRefused tells a person that what they wanted was not done.
func (s *service) showRefused(ctx context.Context, ev adapter.Event) (d delivery, err error) {
	h := readHint(ev.Origin)
	why := ev.Err
	if why == nil {
		why = fault.New(fault.Forbidden, "")
	}
	to, jidErr := parseAddr(h.JID)
	if jidErr != nil { // the hint was too long: their client will show it somewhere
		j, ok := s.ownJID(ev.Actor)
		if !ok {
			return d, nil
		}
		to = j
	}
	switch h.Kind {
	case hintJoin:
		r := s.room(ev.Room)
		defer s.release(r)
		refusal := s.notLetIn(ev.Room, ev.Actor, why)
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.deliver(ev, func() ([]*element, error) {
			j := r.joining[ev.Origin.ID]
			delete(r.joining, ev.Origin.ID)
			switch {
			case j != nil && j.cancelled:
				return nil, nil
			case ev.Intent == adapter.CreateRoom && fault.Is(why, fault.Conflict):
				// Somebody else made it first.
				req := joinRequest{from: to, user: ev.Actor, nick: h.Nick, id: h.ID, history: historyRequest{max: -1, chars: -1}}
				if j != nil {
					req = j.joinRequest
				}
				s.work.post(r.jid.String(), func() { s.joinInstead(ev.Room, req) })
				return nil, nil
			}
			return []*element{r.joinError(to, h.Nick, h.ID, refusal)}, nil
		}, nil)
	case hintChat:
		d.user, err = s.toUser.send(s.chatLine(h, textNotDone+fault.Public(why)))
	case hintPlumbDo:
		s.plumbRefused(ev)
	case hintPlumb:
		if p := s.plumbOf(ev.Room); p != nil {
			p.arrived(ev.Origin.ID)
			p.tell(ev.Actor, textPlumbNot(p, fault.Public(why)))
		}
	case hintCommand:
		s.settle(ev)
	default:
		from, st, sent := s.roomJID(ev.Room), s.toRoom, &d.room
		if a, err := parseAddr(h.To); err == nil && a.domain == s.users {
			from, st, sent = a, s.toUser, &d.user
		}
		e := el("", "message", "type", "error", "id", h.ID, "from", from.String(), "to", to.String())
		*sent, err = st.send(e.add(toStanzaError(why).element(from.bare().String())))
	}
	return d, err
}

// joinInstead joins a room that somebody wanted to create.
func (s *service) joinInstead(u mimiuri.URI, req joinRequest) {
	r := s.room(u)
	defer s.release(r)
	ctx, cancel := s.timeout()
	defer cancel()
	_, err := r.refresh(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		if r.members[req.user] != nil {
			var out []*element
			if out, err = r.enter(req); err == nil {
				err = r.send(out...)
			}
		} else {
			err = r.ask(req, adapter.JoinRoom)
		}
	}
	if err != nil {
		_ = r.send(r.joinError(req.from, req.nick, req.id, toStanzaError(err)))
	}
}

// load reads the members, if they have not been read.
func (r *room) load(ctx context.Context) error {
	r.mu.Lock()
	loaded := r.loaded
	r.mu.Unlock()
	if loaded {
		return nil
	}
	_, err := r.refresh(ctx)
	return err
}
