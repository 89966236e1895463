package people

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// snapshot is all blocks and rules about peers: they are few, and asked for with each message.
type snapshot struct {
	blocks map[string]map[string]bool // target → owners; "" is the admin
	rules  map[string]bool            // domain → allowed
	admin  bool                       // the admin blocks somebody or something
	only   bool                       // only allowed peers are served
}

func (p *People) reload(ctx context.Context) error {
	s := &snapshot{blocks: map[string]map[string]bool{}, rules: map[string]bool{}, only: len(p.settings().Allow) > 0}
	err := p.cfg.Store.View(ctx, func(tx *store.Tx) error {
		blocks, err := tx.Blocks()
		if err != nil {
			return err
		}
		for _, b := range blocks {
			if s.blocks[b.Target] == nil {
				s.blocks[b.Target] = map[string]bool{}
			}
			s.blocks[b.Target][b.Owner] = true
			s.admin = s.admin || b.Owner == ""
		}
		rules, err := tx.PeerRules()
		for _, r := range rules {
			s.rules[r.Domain] = r.Allow
		}
		return err
	})
	if err != nil {
		return err
	}
	p.snap.Store(s)
	return nil
}

// names are the targets by which a user, or what is in a room, may be blocked.
func names(user, room mimiuri.URI) []string {
	var list []string
	if !user.IsZero() {
		list = append(list, user.String())
		list = append(list, domains(user.Domain)...)
	}
	if !room.IsZero() {
		list = append(list, room.String())
	}
	return list
}

// domains are the targets by which a provider may be blocked: with its port, if it has one, and as a host.
func domains(domain string) []string {
	list := []string{provider(domain).String()}
	if host := mimiuri.Host(domain); host != domain {
		list = append(list, provider(host).String())
	}
	return list
}

// blocked reports whether a local user, or the admin, does not want to hear of other, or of the room.
func (p *People) blocked(local, other, room mimiuri.URI) bool {
	s := p.snap.Load()
	if len(s.blocks) == 0 {
		return false
	}
	user := local.String()
	list := names(other, room)
	if !room.IsZero() { // a room of a blocked domain is not one to be added to
		list = append(list, domains(room.Domain)...)
	}
	for _, n := range list {
		if o := s.blocks[n]; o[user] || o[""] {
			return true
		}
	}
	return s.blocks[user][""]
}

// blockedByAdmin reports whether a user or a room is blocked for everybody.
func (p *People) blockedByAdmin(user, room mimiuri.URI) bool {
	s := p.snap.Load()
	return s.admin && slices.ContainsFunc(names(user, room), func(n string) bool { return s.blocks[n][""] })
}

// Sees gives those of the local users who want to see what sender sent to the room: not those who have blocked either, nor, in
// the direct room of two users, who has refused the other. The slice may be the one given.
func (p *People) Sees(ctx context.Context, local []mimiuri.URI, sender, room mimiuri.URI, direct bool) ([]mimiuri.URI, error) {
	s := p.snap.Load()
	if len(s.blocks) == 0 && !direct {
		return local, nil
	}
	refuses := map[string]bool{}
	if direct {
		err := p.cfg.Store.View(ctx, func(tx *store.Tx) error {
			for _, u := range local {
				if u == sender {
					continue
				}
				row, err := tx.Consent(u.String(), sender.String(), "")
				if err != nil {
					return err
				}
				refuses[u.String()] = row.Grants == refused
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	var out []mimiuri.URI
	for _, u := range local {
		hidden := refuses[u.String()] || slices.ContainsFunc(names(sender, room), func(n string) bool {
			o := s.blocks[n]
			return o[""] || u != sender && o[u.String()]
		})
		if hidden {
			p.Counters.Hidden.Add(1)
		} else {
			out = append(out, u)
		}
	}
	return out, nil
}

// block writes or takes away a block of a local user, or with an empty owner of the admin.
func (p *People) block(ctx context.Context, owner string, target mimiuri.URI, on bool) error {
	switch target.Kind {
	case mimiuri.User, mimiuri.Room, mimiuri.Provider:
	default:
		return fault.New(fault.Malformed, "a user, a room or a domain can be blocked")
	}
	switch {
	case target.Domain == "":
		return fault.New(fault.Malformed, "a user, a room or a domain can be blocked")
	case target.String() == owner:
		return fault.New(fault.Malformed, "these are you yourself")
	case owner == "" && target == provider(p.cfg.Domain):
		return fault.New(fault.Malformed, "this is this provider itself")
	}
	err := p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if !on {
			return tx.DeleteBlock(owner, target.String())
		}
		if owner != "" {
			n, err := tx.CountBlocks(owner)
			if err != nil {
				return err
			}
			if n >= p.settings().Limits.Blocks {
				return p.over(owner, "blocks", p.now()+time.Hour.Milliseconds(), fmt.Sprintf("you have %d blocks, and more are not allowed", n))
			}
		}
		return tx.PutBlock(&store.Block{Owner: owner, Target: target.String(), Created: p.now()})
	})
	if err != nil {
		return err
	}
	return p.reload(ctx)
}

// Block is adapter.People's. Nothing is told to anybody.
func (p *People) Block(ctx context.Context, local, target mimiuri.URI) error {
	if local.Kind != mimiuri.User || local.Domain != p.cfg.Domain {
		return fault.New(fault.Forbidden, "only users of this provider act through it")
	}
	return p.block(ctx, local.String(), target, true)
}

// Unblock is adapter.People's.
func (p *People) Unblock(ctx context.Context, local, target mimiuri.URI) error {
	if local.Kind != mimiuri.User || local.Domain != p.cfg.Domain {
		return fault.New(fault.Forbidden, "only users of this provider act through it")
	}
	return p.block(ctx, local.String(), target, false)
}

// Blocked is adapter.People's; for the zero URI, what the admin has blocked for everybody.
func (p *People) Blocked(_ context.Context, local mimiuri.URI) ([]mimiuri.URI, error) {
	var list []mimiuri.URI
	for target, owners := range p.snap.Load().blocks {
		if !owners[local.String()] {
			continue
		}
		u, err := mimiuri.Parse(target)
		if err != nil {
			return nil, err
		}
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b mimiuri.URI) int { return strings.Compare(a.String(), b.String()) })
	return list, nil
}

// BlockedByAdmin reports whether a user is blocked for everybody: by name, or by their domain.
func (p *People) BlockedByAdmin(user mimiuri.URI) bool {
	if !p.blockedByAdmin(user, mimiuri.URI{}) {
		return false
	}
	p.Counters.Refused.Add(1)
	return true
}

// BlockForAll and UnblockForAll are the admin's: nobody here hears of the target, and it can do nothing in rooms kept here but
// leave.
func (p *People) BlockForAll(ctx context.Context, target mimiuri.URI) error {
	return p.block(ctx, "", target, true)
}

// UnblockForAll takes a block of the admin away.
func (p *People) UnblockForAll(ctx context.Context, target mimiuri.URI) error {
	return p.block(ctx, "", target, false)
}

func normalizeRule(d string) (string, error) {
	rest, sub := strings.CutPrefix(d, "*.")
	n, err := mimiuri.NormalizeDomain(rest)
	if err != nil {
		return "", fmt.Errorf("people: peer %q: %w", d, err)
	}
	if sub {
		n = "*." + n
	}
	return n, nil
}

func matches(rule, domain string) bool {
	if suffix, ok := strings.CutPrefix(rule, "*"); ok {
		return strings.HasSuffix(domain, suffix)
	}
	return rule == domain
}

var errPeer = fault.New(fault.Forbidden, "this provider is not one of those that may take part here")

// Peer refuses a peer that is denied, or not allowed where only some are. A rule of the admin goes before the configuration,
// denying before allowing. A host that is denied is denied on every port that has no rule of its own.
func (p *People) Peer(domain string) error {
	if domain == p.cfg.Domain {
		return nil
	}
	s := p.snap.Load()
	host := mimiuri.Host(domain)
	denied, allowed := slices.ContainsFunc(domains(domain), func(n string) bool { return s.blocks[n][""] }), false
	exact := false
	if ok, found := s.rules[domain]; found {
		exact, allowed, denied = true, ok, denied || !ok
	}
	if !exact {
		for rule, ok := range s.rules {
			if matches(rule, domain) {
				allowed, denied = allowed || ok, denied || !ok
			} else if matches(rule, host) {
				denied = denied || !ok
			}
		}
		for _, d := range p.settings().Deny {
			denied = denied || matches(d, domain) || matches(d, host)
		}
		for _, d := range p.settings().Allow {
			allowed = allowed || matches(d, domain)
		}
	}
	if denied || s.only && !allowed {
		p.Counters.Refused.Add(1)
		return errPeer
	}
	return nil
}

// PeerRule is what is decided about a peer.
type PeerRule struct {
	Domain string // or "*." and a domain
	Allow  bool
	Config bool      // of the configuration: it cannot be forgotten here
	Since  time.Time // zero for those of the configuration
}

// PeerRules lists what is decided about peers, the configuration's first.
func (p *People) PeerRules(ctx context.Context) (list []PeerRule, err error) {
	for _, d := range p.settings().Deny {
		list = append(list, PeerRule{Domain: d, Config: true})
	}
	for _, d := range p.settings().Allow {
		list = append(list, PeerRule{Domain: d, Allow: true, Config: true})
	}
	err = p.cfg.Store.View(ctx, func(tx *store.Tx) error {
		rules, err := tx.PeerRules()
		for _, r := range rules {
			list = append(list, PeerRule{Domain: r.Domain, Allow: r.Allow, Since: time.UnixMilli(r.Created).UTC()})
		}
		return err
	})
	return list, err
}

// SetPeer allows or denies a peer ("example.org" or "*.example.org"); at once, and over restarts.
func (p *People) SetPeer(ctx context.Context, domain string, allow bool) error {
	d, err := normalizeRule(domain)
	if err != nil || d == p.cfg.Domain {
		return fault.Newf(fault.Malformed, "%q is not the domain of another provider", domain)
	}
	err = p.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		return tx.PutPeerRule(&store.PeerRule{Domain: d, Allow: allow, Created: p.now()})
	})
	if err != nil {
		return err
	}
	return p.reload(ctx)
}

// ForgetPeer takes back what SetPeer decided.
func (p *People) ForgetPeer(ctx context.Context, domain string) error {
	d, err := normalizeRule(domain)
	if err != nil {
		return fault.Newf(fault.Malformed, "%q is not the domain of another provider", domain)
	}
	if err := p.cfg.Store.Update(ctx, func(tx *store.Tx) error { return tx.DeletePeerRule(d) }); err != nil {
		return err
	}
	return p.reload(ctx)
}

// Hub puts the limits and blocks for peers before a hub. What the own clients do was checked when it was taken in.
func (p *People) Hub(h port.Hub) port.Hub { return &guard{h, p} }

type guard struct {
	port.Hub
	p *People
}

var errBlockedRoom = fault.New(fault.NotFound, "there is no such room here")

func (g *guard) room(room mimiuri.URI) error {
	if g.p.blockedByAdmin(mimiuri.URI{}, room) {
		g.p.Counters.Refused.Add(1)
		return errBlockedRoom
	}
	return nil
}

func (g *guard) KeyMaterial(ctx context.Context, from string, room, target mimiuri.URI, body []byte) ([]byte, error) {
	if err := g.room(room); err != nil {
		return nil, err
	}
	req, err := wire.ParseKeyMaterialRequest(body)
	if err != nil {
		return nil, err
	}
	if g.p.blockedByAdmin(req.RequestingUser, room) {
		g.p.Counters.Refused.Add(1)
		return nil, fault.New(fault.Forbidden, "the administrator has blocked this user")
	}
	if target.Domain != g.p.cfg.Domain { // for one's own users it is counted where their keys are given
		if err := g.p.Invited(ctx, req.RequestingUser, room, from); err != nil {
			return nil, err
		}
	}
	return g.Hub.KeyMaterial(ctx, from, room, target, body)
}

func (g *guard) Update(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	if err := g.room(room); err != nil {
		return nil, err
	}
	return g.Hub.Update(ctx, from, room, body)
}

func (g *guard) Submit(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	if err := g.room(room); err != nil {
		return nil, err
	}
	return g.Hub.Submit(ctx, from, room, body)
}

func (g *guard) GroupInfo(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	if err := g.room(room); err != nil {
		return nil, err
	}
	return g.Hub.GroupInfo(ctx, from, room, body)
}
