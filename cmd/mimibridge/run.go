package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/adapters/console"
	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/adapters/xmpp"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/hub"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/people"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/admin"
	"github.com/mimibridge/mimibridge/internal/record"
	"github.com/mimibridge/mimibridge/internal/sdnotify"
)

const aboutRun = `
Runs the provider until it gets SIGINT or SIGTERM; then it takes nothing new and lets what is under way end. It logs to
standard error. A crash loses nothing that was acknowledged: start it again. SIGHUP reads the configuration
again: permissions, log level and certificates change at once, the log says what needs a restart. Under systemd it
says when it is ready, stopping, and alive (Type=notify, WatchdogSec).`

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
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	d := &daemon{path: *path, log: newLogger(c.Log)}
	d.config.Store(c)
	for _, w := range c.Warnings {
		d.log.Warn().Msg(w)
	}
	cc, closeRecord, err := d.coreConfig(c)
	if err != nil {
		return errorWithHint(err, "`mimibridge check -c "+*path+"` says what to do about it")
	}
	defer closeRecord()
	d.log.Info().Str("version", version()).Msg("starting")
	p, err := core.New(cc)
	if errors.Is(err, store.ErrUninstalled) {
		return errorWithHint(err, "`mimibridge uninstall` removes its files; after that it may begin anew")
	}
	if err != nil {
		return err
	}
	d.provider = p
	ac := admin.Config{Provider: p, Version: version(), Socket: c.Admin.Socket, Listen: c.Admin.Listen, Token: c.Admin.Token,
		Settings: func() any { return d.config.Load().Settings() }, Reload: d.reload, Stop: stop,
		LocalUser: func(id string) (mimiuri.URI, bool) { return localUser(d.config.Load(), id) },
		Log:       d.log.With().Str("part", "admin").Logger()}
	if d.console != nil {
		ac.Console = d.console
	}
	ac.Provision = d.provision
	as, err := admin.New(ac)
	if err != nil {
		p.Close()
		return errorWithHint(err, "each daemon has a socket of its own (admin.socket) and a listener of its own (admin.listen)")
	}

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	// The admin server goes last, so that the end can be watched.
	adminCtx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Add(3)
	go func() { defer wg.Done(); _ = as.Run(adminCtx) }()
	go func() { defer wg.Done(); sdnotify.Watch(adminCtx, p.Ready) }()
	go func() {
		defer wg.Done()
		for {
			select {
			case <-hup:
				_, _, _ = d.reload()
			case <-adminCtx.Done():
				return
			}
		}
	}()
	stopping := context.AfterFunc(ctx, func() {
		_ = sdnotify.Send(sdnotify.Stopping)
		d.log.Info().Msg("stopping: what is under way ends")
	})
	defer stopping()
	err = p.Run(ctx)
	stopAdmin()
	wg.Wait()
	if err != nil {
		return err
	}
	d.log.Info().Msg("stopped")
	return nil
}

// daemon is what of a running provider can change while it runs.
type daemon struct {
	path      string
	config    atomic.Pointer[config.Config]
	log       zerolog.Logger
	cert      *certificate
	console   *console.Adapter
	provision http.Handler // nil for none

	provider *core.Provider

	mu sync.Mutex // one reload at a time
}

// reload reads the configuration again. What can change at once does; restart names the keys that differ and cannot.
// A file with errors changes nothing.
func (d *daemon) reload() (changed, restart []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next, err := config.Load(d.path)
	if err != nil {
		d.log.Error().Err(err).Msg("the configuration has errors; the old one stays in force")
		return nil, nil, err
	}
	was := d.config.Load()
	if err := d.provider.People.Change(context.Background(), settings(next)); err != nil {
		d.log.Error().Err(err).Msg("the new settings cannot be taken up; the old ones stay in force")
		return nil, nil, err
	}
	changed, restart = config.Changes(was, next)
	// What stays as it was is shown as it was.
	d.config.Store(was.WithLive(next))
	setLevel(next.Log.Level)
	d.cert.expire()
	for _, w := range next.Warnings {
		d.log.Warn().Msg(w)
	}
	d.log.Info().Strs("changed", changed).Strs("needs_restart", restart).Msg("the configuration was read again")
	return changed, restart, nil
}

// coreConfig makes of a configuration what the provider is made of.
func (d *daemon) coreConfig(c *config.Config) (cc core.Config, closeRecord func(), err error) {
	closeRecord = func() {}
	adapters, err := d.adapters(c)
	if err != nil {
		return cc, closeRecord, err
	}
	d.cert = &certificate{certFile: c.Federation.CertFile, keyFile: c.Federation.KeyFile, log: d.log}
	if _, err := d.cert.get(); err != nil {
		return cc, closeRecord, err
	}
	fc := federation.Config{Certificate: d.cert.get, BaseURL: c.Federation.URL, Resolve: c.Federation.Peers,
		Limits: federation.Limits{PeerRate: c.Limits.PeerRate, SubmitBody: int64(c.Limits.Message) + 256<<10}} // MLS, and a receiver's keys
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
		d.log.Warn().Str("file", c.Federation.Record).Msg("federation bodies are recorded, as they are before TLS: who talks with whom is readable there")
		fc.Recorder, closeRecord = w.Record, func() { w.Close() }
	}
	set := settings(c)
	return core.Config{
		Domain:     c.Domain,
		Store:      store.Options{Path: c.Storage.SQLite, Postgres: c.Storage.Postgres, Key: c.Secrets.SealingKey, NextKey: c.Secrets.NextKey},
		Federation: fc,
		Listen:     c.Federation.Listen,
		Adapters:   adapters,
		Level:      func(id string) adapter.Level { return levels[d.config.Load().Permissions.Level(id)] },
		Log:        d.log,
		People:     core.PeopleConfig{Policy: set.Policy, Ask: set.Ask, Allow: set.Allow, Deny: set.Deny, Limits: set.Limits},
		Up:         func() { _ = sdnotify.Send(sdnotify.Ready) },
		Assets: core.AssetsConfig{Folder: c.Assets.Folder, MaxFile: int64(c.Assets.MaxFile), Quota: int64(c.Assets.Quota),
			Cache: int64(c.Assets.Cache), Life: time.Duration(c.Retention.Attachments)},
		Retention: core.Retention{Messages: time.Duration(c.Retention.Messages), IDs: time.Duration(c.Retention.IDs),
			Retention: hub.Retention{Log: time.Duration(c.Retention.Logs), Queues: time.Duration(c.Retention.Queues),
				Answers: time.Duration(c.Retention.Answers), Reports: time.Duration(c.Retention.Reports)}},
	}, closeRecord, nil
}

// settings are those about people that can change while the provider runs.
func settings(c *config.Config) people.Settings {
	return people.Settings{Policy: c.People.Consent, Ask: strings.Replace(c.People.Ask, "auto", people.AskByAdapter, 1),
		Allow: c.Federation.Allow, Deny: c.Federation.Deny,
		Limits: people.Limits{ConsentRequests: c.Limits.ConsentRequests, Invites: c.Limits.Invites, Lookups: c.Limits.Lookups, RoomsADay: c.Limits.RoomsADay,
			Rooms: c.Limits.Rooms, Pending: c.Limits.Pending, PeerFactor: c.Limits.PeerFactor, Message: int64(c.Limits.Message)}}
}

var levels = map[config.Level]adapter.Level{
	config.None:  adapter.LevelNone,
	config.User:  adapter.LevelUser,
	config.Admin: adapter.LevelAdmin,
}

// adapters makes the network's adapter, which comes first, and the console.
func (d *daemon) adapters(c *config.Config) (list []adapter.Adapter, err error) {
	var a adapter.Adapter
	switch x, m := c.Network.XMPP, c.Network.Matrix; {
	case x != nil:
		a, err = xmpp.New(xmpp.Config{Server: x.Server, Secret: x.Secret, LocalDomain: x.LocalDomain, Users: x.Users, Rooms: x.Rooms,
			Keep: time.Duration(c.Retention.IDs), Puppets: x.Puppets, OtherBridges: x.OtherBridges, Blocklists: x.Blocklists})
	case m != nil:
		a, err = matrix.New(matrix.Config{Homeserver: m.Homeserver, ServerName: m.ServerName, Listen: m.Listen, Registration: m.Registration, RegistrationText: m.RegistrationText,
			Encryption: m.Encryption, Keys: matrixKeys(m), InitialGhosts: m.InitialGhosts, Federate: m.Federate, Notices: m.Notices, NoStatusEvents: m.NoStatusEvents,
			RememberMessages: time.Duration(c.Retention.IDs)})
	}
	if err != nil {
		return nil, err
	}
	if a != nil {
		list = append(list, a)
		d.provision, _ = a.(http.Handler)
	}
	if *c.Admin.Console {
		d.console = console.New()
		list = append(list, d.console)
	}
	return list, nil
}

// matrixKeys is what the configuration says about keys of encrypted Matrix rooms.
func matrixKeys(m *config.Matrix) matrix.Keys {
	d, v := m.DeleteKeys, m.VerificationLevels
	k := matrix.Keys{RatchetOnDecrypt: d.RatchetOnDecrypt, DeleteFullyUsedOnDecrypt: d.DeleteFullyUsedOnDecrypt, DeletePrevOnNewSession: d.DeletePrevOnNewSession,
		DeleteOnDeviceDelete: d.DeleteOnDeviceDelete, PeriodicallyDeleteExpired: d.PeriodicallyDeleteExpired, DeleteOutdatedInbound: d.DeleteOutdatedInbound,
		Receive: v.Receive, Send: v.Send, Share: v.Share, AllowSharing: m.AllowKeySharing,
		KeepOnDeviceChange: m.Rotation.DisableDeviceChangeKeyRotation, WarnDevices: m.WarnDevices}
	if m.Rotation.EnableCustom {
		k.RotateAfter, k.RotateMessages = time.Duration(m.Rotation.Milliseconds)*time.Millisecond, m.Rotation.Messages
	}
	return k
}

// localUser makes of the network's id of a user the URI: docs/architecture.md, "Names".
func localUser(c *config.Config, id string) (u mimiuri.URI, ok bool) {
	local, server := id, ""
	if rest, matrix := strings.CutPrefix(id, "@"); matrix {
		if local, server, ok = strings.Cut(rest, ":"); !ok {
			return u, false
		}
		if server != c.LocalDomain() {
			local += ":" + server
		}
	} else {
		if local, server, ok = strings.Cut(strings.ToLower(id), "@"); !ok {
			return u, false
		}
		server, _, _ = strings.Cut(server, "/")
		if server != c.LocalDomain() {
			local += "@" + server
		}
	}
	u, err := mimiuri.New(c.Domain, mimiuri.User, local)
	return u, err == nil
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

// expire has the next handshake look at the files.
func (c *certificate) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked = time.Time{}
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
