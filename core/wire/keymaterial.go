package wire

import (
	"bytes"
	"fmt"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// KeyMaterialRequest asks for KeyPackages of all clients of a user (section "Fetch Key Material").
type KeyMaterialRequest struct {
	Protocol       Protocol
	RequestingUser mimiuri.URI
	TargetUser     mimiuri.URI
	RoomID         mimiuri.URI       // zero: in the context of no room
	Suites         []mls.CipherSuite // acceptable ones, at least one; the first is also that of the signature
	Required       mls.RequiredCapabilities
	SignatureKey   []byte // of the requester
	Credential     mls.Credential
	Signature      []byte

	tbs []byte // KeyMaterialRequestTBS as it arrived; nil for a request made here
}

const keyMaterialLabel = "KeyMaterialRequestTBS"

func (q *KeyMaterialRequest) marshalTBS(w *tlspl.Writer) {
	w.Uint8(uint8(q.Protocol))
	writeURI(w, q.RequestingUser)
	writeURI(w, q.TargetUser)
	writeURI(w, q.RoomID)
	w.Vector(func(w *tlspl.Writer) {
		for _, s := range q.Suites {
			w.Uint16(uint16(s))
		}
	})
	q.Required.MarshalTLS(w)
	w.Opaque(q.SignatureKey)
	q.Credential.MarshalTLS(w)
}

// Marshal gives the encoding. Of a parsed request it is that which arrived.
func (q *KeyMaterialRequest) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Raw(q.signed())
		w.Opaque(q.Signature)
	})
}

// ParseKeyMaterialRequest reads the body of a keyMaterial request. The signature is not verified.
func ParseKeyMaterialRequest(b []byte) (*KeyMaterialRequest, error) {
	q := new(KeyMaterialRequest)
	err := parse("KeyMaterialRequest", MaxRequest, b, func(r *tlspl.Reader) {
		q.Protocol = readProtocol(r)
		q.RequestingUser = readURI(r, mimiuri.User, false)
		q.TargetUser = readURI(r, mimiuri.User, false)
		q.RoomID = readURI(r, mimiuri.Room, true)
		r.Vector(func(r *tlspl.Reader) {
			readCount(r, len(q.Suites), MaxSuites, "cipher suites")
			q.Suites = append(q.Suites, mls.CipherSuite(r.Uint16()))
		})
		if len(q.Suites) == 0 {
			r.Failf("no cipher suite")
		}
		q.Required.UnmarshalTLS(r)
		q.SignatureKey = r.Opaque()
		q.Credential.UnmarshalTLS(r)
		q.tbs = bytes.Clone(b[:len(b)-r.Remaining()])
		q.Signature = r.Opaque()
	})
	if err != nil {
		return nil, err
	}
	return q, nil
}

func (q *KeyMaterialRequest) signed() []byte {
	if q.tbs != nil {
		return q.tbs
	}
	return marshal(q.marshalTBS)
}

// Sign signs the request with the requester's key, whose suite must be Suites[0], and sets SignatureKey.
func (q *KeyMaterialRequest) Sign(key *mls.SignatureKey) error {
	if len(q.Suites) == 0 || q.Suites[0] != key.Suite {
		return fmt.Errorf("wire: sign KeyMaterialRequest: the key's cipher suite is not the first acceptable one")
	}
	q.SignatureKey, q.tbs = key.Public(), nil
	sig, err := key.SignWithLabel(keyMaterialLabel, q.signed())
	if err != nil {
		return fmt.Errorf("wire: sign KeyMaterialRequest: %w", err)
	}
	q.Signature = sig
	return nil
}

// Verify checks the signature; a failure is fault.Forbidden. That the key and the credential are the requesting
// user's is for the caller.
func (q *KeyMaterialRequest) Verify() error {
	if len(q.Suites) == 0 {
		return fault.New(fault.Malformed, "the KeyMaterialRequest has no cipher suite")
	}
	if err := mls.VerifyWithLabel(q.Suites[0], q.SignatureKey, keyMaterialLabel, q.signed(), q.Signature); err != nil {
		return fmt.Errorf("wire: verify KeyMaterialRequest: %w",
			fault.Wrap(fault.Forbidden, "the signature of the KeyMaterialRequest is not valid", err))
	}
	return nil
}

// KeyMaterialUserCode says how a request for key material went for the user.
type KeyMaterialUserCode uint8

// Codes for the user.
const (
	KeyMaterialSuccess   KeyMaterialUserCode = 0 // for every client
	KeyMaterialPartial   KeyMaterialUserCode = 1 // for at least one client
	IncompatibleProtocol KeyMaterialUserCode = 2
	NoCompatibleMaterial KeyMaterialUserCode = 3
	UserUnknown          KeyMaterialUserCode = 4
	NoConsent            KeyMaterialUserCode = 5
	NoConsentForThisRoom KeyMaterialUserCode = 6
	UserDeleted          KeyMaterialUserCode = 7
)

var userCodeNames = []string{"success", "partialSuccess", "incompatibleProtocol", "noCompatibleMaterial", "userUnknown",
	"noConsent", "noConsentForThisRoom", "userDeleted"}

func (c KeyMaterialUserCode) String() string {
	return name("KeyMaterialUserCode", userCodeNames, uint8(c))
}

// KeyMaterialClientCode says how it went for one client.
type KeyMaterialClientCode uint8

// Codes for a client.
const (
	ClientSuccess           KeyMaterialClientCode = 0
	ClientExhausted         KeyMaterialClientCode = 1 // no KeyPackage is left
	ClientNothingCompatible KeyMaterialClientCode = 2
)

var clientCodeNames = []string{"success", "keyMaterialExhausted", "nothingCompatible"}

func (c KeyMaterialClientCode) String() string {
	return name("KeyMaterialClientCode", clientCodeNames, uint8(c))
}

// ClientKeyMaterial is what a KeyMaterialResponse has for one client.
type ClientKeyMaterial struct {
	Status       KeyMaterialClientCode
	ClientURI    mimiuri.URI
	KeyPackage   *mls.KeyPackage   // with ClientSuccess
	Capabilities *mls.Capabilities // with ClientNothingCompatible, may be nil
}

// KeyMaterialResponse answers a KeyMaterialRequest.
type KeyMaterialResponse struct {
	Protocol   Protocol
	UserStatus KeyMaterialUserCode
	UserURI    mimiuri.URI
	Clients    []ClientKeyMaterial // with KeyMaterialSuccess, KeyMaterialPartial and NoCompatibleMaterial only
}

// Marshal gives the encoding.
func (a *KeyMaterialResponse) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Uint8(uint8(a.Protocol))
		w.Uint8(uint8(a.UserStatus))
		writeURI(w, a.UserURI)
		w.Vector(func(w *tlspl.Writer) {
			for i := range a.Clients {
				c := &a.Clients[i]
				w.Uint8(uint8(c.Status))
				writeURI(w, c.ClientURI)
				switch c.Status {
				case ClientSuccess:
					c.KeyPackage.MarshalTLS(w)
				case ClientNothingCompatible:
					w.Optional(c.Capabilities != nil, func(w *tlspl.Writer) { c.Capabilities.MarshalTLS(w) })
				}
			}
		})
	})
}

// ParseKeyMaterialResponse reads the answer to a keyMaterial request. KeyPackages are not verified.
func ParseKeyMaterialResponse(b []byte) (*KeyMaterialResponse, error) {
	a := new(KeyMaterialResponse)
	err := parse("KeyMaterialResponse", MaxBody, b, func(r *tlspl.Reader) {
		a.Protocol = readProtocol(r)
		a.UserStatus = KeyMaterialUserCode(r.Uint8())
		a.UserURI = readURI(r, mimiuri.User, false)
		r.Vector(func(r *tlspl.Reader) {
			readCount(r, len(a.Clients), MaxClients, "clients")
			a.Clients = append(a.Clients, readClient(r))
		})
		if r.Err() != nil || len(a.Clients) == 0 {
			return
		}
		switch a.UserStatus {
		case KeyMaterialSuccess, KeyMaterialPartial, NoCompatibleMaterial:
		default:
			r.Failf("a list of clients with %v", a.UserStatus)
		}
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

func readClient(r *tlspl.Reader) (c ClientKeyMaterial) {
	c.Status = KeyMaterialClientCode(r.Uint8())
	c.ClientURI = readURI(r, mimiuri.Client, false)
	switch c.Status {
	case ClientSuccess:
		c.KeyPackage = new(mls.KeyPackage)
		c.KeyPackage.UnmarshalTLS(r)
	case ClientExhausted:
	case ClientNothingCompatible:
		r.Optional(func(r *tlspl.Reader) {
			c.Capabilities = new(mls.Capabilities)
			c.Capabilities.UnmarshalTLS(r)
		})
	default:
		// What follows an unknown code cannot be skipped, since it carries no length.
		r.Failf("client status %d", uint8(c.Status))
	}
	return c
}
