package xmpp

import (
	"context"
	"crypto/rand"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Plumbing. A chat room of the server's own conference service can become the place where a MIMI room is seen, instead of the
// room at the rooms domain. The bridge is an occupant of it, which listens and moderates; people elsewhere who have spoken
// lately are occupants of their own (puppets), or the bridge speaks for them. Local occupants are made participants.
//
// The real addresses of occupants are what the conference service says they are: only one of the server's own domain is
// believed.
//
// The conference room keeps its own order: a message is there when it was said in it, and is not shown in it again when the hub
// has accepted it. Which message is which is in the adapter's database (plumbstore.go), so that a reply, a reaction or a retraction
// finds what it is about in both worlds, and a message that comes again is shown once.

// botLocal is the local part of the bridge's own occupant. No user elsewhere has it: their addresses have a "%".
const botLocal = "bridge"

// Limits of plumbing.
const (
	plumbWait    = 15 * time.Second // for the conference service
	puppetWait   = 10 * time.Second
	maxPuppets   = 50               // of a room
	puppetIdle   = 30 * time.Minute // then a puppet leaves
	maxOccupants = 20_000
	maxHeld      = 50             // messages of somebody who is being made a participant
	plumbAsk     = 24 * time.Hour // the time to answer for the admins of the MIMI room
)

// What speaks for people elsewhere in a plumbed room.
const (
	plumbSpeakers = "speakers" // puppets of those who have spoken lately
	plumbNone     = "none"     // the bridge
)

// occupant is somebody in a plumbed room, as the bridge sees them.
type occupant struct {
	nick        string
	jid         addr        // real, full; zero if it is hidden
	user        mimiuri.URI // of this provider, who may use it; or zero
	id          string      // XEP-0421
	affiliation string
	role        string
	ours        bool // the bridge, or a puppet
	bridge      bool // of another bridge
}

// puppet is an occupant of ours: the bridge itself, whose user is zero, or somebody elsewhere.
type puppet struct {
	user  mimiuri.URI
	jid   addr // full
	nick  string
	in    bool
	role  string
	aff   string
	asked bool // for voice
	last  time.Time
	ready chan string // the condition of the error that answers a join, "" for none
}

// plumb is a conference room that is, or is to be, a MIMI room.
type plumb struct {
	s    *service
	muc  addr // bare
	uri  mimiuri.URI
	by   mimiuri.URI // who asked for it: an owner of the conference room
	mode string
	code string    // what the admins of the MIMI room answer with; empty once it is active
	at   time.Time // when it was asked for, or became active

	mu        sync.Mutex
	active    bool
	ended     bool
	bot       *puppet
	puppets   map[mimiuri.URI]*puppet
	occupants map[string]*occupant // by nick
	renamed   map[string]bool      // nicks that are about to come, by a change
	quiet     map[mimiuri.URI]bool // people elsewhere who were put out
	left      map[mimiuri.URI]bool // local ones who left the MIMI room
	joining   map[mimiuri.URI]bool // local ones who are being made participants
	held      map[mimiuri.URI][]func()
	wait      map[string]chan string // for the reflection of a stanza, by its id: the condition of an error, "" for none
	under     map[string][]string    // messages of the room that the hub has not accepted yet: their names, by origin id
	after     []func()               // what refers to such
	blocked   bool                   // another bridge is in the room
	told      map[string]bool        // what the room was told once
}

// plumbs are those of a service.
type plumbs struct {
	mu     sync.Mutex
	byMUC  map[addr]*plumb
	byRoom map[mimiuri.URI]*plumb // active ones
}

func (s *service) plumbAt(muc addr) *plumb {
	s.plumbs.mu.Lock()
	defer s.plumbs.mu.Unlock()
	return s.plumbs.byMUC[muc]
}

// plumbOf gives the conference room in which a MIMI room is seen, nil if it is seen at the rooms domain.
func (s *service) plumbOf(u mimiuri.URI) *plumb {
	s.plumbs.mu.Lock()
	defer s.plumbs.mu.Unlock()
	return s.plumbs.byRoom[u]
}

func (s *service) allPlumbs() (out []*plumb) {
	s.plumbs.mu.Lock()
	defer s.plumbs.mu.Unlock()
	for _, p := range s.plumbs.byMUC {
		out = append(out, p)
	}
	return out
}

func (s *service) newPlumb(muc addr, u, by mimiuri.URI, mode string) *plumb {
	return &plumb{
		s: s, muc: muc, uri: u, by: by, mode: mode, at: time.Now(),
		bot:       &puppet{jid: addr{botLocal, s.users, "plumb"}, nick: s.cfg.PlumbNick},
		puppets:   make(map[mimiuri.URI]*puppet),
		occupants: make(map[string]*occupant),
		renamed:   make(map[string]bool),
		quiet:     make(map[mimiuri.URI]bool),
		left:      make(map[mimiuri.URI]bool),
		joining:   make(map[mimiuri.URI]bool),
		held:      make(map[mimiuri.URI][]func()),
		wait:      make(map[string]chan string),
		told:      make(map[string]bool),
		under:     make(map[string][]string),
	}
}

// plumbable reads the address of a conference room and says whether it can be plumbed.
func (s *service) plumbable(text string) (addr, error) {
	a, err := prepare(trimXMPP(text))
	switch {
	case err != nil || a.local == "" || a.domain == s.local:
		return addr{}, errPlumbAddress
	case a.domain == s.rooms || a.domain == s.users:
		return addr{}, errPlumbOurs
	case !strings.HasSuffix(a.domain, "."+s.local):
		return addr{}, errPlumbElsewhere
	}
	return a.bare(), nil
}

// runPlumb is the command of an owner of the conference room.
func runPlumb(s *service, ctx context.Context, user mimiuri.URI, v map[string]string) (string, error) {
	muc, err := s.plumbable(v["muc"])
	if err != nil {
		return "", err
	}
	u, err := s.readRoom(v["room"])
	if err != nil {
		return "", err
	}
	mode := v["puppets"]
	switch mode {
	case "":
		mode = s.cfg.Puppets
	case plumbSpeakers, plumbNone:
	default:
		return "", errPlumbMode
	}
	info, ok, err := s.lookup(u)
	if err != nil {
		return "", err
	}
	me, isIn := participant(info, user)
	switch {
	case !ok || !isIn:
		return "", errPlumbJoin
	case info.Direct:
		return "", errDirectRoom
	}
	p := s.newPlumb(muc, u, user, mode)
	s.plumbs.mu.Lock()
	old := s.plumbs.byMUC[muc]
	switch {
	case old != nil && old.code != "" && (old.by == user || time.Since(old.at) > plumbAsk): // asked anew
	case old != nil, s.plumbs.byRoom[u] != nil:
		s.plumbs.mu.Unlock()
		return "", errPlumbTaken
	}
	s.plumbs.byMUC[muc] = p
	s.plumbs.mu.Unlock()
	if err := p.check(ctx); err != nil {
		p.giveUp()
		return "", err
	}
	if me.Admin {
		return p.activate(ctx)
	}
	// The other side: whoever may change roles in the MIMI room answers there.
	p.mu.Lock()
	p.code = strings.ToLower(rand.Text()[:8])
	p.mu.Unlock()
	if err := s.db.keepPlumb(p); err != nil {
		p.giveUp()
		return "", err
	}
	h, _ := hint{Kind: hintPlumbDo}.encode()
	text := textPlumbAsk(p)
	if err := s.intake(adapter.Intent{Kind: adapter.SendMessage, Room: u, Actor: user, OriginID: originID(p.bot.jid, "ask", muc.String(), p.code), Content: content.Text(text), Hint: h}); err != nil {
		_ = s.db.dropPlumb(muc)
		p.giveUp()
		return "", err
	}
	p.part()
	return textPlumbAsked, nil
}

// giveUp forgets a plumb that has not come to be.
func (p *plumb) giveUp() {
	p.part()
	p.s.forgetPlumb(p)
}

func (s *service) forgetPlumb(p *plumb) {
	s.plumbs.mu.Lock()
	defer s.plumbs.mu.Unlock()
	if s.plumbs.byMUC[p.muc] == p {
		delete(s.plumbs.byMUC, p.muc)
	}
	if s.plumbs.byRoom[p.uri] == p {
		delete(s.plumbs.byRoom, p.uri)
	}
}

// check enters the conference room and looks whether whoever asks is its owner, and whether it may be bridged.
func (p *plumb) check(ctx context.Context) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	owner, seen, hidden, other := false, false, 0, ""
	domains := make(map[string]bool)
	for _, o := range p.occupants {
		switch {
		case o.ours:
			continue
		case o.bridge:
			other = o.nick
		case o.jid.isZero():
			hidden++
			continue
		}
		seen = true
		if o.user == p.by && o.affiliation == "owner" {
			owner = true
		}
		if d := o.jid.domain; d != p.s.local && len(domains) < 10 {
			domains[d] = true
		}
	}
	p.mu.Unlock()
	switch {
	case other != "":
		return errPlumbBridge(other)
	case hidden > 0 && !seen:
		return errPlumbBlind(p.bot.jid.bare())
	case !owner:
		return errPlumbOwner
	}
	if d := p.gatewayAmong(ctx, domains); d != "" {
		return errPlumbBridge(d)
	}
	return nil
}

// gatewayAmong finds a domain that says it is a gateway to MIMI, too.
func (p *plumb) gatewayAmong(ctx context.Context, domains map[string]bool) string {
	found := make(chan string, len(domains))
	for d := range domains {
		go func() {
			info, err := p.s.request(p.s.toUser, el("", "iq", "type", "get", "from", p.s.users, "to", d).add(el(nsDiscoInfo, "query")))
			if err == nil && info != nil {
				for _, k := range info.Kids {
					if k.Local == "identity" && k.attr("category") == "gateway" && k.attr("type") == "mimi" {
						found <- d
						return
					}
				}
			}
			found <- ""
		}()
	}
	late := time.NewTimer(plumbWait / 3)
	defer late.Stop()
	for range len(domains) {
		select {
		case d := <-found:
			if d != "" {
				return d
			}
		case <-late.C:
			return ""
		case <-ctx.Done():
			return ""
		}
	}
	return ""
}

// activate makes the conference room the place of the MIMI room.
func (p *plumb) activate(ctx context.Context) (string, error) {
	s := p.s
	info, ok, err := s.lookup(p.uri)
	if err != nil {
		return "", err
	}
	if !ok {
		p.giveUp()
		return "", errNoRoom
	}
	p.mu.Lock()
	p.code, p.at = "", time.Now()
	p.mu.Unlock()
	if err := s.db.keepPlumb(p); err != nil {
		p.giveUp()
		return "", err
	}
	s.plumbs.mu.Lock()
	if other := s.plumbs.byRoom[p.uri]; other != nil && other != p {
		s.plumbs.mu.Unlock()
		_ = s.db.dropPlumb(p.muc)
		p.giveUp()
		return "", errPlumbTaken
	}
	s.plumbs.byRoom[p.uri] = p
	s.plumbs.mu.Unlock()
	p.mu.Lock()
	p.active = true
	var here []*occupant
	for _, o := range p.occupants {
		here = append(here, o)
	}
	p.mu.Unlock()
	s.moved(p)
	p.say(textPlumbed(p, info))
	slices.SortFunc(here, func(a, b *occupant) int { return strings.Compare(a.nick, b.nick) })
	for _, o := range here {
		p.welcome(o)
	}
	for _, m := range info.Participants {
		if m.User.Domain == s.domain && m.User != p.by {
			p.invite(m.User, p.by)
		}
	}
	return textPlumbDone(p), nil
}

// moved tells the occupants at the rooms domain that the room is elsewhere now (XEP-0045 section 10.9, with the alternate venue).
func (s *service) moved(p *plumb) {
	r := s.room(p.uri)
	defer s.release(r)
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*element
	for _, se := range slices.Clone(r.ordered()) {
		e := r.unavailable(se.m, nil, "110")
		e.child(nsMUCUser, "x").add(el(nsMUCUser, "destroy", "jid", p.muc.String()).add(textEl(nsMUCUser, "reason", textPlumbMoved)))
		out = append(out, e.with(se.full))
		r.vacate(se)
		se.m.sessions = nil
		if err := s.db.dropOccupant(r.uri, se.jid); err != nil {
			s.log.Warn().Err(err).Msg("an occupant could not be forgotten")
		}
	}
	_ = r.send(out...)
}

// goneTo answers a join of a room that is elsewhere (RFC 6120 section 8.3.3.5).
func (s *service) goneTo(in *packet, p *plumb) {
	e := el("", "error", "type", "cancel", "by", in.to.bare().String()).add(
		textEl(nsStanzas, "gone", xmppURI(p.muc)+"?join"),
		&element{Space: nsStanzas, Local: "text", Attr: []attr{{"xml:lang", "en"}}, Text: textPlumbMoved + " " + p.muc.String()})
	s.reply(in.st, el("", "presence", "type", "error", "id", in.id, "from", in.to.String(), "to", in.from.String()).add(el(nsMUC, "x"), e))
}

// plumbAnswer looks whether a message of the MIMI room answers for the other side. It does nothing but start what follows.
func (s *service) plumbAnswer(ev adapter.Event, info adapter.Room) {
	asked := false
	for _, p := range s.allPlumbs() {
		asked = asked || p.uri == ev.Room
	}
	if !asked {
		return
	}
	text, _, ok := ev.Content.ReadableText(&content.RichOptions{})
	if !ok {
		return
	}
	words := strings.Fields(strings.ToLower(text))
	if len(words) != 2 || words[0] != "agree" && words[0] != "refuse" {
		return
	}
	for _, p := range s.allPlumbs() {
		p.mu.Lock()
		code := p.code
		p.mu.Unlock()
		if p.uri != ev.Room || code == "" || words[1] != code || time.Since(p.at) > plumbAsk {
			continue
		}
		if by, _ := participant(info, ev.Sender); !by.Admin {
			return
		}
		s.work.post("plumb "+p.muc.String(), func() {
			ctx, cancel := s.timeout()
			defer cancel()
			if words[0] == "refuse" {
				_ = s.db.dropPlumb(p.muc)
				p.giveUp()
				p.tell(p.by, textPlumbRefused(p))
				return
			}
			err := p.check(ctx)
			text := ""
			if err == nil {
				text, err = p.activate(ctx)
			} else {
				_ = s.db.dropPlumb(p.muc)
				p.giveUp()
			}
			if err != nil {
				text = "That was not done: " + publicText(err)
			}
			p.tell(p.by, text)
		})
		return
	}
}

// tell is a line of the gateway to a local user.
func (p *plumb) tell(u mimiuri.URI, text string) {
	if j, ok := p.s.ownJID(u); ok {
		p.s.reply(p.s.toUser, p.s.gatewayLine(j.String(), text))
	}
}

// runUnplumb takes the bridge out of a conference room again.
func runUnplumb(s *service, ctx context.Context, user mimiuri.URI, v map[string]string) (string, error) {
	var p *plumb
	if a, err := prepare(trimXMPP(v["room"])); err == nil {
		p = s.plumbAt(a.bare())
	}
	if p == nil {
		if u, ok := s.anyRoom(v["room"]); ok {
			p = s.plumbOf(u)
		}
	}
	if p == nil {
		return "", errUnplumbWhat
	}
	may := p.by == user
	if info, ok, err := s.lookup(p.uri); err != nil {
		return "", err
	} else if me, isIn := participant(info, user); ok && isIn && me.Admin {
		may = true
	}
	p.mu.Lock()
	for _, o := range p.occupants {
		may = may || o.user == user && o.affiliation == "owner"
	}
	p.mu.Unlock()
	if !may {
		return "", errUnplumb
	}
	p.say(textUnplumbed)
	p.end("")
	return textUnplumbDone(p), nil
}

// end takes the bridge out of the conference room. Those who take part in the MIMI room only because they were in that room
// leave it; for the others it is at the rooms domain again. why, if it is not empty, is told to who had plumbed the room.
func (p *plumb) end(why string) {
	s := p.s
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	p.ended, p.active = true, false
	p.mu.Unlock()
	p.part()
	s.forgetPlumb(p)
	ctx, cancel := s.timeout()
	defer cancel()
	people, err := s.db.plumbPeople(ctx, p.muc)
	if err != nil {
		s.log.Warn().Err(err).Msg("who takes part by a plumbed room could not be read")
	}
	h, _ := hint{Kind: hintPlumbDo}.encode()
	for u, how := range people {
		if how == plumbJoined && u != p.by {
			err := s.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: p.uri, Actor: u, OriginID: originID(p.bot.jid, "unplumb", p.muc.String(), u.ID, rand.Text()), Hint: h})
			if err != nil {
				s.log.Warn().Err(err).Msg("somebody who took part by a plumbed room could not be taken out")
			}
		}
	}
	if err := s.db.dropPlumb(p.muc); err != nil {
		s.log.Warn().Err(err).Msg("a plumbed room could not be forgotten")
	}
	if why != "" {
		p.tell(p.by, why)
	}
}

// part takes all of ours out of the conference room.
func (p *plumb) part() {
	p.mu.Lock()
	out := p.parting()
	p.mu.Unlock()
	p.s.reply(p.s.toUser, out...)
}

// parting gives what takes all of ours out. p.mu is held.
func (p *plumb) parting() (out []*element) {
	for _, pp := range p.puppets {
		if pp.in {
			out = append(out, p.leaving(pp))
		}
	}
	out = append(out, p.leaving(p.bot))
	p.bot.in = false
	p.puppets = make(map[mimiuri.URI]*puppet)
	p.occupants = make(map[string]*occupant)
	return out
}

func (p *plumb) leaving(pp *puppet) *element {
	return el("", "presence", "type", "unavailable", "from", pp.jid.String(), "to", p.muc.with(pp.nick).String())
}

// enter brings the bridge's own occupant into the room, if it is not there.
func (p *plumb) enter(ctx context.Context) error {
	p.mu.Lock()
	if p.bot.in {
		p.mu.Unlock()
		return nil
	}
	if p.ended {
		p.mu.Unlock()
		return errNoRoom
	}
	nick := p.bot.nick
	p.mu.Unlock()
	for try := 0; try < 3; try++ {
		cond, err := p.join(ctx, p.bot, nick, plumbWait)
		switch {
		case err != nil:
			return err
		case cond == "":
			return nil
		case cond == "conflict":
			nick += "_"
		default:
			return errPlumbEnter(cond, p.bot.jid.bare())
		}
	}
	return errPlumbEnter("conflict", p.bot.jid.bare())
}

// join sends the presence of an occupant of ours and waits for the answer.
func (p *plumb) join(ctx context.Context, pp *puppet, nick string, patience time.Duration) (cond string, err error) {
	p.mu.Lock()
	ready := make(chan string, 1)
	pp.ready, pp.nick = ready, nick
	if pp == p.bot {
		p.occupants = make(map[string]*occupant)
	}
	p.mu.Unlock()
	if _, err := p.s.toUser.send(p.joinPresence(pp, nick)); err != nil {
		return "", err
	}
	return p.answer(ctx, ready, patience)
}

// answer waits for the condition that the conference room answers with.
func (p *plumb) answer(ctx context.Context, from <-chan string, patience time.Duration) (cond string, err error) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case cond := <-from:
		return cond, nil
	case <-t.C:
		return "", errPlumbSilent
	case <-ctx.Done():
		return "", ctx.Err()
	case <-p.s.ctx.Done():
		return "", errNotRunning
	}
}

func (p *plumb) joinPresence(pp *puppet, nick string) *element {
	history := "0"
	if pp == p.bot {
		history = "50"
	}
	e := el("", "presence", "from", pp.jid.String(), "to", p.muc.with(nick).String()).add(
		el(nsMUC, "x").add(el(nsMUC, "history", "maxstanzas", history)),
		el(nsCaps, "c", "hash", "sha-1", "node", capsNode, "ver", capsVer))
	if !pp.user.IsZero() {
		x := el(nsVCardX, "x")
		if hash := p.s.avatarOf(pp.user); hash != "" {
			x.add(textEl(nsVCardX, "photo", hash))
		}
		e.add(x, textEl(nsNick, "nick", fullName(pp.user)))
	}
	return e
}

// say is what the bridge itself has to say in the room; it is never bridged.
func (p *plumb) say(text string) { p.s.reply(p.s.toUser, p.saying(text)) }

func (p *plumb) saying(text string) *element {
	return el("", "message", "type", "groupchat", "id", "say-"+rand.Text(), "from", p.bot.jid.String(), "to", p.muc.String()).add(textEl("", "body", text))
}

// once is say for what the room is to be told one time.
func (p *plumb) once(text string) {
	p.mu.Lock()
	told := p.told[text]
	p.told[text] = true
	p.mu.Unlock()
	if !told {
		p.say(text)
	}
}

// isBridge tells whether an address or a nick is of another bridge's puppets, by the patterns of the configuration.
func (s *service) isBridge(jid addr, nick string) bool {
	for _, pattern := range s.cfg.OtherBridges {
		if !jid.isZero() {
			if ok, _ := path.Match(pattern, jid.bare().String()); ok {
				return true
			}
		}
		if !strings.Contains(pattern, "@") {
			if ok, _ := path.Match(pattern, nick); ok {
				return true
			}
		}
	}
	return false
}

// plumbStanza takes what comes from a plumbed conference room; false for anything else.
func (s *service) plumbStanza(in *packet) bool {
	p := s.plumbAt(in.from.bare())
	if p == nil {
		return false
	}
	if in.kind == "presence" {
		p.presence(in)
	} else {
		p.message(in)
	}
	return true
}

// puppetAt finds an occupant of ours by its address. p.mu is held.
func (p *plumb) puppetAt(a addr) *puppet {
	if a.local == botLocal {
		return p.bot
	}
	for _, pp := range p.puppets {
		if pp.jid == a {
			return pp
		}
	}
	return nil
}

// presence follows who is in the room. What is addressed to a puppet says only how its own join went; the rest comes to the
// bridge as well.
func (p *plumb) presence(in *packet) {
	nick := in.from.resource
	x := find(in.kids, nsMUCUser, "x")
	item := x.child(nsMUCUser, "item")
	codes := make(map[string]bool)
	if x != nil {
		for _, k := range x.Kids {
			if k.Local == "status" {
				codes[k.attr("code")] = true
			}
		}
	}
	p.mu.Lock()
	pp := p.puppetAt(in.to)
	if pp == nil {
		p.mu.Unlock()
		return
	}
	if in.typ == "error" {
		if pp.ready != nil {
			cond := conditionOf(in.kids)
			if cond == "" {
				cond = "undefined-condition"
			}
			pp.ready <- cond
			pp.ready = nil
		}
		p.mu.Unlock()
		return
	}
	if codes["110"] {
		pp.in = in.typ == ""
		if in.typ == "" {
			pp.nick, pp.role, pp.aff = nick, item.attr("role"), item.attr("affiliation")
		}
		if in.typ == "" && pp.ready != nil {
			pp.ready <- ""
			pp.ready = nil
		}
	}
	if pp != p.bot {
		p.mu.Unlock()
		return
	}
	if in.typ == "unavailable" {
		p.went(nick, x, item, codes) // releases p.mu
		return
	}
	o := &occupant{nick: nick, affiliation: item.attr("affiliation"), role: item.attr("role")}
	if j, err := parseAddr(item.attr("jid")); err == nil {
		o.jid = j
	}
	if e := find(in.kids, nsOccupant, "occupant-id"); e != nil && len(e.attr("id")) <= maxStanzaID {
		o.id = e.attr("id")
	}
	s := p.s
	o.ours = o.jid.domain == s.users || o.jid.domain == s.rooms || codes["110"]
	for _, mine := range p.puppets {
		if mine.jid == o.jid || mine.in && mine.nick == nick {
			o.ours = true
			mine.role, mine.aff, mine.in, mine.nick = o.role, o.affiliation, true, nick
		}
	}
	if o.ours && !codes["110"] && o.jid.domain == s.users {
		p.adopt(o)
	}
	o.bridge = !o.ours && s.isBridge(o.jid, nick)
	if !o.ours && !o.bridge && !o.jid.isZero() && s.host.Level(o.jid.bare().String()) > adapter.LevelNone {
		o.user, _ = s.person(o.jid.bare())
	}
	old := p.occupants[nick]
	fresh := old == nil && !p.renamed[nick]
	delete(p.renamed, nick)
	if len(p.occupants) < maxOccupants || old != nil {
		p.occupants[nick] = o
	}
	active := p.active
	p.mu.Unlock()
	if o.id != "" && !o.user.IsZero() && (old == nil || old.id != o.id) {
		if err := s.db.keepPlumbID(p.muc, o.id, o.user); err != nil {
			s.log.Warn().Err(err).Msg("an occupant could not be noted")
		}
	}
	if !active {
		return
	}
	switch {
	case o.bridge:
		p.suspend(o)
	case o.user.IsZero():
	case fresh:
		s.work.post("plumb "+p.muc.String(), func() { p.welcome(o) })
	case old != nil && (old.affiliation != o.affiliation || old.role != o.role):
		s.work.post("plumb "+p.muc.String(), func() { p.changedHere(*old, o, item.child(nsMUCUser, "actor")) })
	}
}

// adopt takes up a puppet that is in the room from before a restart. p.mu is held.
func (p *plumb) adopt(o *occupant) {
	u, ok := p.s.contact(o.jid.local)
	if !ok || p.puppets[u] != nil || o.jid.resource != p.puppetResource() {
		return
	}
	p.puppets[u] = &puppet{user: u, jid: o.jid, nick: o.nick, in: true, role: o.role, aff: o.affiliation, last: time.Now()}
}

func (p *plumb) puppetResource() string { return "plumb-" + shortHash(p.muc.String()) }

// went handles the end of an occupancy. p.mu is held, and released.
func (p *plumb) went(nick string, x, item *element, codes map[string]bool) {
	o := p.occupants[nick]
	delete(p.occupants, nick)
	active := p.active
	if codes["303"] {
		p.renamed[item.attr("nick")] = true
		if pp := p.puppetByNick(nick); pp != nil {
			pp.nick = item.attr("nick")
		}
		p.mu.Unlock()
		return
	}
	out := codes["307"] || codes["301"] || codes["321"] || codes["322"]
	stopped := codes["332"] || codes["333"] // the service's own doing
	out = out && !stopped
	actor := p.actorOf(item.child(nsMUCUser, "actor"))
	destroyed := x.child(nsMUCUser, "destroy") != nil
	if codes["110"] {
		p.mu.Unlock()
		if active && (out || destroyed) {
			p.s.work.post("plumb "+p.muc.String(), func() { p.end(textPlumbOut(p, destroyed)) })
		}
		return
	}
	pp := p.puppetByNick(nick)
	if pp != nil && pp != p.bot {
		delete(p.puppets, pp.user)
		if out {
			p.quiet[pp.user] = true // and does not come again
		}
	}
	mine := actor != nil && actor.ours
	still := p.blocked
	if o != nil && o.bridge && p.blocked {
		still = false
		for _, other := range p.occupants {
			still = still || other.bridge
		}
		p.blocked = still
	}
	resumed := o != nil && o.bridge && !still
	p.mu.Unlock()
	if !active {
		return
	}
	if resumed {
		p.say(textPlumbGoesOn)
	}
	var who mimiuri.URI
	switch {
	case pp != nil && pp != p.bot:
		who = pp.user
		if out {
			if err := p.s.db.keepPlumbPerson(p.muc, who, plumbQuiet); err != nil {
				p.s.log.Warn().Err(err).Msg("a kick could not be noted")
			}
		}
	case o != nil:
		who = o.user
	}
	if out && !mine && !who.IsZero() {
		reason := cut(item.text(nsMUCUser, "reason"), 512)
		p.s.work.post("plumb "+p.muc.String(), func() { p.putOut(who, actor, codes["301"], reason) })
	}
}

func (p *plumb) puppetByNick(nick string) *puppet {
	if p.bot.in && p.bot.nick == nick {
		return p.bot
	}
	for _, pp := range p.puppets {
		if pp.nick == nick {
			return pp
		}
	}
	return nil
}

// actorOf finds who did something, by what the service says of them. p.mu is held.
func (p *plumb) actorOf(e *element) *occupant {
	if e == nil {
		return nil
	}
	if o := p.occupants[e.attr("nick")]; o != nil {
		return o
	}
	j, err := parseAddr(e.attr("jid"))
	if err != nil {
		return nil
	}
	for _, o := range p.occupants {
		if !o.jid.isZero() && o.jid.bare() == j.bare() {
			return o
		}
	}
	if j.domain == p.s.users {
		return &occupant{jid: j, ours: true}
	}
	return nil
}

// suspend stops the bridging while another bridge is in the room: everything would go round in a circle.
func (p *plumb) suspend(o *occupant) {
	p.mu.Lock()
	already := p.blocked
	p.blocked = true
	p.mu.Unlock()
	if !already {
		p.say(textPlumbSuspended(o.nick))
		p.tell(p.by, p.muc.String()+": "+textPlumbSuspended(o.nick))
	}
}

// actor is in whose name something is done in the MIMI room: who did it in the conference room, if they take part, else who
// plumbed it, else any admin of this server.
func (p *plumb) actor(info adapter.Room, by *occupant) (mimiuri.URI, bool) {
	if by != nil && !by.user.IsZero() {
		if _, ok := participant(info, by.user); ok {
			return by.user, true
		}
	}
	if _, ok := participant(info, p.by); ok {
		return p.by, true
	}
	for _, m := range info.Participants {
		if m.User.Domain == p.s.domain && m.Admin {
			return m.User, true
		}
	}
	return mimiuri.URI{}, false
}

// do hands in an intent of the plumbing.
func (p *plumb) do(in adapter.Intent, what string) error {
	h, _ := hint{Kind: hintPlumbDo, To: p.muc.String()}.encode()
	in.Room, in.Hint = p.uri, h
	in.OriginID = originID(p.bot.jid, what, p.muc.String(), in.Target.String(), rand.Text())
	err := p.s.intake(in)
	if err != nil {
		p.s.log.Info().Err(err).Str("room", p.uri.String()).Str("what", what).Msg("something of a plumbed room could not be carried over")
	}
	return err
}

// putOut carries a kick or a ban over to the MIMI room.
func (p *plumb) putOut(who mimiuri.URI, by *occupant, ban bool, reason string) {
	info, ok, err := p.s.lookup(p.uri)
	if err != nil || !ok {
		return
	}
	actor, ok := p.actor(info, by)
	_, isIn := participant(info, who)
	if !ok || actor == who || !isIn && !ban || slices.Contains(info.Banned, who) {
		return
	}
	kind := adapter.Remove
	if ban {
		kind = adapter.Ban
	}
	_ = p.do(adapter.Intent{Kind: kind, Actor: actor, Target: who, Reason: reason}, "out")
}

// changedHere carries a change of affiliation or voice over to the MIMI room.
func (p *plumb) changedHere(old occupant, o *occupant, by *element) {
	p.mu.Lock()
	actor := p.actorOf(by)
	p.mu.Unlock()
	if actor != nil && actor.ours {
		return
	}
	info, ok, err := p.s.lookup(p.uri)
	if err != nil || !ok {
		return
	}
	now, isIn := participant(info, o.user)
	who, ok := p.actor(info, actor)
	if !isIn || !ok || who == o.user {
		return
	}
	var want standing
	switch {
	case old.affiliation != o.affiliation && (o.affiliation == "owner" || o.affiliation == "admin" || old.affiliation == "owner" || old.affiliation == "admin"):
		want.affiliation = o.affiliation
		if want.affiliation == "none" {
			want.affiliation = "member"
		}
	case old.affiliation == o.affiliation && (o.role == "visitor" && old.role == "participant" || o.role == "participant" && old.role == "visitor"):
		want = standing{"member", o.role}
	default:
		return
	}
	shadow := room{info: info}
	if s := shadow.standing(now); s.affiliation == want.affiliation && (want.role == "" || s.role == want.role) {
		return
	}
	role, ok := roleFor(info, who, now.Role, want)
	if !ok || role == now.Role {
		return
	}
	_ = p.do(adapter.Intent{Kind: adapter.ChangeRole, Actor: who, Target: o.user, Role: role}, "role")
}

// welcome makes a local occupant a participant, unless they have left the MIMI room on their own.
func (p *plumb) welcome(o *occupant) {
	u := o.user
	if u.IsZero() || o.ours || o.bridge || p.s.listed(o.jid.bare()) {
		return
	}
	p.mu.Lock()
	skip := p.left[u] || p.joining[u] || !p.active
	p.mu.Unlock()
	if skip {
		return
	}
	info, ok, err := p.s.lookup(p.uri)
	if err != nil || !ok {
		return
	}
	if _, isIn := participant(info, u); isIn || slices.Contains(info.Banned, u) {
		return
	}
	actor, ok := p.actor(info, nil)
	if !ok {
		return
	}
	p.mu.Lock()
	p.joining[u] = true
	p.mu.Unlock()
	if err := p.s.db.keepPlumbPerson(p.muc, u, plumbJoined); err != nil {
		p.s.log.Warn().Err(err).Msg("a participant of a plumbed room could not be noted")
	}
	if err := p.do(adapter.Intent{Kind: adapter.Invite, Actor: actor, Target: u}, "in"); err != nil {
		p.settled(u, false)
	}
}

// settled is called when it is known whether somebody is a participant now: then what they said meanwhile is taken in.
func (p *plumb) settled(u mimiuri.URI, in bool) {
	p.mu.Lock()
	delete(p.joining, u)
	list := p.held[u]
	delete(p.held, u)
	p.mu.Unlock()
	if in {
		for _, f := range list {
			p.s.work.post("user "+p.muc.String(), f)
		}
	}
}

// invite asks a local participant into the conference room (XEP-0249), if they are not there.
func (p *plumb) invite(u, by mimiuri.URI) {
	j, ok := p.s.ownJID(u)
	if !ok {
		return
	}
	p.mu.Lock()
	for _, o := range p.occupants {
		if o.user == u {
			p.mu.Unlock()
			return
		}
	}
	admin := p.bot.aff == "admin" || p.bot.aff == "owner"
	p.mu.Unlock()
	if admin {
		_ = p.admin("affiliation", "member", "jid", j.String(), "") // a room for members only lets them in by that
	}
	e := el("", "message", "id", "plumb-"+shortHash(p.muc.String()+u.String()), "from", p.s.users, "to", j.String()).add(
		textEl("", "body", textPlumbInvite(p, p.s.userJID(by))), el(nsDirect, "x", "jid", p.muc.String(), "reason", textPlumbMoved))
	p.s.reply(p.s.toUser, e)
}

// admin is a request of muc#admin by the bridge. It waits for the answer.
func (p *plumb) admin(what, value, by, whom, reason string) error {
	item := el(nsMUCAdmin, "item", what, value, by, whom)
	if reason != "" {
		item.add(textEl(nsMUCAdmin, "reason", reason))
	}
	_, err := p.s.request(p.s.toUser, el("", "iq", "type", "set", "from", p.bot.jid.String(), "to", p.muc.String()).add(el(nsMUCAdmin, "query").add(item)))
	if err != nil {
		p.s.log.Info().Err(err).Str("muc", p.muc.String()).Msg("the conference service did not do what the bridge asked for")
	}
	return err
}

// plumbChange carries over to the conference room who has come or gone, was banned, or may speak. It may be called again
// for the same event.
func (s *service) plumbChange(ev adapter.Event) {
	p := s.plumbOf(ev.Room)
	if p == nil {
		return
	}
	u := ev.User
	local := u.Domain == s.domain
	if ev.Kind == adapter.Joined && local {
		p.mu.Lock()
		delete(p.left, u)
		p.mu.Unlock()
		p.settled(u, true)
	}
	s.work.post("plumb "+p.muc.String(), func() { p.changedThere(ev, u, local) })
}

func (p *plumb) changedThere(ev adapter.Event, u mimiuri.URI, local bool) {
	s := p.s
	p.mu.Lock()
	var nick string
	role := ""
	for _, o := range p.occupants {
		if local && o.user == u {
			nick, role = o.nick, o.role
		}
	}
	admin := p.bot.aff == "admin" || p.bot.aff == "owner"
	moderator := p.bot.role == "moderator"
	p.mu.Unlock()
	switch ev.Kind {
	case adapter.Joined:
		if local {
			if nick == "" {
				p.invite(u, ev.Actor)
			}
			return
		}
		p.mu.Lock()
		delete(p.quiet, u)
		p.mu.Unlock()
		_ = s.db.dropPlumbPerson(p.muc, u)
	case adapter.Left:
		if !local {
			p.mu.Lock()
			pp := p.puppets[u]
			delete(p.puppets, u)
			p.mu.Unlock()
			if pp != nil && pp.in {
				s.reply(s.toUser, p.leaving(pp))
			}
			return
		}
		if ev.Actor == ev.User {
			p.mu.Lock()
			p.left[u] = true
			p.mu.Unlock()
			if err := s.db.keepPlumbPerson(p.muc, u, plumbLeft); err != nil {
				s.log.Warn().Err(err).Msg("who left could not be noted")
			}
			return
		}
		_ = s.db.dropPlumbPerson(p.muc, u)
		if nick != "" && moderator && !ev.Banned {
			_ = p.admin("role", "none", "nick", nick, ev.Reason)
		}
	case adapter.Banned, adapter.Unbanned:
		j, ok := s.ownJID(u)
		if !ok || !admin {
			return
		}
		aff := "none"
		if ev.Kind == adapter.Banned {
			aff = "outcast"
		}
		_ = p.admin("affiliation", aff, "jid", j.String(), ev.Reason)
	case adapter.RoleChanged:
		if !local || nick == "" || !moderator {
			return
		}
		info, ok, err := s.lookup(p.uri)
		if err != nil || !ok {
			return
		}
		now, isIn := participant(info, u)
		switch {
		case isIn && !now.Send && role == "participant":
			_ = p.admin("role", "visitor", "nick", nick, "")
		case isIn && now.Send && role == "visitor":
			_ = p.admin("role", "participant", "nick", nick, "")
		}
	case adapter.Metadata:
		info, ok, err := s.lookup(p.uri)
		if err != nil || !ok || info.Subject == "" {
			return
		}
		p.mu.Lock()
		told := p.told["subject "+info.Subject]
		p.told["subject "+info.Subject] = true
		p.mu.Unlock()
		if !told && readHint(ev.Origin).Kind != hintPlumb {
			s.reply(s.toUser, el("", "message", "type", "groupchat", "id", eventID("subject", ev), "from", p.bot.jid.String(), "to", p.muc.String()).add(textEl("", "subject", info.Subject)))
		}
	}
}

// plumbRefused notes what became of an intent of the plumbing.
func (s *service) plumbRefused(ev adapter.Event) {
	s.log.Info().Str("room", ev.Room.String()).Uint8("intent", uint8(ev.Intent)).Str("why", fault.Public(ev.Err)).Msg("something of a plumbed room was refused")
	if p := s.plumbOf(ev.Room); p != nil && ev.Intent == adapter.Invite {
		p.settled(ev.Target, false)
	}
}

// plumbsUp is called when the stream of the users domain has come up: the bridge enters its rooms again.
func (s *service) plumbsUp() {
	for _, p := range s.allPlumbs() {
		p.mu.Lock()
		active := p.active
		p.bot.in = false
		p.puppets = make(map[mimiuri.URI]*puppet)
		p.mu.Unlock()
		if active {
			s.work.post("plumb "+p.muc.String(), func() {
				ctx, cancel := s.timeout()
				defer cancel()
				if err := p.enter(ctx); err != nil {
					s.log.Warn().Err(err).Str("muc", p.muc.String()).Msg("the bridge could not enter a plumbed room; it tries again")
				}
			})
		}
	}
}

// tendPlumbs lets idle puppets leave, and the bridge enter again where it is not.
func (s *service) tendPlumbs() {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		for _, p := range s.allPlumbs() {
			s.work.post("plumb "+p.muc.String(), func() { p.tend(puppetIdle) })
		}
	}
}

func (p *plumb) tend(idle time.Duration) {
	p.mu.Lock()
	if !p.active {
		p.mu.Unlock()
		return
	}
	out := p.bot.in
	p.mu.Unlock()
	p.thin(maxPuppets, idle)
	if !out {
		ctx, cancel := p.s.timeout()
		defer cancel()
		if err := p.enter(ctx); err != nil {
			p.s.log.Warn().Err(err).Str("muc", p.muc.String()).Msg("the bridge could not enter a plumbed room; it tries again")
		}
	}
}

// thin lets puppets leave that have been idle, and those above the most that there may be.
func (p *plumb) thin(most int, idle time.Duration) {
	p.mu.Lock()
	var list []*puppet
	for _, pp := range p.puppets {
		if pp.in {
			list = append(list, pp)
		}
	}
	slices.SortFunc(list, func(a, b *puppet) int { return b.last.Compare(a.last) })
	var out []*element
	for i, pp := range list {
		if i >= most || time.Since(pp.last) > idle {
			out = append(out, p.leaving(pp))
			delete(p.puppets, pp.user)
		}
	}
	p.mu.Unlock()
	p.s.reply(p.s.toUser, out...)
}
