package mls

import (
	"bytes"
	"fmt"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// JoinKey is a KeyPackage of ours with its secrets.
type JoinKey struct {
	KeyPackage *KeyPackage
	Secrets    *KeyPackageSecrets
}

// opened is a Welcome opened with the keys of those of its joiners who are ours.
type opened struct {
	s       *suite
	joiners []joiner
	secret  []byte // the joiner_secret
	psk     []byte
	psks    []PreSharedKeyID
	info    *GroupInfo
}

type joiner struct {
	key        JoinKey
	pathSecret []byte
}

// openWelcome is the first half of RFC 9420 section 12.4.3.1. successor: PSKs for
// reinitialisation and branching are let pass, to be checked by the caller.
func openWelcome(w *Welcome, kps []JoinKey, successor bool, own func(group []byte, epoch uint64) []byte, stores ...PSKStore) (*opened, error) {
	s, err := w.CipherSuite.impl()
	if err != nil {
		return nil, err
	}
	o := &opened{s: s}
	entries := make(map[string]*EncryptedGroupSecrets, len(w.Secrets))
	for i := range w.Secrets {
		entries[string(w.Secrets[i].NewMember)] = &w.Secrets[i]
	}
	for _, k := range kps {
		if k.KeyPackage.CipherSuite != w.CipherSuite {
			continue
		}
		ref, err := k.KeyPackage.Ref(w.CipherSuite)
		if err != nil {
			return nil, err
		}
		e := entries[string(ref)]
		if e == nil {
			continue
		}
		pt, err := s.decryptWithLabel(&hpkeKey{raw: k.Secrets.InitKey}, "Welcome", w.EncryptedGroupInfo, e.GroupSecrets)
		if err != nil {
			return nil, err
		}
		var gs GroupSecrets
		if err := tlspl.Unmarshal(pt, &gs); err != nil {
			return nil, fmt.Errorf("mls: group secrets: %w", err)
		}
		if o.joiners == nil {
			o.secret, o.psks = gs.JoinerSecret, gs.PSKs
		} else if !bytes.Equal(o.secret, gs.JoinerSecret) {
			return nil, fmt.Errorf("mls: %w: joiners with different secrets", ErrWelcomeNotForUs)
		}
		o.joiners = append(o.joiners, joiner{k, gs.PathSecret})
	}
	if o.joiners == nil {
		return nil, fmt.Errorf("mls: %w", ErrWelcomeNotForUs)
	}
	ids := make([]*PreSharedKeyID, len(o.psks))
	special := 0
	for i := range o.psks {
		ids[i] = &o.psks[i]
		if o.psks[i].special() {
			special++
		}
		if len(o.psks[i].Nonce) != s.nh {
			return nil, fmt.Errorf("mls: %w", ErrPSKNonce)
		}
	}
	if special > 1 {
		return nil, fmt.Errorf("mls: %w: %d of reinit or branch", ErrWelcomePSK, special)
	}
	if special > 0 && !successor {
		return nil, fmt.Errorf("mls: %w: the old group is needed: JoinSuccessor", ErrWelcomePSK)
	}
	psks, err := findPSKs(ids, own, stores...)
	if err != nil {
		return nil, err
	}
	o.psk = s.pskSecret(psks)
	key, nonce := s.welcomeKey(s.welcomeSecret(o.secret, o.psk))
	pt, err := s.open(key, nonce, nil, w.EncryptedGroupInfo)
	if err != nil {
		return nil, fmt.Errorf("mls: group info: %w", err)
	}
	o.info = new(GroupInfo)
	if err := tlspl.Unmarshal(pt, o.info); err != nil {
		return nil, fmt.Errorf("mls: group info: %w", err)
	}
	if o.info.GroupContext.CipherSuite != w.CipherSuite {
		return nil, fmt.Errorf("mls: welcome: %w", ErrKeyPackageSuite)
	}
	if special > 0 && o.info.GroupContext.Epoch != 1 {
		return nil, fmt.Errorf("mls: %w: epoch %d", ErrWelcomePSK, o.info.GroupContext.Epoch)
	}
	return o, nil
}

// JoinGroup joins by a Welcome with all of kps it names; each becomes a local
// leaf of one state (RFC 9420 section 12.4.3.1). tree is nil if it stands in the
// Welcome. psks may be nil; Config.PSKs is asked too. Errors:
// [ErrWelcomeNotForUs], [ErrPSKUnknown], [ErrDecrypt], or a [RuleError]. For the
// Welcome of a group that follows another see [Group.JoinSuccessor].
func JoinGroup(cfg *Config, welcome *Welcome, tree *RatchetTree, kps []JoinKey, psks PSKStore) (*Group, error) {
	g, err := joinGroup(cfg, welcome, tree, kps, psks, false)
	if err != nil {
		return nil, fmt.Errorf("mls: join: %w", err)
	}
	return g, nil
}

func joinGroup(cfg *Config, welcome *Welcome, rt *RatchetTree, kps []JoinKey, psks PSKStore, successor bool) (*Group, error) {
	o, err := openWelcome(welcome, kps, successor, nil, psks, cfg.PSKs)
	if err != nil {
		return nil, err
	}
	if err := cfg.checkNotIn(&o.info.GroupContext); err != nil {
		return nil, err
	}
	pg, err := newPublicGroup(cfg, o.info, rt)
	if err != nil {
		return nil, err
	}
	g := &Group{PublicGroup: pg, keys: nodeKeys{}, locals: map[LeafIndex]*localLeaf{}, updates: map[string]*updateKeys{}}
	e := o.s.epochSecrets(o.secret, o.psk, pg.gcBytes)
	if !o.s.checkMAC(e.confirmation, pg.gc.ConfirmedTranscriptHash, pg.tag) {
		return nil, fmt.Errorf("mls: %w", ErrConfirmationTag)
	}
	g.begin(e)
	if err := g.attach(o); err != nil {
		return nil, err
	}
	return g, nil
}

// checkNotIn: a joiner is not in a group of that ID (RFC 9420 section 12.4.3).
func (c *Config) checkNotIn(gc *GroupContext) error {
	if c.InGroup != nil && c.InGroup(gc.GroupID, gc.Epoch) {
		return fmt.Errorf("mls: %w", ErrGroupKnown)
	}
	return nil
}

// AttachWelcome makes joiners of a Welcome local leaves of a group that already
// is at the epoch the Welcome leads to, having processed its Commit. That the
// Welcome belongs to this very state is checked by GroupContext, confirmation tag
// and secrets. On an error the group is as it was.
func (g *Group) AttachWelcome(welcome *Welcome, kps []JoinKey) error {
	o, err := openWelcome(welcome, kps, true, g.ownResumption, g.cfg.PSKs)
	if err != nil {
		return fmt.Errorf("mls: attach welcome: %w", err)
	}
	if !bytes.Equal(tlspl.Marshal(&o.info.GroupContext), g.gcBytes) || !bytes.Equal(o.info.ConfirmationTag, g.tag) {
		return fmt.Errorf("mls: attach welcome: %w", ErrGroupInfoDiffers)
	}
	if g.secrets == nil {
		// No local leaf was left: the Welcome is the way back in.
		e := o.s.epochSecrets(o.secret, o.psk, g.gcBytes)
		if !o.s.checkMAC(e.confirmation, g.gc.ConfirmedTranscriptHash, g.tag) {
			return fmt.Errorf("mls: attach welcome: %w", ErrConfirmationTag)
		}
		if err := g.attach(o); err != nil {
			return fmt.Errorf("mls: attach welcome: %w", err)
		}
		g.begin(e)
		g.attached++
		return nil
	}
	if err := g.attach(o); err != nil {
		return fmt.Errorf("mls: attach welcome: %w", err)
	}
	g.attached++
	return nil
}

// attach finds the leaves of an opened Welcome's joiners and takes their keys.
func (g *Group) attach(o *opened) error {
	places := make(map[string]LeafIndex)
	for l, n := range g.tree.members() {
		places[string(n.EncryptionKey)] = l
	}
	keys := newLayer(g.keys)
	leaves := make([]LeafIndex, len(o.joiners))
	for i, j := range o.joiners {
		want := &j.key.KeyPackage.LeafNode
		l, ok := places[string(want.EncryptionKey)]
		if !ok || !bytes.Equal(tlspl.Marshal(g.tree.leaf(l)), tlspl.Marshal(want)) {
			return fmt.Errorf("mls: %w: leaf not in the tree", ErrWelcomeNotForUs)
		}
		if l == o.info.Signer {
			return fmt.Errorf("mls: %w", ErrGroupInfoSigner)
		}
		if err := g.checkLeafKey(l, j.key.Secrets.LeafKey, j.key.Secrets.Signature); err != nil {
			return err
		}
		leaves[i] = l
		keys.set(l.node(), &hpkeKey{raw: j.key.Secrets.LeafKey})
		if j.pathSecret == nil {
			continue
		}
		if len(j.pathSecret) != g.s.nh {
			return fmt.Errorf("mls: %w", ErrPathSecret)
		}
		// From the common ancestor up, secrets are those of the committer's
		// filtered direct path, whose nodes are the ones that are not blank.
		var steps []pathStep
		for x := commonAncestor(l, o.info.Signer); ; x = x.parent() {
			if g.tree.at(x).parent != nil {
				steps = append(steps, pathStep{node: x})
			} else if len(steps) == 0 {
				return fmt.Errorf("mls: %w: common ancestor is blank", ErrPathSecret)
			}
			if x == g.tree.root() {
				break
			}
		}
		if err := g.tree.keysOf(g.s.derivePath(steps, 0, j.pathSecret), keys); err != nil {
			return err
		}
	}
	keys.apply(g.keys)
	g.list = nil
	for i, l := range leaves {
		g.locals[l] = &localLeaf{o.joiners[i].key.Secrets.Signature, g.gc.Epoch}
	}
	return nil
}

// checkLeafKey holds private keys against leaf l.
func (g *Group) checkLeafKey(l LeafIndex, leafKey []byte, sig *SignatureKey) error {
	n := g.tree.leaf(l)
	if n == nil || sig == nil || !bytes.Equal(sig.Public(), n.SignatureKey) {
		return fmt.Errorf("mls: leaf %d: %w", l, ErrSignatureKey)
	}
	pub, err := g.s.kem.public(leafKey)
	if err != nil || !bytes.Equal(pub, n.EncryptionKey) {
		return fmt.Errorf("mls: leaf %d: %w", l, ErrPublicKey)
	}
	return nil
}

// AttachLeaf makes a member a local leaf whose leaf key and signature key are
// known, as after a resync of another local leaf. It knows no keys above it
// until a path goes by: see [Group.Complete].
func (g *Group) AttachLeaf(l LeafIndex, leafKey []byte, sig *SignatureKey) error {
	if err := g.checkLeafKey(l, leafKey, sig); err != nil {
		return fmt.Errorf("mls: attach leaf: %w", err)
	}
	g.keys[l.node()] = &hpkeKey{raw: bytes.Clone(leafKey)}
	g.attached++
	if g.locals[l] == nil {
		g.list = nil
		g.locals[l] = &localLeaf{sig, g.gc.Epoch}
	}
	return nil
}

// AttachGroup takes over the local leaves of another state of the same group at
// the same epoch, such as that of a user who joined by an external Commit which
// this state has processed. o is not to be used any more.
func (g *Group) AttachGroup(o *Group) error {
	if !bytes.Equal(g.gcBytes, o.gcBytes) || !bytes.Equal(g.tag, o.tag) || g.secrets == nil || o.secrets == nil {
		return fmt.Errorf("mls: attach group: %w", ErrGroupInfoDiffers)
	}
	for x, k := range o.keys {
		g.keys[x] = k
	}
	g.attached++
	for l, ll := range o.locals {
		if g.locals[l] != nil {
			continue
		}
		// What the other state has sent since is not to be sent with the same
		// keys again.
		if err := g.st.adopt(o.st, l); err != nil {
			return fmt.Errorf("mls: attach group: %w", err)
		}
		g.locals[l], g.list = ll, nil
	}
	return nil
}

// LeafKey gives the private leaf key of a local leaf, nil if it is not known:
// what AttachLeaf takes, to be kept apart from the group's state.
func (g *Group) LeafKey(l LeafIndex) []byte {
	k := g.keys[l.node()]
	if g.locals[l] == nil || k == nil {
		return nil
	}
	return bytes.Clone(k.raw)
}

// SignatureKey gives the signature key of a local leaf, nil for any other.
func (g *Group) SignatureKey(l LeafIndex) *SignatureKey {
	if ll := g.locals[l]; ll != nil {
		return ll.sig
	}
	return nil
}
