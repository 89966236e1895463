package xmpp

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// store is the adapter's own database: who occupies which room from which resource, nicks, aliases of long
// names, the ids of messages in both worlds, and settings. No message text and nothing
// secret is kept in it, since it is not sealed: text is read from the provider (Host.History). The SQL is what SQLite and PostgreSQL both understand.
//
// All methods may be called concurrently. Writes are collected: what many rooms want written at once costs
// one commit.
type store struct {
	db     *sql.DB
	writes chan write
	quit   chan struct{} // closed when no more writes are taken
	done   chan struct{} // closed when the writer has ended
	salt   string        // for occupant ids; made with the database

	settings struct { // as read, by person and name
		sync.Mutex
		m map[[2]string]string
	}
}

type write struct {
	f      func(*sql.Tx) error
	result chan error
}

// schema is the list of upgrades; the version of a database is how many it has had. oldest in the table is the
// lowest version of this list that a program must know to use the database.
var schema = []string{
	`CREATE TABLE xmpp_alias (
		local TEXT NOT NULL PRIMARY KEY,
		uri   TEXT NOT NULL
	);
	CREATE TABLE xmpp_nick (
		room   TEXT   NOT NULL,
		person TEXT   NOT NULL,
		nick   TEXT   NOT NULL,
		name   TEXT   NOT NULL,
		PRIMARY KEY (room, person)
	);
	CREATE TABLE xmpp_occupant (
		room   TEXT   NOT NULL,
		jid    TEXT   NOT NULL,
		person TEXT   NOT NULL,
		since  BIGINT NOT NULL,
		PRIMARY KEY (room, jid)
	);
	CREATE TABLE xmpp_sent (
		room   TEXT   NOT NULL,
		person TEXT   NOT NULL,
		origin TEXT   NOT NULL,
		mimi   TEXT   NOT NULL,
		at     BIGINT NOT NULL,
		PRIMARY KEY (room, person, origin)
	);
	CREATE INDEX xmpp_sent_at ON xmpp_sent (at);`,
	// The messages of both worlds. body: the event that has the text as it is now; 0: retracted, -1: not kept any more.
	`CREATE TABLE xmpp_message (
		room   TEXT   NOT NULL,
		mimi   TEXT   NOT NULL,
		seq    BIGINT NOT NULL,
		at     BIGINT NOT NULL,
		sender TEXT   NOT NULL,
		kind   BIGINT NOT NULL,
		id     TEXT   NOT NULL,
		origin TEXT   NOT NULL,
		reply  TEXT   NOT NULL,
		target TEXT   NOT NULL,
		topic  TEXT   NOT NULL,
		body   BIGINT NOT NULL,
		PRIMARY KEY (room, mimi)
	);
	CREATE INDEX xmpp_message_seq ON xmpp_message (room, seq);
	CREATE INDEX xmpp_message_at ON xmpp_message (room, at);
	CREATE INDEX xmpp_message_id ON xmpp_message (room, id);
	CREATE INDEX xmpp_message_origin ON xmpp_message (room, origin);
	CREATE INDEX xmpp_message_target ON xmpp_message (room, target);
	CREATE TABLE xmpp_read (
		room   TEXT   NOT NULL,
		person TEXT   NOT NULL,
		seq    BIGINT NOT NULL,
		PRIMARY KEY (room, person)
	);
	CREATE TABLE xmpp_member (
		room   TEXT   NOT NULL,
		person TEXT   NOT NULL,
		seq    BIGINT NOT NULL,
		PRIMARY KEY (room, person)
	);
	CREATE TABLE xmpp_file (
		room TEXT   NOT NULL,
		mimi TEXT   NOT NULL,
		part BIGINT NOT NULL,
		url  TEXT   NOT NULL,
		PRIMARY KEY (room, mimi, part)
	);
	CREATE TABLE xmpp_contact (
		person TEXT NOT NULL,
		other  TEXT NOT NULL,
		PRIMARY KEY (person, other)
	);
	CREATE TABLE xmpp_setting (
		person TEXT NOT NULL,
		name   TEXT NOT NULL,
		value  TEXT NOT NULL,
		PRIMARY KEY (person, name)
	);`,
	// Plumbed rooms (plumb.go), and lists of banned addresses (rtbl.go). code: what the other side answers with; empty: they have.
	`CREATE TABLE xmpp_plumb (
		muc    TEXT   NOT NULL PRIMARY KEY,
		room   TEXT   NOT NULL,
		person TEXT   NOT NULL,
		mode   TEXT   NOT NULL,
		code   TEXT   NOT NULL,
		at     BIGINT NOT NULL
	);
	CREATE TABLE xmpp_plumb_message (
		muc  TEXT   NOT NULL,
		mimi TEXT   NOT NULL,
		sid  TEXT   NOT NULL,
		said BIGINT NOT NULL,
		at   BIGINT NOT NULL,
		PRIMARY KEY (muc, mimi)
	);
	CREATE INDEX xmpp_plumb_message_sid ON xmpp_plumb_message (muc, sid);
	CREATE INDEX xmpp_plumb_message_at ON xmpp_plumb_message (at);
	CREATE TABLE xmpp_plumb_person (
		muc    TEXT NOT NULL,
		person TEXT NOT NULL,
		how    TEXT NOT NULL,
		PRIMARY KEY (muc, person)
	);
	CREATE TABLE xmpp_plumb_id (
		muc    TEXT NOT NULL,
		id     TEXT NOT NULL,
		person TEXT NOT NULL,
		PRIMARY KEY (muc, id)
	);
	CREATE TABLE xmpp_listed (
		list TEXT NOT NULL,
		hash TEXT NOT NULL,
		PRIMARY KEY (list, hash)
	);
	CREATE TABLE xmpp_kept (
		person TEXT NOT NULL,
		what   TEXT NOT NULL,
		PRIMARY KEY (person, what)
	);`,
}

// oldestReader is the lowest schema version a program must know to work with what this program writes.
const oldestReader = 1

// keepSent is how long it is remembered under which message ID an own message was shown: as long as a client may
// send it again.
const keepSent = 7 * 24 * time.Hour

// openStore brings the schema up to date and starts the writer, which ends with close.
func openStore(ctx context.Context, db *sql.DB) (*store, error) {
	s := &store{db: db, writes: make(chan write, 256), quit: make(chan struct{}), done: make(chan struct{})}
	if err := s.upgrade(ctx); err != nil {
		return nil, fmt.Errorf("xmpp: open the adapter's database: %w", err)
	}
	go s.writer()
	return s, nil
}

func (s *store) upgrade(ctx context.Context) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS xmpp_schema (
		one BIGINT NOT NULL PRIMARY KEY, version BIGINT NOT NULL, oldest BIGINT NOT NULL, salt TEXT NOT NULL)`); err != nil {
		return err
	}
	var version, oldest int
	err = tx.QueryRowContext(ctx, `SELECT version, oldest, salt FROM xmpp_schema WHERE one = 1`).Scan(&version, &oldest, &s.salt)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		b := make([]byte, 16)
		if _, err := rand.Read(b); err != nil {
			return err
		}
		s.salt = hex.EncodeToString(b)
		if _, err := tx.ExecContext(ctx, `INSERT INTO xmpp_schema (one, version, oldest, salt) VALUES (1, 0, $1, $2)`, oldestReader, s.salt); err != nil {
			return err
		}
	case err != nil:
		return err
	case oldest > len(schema):
		return fmt.Errorf("it was written by a later version (schema %d, readable from %d on; this program knows %d)", version, oldest, len(schema))
	}
	for ; version < len(schema); version++ {
		if _, err := tx.ExecContext(ctx, schema[version]); err != nil {
			return fmt.Errorf("upgrade to schema %d: %w", version+1, err)
		}
		if _, err := tx.ExecContext(ctx, `UPDATE xmpp_schema SET version = $1, oldest = $2 WHERE one = 1`, version+1, oldestReader); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// close ends the writer once it has done what it was given. It may be called once.
func (s *store) close() {
	close(s.quit)
	<-s.done
}

func (s *store) writer() {
	defer close(s.done)
	for {
		var batch []write
		select {
		case w := <-s.writes:
			batch = append(batch, w)
		case <-s.quit:
			return
		}
	more:
		for len(batch) < 200 {
			select {
			case w := <-s.writes:
				batch = append(batch, w)
			default:
				break more
			}
		}
		s.commit(batch)
	}
}

// commit runs a batch in one transaction. If that fails, each of it is tried alone, so that one failing write
// does not take the others with it.
func (s *store) commit(batch []write) {
	err := s.transact(func(tx *sql.Tx) error {
		for _, w := range batch {
			if err := w.f(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || len(batch) == 1 {
		for _, w := range batch {
			w.result <- err
		}
		return
	}
	for _, w := range batch {
		w.result <- s.transact(w.f)
	}
}

func (s *store) transact(f func(*sql.Tx) error) error {
	tx, err := s.db.Begin()
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// write runs f in a transaction and returns once it is on disk. f may be run twice.
func (s *store) write(f func(*sql.Tx) error) error {
	w := write{f, make(chan error, 1)}
	select {
	case s.writes <- w:
	case <-s.quit:
		return errors.New("xmpp: the adapter is stopping")
	}
	select {
	case err := <-w.result:
		return err
	case <-s.done:
		select {
		case err := <-w.result:
			return err
		default:
			return errors.New("xmpp: the adapter is stopping")
		}
	}
}

func (s *store) exec(query string, args ...any) error {
	return s.write(func(tx *sql.Tx) error {
		_, err := tx.Exec(query, args...)
		return err
	})
}

func (s *store) keepAlias(local string, u mimiuri.URI) error {
	if _, ok := s.alias(local); ok {
		return nil
	}
	return s.exec(`INSERT INTO xmpp_alias (local, uri) VALUES ($1, $2) ON CONFLICT (local) DO NOTHING`, local, u.String())
}

func (s *store) alias(local string) (mimiuri.URI, bool) {
	var text string
	if err := s.db.QueryRow(`SELECT uri FROM xmpp_alias WHERE local = $1`, local).Scan(&text); err != nil {
		return mimiuri.URI{}, false
	}
	u, err := mimiuri.Parse(text)
	return u, err == nil
}

// nickRow is a user's nick in a room. name is the whole name, where it differs.
type nickRow struct {
	user       mimiuri.URI
	nick, name string
}

func (s *store) nicks(ctx context.Context, room mimiuri.URI) ([]nickRow, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT person, nick, name FROM xmpp_nick WHERE room = $1 ORDER BY person`, room.String())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []nickRow
	for rows.Next() {
		var r nickRow
		var user string
		if err := rows.Scan(&user, &r.nick, &r.name); err != nil {
			return nil, err
		}
		if r.user, err = mimiuri.Parse(user); err == nil {
			out = append(out, r)
		}
	}
	return out, rows.Err()
}

func putNick(tx *sql.Tx, room mimiuri.URI, r nickRow) error {
	_, err := tx.Exec(`INSERT INTO xmpp_nick (room, person, nick, name) VALUES ($1, $2, $3, $4)
		ON CONFLICT (room, person) DO UPDATE SET nick = excluded.nick, name = excluded.name`,
		room.String(), r.user.String(), r.nick, r.name)
	return err
}

// occupantRow is one resource in a room.
type occupantRow struct {
	room mimiuri.URI
	user mimiuri.URI
	jid  addr
}

// occupants lists them for all rooms, or for one.
func (s *store) occupants(ctx context.Context, room mimiuri.URI) ([]occupantRow, error) {
	query, args := `SELECT room, person, jid FROM xmpp_occupant ORDER BY room, since, jid`, []any(nil)
	if !room.IsZero() {
		query, args = `SELECT room, person, jid FROM xmpp_occupant WHERE room = $1 ORDER BY since, jid`, []any{room.String()}
	}
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []occupantRow
	for rows.Next() {
		var room, user, full string
		if err := rows.Scan(&room, &user, &full); err != nil {
			return nil, err
		}
		r, err1 := mimiuri.Parse(room)
		u, err2 := mimiuri.Parse(user)
		a, err3 := parseAddr(full)
		if err1 == nil && err2 == nil && err3 == nil {
			out = append(out, occupantRow{r, u, a})
		}
	}
	return out, rows.Err()
}

func putOccupant(tx *sql.Tx, o occupantRow) error {
	_, err := tx.Exec(`INSERT INTO xmpp_occupant (room, jid, person, since) VALUES ($1, $2, $3, $4) ON CONFLICT (room, jid) DO NOTHING`,
		o.room.String(), o.jid.String(), o.user.String(), time.Now().UnixMilli())
	return err
}

func (s *store) dropOccupant(room mimiuri.URI, full addr) error {
	return s.exec(`DELETE FROM xmpp_occupant WHERE room = $1 AND jid = $2`, room.String(), full.String())
}

// dropUser forgets a user of a room: resources and nick.
func (s *store) dropUser(room, user mimiuri.URI) error {
	return s.write(func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM xmpp_occupant WHERE room = $1 AND person = $2`, room.String(), user.String()); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM xmpp_nick WHERE room = $1 AND person = $2`, room.String(), user.String())
		return err
	})
}

// dropRoom forgets a room.
func (s *store) dropRoom(room mimiuri.URI) error {
	return s.write(func(tx *sql.Tx) error {
		for _, table := range []string{"xmpp_occupant", "xmpp_nick", "xmpp_sent", "xmpp_message", "xmpp_read", "xmpp_member", "xmpp_file"} {
			if _, err := tx.Exec(`DELETE FROM `+table+` WHERE room = $1`, room.String()); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`DELETE FROM xmpp_setting WHERE person = $1`, room.String())
		return err
	})
}

// keepSent remembers what an own message became, and forgets what is too old to be sent again.
func (s *store) keepSent(room, user mimiuri.URI, origin string, id content.MessageID) error {
	now := time.Now()
	return s.write(func(tx *sql.Tx) error {
		if _, err := tx.Exec(`DELETE FROM xmpp_sent WHERE at < $1`, now.Add(-keepSent).UnixMilli()); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO xmpp_sent (room, person, origin, mimi, at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (room, person, origin) DO NOTHING`, room.String(), user.String(), origin, id.String(), now.UnixMilli())
		return err
	})
}

// sent tells whether the message was shown already, and as what.
func (s *store) sent(ctx context.Context, room, user mimiuri.URI, origin string) (id content.MessageID, at time.Time, ok bool, err error) {
	var text string
	var ms int64
	err = s.db.QueryRowContext(ctx, `SELECT mimi, at FROM xmpp_sent WHERE room = $1 AND person = $2 AND origin = $3`,
		room.String(), user.String(), origin).Scan(&text, &ms)
	if errors.Is(err, sql.ErrNoRows) {
		return id, at, false, nil
	}
	if err != nil {
		return id, at, false, err
	}
	id, err = content.ParseMessageID(text)
	return id, time.UnixMilli(ms), err == nil, err
}
