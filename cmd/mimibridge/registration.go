package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/mimibridge/mimibridge/config"
)

const aboutRegistration = `
Prints the application service registration that the Matrix homeserver needs, made first if the file
that the configuration names does not exist. Give the homeserver a copy: Synapse lists it under
app_service_config_files, Dendrite under app_service_api.config_files; then restart the homeserver.
It holds both tokens: keep it from others.`

func cmdRegistration(_ context.Context, e *env, args []string) error {
	fs := flags(e, "registration", aboutRegistration)
	path := configFlag(fs)
	if err := parse(fs, args); err != nil {
		return err
	}
	c, err := config.Load(*path)
	if err != nil {
		return err
	}
	m := c.Network.Matrix
	if m == nil {
		return errorWithHint(errors.New("this configuration is of an XMPP provider"), "an XMPP server needs no registration; `mimibridge init -h` tells what it does need")
	}
	if err := ensureRegistration(m); err != nil {
		return err
	}
	b, err := os.ReadFile(m.Registration)
	if err != nil {
		return fmt.Errorf("read the registration: %w", err)
	}
	_, err = e.out.Write(b)
	return err
}

// registration is the file as the application service specification has it, with the unstable keys that
// Synapse and Dendrite read. Unknown ones are ignored by both.
type registration struct {
	ID              string                         `yaml:"id"`
	URL             string                         `yaml:"url"`
	ASToken         string                         `yaml:"as_token"`
	HSToken         string                         `yaml:"hs_token"`
	SenderLocalpart string                         `yaml:"sender_localpart"`
	RateLimited     bool                           `yaml:"rate_limited"`
	Ephemeral       bool                           `yaml:"receive_ephemeral"`
	EphemeralOld    bool                           `yaml:"de.sorunome.msc2409.push_ephemeral"`
	MSC3202         bool                           `yaml:"org.matrix.msc3202"`
	MSC4190         bool                           `yaml:"io.element.msc4190"`
	Namespaces      map[string][]registrationRegex `yaml:"namespaces"`
}

type registrationRegex struct {
	Exclusive bool   `yaml:"exclusive"`
	Regex     string `yaml:"regex"`
}

// newRegistration makes a registration with fresh tokens. The sender's name is random, so that nobody can hold
// it already, and inside the users namespace, without which Synapse breaks encryption in /sync.
func newRegistration(m *config.Matrix) registration {
	name := regexp.QuoteMeta(m.ServerName)
	return registration{
		ID: "mimibridge", URL: "http://" + listenURLHost(m.Listen),
		ASToken: token(), HSToken: token(),
		SenderLocalpart: "mimi_bot_" + shortID(),
		Ephemeral:       true, EphemeralOld: true, MSC3202: true, MSC4190: true,
		Namespaces: map[string][]registrationRegex{
			"users":   {{true, `^@mimi_.+:` + name + `$`}},
			"aliases": {{true, `^#mimi_.+:` + name + `$`}},
			"rooms":   {},
		},
	}
}

// ensureRegistration writes the registration file, mode 0600, unless it exists.
func ensureRegistration(m *config.Matrix) error {
	if _, err := os.Stat(m.Registration); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := yaml.Marshal(newRegistration(m))
	if err != nil {
		return fmt.Errorf("make the registration: %w", err)
	}
	return writeNew(m.Registration, string(b), 0o600)
}

// listenURLHost makes a listener's address one that can be dialled from the same machine.
func listenURLHost(listen string) string {
	for _, any := range []string{"", "0.0.0.0", "[::]"} {
		if port, ok := strings.CutPrefix(listen, any+":"); ok {
			return "127.0.0.1:" + port
		}
	}
	return listen
}

func token() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

func shortID() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// writeNew writes a file that must not exist yet.
func writeNew(path, content string, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}
