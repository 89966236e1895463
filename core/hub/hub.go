// Package hub keeps rooms: it is the arbiter that puts everything that happens in a room into one order, checks
// it against the room's policy, logs it and fans it out (draft-ietf-mimi-protocol-06, "Server State", "Update
// Room State", "Submit a Message", "Fanout Messages and Room Events").
//
// A hub sees ciphertext and public handshakes only. Each room has one goroutine that owns its PublicGroup.
// An answer leaves only after what it says is on disk: the new state of the group, the log entries and the answer
// itself are written in one transaction, and the same octets from the same peer get the same answer again.
//
// Every follower has a cursor into the room's log. A batch's range is stored before the first attempt, and the log's
// bytes never change, so a repetition is identical until the follower has said 201. The provider's own clients are a
// follower like any other, reached by a call.
package hub

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/internal/mailbox"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// Config is what a hub works with. Keys and Notify reach the providers of others and, for the own domain, the
// own clients.
type Config struct {
	Domain string
	Store  *store.Store
	MLS    *mls.Config
	Keys   port.Keys
	Notify port.Notify
	Now    func() time.Time
	Log    zerolog.Logger
	// Blocked reports whether a user may do nothing but leave; nil: nobody is. It must be quick.
	Blocked func(user mimiuri.URI) bool

	// MoreRooms refuses, with a fault, a user who may be in no more rooms kept here; nil: everybody may. It may read the store.
	MoreRooms func(ctx context.Context, user mimiuri.URI) error
	// MaxMessage is how many octets of content a message may have; 0 is as many as fit. Of what encryption adds it is generous.
	MaxMessage int
	// TooMuch hears of a peer's message that is larger; nil: nobody does.
	TooMuch func(sender mimiuri.URI, what string)
	// Bundle is how many proposals the hub puts into one message at most; 0 is as many as fit.
	Bundle int

	Retention Retention
}

// Suite is the cipher suite of rooms made here: the one every MLS client has (RFC 9420 section 17.1).
const Suite = mls.CipherSuite(1)

const roomIdle = 5 * time.Minute

// Retention is for how long the hub keeps things. Zero fields take the default named.
type Retention struct {
	Log     time.Duration // what was fanned out and everybody has: 7 days
	Queues  time.Duration // what somebody has not taken; it is given up then: 30 days
	Answers time.Duration // answers that are given again to the same octets: 7 days
	Reports time.Duration // reports of abuse: 90 days
}

func (r Retention) withDefaults() Retention {
	for _, f := range []struct {
		v *time.Duration
		d int
	}{{&r.Log, 7}, {&r.Queues, 30}, {&r.Answers, 7}, {&r.Reports, 90}} {
		if *f.v <= 0 {
			*f.v = time.Duration(f.d) * 24 * time.Hour
		}
	}
	return r
}

// Hub implements port.Hub for the rooms of its domain. Safe for concurrent use.
type Hub struct {
	cfg   Config
	rooms *mailbox.Pool[*room]

	mu       sync.Mutex
	queues   map[store.Queue]*queue
	ctx      context.Context // of Run; nil before
	workers  sync.WaitGroup
	slots    map[string]chan struct{} // deliveries under way, by peer
	all      chan struct{}            // and of all peers together
	Counters Counters
}

// Counters count since the start; for metrics.
type Counters struct {
	Accepted, Refused, Malformed, Replayed, Delivered, DeliveryFailed, Reports atomic.Uint64
}

// New makes a hub. It delivers nothing before Run.
func New(cfg Config) *Hub {
	cfg.Retention = cfg.Retention.withDefaults()
	if cfg.Bundle <= 0 || cfg.Bundle > wire.MaxProposals {
		cfg.Bundle = wire.MaxProposals
	}
	h := &Hub{cfg: cfg, queues: map[store.Queue]*queue{}, slots: map[string]chan struct{}{}, all: make(chan struct{}, allSlots)}
	h.rooms = mailbox.New(func(key string) *room { return &room{h: h, id: key} }, roomIdle, cfg.Log)
	return h
}

var (
	_ port.Hub   = (*Hub)(nil)
	_ port.Rooms = (*Hub)(nil)
)

// room is the state that a room's goroutine owns. It is loaded when it is first needed and dropped (row == nil) after
// any failure to write, so that memory never runs ahead of the disk.
type room struct {
	h    *Hub
	id   string
	uri  mimiuri.URI
	row  *store.HubRoom
	keys roomKeys
	g    *mls.PublicGroup
	pol  *policy.State // of the epoch

	news []news // what the transaction under way tells whom

	listed    *policy.State // up to where the store knows who is in the room; nil: that is to be compared
	hearing   []string      // providers with users who may receive messages
	hearingOf *mls.PublicGroup
}

// hearers lists the providers that a message goes to, without one: those with a client of a user whose role has
// canReceiveMessage.
func (r *room) hearers(without string) []string {
	if r.hearingOf != r.g {
		r.hearing, r.hearingOf = nil, r.g
		have := map[string]bool{}
		for _, m := range r.g.Members() {
			user, _, err := policy.LeafUser(m.Node)
			if err == nil && !have[user.Domain] && r.pol.MayReceive(user) {
				have[user.Domain] = true
				r.hearing = append(r.hearing, user.Domain)
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(r.hearing), func(d string) bool { return d == without })
}

// roomKeys are kept for the room's life: the frank of an old message has to verify.
type roomKeys struct {
	Sender   []byte `json:"sender"`   // signature key of the hub as external sender
	Franking []byte `json:"franking"` // franking signature key
	HubKey   []byte `json:"hub_key"`  // HMAC key of server franks

	sender, franking *mls.SignatureKey
}

func (k *roomKeys) parse(b []byte) error {
	if err := json.Unmarshal(b, k); err != nil {
		return err
	}
	k.sender, k.franking = new(mls.SignatureKey), new(mls.SignatureKey)
	if err := k.sender.UnmarshalBinary(k.Sender); err != nil {
		return err
	}
	return k.franking.UnmarshalBinary(k.Franking)
}

func (r *room) drop() { r.row, r.g, r.pol, r.listed = nil, nil, nil, nil }

// load reads the room if it is not in memory. It returns a NotFound fault for a room that is not kept here or that
// is not open.
func (r *room) load(ctx context.Context) error {
	if r.row == nil {
		var row *store.HubRoom
		err := r.h.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			row, err = tx.HubRoom(r.id)
			return err
		})
		if err != nil {
			return err
		}
		if row == nil {
			return fault.New(fault.NotFound, "there is no such room here")
		}
		if r.uri, err = mimiuri.ParseKind(r.id, mimiuri.Room); err != nil {
			return err
		}
		if err := r.keys.parse(row.Keys); err != nil {
			return fmt.Errorf("hub: keys of %s: %w", r.id, err)
		}
		if row.Status == store.HubOpen {
			g, err := mls.LoadPublicGroup(r.h.cfg.MLS, row.State)
			if err != nil {
				return fmt.Errorf("hub: group of %s: %w", r.id, err)
			}
			if err := r.adopt(g); err != nil {
				return err
			}
		}
		r.row = row
	}
	if r.row.Status != store.HubOpen {
		return fault.New(fault.NotFound, "there is no such room here")
	}
	return nil
}

func (r *room) adopt(g *mls.PublicGroup) error {
	pol, err := policy.ParseState(g.AppData())
	if err != nil {
		return fmt.Errorf("hub: policy of %s: %w", r.id, err)
	}
	r.g, r.pol = g, pol
	return nil
}

// Prepare makes the keys for a new room of this domain, or returns those that exist.
func (h *Hub) Prepare(ctx context.Context, uri mimiuri.URI) (*port.Agents, error) {
	if uri.Kind != mimiuri.Room || uri.Domain != h.cfg.Domain {
		return nil, fault.New(fault.Forbidden, "rooms are made at their own provider")
	}
	return mailbox.Ask(ctx, h.rooms, uri.String(), func(r *room) (*port.Agents, error) {
		var row *store.HubRoom
		err := h.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			row, err = tx.HubRoom(r.id)
			return err
		})
		if err != nil {
			return nil, err
		}
		var keys roomKeys
		if row == nil {
			if keys, err = newRoomKeys(); err != nil {
				return nil, err
			}
			b, err := json.Marshal(keys)
			if err != nil {
				return nil, err
			}
			now := h.cfg.Now().UnixMilli()
			err = h.cfg.Store.Update(ctx, func(tx *store.Tx) error {
				if err := tx.EnsureRoom(r.id, now); err != nil {
					return err
				}
				return tx.InsertHubRoom(&store.HubRoom{Room: r.id, Keys: b})
			})
			if err != nil {
				return nil, err
			}
		} else if err := keys.parse(row.Keys); err != nil {
			return nil, err
		}
		cred := mls.BasicCredential([]byte(uri.Provider().String()))
		return &port.Agents{
			Sender:   mls.ExternalSender{SignatureKey: keys.sender.Public(), Credential: cred},
			Franking: wire.FrankingAgentData{SignatureKey: keys.franking.Public(), Credential: cred},
		}, nil
	})
}

func newRoomKeys() (k roomKeys, err error) {
	if k.sender, err = mls.GenerateSignatureKey(rand.Reader, Suite); err != nil {
		return k, err
	}
	if k.franking, err = mls.GenerateSignatureKey(rand.Reader, Suite); err != nil {
		return k, err
	}
	if k.Sender, err = k.sender.MarshalBinary(); err != nil {
		return k, err
	}
	if k.Franking, err = k.franking.MarshalBinary(); err != nil {
		return k, err
	}
	k.HubKey = make([]byte, 32)
	rand.Read(k.HubKey)
	return k, nil
}

// Create opens a prepared room with the group its creator made: a GroupInfo of epoch 0 and the ratchet tree, both as
// octets. The same octets again succeed; another group for a room that is open is a Conflict. A room that is over may be
// opened again by its name: it is another group, of which nobody of before is a member, in the same log, with the same keys of the
// hub, so that what was franked before can still be reported. While the own clients have not been told of the end it is
// Unavailable.
func (h *Hub) Create(ctx context.Context, uri, creator mimiuri.URI, info, tree []byte) error {
	hash := sha256.New()
	hash.Write(info)
	hash.Write(tree)
	creation := hash.Sum(nil)
	return h.rooms.Do(ctx, uri.String(), func(r *room) error {
		var row *store.HubRoom
		err := h.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			row, err = tx.HubRoom(r.id)
			return err
		})
		switch {
		case err != nil:
			return err
		case row == nil:
			return fault.New(fault.NotFound, "the room was not prepared")
		case row.Status != store.HubPrepared && string(row.Creation) == string(creation):
			return nil
		case row.Status == store.HubOpen:
			return fault.New(fault.Conflict, "a room of this name exists already")
		case row.Status == store.HubClosed:
			var waiting []string
			if err := h.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
				waiting, err = tx.RoomQueues(r.id)
				return err
			}); err != nil {
				return err
			}
			if slices.Contains(waiting, h.cfg.Domain) { // it would come into the new group
				return fault.New(fault.Unavailable, "the room that had this name is just ending")
			}
		}
		var gi mls.GroupInfo
		if err := tlspl.Unmarshal(info, &gi); err != nil {
			return fault.Wrap(fault.Malformed, "the GroupInfo cannot be read", err)
		}
		var rt mls.RatchetTree
		if err := tlspl.Unmarshal(tree, &rt); err != nil {
			return fault.Wrap(fault.Malformed, "the ratchet tree cannot be read", err)
		}
		g, err := mls.NewPublicGroup(h.cfg.MLS, &gi, &rt)
		if err != nil {
			return fault.Wrap(fault.Malformed, "the group is not valid", err)
		}
		pol, err := policy.ParseState(g.AppData())
		if err != nil {
			return fault.Wrap(fault.Malformed, "the room's policy cannot be read", err)
		}
		members := g.Members()
		if len(members) != 1 || string(g.GroupID()) != uri.GroupOf().String() || !pol.Active(creator, members) {
			return fault.New(fault.Malformed, "a new room has its creator's client as its only member")
		}
		if user, _, err := policy.LeafUser(members[0].Node); err != nil || user != creator {
			return fault.New(fault.Forbidden, "the only client must be the creator's")
		}
		state, err := g.MarshalBinary()
		if err != nil {
			return err
		}
		row.Status, row.Epoch, row.State, row.Info, row.Creation = store.HubOpen, g.Epoch(), state, info, creation
		r.drop()
		return h.cfg.Store.Update(ctx, func(tx *store.Tx) error {
			return errors.Join(tx.InsertHubRoom(row), tx.UpdateHubRoom(row)) // one that is over may just have been forgotten
		})
	})
}

// stamp returns the acceptance time of the next log entry: the clock, but never twice the same nor backwards, so
// that the order of timestamps is the order of the log.
func (r *room) stamp() int64 { return max(r.h.cfg.Now().UnixMilli(), r.row.LastTS+1) }

// news is that there is something for a peer; batch, if it is known already, is what is to be sent next.
type news struct {
	peer  string
	batch *batch
}

// logEntry appends a FanoutMessage to the transaction's log; the row's counters are moved, not yet written.
func (r *room) logEntry(tx *store.Tx, row *store.HubRoom, ts int64, f *wire.FanoutMessage, audience []string) error {
	if len(audience) == 0 {
		return nil
	}
	row.LastSeq++
	e := store.LogEntry{Seq: row.LastSeq, TS: ts, Audience: audience, Body: f.Marshal()}
	alone, err := tx.AppendLog(row.Room, &e)
	for _, p := range audience {
		n := news{peer: p}
		if slices.Contains(alone, p) {
			n.batch = &batch{entries: []store.LogEntry{e}, hi: e.Seq}
		}
		r.news = append(r.news, n)
	}
	return err
}

// domains lists the providers that have clients in the group, without one.
func domains(members []mls.Member, without string) []string {
	var list []string
	have := map[string]bool{without: true}
	for _, m := range members {
		user, _, err := policy.LeafUser(m.Node)
		if err == nil && !have[user.Domain] {
			have[user.Domain] = true
			list = append(list, user.Domain)
		}
	}
	return list
}

// deserted reports whether all clients of a group are leaving: nobody is left who could commit their removal.
func deserted(g *mls.PublicGroup) bool {
	leaving := map[mls.LeafIndex]bool{}
	for _, p := range g.Proposals() {
		switch b := p.Proposal.Body.(type) {
		case *mls.Remove:
			leaving[b.Removed] = true
		case *mls.SelfRemove:
			leaving[p.Sender.Leaf] = true
		}
	}
	for _, m := range g.Members() {
		if !leaving[m.Leaf] {
			return false
		}
	}
	return true
}

// current is the policy as the hub applies it: what it has accepted counts, committed or not ("Room state").
func (r *room) current() *policy.State { return r.pol.WithPending(r.g.Proposals(), r.g.Members()) }

// Destroy closes a room of this hub for good, on behalf of whoever runs it: the hub proposes to remove everybody, tells all
// followers so, and takes nothing more. A room that is not open is a NotFound fault.
func (h *Hub) Destroy(ctx context.Context, uri mimiuri.URI) error {
	return h.rooms.Do(ctx, uri.String(), func(r *room) error {
		if err := r.load(ctx); err != nil {
			return err
		}
		g, members := r.g, r.g.Members()
		var bodies []mls.ProposalBody
		for _, c := range r.pol.DestroyChanges(mimiuri.URI{}) {
			bodies = append(bodies, c.Proposal().Body)
		}
		for _, m := range members {
			bodies = append(bodies, &mls.Remove{Removed: m.Leaf})
		}
		// Nobody is left who could commit them, so that no policy need allow it: followers see them and let go. What does not
		// go into one message goes into several, of one transaction.
		row := *r.row
		row.Status, row.State, row.Info = store.HubClosed, nil, nil
		ts := r.stamp()
		var fs []*wire.FanoutMessage
		for part := range slices.Chunk(bodies, h.cfg.Bundle) {
			f := &wire.FanoutMessage{Timestamp: uint64(ts)}
			for _, b := range part {
				m, err := mls.SignExternalProposal(h.cfg.MLS, g.GroupContext(), 0, r.keys.sender, mls.Proposal{Body: b}, mls.MarshalSafeAAD(nil))
				if err != nil {
					return fmt.Errorf("hub: destroy %s: %w", r.id, err)
				}
				if f.Message == nil {
					f.Message = m
				} else {
					f.MoreProposals = append(f.MoreProposals, m)
				}
			}
			fs = append(fs, f)
			row.LastTS = ts
			ts++
		}
		err := r.write(ctx, &row, func(tx *store.Tx) error {
			if err := r.list(tx, nil); err != nil {
				return err
			}
			for _, f := range fs {
				if err := r.logEntry(tx, &row, int64(f.Timestamp), f, domains(members, "")); err != nil {
					return err
				}
			}
			if err := tx.DropRoutes(r.id); err != nil {
				return err
			}
			return tx.UpdateHubRoom(&row)
		})
		r.drop()
		return err
	})
}
