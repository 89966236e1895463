// Package core is a whole MIMI provider: the hub of its rooms, the clients of its users, the federation with other
// providers, and the adapters that connect its network. It wires the packages below; the work is done there.
package core

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/client"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/hub"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/people"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/store"
)

// Config is what a provider is made of.
type Config struct {
	Domain string
	// Store is where its state lies. Store.Domain is set by New. Each adapter's own database lies beside it.
	Store store.Options
	// Federation says how it reaches others and is reached. Domain, Log and Now are set by New.
	Federation federation.Config
	// Listen is the "host:port" of the federation listener; Listener, if set, is used instead.
	Listen   string
	Listener net.Listener
	Adapters []adapter.Adapter
	// Up, if set, is called once when everything serves.
	Up func()
	// Level says what a person of the network may do; nil: nobody may do anything.
	Level func(networkID string) adapter.Level
	// People is about consent, limits and blocks.
	People PeopleConfig
	Log    zerolog.Logger
	Now    func() time.Time // nil: time.Now

	// CommitDelay overrides how long a follower waits before it commits what others proposed, for tests.
	CommitDelay func() time.Duration
	// Patience overrides how long a hub that is ahead has to tell how it came there (client.Config), for tests.
	Patience time.Duration
	// OfflineAfter overrides how long a hub has to be out of reach before its rooms count as offline (client.Config).
	OfflineAfter time.Duration
	// Bulky has commits carry the whole GroupInfo and tree (client.Config).
	Bulky bool
	// NewRoom, if set, changes what a room made here begins with (client.Config), for tests of policies that no network can set.
	NewRoom func(room mimiuri.URI, dict *mls.AppDataDictionary)
	// HubBundle overrides how many proposals the hub puts into one message (hub.Config.Bundle), for tests.
	HubBundle int
	// RefreshEvery and RefreshMessages override how often keys are changed (client.Config).
	RefreshEvery    time.Duration
	RefreshMessages int
	// Retention says for how long things are kept; Assets.Life is that of attachments.
	Retention Retention
	// Assets says where files of users lie and how much of them there may be.
	Assets AssetsConfig
	// WrapHub, if set, is put around the way to the hubs of other providers, for tests that lose answers.
	WrapHub func(port.Hub) port.Hub
	// WrapNotify, if set, is put around the way from the hubs to the own clients, for tests that repeat, delay and reorder.
	WrapNotify func(port.Notify) port.Notify
}

// Retention says for how long things are kept. Zero fields take the default named. What is over is deleted within the hour.
type Retention struct {
	Messages time.Duration // as they were shown to the network, with what proves them: 30 days
	IDs      time.Duration // what tells that something comes a second time: 90 days
	hub.Retention
}

// Clean deletes what is kept no longer. Run does it by itself every hour.
func (p *Provider) Clean(ctx context.Context) error {
	_, err := p.files.own.Sweep(ctx)
	return errors.Join(err, p.Hub.Clean(ctx), p.Client.Clean(ctx))
}

// Provider runs. Make it with New.
type Provider struct {
	cfg    Config
	store  *store.Store
	Hub    *hub.Hub
	Client *client.Client
	People *people.People
	fed    *federation.Client
	server *federation.Server
	hosts  []*host
	nodes  *nodes

	started  atomic.Pointer[time.Time]
	stopping atomic.Bool
	files    *files

	deletions  *deletions
	uninstalls *uninstalls
}

// notInNames is what a node's name has not: folders are named after it.
var notInNames = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// New opens the databases and wires everything. Nothing is served before Run. The caller must call Run or Close.
func New(cfg Config) (*Provider, error) {
	domain, err := mimiuri.NormalizeDomain(cfg.Domain)
	if err != nil {
		return nil, fmt.Errorf("core: domain %q: %w", cfg.Domain, err)
	}
	cfg.Domain, cfg.Store.Domain = domain, domain
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Level == nil {
		cfg.Level = func(string) adapter.Level { return adapter.LevelNone }
	}
	p := &Provider{cfg: cfg}
	p.deletions, p.uninstalls = newDeletions(p), newUninstalls(p)
	if cfg.Store.Node == "" {
		host, _ := os.Hostname()
		cfg.Store.Node = notInNames.ReplaceAllString(host+"-"+cfg.Listen, "-")
	}
	ctx := context.Background()
	if p.store, err = store.Open(ctx, cfg.Store); err != nil {
		return nil, err
	}
	if p.store.Restored() {
		cfg.Log.Warn().Msg("the database is a copy from earlier: all rooms are joined anew")
	}
	p.nodes = &nodes{p: p, st: p.store, log: cfg.Log.With().Str("part", "nodes").Str("node", p.store.NodeID()).Logger(), wake: make(chan struct{}, 1)}
	for _, a := range cfg.Adapters {
		db, err := p.store.AdapterDB(ctx, a.Name())
		if err != nil {
			p.Close()
			return nil, err
		}
		p.hosts = append(p.hosts, &host{p: p, adapter: a, db: db, log: cfg.Log.With().Str("adapter", a.Name()).Logger()})
	}

	fc := cfg.Federation
	fc.Domain, fc.Log, fc.Now = domain, cfg.Log.With().Str("part", "federation").Logger(), cfg.Now
	fc.Peer = func(domain string) error { return p.People.Peer(domain) }
	fc.Limited = func(domain, what string) { p.People.Limited(mimiuri.URI{Domain: domain}.String(), what, 0) }
	p.fed = federation.NewClient(fc)
	pc := cfg.People
	p.People, err = people.New(people.Config{Domain: domain, Store: p.store, Peers: p.fed, Adapters: cfg.Adapters, Now: cfg.Now,
		LocalUser: func(ctx context.Context, a adapter.Adapter, user mimiuri.URI) (bool, error) {
			return p.nodes.localUser(ctx, a, user)
		},
		Alone: func(ctx context.Context, lease string, fn func(context.Context) error) error {
			return p.nodes.alone(ctx, lease, fn)
		},
		Log: cfg.Log.With().Str("part", "people").Logger(), Policy: pc.Policy, Ask: pc.Ask, Allow: pc.Allow, Deny: pc.Deny, Limits: pc.Limits,
		Notice: pc.Notice, Wake: func(room mimiuri.URI, seq uint64) { p.Client.Consented(room, seq) },
		Asked: func(room mimiuri.URI, seq uint64) { p.Client.Asked(room, seq) }})
	if err != nil {
		p.Close()
		return nil, err
	}
	mc := &mls.Config{Now: cfg.Now, ApplyAppData: policy.ApplyAppData, VerifyCredential: verifyCredential}
	r := &router{domain: domain, remoteHub: p.fed, remoteNotify: p.fed, remoteKeys: p.fed.Keys()}
	if cfg.WrapHub != nil {
		r.remoteHub = cfg.WrapHub(p.fed)
	}
	p.Hub = hub.New(hub.Config{Domain: domain, Store: p.store, MLS: mc, Keys: keysRouter{r}, Notify: r, Now: cfg.Now, Blocked: p.People.BlockedByAdmin,
		Bundle: cfg.HubBundle, MoreRooms: p.People.MoreRooms, MaxMessage: int(p.People.Limits().Message), TooMuch: p.People.TooMuch, Log: cfg.Log.With().Str("part", "hub").Logger(), Retention: cfg.Retention.Retention})
	p.Client = client.New(client.Config{Domain: domain, Store: p.store, MLS: mc, Hub: r, Rooms: p.Hub, Adapters: cfg.Adapters,
		People: p.People, MaxContent: int(p.People.Limits().Message), LocalUser: p.nodes.localUser,
		Now: cfg.Now, Log: cfg.Log.With().Str("part", "client").Logger(), CommitDelay: cfg.CommitDelay, Patience: cfg.Patience, OfflineAfter: cfg.OfflineAfter, Ping: p.fed.Ping, Bulky: cfg.Bulky, NewRoom: cfg.NewRoom,
		RefreshEvery: cfg.RefreshEvery, RefreshMessages: cfg.RefreshMessages, Retention: cfg.Retention.Messages, Queues: cfg.Retention.Queues, IDs: cfg.Retention.IDs})
	own := hubAtOwner{p.Hub, p.nodes}
	r.ownHub, r.ownNotify, r.ownKeys = own, p.Client, p.Client
	if cfg.WrapNotify != nil {
		r.ownNotify = cfg.WrapNotify(p.Client)
	}
	if cfg.WrapHub != nil {
		r.ownHub = cfg.WrapHub(own)
	}
	if p.files, err = newFiles(p, fc); err != nil {
		p.Close()
		return nil, err
	}
	if _, err := p.deletions.load(ctx); err != nil {
		p.Close()
		return nil, err
	}
	if err := p.uninstalls.load(ctx); err != nil {
		p.Close()
		return nil, err
	}
	p.server = federation.NewServer(fc, federation.Ports{Hub: p.People.Hub(own), Notify: r.ownNotify, Keys: p.Client, People: p.People, Assets: p.files.own, Downloads: p.files})
	return p, nil
}

// verifyCredential is the identity rule of MIMI clients here: a leaf names a client of a user, an external sender
// the room's hub.
func verifyCredential(ctx mls.CredentialContext) error {
	if ctx.Reason == mls.ReasonExternalSender {
		_, err := mimiuri.ParseKind(string(ctx.Credential.Identity), mimiuri.Provider)
		return err
	}
	user, _, err := policy.LeafUser(&mls.LeafNode{Credential: *ctx.Credential})
	if err != nil {
		return err
	}
	if ctx.Replaces != nil {
		was, _, err := policy.LeafUser(ctx.Replaces)
		if err != nil || was != user {
			return errors.New("core: a leaf may not become another user's")
		}
	}
	return nil
}

// Run serves until ctx is done and then stops in order: no new work, what is under way ends, the store closes. It
// returns an error only if it could not serve.
func (p *Provider) Run(ctx context.Context) error {
	defer p.Close()
	ln := p.cfg.Listener
	if ln == nil {
		var err error
		if ln, err = net.Listen("tcp", p.cfg.Listen); err != nil {
			return fmt.Errorf("core: federation listener: %w", err)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	start := func(what string, fn func(context.Context) error) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := fn(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("core: %s: %w", what, err))
			}
		}()
	}
	start("nodes", p.nodes.run)
	start("hub", p.Hub.Run)
	start("client", p.Client.Run)
	start("files", p.files.run)
	start("deletions", p.deletions.run)
	start("uninstall", p.uninstalls.run)
	start("people", p.People.Run)
	start("federation", func(ctx context.Context) error { return p.server.Serve(ctx, ln) })
	for _, h := range p.hosts {
		start(h.adapter.Name(), func(ctx context.Context) error { return p.nodes.alone(ctx, port.LinkLease(h.adapter.Name()), h.run) })
	}
	p.cfg.Log.Info().Str("domain", p.cfg.Domain).Stringer("listen", ln.Addr()).Msg("provider is up")
	now := p.cfg.Now()
	p.started.Store(&now)
	if p.cfg.Up != nil {
		p.cfg.Up()
	}
	<-ctx.Done()
	p.stopping.Store(true)
	wg.Wait()
	p.fed.CloseIdle()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Reconcile compares all rooms with what the adapters were shown of them, repairs what differs and gives the number of rooms
// that were repaired. Run does it at the start and daily (client.Client.Reconcile).
func (p *Provider) Reconcile(ctx context.Context) (repaired int, err error) {
	return p.Client.Reconcile(ctx)
}

// DestroyRoom closes a room that this provider keeps (hub.Hub.Destroy), at whichever node it is.
func (p *Provider) DestroyRoom(ctx context.Context, room mimiuri.URI) error {
	_, err := p.nodes.at(ctx, room, call{Method: methodDestroy}, func() ([]byte, error) { return nil, p.Hub.Destroy(ctx, room) })
	return err
}

// Close closes the databases of a provider that is not running. Run does it by itself.
func (p *Provider) Close() error {
	for _, h := range p.hosts {
		h.db.Close()
	}
	if p.files != nil {
		p.files.cache.Close()
	}
	if p.store != nil {
		return p.store.Close()
	}
	return nil
}

// router leads each request to where the room, the user or the peer is: here or elsewhere.
type router struct {
	domain       string
	ownHub       port.Hub
	ownNotify    port.Notify
	ownKeys      port.Keys
	remoteHub    port.Hub
	remoteNotify port.Notify
	remoteKeys   port.Keys
}

func (r *router) hub(room mimiuri.URI) port.Hub {
	if room.Domain == r.domain {
		return r.ownHub
	}
	return r.remoteHub
}

func (r *router) KeyMaterial(ctx context.Context, from string, room, target mimiuri.URI, body []byte) ([]byte, error) {
	return r.hub(room).KeyMaterial(ctx, from, room, target, body)
}

func (r *router) Update(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return r.hub(room).Update(ctx, from, room, body)
}

func (r *router) Submit(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return r.hub(room).Submit(ctx, from, room, body)
}

func (r *router) GroupInfo(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	return r.hub(room).GroupInfo(ctx, from, room, body)
}

func (r *router) ReportAbuse(ctx context.Context, from string, room mimiuri.URI, body []byte) error {
	return r.hub(room).ReportAbuse(ctx, from, room, body)
}

func (r *router) Notify(ctx context.Context, peer string, room mimiuri.URI, body []byte) error {
	if peer == r.domain {
		return r.ownNotify.Notify(ctx, peer, room, body)
	}
	return r.remoteNotify.Notify(ctx, peer, room, body)
}

type keysRouter struct{ *router }

func (r keysRouter) KeyMaterial(ctx context.Context, from string, target mimiuri.URI, body []byte) ([]byte, error) {
	if target.Domain == r.domain {
		return r.ownKeys.KeyMaterial(ctx, from, target, body)
	}
	return r.remoteKeys.KeyMaterial(ctx, from, target, body)
}

// host is what one adapter sees of the provider.
type host struct {
	adapter.Unavailable

	p       *Provider
	adapter adapter.Adapter
	db      *sql.DB
	log     zerolog.Logger
}

var _ adapter.Host = (*host)(nil)

func (h *host) Domain() string                                   { return h.p.cfg.Domain }
func (h *host) Level(id string) adapter.Level                    { return h.p.cfg.Level(id) }
func (h *host) DB() *sql.DB                                      { return h.db }
func (h *host) Log() zerolog.Logger                              { return h.log }
func (h *host) Rooms(ctx context.Context) ([]mimiuri.URI, error) { return h.p.Client.Rooms(ctx) }

func (h *host) Intake(ctx context.Context, in adapter.Intent) error {
	if h.p.deletions.has(in.Actor) {
		return errDeleting
	}
	return h.p.Client.Intake(ctx, h.adapter.Name(), in)
}

func (h *host) Room(ctx context.Context, room mimiuri.URI) (adapter.Room, bool, error) {
	return h.p.Client.Room(ctx, room)
}

func (h *host) History(ctx context.Context, room mimiuri.URI, seqs []uint64) ([]adapter.Event, error) {
	return h.p.Client.History(ctx, room, seqs)
}

func (h *host) Pending(ctx context.Context, room, actor mimiuri.URI) ([]adapter.Pending, error) {
	return h.p.Client.Pending(ctx, h.adapter.Name(), room, actor)
}

func (h *host) DirectRoom(ctx context.Context, local, other mimiuri.URI) (mimiuri.URI, error) {
	return h.p.Client.DirectRoom(ctx, h.adapter.Name(), local, other)
}

// run runs the adapter, and again after a failure.
func (h *host) run(ctx context.Context) error {
	pause := time.Second
	for {
		began := time.Now()
		err := h.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > time.Minute {
			pause = time.Second
		}
		h.log.Error().Err(err).Dur("again_in", pause).Msg("the adapter stopped; it is started again")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, time.Minute)
	}
}

func (h *host) once(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			h.log.Error().Interface("panic", r).Bytes("stack", debug.Stack()).Msg("the adapter panicked")
			err = fault.New(fault.Internal, "")
		}
	}()
	return h.adapter.Run(ctx, h)
}
