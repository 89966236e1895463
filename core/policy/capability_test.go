package policy

import (
	"slices"
	"testing"

	"github.com/mimibridge/mimibridge/core/mls"
)

// Why a hub does not enforce a capability.
const (
	inCiphertext = "it is about what a message says, which the hub sees as ciphertext; clients show, hide and refuse"
	inClients    = "it is about what a client does with what it has received"
	inAssets     = "an asset is ciphertext at the provider of who uploads it, and its media type is in the message; clients refuse (TestAssetPolicy)"
	noCalls      = "MIMI has no calls yet"
	reserved     = "reserved, without a meaning in the draft"
)

// enforced is what somebody may do by a capability. The ordinary users of the room have it and those of with, and no other;
// then it must work, and must not without it. rule is what stands against it then, if not the capability.
type enforced struct {
	with   []Capability
	change func(d *mls.AppDataDictionary)
	do     func(w *world) error
	rule   string
	role   uint32 // that has the capability, if not the ordinary one
}

// commits is a commit by bob.
func commits(do func(w *world) []mls.ProposalBody) func(w *world) error {
	return func(w *world) error { return w.check(w.commit("bob/1", do(w)...), "bob/1") }
}

// proposes is a bundle of bob's proposals.
func proposes(do func(w *world) []mls.ProposalBody) func(w *world) error {
	return func(w *world) error {
		return w.state.CheckProposals(w.propose("bob/1", do(w)...), "b.example", w.hub.Members())
	}
}

func preauthorized(role uint32) func(d *mls.AppDataDictionary) {
	return func(d *mls.AppDataDictionary) {
		d.Set(ComponentPreAuthList, PreAuthData{{Role: Role{Index: role}}}.Marshal())
	}
}

func capabilities() (map[Capability]enforced, map[Capability]string) {
	one := func(b mls.ProposalBody) func(*world) error { return commits(bodies(b)) }
	yes := map[Capability]enforced{
		CanAddParticipant: {do: commits(func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{enlist(dave, 2), w.add("dave/1")}
		})},
		CanRemoveParticipant: {do: commits(func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{delist(2), w.remove("cathy/1")}
		})},
		CanAddOwnClient:    {do: commits(func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("bob/3")} })},
		CanRemoveOwnClient: {do: commits(func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("bob/2")} })},
		CanOpenJoin: {role: RoleNone, do: func(w *world) error {
			return w.check(w.joinAs("dave/1", "", enlist(dave, 2)), "dave/1")
		}},
		CanJoinIfPreauthorized: {change: preauthorized(2), rule: "canOpenJoin", do: func(w *world) error {
			return w.check(w.joinAs("dave/1", "", enlist(dave, 2)), "dave/1")
		}},
		CanRemoveSelf: {do: proposes(func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{&mls.SelfRemove{}, w.remove("bob/2"), delist(1)}
		})},
		CanCreateJoinCode: {do: one(update(ComponentJoinLinks, JoinLinksUpdate{Added: [][]byte{[]byte("x")}}.Marshal()))},
		CanDeleteJoinCode: {
			change: func(d *mls.AppDataDictionary) { d.Set(ComponentJoinLinks, JoinLinks{[]byte("x")}.Marshal()) },
			do:     one(update(ComponentJoinLinks, JoinLinksUpdate{Removed: []uint32{0}}.Marshal()))},
		CanBan: {do: commits(func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{setRole(2, 1), w.remove("cathy/1")}
		})},
		CanUnban:          {do: one(setRole(4, 2))},
		CanKick:           {do: commits(func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("cathy/1")} })},
		CanChangeUserRole: {do: one(setRole(3, 3))},
		CanChangeOwnRole:  {change: preauthorized(3), do: one(setRole(1, 3))},

		CanSendMessage: {do: func(w *world) error { return w.state.CheckSend(bob) }},
		CanReceiveMessage: {do: func(w *world) error {
			if !w.state.MayReceive(bob) {
				return deny("canReceiveMessage", "nothing goes to them")
			}
			return nil
		}},

		CanChangeRoomName: {do: one(metadata(func(m *RoomMetadata) { m.Name = "x" }))},
		CanChangeRoomDescription: {do: one(metadata(func(m *RoomMetadata) {
			m.Descriptions = []RichDescription{{Content: []byte("x")}}
		}))},
		CanChangeRoomAvatar:  {do: one(metadata(func(m *RoomMetadata) { m.Avatar = "https://a.example/x" }))},
		CanChangeRoomSubject: {do: one(metadata(func(m *RoomMetadata) { m.Subject = "x" }))},
		CanChangeRoomMood:    {do: one(metadata(func(m *RoomMetadata) { m.Mood = "x" }))},

		CanDestroyRoom: {rule: "canChangeRoomMembershipStyle", do: commits(func(w *world) []mls.ProposalBody {
			var out []mls.ProposalBody
			for _, c := range w.state.DestroyChanges(bob) {
				out = append(out, c.Proposal().Body)
			}
			return append(out, w.remove("alice/1"), w.remove("cathy/1"))
		})},
		CanChangeRoomMembershipStyle: {do: one(update(ComponentBaseRoomPolicy, (&BaseRoomPolicy{MultiDevice: true, Discoverable: true}).Marshal()))},
		CanChangeRoleDefinitions:     {do: one(update(ComponentRolesList, cooperativeRoles().Marshal()))},
		CanChangePreauthorizedUserList: {
			do: one(update(ComponentPreAuthList, PreAuthData{}.Marshal()))},
		CanChangeOtherPolicyAttribute: {
			do: one(update(ComponentMessageExpiration, MessageExpiration{Expiring: Forbidden}.Marshal()))},
		CanChangeMLSOperationalPolicies: {
			do: one(update(ComponentOperational, new(OperationalParameters).Marshal()))},
		CanSendMLSReInitProposal: {
			do: one(&mls.ReInit{GroupID: []byte("x"), Version: mls.MLS10, CipherSuite: suite})},
		CanSendMLSPSKProposal: {
			do: proposes(bodies(&mls.PreSharedKey{PSK: mls.PreSharedKeyID{Type: mls.PSKExternal, ID: []byte("x")}}))},
	}
	no := map[Capability]string{
		CanUseJoinCode:    "joining by a code is not implemented: nobody comes in by one, whatever their role",
		CanKnock:          reserved,
		CanAcceptKnock:    reserved,
		CanCreateSubgroup: reserved,

		CanReportAbuse: "a report may be anonymous, and is taken from whoever was there and has a frank that verifies, put out or not",

		CanCopyMessage: inClients, CanFollowLink: inClients, CanCopyLink: inClients,
		CanReplyToMessage: inCiphertext, CanReactToMessage: inCiphertext, CanEditReaction: inCiphertext,
		CanDeleteOwnReaction: inCiphertext, CanDeleteOtherReaction: inCiphertext, CanEditOwnMessage: inCiphertext,
		CanDeleteOwnMessage: inCiphertext, CanDeleteOtherMessage: inCiphertext, CanStartTopic: inCiphertext,
		CanReplyInTopic: inCiphertext, CanEditOwnTopic: inCiphertext, CanEditOtherTopic: inCiphertext,
		CanSendLink: inCiphertext, CanSendLinkPreview: inCiphertext,
		CanSendDirectMessage: reserved, CanTargetMessage: reserved,

		CanUploadImage: inAssets, CanUploadAudio: inAssets, CanUploadVideo: inAssets, CanUploadAttachment: inAssets,
		CanDownloadImage: inAssets, CanDownloadAudio: inAssets, CanDownloadVideo: inAssets, CanDownloadAttachment: inAssets,

		CanChangeOwnName: reserved, CanChangeOwnPresence: reserved, CanChangeOwnMood: reserved, CanChangeOwnAvatar: reserved,

		CanStartCall: noCalls, CanJoinCall: noCalls, CanSendAudio: noCalls, CanReceiveAudio: noCalls, CanSendVideo: noCalls,
		CanReceiveVideo: noCalls, CanShareScreen: noCalls, CanViewSharedScreen: noCalls,

		CanCreateRoom:            "rooms are made at their own provider, which decides by its own limits before there are roles",
		CanSendMLSUpdateProposal: "reserved; a client changes its keys when it wants to, or the group would not heal",
		CanSendMLSExternalProposal: "reserved; but for a client that asks to be added, only the hub sends proposals from outside, " +
			"and for both each proposal is held against the capability it needs",
		CanSendMLSExternalCommit: "reserved; who comes in by an external commit needs canAddOwnClient, canOpenJoin or canJoinIfPreauthorized",
	}
	return yes, no
}

// TestCapabilities: every registered capability is enforced, or there is a reason why it is not.
func TestCapabilities(t *testing.T) {
	yes, no := capabilities()
	for c, name := range capabilityNames {
		e, ok := yes[c]
		_, not := no[c]
		if ok == not {
			t.Errorf("%s is in one of the tables, and has to be in exactly one", name)
		}
		if !ok {
			continue
		}
		role := RoleOrdinaryUser
		if c == CanOpenJoin {
			role = e.role
		}
		room := func(caps ...Capability) *world {
			return newWorld(t, setup{change: func(d *mls.AppDataDictionary) {
				editRoles(func(r RoleData) {
					r[2].Capabilities, r[role].Capabilities = nil, caps
					r[role].Changes = []RoleChanges{to(0, 1, 2, 3), to(1, 0, 2), to(2, 0, 1, 3), to(3, 0, 1, 2), to(4, 0, 1)}
					for i := range r {
						r[i].MinParticipants = 0
					}
				})(d)
				if e.change != nil {
					e.change(d)
				}
			}})
		}
		t.Run(name, func(t *testing.T) { expect(t, e.do(room(append(slices.Clone(e.with), c)...)), "") })
		t.Run("without "+name, func(t *testing.T) {
			rule := e.rule
			if rule == "" {
				rule = name
			}
			expect(t, e.do(room(e.with...)), rule)
			// Nor does another capability do, unless it says more than this one.
			all := slices.Collect(func(yield func(Capability) bool) {
				for x := range capabilityNames {
					if x != c && !implies(x, c) && !yield(x) {
						return
					}
				}
			})
			if role != RoleNone {
				if err := e.do(room(without(all, CanOpenJoin)...)); err == nil {
					t.Error("all other capabilities together are enough")
				}
			}
		})
	}
}

// implies reports whether x gives the right that c gives, too.
func implies(x, c Capability) bool {
	switch c {
	case CanBan, CanUnban:
		return x == CanChangeUserRole
	case CanChangeOtherPolicyAttribute:
		return x == CanChangeRoomMembershipStyle
	case CanDestroyRoom: // step by step
		return x == CanChangeRoomMembershipStyle
	}
	return false
}

// TestAdversary: what somebody tries who is in the room, or was, by the kind of attempt.
func TestAdversary(t *testing.T) {
	none := func(w *world) {}
	for _, x := range []struct {
		kind, name string
		setup      setup
		before     func(w *world)
		do         func(w *world) error
		want       string
	}{
		{"wrong role", "an ordinary user bans", setup{}, none, commits(bodies(setRole(3, 1))), "canBan"},
		{"wrong role", "an ordinary user destroys the room", setup{}, none, commits(bodies(update(ComponentBaseRoomPolicy, (&BaseRoomPolicy{MultiDevice: true}).Marshal()))), "canChangeRoomMembershipStyle"},
		{"wrong role", "a group_admin destroys the room", setup{}, none, func(w *world) error {
			var b []mls.ProposalBody
			for _, c := range w.state.DestroyChanges(cathy) {
				b = append(b, c.Proposal().Body)
			}
			return w.check(w.commit("cathy/1", append(b, w.remove("alice/1"), w.remove("bob/1"), w.remove("bob/2"))...), "cathy/1")
		}, "canChangeRoomMembershipStyle"},
		{"wrong role", "a super_admin removes an admin as if the room were destroyed, but keeps a friend", setup{}, none, func(w *world) error {
			base := *w.state.Base
			base.PersistentRoom = false
			return w.check(w.commit("alice/1", update(ComponentBaseRoomPolicy, base.Marshal()), delist(2), w.remove("cathy/1")), "alice/1")
		}, "minimum_participants_constraint"},
		{"wrong role", "destroying the room in passing changes more of its policy", setup{change: editRoles(func(r RoleData) { r[2].Capabilities = []Capability{CanDestroyRoom} })}, none, func(w *world) error {
			base := *w.state.Base
			base.PersistentRoom, base.Discoverable = false, true
			return w.check(w.commit("bob/1", update(ComponentBaseRoomPolicy, base.Marshal()), delist(0, 2, 3), w.remove("alice/1"), w.remove("cathy/1")), "bob/1")
		}, "canChangeRoomMembershipStyle"},

		{"wrong target", "the hub is removed", setup{}, none, func(w *world) error { return w.check(w.commit("alice/1", delist(5)), "alice/1") }, "authorized_role_changes"},
		{"wrong target", "a group_admin bans a super_admin", setup{}, none, func(w *world) error {
			return w.check(w.commit("cathy/1", setRole(0, 1), w.remove("alice/1")), "cathy/1")
		}, "authorized_role_changes"},
		{"wrong target", "an Add of one user's client beside another's name", setup{}, none, commits(func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{enlist(frank2, 2), w.add("dave/1")}
		}), "participant_list"},

		{"index games", "one user twice in one update", setup{}, none, func(w *world) error {
			return checkList(w, "alice/1", ParticipantListUpdate{Changed: []RoleChange{{1, 3}}, Removed: []uint32{1}})
		}, "participant_list: once per user"},
		{"index games", "one user in two updates", setup{}, none, func(w *world) error {
			return checkList(w, "alice/1", ParticipantListUpdate{Changed: []RoleChange{{1, 3}}}, ParticipantListUpdate{Changed: []RoleChange{{1, 2}}})
		}, "participant_list: once per user"},
		{"index games", "an index beyond the list", setup{}, none, func(w *world) error {
			return checkList(w, "alice/1", ParticipantListUpdate{Removed: []uint32{99}})
		}, "participant_list"},
		{"index games", "removed and added again with another role", setup{}, none, func(w *world) error {
			return checkList(w, "alice/1", ParticipantListUpdate{Removed: []uint32{1}}, ParticipantListUpdate{Added: []Participant{{bob, 4}}})
		}, "participant_list: once per user"},
		{"index games", "an index that a removal in the same commit would have moved", setup{}, none, func(w *world) error {
			return w.check(w.commit("cathy/1", delist(3), setRole(0, 2)), "cathy/1") // 0 is alice still
		}, "authorized_role_changes"},

		{"roles and participants together", "a role that has just been made", setup{dict: Strict}, none, func(w *world) error {
			return w.check(w.commit("alice/1", update(ComponentRolesList, roleData(strictRoles(), func(r RoleData) { r[2].Capabilities = r[4].Capabilities })), setRole(3, 3)), "alice/1")
		}, "roles_list"},
		{"roles and participants together", "preauthorized for what is given in the same commit", setup{}, none, func(w *world) error {
			return w.check(w.commit("alice/1", update(ComponentPreAuthList, PreAuthData{{Role: Role{Index: 4}}}.Marshal()), setRole(3, 3)), "alice/1")
		}, "preauth_list"},

		{"a banned user", "comes back by an external commit", setup{change: opened}, none, func(w *world) error { return w.check(w.joinAs("eve/1", ""), "eve/1") }, "banned"},
		{"a banned user", "lifts the ban while coming back", setup{change: opened}, none, func(w *world) error { return w.check(w.joinAs("eve/1", "", setRole(4, 2)), "eve/1") }, "banned"},
		{"a banned user", "is brought by a friend", setup{}, none, commits(func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("eve/1")} }), "banned"},
		{"a banned user", "whose ban is pending comes in with another client", setup{change: opened}, func(w *world) {
			w.propose("cathy/1", setRole(1, 1), w.remove("bob/1"), w.remove("bob/2"))
		}, func(w *world) error { return w.check(w.joinAs("bob/3", ""), "bob/3") }, "removed participant"},

		{"a removed user", "sends a message", setup{}, removed, func(w *world) error { return w.state.CheckSend(bob) }, "removed participant"},
		{"a removed user", "proposes something else", setup{}, removed, proposes(bodies(metadata(func(m *RoomMetadata) { m.Name = "mine" }))), "removed participant"},
		{"a removed user", "removes somebody in revenge", setup{}, removed, proposes(func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.remove("cathy/1")} }), "removed participant"},
		{"a removed user", "may still take out their own clients", setup{}, removed, proposes(func(w *world) []mls.ProposalBody {
			return []mls.ProposalBody{&mls.SelfRemove{}, w.remove("bob/2")}
		}), ""},

		{"another provider's user", "a commit", setup{}, none, func(w *world) error {
			return w.state.CheckCommit(w.commit("bob/1"), "a.example", w.hub.Members(), 0)
		}, "From"},
		{"another provider's user", "proposals", setup{}, none, func(w *world) error {
			return w.state.CheckProposals(w.propose("bob/1", metadata(func(m *RoomMetadata) { m.Name = "x" })), "a.example", w.hub.Members())
		}, "From"},
		{"another provider's user", "an external commit", setup{}, none, func(w *world) error {
			return w.state.CheckCommit(w.joinAs("bob/3", ""), "a.example", w.hub.Members(), 0)
		}, "From"},

		{"numbers", "the last group_admin is removed", setup{}, none, func(w *world) error {
			return w.check(w.commit("alice/1", delist(2), w.remove("cathy/1")), "alice/1")
		}, "minimum_participants_constraint"},
		{"numbers", "more users than the room may have", setup{change: editBase(func(p *BaseRoomPolicy) { p.MaxUsers = u32(6) })}, none, commits(bodies(enlist(dave, 2))), "max_users"},
		{"numbers", "more clients than the room may have", setup{change: editBase(func(p *BaseRoomPolicy) { p.MaxClients = u32(4) })}, none, commits(func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("bob/3")} }), "max_clients"},
		{"numbers", "a second client where one is allowed", setup{clients: []string{"alice/1", "bob/1"}, change: editBase(func(p *BaseRoomPolicy) { p.MultiDevice = false })}, none,
			commits(func(w *world) []mls.ProposalBody { return []mls.ProposalBody{w.add("bob/2")} }), "multi_device"},
		{"numbers", "more of a role than it may have", setup{change: editRoles(func(r RoleData) { r[3].MaxParticipants = u32(1) })}, none, func(w *world) error {
			return w.check(w.commit("alice/1", setRole(1, 3)), "alice/1")
		}, "maximum_participants_constraint"},
		{"numbers", "fewer active of a role than it must have", setup{change: editRoles(func(r RoleData) { r[3].MinActive = 1 })}, none, func(w *world) error {
			return w.check(w.commit("alice/1", w.remove("cathy/1")), "alice/1")
		}, "minimum_active_participants_constraint"},

		{"fixed membership", "somebody is added", direct, none, commits(bodies(enlist(dave, 2))), "fixed_membership"},
		{"fixed membership", "somebody is removed", direct, none, commits(func(w *world) []mls.ProposalBody { return []mls.ProposalBody{delist(0), w.remove("alice/1")} }), "fixed_membership"},
		{"fixed membership", "somebody leaves the list", direct, none, proposes(bodies(&mls.SelfRemove{}, delist(1))), "fixed_membership"},
		{"fixed membership", "somebody comes in", direct, none, func(w *world) error { return w.check(w.joinAs("dave/1", "", enlist(dave, 2)), "dave/1") }, "fixed_membership"},
		{"fixed membership", "a client leaves", direct, none, proposes(bodies(&mls.SelfRemove{})), ""},
	} {
		t.Run(x.kind+": "+x.name, func(t *testing.T) {
			w := newWorld(t, x.setup)
			x.before(w)
			w.state = w.state.WithPending(w.hub.Proposals(), w.hub.Members())
			expect(t, x.do(w), x.want)
		})
	}
}

var direct = setup{dict: func(o RoomOptions) (mls.AppDataDictionary, error) { return DirectMessage(o, bob) },
	list: ParticipantList{{alice, 2}, {bob, 2}, {hub, 5}}, clients: []string{"alice/1", "bob/1"}}

// opened lets anybody in as an ordinary user.
func opened(d *mls.AppDataDictionary) { preauthorized(2)(d) }

// removed has bob's removal pending, without that of his clients.
func removed(w *world) { w.propose("cathy/1", delist(1)) }

// checkList judges a change of the list that MLS itself would refuse to commit: as proposals, one after the other.
func checkList(w *world, client string, updates ...ParticipantListUpdate) error {
	var b []mls.ProposalBody
	for _, u := range updates {
		b = append(b, listUpdate(u))
	}
	return w.state.CheckProposals(w.propose(client, b...), domainOf(w.t, client), w.hub.Members())
}
