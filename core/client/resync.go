package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	info, err := r.fetch(ctx, user)
	if err == nil {
		err = r.abreast(info)
	}
	if err == nil {
		err = r.external(ctx, user, info, in)
	}
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

// abreast fails if the hub is not where the group state held here is: another local user's external commit could then
// not be followed.
func (r *room) abreast(info *wire.GroupInfoRatchetTree) error {
	if r.g == nil {
		return nil
	}
	same := r.where(info)
	if same && len(info.Pending) == len(r.g.Proposals()) {
		return nil
	}
	if info.GroupInfo.GroupContext.Epoch > r.g.Epoch() {
		r.ahead()
	}
	return fault.New(fault.Unavailable, "the room is changing; it will be tried again")
}

// where reports whether the hub's group is at the epoch of ours, and the same.
func (r *room) where(info *wire.GroupInfoRatchetTree) bool {
	return r.g != nil && info.GroupInfo.GroupContext.Epoch == r.g.Epoch() && bytes.Equal(info.GroupInfo.ConfirmationTag, r.g.ConfirmationTag())
}

// external makes an external commit for a local user and stores it. A leaf of the user that is in the tree already is
// replaced by it (resync).
func (r *room) external(ctx context.Context, user mimiuri.URI, info *wire.GroupInfoRatchetTree, in *store.Intent) error {
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
		role, ok := pol.OpenRole()
		if !ok {
			return fault.New(fault.Forbidden, "the room does not let this user in")
		}
		update := policy.AddParticipantUpdate(pol, []policy.Participant{{User: user, Role: role}})
		opts.Proposals = append(opts.Proposals, mls.Proposal{Body: &mls.AppDataUpdate{ComponentID: policy.ComponentParticipantList, Op: mls.AppDataOpUpdate, Update: update}})
	}
	for _, p := range info.Pending {
		opts.ProposalRefs = append(opts.ProposalRefs, p.Message)
	}
	g, out, err := mls.ExternalCommit(r.joining(id.credential()), info.GroupInfo, info.Tree.Tree, opts)
	if err != nil {
		return fmt.Errorf("client: external commit into %s: %w", r.id, err)
	}
	state, err := packGroup(g)
	if err != nil {
		return err
	}
	req := &wire.UpdateRequest{Message: out.Message}
	r.attach(req, out)
	p := &store.Pending{Kind: pendingExternal, Request: req.Marshal(), Next: state, Tag: out.ConfirmationTag, Hash: hashOf(out.Message), Created: r.now().UnixMilli()}
	return r.storePending(ctx, p, in, info.GroupInfo.GroupContext.Epoch)
}

// joining is the configuration to join a group with for clients of ours with these credentials. MLS wants the group ID to be of
// none that a client is in (RFC 9420 section 12.4.3): neither of this room's group, unless the group has gone on to an epoch in
// which the client may be back, nor of another room's, which the hub of this one has no business in.
func (r *room) joining(clients ...mls.Credential) *mls.Config {
	cfg := *r.c.cfg.MLS
	cfg.InGroup = func(id []byte, epoch uint64) bool {
		if string(id) != r.uri.GroupOf().String() {
			return r.c.inGroup(string(id))
		}
		if r.g == nil || r.broken != "" || epoch > r.g.Epoch() {
			return false
		}
		return slices.ContainsFunc(r.g.LocalLeaves(), func(l mls.LeafIndex) bool {
			return slices.ContainsFunc(clients, func(c mls.Credential) bool { return c.Equal(&r.g.Leaf(l).Credential) })
		})
	}
	return &cfg
}

// inGroup reports whether clients of ours are in the group of that ID, as it is stored.
func (c *Client) inGroup(id string) bool {
	group, err := mimiuri.ParseKind(id, mimiuri.Group)
	if err != nil {
		return false
	}
	group.Kind = mimiuri.Room
	in := false
	err = c.cfg.Store.View(context.Background(), func(tx *store.Tx) error {
		status, _, known, err := tx.ClientEpoch(group.String())
		in = known && status == store.ClientJoined
		return err
	})
	return in || err != nil // a group that cannot be looked up is not joined
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
	if r.g != nil {
		ch.gone = r.leaving().users // the hub proposes their removal anew, for the new epoch
	}
	if r.broken == "" && r.g != nil && r.g.Epoch()+1 == g.Epoch() {
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
			return r.adoptNext(ctx, r.g, ch)
		}
	}
	// Our other users' clients are still in the tree: those whose keys are known and still the same are taken over, the
	// others come back one by one.
	ch.fresh = rows
	var back []string
	for _, m := range g.Members() {
		u, _, err := policy.LeafUser(m.Node)
		if err != nil || u.Domain != r.c.cfg.Domain || g.IsLocal(m.Leaf) || ch.gone[u] {
			continue
		}
		if r.g != nil && r.g.IsLocal(m.Leaf) && g.AttachLeaf(m.Leaf, r.g.LeafKey(m.Leaf), r.g.SignatureKey(m.Leaf)) == nil {
			continue
		}
		back = append(back, u.String())
	}
	// A client that is none of theirs brings nobody in. Of a database that was restored it is not known whose is.
	if !r.c.cfg.Store.Restored() {
		var genuine []string
		if err := r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			genuine, err = r.genuine(tx, g, back, nil)
			return err
		}); err != nil {
			return err
		}
		back = slices.DeleteFunc(back, func(u string) bool { return r.view.here(u) == nil && !slices.Contains(genuine, u) })
	}
	for _, u := range back {
		r.rejoin(ch, uri(u))
	}
	r.c.Counters.Resyncs.Add(1)
	return r.adoptNext(ctx, g, ch)
}

// resync rejoins the group with one local user by an external commit, unless it turns out that the hub is where we are.
func (r *room) resync(ctx context.Context, why string) (more bool, err error) {
	info, user, err := r.ask(ctx)
	if err != nil {
		if fault.Temporary(err) || ctx.Err() != nil {
			r.hubFailed("groupInfo", err)
			return false, nil
		}
		return true, r.lose(ctx, err)
	}
	r.hubReached()
	if r.where(info) && (r.broken == "" || r.poison != 0) {
		return true, r.ignore(ctx)
	}
	if r.g != nil && info.GroupInfo.GroupContext.Epoch < r.g.Epoch() {
		r.log.Error().Uint64("hub_epoch", info.GroupInfo.GroupContext.Epoch).Uint64("epoch", r.g.Epoch()).Msg("the hub is in an earlier epoch than this provider: it has lost state")
	}
	r.log.Warn().Str("why", why).Msg("joining the room's group anew")
	r.broken, r.wrongEpoch = why, time.Time{}
	if r.pending != nil {
		ch := &change{}
		r.undoPending(ch)
		if err := r.commit(ctx, ch); err != nil {
			return false, err
		}
	}
	if err := r.external(ctx, user, info, nil); err != nil {
		r.hubFailed("resync", err)
		return false, nil
	}
	return true, nil
}

// check asks the hub whether the group held here is still the room's: a hub that was restored from a copy has gone on from an
// earlier epoch, perhaps to one of the same number. It is asked once a minute at most, since anybody in the room can sow doubt.
func (r *room) check(ctx context.Context) (more bool, err error) {
	if r.now().Sub(r.doubted) < time.Minute {
		return false, nil
	}
	info, _, err := r.ask(ctx)
	if err != nil {
		if fault.Temporary(err) || ctx.Err() != nil {
			r.hubFailed("groupInfo", err)
			return true, nil
		}
		return true, r.lose(ctx, err)
	}
	r.hubReached()
	r.doubt, r.doubted = false, r.now()
	switch {
	case r.where(info):
		return true, nil
	case info.GroupInfo.GroupContext.Epoch > r.g.Epoch():
		r.ahead()
		return true, nil
	}
	return r.resync(ctx, "the hub's group has another history")
}

// ask fetches the group's state from the hub for the first local user that it is given to. An error that is not temporary
// says that it is given to nobody here.
func (r *room) ask(ctx context.Context) (*wire.GroupInfoRatchetTree, mimiuri.URI, error) {
	err := error(fault.New(fault.Forbidden, "no local user is in the room"))
	for _, m := range r.view.Members {
		u := uri(m.User)
		if u.Domain != r.c.cfg.Domain || m.Away {
			continue
		}
		var info *wire.GroupInfoRatchetTree
		if info, err = r.fetch(ctx, u); err == nil {
			return info, u, nil
		}
		if fault.Temporary(err) {
			break
		}
	}
	return nil, mimiuri.URI{}, err
}

// ignore goes on with the group as it is: the hub is there too, so what told otherwise is none of the room's.
func (r *room) ignore(ctx context.Context) error {
	epoch, poison := r.g.Epoch(), r.poison
	r.log.Warn().Uint64("epoch", epoch).Msg("messages from the hub do not belong to the group's history; they are dropped")
	r.c.Counters.Dropped.Add(1)
	r.wrongEpoch, r.broken, r.poison = time.Time{}, "", 0
	ch := &change{}
	ch.do(func(tx *store.Tx) error {
		if poison != 0 {
			if err := tx.DeleteInbox(r.id, poison); err != nil {
				return err
			}
		}
		return tx.DropHeld(r.id, epoch)
	})
	return r.commit(ctx, ch)
}

// lose gives the room up: the hub tells none of our users anything of it any more.
func (r *room) lose(ctx context.Context, why error) error {
	r.log.Warn().Err(why).Msg("this provider has lost access to the room")
	ch := &change{full: true, out: true, lost: true, ts: r.now().UnixMilli()}
	r.undoPending(ch)
	r.broken, r.poison = "", 0
	ch.do(func(tx *store.Tx) error { return tx.DropHeld(r.id, 0) })
	return r.commitEpoch(ctx, ch)
}

// rejoin stores an intent of our own with the change: the user's client has to come back into the group.
func (r *room) rejoin(ch *change, user mimiuri.URI) {
	b, _ := json.Marshal(payload{Kind: adapter.JoinRoom})
	var id [8]byte
	rand.Read(id[:])
	in := &store.Intent{Room: r.id, Actor: user.String(), Origin: "rejoin-" + hex.EncodeToString(id[:]), Payload: b, Created: r.now().UnixMilli()}
	ch.do(func(tx *store.Tx) error {
		_, err := tx.InsertIntent(in)
		return err
	})
}

// prove looks whether something that is held for the next epoch fits the epoch that our own pending commit leads to: then
// the commit was accepted, though nobody said so.
func (r *room) prove(ctx context.Context) (more bool, err error) {
	p := r.pending
	if p == nil || p.Kind != pendingCommit {
		return false, nil
	}
	var held []store.InboxItem
	err = r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		held, err = tx.HeldInbox(r.id, r.g.Epoch(), inboxAtOnce)
		return err
	})
	if err != nil {
		return false, err
	}
	var next *mls.Group
	for _, it := range held {
		if it.Seq <= r.proved || it.Held != int64(r.g.Epoch())+1 {
			continue
		}
		r.proved = it.Seq
		f, err := wire.ParseFanout(it.Body)
		if err != nil || len(f) != 1 {
			return false, errors.Join(err, errors.New("client: a stored FanoutMessage cannot be read"))
		}
		if next == nil {
			if next, err = r.copyGroup(ctx); err != nil {
				return false, err
			}
			if _, err := next.MergePending(p.Next); err != nil {
				return false, nil
			}
		}
		fits, err := r.fits(ctx, next, f[0].Message)
		if err != nil {
			return false, err
		}
		if fits {
			r.log.Info().Msg("the room goes on from our own commit: it was accepted")
			return true, r.merge(ctx, &change{ts: int64(f[0].Timestamp)}, nil)
		}
	}
	return false, nil
}

// fits reports whether a message belongs to the epoch of a group, which may change.
func (r *room) fits(ctx context.Context, g *mls.Group, m *mls.MLSMessage) (bool, error) {
	if m.Welcome != nil {
		keys, _, err := r.joinKeys(ctx, m.Welcome)
		return err == nil && len(keys) > 0 && g.AttachWelcome(m.Welcome, keys) == nil, err
	}
	switch m.ContentType() {
	case mls.ContentApplication:
		_, err := g.Decrypt(m)
		return err == nil, nil
	case mls.ContentProposal:
		_, err := g.ReceiveProposal(m)
		return err == nil, nil
	case mls.ContentCommit:
		_, err := g.StageCommit(m)
		return err == nil, nil
	}
	return false, nil
}
