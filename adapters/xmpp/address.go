package xmpp

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"mellium.im/xmpp/jid"

	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// addr is a JID in its three parts. The server has prepared what it routes; addresses that people type
// go through prepare first.
type addr struct{ local, domain, resource string }

var errJID = errors.New("xmpp: not a JID")

// maxPart is the most octets a part of a JID may have (RFC 7622 section 3).
const maxPart = 1023

// parseAddr splits a JID that came over the stream. The resource is left as it is: a resource that newer or older
// string preparation than ours accepts still has to be answered.
func parseAddr(s string) (addr, error) {
	local, domain, resource, err := jid.SplitString(s)
	if err != nil {
		return addr{}, fmt.Errorf("%w: %v", errJID, err)
	}
	if domain == "" || len(local) > maxPart || len(domain) > maxPart || len(resource) > maxPart || !utf8.ValidString(s) {
		return addr{}, errJID
	}
	return addr{local, strings.ToLower(strings.TrimSuffix(domain, ".")), resource}, nil
}

// prepare reads a JID that a person wrote, by the rules of RFC 7622.
func prepare(s string) (addr, error) {
	j, err := jid.Parse(strings.TrimSpace(s))
	if err != nil {
		return addr{}, fmt.Errorf("%w: %v", errJID, err)
	}
	return addr{j.Localpart(), j.Domainpart(), j.Resourcepart()}, nil
}

func (a addr) isZero() bool { return a == addr{} }

func (a addr) bare() addr { return addr{a.local, a.domain, ""} }

func (a addr) with(resource string) addr { return addr{a.local, a.domain, resource} }

func (a addr) String() string {
	s := a.domain
	if a.local != "" {
		s = a.local + "@" + s
	}
	if a.resource != "" {
		s += "/" + a.resource
	}
	return s
}

// escape106 is XEP-0106 with every backslash escaped, so that it can be undone without exceptions. The
// transformer of mellium.im/xmpp/jid unescapes wrongly what has text in front of the escape.
func escape106(s string) string {
	if !strings.ContainsAny(s, escaped106) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; strings.IndexByte(escaped106, c) >= 0 {
			b.WriteByte('\\')
			b.WriteByte("0123456789abcdef"[c>>4])
			b.WriteByte("0123456789abcdef"[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

const escaped106 = ` "&'/:<>@\`

// unescape106 undoes escape106; ok is false for what escape106 does not make.
func unescape106(s string) (_ string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		hi, lo := strings.IndexByte("0123456789abcdef", s[i+1]), strings.IndexByte("0123456789abcdef", s[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	out := b.String()
	return out, escape106(out) == s
}

var base32hex = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// plainID reports whether an id can stand in a local part as it is, but for XEP-0106: no server folds it into
// something else, and it is not taken for one of the other forms. A space at either end is what XEP-0106
// section 4.2 forbids.
func plainID(id string) bool {
	if id == "" || id[0] == '~' || id[0] == ' ' || id[len(id)-1] == ' ' {
		return false
	}
	for i := 0; i < len(id); i++ {
		if c := id[i]; c < ' ' || c > '~' || c == '%' || c >= 'A' && c <= 'Z' {
			return false
		}
	}
	return true
}

// Local parts. For an id at a host:
//
//	plain id, own host       balcony
//	plain id                 clubhouse%hub.example        clubhouse%hub.example\3a8443
//	any other id             ~8tihv8bq%hub.example        "~" and base32hex of the octets
//	more than 1,023 octets   ~~ and base32hex of the SHA-256 of the URI: an alias, kept in the database
//
// The host is behind the last "%", which no id has in this spelling. Each URI has exactly one local part; other
// spellings that would decode to it (capital letters, "~" where it is not needed, the own host) are not
// addresses of anything, so that one room is never two.

// encodeLocal gives the local part for an id at host; own is left out if it is the host. long is true if
// the result is an alias, which has to be kept to be understood.
func encodeLocal(u mimiuri.URI, own string) (local string, long bool) {
	id := u.ID
	if plainID(id) {
		local = escape106(id)
	} else {
		local = "~" + base32hex.EncodeToString([]byte(id))
	}
	if u.Domain != own {
		local += "%" + escape106(u.Domain)
	}
	if len(local) <= maxPart {
		return local, false
	}
	sum := sha256.Sum256([]byte(u.String()))
	return "~~" + base32hex.EncodeToString(sum[:]), true
}

// isAlias reports whether a local part is a stored alias.
func isAlias(local string) bool { return strings.HasPrefix(local, "~~") }

// decodeLocal undoes encodeLocal, for local parts that are no alias. ok is false for anything that
// encodeLocal does not give.
func decodeLocal(local string, kind mimiuri.Kind, own string) (_ mimiuri.URI, ok bool) {
	if len(local) > maxPart || isAlias(local) {
		return mimiuri.URI{}, false
	}
	name, host := local, own
	if i := strings.LastIndexByte(local, '%'); i >= 0 {
		h, ok := unescape106(local[i+1:])
		if !ok {
			return mimiuri.URI{}, false
		}
		name, host = local[:i], h
	}
	var id string
	if strings.HasPrefix(name, "~") {
		b, err := base32hex.DecodeString(name[1:])
		if err != nil {
			return mimiuri.URI{}, false
		}
		id = string(b)
	} else if id, ok = unescape106(name); !ok {
		return mimiuri.URI{}, false
	}
	u, err := mimiuri.New(host, kind, id)
	if err != nil {
		return mimiuri.URI{}, false
	}
	if back, long := encodeLocal(u, own); long || back != local {
		return mimiuri.URI{}, false
	}
	return u, true
}

// addresses translates between JIDs and MIMI URIs.
type addresses struct {
	domain string // the provider's MIMI domain
	users  string // component domain of the gateway and of users elsewhere
	rooms  string // component domain of the rooms
	local  string // domain of the server's own users
	db     *store // aliases; nil in tests without long names
}

// roomJID gives the bare JID of a room. It does database work only for very long URIs.
func (m *addresses) roomJID(u mimiuri.URI) addr {
	return addr{m.localPart(u), m.rooms, ""}
}

func (m *addresses) localPart(u mimiuri.URI) string {
	local, long := encodeLocal(u, m.domain)
	if long && m.db != nil {
		// A failure to store only means that answers to this address find nothing; the next use stores it.
		_ = m.db.keepAlias(local, u)
	}
	return local
}

// room gives the room that the local part of an address at the rooms domain names. ASCII is folded, as
// not every server folds what it routes to a component.
func (m *addresses) room(local string) (mimiuri.URI, bool) {
	return m.uri(local, mimiuri.Room)
}

func (m *addresses) uri(local string, kind mimiuri.Kind) (mimiuri.URI, bool) {
	local = foldASCII(local)
	if isAlias(local) {
		if m.db == nil {
			return mimiuri.URI{}, false
		}
		u, ok := m.db.alias(local)
		return u, ok && u.Kind == kind
	}
	return decodeLocal(local, kind, m.domain)
}

// contact gives the user elsewhere that the local part of an address at the users domain names.
func (m *addresses) contact(local string) (mimiuri.URI, bool) {
	u, ok := m.uri(local, mimiuri.User)
	if !ok || u.Domain == m.domain {
		return mimiuri.URI{}, false // own users have their real JID
	}
	return u, true
}

// userJID gives the bare JID under which the XMPP side knows a user.
func (m *addresses) userJID(u mimiuri.URI) addr {
	if u.Domain == m.domain {
		if a, ok := m.ownJID(u); ok {
			return a
		}
	}
	return addr{m.localPart(u), m.users, ""}
}

// ownJID gives the JID of a user of this provider: alice for a user of the own server, bob@other.net for one
// of another. ok is false if no JID has that name.
func (m *addresses) ownJID(u mimiuri.URI) (_ addr, ok bool) {
	if u.Domain != m.domain || u.Kind != mimiuri.User {
		return addr{}, false
	}
	var a addr
	if local, domain, found := strings.Cut(u.ID, "@"); found {
		a = addr{local, domain, ""}
		if domain == m.local || domain == m.users || domain == m.rooms || domain == "" || strings.ContainsAny(domain, "@/") {
			return addr{}, false
		}
	} else {
		a = addr{u.ID, m.local, ""}
	}
	if a.local == "" || len(a.local) > maxPart || len(a.domain) > maxPart || strings.ContainsAny(a.local, "\"&'/:<>@ ") {
		return addr{}, false
	}
	return a, true
}

// person gives the URI of the XMPP user with this JID, who is a user of this provider.
func (m *addresses) person(a addr) (mimiuri.URI, bool) {
	if a.local == "" || a.domain == m.users || a.domain == m.rooms {
		return mimiuri.URI{}, false
	}
	id := a.local
	if a.domain != m.local {
		id += "@" + a.domain
	}
	u, err := mimiuri.New(m.domain, mimiuri.User, id)
	if err != nil {
		return mimiuri.URI{}, false
	}
	if back, ok := m.ownJID(u); !ok || back != a.bare() {
		return mimiuri.URI{}, false
	}
	return u, true
}

// user gives the user that a bare JID stands for: a contact at the users domain, or a person.
func (m *addresses) user(a addr) (mimiuri.URI, bool) {
	if a.domain == m.users {
		return m.contact(a.local)
	}
	return m.person(a)
}

// anyUser reads how people write a user: a JID, or a MIMI URI.
func (m *addresses) anyUser(s string) (mimiuri.URI, bool) {
	s = strings.TrimSpace(s)
	if u, err := mimiuri.ParseKind(s, mimiuri.User); err == nil {
		return u, true
	}
	a, err := prepare(trimXMPP(s))
	if err != nil {
		return mimiuri.URI{}, false
	}
	return m.user(a.bare())
}

// anyRoom reads how people write a room: its JID, a MIMI URI, or the name of one of the own domain.
func (m *addresses) anyRoom(s string) (mimiuri.URI, bool) {
	s = strings.TrimSpace(s)
	if u, err := mimiuri.ParseKind(s, mimiuri.Room); err == nil {
		return u, true
	}
	s = trimXMPP(s)
	if !strings.Contains(s, "@") {
		return m.room(s)
	}
	a, err := prepare(s)
	if err != nil || a.domain != m.rooms {
		return mimiuri.URI{}, false
	}
	return m.room(a.local)
}

// trimXMPP takes the scheme and the query from an xmpp: URI.
func trimXMPP(s string) string {
	if len(s) > 5 && strings.EqualFold(s[:5], "xmpp:") {
		s, _, _ = strings.Cut(s[5:], "?")
	}
	return s
}

func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
