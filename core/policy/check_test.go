package policy

import (
	"errors"
	"testing"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
)

// attempt is a commit by a member, and the rule it breaks if any.
type attempt struct {
	name string
	by   string // the committing client
	do   func(w *world) []mls.ProposalBody
	want string
}

func bodies(b ...mls.ProposalBody) func(*world) []mls.ProposalBody {
	return func(*world) []mls.ProposalBody { return b }
}

func run(t *testing.T, s setup, attempts []attempt) {
	t.Helper()
	for _, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			w := newWorld(t, s)
			expect(t, w.check(w.commit(a.by, a.do(w)...), a.by), a.want)
		})
	}
}

func editRoles(f func(r RoleData)) func(*mls.AppDataDictionary) {
	return func(d *mls.AppDataDictionary) {
		b, _ := d.Get(ComponentRolesList)
		roles, err := ParseRoleData(b)
		if err != nil {
			panic(err)
		}
		f(roles)
		d.Set(ComponentRolesList, roles.Marshal())
	}
}

func editBase(f func(p *BaseRoomPolicy)) func(*mls.AppDataDictionary) {
	return func(d *mls.AppDataDictionary) {
		b, _ := d.Get(ComponentBaseRoomPolicy)
		p, err := ParseBaseRoomPolicy(b)
		if err != nil {
			panic(err)
		}
		f(p)
		d.Set(ComponentBaseRoomPolicy, p.Marshal())
	}
}

// roleData is a preset's roles, changed.
func roleData(d RoleData, f func(r RoleData)) []byte {
	f(d)
	return d.Marshal()
}

func metadata(f func(m *RoomMetadata)) mls.ProposalBody {
	m := RoomMetadata{Room: room, Name: "Club"}
	f(&m)
	return update(ComponentRoomMetadata, m.Marshal())
}

// Rules of draft-ietf-mimi-room-policy for a room of the cooperative preset. Indices are those of usualList.
func TestCooperativeCommits(t *testing.T) {
	evil := mimiuri.MustParse("mimi://evil.example")
	run(t, setup{}, []attempt{
		{"nothing but a path", "bob/1", bodies(), ""},

		{"canAddParticipant: with clients", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{enlist(dave, 2), w.add("dave/1"), w.add("dave/2")}
		}, ""},
		{"canAddParticipant: without clients", "bob/1", bodies(enlist(dave, 2)), ""},
		{"canAddParticipant: by an admin with an admin's role", "alice/1", bodies(enlist(dave, 4)), ""},
		{"canAddParticipant: authorized_role_changes has the target role", "bob/1", bodies(enlist(dave, 3)), "authorized_role_changes"},
		{"canAddParticipant: nobody adds a banned user without the right", "bob/1", bodies(enlist(dave, 1)), "authorized_role_changes"},
		{"canAddParticipant: a group_admin adds no super_admin", "cathy/1", bodies(enlist(dave, 4)), "authorized_role_changes"},
		{"canBan: of a user who is not listed", "cathy/1", bodies(enlist(dave, 1)), ""},
		{"canAddParticipant: only users", "alice/1", bodies(enlist(evil, 2)), "participant_list"},
		{"canAddParticipant: a role that exists", "alice/1", bodies(enlist(dave, 9)), "role_index"},
		{"adds: only clients of participants after the commit", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{w.add("dave/1")}
		}, "participant_list"},
		{"adds: not one's friend's beside a participant's", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{enlist(frank2, 2), w.add("dave/1")}
		}, "participant_list"},
		{"adds: no clients of a banned user", "alice/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{w.add("eve/1")}
		}, "banned"},
		{"adds: clients of a user who was listed without any", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{w.add("frank/1")}
		}, ""},
		{"adds: no clients of users one could not add", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{w.add("alice/2")}
		}, "authorized_role_changes"},
		{"adds: a credential that names no client", "bob/1", func(w *world) []mls.ProposalBody {
			kp := w.keyPackageFor(mls.BasicCredential([]byte("dave@d.example")), "dave/1").KeyPackage
			return []mls.ProposalBody{enlist(dave, 2), &mls.Add{KeyPackage: *kp}}
		}, "credential"},
		{"adds: a client of the added user's name at another provider", "bob/1", func(w *world) []mls.ProposalBody {
			kp := w.keyPackageFor(mls.BasicCredential([]byte("mimi://evil.example/d/dave/1")), "dave/1").KeyPackage
			return []mls.ProposalBody{enlist(dave, 2), &mls.Add{KeyPackage: *kp}}
		}, "participant_list"},

		{"canAddOwnClient", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{w.add("bob/3")}
		}, ""},
		{"canAddOwnClient: a client is in the group once", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{w.add("bob/2")}
		}, "client"},

		{"canRemoveParticipant: with all clients", "cathy/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{delist(1), w.remove("bob/1"), w.remove("bob/2")}
		}, ""},
		{"canRemoveParticipant: without clients", "bob/1", bodies(delist(3)), ""},
		{"canRemoveParticipant: some clients stay", "cathy/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{delist(1), w.remove("bob/1")}
		}, "clients of a removed participant"},
		{"canRemoveParticipant: all clients stay", "cathy/1", bodies(delist(1)), "clients of a removed participant"},
		{"canRemoveParticipant: authorized_role_changes has the user's role", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{delist(0), w.remove("alice/1")}
		}, "authorized_role_changes"},
		{"canRemoveParticipant: a group_admin removes no super_admin", "cathy/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{delist(0), w.remove("alice/1")}
		}, "authorized_role_changes"},
		{"canRemoveParticipant: nobody removes the hub", "alice/1", bodies(delist(5)), "authorized_role_changes"},
		{"canRemoveParticipant: an ordinary user does not lift a ban", "bob/1", bodies(delist(4)), "authorized_role_changes"},

		{"canRemoveSelf: the leaving user cannot commit it", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{delist(1), w.remove("bob/2")}
		}, "clients of a removed participant"},
		{"canKick", "cathy/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("bob/1")} }, ""},
		{"canKick: without it", "bob/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("cathy/1")} }, "canKick"},
		{"canRemoveOwnClient", "bob/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("bob/2")} }, ""},

		{"canBan: with all clients", "cathy/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{setRole(1, 1), w.remove("bob/1"), w.remove("bob/2")}
		}, ""},
		{"canBan: some clients stay", "cathy/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{setRole(1, 1), w.remove("bob/1")}
		}, "clients of a removed participant"},
		{"canBan: authorized_role_changes has the user's role", "cathy/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{setRole(0, 1), w.remove("alice/1")}
		}, "authorized_role_changes"},
		{"canBan: without it", "bob/1", bodies(setRole(3, 1)), "canBan"},
		{"canUnban", "cathy/1", bodies(setRole(4, 2)), ""},
		{"canUnban: without it", "bob/1", bodies(setRole(4, 2)), "canUnBan"},
		{"canUnban: not to a higher role than authorized", "cathy/1", bodies(setRole(4, 4)), "authorized_role_changes"},

		{"canChangeUserRole", "cathy/1", bodies(setRole(1, 3)), ""},
		{"canChangeUserRole: without it", "bob/1", bodies(setRole(3, 3)), "canChangeUserRole"},
		{"canChangeUserRole: authorized_role_changes has the target role", "cathy/1", bodies(setRole(1, 4)), "authorized_role_changes"},
		{"canChangeUserRole: authorized_role_changes has the user's role", "cathy/1", bodies(setRole(0, 2)), "authorized_role_changes"},
		{"canChangeUserRole: not into the hub's role", "alice/1", bodies(setRole(1, 5)), "authorized_role_changes"},
		{"canChangeUserRole: to the same role", "alice/1", bodies(setRole(1, 2)), "participant_list"},
		{"canChangeOwnRole: not by canChangeUserRole", "cathy/1", bodies(setRole(2, 2)), "canChangeOwnRole"},
		{"canChangeOwnRole: an ordinary user makes themselves admin", "bob/1", bodies(setRole(1, 4)), "canChangeOwnRole"},

		{"roles_list: canChangeRoleDefinitions", "alice/1", bodies(update(ComponentRolesList, cooperativeRoles().Marshal())), "canChangeRoleDefinitions"},
		{"roles_list: remove", "alice/1", bodies(drop(ComponentRolesList)), "roles_list"},
		{"base_room_policy: canChangeRoomMembershipStyle", "alice/1",
			bodies(update(ComponentBaseRoomPolicy, (&BaseRoomPolicy{MultiDevice: true}).Marshal())), ""},
		{"base_room_policy: without it", "cathy/1",
			bodies(update(ComponentBaseRoomPolicy, (&BaseRoomPolicy{MultiDevice: true}).Marshal())), "canChangeRoomMembershipStyle"},
		{"base_room_policy: fixed membership while roles have canAddParticipant", "alice/1",
			bodies(update(ComponentBaseRoomPolicy, (&BaseRoomPolicy{FixedMembership: true, MultiDevice: true}).Marshal())), "roles_list"},
		{"preauth_list: canChangePreauthorizedUserList", "alice/1",
			bodies(update(ComponentPreAuthList, PreAuthData{}.Marshal())), ""},
		{"preauth_list: without it", "cathy/1",
			bodies(update(ComponentPreAuthList, PreAuthData{}.Marshal())), "canChangePreauthorizedUserList"},
		{"preauth_list: not with an addition", "alice/1",
			bodies(update(ComponentPreAuthList, PreAuthData{}.Marshal()), enlist(dave, 2)), "preauth_list"},
		{"preauth_list: with a removal", "alice/1",
			bodies(update(ComponentPreAuthList, PreAuthData{}.Marshal()), delist(3)), ""},
		{"another policy component by the highest role", "alice/1",
			bodies(update(ComponentMessageExpiration, MessageExpiration{Expiring: Forbidden}.Marshal())), ""},
		{"another policy component by a lower role", "cathy/1",
			bodies(update(ComponentMessageExpiration, MessageExpiration{Expiring: Forbidden}.Marshal())), "canChangeOtherPolicyAttribute"},
		{"app_components by an ordinary user", "bob/1",
			bodies(update(mls.ComponentAppComponents, []byte{0})), "canChangeOtherPolicyAttribute"},
		{"mls_operational_policy", "alice/1",
			bodies(update(ComponentOperational, new(OperationalParameters).Marshal())), "canChangeMlsOperationalPolicies"},
		{"franking_agent: by the highest role where there is none", "alice/1", bodies(update(ComponentFrankingAgent, agent())), ""},
		{"franking_agent: by a lower role", "cathy/1", bodies(update(ComponentFrankingAgent, agent())), "canChangeOtherPolicyAttribute"},
		{"adds: a client of a user whose role has none", "alice/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{w.add("hubert/1")}
		}, "maximum_active_participants_constraint"},
		{"join_links: canCreateJoinCode", "alice/1",
			bodies(update(ComponentJoinLinks, JoinLinksUpdate{Added: [][]byte{[]byte("x")}}.Marshal())), "canCreateJoinCode"},

		{"room_metadata: canChangeRoomName", "bob/1", bodies(metadata(func(m *RoomMetadata) { m.Name = "New" })), ""},
		{"room_metadata: canChangeRoomDescription", "cathy/1",
			bodies(metadata(func(m *RoomMetadata) { m.Descriptions = []RichDescription{{Content: []byte("d")}} })), ""},
		{"room_metadata: without canChangeRoomDescription", "bob/1",
			bodies(metadata(func(m *RoomMetadata) { m.Descriptions = []RichDescription{{Content: []byte("d")}} })), "canChangeRoomDescription"},
		{"room_metadata: an ordinary user's fields", "bob/1",
			bodies(metadata(func(m *RoomMetadata) { m.Avatar, m.Subject, m.Mood = "https://a.example/i", "s", "m" })), ""},
		{"room_metadata: the URI stays", "alice/1",
			bodies(metadata(func(m *RoomMetadata) { m.Room = mimiuri.MustParse("mimi://a.example/r/other") })), "room_metadata"},
		{"room_metadata: remove", "alice/1", bodies(drop(ComponentRoomMetadata)), "room_metadata"},

		{"GroupContextExtensions", "alice/1", func(w *world) []mls.ProposalBody {
			e := w.hub.GroupContext().Extensions.Without(mls.ExtensionExternalSenders)
			return []mls.ProposalBody{&mls.GroupContextExtensions{Extensions: e}}
		}, "GroupContextExtensions"},
		{"ReInit: canSendMLSReinitProposal", "alice/1", bodies(
			&mls.ReInit{GroupID: []byte("x"), Version: mls.MLS10, CipherSuite: suite}), "canSendMLSReinitProposal"},
		{"AppEphemeral: app_ack", "bob/1", bodies(&mls.AppEphemeral{ComponentID: mls.ComponentAppAck}), ""},
		{"AppEphemeral: of a component not known", "alice/1", bodies(&mls.AppEphemeral{ComponentID: 0x8000}), "AppEphemeral"},
	})
}

var frank2 = mimiuri.MustParse("mimi://d.example/u/frank")

func TestCommitFromAnotherProvider(t *testing.T) {
	w := newWorld(t, setup{})
	c := w.commit("bob/1", enlist(dave, 2))
	expect(t, w.state.CheckCommit(c, "a.example", w.hub.Members(), 0), "From")
	expect(t, w.state.CheckCommit(c, "b.example", w.hub.Members(), 0), "")
}

// A leaf keeps its user and client whatever the new leaf node says. MLS itself leaves that to the application.
func TestClientBecomesAnother(t *testing.T) {
	leaf := func(w *world, client string) mls.LeafOptions {
		return mls.LeafOptions{Credential: w.credential(client), Signature: w.key()}
	}
	for _, c := range []struct{ name, client, want string }{
		{"the same client with a new key", "bob/1", ""},
		{"another user", "alice/9", "credential"},
		{"another client of the user", "bob/9", "credential"},
	} {
		t.Run("path: "+c.name, func(t *testing.T) {
			w := newWorld(t, setup{})
			opts := leaf(w, c.client)
			out, err := w.group.Commit(w.leaf("bob/1"), mls.CommitOptions{Leaf: &opts})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, w.check(w.inspect(out.Message), "bob/1"), c.want)
		})
		t.Run("Update: "+c.name, func(t *testing.T) {
			w := newWorld(t, setup{})
			m, _, err := w.group.ProposeUpdate(w.leaf("bob/1"), leaf(w, c.client), nil)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, w.state.CheckProposals(w.received(m), "b.example", w.hub.Members()), c.want)
			expect(t, w.check(w.commit("cathy/1"), "cathy/1"), c.want)
		})
	}
}

func TestMemberWithoutAPlace(t *testing.T) {
	for _, c := range []struct {
		name    string
		list    ParticipantList
		clients []string
		want    string
	}{
		{"all are participants", nil, nil, ""},
		{"not listed", ParticipantList{{alice, 4}, {hub, 5}}, []string{"alice/1", "bob/1"}, "participant_list"},
		{"banned", ParticipantList{{alice, 4}, {bob, 1}, {hub, 5}}, []string{"alice/1", "bob/1"}, "clients of a removed participant"},
		{"a role without clients", ParticipantList{{alice, 4}, {bob, 5}, {hub, 5}}, []string{"alice/1", "bob/1"}, "clients of a removed participant"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, setup{list: c.list, clients: c.clients})
			expect(t, w.state.CheckMembers(w.hub.Members()), c.want)
		})
	}
}

// Leaving is a bundle of standalone proposals that somebody else commits (draft-ietf-mimi-protocol section
// "Bob Leaves the Room").
func TestLeave(t *testing.T) {
	leave := func(w *world) []mls.PendingProposal {
		return w.propose("bob/1", &mls.SelfRemove{}, w.remove("bob/2"), delist(1))
	}
	t.Run("canRemoveSelf: the bundle, committed by another", func(t *testing.T) {
		for _, by := range []string{"alice/1", "cathy/1"} {
			w := newWorld(t, setup{})
			ps := leave(w)
			expect(t, w.state.CheckProposals(ps, "b.example", w.hub.Members()), "")
			w.state = w.state.WithPending(w.hub.Proposals(), w.hub.Members())
			expect(t, w.check(w.commit(by), by), "")
		}
	})
	t.Run("the committer adds what they like of their own", func(t *testing.T) {
		w := newWorld(t, setup{})
		leave(w)
		w.state = w.state.WithPending(w.hub.Proposals(), w.hub.Members())
		expect(t, w.check(w.commit("alice/1", enlist(dave, 2), w.add("dave/1")), "alice/1"), "")
	})
	t.Run("nobody is judged for what others propose", func(t *testing.T) {
		// alice may ban, and cathy promote; frank commits both, who may neither.
		w := newWorld(t, setup{clients: append([]string{"frank/1"}, usualClients...)})
		w.propose("alice/1", setRole(2, 2))
		w.propose("cathy/1", setRole(1, 3))
		expect(t, w.check(w.commit("frank/1"), "frank/1"), "")
	})
	t.Run("who proposes is judged though another commits", func(t *testing.T) {
		w := newWorld(t, setup{})
		w.propose("bob/1", setRole(3, 3))
		expect(t, w.check(w.commit("alice/1"), "alice/1"), "canChangeUserRole")
	})
	t.Run("canRemoveSelf: a client would stay", func(t *testing.T) {
		w := newWorld(t, setup{})
		ps := w.propose("bob/1", &mls.SelfRemove{}, delist(1))
		expect(t, w.state.CheckProposals(ps, "b.example", w.hub.Members()), "clients of a removed participant")
	})
	t.Run("canRemoveSelf: only the list", func(t *testing.T) {
		w := newWorld(t, setup{})
		ps := w.propose("bob/1", delist(1))
		expect(t, w.state.CheckProposals(ps, "b.example", w.hub.Members()), "clients of a removed participant")
	})
	t.Run("canRemoveSelf: not in the role", func(t *testing.T) {
		w := newWorld(t, setup{change: editRoles(func(r RoleData) {
			r[2].Capabilities = without(r[2].Capabilities, CanRemoveSelf)
		})})
		expect(t, w.state.CheckProposals(leave(w), "b.example", w.hub.Members()), "canRemoveSelf")
	})
	t.Run("canRemoveSelf: not in authorized_role_changes", func(t *testing.T) {
		w := newWorld(t, setup{change: editRoles(func(r RoleData) { r[2].Changes = []RoleChanges{to(0, 2)} })})
		expect(t, w.state.CheckProposals(leave(w), "b.example", w.hub.Members()), "authorized_role_changes")
	})
	t.Run("the last super_admin may leave", func(t *testing.T) {
		w := newWorld(t, setup{})
		ps := w.propose("alice/1", &mls.SelfRemove{}, delist(0))
		expect(t, w.state.CheckProposals(ps, "a.example", w.hub.Members()), "")
	})
	t.Run("minimum_participants_constraint: the last group_admin may not", func(t *testing.T) {
		w := newWorld(t, setup{})
		ps := w.propose("cathy/1", &mls.SelfRemove{}, delist(2))
		expect(t, w.state.CheckProposals(ps, "c.example", w.hub.Members()), "minimum_participants_constraint")
	})
}

func without(caps []Capability, c Capability) []Capability {
	var out []Capability
	for _, x := range caps {
		if x != c {
			out = append(out, x)
		}
	}
	return out
}

// Standalone proposals.
func TestProposals(t *testing.T) {
	for _, c := range []struct {
		name string
		by   string
		do   func(w *world) []mls.ProposalBody
		from string
		want string
	}{
		{"a user and their client are added", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{enlist(dave, 2), w.add("dave/1")}
		}, "b.example", ""},
		{"From: another provider", "bob/1", bodies(enlist(dave, 2)), "a.example", "From"},
		{"canAddParticipant: another role", "bob/1", bodies(enlist(dave, 4)), "b.example", "authorized_role_changes"},
		{"a client without its participant", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{w.add("dave/1")}
		}, "b.example", "participant_list"},
		{"SelfRemove of a client", "bob/1", bodies(&mls.SelfRemove{}), "b.example", ""},
		{"kick without the right", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{w.remove("alice/1")}
		}, "b.example", "canKick"},
		{"a removal that leaves clients behind", "cathy/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{delist(1), w.remove("bob/1")}
		}, "c.example", "clients of a removed participant"},
		{"once per user", "cathy/1", bodies(setRole(3, 3), delist(3)), "c.example", "participant_list: once per user"},
		{"once per user: added twice", "cathy/1", bodies(enlist(dave, 2), enlist(dave, 3)), "c.example", "participant_list: once per user"},
		{"an index nobody has", "cathy/1", bodies(delist(17)), "c.example", "participant_list"},
		{"a listed user is added", "alice/1", bodies(enlist(bob, 4)), "a.example", "participant_list"},
		{"a participant list that cannot be parsed", "alice/1", bodies(update(ComponentParticipantList, []byte{1})), "a.example", "participant_list"},
		{"two updates of the metadata", "bob/1", bodies(metadata(func(m *RoomMetadata) { m.Name = "1" }),
			metadata(func(m *RoomMetadata) { m.Name = "2" })), "b.example", "room_metadata"},
		{"metadata that cannot be parsed", "bob/1", bodies(update(ComponentRoomMetadata, []byte{1})), "b.example", "room_metadata"},
		{"a component not known", "alice/1", bodies(update(0x8000, []byte{1})), "a.example", "AppDataUpdate"},
		{"join links that cannot be parsed", "alice/1", bodies(update(ComponentJoinLinks, []byte{1})), "a.example", "join_links"},
		{"PSK", "alice/1", bodies(&mls.PreSharedKey{PSK: mls.PreSharedKeyID{Type: mls.PSKExternal, ID: []byte("x")}}),
			"a.example", "canSendMLSPSKProposal"},
		{"roles with participants", "alice/1", bodies(update(ComponentRolesList, cooperativeRoles().Marshal()), enlist(dave, 2)),
			"a.example", "roles_list"},
		{"ReInit beside others", "alice/1", bodies(&mls.ReInit{GroupID: []byte("x"), Version: mls.MLS10, CipherSuite: suite},
			enlist(dave, 2)), "a.example", "ReInit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, setup{})
			ps := w.propose(c.by, c.do(w)...)
			expect(t, w.state.CheckProposals(ps, c.from, w.hub.Members()), c.want)
		})
	}
}

// What is pending already counts: with a bundle that cannot be committed together with it nobody could commit.
func TestProposalsBesideOthers(t *testing.T) {
	for _, c := range []struct {
		name   string
		first  func(w *world) []mls.PendingProposal
		second func(w *world) []mls.PendingProposal
		from   string
		want   string
	}{
		{"two users are added",
			func(w *world) []mls.PendingProposal { return w.propose("alice/1", enlist(dave, 2)) },
			func(w *world) []mls.PendingProposal { return w.propose("bob/1", enlist(frank2, 2)) }, "b.example", ""},
		{"the same user is added",
			func(w *world) []mls.PendingProposal { return w.propose("alice/1", enlist(dave, 2)) },
			func(w *world) []mls.PendingProposal { return w.propose("bob/1", enlist(dave, 2)) },
			"b.example", "participant_list: once per user"},
		{"a client of a user whose addition is pending",
			func(w *world) []mls.PendingProposal { return w.propose("bob/1", enlist(dave, 2)) },
			func(w *world) []mls.PendingProposal { return w.propose("bob/1", w.add("dave/1")) }, "b.example", ""},
		{"the same client twice",
			func(w *world) []mls.PendingProposal { return w.propose("bob/1", w.add("bob/3")) },
			func(w *world) []mls.PendingProposal { return w.propose("bob/2", w.add("bob/3")) }, "b.example", "client"},
		{"a user who is leaving is removed",
			func(w *world) []mls.PendingProposal {
				return w.propose("bob/1", &mls.SelfRemove{}, w.remove("bob/2"), delist(1))
			},
			func(w *world) []mls.PendingProposal { return w.propose("cathy/1", delist(1)) },
			"c.example", "participant_list: once per user"},
		{"a client that is being removed is removed",
			func(w *world) []mls.PendingProposal { return w.propose("bob/1", w.remove("bob/2")) },
			func(w *world) []mls.PendingProposal { return w.propose("cathy/1", w.remove("bob/2")) }, "c.example", "Remove"},
		{"a client that is being removed removes itself",
			func(w *world) []mls.PendingProposal { return w.propose("cathy/1", w.remove("bob/1")) },
			func(w *world) []mls.PendingProposal { return w.propose("bob/1", &mls.SelfRemove{}) }, "b.example", ""},
		{"the roles change while a participant is added",
			func(w *world) []mls.PendingProposal { return w.propose("bob/1", enlist(dave, 2)) },
			func(w *world) []mls.PendingProposal {
				return w.proposeOutside(0, update(ComponentRolesList, cooperativeRoles().Marshal()))
			}, "a.example", "roles_list"},
		{"a new client of a user who is being removed",
			func(w *world) []mls.PendingProposal {
				return w.propose("cathy/1", delist(1), w.remove("bob/1"), w.remove("bob/2"))
			},
			func(w *world) []mls.PendingProposal { return w.propose("alice/1", w.add("bob/3")) }, "a.example", "participant_list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, setup{})
			c.first(w)
			s := w.state.WithPending(w.hub.Proposals(), w.hub.Members())
			expect(t, s.CheckProposals(c.second(w), c.from, w.hub.Members()), c.want)
		})
	}
}

// draft-ietf-mimi-protocol section "Update Room State": from a removed or banned participant nothing but Remove and
// SelfRemove of its clients is taken any more.
func TestRemovedParticipant(t *testing.T) {
	for _, how := range []struct {
		name string
		body mls.ProposalBody
	}{{"removed", delist(1)}, {"banned", setRole(1, 1)}} {
		t.Run(how.name, func(t *testing.T) {
			w := newWorld(t, setup{})
			// Not the clients yet: only so is there something left that bob can do.
			w.propose("cathy/1", how.body)
			s := w.state.WithPending(w.hub.Proposals(), w.hub.Members())
			if !s.Leaving(bob) || s.Leaving(cathy) || w.state.Leaving(bob) {
				t.Fatal("who is leaving is not who was removed")
			}
			expect(t, s.CheckSend(bob), "removed participant")
			expect(t, s.CheckSend(cathy), "")
			expect(t, s.CheckGroupInfo(bob), "removed participant")
			expect(t, s.CheckKeyMaterial(bob, dave), "removed participant")

			rename := metadata(func(m *RoomMetadata) { m.Name = "mine" })
			expect(t, s.CheckProposals(w.propose("bob/1", rename), "b.example", w.hub.Members()), "removed participant")
			ps := w.propose("bob/1", w.remove("cathy/1"))
			expect(t, s.CheckProposals(ps, "b.example", w.hub.Members()), "removed participant")
			ps = w.propose("bob/1", &mls.SelfRemove{}, w.remove("bob/2"))
			expect(t, s.CheckProposals(ps, "b.example", w.hub.Members()), "")

			w = newWorld(t, setup{})
			w.propose("cathy/1", how.body)
			w.state = w.state.WithPending(w.hub.Proposals(), w.hub.Members())
			expect(t, w.check(w.commit("bob/1"), "bob/1"), "removed participant")
			expect(t, w.check(w.joinAs("bob/3", ""), "bob/3"), "removed participant")
			expect(t, w.check(w.commit("alice/1", w.remove("bob/1"), w.remove("bob/2")), "alice/1"), "")
		})
	}
	t.Run("a client that is being removed does not commit", func(t *testing.T) {
		w := newWorld(t, setup{})
		c := w.commit("bob/1") // made before, and so without the removal
		w.propose("bob/2", w.remove("bob/1"))
		w.state = w.state.WithPending(w.hub.Proposals(), w.hub.Members())
		expect(t, w.check(c, "bob/1"), "removed participant")
		expect(t, w.check(w.commit("bob/2"), "bob/2"), "")
	})
}

func TestExternalCommits(t *testing.T) {
	open := editRoles(func(r RoleData) {
		r[0].Capabilities = []Capability{CanOpenJoin}
		r[0].Changes = []RoleChanges{to(0, 2)}
	})
	preauth := func(d *mls.AppDataDictionary) {
		editRoles(func(r RoleData) { r[2].Capabilities = with(r[2].Capabilities, CanJoinIfPreauthorized) })(d)
		d.Set(ComponentPreAuthList, PreAuthData{
			{Claims: []Claim{{ClaimID{2, []byte("oid")}, []byte("v")}}, Role: Role{Index: 4}},
			{Role: Role{Index: 2}},
		}.Marshal())
	}
	for _, c := range []struct {
		name   string
		change func(*mls.AppDataDictionary)
		client string
		resync string
		bodies []mls.ProposalBody
		from   string
		want   string
	}{
		{"canAddOwnClient: a participant's new client", nil, "bob/3", "", nil, "b.example", ""},
		{"canAddOwnClient: the first client of a participant", nil, "frank/1", "", nil, "f.example", ""},
		{"canAddOwnClient: without it", editRoles(func(r RoleData) { r[2].Capabilities = without(r[2].Capabilities, CanAddOwnClient) }),
			"bob/3", "", nil, "b.example", "canAddOwnClient"},
		{"From: another provider", nil, "bob/3", "", nil, "a.example", "From"},
		{"a client is in the group once", nil, "bob/1", "", nil, "b.example", "client"},
		{"a user who is not listed", nil, "dave/1", "", nil, "d.example", "participant_list"},
		{"a user who is not listed adds themselves", nil, "dave/1", "", []mls.ProposalBody{enlist(dave, 2)}, "d.example", "canOpenJoin"},
		{"a banned user", nil, "eve/1", "", nil, "e.example", "banned"},
		{"a banned user lifts the ban", nil, "eve/1", "", []mls.ProposalBody{setRole(4, 2)}, "e.example", "banned"},
		{"canOpenJoin", open, "dave/1", "", []mls.ProposalBody{enlist(dave, 2)}, "d.example", ""},
		{"canOpenJoin: another role", open, "dave/1", "", []mls.ProposalBody{enlist(dave, 4)}, "d.example", "canOpenJoin"},
		{"canOpenJoin: without joining the list", open, "dave/1", "", nil, "d.example", "participant_list"},
		{"canOpenJoin: a friend beside", open, "dave/1", "",
			[]mls.ProposalBody{enlist(dave, 2), enlist(frank2, 2)}, "d.example", "canAddParticipant"},
		{"canOpenJoin: for somebody else", open, "dave/1", "", []mls.ProposalBody{enlist(frank2, 2)}, "d.example", "participant_list"},
		{"canOpenJoin: and removes somebody", open, "dave/1", "",
			[]mls.ProposalBody{enlist(dave, 2), delist(3)}, "d.example", "canRemoveParticipant"},
		{"canOpenJoin: a banned user", open, "eve/1", "", nil, "e.example", "banned"},
		{"canJoinIfPreauthorized", preauth, "dave/1", "", []mls.ProposalBody{enlist(dave, 2)}, "d.example", ""},
		{"canJoinIfPreauthorized: a role that only claims give", preauth, "dave/1", "",
			[]mls.ProposalBody{enlist(dave, 4)}, "d.example", "canOpenJoin"},
		{"canJoinIfPreauthorized: a banned user", preauth, "eve/1", "", nil, "e.example", "banned"},
		{"resync: the same client", nil, "bob/1", "bob/1", nil, "b.example", ""},
		{"resync: the same client, needs no canAddOwnClient", editRoles(func(r RoleData) { r[2].Capabilities = nil }),
			"bob/1", "bob/1", nil, "b.example", ""},
		{"resync: another client of the user", nil, "bob/3", "bob/1", nil, "b.example", ""},
		{"resync: another client of the user, without canRemoveOwnClient",
			editRoles(func(r RoleData) { r[2].Capabilities = without(r[2].Capabilities, CanRemoveOwnClient) }),
			"bob/3", "bob/1", nil, "b.example", "canRemoveOwnClient"},
		{"resync: a client of another user", nil, "bob/3", "alice/1", nil, "b.example", "resync"},
		{"resync: a client of another user, by an admin", nil, "cathy/2", "bob/1", nil, "c.example", "resync"},
		{"a participant brings another", nil, "bob/3", "", []mls.ProposalBody{enlist(dave, 2)}, "b.example", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, setup{change: c.change})
			staged := w.joinAs(c.client, c.resync, c.bodies...)
			expect(t, w.state.CheckCommit(staged, c.from, w.hub.Members(), 0), c.want)
		})
	}
	t.Run("canOpenJoin: authorized_role_changes is not enough", func(t *testing.T) {
		w := newWorld(t, setup{dict: Strict})
		expect(t, w.check(w.joinAs("dave/1", "", enlist(dave, 2)), "dave/1"), "canOpenJoin")
	})
	t.Run("SelfRemoves that stand alone", func(t *testing.T) {
		for _, c := range []struct {
			name string
			gone []Capability // which an ordinary user has not
			list bool         // bob is taken off the list, but the external commit cannot say so
			want string
		}{
			{"canRemoveOwnClient", []Capability{CanRemoveSelf}, false, ""},
			{"canRemoveSelf", []Capability{CanRemoveOwnClient}, false, ""},
			{"neither", []Capability{CanRemoveOwnClient, CanRemoveSelf}, false, "canRemoveOwnClient"},
			{"neither, of a removed participant", []Capability{CanRemoveOwnClient, CanRemoveSelf}, true, ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				w := newWorld(t, setup{change: editRoles(func(r RoleData) {
					for _, x := range c.gone {
						r[2].Capabilities = without(r[2].Capabilities, x)
					}
				})})
				if c.list {
					w.propose("cathy/1", delist(1))
				}
				w.propose("bob/1", &mls.SelfRemove{})
				w.state = w.state.WithPending(w.hub.Proposals(), w.hub.Members())
				expect(t, w.check(w.joinAs("frank/1", ""), "frank/1"), c.want)
			})
		}
	})
	t.Run("only SelfRemoves are carried", func(t *testing.T) {
		w := newWorld(t, setup{})
		w.propose("bob/1", &mls.SelfRemove{}, w.remove("bob/2"), delist(1))
		w.state = w.state.WithPending(w.hub.Proposals(), w.hub.Members())
		c := w.joinAs("frank/1", "")
		if len(c.Unreferenced) != 2 {
			t.Fatalf("%d proposals are left out", len(c.Unreferenced))
		}
		expect(t, w.check(c, "frank/1"), "")
	})
}

// A client asks by itself to be added (RFC 9420 section 12.1.8, sender new_member_proposal).
func TestNewMemberProposals(t *testing.T) {
	for _, c := range []struct {
		name, client, from, want string
	}{
		{"canAddOwnClient", "bob/3", "b.example", ""},
		{"From", "bob/3", "a.example", "From"},
		{"not listed", "dave/1", "d.example", "participant_list"},
		{"banned", "eve/1", "e.example", "removed participant"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, setup{})
			j := w.keyPackage(c.client)
			m, err := mls.SignNewMemberProposal(w.cfg, w.hub.GroupContext(), j.Secrets.Signature, j.KeyPackage, nil)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, w.state.CheckProposals(w.received(m), c.from, w.hub.Members()), c.want)
		})
	}
}

// The hub as external sender.
func TestHubProposals(t *testing.T) {
	for _, c := range []struct {
		name  string
		index uint32
		do    func(w *world) []mls.ProposalBody
		from  string
		want  string
	}{
		{"removes a user and their clients", 0, func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{delist(1), w.remove("bob/1"), w.remove("bob/2")}
		}, "a.example", ""},
		{"removes a client", 0, func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("alice/1")} }, "a.example", ""},
		{"bans", 0, func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{setRole(1, 1), w.remove("bob/1"), w.remove("bob/2")}
		}, "a.example", ""},
		{"bans a user who is not listed", 0, bodies(enlist(dave, 1)), "a.example", ""},
		{"removes no hub", 0, bodies(delist(5)), "a.example", "canRemoveSelf"},
		{"sets a franking agent where there is none", 0, bodies(update(ComponentFrankingAgent, agent())), "a.example", ""},
		{"changes the extensions of the group", 0, func(w *world) []mls.ProposalBody {
			e := w.hub.GroupContext().Extensions
			return []mls.ProposalBody{&mls.GroupContextExtensions{Extensions: e}}
		}, "a.example", ""},
		{"does not restore a banned user", 0, bodies(setRole(4, 2)), "a.example", "authorized_role_changes"},
		{"takes a banned user off the list", 0, bodies(delist(4)), "a.example", ""},
		{"adds nobody", 0, bodies(enlist(dave, 2)), "a.example", "canAddParticipant"},
		{"adds no client", 0, func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("bob/3")} }, "a.example", "canAddParticipant"},
		{"does not rename the room", 0, bodies(metadata(func(m *RoomMetadata) { m.Name = "mine" })), "a.example", "canChangeRoomName"},
		{"redefines the roles", 0, bodies(update(ComponentRolesList, cooperativeRoles().Marshal())), "a.example", ""},
		{"redefines the roles so that one in use is gone", 0,
			bodies(update(ComponentRolesList, cooperativeRoles()[:4].Marshal())), "a.example", "role_index"},
		{"redefines the roles with canOpenJoin for participants", 0,
			bodies(update(ComponentRolesList, roleData(cooperativeRoles(), func(r RoleData) { r[2].Capabilities = []Capability{CanOpenJoin} }))),
			"a.example", "roles_list"},
		{"redefines the roles so that members lose their clients", 0,
			bodies(update(ComponentRolesList, roleData(cooperativeRoles(), func(r RoleData) { r[2].MaxActive = u32(0) }))),
			"a.example", "clients of a removed participant"},
		{"sent by a follower", 0, bodies(delist(1)), "b.example", "external_senders"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, setup{})
			ps := w.proposeOutside(c.index, c.do(w)...)
			expect(t, w.state.CheckProposals(ps, c.from, w.hub.Members()), c.want)
			if c.from == "a.example" {
				expect(t, w.check(w.commit("cathy/1"), "cathy/1"), c.want)
			}
		})
	}
	t.Run("canChangeMlsOperationalPolicies: the hub changes the extensions of the group", func(t *testing.T) {
		w := newWorld(t, setup{change: editRoles(func(r RoleData) {
			r[5].Capabilities = without(r[5].Capabilities, CanChangeMLSOperationalPolicies)
		})})
		ps := w.proposeOutside(0, &mls.GroupContextExtensions{Extensions: w.hub.GroupContext().Extensions})
		expect(t, w.state.CheckProposals(ps, "a.example", w.hub.Members()), "canChangeMlsOperationalPolicies")
	})
	t.Run("the hub is another sender by its index", func(t *testing.T) {
		w := newWorld(t, setup{})
		w.propose("bob/1", enlist(dave, 2))
		expect(t, w.state.CheckCommit(w.commit("cathy/1"), "c.example", w.hub.Members(), 1), "")
		w.proposeOutside(0, delist(3))
		expect(t, w.state.CheckCommit(w.commit("cathy/1"), "c.example", w.hub.Members(), 1), "external_senders")
	})
	t.Run("another external sender", func(t *testing.T) {
		w := newWorld(t, setup{})
		w.proposeOutside(1, delist(3))
		expect(t, w.check(w.commit("cathy/1"), "cathy/1"), "external_senders")
	})
	t.Run("a hub that is not listed may still clean up", func(t *testing.T) {
		w := newWorld(t, setup{list: usualList()[:5]})
		ps := w.proposeOutside(0, delist(1), w.remove("bob/1"), w.remove("bob/2"))
		expect(t, w.state.CheckProposals(ps, "a.example", w.hub.Members()), "")
		expect(t, w.check(w.commit("cathy/1"), "cathy/1"), "")
		w = newWorld(t, setup{list: usualList()[:5]})
		ps = w.proposeOutside(0, setRole(1, 3))
		expect(t, w.state.CheckProposals(ps, "a.example", w.hub.Members()), "canChangeUserRole")
	})
}

// Constraints of roles and of the base policy.
func TestNumbers(t *testing.T) {
	role := func(i int, f func(r *Role)) setup {
		return setup{change: editRoles(func(d RoleData) { f(&d[i]) })}
	}
	kickBob := func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("bob/1"), w.remove("bob/2")} }
	addDave := func(w *world) []mls.ProposalBody { return []mls.ProposalBody{enlist(dave, 2), w.add("dave/1")} }
	for _, c := range []struct {
		name     string
		s        setup
		attempts []attempt
	}{
		{"maximum_participants_constraint", role(2, func(r *Role) { r.MaxParticipants = u32(2) }), []attempt{
			{"an addition over it", "alice/1", bodies(enlist(dave, 2)), "maximum_participants_constraint"},
			{"a change over it", "alice/1", bodies(setRole(2, 2)), "maximum_participants_constraint"},
			{"one leaves, another comes", "alice/1", bodies(delist(3), enlist(dave, 2)), ""},
			{"an addition with another role", "alice/1", bodies(enlist(dave, 3)), ""},
		}},
		{"maximum_participants_constraint passed already", role(2, func(r *Role) { r.MaxParticipants = u32(1) }), []attempt{
			{"the rest of the room goes on", "alice/1", bodies(metadata(func(m *RoomMetadata) { m.Name = "x" })), ""},
			{"fewer are allowed", "alice/1", bodies(delist(3)), ""},
		}},
		{"minimum_participants_constraint", role(2, func(r *Role) { r.MinParticipants = 2 }), []attempt{
			{"a removal below it", "alice/1", bodies(delist(3)), "minimum_participants_constraint"},
			{"a change below it", "alice/1", bodies(setRole(3, 3)), "minimum_participants_constraint"},
			{"an addition", "alice/1", bodies(enlist(dave, 2)), ""},
		}},
		{"maximum_active_participants_constraint", role(2, func(r *Role) { r.MaxActive = u32(1) }), []attempt{
			{"another one becomes active", "alice/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("frank/1")} }, "maximum_active_participants_constraint"},
			{"another one is added with a client", "alice/1", addDave, "maximum_active_participants_constraint"},
			{"another one is added without", "alice/1", bodies(enlist(dave, 2)), ""},
			{"passed already, the rest of the room goes on", "alice/1", bodies(metadata(func(m *RoomMetadata) { m.Name = "x" })), ""},
			{"another client of who is active", "bob/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("bob/3")} }, ""},
		}},
		{"minimum_active_participants_constraint", role(2, func(r *Role) { r.MinActive = 1 }), []attempt{
			{"the last active one is kicked", "alice/1", kickBob, "minimum_active_participants_constraint"},
			{"one of two clients goes", "alice/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("bob/1")} }, ""},
		}},
		{"maximum_participants_constraint not reached", role(2, func(r *Role) { r.MaxParticipants = u32(3) }), []attempt{
			{"an addition up to it", "alice/1", bodies(enlist(dave, 2)), ""},
		}},
		{"maximum_active_participants_constraint not reached", role(2, func(r *Role) { r.MaxActive = u32(2) }), []attempt{
			{"another one up to it", "alice/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("frank/1")} }, ""},
		}},
		{"maximum_active_participants_constraint passed already", setup{
			change:  editRoles(func(d RoleData) { d[2].MaxActive = u32(1) }),
			clients: append([]string{"frank/1"}, usualClients...),
		}, []attempt{
			{"the rest of the room goes on", "alice/1", bodies(metadata(func(m *RoomMetadata) { m.Name = "x" })), ""},
		}},
		{"minimum_active_participants_constraint missed already", role(2, func(r *Role) { r.MinActive = 2 }), []attempt{
			{"the rest of the room goes on", "alice/1", bodies(metadata(func(m *RoomMetadata) { m.Name = "x" })), ""},
		}},
		{"max_users passed already", setup{change: editBase(func(p *BaseRoomPolicy) { p.MaxUsers = u32(2) })}, []attempt{
			{"the rest of the room goes on", "alice/1", bodies(delist(3)), ""},
		}},
		{"max_users", setup{change: editBase(func(p *BaseRoomPolicy) { p.MaxUsers = u32(5) })}, []attempt{
			{"one more", "alice/1", bodies(enlist(dave, 2)), "max_users"},
			{"the banned do not count", "alice/1", bodies(enlist(dave, 1)), ""},
			{"a ban is lifted", "alice/1", bodies(setRole(4, 2)), "max_users"},
		}},
		{"max_clients", setup{change: editBase(func(p *BaseRoomPolicy) { p.MaxClients = u32(4) })}, []attempt{
			{"one more", "bob/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("bob/3")} }, "max_clients"},
			{"one for another", "bob/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("bob/2"), w.add("bob/3")} }, ""},
		}},
		{"multi_device false", setup{change: editBase(func(p *BaseRoomPolicy) { p.MultiDevice = false })}, []attempt{
			{"a second client", "cathy/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("cathy/2")} }, "multi_device"},
			{"a first client", "alice/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("frank/1")} }, ""},
			{"two clients at once", "alice/1", func(w *world) []mls.ProposalBody {
				return []mls.ProposalBody{w.add("frank/1"), w.add("frank/2")}
			}, "multi_device"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) { run(t, c.s, c.attempts) })
	}
}

// The banned role is role 1 if it is named "banned".
func TestBannedRole(t *testing.T) {
	renamed := editRoles(func(r RoleData) {
		r[1].Name = "outcast"
		r[3].Capabilities = without(r[3].Capabilities, CanChangeUserRole)
	})
	neither := editRoles(func(r RoleData) { r[3].Capabilities = []Capability{CanKick, CanSendMessage} })
	run(t, setup{change: neither}, []attempt{
		{"canBan: not by authorized_role_changes alone", "cathy/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{setRole(1, 1), w.remove("bob/1"), w.remove("bob/2")}
		}, "canBan"},
		{"canUnban: not by authorized_role_changes alone", "cathy/1", bodies(setRole(4, 2)), "canUnBan"},
		{"canBan: of a user who is not listed, not by authorized_role_changes alone", "cathy/1", bodies(enlist(dave, 1)), "canAddParticipant"},
		{"canAddParticipant: not by authorized_role_changes alone", "cathy/1", bodies(enlist(dave, 2)), "canAddParticipant"},
		{"canRemoveParticipant: not by authorized_role_changes alone", "cathy/1", bodies(delist(3)), "canRemoveParticipant"},
	})
	canBanOnly := editRoles(func(r RoleData) { r[3].Capabilities = []Capability{CanBan} })
	run(t, setup{change: canBanOnly}, []attempt{
		{"canBan adds nobody who is not banned", "cathy/1", bodies(enlist(dave, 2)), "canAddParticipant"},
		{"canBan lifts no ban", "cathy/1", bodies(setRole(4, 2)), "canUnBan"},
	})
	banOnly := editRoles(func(r RoleData) { r[3].Capabilities = without(r[3].Capabilities, CanChangeUserRole) })
	kicked := func(w *world) []mls.ProposalBody {
		return []mls.ProposalBody{setRole(1, 1), w.remove("bob/1"), w.remove("bob/2")}
	}
	run(t, setup{change: banOnly}, []attempt{
		{"canBan without canChangeUserRole", "cathy/1", kicked, ""},
		{"canUnban without canChangeUserRole", "cathy/1", bodies(setRole(4, 2)), ""},
		{"canBan is not canChangeUserRole", "cathy/1", bodies(setRole(1, 3)), "canChangeUserRole"},
	})
	run(t, setup{change: renamed}, []attempt{
		{"canBan while role 1 has another name", "cathy/1", kicked, "canChangeUserRole"},
		{"canUnban while role 1 has another name", "cathy/1", bodies(setRole(4, 2)), "canChangeUserRole"},
	})
}

func TestSend(t *testing.T) {
	w := newWorld(t, setup{})
	for _, c := range []struct {
		user mimiuri.URI
		want string
	}{{alice, ""}, {bob, ""}, {frank, ""}, {dave, "participant_list"}, {eve, "banned"}, {hub, "participant_list"}} {
		t.Run(c.user.String(), func(t *testing.T) { expect(t, w.state.CheckSend(c.user), c.want) })
	}
	t.Run("canSendMessage", func(t *testing.T) {
		w := newWorld(t, setup{change: editRoles(func(r RoleData) { r[2].Capabilities = without(r[2].Capabilities, CanSendMessage) })})
		expect(t, w.state.CheckSend(bob), "canSendMessage")
		expect(t, w.state.CheckSend(cathy), "")
	})
	if !w.state.Active(bob, w.hub.Members()) || w.state.Active(frank, w.hub.Members()) || w.state.Active(dave, w.hub.Members()) {
		t.Error("who is active is not who has clients")
	}
	odd := []mls.Member{{Leaf: 0, Node: &mls.LeafNode{Credential: mls.BasicCredential([]byte("mimi://B.example/d/%62ob/1"))}}}
	if !w.state.Active(bob, odd) || w.state.Active(frank, odd) {
		t.Error("a client in another spelling is not the user's")
	}
}

func TestGroupInfoAndKeyMaterial(t *testing.T) {
	open := editRoles(func(r RoleData) { r[0].Capabilities = []Capability{CanOpenJoin} })
	preauth := func(d *mls.AppDataDictionary) {
		d.Set(ComponentPreAuthList, PreAuthData{{Role: Role{Index: 2}}}.Marshal())
	}
	preauthJoin := func(d *mls.AppDataDictionary) {
		preauth(d)
	}
	preauthOnly := func(d *mls.AppDataDictionary) {
		preauth(d)
		editRoles(func(r RoleData) { r[2].Capabilities = []Capability{CanSendMessage} })(d)
	}
	for _, c := range []struct {
		name   string
		change func(*mls.AppDataDictionary)
		user   mimiuri.URI
		want   string
	}{
		{"a participant", nil, bob, ""},
		{"a participant without clients", nil, frank, ""},
		{"a stranger", nil, dave, "participant_list"},
		{"a stranger where all may join", open, dave, ""},
		{"a banned user", nil, eve, "banned"},
		{"a banned user where all may join", open, eve, "banned"},
		{"a stranger who is preauthorized", preauthJoin, dave, ""},
		{"a stranger who is preauthorized for a role that does not let them join", preauthOnly, dave, "participant_list"},
		{"a participant whose role has no clients", nil, hubert, "maximum_active_participants_constraint"},
		{"the hub", nil, hub, "participant_list"},
	} {
		t.Run("group info: "+c.name, func(t *testing.T) {
			expect(t, newWorld(t, setup{change: c.change}).state.CheckGroupInfo(c.user), c.want)
		})
	}
	s := newWorld(t, setup{}).state
	strict := newWorld(t, setup{dict: Strict}).state
	moderated := newWorld(t, setup{dict: Moderated}).state
	for _, c := range []struct {
		name              string
		s                 *State
		requester, target mimiuri.URI
		want              string
	}{
		{"of a stranger", s, bob, dave, ""},
		{"of one's own", s, bob, bob, ""},
		{"of a participant", s, bob, frank, ""},
		{"of a banned user", s, alice, eve, "banned"},
		{"by a stranger", s, dave, bob, "participant_list"},
		{"by a stranger of their own", s, dave, dave, "participant_list"},
		{"by a banned user", s, eve, dave, "banned"},
		{"without canAddParticipant", strict, bob, dave, "canAddParticipant"},
		{"of one's own without canAddParticipant", strict, bob, bob, ""},
		{"of a participant without canAddParticipant", strict, bob, frank, "canAddParticipant"},
		{"of one's own without canAddOwnClient", moderated, bob, bob, "canAddOwnClient"},
	} {
		t.Run("key material "+c.name, func(t *testing.T) { expect(t, c.s.CheckKeyMaterial(c.requester, c.target), c.want) })
	}
}

func TestStrictCommits(t *testing.T) {
	more := func(d *mls.AppDataDictionary) {
		d.Set(ComponentJoinLinks, JoinLinks{[]byte("link")}.Marshal())
		d.Set(ComponentFrankingAgent, agent())
	}
	run(t, setup{dict: Strict, change: more}, []attempt{
		{"canAddParticipant: an ordinary user has it not", "bob/1", bodies(enlist(dave, 2)), "canAddParticipant"},
		{"canAddParticipant: an ordinary user adds no client of another", "bob/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{w.add("frank/1")}
		}, "canAddParticipant"},
		{"canAddParticipant: an admin", "cathy/1", func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{enlist(dave, 2), w.add("dave/1")}
		}, ""},
		{"canRemoveParticipant: an ordinary user has it not", "bob/1", bodies(delist(3)), "canRemoveParticipant"},
		{"canAddOwnClient", "bob/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("bob/3")} }, ""},
		{"canChangeRoomName: an ordinary user has it not", "bob/1", bodies(metadata(func(m *RoomMetadata) { m.Name = "x" })), "canChangeRoomName"},
		{"canChangeRoomName: an admin", "cathy/1", bodies(metadata(func(m *RoomMetadata) { m.Name = "x" })), ""},
		{"canChangeRoleDefinitions: the super_admin", "alice/1", bodies(update(ComponentRolesList, strictRoles().Marshal())), ""},
		{"canChangeRoleDefinitions: an admin has it not", "cathy/1", bodies(update(ComponentRolesList, strictRoles().Marshal())), "canChangeRoleDefinitions"},
		{"roles_list: not with a change of the participants", "alice/1",
			bodies(update(ComponentRolesList, strictRoles().Marshal()), enlist(dave, 2)), "roles_list"},
		{"roles_list: not with a removal either", "alice/1",
			bodies(update(ComponentRolesList, strictRoles().Marshal()), delist(3)), "roles_list"},
		{"canSendMLSReinitProposal", "alice/1", bodies(&mls.ReInit{GroupID: []byte("x"), Version: mls.MLS10, CipherSuite: suite}), ""},
		{"canCreateJoinCode", "cathy/1", bodies(update(ComponentJoinLinks, JoinLinksUpdate{Added: [][]byte{[]byte("x")}}.Marshal())), ""},
		{"canDeleteJoinCode", "cathy/1", bodies(update(ComponentJoinLinks, JoinLinksUpdate{Removed: []uint32{0}}.Marshal())), ""},
		{"canDeleteJoinCode: an ordinary user has it not", "bob/1",
			bodies(update(ComponentJoinLinks, JoinLinksUpdate{Removed: []uint32{0}}.Marshal())), "canDeleteJoinCode"},
		{"canDeleteJoinCode: all of them", "cathy/1", bodies(drop(ComponentJoinLinks)), ""},
		{"canDeleteJoinCode: all of them, an ordinary user has it not", "bob/1", bodies(drop(ComponentJoinLinks)), "canDeleteJoinCode"},
		{"franking_agent: there is one", "alice/1", bodies(update(ComponentFrankingAgent, agent())), "franking_agent"},
		{"franking_agent: remove", "alice/1", bodies(drop(ComponentFrankingAgent)), "franking_agent"},
		{"canChangeOwnRole: not preauthorized", "bob/1", bodies(setRole(1, 3)), "canChangeOwnRole"},
	})
	run(t, setup{dict: Strict, change: func(d *mls.AppDataDictionary) {
		d.Set(ComponentPreAuthList, PreAuthData{{Role: Role{Index: 3}}}.Marshal())
	}}, []attempt{
		{"canChangeOwnRole: preauthorized", "bob/1", bodies(setRole(1, 3)), ""},
		{"canChangeOwnRole: preauthorized for another role", "bob/1", bodies(setRole(1, 4)), "canChangeOwnRole"},
	})
}

func TestModeratedCommits(t *testing.T) {
	list := ParticipantList{{alice, 6}, {bob, 2}, {cathy, 5}, {frank, 4}, {eve, 1}, {hub, 7}}
	s := setup{dict: Moderated, list: list, clients: append([]string{"frank/1"}, usualClients...)}
	run(t, s, []attempt{
		{"canAddOwnClient: a guest has it not", "bob/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("bob/3")} }, "canAddOwnClient"},
		{"canRemoveOwnClient: a guest has it not", "bob/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("bob/2")} }, "canRemoveOwnClient"},
		{"canChangeUserRole: a moderator makes a guest a speaker", "cathy/1", bodies(setRole(1, 4)), ""},
		{"canChangeUserRole: a moderator makes nobody super_admin", "cathy/1", bodies(setRole(1, 6)), "authorized_role_changes"},
		{"canAddParticipant: a speaker has it not", "frank/1", bodies(enlist(dave, 4)), "canAddParticipant"},
	})
	t.Run("canRemoveSelf: a guest leaves", func(t *testing.T) {
		w := newWorld(t, s)
		ps := w.propose("bob/1", &mls.SelfRemove{}, w.remove("bob/2"), delist(1))
		expect(t, w.state.CheckProposals(ps, "b.example", w.hub.Members()), "")
		expect(t, w.check(w.commit("cathy/1"), "cathy/1"), "")
	})
	t.Run("canRemoveOwnClient: a guest removes a client only", func(t *testing.T) {
		w := newWorld(t, s)
		ps := w.propose("bob/1", &mls.SelfRemove{})
		expect(t, w.state.CheckProposals(ps, "b.example", w.hub.Members()), "canRemoveOwnClient")
	})
	w := newWorld(t, s)
	expect(t, w.state.CheckSend(bob), "canSendMessage")
	expect(t, w.state.CheckSend(frank), "")
}

// A direct message has fixed membership (draft-ietf-mimi-room-policy section "Base Room policy component syntax").
func TestDirectMessageCommits(t *testing.T) {
	direct := func(o RoomOptions) (mls.AppDataDictionary, error) { return DirectMessage(o, bob) }
	s := setup{dict: direct, list: ParticipantList{{alice, 2}, {bob, 2}, {hub, 5}}, clients: []string{"alice/1", "bob/1"}}
	run(t, s, []attempt{
		{"nobody is added", "alice/1", bodies(enlist(dave, 2)), "fixed_membership"},
		{"nobody is removed", "alice/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{delist(1), w.remove("bob/1")} }, "fixed_membership"},
		{"nobody is kicked", "alice/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("bob/1")} }, "canKick"},
		{"nobody is banned", "alice/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{setRole(1, 1), w.remove("bob/1")} }, "canBan"},
		{"clients of existing participants are added", "alice/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("bob/2")} }, ""},
		{"and no others", "alice/1", func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("dave/1")} }, "participant_list"},
		{"the name changes", "bob/1", bodies(metadata(func(m *RoomMetadata) { m.Name = "us" })), ""},
	})
	t.Run("a user cannot leave", func(t *testing.T) {
		w := newWorld(t, s)
		ps := w.propose("bob/1", &mls.SelfRemove{}, delist(1))
		expect(t, w.state.CheckProposals(ps, "b.example", w.hub.Members()), "fixed_membership")
	})
	t.Run("a user can remove all clients", func(t *testing.T) {
		w := newWorld(t, s)
		ps := w.propose("bob/1", &mls.SelfRemove{})
		expect(t, w.state.CheckProposals(ps, "b.example", w.hub.Members()), "")
	})
	t.Run("the hub removes nobody but may ban", func(t *testing.T) {
		w := newWorld(t, s)
		ps := w.proposeOutside(0, delist(1), w.remove("bob/1"))
		expect(t, w.state.CheckProposals(ps, "a.example", w.hub.Members()), "fixed_membership")
		w = newWorld(t, s)
		ps = w.proposeOutside(0, setRole(1, 1), w.remove("bob/1"))
		expect(t, w.state.CheckProposals(ps, "a.example", w.hub.Members()), "")
	})
	state := newWorld(t, s).state
	expect(t, state.CheckKeyMaterial(alice, bob), "")
	dumb := newWorld(t, setup{dict: direct, list: s.list, clients: s.clients, change: editRoles(func(r RoleData) { r[2].Capabilities = nil })}).state
	expect(t, dumb.CheckKeyMaterial(alice, bob), "canAddParticipant")
	expect(t, state.CheckKeyMaterial(alice, alice), "")
	expect(t, state.CheckKeyMaterial(alice, dave), "fixed_membership")
}

// State of the dictionary changes by AppDataUpdate alone, even where MLS lets GroupContextExtensions change it.
func TestDictionaryOtherwise(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(d *mls.AppDataDictionary)
		want   string
	}{
		{"nothing", func(d *mls.AppDataDictionary) {}, ""},
		{"the participant list", func(d *mls.AppDataDictionary) {
			d.Set(ComponentParticipantList, append(usualList(), Participant{dave, 4}).Marshal())
		}, "participant_list"},
		{"the roles", editRoles(func(r RoleData) { r[2].Capabilities = r[4].Capabilities }), "app_data_dictionary"},
		{"a component more", func(d *mls.AppDataDictionary) { d.Set(0x8000, []byte{1}) }, "app_data_dictionary"},
		{"a component less", func(d *mls.AppDataDictionary) { d.Delete(ComponentBaseRoomPolicy) }, "app_data_dictionary"},
		{"no room any more", func(d *mls.AppDataDictionary) { d.Delete(ComponentRolesList) }, "app_data_dictionary"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, setup{loose: true})
			d := w.hub.AppData()
			c.change(&d)
			w.proposeOutside(0, &mls.GroupContextExtensions{Extensions: w.hub.GroupContext().Extensions.WithAppData(d)})
			expect(t, w.check(w.commit("alice/1"), "alice/1"), c.want)
		})
	}
}

// What MLS does not let through is refused here, too.
func TestProposalsMLSRefuses(t *testing.T) {
	w := newWorld(t, setup{})
	bob1 := mls.Sender{Type: mls.SenderMember, Leaf: w.leaf("bob/1")}
	for _, c := range []struct {
		name   string
		sender mls.Sender
		body   mls.ProposalBody
		from   string
		want   string
	}{
		{"from no member", mls.Sender{Type: mls.SenderMember, Leaf: 77}, &mls.SelfRemove{}, "b.example", "sender"},
		{"from a committer", mls.Sender{Type: mls.SenderNewMemberCommit}, &mls.SelfRemove{}, "b.example", "sender"},
		{"a new member's Remove", mls.Sender{Type: mls.SenderNewMemberProposal}, &mls.Remove{}, "b.example", "sender"},
		{"a new member of no name", mls.Sender{Type: mls.SenderNewMemberProposal}, &mls.Add{}, "b.example", "credential"},
		{"ExternalInit of a member", bob1, &mls.ExternalInit{}, "b.example", "ExternalInit"},
		{"Remove of nobody", bob1, &mls.Remove{Removed: 77}, "b.example", "Remove"},
		{"a type not known", bob1, unknownProposal{}, "b.example", "proposal type"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ps := []mls.PendingProposal{{Proposal: mls.Proposal{Body: c.body}, Sender: c.sender}}
			expect(t, w.state.CheckProposals(ps, c.from, w.hub.Members()), c.want)
		})
	}
	t.Run("a commit by an external sender", func(t *testing.T) {
		c := *w.commit("bob/1")
		c.Sender = mls.Sender{Type: mls.SenderExternal}
		expect(t, w.check(&c, "alice/1"), "sender")
		c.Sender = mls.Sender{Type: mls.SenderMember, Leaf: 77}
		expect(t, w.check(&c, "alice/1"), "sender")
	})
	t.Run("a leaf whose credential names nobody", func(t *testing.T) {
		bad := []mls.Member{{Leaf: 0, Node: &mls.LeafNode{Credential: mls.BasicCredential([]byte("bob"))}}}
		expect(t, w.state.CheckMembers(bad), "credential")
		expect(t, w.state.CheckProposals(nil, "b.example", bad), "credential")
		expect(t, w.state.CheckCommit(w.commit("bob/1"), "b.example", bad, 0), "credential")
	})
}

type unknownProposal struct{ *mls.SelfRemove }

func (unknownProposal) ProposalType() mls.ProposalType { return 0xf000 }

// A member who is not listed, which no rule lets happen, cannot make themselves a participant.
func TestStrayMember(t *testing.T) {
	s := setup{list: ParticipantList{{alice, 4}, {hub, 5}}, clients: []string{"alice/1", "bob/1"}, change: editRoles(func(r RoleData) {
		r[0].Capabilities = []Capability{CanOpenJoin}
		r[0].Changes = []RoleChanges{to(0, 2)}
	})}
	w := newWorld(t, s)
	ps := w.propose("bob/1", enlist(bob, 2))
	expect(t, w.state.CheckProposals(ps, "b.example", w.hub.Members()), "canOpenJoin")
	w = newWorld(t, s)
	expect(t, w.check(w.commit("bob/1", enlist(bob, 2)), "bob/1"), "participant_list")
	expect(t, w.check(w.commit("alice/1", w.remove("bob/1")), "alice/1"), "")
}

// WithPending takes whatever a hub holds, also what it has not judged.
func TestWithPending(t *testing.T) {
	w := newWorld(t, setup{})
	w.propose("cathy/1",
		delist(99), setRole(99, 1), // nobody
		setRole(1, 3), // another role is no ban
		update(ComponentMessageExpiration, ParticipantListUpdate{Removed: []uint32{2}}.Marshal()),
		update(ComponentParticipantList, []byte{0xff}),
		delist(3))
	s := w.state.WithPending(w.hub.Proposals(), w.hub.Members())
	for user, want := range map[mimiuri.URI]bool{alice: false, bob: false, cathy: false, frank: true} {
		if s.Leaving(user) != want {
			t.Errorf("%v leaving is %v", user, !want)
		}
	}
	if s = s.WithPending(nil, w.hub.Members()); s.Leaving(frank) {
		t.Error("what was pending before still counts")
	}
}

// FuzzCheckProposals holds that no update of a component, whoever sends it, breaks the judge, and that what it allows
// can be applied.
func FuzzCheckProposals(f *testing.F) {
	dict, err := Strict(RoomOptions{Room: room, Creator: alice, Name: "Club"})
	if err != nil {
		f.Fatal(err)
	}
	dict.Set(ComponentParticipantList, usualList().Marshal())
	state, err := ParseState(dict)
	if err != nil {
		f.Fatal(err)
	}
	users := []mimiuri.URI{alice, bob, cathy}
	var members []mls.Member
	for i, u := range users {
		node := &mls.LeafNode{Credential: mls.BasicCredential([]byte(ClientURI(u, "1").String()))}
		members = append(members, mls.Member{Leaf: mls.LeafIndex(i), Node: node})
	}
	for _, c := range codecs() {
		if c.id != 0 {
			f.Add(uint8(0), uint16(c.id), c.enc(c.value), []byte{})
		}
	}
	f.Add(uint8(2), uint16(ComponentParticipantList), ParticipantListUpdate{Removed: []uint32{3}}.Marshal(),
		ParticipantListUpdate{Changed: []RoleChange{{4, 2}}, Added: []Participant{{dave, 2}}}.Marshal())
	f.Add(uint8(0), uint16(ComponentRolesList), strictRoles().Marshal(), []byte{})
	f.Fuzz(func(t *testing.T, who uint8, id uint16, u1, u2 []byte) {
		sender := mls.Sender{Type: mls.SenderMember, Leaf: mls.LeafIndex(int(who) % len(users))}
		var ps []mls.PendingProposal
		var octets [][]byte
		for _, u := range [][]byte{u1, u2} {
			if len(u) > 0 {
				ps = append(ps, mls.PendingProposal{Proposal: mls.Proposal{Body: update(mls.ComponentID(id), u)}, Sender: sender})
				octets = append(octets, u)
			}
		}
		err := state.CheckProposals(ps, users[sender.Leaf].Domain, members)
		var d *Denied
		if err != nil && !errors.As(err, &d) {
			t.Fatalf("%v is no *Denied", err)
		}
		now := state.WithPending(ps, members)
		_ = now.CheckSend(bob)
		if err != nil || len(ps) == 0 {
			return
		}
		old, _ := dict.Get(mls.ComponentID(id))
		data, err := ApplyAppData(mls.ComponentID(id), old, octets)
		if err != nil {
			t.Fatalf("allowed, but cannot be applied: %v", err)
		}
		after := dict.Clone()
		after.Set(mls.ComponentID(id), data)
		if _, err := ParseState(after); err != nil {
			t.Fatalf("allowed, but the room would be unreadable: %v", err)
		}
	})
}
