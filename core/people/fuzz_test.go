package people_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/people"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/core/wire"
)

// network is an adapter that asks first; everybody but "nobody" exists.
type network struct{}

func (network) Name() string                                               { return "fuzz" }
func (network) Run(context.Context, adapter.Host) error                    { return nil }
func (network) Deliver(context.Context, adapter.Event) error               { return nil }
func (network) DeliverConsent(context.Context, adapter.ConsentEvent) error { return nil }
func (network) LocalUser(_ context.Context, u mimiuri.URI) (bool, error) {
	return u.ID != "nobody", nil
}

// FuzzPeer: whatever a peer says about consent or asks for, nothing panics, errors are of a kind that it may be told, and only a
// well-formed word of its own users about users here has any effect.
func FuzzPeer(f *testing.F) {
	ctx := context.Background()
	st, err := store.Open(ctx, store.Options{Path: filepath.Join(f.TempDir(), "x.db"), Key: make([]byte, store.KeySize), Domain: "a.example"})
	if err != nil {
		f.Fatal(err)
	}
	defer st.Close()
	p, err := people.New(people.Config{Domain: "a.example", Store: st, Adapters: []adapter.Adapter{network{}}, Now: time.Now, Log: zerolog.Nop(),
		Limits: people.Limits{ConsentRequests: -1, Invites: -1, Lookups: -1, PeerFactor: 1}})
	if err != nil {
		f.Fatal(err)
	}
	alice, bob, room := mimiuri.MustParse("mimi://a.example/u/alice"), mimiuri.MustParse("mimi://b.example/u/bob"), mimiuri.MustParse("mimi://b.example/r/r")
	if err := p.SetProfile(ctx, alice, adapter.Profile{Name: "Alice", Fields: map[string]string{"nick": "al", "email": "al@a.example", "wholeProfile": ""}}); err != nil {
		f.Fatal(err)
	}
	for op := wire.ConsentCancel; op <= wire.ConsentRevoke; op++ {
		f.Add(uint8(op)/2, (&wire.ConsentEntry{Operation: op, Requester: bob, Target: alice, RoomID: room}).Marshal())
		f.Add(uint8(op)/2, (&wire.ConsentEntry{Operation: op, Requester: alice, Target: bob}).Marshal())
	}
	f.Add(uint8(0), (&wire.ConsentEntry{Operation: wire.ConsentRequest, Requester: bob, Target: mimiuri.MustParse("mimi://a.example/u/nobody")}).Marshal())
	f.Add(uint8(2), (&wire.IdentifierRequest{Elements: []wire.QueryElement{{Type: wire.SearchNick, Value: "al"}, {Type: wire.SearchWholeProfile, Value: "%_'"}}}).Marshal())
	f.Add(uint8(2), (&wire.IdentifierRequest{Elements: []wire.QueryElement{{Type: wire.SearchHandle, Value: alice.String()}}}).Marshal())
	f.Fuzz(func(t *testing.T, door uint8, body []byte) {
		if len(body) > 1<<14 {
			return
		}
		var err error
		var theirs, ours mimiuri.URI
		e, parsed := wire.ParseConsentEntry(body)
		switch door % 3 {
		case 0:
			if parsed == nil {
				theirs, ours = e.Requester, e.Target
			}
			err = p.RequestConsent(ctx, "b.example", "a.example", body)
		case 1:
			if parsed == nil {
				theirs, ours = e.Target, e.Requester
			}
			err = p.UpdateConsent(ctx, "b.example", "a.example", body)
		case 2:
			var answer []byte
			if answer, err = p.IdentifierQuery(ctx, "b.example", "a.example", body); err == nil {
				a, bad := wire.ParseIdentifierResponse(answer)
				if bad != nil {
					t.Fatalf("the answer cannot be read: %v", bad)
				}
				for _, u := range a.Users {
					if u != alice {
						t.Fatalf("%s is found, who has not opted in", u)
					}
				}
			}
			theirs, ours = bob, alice
		}
		switch fault.KindOf(err) {
		case fault.Malformed, fault.Forbidden, fault.NotFound, fault.TooLarge:
		default:
			if err != nil {
				t.Fatalf("an error of another kind: %v", err)
			}
		}
		if err == nil && (theirs.Domain != "b.example" || ours.Domain != "a.example") {
			t.Fatalf("a word of %s about %s was taken", theirs, ours)
		}
		if door%3 != 2 && ours.Kind == mimiuri.User && (err != nil || ours.ID == "nobody") {
			list, bad := p.Contacts(ctx, ours)
			if bad != nil {
				t.Fatal(bad)
			}
			for _, c := range list {
				if c.User == theirs && (ours.ID == "nobody" || c.User.Domain != "b.example") {
					t.Fatalf("%s has the contact %+v", ours, c)
				}
			}
		}
	})
}
