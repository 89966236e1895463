package xmpp

import (
	"context"
	"database/sql"
	"errors"
	"sync"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// What a server may let the component do for its users (XEP-0356), all of it optional: with the privilege roster, contacts elsewhere are
// put into rosters as consents change, also where the person has answered by a command; with the privilege iq for pubsub, rooms in which a
// person takes part are among their bookmarks (XEP-0402). What a person has there themselves is left as it is: an item keeps its name
// and groups, a bookmark that is there already is not touched, and one that the person has deleted does not come again.

const (
	nsPrivilege  = "urn:xmpp:privilege:2"
	nsPrivilege1 = "urn:xmpp:privilege:1" // of ejabberd up to 23.04; the same for rosters
	nsRoster     = "jabber:iq:roster"
	nsBookmarks  = "urn:xmpp:bookmarks:1"
)

// keptBookmark begins the note that the bookmark of a room, whose address follows, was put into a person's account.
const keptBookmark = "bookmark "

// privileges are those that the server has granted on the stream of the users domain.
type privileges struct {
	mu     sync.Mutex
	roster string // none (""), get, set, both
	pubsub string // of iq, for pubsub
}

func (p *privileges) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roster, p.pubsub = "", ""
}

func (p *privileges) has() (roster, pubsub string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.roster, p.pubsub
}

func mayGet(typ string) bool { return typ == "get" || typ == "both" }
func maySet(typ string) bool { return typ == "set" || typ == "both" }

// granted takes the server's announcement of privileges; false for any other message. Only the server of the local domain
// can grant something.
func (s *service) granted(in *packet) bool {
	e := find(in.kids, nsPrivilege, "privilege")
	if e == nil {
		e = find(in.kids, nsPrivilege1, "privilege")
	}
	if e == nil {
		return false
	}
	if in.from.String() != s.local || in.typ == "error" {
		return true
	}
	s.rights.mu.Lock()
	for _, k := range e.Kids {
		if k.Local != "perm" {
			continue
		}
		switch k.attr("access") {
		case "roster":
			s.rights.roster = k.attr("type")
		case "iq":
			for _, n := range k.Kids {
				if n.Local == "namespace" && n.attr("ns") == nsPubSub {
					s.rights.pubsub = n.attr("type")
				}
			}
		}
	}
	roster, pubsub := s.rights.roster, s.rights.pubsub
	s.rights.mu.Unlock()
	s.log.Info().Str("roster", roster).Str("pubsub", pubsub).Msg("the server grants privileges")
	s.work.post("keep", s.keepAll)
	return true
}

// keepAll brings rosters and bookmarks in step with what is the case.
func (s *service) keepAll() {
	if s.gone.Load() {
		return
	}
	roster, pubsub := s.rights.has()
	ctx, cancel := s.timeout()
	defer cancel()
	if maySet(roster) {
		list, err := s.db.contacts(ctx)
		if err != nil {
			s.log.Warn().Err(err).Msg("the contacts could not be read")
		}
		for _, c := range list {
			s.work.post("keep", func() { s.rosterItem(c[0], c[1]) })
		}
	}
	if maySet(pubsub) {
		rooms, err := s.host.Rooms(ctx)
		if err != nil {
			s.log.Warn().Err(err).Msg("the rooms could not be read")
		}
		for _, u := range rooms {
			info, ok, err := s.lookup(u)
			if err != nil || !ok || info.Direct {
				continue
			}
			for _, m := range info.Participants {
				if m.User.Domain == s.domain {
					s.work.post("keep", func() { s.bookmark(u, m.User) })
				}
			}
		}
	}
}

// keepRoster brings the item of a contact in step, some time soon.
func (s *service) keepRoster(local, other mimiuri.URI) {
	if roster, _ := s.rights.has(); maySet(roster) {
		s.work.post("keep", func() { s.rosterItem(local, other) })
	}
}

// rosterItem sets the subscription of a contact to what the consents of both sides are. Someone whom the person has put out of
// their roster is not put back: what they undo themselves ends both consents first.
func (s *service) rosterItem(local, other mimiuri.URI) {
	j, ok := s.ownJID(local)
	roster, _ := s.rights.has()
	if !ok || j.domain != s.local || !maySet(roster) || s.gone.Load() {
		return
	}
	ctx, cancel := s.timeout()
	defer cancel()
	c, err := s.contactOf(ctx, local, other)
	if err != nil {
		return
	}
	to, err := s.db.hasContact(ctx, local, other)
	if err != nil {
		return
	}
	to = to && c.Granted == adapter.ConsentGranted
	from := c.Grants == adapter.ConsentGranted
	sub := "none"
	switch {
	case to && from:
		sub = "both"
	case to:
		sub = "to"
	case from:
		sub = "from"
	}
	item := el(nsRoster, "item", "jid", s.userJID(other).String(), "subscription", sub)
	known := false
	if mayGet(roster) {
		result, err := s.request(s.toUser, el("", "iq", "type", "get", "from", s.users, "to", j.String()).add(el(nsRoster, "query")))
		if err != nil || result == nil {
			s.log.Info().Err(err).Msg("a roster could not be read")
			return
		}
		for _, k := range result.Kids {
			if k.Local == "item" && k.attr("jid") == item.attr("jid") {
				known = true
				if k.attr("subscription") == sub {
					return
				}
				item.set("name", k.attr("name"))
				for _, g := range k.Kids {
					if g.Local == "group" {
						item.add(g)
					}
				}
			}
		}
	}
	if !known && sub == "none" {
		return
	}
	if !known {
		if p, _, err := s.profileOf(ctx, other); err == nil {
			item.set("name", cut(p.Name, 200))
		}
	}
	if _, err := s.request(s.toUser, el("", "iq", "type", "set", "from", s.users, "to", j.String()).add(el(nsRoster, "query").add(item))); err != nil {
		s.log.Info().Err(err).Msg("a contact could not be put into a roster")
		return
	}
	if to {
		s.reply(s.toUser, s.contactPresence(other).with(j.String()))
	}
}

// keepBookmark brings a person's bookmarks in step with an event, some time soon.
func (s *service) keepBookmark(ev adapter.Event) {
	if ev.Kind != adapter.Joined && ev.Kind != adapter.Left || ev.User.Domain != s.domain {
		return
	}
	if _, pubsub := s.rights.has(); maySet(pubsub) {
		s.work.post("keep", func() { s.bookmark(ev.Room, ev.User) })
	}
}

// bookmark publishes or retracts the bookmark of a room, by whether the person takes part in it.
func (s *service) bookmark(u, user mimiuri.URI) {
	j, ok := s.ownJID(user)
	_, pubsub := s.rights.has()
	if !ok || j.domain != s.local || !maySet(pubsub) || s.gone.Load() {
		return
	}
	info, ok, err := s.lookup(u)
	if err != nil || info.Direct {
		return
	}
	_, isIn := participant(info, user)
	isIn = isIn && ok && s.plumbOf(u) == nil // a plumbed room is where the person has joined it themselves
	ctx, cancel := s.timeout()
	defer cancel()
	at := s.roomJID(u).String()
	kept, err := s.db.isKept(ctx, user, keptBookmark+at)
	if err != nil || isIn == kept {
		return
	}
	var payload *element
	if isIn {
		if mayGet(pubsub) { // one of their own is left as it is
			result, err := s.asUser(j, "get", el(nsPubSub, "pubsub").add(el(nsPubSub, "items", "node", nsBookmarks).add(el(nsPubSub, "item", "id", at))))
			if err == nil && result.child(nsPubSub, "items").child(nsPubSub, "item") != nil {
				_ = s.db.keep(user, keptBookmark+at)
				return
			}
		}
		conf := el(nsBookmarks, "conference", "name", cut(roomName(info), 500), "autojoin", "true")
		r := s.room(u)
		r.mu.Lock()
		if m := r.members[user]; m != nil {
			conf.add(textEl(nsBookmarks, "nick", m.nick))
		}
		r.mu.Unlock()
		s.release(r)
		option := func(name, value string) *element { return field(name, "", "", value) }
		payload = el(nsPubSub, "pubsub").add(
			el(nsPubSub, "publish", "node", nsBookmarks).add(el(nsPubSub, "item", "id", at).add(conf)),
			el(nsPubSub, "publish-options").add(form("submit", nsPubSub+"#publish-options", option("pubsub#persist_items", "true"),
				option("pubsub#max_items", "max"), option("pubsub#send_last_published_item", "never"), option("pubsub#access_model", "whitelist"))))
	} else {
		payload = retractBookmark(at)
	}
	if _, err := s.asUser(j, "set", payload); err != nil {
		s.log.Info().Err(err).Msg("a bookmark could not be kept")
		if isIn {
			return
		}
	}
	if isIn {
		err = s.db.keep(user, keptBookmark+at)
	} else {
		err = s.db.unkeep(user, keptBookmark+at)
	}
	if err != nil {
		s.log.Warn().Err(err).Msg("a bookmark could not be noted")
	}
}

func retractBookmark(at string) *element {
	return el(nsPubSub, "pubsub").add(el(nsPubSub, "retract", "node", nsBookmarks, "notify", "true").add(el(nsPubSub, "item", "id", at)))
}

// asUser sends a request to a person's own account in their name, and gives the payload of the answer.
func (s *service) asUser(j addr, typ string, payload *element) (*element, error) {
	inner := &element{Space: nsClient, Local: "iq", Attr: []attr{{"type", typ}, {"id", "kept-" + shortHash(payload.String())}, {"from", j.String()}, {"to", j.String()}}, Kids: []*element{payload}}
	result, err := s.request(s.toUser, el("", "iq", "type", typ, "from", s.users, "to", j.String()).add(el(nsPrivilege, "privileged_iq").add(inner)))
	if err != nil {
		return nil, err
	}
	f := result.child(nsForward, "forwarded")
	if f == nil {
		return nil, errService
	}
	for _, k := range f.Kids {
		if k.Local != "iq" {
			continue
		}
		if k.attr("type") != "result" {
			return nil, errAnswered(cut(conditionOf(k.Kids), 100))
		}
		if len(k.Kids) > 0 {
			return k.Kids[0], nil
		}
		return nil, nil
	}
	return nil, errService
}

// isKept, keep and unkeep note what was put into a person's account, so that it is put there once.
func (s *store) isKept(ctx context.Context, user mimiuri.URI, what string) (bool, error) {
	var n int
	err := s.db.QueryRowContext(ctx, `SELECT 1 FROM xmpp_kept WHERE person = $1 AND what = $2`, user.String(), what).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

func (s *store) keep(user mimiuri.URI, what string) error {
	return s.exec(`INSERT INTO xmpp_kept (person, what) VALUES ($1, $2) ON CONFLICT (person, what) DO NOTHING`, user.String(), what)
}

func (s *store) unkeep(user mimiuri.URI, what string) error {
	return s.exec(`DELETE FROM xmpp_kept WHERE person = $1 AND what = $2`, user.String(), what)
}
