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

// Bounds of what a hub may leave with us for a room that cannot be processed yet.
const (
	maxHeld       = 10_000    // FanoutMessages
	maxHeldOctets = 256 << 20 // and their octets
)

// Notify implements port.Notify: it stores what is well-formed and not known yet, and returns once it is on disk. That
// a message turns out not to make sense is for later: the hub cannot help it.
func (c *Client) Notify(ctx context.Context, _ string, to mimiuri.URI, body []byte) error {
	msgs, err := wire.ParseFanout(body)
	if err != nil {
		return fault.Wrap(fault.Malformed, "the FanoutMessages cannot be read", err)
	}
	if to.Kind != mimiuri.Room {
		return fault.New(fault.Malformed, "this is not a room")
	}
	group := to.GroupOf().String()
	for _, m := range msgs {
		if m.Message.Welcome == nil && string(m.Message.GroupID()) != group {
			return fault.New(fault.Malformed, "a message is of another group than the room's")
		}
	}
	id := to.String()
	now := c.cfg.Now().UnixMilli()
	err = c.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		current, err := c.mayNotify(tx, id, msgs, now)
		if err != nil {
			return err
		}
		for _, m := range msgs {
			fresh := false
			for i, b := range m.MLSMessages() {
				h := sha256.Sum256(b)
				epoch := current // a Welcome's own is not to be seen; its KeyPackages are used once anyway
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
	c.heard(to.Domain)
	if c.running() != nil && c.cfg.Store.Mine(id) {
		c.rooms.Post(id, func(r *room) {
			r.hubSpoke()
			r.look.inbox = true
			r.run()
		})
	} else {
		c.step(id)
	}
	return nil
}

// mayNotify refuses what is for nobody here: a room that no local user is in or invited to, a Welcome for others. It
// gives the epoch of the room's group.
func (c *Client) mayNotify(tx *store.Tx, id string, msgs []*wire.FanoutMessage, now int64) (epoch uint64, err error) {
	status, epoch, known, err := tx.ClientEpoch(id)
	if err != nil {
		return 0, err
	}
	wanted := known // the tail of a room that was left, too
	if !known || status != store.ClientJoined {
		ours, err := c.welcomes(tx, id, msgs)
		if err == nil && !ours {
			ours, err = tx.AwaitsWelcome(id) // the Commit before its Welcome
		}
		if err == nil && ours {
			wanted, err = true, tx.EnsureClientRoom(id, now)
		}
		if err != nil {
			return 0, err
		}
	}
	if !wanted {
		return 0, fault.New(fault.NotFound, "nobody here is in this room")
	}
	n, octets, err := tx.SizeInbox(id)
	if err == nil && (n >= maxHeld || octets >= maxHeldOctets) {
		err = &fault.Error{Kind: fault.Limited, Message: "too much is waiting for this room", RetryAfter: time.Minute}
	}
	return epoch, err
}

// welcomes reports whether one of the messages is a Welcome for a KeyPackage of ours.
func (c *Client) welcomes(tx *store.Tx, id string, msgs []*wire.FanoutMessage) (bool, error) {
	for _, m := range msgs {
		if m.Message.Welcome == nil {
			continue
		}
		for _, s := range m.Message.Welcome.Secrets {
			k, err := tx.KeyPackage(s.NewMember)
			if err != nil {
				return false, err
			}
			if k != nil && (k.Room == "" || k.Room == id) {
				return true, nil
			}
		}
	}
	return false, nil
}

// inbox processes what waits for no later epoch and came before until (ms, by the hub's clock), in order.
func (r *room) inbox(ctx context.Context, until int64) (more bool, err error) {
	epoch := uint64(0)
	if r.g != nil {
		epoch = r.g.Epoch()
	}
	var items, held []store.InboxItem
	err = r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		if items, err = tx.Inbox(r.id, epoch, inboxAtOnce); err != nil {
			return err
		}
		held, err = tx.HeldInbox(r.id, epoch, 1)
		return err
	})
	if err != nil {
		return false, err
	}
	r.behind = len(held) > 0
	look := r.look
	all := len(items) < inboxAtOnce && !r.behind // what there is, if it is nothing but messages
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
		if int64(f[0].Timestamp) > until {
			all = false
			break
		}
		more = true
		if pm := f[0].Message.PrivateMessage; pm != nil && pm.ContentType == mls.ContentApplication && r.g != nil && pm.Epoch <= r.g.Epoch() {
			r.message(ch, f[0])
			ch.do(func(tx *store.Tx) error { return tx.DeleteInbox(r.id, it.Seq) })
			n++
			continue
		}
		all = false
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
	if err := flush(); err != nil {
		return more, err
	}
	if all {
		look.inbox = false
		r.look = look
	}
	return more, nil
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
	case r.g == nil:
		joining := r.row.Status != store.ClientOut || r.pending != nil
		if !joining {
			err := r.c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
				joining, err = tx.AwaitsWelcome(r.id)
				return err
			})
			if err != nil {
				return err
			}
		}
		if !joining {
			return r.discard(ctx, ch, "room was left", nil)
		}
		return hold(max(m.Epoch(), 1)) // until the Welcome
	case m.Epoch() > r.g.Epoch():
		r.ahead()
		return hold(m.Epoch())
	case m.Epoch() < r.g.Epoch():
		if m.ContentType() == mls.ContentCommit { // there is one for each epoch, and this is not the one we know
			r.doubt = true
		}
		return r.discard(ctx, ch, "of a past epoch", nil)
	}
	switch m.ContentType() {
	case mls.ContentProposal:
		return r.proposals(ctx, ch, f)
	case mls.ContentCommit:
		return r.foreignCommit(ctx, ch, it, f)
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
		r.wakeAt(r.now().Add(r.c.cfg.Patience))
		r.wakeAt(r.now().Add(2 * r.c.cfg.Patience))
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
		if f.Message.Epoch() == r.g.Epoch() && !errors.Is(err, mls.ErrReplay) {
			r.doubt = true
		}
		drop("it does not decrypt", err)
		return
	}
	sender, _, err := policy.LeafUser(am.SenderNode)
	if err != nil {
		drop("its sender has no user", err)
		return
	}
	if sender.Domain == r.c.cfg.Domain { // what they really send does not come this way
		drop("it claims to be from here", nil)
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
		Local: r.view.hearers(r.c.cfg.Domain, am.Epoch, sender.String())}
	if frank := r.frank(f, am, m, sender); frank != nil {
		e.Frank = frank
	} else {
		r.c.Counters.Frankless.Add(1)
	}
	e.then = r.newMessage(e)
	if len(e.Local) > 0 { // all who could see it may be leaving
		ch.events = append(ch.events, e)
	}
	r.c.Counters.Received.Add(1)
	r.log.Debug().Str("event", "received").Hex("message_id", id[:]).Int("bytes", len(f.Message.PrivateMessage.Ciphertext)).Uint64("ts", f.Timestamp).Msg("message decrypted")
}

// newMessage lets an event be written only if the sender's message ID is new.
func (r *room) newMessage(e *eventRow) func(*store.Tx, uint64) (bool, error) {
	return func(tx *store.Tx, seq uint64) (bool, error) {
		fresh, err := tx.AddMessage(r.id, e.ID, e.Sender, e.TS)
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
func (r *room) foreignCommit(ctx context.Context, ch *change, it store.InboxItem, f *wire.FanoutMessage) error {
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
		r.log.Error().Err(err).Msg("a commit from the hub cannot be processed")
		r.drop()
		r.broken, r.poison = "a commit could not be processed", it.Seq
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
	if r.pending != nil {
		r.hubAfter = time.Time{} // it was waiting for this
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
	r.wrongEpoch, r.commitAt, r.commitPause, r.refusals = time.Time{}, time.Time{}, 0, 0
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
	keys, users, err := r.joinKeys(ctx, w)
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
	if r.g == nil || r.g.AttachWelcome(w, keys) != nil {
		clients := make([]mls.Credential, len(keys))
		for i, k := range keys {
			clients[i] = k.KeyPackage.LeafNode.Credential
		}
		g, err := mls.JoinGroup(r.joining(clients...), w, tree, keys, nil)
		if err == nil && string(g.GroupID()) != r.uri.GroupOf().String() {
			err = errors.New("client: a Welcome into another group than the room's")
		}
		if err == nil {
			_, err = policy.ParseState(g.AppData())
		}
		switch {
		case err != nil:
		case r.g == nil:
			r.g = g
		case g.Epoch() > r.g.Epoch(): // its Commit is on the way, or it is ours and the answer is
			return hold(g.Epoch())
		case g.Epoch() == r.g.Epoch():
			err = errors.New("client: a Welcome to another state of the group than the one held")
		default: // the group has gone on since
			err = r.attachLeaves(g)
		}
		if err != nil {
			known := errors.Is(err, mls.ErrGroupKnown)
			if !known {
				r.log.Error().Err(err).Msg("a Welcome cannot be used; its users join anew")
			}
			r.drop()
			if err := r.load(ctx); err != nil {
				return err
			}
			for _, u := range users {
				if _, in := r.leaf(u); !in {
					r.rejoin(ch, u)
				}
			}
			r.usedKeys(ch, keys)
			if known {
				return r.discard(ctx, ch, "a Welcome into a group that was joined already", err)
			}
			return r.commit(ctx, ch)
		}
	}
	if info := r.g.StoredGroupInfo(); info != nil { // signed by who added us
		if u, _, err := policy.LeafUser(r.g.Leaf(info.Signer)); err == nil {
			ch.actor = u
		}
	}
	ch.full = true
	r.usedKeys(ch, keys)
	return r.commitEpoch(ctx, ch)
}

// joinKeys reads the KeyPackages of ours that a Welcome is for, and whose they are.
func (r *room) joinKeys(ctx context.Context, w *mls.Welcome) (keys []mls.JoinKey, users []mimiuri.URI, err error) {
	err = r.c.cfg.Store.View(ctx, func(tx *store.Tx) error {
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
			users = append(users, uri(k.User))
		}
		return nil
	})
	return keys, users, err
}

// usedKeys forgets KeyPackages with the change.
func (r *room) usedKeys(ch *change, keys []mls.JoinKey) {
	ch.do(func(tx *store.Tx) error {
		for _, k := range keys {
			ref, err := k.KeyPackage.Ref(k.KeyPackage.CipherSuite)
			if err != nil {
				return err
			}
			if err := tx.DeleteKeyPackage(ref, r.now().Add(lastResortGrace).UnixMilli()); err != nil {
				return err
			}
		}
		return nil
	})
}

// attachLeaves makes the local leaves of another state of the group local leaves of this one, as far as their keys are
// still the same. An error says that one's are not.
func (r *room) attachLeaves(g *mls.Group) error {
	for _, l := range g.LocalLeaves() {
		if r.g.IsLocal(l) {
			continue
		}
		if err := r.g.AttachLeaf(l, g.LeafKey(l), g.SignatureKey(l)); err != nil {
			return err
		}
	}
	return nil
}
