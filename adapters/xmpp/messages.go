package xmpp

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// messageRow is what the adapter's database knows of a message: the ids of both worlds and how it refers to others.
type messageRow struct {
	mimi   content.MessageID
	seq    uint64 // of its event
	at     time.Time
	sender mimiuri.URI
	kind   content.Kind
	id     string             // id attribute of its stanza
	origin string             // XEP-0359 origin-id, may be empty
	reply  *content.MessageID // inReplyTo
	target *content.MessageID // what it edits, deletes, reacts to, or takes back
	topic  []byte
	body   int64 // seq of the event with its text; bodyGone, bodyForgotten
}

const (
	bodyGone      = 0  // retracted, or taken back
	bodyForgotten = -1 // not kept any more
)

// isReaction tells whether the row is a reaction, as it was or changed.
func (m *messageRow) isReaction() bool { return m.kind == content.KindReaction }

// ref is how stanzas refer to the message: in a MUC by the stanza-id, in a chat by the stanza's own id.
func (m *messageRow) ref(direct bool) string {
	if direct {
		return m.id
	}
	return m.mimi.String()
}

func hexOf(id *content.MessageID) string {
	if id == nil {
		return ""
	}
	return id.String()
}

func idOf(text string) *content.MessageID {
	id, err := content.ParseMessageID(text)
	if err != nil {
		return nil
	}
	return &id
}

const messageColumns = `mimi, seq, at, sender, kind, id, origin, reply, target, topic, body`

func scanMessage(scan func(...any) error) (m messageRow, err error) {
	var mimi, sender, reply, target, topic string
	var at int64
	if err := scan(&mimi, &m.seq, &at, &sender, &m.kind, &m.id, &m.origin, &reply, &target, &topic, &m.body); err != nil {
		return m, err
	}
	if m.mimi, err = content.ParseMessageID(mimi); err != nil {
		return m, err
	}
	if m.sender, err = mimiuri.Parse(sender); err != nil {
		return m, err
	}
	m.at, m.reply, m.target = time.UnixMilli(at), idOf(reply), idOf(target)
	m.topic, err = hex.DecodeString(topic)
	return m, err
}

// message finds a message by its MIMI ID; nil if it is not known.
func (s *store) message(ctx context.Context, room mimiuri.URI, id content.MessageID) (*messageRow, error) {
	return oneMessage(s.db.QueryRowContext(ctx, `SELECT `+messageColumns+` FROM xmpp_message WHERE room = $1 AND mimi = $2`, room.String(), id.String()))
}

func oneMessage(row *sql.Row) (*messageRow, error) {
	m, err := scanMessage(row.Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &m, nil
}

// findMessage finds the message that a stanza means by an id: the stanza-id, which is the MIMI ID, else the newest with
// that id or origin-id, of sender only if that is not zero. nil if there is none.
func (s *store) findMessage(ctx context.Context, room mimiuri.URI, id string, sender mimiuri.URI) (*messageRow, error) {
	if id == "" || len(id) > maxStanzaID {
		return nil, nil
	}
	if mimi := idOf(id); mimi != nil {
		if m, err := s.message(ctx, room, *mimi); err != nil || m != nil {
			return m, err
		}
	}
	q, args := `SELECT `+messageColumns+` FROM xmpp_message WHERE room = $1 AND (id = $2 OR origin = $2)`, []any{room.String(), id}
	if !sender.IsZero() {
		q += ` AND sender = $3`
		args = append(args, sender.String())
	}
	return oneMessage(s.db.QueryRowContext(ctx, q+` ORDER BY seq DESC LIMIT 1`, args...))
}

func (s *store) messages(ctx context.Context, where string, args ...any) (out []messageRow, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+messageColumns+` FROM xmpp_message WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		m, err := scanMessage(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, rows.Err()
}

// reactions gives the messages with which somebody reacts to another at present, in order.
func (s *store) reactions(ctx context.Context, room mimiuri.URI, target content.MessageID, sender mimiuri.URI) ([]messageRow, error) {
	return s.messages(ctx, `room = $1 AND target = $2 AND sender = $3 AND kind = $4 AND body <> 0 ORDER BY seq`,
		room.String(), target.String(), sender.String(), int(content.KindReaction))
}

// recent gives the newest messages of a room, in order.
func (s *store) recent(ctx context.Context, room mimiuri.URI, n int) ([]messageRow, error) {
	list, err := s.messages(ctx, `room = $1 AND body <> -1 ORDER BY seq DESC LIMIT 0+$2`, room.String(), n)
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list, err
}

// keepMessage remembers a message that is about to be shown, what it does to another, and, if it is an own one, its name for
// repetitions. It may be called again for the same.
func (s *store) keepMessage(room mimiuri.URI, m messageRow, sentAs string) error {
	now := time.Now()
	return s.write(func(tx *sql.Tx) error {
		if sentAs != "" {
			if _, err := tx.Exec(`DELETE FROM xmpp_sent WHERE at < $1`, now.Add(-keepSent).UnixMilli()); err != nil {
				return err
			}
			if _, err := tx.Exec(`INSERT INTO xmpp_sent (room, person, origin, mimi, at) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (room, person, origin) DO NOTHING`, room.String(), m.sender.String(), sentAs, m.mimi.String(), now.UnixMilli()); err != nil {
				return err
			}
		}
		if m.kind == content.KindStatus || m.kind == content.KindEmpty || m.kind == content.KindProfile {
			return nil
		}
		r, err := tx.Exec(`INSERT INTO xmpp_message (room, `+messageColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
			ON CONFLICT (room, mimi) DO NOTHING`, room.String(), m.mimi.String(), m.seq, m.at.UnixMilli(), m.sender.String(), int(m.kind),
			m.id, m.origin, hexOf(m.reply), hexOf(m.target), hex.EncodeToString(m.topic), m.body)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n == 0 {
			return err
		}
		change := func(body int64, id *content.MessageID) error {
			_, err := tx.Exec(`UPDATE xmpp_message SET body = $1 WHERE room = $2 AND mimi = $3 AND body <> 0`, body, room.String(), id.String())
			return err
		}
		switch {
		case m.target == nil:
		case m.kind == content.KindEdit, m.kind == content.KindReact:
			return change(int64(m.seq), m.target)
		case m.kind == content.KindDelete, m.kind == content.KindUnlike:
			return change(bodyGone, m.target)
		}
		return nil
	})
}

// forgetBodies notes that the provider does not keep these events any more.
func (s *store) forgetBodies(room mimiuri.URI, seqs []uint64) error {
	return s.write(func(tx *sql.Tx) error {
		for _, n := range seqs {
			if _, err := tx.Exec(`UPDATE xmpp_message SET body = -1 WHERE room = $1 AND seq = $2 AND body <> 0`, room.String(), n); err != nil {
				return err
			}
		}
		return nil
	})
}

// Settings of a person; "" is the default.
const (
	settingReceipts = "receipts" // "off": nobody elsewhere is told what was delivered and read
	settingTyping   = "typing"   // "off": nobody is told of typing
	settingMentions = "mentions" // "off": mentions do not reach somebody who is not in the room

	settingNew = "new" // of a room: somebody has made it by joining it and has not accepted or changed its configuration yet
)

// setting reads a setting; those that were read are kept in memory, as one is looked at for each stanza.
func (s *store) setting(ctx context.Context, person mimiuri.URI, name string) (value string, err error) {
	key := [2]string{person.String(), name}
	s.settings.Lock()
	value, ok := s.settings.m[key]
	s.settings.Unlock()
	if ok {
		return value, nil
	}
	err = s.db.QueryRowContext(ctx, `SELECT value FROM xmpp_setting WHERE person = $1 AND name = $2`, key[0], name).Scan(&value)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", err
	}
	s.settings.Lock()
	defer s.settings.Unlock()
	if s.settings.m == nil || len(s.settings.m) > 10_000 {
		s.settings.m = make(map[[2]string]string)
	}
	s.settings.m[key] = value
	return value, nil
}

func (s *store) set(person mimiuri.URI, name, value string) error {
	err := s.exec(`INSERT INTO xmpp_setting (person, name, value) VALUES ($1, $2, $3)
		ON CONFLICT (person, name) DO UPDATE SET value = excluded.value`, person.String(), name, value)
	s.forgetSettings()
	return err
}

func (s *store) forgetSettings() {
	s.settings.Lock()
	defer s.settings.Unlock()
	s.settings.m = nil
}

// markRead notes up to where somebody has read; fresh is false if they had read that before.
func (s *store) markRead(room, person mimiuri.URI, seq uint64) (fresh bool, err error) {
	err = s.write(func(tx *sql.Tx) error {
		r, err := tx.Exec(`INSERT INTO xmpp_read (room, person, seq) VALUES ($1, $2, $3)
			ON CONFLICT (room, person) DO UPDATE SET seq = excluded.seq WHERE xmpp_read.seq < excluded.seq`, room.String(), person.String(), seq)
		if err != nil {
			return err
		}
		n, err := r.RowsAffected()
		fresh = n > 0
		return err
	})
	return fresh, err
}

// event reads a delivered event again; ok is false if it is not kept any more.
func (s *service) event(ctx context.Context, room mimiuri.URI, seq int64) (ev adapter.Event, ok bool, err error) {
	if seq <= 0 {
		return ev, false, nil
	}
	list, err := s.host.History(ctx, room, []uint64{uint64(seq)})
	if err != nil || len(list) == 0 || list[0].Content == nil {
		return ev, false, err
	}
	return list[0], true, nil
}
