package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/internal/mailbox"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// once runs a request that changes a room on the room's goroutine, unless the same octets from the same peer were
// accepted before: then it gives the same response.
func (h *Hub) once(ctx context.Context, from string, uri mimiuri.URI, body []byte, fn func(*room, []byte) ([]byte, error)) ([]byte, error) {
	h.Retry(from)
	if uri.Kind != mimiuri.Room || uri.Domain != h.cfg.Domain {
		return nil, fault.New(fault.NotFound, "there is no such room here")
	}
	hash := sha256.Sum256(body)
	response, err := mailbox.Ask(ctx, h.rooms, uri.String(), func(r *room) (response []byte, err error) {
		// Asked before the room is looked at: what was accepted may have closed it.
		err = h.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			response, err = tx.Answer(r.id, from, hash[:])
			return err
		})
		if err != nil || response != nil {
			if response != nil {
				h.Counters.Replayed.Add(1)
			}
			return response, err
		}
		if err := r.load(ctx); err != nil {
			return nil, err
		}
		return fn(r, hash[:])
	})
	switch {
	case fault.Is(err, fault.Malformed):
		h.Counters.Malformed.Add(1)
	case err != nil:
		h.Counters.Refused.Add(1)
	}
	return response, err
}

// write runs one transaction that changes the room; after a failure the room is read again from disk.
func (r *room) write(ctx context.Context, row *store.HubRoom, fn func(*store.Tx) error) error {
	err := r.h.cfg.Store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		r.news = nil
		return fn(tx)
	})
	if err != nil {
		r.drop()
		return err
	}
	r.row = row
	r.h.Counters.Accepted.Add(1)
	for _, n := range r.news {
		r.h.start(store.Queue{Room: r.id, Peer: n.peer}, n.batch)
	}
	r.news = nil
	return nil
}

// Update implements port.Hub.
func (h *Hub) Update(ctx context.Context, from string, uri mimiuri.URI, body []byte) ([]byte, error) {
	return h.once(ctx, from, uri, body, func(r *room, hash []byte) ([]byte, error) {
		req, err := wire.ParseUpdateRequest(body)
		if err != nil {
			return nil, fault.Wrap(fault.Malformed, "the UpdateRequest cannot be read", err)
		}
		m := req.Message
		if m.PublicMessage == nil {
			return r.refuse(from, "handshake messages are PublicMessages here", nil)
		}
		if string(m.GroupID()) != r.uri.GroupOf().String() {
			return nil, fault.New(fault.Malformed, "the message is of another group")
		}
		if m.Epoch() != r.g.Epoch() {
			return (&wire.UpdateRoomResponse{Code: wire.WrongEpoch, Description: "the room is in another epoch", CurrentEpoch: r.g.Epoch()}).Marshal(), nil
		}
		if m.ContentType() == mls.ContentCommit {
			if r.blockedCommitter(m.PublicMessage) {
				return r.refuse(from, "the administrator of the room's provider has blocked this user", nil)
			}
			return r.commit(ctx, from, hash, req)
		}
		return r.propose(ctx, from, hash, req)
	})
}

// blockedCommitter reports whether the user whose client sends a commit is blocked. Proposals are let through: leaving is one.
func (r *room) blockedCommitter(m *mls.PublicMessage) bool {
	if r.h.cfg.Blocked == nil {
		return false
	}
	leaf := r.g.Leaf(m.Content.Sender.Leaf)
	if m.Content.Sender.Type != mls.SenderMember { // an external commit
		if m.Content.Commit == nil || m.Content.Commit.Path == nil {
			return false // it is not valid
		}
		leaf = &m.Content.Commit.Path.LeafNode
	}
	if leaf == nil {
		return false
	}
	user, _, err := policy.LeafUser(leaf)
	return err == nil && r.h.cfg.Blocked(user)
}

func (r *room) refuse(from, why string, err error) ([]byte, error) {
	r.h.cfg.Log.Info().Str("room", r.id).Str("peer", from).Str("why", why).AnErr("rule", err).Msg("update refused")
	r.h.Counters.Refused.Add(1)
	return (&wire.UpdateRoomResponse{Code: wire.NotAllowed, Description: why}).Marshal(), nil
}

func (r *room) invalid(from string, refs []mls.ProposalRef, why string) ([]byte, error) {
	r.h.cfg.Log.Info().Str("room", r.id).Str("peer", from).Str("why", why).Msg("update refused")
	r.h.Counters.Refused.Add(1)
	return (&wire.UpdateRoomResponse{Code: wire.InvalidProposal, Description: why, InvalidProposals: refs}).Marshal(), nil
}

// maxPending is how many proposals may wait for a commit: anybody in the room can make more, and one commit has to cover all of
// them and be read by everybody.
const maxPending = 1024

// propose takes a bundle of standalone proposals: all or none.
func (r *room) propose(ctx context.Context, from string, hash []byte, req *wire.UpdateRequest) ([]byte, error) {
	switch n, more := len(r.g.Proposals()), 1+len(req.MoreProposals); {
	case more > maxPending:
		return nil, fault.Newf(fault.TooLarge, "a bundle may have at most %d proposals", maxPending)
	case n+more > maxPending:
		return nil, &fault.Error{Kind: fault.Limited, Message: "too many proposals wait for a commit; please try again after it", RetryAfter: 5 * time.Second}
	}
	g := r.g.Clone()
	var bundle []mls.PendingProposal
	for _, m := range append([]*mls.MLSMessage{req.Message}, req.MoreProposals...) {
		if m.PublicMessage == nil || m.ContentType() != mls.ContentProposal {
			return nil, fault.New(fault.Malformed, "a bundle holds proposals only")
		}
		p, err := g.ReceiveProposal(m)
		if errors.Is(err, mls.ErrDuplicate) {
			if !r.pendingFrom(m, from) {
				return r.refuse(from, "the client belongs to another provider", nil)
			}
			continue
		}
		if err != nil {
			return r.invalid(from, nil, "a proposal is not valid: "+err.Error())
		}
		bundle = append(bundle, *p)
	}
	if len(bundle) == 0 { // accepted before, though the answer is forgotten
		return (&wire.UpdateRoomResponse{Code: wire.UpdateSuccess, AcceptedTimestamp: uint64(r.row.LastTS)}).Marshal(), nil
	}
	if err := r.current().CheckProposals(bundle, from, r.g.Members()); err != nil {
		return r.refuse(from, fault.Public(err), err)
	}
	state, err := g.MarshalBinary()
	if err != nil {
		return nil, err
	}
	row := *r.row
	ts := r.stamp()
	row.State, row.LastTS = state, ts
	closed := deserted(g)
	if closed {
		row.Status, row.State, row.Info = store.HubClosed, nil, nil
	}
	response := (&wire.UpdateRoomResponse{Code: wire.UpdateSuccess, AcceptedTimestamp: uint64(ts)}).Marshal()
	err = r.write(ctx, &row, func(tx *store.Tx) error {
		f := &wire.FanoutMessage{Timestamp: uint64(ts), Message: req.Message, MoreProposals: req.MoreProposals}
		if err := r.logEntry(tx, &row, ts, f, domains(r.g.Members(), from)); err != nil {
			return err
		}
		if err := tx.PutAnswer(r.id, from, hash, response, ts); err != nil {
			return err
		}
		if closed {
			if err := errors.Join(tx.DropRoutes(r.id), r.list(tx, nil)); err != nil {
				return err
			}
		}
		return tx.UpdateHubRoom(&row)
	})
	if err != nil {
		return nil, err
	}
	if r.g = g; closed {
		r.h.cfg.Log.Info().Str("room", r.id).Msg("the last client has left; the room is closed")
		r.drop()
	}
	return response, nil
}

// pendingFrom reports whether m is a pending proposal by a client of the provider from.
func (r *room) pendingFrom(m *mls.MLSMessage, from string) bool {
	b := m.Bytes()
	for _, p := range r.g.Proposals() {
		if bytes.Equal(p.Message, b) && p.Sender.Type == mls.SenderMember {
			user, _, err := policy.LeafUser(r.g.Leaf(p.Sender.Leaf))
			return err == nil && user.Domain == from
		}
	}
	return false
}

// commit takes a Commit with its Welcome and GroupInfo.
func (r *room) commit(ctx context.Context, from string, hash []byte, req *wire.UpdateRequest) ([]byte, error) {
	before := r.g.Members()
	staged, err := r.g.InspectCommit(req.Message)
	if err != nil {
		var unknown *mls.UnknownProposalError
		if errors.As(err, &unknown) {
			return r.invalid(from, unknown.Refs, "the commit refers to proposals that the hub does not have")
		}
		return r.refuse(from, "the commit is not valid: "+err.Error(), err)
	}
	if missing := r.leftOut(staged); !staged.External && len(missing) > 0 {
		return r.invalid(from, missing, "the commit leaves out pending proposals")
	}
	if err := r.current().CheckCommit(staged, from, before, 0); err != nil {
		return r.refuse(from, fault.Public(err), err)
	}
	info := req.GroupInfo.Full
	if req.GroupInfo.Partial != nil {
		info, err = r.g.CompleteGroupInfo(staged, req.GroupInfo.Partial)
	} else {
		err = r.g.VerifyGroupInfo(staged, info)
	}
	if err != nil {
		return r.refuse(from, "the GroupInfo is not that of the commit: "+err.Error(), err)
	}
	if pub, err := info.Extensions.ExternalPub(); err != nil || pub == nil {
		return r.refuse(from, "the GroupInfo has no external_pub: nobody could come in by it", err)
	}
	switch req.Tree.Representation {
	case mls.RatchetTreeFull, mls.RatchetTreeDistributionService:
		if _, err := r.g.CompleteTree(staged, &req.Tree); err != nil {
			return r.refuse(from, "the ratchet tree is not that of the commit", err)
		}
	default: // what has to be fetched from elsewhere
		return r.refuse(from, "this RatchetTreeOption is not supported", nil)
	}
	welcomeFor, routes, why, err := r.welcome(ctx, staged, req.Welcome)
	if err != nil {
		return nil, err
	}
	if why != "" {
		return r.refuse(from, why, nil)
	}

	g := r.g.Clone()
	pendingBefore := g.Proposals()
	if err := g.MergeCommit(staged); err != nil {
		return r.refuse(from, "the commit is not valid: "+err.Error(), err)
	}
	pol, err := policy.ParseState(g.AppData())
	if err != nil {
		return r.refuse(from, "the room's policy would become unreadable: "+err.Error(), err)
	}
	if r.h.cfg.MoreRooms != nil {
		for _, u := range comers(r.pol, pol) {
			if err := r.h.cfg.MoreRooms(ctx, u); fault.Is(err, fault.Limited) {
				return r.refuse(from, fault.Public(err), err)
			} else if err != nil {
				return nil, err
			}
		}
	}
	var stapled []*mls.MLSMessage
	if staged.External {
		if stapled, err = r.remake(g, pol, pendingBefore, staged); err != nil {
			return nil, fmt.Errorf("hub: proposals after an external commit in %s: %w", r.id, err)
		}
	}
	state, err := g.MarshalBinary()
	if err != nil {
		return nil, err
	}
	row := *r.row
	ts := r.stamp()
	row.State, row.Info, row.Epoch, row.LastTS = state, tlspl.Marshal(info), g.Epoch(), ts
	response := (&wire.UpdateRoomResponse{Code: wire.UpdateSuccess, AcceptedTimestamp: uint64(ts)}).Marshal()
	tree := g.Tree()
	err = r.write(ctx, &row, func(tx *store.Tx) error {
		// To those who were there before, whom it removes included; its sender has the answer.
		f := &wire.FanoutMessage{Timestamp: uint64(ts), Message: req.Message, ExternalProposals: stapled}
		if err := r.logEntry(tx, &row, ts, f, domains(before, from)); err != nil {
			return err
		}
		if len(stapled) > 0 {
			f := &wire.FanoutMessage{Timestamp: uint64(ts), Message: stapled[0], MoreProposals: stapled[1:]}
			if err := r.logEntry(tx, &row, ts, f, []string{from}); err != nil {
				return err
			}
		}
		if len(welcomeFor) > 0 {
			f := &wire.FanoutMessage{Timestamp: uint64(ts), Message: mls.NewMessage(req.Welcome), Tree: mls.FullTree(tree)}
			if err := r.logEntry(tx, &row, ts, f, welcomeFor); err != nil {
				return err
			}
			for _, ref := range routes {
				if err := tx.DropRoute(r.id, ref); err != nil {
					return err
				}
			}
		}
		if err := tx.PutAnswer(r.id, from, hash, response, ts); err != nil {
			return err
		}
		if err := r.list(tx, pol); err != nil {
			return err
		}
		return tx.UpdateHubRoom(&row)
	})
	if err != nil {
		return nil, err
	}
	r.g, r.pol, r.listed = g, pol, pol
	r.h.cfg.Log.Debug().Str("event", "hub_commit").Str("room", r.id).Str("peer", from).Uint64("epoch", row.Epoch).Int("bytes", len(req.Message.Bytes())).Msg("commit accepted")
	return response, nil
}

// leftOut returns the pending proposals that the commit should have covered: all but the sender's own Update and
// what other covered proposals make superfluous (RFC 9420 section 12.4.2).
func (r *room) leftOut(staged *mls.StagedPublicCommit) []mls.ProposalRef {
	removed := map[mls.LeafIndex]bool{}
	for _, l := range staged.Removed {
		removed[l.Leaf] = true
	}
	updated := map[mls.LeafIndex]bool{} // by one of the Updates that the commit covers: it cannot cover another of that client
	for _, p := range staged.Proposals {
		if _, ok := p.Proposal.Body.(*mls.Update); ok {
			updated[p.Sender.Leaf] = true
		}
	}
	var missing []mls.ProposalRef
	for _, p := range r.g.Proposals() {
		if !slices.ContainsFunc(staged.Unreferenced, func(ref mls.ProposalRef) bool { return string(ref) == string(p.Ref) }) {
			continue
		}
		switch b := p.Proposal.Body.(type) {
		case *mls.Update:
			if p.Sender.Leaf == staged.Sender.Leaf || removed[p.Sender.Leaf] || updated[p.Sender.Leaf] {
				continue
			}
		case *mls.Remove:
			if removed[b.Removed] || r.g.Leaf(b.Removed) == nil {
				continue
			}
		case *mls.SelfRemove:
			if removed[p.Sender.Leaf] {
				continue
			}
		case *mls.Add:
			if l := b.KeyPackage.LeafNode.Lifetime; uint64(r.h.cfg.Now().Unix()) > l.NotAfter {
				continue // nobody may commit it any more
			}
		}
		missing = append(missing, p.Ref)
	}
	return missing
}

// welcome finds the providers that a commit's Welcome goes to. why is a refusal.
func (r *room) welcome(ctx context.Context, staged *mls.StagedPublicCommit, w *mls.Welcome) (peers []string, refs [][]byte, why string, err error) {
	var added []mls.KeyPackageRef
	for _, a := range staged.Added {
		if a.KeyPackage == nil {
			continue // by external commit
		}
		ref, err := a.KeyPackage.Ref(r.g.CipherSuite())
		if err != nil {
			return nil, nil, "", err
		}
		added = append(added, ref)
	}
	if len(added) == 0 {
		if w != nil {
			return nil, nil, "a Welcome without new members", nil
		}
		return nil, nil, "", nil
	}
	if w == nil || len(w.Secrets) != len(added) {
		return nil, nil, "a commit that adds clients comes with a Welcome for each of them", nil
	}
	err = r.h.cfg.Store.View(ctx, func(tx *store.Tx) error {
		for _, ref := range added {
			if !slices.ContainsFunc(w.Secrets, func(s mls.EncryptedGroupSecrets) bool { return string(s.NewMember) == string(ref) }) {
				why = "the Welcome is for other clients than the commit adds"
				return nil
			}
			peer, err := tx.Route(r.id, ref)
			if err != nil {
				return err
			}
			if peer == "" {
				why = "a KeyPackage was not claimed through this hub"
				return nil
			}
			if !slices.Contains(peers, peer) {
				peers = append(peers, peer)
			}
			refs = append(refs, ref)
		}
		return nil
	})
	return peers, refs, why, err
}

// remake makes the removals and bans anew that an external commit could not cover (RFC 9420 section 12.4.3.2 allows it
// none but SelfRemoves): the hub has promised to see them out. It proposes them as external sender, adds them to g
// and returns them, to be stapled to the commit.
func (r *room) remake(g *mls.PublicGroup, pol *policy.State, pending []mls.PendingProposal, staged *mls.StagedPublicCommit) ([]*mls.MLSMessage, error) {
	var list policy.ParticipantListUpdate
	var bodies []mls.ProposalBody
	done := map[mls.LeafIndex]bool{}
	remove := func(l mls.LeafIndex) {
		if !done[l] {
			done[l] = true
			bodies = append(bodies, &mls.Remove{Removed: l})
		}
	}
	touched := map[mimiuri.URI]bool{}
	touch := func(u mimiuri.URI) (index uint32, ok bool) {
		i := pol.Participants.Index(u)
		ok = !touched[u]
		touched[u] = true
		return uint32(i), ok && i >= 0
	}
	for _, p := range pending {
		switch b := p.Proposal.Body.(type) {
		case *mls.Remove:
			if g.Leaf(b.Removed) != nil && !slices.ContainsFunc(staged.Added, func(a mls.AddedLeaf) bool { return a.Leaf == b.Removed }) {
				remove(b.Removed)
			}
		case *mls.SelfRemove:
			if g.Leaf(p.Sender.Leaf) != nil && !slices.ContainsFunc(staged.Removed, func(l mls.RemovedLeaf) bool { return l.Leaf == p.Sender.Leaf }) {
				remove(p.Sender.Leaf)
			}
		case *mls.AppDataUpdate:
			if b.ComponentID != policy.ComponentParticipantList {
				continue
			}
			u, err := policy.ParseParticipantListUpdate(b.Update)
			if err != nil {
				continue
			}
			was := func(i uint32) mimiuri.URI { return r.pol.Participants[i].User } // the proposal was valid: the index is
			for _, i := range u.Removed {
				if now, ok := touch(was(i)); ok {
					list.Removed = append(list.Removed, now)
				}
			}
			for _, c := range u.Changed {
				if !r.pol.IsBanned(c.Role) {
					continue // an intent of others, who make it anew themselves
				}
				if now, ok := touch(was(c.Index)); ok {
					list.Changed = append(list.Changed, policy.RoleChange{Index: now, Role: c.Role})
				}
			}
			for _, a := range u.Added {
				if i := pol.Participants.Index(a.User); r.pol.IsBanned(a.Role) && i < 0 && !touched[a.User] {
					touched[a.User] = true
					list.Added = append(list.Added, a)
				}
			}
		}
	}
	if len(list.Removed)+len(list.Changed)+len(list.Added) > 0 {
		bodies = append(bodies, policy.ListChange(list.Marshal()).Proposal().Body)
	}
	msgs, err := r.hubProposals(g, pol, bodies)
	var denied *policy.Denied
	if errors.As(err, &denied) && len(list.Changed)+len(list.Added) > 0 {
		// The room does not let its hub ban anybody. They are out at least.
		for _, c := range list.Changed {
			list.Removed = append(list.Removed, c.Index)
		}
		list.Changed, list.Added = nil, nil
		bodies[len(bodies)-1] = policy.ListChange(list.Marshal()).Proposal().Body
		msgs, err = r.hubProposals(g, pol, bodies)
	}
	return msgs, err
}

// hubProposals makes proposals by the hub as external sender and adds them to g, all or none. A *policy.Denied says that the
// room does not let the hub do that.
func (r *room) hubProposals(g *mls.PublicGroup, pol *policy.State, bodies []mls.ProposalBody) (msgs []*mls.MLSMessage, err error) {
	try := g.Clone()
	var ps []mls.PendingProposal
	for _, b := range bodies {
		m, err := mls.SignExternalProposal(r.h.cfg.MLS, g.GroupContext(), 0, r.keys.sender, mls.Proposal{Body: b}, mls.MarshalSafeAAD(nil))
		if err != nil {
			return nil, err
		}
		p, err := try.ReceiveProposal(m)
		if err != nil {
			return nil, err
		}
		msgs, ps = append(msgs, m), append(ps, *p)
	}
	if len(ps) > 0 {
		if err := pol.WithPending(g.Proposals(), g.Members()).CheckProposals(ps, r.h.cfg.Domain, g.Members()); err != nil {
			return nil, err
		}
	}
	*g = *try
	return msgs, nil
}

// Submit implements port.Hub.
func (h *Hub) Submit(ctx context.Context, from string, uri mimiuri.URI, body []byte) ([]byte, error) {
	return h.once(ctx, from, uri, body, func(r *room, hash []byte) ([]byte, error) {
		req, err := wire.ParseSubmitMessageRequest(body)
		if err != nil {
			return nil, fault.Wrap(fault.Malformed, "the SubmitMessageRequest cannot be read", err)
		}
		pm := req.Message.PrivateMessage
		if pm == nil || pm.ContentType != mls.ContentApplication || string(pm.GroupID) != r.uri.GroupOf().String() {
			return nil, fault.New(fault.Malformed, "an application message of the room's group is needed")
		}
		refuse := func(why string) ([]byte, error) {
			h.cfg.Log.Info().Str("room", r.id).Str("peer", from).Str("why", why).Msg("message refused")
			h.Counters.Refused.Add(1)
			return (&wire.SubmitMessageResponse{Protocol: wire.MLS10, Code: wire.SubmitNotAllowed}).Marshal(), nil
		}
		switch {
		case pm.Epoch < r.g.Epoch():
			return (&wire.SubmitMessageResponse{Protocol: wire.MLS10, Code: wire.EpochTooOld, CurrentEpoch: r.g.Epoch()}).Marshal(), nil
		case pm.Epoch > r.g.Epoch():
			return refuse("the message is of an epoch that has not begun")
		case req.SendingURI.Domain != from:
			return refuse("the sender is of another provider")
		}
		if most := h.cfg.MaxMessage; most > 0 && len(pm.Ciphertext) > most+most/8+4096 {
			if h.cfg.TooMuch != nil {
				h.cfg.TooMuch(req.SendingURI, "message size")
			}
			return nil, fault.Newf(fault.TooLarge, "a message may have at most %d kB", most>>10)
		}
		if h.cfg.Blocked != nil && h.cfg.Blocked(req.SendingURI) {
			return refuse("the administrator has blocked the sender")
		}
		if err := r.current().CheckSend(req.SendingURI); err != nil {
			return refuse(fault.Public(err))
		}
		if !r.pol.Active(req.SendingURI, r.g.Members()) {
			return refuse("the sender has no client in the room")
		}

		row := *r.row
		ts := r.stamp()
		row.LastTS = ts
		var frank *wire.Frank
		if tag, ok := wire.FrankTagFromAAD(pm.AuthenticatedData); ok {
			frank, err = wire.MakeFrank(r.keys.HubKey, r.keys.franking, tag, wire.ServerFrankingContext{Sender: req.SendingURI, Room: r.uri, AcceptedTimestamp: uint64(ts)})
			if err != nil {
				return nil, err
			}
		}
		response := (&wire.SubmitMessageResponse{Protocol: wire.MLS10, Code: wire.SubmitAccepted, AcceptedTimestamp: uint64(ts), Frank: frank}).Marshal()
		f := &wire.FanoutMessage{Timestamp: uint64(ts), Message: req.Message, Frank: frank}
		err = r.write(ctx, &row, func(tx *store.Tx) error {
			if err := r.logEntry(tx, &row, ts, f, r.hearers(from)); err != nil {
				return err
			}
			if err := tx.PutAnswer(r.id, from, hash, response, ts); err != nil {
				return err
			}
			return tx.AdvanceHubLog(&row)
		})
		if err != nil {
			return nil, err
		}
		h.cfg.Log.Debug().Str("event", "hub_accept").Str("room", r.id).Str("peer", from).Int64("ts", ts).Int("bytes", len(body)).Msg("message accepted")
		return response, nil
	})
}

// GroupInfo implements port.Hub.
func (h *Hub) GroupInfo(ctx context.Context, from string, uri mimiuri.URI, body []byte) ([]byte, error) {
	h.Retry(from)
	req, err := wire.ParseGroupInfoRequest(body)
	if err != nil {
		return nil, fault.Wrap(fault.Malformed, "the GroupInfoRequest cannot be read", err)
	}
	if err := req.Verify(); err != nil {
		return nil, fault.Wrap(fault.Forbidden, "the request's signature does not verify", err)
	}
	user, _, err := credentialUser(req.Credential)
	if err != nil || user.Domain != from {
		return nil, fault.Wrap(fault.Forbidden, "the credential is not of the asking provider", errors.Join(err, errForeign))
	}
	if uri.Kind != mimiuri.Room || uri.Domain != h.cfg.Domain {
		return nil, fault.New(fault.NotFound, "there is no such room here")
	}
	return mailbox.Ask(ctx, h.rooms, uri.String(), func(r *room) ([]byte, error) {
		fail := func(code wire.GroupInfoCode) ([]byte, error) {
			return (&wire.GroupInfoResponse{Protocol: wire.MLS10, Room: uri, Status: code}).Marshal(), nil
		}
		if err := r.load(ctx); fault.Is(err, fault.NotFound) {
			// A room that is not there and one that may not be seen look alike.
			return fail(wire.GroupInfoNotAuthorized)
		} else if err != nil {
			return nil, err
		}
		if err := r.current().CheckGroupInfo(user); err != nil || h.cfg.Blocked != nil && h.cfg.Blocked(user) {
			h.Counters.Refused.Add(1)
			return fail(wire.GroupInfoNotAuthorized)
		}
		if req.Suite != r.g.CipherSuite() {
			return fail(wire.GroupInfoNotAuthorized)
		}
		var info mls.GroupInfo
		if err := tlspl.Unmarshal(r.row.Info, &info); err != nil {
			return nil, err
		}
		tbe := &wire.GroupInfoRatchetTree{GroupInfo: &info, Tree: *mls.FullTree(r.g.Tree())}
		for _, p := range r.g.Proposals() {
			m, err := mls.ParseMessage(p.Message)
			if err != nil {
				return nil, err
			}
			tbe.Pending = append(tbe.Pending, wire.PendingProposal{Message: m, AcceptedTime: uint64(r.row.LastTS)})
		}
		sealed, err := tbe.Seal(req.Suite, req.PublicKey, uri)
		if err != nil {
			return nil, fault.Wrap(fault.Malformed, "nothing can be encrypted to this key", err)
		}
		res := &wire.GroupInfoResponse{Protocol: wire.MLS10, Room: uri, Status: wire.GroupInfoSuccess, Suite: req.Suite,
			HubSender: mls.ExternalSender{SignatureKey: r.keys.sender.Public(), Credential: mls.BasicCredential([]byte(uri.Provider().String()))},
			Encrypted: sealed}
		if err := res.Sign(r.keys.sender); err != nil {
			return nil, err
		}
		return res.Marshal(), nil
	})
}

func credentialUser(c mls.Credential) (user, client mimiuri.URI, err error) {
	return policy.LeafUser(&mls.LeafNode{Credential: c})
}

var errForeign = errors.New("hub: not of the asking provider")

// maxRoute is for how long the way of a Welcome is known at most: some KeyPackages never expire.
const maxRoute = 90 * 24 * time.Hour

// KeyMaterial implements port.Hub: it asks the target's provider, own or other, and remembers the way of the Welcome.
func (h *Hub) KeyMaterial(ctx context.Context, from string, uri, target mimiuri.URI, body []byte) ([]byte, error) {
	h.Retry(from)
	req, err := wire.ParseKeyMaterialRequest(body)
	if err != nil {
		return nil, fault.Wrap(fault.Malformed, "the KeyMaterialRequest cannot be read", err)
	}
	if err := req.Verify(); err != nil {
		return nil, fault.Wrap(fault.Forbidden, "the request's signature does not verify", err)
	}
	if req.TargetUser != target || target.Kind != mimiuri.User || req.RoomID != uri {
		return nil, fault.New(fault.Malformed, "path and body name different users or rooms")
	}
	if user, _, err := credentialUser(req.Credential); err != nil || user != req.RequestingUser || user.Domain != from {
		return nil, fault.New(fault.Forbidden, "the requester is not of the asking provider")
	}
	if uri.Domain != h.cfg.Domain {
		return nil, fault.New(fault.NotFound, "there is no such room here")
	}
	err = h.rooms.Do(ctx, uri.String(), func(r *room) error {
		if err := r.load(ctx); err != nil {
			return err
		}
		return r.current().CheckKeyMaterial(req.RequestingUser, target)
	})
	if err != nil {
		h.Counters.Refused.Add(1)
		return nil, err
	}
	if h.cfg.MoreRooms != nil {
		if err := h.cfg.MoreRooms(ctx, target); fault.Is(err, fault.Limited) { // the commit would be refused; trying again does not help
			h.Counters.Refused.Add(1)
			return nil, fault.New(fault.Forbidden, fault.Public(err))
		} else if err != nil {
			return nil, err
		}
	}
	// Not on the room's goroutine: a provider that does not answer must not hold up the room.
	response, err := h.cfg.Keys.KeyMaterial(ctx, h.cfg.Domain, target, body)
	if err != nil {
		return nil, err
	}
	res, err := wire.ParseKeyMaterialResponse(response)
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, "the other provider's answer cannot be read", err)
	}
	err = h.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		for _, c := range res.Clients {
			if c.KeyPackage == nil {
				continue
			}
			if user, _, err := policy.LeafUser(&c.KeyPackage.LeafNode); err != nil || user != target {
				return fault.Wrap(fault.Unavailable, "the other provider gave key material of another user", errors.Join(err, errForeign))
			}
			ref, err := c.KeyPackage.Ref(c.KeyPackage.CipherSuite)
			if err != nil {
				return fault.Wrap(fault.Unavailable, "the other provider's answer cannot be read", err)
			}
			expires := h.cfg.Now().Add(maxRoute).UnixMilli()
			if end := c.KeyPackage.LeafNode.Lifetime.NotAfter; end < uint64(expires/1000) {
				expires = int64(end) * 1000
			}
			if err := tx.PutRoute(uri.String(), ref, target.Domain, expires); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return response, nil
}
