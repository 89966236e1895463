package core

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
)

// What administration and monitoring ask of a provider. All methods may be called concurrently while it runs.

// Started is when Run began to serve; the zero time before.
func (p *Provider) Started() time.Time {
	if t := p.started.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// Ready is nil when the provider serves and its database answers.
func (p *Provider) Ready(ctx context.Context) error {
	if p.Started().IsZero() {
		return fault.New(fault.Unavailable, "the provider is starting")
	}
	if p.stopping.Load() {
		return fault.New(fault.Unavailable, "the provider is stopping")
	}
	return p.store.View(ctx, func(tx *store.Tx) error {
		_, _, err := tx.RoomRow("")
		return err
	})
}

// Domain is the provider's domain.
func (p *Provider) Domain() string { return p.cfg.Domain }

// Host is what the adapter of this name works with, or, for a name that is none, the first one. It is nil without adapters.
func (p *Provider) Host(name string) adapter.Host {
	for _, h := range p.hosts {
		if h.adapter.Name() == name {
			return h
		}
	}
	if len(p.hosts) == 0 {
		return nil
	}
	return p.hosts[0]
}

func (p *Provider) adapterNames() (names []string) {
	for _, h := range p.hosts {
		names = append(names, h.adapter.Name())
	}
	return names
}

// RoomInfo is one room as administration sees it.
type RoomInfo struct {
	URI          string    `json:"uri"`
	Hub          bool      `json:"hub"`    // kept here
	Status       string    `json:"status"` // open, new, closed, left
	Name         string    `json:"name,omitempty"`
	Epoch        uint64    `json:"epoch"`
	Participants int       `json:"participants"` // as the own users see it; 0 if there are none of them
	Followers    []string  `json:"followers,omitempty"`
	Created      time.Time `json:"created"`
}

func roomInfo(r *store.RoomRow) RoomInfo {
	i := RoomInfo{URI: r.Room, Hub: r.HubStatus >= 0, Created: time.UnixMilli(r.Created).UTC(), Epoch: max(r.HubEpoch, r.ClientEpoch)}
	switch {
	case r.HubStatus == int64(store.HubOpen), r.HubStatus < 0 && r.ClientStatus == int64(store.ClientJoined):
		i.Status = "open"
	case r.HubStatus > int64(store.HubOpen):
		i.Status = "closed"
	case r.HubStatus < 0 && r.ClientStatus == int64(store.ClientOut):
		i.Status = "left"
	default:
		i.Status = "new"
	}
	return i
}

// ListRooms lists all rooms that the provider keeps or takes part in.
func (p *Provider) ListRooms(ctx context.Context) ([]RoomInfo, error) {
	var rows []store.RoomRow
	var followers []store.FollowerRow
	if err := p.store.View(ctx, func(tx *store.Tx) (err error) {
		if rows, err = tx.RoomRows(); err != nil {
			return err
		}
		followers, err = tx.Followers()
		return err
	}); err != nil {
		return nil, err
	}
	by := map[string][]string{}
	for _, f := range followers {
		if f.Peer != p.cfg.Domain {
			by[f.Room] = append(by[f.Room], f.Peer)
		}
	}
	list := make([]RoomInfo, 0, len(rows))
	for i := range rows {
		info := roomInfo(&rows[i])
		info.Followers = by[info.URI]
		if u, err := mimiuri.ParseKind(info.URI, mimiuri.Room); err == nil {
			if r, ok, err := p.Client.Room(ctx, u); err == nil && ok {
				info.Name, info.Participants = r.Name, len(r.Participants)
			}
		}
		list = append(list, info)
	}
	return list, nil
}

// ShowRoom gives one room, and what the own users see of it if there are any.
func (p *Provider) ShowRoom(ctx context.Context, room mimiuri.URI) (info RoomInfo, view *adapter.Room, err error) {
	list, err := p.ListRooms(ctx)
	if err != nil {
		return info, nil, err
	}
	i := slices.IndexFunc(list, func(r RoomInfo) bool { return r.URI == room.String() })
	if i < 0 {
		return info, nil, fault.New(fault.NotFound, "there is no such room here")
	}
	r, ok, err := p.Client.Room(ctx, room)
	if err != nil || !ok {
		return list[i], nil, err
	}
	return list[i], &r, nil
}

// Queue is something that waits; see store.Waiting.
type Queue struct {
	Kind   string    `json:"kind"`
	Room   string    `json:"room"`
	Target string    `json:"target"`
	N      int       `json:"n"`
	Oldest time.Time `json:"oldest,omitzero"`
}

// Queues lists what waits.
func (p *Provider) Queues(ctx context.Context) ([]Queue, error) {
	var ws []store.Waiting
	if err := p.store.View(ctx, func(tx *store.Tx) (err error) {
		ws, err = tx.Waiting(p.adapterNames())
		return err
	}); err != nil {
		return nil, err
	}
	list := make([]Queue, 0, len(ws))
	for _, w := range ws {
		q := Queue{Kind: w.Kind, Room: w.Room, Target: w.Target, N: w.N}
		if w.Oldest > 0 {
			q.Oldest = time.UnixMilli(w.Oldest).UTC()
		}
		list = append(list, q)
	}
	return list, nil
}

// RetryPeer ends the pauses of all deliveries to a peer that could not be reached; without a name, of all peers. It returns how many
// peers there was something for.
func (p *Provider) RetryPeer(ctx context.Context, peer string) (int, error) {
	qs, err := p.Queues(ctx)
	if err != nil {
		return 0, err
	}
	kicked := map[string]bool{}
	for _, q := range qs {
		if q.Kind == "peer" && q.Target != p.cfg.Domain && (peer == "" || q.Target == peer) && !kicked[q.Target] {
			kicked[q.Target] = true
			p.Hub.Retry(q.Target)
		}
	}
	return len(kicked), nil
}

// DropQueue gives up what waits: for a follower in a room ("peer"), or for an adapter ("event"). It reports whether there was anything.
func (p *Provider) DropQueue(ctx context.Context, kind, room, target string) (dropped bool, err error) {
	switch kind {
	case "peer":
		var uri mimiuri.URI
		if uri, err = mimiuri.ParseKind(room, mimiuri.Room); err != nil {
			return false, fault.New(fault.Malformed, "this is not a room")
		}
		var b []byte
		b, err = p.nodes.at(ctx, uri, call{Method: methodDrop, Target: target}, func() ([]byte, error) { return p.dropQueue(ctx, uri, target) })
		dropped = len(b) > 0
	case "event":
		if !slices.Contains(p.adapterNames(), target) {
			return false, fault.Newf(fault.NotFound, "there is no adapter %q", target)
		}
		err = p.store.Update(ctx, func(tx *store.Tx) (err error) {
			dropped, err = tx.DropEvents(room, target)
			return err
		})
	default:
		return false, fault.New(fault.Malformed, "only queues of kind peer and event can be dropped")
	}
	if err == nil && dropped {
		p.cfg.Log.Warn().Str("kind", kind).Str("room", room).Str("target", target).Msg("a queue was dropped by the admin")
	}
	return dropped, err
}

// dropQueue is done where the room is kept; it returns something if there was anything.
func (p *Provider) dropQueue(ctx context.Context, room mimiuri.URI, peer string) (was []byte, err error) {
	dropped := false
	err = p.store.Update(ctx, func(tx *store.Tx) (err error) {
		dropped, err = tx.DropQueue(store.Queue{Room: room.String(), Peer: peer})
		return err
	})
	if dropped {
		was = []byte("1")
	}
	return was, err
}

// Peer is another provider as administration sees it. Times are since the start of this process.
type Peer struct {
	Domain string `json:"domain"`
	Rooms  int    `json:"rooms"` // rooms shared with it: kept there, or kept here and followed by it
	Queue  int    `json:"queue"` // what waits for it
	federation.Contact
}

// Peers lists the providers that rooms are shared with, and those that were asked something since the start.
func (p *Provider) Peers(ctx context.Context) ([]Peer, error) {
	rooms, err := p.ListRooms(ctx)
	if err != nil {
		return nil, err
	}
	queues, err := p.Queues(ctx)
	if err != nil {
		return nil, err
	}
	by := map[string]*Peer{}
	get := func(domain string) *Peer {
		if by[domain] == nil {
			by[domain] = &Peer{Domain: domain}
		}
		return by[domain]
	}
	for _, r := range rooms {
		if u, err := mimiuri.Parse(r.URI); err == nil && u.Domain != p.cfg.Domain {
			get(u.Domain).Rooms++
		}
		for _, f := range r.Followers {
			get(f).Rooms++
		}
	}
	for _, q := range queues {
		if q.Kind == "peer" && q.Target != p.cfg.Domain {
			get(q.Target).Queue += q.N
		}
	}
	for domain, c := range p.fed.Contacts() {
		get(domain).Contact = c
	}
	list := make([]Peer, 0, len(by))
	for _, peer := range by {
		list = append(list, *peer)
	}
	slices.SortFunc(list, func(a, b Peer) int { return strings.Compare(a.Domain, b.Domain) })
	return list, nil
}

// CheckPeer fetches a peer's directory now, as its rooms and users are reached by it.
func (p *Provider) CheckPeer(ctx context.Context, domain string) (map[string]string, error) {
	return p.fed.FetchDirectory(ctx, domain)
}

// Users lists the local users who have used the provider.
func (p *Provider) Users(ctx context.Context) (users []string, err error) {
	err = p.store.View(ctx, func(tx *store.Tx) (err error) {
		users, err = tx.Users()
		return err
	})
	return users, err
}

// Directory is what is served under federation.DirectoryPath.
func (p *Provider) Directory() []byte { return p.server.Directory() }

// Counters are all counters since the start by name: part.what, and part.what.of for those of the federation.
func (p *Provider) Counters() map[string]uint64 {
	m := map[string]uint64{}
	for name, v := range p.fed.Counters() {
		m["federation_client."+name] = v
	}
	for name, v := range p.server.Counters() {
		m["federation_server."+name] = v
	}
	addCounters(m, "hub", &p.Hub.Counters)
	addCounters(m, "client", &p.Client.Counters)
	addCounters(m, "people", &p.People.Counters)
	for _, h := range p.hosts {
		if c, ok := h.adapter.(interface{ Counters() map[string]uint64 }); ok {
			for name, v := range c.Counters() {
				m["adapter_"+h.adapter.Name()+"."+name] = v
			}
		}
	}
	return m
}
