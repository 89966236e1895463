package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// Kinds of pending requests.
const (
	pendingCreate    = iota + 1 // the room at its own hub; Request is GroupInfo and tree
	pendingCommit               // Next: the epoch after it
	pendingProposals            // a bundle of proposals
	pendingExternal             // an external commit; Next: the group after it
)

var emptyAAD = mls.MarshalSafeAAD(nil)

// commitProposals commits what others have proposed, if a local client may and it is time.
func (r *room) commitProposals(ctx context.Context) (more bool, err error) {
	if r.g == nil || len(r.g.Proposals()) == 0 {
		r.commitAt = time.Time{}
		return false, nil
	}
	out := r.leaving()
	for _, l := range r.g.LocalLeaves() {
		if out.leaves[l] {
			continue
		}
		if r.commitAt.IsZero() && !r.atHub() {
			r.commitAt = r.now().Add(r.c.cfg.CommitDelay())
			r.wakeAt(r.commitAt)
		}
		if r.now().Before(r.commitAt) {
			return false, nil
		}
		return true, r.startCommit(ctx, l, mls.CommitOptions{}, nil)
	}
	return false, nil
}

// startCommit makes a commit by a local leaf and stores it before it is sent.
func (r *room) startCommit(ctx context.Context, leaf mls.LeafIndex, opts mls.CommitOptions, intent *store.Intent) error {
	opts.AAD = emptyAAD
	out, err := r.g.Commit(leaf, opts)
	var rule *mls.RuleError
	if errors.As(err, &rule) && intent != nil {
		r.log.Info().Err(err).Msg("an intent makes no valid commit")
		return r.refuseIntent(ctx, intent, fault.Malformed, "the room cannot be changed like this")
	}
	if err != nil {
		r.drop()
		return fmt.Errorf("client: commit in %s: %w", r.id, err)
	}
	req := &wire.UpdateRequest{Message: out.Message, Welcome: out.Welcome}
	r.attach(req, out)
	p := &store.Pending{Kind: pendingCommit, Request: req.Marshal(), Next: out.Pending, Tag: out.ConfirmationTag, Hash: hashOf(out.Message), Created: r.now().UnixMilli()}
	return r.storePending(ctx, p, intent, r.g.Epoch())
}

// attach adds GroupInfo and tree to a commit's request, in the form that the hub takes.
func (r *room) attach(req *wire.UpdateRequest, out *mls.CommitOutput) {
	if r.takes() == formBulky {
		req.GroupInfo, req.Tree = wire.GroupInfoOption{Full: out.GroupInfo}, *mls.FullTree(out.Tree)
		return
	}
	req.GroupInfo, req.Tree = wire.GroupInfoOption{Partial: out.GroupInfo.Partial()}, *mls.DistributionServiceTree()
}

func (r *room) takes() form {
	switch {
	case r.c.cfg.Bulky || r.bulky:
		return formBulky
	case r.atHub():
		return formBrief
	}
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.c.takes[r.uri.Domain]
}

// learn notes how the hub took a commit. again is true if it refused one that may have been too brief for it: then it is made
// anew with everything.
func (r *room) learn(accepted bool) (again bool) {
	req, err := wire.ParseUpdateRequest(r.pending.Request)
	if err != nil || !req.IsCommit() || r.atHub() || r.c.cfg.Bulky {
		return false
	}
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	brief, was := req.GroupInfo.Partial != nil, r.c.takes[r.uri.Domain]
	switch {
	case accepted && brief:
		r.c.takes[r.uri.Domain] = formBrief
	case accepted && r.bulky:
		r.c.takes[r.uri.Domain] = formBulky
	case !accepted && brief && was == formUnknown:
		r.bulky = true
		return true
	}
	r.bulky = false
	return false
}

func (r *room) storePending(ctx context.Context, p *store.Pending, intent *store.Intent, epoch uint64) error {
	ch := &change{}
	ch.do(func(tx *store.Tx) error {
		if intent != nil {
			p.Intents = []uint64{intent.Seq}
			if err := tx.SetIntent(&store.Intent{Room: r.id, Seq: intent.Seq, Status: store.IntentSent, Epoch: epoch}); err != nil {
				return err
			}
		}
		return tx.PutPending(r.id, p)
	})
	if err := r.commit(ctx, ch); err != nil {
		return err
	}
	r.pending = p
	return nil
}

// sendPending sends the request under way, the same octets each time, and acts on the answer.
func (r *room) sendPending(ctx context.Context) (more bool, err error) {
	p := r.pending
	if p.Kind == pendingCreate {
		return r.sendCreate(ctx)
	}
	b, err := r.c.cfg.Hub.Update(ctx, r.c.cfg.Domain, r.uri, p.Request)
	if err != nil {
		if fault.Temporary(err) || ctx.Err() != nil {
			r.hubFailed("update", err)
			return false, nil
		}
		return true, r.refusePending(ctx, fault.KindOf(err), fault.Public(err))
	}
	res, err := wire.ParseUpdateRoomResponse(b)
	if err != nil {
		r.hubFailed("update", err)
		return false, nil
	}
	r.hubReached()
	r.place = 0
	switch res.Code {
	case wire.UpdateSuccess:
		if ready, err := r.catchUp(ctx, int64(res.AcceptedTimestamp)); !ready || err != nil {
			return false, err
		}
		if r.pending == nil || !bytes.Equal(r.pending.Request, p.Request) {
			return true, nil // what came before has settled it
		}
		r.learn(true)
		ch := &change{ts: int64(res.AcceptedTimestamp)}
		switch p.Kind {
		case pendingCommit:
			return true, r.merge(ctx, ch, nil)
		case pendingExternal:
			return true, r.mergeExternal(ctx, ch)
		}
		if err := r.takeOwn(ctx, ch); err != nil {
			return false, err
		}
		return true, r.commit(ctx, ch)
	case wire.WrongEpoch:
		return r.overtaken(ctx)
	case wire.InvalidProposal:
		// A proposal that we have not seen yet, or that the hub has not: wait for the fanout and make it anew.
		r.log.Info().Str("says", clip(res.Description)).Msg("the hub has other pending proposals; the commit is made anew")
		ch := &change{}
		r.undoPending(ch)
		if err := r.commit(ctx, ch); err != nil {
			return false, err
		}
		if r.refusals++; r.refusals >= triesBeforeJoin {
			r.refusals = 0
			r.broken = "the hub has other pending proposals and does not tell which"
			return true, nil
		}
		r.pauseHub(time.Second)
		return false, nil
	}
	if r.learn(false) {
		ch := &change{}
		r.undoPending(ch)
		return true, r.commit(ctx, ch)
	}
	return true, r.refusePending(ctx, fault.Forbidden, clip(res.Description))
}

// clip bounds a peer's words before people or the log get to see them.
func clip(s string) string {
	const limit = 300
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// catchUp processes what the hub had accepted before ts (its clock, ms), so that what it accepted then takes its place behind
// it. ready is false if that is still on its way from the own hub: it is looked at again in a moment. What a hub elsewhere has
// not told yet comes late.
func (r *room) catchUp(ctx context.Context, ts int64) (ready bool, err error) {
	if r.g == nil {
		return true, nil
	}
	if r.atHub() { // first: what is not on its way any more is in the inbox
		behind := false
		err = r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			behind, err = tx.HubBehind(store.Queue{Room: r.id, Peer: r.c.cfg.Domain}, ts)
			return err
		})
		if err != nil {
			return false, err
		}
		if behind { // and until then nothing that came after it is shown
			r.place = ts
			r.pauseHub(20 * time.Millisecond)
			return false, nil
		}
	}
	for r.broken == "" && r.g != nil {
		more, err := r.inbox(ctx, ts-1)
		if err != nil {
			return false, err
		}
		if err := r.load(ctx); err != nil {
			return false, err
		}
		if !more {
			break
		}
	}
	return true, nil
}

// overtaken handles wrongEpoch: the commit between is in the inbox soon. If it does not come, it may have been ours.
func (r *room) overtaken(ctx context.Context) (more bool, err error) {
	p := r.pending
	if p.Kind == pendingExternal {
		ch := &change{}
		r.undoPending(ch)
		r.pauseHub(minPause)
		return true, r.commit(ctx, ch)
	}
	r.ahead()
	if !r.patience(1) {
		r.pauseHub(r.c.cfg.Patience / 4)
		return false, nil
	}
	info, _, err := r.ask(ctx)
	switch {
	case err == nil:
	case fault.Temporary(err) || ctx.Err() != nil:
		r.hubFailed("groupInfo", err)
		return false, nil
	default:
		return true, r.lose(ctx, err)
	}
	if p.Kind == pendingCommit && info.GroupInfo.GroupContext.Epoch == r.g.Epoch()+1 && bytes.Equal(info.GroupInfo.ConfirmationTag, p.Tag) {
		return true, r.merge(ctx, &change{ts: r.now().UnixMilli()}, nil)
	}
	return r.resync(ctx, "the hub's commits did not arrive")
}

// merge takes our own commit into effect.
func (r *room) merge(ctx context.Context, ch *change, external []*mls.MLSMessage) error {
	p := r.pending
	ch.full = true
	req, err := wire.ParseUpdateRequest(p.Request)
	if err != nil {
		return err
	}
	if leaf := req.Message.PublicMessage.Content.Sender; leaf.Type == mls.SenderMember {
		ch.path, ch.leaf = req.Message.PublicMessage.Content.Commit.Path != nil, leaf.Leaf
		if n := r.g.Leaf(leaf.Leaf); n != nil {
			if u, _, err := policy.LeafUser(n); err == nil {
				ch.actor = u
			}
		}
	}
	if len(p.Intents) == 0 { // only what others had proposed: keep their name
		for _, q := range r.g.Proposals() {
			if q.Sender.Type == mls.SenderMember {
				if u, _, err := policy.LeafUser(r.g.Leaf(q.Sender.Leaf)); err == nil {
					ch.actor = u
				}
			}
		}
	}
	staged, err := r.g.MergePending(p.Next)
	if err != nil {
		r.log.Error().Err(err).Msg("our own commit was accepted and does not fit our state")
		r.drop()
		r.broken = "the own commit could not be processed"
		return nil
	}
	r.c.Counters.Commits.Add(1)
	ch.do(func(tx *store.Tx) error { // should a hub send it to us, too
		_, err := tx.MarkSeen(r.id, p.Hash, req.Message.Epoch())
		return err
	})
	ch.out = staged != nil && staged.SelfRemoved
	r.pending = nil
	for _, m := range external {
		r.takeProposal(ch, m)
	}
	if err := r.endPending(ctx, ch, p); err != nil {
		return err
	}
	return r.commitEpoch(ctx, ch)
}

// endPending ends the intents of an accepted request, and gives their origin to the event about whom they concern.
func (r *room) endPending(ctx context.Context, ch *change, p *store.Pending) error {
	ch.do(func(tx *store.Tx) error { return tx.DropPending(r.id) })
	for _, seq := range p.Intents {
		in, pl, err := r.intent(ctx, seq)
		if err != nil {
			return err
		}
		if in == nil {
			continue
		}
		if in.Adapter != "" {
			ch.origin = pl.origin(in)
		}
		ch.subject = uri(in.Actor)
		if pl.Target != "" {
			ch.subject = uri(pl.Target)
		}
		if ch.actor.IsZero() {
			ch.actor = uri(in.Actor)
		}
		delete(r.claims, seq)
		if pl.Kind == adapter.DestroyRoom && p.Kind == pendingCommit { // the actor has to leave yet
			ch.do(func(tx *store.Tx) error {
				return tx.SetIntent(&store.Intent{Room: r.id, Seq: seq, Status: store.IntentWaiting})
			})
			continue
		}
		ch.do(func(tx *store.Tx) error { return tx.EndIntent(r.id, seq, store.IntentDone) })
	}
	return nil
}

// origin names the intent in events.
func (pl *payload) origin(in *store.Intent) *originRef {
	return &originRef{adapter: in.Adapter, id: in.Origin, hint: pl.Hint, kind: pl.Kind, reason: pl.Reason, retract: pl.Retract}
}

// takeOwn makes an accepted bundle part of the group's pending proposals and ends its intents.
func (r *room) takeOwn(ctx context.Context, ch *change) error {
	p := r.pending
	req, err := wire.ParseUpdateRequest(p.Request)
	if err != nil {
		return err
	}
	ch.full = true
	for _, m := range append([]*mls.MLSMessage{req.Message}, req.MoreProposals...) {
		r.takeProposal(ch, m)
	}
	r.pending = nil
	return r.endPending(ctx, ch, p)
}

// refusePending gives up the request under way for good and tells those who wanted it.
func (r *room) refusePending(ctx context.Context, kind fault.Kind, why string) error {
	p := r.pending
	r.log.Info().Str("why", why).Msg("the hub refuses a request")
	ch := &change{}
	for _, seq := range p.Intents {
		in, pl, err := r.intent(ctx, seq)
		if err != nil {
			return err
		}
		if in != nil {
			r.refusal(ch, in, pl, kind, why)
		}
	}
	ch.do(func(tx *store.Tx) error { return tx.DropPending(r.id) })
	if len(p.Intents) == 0 {
		// Nobody asked for it: a commit of others' proposals, or a resync. It is made anew, but not at once.
		r.commitPause = min(max(5*time.Second, 2*r.commitPause), 10*time.Minute)
		r.commitAt = r.now().Add(r.commitPause)
		r.wakeAt(r.commitAt)
		if p.Kind == pendingExternal {
			r.pauseHub(r.commitPause)
		}
	}
	err := r.commit(ctx, ch)
	r.drop()
	return err
}

// refusal ends an intent for good with an event that says why.
func (r *room) refusal(ch *change, in *store.Intent, pl *payload, kind fault.Kind, why string) {
	r.c.Counters.Refused.Add(1)
	seq := in.Seq
	ch.do(func(tx *store.Tx) error { return tx.EndIntent(r.id, seq, store.IntentRefused) })
	delete(r.deferred, seq)
	delete(r.claims, seq)
	if pl.Kind == adapter.JoinRoom && r.g == nil || pl.Kind == adapter.CreateRoom && pl.Preset == adapter.Direct {
		ch.do(func(tx *store.Tx) error { return tx.DropDirectRoom(r.id) }) // the next time another one is made
	}
	if in.Adapter == "" {
		return // our own, see rejoin
	}
	e := &eventRow{Kind: adapter.Refused, TS: r.now().UnixMilli(), Intent: pl.Kind, Actor: in.Actor, Target: pl.Target,
		ID: in.MessageID, Fault: kind, Message: why, Local: []string{in.Actor}}
	e.from(pl.origin(in))
	ch.events = append(ch.events, e)
}

func (r *room) refuseIntent(ctx context.Context, in *store.Intent, kind fault.Kind, why string) error {
	pl := new(payload)
	if err := json.Unmarshal(in.Payload, pl); err != nil {
		return err
	}
	return r.refuse(ctx, in, pl, kind, why)
}

func (r *room) refuse(ctx context.Context, in *store.Intent, pl *payload, kind fault.Kind, why string) error {
	ch := &change{}
	r.refusal(ch, in, pl, kind, why)
	return r.commit(ctx, ch)
}

// packGroup writes a group that a request leads to, with the ratchets that it begins with.
func packGroup(g *mls.Group) ([]byte, error) {
	state, err := g.MarshalEpoch()
	if err != nil {
		return nil, err
	}
	w := tlspl.NewWriter()
	w.Opaque(state)
	w.Vector(func(w *tlspl.Writer) {
		for _, x := range g.TakeRatchets() {
			if x.Data == nil {
				continue
			}
			w.Uint64(x.Epoch)
			w.Uint32(uint32(x.Leaf))
			w.Uint8(x.Kind)
			w.Opaque(x.Data)
		}
	})
	return w.Bytes(), nil
}

// unpackGroup reads what packGroup wrote. The rows go to disk when the group becomes the room's (change.fresh).
func (c *Client) unpackGroup(b []byte) (g *mls.Group, rows []mls.RatchetRow, err error) {
	r := tlspl.NewReader(b)
	state := r.Opaque()
	rows = []mls.RatchetRow{}
	r.Vector(func(r *tlspl.Reader) {
		rows = append(rows, mls.RatchetRow{Epoch: r.Uint64(), Leaf: mls.LeafIndex(r.Uint32()), Kind: r.Uint8(), Data: r.Opaque()})
	})
	if err := r.Done(); err != nil {
		return nil, nil, fmt.Errorf("client: stored group: %w", err)
	}
	g, err = mls.LoadGroup(c.cfg.MLS, state, slices.Values(rows))
	return g, rows, err
}

// startCreate makes the group of a new room and stores it before the hub is told.
func (r *room) startCreate(ctx context.Context, in *store.Intent, pl *payload) error {
	if r.g != nil { // one that all have left may be over: the hub knows
		return r.refuse(ctx, in, pl, fault.Conflict, "a room of this name exists already")
	}
	creator := uri(in.Actor)
	id, err := r.c.identity(ctx, creator)
	if err != nil {
		return err
	}
	agents, err := r.c.cfg.Rooms.Prepare(ctx, r.uri)
	if err != nil {
		return err
	}
	opts := policy.RoomOptions{Room: r.uri, Creator: creator, Name: pl.Name, FrankingAgent: agents.Franking.Marshal()}
	var dict mls.AppDataDictionary
	switch pl.Preset {
	case adapter.Strict:
		dict, err = policy.Strict(opts)
	case adapter.Moderated:
		dict, err = policy.Moderated(opts)
	case adapter.Direct:
		dict, err = policy.DirectMessage(opts, uri(pl.Target))
	default:
		dict, err = policy.Cooperative(opts)
	}
	if err != nil {
		return r.refuse(ctx, in, pl, fault.Malformed, "the room cannot be made in this form")
	}
	if r.c.cfg.NewRoom != nil {
		r.c.cfg.NewRoom(r.uri, &dict)
	}
	caps := requiredCapabilities()
	g, err := mls.CreateGroup(r.c.cfg.MLS, mls.CreateOptions{
		Suite: Suite, GroupID: []byte(r.uri.GroupOf().String()), Leaf: id.leafOptions(),
		Extensions: mls.Extensions{caps.Extension(), mls.ExternalSendersExtension([]mls.ExternalSender{agents.Sender}), dict.Extension()},
	})
	if err != nil {
		return fmt.Errorf("client: create %s: %w", r.id, err)
	}
	info, err := g.GroupInfo(g.LocalLeaves()[0])
	if err != nil {
		return err
	}
	state, err := packGroup(g)
	if err != nil {
		return err
	}
	w := tlspl.NewWriter()
	w.Opaque(tlspl.Marshal(info))
	w.Opaque(tlspl.Marshal(g.Tree()))
	return r.storePending(ctx, &store.Pending{Kind: pendingCreate, Request: w.Bytes(), Next: state, Created: r.now().UnixMilli()}, in, 0)
}

func (r *room) sendCreate(ctx context.Context) (more bool, err error) {
	p := r.pending
	rd := tlspl.NewReader(p.Request)
	info, tree := rd.Opaque(), rd.Opaque()
	if err := rd.Done(); err != nil {
		return false, err
	}
	g, rows, err := r.c.unpackGroup(p.Next)
	if err != nil {
		return false, err
	}
	creator, _, err := policy.LeafUser(g.Leaf(g.LocalLeaves()[0]))
	if err != nil {
		return false, err
	}
	switch err := r.c.cfg.Rooms.Create(ctx, r.uri, creator, info, tree); {
	case err == nil:
	case fault.Temporary(err):
		r.hubFailed("create", err)
		return false, nil
	default:
		return true, r.refusePending(ctx, fault.KindOf(err), fault.Public(err))
	}
	r.hubReached()
	// A room of that name that was here before is another one: nothing of it is compared with this one, or comes into it.
	r.view = &view{}
	r.behind, r.wrongEpoch, r.doubt, r.place, r.commitAt = false, time.Time{}, false, 0, time.Time{}
	ch := &change{ts: r.now().UnixMilli(), actor: creator, fresh: rows}
	ch.do(func(tx *store.Tx) error { return tx.DropInbox(r.id) })
	return true, r.adoptNext(ctx, g, ch)
}

// adoptNext takes a group that a pending request led to as the room's.
func (r *room) adoptNext(ctx context.Context, g *mls.Group, ch *change) error {
	p := r.pending
	pol, err := policy.ParseState(g.AppData())
	if err != nil {
		return err
	}
	r.g, r.pol, r.pending, r.broken, r.poison = g, pol, nil, "", 0
	ch.full = true
	if err := r.endPending(ctx, ch, p); err != nil {
		return err
	}
	return r.commitEpoch(ctx, ch)
}

// fetch asks the hub for the group's current GroupInfo and tree, as a local user.
func (r *room) fetch(ctx context.Context, user mimiuri.URI) (*wire.GroupInfoRatchetTree, error) {
	id, err := r.c.identity(ctx, user)
	if err != nil {
		return nil, err
	}
	priv, pub, err := mls.GenerateHPKEKey(Suite)
	if err != nil {
		return nil, err
	}
	req := &wire.GroupInfoRequest{Protocol: wire.MLS10, Suite: Suite, SignatureKey: id.key.Public(), Credential: id.credential(), PublicKey: pub}
	if err := req.Sign(id.key); err != nil {
		return nil, err
	}
	b, err := r.c.cfg.Hub.GroupInfo(ctx, r.c.cfg.Domain, r.uri, req.Marshal())
	if err != nil {
		return nil, err
	}
	res, err := wire.ParseGroupInfoResponse(b)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the hub's answer cannot be read", err)
	}
	if res.Status != wire.GroupInfoSuccess {
		return nil, fault.New(fault.Forbidden, "the room does not exist, or does not let this user in")
	}
	if err := res.Verify(); err != nil || string(res.HubSender.Credential.Identity) != r.uri.Provider().String() {
		return nil, fault.Wrap(fault.Unavailable, "the hub's answer is not signed by the hub", errors.Join(err))
	}
	info, err := res.Open(priv)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the hub's answer cannot be decrypted", err)
	}
	return info, nil
}
