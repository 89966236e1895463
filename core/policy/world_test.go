package policy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
)

const suite = mls.CipherSuite(1)

var (
	eve   = mimiuri.MustParse("mimi://e.example/u/eve")
	frank = mimiuri.MustParse("mimi://f.example/u/frank")
	// hubert has a role without clients.
	hubert = mimiuri.MustParse("mimi://a.example/u/hubert")
)

// world is a room with a real MLS group: one shared group in which every client is local, so that any of them may
// commit anything, and the public group by which a hub judges it.
type world struct {
	t      *testing.T
	cfg    *mls.Config
	group  *mls.Group
	hub    *mls.PublicGroup
	hubKey *mls.SignatureKey
	keys   map[string]*mls.SignatureKey // by client
	state  *State
}

// setup is the room a test begins with.
type setup struct {
	dict    func(RoomOptions) (mls.AppDataDictionary, error) // the preset, Cooperative if nil
	list    ParticipantList                                  // nil: the usual one
	clients []string                                         // "alice/1" …, of which the first creates the group; nil: the usual ones
	change  func(d *mls.AppDataDictionary)
	loose   bool // required_capabilities do not list AppDataUpdate
}

// usual participants; their indices are used all over.
//
//	0 alice super_admin, 1 bob ordinary_user, 2 cathy group_admin, 3 frank ordinary_user without clients,
//	4 eve banned, 5 the hub, 6 hubert with the hub's role
func usualList() ParticipantList {
	return ParticipantList{{alice, 4}, {bob, 2}, {cathy, 3}, {frank, 2}, {eve, 1}, {hub, 5}, {hubert, 5}}
}

var usualClients = []string{"alice/1", "bob/1", "bob/2", "cathy/1"}

var people = map[string]mimiuri.URI{"alice": alice, "bob": bob, "cathy": cathy, "dave": dave, "eve": eve, "frank": frank, "hubert": hubert}

// clientURI is that of "bob/1".
func clientURI(t *testing.T, name string) mimiuri.URI {
	t.Helper()
	who, device, ok := strings.Cut(name, "/")
	user, known := people[who]
	if !ok || !known {
		t.Fatalf("no client %q", name)
	}
	return ClientURI(user, device)
}

func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	// The Authentication Service believes everybody, so that it is this package that refuses.
	believe := func(mls.CredentialContext) error { return nil }
	w := &world{t: t, keys: make(map[string]*mls.SignatureKey), cfg: &mls.Config{Now: time.Now, ApplyAppData: ApplyAppData, VerifyCredential: believe}}
	preset := s.dict
	if preset == nil {
		preset = Cooperative
	}
	w.hubKey = w.key()
	dict, err := preset(RoomOptions{Room: room, Creator: alice, Name: "Club"})
	if err != nil {
		t.Fatal(err)
	}
	list := s.list
	if list == nil {
		list = usualList()
	}
	dict.Set(ComponentParticipantList, list.Marshal())
	if s.change != nil {
		s.change(&dict)
	}
	clients := s.clients
	if clients == nil {
		clients = usualClients
	}
	required := mls.RequiredCapabilities{
		Extensions: []mls.ExtensionType{mls.ExtensionAppDataDictionary},
		Proposals:  []mls.ProposalType{mls.ProposalAppDataUpdate, mls.ProposalSelfRemove},
	}
	if s.loose {
		required.Proposals = nil
	}
	first := clients[0]
	w.group, err = mls.CreateGroup(w.cfg, mls.CreateOptions{
		Suite: suite, GroupID: []byte(room.GroupOf().String()),
		Leaf: mls.LeafOptions{Credential: w.credential(first), Signature: w.clientKey(first)},
		Extensions: mls.Extensions{
			required.Extension(), dict.Extension(),
			mls.ExternalSendersExtension([]mls.ExternalSender{
				{SignatureKey: w.hubKey.Public(), Credential: mls.BasicCredential([]byte(hub.String()))},
				{SignatureKey: w.clientKey("bob/1").Public(), Credential: mls.BasicCredential([]byte(bob.Provider().String()))},
			}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(clients) > 1 {
		var adds []mls.Proposal
		var joins []mls.JoinKey
		for _, c := range clients[1:] {
			j := w.keyPackage(c)
			joins = append(joins, j)
			adds = append(adds, mls.Proposal{Body: &mls.Add{KeyPackage: *j.KeyPackage}})
		}
		out, err := w.group.Commit(w.group.LocalLeaves()[0], mls.CommitOptions{Proposals: adds})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.group.MergePending(nil); err != nil {
			t.Fatal(err)
		}
		if err := w.group.AttachWelcome(out.Welcome, joins); err != nil {
			t.Fatal(err)
		}
	}
	info, err := w.group.GroupInfo(w.group.LocalLeaves()[0])
	if err != nil {
		t.Fatal(err)
	}
	if w.hub, err = mls.NewPublicGroup(w.cfg, info, w.group.Tree()); err != nil {
		t.Fatal(err)
	}
	if w.state, err = ParseState(w.hub.AppData()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) key() *mls.SignatureKey {
	w.t.Helper()
	k, err := mls.GenerateSignatureKey(nil, suite)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

// clientKey is the signature key of a client, always the same.
func (w *world) clientKey(client string) *mls.SignatureKey {
	if w.keys[client] == nil {
		w.keys[client] = w.key()
	}
	return w.keys[client]
}

func (w *world) credential(client string) mls.Credential {
	return mls.BasicCredential([]byte(clientURI(w.t, client).String()))
}

// keyPackage of a client under a fresh signature key, as after a new installation.
func (w *world) keyPackage(client string) mls.JoinKey {
	w.t.Helper()
	return w.keyPackageFor(w.credential(client), client)
}

func (w *world) keyPackageFor(c mls.Credential, client string) mls.JoinKey {
	w.t.Helper()
	key := w.key()
	if w.keys[client] == nil {
		w.keys[client] = key
	}
	kp, secrets, err := mls.NewKeyPackage(w.cfg, suite, mls.KeyPackageOptions{Credential: c, Signature: key})
	if err != nil {
		w.t.Fatal(err)
	}
	return mls.JoinKey{KeyPackage: kp, Secrets: secrets}
}

// leaf of a client that is in the group.
func (w *world) leaf(client string) mls.LeafIndex {
	w.t.Helper()
	want := clientURI(w.t, client)
	for _, m := range w.hub.Members() {
		if _, c, err := LeafUser(m.Node); err == nil && c == want {
			return m.Leaf
		}
	}
	w.t.Fatalf("%s is not in the group", client)
	return 0
}

// What a test proposes.

func (w *world) add(client string) mls.ProposalBody {
	return &mls.Add{KeyPackage: *w.keyPackage(client).KeyPackage}
}

func (w *world) remove(client string) mls.ProposalBody { return &mls.Remove{Removed: w.leaf(client)} }

func update(id mls.ComponentID, data []byte) mls.ProposalBody {
	return &mls.AppDataUpdate{ComponentID: id, Op: mls.AppDataOpUpdate, Update: data}
}

func drop(id mls.ComponentID) mls.ProposalBody {
	return &mls.AppDataUpdate{ComponentID: id, Op: mls.AppDataOpRemove}
}

func listUpdate(u ParticipantListUpdate) mls.ProposalBody {
	return update(ComponentParticipantList, u.Marshal())
}

func enlist(user mimiuri.URI, role uint32) mls.ProposalBody {
	return listUpdate(ParticipantListUpdate{Added: []Participant{{user, role}}})
}

func delist(index ...uint32) mls.ProposalBody {
	return listUpdate(ParticipantListUpdate{Removed: index})
}

func setRole(index, role uint32) mls.ProposalBody {
	return listUpdate(ParticipantListUpdate{Changed: []RoleChange{{index, role}}})
}

func proposals(bodies []mls.ProposalBody) []mls.Proposal {
	out := make([]mls.Proposal, len(bodies))
	for i, b := range bodies {
		out[i] = mls.Proposal{Body: b}
	}
	return out
}

// received hands messages to the hub and gives them as it holds them.
func (w *world) received(msgs ...*mls.MLSMessage) []mls.PendingProposal {
	w.t.Helper()
	var out []mls.PendingProposal
	for _, m := range msgs {
		p, err := w.hub.ReceiveProposal(m)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, *p)
	}
	return out
}

// propose makes standalone proposals of a client; the hub holds them and so does the group.
func (w *world) propose(client string, bodies ...mls.ProposalBody) []mls.PendingProposal {
	w.t.Helper()
	var msgs []*mls.MLSMessage
	for _, b := range bodies {
		m, _, err := w.group.Propose(w.leaf(client), mls.Proposal{Body: b}, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		msgs = append(msgs, m)
	}
	return w.received(msgs...)
}

// proposeOutside makes proposals by the external sender of an index.
func (w *world) proposeOutside(index uint32, bodies ...mls.ProposalBody) []mls.PendingProposal {
	w.t.Helper()
	key := w.hubKey
	if index == 1 {
		key = w.clientKey("bob/1")
	}
	var msgs []*mls.MLSMessage
	for _, b := range bodies {
		m, err := mls.SignExternalProposal(w.cfg, w.hub.GroupContext(), index, key, mls.Proposal{Body: b}, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.group.ReceiveProposal(m); err != nil {
			w.t.Fatal(err)
		}
		msgs = append(msgs, m)
	}
	return w.received(msgs...)
}

// commit makes a commit of a client that covers all that is pending and bodies, and gives it as the hub sees it.
func (w *world) commit(client string, bodies ...mls.ProposalBody) *mls.StagedPublicCommit {
	w.t.Helper()
	out, err := w.group.Commit(w.leaf(client), mls.CommitOptions{Proposals: proposals(bodies)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.group.ClearPending()
	return w.inspect(out.Message)
}

func (w *world) inspect(m *mls.MLSMessage) *mls.StagedPublicCommit {
	w.t.Helper()
	c, err := w.hub.InspectCommit(m)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// joinAs makes an external commit of a client that is not in the group, which replaces another if resync is set.
func (w *world) joinAs(client, resync string, bodies ...mls.ProposalBody) *mls.StagedPublicCommit {
	w.t.Helper()
	info, err := w.group.GroupInfo(w.group.LocalLeaves()[0])
	if err != nil {
		w.t.Fatal(err)
	}
	opts := mls.ExternalCommitOptions{
		Leaf:      mls.LeafOptions{Credential: w.credential(client), Signature: w.key()},
		Proposals: proposals(bodies),
	}
	if resync != "" {
		l := w.leaf(resync)
		opts.Resync = &l
	}
	for _, p := range w.hub.Proposals() {
		m, err := mls.ParseMessage(p.Message)
		if err != nil {
			w.t.Fatal(err)
		}
		opts.ProposalRefs = append(opts.ProposalRefs, m)
	}
	_, out, err := mls.ExternalCommit(w.cfg, info, w.group.Tree(), opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.inspect(out.Message)
}

// domainOf is the provider of "bob/1".
func domainOf(t *testing.T, client string) string { return clientURI(t, client).Domain }

// check judges a commit that came from a client's own provider.
func (w *world) check(c *mls.StagedPublicCommit, client string) error {
	return w.state.CheckCommit(c, domainOf(w.t, client), w.hub.Members(), 0)
}

// expect holds an error against the rule it should name; "" means that it is allowed.
func expect(t *testing.T, err error, rule string) {
	t.Helper()
	var d *Denied
	switch {
	case rule == "" && err != nil:
		t.Fatalf("refused: %v", err)
	case rule == "":
	case err == nil:
		t.Fatalf("allowed; the rule against it is %s", rule)
	case !errors.As(err, &d):
		t.Fatalf("%v is no *Denied", err)
	case d.Rule != rule:
		t.Fatalf("refused by %q (%s), want %q", d.Rule, d.Message, rule)
	case fault.KindOf(err) != fault.Forbidden || fault.Public(err) != d.Message || d.Message == "":
		t.Fatalf("the refusal is %v, to be read as %q", fault.KindOf(err), fault.Public(err))
	}
}
