package policy

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

var (
	room  = mimiuri.MustParse("mimi://a.example/r/clubhouse")
	hub   = mimiuri.MustParse("mimi://a.example")
	alice = mimiuri.MustParse("mimi://a.example/u/alice")
	bob   = mimiuri.MustParse("mimi://b.example/u/bob")
	cathy = mimiuri.MustParse("mimi://c.example/u/cathy")
	dave  = mimiuri.MustParse("mimi://d.example/u/dave")
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// str is opaque<V> of a short text, in hex.
func str(s string) string {
	return hex.EncodeToString([]byte{byte(len(s))}) + hex.EncodeToString([]byte(s))
}

// codec is one component's Marshal and Parse for values of any type.
type codec struct {
	name  string
	id    mls.ComponentID // 0: no data of a GroupContext by itself
	value any
	hex   string
	enc   func(v any) []byte
	dec   func(b []byte) (any, error)
}

func codecOf[T any](name string, id mls.ComponentID, value T, hex string, enc func(T) []byte, dec func([]byte) (T, error)) codec {
	return codec{name, id, value, hex,
		func(v any) []byte { return enc(v.(T)) },
		func(b []byte) (any, error) { return dec(b) }}
}

// The octets are written by hand from the structs of the drafts.
func codecs() []codec {
	ext := "00" + "00" + "00" + "00" + "00" + "00" + "00" + "00" + "00" + "00"
	return []codec{
		codecOf("ParticipantListData", ComponentParticipantList,
			ParticipantList{{alice, 4}, {hub, 5}},
			"32"+str("mimi://a.example/u/alice")+"00000004"+str("mimi://a.example")+"00000005",
			ParticipantList.Marshal, ParseParticipantList),
		codecOf("ParticipantListUpdate", 0,
			ParticipantListUpdate{Changed: []RoleChange{{1, 3}}, Removed: []uint32{2, 7}, Added: []Participant{{bob, 2}}},
			"08 00000001 00000003"+"08 00000002 00000007"+"1b"+str("mimi://b.example/u/bob")+"00000002",
			ParticipantListUpdate.Marshal, ParseParticipantListUpdate),
		codecOf("RoleData", ComponentRolesList,
			RoleData{{Index: 2, Name: "user", Description: "d", Capabilities: []Capability{CanSendMessage, CanKick},
				MinParticipants: 1, MaxParticipants: u32(9), MinActive: 0, MaxActive: nil,
				Changes: []RoleChanges{{0, []uint32{2, 3}}, {2, []uint32{0}}}}},
			"35"+"00000002"+str("user")+str("d")+"04 0100 000c"+"00000001"+"01 00000009"+"00000000"+"00"+
				"16"+"00000000 08 00000002 00000003"+"00000002 04 00000000",
			RoleData.Marshal, ParseRoleData),
		codecOf("PreAuthData", ComponentPreAuthList,
			PreAuthData{{Claims: []Claim{{ClaimID{2, []byte{0x55}}, []byte("v")}}, Role: Role{Index: 3, Name: "a"}}},
			"1a"+"06"+"0002 01 55 01 76"+"00000003"+str("a")+"00"+"00"+"00000000"+"00"+"00000000"+"00"+"00",
			PreAuthData.Marshal, ParsePreAuthData),
		codecOf("RoomMetaData", ComponentRoomMetadata,
			RoomMetadata{Room: room, Name: "Club", Descriptions: []RichDescription{{"", "en", []byte("hi")}},
				Avatar: "https://a.example/i", Subject: "s", Mood: ""},
			str("mimi://a.example/r/clubhouse")+str("Club")+"07"+"00"+str("en")+str("hi")+str("https://a.example/i")+str("s")+"00",
			RoomMetadata.Marshal, ParseRoomMetadata),
		codecOf("BaseRoomPolicy", ComponentBaseRoomPolicy,
			&BaseRoomPolicy{ParentDependent: true, ParentRoom: room, MultiDevice: true, MaxUsers: u32(10), PersistentRoom: true,
				PolicyComponents: []mls.ComponentID{ComponentRolesList, ComponentPreAuthList}},
			"00 01 1d"+str("mimi://a.example/r/clubhouse")+"01"+"00"+"01 0000000a"+"00 01 00"+"04 0025 0026",
			(*BaseRoomPolicy).Marshal, ParseBaseRoomPolicy),
		codecOf("StatusNotificationPolicy", ComponentStatusNotification,
			StatusNotificationPolicy{Required, Forbidden}, "01 02",
			StatusNotificationPolicy.Marshal, ParseStatusNotificationPolicy),
		codecOf("JoinLinkPolicy", ComponentJoinLinkPolicy,
			JoinLinkPolicy{true, "https://a.example/j", false, 3600},
			"01"+str("https://a.example/j")+"00 00000e10",
			JoinLinkPolicy.Marshal, ParseJoinLinkPolicy),
		codecOf("JoinLinksData", ComponentJoinLinks,
			JoinLinks{[]byte("one"), []byte{0xff}}, "06"+str("one")+"01ff",
			JoinLinks.Marshal, ParseJoinLinks),
		codecOf("JoinLinksUpdate", 0,
			JoinLinksUpdate{Removed: []uint32{1}, Added: [][]byte{[]byte("x")}}, "04 00000001 02 0178",
			JoinLinksUpdate.Marshal, ParseJoinLinksUpdate),
		codecOf("LinkPreviewPolicy, mandatory proxy", ComponentLinkPreview,
			LinkPreviewPolicy{Optional, Required, Forbidden, Required, []string{"https://p"}},
			"00 01 02 01"+"0a"+str("https://p"),
			LinkPreviewPolicy.Marshal, ParseLinkPreviewPolicy),
		codecOf("LinkPreviewPolicy, forbidden proxy", ComponentLinkPreview,
			LinkPreviewPolicy{Forbidden, Optional, Optional, Forbidden, nil}, "02 00 00 02",
			LinkPreviewPolicy.Marshal, ParseLinkPreviewPolicy),
		codecOf("AssetPolicy", ComponentAssetPolicy,
			AssetPolicy{UploadLocation: UploadLocalProvider, UploadDomains: []UploadDomains{{"b.example", []string{"cdn.b"}}},
				AllowedDownloads: []DownloadType{DownloadDirect, DownloadOHTTP}, ForbiddenDownloads: []DownloadType{DownloadHubProxy},
				DefaultDownload: DownloadOHTTP, MaxImage: 1, MaxAudio: 2, MaxVideo: 3, MaxAttachment: 1 << 33,
				ForbiddenMediaTypes: []MediaType{{"text/html", []MediaTypeParameter{{"a", "b"}}}},
				PermittedMediaTypes: &[]MediaType{{"image/png", nil}}},
			"01"+"11"+str("b.example")+"06"+str("cdn.b")+"02 00 02"+"01 01"+"02"+
				"0000000000000001 0000000000000002 0000000000000003 0000000200000000"+
				"0f"+str("text/html")+"04"+str("a")+str("b")+"01 0b"+str("image/png")+"00",
			AssetPolicy.Marshal, ParseAssetPolicy),
		codecOf("LoggingPolicy, required", ComponentLogging,
			LoggingPolicy{Required, []string{"mimi://a.example/d/log/1"}, "https://m", ""},
			"01"+"19"+str("mimi://a.example/d/log/1")+str("https://m")+"00",
			LoggingPolicy.Marshal, ParseLoggingPolicy),
		codecOf("LoggingPolicy, forbidden", ComponentLogging,
			LoggingPolicy{Logging: Forbidden}, "02", LoggingPolicy.Marshal, ParseLoggingPolicy),
		codecOf("HistoryPolicy, optional", ComponentChatHistory,
			HistoryPolicy{Optional, []uint32{3, 4}, true, 86400}, "00 08 00000003 00000004 01 00015180",
			HistoryPolicy.Marshal, ParseHistoryPolicy),
		codecOf("HistoryPolicy, forbidden", ComponentChatHistory,
			HistoryPolicy{Sharing: Forbidden}, "02", HistoryPolicy.Marshal, ParseHistoryPolicy),
		codecOf("BotPolicy", ComponentBot,
			BotPolicy{{"poker", "deals", "https://p", false, 2, true, true}},
			"1d"+str("poker")+str("deals")+str("https://p")+"00 00000002 01 01",
			BotPolicy.Marshal, ParseBotPolicy),
		codecOf("MessageExpiration, required", ComponentMessageExpiration,
			MessageExpiration{Required, 60, 600, u32(120)}, "01 0000003c 00000258 01 00000078",
			MessageExpiration.Marshal, ParseMessageExpiration),
		codecOf("MessageExpiration, forbidden", ComponentMessageExpiration,
			MessageExpiration{Expiring: Forbidden}, "02", MessageExpiration.Marshal, ParseMessageExpiration),
		codecOf("MediaTypeList", mls.ComponentContentMediaTypes,
			[]MediaType{{"text/plain", []MediaTypeParameter{{"charset", "UTF-8"}}}},
			"1a"+str("text/plain")+"0e"+str("charset")+str("UTF-8"),
			MarshalMediaTypes, ParseMediaTypes),
		codecOf("OperationalParameters", ComponentOperational,
			&OperationalParameters{
				Mandatory: ExtendedCapabilities{Versions: []mls.ProtocolVersion{1}, Components: []mls.ComponentID{0x20},
					ContentTypes: []mls.ContentType{1}},
				HandshakeFormats: []mls.WireFormat{1}, ExternalCommits: true,
				PendingProposals: PendingProposalPolicy{StrategyRandomDelay, 1000, 5000},
				LeafNodeUpdate:   MinDefaultMax{1, 2, 3}, EpochTolerance: 3, PadToSize: 256, MaxGenerationsSkipped: 1000,
				MaxKeyPackageLifetime: 4, MaxCredentialLifetime: 5, ResumptionPSKLifetime: 6,
				SenderNonceKeyPairLifetime: MinDefaultMax{7, 8, 9}, MaxKeyPairs: 10,
				BufferIncomingMessage: MinDefaultMax{11, 12, 13}, MaxBufferedMessages: 14},
			"02 0001 00 00 00 00 00 02 0020 00 00 01 01"+ext+ext+"02 0001"+"00 01"+
				"02 00000000000003e8 0000000000001388"+
				"0000000000000001 0000000000000002 0000000000000003"+"03 0100 000003e8"+
				"0000000000000004 0000000000000005 0000000000000006"+
				"0000000000000007 0000000000000008 0000000000000009"+"0000000a"+
				"000000000000000b 000000000000000c 000000000000000d"+"0000000e",
			(*OperationalParameters).Marshal, ParseOperationalParameters),
	}
}

func TestOctets(t *testing.T) {
	for _, c := range codecs() {
		t.Run(c.name, func(t *testing.T) {
			want := unhex(t, c.hex)
			if got := c.enc(c.value); !bytes.Equal(got, want) {
				t.Errorf("encoded\n %x, want\n %x", got, want)
			}
			v, err := c.dec(want)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(v, c.value) {
				t.Errorf("decoded\n %+v, want\n %+v", v, c.value)
			}
			// Every shorter input is an error and so is every longer one, which must say who is to blame.
			for i := range want {
				if _, err := c.dec(want[:i]); fault.KindOf(err) != fault.Malformed {
					t.Fatalf("cut after %d octets: %v", i, err)
				}
			}
			if _, err := c.dec(append(bytes.Clone(want), 0)); !errors.Is(err, tlspl.ErrTrailing) {
				t.Errorf("an octet too many: %v", err)
			}
			if c.id != 0 && c.id != ComponentParticipantList && c.id != ComponentJoinLinks {
				if got, err := ApplyAppData(c.id, []byte("old"), [][]byte{want}); err != nil || !bytes.Equal(got, want) {
					t.Errorf("ApplyAppData: %x, %v", got, err)
				}
				if _, err := ApplyAppData(c.id, nil, [][]byte{want[:len(want)-1]}); fault.KindOf(err) != fault.Malformed {
					t.Errorf("ApplyAppData of what cannot be parsed: %v", err)
				}
			}
		})
	}
}

func TestRefusedValues(t *testing.T) {
	list := func(entries string) string { return hex.EncodeToString([]byte{byte(len(entries) / 2)}) + entries }
	aliceEntry := str("mimi://a.example/u/alice") + "00000002"
	for _, c := range []struct {
		name string
		hex  string
		dec  func([]byte) error
	}{
		{"participant with role 0", list(str("mimi://a.example/u/alice") + "00000000"), checks(ParseParticipantList)},
		{"participant twice", list(aliceEntry + aliceEntry), checks(ParseParticipantList)},
		{"participant twice, spelt otherwise", "3c" + aliceEntry + str("mimi://A.EXAMPLE/u/%61lice") + "00000002", checks(ParseParticipantList)},
		{"participant that is a room", list(str("mimi://a.example/r/alice") + "00000002"), checks(ParseParticipantList)},
		{"participant that is a client", list(str("mimi://a.example/d/alice/1") + "00000002"), checks(ParseParticipantList)},
		{"participant that is no URI", list(str("alice@a.example") + "00000002"), checks(ParseParticipantList)},
		{"change to role 0", "08 00000001 00000000 00 00", checks(ParseParticipantListUpdate)},
		{"half an index", "00 02 0000 00", checks(ParseParticipantListUpdate)},
		{"role twice", "24" + strings.Repeat("00000002 00 00 00 00000000 00 00000000 00 00", 2), checks(ParseRoleData)},
		{"presence byte 2", "12" + "00000002 00 00 00 00000000 02 00000000 00 00", checks(ParseRoleData)},
		{"metadata with a NUL", "00" + str("a\x00b") + "00 00 00 00", checks(ParseRoomMetadata)},
		{"metadata not UTF-8", "00" + str("\xff") + "00 00 00 00", checks(ParseRoomMetadata)},
		{"metadata of a user", str("mimi://a.example/u/alice") + "00 00 00 00 00", checks(ParseRoomMetadata)},
		{"avatar with a space", "00 00 00" + str("https://a b") + "00 00", checks(ParseRoomMetadata)},
		{"bool 2", "02 00 00 01 00 00 00 00 00 00", checks(ParseBaseRoomPolicy)},
		{"two parents", "00 01 3a" + str("mimi://a.example/r/clubhouse") + str("mimi://a.example/r/clubhouse") + "01 00 00 00 00 00 00", checks(ParseBaseRoomPolicy)},
		{"parent_dependent without a parent", "00 01 00 01 00 00 00 00 00 00", checks(ParseBaseRoomPolicy)},
		{"a parent without parent_dependent", "00 00 1d" + str("mimi://a.example/r/clubhouse") + "01 00 00 00 00 00 00", checks(ParseBaseRoomPolicy)},
		{"optionality 3", "03 00", checks(ParseStatusNotificationPolicy)},
		{"autodetect mandatory", "01 00 00 02", checks(ParseLinkPreviewPolicy)},
		{"proxy use without a proxy", "00 00 00 00 00", checks(ParseLinkPreviewPolicy)},
		{"logging required of nobody", "01 00 00 00", checks(ParseLoggingPolicy)},
		{"history shared by the banned", "00 04 00000001 00 00000000", checks(ParseHistoryPolicy)},
		{"history shared by strangers", "00 04 00000000 00 00000000", checks(ParseHistoryPolicy)},
		{"local bot with a role", "0a 00 00 00 01 00000002 00 00", checks(ParseBotPolicy)},
		{"expiration, max below min", "00 00000002 00000001 00", checks(ParseMessageExpiration)},
		{"no media type", "00", checks(ParseMediaTypes)},
		{"upload location 3", "03", checks(ParseAssetPolicy)},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := unhex(t, c.hex)
			err := c.dec(b)
			if fault.KindOf(err) != fault.Malformed {
				t.Fatalf("%x: %v", b, err)
			}
			if c.name != "upload location 3" && c.name != "half an index" && errors.Is(err, tlspl.ErrShort) {
				t.Fatalf("refused for its length, which is not what is tested: %v", err)
			}
		})
	}
	if _, err := ParseRoomMetadata(make([]byte, MaxComponent+1)); fault.KindOf(err) != fault.Malformed {
		t.Errorf("a component over the limit: %v", err)
	}
	long := RoomMetadata{Name: strings.Repeat("x", maxText+1)}
	if _, err := ParseRoomMetadata(long.Marshal()); fault.KindOf(err) != fault.Malformed {
		t.Errorf("a name over the limit: %v", err)
	}
}

func TestParticipantListApply(t *testing.T) {
	old := ParticipantList{{alice, 4}, {bob, 2}, {cathy, 2}}
	for _, c := range []struct {
		name    string
		updates []ParticipantListUpdate
		want    ParticipantList // nil: refused
		touched bool
	}{
		{"one update: changes, removals, additions", []ParticipantListUpdate{
			{Changed: []RoleChange{{1, 3}}, Removed: []uint32{0}, Added: []Participant{{dave, 2}}}},
			ParticipantList{{bob, 3}, {cathy, 2}, {dave, 2}}, false},
		{"indices of a later update refer to the list before the commit", []ParticipantListUpdate{
			{Removed: []uint32{0}}, {Changed: []RoleChange{{2, 3}}}},
			ParticipantList{{bob, 2}, {cathy, 3}}, false},
		{"additions in the order of the updates", []ParticipantListUpdate{
			{Added: []Participant{{dave, 2}}}, {Removed: []uint32{1}}, {Added: []Participant{{hub, 5}}}},
			ParticipantList{{alice, 4}, {cathy, 2}, {dave, 2}, {hub, 5}}, false},
		{"nothing", []ParticipantListUpdate{{}}, old, false},
		{"removed twice", []ParticipantListUpdate{{Removed: []uint32{1}}, {Removed: []uint32{1}}}, nil, true},
		{"removed twice in one update", []ParticipantListUpdate{{Removed: []uint32{1, 1}}}, nil, true},
		{"changed and removed", []ParticipantListUpdate{{Changed: []RoleChange{{1, 3}}}, {Removed: []uint32{1}}}, nil, true},
		{"changed twice", []ParticipantListUpdate{{Changed: []RoleChange{{1, 3}, {1, 2}}}}, nil, true},
		{"removed and added again", []ParticipantListUpdate{{Removed: []uint32{1}, Added: []Participant{{bob, 4}}}}, nil, true},
		{"added twice", []ParticipantListUpdate{{Added: []Participant{{dave, 2}}}, {Added: []Participant{{dave, 4}}}}, nil, true},
		{"added though listed", []ParticipantListUpdate{{Added: []Participant{{bob, 4}}}}, nil, false},
		{"index past the end", []ParticipantListUpdate{{Removed: []uint32{3}}}, nil, false},
		{"index of an addition", []ParticipantListUpdate{{Added: []Participant{{dave, 2}}}, {Changed: []RoleChange{{3, 4}}}}, nil, false},
		{"greatest index", []ParticipantListUpdate{{Changed: []RoleChange{{1<<32 - 1, 4}}}}, nil, false},
		{"change to role 0", []ParticipantListUpdate{{Changed: []RoleChange{{1, 0}}}}, nil, false},
		{"added with role 0", []ParticipantListUpdate{{Added: []Participant{{dave, 0}}}}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := append(ParticipantList(nil), old...)
			got, err := old.Apply(c.updates...)
			var octets [][]byte
			for _, u := range c.updates {
				octets = append(octets, u.Marshal())
			}
			data, err2 := ApplyAppData(ComponentParticipantList, old.Marshal(), octets)
			if !reflect.DeepEqual(old, before) {
				t.Fatal("the old list was changed")
			}
			if c.want == nil {
				if fault.KindOf(err) != fault.Malformed || fault.KindOf(err2) != fault.Malformed {
					t.Fatalf("got %v and %v, %v", got, err, err2)
				}
				if errors.Is(err, ErrTouchedTwice) != c.touched || errors.Is(err2, ErrTouchedTwice) != c.touched {
					t.Fatalf("the reason is %v, %v", err, err2)
				}
				return
			}
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			if !reflect.DeepEqual(got, c.want) || !bytes.Equal(data, c.want.Marshal()) {
				t.Fatalf("got %v, want %v", got, c.want)
			}
		})
	}
}

// The list is part of the group's agreed state: whoever spells a domain in capitals must get it back so.
func TestApplyKeepsSpelling(t *testing.T) {
	spell := func(s string, role uint32) string {
		w := tlspl.NewWriter()
		w.String(s)
		w.Uint32(role)
		return string(w.Bytes())
	}
	vec := func(s string) []byte {
		w := tlspl.NewWriter()
		w.Opaque([]byte(s))
		return w.Bytes()
	}
	old := vec(spell("MIMI://A.example/u/%61lice", 4) + spell("mimi://B.example/u/bob", 2))
	add := append([]byte{0, 0}, vec(spell("mimi://c.EXAMPLE/u/cathy", 2))...)
	got, err := ApplyAppData(ComponentParticipantList, old, [][]byte{add})
	if err != nil {
		t.Fatal(err)
	}
	want := vec(spell("MIMI://A.example/u/%61lice", 4) + spell("mimi://B.example/u/bob", 2) + spell("mimi://c.EXAMPLE/u/cathy", 2))
	if !bytes.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	l, err := ParseParticipantList(got)
	if err != nil || l.Index(alice) != 0 || l.Index(cathy) != 2 {
		t.Fatal(l, err)
	}
	again := append([]byte{0, 0}, vec(spell("mimi://a.example/u/alice", 2))...)
	if _, err := ApplyAppData(ComponentParticipantList, got, [][]byte{again}); fault.KindOf(err) != fault.Malformed {
		t.Fatalf("a user listed in another spelling was added again: %v", err)
	}
}

func TestApplyAppData(t *testing.T) {
	m1, m2 := RoomMetadata{Room: room, Name: "1"}.Marshal(), RoomMetadata{Room: room, Name: "2"}.Marshal()
	t.Run("a single room metadata update is valid per commit", func(t *testing.T) {
		if _, err := ApplyAppData(ComponentRoomMetadata, m1, [][]byte{m1, m2}); fault.KindOf(err) != fault.Malformed {
			t.Fatal(err)
		}
	})
	t.Run("a component that is not known is invalid", func(t *testing.T) {
		for _, id := range []mls.ComponentID{0, ComponentFrankAAD, mls.ComponentAppAck, 0x0a0a, 0x8000} {
			if _, err := ApplyAppData(id, nil, [][]byte{{1}}); fault.KindOf(err) != fault.Malformed {
				t.Errorf("%04x: %v", id, err)
			}
		}
	})
	t.Run("join links: removals refer to the list before, additions follow", func(t *testing.T) {
		old := JoinLinks{[]byte("a"), []byte("b"), []byte("c")}.Marshal()
		got, err := ApplyAppData(ComponentJoinLinks, old, [][]byte{
			JoinLinksUpdate{Removed: []uint32{0}, Added: [][]byte{[]byte("d")}}.Marshal(),
			JoinLinksUpdate{Removed: []uint32{2}}.Marshal()})
		if want := (JoinLinks{[]byte("b"), []byte("d")}).Marshal(); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q, %v", got, err)
		}
		for _, u := range []JoinLinksUpdate{{Removed: []uint32{3}}, {Removed: []uint32{1, 1}}} {
			if _, err := ApplyAppData(ComponentJoinLinks, old, [][]byte{u.Marshal()}); fault.KindOf(err) != fault.Malformed {
				t.Errorf("%v: %v", u, err)
			}
		}
	})
}

func TestRoleDataValidate(t *testing.T) {
	fixed := &BaseRoomPolicy{FixedMembership: true}
	add, join := []Capability{CanAddParticipant}, []Capability{CanOpenJoin}
	for _, c := range []struct {
		name string
		base *BaseRoomPolicy
		role Role
		ok   bool
	}{
		{"canOpenJoin in role 0", nil, Role{Index: 0, Capabilities: join}, true},
		{"canOpenJoin in another role", nil, Role{Index: 2, Capabilities: join}, false},
		{"canAddParticipant", nil, Role{Index: 2, Capabilities: add}, true},
		{"canAddParticipant, membership not fixed", &BaseRoomPolicy{}, Role{Index: 2, Capabilities: add}, true},
		{"canAddParticipant, membership fixed", fixed, Role{Index: 2, Capabilities: add}, false},
		{"canAddParticipant of role 0, membership fixed", fixed, Role{Index: 0, Capabilities: add}, true},
		{"canAddParticipant of the banned, membership fixed", fixed, Role{Index: 1, Name: "banned", Capabilities: add}, true},
		{"canAddParticipant of another role 1, membership fixed", fixed, Role{Index: 1, Name: "x", Capabilities: add}, false},
		{"another capability, membership fixed", fixed, Role{Index: 2, Capabilities: []Capability{CanKick}}, true},
		{"maximum below minimum", nil, Role{Index: 2, MinParticipants: 2, MaxParticipants: u32(1)}, false},
		{"active maximum below minimum", nil, Role{Index: 2, MinActive: 2, MaxActive: u32(1)}, false},
		{"maximum equal to minimum", nil, Role{Index: 2, MinParticipants: 2, MaxParticipants: u32(2)}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := (RoleData{c.role}).Validate(c.base); (err == nil) != c.ok {
				t.Error(err)
			}
		})
	}
}

func TestTooManyParticipants(t *testing.T) {
	var l []entry
	for i := range MaxParticipants {
		u := mimiuri.URI{Domain: "a.example", Kind: mimiuri.User, ID: strconv.Itoa(i)}
		l = append(l, entry{Participant{u, 2}, u.String()})
	}
	if _, err := applyEntries(l, []entryUpdate{{removed: []uint32{0}, added: []entry{{Participant{bob, 2}, bob.String()}}}}); err != nil {
		t.Error(err)
	}
	if _, err := applyEntries(l, []entryUpdate{{added: []entry{{Participant{bob, 2}, bob.String()}}}}); err == nil {
		t.Error("one more than the limit")
	}
}

func TestCapabilityNames(t *testing.T) {
	for c, want := range map[Capability]string{
		0x0000: "canAddParticipant", 0x000b: "canUnBan", 0x0011: "canCreateSubgroup", 0x0100: "canSendMessage",
		0x010f: "canEditOtherTopic", 0x0111: "canTargetMessage", 0x0200: "canUploadImage", 0x020b: "canCopyLink",
		0x0304: "canChangeRoomMood", 0x0383: "canChangeOwnAvatar", 0x0407: "canViewSharedScreen",
		0x0502: "canChangeRoomMembershipStyle", 0x0505: "canChangeOtherPolicyAttribute",
		0x0605: "canSendMLSExternalCommit", 0xf001: "capability 0xf001",
	} {
		if c.String() != want {
			t.Errorf("%04x: %s, want %s", uint16(c), c, want)
		}
	}
}

// FuzzComponents holds, for every component: a parser never panics, what it takes is encoded to octets it takes
// again and that are then the same, and ApplyAppData agrees with the parser.
func FuzzComponents(f *testing.F) {
	all := codecs()
	for i, c := range all {
		f.Add(uint8(i), c.enc(c.value))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		c := all[int(which)%len(all)]
		v, err := c.dec(b)
		if err != nil {
			if fault.KindOf(err) != fault.Malformed {
				t.Fatalf("%s: %v", c.name, err)
			}
			return
		}
		enc := c.enc(v)
		v2, err := c.dec(enc)
		if err != nil {
			t.Fatalf("%s: %x was read and written as %x, which is not: %v", c.name, b, enc, err)
		}
		if again := c.enc(v2); !bytes.Equal(again, enc) {
			t.Fatalf("%s: %x, then %x", c.name, enc, again)
		}
	})
}

// FuzzLeafUser holds that a credential names a user and a client of one provider, or nobody.
func FuzzLeafUser(f *testing.F) {
	f.Add([]byte("mimi://b.example/d/bob/1"), false)
	f.Add([]byte("mimi://b.example/d/bob@x/y/1"), false)
	f.Add([]byte{0x30, 0x03, 0x02, 0x01, 0x01}, true)
	f.Fuzz(func(t *testing.T, b []byte, cert bool) {
		c := mls.BasicCredential(b)
		if cert {
			c = mls.X509Credential([][]byte{b})
		}
		user, client, err := LeafUser(&mls.LeafNode{Credential: c})
		if err != nil {
			if fault.KindOf(err) != fault.Malformed || !user.IsZero() || !client.IsZero() {
				t.Fatal(user, client, err)
			}
			return
		}
		if user.Kind != mimiuri.User || client.Kind != mimiuri.Client || user.Domain != client.Domain || user.ID == "" {
			t.Fatal(user, client)
		}
	})
}

// FuzzApplyAppData holds that the new data of a component, if there is any, can be read and updated again.
func FuzzApplyAppData(f *testing.F) {
	old := ParticipantList{{alice, 4}, {bob, 2}}.Marshal()
	f.Add(uint16(ComponentParticipantList), old, ParticipantListUpdate{Added: []Participant{{cathy, 2}}}.Marshal(), []byte{0, 0, 0})
	f.Add(uint16(ComponentJoinLinks), JoinLinks{[]byte("a")}.Marshal(), JoinLinksUpdate{Removed: []uint32{0}}.Marshal(), []byte{0, 0})
	f.Add(uint16(ComponentStatusNotification), []byte{0, 0}, []byte{1, 1}, []byte{2, 2})
	nothing := map[mls.ComponentID][]byte{ComponentParticipantList: {0, 0, 0}, ComponentJoinLinks: {0, 0}}
	f.Fuzz(func(t *testing.T, id uint16, old, u1, u2 []byte) {
		got, err := ApplyAppData(mls.ComponentID(id), old, [][]byte{u1, u2})
		if err != nil {
			if fault.KindOf(err) != fault.Malformed {
				t.Fatal(err)
			}
			return
		}
		next := got
		if u, ok := nothing[mls.ComponentID(id)]; ok {
			next = u
		}
		again, err := ApplyAppData(mls.ComponentID(id), got, [][]byte{next})
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%04x: %x, then %x, %v", id, got, again, err)
		}
	})
}
