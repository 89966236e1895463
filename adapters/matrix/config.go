package matrix

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
)

// Config is what the adapter has to be told.
type Config struct {
	Homeserver   string // URL of the client-server API: "http://127.0.0.1:8008"
	ServerName   string // the part of @alice:example.org after the colon
	Listen       string // "host:port" on which the homeserver reaches this adapter
	Registration string // path of the registration file

	// MaxTransaction bounds the body of a transaction in octets. Zero is 32 MiB: homeservers put at most 100
	// events of 64 KiB, and as many ephemeral ones, into one.
	MaxTransaction int64
	// RequestTimeout bounds a request to the homeserver. Zero is 90 s: making a room is slow.
	RequestTimeout time.Duration
	// Remember is how long the IDs of events that were carried out are kept, to know a repeated transaction by. Zero is
	// 30 days.
	Remember time.Duration
	// RememberMessages is how long it is kept which event is which message: what refers to an older one is shown without
	// that. Zero is 90 days.
	RememberMessages time.Duration
	// NoStatusEvents leaves out the message status events that tell a local user's client what became of a message.
	// Notices about failures are sent all the same.
	NoStatusEvents bool

	// InitialGhosts is how many remote participants are shown when a portal is made, and about how many without having spoken.
	// The others join when they first speak or are mentioned. Zero is 100.
	InitialGhosts int
	// Federate makes portals that users of other homeservers can be in, for guests whom the permissions allow. It cannot be
	// changed for a room that exists.
	Federate bool

	// Encryption is "off", "allowed" (rooms that people have encrypted are portals like others) or "default" (the bot's portals
	// are encrypted). Empty is "allowed" where this build has encryption (the build tag goolm), else "off".
	Encryption string

	noProbe bool // tests: what the homeserver pushes is not looked into
}

// Name is what this adapter is called in origins and rows.
const Name = "matrix"

// New checks the configuration, reads the registration and returns the adapter. It does not talk to
// the homeserver yet: that begins with Run, and a homeserver that is down is no error.
func New(cfg Config) (adapter.Adapter, error) {
	u, err := url.Parse(cfg.Homeserver)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("matrix: homeserver %q is no http:// or https:// URL", cfg.Homeserver)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	if !id.ValidateServerName(cfg.ServerName) {
		return nil, fmt.Errorf("matrix: server name %q is none", cfg.ServerName)
	}
	if len(cfg.ServerName) > 160 {
		return nil, errors.New("matrix: the server name is too long to leave room for the names of remote users")
	}
	if _, _, err := net.SplitHostPort(cfg.Listen); err != nil {
		return nil, fmt.Errorf("matrix: listen address %q: %w", cfg.Listen, err)
	}
	reg, err := LoadRegistration(cfg.Registration, cfg.ServerName)
	if err != nil {
		return nil, err
	}
	if cfg.MaxTransaction == 0 {
		cfg.MaxTransaction = 32 << 20
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = 90 * time.Second
	}
	switch cfg.Encryption {
	case "", encryptionOff:
	case encryptionAllowed, encryptionDefault:
		if newEncryption == nil {
			return nil, errors.New("matrix: this program was built without Matrix encryption: build it with -tags goolm, or set encryption to off")
		}
	default:
		return nil, fmt.Errorf("matrix: encryption is %q, not off, allowed or default", cfg.Encryption)
	}
	if cfg.InitialGhosts == 0 {
		cfg.InitialGhosts = 100
	}
	if cfg.Remember == 0 {
		cfg.Remember = 30 * 24 * time.Hour
	}
	if cfg.RememberMessages == 0 {
		cfg.RememberMessages = 90 * 24 * time.Hour
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// The default of 2 would open a connection for nearly every request of a busy bridge.
	transport.MaxIdleConnsPerHost = 64
	transport.MaxConnsPerHost = 128
	return &Adapter{
		cfg: cfg,
		reg: reg,
		hs: &homeserver{
			base:  u,
			token: reg.ASToken,
			name:  cfg.ServerName,
			bot:   id.NewUserID(reg.SenderLocalpart, cfg.ServerName),
			asID:  reg.ID,
			http:  &http.Client{Transport: transport, Timeout: cfg.RequestTimeout},
			media: &http.Client{Transport: transport},
		},
		ready: make(chan struct{}),
	}, nil
}
