package wire

import (
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// ConsentOperation is what a ConsentEntry does.
type ConsentOperation uint8

// Operations: the first two belong to requestConsent, the others to updateConsent.
const (
	ConsentCancel  ConsentOperation = 0
	ConsentRequest ConsentOperation = 1
	ConsentGrant   ConsentOperation = 2
	ConsentRevoke  ConsentOperation = 3 // a grant taken back, or a request denied
)

var consentOperationNames = []string{"cancel", "request", "grant", "revoke"}

func (o ConsentOperation) String() string {
	return name("ConsentOperation", consentOperationNames, uint8(o))
}

// ConsentEntry is the body of requestConsent and updateConsent (section "Convey explicit consent"). It is not signed: the
// provider's certificate is what stands for it.
type ConsentEntry struct {
	Operation   ConsentOperation
	Requester   mimiuri.URI       // who may, or wants to, fetch KeyPackages of Target
	Target      mimiuri.URI       // whose consent it is
	RoomID      mimiuri.URI       // zero: for any room
	KeyPackages []*mls.KeyPackage // with ConsentGrant only, may be empty; not verified
	Extensions  mls.AppDataDictionary
}

// Marshal gives the encoding.
func (e *ConsentEntry) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Uint8(uint8(e.Operation))
		writeURI(w, e.Requester)
		writeURI(w, e.Target)
		w.Optional(!e.RoomID.IsZero(), func(w *tlspl.Writer) { writeURI(w, e.RoomID) })
		if e.Operation == ConsentGrant {
			w.Vector(func(w *tlspl.Writer) {
				for _, kp := range e.KeyPackages {
					kp.MarshalTLS(w)
				}
			})
		}
		e.Extensions.MarshalTLS(w)
	})
}

// ParseConsentEntry reads the body of a requestConsent or an updateConsent.
func ParseConsentEntry(b []byte) (*ConsentEntry, error) {
	e := new(ConsentEntry)
	err := parse("ConsentEntry", MaxConsent, b, func(r *tlspl.Reader) {
		e.Operation = ConsentOperation(r.Uint8())
		if r.Err() == nil && e.Operation > ConsentRevoke {
			r.Failf("consent operation %d", uint8(e.Operation)) // what follows depends on it
		}
		e.Requester = readURI(r, mimiuri.User, false)
		e.Target = readURI(r, mimiuri.User, false)
		r.Optional(func(r *tlspl.Reader) { e.RoomID = readURI(r, mimiuri.Room, false) })
		if e.Operation == ConsentGrant {
			r.Vector(func(r *tlspl.Reader) {
				readCount(r, len(e.KeyPackages), MaxClients, "KeyPackages")
				kp := new(mls.KeyPackage)
				kp.UnmarshalTLS(r)
				e.KeyPackages = append(e.KeyPackages, kp)
			})
		}
		e.Extensions.UnmarshalTLS(r)
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}
