package matrix

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// known is what is stored of a message that has been shown in or taken from a portal.
type known struct {
	id     content.MessageID
	seq    uint64
	sender mimiuri.URI
	kind   content.Kind
	reply  *content.MessageID
	topic  []byte
	target *content.MessageID
	part   int // of the event asked for
}

// standing is what became of an event.
type standing uint8

const (
	standsUnknown standing = iota // never heard of, from before, or not a message
	standsWaiting                 // handed over; the MIMI room has not taken it yet
	standsRefused
	standsKnown
)

func optionalID(b []byte) *content.MessageID {
	if len(b) != len(content.MessageID{}) {
		return nil
	}
	id := content.MessageID(b)
	return &id
}

func optionalBytes(id *content.MessageID) []byte {
	if id == nil {
		return []byte{}
	}
	return id[:]
}

func scanKnown(row interface{ Scan(...any) error }) (k known, err error) {
	var msg, reply, target []byte
	var sender string
	if err = row.Scan(&msg, &k.seq, &sender, &k.kind, &reply, &k.topic, &target, &k.part); err != nil {
		return k, err
	}
	if len(msg) != len(k.id) {
		return k, errors.New("matrix: a stored message ID is none")
	}
	k.id, k.reply, k.target = content.MessageID(msg), optionalID(reply), optionalID(target)
	k.sender, err = mimiuri.ParseKind(sender, mimiuri.User)
	return k, err
}

// byEvent finds the message that an event of a portal is, or is a part of.
func (s *store) byEvent(ctx context.Context, room mimiuri.URI, ev id.EventID) (k known, st standing, err error) {
	k, err = scanKnown(s.sql.QueryRowContext(ctx, `SELECT c.message_id, c.seq, c.sender, c.kind, c.reply, c.topic, c.target, m.part
		FROM matrix_message m JOIN matrix_content c ON c.room_uri = m.room_uri AND c.message_id = m.message_id
		WHERE m.event_id = $1 AND m.room_uri = $2`, string(ev), room.String()))
	if err == nil {
		return k, standsKnown, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return k, 0, fmt.Errorf("matrix: read a message: %w", err)
	}
	var n int
	err = s.sql.QueryRowContext(ctx, `SELECT CASE WHEN EXISTS (SELECT 1 FROM matrix_refused WHERE event_id = $1) THEN 2
		WHEN EXISTS (SELECT 1 FROM matrix_event WHERE event_id = $1 AND done = $2) THEN 1 ELSE 0 END`, string(ev), stateHanded).Scan(&n)
	if err != nil {
		return k, 0, fmt.Errorf("matrix: read an event: %w", err)
	}
	return k, standing(n), nil
}

// byID finds a message by its ID.
func (s *store) byID(ctx context.Context, room mimiuri.URI, msg content.MessageID) (k known, ok bool, err error) {
	k, err = scanKnown(s.sql.QueryRowContext(ctx, `SELECT message_id, seq, sender, kind, reply, topic, target, 0 FROM matrix_content
		WHERE room_uri = $1 AND message_id = $2`, room.String(), msg[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return k, false, nil
	}
	if err != nil {
		return k, false, fmt.Errorf("matrix: read a message: %w", err)
	}
	return k, true, nil
}

// first finds the message itself where msg may be the ID of an edit of it.
func (s *store) first(ctx context.Context, room mimiuri.URI, msg content.MessageID) (k known, ok bool, err error) {
	for range 8 {
		if k, ok, err = s.byID(ctx, room, msg); err != nil || !ok || k.kind != content.KindEdit || k.target == nil {
			return k, ok, err
		}
		msg = *k.target
	}
	return k, false, nil
}

// eventOf is the event by which a message is referred to, "" if there is none.
func (s *store) eventOf(ctx context.Context, room mimiuri.URI, msg content.MessageID) (ev id.EventID, err error) {
	err = s.sql.QueryRowContext(ctx, `SELECT event_id FROM matrix_message WHERE room_uri = $1 AND message_id = $2 ORDER BY part LIMIT 1`,
		room.String(), msg[:]).Scan((*string)(&ev))
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("matrix: read a message's event: %w", err)
	}
	return ev, nil
}

// eventsOf lists all events of a message and of its edits.
func (s *store) eventsOf(ctx context.Context, room mimiuri.URI, msg content.MessageID) ([]id.EventID, error) {
	return list[id.EventID](ctx, s.sql, `SELECT event_id FROM matrix_message WHERE room_uri = $1 AND (message_id = $2 OR message_id IN
		(SELECT message_id FROM matrix_content WHERE room_uri = $1 AND target = $2 AND kind = $3)) ORDER BY event_id`, room.String(), msg[:], int(content.KindEdit))
}

func putPart(room mimiuri.URI, msg content.MessageID, part int, ev id.EventID) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO matrix_message (room_uri, message_id, part, event_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			room.String(), msg[:], part, string(ev))
		return err
	}
}

func putKnown(room mimiuri.URI, k known) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		topic := k.topic
		if topic == nil {
			topic = []byte{}
		}
		_, err := tx.Exec(`INSERT INTO matrix_content (room_uri, message_id, seq, sender, kind, reply, topic, target, at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT DO NOTHING`, room.String(), k.id[:], int64(k.seq), k.sender.String(), int(k.kind), optionalBytes(k.reply), topic, optionalBytes(k.target), time.Now().UnixMilli())
		return err
	}
}

// all runs several changes in one transaction.
func (s *store) all(list ...func(*sql.Tx) error) error {
	return s.write(func(tx *sql.Tx) error {
		for _, f := range list {
			if err := f(tx); err != nil {
				return err
			}
		}
		return nil
	})
}

// refused remembers that an event became no message.
func (s *store) refused(ev id.EventID) error {
	return s.write(func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO matrix_refused (event_id, at) VALUES ($1, $2) ON CONFLICT DO NOTHING`, string(ev), time.Now().UnixMilli())
		return err
	})
}

// Topics and threads.

func (s *store) topicRoot(ctx context.Context, room mimiuri.URI, topic []byte) (ev id.EventID, err error) {
	err = s.sql.QueryRowContext(ctx, `SELECT event_id FROM matrix_topic WHERE room_uri = $1 AND topic = $2`, room.String(), topic).Scan((*string)(&ev))
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("matrix: read a topic: %w", err)
	}
	return ev, nil
}

func (s *store) topicAt(ctx context.Context, room mimiuri.URI, root id.EventID) (topic []byte, err error) {
	err = s.sql.QueryRowContext(ctx, `SELECT topic FROM matrix_topic WHERE room_uri = $1 AND event_id = $2`, room.String(), string(root)).Scan(&topic)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("matrix: read a topic: %w", err)
	}
	return topic, nil
}

func putTopic(room mimiuri.URI, topic []byte, root id.EventID) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO matrix_topic (room_uri, topic, event_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, room.String(), topic, string(root))
		return err
	}
}

// Reading.

// unread lists the messages of others that a local user has read by now and has not reported, oldest first, and
// the number of the last one that was read. Of very many only the latest are listed.
func (s *store) unread(ctx context.Context, room, user mimiuri.URI, upTo uint64) (out []content.MessageID, err error) {
	rows, err := s.sql.QueryContext(ctx, `SELECT message_id FROM matrix_content WHERE room_uri = $1 AND seq <= $2 AND sender <> $3 AND kind IN ($4, $5)
		AND seq > COALESCE((SELECT seq FROM matrix_read WHERE room_uri = $1 AND uri = $3), 0) ORDER BY seq DESC LIMIT 100`,
		room.String(), int64(upTo), user.String(), int(content.KindMessage), int(content.KindEdit))
	if err != nil {
		return nil, fmt.Errorf("matrix: read what is unread: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			return nil, fmt.Errorf("matrix: read what is unread: %w", err)
		}
		if m := optionalID(b); m != nil {
			out = append([]content.MessageID{*m}, out...)
		}
	}
	return out, rows.Err()
}

func putRead(room, user mimiuri.URI, upTo uint64) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO matrix_read (room_uri, uri, seq) VALUES ($1, $2, $3) ON CONFLICT (room_uri, uri)
			DO UPDATE SET seq = excluded.seq WHERE excluded.seq > matrix_read.seq`, room.String(), user.String(), int64(upTo))
		return err
	}
}

// Settings.

func (s *store) setting(ctx context.Context, key string) (value string, err error) {
	err = s.sql.QueryRowContext(ctx, `SELECT value FROM matrix_setting WHERE key = $1`, key).Scan(&value)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("matrix: read a setting: %w", err)
	}
	return value, nil
}

// set stores a setting; an empty value removes it.
func (s *store) set(key, value string) error {
	return s.write(putSetting(key, value))
}

func putSetting(key, value string) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		if value == "" {
			_, err := tx.Exec(`DELETE FROM matrix_setting WHERE key = $1`, key)
			return err
		}
		_, err := tx.Exec(`INSERT INTO matrix_setting (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, value)
		return err
	}
}

// Expiry.

type expiring struct {
	event id.EventID
	room  id.RoomID
	uri   mimiuri.URI
}

func putExpiry(room id.RoomID, uri mimiuri.URI, seq uint64, ev id.EventID, deadline time.Time, after time.Duration) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.Exec(`INSERT INTO matrix_expiry (event_id, room_id, room_uri, seq, deadline, after) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
			string(ev), string(room), uri.String(), int64(seq), deadline.UnixMilli(), after.Milliseconds())
		return err
	}
}

// startExpiry lets what expires some time after reading, and was sent up to an event, begin to do so.
func startExpiry(room mimiuri.URI, upTo uint64, read time.Time) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE matrix_expiry SET deadline = $3 + after, after = 0 WHERE room_uri = $1 AND seq <= $2 AND after > 0`,
			room.String(), int64(upTo), read.UnixMilli())
		return err
	}
}

// due lists what has to be redacted by now, and when the next thing has to be; zero if nothing does.
func (s *store) due(ctx context.Context, now time.Time) (out []expiring, next time.Time, err error) {
	rows, err := s.sql.QueryContext(ctx, `SELECT event_id, room_id, room_uri, deadline FROM matrix_expiry ORDER BY deadline LIMIT 50`)
	if err != nil {
		return nil, next, fmt.Errorf("matrix: read what expires: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var e expiring
		var uri string
		var deadline int64
		if err := rows.Scan((*string)(&e.event), (*string)(&e.room), &uri, &deadline); err != nil {
			return nil, next, fmt.Errorf("matrix: read what expires: %w", err)
		}
		if t := time.UnixMilli(deadline); t.After(now) {
			return out, t, rows.Err()
		}
		if e.uri, err = mimiuri.ParseKind(uri, mimiuri.Room); err != nil {
			return nil, next, fmt.Errorf("matrix: read what expires: %w", err)
		}
		out = append(out, e)
		next = now
	}
	return out, next, rows.Err()
}

func (s *store) expired(ev id.EventID) error {
	return s.write(func(tx *sql.Tx) error {
		_, err := tx.Exec(`DELETE FROM matrix_expiry WHERE event_id = $1`, string(ev))
		return err
	})
}

// waiting lists the portals that were made for a look-up, and until when they wait for somebody.
func (s *store) waiting(ctx context.Context, now time.Time) (map[string]time.Time, error) {
	rows, err := s.sql.QueryContext(ctx, `SELECT key, value FROM matrix_setting WHERE key LIKE 'waiting %'`)
	if err != nil {
		return nil, fmt.Errorf("matrix: read the settings: %w", err)
	}
	defer rows.Close()
	out := map[string]time.Time{}
	for rows.Next() {
		var key, value string
		if err := rows.Scan(&key, &value); err != nil {
			return nil, fmt.Errorf("matrix: read the settings: %w", err)
		}
		if ms, err := strconv.ParseInt(value, 10, 64); err == nil {
			out[strings.TrimPrefix(key, "waiting ")] = time.UnixMilli(ms)
		}
	}
	return out, rows.Err()
}

// ghosts is how many users of ours have joined a Matrix room.
func (s *store) ghosts(ctx context.Context, room id.RoomID) (n int, err error) {
	err = s.sql.QueryRowContext(ctx, `SELECT COUNT(*) FROM matrix_member WHERE room_id = $1 AND membership = 'join' AND user_id LIKE '@mimi\_%' ESCAPE '\'`, string(room)).Scan(&n)
	if err != nil {
		err = fmt.Errorf("matrix: count members: %w", err)
	}
	return n, err
}

// disown makes a portal one that a person has made.
func (s *store) disown(p portal, creator id.UserID, creation id.EventID) error {
	return s.write(func(tx *sql.Tx) error {
		_, err := tx.Exec(`UPDATE matrix_portal SET own = 0, creator = $2, creation = $3 WHERE room_uri = $1`, p.uri.String(), string(creator), string(creation))
		return err
	})
}

// movePortal makes another Matrix room a portal's.
func (s *store) movePortal(p portal, next id.RoomID) error {
	return s.write(func(tx *sql.Tx) error {
		if _, err := tx.Exec(`UPDATE matrix_portal SET room_id = $2, admitted = 1 WHERE room_uri = $1`, p.uri.String(), string(next)); err != nil {
			return err
		}
		_, err := tx.Exec(`UPDATE matrix_event SET done = 0 WHERE room_id = $1 AND done = $2`, string(next), stateParked)
		return err
	})
}
