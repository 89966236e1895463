package mls

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// An implementation is someone's MLS. Members of several implementations sit in
// one group and go through the same history, with each as creator, as joiner and
// as committer.
type implementation interface {
	name() string
	newMember(t *testing.T, suite CipherSuite, name string) groupMember
	// lacks gives the reason why the implementation cannot do a step as RFC 9420
	// has it, "" if it can. The step is then taken the way the reason says.
	lacks(step string) string
}

// groupMember is one client with at most one group. Messages are MLSMessages.
type groupMember interface {
	keyPackage() ([]byte, error)
	create(groupID []byte) error
	join(welcome []byte) error
	joinExternal(groupInfo []byte) (commit []byte, err error)
	// commit makes a Commit and goes to its epoch.
	commit(c interopCommit) (commit, welcome []byte, err error)
	process(msg []byte) error
	// groupInfo has external_pub and the tree inside.
	groupInfo() ([]byte, error)
	encrypt(text, aad []byte) ([]byte, error)
	decrypt(msg []byte) (text, aad []byte, err error)
	export(label string, context []byte, n int) ([]byte, error)
	authenticator() ([]byte, error)
	// proposeUpdate gives an Update by reference; the proposer keeps it.
	proposeUpdate() ([]byte, error)
}

type interopCommit struct {
	add     []byte // a KeyPackage
	remove  string // a basic identity
	psk     bool   // interopPSK
	private bool
	aad     []byte
}

var interopPSKID, interopPSK = []byte("shared by all"), bytes.Repeat([]byte{7}, 32)

// ours is this package as an implementation.
type ours struct{}

func (ours) name() string        { return "ours" }
func (ours) lacks(string) string { return "" }

func (ours) newMember(t *testing.T, suite CipherSuite, name string) groupMember {
	cfg := testConfig()
	cfg.Now = clock
	cfg.GREASE = true
	cfg.PSKs = PSKFunc(func(id *PreSharedKeyID) ([]byte, error) {
		if id.Type == PSKExternal && bytes.Equal(id.ID, interopPSKID) {
			return interopPSK, nil
		}
		return nil, errors.New("no such PSK")
	})
	return &ourMember{person: newPerson(t, suite, name), cfg: cfg}
}

type ourMember struct {
	*person
	cfg *Config
	key JoinKey
	g   *Group
}

func (m *ourMember) me() LeafIndex { return m.g.LocalLeaves()[0] }

func (m *ourMember) keyPackage() ([]byte, error) {
	life := LifetimeAround(clock(), interopLifetime)
	kp, secrets, err := NewKeyPackage(m.cfg, m.sig.Suite, KeyPackageOptions{Credential: BasicCredential([]byte(m.person.name)), Signature: m.sig, Lifetime: &life})
	if err != nil {
		return nil, err
	}
	m.key = JoinKey{kp, secrets}
	return NewMessage(kp).Bytes(), nil
}

func (m *ourMember) create(groupID []byte) (err error) {
	life := LifetimeAround(clock(), interopLifetime)
	leaf := m.leaf()
	leaf.Lifetime = &life
	m.g, err = CreateGroup(m.cfg, CreateOptions{Suite: m.sig.Suite, GroupID: groupID, Leaf: leaf})
	return err
}

func (m *ourMember) join(welcome []byte) error {
	w, err := ParseMessage(welcome)
	if err != nil {
		return err
	}
	m.g, err = JoinGroup(m.cfg, w.Welcome, nil, []JoinKey{m.key}, nil)
	return err
}

func (m *ourMember) joinExternal(groupInfo []byte) ([]byte, error) {
	i, err := ParseMessage(groupInfo)
	if err != nil {
		return nil, err
	}
	g, out, err := ExternalCommit(m.cfg, i.GroupInfo, nil, ExternalCommitOptions{Leaf: m.leaf()})
	if err != nil {
		return nil, err
	}
	m.g = g
	return out.Message.Bytes(), nil
}

func (m *ourMember) commit(c interopCommit) ([]byte, []byte, error) {
	opts := CommitOptions{AAD: c.aad, ForcePath: true, TreeInWelcome: true}
	if c.private {
		opts.WireFormat = WireFormatPrivateMessage
	}
	if c.add != nil {
		kp, err := ParseMessage(c.add)
		if err != nil {
			return nil, nil, err
		}
		opts.Proposals = append(opts.Proposals, Proposal{&Add{*kp.KeyPackage}})
	}
	if c.remove != "" {
		for _, o := range m.g.Members() {
			if string(o.Node.Credential.Identity) == c.remove {
				opts.Proposals = append(opts.Proposals, Proposal{&Remove{o.Leaf}})
			}
		}
	}
	if c.psk {
		opts.Proposals = append(opts.Proposals, Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: interopPSKID}}})
	}
	out, err := m.g.Commit(m.me(), opts)
	if err != nil {
		return nil, nil, err
	}
	if _, err := m.g.MergePending(nil); err != nil {
		return nil, nil, err
	}
	if out.Welcome == nil {
		return out.Message.Bytes(), nil, nil
	}
	return out.Message.Bytes(), NewMessage(out.Welcome).Bytes(), nil
}

func (m *ourMember) process(msg []byte) error {
	p, err := ParseMessage(msg)
	if err != nil {
		return err
	}
	_, err = m.g.Receive(p)
	return err
}

func (m *ourMember) groupInfo() ([]byte, error) {
	i, err := m.g.GroupInfoWithTree(m.me())
	if err != nil {
		return nil, err
	}
	return NewMessage(i).Bytes(), nil
}

func (m *ourMember) encrypt(text, aad []byte) ([]byte, error) {
	p, err := m.g.Encrypt(m.me(), text, aad)
	if err != nil {
		return nil, err
	}
	return p.Bytes(), nil
}

func (m *ourMember) decrypt(msg []byte) (text, aad []byte, err error) {
	p, err := ParseMessage(msg)
	if err != nil {
		return nil, nil, err
	}
	a, err := m.g.Decrypt(p)
	if err != nil {
		return nil, nil, err
	}
	return a.Content, a.AAD, nil
}

func (m *ourMember) export(label string, context []byte, n int) ([]byte, error) {
	return m.g.ExportSecret(label, context, n)
}

func (m *ourMember) authenticator() ([]byte, error) { return m.g.EpochAuthenticator(), nil }

func (m *ourMember) proposeUpdate() ([]byte, error) {
	msg, _, err := m.g.Propose(m.me(), Proposal{&Update{}}, nil)
	if err != nil {
		return nil, err
	}
	return msg.Bytes(), nil
}

// table is a group with members of several implementations.
type table struct {
	t     *testing.T
	names []string
	at    map[string]groupMember
	texts int
	// impl is whose implementation a member is, did how often members of one have done what with all others taking it.
	impl map[string]string
	did  map[string]map[string]int
}

// What every implementation must have done in a history, with all others following.
const (
	didCreate     = "creates"
	didInvite     = "adds, with Welcome"
	didWelcome    = "joins by Welcome"
	didExternal   = "joins by external commit"
	didGroupInfo  = "lets in by GroupInfo"
	didPublic     = "commits with path, public"
	didPrivate    = "commits with path, private"
	didCommitAAD  = "commits with AAD"
	didRemove     = "removes"
	didPSK        = "commits a PSK"
	didUpdate     = "proposes an update"
	didMessage    = "sends application messages with AAD"
	didExporter   = "agrees on exporter and authenticator"
	didHalfATree  = "follows a path in half a tree"
	lackUpdate    = "update"
	lackCommitAAD = "commit AAD"
	lackHalfATree = "path in half a tree"
)

func (tb *table) note(what, who string) {
	if tb.did[what] == nil {
		tb.did[what] = map[string]int{}
	}
	tb.did[what][tb.impl[who]]++
}

// covered lists what was done, and fails where something was not that the implementation does not lack.
func (tb *table) covered(creator, other implementation) {
	tb.t.Helper()
	lack := map[string]string{didUpdate: lackUpdate, didCommitAAD: lackCommitAAD, didHalfATree: lackHalfATree}
	for _, x := range []implementation{creator, other} {
		var list []string
		for _, what := range []string{didCreate, didInvite, didWelcome, didExternal, didGroupInfo, didPublic, didPrivate, didCommitAAD, didRemove, didPSK, didUpdate, didMessage, didExporter, didHalfATree} {
			n := tb.did[what][x.name()]
			why := x.lacks(lack[what])
			if what == didHalfATree && why == "" {
				why = creator.lacks(lackHalfATree) + other.lacks(lackHalfATree)
			}
			switch {
			case n > 0:
				list = append(list, fmt.Sprint(what, " ", n))
			case what == didCreate && x == other: // in the other direction
			case lack[what] != "" && why != "":
				list = append(list, "NOT "+what)
			default:
				tb.t.Errorf("no member of %s %s", x.name(), what)
			}
		}
		tb.t.Logf("%s: %s", x.name(), strings.Join(list, ", "))
	}
}

func (tb *table) ok(who string, err error) {
	tb.t.Helper()
	if err != nil {
		tb.t.Fatalf("%s: %v", who, err)
	}
}

// check holds exporters and authenticators against each other and has everyone
// speak to everyone.
func (tb *table) check(step string) {
	tb.t.Helper()
	var secret, auth []byte
	for _, n := range tb.names {
		s, err := tb.at[n].export("interop", []byte(step), 40)
		tb.ok(step+": "+n, err)
		a, err := tb.at[n].authenticator()
		tb.ok(step+": "+n, err)
		tb.note(didExporter, n)
		if len(s) != 40 || len(a) == 0 {
			tb.t.Fatalf("%s: %s: %d bytes exported, authenticator of %d", step, n, len(s), len(a))
		}
		if secret == nil {
			secret, auth = s, a
		} else if !bytes.Equal(s, secret) || !bytes.Equal(a, auth) {
			tb.t.Fatalf("%s: %s and %s do not agree on exporter or authenticator", step, tb.names[0], n)
		}
	}
	for _, n := range tb.names {
		tb.texts++
		text, aad := fmt.Appendf(nil, "%s %d", step, tb.texts), fmt.Appendf(nil, "aad %d", tb.texts)
		msg, err := tb.at[n].encrypt(text, aad)
		tb.ok(step+": "+n, err)
		if len(tb.names) > 1 {
			tb.note(didMessage, n)
		}
		for _, o := range tb.names {
			if o == n {
				continue
			}
			got, with, err := tb.at[o].decrypt(msg)
			tb.ok(fmt.Sprintf("%s: %s reads %s", step, o, n), err)
			if !bytes.Equal(got, text) || !bytes.Equal(with, aad) {
				tb.t.Fatalf("%s: %s reads %q with %q from %s", step, o, got, with, n)
			}
		}
	}
}

// spread gives a message to all but one.
func (tb *table) spread(step, from string, msg []byte) {
	tb.t.Helper()
	for _, n := range tb.names {
		if n != from {
			tb.ok(fmt.Sprintf("%s by %s: %s", step, from, n), tb.at[n].process(msg))
		}
	}
}

func (tb *table) commit(step, by string, c interopCommit) {
	tb.t.Helper()
	msg, _, err := tb.at[by].commit(c)
	tb.ok(step+" by "+by, err)
	if c.remove != "" {
		tb.leave(c.remove)
	}
	tb.spread(step, by, msg)
	tb.check(step + " by " + by)
	for what, ok := range map[string]bool{didPublic: !c.private, didPrivate: c.private, didCommitAAD: c.aad != nil, didRemove: c.remove != "", didPSK: c.psk} {
		if ok {
			tb.note(what, by)
		}
	}
}

func (tb *table) leave(name string) {
	for i, n := range tb.names {
		if n == name {
			tb.names = append(tb.names[:i:i], tb.names[i+1:]...)
			return
		}
	}
	tb.t.Fatalf("%s is not at the table", name)
}

// invite has a member add another by Welcome.
func (tb *table) invite(by, name string, m groupMember) {
	tb.t.Helper()
	kp, err := m.keyPackage()
	tb.ok(name, err)
	msg, welcome, err := tb.at[by].commit(interopCommit{add: kp})
	tb.ok(by+" adds "+name, err)
	tb.spread("add", by, msg)
	tb.ok(name+" joins by Welcome of "+by, m.join(welcome))
	tb.names, tb.at[name] = append(tb.names, name), m
	tb.check(by + " added " + name)
	tb.note(didInvite, by)
	tb.note(didWelcome, name)
}

func (tb *table) external(by, name string, m groupMember) {
	tb.t.Helper()
	info, err := tb.at[by].groupInfo()
	tb.ok(by, err)
	msg, err := m.joinExternal(info)
	tb.ok(name+" joins by external commit", err)
	tb.spread("external commit", name, msg)
	tb.names, tb.at[name] = append(tb.names, name), m
	tb.check(name + " joined from outside by GroupInfo of " + by)
	tb.note(didGroupInfo, by)
	tb.note(didExternal, name)
}

// playInterop runs the history with creator's member as the creator, and all of
// the steps by each of the two in turn.
func playInterop(t *testing.T, suite CipherSuite, creator, other implementation) {
	tb := &table{t: t, at: map[string]groupMember{}, impl: map[string]string{}, did: map[string]map[string]int{}}
	for i, who := range []string{"first", "second", "third", "fourth", "fifth", "sixth"} {
		x := creator
		if i%2 == 1 {
			x = other
		}
		tb.impl[who+" ("+x.name()+")"] = x.name()
	}
	first, second := "first ("+creator.name()+")", "second ("+other.name()+")"
	m := creator.newMember(t, suite, first)
	_, err := m.keyPackage()
	tb.ok(first, err)
	tb.ok(first, m.create([]byte("interop")))
	tb.names, tb.at[first] = []string{first}, m
	tb.note(didCreate, first)

	tb.invite(first, second, other.newMember(t, suite, second))
	for _, by := range []string{second, first} {
		tb.commit("empty commit, public", by, interopCommit{})
		tb.commit("empty commit, private", by, interopCommit{private: true})
	}
	// The one who joined brings members of both kinds.
	third, fourth := "third ("+creator.name()+")", "fourth ("+other.name()+")"
	tb.invite(second, third, creator.newMember(t, suite, third))
	tb.invite(second, fourth, other.newMember(t, suite, fourth))
	for _, by := range []string{fourth, third, first} {
		tb.commit("path among four", by, interopCommit{private: by == third})
	}
	for _, by := range []string{first, second} {
		tb.commit("PSK", by, interopCommit{psk: true})
	}
	for _, by := range []string{first, second} {
		if why := tb.implOf(by, first, creator, other).lacks(lackCommitAAD); why != "" {
			t.Log(why)
			continue
		}
		tb.commit("commit with AAD", by, interopCommit{aad: []byte("said beside")})
	}
	// Updates by reference, committed by the other kind.
	for _, by := range [][2]string{{third, second}, {fourth, first}} {
		if why := tb.implOf(by[0], third, creator, other).lacks(lackUpdate); why != "" {
			t.Log(why)
			continue
		}
		msg, err := tb.at[by[0]].proposeUpdate()
		tb.ok("update", err)
		tb.spread("update proposal", by[0], msg)
		tb.commit("update of "+by[0], by[1], interopCommit{})
		tb.note(didUpdate, by[0])
	}
	tb.commit("remove", second, interopCommit{remove: third})
	tb.commit("remove", first, interopCommit{remove: fourth})
	fifth, sixth := "fifth ("+creator.name()+")", "sixth ("+other.name()+")"
	tb.external(second, fifth, creator.newMember(t, suite, fifth))
	tb.external(first, sixth, other.newMember(t, suite, sixth))
	for _, by := range []string{fifth, sixth, first, second} {
		tb.commit("path after joining from outside", by, interopCommit{})
	}
	tb.commit("remove the creator", sixth, interopCommit{remove: first})
	// Then the left half of the tree is empty, and the root on no filtered direct
	// path.
	if why := creator.lacks(lackHalfATree) + other.lacks(lackHalfATree); why != "" {
		t.Log(why)
	} else {
		tb.commit("remove the second", fifth, interopCommit{remove: second})
		tb.note(didHalfATree, fifth)
		tb.note(didHalfATree, sixth)
	}
	tb.commit("the last path", sixth, interopCommit{private: true})
	tb.covered(creator, other)
}

func (tb *table) implOf(who, creators string, creator, other implementation) implementation {
	if who == creators {
		return creator
	}
	return other
}
