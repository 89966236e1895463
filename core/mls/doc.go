// Package mls is the Messaging Layer Security protocol of RFC 9420 with
// draft-ietf-mls-extensions, the ratchet tree options of
// draft-mahy-mls-ratchet-tree-options and the SemiPrivateMessage of
// draft-mahy-mls-semiprivatemessage. README.md beside this file lists what is
// implemented by section, and what is not.
//
// There are two ways to hold a group. [PublicGroup] is what a Delivery Service
// such as a MIMI hub runs: the tree, the GroupContext and the pending
// proposals, no secrets; it checks whatever a non-member can check. [Group] is
// a PublicGroup with the key schedule and any number of local leaves over one
// shared state, so that a provider with a thousand members in a room processes
// each Commit once and decrypts each message once.
//
// The package has no clock ([Config] brings one), no disk (state is handed out
// as bytes) and no network, and no goroutine of its outlives a call. Values are
// not safe for concurrent use except where it is stated.
//
// The life of a group, with the keys and errors left out; the example of the
// package is the same in full, with a hub:
//
//	alice, _ := mls.CreateGroup(cfg, mls.CreateOptions{Suite: suite, GroupID: id, Leaf: leaf})
//	kp, secrets, _ := mls.NewKeyPackage(cfg, suite, options)
//	out, _ := alice.Commit(0, mls.CommitOptions{Proposals: []mls.Proposal{{Body: &mls.Add{KeyPackage: *kp}}}})
//	alice.MergePending(nil)
//	bob, _ := mls.JoinGroup(cfg, out.Welcome, out.Tree, []mls.JoinKey{{KeyPackage: kp, Secrets: secrets}}, nil)
//	msg, _ := bob.Encrypt(bob.LocalLeaves()[0], []byte("hello"), nil)
//	text, _ := alice.Decrypt(msg)
//
// What must be stored, and when: [Group.TakeState] and [Group.TakeRatchets] after
// each call that changes the group, in one transaction, before what the call made
// is sent; [LoadGroup] and [Group.LoadPending] read it. Keys that were used are
// no longer in it. Whether the storage really forgets what was overwritten or
// deleted is the storage's affair.
//
// A file holds a chapter of the RFC or a section of a draft:
//
//   - types.go, framing.go, protect.go: 6, messages and their protection
//   - suite.go, signature.go, credential.go: 5, cryptographic objects
//   - leafnode.go, ratchettree.go, tree.go, treemath.go, treehash.go,
//     treeindex.go, treekem.go: 4 and 7, the ratchet tree
//   - groupinfo.go, keyschedule.go, psk.go: 8, the key schedule
//   - secrettree.go: 9
//   - keypackage.go: 10
//   - group.go: 11, creation, and the state of members; resumption.go: 11.2 and
//     11.3
//   - proposal.go, proposallist.go, selection.go, commit.go, join.go, external.go,
//     publicgroup.go: 12
//   - extension.go, grease.go: 13
//   - appdata.go, safe.go, exporttree.go, wireformats.go, contenttype.go,
//     appack.go: draft-ietf-mls-extensions
//   - semiprivate.go: draft-mahy-mls-semiprivatemessage
//   - config.go, errors.go, state.go, layer.go, parallel.go: what holds it together
//
// Each broken validity rule is a [RuleError] with the section it stands in.
package mls
