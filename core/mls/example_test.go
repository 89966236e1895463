package mls_test

import (
	"fmt"
	"log"
	"time"

	"github.com/mimibridge/mimibridge/core/mls"
)

// A provider keeps alice and bob in one state, carol is elsewhere, and a hub
// follows the group without being in it.
func Example() {
	cfg := &mls.Config{Now: func() time.Time { return time.Unix(1_800_000_000, 0) }}
	const suite = mls.X25519AES128GCMSHA256Ed25519
	key := func() *mls.SignatureKey {
		k, err := mls.GenerateSignatureKey(nil, suite)
		check(err)
		return k
	}
	keyPackage := func(name string) mls.JoinKey {
		kp, secrets, err := mls.NewKeyPackage(cfg, suite, mls.KeyPackageOptions{
			Credential: mls.BasicCredential([]byte(name)), Signature: key()})
		check(err)
		return mls.JoinKey{KeyPackage: kp, Secrets: secrets}
	}

	// Alice creates the group; the hub takes it up from GroupInfo and tree.
	ours, err := mls.CreateGroup(cfg, mls.CreateOptions{
		Suite: suite, GroupID: []byte("mimi://a.example/g/1"),
		Leaf: mls.LeafOptions{Credential: mls.BasicCredential([]byte("alice")), Signature: key()},
	})
	check(err)
	info, err := ours.GroupInfo(0)
	check(err)
	hub, err := mls.NewPublicGroup(cfg, info, ours.Tree())
	check(err)

	// She adds bob and carol.
	bob, carol := keyPackage("bob"), keyPackage("carol")
	out, err := ours.Commit(0, mls.CommitOptions{Proposals: []mls.Proposal{
		{Body: &mls.Add{KeyPackage: *bob.KeyPackage}},
		{Body: &mls.Add{KeyPackage: *carol.KeyPackage}},
	}})
	check(err)

	// The hub checks the Commit and accepts it; only then is it merged.
	staged, err := hub.InspectCommit(out.Message)
	check(err)
	check(hub.VerifyGroupInfo(staged, out.GroupInfo))
	check(hub.MergeCommit(staged))
	_, err = ours.MergePending(nil)
	check(err)

	// Bob is ours and becomes a leaf of the same state, carol joins by herself.
	check(ours.AttachWelcome(out.Welcome, []mls.JoinKey{bob}))
	theirs, err := mls.JoinGroup(cfg, out.Welcome, out.Tree, []mls.JoinKey{carol}, nil)
	check(err)

	msg, err := ours.Encrypt(1, []byte("hello from bob"), nil)
	check(err)
	got, err := theirs.Decrypt(msg)
	check(err)
	fmt.Printf("%s, leaf %d: %s\n", got.SenderNode.Credential.Identity, got.Sender, got.Content)
	fmt.Println("ours:", ours.LocalLeaves(), "theirs:", theirs.LocalLeaves(), "hub's epoch:", hub.Epoch())

	// Output:
	// bob, leaf 1: hello from bob
	// ours: [0 1] theirs: [2] hub's epoch: 1
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
