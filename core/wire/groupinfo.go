package wire

import (
	"bytes"
	"fmt"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

const (
	groupInfoRequestLabel  = "GroupInfoRequestTBS"
	groupInfoResponseLabel = "GroupInfoResponseTBS"
	groupInfoSealLabel     = "GroupInfo and ratchet_tree encryption"
)

// GroupInfoRequest asks for what an external Commit needs (section "Claim group key information").
type GroupInfoRequest struct {
	Protocol     Protocol
	Suite        mls.CipherSuite // of the signatures, and of the HPKE key
	SignatureKey []byte
	Credential   mls.Credential
	PublicKey    []byte // HPKE key that the answer is encrypted to
	JoiningCode  []byte // empty for none
	Signature    []byte
}

func (q *GroupInfoRequest) marshalHead(w *tlspl.Writer) {
	w.Uint8(uint8(q.Protocol))
	w.Uint16(uint16(q.Suite))
	w.Opaque(q.SignatureKey)
	q.Credential.MarshalTLS(w)
	w.Opaque(q.PublicKey)
}

func (q *GroupInfoRequest) tbs() []byte {
	return marshal(func(w *tlspl.Writer) {
		q.marshalHead(w)
		w.Optional(len(q.JoiningCode) > 0, func(w *tlspl.Writer) { w.Opaque(q.JoiningCode) })
	})
}

// Marshal gives the encoding.
func (q *GroupInfoRequest) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		q.marshalHead(w)
		w.Opaque(q.JoiningCode)
		w.Opaque(q.Signature)
	})
}

// ParseGroupInfoRequest reads the body of a groupInfo request. The signature is not verified.
func ParseGroupInfoRequest(b []byte) (*GroupInfoRequest, error) {
	q := new(GroupInfoRequest)
	err := parse("GroupInfoRequest", MaxRequest, b, func(r *tlspl.Reader) {
		q.Protocol = readProtocol(r)
		q.Suite = mls.CipherSuite(r.Uint16())
		q.SignatureKey = r.Opaque()
		q.Credential.UnmarshalTLS(r)
		q.PublicKey = r.Opaque()
		q.JoiningCode = r.Opaque()
		q.Signature = r.Opaque()
	})
	if err != nil {
		return nil, err
	}
	return q, nil
}

// Sign signs the request and sets Suite and SignatureKey.
func (q *GroupInfoRequest) Sign(key *mls.SignatureKey) error {
	q.Suite, q.SignatureKey = key.Suite, key.Public()
	sig, err := key.SignWithLabel(groupInfoRequestLabel, q.tbs())
	if err != nil {
		return fmt.Errorf("wire: sign GroupInfoRequest: %w", err)
	}
	q.Signature = sig
	return nil
}

// Verify checks the signature; a failure is fault.Forbidden. Whose key and credential they are is for the caller.
func (q *GroupInfoRequest) Verify() error {
	if err := mls.VerifyWithLabel(q.Suite, q.SignatureKey, groupInfoRequestLabel, q.tbs(), q.Signature); err != nil {
		return fmt.Errorf("wire: verify GroupInfoRequest: %w",
			fault.Wrap(fault.Forbidden, "the signature of the GroupInfoRequest is not valid", err))
	}
	return nil
}

// GroupInfoCode says how a GroupInfoRequest went.
type GroupInfoCode uint8

// Codes of a GroupInfoResponse.
const (
	GroupInfoSuccess       GroupInfoCode = 1
	GroupInfoNotAuthorized GroupInfoCode = 2
	GroupInfoNoSuchRoom    GroupInfoCode = 3
)

var groupInfoCodeNames = []string{1: "success", 2: "notAuthorized", 3: "noSuchRoom"}

func (c GroupInfoCode) String() string { return name("GroupInfoCode", groupInfoCodeNames, uint8(c)) }

// GroupInfoResponse answers a GroupInfoRequest.
type GroupInfoResponse struct {
	Protocol Protocol
	Room     mimiuri.URI
	Status   GroupInfoCode

	// With GroupInfoSuccess.
	Suite     mls.CipherSuite
	HubSender mls.ExternalSender
	Encrypted mls.HPKECiphertext // a GroupInfoRatchetTree; the context is room
	Signature []byte

	tbs []byte // GroupInfoResponseTBS as it arrived
}

func (a *GroupInfoResponse) marshalTBS(w *tlspl.Writer) {
	w.Uint8(uint8(a.Protocol))
	writeURI(w, a.Room)
	w.Uint8(uint8(a.Status))
	if a.Status == GroupInfoSuccess {
		w.Uint16(uint16(a.Suite))
		a.HubSender.MarshalTLS(w)
		a.Encrypted.MarshalTLS(w)
	}
}

func (a *GroupInfoResponse) signed() []byte {
	if a.tbs != nil {
		return a.tbs
	}
	return marshal(a.marshalTBS)
}

// Marshal gives the encoding. Of a parsed response it is that which arrived.
func (a *GroupInfoResponse) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Raw(a.signed())
		if a.Status == GroupInfoSuccess {
			w.Opaque(a.Signature)
		}
	})
}

// ParseGroupInfoResponse reads the answer to a groupInfo request. The signature is not verified.
func ParseGroupInfoResponse(b []byte) (*GroupInfoResponse, error) {
	a := new(GroupInfoResponse)
	err := parse("GroupInfoResponse", MaxBody, b, func(r *tlspl.Reader) {
		a.Protocol = readProtocol(r)
		a.Room = readURI(r, mimiuri.Room, false)
		a.Status = GroupInfoCode(r.Uint8())
		switch a.Status {
		case GroupInfoSuccess:
			a.Suite = mls.CipherSuite(r.Uint16())
			a.HubSender.UnmarshalTLS(r)
			a.Encrypted.UnmarshalTLS(r)
			a.tbs = bytes.Clone(b[:len(b)-r.Remaining()])
			a.Signature = r.Opaque()
		case GroupInfoNotAuthorized, GroupInfoNoSuchRoom:
			a.tbs = bytes.Clone(b[:len(b)-r.Remaining()])
		default:
			r.Failf("status %d", uint8(a.Status))
		}
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Sign signs a successful response with the hub's key, whose suite and public half it sets.
func (a *GroupInfoResponse) Sign(key *mls.SignatureKey) error {
	a.Suite, a.HubSender.SignatureKey, a.tbs = key.Suite, key.Public(), nil
	sig, err := key.SignWithLabel(groupInfoResponseLabel, a.signed())
	if err != nil {
		return fmt.Errorf("wire: sign GroupInfoResponse: %w", err)
	}
	a.Signature = sig
	return nil
}

// Verify checks the signature of a successful response with the key it carries; that this is the hub's key is seen from
// the external_senders of the GroupInfo inside.
func (a *GroupInfoResponse) Verify() error {
	if err := mls.VerifyWithLabel(a.Suite, a.HubSender.SignatureKey, groupInfoResponseLabel, a.signed(), a.Signature); err != nil {
		return fmt.Errorf("wire: verify GroupInfoResponse: %w",
			fault.Wrap(fault.Forbidden, "the signature of the GroupInfoResponse is not valid", err))
	}
	return nil
}

// Open decrypts what a successful response carries, with the private half of the request's PublicKey.
func (a *GroupInfoResponse) Open(priv []byte) (*GroupInfoRatchetTree, error) {
	return OpenGroupInfo(a.Suite, priv, a.Room, a.Encrypted)
}

// PendingProposal is a proposal that the hub has accepted in the current epoch.
type PendingProposal struct {
	Message      *mls.MLSMessage // a PublicMessage with a Proposal
	AcceptedTime uint64          // ms since the Unix epoch
}

// GroupInfoRatchetTree is GroupInfoRatchetTreeTBE: what a GroupInfoResponse carries encrypted.
type GroupInfoRatchetTree struct {
	GroupInfo *mls.GroupInfo // without ratchet_tree
	Tree      mls.RatchetTreeOption
	Pending   []PendingProposal // in the hub's order
}

// Marshal gives the encoding.
func (t *GroupInfoRatchetTree) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		t.GroupInfo.MarshalTLS(w)
		t.Tree.MarshalTLS(w)
		w.Vector(func(w *tlspl.Writer) {
			for _, p := range t.Pending {
				p.Message.MarshalTLS(w)
				w.Uint64(p.AcceptedTime)
			}
		})
	})
}

// ParseGroupInfoRatchetTree reads what was encrypted.
func ParseGroupInfoRatchetTree(b []byte) (*GroupInfoRatchetTree, error) {
	t := &GroupInfoRatchetTree{GroupInfo: new(mls.GroupInfo)}
	err := parse("GroupInfoRatchetTree", MaxBody, b, func(r *tlspl.Reader) {
		t.GroupInfo.UnmarshalTLS(r)
		t.Tree.UnmarshalTLS(r)
		r.Vector(func(r *tlspl.Reader) {
			readCount(r, len(t.Pending), MaxProposals, "proposals")
			p := PendingProposal{Message: readMessage(r), AcceptedTime: r.Uint64()}
			if r.Err() == nil && (p.Message.PublicMessage == nil || p.Message.ContentType() != mls.ContentProposal) {
				r.Failf("%v instead of a proposal", p.Message.WireFormat)
			}
			t.Pending = append(t.Pending, p)
		})
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Seal encrypts t to the HPKE key pub of a GroupInfoRequest for room.
func (t *GroupInfoRatchetTree) Seal(suite mls.CipherSuite, pub []byte, room mimiuri.URI) (mls.HPKECiphertext, error) {
	ct, err := mls.EncryptWithLabel(suite, pub, groupInfoSealLabel, []byte(room.String()), t.Marshal())
	if err != nil {
		return mls.HPKECiphertext{}, fmt.Errorf("wire: seal GroupInfo: %w", err)
	}
	return ct, nil
}

// OpenGroupInfo decrypts what Seal gives.
func OpenGroupInfo(suite mls.CipherSuite, priv []byte, room mimiuri.URI, ct mls.HPKECiphertext) (*GroupInfoRatchetTree, error) {
	b, err := mls.DecryptWithLabel(suite, priv, groupInfoSealLabel, []byte(room.String()), ct)
	if err != nil {
		return nil, fmt.Errorf("wire: open GroupInfo: %w", fault.Wrap(fault.Malformed, "the GroupInfo cannot be decrypted", err))
	}
	return ParseGroupInfoRatchetTree(b)
}
