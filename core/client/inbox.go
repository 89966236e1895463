package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"math"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// maxHeld bounds what a hub may leave with us for a room that cannot be processed yet.
const maxHeld = 10_000

// Notify implements port.Notify: it stores what is well-formed and not known yet, and returns once it is on disk. That
// a message turns out not to make sense is for later: the hub cannot help it.
func (c *Client) Notify(ctx context.Context, _ string, room mimiuri.URI, body []byte) error {
	msgs, err := wire.ParseFanout(body)
	if err != nil {
		return fault.Wrap(fault.Malformed, "the FanoutMessages cannot be read", err)
	}
	if room.Kind != mimiuri.Room {
		return fault.New(fault.Malformed, "this is not a room")
	}
	group := room.GroupOf().String()
	for _, m := range msgs {
		if m.Message.Welcome == nil && string(m.Message.GroupID()) != group {
			return fault.New(fault.Malformed, "a message is of another group than the room's")
		}
	}
	id := room.String()
	now := c.cfg.Now().UnixMilli()
	err = c.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		if err := c.mayNotify(tx, id, msgs, now); err != nil {
			return err
		}
		for _, m := range msgs {
			fresh := false
			for i, b := range m.MLSMessages() {
				h := sha256.Sum256(b)
				epoch := uint64(math.MaxInt64) // a Welcome's is not to be seen
				if m.Message.Welcome == nil {
					epoch = m.Message.Epoch()
				}
				f, err := tx.MarkSeen(id, h[:], min(epoch, math.MaxInt64))
				if err != nil {
					return err
				}
				if i == 0 {
					fresh = f
				}
			}
			if !fresh {
				continue
			}
			if err := tx.AppendInbox(id, m.Marshal()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.step(id)
	return nil
}

// mayNotify refuses what is for nobody here: a room that no local user is in or invited to, a Welcome for others.
func (c *Client) mayNotify(tx *store.Tx, id string, msgs []*wire.FanoutMessage, now int64) error {
	status, _, known, err := tx.ClientView(id)
	if err != nil {
		return err
	}
	if known && status == store.ClientJoined {
		n, err := tx.CountInbox(id)
		if err == nil && n > maxHeld {
			err = &fault.Error{Kind: fault.Limited, Message: "too much is waiting for this room", RetryAfter: time.Minute}
		}
		return err
	}
	for _, m := range msgs {
		if m.Message.Welcome == nil {
			continue
		}
		for _, s := range m.Message.Welcome.Secrets {
			k, err := tx.KeyPackage(s.NewMember)
			if err != nil {
				return err
			}
			if k != nil && (k.Room == "" || k.Room == id) {
				return tx.EnsureClientRoom(id, now)
			}
		}
	}
	if waits, err := tx.AwaitsWelcome(id); err != nil {
		return err
	} else if waits { // the Commit before its Welcome
		return tx.EnsureClientRoom(id, now)
	}
	if known {
		return nil // the tail of a room that was left
	}
	return fault.New(fault.NotFound, "nobody here is in this room")
}

// inbox processes what waits for no later epoch, in order.
func (r *room) inbox(ctx context.Context) (more bool, err error) {
	epoch := uint64(0)
	if r.g != nil {
		epoch = r.g.Epoch()
	}
	var items []store.InboxItem
	err = r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		items, err = tx.Inbox(r.id, epoch, inboxAtOnce)
		return err
	})
	if err != nil {
		return false, err
	}
	// Messages that follow each other in an epoch share a transaction.
	ch := &change{}
	n := 0
	flush := func() error {
		if n == 0 {
			return nil
		}
		n = 0
		done := ch
		ch = &change{}
		return r.commit(ctx, done)
	}
	for _, it := range items {
		f, err := wire.ParseFanout(it.Body)
		if err != nil || len(f) != 1 {
			return more, errors.Join(err, errors.New("client: a stored FanoutMessage cannot be read"))
		}
		more = true
		if pm := f[0].Message.PrivateMessage; pm != nil && pm.ContentType == mls.ContentApplication && r.g != nil && pm.Epoch <= r.g.Epoch() {
			r.message(ch, f[0])
			ch.do(func(tx *store.Tx) error { return tx.DeleteInbox(r.id, it.Seq) })
			n++
			continue
		}
		if err := flush(); err != nil {
			return more, err
		}
		if err := r.fanout(ctx, it, f[0]); err != nil {
			return more, err
		}
		if r.row == nil || r.broken != "" { // begin again from disk
			return true, nil
		}
		if r.g != nil && r.g.Epoch() != epoch { // held items may come first now
			return true, nil
		}
	}
	return more, flush()
}

// fanout processes anything but an application message that can be decrypted now, in one transaction.
func (r *room) fanout(ctx context.Context, it store.InboxItem, f *wire.FanoutMessage) error {
	ch := &change{ts: int64(f.Timestamp)}
	ch.do(func(tx *store.Tx) error { return tx.DeleteInbox(r.id, it.Seq) })
	hold := func(epoch uint64) error {
		return r.c.cfg.Store.Update(ctx, func(tx *store.Tx) error { return tx.HoldInbox(r.id, it.Seq, int64(min(epoch, math.MaxInt64))) })
	}
	m := f.Message
	if m.Welcome != nil {
		return r.welcome(ctx, ch, f, hold)
	}
	switch {
	case r.g == nil && r.row.Status == store.ClientOut:
		return r.discard(ctx, ch, "room was left", nil)
	case r.g == nil:
		return hold(max(m.Epoch(), 1)) // until the Welcome
	case m.Epoch() > r.g.Epoch():
		r.ahead()
		return hold(m.Epoch())
	case m.Epoch() < r.g.Epoch():
		return r.discard(ctx, ch, "of a past epoch", nil)
	}
	switch m.ContentType() {
	case mls.ContentProposal:
		return r.proposals(ctx, ch, f)
	case mls.ContentCommit:
		return r.foreignCommit(ctx, ch, f)
	}
	return r.discard(ctx, ch, "unknown content type", nil)
}

// discard drops an inbox item that means nothing to us.
func (r *room) discard(ctx context.Context, ch *change, why string, err error) error {
	r.c.Counters.Dropped.Add(1)
	r.log.Debug().Str("why", why).AnErr("cause", err).Msg("message dropped")
	return r.commit(ctx, ch)
}

// ahead notes that the hub is in a later epoch than we are: usually the commit between is on its way, or it is our own
// and its answer was lost.
func (r *room) ahead() {
	if r.wrongEpoch.IsZero() {
		r.wrongEpoch = r.now()
		r.wakeAt(r.now().Add(groupInfoWait))
		r.wakeAt(r.now().Add(2 * groupInfoWait))
	}
}

// message decrypts an application message and adds its event. What is wrong with it is counted and logged; the
// transaction goes on.
func (r *room) message(ch *change, f *wire.FanoutMessage) {
	drop := func(why string, err error) {
		r.c.Counters.Dropped.Add(1)
		r.log.Info().Str("why", why).AnErr("cause", err).Uint64("epoch", f.Message.Epoch()).Msg("message dropped")
	}
	am, err := r.g.Decrypt(f.Message)
	if err != nil {
		drop("it does not decrypt", err)
		return
	}
	sender, _, err := policy.LeafUser(am.SenderNode)
	if err != nil {
		drop("its sender has no user", err)
		return
	}
	m, err := content.Decode(am.Content)
	if err != nil {
		drop("its content cannot be read", err)
		return
	}
	if u, ok := m.SenderURI(); !ok || u != sender {
		drop("it names another sender than its leaf", nil)
		return
	}
	if u, ok := m.RoomURI(); !ok || u != r.uri {
		drop("it names another room", nil)
		return
	}
	id := content.ID(am.Content, sender, r.uri, m.Salt)
	e := &eventRow{Kind: adapter.Message, TS: int64(f.Timestamp), ID: id[:], Sender: sender.String(), Content: am.Content,
		Local: r.view.local(r.c.cfg.Domain, am.Epoch)}
	if frank := r.frank(f, am, m, sender); frank != nil {
		e.Frank = frank
	} else {
		r.c.Counters.Frankless.Add(1)
	}
	e.then = r.newMessage(e)
	ch.events = append(ch.events, e)
	r.c.Counters.Received.Add(1)
	r.log.Debug().Str("event", "received").Hex("message_id", id[:]).Int("bytes", len(f.Message.PrivateMessage.Ciphertext)).Uint64("ts", f.Timestamp).Msg("message decrypted")
}

// newMessage lets an event be written only if the sender's message ID is new.
func (r *room) newMessage(e *eventRow) func(*store.Tx, uint64) (bool, error) {
	return func(tx *store.Tx, seq uint64) (bool, error) {
		fresh, err := tx.AddMessage(r.id, e.ID, e.Sender, e.TS, seq)
		if err == nil && !fresh {
			r.log.Debug().Hex("message_id", e.ID).Msg("message seen before")
		}
		return fresh, err
	}
}

// frank verifies the hub's frank ("Receiver verification of frank"); nil if the message cannot be reported.
func (r *room) frank(f *wire.FanoutMessage, am *mls.ApplicationMessage, m *content.Message, sender mimiuri.URI) []byte {
	if f.Frank == nil || r.pol.FrankingAgent == nil {
		return nil
	}
	tag, ok := wire.FrankTagFromAAD(am.AAD)
	if !ok || tag != wire.FrankingTag(m.Salt, am.Content) {
		return nil
	}
	agent, err := wire.ParseFrankingAgentData(r.pol.FrankingAgent)
	if err != nil || string(agent.Credential.Identity) != r.uri.Provider().String() {
		return nil
	}
	ctx := wire.ServerFrankingContext{Sender: sender, Room: r.uri, AcceptedTimestamp: f.Timestamp}
	if f.Frank.Verify(agent.SignatureKey, r.g.CipherSuite(), ctx) != nil {
		return nil
	}
	return f.Frank.Marshal()
}

// proposals takes proposals that the hub has accepted.
func (r *room) proposals(ctx context.Context, ch *change, f *wire.FanoutMessage) error {
	ch.full = true
	for _, m := range append([]*mls.MLSMessage{f.Message}, f.MoreProposals...) {
		r.takeProposal(ch, m)
	}
	return r.commit(ctx, ch)
}

func (r *room) takeProposal(ch *change, m *mls.MLSMessage) {
	p, err := r.g.ReceiveProposal(m)
	switch {
	case errors.Is(err, mls.ErrDuplicate):
	case err != nil:
		// The hub vouches for it; a commit that refers to it will fail here, and the group is joined anew then.
		r.c.Counters.Dropped.Add(1)
		r.log.Warn().Err(err).Msg("a proposal from the hub is not valid here")
	default:
		if p.Sender.Type == mls.SenderMember {
			if u, _, err := policy.LeafUser(r.g.Leaf(p.Sender.Leaf)); err == nil {
				ch.actor = u
			}
		}
	}
}

// foreignCommit applies a commit of the current epoch. It is ours if the answer to it was lost.
func (r *room) foreignCommit(ctx context.Context, ch *change, f *wire.FanoutMessage) error {
	hash := hashOf(f.Message)
	if r.pending != nil && string(r.pending.Hash) == string(hash) {
		return r.merge(ctx, ch, f.ExternalProposals)
	}
	staged, err := r.g.StageCommit(f.Message)
	var unknown *mls.UnknownProposalError
	if errors.As(err, &unknown) && r.pending != nil && r.pending.Kind == pendingProposals {
		// Our own bundle was accepted and is committed already; only its answer is still out.
		if err := r.takeOwn(ctx, ch); err != nil {
			return err
		}
		staged, err = r.g.StageCommit(f.Message)
	}
	if err != nil {
		r.log.Error().Err(err).Msg("a commit from the hub cannot be processed; the group is joined anew")
		r.drop()
		r.broken = "a commit could not be processed"
		return nil
	}
	if staged.SenderLeaf != nil {
		if u, _, err := policy.LeafUser(staged.SenderLeaf); err == nil {
			ch.actor = u
		}
	}
	// Removals keep the name of who asked for them, not of who happened to commit.
	for _, a := range staged.AppData {
		if a.ByRef && a.ProposedBy.Type == mls.SenderMember {
			if n := r.g.Leaf(a.ProposedBy.Leaf); n != nil {
				if u, _, err := policy.LeafUser(n); err == nil {
					ch.actor = u
				}
			}
		}
	}
	if err := r.g.MergeStaged(staged); err != nil {
		r.drop()
		return err
	}
	r.c.Counters.Commits.Add(1)
	ch.full = true
	ch.out = staged.SelfRemoved
	if ch.out {
		r.log.Info().Msg("no local user is in the room any more")
	}
	r.undoPending(ch)
	if !ch.out {
		for _, m := range f.ExternalProposals {
			r.takeProposal(ch, m)
		}
	}
	return r.commitEpoch(ctx, ch)
}

// commitEpoch is commit for a change of epoch.
func (r *room) commitEpoch(ctx context.Context, ch *change) error {
	r.wrongEpoch, r.commitAt = time.Time{}, time.Time{}
	clear(r.deferred)
	return r.commit(ctx, ch)
}

// undoPending gives up the request under way: another commit came first. Its intents are tried again.
func (r *room) undoPending(ch *change) {
	p := r.pending
	if p == nil {
		return
	}
	r.c.Counters.CommitsLost.Add(1)
	if r.g != nil {
		r.g.ClearPending()
	}
	r.pending = nil
	ch.do(func(tx *store.Tx) error {
		for _, seq := range p.Intents {
			if err := tx.SetIntent(&store.Intent{Room: r.id, Seq: seq, Status: store.IntentWaiting}); err != nil {
				return err
			}
		}
		return tx.DropPending(r.id)
	})
}

// welcome joins the group with the KeyPackages of local users.
func (r *room) welcome(ctx context.Context, ch *change, f *wire.FanoutMessage, hold func(uint64) error) error {
	w := f.Message.Welcome
	var keys []mls.JoinKey
	var refs [][]byte
	var users []mimiuri.URI
	err := r.c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		for _, s := range w.Secrets {
			k, err := tx.KeyPackage(s.NewMember)
			if err != nil {
				return err
			}
			if k == nil || k.Room != "" && k.Room != r.id {
				continue
			}
			j := mls.JoinKey{KeyPackage: new(mls.KeyPackage), Secrets: new(mls.KeyPackageSecrets)}
			if err := tlspl.Unmarshal(k.Package, j.KeyPackage); err != nil {
				return err
			}
			if err := j.Secrets.UnmarshalBinary(k.Secret); err != nil {
				return err
			}
			keys = append(keys, j)
			refs = append(refs, k.Ref)
			users = append(users, uri(k.User))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return r.discard(ctx, ch, "a Welcome for nobody here", nil)
	}
	var tree *mls.RatchetTree
	if f.Tree != nil {
		tree = f.Tree.Tree
	}
	if r.g != nil {
		switch err := r.g.AttachWelcome(w, keys); {
		case errors.Is(err, mls.ErrGroupInfoDiffers) && r.pending != nil:
			// Of the epoch that our own commit leads to; its answer is still out.
			r.ahead()
			return hold(r.g.Epoch() + 1)
		case err != nil:
			r.log.Error().Err(err).Msg("a Welcome for users of a room that is held already cannot be used; they join anew")
			r.drop()
			return r.rejoin(ctx, users, refs, ch)
		}
	} else {
		g, err := mls.JoinGroup(r.c.cfg.MLS, w, tree, keys, nil)
		if err == nil && string(g.GroupID()) != r.uri.GroupOf().String() {
			err = errors.New("client: a Welcome into another group than the room's")
		}
		if err == nil {
			_, err = policy.ParseState(g.AppData())
		}
		if err != nil {
			r.log.Error().Err(err).Msg("a Welcome cannot be used; its users join anew")
			return r.rejoin(ctx, users, refs, ch)
		}
		r.g = g
		if r.pol, err = policy.ParseState(g.AppData()); err != nil {
			return err
		}
	}
	if info := r.g.StoredGroupInfo(); info != nil { // signed by who added us
		if u, _, err := policy.LeafUser(r.g.Leaf(info.Signer)); err == nil {
			ch.actor = u
		}
	}
	ch.full = true
	ch.do(func(tx *store.Tx) error {
		for _, ref := range refs {
			if err := tx.DeleteKeyPackage(ref); err != nil {
				return err
			}
		}
		return nil
	})
	return r.commitEpoch(ctx, ch)
}
