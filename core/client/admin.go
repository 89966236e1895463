package client

import (
	"context"
	"slices"
	"strings"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
)

// ban gives a user the banned role and removes their clients, in one commit.
func (r *room) ban(ctx context.Context, in *store.Intent, pl *payload, leaf mls.LeafIndex) error {
	target := uri(pl.Target)
	if pl.Retract {
		if role := r.pol.Role(uri(in.Actor)); !role.Can(policy.CanDeleteOtherMessage) {
			return r.refuse(ctx, in, pl, fault.Forbidden, "you may not remove messages of others in this room")
		}
	}
	if r.pol.Banned(target) {
		if pl.Retract {
			ch := &change{}
			ch.do(func(tx *store.Tx) error { return r.retract(tx, in.Actor, pl.Target) })
			if err := r.commit(ctx, ch); err != nil {
				return err
			}
		}
		return r.confirm(ctx, in, pl, &eventRow{Kind: adapter.Banned, User: pl.Target})
	}
	if target == uri(in.Actor) {
		return r.refuse(ctx, in, pl, fault.Forbidden, "nobody bans themselves")
	}
	change, err := r.pol.BanChange(target)
	if err != nil {
		return r.refuse(ctx, in, pl, fault.Forbidden, fault.Public(err))
	}
	proposals := append([]mls.Proposal{change.Proposal()}, r.removeLeaves(-1, target)...)
	return r.startCommit(ctx, leaf, mls.CommitOptions{Proposals: proposals}, in)
}

// unban takes a banned user off the list.
func (r *room) unban(ctx context.Context, in *store.Intent, pl *payload, leaf mls.LeafIndex) error {
	if !r.pol.Banned(uri(pl.Target)) {
		return r.refuse(ctx, in, pl, fault.NotFound, "this user is not banned")
	}
	proposals, err := r.removal(pl.Target, -1)
	if err != nil {
		return err
	}
	return r.startCommit(ctx, leaf, mls.CommitOptions{Proposals: proposals}, in)
}

// changeRole gives a participant another role. Who may have no clients in it loses them.
func (r *room) changeRole(ctx context.Context, in *store.Intent, pl *payload, leaf mls.LeafIndex) error {
	target := uri(pl.Target)
	role, ok := r.pol.Roles.Get(pl.Role)
	switch i := r.pol.Participants.Index(target); {
	case i < 0 || r.pol.Banned(target):
		return r.refuse(ctx, in, pl, fault.NotFound, "this user is not in the room")
	case !ok:
		return r.refuse(ctx, in, pl, fault.NotFound, "this room has no such role")
	case r.pol.Participants[i].Role == pl.Role:
		return r.confirm(ctx, in, pl, &eventRow{Kind: adapter.RoleChanged, User: pl.Target, Role: pl.Role})
	}
	update, err := policy.ChangeRoleUpdate(r.pol, policy.Participant{User: target, Role: pl.Role})
	if err != nil {
		return err
	}
	proposals := []mls.Proposal{policy.ListChange(update).Proposal()}
	if !role.MayHaveClients() {
		proposals = append(proposals, r.removeLeaves(-1, target)...)
	}
	return r.startCommit(ctx, leaf, mls.CommitOptions{Proposals: proposals}, in)
}

// setMetadata changes parts of the metadata.
func (r *room) setMetadata(ctx context.Context, in *store.Intent, pl *payload, leaf mls.LeafIndex) error {
	m := r.pol.Metadata
	m.Room = r.uri
	m.Descriptions = slices.Clone(m.Descriptions)
	for _, x := range []struct {
		to   *string
		from *string
	}{{&m.Name, pl.Metadata.Name}, {&m.Subject, pl.Metadata.Subject}, {&m.Mood, pl.Metadata.Mood}, {&m.Avatar, pl.Metadata.Avatar}} {
		if x.from != nil {
			*x.to = *x.from
		}
	}
	if d := pl.Metadata.Description; d != nil {
		plain := func(d policy.RichDescription) bool {
			t := strings.ToLower(d.MediaType)
			return t == "" || strings.HasPrefix(t, "text/plain")
		}
		switch i := slices.IndexFunc(m.Descriptions, plain); {
		case *d == "": // all of them, since they say the same
			m.Descriptions = nil
		case i >= 0:
			m.Descriptions[i].Content = []byte(*d)
		default:
			m.Descriptions = append(m.Descriptions, policy.RichDescription{MediaType: "text/plain;charset=utf-8", Content: []byte(*d)})
		}
	}
	update := m.Marshal()
	if _, err := policy.ParseRoomMetadata(update); err != nil {
		return r.refuse(ctx, in, pl, fault.Malformed, "this is too long, or not valid text")
	}
	if string(update) == string(r.pol.Metadata.Marshal()) {
		return r.confirm(ctx, in, pl, &eventRow{Kind: adapter.Metadata})
	}
	c := policy.Change{Component: policy.ComponentRoomMetadata, Update: update}
	return r.startCommit(ctx, leaf, mls.CommitOptions{Proposals: []mls.Proposal{c.Proposal()}}, in)
}

// setPolicy changes parts of the policy.
func (r *room) setPolicy(ctx context.Context, in *store.Intent, pl *payload, leaf mls.LeafIndex) error {
	changes, err := r.pol.SettingsChanges(policy.Settings{Open: pl.Policy.Open, History: pl.Policy.History, Discoverable: pl.Policy.Discoverable, MaxUsers: pl.Policy.MaxUsers})
	if err != nil {
		return r.refuse(ctx, in, pl, fault.Forbidden, fault.Public(err))
	}
	if len(changes) == 0 {
		return r.confirm(ctx, in, pl, &eventRow{Kind: adapter.Policy})
	}
	return r.startCommit(ctx, leaf, mls.CommitOptions{Proposals: proposalsOf(changes)}, in)
}

// destroy removes everybody else by a commit, and then the actor leaves: the hub closes a room without clients.
func (r *room) destroy(ctx context.Context, in *store.Intent, pl *payload, leaf mls.LeafIndex) error {
	actor := uri(in.Actor)
	var others []mimiuri.URI
	for _, p := range r.pol.Users() {
		if p.User != actor {
			others = append(others, p.User)
		}
	}
	if !r.pol.Base.PersistentRoom && len(others) == 0 {
		return r.leave(ctx, in, pl, leaf)
	}
	proposals := append(proposalsOf(r.pol.DestroyChanges(actor)), r.removeLeaves(-1, others...)...)
	return r.startCommit(ctx, leaf, mls.CommitOptions{Proposals: proposals}, in)
}

func proposalsOf(changes []policy.Change) (ps []mls.Proposal) {
	for _, c := range changes {
		ps = append(ps, c.Proposal())
	}
	return ps
}

// confirm ends an intent that the room is as it wants already: e tells so.
func (r *room) confirm(ctx context.Context, in *store.Intent, pl *payload, e *eventRow) error {
	e.TS, e.Actor, e.Local = r.now().UnixMilli(), in.Actor, []string{in.Actor}
	e.from(pl.origin(in))
	ch := &change{events: []*eventRow{e}}
	ch.do(func(tx *store.Tx) error { return tx.EndIntent(r.id, in.Seq, store.IntentDone) })
	return r.commit(ctx, ch)
}
