// Package mimiuri parses, compares and builds MIMI URIs (draft-ietf-mimi-protocol, "Example protocol
// flow", and draft-ietf-mimi-arch):
//
//	mimi://a.example             a provider
//	mimi://a.example/u/alice     a user
//	mimi://a.example/d/ClientA1  a client
//	mimi://a.example/r/clubhouse a room
//	mimi://a.example/g/clubhouse the MLS group of a room
//
// A URI is a comparable value and can be the key of a map. Two URIs are the same if they are equal after
// the domain is lower-case ASCII (IDNA A-labels) and percent-encoding is undone; the id is case-sensitive.
package mimiuri

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Kind is the one-letter path segment that says what a URI names; Provider has none.
type Kind byte

const (
	Provider Kind = 0
	User     Kind = 'u'
	Client   Kind = 'd'
	Room     Kind = 'r'
	Group    Kind = 'g'
)

// MaxLen bounds a URI in octets, as Parse takes it and as String gives it.
const MaxLen = 2048

// URI is a parsed MIMI URI. The zero value is no URI: IsZero reports true and String gives "".
type URI struct {
	Domain string // lower-case, A-labels, with ":port" if one was given
	Kind   Kind
	ID     string // percent-decoded UTF-8; may contain "/" for clients
}

// ErrInvalid is wrapped by every error of Parse.
var ErrInvalid = errors.New("mimiuri: not a MIMI URI")

func invalid(s, why string) error {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return fmt.Errorf("%w: %q: %s", ErrInvalid, s, why)
}

// Parse reads a URI in any valid spelling. It does no I/O.
func Parse(s string) (URI, error) {
	if len(s) > MaxLen {
		return URI{}, invalid(s, "longer than 2048 octets")
	}
	rest, ok := cutPrefixFold(s, "mimi://")
	if !ok {
		return URI{}, invalid(s, "it does not begin with mimi://")
	}
	authority, path, hasPath := strings.Cut(rest, "/")
	domain, err := NormalizeDomain(authority)
	if err != nil {
		return URI{}, invalid(s, err.Error())
	}
	if !hasPath || path == "" {
		return URI{Domain: domain}, nil
	}
	if len(path) < 3 || path[1] != '/' {
		return URI{}, invalid(s, "the path is not /u/, /d/, /r/ or /g/ and an identifier")
	}
	kind := Kind(path[0])
	switch kind {
	case User, Client, Room, Group:
	default:
		return URI{}, invalid(s, "unknown kind of identifier")
	}
	if strings.ContainsAny(path, "?#") {
		return URI{}, invalid(s, "a query or a fragment is not allowed")
	}
	id, err := url.PathUnescape(path[2:])
	if err != nil {
		return URI{}, invalid(s, "bad percent-encoding")
	}
	u := URI{Domain: domain, Kind: kind, ID: id}
	if err := u.check(); err != nil {
		return URI{}, invalid(s, err.Error())
	}
	return u, nil
}

// ParseKind is Parse for a place where only one kind makes sense.
func ParseKind(s string, k Kind) (URI, error) {
	u, err := Parse(s)
	if err == nil && u.Kind != k {
		err = invalid(s, "it names another kind of thing than expected here")
	}
	if err != nil {
		return URI{}, err
	}
	return u, nil
}

// New builds a URI from its parts; the id is given unescaped.
func New(domain string, k Kind, id string) (URI, error) {
	d, err := NormalizeDomain(domain)
	if err != nil {
		return URI{}, fmt.Errorf("%w: %s", ErrInvalid, err)
	}
	u := URI{Domain: d, Kind: k, ID: id}
	if err := u.check(); err != nil {
		return URI{}, fmt.Errorf("%w: %s", ErrInvalid, err)
	}
	return u, nil
}

// MustParse is Parse for constants and tests; it panics on an error.
func MustParse(s string) URI {
	u, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

func (u URI) check() error {
	if u.Kind == Provider {
		if u.ID != "" {
			return errors.New("a provider has no identifier")
		}
		return nil
	}
	if u.ID == "" {
		return errors.New("the identifier is empty")
	}
	if !utf8.ValidString(u.ID) {
		return errors.New("the identifier is not UTF-8")
	}
	for _, r := range u.ID {
		if r < 0x20 || r == 0x7f {
			return errors.New("the identifier has a control character")
		}
	}
	if len(u.String()) > MaxLen {
		return errors.New("longer than 2048 octets")
	}
	return nil
}

// IsZero reports whether u is the zero value.
func (u URI) IsZero() bool { return u == URI{} }

// String gives the one canonical spelling, "" for the zero value.
func (u URI) String() string {
	if u.IsZero() {
		return ""
	}
	if u.Kind == Provider {
		return "mimi://" + u.Domain
	}
	var b strings.Builder
	b.Grow(len(u.Domain) + len(u.ID) + 12)
	b.WriteString("mimi://")
	b.WriteString(u.Domain)
	b.WriteByte('/')
	b.WriteByte(byte(u.Kind))
	b.WriteByte('/')
	for i := 0; i < len(u.ID); i++ {
		c := u.ID[i]
		if isPathChar(c) {
			b.WriteByte(c)
		} else {
			const hex = "0123456789ABCDEF"
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// Provider returns the URI's provider, mimi://domain.
func (u URI) Provider() URI { return URI{Domain: u.Domain} }

// GroupOf returns the MLS group URI of a room (same id, kind g).
func (u URI) GroupOf() URI { return URI{Domain: u.Domain, Kind: Group, ID: u.ID} }

// MarshalText and UnmarshalText let a URI stand in YAML, JSON and log fields.
func (u URI) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

func (u *URI) UnmarshalText(b []byte) error {
	p, err := Parse(string(b))
	if err == nil {
		*u = p
	}
	return err
}

// pchar of RFC 3986 section 3.3, and "/" inside the id (client ids contain one).
func isPathChar(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-._~!$&'()*+,;=:@/", c) >= 0
}

// NormalizeDomain returns a domain as it stands in a URI and in comparisons: A-labels, lower case, no
// final dot; a port stays. It refuses user info, empty labels and what IDNA refuses.
func NormalizeDomain(d string) (string, error) {
	if len(d) > 512 {
		return "", errors.New("the domain is too long")
	}
	host, port := d, ""
	if i := strings.LastIndexByte(d, ':'); i >= 0 && !strings.HasPrefix(d, "[") {
		host, port = d[:i], d[i:]
		if len(port) < 2 || len(port) > 6 || strings.Trim(port[1:], "0123456789") != "" {
			return "", errors.New("bad port")
		}
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" {
		return "", errors.New("the domain is empty")
	}
	if strings.HasSuffix(host, ".") {
		return "", errors.New("the domain ends in several dots")
	}
	for i := 0; i < len(host); i++ {
		if c := host[i]; c <= ' ' || c == 0x7f || strings.IndexByte("@/\\?#%[]<>\"", c) >= 0 {
			return "", errors.New("the domain has a character that no domain has")
		}
	}
	ascii, err := idna.Lookup.ToASCII(host)
	if err != nil {
		// Lookup is strict about underscores and the like, which real host names have; what is plain
		// ASCII is taken as it is.
		if strings.IndexFunc(host, func(r rune) bool { return r > 126 }) >= 0 {
			return "", errors.New("the domain is not valid")
		}
		ascii = strings.ToLower(host)
	}
	if len(ascii) > 253 || strings.HasSuffix(ascii, ".") || strings.Contains(ascii, "..") || strings.HasPrefix(ascii, ".") {
		return "", errors.New("the domain is not valid")
	}
	return strings.ToLower(ascii) + port, nil
}

// Host is a domain without its port. Domains of one host are different providers, but whoever has the host's certificate can be any
// of them: what holds for a peer as a whole, a limit or a block, holds for the host.
func Host(domain string) string {
	if i := strings.LastIndexByte(domain, ':'); i >= 0 && !strings.HasSuffix(domain, "]") {
		return domain[:i]
	}
	return domain
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
