package matrix

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Adapter is an adapter.Adapter for one homeserver.
type Adapter struct {
	cfg Config
	reg *Registration
	hs  *homeserver

	once    sync.Once
	ready   chan struct{} // closed when Run has opened the database for the first time
	current atomic.Pointer[bridge]
}

// bridge is what one Run works with.
type bridge struct {
	cfg    Config
	reg    *Registration
	hs     *homeserver
	host   adapter.Host
	st     *store
	log    zerolog.Logger
	server string // the homeserver's name
	domain string // the provider's
	inbox  inbox

	mu         sync.Mutex
	registered map[id.UserID]string // accounts that are known to exist, with their display names
	certain    map[string]bool      // rooms (URIs) in which nothing can have been sent unnoticed
	warned     map[string]time.Time // when something was last said in the log

	founders map[id.RoomID][]id.UserID // of rooms: who has unlimited power

	adoptMu   sync.RWMutex // held for writing while a person's room becomes the portal of a direct room
	admitMu   sync.Mutex   // one room of a person at a time is taken over
	aliasMu   sync.Mutex   // one portal at a time is made for a look-up
	e2ee      encryption   // nil: encrypted rooms cannot be read
	encrypted sync.Map     // id.RoomID → bool, what is in the settings

	rules      []rule // of policy lists, if rulesKnown
	rulesKnown bool
	rulesAt    int // counts the changes

	// working is held for reading while something is shown or carried out; whoever has set gone waits for those to end.
	working   sync.RWMutex
	gone      atomic.Bool   // Uninstall has begun: nothing is shown or taken any more
	uninstall sync.Mutex    // one at a time
	plumbs    atomic.Int64  // rooms in which a confirmation is waited for
	panics    atomic.Uint64 // of background work

	expiryWake                       chan struct{}
	pushedReceipts, pushedRedactions atomic.Bool // have been seen to be pushed
}

// Name implements adapter.Adapter.
func (a *Adapter) Name() string { return Name }

// Run implements adapter.Adapter. It returns an error if the database cannot be opened or the address to
// listen on is taken; a homeserver that is down or refuses is waited for.
func (a *Adapter) Run(ctx context.Context, host adapter.Host) error {
	st, err := openStore(ctx, host.DB())
	if err != nil {
		return err
	}
	b := &bridge{
		cfg: a.cfg, reg: a.reg, hs: a.hs, host: host, st: st, log: host.Log(),
		server: a.cfg.ServerName, domain: host.Domain(),
		registered: map[id.UserID]string{}, certain: map[string]bool{}, warned: map[string]time.Time{}, founders: map[id.RoomID][]id.UserID{}, expiryWake: make(chan struct{}, 1),
	}
	b.inbox.b = b
	if err := b.countPlumbs(ctx); err != nil {
		return err
	}
	if gone, err := st.setting(ctx, goneKey); err != nil {
		return err
	} else if gone == txnID("gone", a.reg.ASToken) { // another registration begins anew
		b.gone.Store(true)
		b.log.Warn().Str("cure", "make a new registration file to begin anew").Msg("this bridge has been uninstalled from its homeserver and does nothing")
	}
	if newEncryption != nil && a.cfg.Encryption != encryptionOff {
		b.e2ee = newEncryption(b)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", a.cfg.Listen)
	if err != nil {
		return fmt.Errorf("matrix: listen for the homeserver: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.inbox.ctx = ctx
	a.current.Store(b)
	a.once.Do(func() { close(a.ready) })

	server := &http.Server{
		Handler:           b.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       2 * time.Minute,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(serverLog{b.log}, "", 0),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	var work sync.WaitGroup
	work.Go(func() {
		b.steadily(ctx, "watching", func(ctx context.Context) { b.greetHomeserver(ctx); b.watch(ctx) })
	})
	work.Go(func() { b.steadily(ctx, "forgetting", b.forgetOld) })
	work.Go(func() { b.steadily(ctx, "expiring", b.expire) })
	if b.e2ee != nil {
		work.Go(func() { b.steadily(ctx, "receiving keys", b.e2ee.run) })
	}
	err = b.inbox.start(ctx)
	if err == nil {
		b.log.Info().Str("listen", listener.Addr().String()).Str("homeserver", a.cfg.Homeserver).Msg("waiting for the homeserver's events")
		select {
		case <-ctx.Done():
		case err = <-served:
			err = fmt.Errorf("matrix: listen for the homeserver: %w", err)
		}
	}
	if ctx.Err() != nil {
		err = nil // asked to stop, perhaps before it had begun
	}
	// Transactions that are being stored may finish: they will not have to come again.
	grace, end := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer end()
	if server.Shutdown(grace) != nil {
		server.Close()
	}
	cancel()
	work.Wait()
	b.inbox.wait()
	return err
}

// steadily runs f. After a panic in it f is run again, later each time, until it returns or the context is done. What the panic says may be of a
// message, so that only its type is logged, with their number.
func (b *bridge) steadily(ctx context.Context, what string, f func(context.Context)) {
	once := func() (ok bool) {
		defer func() {
			if r := recover(); r != nil {
				b.log.Error().Str("what", what).Type("panic", r).Uint64("panics", b.panics.Add(1)).Bytes("stack", debug.Stack()).Msg("background work panicked; it begins anew")
			}
		}()
		f(ctx)
		return true
	}
	for failures := 0; !once() && pause(ctx, min(200*time.Millisecond<<min(failures, 9), time.Minute)); failures++ {
	}
}

// bridgeFor waits until Run has opened the database.
func (a *Adapter) bridgeFor(ctx context.Context) (*bridge, error) {
	select {
	case <-a.ready:
		return a.current.Load(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// LocalUser implements adapter.Adapter.
func (a *Adapter) LocalUser(ctx context.Context, user mimiuri.URI) (bool, error) {
	b, err := a.bridgeFor(ctx)
	if err != nil {
		return false, err
	}
	mxid, ok := localID(user, b.server, b.domain)
	if !ok || b.gone.Load() || !b.permitted(mxid) {
		return false, nil
	}
	return b.hs.exists(ctx, mxid)
}

// Deliver implements adapter.Adapter.
func (a *Adapter) Deliver(ctx context.Context, ev adapter.Event) (err error) {
	b, err := a.bridgeFor(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			b.log.Error().Str("room", ev.Room.String()).Uint64("seq", ev.Seq).Str("stack", string(debug.Stack())).Msgf("panic while delivering: %v", r)
			err = fault.Wrap(fault.Malformed, "an error in this bridge", errors.New("matrix: deliver: panic"))
		}
	}()
	b.working.RLock()
	defer b.working.RUnlock()
	if b.gone.Load() {
		return nil
	}
	return b.deliver(ctx, ev)
}

// permitted reports whether a Matrix user may use the bridge.
func (b *bridge) permitted(user id.UserID) bool {
	return b.host.Level(string(user)) >= adapter.LevelUser && !isPuppet(user)
}

// person returns the MIMI user of a Matrix user who may use the bridge.
func (b *bridge) person(user id.UserID) (mimiuri.URI, bool) {
	uri, ok := localURI(user, b.server, b.domain)
	return uri, ok && b.permitted(user)
}

// participant reports whether the user is in the MIMI room, as far as has been delivered.
func (b *bridge) participant(ctx context.Context, room, user mimiuri.URI) (bool, error) {
	r, ok, err := b.host.Room(ctx, room)
	if err != nil || !ok {
		return false, err
	}
	for _, p := range r.Participants {
		if p.User == user {
			return true, nil
		}
	}
	return false, nil
}

// seldom reports whether something may be logged that could otherwise fill the log: once in 5 minutes per key.
func (b *bridge) seldom(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t, ok := b.warned[key]; ok && time.Since(t) < 5*time.Minute {
		return false
	}
	if len(b.warned) > 1000 {
		clear(b.warned)
	}
	b.warned[key] = time.Now()
	return true
}

func (b *bridge) forgetOld(ctx context.Context) {
	for {
		now := time.Now()
		if err := b.st.forget(now.Add(-b.cfg.Remember)); err != nil {
			b.log.Warn().Err(err).Msg("old events could not be forgotten")
		}
		if err := b.st.forgetMessages(now, now.Add(-b.cfg.RememberMessages)); err != nil {
			b.log.Warn().Err(err).Msg("old messages could not be forgotten")
		}
		if err := b.giveUpWaiting(ctx); err != nil && ctx.Err() == nil && !b.gone.Load() {
			b.log.Warn().Err(err).Msg("portals that nobody has joined could not be given up")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Minute):
		}
	}
}

// serverLog takes what net/http has to say: broken connections, mostly.
type serverLog struct{ log zerolog.Logger }

func (l serverLog) Write(p []byte) (int, error) {
	l.log.Debug().Str("http", clip(string(p), 300)).Msg("connection of the homeserver")
	return len(p), nil
}
