package mls

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// TestValidityRules goes through the validity rules of RFC 9420 as they stand there: section 12 and those it leads to,
// 7.3 and 7.5 for leaves and paths, 10.1 for KeyPackages. Each row breaks one rule, and both a hub's PublicGroup and a
// member's Group must refuse it for that rule, and be as they were. Where a rule is about secrets, only the member can,
// and the row says so: the hub then takes it, which shows that nothing else was broken.
func TestValidityRules(t *testing.T) {
	for _, c := range validityRules {
		t.Run(c.section+": "+c.rule, func(t *testing.T) {
			r := newRuleHall(t)
			msg := c.message(r)
			hub, member := r.hub, r.states[1]
			judge := func(who string, err, want error) {
				t.Helper()
				if !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", who, err, want)
				}
				var rule *RuleError
				if want != nil && want != ErrPSKUnknown && want != ErrDecrypt && (!errors.As(err, &rule) || rule.Section == "") {
					t.Errorf("%s: %v is no rule", who, err)
				}
			}
			before, err := hub.MarshalBinary()
			must(t, err)
			held, err := member.MarshalEpoch()
			must(t, err)
			want := c.want
			if c.secret {
				want = nil
			}
			if msg.ContentType() == ContentProposal {
				_, err := hub.ReceiveProposal(msg)
				judge("hub", err, want)
				_, err = member.ReceiveProposal(msg)
				judge("member", err, c.want)
			} else {
				_, err := hub.InspectCommit(msg)
				judge("hub", err, want)
				_, err = member.StageCommit(msg)
				judge("member", err, c.want)
			}
			if want == nil && msg.ContentType() == ContentProposal {
				return
			}
			after, err := hub.MarshalBinary()
			must(t, err)
			equal(t, "hub's state", after, before)
			after, err = member.MarshalEpoch()
			must(t, err)
			equal(t, "member's state", after, held)
		})
	}
}

// ruleHall is rulesHall with an external sender, and what is broken in it.
type ruleHall struct {
	*hall
	people map[string]*person
	sender *person // external sender 0
}

func newRuleHall(t *testing.T) *ruleHall {
	t.Helper()
	sender := newPerson(t, suite1, "hub")
	h, people := rulesHall(t, Extensions{ExternalSendersExtension([]ExternalSender{{sender.sig.Public(), BasicCredential([]byte("hub"))}})})
	return &ruleHall{h, people, sender}
}

func (r *ruleHall) ok(err error) {
	r.t.Helper()
	must(r.t, err)
}

// list is a Commit by leaf 0 of proposals by value.
func (r *ruleHall) list(ps ...Proposal) *MLSMessage {
	return r.forge(0, 0, &Commit{Proposals: byValue(ps...)})
}

// refs is one of proposals that all know.
func (r *ruleHall) refs(ps ...*PendingProposal) *MLSMessage {
	c := new(Commit)
	for _, p := range ps {
		c.Proposals = append(c.Proposals, ProposalOrRef{Ref: p.Ref})
	}
	return r.forge(0, 0, c)
}

// alone is a proposal by a member.
func (r *ruleHall) alone(leaf LeafIndex, p Proposal) *MLSMessage {
	r.t.Helper()
	g := r.states[leaf]
	return r.signed(r.content(Sender{Type: SenderMember, Leaf: leaf}, p), g.locals[leaf].sig)
}

func (r *ruleHall) content(s Sender, p Proposal) FramedContent {
	return FramedContent{GroupID: r.hub.GroupID(), Epoch: r.hub.Epoch(), Sender: s, ContentType: ContentProposal, Proposal: &p}
}

// signed frames what may be against every rule.
func (r *ruleHall) signed(c FramedContent, key *SignatureKey) *MLSMessage {
	r.t.Helper()
	g := r.states[0]
	context := g.gcBytes
	if c.Sender.Type != SenderMember && c.Sender.Type != SenderNewMemberCommit {
		context = nil
	}
	ac, err := signFramed(key, WireFormatPublicMessage, c, context)
	r.ok(err)
	if c.ContentType == ContentCommit {
		ac.Auth.ConfirmationTag = make([]byte, 32)
	}
	m, err := g.s.publicMessage(ac, g.secrets.membership, g.gcBytes)
	r.ok(err)
	return NewMessage(m)
}

// newcomer is an Add of eve, changed and signed again.
func (r *ruleHall) newcomer(change func(kp *KeyPackage)) Proposal {
	r.t.Helper()
	k := r.people["eve"].keyPackage(r.t, r.cfg)
	kp := *k.KeyPackage
	change(&kp)
	r.ok(kp.LeafNode.sign(r.people["eve"].sig, nil, 0))
	var w tlspl.Writer
	kp.marshalBody(&w)
	var err error
	kp.Signature, err = r.people["eve"].sig.SignWithLabel("KeyPackageTBS", w.Bytes())
	r.ok(err)
	return Proposal{&Add{KeyPackage: kp}}
}

// update is an Update of leaf 2, changed and signed again.
func (r *ruleHall) update(change func(n *LeafNode)) Proposal {
	r.t.Helper()
	n := r.hub.Leaf(2).clone()
	n.Source, n.ParentHash = LeafNodeUpdate, nil
	var err error
	_, n.EncryptionKey, err = GenerateHPKEKey(suite1)
	r.ok(err)
	change(n)
	r.ok(n.sign(r.people["carol"].sig, r.hub.GroupID(), 2))
	return Proposal{&Update{LeafNode: *n}}
}

// path is an empty Commit by leaf 0 whose path is changed, its leaf signed again.
func (r *ruleHall) path(change func(p *UpdatePath)) *MLSMessage {
	r.t.Helper()
	g := r.states[0]
	out, err := g.Commit(0, CommitOptions{})
	r.ok(err)
	g.ClearPending()
	var p UpdatePath
	r.ok(tlspl.Unmarshal(tlspl.Marshal(out.Message.PublicMessage.Content.Commit.Path), &p))
	change(&p)
	r.ok(p.LeafNode.sign(r.people["alice"].sig, g.GroupID(), 0))
	return r.forge(0, 0, &Commit{Path: &p})
}

// outside is an external Commit by eve, changed. Her leaf is at 4.
func (r *ruleHall) outside(change func(c *Commit)) *MLSMessage {
	r.t.Helper()
	return r.outsideAs("eve", nil, change)
}

func (r *ruleHall) outsideAs(name string, resync *LeafIndex, change func(c *Commit)) *MLSMessage {
	r.t.Helper()
	info, err := r.states[0].GroupInfo(0)
	r.ok(err)
	_, out, err := ExternalCommit(r.cfg, info, r.hub.Tree(), ExternalCommitOptions{Leaf: r.people[name].leaf(), Resync: resync})
	r.ok(err)
	c := out.Message.PublicMessage.Content.Commit
	change(c)
	if c.Path != nil {
		at := out.Staged.Committer
		r.ok(c.Path.LeafNode.sign(r.people[name].sig, r.hub.GroupID(), at))
	}
	return r.forgeOutside(r.people[name].sig, c)
}

func (c *Commit) value(p ProposalBody) {
	c.Proposals = append(c.Proposals, ProposalOrRef{Proposal: &Proposal{p}})
}

func none[T any](T) {}

func nonce() []byte { return make([]byte, 32) }

var validityRules = []struct {
	section, rule string
	want          error
	secret        bool // a hub cannot see it
	message       func(r *ruleHall) *MLSMessage
}{
	// 6, 6.1, 6.2: framing.
	{"6", "a message of the group", ErrWrongGroup, false, func(r *ruleHall) *MLSMessage {
		c := r.content(Sender{Type: SenderMember}, Proposal{&Remove{1}})
		c.GroupID = []byte("another")
		return r.signed(c, r.people["alice"].sig)
	}},
	{"6", "no application data in a PublicMessage", ErrContentType, false, func(r *ruleHall) *MLSMessage {
		m := r.alone(0, Proposal{&Remove{1}})
		m.PublicMessage.Content.ContentType, m.PublicMessage.Content.Proposal = ContentApplication, nil
		return m
	}},
	{"6.1", "signed by the leaf it names", ErrSignature, false, func(r *ruleHall) *MLSMessage {
		return r.signed(r.content(Sender{Type: SenderMember, Leaf: 2}, Proposal{&Remove{1}}), r.people["alice"].sig)
	}},
	{"6.1", "of a leaf that is not blank", ErrSender, false, func(r *ruleHall) *MLSMessage {
		return r.signed(r.content(Sender{Type: SenderMember, Leaf: 7}, Proposal{&Remove{1}}), r.people["alice"].sig)
	}},
	{"6.1", "an external sender that is listed", ErrSender, false, func(r *ruleHall) *MLSMessage {
		return r.signed(r.content(Sender{Type: SenderExternal, Index: 1}, Proposal{&Remove{1}}), r.sender.sig)
	}},
	{"6.1", "a Commit by new_member_commit or a member", ErrSender, false, func(r *ruleHall) *MLSMessage {
		c := FramedContent{GroupID: r.hub.GroupID(), Epoch: r.hub.Epoch(), Sender: Sender{Type: SenderExternal}, ContentType: ContentCommit, Commit: &Commit{}}
		return r.signed(c, r.sender.sig)
	}},
	{"6.2", "membership tag", ErrMembershipTag, true, func(r *ruleHall) *MLSMessage {
		m := r.alone(2, Proposal{&Remove{1}})
		m.PublicMessage.MembershipTag = nonce()
		return m
	}},

	// 12.1: proposals one by one, as messages and within lists.
	{"12.1", "the epoch of the group", ErrWrongEpoch, false, func(r *ruleHall) *MLSMessage {
		c := r.content(Sender{Type: SenderMember}, Proposal{&Remove{1}})
		c.Epoch--
		return r.signed(c, r.people["alice"].sig)
	}},
	{"12.1.1, 10.1", "Add: KeyPackage of the group's version", ErrKeyPackageSuite, false, func(r *ruleHall) *MLSMessage {
		return r.list(r.newcomer(func(kp *KeyPackage) { kp.Version = 2 }))
	}},
	{"12.1.1, 10.1", "Add: KeyPackage of the group's cipher suite", ErrKeyPackageSuite, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, r.newcomer(func(kp *KeyPackage) { kp.CipherSuite = X25519ChaCha20Poly1305SHA256Ed25519 }))
	}},
	{"12.1.1, 10.1", "Add: signature of the KeyPackage", ErrKeyPackageSignature, false, func(r *ruleHall) *MLSMessage {
		p := r.newcomer(none)
		p.Body.(*Add).KeyPackage.Signature[5] ^= 1
		return r.alone(2, p)
	}},
	{"12.1.1, 10.1", "Add: init_key differs from encryption_key", ErrInitKey, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, r.newcomer(func(kp *KeyPackage) { kp.InitKey = kp.LeafNode.EncryptionKey }))
	}},
	{"12.1.1, 5.1.1", "Add: init_key is a key", ErrPublicKey, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, r.newcomer(func(kp *KeyPackage) { kp.InitKey = []byte{1, 2, 3} }))
	}},
	{"12.1.1, 7.3", "Add: leaf_node_source is key_package", ErrLeafSource, false, func(r *ruleHall) *MLSMessage {
		p := r.newcomer(none)
		p.Body.(*Add).KeyPackage.LeafNode.Source = LeafNodeUpdate
		return r.list(p)
	}},
	{"12.1.1, 7.3", "Add: signature of the LeafNode", ErrLeafSignature, false, func(r *ruleHall) *MLSMessage {
		p := r.newcomer(none)
		p.Body.(*Add).KeyPackage.LeafNode.Signature[5] ^= 1
		return r.alone(2, p)
	}},
	{"12.1.1, 7.3", "Add: valid credential", ErrCredential, false, func(r *ruleHall) *MLSMessage {
		p := r.newcomer(none)
		r.cfg.VerifyCredential = func(c CredentialContext) error {
			if string(c.Credential.Identity) == "eve" {
				return errors.New("nobody knows eve")
			}
			return nil
		}
		return r.alone(2, p)
	}},
	{"12.1.1, 7.3", "Add: extensions of the leaf are listed", ErrExtensionUnlisted, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, r.newcomer(func(kp *KeyPackage) { kp.LeafNode.Extensions = Extensions{{0x4242, nil}} }))
	}},
	{"12.1.1, 7.2", "Add: the group's version and suite are listed", ErrCapabilities, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, r.newcomer(func(kp *KeyPackage) { kp.LeafNode.Capabilities.CipherSuites = nil }))
	}},
	{"12.1.1, 7.3", "Add: its own credential type is listed", ErrCapabilities, false, func(r *ruleHall) *MLSMessage {
		return r.list(r.newcomer(func(kp *KeyPackage) { kp.LeafNode.Capabilities.Credentials = []CredentialType{CredentialX509} }))
	}},
	{"12.1.1, 7.3", "Add: credential types of the others are supported by it", ErrCredentialType, false, func(r *ruleHall) *MLSMessage {
		ca := newTestCA(r.t)
		return r.list(r.newcomer(func(kp *KeyPackage) {
			kp.LeafNode.Credential = ca.credential(r.t, r.people["eve"])
			kp.LeafNode.Capabilities.Credentials = []CredentialType{CredentialX509}
		}))
	}},
	{"12.1.1, 7.3", "Add: its credential type is supported by the others", ErrCredentialType, false, func(r *ruleHall) *MLSMessage {
		ca := newTestCA(r.t)
		basic := DefaultCapabilities()
		basic.Credentials = []CredentialType{CredentialBasic}
		r.commit(2, 2, CommitOptions{Leaf: &LeafOptions{Capabilities: &basic}})
		return r.list(r.newcomer(func(kp *KeyPackage) { kp.LeafNode.Credential = ca.credential(r.t, r.people["eve"]) }))
	}},
	{"12.1.1, 5.3", "Add: the certificate is for the signature key", ErrCredential, false, func(r *ruleHall) *MLSMessage {
		ca := newTestCA(r.t)
		return r.alone(2, r.newcomer(func(kp *KeyPackage) { kp.LeafNode.Credential = ca.credential(r.t, r.people["frank"]) }))
	}},
	{"12.1.2, 7.3", "Update: leaf_node_source is update", ErrLeafSource, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, r.update(func(n *LeafNode) { n.Source = LeafNodeCommit }))
	}},
	{"12.1.2, 7.3", "Update: a new encryption_key", ErrEncryptionKeyReused, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, r.update(func(n *LeafNode) { n.EncryptionKey = r.hub.Leaf(2).EncryptionKey }))
	}},
	{"12.1.2, 7.3", "Update: signature of the LeafNode", ErrLeafSignature, false, func(r *ruleHall) *MLSMessage {
		p := r.update(none)
		p.Body.(*Update).LeafNode.Signature[5] ^= 1
		return r.alone(2, p)
	}},
	{"12.1.2, 7.2", "Update: signature is for group and leaf", ErrLeafSignature, false, func(r *ruleHall) *MLSMessage {
		p := r.update(none)
		r.ok(p.Body.(*Update).LeafNode.sign(r.people["carol"].sig, r.hub.GroupID(), 3))
		return r.alone(2, p)
	}},
	{"12.1.2, 5.3.1", "Update: a credential that may follow the old one", ErrCredential, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, r.update(func(n *LeafNode) { n.Credential = BasicCredential([]byte("mallory")) }))
	}},
	{"12.1.2, 7.3", "Update: extensions of the leaf are listed", ErrExtensionUnlisted, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, r.update(func(n *LeafNode) { n.Extensions = Extensions{{0x4242, nil}} }))
	}},
	{"12.1.2, 5.1.1", "Update: encryption_key is a key", ErrPublicKey, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, r.update(func(n *LeafNode) { n.EncryptionKey = nonce() })) // of low order
	}},
	{"12.1.3", "Remove: a leaf that is not blank", ErrRemoveBlank, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, Proposal{&Remove{12}})
	}},
	{"12.1.4", "PreSharedKey: reinit elsewhere", ErrPSKUsage, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionReInit, Nonce: nonce()}}})
	}},
	{"12.1.4", "PreSharedKey: branch elsewhere", ErrPSKUsage, false, func(r *ruleHall) *MLSMessage {
		return r.list(Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKResumption, Usage: ResumptionBranch, Nonce: nonce()}}})
	}},
	{"12.1.4", "PreSharedKey: psk_nonce of KDF.Nh bytes", ErrPSKNonce, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKExternal, Nonce: []byte{1}}}})
	}},
	{"12.1.5", "ReInit: version not below the group's", ErrReInitVersion, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, Proposal{&ReInit{Version: 0, CipherSuite: suite1}})
	}},
	{"12.1.6", "ExternalInit: only in an external Commit", ErrExternalInitInside, false, func(r *ruleHall) *MLSMessage {
		return r.alone(2, Proposal{&ExternalInit{nonce()}})
	}},
	{"12.1.7", "GroupContextExtensions: all support what is required", ErrRequiredCapabilities, false, func(r *ruleHall) *MLSMessage {
		return r.list(Proposal{&GroupContextExtensions{Extensions{(&RequiredCapabilities{Extensions: []ExtensionType{0x4242}}).Extension()}}})
	}},
	{"12.1.7", "GroupContextExtensions: those added, too", ErrCapabilities, false, func(r *ruleHall) *MLSMessage {
		plain := r.newcomer(func(kp *KeyPackage) { kp.LeafNode.Capabilities.Proposals = nil })
		return r.list(Proposal{&GroupContextExtensions{Extensions{(&RequiredCapabilities{Proposals: []ProposalType{ProposalSelfRemove}}).Extension()}}}, plain)
	}},
	{"12.1.7, 13.4", "GroupContextExtensions: all know the extensions", ErrUnsupportedGCE, false, func(r *ruleHall) *MLSMessage {
		return r.list(Proposal{&GroupContextExtensions{Extensions{{0x4242, nil}}}})
	}},
	{"12.1.8", "an external sender's proposal is of certain types", ErrProposalSender, false, func(r *ruleHall) *MLSMessage {
		return r.signed(r.content(Sender{Type: SenderExternal}, r.update(none)), r.sender.sig)
	}},
	{"12.1.8", "an external sender has signed", ErrSignature, false, func(r *ruleHall) *MLSMessage {
		return r.signed(r.content(Sender{Type: SenderExternal}, Proposal{&Remove{1}}), r.people["eve"].sig)
	}},
	{"12.1.8", "new_member_proposal only with an Add", ErrProposalSender, false, func(r *ruleHall) *MLSMessage {
		return r.signed(r.content(Sender{Type: SenderNewMemberProposal}, Proposal{&Remove{1}}), r.people["eve"].sig)
	}},
	{"12.1.8", "new_member_proposal is signed by whom it adds", ErrSignature, false, func(r *ruleHall) *MLSMessage {
		return r.signed(r.content(Sender{Type: SenderNewMemberProposal}, r.newcomer(none)), r.people["alice"].sig)
	}},

	// 12.2: lists of a regular Commit.
	{"12.2", "an invalid proposal in the list", ErrRemoveBlank, false, func(r *ruleHall) *MLSMessage { return r.list(Proposal{&Remove{12}}) }},
	{"12.2", "no Update by the committer", ErrUpdateByCommitter, false, func(r *ruleHall) *MLSMessage {
		return r.list(Proposal{&Update{LeafNode: *r.hub.Leaf(0)}})
	}},
	{"12.2", "no Update by the committer, by reference", ErrUpdateByCommitter, false, func(r *ruleHall) *MLSMessage {
		return r.refs(r.propose(0, 0, Proposal{&Update{}}))
	}},
	{"12.2", "no Remove of the committer", ErrRemoveCommitter, false, func(r *ruleHall) *MLSMessage { return r.list(Proposal{&Remove{0}}) }},
	{"12.2", "not two Removes of a leaf", ErrConflictingProposals, false, func(r *ruleHall) *MLSMessage { return r.list(Proposal{&Remove{2}}, Proposal{&Remove{2}}) }},
	{"12.2", "not two Updates of a leaf", ErrConflictingProposals, false, func(r *ruleHall) *MLSMessage {
		return r.refs(r.propose(2, 2, Proposal{&Update{}}), r.propose(2, 2, Proposal{&Update{}}))
	}},
	{"12.2", "not Update and Remove of a leaf", ErrConflictingProposals, false, func(r *ruleHall) *MLSMessage {
		return r.refs(r.propose(2, 2, Proposal{&Update{}}), r.propose(3, 3, Proposal{&Remove{2}}))
	}},
	{"12.2", "not two Adds of one client", ErrDuplicateAdd, false, func(r *ruleHall) *MLSMessage { return r.list(r.newcomer(none), r.newcomer(none)) }},
	{"12.2", "no Add of a member", ErrAlreadyMember, false, func(r *ruleHall) *MLSMessage {
		return r.list(addOf(r.people["bob"].keyPackage(r.t, r.cfg)))
	}},
	{"12.2", "an Add of a member who is removed (then the Commit needs a path)", ErrPathRequired, false, func(r *ruleHall) *MLSMessage {
		return r.list(addOf(r.people["carol"].keyPackage(r.t, r.cfg)), Proposal{&Remove{2}})
	}},
	{"12.2", "not one PreSharedKeyID twice", ErrDuplicatePSK, false, func(r *ruleHall) *MLSMessage {
		psk := Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: []byte("x"), Nonce: nonce()}}}
		return r.list(psk, psk)
	}},
	{"12.2", "one GroupContextExtensions", ErrMultipleGCE, false, func(r *ruleHall) *MLSMessage {
		return r.list(Proposal{&GroupContextExtensions{}}, Proposal{&GroupContextExtensions{}})
	}},
	{"12.2", "a ReInit alone", ErrReInitNotAlone, false, func(r *ruleHall) *MLSMessage {
		return r.list(Proposal{&ReInit{Version: MLS10, CipherSuite: 1}}, r.newcomer(none))
	}},
	{"12.2", "no ExternalInit", ErrExternalInitInside, false, func(r *ruleHall) *MLSMessage { return r.list(Proposal{&ExternalInit{nonce()}}) }},
	{"12.2", "types that those who process the Commit support", ErrProposalUnsupported, false, func(r *ruleHall) *MLSMessage {
		return r.list(Proposal{&testProposal{}})
	}},
	{"12.2, 7.3", "afterwards: no encryption key twice, of leaves", ErrDuplicateKey, false, func(r *ruleHall) *MLSMessage {
		return r.list(r.newcomer(func(kp *KeyPackage) { kp.LeafNode.EncryptionKey = r.hub.Leaf(2).EncryptionKey }))
	}},
	{"12.2, 7.3", "afterwards: no encryption key twice, of leaf and parent", ErrDuplicateKey, false, func(r *ruleHall) *MLSMessage {
		return r.list(r.newcomer(func(kp *KeyPackage) { kp.LeafNode.EncryptionKey = r.hub.tree.publicKey(3) }))
	}},
	{"12.2, 7.3", "afterwards: no signature key twice", ErrDuplicateKey, false, func(r *ruleHall) *MLSMessage {
		return r.list(addOf(r.people["dave"].keyPackage(r.t, r.cfg)))
	}},

	// 12.4, 12.4.2: Commits.
	{"12.4", "an empty Commit has a path", ErrPathRequired, false, func(r *ruleHall) *MLSMessage { return r.list() }},
	{"12.4", "a Remove needs a path", ErrPathRequired, false, func(r *ruleHall) *MLSMessage { return r.list(Proposal{&Remove{2}}) }},
	{"12.4", "an Update needs a path", ErrPathRequired, false, func(r *ruleHall) *MLSMessage { return r.refs(r.propose(2, 2, Proposal{&Update{}})) }},
	{"12.4", "GroupContextExtensions needs a path", ErrPathRequired, false, func(r *ruleHall) *MLSMessage {
		return r.list(Proposal{&GroupContextExtensions{r.hub.gc.Extensions}})
	}},
	{"12.4.2", "the epoch of the group", ErrWrongEpoch, false, func(r *ruleHall) *MLSMessage {
		return r.signed(FramedContent{GroupID: r.hub.GroupID(), Epoch: r.hub.Epoch() + 1, Sender: Sender{Type: SenderMember}, ContentType: ContentCommit, Commit: &Commit{}}, r.people["alice"].sig)
	}},
	{"12.4.2", "signature of the committer", ErrSignature, false, func(r *ruleHall) *MLSMessage {
		return r.signed(FramedContent{GroupID: r.hub.GroupID(), Epoch: r.hub.Epoch(), Sender: Sender{Type: SenderMember}, ContentType: ContentCommit, Commit: &Commit{}}, r.people["bob"].sig)
	}},
	{"12.4.2", "PSKs are available", ErrPSKUnknown, true, func(r *ruleHall) *MLSMessage {
		return r.list(Proposal{&PreSharedKey{PreSharedKeyID{Type: PSKExternal, ID: []byte("x"), Nonce: nonce()}}})
	}},
	{"12.4.2", "path: leaf_node_source is commit", ErrLeafSource, false, func(r *ruleHall) *MLSMessage {
		return r.path(func(p *UpdatePath) { p.LeafNode.Source = LeafNodeUpdate })
	}},
	{"12.4.2", "path: a new encryption_key", ErrEncryptionKeyReused, false, func(r *ruleHall) *MLSMessage {
		return r.path(func(p *UpdatePath) { p.LeafNode.EncryptionKey = r.hub.Leaf(0).EncryptionKey })
	}},
	{"12.4.2, 7.3", "path: signature of the LeafNode", ErrLeafSignature, false, func(r *ruleHall) *MLSMessage {
		m := r.path(none)
		c := m.PublicMessage.Content.Commit
		c.Path.LeafNode.Signature[5] ^= 1
		return r.forge(0, 0, c)
	}},
	{"12.4.2, 7.3", "path: extensions of the leaf are listed", ErrExtensionUnlisted, false, func(r *ruleHall) *MLSMessage {
		return r.path(func(p *UpdatePath) { p.LeafNode.Extensions = Extensions{{0x4242, nil}} })
	}},
	{"12.4.2, 7.3", "path: a credential that may follow the old one", ErrCredential, false, func(r *ruleHall) *MLSMessage {
		return r.path(func(p *UpdatePath) { p.LeafNode.Credential = BasicCredential([]byte("mallory")) })
	}},
	{"12.4.2", "path: no key of a leaf", ErrDuplicateKey, false, func(r *ruleHall) *MLSMessage {
		return r.path(func(p *UpdatePath) { p.LeafNode.EncryptionKey = r.hub.Leaf(2).EncryptionKey })
	}},
	{"12.4.2", "path: no key of a node on it", ErrPathKeyReused, false, func(r *ruleHall) *MLSMessage {
		return r.path(func(p *UpdatePath) { p.Nodes[1].EncryptionKey = r.hub.tree.publicKey(3) })
	}},
	{"7.5", "path: a node for each of the filtered direct path", ErrPath, false, func(r *ruleHall) *MLSMessage {
		return r.path(func(p *UpdatePath) { p.Nodes = p.Nodes[:1] })
	}},
	{"7.5", "path: a ciphertext for each of the resolution", ErrPath, false, func(r *ruleHall) *MLSMessage {
		return r.path(func(p *UpdatePath) {
			p.Nodes[1].EncryptedPathSecret = append(p.Nodes[1].EncryptedPathSecret, p.Nodes[1].EncryptedPathSecret[0])
		})
	}},
	{"7.5", "path: nodes have keys", ErrPublicKey, false, func(r *ruleHall) *MLSMessage {
		return r.path(func(p *UpdatePath) { p.Nodes[1].EncryptionKey = nonce() })
	}},
	{"7.9", "path: parent hash of the leaf", ErrParentHash, false, func(r *ruleHall) *MLSMessage {
		return r.path(func(p *UpdatePath) { p.LeafNode.ParentHash = nonce() })
	}},
	{"7.5", "path: the secret decrypts", ErrDecrypt, true, func(r *ruleHall) *MLSMessage {
		return r.path(func(p *UpdatePath) { p.Nodes[0].EncryptedPathSecret[0].Ciphertext[3] ^= 1 })
	}},
	{"7.5", "path: the secret gives the nodes' keys", ErrPathSecret, true, func(r *ruleHall) *MLSMessage {
		// Another secret for bob, well encrypted: the provisional context is the Commit's own.
		g := r.states[0]
		out, err := g.Commit(0, CommitOptions{})
		r.ok(err)
		g.ClearPending()
		c := out.Message.PublicMessage.Content.Commit
		ct, err := g.s.encryptWithLabel(r.hub.Leaf(1).EncryptionKey, "UpdatePathNode", out.Staged.st.provisional, bytes.Repeat([]byte{7}, 32))
		r.ok(err)
		c.Path.Nodes[0].EncryptedPathSecret[0] = ct
		return r.forge(0, 0, c)
	}},
	{"12.4.2, 6.1", "confirmation tag", ErrConfirmationTag, true, func(r *ruleHall) *MLSMessage { return r.path(none) }},
	{"12.4.2", "nothing after a ReInit", ErrReInitialised, false, func(r *ruleHall) *MLSMessage {
		r.commit(0, 0, CommitOptions{Proposals: []Proposal{{&ReInit{GroupID: []byte("next"), Version: MLS10, CipherSuite: suite1}}}})
		return r.list()
	}},

	// 12.2, 12.4.3.2: external Commits.
	{"12.2", "external: an ExternalInit", ErrExternalInitCount, false, func(r *ruleHall) *MLSMessage {
		return r.outside(func(c *Commit) { c.Proposals = nil })
	}},
	{"12.2", "external: one ExternalInit", ErrExternalInitCount, false, func(r *ruleHall) *MLSMessage {
		return r.outside(func(c *Commit) { c.Proposals = append(c.Proposals, c.Proposals[0]) })
	}},
	{"12.2", "external: one Remove", ErrExternalRemoves, false, func(r *ruleHall) *MLSMessage {
		return r.outside(func(c *Commit) { c.value(&Remove{1}); c.value(&Remove{2}) })
	}},
	{"12.2", "external: the Remove is of the joiner", ErrCredential, false, func(r *ruleHall) *MLSMessage {
		one := LeafIndex(1)
		return r.outsideAs("bob", &one, func(c *Commit) {
			c.Path.LeafNode.Credential = BasicCredential([]byte("eve"))
		})
	}},
	{"12.2, 12.1.2", "external: a new encryption_key for the leaf removed", ErrEncryptionKeyReused, false, func(r *ruleHall) *MLSMessage {
		one := LeafIndex(1)
		return r.outsideAs("bob", &one, func(c *Commit) { c.Path.LeafNode.EncryptionKey = r.hub.Leaf(1).EncryptionKey })
	}},
	{"12.2", "external: no Add", ErrExternalCommit, false, func(r *ruleHall) *MLSMessage {
		return r.outside(func(c *Commit) { c.value(r.newcomer(none).Body) })
	}},
	{"12.2", "external: no Update", ErrExternalCommit, false, func(r *ruleHall) *MLSMessage {
		return r.outside(func(c *Commit) { c.value(r.update(none).Body) })
	}},
	{"12.2", "external: no GroupContextExtensions", ErrExternalCommit, false, func(r *ruleHall) *MLSMessage {
		return r.outside(func(c *Commit) { c.value(&GroupContextExtensions{}) })
	}},
	{"12.2", "external: no ReInit", ErrExternalCommit, false, func(r *ruleHall) *MLSMessage {
		return r.outside(func(c *Commit) { c.value(&ReInit{Version: MLS10, CipherSuite: suite1}) })
	}},
	{"12.4.3.2", "external: a path", ErrPathRequired, false, func(r *ruleHall) *MLSMessage {
		return r.outside(func(c *Commit) { c.Path = nil })
	}},
	{"12.4.3.2", "external: no references", ErrExternalByRef, false, func(r *ruleHall) *MLSMessage {
		ref := r.propose(2, 2, Proposal{&Remove{1}}).Ref
		return r.outside(func(c *Commit) { c.Proposals = append(c.Proposals, ProposalOrRef{Ref: ref}) })
	}},
	{"12.4.3.2", "external: signed by the new leaf", ErrSignature, false, func(r *ruleHall) *MLSMessage {
		m := r.outside(none)
		return r.forgeOutside(r.people["frank"].sig, m.PublicMessage.Content.Commit)
	}},
	{"12.4.3.2, 7.3", "external: the leaf is signed for its place", ErrLeafSignature, false, func(r *ruleHall) *MLSMessage {
		c := r.outside(none).PublicMessage.Content.Commit
		r.ok(c.Path.LeafNode.sign(r.people["eve"].sig, r.hub.GroupID(), 5))
		return r.forgeOutside(r.people["eve"].sig, c)
	}},
	{"12.4.3.2, 7.3", "external: not a member already", ErrAlreadyMember, false, func(r *ruleHall) *MLSMessage {
		c := r.outside(none).PublicMessage.Content.Commit
		c.Path.LeafNode.SignatureKey, c.Path.LeafNode.Credential = r.people["dave"].sig.Public(), BasicCredential([]byte("dave"))
		r.ok(c.Path.LeafNode.sign(r.people["dave"].sig, r.hub.GroupID(), 4))
		return r.forgeOutside(r.people["dave"].sig, c)
	}},
	{"12.4.3.2, 6.1", "external: confirmation tag", ErrConfirmationTag, true, func(r *ruleHall) *MLSMessage { return r.outside(none) }},
}

// TestLifetimeRule: who sends a KeyPackage and who passes it on holds it against the clock; who receives it need not (RFC
// 9420 section 7.3).
func TestLifetimeRule(t *testing.T) {
	r := newRuleHall(t)
	add := r.newcomer(func(kp *KeyPackage) { kp.LeafNode.Lifetime = Lifetime{1, 2} })
	if _, err := r.states[2].Commit(2, CommitOptions{Proposals: []Proposal{add}}); !errors.Is(err, ErrLifetime) {
		t.Error(err)
	}
	if _, _, err := r.states[2].Propose(2, add, nil); !errors.Is(err, ErrLifetime) {
		t.Error(err)
	}
	m := r.alone(2, add)
	if _, err := r.hub.ReceiveProposal(m); !errors.Is(err, ErrLifetime) {
		t.Error(err)
	}
	if _, err := r.states[1].ReceiveProposal(m); err != nil {
		t.Error(err)
	}
	kp := add.Body.(*Add).KeyPackage
	for at, want := range map[int64]error{0: ErrLifetime, 1: nil, 2: nil, 3: ErrLifetime} {
		cfg := &Config{Now: func() time.Time { return time.Unix(at, 0) }}
		if err := kp.Verify(cfg); !errors.Is(err, want) {
			t.Errorf("at %d: %v", at, err)
		}
	}
}

// TestPaddingRule: what follows the content of a PrivateMessage is zero (RFC 9420 section 6.3.1).
func TestPaddingRule(t *testing.T) {
	r := newRuleHall(t)
	g := r.states[2]
	for _, padding := range [][]byte{nil, {0, 0, 0}, {0, 0, 1}} {
		ac, err := signFramed(r.people["carol"].sig, WireFormatPrivateMessage, FramedContent{GroupID: g.GroupID(), Epoch: g.Epoch(),
			Sender: Sender{Type: SenderMember, Leaf: 2}, ContentType: ContentApplication, ApplicationData: []byte("x")}, g.gcBytes)
		must(t, err)
		step, err := g.st.nextKey(g.cfg, 2, RatchetApplication)
		must(t, err)
		g.st.commit(step)
		var w, aad tlspl.Writer
		ac.Content.marshalContent(&w)
		ac.Auth.marshal(&w, ContentApplication)
		w.Raw(padding)
		m := &PrivateMessage{GroupID: g.GroupID(), Epoch: g.Epoch(), ContentType: ContentApplication}
		m.marshalAAD(&aad)
		guard := make([]byte, 4)
		m.Ciphertext, err = g.s.seal(step.key, guarded(step.nonce, guard), aad.Bytes(), w.Bytes())
		must(t, err)
		key, nonce := g.s.senderDataKey(g.secrets.senderData, m.Ciphertext)
		m.EncryptedSenderData, err = g.s.seal(key, nonce, m.senderDataAAD(), senderDataOf(2, step.generation, guard))
		must(t, err)
		var want error
		if bytes.Contains(padding, []byte{1}) {
			want = ErrPadding
		}
		if _, err := r.states[1].Decrypt(NewMessage(m)); !errors.Is(err, want) {
			t.Errorf("%v: %v", padding, err)
		}
	}
}

// TestWelcomeRules is RFC 9420 section 12.4.3.1 in its order. What concerns the tree is a PublicGroup's as well.
func TestWelcomeRules(t *testing.T) {
	type invitation struct {
		cfg  *Config
		key  JoinKey
		info *GroupInfo
		tree *RatchetTree
		sign *SignatureKey // of the GroupInfo; nil leaves it as it is
		psks []PreSharedKeyID
		path []byte // the path secret
		seal func(w *Welcome)
	}
	// rehash puts the hash of a tree that was changed into the GroupContext, so that only its own rules find it.
	rehash := func(t *testing.T, i *invitation) {
		tr, err := treeFrom(&suites[suite1], i.tree)
		must(t, err)
		i.info.GroupContext.TreeHash = tr.rootHash()
	}
	leaf := func(change func(n *LeafNode)) func(t *testing.T, i *invitation) {
		return func(t *testing.T, i *invitation) {
			change(i.tree.Nodes[0].Leaf) // the committer's: no parent hash covers it
			rehash(t, i)
		}
	}
	for _, c := range []struct {
		rule   string
		want   error
		secret bool // a hub does not see it
		spoil  func(t *testing.T, i *invitation)
	}{
		{"as it should be", nil, false, func(*testing.T, *invitation) {}},
		{"an entry for our KeyPackage", ErrWelcomeNotForUs, true, func(t *testing.T, i *invitation) {
			i.key = newPerson(t, suite1, "other").keyPackage(t, i.cfg)
		}},
		{"the KeyPackage's cipher suite", ErrWelcomeNotForUs, true, func(t *testing.T, i *invitation) {
			i.seal = func(w *Welcome) { w.CipherSuite = X25519ChaCha20Poly1305SHA256Ed25519 }
		}},
		{"the secrets decrypt", ErrDecrypt, true, func(t *testing.T, i *invitation) {
			i.seal = func(w *Welcome) { w.Secrets[0].GroupSecrets.Ciphertext[0] ^= 1 }
		}},
		{"the GroupInfo decrypts", ErrDecrypt, true, func(t *testing.T, i *invitation) {
			i.seal = func(w *Welcome) { w.EncryptedGroupInfo[0] ^= 1 }
		}},
		{"PSKs are known", ErrPSKUnknown, true, func(t *testing.T, i *invitation) {
			i.psks = []PreSharedKeyID{{Type: PSKExternal, ID: []byte("unknown"), Nonce: nonce()}}
		}},
		{"one PSK of reinit or branch", ErrWelcomePSK, true, func(t *testing.T, i *invitation) {
			p := PreSharedKeyID{Type: PSKResumption, Usage: ResumptionBranch, Nonce: nonce()}
			i.psks = []PreSharedKeyID{p, p}
		}},
		{"a group that follows another is joined as such", ErrWelcomePSK, true, func(t *testing.T, i *invitation) {
			i.psks = []PreSharedKeyID{{Type: PSKResumption, Usage: ResumptionReInit, Nonce: nonce()}}
		}},
		{"GroupInfo: signature", ErrGroupInfoSigner, false, func(t *testing.T, i *invitation) { i.sign = i.key.Secrets.Signature }},
		{"GroupInfo: the signer's leaf is not blank", ErrGroupInfoSigner, false, func(t *testing.T, i *invitation) { i.info.Signer = 7 }},
		{"group_id is not one we are in", ErrGroupKnown, true, func(t *testing.T, i *invitation) {
			i.cfg.InGroup = func(id []byte, epoch uint64) bool { return string(id) == "hall" && epoch == i.info.GroupContext.Epoch }
		}},
		{"GroupInfo: the Welcome's cipher suite", ErrKeyPackageSuite, true, func(t *testing.T, i *invitation) {
			i.info.GroupContext.CipherSuite = X25519ChaCha20Poly1305SHA256Ed25519
		}},
		{"tree hash", ErrTreeHash, false, func(t *testing.T, i *invitation) { i.info.GroupContext.TreeHash = nonce() }},
		{"a tree at all", ErrTree, false, func(t *testing.T, i *invitation) { i.tree = nil }},
		{"tree: it ends with a leaf", ErrTree, false, func(t *testing.T, i *invitation) { i.tree.Nodes = append(i.tree.Nodes, TreeNode{}, TreeNode{}) }},
		{"tree: leaves at even places", ErrTree, false, func(t *testing.T, i *invitation) {
			i.tree.Nodes[1] = TreeNode{Leaf: i.tree.Nodes[0].Leaf}
		}},
		{"tree: parent hashes", ErrParentHash, false, func(t *testing.T, i *invitation) {
			i.tree.Nodes[3].Parent.ParentHash = []byte{1}
			rehash(t, i)
		}},
		{"leaf: signature", ErrLeafSignature, false, leaf(func(n *LeafNode) { n.Signature[4] ^= 1 })},
		{"leaf: credential", ErrCredential, false, func(t *testing.T, i *invitation) {
			i.cfg.VerifyCredential = func(c CredentialContext) error {
				if string(c.Credential.Identity) == "carol" {
					return errors.New("nobody knows carol")
				}
				return nil
			}
		}},
		{"leaf: the group's extensions are known to it", ErrUnsupportedGCE, false, func(t *testing.T, i *invitation) {
			i.info.GroupContext.Extensions = Extensions{{0x4242, nil}}
		}},
		{"leaf: what is required is listed", ErrCapabilities, false, func(t *testing.T, i *invitation) {
			i.info.GroupContext.Extensions = Extensions{(&RequiredCapabilities{Proposals: []ProposalType{0x4242}}).Extension()}
		}},
		{"unmerged leaf: below the node", ErrTree, false, func(t *testing.T, i *invitation) {
			i.tree.Nodes[3].Parent.UnmergedLeaves = []LeafIndex{9}
			rehash(t, i)
		}},
		{"unmerged leaf: not blank", ErrTree, false, func(t *testing.T, i *invitation) {
			i.tree.Nodes[7].Parent.UnmergedLeaves = []LeafIndex{6}
			rehash(t, i)
		}},
		{"unmerged leaf: unmerged at nodes between", ErrTree, false, func(t *testing.T, i *invitation) {
			i.tree.Nodes[7].Parent.UnmergedLeaves = []LeafIndex{2}
			rehash(t, i)
		}},
		{"no key twice, of nodes", ErrDuplicateKey, false, func(t *testing.T, i *invitation) {
			i.tree.Nodes[3].Parent.EncryptionKey = i.tree.Nodes[2].Leaf.EncryptionKey
			rehash(t, i)
		}},
		{"our leaf is in the tree", ErrWelcomeNotForUs, true, func(t *testing.T, i *invitation) {
			// The entry is for us, and the leaf another one.
			other := *i.key.KeyPackage
			other.LeafNode.EncryptionKey = nonce()
			i.key.KeyPackage = &other
		}},
		{"the private key is the leaf's", ErrPublicKey, true, func(t *testing.T, i *invitation) {
			s := *i.key.Secrets
			s.LeafKey = s.InitKey
			i.key.Secrets = &s
		}},
		{"path secret: gives the nodes' keys", ErrPathSecret, true, func(t *testing.T, i *invitation) { i.path = nonce() }},
		{"confirmation tag", ErrConfirmationTag, true, func(t *testing.T, i *invitation) { i.info.ConfirmationTag = nonce() }},
	} {
		t.Run(c.rule, func(t *testing.T) {
			h, people := rulesHall(t, nil)
			k := people["eve"].keyPackage(t, h.cfg)
			g := h.states[0]
			out, err := g.Commit(0, CommitOptions{Proposals: []Proposal{addOf(k)}, ForcePath: true})
			must(t, err)
			s, err := g.MergePending(nil)
			must(t, err)
			cfg := *h.cfg
			i := &invitation{cfg: &cfg, key: k, info: new(GroupInfo), tree: new(RatchetTree), sign: people["alice"].sig}
			must(t, tlspl.Unmarshal(tlspl.Marshal(out.GroupInfo), i.info))
			must(t, i.tree.UnmarshalBinary(tlspl.Marshal(out.Tree)))
			c.spoil(t, i)
			must(t, i.info.sign(i.sign))

			want := c.want
			if c.secret {
				want = nil
			}
			if i.info.GroupContext.CipherSuite == suite1 {
				if _, err := NewPublicGroup(i.cfg, i.info, i.tree); !errors.Is(err, want) {
					t.Errorf("hub: %v, want %v", err, want)
				}
			}
			gs := GroupSecrets{JoinerSecret: s.joiner, PSKs: i.psks, PathSecret: i.path}
			w := sealWelcome(t, g.s, i.key, k, &gs, i.info)
			if i.seal != nil {
				i.seal(w)
			}
			_, err = JoinGroup(i.cfg, w, i.tree, []JoinKey{i.key}, nil)
			if !errors.Is(err, c.want) {
				t.Errorf("joiner: %v, want %v", err, c.want)
			}
		})
	}
}

// sealWelcome makes a Welcome of whatever it is given, for the KeyPackage to whose init key it is encrypted; ours is the one
// that will be looked for, unless it is quite another.
func sealWelcome(t testing.TB, s *suite, ours, to JoinKey, gs *GroupSecrets, info *GroupInfo) *Welcome {
	t.Helper()
	key, nonce := s.welcomeKey(s.welcomeSecret(gs.JoinerSecret, s.zero()))
	sealed, err := s.seal(key, nonce, nil, tlspl.Marshal(info))
	must(t, err)
	w := &Welcome{CipherSuite: s.id, EncryptedGroupInfo: sealed}
	kp := to.KeyPackage
	if bytes.Equal(ours.KeyPackage.InitKey, kp.InitKey) {
		kp = ours.KeyPackage
	}
	ref, err := kp.Ref(s.id)
	must(t, err)
	ct, err := s.encryptWithLabel(to.KeyPackage.InitKey, "Welcome", sealed, tlspl.Marshal(gs))
	must(t, err)
	w.Secrets = []EncryptedGroupSecrets{{ref, ct}}
	return w
}
