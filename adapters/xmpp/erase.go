package xmpp

import (
	"context"
	"database/sql"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// What of this database is of persons, and when it goes: with the user (EraseUser), or when it is older than what the provider
// keeps (tidy).

// personal lists the columns that name a user by their URI. Where a row names two it goes with either. A test holds that no
// table has another.
var personal = [][2]string{
	{"xmpp_alias", "uri"}, {"xmpp_nick", "person"}, {"xmpp_occupant", "person"}, {"xmpp_sent", "person"}, {"xmpp_message", "sender"},
	{"xmpp_read", "person"}, {"xmpp_member", "person"}, {"xmpp_contact", "person"}, {"xmpp_contact", "other"}, {"xmpp_setting", "person"},
	{"xmpp_plumb", "person"}, {"xmpp_plumb_person", "person"}, {"xmpp_plumb_id", "person"}, {"xmpp_kept", "person"},
}

var _ adapter.Eraser = (*Adapter)(nil)

// EraseUser implements adapter.Eraser. What the user wrote is in the archives of rooms no more: the index of these names who
// wrote. It does the same again when it is called again, from wherever it was interrupted.
func (a *Adapter) EraseUser(ctx context.Context, user mimiuri.URI) error {
	s := a.cur.Load()
	if s == nil {
		return errNotRunning
	}
	s.mu.Lock()
	rooms := make([]mimiuri.URI, 0, len(s.byURI))
	for u := range s.byURI {
		rooms = append(rooms, u)
	}
	s.mu.Unlock()
	for _, u := range rooms {
		s.forgetIn(u, user)
	}
	for _, p := range s.allPlumbs() {
		if p.by == user { // it stands in their name
			p.end("")
		}
	}
	if err := s.takeBackOf(ctx, user); err != nil {
		return err
	}
	s.pictures.mu.Lock()
	delete(s.pictures.users, user)
	s.pictures.mu.Unlock()
	return s.db.erase(ctx, user)
}

// forgetIn takes a user out of what is in memory of a room. Who is a participant after 30 days still occupies it no more.
func (s *service) forgetIn(u, user mimiuri.URI) {
	r := s.room(u)
	defer s.release(r)
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.members[user]; m != nil {
		for len(m.sessions) > 0 {
			r.endSession(m.sessions[0], true, "", "")
		}
	}
	for _, j := range r.joining {
		if j.user == user {
			j.cancelled = true
		}
	}
	delete(r.saved, user)
	r.history, r.filled = nil, false // to be read again
}

func (s *store) erase(ctx context.Context, user mimiuri.URI) error {
	defer s.forgetSettings()
	for _, c := range personal {
		if c[0] != "xmpp_message" {
			if err := s.exec(`DELETE FROM `+c[0]+` WHERE `+c[1]+` = $1`, user.String()); err != nil {
				return err
			}
		}
	}
	// The large table room by room, with the files that came with the messages.
	return s.eachRoom(ctx, "xmpp_message", func(room string) error {
		return s.write(func(tx *sql.Tx) error {
			if _, err := tx.Exec(`DELETE FROM xmpp_file WHERE room = $1 AND mimi IN (SELECT mimi FROM xmpp_message WHERE room = $1 AND sender = $2)`,
				room, user.String()); err != nil {
				return err
			}
			_, err := tx.Exec(`DELETE FROM xmpp_message WHERE room = $1 AND sender = $2`, room, user.String())
			return err
		})
	})
}

// eachRoom calls f for each room that a table has rows of, by its index.
func (s *store) eachRoom(ctx context.Context, table string, f func(room string) error) error {
	for at := ""; ; {
		var next sql.NullString
		if err := s.db.QueryRowContext(ctx, `SELECT MIN(room) FROM `+table+` WHERE room > $1`, at).Scan(&next); err != nil {
			return err
		}
		if !next.Valid {
			return nil
		}
		at = next.String
		if err := f(at); err != nil {
			return err
		}
	}
}

// tidyEvery is how often what is over is deleted, tidyBatch how many rows of a room at once. Each tidyAll-th time all rooms are looked
// at, else only those of which something was deleted.
const (
	tidyEvery = time.Hour
	tidyBatch = 1000
	tidyAll   = 24
)

// tidy deletes what is over now, and from then on each hour, until the context is done.
func (s *service) tidy(keep time.Duration) {
	t := time.NewTicker(tidyEvery)
	defer t.Stop()
	for n := 1; ; n++ {
		if err := s.tidyOnce(s.ctx, time.Now().Add(-keep), n%tidyAll == 0); err != nil && s.ctx.Err() == nil {
			s.log.Warn().Err(err).Msg("what is over could not be deleted; it is tried again")
		}
		select {
		case <-t.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// tidyOnce deletes what is from before a time: messages with their files, the nicks of people who have left and of
// whom no message is left, and rooms in which nothing is left and in which the provider is not any more.
func (s *service) tidyOnce(ctx context.Context, before time.Time, all bool) error {
	if err := s.db.exec(`DELETE FROM xmpp_sent WHERE at < $1`, time.Now().Add(-keepSent).UnixMilli()); err != nil {
		return err
	}
	if err := s.db.exec(`DELETE FROM xmpp_plumb_message WHERE at < $1`, before.UnixMilli()); err != nil {
		return err
	}
	less := make(map[string]bool)
	if err := s.db.eachRoom(ctx, "xmpp_message", func(room string) error {
		for ctx.Err() == nil {
			n, err := s.db.dropMessages(room, before.UnixMilli())
			if err != nil {
				return err
			}
			if n > 0 {
				less[room] = true
			}
			if n < tidyBatch {
				return nil
			}
		}
		return ctx.Err()
	}); err != nil {
		return err
	}
	if all {
		for _, table := range []string{"xmpp_nick", "xmpp_member", "xmpp_read"} {
			if err := s.db.eachRoom(ctx, table, func(room string) error { less[room] = true; return nil }); err != nil {
				return err
			}
		}
	}
	for room := range less {
		if err := s.tidyRoom(ctx, room); err != nil {
			return err
		}
	}
	return nil
}

// tidyRoom forgets a room of which nothing is left, or people who are gone from it without a trace.
func (s *service) tidyRoom(ctx context.Context, room string) error {
	u, err := mimiuri.Parse(room)
	if err != nil {
		return nil
	}
	info, known, err := s.lookup(u)
	if err != nil {
		return err
	}
	if !known {
		var n int
		err := s.db.db.QueryRowContext(ctx, `SELECT count(*) FROM xmpp_message WHERE room = $1`, room).Scan(&n)
		if err != nil || n > 0 {
			return err
		}
		var occupied int // they are told first that it is over
		err = s.db.db.QueryRowContext(ctx, `SELECT count(*) FROM xmpp_occupant WHERE room = $1`, room).Scan(&occupied)
		if err != nil || occupied > 0 {
			return err
		}
		return s.db.dropRoom(u)
	}
	rows, err := s.db.nicks(ctx, u)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if _, in := participant(info, row.user); in {
			continue
		}
		if err := s.db.exec(`DELETE FROM xmpp_nick WHERE room = $1 AND person = $2
			AND NOT EXISTS (SELECT 1 FROM xmpp_message WHERE room = $1 AND sender = $2)`, room, row.user.String()); err != nil {
			return err
		}
	}
	return nil
}

// dropMessages deletes up to tidyBatch messages of a room that are from before a time, and says how many.
func (s *store) dropMessages(room string, before int64) (n int64, err error) {
	err = s.write(func(tx *sql.Tx) error {
		const old = `SELECT mimi FROM xmpp_message WHERE room = $1 AND at < $2 ORDER BY at LIMIT 0+$3`
		if _, err := tx.Exec(`DELETE FROM xmpp_file WHERE room = $1 AND mimi IN (`+old+`)`, room, before, tidyBatch); err != nil {
			return err
		}
		r, err := tx.Exec(`DELETE FROM xmpp_message WHERE room = $1 AND mimi IN (`+old+`)`, room, before, tidyBatch)
		if err != nil {
			return err
		}
		n, err = r.RowsAffected()
		return err
	})
	return n, err
}
