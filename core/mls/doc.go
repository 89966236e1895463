// Package mls is the Messaging Layer Security protocol of RFC 9420 with the
// parts of draft-ietf-mls-extensions that MIMI needs (app_data_dictionary,
// AppDataUpdate, AppEphemeral, SelfRemove, Safe AAD, the Safe Application
// Interface) and the ratchet tree options of draft-mahy-mls-ratchet-tree-options.
//
// There are two ways to hold a group. [PublicGroup] is what a Delivery Service
// such as a MIMI hub runs: the tree, the GroupContext and the pending
// proposals, no secrets; it checks whatever a non-member can check. [Group] is
// a PublicGroup with the key schedule and any number of local leaves over one
// shared state, so that a provider with a thousand members in a room processes
// each Commit once and decrypts each message once.
//
// The package has no clock ([Config] brings one), no disk (state is handed out
// as bytes), no network and starts no goroutine. Values are not safe for
// concurrent use except where it is stated.
//
// The life of a group, with the keys and errors left out:
//
//	alice, _ := mls.CreateGroup(cfg, mls.CreateOptions{Suite: suite, GroupID: id, Leaf: leaf})
//	kp, secrets, _ := mls.NewKeyPackage(cfg, suite, options)
//	out, _ := alice.Commit(0, mls.CommitOptions{Proposals: []mls.Proposal{{Body: &mls.Add{KeyPackage: *kp}}}})
//	alice.MergePending(nil)
//	bob, _ := mls.JoinGroup(cfg, out.Welcome, out.Tree, []mls.JoinKey{{KeyPackage: kp, Secrets: secrets}}, nil)
//	msg, _ := bob.Encrypt(bob.LocalLeaves()[0], []byte("hello"), nil)
//	text, _ := alice.Decrypt(msg)
//
// A file holds a chapter of the RFC: suite.go (5.1), credential.go (5.3),
// framing.go and protect.go (6), tree.go, treehash.go and treekem.go (7),
// keyschedule.go and psk.go (8), secrettree.go (9), keypackage.go (10),
// create.go (11), proposal.go, proposallist.go, commit.go, join.go and
// external.go (12).
//
// Each broken validity rule is a [RuleError] with the section it stands in.
package mls
