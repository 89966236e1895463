package wire_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
	"github.com/mimibridge/mimibridge/core/wire"
)

const suite = mls.X25519AES128GCMSHA256Ed25519

var (
	alice  = mimiuri.MustParse("mimi://a.example/u/alice")
	bob    = mimiuri.MustParse("mimi://b.example/u/bob")
	laptop = mimiuri.MustParse("mimi://b.example/d/bob/laptop")
	room   = mimiuri.MustParse("mimi://hub.example/r/clubhouse")
)

func newKey(t testing.TB) *mls.SignatureKey {
	t.Helper()
	key, err := mls.GenerateSignatureKey(nil, suite)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyPackage(t testing.TB) *mls.KeyPackage {
	t.Helper()
	kp, _, err := mls.NewKeyPackage(&mls.Config{Now: time.Now}, suite, mls.KeyPackageOptions{
		Credential: mls.BasicCredential([]byte(laptop.String())),
		Signature:  newKey(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

// The MLS messages here are of the right shape, and not of any group: this package verifies nothing of MLS.

func proposal(n uint32) *mls.MLSMessage {
	return mls.NewMessage(&mls.PublicMessage{
		Content: mls.FramedContent{GroupID: []byte("group"), Epoch: 7, Sender: mls.Sender{Type: mls.SenderExternal, Index: 1},
			AuthenticatedData: []byte{}, ContentType: mls.ContentProposal, Proposal: &mls.Proposal{Body: &mls.Remove{Removed: mls.LeafIndex(n)}}},
		Auth: mls.FramedContentAuthData{Signature: []byte("signature")},
	})
}

func commit() *mls.MLSMessage {
	return mls.NewMessage(&mls.PublicMessage{
		Content: mls.FramedContent{GroupID: []byte("group"), Epoch: 7, Sender: mls.Sender{Type: mls.SenderMember, Leaf: 3},
			AuthenticatedData: []byte("aad"), ContentType: mls.ContentCommit, Commit: &mls.Commit{Proposals: []mls.ProposalOrRef{}}},
		Auth:          mls.FramedContentAuthData{Signature: []byte("signature"), ConfirmationTag: []byte("tag")},
		MembershipTag: []byte("member"),
	})
}

func private(ct mls.ContentType) *mls.MLSMessage {
	return mls.NewMessage(&mls.PrivateMessage{GroupID: []byte("group"), Epoch: 7, ContentType: ct,
		AuthenticatedData: mls.MarshalSafeAAD([]mls.SafeAADItem{wire.FrankAAD([32]byte{9})}), EncryptedSenderData: []byte("who"), Ciphertext: []byte("what")})
}

func publicApplication() *mls.MLSMessage {
	return mls.NewMessage(&mls.PublicMessage{
		Content: mls.FramedContent{GroupID: []byte("group"), Epoch: 7, Sender: mls.Sender{Type: mls.SenderMember},
			AuthenticatedData: []byte{}, ContentType: mls.ContentApplication, ApplicationData: []byte("for all to read")},
		Auth: mls.FramedContentAuthData{Signature: []byte("signature")}, MembershipTag: []byte("member"),
	})
}

func welcome() *mls.Welcome {
	return &mls.Welcome{CipherSuite: suite, EncryptedGroupInfo: []byte("info"), Secrets: []mls.EncryptedGroupSecrets{
		{NewMember: []byte("ref"), GroupSecrets: mls.HPKECiphertext{KEMOutput: []byte("kem"), Ciphertext: []byte("ct")}}}}
}

func groupInfo() *mls.GroupInfo {
	return &mls.GroupInfo{
		GroupContext: mls.GroupContext{Version: mls.MLS10, CipherSuite: suite, GroupID: []byte("group"), Epoch: 8, TreeHash: []byte("tree"),
			ConfirmedTranscriptHash: []byte("transcript"), Extensions: mls.Extensions{}},
		Extensions: mls.Extensions{}, ConfirmationTag: []byte("tag"), Signer: 3, Signature: []byte("signature"),
	}
}

func dictionary() (d mls.AppDataDictionary) {
	d.Set(0x8001, []byte("extension"))
	return d
}

var byDS = mls.RatchetTreeOption{Representation: mls.RatchetTreeDistributionService}

func frank() *wire.Frank {
	return &wire.Frank{ServerFrank: [32]byte{1, 31: 2}, Suite: suite, IntegritySignature: []byte("signature")}
}

// door is a struct together with its Parse function.
type door struct {
	marshal func() []byte
	parse   func([]byte) (any, []byte, error) // the struct, and what it marshals to
	limit   int
}

func doorOf[T interface{ Marshal() []byte }](v T, parse func([]byte) (T, error), limit int) door {
	return door{v.Marshal, func(b []byte) (any, []byte, error) {
		x, err := parse(b)
		if err != nil {
			return nil, nil, err
		}
		return x, x.Marshal(), nil
	}, limit}
}

func fanoutDoor(list ...*wire.FanoutMessage) door {
	all := func(list []*wire.FanoutMessage) (b []byte) {
		for _, m := range list {
			b = append(b, m.Marshal()...)
		}
		return b
	}
	return door{func() []byte { return all(list) }, func(b []byte) (any, []byte, error) {
		x, err := wire.ParseFanout(b)
		return x, all(x), err
	}, wire.MaxBody}
}

func keyMaterialRequest(t testing.TB) *wire.KeyMaterialRequest {
	q := &wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: alice, TargetUser: bob, RoomID: room,
		Suites: []mls.CipherSuite{suite, 2},
		Required: mls.RequiredCapabilities{Extensions: []mls.ExtensionType{6}, Proposals: []mls.ProposalType{8},
			Credentials: []mls.CredentialType{1}},
		Credential: mls.BasicCredential([]byte("mimi://a.example/d/alice/phone"))}
	if err := q.Sign(newKey(t)); err != nil {
		t.Fatal(err)
	}
	return q
}

func groupInfoRequest(t testing.TB, code string) *wire.GroupInfoRequest {
	q := &wire.GroupInfoRequest{Protocol: wire.MLS10, Credential: mls.BasicCredential([]byte("mimi://a.example/d/alice/phone")),
		PublicKey: []byte("hpke"), JoiningCode: []byte(code)}
	if err := q.Sign(newKey(t)); err != nil {
		t.Fatal(err)
	}
	return q
}

func groupInfoResponse(t testing.TB) *wire.GroupInfoResponse {
	a := &wire.GroupInfoResponse{Protocol: wire.MLS10, Room: room, Status: wire.GroupInfoSuccess,
		HubSender: mls.ExternalSender{Credential: mls.BasicCredential([]byte("mimi://hub.example"))},
		Encrypted: mls.HPKECiphertext{KEMOutput: []byte("kem"), Ciphertext: []byte("ct")}}
	if err := a.Sign(newKey(t)); err != nil {
		t.Fatal(err)
	}
	return a
}

func doors(t testing.TB) map[string]door {
	noRoom := keyMaterialRequest(t)
	noRoom.RoomID = mimiuri.URI{}
	if err := noRoom.Sign(newKey(t)); err != nil {
		t.Fatal(err)
	}
	caps := mls.DefaultCapabilities()
	full := mls.FullTree(&mls.RatchetTree{Nodes: []mls.TreeNode{{Leaf: &keyPackage(t).LeafNode}}})
	m := map[string]door{
		"KeyMaterialRequest":              doorOf(keyMaterialRequest(t), wire.ParseKeyMaterialRequest, wire.MaxRequest),
		"KeyMaterialRequest without room": doorOf(noRoom, wire.ParseKeyMaterialRequest, wire.MaxRequest),
		"KeyMaterialResponse partial": doorOf(&wire.KeyMaterialResponse{Protocol: wire.MLS10, UserStatus: wire.KeyMaterialPartial, UserURI: bob,
			Clients: []wire.ClientKeyMaterial{
				{Status: wire.ClientSuccess, ClientURI: laptop, KeyPackage: keyPackage(t)},
				{Status: wire.ClientExhausted, ClientURI: laptop},
				{Status: wire.ClientNothingCompatible, ClientURI: laptop, Capabilities: &caps},
				{Status: wire.ClientNothingCompatible, ClientURI: laptop},
			}}, wire.ParseKeyMaterialResponse, wire.MaxBody),
		"KeyMaterialResponse userUnknown": doorOf(&wire.KeyMaterialResponse{Protocol: wire.MLS10, UserStatus: wire.UserUnknown, UserURI: bob},
			wire.ParseKeyMaterialResponse, wire.MaxBody),
		"UpdateRequest commit": doorOf(&wire.UpdateRequest{Message: commit(), Welcome: welcome(),
			GroupInfo: wire.GroupInfoOption{Full: groupInfo()}, Tree: *full}, wire.ParseUpdateRequest, wire.MaxBody),
		"UpdateRequest commit, partial": doorOf(&wire.UpdateRequest{Message: commit(),
			GroupInfo: wire.GroupInfoOption{Partial: groupInfo().Partial()}, Tree: byDS}, wire.ParseUpdateRequest, wire.MaxBody),
		"UpdateRequest proposal": doorOf(&wire.UpdateRequest{Message: proposal(1)}, wire.ParseUpdateRequest, wire.MaxBody),
		"UpdateRequest proposals": doorOf(&wire.UpdateRequest{Message: proposal(1), MoreProposals: []*mls.MLSMessage{proposal(2), proposal(3)}},
			wire.ParseUpdateRequest, wire.MaxBody),
		"GroupInfoRequest":                doorOf(groupInfoRequest(t, ""), wire.ParseGroupInfoRequest, wire.MaxRequest),
		"GroupInfoRequest with a code":    doorOf(groupInfoRequest(t, "open sesame"), wire.ParseGroupInfoRequest, wire.MaxRequest),
		"GroupInfoResponse":               doorOf(groupInfoResponse(t), wire.ParseGroupInfoResponse, wire.MaxBody),
		"GroupInfoResponse notAuthorized": doorOf(&wire.GroupInfoResponse{Protocol: wire.MLS10, Room: room, Status: wire.GroupInfoNotAuthorized}, wire.ParseGroupInfoResponse, wire.MaxBody),
		"GroupInfoRatchetTree": doorOf(&wire.GroupInfoRatchetTree{GroupInfo: groupInfo(), Tree: *full,
			Pending: []wire.PendingProposal{{Message: proposal(1), AcceptedTime: 5}, {Message: proposal(2), AcceptedTime: 6}}}, wire.ParseGroupInfoRatchetTree, wire.MaxBody),
		"SubmitMessageRequest": doorOf(&wire.SubmitMessageRequest{Protocol: wire.MLS10, Message: private(mls.ContentApplication), SendingURI: alice},
			wire.ParseSubmitMessageRequest, wire.MaxSubmit),
		"Frank":                     doorOf(frank(), wire.ParseFrank, wire.MaxRequest),
		"FrankingAgentData":         doorOf(&wire.FrankingAgentData{SignatureKey: []byte("key"), Credential: mls.BasicCredential([]byte("mimi://hub.example"))}, wire.ParseFrankingAgentData, wire.MaxRequest),
		"FanoutMessage application": fanoutDoor(&wire.FanoutMessage{Timestamp: 1, Message: private(mls.ContentApplication), Frank: frank()}),
		"FanoutMessage, all kinds": fanoutDoor(
			&wire.FanoutMessage{Timestamp: 1, Message: private(mls.ContentApplication)},
			&wire.FanoutMessage{Timestamp: 2, Message: proposal(1), MoreProposals: []*mls.MLSMessage{proposal(2)}},
			&wire.FanoutMessage{Timestamp: 3, Message: commit(), ExternalProposals: []*mls.MLSMessage{proposal(4)}},
			&wire.FanoutMessage{Timestamp: 1<<64 - 1, Message: mls.NewMessage(welcome()), Tree: full},
			&wire.FanoutMessage{Timestamp: 5, Message: commit()},
		),
	}
	for name, e := range map[string]*wire.ConsentEntry{
		"request":         {Operation: wire.ConsentRequest, Requester: alice, Target: bob},
		"request, room":   {Operation: wire.ConsentRequest, Requester: alice, Target: bob, RoomID: room},
		"cancel":          {Operation: wire.ConsentCancel, Requester: alice, Target: bob, Extensions: dictionary()},
		"grant":           {Operation: wire.ConsentGrant, Requester: alice, Target: bob, RoomID: room},
		"grant with keys": {Operation: wire.ConsentGrant, Requester: alice, Target: bob, KeyPackages: []*mls.KeyPackage{keyPackage(t), keyPackage(t)}},
		"revoke":          {Operation: wire.ConsentRevoke, Requester: alice, Target: bob},
	} {
		m["ConsentEntry "+name] = doorOf(e, wire.ParseConsentEntry, wire.MaxConsent)
	}
	m["AbuseReport"] = doorOf(&wire.AbuseReport{Reporter: bob, Abuser: alice, Reason: 0, Note: "spam ☹", Messages: []wire.AbusiveMessage{
		{Content: []byte("content"), Frank: *frank(), AcceptedTimestamp: 1<<63 + 1}, {Content: []byte("more"), Frank: *frank(), AcceptedTimestamp: 2}},
		Extensions: dictionary()}, wire.ParseAbuseReport, wire.MaxReport)
	m["AbuseReport, anonymous"] = doorOf(&wire.AbuseReport{Abuser: alice, Reason: 255}, wire.ParseAbuseReport, wire.MaxReport)
	m["IdentifierRequest"] = doorOf(&wire.IdentifierRequest{Elements: []wire.QueryElement{
		{Type: wire.SearchHandle, Value: bob.String()}, {Type: wire.SearchOIDCClaim, Name: "given_name", Value: "Bøb"},
		{Type: wire.SearchVCardField, Name: "ORG", Value: ""}}, Extensions: dictionary()}, wire.ParseIdentifierRequest, wire.MaxRequest)
	m["IdentifierResponse"] = doorOf(&wire.IdentifierResponse{Users: []mimiuri.URI{bob, alice}, Profiles: []wire.UserProfile{
		{User: bob, Fields: []wire.ProfileField{{Source: wire.SearchOIDCClaim, Name: "name", Value: "Bob"}, {Source: wire.SearchVCardField, Name: "ORG", Value: "B"}}},
		{User: alice}}, Extensions: dictionary()}, wire.ParseIdentifierResponse, wire.MaxResponse)
	m["IdentifierResponse notFound"] = doorOf(&wire.IdentifierResponse{Code: wire.IdentifierNotFound}, wire.ParseIdentifierResponse, wire.MaxResponse)
	for _, a := range []*wire.UpdateRoomResponse{
		{Code: wire.UpdateSuccess, Description: "fein ☕", AcceptedTimestamp: 1<<63 + 1},
		{Code: wire.WrongEpoch, CurrentEpoch: 8},
		{Code: wire.NotAllowed, Description: "no"},
		{Code: wire.InvalidProposal, InvalidProposals: []mls.ProposalRef{[]byte("ref 1"), []byte("ref 2")}},
		{Code: wire.InvalidProposal},
	} {
		n := "UpdateRoomResponse " + a.Code.String()
		if a.InvalidProposals != nil {
			n += " with refs"
		}
		m[n] = doorOf(a, wire.ParseUpdateRoomResponse, wire.MaxResponse)
	}
	for _, a := range []*wire.SubmitMessageResponse{
		{Protocol: wire.MLS10, Code: wire.SubmitAccepted, AcceptedTimestamp: 9, Frank: frank()},
		{Protocol: wire.MLS10, Code: wire.SubmitAccepted, AcceptedTimestamp: 9},
		{Protocol: wire.MLS10, Code: wire.SubmitNotAllowed},
		{Protocol: wire.MLS10, Code: wire.EpochTooOld, CurrentEpoch: 10},
	} {
		n := "SubmitMessageResponse " + a.Code.String()
		if a.Frank != nil {
			n += " with frank"
		}
		m[n] = doorOf(a, wire.ParseSubmitMessageResponse, wire.MaxResponse)
	}
	return m
}

// TestRoundTrip: what is parsed is what was written, to the octet. A prefix, an octet more or too much of it is refused with
// a fault that names the struct.
func TestRoundTrip(t *testing.T) {
	for name, d := range doors(t) {
		t.Run(name, func(t *testing.T) {
			b := d.marshal()
			v, again, err := d.parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again, b) {
				t.Errorf("marshals to\n%x, was\n%x", again, b)
			}
			clear(b) // what was parsed must not live in the input
			v2, _, err := d.parse(again)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(v, v2) {
				t.Errorf("parsed twice:\n%+v\n%+v", v, v2)
			}
			b = again
			multi := strings.HasPrefix(name, "FanoutMessage, all")
			for n := range b {
				if _, _, err := d.parse(b[:n]); err == nil && !multi {
					t.Errorf("the first %d of %d octets are taken", n, len(b))
				} else if err != nil && !fault.Is(err, fault.Malformed) {
					t.Errorf("%d octets: %v", n, err)
				}
			}
			if _, _, err := d.parse(append(bytes.Clone(b), 0)); !fault.Is(err, fault.Malformed) {
				t.Errorf("an octet more: %v", err)
			}
			if _, _, err := d.parse(append(b, make([]byte, d.limit)...)); !fault.Is(err, fault.TooLarge) {
				t.Errorf("%d octets more: %v", d.limit, err)
			}
		})
	}
}

// TestFanoutPrefix: of concatenated messages a prefix is taken only at the end of a message.
func TestFanoutPrefix(t *testing.T) {
	one := (&wire.FanoutMessage{Timestamp: 1, Message: private(mls.ContentApplication), Frank: frank()}).Marshal()
	b := append(bytes.Clone(one), one...)
	for n := range b {
		_, err := wire.ParseFanout(b[:n])
		if (err == nil) != (n == len(one)) {
			t.Errorf("%d of %d octets: %v", n, len(b), err)
		}
	}
	if list, err := wire.ParseFanout(b); err != nil || len(list) != 2 {
		t.Errorf("%d messages, %v", len(list), err)
	}
}

// TestMLSMessages: duplicates are told by the octets of each MLSMessage, stapled ones too.
func TestMLSMessages(t *testing.T) {
	for name, c := range map[string]struct {
		m    *wire.FanoutMessage
		want []*mls.MLSMessage
	}{
		"application": {&wire.FanoutMessage{Message: private(mls.ContentApplication)}, []*mls.MLSMessage{private(mls.ContentApplication)}},
		"proposals":   {&wire.FanoutMessage{Message: proposal(1), MoreProposals: []*mls.MLSMessage{proposal(2)}}, []*mls.MLSMessage{proposal(1), proposal(2)}},
		"commit":      {&wire.FanoutMessage{Message: commit(), ExternalProposals: []*mls.MLSMessage{proposal(2)}}, []*mls.MLSMessage{commit(), proposal(2)}},
	} {
		list, err := wire.ParseFanout(c.m.Marshal())
		if err != nil {
			t.Fatal(name, err)
		}
		got := list[0].MLSMessages()
		if len(got) != len(c.want) {
			t.Fatalf("%s: %d messages", name, len(got))
		}
		for i := range got {
			if !bytes.Equal(got[i], c.want[i].Bytes()) {
				t.Errorf("%s: message %d differs", name, i)
			}
		}
	}
}

// layout builds octets by hand, as the draft's structs have them.
func layout(parts ...any) (b []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = append(b, byte(p))
		case uint16:
			b = append(b, byte(p>>8), byte(p))
		case uint64:
			for i := 56; i >= 0; i -= 8 {
				b = append(b, byte(p>>i))
			}
		case string: // opaque<V> shorter than 64
			if len(p) > 63 {
				panic("too long for one octet of length")
			}
			b = append(append(b, byte(len(p))), p...)
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

// TestLayout holds the structs against the draft, field by field.
func TestLayout(t *testing.T) {
	f := frank()
	for name, c := range map[string]struct{ got, want []byte }{
		"Update Room State: success": {
			(&wire.UpdateRoomResponse{Code: wire.UpdateSuccess, Description: "ok", AcceptedTimestamp: 258}).Marshal(),
			layout(0, "ok", uint64(258))},
		"Update Room State: wrongEpoch": {
			(&wire.UpdateRoomResponse{Code: wire.WrongEpoch, CurrentEpoch: 3}).Marshal(),
			layout(1, "", uint64(3))},
		"Update Room State: notAllowed": {
			(&wire.UpdateRoomResponse{Code: wire.NotAllowed}).Marshal(), layout(2, "")},
		"Update Room State: invalidProposal": {
			(&wire.UpdateRoomResponse{Code: wire.InvalidProposal, InvalidProposals: []mls.ProposalRef{[]byte("ab"), []byte("c")}}).Marshal(),
			layout(3, "", 5, "ab", "c")},
		"Update Room State: commit": {
			(&wire.UpdateRequest{Message: commit(), Welcome: welcome(), GroupInfo: wire.GroupInfoOption{Full: groupInfo()}, Tree: byDS}).Marshal(),
			layout(commit().Bytes(), 1, tlspl.Marshal(welcome()), 1, tlspl.Marshal(groupInfo()), 4)},
		"Update Room State: commit without Welcome": {
			(&wire.UpdateRequest{Message: commit(), GroupInfo: wire.GroupInfoOption{Partial: groupInfo().Partial()}, Tree: byDS}).Marshal(),
			layout(commit().Bytes(), 0, 2, tlspl.Marshal(groupInfo().Partial()), 4)},
		"Update Room State: proposal": {
			(&wire.UpdateRequest{Message: proposal(1)}).Marshal(), layout(proposal(1).Bytes(), 0)},
		"Submit a Message": {
			(&wire.SubmitMessageRequest{Protocol: wire.MLS10, Message: private(mls.ContentApplication), SendingURI: alice}).Marshal(),
			layout(1, private(mls.ContentApplication).Bytes(), alice.String())},
		"Submit a Message: accepted, franked": {
			(&wire.SubmitMessageResponse{Protocol: wire.MLS10, Code: wire.SubmitAccepted, AcceptedTimestamp: 5, Frank: f}).Marshal(),
			layout(1, 0, uint64(5), 1, f.ServerFrank[:], uint16(1), "signature")},
		"Submit a Message: accepted": {
			(&wire.SubmitMessageResponse{Protocol: wire.MLS10, AcceptedTimestamp: 5}).Marshal(), layout(1, 0, uint64(5), 0)},
		"Submit a Message: notAllowed": {
			(&wire.SubmitMessageResponse{Protocol: wire.MLS10, Code: wire.SubmitNotAllowed}).Marshal(), layout(1, 1)},
		"Submit a Message: epochTooOld": {
			(&wire.SubmitMessageResponse{Protocol: wire.MLS10, Code: wire.EpochTooOld, CurrentEpoch: 6}).Marshal(), layout(1, 2, uint64(6))},
		"Fetch Key Material: failure": {
			(&wire.KeyMaterialResponse{Protocol: wire.MLS10, UserStatus: wire.NoConsentForThisRoom, UserURI: bob}).Marshal(),
			layout(1, 6, bob.String(), 0)},
		"Fetch Key Material: clients": {
			(&wire.KeyMaterialResponse{Protocol: wire.MLS10, UserStatus: wire.NoCompatibleMaterial, UserURI: bob, Clients: []wire.ClientKeyMaterial{
				{Status: wire.ClientExhausted, ClientURI: laptop}, {Status: wire.ClientNothingCompatible, ClientURI: laptop}}}).Marshal(),
			layout(1, 3, bob.String(), 63, 1, laptop.String(), 2, laptop.String(), 0)},
		"Claim group key information: failure": {
			(&wire.GroupInfoResponse{Protocol: wire.MLS10, Room: room, Status: wire.GroupInfoNoSuchRoom}).Marshal(),
			layout(1, room.String(), 3)},
		"Fanout: application": {
			(&wire.FanoutMessage{Timestamp: 4, Message: private(mls.ContentApplication), Frank: f}).Marshal(),
			layout(uint64(4), private(mls.ContentApplication).Bytes(), 1, f.ServerFrank[:], uint16(1), "signature")},
		"Fanout: welcome": {
			(&wire.FanoutMessage{Timestamp: 4, Message: mls.NewMessage(welcome()), Tree: &byDS}).Marshal(),
			layout(uint64(4), mls.NewMessage(welcome()).Bytes(), 4)},
		"Fanout: proposal": {
			(&wire.FanoutMessage{Timestamp: 4, Message: proposal(1)}).Marshal(), layout(uint64(4), proposal(1).Bytes(), 0)},
		"Fanout: commit": {
			(&wire.FanoutMessage{Timestamp: 4, Message: commit()}).Marshal(), layout(uint64(4), commit().Bytes(), 0)},
		"Convey explicit consent: request": {
			(&wire.ConsentEntry{Operation: wire.ConsentRequest, Requester: alice, Target: bob, RoomID: room}).Marshal(),
			layout(1, alice.String(), bob.String(), 1, room.String(), 0)},
		"Convey explicit consent: cancel": {
			(&wire.ConsentEntry{Operation: wire.ConsentCancel, Requester: alice, Target: bob, Extensions: dictionary()}).Marshal(),
			layout(0, alice.String(), bob.String(), 0, 12, 0x80, 1, "extension")},
		"Convey explicit consent: grant": {
			(&wire.ConsentEntry{Operation: wire.ConsentGrant, Requester: alice, Target: bob}).Marshal(),
			layout(2, alice.String(), bob.String(), 0, 0, 0)},
		"Convey explicit consent: revoke": {
			(&wire.ConsentEntry{Operation: wire.ConsentRevoke, Requester: alice, Target: bob}).Marshal(),
			layout(3, alice.String(), bob.String(), 0, 0)},
		"Find internal address: request": {
			(&wire.IdentifierRequest{Elements: []wire.QueryElement{{Type: wire.SearchNick, Value: "bob"}, {Type: wire.SearchOIDCClaim, Name: "name", Value: "B"}}}).Marshal(),
			layout(13, 2, "bob", 7, "name", "B", 0)},
		"Find internal address: response": {
			(&wire.IdentifierResponse{Users: []mimiuri.URI{bob}, Profiles: []wire.UserProfile{{User: bob, Fields: []wire.ProfileField{{Source: wire.SearchOIDCClaim, Name: "name", Value: "B"}}}}}).Marshal(),
			layout(0, 23, bob.String(), 32, bob.String(), 8, 7, "name", "B", 0)},
		"Find internal address: notFound": {
			(&wire.IdentifierResponse{Code: wire.IdentifierNotFound}).Marshal(), layout(1, 0, 0, 0)},
		"Report abuse": {
			(&wire.AbuseReport{Reporter: bob, Abuser: alice, Reason: 1, Note: "n", Messages: []wire.AbusiveMessage{{Content: []byte("c"), Frank: *f, AcceptedTimestamp: 258}}}).Marshal(),
			layout(bob.String(), alice.String(), 1, "n", 2+len(f.Marshal())+8, "c", f.Marshal(), uint64(258), 0)},
		"Message Franking: FrankingAgentData": {
			(&wire.FrankingAgentData{SignatureKey: []byte("k"), Credential: mls.BasicCredential([]byte("h"))}).Marshal(),
			layout("k", uint16(1), "h")},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s:\n%x, want\n%x", name, c.got, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	kp := keyPackage(t)
	longList := bytes.Repeat(proposal(1).Bytes(), wire.MaxProposals+1)
	vector := func(b []byte) []byte { w := tlspl.NewWriter(); w.Opaque(b); return w.Bytes() }
	req := func(requester, target, room string, suites []byte) []byte {
		return layout(1, requester, target, room, vector(suites), 0, 0, 0, "key", uint16(1), "id", "sig")
	}
	a, b, r := alice.String(), bob.String(), room.String()
	if _, err := wire.ParseKeyMaterialRequest(req(a, b, r, []byte{0, 1})); err != nil {
		t.Fatal(err) // the frame of the table is good
	}
	parseAs := func(p any) func([]byte) error {
		return func(b []byte) error {
			out := reflect.ValueOf(p).Call([]reflect.Value{reflect.ValueOf(b)})
			err, _ := out[1].Interface().(error)
			return err
		}
	}
	keyReq, keyResp := parseAs(wire.ParseKeyMaterialRequest), parseAs(wire.ParseKeyMaterialResponse)
	update, updateResp := parseAs(wire.ParseUpdateRequest), parseAs(wire.ParseUpdateRoomResponse)
	submit, submitResp := parseAs(wire.ParseSubmitMessageRequest), parseAs(wire.ParseSubmitMessageResponse)
	consent, query, queryResp := parseAs(wire.ParseConsentEntry), parseAs(wire.ParseIdentifierRequest), parseAs(wire.ParseIdentifierResponse)
	infoResp, tbe := parseAs(wire.ParseGroupInfoResponse), parseAs(wire.ParseGroupInfoRatchetTree)
	fanout := parseAs(wire.ParseFanout)

	for _, c := range []struct {
		name  string
		parse func([]byte) error
		in    []byte
	}{
		{"KeyMaterialRequest: protocol 0", keyReq, append([]byte{0}, req(a, b, r, []byte{0, 1})[1:]...)},
		{"KeyMaterialRequest: protocol 2", keyReq, append([]byte{2}, req(a, b, r, []byte{0, 1})[1:]...)},
		{"KeyMaterialRequest: no suite", keyReq, req(a, b, r, nil)},
		{"KeyMaterialRequest: half a suite", keyReq, req(a, b, r, []byte{0, 1, 0})},
		{"KeyMaterialRequest: too many suites", keyReq, req(a, b, r, make([]byte, 2*wire.MaxSuites+2))},
		{"KeyMaterialRequest: no requester", keyReq, req("", b, r, []byte{0, 1})},
		{"KeyMaterialRequest: no target", keyReq, req(a, "", r, []byte{0, 1})},
		{"KeyMaterialRequest: a room for the target", keyReq, req(a, r, r, []byte{0, 1})},
		{"KeyMaterialRequest: a user for the room", keyReq, req(a, b, a, []byte{0, 1})},
		{"KeyMaterialRequest: a URI of another scheme", keyReq, req("im:alice@a.example", b, r, []byte{0, 1})},
		{"KeyMaterialRequest: a URI that is not UTF-8", keyReq, req("mimi://a.example/u/\xff", b, r, []byte{0, 1})},
		{"KeyMaterialResponse: clients with userUnknown", keyResp, layout(1, 4, b, 32, 1, laptop.String())},
		{"KeyMaterialResponse: client status 3", keyResp, layout(1, 1, b, 32, 3, laptop.String())},
		{"KeyMaterialResponse: a user for the client", keyResp, layout(1, 1, b, len(a)+2, 1, a)},
		{"KeyMaterialResponse: presence 2", keyResp, layout(1, 1, b, 33, 2, laptop.String(), 2)},
		{"KeyMaterialResponse: too many clients", keyResp, layout(1, 1, b, vector(bytes.Repeat(layout(1, laptop.String()), wire.MaxClients+1)))},
		{"ConsentEntry: operation 4", consent, layout(4, a, b, 0, 0)},
		{"ConsentEntry: no requester", consent, layout(1, "", b, 0, 0)},
		{"ConsentEntry: a room for the target", consent, layout(1, a, r, 0, 0)},
		{"ConsentEntry: an empty room", consent, layout(1, a, b, 1, "", 0)},
		{"ConsentEntry: KeyPackages in a revoke", consent, layout(3, a, b, 0, vector(tlspl.Marshal(kp)), 0)},
		{"ConsentEntry: components out of order", consent, layout(1, a, b, 0, 6, 0, 2, 0, 0, 1, 0)},
		{"IdentifierRequest: no element", query, layout(0, 0)},
		{"IdentifierRequest: type 0", query, layout(2, 0, "", 0)},
		{"IdentifierRequest: type 9", query, layout(2, 9, "", 0)},
		{"IdentifierRequest: not UTF-8", query, layout(3, 1, "\xff", 0)},
		{"IdentifierRequest: too many elements", query, layout(vector(bytes.Repeat([]byte{2, 0}, wire.MaxElements+1)), 0)},
		{"IdentifierResponse: a room", queryResp, layout(0, len(r)+1, r, 0, 0)},
		{"IdentifierResponse: too many users", queryResp, layout(0, vector(bytes.Repeat(layout(a), wire.MaxProfiles+1)), 0, 0)},
		{"IdentifierResponse: too many fields", queryResp, layout(0, 0, vector(layout(a, vector(bytes.Repeat([]byte{7, 0, 0}, wire.MaxFields+1)))), 0)},
		{"UpdateRequest: PrivateMessage with a commit", update, layout(private(mls.ContentCommit).Bytes(), 0)},
		{"UpdateRequest: PrivateMessage with a proposal", update, layout(private(mls.ContentProposal).Bytes(), 0)},
		{"UpdateRequest: PublicMessage with application data", update, layout(publicApplication().Bytes(), 0)},
		{"UpdateRequest: Welcome", update, layout(mls.NewMessage(welcome()).Bytes(), 4)},
		{"UpdateRequest: KeyPackage", update, mls.NewMessage(kp).Bytes()},
		{"UpdateRequest: representation 0", update, (&wire.UpdateRequest{Message: commit(), Tree: byDS}).Marshal()},
		{"UpdateRequest: representation 3", update, layout(commit().Bytes(), 0, 3, 4)},
		{"UpdateRequest: no tree option", update, layout(commit().Bytes(), 0, 1, tlspl.Marshal(groupInfo()), 0)},
		{"UpdateRequest: presence 2", update, layout(commit().Bytes(), 2, 1, tlspl.Marshal(groupInfo()), 4)},
		{"UpdateRequest: a commit among the proposals", update, layout(proposal(1).Bytes(), vector(commit().Bytes()))},
		{"UpdateRequest: application data among the proposals", update, layout(proposal(1).Bytes(), vector(private(mls.ContentApplication).Bytes()))},
		{"UpdateRequest: too many proposals", update, layout(proposal(1).Bytes(), vector(longList))},
		{"UpdateRoomResponse: code 4", updateResp, layout(4, "")},
		{"UpdateRoomResponse: description not UTF-8", updateResp, layout(2, "\xff")},
		{"UpdateRoomResponse: too many references", updateResp, layout(3, "", vector(make([]byte, wire.MaxProposals+1)))},
		{"SubmitMessageRequest: protocol 2", submit, layout(2, private(mls.ContentApplication).Bytes(), a)},
		{"SubmitMessageRequest: PrivateMessage with a commit", submit, layout(1, private(mls.ContentCommit).Bytes(), a)},
		{"SubmitMessageRequest: PublicMessage with application data", submit, layout(1, publicApplication().Bytes(), a)},
		{"SubmitMessageRequest: no sender", submit, layout(1, private(mls.ContentApplication).Bytes(), "")},
		{"SubmitMessageRequest: a client as the sender", submit, layout(1, private(mls.ContentApplication).Bytes(), laptop.String())},
		{"SubmitMessageResponse: code 3", submitResp, layout(1, 3)},
		{"SubmitMessageResponse: protocol 0", submitResp, layout(0, 1)},
		{"GroupInfoResponse: status 0", infoResp, layout(1, r, 0)},
		{"GroupInfoResponse: status 4", infoResp, layout(1, r, 4)},
		{"GroupInfoResponse: no room", infoResp, layout(1, "", 3)},
		{"GroupInfoRatchetTree: a commit as pending", tbe, layout(tlspl.Marshal(groupInfo()), 4, vector(layout(commit().Bytes(), uint64(1))))},
		{"FanoutMessage: PrivateMessage with a commit", fanout, layout(uint64(1), private(mls.ContentCommit).Bytes(), 0)},
		{"FanoutMessage: PrivateMessage with a proposal", fanout, layout(uint64(1), private(mls.ContentProposal).Bytes(), 0)},
		{"FanoutMessage: PublicMessage with application data", fanout, layout(uint64(1), publicApplication().Bytes(), 0)},
		{"FanoutMessage: GroupInfo", fanout, layout(uint64(1), mls.NewMessage(groupInfo()).Bytes())},
		{"FanoutMessage: Welcome without tree option", fanout, (&wire.FanoutMessage{Message: mls.NewMessage(welcome())}).Marshal()},
		{"FanoutMessage: nothing", fanout, []byte{}},
		{"FanoutMessage: second one broken", fanout, layout((&wire.FanoutMessage{Message: commit()}).Marshal(), uint64(1), 0, 9)},
		{"FanoutMessage: too many", fanout, bytes.Repeat((&wire.FanoutMessage{Message: proposal(1)}).Marshal(), wire.MaxMessages+1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.parse(c.in)
			if !fault.Is(err, fault.Malformed) {
				t.Fatalf("got %v", err)
			}
			if !strings.HasPrefix(fault.Public(err), "this is not a valid ") {
				t.Errorf("public: %q", fault.Public(err))
			}
		})
	}
	if _, err := wire.ParseSubmitMessageRequest(layout(2, private(mls.ContentApplication).Bytes(), a)); !errors.Is(err, wire.ErrProtocol) {
		t.Errorf("an unknown protocol: %v", err)
	}
}

// TestURISpelling: another spelling of a URI is read, and a signature is over the spelling that arrived.
func TestURISpelling(t *testing.T) {
	key := newKey(t)
	tbs := layout(1, "mimi://A.Example/u/%61lice", bob.String(), "", 2, uint16(1), 0, 0, 0, string(key.Public()), uint16(1), "id")
	sig, err := key.SignWithLabel("KeyMaterialRequestTBS", tbs)
	if err != nil {
		t.Fatal(err)
	}
	q, err := wire.ParseKeyMaterialRequest(layout(tbs, 64, len(sig), sig))
	if err != nil {
		t.Fatal(err)
	}
	if q.RequestingUser != alice || !q.RoomID.IsZero() {
		t.Errorf("%v, %v", q.RequestingUser, q.RoomID)
	}
	if err := q.Verify(); err != nil {
		t.Error(err)
	}
}

// TestSignatures: each signed struct verifies as made and as parsed, and not after any bit of it has changed.
func TestSignatures(t *testing.T) {
	for name, c := range map[string]struct {
		b      []byte
		verify func([]byte) error
	}{
		"KeyMaterialRequest": {keyMaterialRequest(t).Marshal(), func(b []byte) error {
			q, err := wire.ParseKeyMaterialRequest(b)
			if err == nil {
				err = q.Verify()
			}
			return err
		}},
		"GroupInfoRequest": {groupInfoRequest(t, "code").Marshal(), func(b []byte) error {
			q, err := wire.ParseGroupInfoRequest(b)
			if err == nil {
				err = q.Verify()
			}
			return err
		}},
		"GroupInfoResponse": {groupInfoResponse(t).Marshal(), func(b []byte) error {
			q, err := wire.ParseGroupInfoResponse(b)
			if err == nil && q.Status != wire.GroupInfoSuccess {
				err = errors.New("another status")
			}
			if err == nil {
				err = q.Verify()
			}
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.verify(c.b); err != nil {
				t.Fatal(err)
			}
			for i := range c.b {
				c.b[i] ^= 1
				if c.verify(c.b) == nil {
					t.Errorf("verifies with octet %d changed", i)
				}
				c.b[i] ^= 1
			}
		})
	}
}

// TestGroupInfoRequestTBS: the joining code is signed as an optional, absent if empty.
func TestGroupInfoRequestTBS(t *testing.T) {
	for code, tail := range map[string][]byte{"": {0}, "abc": append([]byte{1, 3}, "abc"...)} {
		q := groupInfoRequest(t, code)
		tbs := layout(1, uint16(1), string(q.SignatureKey), tlspl.Marshal(&q.Credential), "hpke", tail)
		if err := mls.VerifyWithLabel(suite, q.SignatureKey, "GroupInfoRequestTBS", tbs, q.Signature); err != nil {
			t.Errorf("code %q: %v", code, err)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	q := &wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: alice, TargetUser: bob}
	if err := q.Sign(newKey(t)); err == nil {
		t.Error("signed without a cipher suite")
	}
	if err := q.Verify(); !fault.Is(err, fault.Malformed) {
		t.Errorf("verify without a cipher suite: %v", err)
	}
	q.Suites = []mls.CipherSuite{2}
	if err := q.Sign(newKey(t)); err == nil {
		t.Error("signed with a key of another suite")
	}
}

func TestSeal(t *testing.T) {
	priv, pub, err := mls.GenerateHPKEKey(suite)
	if err != nil {
		t.Fatal(err)
	}
	tree := &wire.GroupInfoRatchetTree{GroupInfo: groupInfo(), Tree: byDS, Pending: []wire.PendingProposal{{Message: proposal(1), AcceptedTime: 3}}}
	ct, err := tree.Seal(suite, pub, room)
	if err != nil {
		t.Fatal(err)
	}
	resp := &wire.GroupInfoResponse{Protocol: wire.MLS10, Room: room, Status: wire.GroupInfoSuccess, Suite: suite, Encrypted: ct}
	got, err := resp.Open(priv)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Marshal(), tree.Marshal()) {
		t.Error("opened, and not the same")
	}
	other := mimiuri.MustParse("mimi://hub.example/r/other")
	if _, err := wire.OpenGroupInfo(suite, priv, other, ct); !fault.Is(err, fault.Malformed) {
		t.Errorf("for another room: %v", err)
	}
	if _, err := tree.Seal(suite, []byte("no key"), room); err == nil {
		t.Error("sealed to a key that is none")
	}
}

// TestFranking puts the octets together by hand, as section "Message Franking" says.
func TestFranking(t *testing.T) {
	key, hubKey, salt := newKey(t), []byte("hub key"), [16]byte{1, 2, 3}
	content := []byte("application data")
	tag := wire.FrankingTag(salt, content)
	h := hmac.New(sha256.New, salt[:])
	h.Write(content)
	if !bytes.Equal(tag[:], h.Sum(nil)) {
		t.Errorf("franking_tag %x", tag)
	}
	if aad := mls.MarshalSafeAAD([]mls.SafeAADItem{wire.FrankAAD(tag)}); hex.EncodeToString(aad) != "23"+"0020"+"20"+hex.EncodeToString(tag[:]) {
		t.Errorf("frank_aad %x", aad)
	} else if got, ok := wire.FrankTagFromAAD(aad); !ok || got != tag {
		t.Errorf("tag from AAD: %x, %v", got, ok)
	}

	ctx := wire.ServerFrankingContext{Sender: alice, Room: room, AcceptedTimestamp: 1644387225019}
	f, err := wire.MakeFrank(hubKey, key, tag, ctx)
	if err != nil {
		t.Fatal(err)
	}
	context := layout(alice.String(), room.String(), uint64(1644387225019))
	h = hmac.New(sha256.New, hubKey)
	h.Write(tag[:])
	h.Write(context)
	if !bytes.Equal(f.ServerFrank[:], h.Sum(nil)) {
		t.Errorf("server_frank %x", f.ServerFrank)
	}
	tbs := layout(f.ServerFrank[:], uint16(1), context)
	if err := mls.VerifyWithLabel(suite, key.Public(), "FrankingIntegrityTBS", tbs, f.IntegritySignature); err != nil {
		t.Error(err)
	}

	if err := f.Verify(key.Public(), suite, ctx); err != nil {
		t.Error(err)
	}
	if !f.VerifyServer(hubKey, tag, ctx) {
		t.Error("the hub does not know its own frank")
	}
	if f.VerifyServer([]byte("other"), tag, ctx) || f.VerifyServer(hubKey, [32]byte{}, ctx) {
		t.Error("the hub takes another key's or message's frank for its own")
	}
	for name, change := range map[string]func(*wire.Frank, *wire.ServerFrankingContext){
		"sender":    func(_ *wire.Frank, c *wire.ServerFrankingContext) { c.Sender = bob },
		"room":      func(_ *wire.Frank, c *wire.ServerFrankingContext) { c.Room.ID += "2" },
		"timestamp": func(_ *wire.Frank, c *wire.ServerFrankingContext) { c.AcceptedTimestamp++ },
		"frank":     func(f *wire.Frank, _ *wire.ServerFrankingContext) { f.ServerFrank[0] ^= 1 },
		"suite":     func(f *wire.Frank, _ *wire.ServerFrankingContext) { f.Suite = 3 },
		"signature": func(f *wire.Frank, _ *wire.ServerFrankingContext) {
			f.IntegritySignature = append([]byte{1}, f.IntegritySignature[1:]...)
		},
	} {
		f2, c2 := *f, ctx
		change(&f2, &c2)
		if err := f2.Verify(key.Public(), suite, c2); !fault.Is(err, fault.Forbidden) {
			t.Errorf("changed %s: %v", name, err)
		}
	}
	for name, aad := range map[string][]byte{
		"empty":       {},
		"no SafeAAD":  []byte("something else"),
		"other":       mls.MarshalSafeAAD([]mls.SafeAADItem{{ID: 0x40, Data: tag[:]}}),
		"short":       mls.MarshalSafeAAD([]mls.SafeAADItem{{ID: 0x20, Data: tag[:31]}}),
		"no elements": mls.MarshalSafeAAD(nil),
	} {
		if got, ok := wire.FrankTagFromAAD(aad); ok {
			t.Errorf("tag from AAD, %s: %x", name, got)
		}
	}
}

func TestCodeNames(t *testing.T) {
	for want, c := range map[string]interface{ String() string }{
		"mls10": wire.MLS10, "Protocol(0)": wire.Protocol(0),
		"noConsentForThisRoom": wire.NoConsentForThisRoom, "userDeleted": wire.UserDeleted, "KeyMaterialUserCode(8)": wire.KeyMaterialUserCode(8),
		"nothingCompatible": wire.ClientNothingCompatible, "KeyMaterialClientCode(3)": wire.KeyMaterialClientCode(3),
		"invalidProposal": wire.InvalidProposal, "UpdateCode(255)": wire.UpdateCode(255),
		"epochTooOld": wire.EpochTooOld, "SubmitCode(3)": wire.SubmitCode(3),
		"noSuchRoom": wire.GroupInfoNoSuchRoom, "GroupInfoCode(0)": wire.GroupInfoCode(0),
	} {
		if c.String() != want {
			t.Errorf("%s, want %s", c, want)
		}
	}
}
