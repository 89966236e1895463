package xmpp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Name is what Adapter.Name returns.
const Name = "xmpp"

// Config is what the adapter needs to know of the XMPP server. Both component domains use the same port and
// secret.
type Config struct {
	// Server is the "host:port" on which the server takes component connections.
	Server string
	// TLS is set for a port that speaks TLS from the first octet on; its ServerName defaults to the host
	// of Server. Nil means plain, for a server on this machine or behind a tunnel.
	TLS *tls.Config
	// Secret is the component secret. It is never logged.
	Secret string

	LocalDomain string // the server's own users: "example.org"
	Users       string // component domain of the gateway and of users elsewhere: "mimi.example.org"
	Rooms       string // component domain of the rooms: "rooms.mimi.example.org"

	// MaxStanza is the most octets of a stanza that is taken in; a larger one is answered with an error.
	// Zero is 512 KiB.
	MaxStanza int
	// MaxBody is the most octets of text that goes out in one message; a longer text goes out in several.
	// It has to be below what the server takes from a component (512 KiB in Prosody). Zero is 64 KiB.
	MaxBody int
	// Keep is for how long the ids of messages are kept, by which stanzas refer to them and by which they are found in archives. It
	// should be what the provider keeps ids for. Zero is 90 days.
	Keep time.Duration

	// PlumbNick is the nick of the bridge in chat rooms that are connected with MIMI rooms (see plumb.go). Empty is "MIMI".
	PlumbNick string
	// Puppets is who speaks for people elsewhere there if nothing is said: "speakers", they themselves while they speak, or
	// "none", the bridge. Empty is speakers.
	Puppets string
	// OtherBridges are patterns (path.Match) of addresses, or, without an "@", of nicks that are puppets of another bridge: a room
	// with one of them is not connected, and is not served while one is in it.
	OtherBridges []string
	// Blocklists are lists of banned addresses to follow (see rtbl.go): "pubsub.example.org/node", or only the service for
	// the node muc_bans_sha256.
	Blocklists []string

	lists []blocklist // Blocklists, read
}

// Adapter is the XMPP adapter. All methods may be called concurrently.
type Adapter struct {
	cfg Config
	run sync.Mutex              // held by Run
	cur atomic.Pointer[service] // nil while Run does not run
}

var (
	_ adapter.Adapter      = (*Adapter)(nil)
	_ adapter.BatchAdapter = (*Adapter)(nil)
)

// New checks the configuration and returns the adapter. It does no I/O.
func New(cfg Config) (adapter.Adapter, error) {
	if _, _, err := net.SplitHostPort(cfg.Server); err != nil {
		return nil, fmt.Errorf("xmpp: server %q is not host:port: %w", cfg.Server, err)
	}
	if cfg.Secret == "" {
		return nil, errors.New("xmpp: the component secret is empty")
	}
	seen := make(map[string]string)
	for _, d := range []struct {
		name   string
		domain *string
	}{{"local domain", &cfg.LocalDomain}, {"users domain", &cfg.Users}, {"rooms domain", &cfg.Rooms}} {
		a, err := prepare(*d.domain)
		if err != nil || a.local != "" || a.resource != "" || *d.domain == "" {
			return nil, fmt.Errorf("xmpp: %s %q is not a domain", d.name, *d.domain)
		}
		*d.domain = strings.ToLower(a.domain)
		if other := seen[*d.domain]; other != "" {
			return nil, fmt.Errorf("xmpp: %s and %s are both %q; they have to be different", other, d.name, *d.domain)
		}
		seen[*d.domain] = d.name
	}
	if cfg.MaxStanza == 0 {
		cfg.MaxStanza = 512 << 10
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 64 << 10
	}
	if cfg.Keep == 0 {
		cfg.Keep = 90 * 24 * time.Hour
	}
	if cfg.MaxStanza < 10_000 || cfg.MaxBody < 1000 {
		return nil, errors.New("xmpp: a stanza of less than 10,000 octets, or a text of less than 1,000, is not enough to work with")
	}
	if cfg.PlumbNick == "" {
		cfg.PlumbNick = "MIMI"
	}
	if cfg.Puppets == "" {
		cfg.Puppets = plumbSpeakers
	}
	if cfg.Puppets != plumbSpeakers && cfg.Puppets != plumbNone {
		return nil, fmt.Errorf("xmpp: puppets are %q; it is %s or %s", cfg.Puppets, plumbSpeakers, plumbNone)
	}
	for _, pattern := range cfg.OtherBridges {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return nil, fmt.Errorf("xmpp: other_bridges: %q is no pattern", pattern)
		}
	}
	for _, text := range cfg.Blocklists {
		l, ok := readBlocklist(text)
		if !ok {
			return nil, fmt.Errorf("xmpp: blocklists: %q is no service, or service/node", text)
		}
		cfg.lists = append(cfg.lists, l)
	}
	return &Adapter{cfg: cfg}, nil
}

// Name implements adapter.Adapter.
func (a *Adapter) Name() string { return Name }

// errNotRunning is returned to those who call before Run or after its end.
var errNotRunning = fault.New(fault.Unavailable, "the XMPP side is not running; it will be tried again")

// Run implements adapter.Adapter. It returns an error only if the database cannot be used; a server that is
// down or refuses the secret is tried again, with a log line each time.
func (a *Adapter) Run(ctx context.Context, host adapter.Host) error {
	a.run.Lock()
	defer a.run.Unlock()
	s, err := newService(ctx, a.cfg, host)
	if err != nil {
		return err
	}
	a.cur.Store(s)
	defer a.cur.Store(nil)
	s.serve()
	return nil
}

// Deliver implements adapter.Adapter. It returns nil once the XMPP server has handled every stanza that shows
// the event (see stream), or if the event is shown to nobody. While the server cannot be reached, and
// somebody would have to be shown the event, the error is temporary.
func (a *Adapter) Deliver(ctx context.Context, ev adapter.Event) error {
	_, err := a.DeliverBatch(ctx, []adapter.Event{ev})
	return err
}

// DeliverBatch is Deliver for several events, in their order, at the cost of one round trip to the server
// instead of one each. It returns how many of them were delivered, which is less than all only together with an
// error. It implements adapter.BatchAdapter.
//
// Several calls of Deliver at once share round trips, too: one ping confirms all that went before it.
func (a *Adapter) DeliverBatch(ctx context.Context, events []adapter.Event) (done int, err error) {
	s := a.cur.Load()
	if s == nil {
		return 0, errNotRunning
	}
	s.working.RLock()
	defer s.working.RUnlock()
	if s.gone.Load() {
		return len(events), nil
	}
	var shown []delivery
	var stop error
	for _, ev := range events {
		m, err := s.show(ctx, ev)
		if err != nil {
			stop = err
			break
		}
		shown = append(shown, m)
	}
	// The first ping is behind all of them: the others are found confirmed.
	for i, m := range shown {
		if err := s.confirm(ctx, m); err != nil {
			return i, err
		}
	}
	return len(shown), stop
}

// LocalUser implements adapter.Adapter. XMPP has no way to ask a server whether an account exists: for somebody who
// shares no presence with the asker, servers answer for an account as they do for none (RFC 6121 section
// 8.5). So a user exists if there can be a JID of that name and the configuration lets it use the
// provider. An invitation to an account that does not exist comes back from the server and is logged.
func (a *Adapter) LocalUser(ctx context.Context, user mimiuri.URI) (bool, error) {
	s := a.cur.Load()
	if s == nil {
		return false, errNotRunning
	}
	j, ok := s.ownJID(user)
	if !ok || s.gone.Load() {
		return false, nil
	}
	// Only the prepared spelling is a user: Alice is nobody where alice is somebody.
	p, err := prepare(j.String())
	if err != nil || p != j {
		return false, nil
	}
	return s.host.Level(j.String()) > adapter.LevelNone, nil
}
