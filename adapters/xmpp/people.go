package xmpp

import (
	"context"
	"crypto/sha1"
	"database/sql"
	"encoding/base64"
	"errors"
	"sort"
	"strings"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// A user elsewhere is a contact (RFC 6121), and a subscription is a consent:
//
//	the local user sends   what becomes of it
//	subscribe              the other is asked, unless they have agreed or been asked already
//	subscribed             the other may add the local user to rooms and write to them; also before they have asked
//	unsubscribed           the answer is no, or the consent is taken back
//	unsubscribe            the own question is dropped; the consent of the local user stays
//
// and the other way: a question comes as subscribe, an agreement as subscribed with a static presence, a refusal as
// unsubscribed. Removing a contact from the roster is unsubscribe and unsubscribed; it never ends a participation. The presence of
// local users goes nowhere.

// contactResource is the one resource that contacts are shown with.
const contactResource = "mimi"

const nsCaps = "http://jabber.org/protocol/caps" // XEP-0115

// contactFeatures are what an address of a user elsewhere can do.
var contactFeatures = []string{
	nsStates, nsCaps, nsDiscoInfo, nsDirect, nsAvatarMeta + "+notify", nsVCard, nsPing, nsReceipts, nsMarkers, nsCorrect, nsRetract,
	nsReactions, nsReply, nsEphemeral, nsOOB, nsSFS,
}

// capsVer is the verification string of contacts (XEP-0115 section 5).
var capsVer = func() string {
	list := append([]string(nil), contactFeatures...)
	sort.Strings(list)
	sum := sha1.Sum([]byte("account/registered//<" + strings.Join(list, "<") + "<"))
	return base64.StdEncoding.EncodeToString(sum[:])
}()

const capsNode = "https://github.com/mimibridge/mimibridge"

// contactPresence is the static presence of a user elsewhere; without to.
func (s *service) contactPresence(u mimiuri.URI) *element {
	e := el("", "presence", "from", s.userJID(u).with(contactResource).String())
	e.add(el(nsCaps, "c", "hash", "sha-1", "node", capsNode, "ver", capsVer))
	x := el(nsVCardX, "x")
	if hash := s.avatarOf(u); hash != "" {
		x.add(textEl(nsVCardX, "photo", hash))
	}
	return e.add(x)
}

// contactOf finds how a local user and another stand to each other, apart from single rooms.
func (s *service) contactOf(ctx context.Context, local, other mimiuri.URI) (adapter.Contact, error) {
	list, err := s.host.Contacts(ctx, local)
	if err != nil {
		return adapter.Contact{}, err
	}
	for _, c := range list {
		if c.User == other && c.Room.IsZero() {
			return c, nil
		}
	}
	return adapter.Contact{User: other}, nil
}

// contactSubscription handles subscription stanzas to a user elsewhere.
func (s *service) contactSubscription(in *packet, user mimiuri.URI) error {
	other, ok := s.contact(in.to.local)
	if !ok {
		return errNoContact
	}
	ctx, cancel := s.timeout()
	defer cancel()
	from, to := in.to.bare().String(), in.from.bare().String()
	answer := func(typ string) *element { return el("", "presence", "type", typ, "from", from, "to", to) }
	if in.typ == "subscribe" && s.listed(in.from.bare()) {
		return errListed
	}
	switch in.typ {
	case "subscribe":
		c, err := s.contactOf(ctx, user, other)
		if err != nil {
			return err
		}
		switch c.Granted {
		case adapter.ConsentGranted:
			if err := s.db.keepContact(user, other); err != nil {
				return err
			}
			s.reply(s.toUser, answer("subscribed"), s.contactPresence(other).with(to))
			return nil
		case adapter.ConsentAsking:
			return nil
		}
		return s.host.Consent(ctx, user, other, mimiuri.URI{}, adapter.AskConsent)
	case "subscribed":
		return s.host.Consent(ctx, user, other, mimiuri.URI{}, adapter.GrantConsent)
	case "unsubscribed":
		c, err := s.contactOf(ctx, user, other)
		if err != nil || c.Grants != adapter.ConsentGranted && c.Grants != adapter.ConsentAsked {
			return err // a client that removes a contact says so for whatever there was
		}
		return s.host.Consent(ctx, user, other, mimiuri.URI{}, adapter.RefuseConsent)
	case "unsubscribe":
		if err := s.db.dropContact(user, other); err != nil {
			return err
		}
		c, err := s.contactOf(ctx, user, other)
		if err != nil {
			return err
		}
		if c.Granted == adapter.ConsentAsking {
			if err := s.host.Consent(ctx, user, other, mimiuri.URI{}, adapter.ForgetConsent); err != nil {
				return err
			}
		}
		s.reply(s.toUser, answer("unsubscribed"), el("", "presence", "type", "unavailable", "from", s.userJID(other).with(contactResource).String(), "to", to))
	}
	return nil
}

// DeliverConsent implements adapter.ConsentAdapter.
func (a *Adapter) DeliverConsent(ctx context.Context, ev adapter.ConsentEvent) error {
	s := a.cur.Load()
	if s == nil {
		return errNotRunning
	}
	s.working.RLock()
	defer s.working.RUnlock()
	if s.gone.Load() {
		return nil
	}
	d, err := s.showConsent(ctx, ev)
	if err != nil {
		return err
	}
	if ev.Contact.Room.IsZero() {
		s.keepRoster(ev.Local, ev.Contact.User)
	}
	return s.confirm(ctx, d)
}

var _ adapter.ConsentAdapter = (*Adapter)(nil)

func (s *service) showConsent(ctx context.Context, ev adapter.ConsentEvent) (d delivery, err error) {
	local, ok := s.ownJID(ev.Local)
	if !ok {
		return d, nil
	}
	other := ev.Contact.User
	if ev.Asked && s.listed(s.userJID(other)) {
		return d, s.host.Consent(ctx, ev.Local, other, ev.Contact.Room, adapter.RefuseConsent)
	}
	from, to := s.userJID(other).String(), local.String()
	var out []*element
	if !ev.Contact.Room.IsZero() {
		// Subscriptions know no rooms: this is told in words, and answered in words.
		switch {
		case ev.Asked:
			out = append(out, s.gatewayLine(to, from+" asks to add you to the room "+s.roomJID(ev.Contact.Room).String()+". Answer with \"allow "+from+" "+s.roomJID(ev.Contact.Room).String()+"\" or \"refuse …\" in the same way."))
		case ev.Answered && ev.Contact.Granted == adapter.ConsentGranted:
			out = append(out, s.gatewayLine(to, from+" may be invited to the room "+s.roomJID(ev.Contact.Room).String()+" now."))
		case ev.Answered:
			out = append(out, s.gatewayLine(to, from+" does not want to be invited to the room "+s.roomJID(ev.Contact.Room).String()+"."))
		}
	} else {
		shown, err := s.db.hasContact(ctx, ev.Local, other)
		if err != nil {
			return d, err
		}
		if ev.Asked && ev.Contact.Grants == adapter.ConsentAsked {
			e := el("", "presence", "type", "subscribe", "from", from, "to", to)
			out = append(out, e.add(textEl("", "status", textAsk), textEl(nsNick, "nick", fullName(other))))
		}
		switch {
		case ev.Contact.Granted == adapter.ConsentGranted && (!shown || ev.Answered):
			if err := s.db.keepContact(ev.Local, other); err != nil {
				return d, err
			}
			out = append(out, el("", "presence", "type", "subscribed", "from", from, "to", to), s.contactPresence(other).with(to))
		case ev.Contact.Granted != adapter.ConsentGranted && ev.Contact.Granted != adapter.ConsentAsking && (shown || ev.Answered):
			if err := s.db.dropContact(ev.Local, other); err != nil {
				return d, err
			}
			out = append(out, el("", "presence", "type", "unsubscribed", "from", from, "to", to),
				el("", "presence", "type", "unavailable", "from", s.userJID(other).with(contactResource).String(), "to", to))
		}
	}
	if len(out) > 0 {
		d.user, err = s.toUser.send(out...)
	}
	return d, err
}

// gatewayLine is a line of the gateway to somebody.
func (s *service) gatewayLine(to, text string) *element {
	return el("", "message", "type", "chat", "from", s.users, "to", to).add(textEl("", "body", text))
}

// usersUp is called when the stream of the users domain has come up: the contacts are there again.
func (s *service) usersUp() {
	s.rights.reset()
	s.plumbsUp()
	if s.gone.Load() {
		return
	}
	s.followLists()
	s.work.post("contacts", func() {
		ctx, cancel := s.timeout()
		defer cancel()
		list, err := s.db.contacts(ctx)
		if err != nil {
			s.log.Warn().Err(err).Msg("the contacts could not be read")
			return
		}
		for _, c := range list {
			if j, ok := s.ownJID(c[0]); ok {
				s.reply(s.toUser, s.contactPresence(c[1]).with(j.String()))
			}
		}
	})
}

func (s *store) keepContact(local, other mimiuri.URI) error {
	return s.exec(`INSERT INTO xmpp_contact (person, other) VALUES ($1, $2) ON CONFLICT (person, other) DO NOTHING`, local.String(), other.String())
}

func (s *store) dropContact(local, other mimiuri.URI) error {
	return s.exec(`DELETE FROM xmpp_contact WHERE person = $1 AND other = $2`, local.String(), other.String())
}

func (s *store) hasContact(ctx context.Context, local, other mimiuri.URI) (bool, error) {
	var n int
	err := s.db.QueryRowContext(ctx, `SELECT 1 FROM xmpp_contact WHERE person = $1 AND other = $2`, local.String(), other.String()).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

func (s *store) contacts(ctx context.Context) (out [][2]mimiuri.URI, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT person, other FROM xmpp_contact ORDER BY person, other LIMIT 20000`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var a, b string
		if err := rows.Scan(&a, &b); err != nil {
			return nil, err
		}
		u, err1 := mimiuri.Parse(a)
		v, err2 := mimiuri.Parse(b)
		if err1 == nil && err2 == nil {
			out = append(out, [2]mimiuri.URI{u, v})
		}
	}
	return out, rows.Err()
}

// Searching (XEP-0055) asks a provider for people by what they let themselves be found by.

const nsSearch = "jabber:iq:search"

// searchFields are by what people can be looked for.
var searchFields = []struct{ name, label string }{
	{"handle", "Handle"}, {"nick", "Nick"}, {"fullName", "Full name"}, {"email", "Email address"}, {"phone", "Phone number"},
}

func (s *service) search(in *packet, q *element) (*element, error) {
	if in.to.local != "" {
		return nil, errService
	}
	user, err := s.sender(in)
	if err != nil {
		return nil, err
	}
	if in.typ == "get" {
		return el(nsSearch, "query").add(
			textEl(nsSearch, "instructions", textSearch),
			form("form", nsSearch, append([]*element{field("domain", "text-single", "Their provider's domain")}, fieldsOf()...)...)), nil
	}
	x := q.child(nsData, "x")
	domain := formValue(x, "domain")
	var found []adapter.Profile
	asked := false
	for _, f := range searchFields {
		v := formValue(x, f.name)
		if v == "" {
			continue
		}
		asked = true
		ctx, cancel := s.timeout()
		list, err := s.host.Find(ctx, user, domain, f.name, cut(v, 256))
		cancel()
		if err != nil {
			return nil, err
		}
		found = append(found, list...)
	}
	if !asked {
		return nil, errSearch
	}
	out := form("result", nsSearch)
	out.add(el(nsData, "reported").add(field("jid", "jid-single", "Address"), field("name", "text-single", "Name")))
	seen := map[mimiuri.URI]bool{}
	for _, p := range found {
		if !seen[p.User] && len(seen) < 100 {
			seen[p.User] = true
			out.add(el(nsData, "item").add(field("jid", "", "", s.userJID(p.User).String()), field("name", "", "", cut(p.Name, 500))))
		}
	}
	return el(nsSearch, "query").add(out), nil
}

func fieldsOf() (out []*element) {
	for _, f := range searchFields {
		out = append(out, field(f.name, "text-single", f.label))
	}
	return out
}

// reported reads a report of abuse (XEP-0377) that was forwarded to the gateway or a contact: the message by its stanza-id.
func (s *service) reported(in *packet, user mimiuri.URI, rep *element) error {
	ctx, cancel := s.timeout()
	defer cancel()
	n := 0
	for _, k := range rep.Kids {
		if k.Space != nsSID || k.Local != "stanza-id" {
			continue
		}
		a, err := parseAddr(k.attr("by"))
		if err != nil || a.domain != s.rooms {
			continue
		}
		u, ok := s.addresses.room(a.local)
		id := idOf(k.attr("id"))
		if !ok || id == nil {
			return errReportWhat
		}
		if err := s.host.Report(ctx, user, u, *id, strings.TrimPrefix(rep.attr("reason"), nsReporting+":"), cut(rep.text(nsReporting, "text"), 1000)); err != nil {
			return err
		}
		if n++; n >= 10 {
			break
		}
	}
	if n == 0 {
		return errReportWhat
	}
	s.reply(s.toUser, s.gatewayLine(in.from.String(), textReported))
	return nil
}

const nsReporting = "urn:xmpp:reporting:1" // XEP-0377

// publicText is what a person may read of an error.
func publicText(err error) string {
	var e *stanzaError
	if errors.As(err, &e) && e.Text != "" {
		return e.Text
	}
	return fault.Public(err)
}
