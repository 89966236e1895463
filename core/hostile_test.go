package core_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/content"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/federation"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/policy"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/wire"
)

// speak gives a client that sends whatever it is told to, with a good certificate of the domain.
func (n *network) speak(t *testing.T, domain string) *federation.Client {
	t.Helper()
	cert, err := n.certificate(domain)
	if err != nil {
		t.Fatal(err)
	}
	c := federation.NewClient(federation.Config{Domain: domain, Certificate: func() (*tls.Certificate, error) { return cert, nil },
		Roots: n.roots, Resolve: n.resolve, Log: zerolog.Nop(), Limits: federation.Limits{Body: 64 << 20, SubmitBody: 64 << 20}})
	t.Cleanup(c.CloseIdle)
	return c
}

var clientTables = []string{"client_room", "client_ratchet", "client_pending", "inbox", "seen", "intent", "event", "message"}
var hubTables = []string{"hub_room", "hub_log", "hub_cursor", "hub_answer", "hub_route"}

// changed parses a FanoutMessage, changes it and encodes it again.
func changed(t *testing.T, body []byte, change func(*wire.FanoutMessage)) []byte {
	t.Helper()
	l, err := wire.ParseFanout(body)
	if err != nil {
		t.Fatal(err)
	}
	change(l[0])
	return l[0].Marshal()
}

// TestHostileHub: what a room's hub may send, and must not do harm.
func TestHostileHub(t *testing.T) {
	n, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0], ps[1], ps[2]
	var mu sync.Mutex
	kinds := map[string][]byte{} // one FanoutMessage of each sort that b or c got
	for _, p := range []*provider{b, c} {
		p.guard().in = singly(func(m *wire.FanoutMessage, let func([]byte) error) error {
			kind := "Welcome"
			if m.Message.Welcome == nil {
				kind = m.Message.ContentType().String()
			}
			mu.Lock()
			kinds[p.domain+" "+kind] = m.Marshal()
			mu.Unlock()
			return let(m.Marshal())
		})
	}
	for _, p := range ps {
		p.wait = 300 * time.Millisecond
		p.start()
	}
	room := open(t, a, b.user("bob"), c.user("carol"))
	b.awaitJoined(room, c.user("carol"))
	talk(t, room, "before", map[*provider]string{a: "alice", b: "bob", c: "carol"})
	mu.Lock()
	message, commit, welcome := kinds["b.example application"], kinds["b.example commit"], kinds["c.example Welcome"]
	var all []byte
	for k, m := range kinds {
		if k[0] == 'b' {
			all = append(all, m...)
		}
	}
	mu.Unlock()
	if message == nil || commit == nil || welcome == nil {
		t.Fatalf("seen only %d kinds of messages", len(kinds))
	}
	epoch, _, err := b.core.Client.GroupState(context.Background(), room)
	if err != nil {
		t.Fatal(err)
	}
	hub := n.speak(t, "a.example")

	for _, x := range []struct {
		name string
		from *federation.Client
		room mimiuri.URI
		body []byte
		kind fault.Kind
	}{
		{"nothing", hub, room, nil, fault.Malformed},
		{"garbage", hub, room, []byte("garbage"), fault.Malformed},
		{"a message, and the half of another", hub, room, append(slices.Clone(message), commit[:len(commit)/2]...), fault.Malformed},
		{"an oversized body", hub, room, bytes.Repeat(message, 17<<20/len(message)), fault.TooLarge},
		{"a message of another group", hub, a.room("other"), message, fault.Malformed},
		{"a message into an unknown room", hub, a.room("other"), changed(t, message, func(m *wire.FanoutMessage) {
			m.Message.PrivateMessage.GroupID = []byte(a.room("other").GroupOf().String())
		}), fault.NotFound},
		{"a Welcome for someone else", hub, a.room("other"), welcome, fault.NotFound},
		{"a message from who is not the hub", n.speak(t, "c.example"), room, message, fault.Forbidden},
	} {
		t.Run(x.name, func(t *testing.T) {
			before := b.digest(t, clientTables...)
			if err := x.from.Notify(context.Background(), "b.example", x.room, x.body); !fault.Is(err, x.kind) {
				t.Errorf("the answer is %v, not %v", err, x.kind)
			}
			if b.digest(t, clientTables...) != before {
				t.Error("something has changed")
			}
		})
	}

	for _, x := range []struct {
		name    string
		body    []byte
		dropped int
	}{
		{"everything again", all, 0},
		{"a Welcome for someone else into a room that is held", welcome, 1},
		{"an old message in other words", changed(t, message, func(m *wire.FanoutMessage) { m.Message.PrivateMessage.Ciphertext[0] ^= 1 }), 1},
		{"a message of an epoch long gone", changed(t, message, func(m *wire.FanoutMessage) { m.Message.PrivateMessage.Epoch = 0 }), 1},
		{"a commit with a signature that does not verify", changed(t, commit, func(m *wire.FanoutMessage) { m.Message.PublicMessage.Content.Epoch = epoch }), 1},
		{"a message of an epoch far ahead", changed(t, message, func(m *wire.FanoutMessage) { m.Message.PrivateMessage.Epoch = 1 << 40 }), 1},
	} {
		t.Run(x.name, func(t *testing.T) {
			events := b.count(room, func(adapter.Event) bool { return true })
			dropped := b.core.Client.Counters.Dropped.Load()
			if err := hub.Notify(context.Background(), "b.example", room, x.body); err != nil {
				t.Errorf("the answer is %v", err)
			}
			b.awaitEmpty(t, "inbox")
			if got := b.core.Client.Counters.Dropped.Load() - dropped; got != uint64(x.dropped) {
				t.Errorf("%d messages were counted as dropped, not %d", got, x.dropped)
			}
			talk(t, room, "after "+x.name, map[*provider]string{a: "alice", b: "bob", c: "carol"})
			if got := b.count(room, func(adapter.Event) bool { return true }); got != events+3 {
				t.Errorf("%d events were shown, not those of 3 messages", got-events)
			}
			if now, _, err := b.core.Client.GroupState(context.Background(), room); err != nil || now != epoch {
				t.Errorf("the epoch is %d, %v: not %d any more", now, err, epoch)
			}
		})
	}
}

// TestGroupIDUnique: a hub cannot bring a client into a second group of an ID it has one of (RFC 9420 section 12.4.3), neither
// in the room it is in nor in another.
func TestGroupIDUnique(t *testing.T) {
	n, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0].start(), ps[1].start()
	room := open(t, a, b.user("bob"))
	invite(a, room, "alice", a.user("amy")) // in an epoch of its own
	b.awaitJoined(room, a.user("amy"))
	talk(t, room, "before", map[*provider]string{a: "alice", b: "bob"})
	epoch, _, err := b.core.Client.GroupState(context.Background(), room)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	hub := n.speak(t, "a.example")
	cfg := &mls.Config{Now: time.Now, ApplyAppData: policy.ApplyAppData, VerifyCredential: func(mls.CredentialContext) error { return nil }}
	// second makes a group of the room's ID, with all that a room's group has, and welcomes bob's client to an epoch of it.
	second := func(at uint64, in mimiuri.URI) []byte {
		key, err := mls.GenerateSignatureKey(nil, 1)
		must(err)
		alice := mls.BasicCredential([]byte(policy.ClientURI(a.user("alice"), "second").String()))
		q := &wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: a.user("alice"), TargetUser: b.user("bob"), RoomID: in,
			Suites: []mls.CipherSuite{1}, SignatureKey: key.Public(), Credential: alice}
		must(q.Sign(key))
		body, err := hub.Keys().KeyMaterial(context.Background(), "a.example", b.user("bob"), q.Marshal())
		must(err)
		res, err := wire.ParseKeyMaterialResponse(body)
		must(err)
		if len(res.Clients) != 1 || res.Clients[0].KeyPackage == nil {
			t.Fatalf("no KeyPackage: %+v", res)
		}
		dict, err := policy.Cooperative(policy.RoomOptions{Room: in, Creator: a.user("alice"), Name: "Second"})
		must(err)
		leaf := policy.LeafAppData()
		g, err := mls.CreateGroup(cfg, mls.CreateOptions{Suite: 1, GroupID: []byte(room.GroupOf().String()), Extensions: mls.Extensions{dict.Extension()},
			Leaf: mls.LeafOptions{Credential: alice, Signature: key, Extensions: mls.Extensions{leaf.Extension()}}})
		must(err)
		var out *mls.CommitOutput
		for g.Epoch() < at {
			var add []mls.Proposal
			if g.Epoch()+1 == at {
				add = append(add, mls.Proposal{Body: &mls.Add{KeyPackage: *res.Clients[0].KeyPackage}})
			}
			out, err = g.Commit(0, mls.CommitOptions{Proposals: add})
			must(err)
			_, err = g.MergePending(nil)
			must(err)
		}
		return (&wire.FanoutMessage{Timestamp: uint64(time.Now().UnixMilli()), Message: mls.NewMessage(out.Welcome), Tree: mls.FullTree(out.Tree)}).Marshal()
	}
	for _, x := range []struct {
		name string
		room mimiuri.URI
		at   uint64
	}{
		{"an earlier epoch of the room's group", room, epoch - 1},
		{"the room's epoch", room, epoch},
		{"as the group of another room", a.room("other"), epoch},
	} {
		t.Run(x.name, func(t *testing.T) {
			if x.at == 0 {
				t.Fatal("the room has no earlier epoch with a second member")
			}
			dropped := b.core.Client.Counters.Dropped.Load()
			must(hub.Notify(context.Background(), "b.example", x.room, second(x.at, x.room)))
			b.awaitEmpty(t, "inbox")
			if got := b.core.Client.Counters.Dropped.Load() - dropped; got != 1 {
				t.Errorf("%d messages were counted as dropped, not 1", got)
			}
			if now, _, err := b.core.Client.GroupState(context.Background(), room); err != nil || now != epoch {
				t.Errorf("the epoch is %d, %v: not %d any more", now, err, epoch)
			}
			talk(t, room, "after "+x.name, map[*provider]string{a: "alice", b: "bob"})
		})
	}
}

// awaitEmpty waits until a table has no rows.
func (p *provider) awaitEmpty(t *testing.T, table string) {
	t.Helper()
	n := 1
	for deadline := time.Now().Add(60 * time.Second); n > 0; time.Sleep(10 * time.Millisecond) {
		p.sql(t, func(db *sql.DB) error { return db.QueryRow("SELECT count(*) FROM " + table).Scan(&n) })
		if time.Now().After(deadline) {
			t.Fatalf("%d rows stay in %s", n, table)
		}
	}
}

// TestHostileFollower: what a provider may ask of a hub, and does not get. Nothing of it changes anything at the hub, and the
// room works afterwards.
func TestHostileFollower(t *testing.T) {
	n, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0].start(), ps[1].start(), ps[2]
	hold := make(chan struct{})
	held := make(chan []byte, 8)
	way := c.stand()
	c.tune = func(cfg *core.Config) { cfg.Bulky = true }
	c.start()
	room := open(t, a, b.user("bob"), c.user("carol"), c.user("cleo"))
	talk(t, room, "before", map[*provider]string{a: "alice", b: "bob", c: "carol"})

	// What c would like to do is kept back.
	way.set(func() {
		way.update = func(body []byte, next func([]byte) ([]byte, error)) ([]byte, error) {
			select {
			case <-hold:
			default:
				held <- body
				<-hold
			}
			return next(body)
		}
	})
	invite(c, room, "carol", c.user("carl"))
	commit := <-held

	key, err := mls.GenerateSignatureKey(nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, hpke, err := mls.GenerateHPKEKey(1)
	if err != nil {
		t.Fatal(err)
	}
	groupInfo := func(user mimiuri.URI) []byte {
		q := &wire.GroupInfoRequest{Protocol: wire.MLS10, Suite: 1, SignatureKey: key.Public(), PublicKey: hpke,
			Credential: mls.BasicCredential([]byte(policy.ClientURI(user, "x").String()))}
		if err := q.Sign(key); err != nil {
			t.Fatal(err)
		}
		return q.Marshal()
	}
	keyMaterial := func(by, target, room mimiuri.URI) []byte {
		q := &wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: by, TargetUser: target, RoomID: room, Suites: []mls.CipherSuite{1},
			SignatureKey: key.Public(), Credential: mls.BasicCredential([]byte(policy.ClientURI(by, "x").String()))}
		if err := q.Sign(key); err != nil {
			t.Fatal(err)
		}
		return q.Marshal()
	}
	bundle := func(change func(*wire.UpdateRequest)) []byte {
		q, err := wire.ParseUpdateRequest(commit)
		if err != nil {
			t.Fatal(err)
		}
		change(q)
		return q.Marshal()
	}
	epoch, _, err := a.core.Client.GroupState(context.Background(), room)
	if err != nil {
		t.Fatal(err)
	}
	message := func(sender mimiuri.URI, change func(*mls.PrivateMessage)) []byte {
		m := &mls.PrivateMessage{GroupID: []byte(room.GroupOf().String()), Epoch: epoch, ContentType: mls.ContentApplication,
			EncryptedSenderData: make([]byte, 32), Ciphertext: make([]byte, 100)}
		change(m)
		return (&wire.SubmitMessageRequest{Protocol: wire.MLS10, Message: mls.NewMessage(m), SendingURI: sender}).Marshal()
	}
	as := map[string]*federation.Client{}
	for _, d := range []string{"b.example", "c.example", "d.example"} {
		as[d] = n.speak(t, d)
	}
	const update, submit, info, keys = "update", "submitMessage", "groupInfo", "keyMaterial"
	same := func(*mls.PrivateMessage) {}

	for _, x := range []struct {
		name, from, to string
		room           mimiuri.URI
		body           []byte
		want           string // a fault's kind, or the answer's code
	}{
		{"an update that is nothing", "b.example", update, room, nil, "malformed"},
		{"an update that is garbage", "b.example", update, room, []byte("garbage"), "malformed"},
		{"half an update", "c.example", update, room, commit[:len(commit)/2], "malformed"},
		{"an oversized update", "b.example", update, room, make([]byte, 16<<20+1), "too large"},
		{"an update of an unknown room", "b.example", update, a.room("other"), commit, "not found"},
		{"an update of a room kept elsewhere", "b.example", update, c.room("other"), commit, ""},
		{"a commit for a user of another provider", "b.example", update, room, commit, "notAllowed"},
		{"a commit from a provider that is not in the room", "d.example", update, room, commit, "notAllowed"},
		{"a commit of another epoch", "c.example", update, room, bundle(func(q *wire.UpdateRequest) { q.Message.PublicMessage.Content.Epoch-- }), "wrongEpoch"},
		{"a commit of another group", "c.example", update, room, bundle(func(q *wire.UpdateRequest) { q.Message.PublicMessage.Content.GroupID = []byte("x") }), "malformed"},
		{"a commit whose signature does not verify", "c.example", update, room, bundle(func(q *wire.UpdateRequest) { q.Message.PublicMessage.Auth.Signature[0] ^= 1 }), "notAllowed"},
		{"a commit by another leaf", "c.example", update, room, bundle(func(q *wire.UpdateRequest) { q.Message.PublicMessage.Content.Sender.Leaf = 0 }), "notAllowed"},
		{"a commit without its Welcome", "c.example", update, room, bundle(func(q *wire.UpdateRequest) { q.Welcome = nil }), "notAllowed"},
		{"a commit with a Welcome for someone else", "c.example", update, room, bundle(func(q *wire.UpdateRequest) { q.Welcome.Secrets[0].NewMember[0] ^= 1 }), "notAllowed"},
		{"a commit with the GroupInfo of another epoch", "c.example", update, room, bundle(func(q *wire.UpdateRequest) { q.GroupInfo.Full.GroupContext.Epoch++ }), "notAllowed"},
		{"a commit with a GroupInfo that is not signed", "c.example", update, room, bundle(func(q *wire.UpdateRequest) { q.GroupInfo.Full.Signature[0] ^= 1 }), "notAllowed"},
		{"a commit with a GroupInfo that lets nobody in", "c.example", update, room, bundle(func(q *wire.UpdateRequest) { q.GroupInfo.Full.Extensions = nil }), "notAllowed"},
		{"a commit with another confirmation tag", "c.example", update, room, bundle(func(q *wire.UpdateRequest) { q.Message.PublicMessage.Auth.ConfirmationTag[0] ^= 1 }), "notAllowed"},

		{"a message that is nothing", "b.example", submit, room, nil, "malformed"},
		{"a message that is garbage", "b.example", submit, room, []byte("garbage"), "malformed"},
		{"an oversized message", "b.example", submit, room, make([]byte, 1<<20+1), "too large"},
		{"a message into an unknown room", "b.example", submit, a.room("other"), message(b.user("bob"), same), "not found"},
		{"a message in the name of another provider's user", "b.example", submit, room, message(c.user("carol"), same), "notAllowed"},
		{"a message of a user who is not in the room", "b.example", submit, room, message(b.user("mallory"), same), "notAllowed"},
		{"a message from a provider that is not in the room", "d.example", submit, room, message(mimiuri.MustParse("mimi://d.example/u/dan"), same), "notAllowed"},
		{"a message of another group", "b.example", submit, room, message(b.user("bob"), func(m *mls.PrivateMessage) { m.GroupID = []byte("x") }), "malformed"},
		{"a message of an epoch that is over", "b.example", submit, room, message(b.user("bob"), func(m *mls.PrivateMessage) { m.Epoch-- }), "epochTooOld"},
		{"a message of an epoch that has not begun", "b.example", submit, room, message(b.user("bob"), func(m *mls.PrivateMessage) { m.Epoch++ }), "notAllowed"},
		{"a handshake as a message", "b.example", submit, room, message(b.user("bob"), func(m *mls.PrivateMessage) { m.ContentType = mls.ContentCommit }), "malformed"},

		{"a groupInfo request that is garbage", "b.example", info, room, []byte("garbage"), "malformed"},
		{"groupInfo for another provider's user", "b.example", info, room, groupInfo(c.user("carol")), "forbidden"},
		{"groupInfo for who is not in the room", "b.example", info, room, groupInfo(b.user("mallory")), "notAuthorized"},
		{"groupInfo of an unknown room", "b.example", info, a.room("other"), groupInfo(b.user("bob")), "notAuthorized"},

		{"key material in the name of another provider's user", "b.example", keys, room, keyMaterial(c.user("carol"), a.user("amy"), room), "forbidden"},
		{"key material for who is not in the room", "b.example", keys, room, keyMaterial(b.user("mallory"), a.user("amy"), room), "forbidden"},
		{"key material for an unknown room", "b.example", keys, a.room("other"), keyMaterial(b.user("bob"), a.user("amy"), a.room("other")), "not found"},
	} {
		t.Run(x.name, func(t *testing.T) {
			before := a.digest(t, hubTables...)
			f := as[x.from]
			ctx := context.Background()
			var answer []byte
			var err error
			code := fmt.Stringer(fault.Internal)
			switch x.to {
			case update:
				if answer, err = f.Update(ctx, "", x.room, x.body); err == nil {
					res, e := wire.ParseUpdateRoomResponse(answer)
					if e != nil {
						t.Fatal(e)
					}
					code = res.Code
				}
			case submit:
				if answer, err = f.Submit(ctx, "", x.room, x.body); err == nil {
					res, e := wire.ParseSubmitMessageResponse(answer)
					if e != nil {
						t.Fatal(e)
					}
					code = res.Code
				}
			case info:
				if answer, err = f.GroupInfo(ctx, "", x.room, x.body); err == nil {
					res, e := wire.ParseGroupInfoResponse(answer)
					if e != nil {
						t.Fatal(e)
					}
					code = res.Status
				}
			case keys:
				_, err = f.KeyMaterial(ctx, "", x.room, a.user("amy"), x.body)
			}
			if err != nil {
				code = fault.KindOf(err)
			}
			if x.want != "" && code.String() != x.want {
				t.Errorf("the answer is %v (%v), not %s", code, err, x.want)
			}
			if x.want == "" && err == nil {
				t.Error("the request was carried out")
			}
			if a.digest(t, hubTables...) != before {
				t.Error("something has changed at the hub")
			}
		})
	}
	close(hold)
	a.awaitJoined(room, c.user("carl"))
	talk(t, room, "after", map[*provider]string{a: "alice", b: "bob", c: "carl"})
	if r := a.core.Hub.Counters.Refused.Load(); r == 0 {
		t.Error("the hub has counted no refusal")
	}
	if m := a.core.Hub.Counters.Malformed.Load(); m == 0 {
		t.Error("the hub has counted nothing malformed")
	}
}

// TestForeignDirectRoom: a hub that neither of two users is of cannot make a room that passes for their direct one, with a client of
// its own in the name of the other: what they say to each other alone does not go there.
func TestForeignDirectRoom(t *testing.T) {
	n, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0].start(), ps[1].start(), ps[2].start()
	alice, bob, forged := a.user("alice"), b.user("bob"), c.room("0")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	hub := n.speak(t, "c.example")
	key, err := mls.GenerateSignatureKey(nil, 1)
	must(err)
	cred := mls.BasicCredential([]byte(policy.ClientURI(bob, "forged").String()))
	q := &wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: bob, TargetUser: alice, RoomID: forged, Suites: []mls.CipherSuite{1}, SignatureKey: key.Public(), Credential: cred}
	must(q.Sign(key))
	body, err := hub.Keys().KeyMaterial(context.Background(), "c.example", alice, q.Marshal())
	must(err)
	res, err := wire.ParseKeyMaterialResponse(body)
	must(err)
	if len(res.Clients) != 1 || res.Clients[0].KeyPackage == nil {
		t.Fatalf("no KeyPackage: %+v", res)
	}
	dict, err := policy.DirectMessage(policy.RoomOptions{Room: forged, Creator: bob}, alice)
	must(err)
	leaf := policy.LeafAppData()
	g, err := mls.CreateGroup(&mls.Config{Now: time.Now, ApplyAppData: policy.ApplyAppData, VerifyCredential: func(mls.CredentialContext) error { return nil }},
		mls.CreateOptions{Suite: 1, GroupID: []byte(forged.GroupOf().String()), Extensions: mls.Extensions{dict.Extension()},
			Leaf: mls.LeafOptions{Credential: cred, Signature: key, Extensions: mls.Extensions{leaf.Extension()}}})
	must(err)
	out, err := g.Commit(0, mls.CommitOptions{Proposals: []mls.Proposal{{Body: &mls.Add{KeyPackage: *res.Clients[0].KeyPackage}}}})
	must(err)
	must(hub.Notify(context.Background(), "a.example", forged, (&wire.FanoutMessage{Timestamp: uint64(time.Now().UnixMilli()), Message: mls.NewMessage(out.Welcome), Tree: mls.FullTree(out.Tree)}).Marshal()))
	a.awaitJoined(forged, alice)
	if got, err := a.mem.host.DirectRoom(context.Background(), alice, bob); err != nil || got == forged {
		t.Errorf("the direct room is %v, %v", got, err)
	}
}

// TestForgedUsers: that a hub, or somebody in a room, names a user of this provider as a participant, or has a client in their name
// there, brings them into nothing: they are there once there is a client of theirs, and nobody but this provider speaks for them.
func TestForgedUsers(t *testing.T) {
	n, ps := newNetwork(t, "a.example", "c.example")
	a, c := ps[0].start(), ps[1].start()
	alice, amy, ann, carol, room := a.user("alice"), a.user("amy"), a.user("ann"), c.user("carol"), c.room("forged")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	hub := n.speak(t, "c.example")
	cfg := &mls.Config{Now: time.Now, ApplyAppData: policy.ApplyAppData, VerifyCredential: func(mls.CredentialContext) error { return nil }}
	leaf := mls.Extensions{policy.LeafAppData().Extension()}
	client := func(user mimiuri.URI) (mls.Credential, *mls.SignatureKey) {
		key, err := mls.GenerateSignatureKey(nil, 1)
		must(err)
		return mls.BasicCredential([]byte(policy.ClientURI(user, "forged").String())), key
	}
	cred, key := client(carol)
	q := &wire.KeyMaterialRequest{Protocol: wire.MLS10, RequestingUser: carol, TargetUser: alice, RoomID: room, Suites: []mls.CipherSuite{1}, SignatureKey: key.Public(), Credential: cred}
	must(q.Sign(key))
	body, err := hub.Keys().KeyMaterial(context.Background(), "c.example", alice, q.Marshal())
	must(err)
	res, err := wire.ParseKeyMaterialResponse(body)
	must(err)
	amys, amysKey := client(amy)
	kp, secrets, err := mls.NewKeyPackage(cfg, 1, mls.KeyPackageOptions{Credential: amys, Signature: amysKey, LeafExtensions: leaf})
	must(err)
	dict, err := policy.Cooperative(policy.RoomOptions{Room: room, Creator: carol, Name: "Forged"})
	must(err)
	g, err := mls.CreateGroup(cfg, mls.CreateOptions{Suite: 1, GroupID: []byte(room.GroupOf().String()), Extensions: mls.Extensions{dict.Extension()},
		Leaf: mls.LeafOptions{Credential: cred, Signature: key, Extensions: leaf}})
	must(err)
	state, err := policy.ParseState(g.AppData())
	must(err)
	var list []policy.Participant
	for _, u := range []mimiuri.URI{alice, amy, ann} { // ann has no client at all
		list = append(list, policy.Participant{User: u, Role: policy.RoleOrdinaryUser})
	}
	out, err := g.Commit(0, mls.CommitOptions{Proposals: []mls.Proposal{policy.ListChange(policy.AddParticipantUpdate(state, list)).Proposal(),
		{Body: &mls.Add{KeyPackage: *res.Clients[0].KeyPackage}}, {Body: &mls.Add{KeyPackage: *kp}}}})
	must(err)
	_, err = g.MergePending(nil)
	must(err)
	must(g.AttachWelcome(out.Welcome, []mls.JoinKey{{KeyPackage: kp, Secrets: secrets}}))
	notify := func(m *mls.MLSMessage, tree *mls.RatchetTree) {
		t.Helper()
		f := &wire.FanoutMessage{Timestamp: uint64(time.Now().UnixMilli()), Message: m}
		if tree != nil {
			f.Tree = mls.FullTree(tree)
		}
		must(hub.Notify(context.Background(), "a.example", room, f.Marshal()))
	}
	notify(mls.NewMessage(out.Welcome), out.Tree)
	a.awaitJoined(room, alice)
	say := func(user mimiuri.URI, text string) {
		t.Helper()
		m := content.Text(text)
		must(m.Stamp(rand.Reader, user, room))
		b, err := m.Encode()
		must(err)
		for _, x := range g.Members() {
			if u, _, _ := policy.LeafUser(x.Node); u == user {
				pm, err := g.Encrypt(x.Leaf, b, mls.MarshalSafeAAD(nil))
				must(err)
				notify(pm, nil)
			}
		}
	}
	say(amy, "said by nobody")
	say(carol, "said by carol")
	ev := a.await(room, "carol's message", func(e adapter.Event) bool { return e.Kind == adapter.Message && e.Sender == carol })
	if !slices.Equal(ev.Local, []mimiuri.URI{alice}) {
		t.Errorf("it is shown to %v", ev.Local)
	}
	if n := a.count(room, func(e adapter.Event) bool {
		return e.Kind == adapter.Message && e.Sender == amy || e.Kind == adapter.Joined && (e.User == amy || e.User == ann)
	}); n != 0 {
		t.Errorf("%d events are about users who are not there", n)
	}
	if n, err := a.core.Reconcile(context.Background()); n != 0 || err != nil {
		t.Errorf("%d rooms were repaired, %v", n, err)
	}
	if r, _, err := a.mem.host.Room(context.Background(), room); err != nil || slices.ContainsFunc(r.Participants, func(p adapter.Participant) bool { return p.User == amy || p.User == ann }) {
		t.Errorf("the room is %+v, %v", r.Participants, err)
	}
}

// equivocator is a hub that, once it is told to, says that it has accepted a change and keeps it to itself.
type equivocator struct {
	port.Hub
	next *atomic.Bool
}

func (e *equivocator) Update(ctx context.Context, from string, room mimiuri.URI, body []byte) ([]byte, error) {
	req, err := wire.ParseUpdateRequest(body)
	if err == nil && req.Message.ContentType() == mls.ContentCommit && e.next.CompareAndSwap(true, false) {
		return (&wire.UpdateRoomResponse{Code: wire.UpdateSuccess, AcceptedTimestamp: uint64(time.Now().UnixMilli())}).Marshal(), nil
	}
	return e.Hub.Update(ctx, from, room, body)
}

// TestEquivocatingHub: a hub that shows one follower another history of the room than the others is seen through as soon as somebody says
// something in the epoch that both have: the keys are not the same. Who was deceived joins anew, and everybody has one history again.
func TestEquivocatingHub(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example", "c.example")
	a, b, c := ps[0], ps[1], ps[2]
	var lie atomic.Bool
	c.wrap = func(h port.Hub) port.Hub { return &equivocator{h, &lie} }
	for _, p := range ps {
		p.wait = 300 * time.Millisecond
		p.start()
	}
	room := open(t, a, b.user("bob"), c.user("carol"))
	b.awaitJoined(room, c.user("carol"))
	who := map[*provider]string{a: "alice", b: "bob", c: "carol"}
	talk(t, room, "before", who)
	rename := func(p *provider, user, name string) {
		p.intake(adapter.Intent{Kind: adapter.SetMetadata, Room: room, Actor: p.user(user), Metadata: &adapter.MetadataChange{Name: &name}})
		p.awaitView(room, "renamed", func(r adapter.Room) bool { return r.Name == name })
	}
	lie.Store(true)
	rename(c, "carol", "Cellar")
	rename(b, "bob", "Attic")
	if c.view(room).Name != "Cellar" {
		t.Fatal("carol is not in another history")
	}
	b.say(room, "bob", "which carol cannot read")
	c.awaitCounter("times joined anew", &c.core.Client.Counters.Resyncs, 1)
	c.awaitView(room, "as the others have it", func(r adapter.Room) bool { return r.Name == "Attic" })
	talk(t, room, "after", who)
}
