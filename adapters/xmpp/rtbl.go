package xmpp

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Lists of banned addresses that are followed in real time (RTBL): a pubsub node (XEP-0060) whose items are named by the SHA-256, in
// hexadecimal, of a bare address or of a domain. Whoever is on one may not enter rooms, send messages, invite or ask for consent; what
// they are part of already they may leave. It holds for people elsewhere by their address here (name%domain@…) and by their provider's domain.
// What a list said last holds while its service cannot be reached.

const (
	nsPubSubEvent   = nsPubSub + "#event"
	defaultListNode = "muc_bans_sha256"
	maxListed       = 500_000 // hashes of a list
	listPage        = 500
	listEvery       = time.Hour
)

// blocklist is a list that is followed.
type blocklist struct{ service, node string }

// readBlocklist reads "service" or "service/node".
func readBlocklist(text string) (blocklist, bool) {
	text = strings.TrimPrefix(text, "xmpp:")
	service, node, ok := strings.Cut(text, "/")
	if !ok || node == "" {
		node = defaultListNode
	}
	a, err := prepare(service)
	return blocklist{a.bare().String(), node}, err == nil && len(node) <= 256
}

func (l blocklist) name() string { return l.service + "/" + l.node }

// blocklists are all that is listed, in memory.
type blocklists struct {
	mu   sync.Mutex
	set  map[string]map[string]bool // by name
	last map[string]time.Time       // when a list was read as a whole
}

// hashOf is how lists name an address or a domain.
func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// listed tells whether a bare address, or its domain, is on a list.
func (s *service) listed(a addr) bool {
	s.lists.mu.Lock()
	defer s.lists.mu.Unlock()
	some := false
	for _, set := range s.lists.set {
		some = some || len(set) > 0
	}
	if !some {
		return false
	}
	hashes := []string{hashOf(a.bare().String()), hashOf(a.domain)}
	if a.domain == s.users {
		if u, ok := s.contact(a.local); ok {
			hashes[1] = hashOf(u.Domain)
		}
	}
	for _, set := range s.lists.set {
		for _, h := range hashes {
			if set[h] {
				return true
			}
		}
	}
	return false
}

// loadLists reads what the lists said before.
func (s *service) loadLists() error {
	s.lists.set, s.lists.last = make(map[string]map[string]bool), make(map[string]time.Time)
	for _, l := range s.cfg.lists {
		s.lists.set[l.name()] = make(map[string]bool)
	}
	rows, err := s.db.db.Query(`SELECT list, hash FROM xmpp_listed`)
	if err != nil {
		return err
	}
	defer rows.Close()
	gone := make(map[string]bool)
	for rows.Next() {
		var list, hash string
		if err := rows.Scan(&list, &hash); err != nil {
			return err
		}
		if set := s.lists.set[list]; set != nil {
			set[hash] = true
		} else {
			gone[list] = true
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close()
	for list := range gone { // followed no more
		if err := s.db.exec(`DELETE FROM xmpp_listed WHERE list = $1`, list); err != nil {
			return err
		}
	}
	return nil
}

// followLists subscribes to the lists and reads them, and does so again from time to time: a subscription may have been lost.
func (s *service) followLists() {
	for _, l := range s.cfg.lists {
		s.work.post("list "+l.name(), func() { s.followList(l) })
	}
}

func (s *service) followList(l blocklist) {
	ask := func(typ string, payload ...*element) (*element, error) {
		return s.request(s.toUser, el("", "iq", "type", typ, "from", s.users, "to", l.service).add(el(nsPubSub, "pubsub").add(payload...)))
	}
	// A list that is read after the subscription misses nothing.
	if _, err := ask("set", el(nsPubSub, "subscribe", "node", l.node, "jid", s.users)); err != nil {
		s.log.Warn().Err(err).Str("list", l.name()).Msg("a list of banned addresses could not be subscribed to")
	}
	now := make(map[string]bool)
	for after := ""; ; {
		page := el(nsRSM, "set").add(textEl(nsRSM, "max", strconv.Itoa(listPage)))
		if after != "" {
			page.add(textEl(nsRSM, "after", after))
		}
		result, err := ask("get", el(nsPubSub, "items", "node", l.node), page)
		if err != nil || result == nil {
			s.log.Warn().Err(err).Str("list", l.name()).Msg("a list of banned addresses could not be read; what it said before holds")
			return
		}
		before := len(now)
		if list := result.child(nsPubSub, "items"); list != nil {
			for _, k := range list.Kids {
				if k.Local == "item" && isHash(k.attr("id")) && len(now) < maxListed {
					now[strings.ToLower(k.attr("id"))] = true
				}
			}
		}
		// A service without pages (XEP-0059) gives everything at once.
		next := result.child(nsRSM, "set").text(nsRSM, "last")
		if next == "" || next == after || len(now) == before {
			break
		}
		after = next
	}
	s.lists.mu.Lock()
	old := s.lists.set[l.name()]
	var add, drop []string
	for h := range now {
		if !old[h] {
			add = append(add, h)
		}
	}
	for h := range old {
		if !now[h] {
			drop = append(drop, h)
		}
	}
	s.lists.last[l.name()] = time.Now()
	s.lists.mu.Unlock()
	s.list(l, add, drop)
	s.log.Info().Str("list", l.name()).Int("hashes", len(now)).Int("added", len(add)).Int("removed", len(drop)).Msg("a list of banned addresses was read")
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size
}

// list notes what is on a list and what is not any more: on disk first.
func (s *service) list(l blocklist, add, drop []string) {
	for len(add)+len(drop) > 0 {
		a, d := add[:min(len(add), 500)], drop[:min(len(drop), 500)]
		add, drop = add[len(a):], drop[len(d):]
		err := s.db.write(func(tx *sql.Tx) error {
			for _, h := range a {
				if _, err := tx.Exec(`INSERT INTO xmpp_listed (list, hash) VALUES ($1, $2) ON CONFLICT (list, hash) DO NOTHING`, l.name(), h); err != nil {
					return err
				}
			}
			for _, h := range d {
				if _, err := tx.Exec(`DELETE FROM xmpp_listed WHERE list = $1 AND hash = $2`, l.name(), h); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			s.log.Warn().Err(err).Msg("a list of banned addresses could not be stored")
			return
		}
		s.lists.mu.Lock()
		set := s.lists.set[l.name()]
		for _, h := range a {
			if len(set) < maxListed {
				set[h] = true
			}
		}
		for _, h := range d {
			delete(set, h)
		}
		s.lists.mu.Unlock()
	}
}

// listNews takes a notification of a list's service; false for any other message. Only the service itself is believed.
func (s *service) listNews(in *packet) bool {
	e := find(in.kids, nsPubSubEvent, "event")
	if e == nil || in.from.resource != "" || in.typ == "error" {
		return false
	}
	for _, k := range e.Kids {
		for _, l := range s.cfg.lists {
			if l.service != in.from.String() || l.node != k.attr("node") {
				continue
			}
			switch k.Local {
			case "items":
				var add, drop []string
				for _, x := range k.Kids {
					h := strings.ToLower(x.attr("id"))
					switch {
					case !isHash(h):
					case x.Local == "item":
						add = append(add, h)
					case x.Local == "retract":
						drop = append(drop, h)
					}
				}
				s.work.post("list "+l.name(), func() { s.list(l, add, drop) })
			case "purge":
				s.work.post("list "+l.name(), func() {
					s.lists.mu.Lock()
					var all []string
					for h := range s.lists.set[l.name()] {
						all = append(all, h)
					}
					s.lists.mu.Unlock()
					s.list(l, nil, all)
				})
			}
		}
	}
	return true
}

// tendLists reads the lists again from time to time.
func (s *service) tendLists() {
	t := time.NewTicker(listEvery)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
			if !s.gone.Load() {
				s.followLists()
			}
		}
	}
}

// forListed are the commands that are left to who is on a list.
func forListed(command string) bool {
	switch command {
	case "leave", "rooms", "contacts", "refuse", "block", "blocked", "unblock", "export", "delete", "help":
		return true
	}
	return false
}
