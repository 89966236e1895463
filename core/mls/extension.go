package mls

import (
	"fmt"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// ExtensionType is a value of RFC 9420 section 17.3.
type ExtensionType uint16

// Extension types.
const (
	ExtensionApplicationID        ExtensionType = 0x0001
	ExtensionRatchetTree          ExtensionType = 0x0002
	ExtensionRequiredCapabilities ExtensionType = 0x0003
	ExtensionExternalPub          ExtensionType = 0x0004
	ExtensionExternalSenders      ExtensionType = 0x0005
	ExtensionAppDataDictionary    ExtensionType = 0x0006 // draft-ietf-mls-extensions
	ExtensionSupportedWireFormats ExtensionType = 0x0007 // likewise
	ExtensionRequiredWireFormats  ExtensionType = 0x0008 // likewise
)

// isDefault: types that are never listed in capabilities (RFC 9420 section 7.2).
func (t ExtensionType) isDefault() bool { return t >= 1 && t <= 5 }

// Extension is RFC 9420 section 7.2.
type Extension struct {
	Type ExtensionType
	Data []byte
}

// MarshalTLS writes e.
func (e *Extension) MarshalTLS(w *tlspl.Writer) {
	w.Uint16(uint16(e.Type))
	w.Opaque(e.Data)
}

// UnmarshalTLS reads e.
func (e *Extension) UnmarshalTLS(r *tlspl.Reader) {
	e.Type = ExtensionType(r.Uint16())
	e.Data = r.Opaque()
}

// Extensions is a list of extensions, at most one of each type (RFC 9420
// section 13.4).
type Extensions []Extension

// MarshalTLS writes the list as a vector.
func (e *Extensions) MarshalTLS(w *tlspl.Writer) { writeVectorOf(w, *e) }

// UnmarshalTLS reads the list; a type listed twice is a failure.
func (e *Extensions) UnmarshalTLS(r *tlspl.Reader) {
	*e = vectorOf[Extension](r)
	seen := make(map[ExtensionType]bool, len(*e))
	for _, x := range *e {
		if seen[x.Type] {
			r.Failf("extension 0x%04x twice", uint16(x.Type))
			return
		}
		seen[x.Type] = true
	}
}

// Get gives the data of the extension of type t.
func (e Extensions) Get(t ExtensionType) ([]byte, bool) {
	for i := range e {
		if e[i].Type == t {
			return e[i].Data, true
		}
	}
	return nil, false
}

// Set gives a copy of the list in which the extension of type t has data; a new
// one goes to the end.
func (e Extensions) Set(t ExtensionType, data []byte) Extensions {
	out := slices.Clone(e)
	for i := range out {
		if out[i].Type == t {
			out[i].Data = data
			return out
		}
	}
	return append(out, Extension{t, data})
}

// Without gives a copy of the list without the extension of type t.
func (e Extensions) Without(t ExtensionType) Extensions {
	return slices.DeleteFunc(slices.Clone(e), func(x Extension) bool { return x.Type == t })
}

// Clone gives a copy; the data is shared.
func (e Extensions) Clone() Extensions { return slices.Clone(e) }

// AppData gives the app_data_dictionary, empty if there is none.
func (e Extensions) AppData() (AppDataDictionary, error) {
	var d AppDataDictionary
	b, ok := e.Get(ExtensionAppDataDictionary)
	if !ok {
		return d, nil
	}
	if err := tlspl.Unmarshal(b, &d); err != nil {
		return AppDataDictionary{}, fmt.Errorf("mls: app_data_dictionary: %w", err)
	}
	return d, nil
}

// WithAppData gives a copy of the list that carries d.
func (e Extensions) WithAppData(d AppDataDictionary) Extensions {
	return e.Set(ExtensionAppDataDictionary, tlspl.Marshal(&d))
}

// RequiredCapabilities gives the extension of that name, or nil.
func (e Extensions) RequiredCapabilities() (*RequiredCapabilities, error) {
	b, ok := e.Get(ExtensionRequiredCapabilities)
	if !ok {
		return nil, nil
	}
	rc := new(RequiredCapabilities)
	if err := tlspl.Unmarshal(b, rc); err != nil {
		return nil, fmt.Errorf("mls: required_capabilities: %w", err)
	}
	return rc, nil
}

// ExternalSenders gives the senders of the extension of that name, or nil.
func (e Extensions) ExternalSenders() ([]ExternalSender, error) {
	b, ok := e.Get(ExtensionExternalSenders)
	if !ok {
		return nil, nil
	}
	r := tlspl.NewReader(b)
	s := vectorOf[ExternalSender](r)
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("mls: external_senders: %w", err)
	}
	return s, nil
}

// ExternalPub gives the HPKE key of the extension of that name, or nil.
func (e Extensions) ExternalPub() ([]byte, error) {
	b, ok := e.Get(ExtensionExternalPub)
	if !ok {
		return nil, nil
	}
	r := tlspl.NewReader(b)
	k := r.Opaque()
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("mls: external_pub: %w", err)
	}
	return k, nil
}

// RatchetTree gives the tree of the extension of that name, or nil.
func (e Extensions) RatchetTree() (*RatchetTree, error) {
	b, ok := e.Get(ExtensionRatchetTree)
	if !ok {
		return nil, nil
	}
	t := new(RatchetTree)
	if err := tlspl.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("mls: ratchet_tree: %w", err)
	}
	return t, nil
}

// ExternalSender may send proposals from outside (RFC 9420 section 12.1.8.1).
type ExternalSender struct {
	SignatureKey []byte
	Credential   Credential
}

// MarshalTLS writes s.
func (s *ExternalSender) MarshalTLS(w *tlspl.Writer) {
	w.Opaque(s.SignatureKey)
	s.Credential.MarshalTLS(w)
}

// UnmarshalTLS reads s.
func (s *ExternalSender) UnmarshalTLS(r *tlspl.Reader) {
	s.SignatureKey = r.Opaque()
	s.Credential.UnmarshalTLS(r)
}

// ExternalSendersExtension is the GroupContext extension that lists senders.
func ExternalSendersExtension(senders []ExternalSender) Extension {
	w := tlspl.NewWriter()
	writeVectorOf(w, senders)
	return Extension{ExtensionExternalSenders, w.Bytes()}
}

// RequiredCapabilities is RFC 9420 section 11.1.
type RequiredCapabilities struct {
	Extensions  []ExtensionType
	Proposals   []ProposalType
	Credentials []CredentialType
}

// MarshalTLS writes c.
func (c *RequiredCapabilities) MarshalTLS(w *tlspl.Writer) {
	writeVector16(w, c.Extensions)
	writeVector16(w, c.Proposals)
	writeVector16(w, c.Credentials)
}

// UnmarshalTLS reads c.
func (c *RequiredCapabilities) UnmarshalTLS(r *tlspl.Reader) {
	c.Extensions = vector16[ExtensionType](r)
	c.Proposals = vector16[ProposalType](r)
	c.Credentials = vector16[CredentialType](r)
}

// Extension gives c as the GroupContext extension required_capabilities.
func (c *RequiredCapabilities) Extension() Extension {
	return Extension{ExtensionRequiredCapabilities, tlspl.Marshal(c)}
}
