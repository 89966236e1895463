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
	// RegistrationText, if not empty, is the text of a registration instead of the file.
	RegistrationText string

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
	// Notices passes notices on (m.notice), which are said by bots, other bridges among them.
	Notices bool
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
	Keys       Keys

	noProbe bool // tests: what the homeserver pushes is not looked into
}

// Keys says which keys of encrypted rooms are deleted when, which devices are believed, and how often keys change. The names and meanings are
// those of mautrix's bridges. Keys for what the bridge itself writes are never stored for reading.
type Keys struct {
	RatchetOnDecrypt          bool // forget the key of a message once it is read
	DeleteFullyUsedOnDecrypt  bool // delete a session that cannot be used any more
	DeletePrevOnNewSession    bool // delete a device's earlier sessions when it begins another one
	DeleteOnDeviceDelete      bool // delete a device's sessions when it is deleted
	PeriodicallyDeleteExpired bool // delete sessions older than the room's rotation period, daily
	DeleteOutdatedInbound     bool // at the start: delete sessions of which it is not known when they expire

	// The lowest trust in a person's device: unverified, unknown-device, cross-signed-untrusted, cross-signed-tofu, cross-signed-verified,
	// verified. Empty is unverified for Receive (to take its messages) and Send (to let it read), cross-signed-tofu for Share (to give
	// it keys that it has missed, where AllowSharing is set).
	Receive, Send, Share string
	AllowSharing         bool

	// RotateAfter and RotateMessages are written into the rooms that the bot encrypts: how long, and for how many messages, everybody uses a
	// key. Zero leaves it to the clients (a week, 100 messages).
	RotateAfter    time.Duration
	RotateMessages int
	// KeepOnDeviceChange: people's devices coming and going are no reason for new keys.
	KeepOnDeviceChange bool

	// WarnDevices is the number of ghosts' devices in an encrypted room above which the admin is told: each costs the clients of the
	// people there. Zero is 200.
	WarnDevices int
}

// trustOf reads a level of trust, as mautrix calls them; empty is usual.
func trustOf(level string, usual id.TrustState) (id.TrustState, error) {
	if level == "" {
		return usual, nil
	}
	t := id.ParseTrustState(level)
	if t == id.TrustStateInvalid || t < id.TrustStateUnset {
		return t, fmt.Errorf("matrix: %q is no level of verification: say unverified, unknown-device, cross-signed-untrusted, cross-signed-tofu, cross-signed-verified or verified", level)
	}
	return t, nil
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
	var reg *Registration
	if cfg.RegistrationText != "" {
		reg, err = ParseRegistration(cfg.RegistrationText, cfg.ServerName)
	} else {
		reg, err = LoadRegistration(cfg.Registration, cfg.ServerName)
	}
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
	for _, level := range []string{cfg.Keys.Receive, cfg.Keys.Send, cfg.Keys.Share} {
		if _, err := trustOf(level, 0); err != nil {
			return nil, err
		}
	}
	if cfg.Keys.RotateAfter < 0 || cfg.Keys.RotateMessages < 0 || cfg.Keys.WarnDevices < 0 {
		return nil, errors.New("matrix: rotation and the number of devices cannot be negative")
	}
	if cfg.Keys.WarnDevices == 0 {
		cfg.Keys.WarnDevices = 200
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
