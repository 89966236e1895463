package xmpp

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Taking back what this adapter has put on the server: occupants of its rooms, its own occupants of chat rooms, contacts, what was kept in
// rosters and bookmarks (XEP-0356), subscriptions to lists.

// settingGone, of nobody, says that Uninstall has begun.
const settingGone = "uninstalled"

var _ adapter.Uninstaller = (*Adapter)(nil)

// loadGone reads, once at the start, whether Uninstall has begun.
func (s *service) loadGone(ctx context.Context) error {
	v, err := s.db.setting(ctx, mimiuri.URI{}, settingGone)
	if err != nil || v == "" {
		return err
	}
	s.vanish()
	s.log.Warn().Msg("this bridge is being uninstalled from its server; nothing is taken from it or shown any more")
	return nil
}

// vanish makes that nothing is shown or taken from now on.
func (s *service) vanish() {
	s.gone.Store(true)
	for _, p := range s.allPlumbs() {
		p.mu.Lock()
		p.active = false
		p.mu.Unlock()
	}
}

// stillTaken tells whether a stanza is taken although the bridge is being uninstalled: answers to its own requests, what the server grants, and
// who is in a chat room that is still to be left.
func (s *service) stillTaken(in *packet) bool {
	switch in.kind {
	case "iq":
		return in.typ == "result" || in.typ == "error"
	case "presence":
		return in.to.domain == s.users && s.plumbAt(in.from.bare()) != nil
	}
	return in.from.String() == s.local && (find(in.kids, nsPrivilege, "privilege") != nil || find(in.kids, nsPrivilege1, "privilege") != nil)
}

// behind runs f after what waits under a key, and waits for it.
func (s *service) behind(ctx context.Context, key string, f func() error) error {
	done := make(chan error, 1)
	if !s.work.post(key, func() {
		err := errPanicked
		defer func() { done <- err }()
		err = f()
	}) {
		return errBusy
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// told sends and waits until the server has handled it.
func (s *service) told(ctx context.Context, st *stream, list ...*element) error {
	if len(list) == 0 {
		return nil
	}
	m, err := st.send(list...)
	if err != nil {
		return err
	}
	return st.confirm(ctx, m)
}

// removal is one call of Uninstall.
type removal struct {
	s    *service
	dry  bool
	tell func(string)
}

func (r *removal) step(format string, args ...any) { r.tell(fmt.Sprintf(format, args...)) }

// Uninstall implements adapter.Uninstaller. What it takes back is found by the adapter's database, and goes from there once the server has
// handled it. Files that were put on the upload service stay until that deletes them: there is no request for it (XEP-0363).
func (a *Adapter) Uninstall(ctx context.Context, dryRun bool, progress func(step string)) error {
	s := a.cur.Load()
	if s == nil {
		return errNotRunning
	}
	s.uninstall.Lock()
	defer s.uninstall.Unlock()
	r := &removal{s: s, dry: dryRun, tell: progress}
	if !dryRun {
		if err := s.db.set(mimiuri.URI{}, settingGone, "yes"); err != nil {
			return fmt.Errorf("xmpp: uninstall: %w", err)
		}
		s.vanish()
		s.working.Lock() // what was being done is done
		s.working.Unlock()
		s.vanish() // also of what came to be meanwhile
		if !s.toRoom.isUp() || !s.toUser.isUp() {
			return errDown
		}
	}
	for _, part := range []func(context.Context) error{r.plumbs, r.rooms, r.people, r.lists, r.rest} {
		if err := part(ctx); err != nil {
			return fmt.Errorf("xmpp: uninstall: %w", err)
		}
	}
	return nil
}

// plumbs leaves the chat rooms of the conference service.
func (r *removal) plumbs(ctx context.Context) error {
	list := r.s.allPlumbs()
	slices.SortFunc(list, func(a, b *plumb) int { return strings.Compare(a.muc.String(), b.muc.String()) })
	for _, p := range list {
		p.mu.Lock()
		n, asked := 0, p.code != ""
		for _, pp := range p.puppets {
			if pp.in {
				n++
			}
		}
		p.mu.Unlock()
		if asked {
			r.step("chat room %s, for which an answer is waited for (%s): leave it", p.muc, p.uri)
		} else {
			r.step("chat room %s (%s): tell its people, leave it with %d others of the bridge", p.muc, p.uri, n)
		}
		if r.dry {
			continue
		}
		entered := false
		if err := r.s.behind(ctx, "plumb "+p.muc.String(), func() (err error) {
			entered, err = p.vanish(ctx, !asked)
			return err
		}); err != nil {
			return err
		}
		if !entered {
			r.step("chat room %s: the bridge could not enter it again to tell its people", p.muc)
		}
	}
	return nil
}

// vanish takes the bridge out of the chat room for good, and forgets it. entered is false if it was not in it, and not let in any more.
func (p *plumb) vanish(ctx context.Context, say bool) (entered bool, err error) {
	s := p.s
	// Who of ours is in the room from before a restart is seen from within.
	if err := p.enter(ctx); err != nil {
		var refused *stanzaError
		if !errors.As(err, &refused) || !s.toUser.isUp() {
			return false, err
		}
	}
	var out []*element
	p.mu.Lock()
	entered = p.bot.in
	if say && entered {
		out = append(out, p.saying(textUninstalled))
	}
	out = append(out, p.parting()...)
	p.mu.Unlock()
	if err := s.told(ctx, s.toUser, out...); err != nil {
		return entered, err
	}
	if err := s.db.dropPlumb(p.muc); err != nil {
		return entered, err
	}
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	s.forgetPlumb(p)
	return entered, nil
}

// rooms takes out who still occupies a room: as of one that is destroyed (XEP-0045 section 10.9), which makes clients forget it.
func (r *removal) rooms(ctx context.Context) error {
	rows, err := r.s.db.occupants(ctx, mimiuri.URI{}) // by room
	if err != nil {
		return err
	}
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n].room == rows[0].room {
			n++
		}
		r.step("room %s (%s): tell its %d occupants, take them out", r.s.roomJID(rows[0].room), rows[0].room, n)
		if !r.dry {
			if err := r.room(ctx, rows[:n]); err != nil {
				return err
			}
		}
		rows = rows[n:]
	}
	return nil
}

// room takes the occupants out of one room.
func (r *removal) room(ctx context.Context, rows []occupantRow) error {
	s, u := r.s, rows[0].room
	known, err := s.db.nicks(ctx, u)
	if err != nil {
		return err
	}
	nicks := make(map[mimiuri.URI]string, len(known))
	for _, row := range known {
		nicks[row.user] = row.nick
	}
	ro := s.room(u)
	defer s.release(ro)
	ro.mu.Lock()
	var out []*element
	for _, o := range rows {
		former := &member{user: o.user, jid: o.jid.bare(), nick: nicks[o.user], over: true, reason: textUninstalled}
		if former.nick == "" {
			former.nick = defaultNick(o.user, s.domain, func(string) bool { return false })
		}
		to := o.jid.String()
		e := ro.unavailable(former, nil, "110")
		e.child(nsMUCUser, "x").child(nsMUCUser, "item").set("jid", to)
		out = append(out,
			el("", "message", "type", "groupchat", "id", "say-"+shortHash(settingGone+to), "from", ro.jid.String(), "to", to).add(textEl("", "body", textUninstalled)),
			e.with(to))
	}
	ro.gen++
	ro.loaded, ro.gone = true, true
	ro.members, ro.nicks, ro.sessions = make(map[mimiuri.URI]*member), make(map[string]*member), make(map[string]*session)
	ro.order, ro.history = nil, nil
	err = ro.send(out...)
	m := ro.last
	ro.mu.Unlock()
	if err == nil {
		err = s.toRoom.confirm(ctx, m)
	}
	if err != nil {
		return err
	}
	return s.db.dropRoom(u)
}

// people takes back what is in the accounts of persons.
func (r *removal) people(ctx context.Context) error {
	users, err := r.s.db.tracedUsers(ctx)
	if err != nil || len(users) == 0 {
		return err
	}
	var list []traces
	contacts, bookmarks := 0, 0
	for _, u := range users {
		t, err := r.s.db.tracesOf(ctx, u)
		if err != nil {
			return err
		}
		list = append(list, t)
		contacts += len(t.contacts)
		bookmarks += len(t.bookmarks)
	}
	r.step("%d people: end %d subscriptions to contacts elsewhere, take back %d bookmarks", len(users), contacts, bookmarks)
	if r.dry {
		return nil
	}
	// What the server grants on a stream it says before it answers the first request.
	if _, err := r.s.request(r.s.toUser, el("", "iq", "type", "get", "from", r.s.users, "to", r.s.local).add(el(nsPing, "ping"))); err != nil && !r.s.toUser.isUp() {
		return errDown
	}
	refused := 0
	for i, t := range list {
		if i > 0 && i%500 == 0 {
			r.step("%d people are done", i)
		}
		if err := r.s.behind(ctx, "keep", func() error {
			n, err := r.s.takeBack(ctx, t)
			refused += n
			if err != nil {
				return err
			}
			return r.s.db.dropTraces(t.user)
		}); err != nil {
			return err
		}
	}
	if refused > 0 {
		r.step("%d contacts and bookmarks could not be taken back, the server does not grant it (XEP-0356); they lead nowhere, their owners delete them", refused)
	}
	return nil
}

// traces is what is in a person's account because of the bridge.
type traces struct {
	user      mimiuri.URI
	contacts  []mimiuri.URI
	bookmarks []string // addresses of rooms
}

func (t traces) empty() bool { return len(t.contacts)+len(t.bookmarks) == 0 }

// takeBack ends a person's subscriptions to contacts elsewhere, and takes contacts and bookmarks out of the account where the server grants it;
// refused is how many of these it was not granted for. An error means that it can be done later.
func (s *service) takeBack(ctx context.Context, t traces) (refused int, err error) {
	j, ok := s.ownJID(t.user)
	if !ok {
		return 0, nil
	}
	var out []*element
	for _, other := range t.contacts {
		from := s.userJID(other)
		out = append(out, el("", "presence", "type", "unavailable", "from", from.with(contactResource).String(), "to", j.String()))
		for _, typ := range []string{"unsubscribe", "unsubscribed"} {
			out = append(out, el("", "presence", "type", typ, "from", from.String(), "to", j.String()))
		}
	}
	if err := s.told(ctx, s.toUser, out...); err != nil {
		return 0, err
	}
	roster, pubsub := s.rights.has()
	granted := func(is bool, f func() error) error {
		if !is || j.domain != s.local {
			refused++
			return nil
		}
		err := f()
		if err != nil && !s.toUser.isUp() {
			return errDown
		}
		if err != nil {
			refused++
		}
		return ctx.Err()
	}
	for _, other := range t.contacts {
		if err := granted(maySet(roster), func() error {
			item := el(nsRoster, "item", "jid", s.userJID(other).String(), "subscription", "remove")
			_, err := s.request(s.toUser, el("", "iq", "type", "set", "from", s.users, "to", j.String()).add(el(nsRoster, "query").add(item)))
			return err
		}); err != nil {
			return refused, err
		}
	}
	for _, at := range t.bookmarks {
		if err := granted(maySet(pubsub), func() error {
			_, err := s.asUser(j, "set", retractBookmark(at))
			return err
		}); err != nil {
			return refused, err
		}
	}
	return refused, nil
}

// lists ends the subscriptions to lists of banned addresses.
func (r *removal) lists(ctx context.Context) error {
	for _, l := range r.s.cfg.lists {
		r.step("list %s: end the subscription", l.name())
		if r.dry {
			continue
		}
		var refused error
		if err := r.s.behind(ctx, "list "+l.name(), func() error {
			_, refused = r.s.request(r.s.toUser, el("", "iq", "type", "set", "from", r.s.users, "to", l.service).add(
				el(nsPubSub, "pubsub").add(el(nsPubSub, "unsubscribe", "node", l.node, "jid", r.s.users))))
			if refused != nil && !r.s.toUser.isUp() {
				return errDown
			}
			return nil
		}); err != nil {
			return err
		}
		if refused != nil {
			r.step("list %s: its service did not end the subscription (%s)", l.name(), publicText(refused))
		}
	}
	return nil
}

// rest empties this adapter's database.
func (r *removal) rest(context.Context) error {
	r.step("empty the adapter's database")
	if r.dry {
		return nil
	}
	defer r.s.db.forgetSettings()
	return r.s.db.write(func(tx *sql.Tx) error {
		for _, table := range []string{"alias", "nick", "occupant", "sent", "message", "read", "member", "file", "contact",
			"plumb", "plumb_message", "plumb_person", "plumb_id", "listed", "kept"} {
			if _, err := tx.Exec(`DELETE FROM xmpp_` + table); err != nil {
				return fmt.Errorf("empty the database: %w", err)
			}
		}
		_, err := tx.Exec(`DELETE FROM xmpp_setting WHERE name <> $1`, settingGone)
		return err
	})
}

// tracedUsers lists the local users in whose accounts there is something.
func (s *store) tracedUsers(ctx context.Context) (out []mimiuri.URI, err error) {
	list, err := s.texts(ctx, `SELECT person FROM xmpp_contact UNION SELECT person FROM xmpp_kept ORDER BY person`)
	for _, text := range list {
		if u, err := mimiuri.Parse(text); err == nil {
			out = append(out, u)
		}
	}
	return out, err
}

func (s *store) tracesOf(ctx context.Context, user mimiuri.URI) (t traces, err error) {
	t.user = user
	contacts, err1 := s.texts(ctx, `SELECT other FROM xmpp_contact WHERE person = $1 ORDER BY other`, user.String())
	kept, err2 := s.texts(ctx, `SELECT what FROM xmpp_kept WHERE person = $1 ORDER BY what`, user.String())
	for _, text := range contacts {
		if u, err := mimiuri.Parse(text); err == nil {
			t.contacts = append(t.contacts, u)
		}
	}
	for _, what := range kept {
		if at, ok := strings.CutPrefix(what, keptBookmark); ok {
			t.bookmarks = append(t.bookmarks, at)
		}
	}
	return t, errors.Join(err1, err2)
}

func (s *store) dropTraces(user mimiuri.URI) error {
	return s.write(func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM xmpp_contact WHERE person = $1`, user.String()); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM xmpp_kept WHERE person = $1`, user.String())
		return err
	})
}

// texts gives the one column of a query.
func (s *store) texts(ctx context.Context, query string, args ...any) (out []string, err error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, rows.Err()
}

// takeBackOf is takeBack for a user who is deleted. The erasure does not wait for it.
func (s *service) takeBackOf(ctx context.Context, user mimiuri.URI) error {
	t, err := s.db.tracesOf(ctx, user)
	if err != nil || t.empty() {
		return err
	}
	err = s.behind(ctx, "keep", func() error {
		_, err := s.takeBack(ctx, t)
		return err
	})
	if err != nil && ctx.Err() == nil {
		s.log.Warn().Err(err).Msg("the contacts and bookmarks of a user who is deleted could not be taken back")
	}
	return ctx.Err()
}
