package matrix

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"

	"maunium.net/go/mautrix/id"
)

// Registration is the file that introduces an application service to a homeserver (Matrix application service
// API, "Registration"), with the unstable keys that Synapse and Dendrite read. Both sides read the same
// file; it holds the secrets between them.
type Registration struct {
	ID              string     `yaml:"id"`
	URL             string     `yaml:"url"` // where the homeserver reaches the adapter
	ASToken         string     `yaml:"as_token"`
	HSToken         string     `yaml:"hs_token"`
	SenderLocalpart string     `yaml:"sender_localpart"` // the bot
	RateLimited     bool       `yaml:"rate_limited"`
	Ephemeral       bool       `yaml:"receive_ephemeral"`
	EphemeralOld    bool       `yaml:"de.sorunome.msc2409.push_ephemeral"`
	MSC3202         bool       `yaml:"org.matrix.msc3202"`
	MSC4190         bool       `yaml:"io.element.msc4190"`
	Namespaces      Namespaces `yaml:"namespaces"`
}

// Namespaces are the names that the application service wants for itself.
type Namespaces struct {
	Users   []Namespace `yaml:"users"`
	Aliases []Namespace `yaml:"aliases"`
	Rooms   []Namespace `yaml:"rooms"`
}

// Namespace is a regular expression over whole IDs.
type Namespace struct {
	Exclusive bool   `yaml:"exclusive"`
	Regex     string `yaml:"regex"`
}

// NewRegistration makes a registration with fresh tokens for the homeserver called serverName, which reaches the
// adapter at asURL. If path is not empty it is written there, mode 0600; a file that exists is never
// overwritten: errors.Is(err, fs.ErrExist).
//
// The bot's name is random, so that nobody has it already, and inside the users namespace, without
// which Synapse breaks encryption for it.
func NewRegistration(path, asURL, serverName string) (*Registration, error) {
	if u, err := url.Parse(asURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("matrix: new registration: the URL of the application service must begin with http:// or https://")
	}
	if !id.ValidateServerName(serverName) {
		return nil, fmt.Errorf("matrix: new registration: %q is no server name", serverName)
	}
	var secret [68]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return nil, fmt.Errorf("matrix: new registration: %w", err)
	}
	end := ":" + regexp.QuoteMeta(serverName) + "$"
	r := &Registration{
		ID: "mimibridge", URL: asURL,
		ASToken:         base64.RawURLEncoding.EncodeToString(secret[:32]),
		HSToken:         base64.RawURLEncoding.EncodeToString(secret[32:64]),
		SenderLocalpart: localPrefix + "bot_" + hex.EncodeToString(secret[64:]),
		Ephemeral:       true, EphemeralOld: true, MSC3202: true, MSC4190: true,
		Namespaces: Namespaces{
			Users:   []Namespace{{true, "^@" + localPrefix + ".+" + end}},
			Aliases: []Namespace{{true, "^#" + localPrefix + ".+" + end}},
			Rooms:   []Namespace{},
		},
	}
	if path == "" {
		return r, nil
	}
	b, err := yaml.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("matrix: new registration: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("matrix: new registration: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("matrix: new registration: %w", err)
	}
	return r, nil
}

const maxRegistration = 1 << 20

// LoadRegistration reads a registration file and checks that it fits the homeserver called serverName: another
// bridge's, or one whose namespaces this adapter's names are not in, would fail later and less clearly.
func LoadRegistration(path, serverName string) (*Registration, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("matrix: load the registration: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRegistration+1))
	if err != nil {
		return nil, fmt.Errorf("matrix: load the registration %s: %w", path, err)
	}
	if len(b) > maxRegistration {
		return nil, fmt.Errorf("matrix: load the registration %s: it is larger than 1 MiB", path)
	}
	r, err := parseRegistration(b, serverName)
	if err != nil {
		return nil, fmt.Errorf("matrix: load the registration %s: %w", path, err)
	}
	return r, nil
}

// ParseRegistration is LoadRegistration for the text of a file.
func ParseRegistration(text, serverName string) (*Registration, error) {
	if len(text) > maxRegistration {
		return nil, errors.New("matrix: the registration is larger than 1 MiB")
	}
	r, err := parseRegistration([]byte(text), serverName)
	if err != nil {
		return nil, fmt.Errorf("matrix: the registration: %w", err)
	}
	return r, nil
}

func parseRegistration(b []byte, serverName string) (*Registration, error) {
	var r Registration
	// Other software's keys may stand in the file; unknown ones are no mistake.
	if err := yaml.NewDecoder(bytes.NewReader(b)).Decode(&r); err != nil {
		// The parser's message quotes the file, and the file holds tokens.
		return nil, errors.New("it is not the YAML of a registration")
	}
	switch {
	case r.ID == "":
		return nil, errors.New("id is missing")
	case len(r.ASToken) < 16 || len(r.HSToken) < 16:
		return nil, errors.New("as_token and hs_token must be random strings of at least 16 characters")
	case r.ASToken == r.HSToken:
		return nil, errors.New("as_token and hs_token must differ")
	case !strings.HasPrefix(r.SenderLocalpart, localPrefix) || strings.Contains(r.SenderLocalpart, "="):
		return nil, errors.New("sender_localpart must begin with " + localPrefix + " and have no =")
	}
	bot := string(id.NewUserID(r.SenderLocalpart, serverName))
	if !covers(r.Namespaces.Users, bot) || !covers(r.Namespaces.Users, "@"+localPrefix+"x=xmpp.example:"+serverName) {
		return nil, fmt.Errorf("namespaces.users does not cover @%s…:%s, the names of the bot and of remote users", localPrefix, serverName)
	}
	if !covers(r.Namespaces.Aliases, "#"+localPrefix+"x=xmpp.example:"+serverName) {
		return nil, fmt.Errorf("namespaces.aliases does not cover #%s…:%s, the names of rooms", localPrefix, serverName)
	}
	return &r, nil
}

func covers(list []Namespace, name string) bool {
	for _, n := range list {
		if re, err := regexp.Compile(n.Regex); err == nil && re.MatchString(name) {
			return true
		}
	}
	return false
}
