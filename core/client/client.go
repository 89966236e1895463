// Package client holds the MLS clients of a provider's own users: one shared group state a room, whatever the number
// of local users in it.
//
// What local users want comes in as intents (Intake) and is on disk before Intake returns; what the hub fans out comes in
// through Notify and is on disk before it is acknowledged. Each room has one goroutine that takes both in order,
// and turns them into requests to the hub and events for the adapters. Every step is one transaction: group state,
// ratchets, intents, inbox and events move together or not at all. If writing fails, the state in memory is dropped and
// read again.
//
// The rules for messages, for commits and for the shared state are those of docs/architecture.md.
package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/internal/mailbox"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/store"
)

// Config is what the clients work with. Hub reaches the hub of any room, own or other.
type Config struct {
	Domain   string
	Store    *store.Store
	MLS      *mls.Config
	Hub      port.Hub
	Rooms    port.Rooms
	Adapters []adapter.Adapter
	People   People // nil: everything is allowed
	// MaxContent is how many octets of content a message may have; 0 is 768 KiB, which is also the most that is useful.
	MaxContent int
	Now        func() time.Time
	Log        zerolog.Logger

	// CommitDelay is how long a follower waits before it commits the proposals of others; nil is a random 1 to 5 s.
	CommitDelay func() time.Duration
	// Patience is how long a hub that is in a later epoch than this provider has to tell how it came there, before it is
	// asked; 0 is 5 s.
	Patience time.Duration
	// OfflineAfter is how long a hub has to be out of reach before its rooms are shown as offline; 0 is 2 minutes. A hub of which
	// nothing is heard for two and a half times that is asked by Ping.
	OfflineAfter time.Duration
	// Ping asks a hub whether it is there; a fault.Unavailable says that it is not. nil: nobody is asked.
	Ping func(ctx context.Context, domain string) error
	// RefreshEvery is how often the keys of a local client are changed in each room that others are in, one client after
	// the other; 0 is 7 days. RefreshMessages is after how many messages sent it is done earlier; 0 is 1000.
	RefreshEvery    time.Duration
	RefreshMessages int
	// LocalUser asks an adapter whether it has a user, where that is connected; nil asks it directly.
	LocalUser func(ctx context.Context, a adapter.Adapter, user mimiuri.URI) (bool, error)
	// NewRoom, if not nil, changes what a room made here begins with: the components of its GroupContext.
	NewRoom func(room mimiuri.URI, dict *mls.AppDataDictionary)
	// Bulky has commits carry the whole GroupInfo and ratchet tree always. Otherwise they carry what their hub cannot know
	// (PartialGroupInfo, distributionService), and the whole only for hubs that refuse that.
	Bulky bool
	// Retention is how long events are kept that have been shown; 0 is 30 days. Queues is after how long an event is given
	// up that has not been shown; 0 is 30 days, and it is at least Retention. IDs is how long a message or an intent
	// that comes again is known; 0 is 90 days.
	Retention, Queues, IDs time.Duration
}

// Suite is the cipher suite of rooms made here and of KeyPackages.
const Suite = mls.CipherSuite(1)

const (
	roomIdle        = 10 * time.Minute
	keyPackageLife  = 28 * 24 * time.Hour
	maxOutstanding  = 100 // KeyPackages of one user that one peer may hold; above it there is only that of last resort
	lastResortGrace = 2 * 24 * time.Hour
	inboxAtOnce     = 64
	eventsAtOnce    = 64
	originMax       = 512
	hintMax         = 1024
	reasonMax       = 512
	minPause        = 250 * time.Millisecond
	maxPause        = time.Minute
	claimPatience   = 2 * time.Second // a room waits no longer for somebody's key packages; the others go on then
	triesBeforeJoin = 5               // refusals of a commit before the group is joined anew
)

// Client serves all local users. Safe for concurrent use.
type Client struct {
	cfg   Config
	rooms *mailbox.Pool[*room]

	mu        sync.Mutex
	ctx       context.Context
	deliver   map[deliveryKey]*delivery
	taken     []string // rooms that were another node's and are to be compared
	comparing bool     // there is a goroutine that does so
	workers   sync.WaitGroup
	takes     map[string]form // hubs, by domain
	hubs      map[string]*hubState
	Counters  Counters
}

// form is in what form a hub takes what belongs to a commit; see Config.Bulky.
type form uint8

const (
	formUnknown form = iota
	formBrief
	formBulky
)

// Counters count since the start; for metrics.
type Counters struct {
	Intents, Sent, Received, Dropped, Refused, Frankless, Commits, CommitsLost, Resyncs, Refreshes, Repaired, LastResort, Delivered, DeliveryFailed atomic.Uint64
}

var (
	_ port.Notify = (*Client)(nil)
	_ port.Keys   = (*Client)(nil)
)

// New makes the clients. Nothing is sent before Run.
func New(cfg Config) *Client {
	if cfg.CommitDelay == nil {
		cfg.CommitDelay = func() time.Duration { return time.Second + time.Duration(randUint64()%4000)*time.Millisecond }
	}
	if cfg.MaxContent <= 0 || cfg.MaxContent > maxContent {
		cfg.MaxContent = maxContent
	}
	if cfg.People == nil {
		cfg.People = everybody{}
	}
	if cfg.Patience == 0 {
		cfg.Patience = 5 * time.Second
	}
	if cfg.OfflineAfter == 0 {
		cfg.OfflineAfter = 2 * time.Minute
	}
	if cfg.Ping == nil {
		cfg.Ping = func(context.Context, string) error { return nil }
	}
	if cfg.RefreshEvery == 0 {
		cfg.RefreshEvery = 7 * 24 * time.Hour
	}
	if cfg.RefreshMessages == 0 {
		cfg.RefreshMessages = 1000
	}
	if cfg.Retention == 0 {
		cfg.Retention = 30 * 24 * time.Hour
	}
	if cfg.Queues == 0 {
		cfg.Queues = 30 * 24 * time.Hour
	}
	cfg.Queues = max(cfg.Queues, cfg.Retention)
	if cfg.IDs == 0 {
		cfg.IDs = 90 * 24 * time.Hour
	}
	if cfg.LocalUser == nil {
		cfg.LocalUser = func(ctx context.Context, a adapter.Adapter, user mimiuri.URI) (bool, error) {
			return a.LocalUser(ctx, user)
		}
	}
	c := &Client{cfg: cfg, deliver: map[deliveryKey]*delivery{}, takes: map[string]form{}, hubs: map[string]*hubState{}}
	c.rooms = mailbox.New(func(key string) *room { return newRoom(c, key) }, roomIdle, cfg.Log)
	return c
}

func randUint64() uint64 {
	var b [8]byte
	rand.Read(b[:])
	var v uint64
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	return v
}

// Run works off what is stored and what comes, until ctx is done.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	c.ctx = ctx
	c.mu.Unlock()
	var work, due []string
	deliver := map[string][]string{}
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		if work, err = tx.RoomsWithWork(); err != nil {
			return err
		}
		if due, err = tx.RoomsDue(c.cfg.Now().UnixMilli()); err != nil {
			return err
		}
		for _, a := range c.cfg.Adapters {
			if deliver[a.Name()], err = tx.RoomsToDeliver(a.Name()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range work {
		c.step(r)
	}
	for _, r := range due {
		c.step(r)
	}
	for a, rooms := range deliver {
		for _, r := range rooms {
			c.startDelivery(deliveryKey{adapter: a, room: r})
		}
	}
	c.workers.Add(2)
	go c.reconcileDaily(ctx)
	go c.watchHubs(ctx)
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := c.Clean(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Error().Err(err).Msg("cleaning up client tables")
		}
		c.stepDue(ctx)
		select {
		case <-ctx.Done():
			c.rooms.Close()
			c.workers.Wait()
			return nil
		case <-tick.C:
		}
	}
}

// stepDue looks at the rooms whose time has come.
func (c *Client) stepDue(ctx context.Context) {
	var due []string
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		due, err = tx.RoomsDue(c.cfg.Now().UnixMilli())
		return err
	})
	if err != nil && ctx.Err() == nil {
		c.cfg.Log.Error().Err(err).Msg("reading which rooms are due")
	}
	for _, r := range due {
		c.step(r)
	}
}

// Clean deletes what is kept no longer. Run does it by itself every hour.
func (c *Client) Clean(ctx context.Context) error {
	now := c.cfg.Now()
	var names []string
	for _, a := range c.cfg.Adapters {
		names = append(names, a.Name())
	}
	return c.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		return errors.Join(
			tx.ExpireKeyPackages(now.UnixMilli()),
			tx.TrimEvents(names, now.Add(-c.cfg.Retention).UnixMilli()),
			tx.TrimEvents(nil, now.Add(-c.cfg.Queues).UnixMilli()),
			tx.TrimHistory(now.Add(-c.cfg.IDs).UnixMilli()),
			tx.TrimStray(),
			tx.TrimViews())
	})
}

// running returns Run's context, nil before Run and after its end.
func (c *Client) running() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil || c.ctx.Err() != nil {
		return nil
	}
	return c.ctx
}

// step has the room's goroutine look for work.
func (c *Client) step(id string) {
	switch ctx := c.running(); {
	case ctx == nil:
	case c.cfg.Store.Mine(id):
		c.rooms.Post(id, (*room).step)
	default:
		c.cfg.Store.Signal(ctx, "room "+id) // whose node has it looks
	}
}

// payload is what an intent's row holds, sealed.
type payload struct {
	Kind       adapter.IntentKind `json:"kind"`
	Target     string             `json:"target,omitempty"`
	Name       string             `json:"name,omitempty"`
	Content    []byte             `json:"content,omitempty"` // application/mimi-content, fixed here
	Salt       []byte             `json:"salt,omitempty"`
	OriginTime int64              `json:"origin_time,omitempty"`
	Hint       string             `json:"hint,omitempty"`
	Files      bool               `json:"files,omitempty"` // the content has ExternalParts

	Preset   adapter.Preset          `json:"preset,omitempty"`
	Role     uint32                  `json:"role,omitempty"`
	Reason   string                  `json:"reason,omitempty"`
	Retract  bool                    `json:"retract,omitempty"`
	Metadata *adapter.MetadataChange `json:"metadata,omitempty"`
	Policy   *adapter.PolicyChange   `json:"policy,omitempty"`
}

// Intake stores an intent for one adapter; see adapter.Host.
func (c *Client) Intake(ctx context.Context, adapterName string, in adapter.Intent) error {
	p, id, err := c.prepare(&in)
	if err != nil {
		return err
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	roomID := in.Room.String()
	now := c.cfg.Now().UnixMilli()
	row := &store.Intent{Room: roomID, Adapter: adapterName, Actor: in.Actor.String(), Origin: in.OriginID, Payload: b, Created: now}
	if in.Kind == adapter.SendMessage {
		row.MessageID = id[:]
	}
	fresh := false
	err = c.cfg.Store.Update(ctx, func(tx *store.Tx) (err error) {
		switch in.Kind {
		case adapter.CreateRoom, adapter.JoinRoom:
			if err := tx.EnsureClientRoom(roomID, now); err != nil {
				return err
			}
		default:
			if _, _, ok, err := tx.ClientEpoch(roomID); err != nil {
				return err
			} else if !ok {
				return fault.New(fault.NotFound, "this room is not known here")
			}
		}
		if fresh, err = tx.InsertIntent(row); err != nil || !fresh {
			return err
		}
		return c.cfg.People.Admit(tx, &in)
	})
	if err != nil {
		return err
	}
	if fresh {
		c.Counters.Intents.Add(1)
		c.cfg.Log.Debug().Str("event", "intake").Str("room", roomID).Str("adapter", adapterName).Uint8("kind", uint8(in.Kind)).Hex("message_id", row.MessageID).Int("bytes", len(p.Content)).Msg("intent stored")
	}
	if c.running() != nil && c.cfg.Store.Mine(roomID) {
		c.rooms.Post(roomID, func(r *room) {
			r.look.intents = true
			r.run()
		})
	} else {
		c.step(roomID)
	}
	return nil
}

// maxPending is how many messages Pending looks at.
const maxPending = 500

// Pending is adapter.Host.Pending: open intents, and what the hub has accepted and the adapter has not taken.
func (c *Client) Pending(ctx context.Context, adapterName string, room, actor mimiuri.URI) (out []adapter.Pending, err error) {
	roomID := room.String()
	add := func(id []byte, origin adapter.Origin, b []byte) error {
		p := adapter.Pending{Origin: origin}
		copy(p.ID[:], id)
		if p.Content, err = content.Decode(b); err != nil {
			return fmt.Errorf("client: stored content: %w", err)
		}
		out = append(out, p)
		return nil
	}
	err = c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		out = nil
		events, err := tx.Undelivered(roomID, adapterName, maxPending)
		if err != nil {
			return err
		}
		for _, e := range events {
			var row eventRow
			if err := json.Unmarshal(e.Payload, &row); err != nil {
				return fmt.Errorf("client: stored event: %w", err)
			}
			if row.Kind == adapter.Message && row.Adapter == adapterName && row.Sender == actor.String() && row.Content != nil {
				if err := add(row.ID, adapter.Origin{Adapter: row.Adapter, ID: row.Origin, Hint: row.Hint}, row.Content); err != nil {
					return err
				}
			}
		}
		open, err := tx.OpenMessages(roomID, adapterName, actor.String(), maxPending)
		if err != nil {
			return err
		}
		for _, in := range open {
			var pl payload
			if err := json.Unmarshal(in.Payload, &pl); err != nil {
				return fmt.Errorf("client: stored intent: %w", err)
			}
			if err := add(in.MessageID, adapter.Origin{Adapter: adapterName, ID: in.Origin, Hint: pl.Hint}, pl.Content); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// prepare checks an intent and fixes a message's octets: from here on its message ID stays, whatever is retried.
func (c *Client) prepare(in *adapter.Intent) (p payload, id content.MessageID, err error) {
	p = payload{Kind: in.Kind, Name: in.Name, Hint: in.Hint, Reason: in.Reason}
	switch {
	case in.Room.Kind != mimiuri.Room:
		return p, id, fault.New(fault.Malformed, "this is not a room")
	case in.Actor.Kind != mimiuri.User || in.Actor.Domain != c.cfg.Domain:
		return p, id, fault.New(fault.Forbidden, "only users of this provider act through it")
	case len(in.Reason) > reasonMax || !utf8.ValidString(in.Reason):
		return p, id, fault.New(fault.Malformed, "the reason is too long")
	case in.OriginID == "" || len(in.OriginID) > originMax || len(in.Hint) > hintMax:
		return p, id, fault.New(fault.Malformed, "the request has no id, or one that is too long")
	case in.Kind == adapter.CreateRoom && in.Room.Domain != c.cfg.Domain:
		return p, id, fault.New(fault.Forbidden, "rooms are made at their own provider")
	}
	if !in.OriginTime.IsZero() {
		p.OriginTime = in.OriginTime.UnixMilli()
	}
	switch in.Kind {
	case adapter.CreateRoom:
		switch p.Preset = in.Preset; p.Preset {
		case "", adapter.Cooperative, adapter.Strict, adapter.Moderated:
		default:
			return p, id, fault.New(fault.Malformed, "rooms are not made like this")
		}
	case adapter.JoinRoom, adapter.LeaveRoom, adapter.DestroyRoom:
	case adapter.Invite, adapter.Remove, adapter.Ban, adapter.Unban, adapter.ChangeRole:
		if in.Target.Kind != mimiuri.User {
			return p, id, fault.New(fault.Malformed, "this is not a user")
		}
		if in.Kind == adapter.ChangeRole && (in.Role == policy.RoleNone || in.Role == policy.RoleBanned) {
			return p, id, fault.New(fault.Malformed, "removing and banning are no changes of role")
		}
		p.Target, p.Role, p.Retract = in.Target.String(), in.Role, in.Retract && in.Kind == adapter.Ban
	case adapter.SetMetadata:
		if in.Metadata == nil {
			return p, id, fault.New(fault.Malformed, "nothing is to be changed")
		}
		if a := in.Metadata.Avatar; a != nil && *a != "" && !strings.HasPrefix(*a, "https://") {
			return p, id, fault.New(fault.Malformed, "a room's picture is an https address")
		}
		p.Metadata = in.Metadata
	case adapter.SetPolicy:
		if in.Policy == nil {
			return p, id, fault.New(fault.Malformed, "nothing is to be changed")
		}
		p.Policy = in.Policy
	case adapter.SendMessage:
		if in.Content == nil {
			return p, id, fault.New(fault.Malformed, "the message has no content")
		}
		m := *in.Content
		m.Extensions = slices.Clone(m.Extensions)
		if err := m.Stamp(rand.Reader, in.Actor, in.Room); err != nil {
			return p, id, err
		}
		if !in.OriginTime.IsZero() {
			m.SetSenderTimestamp(in.OriginTime)
		}
		b, err := m.Encode()
		if errors.Is(err, content.ErrLimit) {
			c.cfg.People.TooMuch(in.Actor, "message size")
			return p, id, fault.Wrap(fault.TooLarge, "the message is too large", err)
		}
		if err != nil {
			return p, id, fault.Wrap(fault.Malformed, "the message cannot be sent in this form", err)
		}
		if len(b) > c.cfg.MaxContent {
			c.cfg.People.TooMuch(in.Actor, "message size")
			return p, id, fault.Newf(fault.TooLarge, "a message may have at most %d kB", c.cfg.MaxContent>>10)
		}
		p.Content, p.Salt = b, m.Salt[:]
		for _, part := range m.Body.AllParts() {
			p.Files = p.Files || part.External != nil
		}
		id = content.ID(b, in.Actor, in.Room, m.Salt)
	default:
		return p, id, fault.New(fault.Malformed, "unknown kind of request")
	}
	return p, id, nil
}

const maxContent = 768 << 10 // leaves room for MLS in a body of 1 MiB

// Room is adapter.Host.Room.
func (c *Client) Room(ctx context.Context, uri mimiuri.URI) (adapter.Room, bool, error) {
	var status store.ClientStatus
	var b []byte
	var ok, free bool
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		status, b, ok, err = tx.ClientView(uri.String())
		if err == nil && status == store.ClientOut && uri.Domain == c.cfg.Domain {
			var hub store.HubStatus
			hub, _, err = tx.HubStatus(uri.String())
			free = hub != store.HubOpen
		}
		return err
	})
	if err != nil || !ok || b == nil {
		return adapter.Room{}, false, err
	}
	v, err := parseView(b)
	if err != nil {
		return adapter.Room{}, false, err
	}
	r := v.room(uri)
	r.Gone, r.Free = status == store.ClientOut, free
	return r, true, nil
}

// GroupState gives the epoch of a room's group as this provider has it and a name for its secrets: the SHA-256 of the
// epoch authenticator (RFC 9420 section 8.7), which is the same for all members and tells nothing. A room without a group
// here is a NotFound fault. The same goes to the log at each epoch, level debug, event "epoch".
func (c *Client) GroupState(ctx context.Context, uri mimiuri.URI) (epoch uint64, authenticator []byte, err error) {
	g, err := mailbox.Ask(ctx, c.rooms, uri.String(), func(r *room) (s groupState, err error) {
		if err := r.load(ctx); err != nil {
			return s, err
		}
		if r.g == nil {
			return s, fault.New(fault.NotFound, "there is no group of this room here")
		}
		return r.groupState(), nil
	})
	return g.epoch, g.authenticator, err
}

// Rooms is adapter.Host.Rooms.
func (c *Client) Rooms(ctx context.Context) (uris []mimiuri.URI, err error) {
	var ids []string
	if err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		ids, err = tx.ClientRooms(store.ClientJoined)
		return err
	}); err != nil {
		return nil, err
	}
	for _, id := range ids {
		u, err := mimiuri.ParseKind(id, mimiuri.Room)
		if err != nil {
			return nil, err
		}
		uris = append(uris, u)
	}
	return uris, nil
}

func newDevice(adapterName string) string {
	var b [6]byte
	rand.Read(b[:])
	return fmt.Sprintf("%s-%s", adapterName, hex.EncodeToString(b[:]))
}
