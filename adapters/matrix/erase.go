package matrix

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// What this adapter's tables know of a person, and for how long.

// EraseUser implements adapter.Eraser. The bot leaves the room in which it talked with them, too.
func (a *Adapter) EraseUser(ctx context.Context, user mimiuri.URI) error {
	b, err := a.bridgeFor(ctx)
	if err != nil {
		return err
	}
	mxid, ok := b.local(user)
	if !ok {
		return nil
	}
	managed, err := b.st.setting(ctx, managementKey(mxid))
	if err != nil {
		return err
	}
	if managed != "" && !b.gone.Load() {
		if err := b.leaveAs(ctx, id.RoomID(managed), b.hs.bot, ""); err != nil {
			return err
		}
	}
	if b.e2ee != nil {
		if err := b.e2ee.erase(ctx, mxid); err != nil {
			return err
		}
	}
	said, err := b.st.bodiesOf(ctx, mxid)
	if err != nil {
		return err
	}
	return b.st.write(func(tx *sql.Tx) error {
		for _, ev := range said {
			if _, err := tx.Exec(`DELETE FROM matrix_event WHERE event_id = $1`, string(ev)); err != nil {
				return err
			}
		}
		uri, name := user.String(), string(mxid)
		for _, change := range []struct {
			query string
			args  []any
		}{
			{`DELETE FROM matrix_message WHERE EXISTS (SELECT 1 FROM matrix_content c WHERE c.room_uri = matrix_message.room_uri AND c.message_id = matrix_message.message_id AND c.sender = $1)`, []any{uri}},
			{`DELETE FROM matrix_content WHERE sender = $1`, []any{uri}},
			{`DELETE FROM matrix_read WHERE uri = $1`, []any{uri}},
			{`DELETE FROM matrix_member WHERE room_id = $1`, []any{managed}},
			{`DELETE FROM matrix_member WHERE user_id = $1`, []any{name}},
			{`UPDATE matrix_member SET sender = '' WHERE sender = $1`, []any{name}},
			{`UPDATE matrix_member SET before_by = '' WHERE before_by = $1`, []any{name}},
			{`UPDATE matrix_portal SET creator = '' WHERE creator = $1`, []any{name}},
			{`DELETE FROM matrix_setting WHERE key IN ($1, $2, $3) OR key LIKE 'relay %' AND value = $4 OR SUBSTR(key, 1, $5) = $6`,
				[]any{receiptsKey(mxid), managementKey(mxid), accountKey(mxid), name, len(askedPrefix(mxid)), askedPrefix(mxid)}},
		} {
			if _, err := tx.Exec(change.query, change.args...); err != nil {
				return fmt.Errorf("matrix: erase a user: %w", err)
			}
		}
		return nil
	})
}

// bodiesOf lists the events, kept until they are carried out, that are by a user or about them.
func (s *store) bodiesOf(ctx context.Context, user id.UserID) (out []id.EventID, err error) {
	rows, err := s.sql.QueryContext(ctx, `SELECT event_id, body FROM matrix_event WHERE body IS NOT NULL`)
	if err != nil {
		return nil, fmt.Errorf("matrix: read the events: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var event id.EventID
		var body []byte
		if err := rows.Scan((*string)(&event), &body); err != nil {
			return nil, fmt.Errorf("matrix: read the events: %w", err)
		}
		if ev, err := parseEvent(body); err == nil && (ev.Sender == user || ev.StateKey != nil && id.UserID(*ev.StateKey) == user) {
			out = append(out, event)
		}
	}
	return out, rows.Err()
}

func receiptsKey(user id.UserID) string   { return "receipts " + string(user) }
func managementKey(user id.UserID) string { return "management " + string(user) }

// accountKey marks an account of ours that has no row in matrix_ghost: it has only declined something.
func accountKey(user id.UserID) string { return "account " + string(user) }

// forgetMessages drops which event was which message for those from before the time given, and what belonged to rooms that are
// no portals any more.
func (s *store) forgetMessages(now, before time.Time) error {
	return s.write(func(tx *sql.Tx) error {
		for _, change := range []struct {
			query string
			args  []any
		}{
			// What was stored before there was a time begins to age now.
			{`UPDATE matrix_content SET at = $1 WHERE at = 0`, []any{now.UnixMilli()}},
			{`DELETE FROM matrix_message WHERE EXISTS (SELECT 1 FROM matrix_content c WHERE c.room_uri = matrix_message.room_uri AND c.message_id = matrix_message.message_id AND c.at < $1)`, []any{before.UnixMilli()}},
			{`DELETE FROM matrix_content WHERE at < $1`, []any{before.UnixMilli()}},
			{`DELETE FROM matrix_topic WHERE room_uri NOT IN (SELECT room_uri FROM matrix_portal) AND room_uri NOT IN (SELECT room_uri FROM matrix_content)`, nil},
			{`DELETE FROM matrix_read WHERE room_uri NOT IN (SELECT room_uri FROM matrix_portal)`, nil},
			{`DELETE FROM matrix_member WHERE membership IN ('leave', '') AND room_id NOT IN (SELECT room_id FROM matrix_portal)`, nil},
		} {
			if _, err := tx.Exec(change.query, change.args...); err != nil {
				return fmt.Errorf("matrix: forget messages: %w", err)
			}
		}
		return nil
	})
}

// dropSettings forgets what was noted about a portal.
func dropSettings(tx *sql.Tx, p portal) error {
	for _, key := range []string{"topic " + p.uri.String(), "avatar " + p.uri.String(), "waiting " + p.uri.String(), relayKey(p), timerKey(p), plumbKey(p.uri)} {
		if _, err := tx.Exec(`DELETE FROM matrix_setting WHERE key = $1`, key); err != nil {
			return err
		}
	}
	literal := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)
	_, err := tx.Exec(`DELETE FROM matrix_setting WHERE key LIKE $1 ESCAPE '\'`, "asked % "+literal.Replace(p.uri.String()))
	return err
}
