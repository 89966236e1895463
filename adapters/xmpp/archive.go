package xmpp

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// The archive of a room (XEP-0313): the index is in this database, what was said is read from the provider, where it is sealed
// and ends with the retention. A participant sees it from their own first join on, or from its beginning where the
// room's policy gives newcomers its history. Archive IDs are stanza-ids: MIMI IDs.

const (
	nsMAM         = "urn:xmpp:mam:2"
	nsMAMExtended = "urn:xmpp:mam:2#extended"
)

// Limits of a query.
const (
	archivePage    = 50  // without a wish
	archiveMaxPage = 200 // at most
	archiveScan    = 20  // pages read for one page shown
)

// archiveQuery is what somebody wants of an archive.
type archiveQuery struct {
	since, until  time.Time
	after, before uint64 // sequence numbers, exclusive; 0: none
	with          string // occupant's nick, lower case; or a bare JID
	ids           []content.MessageID
	max           int
	last          bool // the page at the end
	flip          bool
}

// roomArchive answers a query. The messages go out before the answer, in one piece with it.
func (s *service) roomArchive(in *packet, q *element) (*element, error) {
	user, u, info, _, err := s.inRoom(in)
	if err != nil {
		return nil, err
	}
	if in.typ == "get" && q.Local == "query" {
		return el(nsMAM, "query").add(form("form", nsMAM,
			field("with", "jid-single", ""), field("start", "text-single", ""), field("end", "text-single", ""),
			field("before-id", "text-single", ""), field("after-id", "text-single", ""), field("ids", "list-multi", ""))), nil
	}
	r, _, err := s.at(u)
	defer s.release(r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.timeout()
	defer cancel()
	begin, err := s.db.joinedAt(ctx, u, user)
	if err != nil {
		return nil, err
	}
	if info.History {
		begin = 0
	}
	if q.Local == "metadata" {
		return s.archiveMetadata(ctx, r, user, info.History, begin)
	}
	query, err := s.readArchiveQuery(ctx, u, q)
	if err != nil {
		return nil, err
	}
	page, complete, err := s.archivePage(ctx, r, user, info.History, begin, query)
	if err != nil {
		return nil, err
	}
	out := make([]*element, 0, len(page)+1)
	for i, m := range page {
		if query.flip {
			m = page[len(page)-1-i]
		}
		out = append(out, el("", "message", "from", r.jid.String(), "to", in.from.String()).add(
			el(nsMAM, "result", "queryid", cut(q.attr("queryid"), maxStanzaID), "id", m.id.String()).add(
				el(nsForward, "forwarded").add(el(nsDelay, "delay", "stamp", stamp(m.at)), m.e.inClient()))))
	}
	set := el(nsRSM, "set")
	if len(page) > 0 {
		set.add(textEl(nsRSM, "first", page[0].id.String()), textEl(nsRSM, "last", page[len(page)-1].id.String()))
	}
	fin := el(nsMAM, "fin").add(set)
	if complete {
		fin.set("complete", "true")
	}
	out = append(out, el("", "iq", "type", "result", "id", in.id, "from", in.to.String(), "to", in.from.String()).add(fin))
	s.reply(s.toRoom, out...)
	return nil, errLater
}

// readArchiveQuery reads form and result set (XEP-0059). What is no number or time is left out of account, but an
// id that is not in the archive is an error: a page from the wrong place would pass for a gap.
func (s *service) readArchiveQuery(ctx context.Context, u mimiuri.URI, q *element) (a archiveQuery, err error) {
	a.max = archivePage
	a.flip = q.child(nsMAM, "flip-page") != nil
	place := func(id string) (uint64, error) {
		m, err := s.db.findMessage(ctx, u, id, mimiuri.URI{})
		if err != nil {
			return 0, err
		}
		if m == nil || m.mimi.String() != id {
			return 0, errNoSuchItem
		}
		return m.seq, nil
	}
	if x := q.child(nsData, "x"); x != nil {
		a.since, _ = time.Parse(time.RFC3339, formValue(x, "start"))
		a.until, _ = time.Parse(time.RFC3339, formValue(x, "end"))
		if with := formValue(x, "with"); with != "" {
			w, err := parseAddr(with)
			if err != nil {
				return a, errJIDArchive
			}
			switch {
			case w.domain == s.rooms && w.resource != "":
				a.with = nickKey(w.resource)
			case w.domain != s.rooms:
				a.with = w.bare().String()
			}
		}
		if id := formValue(x, "after-id"); id != "" {
			if a.after, err = place(id); err != nil {
				return a, err
			}
		}
		if id := formValue(x, "before-id"); id != "" {
			if a.before, err = place(id); err != nil {
				return a, err
			}
		}
		for _, v := range formValues(x, "ids") {
			n, err := place(v)
			if err != nil || n == 0 {
				return a, errNoSuchItem
			}
			if len(a.ids) >= archiveMaxPage {
				return a, errPageLarge
			}
			a.ids = append(a.ids, *idOf(v))
		}
	}
	set := q.child(nsRSM, "set")
	if set == nil {
		return a, nil
	}
	if m := set.child(nsRSM, "max"); m != nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(m.Text), 10, 31); err == nil {
			a.max = min(int(n), archiveMaxPage)
		}
	}
	if e := set.child(nsRSM, "after"); e != nil && e.Text != "" {
		n, err := place(strings.TrimSpace(e.Text))
		if err != nil {
			return a, err
		}
		a.after = max(a.after, n)
	}
	if e := set.child(nsRSM, "before"); e != nil {
		a.last = true
		if id := strings.TrimSpace(e.Text); id != "" {
			n, err := place(id)
			if err != nil {
				return a, err
			}
			if a.before == 0 || n < a.before {
				a.before = n
			}
		}
	}
	return a, nil
}

// archived is a message of a page.
type archived struct {
	id content.MessageID
	at time.Time
	e  *element
}

// archivePage reads a page, in order; complete tells that there is nothing behind it (before it, for the last page).
func (s *service) archivePage(ctx context.Context, r *room, user mimiuri.URI, history bool, begin uint64, q archiveQuery) (page []archived, complete bool, err error) {
	after, before := max(q.after, begin), q.before
	if q.max == 0 {
		return nil, false, nil
	}
	for range archiveScan {
		rows, err := s.db.page(ctx, r.uri, after, before, q, q.max+1)
		if err != nil {
			return nil, false, err
		}
		if len(rows) == 0 {
			return page, true, nil
		}
		list, err := s.archivedRows(ctx, r, user, history, rows, q.with)
		if err != nil {
			return nil, false, err
		}
		if q.last { // from the end on
			before = rows[0].seq
			page = append(list, page...)
			if n := len(page) - q.max; n > 0 {
				return page[n:], false, nil
			}
		} else {
			after = rows[len(rows)-1].seq
			page = append(page, list...)
			if len(page) > q.max {
				return page[:q.max], false, nil
			}
		}
		if len(rows) <= q.max {
			return page, true, nil
		}
	}
	return page, false, nil
}

// archivedRows gives those of the messages that the user may see and that are shown.
func (s *service) archivedRows(ctx context.Context, r *room, user mimiuri.URI, history bool, rows []messageRow, with string) (out []archived, err error) {
	var seqs []uint64
	for _, m := range rows {
		seqs = append(seqs, m.seq)
	}
	events, err := s.host.History(ctx, r.uri, seqs)
	if err != nil {
		return nil, err
	}
	byNumber := make(map[uint64]adapter.Event, len(events))
	for _, ev := range events {
		byNumber[ev.Seq] = ev
	}
	var forgotten []uint64
	for _, m := range rows {
		ev, ok := byNumber[m.seq]
		if !ok || ev.Content == nil {
			forgotten = append(forgotten, m.seq)
			continue
		}
		may := history
		for _, u := range ev.Local {
			may = may || u == user
		}
		if !may || expired(ev, time.Now()) {
			continue
		}
		e, err := r.archivedStanza(ctx, m, ev, with)
		if err != nil {
			return nil, err
		}
		if e != nil {
			out = append(out, archived{m.mimi, m.at, e})
		}
	}
	if len(forgotten) > 0 {
		if err := s.db.forgetBodies(r.uri, forgotten); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// archivedStanza shows a message of before: what was retracted as a tombstone (XEP-0424), a long one as its first part.
func (r *room) archivedStanza(ctx context.Context, m messageRow, ev adapter.Event, with string) (*element, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if with != "" {
		v := r.voice(ev.Sender)
		if nickKey(v.name) != with && r.s.userJID(ev.Sender).String() != with {
			return nil, nil
		}
	}
	if m.body == bodyGone && !m.isReaction() {
		k, err := r.s.classify(ctx, ev, mayDelete(r.info, ev.Sender))
		if err != nil {
			return nil, err
		}
		t := el(nsRetract, "retracted")
		by, err := r.s.db.retraction(ctx, r.uri, m.mimi)
		if err != nil {
			return nil, err
		}
		if by != nil {
			t.set("id", by.id).set("stamp", stamp(by.at))
			if by.sender != m.sender {
				v := r.voice(by.sender)
				t.add(el(nsModerate, "moderated", "by", v.from.String()).add(v.occupant))
			}
		}
		return r.voice(ev.Sender).stanza(k, "").add(t), nil
	}
	list, err := r.renderEvent(ctx, ev)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

func (s *service) archiveMetadata(ctx context.Context, r *room, user mimiuri.URI, history bool, begin uint64) (*element, error) {
	out := el(nsMAM, "metadata")
	for _, last := range []bool{false, true} {
		page, _, err := s.archivePage(ctx, r, user, history, begin, archiveQuery{max: 1, last: last})
		if err != nil {
			return nil, err
		}
		if len(page) == 1 {
			name := "start"
			if last {
				name = "end"
			}
			out.add(el(nsMAM, name, "id", page[0].id.String(), "timestamp", stamp(page[0].at)))
		}
	}
	return out, nil
}

// page reads a page of the index: those after and before two places, the last ones for a query from the end, in order.
func (s *store) page(ctx context.Context, room mimiuri.URI, after, before uint64, q archiveQuery, n int) ([]messageRow, error) {
	where, args := `room = $1 AND seq > $2 AND body <> -1`, []any{room.String(), after}
	add := func(cond string, v any) {
		args = append(args, v)
		where += " AND " + cond + " $" + strconv.Itoa(len(args))
	}
	if before > 0 {
		add("seq <", before)
	}
	if !q.since.IsZero() {
		add("at >=", q.since.UnixMilli())
	}
	if !q.until.IsZero() {
		add("at <=", q.until.UnixMilli())
	}
	if len(q.ids) > 0 {
		where += " AND mimi IN ("
		for i, id := range q.ids {
			args = append(args, id.String())
			if i > 0 {
				where += ", "
			}
			where += "$" + strconv.Itoa(len(args))
		}
		where += ")"
	}
	order := " ORDER BY seq LIMIT 0+"
	if q.last {
		order = " ORDER BY seq DESC LIMIT 0+"
	}
	args = append(args, n)
	list, err := s.messages(ctx, where+order+"$"+strconv.Itoa(len(args)), args...)
	if q.last {
		for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
			list[i], list[j] = list[j], list[i]
		}
	}
	return list, err
}

// retraction finds what retracted a message.
func (s *store) retraction(ctx context.Context, room mimiuri.URI, id content.MessageID) (*messageRow, error) {
	return oneMessage(s.db.QueryRowContext(ctx, `SELECT `+messageColumns+` FROM xmpp_message WHERE room = $1 AND target = $2 AND kind = $3 ORDER BY seq LIMIT 1`,
		room.String(), id.String(), int(content.KindDelete)))
}

// keepJoin notes the event with which a local user took part first; a later one changes nothing.
func (s *store) keepJoin(room, user mimiuri.URI, seq uint64) error {
	return s.exec(`INSERT INTO xmpp_member (room, person, seq) VALUES ($1, $2, $3) ON CONFLICT (room, person) DO NOTHING`, room.String(), user.String(), seq)
}

func (s *store) joinedAt(ctx context.Context, room, user mimiuri.URI) (seq uint64, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT seq FROM xmpp_member WHERE room = $1 AND person = $2`, room.String(), user.String()).Scan(&seq)
	if err == sql.ErrNoRows {
		err = nil
	}
	return seq, err
}
