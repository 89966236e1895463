package xmpp

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Tables of plumbed rooms and of what else is followed; see the schema in store.go.

// Who has said a message in a plumbed room.
const (
	plumbByOccupant = 1
	plumbByPuppet   = 2 // or the bridge
)

// How somebody stands to a plumbed room.
const (
	plumbJoined = "joined" // takes part in the MIMI room by having been in the conference room
	plumbLeft   = "left"   // local, has left the MIMI room
	plumbQuiet  = "quiet"  // elsewhere, was put out of the conference room
)

func (s *store) keepPlumb(p *plumb) error {
	return s.exec(`INSERT INTO xmpp_plumb (muc, room, person, mode, code, at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (muc) DO UPDATE SET room = excluded.room, person = excluded.person, mode = excluded.mode, code = excluded.code, at = excluded.at`,
		p.muc.String(), p.uri.String(), p.by.String(), p.mode, p.code, p.at.UnixMilli())
}

func (s *store) dropPlumb(muc addr) error {
	return s.write(func(tx *sql.Tx) error {
		for _, table := range []string{"xmpp_plumb", "xmpp_plumb_message", "xmpp_plumb_person", "xmpp_plumb_id"} {
			if _, err := tx.Exec(`DELETE FROM `+table+` WHERE muc = $1`, muc.String()); err != nil {
				return err
			}
		}
		return nil
	})
}

// loadPlumbs reads the plumbed rooms, once, at the start.
func (s *service) loadPlumbs(ctx context.Context) error {
	rows, err := s.db.db.QueryContext(ctx, `SELECT muc, room, person, mode, code, at FROM xmpp_plumb`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var muc, room, person, mode, code string
		var at int64
		if err := rows.Scan(&muc, &room, &person, &mode, &code, &at); err != nil {
			return err
		}
		a, err1 := parseAddr(muc)
		u, err2 := mimiuri.Parse(room)
		by, err3 := mimiuri.Parse(person)
		if err1 != nil || err2 != nil || err3 != nil {
			continue
		}
		p := s.newPlumb(a, u, by, mode)
		p.code, p.at, p.active = code, time.UnixMilli(at), code == ""
		s.plumbs.byMUC[a] = p
		if p.active {
			s.plumbs.byRoom[u] = p
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, p := range s.plumbs.byMUC {
		people, err := s.db.plumbPeople(ctx, p.muc)
		if err != nil {
			return err
		}
		for u, how := range people {
			p.quiet[u] = how == plumbQuiet
			p.left[u] = how == plumbLeft
		}
	}
	return nil
}

func (s *store) keepPlumbPerson(muc addr, u mimiuri.URI, how string) error {
	return s.exec(`INSERT INTO xmpp_plumb_person (muc, person, how) VALUES ($1, $2, $3) ON CONFLICT (muc, person) DO UPDATE SET how = excluded.how`,
		muc.String(), u.String(), how)
}

func (s *store) dropPlumbPerson(muc addr, u mimiuri.URI) error {
	return s.exec(`DELETE FROM xmpp_plumb_person WHERE muc = $1 AND person = $2`, muc.String(), u.String())
}

func (s *store) plumbPeople(ctx context.Context, muc addr) (map[mimiuri.URI]string, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT person, how FROM xmpp_plumb_person WHERE muc = $1`, muc.String())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := make(map[mimiuri.URI]string)
	for rows.Next() {
		var person, how string
		if err := rows.Scan(&person, &how); err != nil {
			return nil, err
		}
		if u, err := mimiuri.Parse(person); err == nil {
			out[u] = how
		}
	}
	return out, rows.Err()
}

// keepPlumbMessage notes under which stanza-id a conference room has shown a message. sid may be empty: not every service has one.
func (s *store) keepPlumbMessage(muc addr, id content.MessageID, sid string, by int) error {
	return s.exec(`INSERT INTO xmpp_plumb_message (muc, mimi, sid, said, at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (muc, mimi) DO NOTHING`,
		muc.String(), id.String(), sid, by, time.Now().UnixMilli())
}

func (s *store) plumbKnows(muc addr, id content.MessageID) (bool, error) {
	var n int
	err := s.db.QueryRow(`SELECT 1 FROM xmpp_plumb_message WHERE muc = $1 AND mimi = $2`, muc.String(), id.String()).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// plumbBy tells who has said a message in the conference room, 0 if nobody has.
func (s *store) plumbBy(muc addr, id content.MessageID) (by int) {
	if s.db.QueryRow(`SELECT said FROM xmpp_plumb_message WHERE muc = $1 AND mimi = $2`, muc.String(), id.String()).Scan(&by) != nil {
		return 0
	}
	return by
}

func (s *store) plumbSID(muc addr, id content.MessageID) (sid string) {
	if s.db.QueryRow(`SELECT sid FROM xmpp_plumb_message WHERE muc = $1 AND mimi = $2`, muc.String(), id.String()).Scan(&sid) != nil {
		return ""
	}
	return sid
}

func (s *store) plumbMIMI(muc addr, sid string) (content.MessageID, bool) {
	var text string
	if sid == "" || s.db.QueryRow(`SELECT mimi FROM xmpp_plumb_message WHERE muc = $1 AND sid = $2`, muc.String(), sid).Scan(&text) != nil {
		return content.MessageID{}, false
	}
	id, err := content.ParseMessageID(text)
	return id, err == nil
}

// keepPlumbID notes whose an occupant-id is (XEP-0421): in what a room sends of before there is nothing else that says so.
func (s *store) keepPlumbID(muc addr, id string, u mimiuri.URI) error {
	return s.exec(`INSERT INTO xmpp_plumb_id (muc, id, person) VALUES ($1, $2, $3) ON CONFLICT (muc, id) DO UPDATE SET person = excluded.person`,
		muc.String(), id, u.String())
}

func (s *store) plumbID(muc addr, id string) (mimiuri.URI, bool) {
	var text string
	if s.db.QueryRow(`SELECT person FROM xmpp_plumb_id WHERE muc = $1 AND id = $2`, muc.String(), id).Scan(&text) != nil {
		return mimiuri.URI{}, false
	}
	u, err := mimiuri.Parse(text)
	return u, err == nil
}
