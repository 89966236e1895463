package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// giveUpAfter is how long an invitation is tried while the other side cannot be reached.
const giveUpAfter = 24 * time.Hour

// intent reads one open intent; nil if it is not open any more.
func (r *room) intent(ctx context.Context, seq uint64) (in *store.Intent, pl *payload, err error) {
	err = r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		in, err = tx.OpenIntent(r.id, seq)
		return err
	})
	if err != nil || in == nil {
		return nil, nil, err
	}
	pl = new(payload)
	return in, pl, json.Unmarshal(in.Payload, pl)
}

// intents works on the first intent that can be worked on now.
func (r *room) intents(ctx context.Context) (more bool, err error) {
	var all []store.Intent
	err = r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		all, err = tx.OpenIntents(r.id, 1+len(r.deferred)) // one at least is not deferred
		return err
	})
	if err != nil {
		return false, err
	}
	for i := range all {
		in := &all[i]
		if until, ok := r.deferred[in.Seq]; ok && r.now().Before(until) {
			continue
		}
		pl := new(payload)
		if err := json.Unmarshal(in.Payload, pl); err != nil {
			return false, fmt.Errorf("client: stored intent: %w", err)
		}
		return r.work(ctx, in, pl)
	}
	r.look.intents = false
	return false, nil
}

// deferIntent lets the others pass an intent that waits for somebody who cannot be reached now.
func (r *room) deferIntent(ctx context.Context, in *store.Intent, pl *payload, why error) (bool, error) {
	age := r.now().Sub(time.UnixMilli(in.Created))
	if age > giveUpAfter {
		return true, r.refuse(ctx, in, pl, fault.Unavailable, fault.Public(why))
	}
	pause := min(minPause+age/4, 15*time.Minute)
	r.log.Warn().Err(why).Dur("again_in", pause).Msg("an intent waits")
	r.deferred[in.Seq] = r.now().Add(pause)
	r.wakeAt(r.deferred[in.Seq])
	return true, nil
}

func (r *room) work(ctx context.Context, in *store.Intent, pl *payload) (more bool, err error) {
	actor := uri(in.Actor)
	switch pl.Kind {
	case adapter.CreateRoom:
		return true, r.startCreate(ctx, in, pl)
	case adapter.JoinRoom:
		return r.join(ctx, in, pl)
	}
	leaf, ok := r.leaf(actor)
	if !ok && r.arriving(actor) {
		return r.deferIntent(ctx, in, pl, fault.New(fault.Unavailable, "your client is still joining the room"))
	}
	if !ok {
		why := "you are not in this room"
		if r.g == nil && r.row.Status == store.ClientNew {
			why = "this room is not known here"
		}
		return true, r.refuse(ctx, in, pl, fault.Forbidden, why)
	}
	switch pl.Kind {
	case adapter.SendMessage:
		return r.send(ctx, in, pl, leaf)
	case adapter.LeaveRoom:
		return true, r.leave(ctx, in, pl, leaf)
	}
	// What is pending is committed first if it might not go together with what is wanted here.
	if slices.ContainsFunc(r.g.Proposals(), func(p mls.PendingProposal) bool { return p.Proposal.Type() == mls.ProposalAppDataUpdate }) {
		if r.commitPause > 0 && r.now().Before(r.commitAt) {
			return false, nil // the hub has just refused that
		}
		return true, r.startCommit(ctx, leaf, mls.CommitOptions{}, nil)
	}
	switch pl.Kind {
	case adapter.Invite:
		return r.invite(ctx, in, pl, leaf)
	case adapter.Remove:
		return true, r.remove(ctx, in, pl, leaf)
	case adapter.Ban:
		return true, r.ban(ctx, in, pl, leaf)
	case adapter.Unban:
		return true, r.unban(ctx, in, pl, leaf)
	case adapter.ChangeRole:
		return true, r.changeRole(ctx, in, pl, leaf)
	case adapter.SetMetadata:
		return true, r.setMetadata(ctx, in, pl, leaf)
	case adapter.SetPolicy:
		return true, r.setPolicy(ctx, in, pl, leaf)
	case adapter.DestroyRoom:
		return true, r.destroy(ctx, in, pl, leaf)
	}
	return true, r.refuse(ctx, in, pl, fault.Malformed, "unknown kind of request")
}

// arriving reports whether a participant's client is in the tree, but its Welcome has not come yet.
func (r *room) arriving(user mimiuri.URI) bool {
	if r.g == nil || !r.pol.Active(user, r.g.Members()) {
		return false
	}
	out := r.leaving()
	return !out.users[user] && slices.ContainsFunc(r.g.Members(), func(m mls.Member) bool {
		u, _, err := policy.LeafUser(m.Node)
		return err == nil && u == user && !out.leaves[m.Leaf]
	})
}

// send encrypts and submits a message. Ciphertext and generation are stored in one transaction before anything leaves;
// what is sent again is the same octets, until the hub says that their epoch is over.
func (r *room) send(ctx context.Context, in *store.Intent, pl *payload, leaf mls.LeafIndex) (more bool, err error) {
	look, first := r.look, in.Status == store.IntentWaiting
	if first {
		if ok, more, err := r.alone(ctx, in, pl); !ok {
			return more, err
		}
		if len(r.g.Proposals()) > 0 { // RFC 9420 section 12.4: pending proposals are committed first
			if r.commitPause > 0 && r.now().Before(r.commitAt) {
				return false, nil // the hub has just refused that
			}
			return true, r.startCommit(ctx, leaf, mls.CommitOptions{}, nil)
		}
		if err := r.pol.CheckSend(uri(in.Actor)); err != nil {
			return true, r.refuse(ctx, in, pl, fault.Forbidden, fault.Public(err))
		}
		if pl.Files {
			if err := r.checkFiles(uri(in.Actor), pl.Content); err != nil {
				return true, r.refuse(ctx, in, pl, fault.Forbidden, fault.Public(err))
			}
		}
		tag := wire.FrankingTag([16]byte(pl.Salt), pl.Content)
		m, err := r.g.Encrypt(leaf, pl.Content, mls.MarshalSafeAAD([]mls.SafeAADItem{wire.FrankAAD(tag)}))
		if err != nil {
			r.drop()
			return false, fmt.Errorf("client: encrypt in %s: %w", r.id, err)
		}
		in.Request = (&wire.SubmitMessageRequest{Protocol: wire.MLS10, Message: m, SendingURI: uri(in.Actor)}).Marshal()
		in.Status, in.Epoch = store.IntentSent, r.g.Epoch()
		ch := &change{}
		ch.do(func(tx *store.Tx) error {
			if _, err := tx.MarkSeen(r.id, hashOf(m), in.Epoch); err != nil { // our own is known by its hash
				return err
			}
			return tx.SetIntent(in)
		})
		if err := r.commit(ctx, ch); err != nil {
			return false, err
		}
	}
	b, err := r.c.cfg.Hub.Submit(ctx, r.c.cfg.Domain, r.uri, in.Request)
	if err != nil {
		if fault.Temporary(err) || ctx.Err() != nil {
			r.hubFailed("submitMessage", err)
			return false, nil
		}
		return true, r.refuse(ctx, in, pl, fault.KindOf(err), fault.Public(err))
	}
	res, err := wire.ParseSubmitMessageResponse(b)
	if err != nil {
		r.hubFailed("submitMessage", err)
		return false, nil
	}
	r.hubReached()
	r.place = 0
	if r.g != nil && in.Epoch != r.g.Epoch() && res.Code != wire.SubmitAccepted { // the same content again, in the epoch where we are
		in.Status, in.Request = store.IntentWaiting, nil
		r.look = everywhere
		return true, r.c.cfg.Store.Update(ctx, func(tx *store.Tx) error { return tx.SetIntent(in) })
	}
	switch res.Code {
	case wire.SubmitAccepted:
		if ready, err := r.catchUp(ctx, int64(res.AcceptedTimestamp)); !ready || err != nil {
			return false, err
		}
		if err := r.sent(ctx, in, pl, res); err != nil {
			return false, err
		}
		if first { // nothing else was under way before it
			r.look = look
		}
		return true, nil
	case wire.EpochTooOld:
		if r.g == nil {
			return true, r.refuse(ctx, in, pl, fault.Forbidden, "you are not in this room")
		}
		r.ahead()
		if r.patience(1) {
			return r.resync(ctx, "the hub's commits did not arrive")
		}
		r.pauseHub(r.c.cfg.Patience / 4)
		return false, nil
	}
	if r.g != nil {
		// A hub that was restored from a copy is in an earlier epoch, and has no other word for it.
		if info, err := r.fetch(ctx, uri(in.Actor)); err == nil && info.GroupInfo.GroupContext.Epoch < r.g.Epoch() {
			return r.resync(ctx, "the hub is in an earlier epoch")
		}
	}
	return true, r.refuse(ctx, in, pl, fault.Forbidden, "the room does not accept this message from you")
}

// sent notes an accepted message: from here on it has its place among the others.
func (r *room) sent(ctx context.Context, in *store.Intent, pl *payload, res *wire.SubmitMessageResponse) error {
	id := content.ID(pl.Content, uri(in.Actor), r.uri, [16]byte(pl.Salt))
	e := &eventRow{Kind: adapter.Message, TS: int64(res.AcceptedTimestamp), ID: id[:], Sender: in.Actor, Content: pl.Content,
		Local: r.view.hearers(r.c.cfg.Domain, in.Epoch, in.Actor)}
	if !slices.Contains(e.Local, in.Actor) {
		e.Local = append(e.Local, in.Actor) // they were there then
	}
	if res.Frank != nil {
		e.Frank = res.Frank.Marshal()
	}
	e.from(pl.origin(in))
	e.then = r.newMessage(e)
	ch := &change{events: []*eventRow{e}}
	ch.do(func(tx *store.Tx) error { return tx.EndIntent(r.id, in.Seq, store.IntentDone) })
	if err := r.commit(ctx, ch); err != nil {
		return err
	}
	r.c.Counters.Sent.Add(1)
	r.sentSince++
	r.log.Debug().Str("event", "sent").Hex("message_id", id[:]).Int("bytes", len(in.Request)).Uint64("ts", res.AcceptedTimestamp).Msg("message accepted by the hub")
	return nil
}

// invite adds a user: their KeyPackages are claimed through the hub, then one commit puts them into the participant
// list and their clients into the group.
func (r *room) invite(ctx context.Context, in *store.Intent, pl *payload, leaf mls.LeafIndex) (more bool, err error) {
	target := uri(pl.Target)
	if out := r.leaving(); slices.ContainsFunc(r.g.Members(), func(m mls.Member) bool {
		u, _, err := policy.LeafUser(m.Node)
		return err == nil && u == target && out.leaves[m.Leaf]
	}) { // they may come back once they are out
		return true, r.startCommit(ctx, leaf, mls.CommitOptions{}, nil)
	}
	listed := r.pol.Participants.Index(target) >= 0
	if listed && slices.ContainsFunc(r.g.Members(), func(m mls.Member) bool {
		u, _, err := policy.LeafUser(m.Node)
		return err == nil && u == target
	}) {
		return true, r.refuse(ctx, in, pl, fault.Conflict, "this user is in the room already")
	}
	if waits, err := r.waiting(ctx, in, target); err != nil || waits {
		return waits, err
	}
	kps, err := r.claim(ctx, in.Seq, uri(in.Actor), target)
	if err != nil {
		if ctx.Err() != nil {
			return false, nil
		}
		if errors.Is(err, errClaiming) {
			r.deferred[in.Seq] = r.now().Add(giveUpAfter) // until the answer comes
			return true, nil
		}
		if errors.Is(err, errNoConsent) {
			return r.awaitConsent(ctx, in, pl, target)
		}
		if fault.Temporary(err) {
			return r.deferIntent(ctx, in, pl, err)
		}
		return true, r.refuse(ctx, in, pl, fault.KindOf(err), fault.Public(err))
	}
	var proposals []mls.Proposal
	if !listed {
		role := pl.Role
		if role == policy.RoleNone {
			role = r.pol.RoleToAdd(uri(in.Actor))
		}
		proposals = append(proposals, policy.ListChange(policy.AddParticipantUpdate(r.pol, []policy.Participant{{User: target, Role: role}})).Proposal())
	}
	for _, kp := range kps {
		proposals = append(proposals, mls.Proposal{Body: &mls.Add{KeyPackage: *kp}})
	}
	return true, r.startCommit(ctx, leaf, mls.CommitOptions{Proposals: proposals}, in)
}

// removal returns the proposals that end a user's participation, but for the leaf without.
func (r *room) removal(user string, without int) ([]mls.Proposal, error) {
	target := uri(user)
	update, err := policy.RemoveParticipantUpdate(r.pol, target)
	if err != nil {
		return nil, err
	}
	return append([]mls.Proposal{policy.ListChange(update).Proposal()}, r.removeLeaves(without, target)...), nil
}

// removeLeaves removes the clients of users, but for the leaf without.
func (r *room) removeLeaves(without int, users ...mimiuri.URI) (proposals []mls.Proposal) {
	for _, m := range r.g.Members() {
		if u, _, err := policy.LeafUser(m.Node); err == nil && slices.Contains(users, u) && int(m.Leaf) != without {
			proposals = append(proposals, mls.Proposal{Body: &mls.Remove{Removed: m.Leaf}})
		}
	}
	return proposals
}

// remove ends somebody else's participation by a commit.
func (r *room) remove(ctx context.Context, in *store.Intent, pl *payload, leaf mls.LeafIndex) error {
	proposals, err := r.removal(pl.Target, -1)
	if err != nil || r.pol.Banned(uri(pl.Target)) {
		return r.refuse(ctx, in, pl, fault.NotFound, "this user is not in the room")
	}
	return r.startCommit(ctx, leaf, mls.CommitOptions{Proposals: proposals}, in)
}

// heir is an incomplete local leaf that has to commit with a path before a leaf goes: otherwise no local leaf would be left
// through which the others' paths can be followed.
func (r *room) heir(goes mls.LeafIndex) (heir mls.LeafIndex, ok bool) {
	out := r.leaving()
	for _, l := range r.g.LocalLeaves() {
		switch {
		case l == goes || out.leaves[l]:
		case r.g.Complete(l):
			return 0, false
		default:
			heir, ok = l, true
		}
	}
	return heir, ok
}

// leave sends one bundle: SelfRemove for the leaf, Remove for the user's other leaves, and the change of the participant
// list. Others commit it.
func (r *room) leave(ctx context.Context, in *store.Intent, pl *payload, leaf mls.LeafIndex) error {
	if heir, ok := r.heir(leaf); ok {
		return r.startCommit(ctx, heir, mls.CommitOptions{ForcePath: true}, nil)
	}
	proposals, err := r.removal(in.Actor, int(leaf))
	if err != nil {
		return r.refuse(ctx, in, pl, fault.NotFound, "you are not in this room")
	}
	if r.pol.Base.FixedMembership { // who leaves stays listed
		proposals = r.removeLeaves(int(leaf), uri(in.Actor))
	}
	proposals = append([]mls.Proposal{{Body: &mls.SelfRemove{}}}, proposals...)
	req := &wire.UpdateRequest{}
	for _, p := range proposals {
		m, _, err := r.g.Propose(leaf, p, emptyAAD)
		if err != nil {
			r.drop()
			return fmt.Errorf("client: propose in %s: %w", r.id, err)
		}
		if req.Message == nil {
			req.Message = m
		} else {
			req.MoreProposals = append(req.MoreProposals, m)
		}
	}
	p := &store.Pending{Kind: pendingProposals, Request: req.Marshal(), Created: r.now().UnixMilli()}
	err = r.storePending(ctx, p, in, r.g.Epoch())
	r.drop() // they count only once the hub has accepted them
	return err
}
