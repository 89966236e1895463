package hub_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/hub"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

var (
	room  = mimiuri.MustParse("mimi://hub.example/r/club")
	alice = mimiuri.MustParse("mimi://hub.example/u/alice")
	bob   = mimiuri.MustParse("mimi://b.example/u/bob")
	carol = mimiuri.MustParse("mimi://c.example/u/carol")
	dave  = mimiuri.MustParse("mimi://d.example/u/dave")
	empty = mls.MarshalSafeAAD(nil)
)

// world is a hub with one room and everybody else: one group state in which all clients are local, so that each may send
// anything.
type world struct {
	t     *testing.T
	h     *hub.Hub
	cfg   *mls.Config
	g     *mls.Group
	keys  map[mimiuri.URI]*mls.SignatureKey
	joins map[string]mls.JoinKey
	life  *mls.Lifetime // of the next KeyPackages; nil is the usual

	mu   sync.Mutex
	told map[string][]*wire.FanoutMessage // by follower
	cond *sync.Cond
}

func newWorld(t *testing.T, change func(*mls.AppDataDictionary), others ...mimiuri.URI) *world {
	t.Helper()
	w := &world{t: t, keys: map[mimiuri.URI]*mls.SignatureKey{}, joins: map[string]mls.JoinKey{}, told: map[string][]*wire.FanoutMessage{},
		cfg: &mls.Config{Now: time.Now, ApplyAppData: policy.ApplyAppData, VerifyCredential: func(mls.CredentialContext) error { return nil }}}
	w.cond = sync.NewCond(&w.mu)
	o := store.Options{Path: filepath.Join(t.TempDir(), "hub.db"), Key: make([]byte, store.KeySize), Domain: "hub.example"}
	var err error
	if o.Postgres, err = testnet.PostgresAt(context.Background(), o.Path); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	w.h = hub.New(hub.Config{Domain: "hub.example", Store: s, MLS: w.cfg, Keys: w, Notify: w, Now: time.Now, Log: zerolog.Nop()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.Close()
	})

	agents, err := w.h.Prepare(ctx, room)
	if err != nil {
		t.Fatal(err)
	}
	dict, err := policy.Cooperative(policy.RoomOptions{Room: room, Creator: alice, Name: "Club", FrankingAgent: agents.Franking.Marshal()})
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&dict)
	}
	required := mls.RequiredCapabilities{Extensions: []mls.ExtensionType{mls.ExtensionAppDataDictionary}, Proposals: []mls.ProposalType{mls.ProposalAppDataUpdate, mls.ProposalSelfRemove}}
	w.g, err = mls.CreateGroup(w.cfg, mls.CreateOptions{Suite: hub.Suite, GroupID: []byte(room.GroupOf().String()), Leaf: w.leafOptions(alice),
		Extensions: mls.Extensions{required.Extension(), mls.ExternalSendersExtension([]mls.ExternalSender{agents.Sender}), dict.Extension()}})
	if err != nil {
		t.Fatal(err)
	}
	info, err := w.g.GroupInfo(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.h.Create(ctx, room, alice, tlspl.Marshal(info), tlspl.Marshal(w.g.Tree())); err != nil {
		t.Fatal(err)
	}
	for _, u := range others {
		w.invite(u)
	}
	return w
}

func (w *world) key(user mimiuri.URI) *mls.SignatureKey {
	if w.keys[user] == nil {
		k, err := mls.GenerateSignatureKey(rand.Reader, hub.Suite)
		if err != nil {
			w.t.Fatal(err)
		}
		w.keys[user] = k
	}
	return w.keys[user]
}

func credential(user mimiuri.URI) mls.Credential {
	return mls.BasicCredential([]byte(policy.ClientURI(user, "1").String()))
}

func (w *world) leafOptions(user mimiuri.URI) mls.LeafOptions {
	return mls.LeafOptions{Credential: credential(user), Signature: w.key(user), Extensions: mls.Extensions{policy.LeafAppData().Extension()}}
}

// KeyMaterial implements port.Keys for all users.
func (w *world) KeyMaterial(_ context.Context, _ string, target mimiuri.URI, _ []byte) ([]byte, error) {
	kp, secrets, err := mls.NewKeyPackage(w.cfg, hub.Suite, mls.KeyPackageOptions{Credential: credential(target), Signature: w.key(target), LeafExtensions: mls.Extensions{policy.LeafAppData().Extension()}, Lifetime: w.life})
	if err != nil {
		return nil, err
	}
	ref, err := kp.Ref(hub.Suite)
	if err != nil {
		return nil, err
	}
	w.joins[string(ref)] = mls.JoinKey{KeyPackage: kp, Secrets: secrets}
	return (&wire.KeyMaterialResponse{Protocol: wire.MLS10, UserURI: target, Clients: []wire.ClientKeyMaterial{{ClientURI: policy.ClientURI(target, "1"), KeyPackage: kp}}}).Marshal(), nil
}

// Notify implements port.Notify.
func (w *world) Notify(_ context.Context, peer string, _ mimiuri.URI, body []byte) error {
	l, err := wire.ParseFanout(body)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[peer] = append(w.told[peer], l...)
	w.cond.Broadcast()
	return nil
}

// awaitTold gives what a follower was told once it is n messages.
func (w *world) awaitTold(peer string, n int) []*wire.FanoutMessage {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	late := false
	defer time.AfterFunc(time.Minute, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		late = true
		w.cond.Broadcast()
	}).Stop()
	for len(w.told[peer]) < n {
		if late {
			w.t.Fatalf("%s was told %d messages, not %d", peer, len(w.told[peer]), n)
		}
		w.cond.Wait()
	}
	return w.told[peer]
}

func (w *world) leaf(user mimiuri.URI) mls.LeafIndex {
	w.t.Helper()
	for _, m := range w.g.Members() {
		if u, _, err := policy.LeafUser(m.Node); err == nil && u == user {
			return m.Leaf
		}
	}
	w.t.Fatalf("%s has no client", user)
	return 0
}

func (w *world) state() *policy.State {
	w.t.Helper()
	s, err := policy.ParseState(w.g.AppData())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// claim asks the hub for a KeyPackage.
func (w *world) claim(by, target mimiuri.URI) *mls.KeyPackage {
	w.t.Helper()
	q := &wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: by, TargetUser: target, RoomID: room, Suites: []mls.CipherSuite{hub.Suite}, SignatureKey: w.key(by).Public(), Credential: credential(by)}
	if err := q.Sign(w.key(by)); err != nil {
		w.t.Fatal(err)
	}
	b, err := w.h.KeyMaterial(context.Background(), by.Domain, room, target, q.Marshal())
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := wire.ParseKeyMaterialResponse(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return a.Clients[0].KeyPackage
}

// commit makes a commit and its request; what it leads to is merged by merge.
func (w *world) commit(by mimiuri.URI, o mls.CommitOptions, bodies ...mls.ProposalBody) (*wire.UpdateRequest, *mls.CommitOutput) {
	w.t.Helper()
	for _, b := range bodies {
		o.Proposals = append(o.Proposals, mls.Proposal{Body: b})
	}
	o.AAD = empty
	out, err := w.g.Commit(w.leaf(by), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return &wire.UpdateRequest{Message: out.Message, Welcome: out.Welcome, GroupInfo: wire.GroupInfoOption{Full: out.GroupInfo}, Tree: *mls.FullTree(out.Tree)}, out
}

func (w *world) merge(out *mls.CommitOutput) {
	w.t.Helper()
	if _, err := w.g.MergePending(nil); err != nil {
		w.t.Fatal(err)
	}
	if out.Welcome == nil {
		return
	}
	var joins []mls.JoinKey
	for _, s := range out.Welcome.Secrets {
		joins = append(joins, w.joins[string(s.NewMember)])
	}
	if err := w.g.AttachWelcome(out.Welcome, joins); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) update(from string, q *wire.UpdateRequest) *wire.UpdateRoomResponse {
	w.t.Helper()
	b, err := w.h.Update(context.Background(), from, room, q.Marshal())
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := wire.ParseUpdateRoomResponse(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) accepted(from string, q *wire.UpdateRequest) {
	w.t.Helper()
	if a := w.update(from, q); a.Code != wire.UpdateSuccess || a.AcceptedTimestamp == 0 {
		w.t.Fatalf("the hub says %v: %s", a.Code, a.Description)
	}
}

func (w *world) refused(from string, q *wire.UpdateRequest, code wire.UpdateCode) *wire.UpdateRoomResponse {
	w.t.Helper()
	a := w.update(from, q)
	if a.Code != code {
		w.t.Errorf("the hub says %v (%s), not %v", a.Code, a.Description, code)
	}
	return a
}

// invite adds a user as alice, by a commit with everything.
func (w *world) invite(user mimiuri.URI) {
	w.t.Helper()
	q, out := w.commit(alice, mls.CommitOptions{}, w.inviting(user)...)
	w.accepted("hub.example", q)
	w.merge(out)
}

func (w *world) inviting(user mimiuri.URI) []mls.ProposalBody {
	list := policy.ListChange(policy.AddParticipantUpdate(w.state(), []policy.Participant{{User: user, Role: policy.RoleOrdinaryUser}})).Proposal().Body
	return []mls.ProposalBody{list, &mls.Add{KeyPackage: *w.claim(alice, user)}}
}

// propose makes a bundle of standalone proposals.
func (w *world) propose(by mimiuri.URI, bodies ...mls.ProposalBody) *wire.UpdateRequest {
	w.t.Helper()
	q := &wire.UpdateRequest{}
	for _, b := range bodies {
		m, _, err := w.g.Propose(w.leaf(by), mls.Proposal{Body: b}, empty)
		if err != nil {
			w.t.Fatal(err)
		}
		if q.Message == nil {
			q.Message = m
		} else {
			q.MoreProposals = append(q.MoreProposals, m)
		}
	}
	return q
}

// groupInfo asks the hub for the group as a user.
func (w *world) groupInfo(user mimiuri.URI) *wire.GroupInfoRatchetTree {
	w.t.Helper()
	priv, pub, err := mls.GenerateHPKEKey(hub.Suite)
	if err != nil {
		w.t.Fatal(err)
	}
	a := w.askGroupInfoFor(user, pub)
	if a.Status != wire.GroupInfoSuccess {
		w.t.Fatalf("groupInfo: %v", a.Status)
	}
	if err := a.Verify(); err != nil {
		w.t.Fatal(err)
	}
	info, err := a.Open(priv)
	if err != nil {
		w.t.Fatal(err)
	}
	return info
}

func (w *world) askGroupInfo(user mimiuri.URI) *wire.GroupInfoResponse {
	_, pub, err := mls.GenerateHPKEKey(hub.Suite)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.askGroupInfoFor(user, pub)
}

func (w *world) askGroupInfoFor(user mimiuri.URI, pub []byte) *wire.GroupInfoResponse {
	w.t.Helper()
	q := &wire.GroupInfoRequest{Protocol: wire.MLS10, Suite: hub.Suite, SignatureKey: w.key(user).Public(), Credential: credential(user), PublicKey: pub}
	if err := q.Sign(w.key(user)); err != nil {
		w.t.Fatal(err)
	}
	b, err := w.h.GroupInfo(context.Background(), user.Domain, room, q.Marshal())
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := wire.ParseGroupInfoResponse(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// joining makes an external commit of a user, and the group it leads to.
func (w *world) joining(user mimiuri.URI) (*wire.UpdateRequest, *mls.Group) {
	w.t.Helper()
	info := w.groupInfo(user)
	o := mls.ExternalCommitOptions{Leaf: w.leafOptions(user), AAD: empty}
	for _, p := range info.Pending {
		o.ProposalRefs = append(o.ProposalRefs, p.Message)
	}
	if s := w.state(); s.Participants.Index(user) < 0 {
		o.Proposals = []mls.Proposal{policy.ListChange(policy.AddParticipantUpdate(s, []policy.Participant{{User: user, Role: policy.RoleOrdinaryUser}})).Proposal()}
	} else {
		leaf := w.leaf(user)
		o.Resync = &leaf
	}
	g, out, err := mls.ExternalCommit(w.cfg, info.GroupInfo, info.Tree.Tree, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return &wire.UpdateRequest{Message: out.Message, GroupInfo: wire.GroupInfoOption{Full: out.GroupInfo}, Tree: *mls.FullTree(out.Tree)}, g
}

// TestGroupInfoForms: what belongs to a commit in all the forms it may have; the hub serves the whole of it afterwards, and
// somebody comes in by that.
func TestGroupInfoForms(t *testing.T) {
	full := func(q *wire.UpdateRequest) {}
	partial := func(q *wire.UpdateRequest) {
		q.GroupInfo = wire.GroupInfoOption{Partial: q.GroupInfo.Full.Partial()}
	}
	byDS := func(q *wire.UpdateRequest) { q.Tree = *mls.DistributionServiceTree() }
	for name, forms := range map[string][]func(*wire.UpdateRequest){
		"full, full":                   {full},
		"full, distributionService":    {byDS},
		"partial, full":                {partial},
		"partial, distributionService": {partial, byDS},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil, bob)
			q, out := w.commit(bob, mls.CommitOptions{ForcePath: true})
			want := tlspl.Marshal(q.GroupInfo.Full)
			for _, f := range forms {
				f(q)
			}
			w.accepted("b.example", q)
			w.merge(out)
			info := w.groupInfo(alice)
			if !bytes.Equal(tlspl.Marshal(info.GroupInfo), want) {
				t.Error("the hub gives another GroupInfo than the committer signed")
			}
			if !bytes.Equal(tlspl.Marshal(info.Tree.Tree), tlspl.Marshal(w.g.Tree())) {
				t.Error("the hub gives another tree")
			}
			join, _ := w.joining(bob)
			for _, f := range forms {
				f(join)
			}
			w.accepted("b.example", join)
		})
	}
	w := newWorld(t, nil, bob)
	q, _ := w.commit(bob, mls.CommitOptions{ForcePath: true})
	for name, change := range map[string]func(*wire.UpdateRequest){
		"another signature": func(q *wire.UpdateRequest) { partial(q); q.GroupInfo.Partial.Signature[0] ^= 1 },
		"without external_pub": func(q *wire.UpdateRequest) {
			partial(q)
			q.GroupInfo.Partial.Extensions = nil
		},
		"a tree that is said to be in it": func(q *wire.UpdateRequest) { partial(q); q.GroupInfo.Partial.Presence = mls.RatchetTreePresent },
		"another tree":                    func(q *wire.UpdateRequest) { q.Tree = *mls.FullTree(w.g.Tree()) },
		"a tree to be fetched": func(q *wire.UpdateRequest) {
			q.Tree = mls.RatchetTreeOption{Representation: mls.RatchetTreeHTTPSURI, URL: []byte("https://b.example/tree"), TreeSignature: []byte("x")}
		},
		"a tree out of band": func(q *wire.UpdateRequest) {
			q.Tree = mls.RatchetTreeOption{Representation: mls.RatchetTreeOutOfBand, TreeSignature: []byte("x")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			again, err := wire.ParseUpdateRequest(q.Marshal())
			if err != nil {
				t.Fatal(err)
			}
			change(again)
			if a := w.update("b.example", again); a.Code != wire.NotAllowed {
				t.Errorf("the hub says %v", a.Code)
			}
		})
	}
	w.accepted("b.example", q) // nothing of it has done any harm
}

// TestUpdateAnswers: wrongEpoch with the epoch the room is in, invalidProposal with the references that are meant,
// notAllowed with a sentence.
func TestUpdateAnswers(t *testing.T) {
	w := newWorld(t, nil, bob, carol)
	late, _ := w.commit(bob, mls.CommitOptions{ForcePath: true})
	w.g.ClearPending()
	q, out := w.commit(alice, mls.CommitOptions{ForcePath: true})
	w.accepted("hub.example", q)
	w.merge(out)
	if a := w.refused("b.example", late, wire.WrongEpoch); a.CurrentEpoch != w.g.Epoch() {
		t.Errorf("the room is said to be in epoch %d instead of %d", a.CurrentEpoch, w.g.Epoch())
	}
	// The same octets that were accepted get the same answer, in a later epoch, too.
	w.accepted("hub.example", q)

	// A commit that leaves out what is pending, and one that refers to what the hub does not have.
	index := uint32(w.state().Participants.Index(carol))
	leave := w.propose(carol, &mls.SelfRemove{}, policy.ListChange(policy.ParticipantListUpdate{Removed: []uint32{index}}.Marshal()).Proposal().Body)
	pending := w.g.Proposals()
	unknown, _ := w.commit(alice, mls.CommitOptions{})
	w.g.ClearPending()
	if a := w.refused("hub.example", unknown, wire.InvalidProposal); len(a.InvalidProposals) != 2 || !bytes.Equal(a.InvalidProposals[0], pending[0].Ref) || !bytes.Equal(a.InvalidProposals[1], pending[1].Ref) {
		t.Errorf("proposals the hub does not have: %x, want %x and %x", a.InvalidProposals, pending[0].Ref, pending[1].Ref)
	}
	w.accepted("c.example", leave)
	without, _ := w.commit(alice, mls.CommitOptions{ForcePath: true, Without: []mls.ProposalRef{pending[1].Ref}})
	w.g.ClearPending()
	if a := w.refused("hub.example", without, wire.InvalidProposal); len(a.InvalidProposals) != 1 || !bytes.Equal(a.InvalidProposals[0], pending[1].Ref) {
		t.Errorf("left out: %x, want %x", a.InvalidProposals, pending[1].Ref)
	}
	w.refused("b.example", unknown, wire.NotAllowed) // alice's commit, from somebody else's provider
	q, out = w.commit(bob, mls.CommitOptions{})
	w.accepted("b.example", q)
	w.merge(out)
	if w.state().Participants.Index(carol) >= 0 {
		t.Error("carol is still listed")
	}
	// An ordinary user may not.
	rename := w.state().Metadata
	rename.Descriptions = []policy.RichDescription{{Content: []byte("x")}}
	q, _ = w.commit(bob, mls.CommitOptions{}, policy.Change{Component: policy.ComponentRoomMetadata, Update: rename.Marshal()}.Proposal().Body)
	w.g.ClearPending()
	if a := w.refused("b.example", q, wire.NotAllowed); a.Description == "" {
		t.Error("no word why")
	}
	w.accepted("hub.example", func() *wire.UpdateRequest { q, _ := w.commit(alice, mls.CommitOptions{ForcePath: true}); return q }())
}

// TestPendingBan: a ban that waits for its commit when somebody joins by an external commit, which cannot cover it, is
// proposed anew by the hub, and holds all the time.
func TestPendingBan(t *testing.T) {
	open := func(d *mls.AppDataDictionary) {
		d.Set(policy.ComponentPreAuthList, policy.PreAuthData{{Role: policy.Role{Index: policy.RoleOrdinaryUser}}}.Marshal())
	}
	w := newWorld(t, open, bob, carol)
	ban, err := w.state().BanChange(carol)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := w.state().BanChange(mimiuri.MustParse("mimi://e.example/u/eve"))
	if err != nil {
		t.Fatal(err)
	}
	w.accepted("hub.example", w.propose(alice, ban.Proposal().Body, &mls.Remove{Removed: w.leaf(carol)}, stranger.Proposal().Body))
	// She may not come in anew meanwhile, nor speak.
	if a := w.askGroupInfo(carol); a.Status != wire.GroupInfoNotAuthorized {
		t.Errorf("she is given the group: %v", a.Status)
	}
	q, joined := w.joining(dave)
	w.accepted("d.example", q)

	told := w.awaitTold("b.example", 4) // his Welcome, carol's addition, the ban, dave's commit
	commit := told[len(told)-1]
	if commit.Message.ContentType() != mls.ContentCommit || len(commit.ExternalProposals) != 2 {
		t.Fatalf("bob's provider is told %v with %d proposals of the hub", commit.Message.ContentType(), len(commit.ExternalProposals))
	}
	staged, err := w.g.StageCommit(commit.Message)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.g.MergeStaged(staged); err != nil {
		t.Fatal(err)
	}
	if err := w.g.AttachGroup(joined); err != nil {
		t.Fatal(err)
	}
	for _, m := range commit.ExternalProposals {
		if _, err := w.g.ReceiveProposal(m); err != nil {
			t.Fatal(err)
		}
	}
	// d, who sent the commit, is told the proposals, too.
	if d := w.awaitTold("d.example", 1); len(d[0].MoreProposals) != 1 || d[0].Message.ContentType() != mls.ContentProposal {
		t.Errorf("d is told %+v", d[0])
	}
	q, out := w.commit(bob, mls.CommitOptions{})
	w.accepted("b.example", q)
	w.merge(out)
	s := w.state()
	if !s.Banned(carol) || len(s.BannedUsers()) != 2 || s.Participants.Index(dave) < 0 {
		t.Errorf("the list is %+v", s.Participants)
	}
	for _, m := range w.g.Members() {
		if u, _, _ := policy.LeafUser(m.Node); u == carol {
			t.Error("carol still has a client")
		}
	}
}

// TestCanReceiveMessage: messages do not go to a provider none of whose users may receive them; what changes the group does.
func TestCanReceiveMessage(t *testing.T) {
	w := newWorld(t, func(d *mls.AppDataDictionary) {
		b, _ := d.Get(policy.ComponentRolesList)
		roles, err := policy.ParseRoleData(b)
		if err != nil {
			t.Fatal(err)
		}
		for i := range roles {
			if roles[i].Index == policy.RoleGroupAdmin {
				roles[i].Capabilities = []policy.Capability{policy.CanSendMessage}
			}
		}
		d.Set(policy.ComponentRolesList, roles.Marshal())
	}, bob, carol)
	deaf, err := policy.ChangeRoleUpdate(w.state(), policy.Participant{User: carol, Role: policy.RoleGroupAdmin})
	if err != nil {
		t.Fatal(err)
	}
	q, out := w.commit(alice, mls.CommitOptions{}, policy.ListChange(deaf).Proposal().Body)
	w.accepted("hub.example", q)
	w.merge(out)
	m, err := w.g.Encrypt(w.leaf(alice), []byte("x"), empty)
	if err != nil {
		t.Fatal(err)
	}
	b, err := w.h.Submit(context.Background(), "hub.example", room, (&wire.SubmitMessageRequest{Protocol: wire.MLS10, Message: m, SendingURI: alice}).Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if a, err := wire.ParseSubmitMessageResponse(b); err != nil || a.Code != wire.SubmitAccepted {
		t.Fatalf("%+v, %v", a, err)
	}
	q, out = w.commit(alice, mls.CommitOptions{ForcePath: true})
	w.accepted("hub.example", q)
	w.merge(out)
	last := func(peer string, n int) []mls.ContentType {
		var kinds []mls.ContentType
		for _, f := range w.awaitTold(peer, n) {
			if f.Message.Welcome == nil {
				kinds = append(kinds, f.Message.ContentType())
			}
		}
		return kinds[max(len(kinds)-3, 0):]
	}
	if got := last("b.example", 5); !slices.Equal(got, []mls.ContentType{mls.ContentCommit, mls.ContentApplication, mls.ContentCommit}) {
		t.Errorf("bob's provider is told %v", got)
	}
	if got := last("c.example", 3); !slices.Equal(got, []mls.ContentType{mls.ContentCommit, mls.ContentCommit}) {
		t.Errorf("carol's provider is told %v", got)
	}
}

// TestSupersededUpdate: a client that proposes two Updates in an epoch does not keep everybody from committing, since no Commit
// can cover both (RFC 9420 section 12.2).
func TestSupersededUpdate(t *testing.T) {
	w := newWorld(t, nil, bob, carol)
	w.accepted("b.example", w.propose(bob, &mls.Update{}))
	w.accepted("b.example", w.propose(bob, &mls.Update{}))
	newer := w.g.Proposals()[1].Ref
	q, _ := w.commit(carol, mls.CommitOptions{ForcePath: true, Without: []mls.ProposalRef{w.g.Proposals()[0].Ref, newer}})
	w.g.ClearPending()
	w.refused("c.example", q, wire.InvalidProposal) // one of them there has to be
	q, out := w.commit(carol, mls.CommitOptions{})
	w.accepted("c.example", q)
	w.merge(out)
}

// TestManyProposals: what waits for a commit is bounded, so that a commit that covers it stays one that others can read; the rest
// may come after it.
func TestManyProposals(t *testing.T) {
	w := newWorld(t, nil, bob)
	bundle := func(from byte) []byte {
		var acks []mls.ProposalBody
		for i := range 400 {
			acks = append(acks, &mls.AppEphemeral{ComponentID: mls.ComponentAppAck, Data: []byte{from, byte(i >> 8), byte(i)}})
		}
		return w.propose(bob, acks...).Marshal()
	}
	var err error
	n := byte(0)
	for ; err == nil && n < 5; n++ {
		_, err = w.h.Update(context.Background(), "b.example", room, bundle(n))
	}
	if !fault.Is(err, fault.Limited) || n != 3 {
		t.Errorf("bundle %d: %v", n, err)
	}
	pending := w.g.Proposals()
	var refused []mls.ProposalRef
	for _, p := range pending[800:] {
		refused = append(refused, p.Ref)
	}
	q, out := w.commit(alice, mls.CommitOptions{Without: refused})
	w.accepted("hub.example", q)
	w.merge(out)
	if _, err := w.h.Update(context.Background(), "b.example", room, bundle(9)); err != nil {
		t.Error(err)
	}
}

// TestEndlessKeyPackage: there are KeyPackages that say of themselves that they never expire.
func TestEndlessKeyPackage(t *testing.T) {
	w := newWorld(t, nil)
	w.life = &mls.Lifetime{NotAfter: math.MaxUint64}
	q, out := w.commit(alice, mls.CommitOptions{}, w.inviting(bob)...)
	if err := w.h.Clean(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.accepted("hub.example", q)
	w.merge(out)
}
