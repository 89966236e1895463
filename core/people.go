package core

import (
	"context"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/people"
)

// PeopleConfig is the part of Config about what is between users here and elsewhere; see people.Config.
type PeopleConfig struct {
	Policy      string   // of users who have set none: ask, contacts, everyone or nobody; empty is ask
	Ask         string   // how strangers ask: people.AskByAdapter, AskByInvitation or AskByQuestion
	Allow, Deny []string // peers
	Limits      people.Limits
	Notice      func(people.Notice)
}

func (h *host) Consent(ctx context.Context, local, other, room mimiuri.URI, action adapter.ConsentAction) error {
	return h.p.People.Consent(ctx, local, other, room, action)
}

func (h *host) AnswerInvitation(ctx context.Context, local, room mimiuri.URI, accept bool) error {
	by, err := h.p.Client.Inviter(ctx, room, local)
	if err != nil || by.IsZero() {
		return err
	}
	action := adapter.RefuseConsent
	if accept {
		action = adapter.GrantConsent
	}
	if err := h.p.People.Consent(ctx, local, by, room, action); err != nil {
		return err
	}
	return h.p.Client.Answered(ctx, room, local)
}

func (h *host) Contacts(ctx context.Context, local mimiuri.URI) ([]adapter.Contact, error) {
	return h.p.People.Contacts(ctx, local)
}

func (h *host) SetConsentPolicy(ctx context.Context, local mimiuri.URI, policy string) error {
	return h.p.People.SetConsentPolicy(ctx, local, policy)
}

func (h *host) ConsentPolicy(ctx context.Context, local mimiuri.URI) (string, error) {
	return h.p.People.ConsentPolicy(ctx, local)
}

func (h *host) Find(ctx context.Context, local mimiuri.URI, domain, field, value string) ([]adapter.Profile, error) {
	return h.p.People.Find(ctx, local, domain, field, value)
}

func (h *host) SetProfile(ctx context.Context, local mimiuri.URI, p adapter.Profile) error {
	return h.p.People.SetProfile(ctx, local, p)
}

func (h *host) Profile(ctx context.Context, user mimiuri.URI) (adapter.Profile, bool, error) {
	return h.p.People.Profile(ctx, user)
}

func (h *host) Block(ctx context.Context, local mimiuri.URI, target adapter.BlockTarget) error {
	return h.p.People.Block(ctx, local, target)
}

func (h *host) Unblock(ctx context.Context, local mimiuri.URI, target adapter.BlockTarget) error {
	return h.p.People.Unblock(ctx, local, target)
}

func (h *host) Blocked(ctx context.Context, local mimiuri.URI) ([]adapter.BlockTarget, error) {
	return h.p.People.Blocked(ctx, local)
}

// Contacts lists how a local user and others stand to each other.
func (p *Provider) Contacts(ctx context.Context, local mimiuri.URI) ([]adapter.Contact, error) {
	return p.People.Contacts(ctx, local)
}

// PeerRules lists which peers are allowed and denied; AllowPeer and DenyPeer decide about one ("example.org", "*.example.org"), at
// once and over restarts; ForgetPeer takes that back.
func (p *Provider) PeerRules(ctx context.Context) ([]people.PeerRule, error) {
	return p.People.PeerRules(ctx)
}

// AllowPeer lets a peer take part although it is not in the configuration's list, or is denied there.
func (p *Provider) AllowPeer(ctx context.Context, domain string) error {
	return p.People.SetPeer(ctx, domain, true)
}

// DenyPeer ends what is exchanged with a peer: it is neither served nor asked.
func (p *Provider) DenyPeer(ctx context.Context, domain string) error {
	return p.People.SetPeer(ctx, domain, false)
}

// ForgetPeer takes AllowPeer or DenyPeer back.
func (p *Provider) ForgetPeer(ctx context.Context, domain string) error {
	return p.People.ForgetPeer(ctx, domain)
}

// Block blocks a user, a room or a domain for everybody here: nobody sees what they send, they are not added or asked, and they can
// do nothing in rooms kept here. Of a local user it stops what they do.
func (p *Provider) Block(ctx context.Context, target mimiuri.URI) error {
	return p.People.BlockForAll(ctx, target)
}

// Unblock takes Block back.
func (p *Provider) Unblock(ctx context.Context, target mimiuri.URI) error {
	return p.People.UnblockForAll(ctx, target)
}

// Blocked lists what is blocked for everybody, or with a local user, what they have blocked.
func (p *Provider) Blocked(ctx context.Context, local mimiuri.URI) ([]mimiuri.URI, error) {
	return p.People.Blocked(ctx, local)
}
