package policy

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"reflect"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

func agent() []byte {
	s := mls.ExternalSender{SignatureKey: []byte("key"), Credential: mls.BasicCredential([]byte(hub.String()))}
	return tlspl.Marshal(&s)
}

func components16(t *testing.T, d mls.AppDataDictionary, id mls.ComponentID) []mls.ComponentID {
	t.Helper()
	b, ok := d.Get(id)
	if !ok {
		t.Fatalf("no %s", ComponentName(id))
	}
	l, err := parseComponentsList(b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCooperative(t *testing.T) {
	d, err := Cooperative(RoomOptions{Room: room, Creator: alice, Name: "Club", FrankingAgent: agent()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseState(d)
	if err != nil {
		t.Fatal(err)
	}
	if want := (ParticipantList{{alice, RoleSuperAdmin}, {hub, RolePolicyEnforcer}}); !reflect.DeepEqual(s.Participants, want) {
		t.Errorf("participants %v", s.Participants)
	}
	if s.Hub() != hub || s.Metadata.Name != "Club" || s.Metadata.Room != room || !bytes.Equal(s.FrankingAgent, agent()) {
		t.Errorf("hub %v, metadata %+v", s.Hub(), s.Metadata)
	}
	required := []mls.ComponentID{1, 2, 0x20, 0x21, 0x22, 0x23, 0x25, 0x27}
	if got := components16(t, d, mls.ComponentAppComponents); !reflect.DeepEqual(got, required) {
		t.Errorf("app_components %04x", got)
	}
	if got := components16(t, d, mls.ComponentSafeAAD); !reflect.DeepEqual(got, []mls.ComponentID{0x20}) {
		t.Errorf("safe_aad %04x", got)
	}
	// Who joins must say it understands what the room requires.
	leaf := components16(t, LeafAppData(), mls.ComponentAppComponents)
	for _, id := range required {
		found := false
		for _, l := range leaf {
			found = found || l == id
		}
		if !found {
			t.Errorf("our leaves do not list %s", ComponentName(id))
		}
	}
	if got := components16(t, LeafAppData(), mls.ComponentSafeAAD); !reflect.DeepEqual(got, []mls.ComponentID{0x20}) {
		t.Errorf("safe_aad of a leaf %04x", got)
	}
}

func TestPresetsRefuse(t *testing.T) {
	for _, c := range []struct {
		name string
		o    RoomOptions
	}{
		{"a room that is no room", RoomOptions{Room: alice, Creator: alice}},
		{"no room", RoomOptions{Creator: alice}},
		{"a creator who is no user", RoomOptions{Room: room, Creator: hub}},
		{"a name with a NUL", RoomOptions{Room: room, Creator: alice, Name: "a\x00"}},
		{"a franking agent that is none", RoomOptions{Room: room, Creator: alice, FrankingAgent: []byte("x")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, preset := range []func(RoomOptions) (mls.AppDataDictionary, error){Cooperative, Strict, Moderated} {
				if d, err := preset(c.o); err == nil || d.Len() != 0 {
					t.Errorf("%d components, %v", d.Len(), err)
				}
			}
		})
	}
	if _, err := DirectMessage(RoomOptions{Room: room, Creator: alice}, alice); err == nil {
		t.Error("a direct message to oneself twice")
	}
}

// The tables of draft-ietf-mimi-room-policy section "Role examples": names, constraints, changes, and the capabilities
// that tell the roles apart.
func TestPresetRoles(t *testing.T) {
	enforcer := roleWant{"policy_enforcer", 1, u32(2), true, "",
		[]Capability{CanRemoveParticipant, CanChangeUserRole, CanBan, CanUnban, CanChangeRoleDefinitions, CanDestroyRoom},
		[]Capability{CanAddParticipant, CanKick, CanSendMessage, CanAddOwnClient}}
	none := roleWant{name: "no_role", noClients: true, not: []Capability{CanOpenJoin, CanSendMessage}}
	banned := roleWant{name: "banned", noClients: true, not: []Capability{CanSendMessage, CanAddOwnClient}}
	for _, c := range []struct {
		name  string
		roles RoleData
		want  []roleWant
	}{
		{"Cooperatively administered room", cooperativeRoles(), []roleWant{none, banned,
			{"ordinary_user", 0, nil, false, "0:2 2:0", []Capability{CanAddParticipant, CanRemoveParticipant, CanSendMessage, CanChangeRoomName},
				[]Capability{CanBan, CanKick, CanChangeUserRole, CanChangeRoomDescription, CanEditReaction}},
			{"group_admin", 1, nil, false, "0:123 1:023 2:013 3:012", []Capability{CanAddParticipant, CanBan, CanUnban, CanKick, CanChangeUserRole, CanChangeRoomDescription},
				[]Capability{CanChangeRoomMembershipStyle, CanChangeRoleDefinitions}},
			{"super_admin", 0, nil, false, "0:1234 1:0234 2:0134 3:0124 4:0123", []Capability{CanBan, CanChangeRoomMembershipStyle, CanDestroyRoom},
				[]Capability{CanChangeRoleDefinitions, CanSendMLSReInitProposal}},
			enforcer.may("0:1 1:0 2:01 3:01 4:01")}},
		{"Strictly administered room", strictRoles(), []roleWant{
			{name: "no_role", noClients: true, changes: "0:2", has: []Capability{CanUseJoinCode}}, banned,
			{"ordinary_user", 0, nil, false, "0:2 2:0", []Capability{CanJoinIfPreauthorized, CanChangeOwnRole, CanSendMessage},
				[]Capability{CanAddParticipant, CanRemoveParticipant, CanReplyToMessage, CanChangeRoomName}},
			{"group_admin", 1, nil, false, "0:123 1:023 2:013 3:012", []Capability{CanAddParticipant, CanCreateJoinCode, CanDeleteOtherReaction},
				[]Capability{CanChangeRoleDefinitions}},
			{"super_admin", 0, nil, false, "0:1234 1:0234 2:0134 3:0124 4:0123", []Capability{CanChangeRoleDefinitions, CanSendMLSReInitProposal}, nil},
			enforcer.may("0:1 1:0 2:01 3:01 4:01")}},
		{"Moderated room", moderatedRoles(), []roleWant{
			{name: "no_role", changes: "0:23", has: []Capability{CanUseJoinCode}}, banned,
			{"guest", 0, nil, false, "0:2 2:0", []Capability{CanRemoveSelf, CanReceiveMessage}, []Capability{CanSendMessage, CanAddOwnClient, CanReportAbuse}},
			{"attendee", 0, nil, false, "0:3 3:0", []Capability{CanRemoveSelf, CanAddOwnClient, CanReportAbuse}, []Capability{CanSendMessage}},
			{"speaker", 0, nil, false, "0:4 4:0", []Capability{CanSendMessage, CanAddOwnClient}, []Capability{CanAddParticipant, CanBan}},
			{"moderator", 1, nil, false, "0:12345 1:02345 2:01345 3:01245 4:01235 5:01234", []Capability{CanSendMessage, CanAddParticipant, CanBan},
				[]Capability{CanChangeRoomDescription}},
			{"super_admin", 0, nil, false, "0:123456 1:023456 2:013456 3:012456 4:012356 5:012346 6:012345", []Capability{CanChangeRoomDescription, CanChangeRoleDefinitions}, nil},
			enforcer.may("0:1 1:0 2:01 3:01 4:01 5:01 6:01")}},
		{"direct message", directRoles(), []roleWant{none, banned,
			{"ordinary_user", 0, nil, false, "", []Capability{CanSendMessage, CanAddOwnClient, CanRemoveOwnClient},
				[]Capability{CanAddParticipant, CanRemoveParticipant, CanRemoveSelf, CanBan, CanKick}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i, w := range c.want {
				r := c.roles[i]
				if r.Index != uint32(i) || r.Name != w.name || r.MinParticipants != w.min || !reflect.DeepEqual(r.MaxParticipants, w.max) || r.MinActive != 0 {
					t.Errorf("role %d is %+v, want %+v", i, r, w)
				}
				if (r.MaxActive != nil && *r.MaxActive == 0) != w.noClients {
					t.Errorf("%s: maximum_active_participants_constraint", r.Name)
				}
				if got := changesText(r.Changes); got != w.changes {
					t.Errorf("%s: authorized_role_changes %q, want %q", r.Name, got, w.changes)
				}
				for _, x := range w.has {
					if !r.Can(x) {
						t.Errorf("%s has not %s", r.Name, x)
					}
				}
				for _, x := range w.not {
					if r.Can(x) {
						t.Errorf("%s has %s", r.Name, x)
					}
				}
				seen := make(map[Capability]bool)
				for _, x := range r.Capabilities {
					if seen[x] {
						t.Errorf("%s has %s twice", r.Name, x)
					}
					seen[x] = true
				}
			}
			if err := c.roles.Validate(nil); err != nil {
				t.Error(err)
			}
		})
	}
}

type roleWant struct {
	name      string
	min       uint32
	max       *uint32
	noClients bool
	changes   string
	has, not  []Capability
}

func (w roleWant) may(changes string) roleWant {
	w.changes = changes
	return w
}

func changesText(l []RoleChanges) string {
	var b bytes.Buffer
	for i, c := range l {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteByte('0' + byte(c.From))
		b.WriteByte(':')
		for _, x := range c.To {
			b.WriteByte('0' + byte(x))
		}
	}
	return b.String()
}

func TestParseState(t *testing.T) {
	whole, err := Cooperative(RoomOptions{Room: room, Creator: alice, FrankingAgent: agent()})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []mls.ComponentID{ComponentParticipantList, ComponentRolesList} {
		d := whole.Clone()
		d.Delete(id)
		if _, err := ParseState(d); fault.KindOf(err) != fault.Malformed {
			t.Errorf("without %s: %v", ComponentName(id), err)
		}
	}
	for _, id := range []mls.ComponentID{ComponentBaseRoomPolicy, ComponentRoomMetadata, ComponentFrankingAgent} {
		d := whole.Clone()
		d.Delete(id)
		s, err := ParseState(d)
		if err != nil || s.Base == nil || !s.Base.MultiDevice {
			t.Errorf("without %s: %+v, %v", ComponentName(id), s, err)
		}
	}
	for _, id := range []mls.ComponentID{ComponentParticipantList, ComponentRolesList, ComponentBaseRoomPolicy,
		ComponentRoomMetadata, ComponentPreAuthList, ComponentFrankingAgent} {
		d := whole.Clone()
		d.Set(id, []byte{0x7f})
		if _, err := ParseState(d); fault.KindOf(err) != fault.Malformed {
			t.Errorf("bad %s: %v", ComponentName(id), err)
		}
	}
	s, _ := ParseState(whole)
	if r := s.Role(bob); r.Index != RoleNone || r.Name != "no_role" || r.MayHaveClients() {
		t.Errorf("a stranger's role is %+v", r)
	}
	if r := s.Role(alice); r.Index != RoleSuperAdmin || !r.Can(CanSendMessage) || !r.MayHaveClients() {
		t.Errorf("the creator's role is %+v", r)
	}
}

func TestUpdateHelpers(t *testing.T) {
	d, err := Cooperative(RoomOptions{Room: room, Creator: alice})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := ParseState(d)
	apply := func(update []byte) ParticipantList {
		t.Helper()
		old, _ := d.Get(ComponentParticipantList)
		b, err := ApplyAppData(ComponentParticipantList, old, [][]byte{update})
		if err != nil {
			t.Fatal(err)
		}
		l, err := ParseParticipantList(b)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	if got := apply(AddParticipantUpdate(s, []Participant{{bob, 2}, {cathy, 3}})); !reflect.DeepEqual(got, ParticipantList{{alice, 4}, {hub, 5}, {bob, 2}, {cathy, 3}}) {
		t.Errorf("added: %v", got)
	}
	u, err := RemoveParticipantUpdate(s, alice)
	if err != nil {
		t.Fatal(err)
	}
	if got := apply(u); !reflect.DeepEqual(got, ParticipantList{{hub, 5}}) {
		t.Errorf("removed: %v", got)
	}
	if u, err = ChangeRoleUpdate(s, Participant{alice, 2}); err != nil {
		t.Fatal(err)
	}
	if got := apply(u); !reflect.DeepEqual(got, ParticipantList{{alice, 2}, {hub, 5}}) {
		t.Errorf("changed: %v", got)
	}
	if _, err := RemoveParticipantUpdate(s, alice, bob); fault.KindOf(err) != fault.NotFound {
		t.Errorf("removing a stranger: %v", err)
	}
	if _, err := ChangeRoleUpdate(s, Participant{bob, 2}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("changing a stranger: %v", err)
	}
}

func certificate(t *testing.T, uris ...string) []byte {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour)}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = append(c.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestLeafUser(t *testing.T) {
	basic := func(s string) mls.Credential { return mls.BasicCredential([]byte(s)) }
	cert := func(uris ...string) mls.Credential { return mls.X509Credential([][]byte{certificate(t, uris...)}) }
	for _, c := range []struct {
		name         string
		cred         mls.Credential
		user, client string // "": refused
	}{
		{"basic", basic("mimi://b.example/d/bob/xmpp-1"), "mimi://b.example/u/bob", "mimi://b.example/d/bob/xmpp-1"},
		{"basic, another spelling", basic("MIMI://B.example/d/%62ob/xmpp-1"), "mimi://b.example/u/bob", "mimi://b.example/d/bob/xmpp-1"},
		{"basic, a user of another domain's network", basic("mimi://b.example/d/bob@other.net/1"), "mimi://b.example/u/bob@other.net", "mimi://b.example/d/bob@other.net/1"},
		{"basic, a user with a slash", basic("mimi://b.example/d/a/b/1"), "mimi://b.example/u/a/b", "mimi://b.example/d/a/b/1"},
		{"basic, no device", basic("mimi://b.example/d/bob"), "", ""},
		{"basic, an empty device", basic("mimi://b.example/d/bob/"), "", ""},
		{"basic, an empty user", basic("mimi://b.example/d//1"), "", ""},
		{"basic, a user's URI", basic("mimi://b.example/u/bob"), "", ""},
		{"basic, no URI", basic("bob@b.example"), "", ""},
		{"basic, empty", basic(""), "", ""},
		{"basic, a NUL", basic("mimi://b.example/d/bob/1\x00"), "", ""},
		{"X.509, client", cert("mimi://b.example/d/bob/1", "https://b.example"), "mimi://b.example/u/bob", "mimi://b.example/d/bob/1"},
		{"X.509, client and user", cert("mimi://b.example/u/bob", "mimi://b.example/d/ClientB1"), "mimi://b.example/u/bob", "mimi://b.example/d/ClientB1"},
		{"X.509, user only", cert("mimi://b.example/u/bob"), "", ""},
		{"X.509, two users", cert("mimi://b.example/u/bob", "mimi://b.example/u/bab", "mimi://b.example/d/1"), "", ""},
		{"X.509, two clients", cert("mimi://b.example/d/bob/1", "mimi://b.example/d/bob/2"), "", ""},
		{"X.509, user and client of different providers", cert("mimi://a.example/u/alice", "mimi://b.example/d/bob/1"), "", ""},
		{"X.509, nobody", cert("https://b.example"), "", ""},
		{"X.509, no certificate", mls.X509Credential(nil), "", ""},
		{"X.509, no DER", mls.X509Credential([][]byte{{1}}), "", ""},
		{"another type", mls.Credential{Type: 9}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			user, client, err := LeafUser(&mls.LeafNode{Credential: c.cred})
			if c.user == "" {
				if fault.KindOf(err) != fault.Malformed || !user.IsZero() || !client.IsZero() {
					t.Fatalf("%v, %v, %v", user, client, err)
				}
				return
			}
			if err != nil || user.String() != c.user || client.String() != c.client {
				t.Fatalf("%v, %v, %v", user, client, err)
			}
		})
	}
	if _, _, err := LeafUser(nil); fault.KindOf(err) != fault.Malformed {
		t.Error(err)
	}
	for _, u := range []mimiuri.URI{alice, mimiuri.MustParse("mimi://b.example/u/bob@other.net"), mimiuri.MustParse("mimi://b.example/u/a/b")} {
		cl := ClientURI(u, "xmpp-1/2")
		got, client, err := LeafUser(&mls.LeafNode{Credential: basic(cl.String())})
		if err != nil || got != u || client != cl {
			t.Errorf("%v gives %v, %v, %v", cl, got, client, err)
		}
	}
}
