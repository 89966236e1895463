package matrix

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// store is this adapter's part of Host.DB: what has come in, which Matrix room is which MIMI room, who is in it, and
// which event is which message. All methods may be called concurrently.
type store struct {
	sql *sql.DB

	mu      sync.Mutex
	queue   []*pendingWrite
	writing bool

	posMu sync.Mutex
	pos   int64 // last position given to an incoming event
}

// The schema, one element a version. A version is never changed once released; a new one is appended.
//
// Times are Unix ms. Bodies of events are kept only until they are carried out.
var schema = []string{`
CREATE TABLE matrix_event (
	event_id TEXT NOT NULL PRIMARY KEY,
	room_id  TEXT NOT NULL,
	pos      BIGINT NOT NULL,   -- order of arrival
	sub      BIGINT NOT NULL,   -- order among events that were fetched because of the event at pos
	received BIGINT NOT NULL,
	done     SMALLINT NOT NULL, -- 1 carried out, 2 given up, 3 waits until its room is admitted, 4 handed over
	body     BLOB               -- the event as it came; NULL for 1 and 2
);
CREATE INDEX matrix_event_pending ON matrix_event (room_id, pos, sub) WHERE done = 0;
CREATE INDEX matrix_event_received ON matrix_event (received);

CREATE TABLE matrix_ghost (
	user_id    TEXT NOT NULL PRIMARY KEY,
	uri        TEXT NOT NULL UNIQUE,
	registered SMALLINT NOT NULL,  -- 1: the account exists and has its name
	name       TEXT NOT NULL
);

CREATE TABLE matrix_portal (
	room_uri TEXT NOT NULL PRIMARY KEY,
	room_id  TEXT NOT NULL UNIQUE,
	own      SMALLINT NOT NULL, -- 1: the bot made it
	admitted SMALLINT NOT NULL, -- 1: the homeserver sends its events, and what came before was fetched
	name     TEXT NOT NULL,     -- m.room.name as last set by the bot
	closing  SMALLINT NOT NULL, -- 1: bot and ghosts are leaving it for good
	creator  TEXT NOT NULL,     -- if not own: the local user who made the MIMI room, and the event
	creation TEXT NOT NULL      -- by which they did
);

CREATE TABLE matrix_member (
	room_id    TEXT NOT NULL,
	user_id    TEXT NOT NULL,
	membership TEXT NOT NULL,
	sender     TEXT NOT NULL,   -- who made it so: the inviter
	event_id   TEXT NOT NULL,   -- '' if this adapter did it and has not seen the event yet
	before     TEXT NOT NULL,   -- membership and
	before_by  TEXT NOT NULL,   -- sender before that event
	invited    TEXT NOT NULL,   -- the last event that was an invitation, '' for none
	PRIMARY KEY (room_id, user_id)
);

CREATE TABLE matrix_message (
	room_uri   TEXT NOT NULL,
	message_id BLOB NOT NULL,
	part       SMALLINT NOT NULL, -- a long text takes several events: 0, 1, 2 …
	event_id   TEXT NOT NULL,
	PRIMARY KEY (room_uri, message_id, part)
);
CREATE INDEX matrix_message_event ON matrix_message (event_id);
`, `
-- What has to be known of a message that others refer to.
CREATE TABLE matrix_content (
	room_uri   TEXT NOT NULL,
	message_id BLOB NOT NULL,
	seq        BIGINT NOT NULL,   -- of its event
	sender     TEXT NOT NULL,
	kind       SMALLINT NOT NULL, -- content.Kind
	reply      BLOB NOT NULL,     -- inReplyTo, empty for none
	topic      BLOB NOT NULL,     -- topicId, empty for none
	target     BLOB NOT NULL,     -- what it edits or reacts to, empty for nothing
	PRIMARY KEY (room_uri, message_id)
);
CREATE INDEX matrix_content_seq ON matrix_content (room_uri, seq);
CREATE INDEX matrix_content_target ON matrix_content (room_uri, target) WHERE length(target) > 0;

-- Events whose message the MIMI room did not take.
CREATE TABLE matrix_refused (event_id TEXT NOT NULL PRIMARY KEY, at BIGINT NOT NULL);

-- Which event is the root of the thread that shows a topic.
CREATE TABLE matrix_topic (
	room_uri TEXT NOT NULL,
	topic    BLOB NOT NULL,
	event_id TEXT NOT NULL,
	PRIMARY KEY (room_uri, topic)
);
CREATE INDEX matrix_topic_event ON matrix_topic (room_uri, event_id);

-- Events that are to be redacted.
CREATE TABLE matrix_expiry (
	event_id TEXT NOT NULL PRIMARY KEY,
	room_id  TEXT NOT NULL,
	room_uri TEXT NOT NULL,
	seq      BIGINT NOT NULL,
	deadline BIGINT NOT NULL,   -- Unix ms
	after    BIGINT NOT NULL    -- ms from reading on; 0 if the deadline does not depend on reading any more
);
CREATE INDEX matrix_expiry_deadline ON matrix_expiry (deadline);

-- How far a local user's reports of reading have gone.
CREATE TABLE matrix_read (room_uri TEXT NOT NULL, uri TEXT NOT NULL, seq BIGINT NOT NULL, PRIMARY KEY (room_uri, uri));

CREATE TABLE matrix_setting (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);
`, `
ALTER TABLE matrix_content ADD COLUMN at BIGINT NOT NULL DEFAULT 0; -- when it was stored; 0 before this version
CREATE INDEX matrix_content_at ON matrix_content (at);
`}

// open brings the schema up to date and reads the last position.
func openStore(ctx context.Context, db *sql.DB) (*store, error) {
	s := &store{sql: db}
	if err := s.migrate(ctx); err != nil {
		return nil, fmt.Errorf("matrix: open the database: %w", err)
	}
	err := db.QueryRowContext(ctx, `SELECT COALESCE(MAX(pos), 0) FROM matrix_event`).Scan(&s.pos)
	if err != nil {
		return nil, fmt.Errorf("matrix: open the database: %w", err)
	}
	return s, nil
}

func (s *store) migrate(ctx context.Context) error {
	if _, err := s.sql.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS matrix_schema (version BIGINT NOT NULL, oldest_reader BIGINT NOT NULL)`); err != nil {
		return err
	}
	return s.write(func(tx *sql.Tx) error {
		var version, oldest int
		err := tx.QueryRow(`SELECT version, oldest_reader FROM matrix_schema`).Scan(&version, &oldest)
		if errors.Is(err, sql.ErrNoRows) {
			_, err = tx.Exec(`INSERT INTO matrix_schema (version, oldest_reader) VALUES (0, 1)`)
		}
		if err != nil {
			return err
		}
		if oldest > len(schema) {
			return fmt.Errorf("it was written by a newer version (schema %d, this is %d): update mimibridge", version, len(schema))
		}
		if version >= len(schema) {
			return nil
		}
		for _, step := range schema[version:] {
			if _, err := tx.Exec(step); err != nil {
				return err
			}
		}
		_, err = tx.Exec(`UPDATE matrix_schema SET version = $1, oldest_reader = $2`, len(schema), 1)
		return err
	})
}

type pendingWrite struct {
	f    func(*sql.Tx) error
	done chan error
}

// write runs f in a transaction and returns once it is on disk. Writes that come while another is being synced share
// the next sync, each in a savepoint of its own, so that one failing does not undo the others.
func (s *store) write(f func(*sql.Tx) error) error {
	w := &pendingWrite{f: f, done: make(chan error, 1)}
	s.mu.Lock()
	s.queue = append(s.queue, w)
	lead := !s.writing
	s.writing = true
	s.mu.Unlock()
	if lead {
		s.lead()
	}
	return <-w.done
}

// lead commits what is queued; what came meanwhile is left to another goroutine, so that no caller works for
// the others for ever.
func (s *store) lead() {
	s.mu.Lock()
	batch := s.queue
	s.queue = nil
	s.mu.Unlock()
	s.commit(batch)
	s.mu.Lock()
	s.writing = len(s.queue) > 0
	again := s.writing
	s.mu.Unlock()
	if again {
		go s.lead()
	}
}

func (s *store) commit(batch []*pendingWrite) {
	results := make([]error, len(batch))
	err := func() error {
		tx, err := s.sql.Begin()
		if err != nil {
			return err
		}
		defer tx.Rollback()
		for i, w := range batch {
			if _, err := tx.Exec(`SAVEPOINT one`); err != nil {
				return err
			}
			if results[i] = guarded(w.f, tx); results[i] != nil {
				if _, err := tx.Exec(`ROLLBACK TO one`); err != nil {
					return err
				}
			}
			if _, err := tx.Exec(`RELEASE one`); err != nil {
				return err
			}
		}
		return tx.Commit()
	}()
	for i, w := range batch {
		if err != nil {
			results[i] = fmt.Errorf("matrix: write to the database: %w", err)
		}
		w.done <- results[i]
	}
}

func guarded(f func(*sql.Tx) error, tx *sql.Tx) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("matrix: write to the database: panic: %v\n%s", r, debug.Stack())
		}
	}()
	return f(tx)
}

// incoming is an event as stored.
type incoming struct {
	id   id.EventID
	room id.RoomID
	pos  int64
	body []byte
}

// keep stores new events in the order given and returns the rooms that have work now. Events that were seen before,
// done or not, are passed over.
func (s *store) keep(events []incoming) ([]id.RoomID, error) {
	var rooms []id.RoomID
	now := time.Now().UnixMilli()
	// The lock makes order of position the order of transactions.
	s.posMu.Lock()
	defer s.posMu.Unlock()
	var pos int64
	err := s.write(func(tx *sql.Tx) error {
		rooms, pos = nil, s.pos
		seen := map[id.RoomID]bool{}
		for _, ev := range events {
			res, err := tx.Exec(`INSERT INTO matrix_event (event_id, room_id, pos, sub, received, done, body)
				VALUES ($1, $2, $3, 0, $4, 0, $5) ON CONFLICT (event_id) DO NOTHING`, string(ev.id), string(ev.room), pos+1, now, ev.body)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil {
				return err
			} else if n == 0 {
				continue
			}
			pos++
			if !seen[ev.room] {
				seen[ev.room] = true
				rooms = append(rooms, ev.room)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("matrix: store events: %w", err)
	}
	s.pos = pos
	return rooms, nil
}

// pending is the next event of a room to be carried out.
func (s *store) pending(ctx context.Context, room id.RoomID) (ev incoming, ok bool, err error) {
	err = s.sql.QueryRowContext(ctx, `SELECT event_id, room_id, pos, body FROM matrix_event
		WHERE room_id = $1 AND done = 0 ORDER BY pos, sub LIMIT 1`, string(room)).Scan((*string)(&ev.id), (*string)(&ev.room), &ev.pos, &ev.body)
	if errors.Is(err, sql.ErrNoRows) {
		return ev, false, nil
	}
	if err != nil {
		return ev, false, fmt.Errorf("matrix: read the next event: %w", err)
	}
	return ev, true, nil
}

// pendingRooms are the rooms with events to be carried out.
func (s *store) pendingRooms(ctx context.Context) ([]id.RoomID, error) {
	return list[id.RoomID](ctx, s.sql, `SELECT DISTINCT room_id FROM matrix_event WHERE done = 0`)
}

func list[T ~string](ctx context.Context, db *sql.DB, query string, args ...any) ([]T, error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("matrix: read the database: %w", err)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			return nil, fmt.Errorf("matrix: read the database: %w", err)
		}
		out = append(out, T(v))
	}
	return out, rows.Err()
}

const (
	stateDone    = 1
	stateGivenUp = 2
	stateParked  = 3
	// stateHanded: carried out by an intent to send a message. What became of it is in matrix_message or matrix_refused.
	stateHanded = 4
)

// finish marks an event as carried out (or given up), together with what is to be remembered because of it.
func (s *store) finish(ev id.EventID, state int, also ...func(*sql.Tx) error) error {
	return s.write(func(tx *sql.Tx) error {
		for _, f := range also {
			if err := f(tx); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`UPDATE matrix_event SET done = $2, body = NULL WHERE event_id = $1`, string(ev), state)
		return err
	})
}

// park puts an event aside until its room is admitted. ok is false if it has been meanwhile.
func (s *store) park(ev incoming) (ok bool, err error) {
	err = s.write(func(tx *sql.Tx) error {
		res, err := tx.Exec(`UPDATE matrix_event SET done = $3 WHERE event_id = $1 AND EXISTS (SELECT 1 FROM matrix_portal WHERE room_id = $2 AND admitted = 0)`,
			string(ev.id), string(ev.room), stateParked)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		ok = n > 0
		return err
	})
	return ok, err
}

// forget drops what was carried out before the time given.
func (s *store) forget(before time.Time) error {
	return s.write(func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM matrix_event WHERE done <> 0 AND received < $1`, before.UnixMilli()); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM matrix_refused WHERE at < $1`, before.UnixMilli())
		return err
	})
}

// portal is a Matrix room that shows a MIMI room.
type portal struct {
	uri      mimiuri.URI
	room     id.RoomID
	own      bool
	admitted bool
	name     string
	closing  bool
	creator  id.UserID
	creation id.EventID
}

func (s *store) scanPortal(row *sql.Row) (p portal, ok bool, err error) {
	var uri string
	err = row.Scan(&uri, (*string)(&p.room), &p.own, &p.admitted, &p.name, &p.closing, (*string)(&p.creator), (*string)(&p.creation))
	if errors.Is(err, sql.ErrNoRows) {
		return p, false, nil
	}
	if err == nil {
		p.uri, err = mimiuri.ParseKind(uri, mimiuri.Room)
	}
	if err != nil {
		return p, false, fmt.Errorf("matrix: read a portal: %w", err)
	}
	return p, true, nil
}

const portalColumns = `SELECT room_uri, room_id, own, admitted, name, closing, creator, creation FROM matrix_portal `

func (s *store) portal(ctx context.Context, uri mimiuri.URI) (portal, bool, error) {
	return s.scanPortal(s.sql.QueryRowContext(ctx, portalColumns+`WHERE room_uri = $1`, uri.String()))
}

func (s *store) portalAt(ctx context.Context, room id.RoomID) (portal, bool, error) {
	return s.scanPortal(s.sql.QueryRowContext(ctx, portalColumns+`WHERE room_id = $1`, string(room)))
}

// addPortal stores a portal unless its MIMI room or its Matrix room has one already.
func (s *store) addPortal(p portal) error {
	return s.write(func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO matrix_portal (room_uri, room_id, own, admitted, name, closing, creator, creation)
			VALUES ($1, $2, $3, $4, $5, 0, $6, $7) ON CONFLICT DO NOTHING`,
			p.uri.String(), string(p.room), flag(p.own), flag(p.admitted), p.name, string(p.creator), string(p.creation))
		return err
	})
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *store) updatePortal(p portal) error {
	return s.write(func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE matrix_portal SET admitted = $2, name = $3, closing = $4 WHERE room_uri = $1`, p.uri.String(), flag(p.admitted), p.name, flag(p.closing))
		return err
	})
}

// removePortal forgets a portal and its members. Which event was which message stays known.
func (s *store) removePortal(p portal) error {
	return s.write(func(tx *sql.Tx) error {
		if err := dropPortal(tx, p); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM matrix_member WHERE room_id = $1`, string(p.room))
		return err
	})
}

// removePortalOnly forgets a portal but not who is in its Matrix room, where the bot may stay.
func (s *store) removePortalOnly(p portal) error {
	return s.write(func(tx *sql.Tx) error { return dropPortal(tx, p) })
}

func dropPortal(tx *sql.Tx, p portal) error {
	if _, err := tx.Exec(`UPDATE matrix_event SET done = $2, body = NULL WHERE room_id = $1 AND done = $3`, string(p.room), stateGivenUp, stateParked); err != nil {
		return err
	}
	if err := dropSettings(tx, p); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM matrix_portal WHERE room_uri = $1`, p.uri.String())
	return err
}

// admit marks a portal as admitted and stores the events that were fetched for it, to be carried out right
// after the event at pos.
func (s *store) admit(p portal, pos int64, earlier []incoming) error {
	now := time.Now().UnixMilli()
	return s.write(func(tx *sql.Tx) error {
		for i, ev := range earlier {
			_, err := tx.Exec(`INSERT INTO matrix_event (event_id, room_id, pos, sub, received, done, body) VALUES ($1, $2, $3, $4, $5, 0, $6)
				ON CONFLICT (event_id) DO NOTHING`, string(ev.id), string(ev.room), pos, i+1, now, ev.body)
			if err != nil {
				return err
			}
		}
		if _, err := tx.Exec(`UPDATE matrix_event SET done = 0 WHERE room_id = $1 AND done = $2`, string(p.room), stateParked); err != nil {
			return err
		}
		_, err := tx.Exec(`UPDATE matrix_portal SET admitted = 1 WHERE room_uri = $1`, p.uri.String())
		return err
	})
}

// position of an event, 0 if it is not known.
func (s *store) position(ctx context.Context, ev id.EventID) (pos int64, err error) {
	err = s.sql.QueryRowContext(ctx, `SELECT pos FROM matrix_event WHERE event_id = $1`, string(ev)).Scan(&pos)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return pos, err
}

// member is somebody's membership of a Matrix room as far as this adapter has seen.
type member struct {
	membership string // join, invite, leave, ban, knock; "" for never seen
	sender     id.UserID
	event      id.EventID
	invited    id.EventID // only read by member
}

func (s *store) member(ctx context.Context, room id.RoomID, user id.UserID) (m member, err error) {
	err = s.sql.QueryRowContext(ctx, `SELECT membership, sender, event_id, invited FROM matrix_member WHERE room_id = $1 AND user_id = $2`,
		string(room), string(user)).Scan(&m.membership, (*string)(&m.sender), (*string)(&m.event), (*string)(&m.invited))
	if errors.Is(err, sql.ErrNoRows) {
		return member{}, nil
	}
	if err != nil {
		err = fmt.Errorf("matrix: read a membership: %w", err)
	}
	return m, err
}

func setMember(room id.RoomID, user id.UserID, m member) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		return putMember(tx, room, user, m, member{})
	}
}

func putMember(tx *sql.Tx, room id.RoomID, user id.UserID, m, before member) error {
	invited := ""
	if m.membership == "invite" {
		invited = string(m.event)
	}
	_, err := tx.Exec(`INSERT INTO matrix_member (room_id, user_id, membership, sender, event_id, before, before_by, invited) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (room_id, user_id) DO UPDATE SET membership = excluded.membership, sender = excluded.sender, event_id = excluded.event_id,
			before = excluded.before, before_by = excluded.before_by,
			invited = CASE WHEN excluded.invited <> '' THEN excluded.invited ELSE matrix_member.invited END`,
		string(room), string(user), m.membership, string(m.sender), string(m.event), before.membership, string(before.sender), invited)
	return err
}

// changeMember stores what an event makes of a membership and returns what it was before: also when the same event is
// carried out again. It is stored before anything is done about it, because what is done can
// lead to further changes at once. unseen is taken for what it was if nothing is known.
func (s *store) changeMember(room id.RoomID, user id.UserID, m member, unseen string) (before member, err error) {
	err = s.write(func(tx *sql.Tx) error {
		var now member
		err := tx.QueryRow(`SELECT membership, sender, event_id, before, before_by FROM matrix_member WHERE room_id = $1 AND user_id = $2`,
			string(room), string(user)).Scan(&now.membership, (*string)(&now.sender), (*string)(&now.event), &before.membership, (*string)(&before.sender))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			before = member{membership: unseen}
		case err != nil:
			return err
		case now.event == m.event:
			return nil
		default:
			before = now
		}
		return putMember(tx, room, user, m, before)
	})
	if err != nil {
		err = fmt.Errorf("matrix: store a membership: %w", err)
	}
	return before, err
}

// dropMember forgets a membership that an event has ended, unless something has changed since.
func dropMember(room id.RoomID, user id.UserID, ev id.EventID) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.Exec(`DELETE FROM matrix_member WHERE room_id = $1 AND user_id = $2 AND event_id = $3`, string(room), string(user), string(ev))
		return err
	}
}

// membersOf lists the users of a Matrix room with a membership.
func (s *store) membersOf(ctx context.Context, room id.RoomID, membership string) ([]id.UserID, error) {
	return list[id.UserID](ctx, s.sql, `SELECT user_id FROM matrix_member WHERE room_id = $1 AND membership = $2 ORDER BY user_id`, string(room), membership)
}

// ghost returns the URI a ghost was stored with, and whether its account exists under that name.
func (s *store) ghost(ctx context.Context, user id.UserID) (uri mimiuri.URI, name string, ok bool, err error) {
	var text string
	var registered bool
	err = s.sql.QueryRowContext(ctx, `SELECT uri, registered, name FROM matrix_ghost WHERE user_id = $1`, string(user)).Scan(&text, &registered, &name)
	if errors.Is(err, sql.ErrNoRows) {
		return mimiuri.URI{}, "", false, nil
	}
	if err == nil {
		uri, err = mimiuri.ParseKind(text, mimiuri.User)
	}
	if err != nil {
		return mimiuri.URI{}, "", false, fmt.Errorf("matrix: read a ghost: %w", err)
	}
	if !registered {
		name = ""
	}
	return uri, name, true, nil
}

// putGhost stores a ghost; registered says that its account has that name now.
func (s *store) putGhost(user id.UserID, uri mimiuri.URI, registered bool, name string) error {
	return s.write(func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO matrix_ghost (user_id, uri, registered, name) VALUES ($1, $2, $3, $4)
			ON CONFLICT (user_id) DO UPDATE SET registered = CASE WHEN excluded.registered = 1 THEN 1 ELSE matrix_ghost.registered END,
				name = CASE WHEN excluded.registered = 1 THEN excluded.name ELSE matrix_ghost.name END`,
			string(user), uri.String(), flag(registered), name)
		return err
	})
}

// parts returns the events that show a message, by part.
func (s *store) parts(ctx context.Context, room mimiuri.URI, msg content.MessageID) (map[int]id.EventID, error) {
	rows, err := s.sql.QueryContext(ctx, `SELECT part, event_id FROM matrix_message WHERE room_uri = $1 AND message_id = $2`, room.String(), msg[:])
	if err != nil {
		return nil, fmt.Errorf("matrix: read a message's events: %w", err)
	}
	defer rows.Close()
	out := map[int]id.EventID{}
	for rows.Next() {
		var part int
		var ev string
		if err := rows.Scan(&part, &ev); err != nil {
			return nil, fmt.Errorf("matrix: read a message's events: %w", err)
		}
		out[part] = id.EventID(ev)
	}
	return out, rows.Err()
}
