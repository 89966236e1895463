package mls

import (
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"time"
)

// Reason says when a credential is shown to Config.VerifyCredential.
type Reason uint8

// Reasons (RFC 9420 section 5.3.1).
const (
	ReasonKeyPackage     Reason = iota + 1 // a KeyPackage apart from any group
	ReasonAdd                              // an Add proposal
	ReasonUpdate                           // an Update, or the path of a member's Commit
	ReasonExternal                         // the path of an external Commit
	ReasonTree                             // a tree when joining
	ReasonExternalSender                   // an entry of external_senders
)

// CredentialContext is what Config.VerifyCredential judges.
type CredentialContext struct {
	Credential   *Credential
	SignatureKey []byte
	// Leaf is the whole leaf node, nil for an external sender.
	Leaf *LeafNode
	// Replaces is the leaf node whose place Leaf takes, if any: the new
	// identities must be valid as its successor.
	Replaces *LeafNode
	// GroupContext of the group, nil for a KeyPackage apart from any.
	GroupContext *GroupContext
	Reason       Reason
}

// PSKStore finds pre-shared keys (RFC 9420 section 8.4). Resumption PSKs of the
// group itself are known without it.
type PSKStore interface {
	// PSK gives the key, or an error if it is not known.
	PSK(id *PreSharedKeyID) ([]byte, error)
}

// PSKFunc is a function as PSKStore.
type PSKFunc func(id *PreSharedKeyID) ([]byte, error)

// PSK calls f.
func (f PSKFunc) PSK(id *PreSharedKeyID) ([]byte, error) { return f(id) }

// Config holds what the package cannot know by itself. It is not changed by the
// package and may be shared by groups; its functions are called by whoever calls
// the package and must not call back into the same group.
type Config struct {
	// Rand gives secrets of this package; nil is crypto/rand. HPKE
	// encapsulation and ECDSA draw from the system whatever stands here.
	Rand io.Reader
	// Now is required: lifetimes of KeyPackages are held against it when they
	// are verified, proposed, committed, or accepted by a PublicGroup.
	Now func() time.Time
	// VerifyCredential is the Authentication Service; nil accepts basic
	// credentials and X.509 ones whose key fits, without looking at the chain,
	// and no change of a member's credential. With ReasonTree it is called for
	// the leaves of a tree by several goroutines at once; with any other reason by
	// the caller's.
	VerifyCredential func(ctx CredentialContext) error
	// SameMember tells whether two leaves are of one client to the application,
	// when a group follows another (RFC 9420 sections 11.2 and 11.3). nil: their
	// credentials are equal.
	SameMember func(a, b *LeafNode) bool
	// InGroup tells whether the client is in a group of that ID in that epoch or
	// has been in a later one: it is then not to be joined once more (RFC 9420
	// section 12.4.3) but by a resync, and joining fails with [ErrGroupKnown]. Who
	// has left and is invited back may be asked this for an epoch that their state
	// has not come to. nil: the caller sees to it.
	InGroup func(groupID []byte, epoch uint64) bool
	// ApplyAppData works out a component's new data from the AppDataUpdate
	// "update" operations of one Commit, in order. old is nil if the component
	// has none. nil: the last update is the new data.
	ApplyAppData func(id ComponentID, old []byte, updates [][]byte) ([]byte, error)
	// PSKs is asked for external, application and other groups' resumption PSKs.
	PSKs PSKStore
	// PastEpochs is how many past epochs decrypt late messages. 0 is 3,
	// negative none.
	PastEpochs int
	// MaxForward is how many generations a ratchet may skip ahead at once, 0 is
	// 1000. MaxSkipped is how many skipped keys are kept a leaf and ratchet, the
	// oldest go first; 0 is 1000.
	MaxForward uint32
	MaxSkipped int
	// GREASE has random unknown values put into the capabilities and extensions
	// of LeafNodes, KeyPackages and GroupInfos made here (RFC 9420 section 13.5),
	// so that peers who do not ignore them are found out.
	GREASE bool
	// CheckComponents holds every leaf against the components and media types
	// the GroupContext requires; see [GroupContext.CheckComponents].
	CheckComponents bool
	// Padding rounds the plaintext of a PrivateMessage up to a multiple; 0 and 1
	// do not pad.
	Padding int
}

func (c *Config) rand() io.Reader {
	if c == nil || c.Rand == nil {
		return rand.Reader
	}
	return c.Rand
}

func (c *Config) random(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(c.rand(), b); err != nil {
		return nil, fmt.Errorf("mls: randomness: %w", err)
	}
	return b, nil
}

func (c *Config) pastEpochs() int {
	switch {
	case c.PastEpochs == 0:
		return 3
	case c.PastEpochs < 0:
		return 0
	}
	return c.PastEpochs
}

func (c *Config) maxForward() uint32 {
	if c.MaxForward == 0 {
		return 1000
	}
	return c.MaxForward
}

func (c *Config) maxSkipped() int {
	if c.MaxSkipped == 0 {
		return 1000
	}
	return c.MaxSkipped
}

func (c *Config) lifetimeOr(l *Lifetime) Lifetime {
	if l != nil {
		return *l
	}
	return LifetimeAround(c.Now(), 90*24*time.Hour)
}

func (c *Config) verifyCredential(ctx CredentialContext) error {
	if err := ctx.Credential.checkKey(ctx.SignatureKey); err != nil {
		return err
	}
	if c.VerifyCredential == nil {
		if ctx.Replaces != nil && !ctx.Credential.Equal(&ctx.Replaces.Credential) {
			return fmt.Errorf("%w: another one than before", ErrCredential)
		}
		return nil
	}
	if err := c.VerifyCredential(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrCredential, err)
	}
	return nil
}

// checkLeaf is the part of RFC 9420 section 7.3 that concerns one LeafNode apart
// from the rest of the tree, but for its signature and lifetime. gc may be nil.
func (c *Config) checkLeaf(s *suite, n *LeafNode, gc *GroupContext, reason Reason, replaces *LeafNode) error {
	if err := s.checkHPKEPublic(n.EncryptionKey); err != nil {
		return err
	}
	for _, x := range n.Extensions {
		if !n.Capabilities.SupportsExtension(x.Type) {
			return fmt.Errorf("%w: 0x%04x", ErrExtensionUnlisted, uint16(x.Type))
		}
	}
	if !n.Capabilities.SupportsCredential(n.Credential.Type) {
		return fmt.Errorf("%w: own credential type not listed", ErrCapabilities)
	}
	if gc != nil {
		if !slices.Contains(n.Capabilities.Versions, gc.Version) || !slices.Contains(n.Capabilities.CipherSuites, gc.CipherSuite) {
			return fmt.Errorf("%w: the group's version or suite", ErrCapabilities)
		}
		rc, err := gc.Extensions.RequiredCapabilities()
		if err != nil {
			return err
		}
		if err := n.Capabilities.Supports(rc); err != nil {
			return err
		}
		// RFC 9420 section 13.4: whatever stands in the GroupContext is
		// understood by all members.
		for _, x := range gc.Extensions {
			if !n.Capabilities.SupportsExtension(x.Type) {
				return fmt.Errorf("%w: 0x%04x", ErrUnsupportedGCE, uint16(x.Type))
			}
		}
		if err := checkWireFormats(gc, n); err != nil {
			return err
		}
		if c.CheckComponents {
			if err := checkComponents(gc, n); err != nil {
				return err
			}
		}
	}
	return c.verifyCredential(CredentialContext{
		Credential: &n.Credential, SignatureKey: n.SignatureKey, Leaf: n, Replaces: replaces, GroupContext: gc, Reason: reason,
	})
}

// checkLifetime is the rest. It is asked where a KeyPackage is chosen, proposed
// or accepted by a Delivery Service, and not of members that receive a Commit:
// who was away must not be left behind by a KeyPackage that has expired since
// (RFC 9420 section 7.3 makes it a recommendation).
func (c *Config) checkLifetime(n *LeafNode) error {
	if n.Source == LeafNodeKeyPackage && !n.Lifetime.Contains(c.Now()) {
		return ErrLifetime
	}
	return nil
}

func contains[T comparable](s []T, v T) bool { return slices.Contains(s, v) }
