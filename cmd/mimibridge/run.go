package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/adapters/xmpp"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/record"
)

const aboutRun = `
Runs the provider until it gets SIGINT or SIGTERM; then it lets what is under way end. It logs to
standard error. A crash loses nothing that was acknowledged: start it again.`

func cmdRun(ctx context.Context, e *env, args []string) error {
	fs := flags(e, "run", aboutRun)
	path := configFlag(fs)
	if err := parse(fs, args); err != nil {
		return err
	}
	c, err := config.Load(*path)
	if err != nil {
		return errorWithHint(err, "`mimibridge check -c "+*path+"` tests everything the configuration points to")
	}
	log := newLogger(c.Log)
	for _, w := range c.Warnings {
		log.Warn().Msg(w)
	}
	cc, closeRecord, err := coreConfig(c, log)
	if err != nil {
		return errorWithHint(err, "`mimibridge check -c "+*path+"` says what to do about it")
	}
	defer closeRecord()
	log.Info().Str("version", version()).Msg("starting")
	p, err := core.New(cc)
	if err != nil {
		return err
	}
	if err := p.Run(ctx); err != nil {
		return err
	}
	log.Info().Msg("stopped")
	return nil
}

// coreConfig makes of a configuration what the provider is made of.
func coreConfig(c *config.Config, log zerolog.Logger) (cc core.Config, closeRecord func(), err error) {
	closeRecord = func() {}
	a, err := newAdapter(c)
	if err != nil {
		return cc, closeRecord, err
	}
	cert := &certificate{certFile: c.Federation.CertFile, keyFile: c.Federation.KeyFile, log: log}
	if _, err := cert.get(); err != nil {
		return cc, closeRecord, err
	}
	fc := federation.Config{Certificate: cert.get, BaseURL: c.Federation.URL, Resolve: c.Federation.Peers}
	if c.Federation.CAFile != "" {
		b, err := os.ReadFile(c.Federation.CAFile)
		if err != nil {
			return cc, closeRecord, fmt.Errorf("read federation.ca_file: %w", err)
		}
		fc.Roots = x509.NewCertPool()
		if !fc.Roots.AppendCertsFromPEM(b) {
			return cc, closeRecord, fmt.Errorf("federation.ca_file %s holds no certificate", c.Federation.CAFile)
		}
	}
	if c.Federation.Record != "" {
		w, err := record.Open(c.Federation.Record)
		if err != nil {
			return cc, closeRecord, err
		}
		log.Warn().Str("file", c.Federation.Record).Msg("federation bodies are recorded, as they are before TLS: who talks with whom is readable there")
		fc.Recorder, closeRecord = w.Record, func() { w.Close() }
	}
	return core.Config{
		Domain:     c.Domain,
		Store:      store.Options{Path: c.Storage.SQLite, Postgres: c.Storage.Postgres, Key: c.Secrets.SealingKey},
		Federation: fc,
		Listen:     c.Federation.Listen,
		Adapters:   []adapter.Adapter{a},
		Level:      func(id string) adapter.Level { return levels[c.Permissions.Level(id)] },
		Log:        log,
	}, closeRecord, nil
}

var levels = map[config.Level]adapter.Level{
	config.None:  adapter.LevelNone,
	config.User:  adapter.LevelUser,
	config.Admin: adapter.LevelAdmin,
}

func newAdapter(c *config.Config) (adapter.Adapter, error) {
	switch x, m := c.Network.XMPP, c.Network.Matrix; {
	case x != nil:
		return xmpp.New(xmpp.Config{Server: x.Server, Secret: x.Secret, LocalDomain: x.LocalDomain, Users: x.Users, Rooms: x.Rooms})
	case m != nil:
		return matrix.New(matrix.Config{Homeserver: m.Homeserver, ServerName: m.ServerName, Listen: m.Listen, Registration: m.Registration})
	}
	return nil, errors.New("the configuration names no network") // refused by package config
}

// certificate reads the certificate again when one of its files has changed, so that a renewal needs no restart.
type certificate struct {
	certFile, keyFile string
	log               zerolog.Logger

	mu      sync.Mutex
	checked time.Time
	changed [2]time.Time
	pair    *tls.Certificate
}

// get returns the certificate. While a new one cannot be read (it is just being written) the old one stays in use.
func (c *certificate) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair != nil && time.Since(c.checked) < 10*time.Second {
		return c.pair, nil
	}
	c.checked = time.Now()
	var changed [2]time.Time
	for i, f := range []string{c.certFile, c.keyFile} {
		if fi, err := os.Stat(f); err == nil {
			changed[i] = fi.ModTime()
		}
	}
	if c.pair != nil && changed == c.changed {
		return c.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		if c.pair != nil {
			c.log.Warn().Err(err).Msg("the new certificate cannot be read; the old one stays in use")
			return c.pair, nil
		}
		return nil, fmt.Errorf("load the certificate: %w", err)
	}
	c.pair, c.changed = &pair, changed
	return c.pair, nil
}
