// Package people is what a provider keeps between its users and those elsewhere: consent, discovery, blocking, and the limits
// of what one may do in a time (draft-ietf-mimi-protocol-06, "Convey explicit consent", "Find internal address", "Consent").
//
// # Consent
//
// There is one stored state for each pair of users and direction, for all rooms and for single ones. Whether somebody may add
// a local user to a room is decided, in this order, by blocks, the state for the room, the state for all rooms, and the
// local user's policy:
//
//	ask       strangers may ask; where the network shows being added as an invitation, that is the asking
//	contacts  those whom the user has asked or granted
//	everyone
//	nobody
//
// Without consent an invitation becomes a requestConsent to the other provider. It waits, for 30 days at most; when a grant
// comes, it goes on by itself. A question that is open is not asked again.
//
// # No oracle
//
// From outside, a user who does not exist, one who does not want to and one who has been asked look alike. The answers have
// the same octets and come after the same steps: the adapters are asked in any case, the same statements run, and what
// is to be written for nobody is written to a row that stands for nobody. A refusal is not told; only a grant that was
// given is taken back aloud. What an adapter does to find out whether a user exists is up to its network.
//
// # Limits
//
// Each local user, each user elsewhere and each peer as a whole may do only so much in an hour or a day. Over a limit comes a
// fault.Limited with a sentence, a counter, and once per window a line in the log and a Notice for the admin.
package people

import (
	"context"
	"fmt"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/store"
)

// Policies of a user: who may add them to rooms.
const (
	PolicyAsk      = "ask"
	PolicyContacts = "contacts"
	PolicyEveryone = "everyone"
	PolicyNobody   = "nobody"
)

// Policies lists them.
var Policies = []string{PolicyAsk, PolicyContacts, PolicyEveryone, PolicyNobody}

// How strangers ask under the policy ask (Config.Ask).
const (
	AskByAdapter    = ""           // as the adapters' networks show it
	AskByInvitation = "invitation" // they are let in, and the network's invitation is the question
	AskByQuestion   = "question"   // by requestConsent, before they may add anybody
)

// Limits bound what one may do. Zero fields take the default named, negative ones are no limit.
type Limits struct {
	ConsentRequests int // of a user in an hour: 10
	RoomsADay       int // that a user makes in a day, or, of one elsewhere, brings to users here: 5
	Invites         int // of a user in an hour: 30
	Lookups         int // of a user in an hour: 20
	Rooms           int // in which a user is; of one elsewhere, of rooms kept here: 200
	Pending         int // questions that wait for one user's answer: 50
	Blocks          int // that one user has: 1,000
	Contacts        int // that one user has: 5,000
	// PeerFactor says how much all users of a peer may do together, as a multiple of what one may: 50.
	PeerFactor int
	// Message is how many octets a message's content may have: 768 KiB, and not more, so that it fits with MLS into a body of
	// 1 MiB. It is held where messages are made.
	Message int64
}

const maxMessage = 768 << 10

func (l Limits) withDefaults() Limits {
	def := func(n *int, d int) {
		switch {
		case *n == 0:
			*n = d
		case *n < 0:
			*n = math.MaxInt32
		}
	}
	def(&l.ConsentRequests, 10)
	def(&l.RoomsADay, 5)
	def(&l.Invites, 30)
	def(&l.Lookups, 20)
	def(&l.Rooms, 200)
	def(&l.Pending, 50)
	def(&l.Blocks, 1000)
	def(&l.Contacts, 5000)
	def(&l.PeerFactor, 50)
	if l.Message <= 0 || l.Message > maxMessage {
		l.Message = maxMessage
	}
	return l
}

// Notice is something the admin should know: somebody is over a limit.
type Notice struct {
	Who  string // a user's URI, or a peer's (kind Provider)
	What string // consent, rooms, invites, lookups, requests …
	Text string // a sentence
}

// Config is what People works with.
type Config struct {
	Domain   string
	Store    *store.Store
	Peers    port.People // reaches other providers
	Adapters []adapter.Adapter
	Now      func() time.Time
	Log      zerolog.Logger

	Policy      string   // of users who have set none; empty is PolicyAsk
	Ask         string   // AskByAdapter, AskByInvitation or AskByQuestion
	Allow, Deny []string // peers, "example.org" or "*.example.org"; if Allow has any, all others are denied
	Limits      Limits
	// Notice, if not nil, hears of each who went over a limit, once per window. It must not block.
	Notice func(Notice)
	// Wake is called when an intent of a room need not wait for consent any more. It must not block.
	Wake func(room mimiuri.URI, seq uint64)
	// Asked is called when the other provider has received the question for which an intent waits. As Wake.
	Asked func(room mimiuri.URI, seq uint64)
	// LocalUser asks an adapter whether it has a user, where that is connected; nil asks it directly.
	LocalUser func(ctx context.Context, a adapter.Adapter, user mimiuri.URI) (bool, error)
	// Alone runs fn on only one of several nodes that share the database, the one that has the lease; nil just runs it.
	Alone func(ctx context.Context, lease string, fn func(context.Context) error) error
	// Retry is the first pause before a peer that could not be reached is tried again; it doubles up to an hour. 0 is 2 s.
	Retry time.Duration
}

// Counters count since the start.
type Counters struct {
	Asked, Answered, Told, TellFailed, Shown, ShowFailed, Expired, Lookups, Hidden, Limited, Refused atomic.Uint64
}

// People serves all local users. Safe for concurrent use.
type People struct {
	cfg      Config // but for what is in set
	set      atomic.Pointer[Settings]
	shows    []consentAdapter
	Counters Counters

	out        chan struct{} // something is to be told
	snap       atomic.Pointer[snapshot]
	refreshing sync.Map // users whose profile is being fetched

	mu     sync.Mutex
	warned map[string]int64 // who was over what, until when that is not said again
}

type consentAdapter struct {
	adapter.ConsentAdapter
	name string
	kick chan struct{} // something is to be shown
}

var (
	_ port.People = (*People)(nil)
)

// questionLife is how long a question stays open.
const questionLife = 30 * 24 * time.Hour

// New makes it. Nothing is sent or shown before Run.
func New(cfg Config) (*People, error) {
	set, err := (Settings{Policy: cfg.Policy, Ask: cfg.Ask, Allow: cfg.Allow, Deny: cfg.Deny, Limits: cfg.Limits}).checked()
	if err != nil {
		return nil, err
	}
	if cfg.Retry == 0 {
		cfg.Retry = 2 * time.Second
	}
	if cfg.Wake == nil {
		cfg.Wake = func(mimiuri.URI, uint64) {}
	}
	if cfg.LocalUser == nil {
		cfg.LocalUser = func(ctx context.Context, a adapter.Adapter, user mimiuri.URI) (bool, error) {
			return a.LocalUser(ctx, user)
		}
	}
	if cfg.Alone == nil {
		cfg.Alone = func(ctx context.Context, _ string, fn func(context.Context) error) error { return fn(ctx) }
	}
	if cfg.Asked == nil {
		cfg.Asked = func(mimiuri.URI, uint64) {}
	}
	p := &People{cfg: cfg, out: make(chan struct{}, 1), warned: map[string]int64{}}
	p.set.Store(set)
	for _, a := range cfg.Adapters {
		if c, ok := a.(adapter.ConsentAdapter); ok {
			p.shows = append(p.shows, consentAdapter{c, a.Name(), make(chan struct{}, 1)})
		}
	}
	return p, p.reload(context.Background())
}

// Settings are the part of Config that can change while it runs.
type Settings struct {
	Policy, Ask string
	Allow, Deny []string
	Limits      Limits
}

// checked fills in defaults.
func (s Settings) checked() (*Settings, error) {
	s.Limits = s.Limits.withDefaults()
	if s.Policy == "" {
		s.Policy = PolicyAsk
	}
	if !slices.Contains(Policies, s.Policy) {
		return nil, fmt.Errorf("people: %q is no consent policy", s.Policy)
	}
	if !slices.Contains([]string{AskByAdapter, AskByInvitation, AskByQuestion}, s.Ask) {
		return nil, fmt.Errorf("people: %q is no way to ask", s.Ask)
	}
	for _, list := range []*[]string{&s.Allow, &s.Deny} {
		var norm []string
		for _, d := range *list {
			n, err := normalizeRule(d)
			if err != nil {
				return nil, err
			}
			norm = append(norm, n)
		}
		*list = norm
	}
	return &s, nil
}

func (p *People) settings() *Settings { return p.set.Load() }

// Change puts other settings in force, or none of them if one is wrong. The limit for a message's size stays.
func (p *People) Change(ctx context.Context, s Settings) error {
	s.Limits.Message = p.settings().Limits.Message
	set, err := s.checked()
	if err != nil {
		return err
	}
	p.set.Store(set)
	return p.reload(ctx)
}

// Limits gives the limits with their defaults.
func (p *People) Limits() Limits { return p.settings().Limits }

// poll is how often what waits is looked at although nobody says that there is something: another node may have stored it.
func (p *People) poll() time.Duration {
	if p.cfg.Store.Shared() {
		return 2 * time.Second
	}
	return time.Minute
}

// Run tells, shows and expires until ctx is done. Of several nodes one tells, and that with an adapter's link shows.
func (p *People) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	loop := func(lease string, fn func(context.Context)) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			again := func(ctx context.Context) error {
				for ctx.Err() == nil {
					p.guarded("people", func() { fn(ctx) })
				}
				return nil
			}
			if lease != "" {
				_ = p.cfg.Alone(ctx, lease, again) // again has no errors
			} else {
				_ = again(ctx)
			}
		}()
	}
	loop("people", p.tell)
	for _, a := range p.shows {
		loop(port.LinkLease(a.name), func(ctx context.Context) { p.show(ctx, a) })
	}
	loop("", p.tidy)
	wg.Wait()
	return nil
}

// guarded runs fn; a panic ends only that.
func (p *People) guarded(what string, fn func()) {
	defer func() {
		if r := recover(); r != nil {
			p.cfg.Log.Error().Interface("panic", r).Bytes("stack", debug.Stack()).Msg(what + " panicked")
			time.Sleep(time.Second)
		}
	}()
	fn()
}

func (p *People) now() int64 { return p.cfg.Now().UnixMilli() }

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// kickAll has everything that may have been written looked at. It is called whether something was or not.
func (p *People) kickAll() {
	kick(p.out)
	for _, a := range p.shows {
		kick(a.kick)
	}
}

// tidy cleans up each hour; what other nodes changed is read each half minute.
func (p *People) tidy(ctx context.Context) {
	hour, half := time.NewTicker(time.Hour), time.NewTicker(30*time.Second)
	defer hour.Stop()
	defer half.Stop()
	work := func() {
		if err := p.Clean(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Log.Error().Err(err).Msg("cleaning up what is between people")
		}
	}
	work()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hour.C:
			work()
		case <-half.C:
			if err := p.reload(ctx); err != nil && ctx.Err() == nil {
				p.cfg.Log.Error().Err(err).Msg("reading blocks and peers")
			}
		}
	}
}

// Clean ends questions that were open too long and forgets what is old. Run calls it each hour.
func (p *People) Clean(ctx context.Context) error {
	if err := p.Expire(ctx); err != nil {
		return err
	}
	now := p.cfg.Now()
	return p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.TrimConsent(); err != nil {
			return err
		}
		if err := tx.TrimUsage(now.Add(-48 * time.Hour).UnixMilli()); err != nil {
			return err
		}
		if err := tx.TrimProfiles(now.Add(-questionLife).UnixMilli()); err != nil {
			return err
		}
		return tx.TrimConsentOut(now.Add(-questionLife).UnixMilli())
	})
}

// use takes one off what somebody may do in the window of time that is now.
func (p *People) use(tx *store.Tx, who, what string, window time.Duration, limit int, sentence string) error {
	now, w := p.now(), window.Milliseconds()
	began := now - now%w
	ok, err := tx.Use(who, what, began, int64(limit))
	if err != nil || ok {
		return err
	}
	return p.over(who, what, began+w, sentence)
}

// over is what somebody gets who is over a limit.
func (p *People) over(who, what string, until int64, sentence string) error {
	p.Limited(who, what, until)
	return &fault.Error{Kind: fault.Limited, Message: sentence, RetryAfter: time.Duration(until-p.now()) * time.Millisecond}
}

// Limited counts that somebody is over a limit, and tells the admin if that was not said before until, in ms.
func (p *People) Limited(who, what string, until int64) {
	p.Counters.Limited.Add(1)
	key, now := who+" "+what, p.now()
	p.mu.Lock()
	again := now < p.warned[key]
	if !again {
		maps.DeleteFunc(p.warned, func(_ string, t int64) bool { return t <= now })
		if len(p.warned) > 10_000 {
			clear(p.warned)
		}
		p.warned[key] = max(until, now+time.Minute.Milliseconds())
	}
	p.mu.Unlock()
	if again {
		return
	}
	p.cfg.Log.Warn().Str("who", who).Str("what", what).Msg("somebody is over a limit")
	if p.cfg.Notice != nil {
		p.cfg.Notice(Notice{Who: who, What: what, Text: who + " is over the limit of " + what})
	}
}

// provider is a domain as it stands in URIs, counts and blocks.
func provider(domain string) mimiuri.URI { return mimiuri.URI{Domain: domain} }

// useBoth takes one off what a user elsewhere may do in an hour and off what their provider may.
func (p *People) useBoth(tx *store.Tx, user mimiuri.URI, peer, what string, limit int) error {
	return p.useBothIn(tx, user, peer, what, time.Hour, limit, "an hour")
}

func (p *People) useBothIn(tx *store.Tx, user mimiuri.URI, peer, what string, window time.Duration, limit int, words string) error {
	all := p.ofAll(limit)
	who, sentence := provider(mimiuri.Host(peer)).String(), "this provider's users have asked for too much; please wait "+words
	if !user.IsZero() {
		// First, so that a peer that is over cannot have a row written for each user that it thinks up.
		now, w := p.now(), window.Milliseconds()
		n, err := tx.Used(who, what, now-now%w)
		if err != nil {
			return err
		}
		if n >= int64(all) {
			return p.over(who, what, now-now%w+w, sentence)
		}
		if err := p.use(tx, user.String(), what, window, limit, "this user has asked for too much; please wait "+words); err != nil {
			return err
		}
	}
	return p.use(tx, who, what, window, all, sentence)
}

// ofAll is what all users of a peer may do together.
func (p *People) ofAll(limit int) int {
	return min(limit*min(p.settings().Limits.PeerFactor, math.MaxInt32), math.MaxInt32)
}

// Admit checks a local user's intent against limits and blocks, inside the transaction that stores it.
func (p *People) Admit(tx *store.Tx, in *adapter.Intent) error {
	l, actor := &p.settings().Limits, in.Actor.String()
	if p.blockedByAdmin(in.Actor, in.Room) && in.Kind != adapter.LeaveRoom {
		p.Counters.Refused.Add(1)
		return fault.New(fault.Forbidden, "the administrator has blocked this")
	}
	rooms := func() error {
		n, err := tx.CountMember(actor)
		if err == nil && n >= l.Rooms {
			err = p.over(actor, "rooms at a time", p.now()+time.Hour.Milliseconds(), fmt.Sprintf("you are in %d rooms, and more are not allowed; leave one first", n))
		}
		return err
	}
	switch in.Kind {
	case adapter.CreateRoom:
		if err := rooms(); err != nil {
			return err
		}
		return p.use(tx, actor, "rooms", 24*time.Hour, l.RoomsADay, fmt.Sprintf("you may open %d rooms a day; please wait until tomorrow", l.RoomsADay))
	case adapter.JoinRoom:
		return rooms()
	case adapter.SendMessage:
		a, b, err := tx.DirectPair(in.Room.String())
		if err != nil || a == "" {
			return err
		}
		other := a
		if a == actor {
			other = b
		}
		row, err := tx.Consent(actor, other, "")
		if err == nil && row.Granted == refused {
			err = fault.New(fault.Forbidden, "they do not want to hear from you")
		}
		return err
	case adapter.Invite:
		if p.blockedByAdmin(in.Target, in.Room) || p.Peer(in.Target.Domain) != nil {
			p.Counters.Refused.Add(1)
			return fault.New(fault.Forbidden, "the administrator has blocked them")
		}
		return p.use(tx, actor, "invites", time.Hour, l.Invites, fmt.Sprintf("you may invite %d people an hour; please wait a little", l.Invites))
	}
	return nil
}

// Invited counts an invitation by a user elsewhere, and the room, if it is another one than any in which there are users of this
// provider: bringing rooms here is to them what making rooms is to a local user. by is asked for by the provider from, authenticated.
// room may be zero.
func (p *People) Invited(ctx context.Context, by, room mimiuri.URI, from string) error {
	if by.Domain == p.cfg.Domain {
		return nil // counted when it was taken in
	}
	var over error
	err := p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if over = p.useBoth(tx, by, from, "invites", p.settings().Limits.Invites); over == nil {
			over = p.brings(tx, by, room, from)
		}
		if fault.Is(over, fault.Limited) {
			return nil // what was counted stays counted
		}
		return over
	})
	if err == nil {
		err = over
	}
	return err
}

// brings counts a room that somebody elsewhere brings here, once a day however many they add to it.
func (p *People) brings(tx *store.Tx, by, room mimiuri.URI, from string) error {
	if room.IsZero() || room.Domain == p.cfg.Domain {
		return nil
	}
	status, _, known, err := tx.ClientEpoch(room.String())
	if err != nil || known && status == store.ClientJoined {
		return err
	}
	day := 24 * time.Hour
	now, w := p.now(), day.Milliseconds()
	what := "room " + room.String()
	if n, err := tx.Used(by.String(), what, now-now%w); err != nil || n > 0 {
		return err
	}
	if err := p.useBothIn(tx, by, from, "rooms", day, p.settings().Limits.RoomsADay, "until tomorrow"); err != nil {
		return err
	}
	_, err = tx.Use(by.String(), what, now-now%w, 1)
	return err
}

// MoreRooms refuses a user elsewhere who is in as many rooms kept here as one may be, or whose provider's users are.
func (p *People) MoreRooms(ctx context.Context, user mimiuri.URI) error {
	if user.Domain == p.cfg.Domain {
		return nil // see Admit and May
	}
	var n, all int
	if err := p.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		if n, err = tx.CountMember(user.String()); err == nil {
			all, err = tx.CountMembers(mimiuri.Host(user.Domain))
		}
		return err
	}); err != nil {
		return err
	}
	limit, until := p.settings().Limits.Rooms, p.now()+time.Hour.Milliseconds()
	switch {
	case n >= limit:
		return p.over(user.String(), "rooms at a time", until, "this user cannot be in more rooms of this provider")
	case all >= p.ofAll(limit):
		return p.over(provider(mimiuri.Host(user.Domain)).String(), "rooms at a time", until, "users of this provider cannot be in more rooms here")
	}
	return nil
}

// TooMuch notes that a user, or a peer, wanted to do more at once than anybody may: a message or a file that is too large.
func (p *People) TooMuch(who mimiuri.URI, what string) {
	p.Limited(who.String(), what, p.now()+time.Hour.Milliseconds())
}
