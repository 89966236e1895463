package policy

import (
	"fmt"
	"testing"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
)

// crowd is a room of n users with a client each, but for the MLS of it.
func crowd(b *testing.B, n int) (*State, []mls.Member, mimiuri.URI) {
	b.Helper()
	dict, err := Cooperative(RoomOptions{Room: room, Creator: alice})
	if err != nil {
		b.Fatal(err)
	}
	list := ParticipantList{{hub, 5}}
	var members []mls.Member
	var last mimiuri.URI
	for i := range n {
		last = mimiuri.URI{Domain: fmt.Sprintf("p%d.example", i%50), Kind: mimiuri.User, ID: fmt.Sprintf("user%d", i)}
		list = append(list, Participant{last, 2})
		node := &mls.LeafNode{Credential: mls.BasicCredential([]byte(ClientURI(last, "1").String()))}
		members = append(members, mls.Member{Leaf: mls.LeafIndex(i), Node: node})
	}
	dict.Set(ComponentParticipantList, list.Marshal())
	s, err := ParseState(dict)
	if err != nil {
		b.Fatal(err)
	}
	return s, members, last
}

// What a hub does for each message, and for each commit besides MLS, in a room of 10,000.
func BenchmarkRoomOf10000(b *testing.B) {
	s, members, last := crowd(b, 10_000)
	b.Run("message", func(b *testing.B) {
		for b.Loop() {
			now := s.WithPending(nil, members)
			if err := now.CheckSend(last); err != nil || !now.Active(last, members) {
				b.Fatal(err)
			}
		}
	})
	b.Run("members", func(b *testing.B) {
		for b.Loop() {
			if err := s.CheckMembers(members); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("state", func(b *testing.B) {
		for b.Loop() {
			if _, err := ParseState(s.dict); err != nil {
				b.Fatal(err)
			}
		}
	})
}
