package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// Application components of franking (sections "frank_aad app component" and "franking_signature_key app component").
const (
	ComponentFrankAAD      mls.ComponentID = 0x0020
	ComponentFrankingAgent mls.ComponentID = 0x0021
)

const frankingLabel = "FrankingIntegrityTBS"

// FrankingTag is what the sender commits to (section "Client creation and sending"): HMAC-SHA256 under the salt of the
// content over the application_data, which is what MLS encrypts, ApplicationFraming included where that is used.
func FrankingTag(salt [16]byte, applicationData []byte) [32]byte {
	return mac(salt[:], applicationData)
}

func mac(key []byte, parts ...[]byte) (sum [32]byte) {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}

// FrankAAD is the frank_aad component of a message's authenticated data.
func FrankAAD(tag [32]byte) mls.SafeAADItem {
	return mls.SafeAADItem{ID: ComponentFrankAAD, Data: tag[:]}
}

// FrankTagFromAAD finds the franking tag in the authenticated data of a message; ok is false if there is none, or if
// the data is no SafeAAD.
func FrankTagFromAAD(aad []byte) (tag [32]byte, ok bool) {
	items, err := mls.ParseSafeAAD(aad)
	if err != nil {
		return tag, false
	}
	for _, item := range items {
		if item.ID == ComponentFrankAAD && len(item.Data) == len(tag) {
			copy(tag[:], item.Data)
			return tag, true
		}
	}
	return tag, false
}

// ServerFrankingContext is what the hub vouches for.
type ServerFrankingContext struct {
	Sender            mimiuri.URI
	Room              mimiuri.URI
	AcceptedTimestamp uint64 // ms since the Unix epoch
}

func (c *ServerFrankingContext) marshal(w *tlspl.Writer) {
	writeURI(w, c.Sender)
	writeURI(w, c.Room)
	w.Uint64(c.AcceptedTimestamp)
}

// Frank is the hub's stamp on a message (section "Hub processing").
type Frank struct {
	ServerFrank        [32]byte
	Suite              mls.CipherSuite
	IntegritySignature []byte
}

func (f *Frank) marshal(w *tlspl.Writer) {
	w.Raw(f.ServerFrank[:])
	w.Uint16(uint16(f.Suite))
	w.Opaque(f.IntegritySignature)
}

// Marshal gives the encoding, for storing.
func (f *Frank) Marshal() []byte { return marshal(f.marshal) }

// ParseFrank reads what Marshal gives.
func ParseFrank(b []byte) (*Frank, error) {
	f := new(Frank)
	if err := parse("Frank", MaxRequest, b, f.unmarshal); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *Frank) unmarshal(r *tlspl.Reader) {
	copy(f.ServerFrank[:], r.Raw(len(f.ServerFrank)))
	f.Suite = mls.CipherSuite(r.Uint16())
	f.IntegritySignature = r.Opaque()
}

// writeFrank writes optional<Frank>.
func writeFrank(w *tlspl.Writer, f *Frank) {
	w.Optional(f != nil, func(w *tlspl.Writer) { f.marshal(w) })
}

func readFrank(r *tlspl.Reader) (f *Frank) {
	r.Optional(func(r *tlspl.Reader) {
		f = new(Frank)
		f.unmarshal(r)
	})
	return f
}

// tbs is FrankingIntegrityTBS.
func (f *Frank) tbs(c *ServerFrankingContext) []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Raw(f.ServerFrank[:])
		w.Uint16(uint16(f.Suite))
		c.marshal(w)
	})
}

// MakeFrank franks a message: hubKey is the room's secret, key its franking key, of the cipher suite of the group.
func MakeFrank(hubKey []byte, key *mls.SignatureKey, tag [32]byte, ctx ServerFrankingContext) (*Frank, error) {
	f := &Frank{ServerFrank: mac(hubKey, tag[:], marshal(ctx.marshal)), Suite: key.Suite}
	sig, err := key.SignWithLabel(frankingLabel, f.tbs(&ctx))
	if err != nil {
		return nil, fmt.Errorf("wire: make frank: %w", err)
	}
	f.IntegritySignature = sig
	return f, nil
}

// Verify is the receiver's check (section "Receiver verification of frank"): frankingPub is the key in the group's
// franking_agent, suite that of the group, ctx what the receiver knows itself. It does not check the tag: compare
// FrankingTag of the decrypted message with FrankTagFromAAD.
func (f *Frank) Verify(frankingPub []byte, suite mls.CipherSuite, ctx ServerFrankingContext) error {
	if f.Suite != suite {
		return fault.Newf(fault.Forbidden, "the frank is of cipher suite 0x%04x, the group of 0x%04x", uint16(f.Suite), uint16(suite))
	}
	if err := mls.VerifyWithLabel(suite, frankingPub, frankingLabel, f.tbs(&ctx), f.IntegritySignature); err != nil {
		return fmt.Errorf("wire: verify frank: %w", fault.Wrap(fault.Forbidden, "the signature of the frank is not valid", err))
	}
	return nil
}

// VerifyServer is the hub's own check of a frank that comes back in a report.
func (f *Frank) VerifyServer(hubKey []byte, tag [32]byte, ctx ServerFrankingContext) bool {
	want := mac(hubKey, tag[:], marshal(ctx.marshal))
	return hmac.Equal(want[:], f.ServerFrank[:])
}

// FrankingAgentData is the franking_agent component of the GroupContext, and its update.
type FrankingAgentData struct {
	SignatureKey []byte
	Credential   mls.Credential
}

// Marshal gives the encoding.
func (d *FrankingAgentData) Marshal() []byte {
	return marshal(func(w *tlspl.Writer) {
		w.Opaque(d.SignatureKey)
		d.Credential.MarshalTLS(w)
	})
}

// ParseFrankingAgentData reads the component.
func ParseFrankingAgentData(b []byte) (*FrankingAgentData, error) {
	d := new(FrankingAgentData)
	err := parse("FrankingAgentData", MaxRequest, b, func(r *tlspl.Reader) {
		d.SignatureKey = r.Opaque()
		d.Credential.UnmarshalTLS(r)
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}
