package mls

import (
	"fmt"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// framedContentTBS is RFC 9420 section 6.1. context is the encoded GroupContext.
func framedContentTBS(wire WireFormat, c *FramedContent, context []byte) []byte {
	var w tlspl.Writer
	w.Uint16(uint16(MLS10))
	w.Uint16(uint16(wire))
	c.MarshalTLS(&w)
	if c.Sender.Type == SenderMember || c.Sender.Type == SenderNewMemberCommit {
		w.Raw(context)
	}
	return w.Bytes()
}

// signFramed signs content for a wire format.
func signFramed(key *SignatureKey, wire WireFormat, c FramedContent, context []byte) (*AuthenticatedContent, error) {
	sig, err := key.SignWithLabel("FramedContentTBS", framedContentTBS(wire, &c, context))
	if err != nil {
		return nil, err
	}
	return &AuthenticatedContent{WireFormat: wire, Content: c, Auth: FramedContentAuthData{Signature: sig}}, nil
}

// verifyFramed checks the signature of content.
func verifyFramed(s *suite, pub []byte, ac *AuthenticatedContent, context []byte) error {
	return VerifyWithLabel(s.id, pub, "FramedContentTBS", framedContentTBS(ac.WireFormat, &ac.Content, context), ac.Auth.Signature)
}

// membershipTag is RFC 9420 section 6.2.
func (s *suite) membershipTBM(ac *AuthenticatedContent, context []byte) []byte {
	var w tlspl.Writer
	w.Raw(framedContentTBS(ac.WireFormat, &ac.Content, context))
	ac.Auth.marshal(&w, ac.Content.ContentType)
	return w.Bytes()
}

// publicMessage frames signed content (RFC 9420 section 6.2). membership is the
// membership key, used for members only.
func (s *suite) publicMessage(ac *AuthenticatedContent, membership, context []byte) (*PublicMessage, error) {
	if ac.Content.ContentType == ContentApplication {
		return nil, fmt.Errorf("mls: %w: application data in a PublicMessage", ErrContentType)
	}
	m := &PublicMessage{Content: ac.Content, Auth: ac.Auth}
	if ac.Content.Sender.Type == SenderMember {
		m.MembershipTag = s.mac(membership, s.membershipTBM(ac, context))
	}
	return m, nil
}

// verifyMembership checks the membership tag of a member's PublicMessage.
func (s *suite) verifyMembership(m *PublicMessage, membership, context []byte) error {
	if m.Content.Sender.Type != SenderMember {
		return nil
	}
	if !s.checkMAC(membership, s.membershipTBM(m.AuthenticatedContent(), context), m.MembershipTag) {
		return fmt.Errorf("mls: %w", ErrMembershipTag)
	}
	return nil
}

func ratchetKind(c ContentType) uint8 {
	if c == ContentApplication {
		return RatchetApplication
	}
	return RatchetHandshake
}

// senderDataKey is RFC 9420 section 6.3.2.
func (s *suite) senderDataKey(secret, ciphertext []byte) (key, nonce []byte) {
	sample := ciphertext[:min(len(ciphertext), s.nh)]
	return s.expandWithLabel(secret, "key", sample, s.nk), s.expandWithLabel(secret, "nonce", sample, aeadNonceSize)
}

func (m *PrivateMessage) senderDataAAD() []byte {
	var w tlspl.Writer
	w.Opaque(m.GroupID)
	w.Uint64(m.Epoch)
	w.Uint8(uint8(m.ContentType))
	return w.Bytes()
}

// sealPrivate encrypts signed content of a member (RFC 9420 section 6.3). The
// key is consumed by committing the step that is returned.
func (s *suite) sealPrivate(cfg *Config, t *secretTree, senderData []byte, ac *AuthenticatedContent) (*PrivateMessage, *secretStep, error) {
	c := &ac.Content
	if c.Sender.Type != SenderMember {
		return nil, nil, fmt.Errorf("mls: %w", ErrSender)
	}
	st, err := t.nextKey(cfg, c.Sender.Leaf, ratchetKind(c.ContentType))
	if err != nil {
		return nil, nil, err
	}
	guard, err := cfg.random(4)
	if err != nil {
		return nil, nil, err
	}
	var w tlspl.Writer
	c.marshalContent(&w)
	ac.Auth.marshal(&w, c.ContentType)
	if p := cfg.Padding; p > 1 {
		if over := w.Len() % p; over != 0 {
			w.Raw(make([]byte, p-over))
		}
	}
	m := &PrivateMessage{GroupID: c.GroupID, Epoch: c.Epoch, ContentType: c.ContentType, AuthenticatedData: c.AuthenticatedData}
	var aad tlspl.Writer
	m.marshalAAD(&aad)
	if m.Ciphertext, err = s.seal(st.key, guarded(st.nonce, guard), aad.Bytes(), w.Bytes()); err != nil {
		return nil, nil, err
	}
	sd := senderDataOf(c.Sender.Leaf, st.generation, guard)
	key, nonce := s.senderDataKey(senderData, m.Ciphertext)
	if m.EncryptedSenderData, err = s.seal(key, nonce, m.senderDataAAD(), sd); err != nil {
		return nil, nil, err
	}
	return m, st, nil
}

// guarded is the nonce with the reuse guard (RFC 9420 section 6.3.1).
func guarded(nonce, guard []byte) []byte {
	out := append([]byte(nil), nonce...)
	for i := range guard {
		out[i] ^= guard[i]
	}
	return out
}

type senderData struct {
	leaf       LeafIndex
	generation uint32
	guard      []byte
}

func (s *suite) openSenderData(secret []byte, m *PrivateMessage) (*senderData, error) {
	key, nonce := s.senderDataKey(secret, m.Ciphertext)
	pt, err := s.open(key, nonce, m.senderDataAAD(), m.EncryptedSenderData)
	if err != nil {
		return nil, fmt.Errorf("mls: sender data: %w", err)
	}
	r := tlspl.NewReader(pt)
	sd := &senderData{LeafIndex(r.Uint32()), r.Uint32(), r.Raw(4)}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("mls: sender data: %w: %w", ErrDecrypt, err)
	}
	return sd, nil
}

// openPrivate decrypts a message whose sender data is open. Neither the signature
// nor the sender is checked; the step is to be committed once they are.
func (s *suite) openPrivate(cfg *Config, t *secretTree, sd *senderData, m *PrivateMessage) (*AuthenticatedContent, *secretStep, error) {
	st, err := t.peek(cfg, sd.leaf, ratchetKind(m.ContentType), sd.generation)
	if err != nil {
		return nil, nil, err
	}
	var aad tlspl.Writer
	m.marshalAAD(&aad)
	pt, err := s.open(st.key, guarded(st.nonce, sd.guard), aad.Bytes(), m.Ciphertext)
	if err != nil {
		return nil, nil, fmt.Errorf("mls: private message: %w", err)
	}
	ac := &AuthenticatedContent{WireFormat: WireFormatPrivateMessage, Content: FramedContent{
		GroupID: m.GroupID, Epoch: m.Epoch, Sender: Sender{Type: SenderMember, Leaf: sd.leaf},
		AuthenticatedData: m.AuthenticatedData, ContentType: m.ContentType,
	}}
	r := tlspl.NewReader(pt)
	ac.Content.unmarshalContent(r)
	ac.Auth.unmarshal(r, m.ContentType)
	for _, b := range r.Rest() {
		if b != 0 {
			return nil, nil, fmt.Errorf("mls: %w", ErrPadding)
		}
	}
	if err := r.Done(); err != nil {
		return nil, nil, fmt.Errorf("mls: private message: %w", err)
	}
	return ac, st, nil
}
