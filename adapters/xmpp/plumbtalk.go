package xmpp

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/policy"
)

// Messages of a plumbed room, both ways.

// message takes what the conference room sends. To puppets it sends the same as to the bridge, which is passed over.
func (p *plumb) message(in *packet) {
	s := p.s
	if in.typ == "error" {
		p.reflected(in.id, conditionOf(in.kids))
		return
	}
	if in.to.local != botLocal {
		if in.typ == "chat" && in.from.resource != "" && find(in.kids, "", "body") != nil {
			p.private(in)
		}
		return
	}
	if in.typ != "groupchat" || len(in.id) > maxStanzaID {
		return
	}
	nick, sid := in.from.resource, ""
	for _, k := range in.kids {
		if k.Space == nsSID && k.Local == "stanza-id" && k.attr("by") == p.muc.String() && len(k.attr("id")) <= maxStanzaID {
			sid = k.attr("id")
		}
	}
	if nick == "" {
		p.moderated(in)
		return
	}
	p.mu.Lock()
	o := p.occupants[nick]
	mine := p.puppetByNick(nick) != nil || o != nil && o.ours
	active, blocked, at := p.active, p.blocked, p.at
	p.mu.Unlock()
	if mine {
		if id := idOf(strings.SplitN(in.id, ".", 2)[0]); id != nil {
			if err := s.db.keepPlumbMessage(p.muc, *id, sid, plumbByPuppet); err != nil {
				s.log.Warn().Err(err).Msg("a message of a plumbed room could not be noted")
			}
		}
		p.reflected(in.id, "")
		return
	}
	if !active || blocked {
		return
	}
	if d := find(in.kids, nsDelay, "delay"); d != nil { // said while the bridge was not there
		stamp, err := time.Parse(time.RFC3339, d.attr("stamp"))
		id := ""
		if e := find(in.kids, nsOccupant, "occupant-id"); e != nil {
			id = e.attr("id")
		}
		if err != nil || stamp.Before(at) || id == "" {
			return
		}
		u, ok := s.db.plumbID(p.muc, id)
		if !ok {
			return
		}
		j, _ := s.ownJID(u)
		o = &occupant{nick: nick, jid: j, user: u}
	}
	if o == nil || o.user.IsZero() || o.bridge || o.jid.isZero() || s.listed(o.jid.bare()) {
		return
	}
	if err := p.take(o, in, sid); err != nil {
		p.tell(o.user, textPlumbNot(p, publicText(err)))
	}
}

// take hands in a message that was said in the conference room. That has shown it already: if it is refused only its sender is
// told.
func (p *plumb) take(o *occupant, in *packet, sid string) error {
	s := p.s
	ctx, cancel := s.timeout()
	defer cancel()
	r, _, err := s.at(p.uri)
	defer s.release(r)
	if err != nil {
		return err
	}
	r.mu.Lock()
	m := r.members[o.user]
	r.mu.Unlock()
	if m == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.joining[o.user] && len(p.held[o.user]) < maxHeld {
			p.held[o.user] = append(p.held[o.user], func() { _ = p.take(o, in, sid) })
		}
		return nil
	}
	if subject := find(in.kids, "", "subject"); subject != nil && find(in.kids, "", "body") == nil {
		return p.subject(o, in, subject.Text, sid)
	}
	key := "s " + sid
	if sid == "" {
		key = "i " + in.id + " " + payloadHash(in.kids)
	}
	id := originID(o.jid, "plumb", p.muc.String(), key)
	if _, _, known, err := s.db.sent(ctx, p.uri, o.user, id); err != nil || known {
		return err
	}
	said := &packet{st: in.st, kind: in.kind, typ: in.typ, id: in.id, lang: in.lang, from: o.jid, to: p.muc, kids: p.translate(in.kids)}
	t := talk{room: p.uri, user: o.user, r: r}
	c, err := s.compose(ctx, said, t)
	if s.isUnknown(err) && p.later(in.kids, func() {
		if err := p.take(o, in, sid); err != nil {
			p.tell(o.user, textPlumbNot(p, publicText(err)))
		}
	}) {
		return nil
	}
	if err != nil || c == nil {
		return err
	}
	if !m.role.Send {
		return errVoice
	}
	origin := ""
	if e := find(in.kids, nsSID, "origin-id"); e != nil && len(e.attr("id")) <= maxStanzaID {
		origin = e.attr("id")
	}
	if in.id != "" {
		c.SetExternalMessageID([]byte(in.id), s.local)
	}
	h, ok := hint{Kind: hintPlumb, JID: o.jid.bare().String(), ID: in.id, Origin: origin, To: sid}.encode()
	if !ok {
		return errLongID
	}
	p.underWay(id, in.id, origin, sid)
	if err := s.intake(adapter.Intent{Kind: adapter.SendMessage, Room: p.uri, Actor: o.user, OriginID: id, Content: c, Hint: h}); err != nil {
		p.arrived(id)
		return err
	}
	return nil
}

// underWay notes what a message that the hub has not accepted yet can be referred to by: the room has shown it to everybody already.
func (p *plumb) underWay(id string, names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.under[id] = names
}

// later runs f when what is under way has arrived, if a stanza refers to any of that.
func (p *plumb) later(kids []*element, f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.after) >= maxHeld {
		return false
	}
	for _, k := range kids {
		ref := refOf(k)
		for _, names := range p.under {
			if ref != "" && slices.Contains(names, ref) {
				p.after = append(p.after, f)
				return true
			}
		}
	}
	return false
}

// arrived is called when it is known what became of a message.
func (p *plumb) arrived(id string) {
	p.mu.Lock()
	delete(p.under, id)
	list := p.after
	p.after = nil
	p.mu.Unlock()
	for _, f := range list {
		p.s.work.post("user "+p.muc.String(), f)
	}
}

// isUnknown tells whether a message refers to one that is not known.
func (s *service) isUnknown(err error) bool {
	return errors.Is(err, errReactUnknown) || errors.Is(err, errRetractUnknown) || errors.Is(err, errCorrectUnknown)
}

// refOf gives the id of the message that an element is about.
func refOf(k *element) string {
	switch {
	case k.Space == nsReply && k.Local == "reply", k.Space == nsReactions && k.Local == "reactions", k.Space == nsRetract && k.Local == "retract",
		k.Space == nsFasten && k.Local == "apply-to", k.Space == nsMarkers, k.Space == nsCorrect && k.Local == "replace":
		return k.attr("id")
	}
	return ""
}

// translate makes the ids of the conference room those of MIMI, and its occupants people.
func (p *plumb) translate(kids []*element) []*element {
	out := make([]*element, 0, len(kids))
	for _, k := range kids {
		c := *k
		if ref := refOf(k); ref != "" && k.Space != nsCorrect {
			if id, ok := p.s.db.plumbMIMI(p.muc, ref); ok {
				c.Attr = append([]attr(nil), k.Attr...)
				c.set("id", id.String())
			}
		}
		if k.Space == nsReference && k.Local == "reference" {
			a, err := prepare(strings.ReplaceAll(trimXMPP(k.attr("uri")), "%25", "%"))
			if err == nil && a.bare() == p.muc {
				u, ok := p.byNick(a.resource)
				if !ok {
					continue
				}
				c.Attr = append([]attr(nil), k.Attr...)
				c.set("uri", u.String())
			}
		}
		out = append(out, &c)
	}
	return out
}

// byNick finds who is in the conference room under a nick.
func (p *plumb) byNick(nick string) (mimiuri.URI, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pp := p.puppetByNick(nick); pp != nil && pp != p.bot {
		return pp.user, true
	}
	if o := p.occupants[nick]; o != nil && !o.user.IsZero() {
		return o.user, true
	}
	return mimiuri.URI{}, false
}

// subject carries a new subject over.
func (p *plumb) subject(o *occupant, in *packet, subject, sid string) error {
	if find(in.kids, nsDelay, "delay") != nil || len(subject) > maxSubject {
		return nil
	}
	info, ok, err := p.s.lookup(p.uri)
	if err != nil || !ok || info.Subject == subject || !can(info, o.user, policy.CanChangeRoomSubject) {
		return err
	}
	h, ok := hint{Kind: hintPlumb, JID: o.jid.bare().String()}.encode()
	if !ok {
		return errLongID
	}
	p.mu.Lock()
	p.told["subject "+subject] = true
	p.mu.Unlock()
	return p.s.intake(adapter.Intent{Kind: adapter.SetMetadata, Room: p.uri, Actor: o.user, Hint: h, Metadata: &adapter.MetadataChange{Subject: &subject},
		OriginID: originID(o.jid, "plumb-subject", p.muc.String(), sid, in.id, shortHash(subject))})
}

// moderated carries over that a moderator of the conference room has removed a message (XEP-0425, both forms): that comes from the room
// itself.
func (p *plumb) moderated(in *packet) {
	s := p.s
	ref, by := "", ""
	if e := find(in.kids, nsRetract, "retract"); e != nil && e.child(nsModerate, "moderated") != nil {
		ref, by = e.attr("id"), e.child(nsModerate, "moderated").attr("by")
	} else if e := find(in.kids, nsFasten, "apply-to"); e != nil && e.child(nsModerate0, "moderated").child(nsRetract0, "retract") != nil {
		ref, by = e.attr("id"), e.child(nsModerate0, "moderated").attr("by")
	}
	id, ok := s.db.plumbMIMI(p.muc, ref)
	if ref == "" || !ok || find(in.kids, nsDelay, "delay") != nil {
		return
	}
	p.mu.Lock()
	var actor *occupant
	if a, err := parseAddr(by); err == nil && a.bare() == p.muc {
		actor = p.occupants[a.resource]
	}
	active := p.active && !p.blocked
	p.mu.Unlock()
	if !active || actor != nil && actor.ours {
		return
	}
	info, ok, err := s.lookup(p.uri)
	if err != nil || !ok {
		return
	}
	who, ok := p.actor(info, actor)
	if !ok {
		return
	}
	ctx, cancel := s.timeout()
	defer cancel()
	c, err := s.composeModeration(ctx, id.String(), talk{room: p.uri, user: who}, mayDelete(info, who))
	if err != nil || c == nil {
		return
	}
	_ = p.do(adapter.Intent{Kind: adapter.SendMessage, Actor: who, Content: c}, "moderate")
}

// private is a message to a puppet alone (XEP-0045 section 7.5): it goes to the direct room with them.
func (p *plumb) private(in *packet) {
	p.mu.Lock()
	o, pp := p.occupants[in.from.resource], p.puppetAt(in.to)
	p.mu.Unlock()
	err := error(errPlumbPrivate)
	if pp != nil && pp != p.bot && o != nil && !o.user.IsZero() {
		said := *in
		said.from, said.to = o.jid, p.s.userJID(pp.user)
		err = p.s.directMessage(&said, o.user, pp.user)
	}
	if err != nil {
		p.s.refuse(in, err)
	}
}

// reflected tells whoever waits for a stanza that it has come back, or why it was refused.
func (p *plumb) reflected(id, cond string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ch := p.wait[id]; ch != nil {
		delete(p.wait, id)
		ch <- cond
	}
}

// shown notes that a message of this room was said in the conference room.
func (p *plumb) shown(k *classified) (bool, error) {
	h := readHint(k.ev.Origin)
	if h.Kind != hintPlumb {
		return false, nil
	}
	err := p.s.db.keepPlumbMessage(p.muc, k.ev.ID, h.To, plumbByOccupant)
	p.arrived(k.ev.Origin.ID)
	return true, err
}

// show shows a message of the MIMI room in the conference room, and returns once that has sent it to everybody. A message that
// comes again is shown once: what the conference room has sent is noted.
func (p *plumb) show(ctx context.Context, k *classified) error {
	s := p.s
	if own, err := p.shown(k); own || err != nil {
		return err
	}
	p.mu.Lock()
	pass := p.blocked || p.quiet[k.ev.Sender] || p.ended
	p.mu.Unlock()
	if pass || k.c.Kind == content.KindStatus {
		return nil
	}
	if known, err := s.db.plumbKnows(p.muc, k.ev.ID); err != nil || known {
		return err
	}
	// Whoever waits for this event has not yet: a room that cannot be entered just now is tried again.
	if err := p.enter(ctx); err != nil {
		return errPlumbDown
	}
	author := k.ev.Sender
	if k.c.Kind == content.KindDelete && k.target != nil {
		by := s.db.plumbBy(p.muc, k.target.mimi)
		if by == plumbByOccupant {
			return p.moderate(k.target.mimi)
		}
		if by == 0 {
			return nil // it has never been shown there
		}
		author = k.target.sender // who retracts is whose message it is
	}
	pp := p.speaker(ctx, author)
	for {
		list, err := p.render(ctx, k, pp, author)
		if err != nil || len(list) == 0 {
			return err
		}
		cond, err := p.send(ctx, list)
		switch {
		case err != nil:
			p.mu.Lock()
			p.bot.in = false
			p.mu.Unlock()
			return errPlumbDown
		case cond == "":
			return nil
		case pp == nil:
			s.log.Warn().Str("muc", p.muc.String()).Str("condition", cond).Msg("the conference service does not let the bridge speak")
			p.askVoice(p.bot)
			return nil
		}
		p.mu.Lock()
		if cond == "not-acceptable" { // it is not there any more
			delete(p.puppets, pp.user)
		} else {
			pp.role = "visitor"
		}
		p.mu.Unlock()
		if cond == "forbidden" {
			p.askVoice(pp)
		}
		pp = nil // the bridge says it
	}
}

// send sends the stanzas of a message and waits until the last has come back.
func (p *plumb) send(ctx context.Context, list []*element) (cond string, err error) {
	last := list[len(list)-1].attr("id")
	ch := make(chan string, 1)
	p.mu.Lock()
	p.wait[last] = ch
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.wait, last)
		p.mu.Unlock()
	}()
	if _, err := p.s.toUser.send(list...); err != nil {
		return "", err
	}
	return p.answer(ctx, ch, plumbWait)
}

// render gives the stanzas that say a message in the conference room, by a puppet, or by the bridge in somebody's name.
func (p *plumb) render(ctx context.Context, k *classified, pp *puppet, author mimiuri.URI) ([]*element, error) {
	s := p.s
	from := p.bot.jid
	if pp != nil {
		from = pp.jid
	}
	v := &voice{typ: "groupchat", from: from, nickOf: p.nickOf, ref: func(m *messageRow) string {
		if sid := s.db.plumbSID(p.muc, m.mimi); sid != "" {
			return sid
		}
		return m.id
	}}
	if pp == nil && k.subject != nil {
		return nil, nil // the bridge cannot react for several
	}
	var list []*element
	if k.c.Kind == content.KindDelete && k.target != nil {
		author := *k
		author.ev.Sender = k.target.sender
		list = []*element{renderRetraction(&author, v)}
	} else {
		var err error
		if list, err = s.render(ctx, k, v); err != nil {
			return nil, err
		}
	}
	name := ""
	if pp == nil {
		name = p.nameOf(author) + ": "
	}
	out := make([]*element, 0, len(list))
	for i, e := range list {
		e = e.with(p.muc.String())
		if i == 0 && name != "" {
			e.Kids = inTheNameOf(e.Kids, name)
		}
		out = append(out, e)
	}
	return out, nil
}

// inTheNameOf puts a name before a text. What counts the text's characters moves with it.
func inTheNameOf(kids []*element, name string) []*element {
	out := make([]*element, 0, len(kids))
	n := utf8.RuneCountInString(name)
	for _, k := range kids {
		switch {
		case k.Space == "" && k.Local == "body":
			c := *k
			c.Text = name + c.Text
			k = &c
		case (k.Space == nsFallback || k.Space == nsFallback0) && k.attr("for") == nsReply:
			continue
		case k.Space == nsReply:
			continue // the quotation is in the text
		case k.Space == nsReference && k.Local == "reference" && k.attr("begin") != "":
			k = shifted(k, n)
		}
		out = append(out, k)
	}
	return out
}

// shifted is a reference to a text that n characters were put before.
func shifted(k *element, n int) *element {
	c := *k
	c.Attr = append([]attr(nil), k.Attr...)
	for i, a := range c.Attr {
		if v, err := strconv.Atoi(a.Value); err == nil && (a.Name == "begin" || a.Name == "end") {
			c.Attr[i].Value = strconv.Itoa(v + n)
		}
	}
	return &c
}

func (p *plumb) nickOf(u mimiuri.URI) (string, addr, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pp := p.puppets[u]; pp != nil && pp.in {
		return pp.nick, p.muc.with(pp.nick), true
	}
	for _, o := range p.occupants {
		if o.user == u {
			return o.nick, p.muc.with(o.nick), true
		}
	}
	return fullName(u), addr{}, false
}

// nameOf is what the bridge calls somebody it speaks for: their nick in the MIMI room.
func (p *plumb) nameOf(u mimiuri.URI) string {
	r := p.s.room(p.uri)
	defer p.s.release(r)
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.members[u]; m != nil {
		return m.nick
	}
	return fullName(u)
}

// speaker gives the puppet of somebody elsewhere, which enters the room if need be; nil if the bridge has to speak for them.
func (p *plumb) speaker(ctx context.Context, u mimiuri.URI) *puppet {
	if p.mode != plumbSpeakers || u.Domain == p.s.domain {
		return nil
	}
	p.mu.Lock()
	pp := p.puppets[u]
	if pp != nil && pp.in {
		pp.last = time.Now()
		silent := pp.role == "visitor"
		p.mu.Unlock()
		if silent {
			p.askVoice(pp)
			return nil
		}
		return pp
	}
	if pp == nil {
		pp = &puppet{user: u, jid: addr{p.s.localPart(u), p.s.users, p.puppetResource()}}
		p.puppets[u] = pp
	}
	taken := make(map[string]bool)
	for nick := range p.occupants {
		taken[nickKey(nick)] = true
	}
	admin := p.bot.aff == "admin" || p.bot.aff == "owner"
	p.mu.Unlock()
	p.thin(maxPuppets-1, puppetIdle)
	for try := 0; try < 4; try++ {
		nick := defaultNick(u, p.s.domain, func(key string) bool { return taken[key] })
		cond, err := p.join(ctx, pp, nick, puppetWait)
		switch {
		case err == nil && cond == "":
			p.mu.Lock()
			pp.last = time.Now()
			silent := pp.role == "visitor"
			p.mu.Unlock()
			if silent && !p.askVoice(pp) {
				return nil
			}
			return pp
		case err == nil && cond == "conflict":
			taken[nickKey(nick)] = true
			continue
		case err == nil && cond == "registration-required" && admin:
			if p.admin("affiliation", "member", "jid", pp.jid.bare().String(), "") == nil {
				admin = false
				continue
			}
		case err == nil && cond == "forbidden": // banned
			p.mu.Lock()
			p.quiet[u] = true
			p.mu.Unlock()
		}
		p.s.log.Info().Err(err).Str("muc", p.muc.String()).Str("condition", cond).Msg("somebody elsewhere could not enter a plumbed room; the bridge speaks for them")
		break
	}
	p.mu.Lock()
	delete(p.puppets, u)
	p.mu.Unlock()
	return nil
}

// askVoice gives an occupant of ours voice in a moderated room, or asks its moderators for it (XEP-0045 section 7.13). It
// reports whether there is voice now.
func (p *plumb) askVoice(pp *puppet) bool {
	p.mu.Lock()
	moderator := p.bot.role == "moderator"
	nick := pp.nick
	asked := pp.asked
	pp.asked = true
	p.mu.Unlock()
	if moderator && pp != p.bot {
		if p.admin("role", "participant", "nick", nick, "") == nil {
			p.mu.Lock()
			pp.role = "participant"
			p.mu.Unlock()
			return true
		}
	}
	if !asked {
		p.s.reply(p.s.toUser, el("", "message", "from", pp.jid.String(), "to", p.muc.String()).add(form("submit", nsMUC+"#request",
			field("muc#role", "list-single", "", "participant"))))
	}
	return false
}

// moderate asks the conference service to remove a message of one of its occupants, as was done in the MIMI room. Not every
// service can (XEP-0425).
func (p *plumb) moderate(id content.MessageID) error {
	sid := p.s.db.plumbSID(p.muc, id)
	if sid == "" {
		return nil
	}
	ask := func(payload *element) error {
		_, err := p.s.request(p.s.toUser, el("", "iq", "type", "set", "from", p.bot.jid.String(), "to", p.muc.String()).add(payload))
		return err
	}
	err := ask(el(nsModerate, "moderate", "id", sid).add(el(nsRetract, "retract")))
	if err != nil {
		err = ask(el(nsFasten, "apply-to", "id", sid).add(el(nsModerate0, "moderate").add(el(nsRetract0, "retract"))))
	}
	if err != nil {
		p.s.log.Info().Err(err).Str("muc", p.muc.String()).Msg("the conference service did not remove a message that was removed in the MIMI room")
	}
	return nil
}

// closed is called when the provider can take no more part in the MIMI room.
func (p *plumb) closed() {
	p.say(textPlumbClosed)
	p.end(textPlumbClosed)
}
