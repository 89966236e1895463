package mls

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// SemiPrivateCodePoints are the code points of
// draft-mahy-mls-semiprivatemessage, which are not assigned. Of Extension and
// Component one is set: the draft calls external_receivers a GroupContext
// extension and registers it as a component.
type SemiPrivateCodePoints struct {
	WireFormat WireFormat
	Extension  ExtensionType
	Component  ComponentID
}

var semiPrivate SemiPrivateCodePoints

// UseSemiPrivateMessage makes the wire format known to [ParseMessage] and to
// groups. To be called from an init function or before anything else of this
// package; without it there is no such wire format. It panics for a code point
// that is taken.
func UseSemiPrivateMessage(c SemiPrivateCodePoints) {
	if c.WireFormat == 0 || c.WireFormat.isDefault() || (c.Extension == 0) == (c.Component == 0) || c.Extension.isDefault() {
		panic(fmt.Sprintf("mls: code points of SemiPrivateMessage: %+v", c))
	}
	semiPrivate = c
}

// ExternalReceiver may read handshakes sent as SemiPrivateMessage
// (draft-mahy-mls-semiprivatemessage section "Syntax and Usage").
type ExternalReceiver struct {
	PublicKey  []byte // HPKE
	Credential Credential
}

// MarshalTLS writes r.
func (e *ExternalReceiver) MarshalTLS(w *tlspl.Writer) {
	w.Opaque(e.PublicKey)
	e.Credential.MarshalTLS(w)
}

// UnmarshalTLS reads e.
func (e *ExternalReceiver) UnmarshalTLS(r *tlspl.Reader) {
	e.PublicKey = r.Opaque()
	e.Credential.UnmarshalTLS(r)
}

// ref is the ExternalReceiverRef.
func (e *ExternalReceiver) ref(s *suite) []byte { return s.hash(tlspl.Marshal(e)) }

// WithExternalReceivers gives GroupContext extensions with the list of
// external_receivers, where [UseSemiPrivateMessage] says, and the wire format
// among the required ones.
func (e Extensions) WithExternalReceivers(receivers []ExternalReceiver) (Extensions, error) {
	if semiPrivate.WireFormat == 0 {
		return nil, fmt.Errorf("mls: external receivers: %w: no code points", ErrWireFormat)
	}
	w := tlspl.NewWriter()
	writeVectorOf(w, receivers)
	formats, err := e.RequiredWireFormats()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(formats, semiPrivate.WireFormat) {
		formats = append(slices.Clone(formats), semiPrivate.WireFormat)
	}
	e = e.Set(ExtensionRequiredWireFormats, tlspl.Marshal(&formats))
	if semiPrivate.Extension != 0 {
		return e.Set(semiPrivate.Extension, w.Bytes()), nil
	}
	d, err := e.AppData()
	if err != nil {
		return nil, err
	}
	d.Set(semiPrivate.Component, w.Bytes())
	return e.WithAppData(d), nil
}

// ExternalReceivers gives the list of external_receivers, nil if there is none.
func (e Extensions) ExternalReceivers() ([]ExternalReceiver, error) {
	var b []byte
	var ok bool
	switch {
	case semiPrivate.Extension != 0:
		b, ok = e.Get(semiPrivate.Extension)
	case semiPrivate.Component != 0:
		d, err := e.AppData()
		if err != nil {
			return nil, err
		}
		b, ok = d.Get(semiPrivate.Component)
	}
	if !ok {
		return nil, nil
	}
	r := tlspl.NewReader(b)
	list := vectorOf[ExternalReceiver](r)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("mls: external_receivers: %w", err)
	}
	return list, nil
}

// semiPrivateReceivers gives the receivers of a group that allows
// SemiPrivateMessages: the wire format is required and there is a receiver.
func semiPrivateReceivers(gc *GroupContext) ([]ExternalReceiver, error) {
	formats, err := gc.Extensions.RequiredWireFormats()
	if err != nil {
		return nil, err
	}
	if semiPrivate.WireFormat == 0 || !slices.Contains(formats, semiPrivate.WireFormat) {
		return nil, fmt.Errorf("mls: %w: SemiPrivateMessage", ErrWireFormat)
	}
	list, err := gc.Extensions.ExternalReceivers()
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("mls: %w: no external receivers", ErrWireFormat)
	}
	return list, nil
}

// KeyForExternalReceiver holds the key of one SemiPrivateMessage for one
// receiver.
type KeyForExternalReceiver struct {
	Receiver []byte // the hash of the ExternalReceiver
	Keys     HPKECiphertext
}

// MarshalTLS writes k.
func (k *KeyForExternalReceiver) MarshalTLS(w *tlspl.Writer) {
	w.Opaque(k.Receiver)
	k.Keys.MarshalTLS(w)
}

// UnmarshalTLS reads k.
func (k *KeyForExternalReceiver) UnmarshalTLS(r *tlspl.Reader) {
	k.Receiver = r.Opaque()
	k.Keys.UnmarshalTLS(r)
}

// SemiPrivateMessage is a handshake message encrypted for the members and the
// group's external receivers (draft-mahy-mls-semiprivatemessage section
// "Encryption of a SemiPrivateMessage").
type SemiPrivateMessage struct {
	GroupID              []byte
	Epoch                uint64
	ContentType          ContentType
	AuthenticatedData    []byte
	PartialContextHash   []byte
	Keys                 []KeyForExternalReceiver
	FramedContentTBSHash []byte
	EncryptedSenderData  []byte
	Ciphertext           []byte
}

// MarshalTLS writes m.
func (m *SemiPrivateMessage) MarshalTLS(w *tlspl.Writer) {
	m.marshalAAD(w)
	w.Opaque(m.EncryptedSenderData)
	w.Opaque(m.Ciphertext)
}

// marshalAAD writes the SemiPrivateContentAAD, which is how the message begins.
func (m *SemiPrivateMessage) marshalAAD(w *tlspl.Writer) {
	w.Opaque(m.GroupID)
	w.Uint64(m.Epoch)
	w.Uint8(uint8(m.ContentType))
	w.Opaque(m.AuthenticatedData)
	w.Opaque(m.PartialContextHash)
	writeVectorOf(w, m.Keys)
	w.Opaque(m.FramedContentTBSHash)
}

// UnmarshalTLS reads m; application data is a failure.
func (m *SemiPrivateMessage) UnmarshalTLS(r *tlspl.Reader) {
	m.GroupID = r.Opaque()
	m.Epoch = r.Uint64()
	m.ContentType = ContentType(r.Uint8())
	if m.ContentType != ContentProposal && m.ContentType != ContentCommit {
		r.Failf("content type %d in a SemiPrivateMessage", m.ContentType)
	}
	m.AuthenticatedData = r.Opaque()
	m.PartialContextHash = r.Opaque()
	m.Keys = vectorOf[KeyForExternalReceiver](r)
	m.FramedContentTBSHash = r.Opaque()
	m.EncryptedSenderData = r.Opaque()
	m.Ciphertext = r.Opaque()
}

// private gives the parts that are the same as a PrivateMessage's, for the
// sender data.
func (m *SemiPrivateMessage) private() *PrivateMessage {
	return &PrivateMessage{m.GroupID, m.Epoch, m.ContentType, m.AuthenticatedData, m.EncryptedSenderData, m.Ciphertext}
}

func (m *SemiPrivateMessage) receiverContext() []byte {
	var w tlspl.Writer
	w.Opaque(m.GroupID)
	w.Uint64(m.Epoch)
	w.Opaque(m.PartialContextHash)
	return w.Bytes()
}

const semiPrivateLabel = "SemiPrivateMessageReceiver"

// perMessageKey is the PerMessageKeyAndNonces.
type perMessageKey struct {
	key, nonce []byte
	guard      []byte // 4 bytes
	sender     LeafIndex
}

func (k *perMessageKey) MarshalTLS(w *tlspl.Writer) {
	w.Opaque(k.key)
	w.Opaque(k.nonce)
	w.Raw(k.guard)
	w.Uint32(uint32(k.sender))
}

func (k *perMessageKey) UnmarshalTLS(r *tlspl.Reader) {
	k.key, k.nonce, k.guard, k.sender = r.Opaque(), r.Opaque(), r.Raw(4), LeafIndex(r.Uint32())
}

func (k *perMessageKey) partialContextHash(s *suite) []byte {
	var w tlspl.Writer
	w.Uint32(uint32(k.sender))
	w.Raw(k.nonce)
	return s.hash(w.Bytes())
}

// sealSemiPrivate encrypts signed handshake content. The step is to be committed.
func (s *suite) sealSemiPrivate(cfg *Config, t *secretTree, senderData []byte, receivers []ExternalReceiver, ac *AuthenticatedContent, context []byte) (*SemiPrivateMessage, *secretStep, error) {
	c := &ac.Content
	if c.Sender.Type != SenderMember || c.ContentType == ContentApplication {
		return nil, nil, fmt.Errorf("mls: %w: %v in a SemiPrivateMessage", ErrContentType, c.ContentType)
	}
	st, err := t.nextKey(cfg, c.Sender.Leaf, RatchetHandshake)
	if err != nil {
		return nil, nil, err
	}
	guard, err := cfg.random(4)
	if err != nil {
		return nil, nil, err
	}
	k := &perMessageKey{st.key, st.nonce, guard, c.Sender.Leaf}
	m := &SemiPrivateMessage{GroupID: c.GroupID, Epoch: c.Epoch, ContentType: c.ContentType, AuthenticatedData: c.AuthenticatedData,
		PartialContextHash: k.partialContextHash(s), FramedContentTBSHash: s.hash(framedContentTBS(ac.WireFormat, c, context))}
	for i := range receivers {
		ct, err := s.encryptWithLabel(receivers[i].PublicKey, semiPrivateLabel, m.receiverContext(), tlspl.Marshal(k))
		if err != nil {
			return nil, nil, err
		}
		m.Keys = append(m.Keys, KeyForExternalReceiver{receivers[i].ref(s), ct})
	}
	var w, aad tlspl.Writer
	c.marshalContent(&w)
	ac.Auth.marshal(&w, c.ContentType)
	if p := cfg.Padding; p > 1 {
		if over := w.Len() % p; over != 0 {
			w.Raw(make([]byte, p-over))
		}
	}
	m.marshalAAD(&aad)
	if m.Ciphertext, err = s.seal(st.key, guarded(st.nonce, guard), aad.Bytes(), w.Bytes()); err != nil {
		return nil, nil, err
	}
	sd := senderDataOf(c.Sender.Leaf, st.generation, guard)
	key, nonce := s.senderDataKey(senderData, m.Ciphertext)
	if m.EncryptedSenderData, err = s.seal(key, nonce, m.private().senderDataAAD(), sd); err != nil {
		return nil, nil, err
	}
	return m, st, nil
}

func senderDataOf(leaf LeafIndex, generation uint32, guard []byte) []byte {
	var w tlspl.Writer
	w.Uint32(uint32(leaf))
	w.Uint32(generation)
	w.Raw(guard)
	return w.Bytes()
}

// open decrypts with the message's key. context is the encoded GroupContext, nil
// if it is not known; then neither the hash of the FramedContentTBS nor, by the
// caller, the signature can be checked.
func (m *SemiPrivateMessage) open(s *suite, k *perMessageKey, context []byte) (*AuthenticatedContent, error) {
	if subtle.ConstantTimeCompare(m.PartialContextHash, k.partialContextHash(s)) != 1 || len(k.nonce) != aeadNonceSize {
		return nil, fmt.Errorf("mls: semiprivate message: %w", ErrPartialContext)
	}
	var aad tlspl.Writer
	m.marshalAAD(&aad)
	pt, err := s.open(k.key, guarded(k.nonce, k.guard), aad.Bytes(), m.Ciphertext)
	if err != nil {
		return nil, fmt.Errorf("mls: semiprivate message: %w", ErrDecrypt)
	}
	ac := &AuthenticatedContent{WireFormat: semiPrivate.WireFormat, Content: FramedContent{
		GroupID: m.GroupID, Epoch: m.Epoch, Sender: Sender{Type: SenderMember, Leaf: k.sender},
		AuthenticatedData: m.AuthenticatedData, ContentType: m.ContentType,
	}}
	r := tlspl.NewReader(pt)
	ac.Content.unmarshalContent(r)
	ac.Auth.unmarshal(r, m.ContentType)
	for _, b := range r.Rest() {
		if b != 0 {
			return nil, fmt.Errorf("mls: %w", ErrPadding)
		}
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("mls: semiprivate message: %w", err)
	}
	if context != nil && !bytes.Equal(m.FramedContentTBSHash, s.hash(framedContentTBS(ac.WireFormat, &ac.Content, context))) {
		return nil, fmt.Errorf("mls: semiprivate message: %w", ErrFramedContentHash)
	}
	return ac, nil
}

// ReceiverKey is an external receiver's entry in the group and its private HPKE
// key.
type ReceiverKey struct {
	Receiver   ExternalReceiver
	PrivateKey []byte
}

// Open decrypts m as an external receiver that knows nothing of the group but its
// cipher suite; the sender's signature is then not verified. See
// [PublicGroup.OpenSemiPrivate]. Errors: [ErrNotReceiver], [ErrDecrypt], or a
// [RuleError].
func (m *SemiPrivateMessage) Open(suite CipherSuite, key *ReceiverKey) (*AuthenticatedContent, error) {
	s, err := suite.impl()
	if err != nil {
		return nil, err
	}
	return m.openExternal(s, key, nil)
}

func (m *SemiPrivateMessage) openExternal(s *suite, key *ReceiverKey, context []byte) (*AuthenticatedContent, error) {
	ref := key.Receiver.ref(s)
	i := slices.IndexFunc(m.Keys, func(k KeyForExternalReceiver) bool { return bytes.Equal(k.Receiver, ref) })
	if i < 0 {
		return nil, fmt.Errorf("mls: semiprivate message: %w", ErrNotReceiver)
	}
	pt, err := s.decryptWithLabel(&hpkeKey{raw: key.PrivateKey}, semiPrivateLabel, m.receiverContext(), m.Keys[i].Keys)
	if err != nil {
		return nil, err
	}
	k := new(perMessageKey)
	if err := tlspl.Unmarshal(pt, k); err != nil {
		return nil, fmt.Errorf("mls: semiprivate message: %w: %w", ErrDecrypt, err)
	}
	if len(k.key) != s.nk {
		return nil, fmt.Errorf("mls: semiprivate message: %w", ErrDecrypt)
	}
	return m.open(s, k, context)
}

// OpenSemiPrivate decrypts a SemiPrivateMessage of the current epoch for an
// external receiver and verifies framing, the hash of the FramedContentTBS and
// the signature.
func (g *PublicGroup) OpenSemiPrivate(msg *MLSMessage, key *ReceiverKey) (*AuthenticatedContent, error) {
	m := msg.SemiPrivateMessage
	if m == nil {
		return nil, fmt.Errorf("mls: open semiprivate: %w: %v", ErrContentType, msg.WireFormat)
	}
	if _, err := semiPrivateReceivers(g.gc); err != nil {
		return nil, fmt.Errorf("mls: open semiprivate: %w", err)
	}
	c := &FramedContent{GroupID: m.GroupID, Epoch: m.Epoch, ContentType: m.ContentType, AuthenticatedData: m.AuthenticatedData}
	if err := g.checkFraming(c, m.ContentType); err != nil {
		return nil, fmt.Errorf("mls: open semiprivate: %w", err)
	}
	ac, err := m.openExternal(g.s, key, g.gcBytes)
	if err == nil {
		err = g.verifyContent(ac)
	}
	if err != nil {
		return nil, fmt.Errorf("mls: open semiprivate: %w", err)
	}
	return ac, nil
}

// ReceiveSemiPrivate is [PublicGroup.ReceiveProposal] for a SemiPrivateMessage.
func (g *PublicGroup) ReceiveSemiPrivate(msg *MLSMessage, key *ReceiverKey) (*PendingProposal, error) {
	ac, err := g.OpenSemiPrivate(msg, key)
	if err != nil {
		return nil, err
	}
	if ac.Content.ContentType != ContentProposal {
		return nil, fmt.Errorf("mls: receive proposal: %w: %v", ErrContentType, ac.Content.ContentType)
	}
	return g.receiveProposal(ac, msg.Bytes())
}

// InspectSemiPrivate is [PublicGroup.InspectCommit] for a SemiPrivateMessage.
func (g *PublicGroup) InspectSemiPrivate(msg *MLSMessage, key *ReceiverKey) (*StagedPublicCommit, error) {
	ac, err := g.OpenSemiPrivate(msg, key)
	if err != nil {
		return nil, err
	}
	if ac.Content.ContentType != ContentCommit {
		return nil, fmt.Errorf("mls: inspect commit: %w: %v", ErrContentType, ac.Content.ContentType)
	}
	return g.inspect(ac)
}
