package client

import (
	"context"
	"fmt"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// join brings a local user into a room by an external commit, if its policy lets them in.
func (r *room) join(ctx context.Context, in *store.Intent, pl *payload) (more bool, err error) {
	user := uri(in.Actor)
	if _, ok := r.leaf(user); ok {
		return true, r.refuse(ctx, in, pl, fault.Conflict, "you are in this room already")
	}
	err = r.external(ctx, user, in)
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, nil
	case fault.Temporary(err):
		return r.deferIntent(ctx, in, pl, err)
	}
	return true, r.refuse(ctx, in, pl, fault.KindOf(err), fault.Public(err))
}

// external makes an external commit for a local user and stores it. A leaf of the user that is in the tree already is
// replaced by it (resync).
func (r *room) external(ctx context.Context, user mimiuri.URI, in *store.Intent) error {
	info, err := r.fetch(ctx, user)
	if err != nil {
		return err
	}
	if info.Tree.Tree == nil {
		return fault.New(fault.Unavailable, "the hub gave no ratchet tree")
	}
	public, err := mls.NewPublicGroup(r.c.cfg.MLS, info.GroupInfo, info.Tree.Tree)
	if err != nil {
		return fault.Wrap(fault.Unavailable, "the hub's group is not valid", err)
	}
	if string(public.GroupID()) != r.uri.GroupOf().String() {
		return fault.New(fault.Unavailable, "the hub answered with another room's group")
	}
	pol, err := policy.ParseState(public.AppData())
	if err != nil {
		return fault.Wrap(fault.Unavailable, "the room's policy cannot be read", err)
	}
	id, err := r.c.identity(ctx, user)
	if err != nil {
		return err
	}
	opts := mls.ExternalCommitOptions{Leaf: id.leafOptions(), AAD: emptyAAD}
	for _, m := range public.Members() {
		if u, client, err := policy.LeafUser(m.Node); err == nil && u == user && client == id.client {
			leaf := m.Leaf
			opts.Resync = &leaf
		}
	}
	if pol.Participants.Index(user) < 0 {
		update := policy.AddParticipantUpdate(pol, []policy.Participant{{User: user, Role: policy.RoleOrdinaryUser}})
		opts.Proposals = append(opts.Proposals, mls.Proposal{Body: &mls.AppDataUpdate{ComponentID: policy.ComponentParticipantList, Op: mls.AppDataOpUpdate, Update: update}})
	}
	for _, p := range info.Pending {
		opts.ProposalRefs = append(opts.ProposalRefs, p.Message)
	}
	g, out, err := mls.ExternalCommit(r.c.cfg.MLS, info.GroupInfo, info.Tree.Tree, opts)
	if err != nil {
		return fmt.Errorf("client: external commit into %s: %w", r.id, err)
	}
	state, err := packGroup(g)
	if err != nil {
		return err
	}
	req := &wire.UpdateRequest{Message: out.Message, GroupInfo: wire.GroupInfoOption{Full: out.GroupInfo}, Tree: *mls.FullTree(out.Tree)}
	p := &store.Pending{Kind: pendingExternal, Request: req.Marshal(), Next: state, Tag: out.ConfirmationTag, Hash: hashOf(out.Message), Created: r.now().UnixMilli()}
	return r.storePending(ctx, p, in, info.GroupInfo.GroupContext.Epoch)
}

// mergeExternal takes an accepted external commit into effect.
func (r *room) mergeExternal(ctx context.Context, ch *change) error {
	g, rows, err := r.c.unpackGroup(r.pending.Next)
	if err != nil {
		return err
	}
	user, _, err := policy.LeafUser(g.Leaf(g.LocalLeaves()[0]))
	if err != nil {
		return err
	}
	ch.actor = user
	if r.g != nil && r.g.Epoch()+1 == g.Epoch() {
		// Others of ours are in the room: they follow the commit, and the new leaf joins them in the shared state.
		req, err := wire.ParseUpdateRequest(r.pending.Request)
		if err != nil {
			return err
		}
		if staged, err := r.g.StageCommit(req.Message); err == nil && !staged.SelfRemoved {
			if err := r.g.MergeStaged(staged); err != nil {
				r.drop()
				return err
			}
			if err := r.g.AttachGroup(g); err != nil {
				r.drop()
				return err
			}
			g = r.g
		}
	}
	before := map[string]bool{}
	if r.g != nil && r.g != g {
		for _, l := range r.g.LocalLeaves() {
			if u, _, err := policy.LeafUser(r.g.Leaf(l)); err == nil && u != user {
				before[u.String()] = true
			}
		}
	}
	if r.g != g {
		ch.fresh = rows
	}
	if err := r.adoptNext(ctx, g, ch); err != nil {
		return err
	}
	r.c.Counters.Resyncs.Add(1)
	for u := range before { // their state is lost with the old group
		if err := r.internalJoin(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// resync rejoins the group with one local user by an external commit; the other local users follow one by one.
func (r *room) resync(ctx context.Context, why string) (more bool, err error) {
	r.log.Warn().Str("why", why).Msg("joining the room's group anew")
	r.broken, r.wrongEpoch = why, time.Time{}
	if r.pending != nil {
		ch := &change{}
		r.undoPending(ch)
		if err := r.commit(ctx, ch); err != nil {
			return false, err
		}
	}
	if err := r.external(ctx, r.someLocalUser(), nil); err != nil {
		r.hubFailed("resync", err)
		return false, nil
	}
	return true, nil
}

// rejoin brings users in by external commit whose Welcome could not be used.
func (r *room) rejoin(ctx context.Context, users []mimiuri.URI, refs [][]byte, ch *change) error {
	if r.row == nil {
		if err := r.load(ctx); err != nil {
			return err
		}
	}
	ch.do(func(tx *store.Tx) error {
		for _, ref := range refs {
			if err := tx.DeleteKeyPackage(ref); err != nil {
				return err
			}
		}
		return nil
	})
	if err := r.commit(ctx, ch); err != nil {
		return err
	}
	for _, u := range users {
		if err := r.internalJoin(ctx, u.String()); err != nil {
			return err
		}
	}
	return nil
}

// internalJoin stores an intent of our own: the user's client has to come back into the group.
func (r *room) internalJoin(ctx context.Context, user string) error {
	now := r.now()
	b := []byte(fmt.Sprintf(`{"kind":%d}`, adapter.JoinRoom))
	return r.c.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		_, err := tx.InsertIntent(&store.Intent{Room: r.id, Adapter: "", Actor: user, Origin: fmt.Sprintf("rejoin-%d", now.UnixNano()), Payload: b, Created: now.UnixMilli()})
		return err
	})
}
