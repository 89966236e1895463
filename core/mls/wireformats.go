package mls

import (
	"fmt"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// isDefault: formats of RFC 9420 itself, which are never listed.
func (w WireFormat) isDefault() bool { return w >= 1 && w <= 5 }

// WireFormats is the content of the extensions supported_wire_formats, of
// LeafNodes, and required_wire_formats, of GroupContexts
// (draft-ietf-mls-extensions section "Negotiating Extensions and Components").
// Default formats are not listed.
type WireFormats []WireFormat

// MarshalTLS writes f.
func (f *WireFormats) MarshalTLS(w *tlspl.Writer) { writeVector16(w, *f) }

// UnmarshalTLS reads f.
func (f *WireFormats) UnmarshalTLS(r *tlspl.Reader) { *f = vector16[WireFormat](r) }

// Supported gives f as the LeafNode extension supported_wire_formats.
func (f WireFormats) Supported() Extension {
	return Extension{ExtensionSupportedWireFormats, tlspl.Marshal(&f)}
}

// Required gives f as the GroupContext extension required_wire_formats.
func (f WireFormats) Required() Extension {
	return Extension{ExtensionRequiredWireFormats, tlspl.Marshal(&f)}
}

func (e Extensions) wireFormats(t ExtensionType) (WireFormats, error) {
	b, ok := e.Get(t)
	if !ok {
		return nil, nil
	}
	var f WireFormats
	if err := tlspl.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("mls: extension 0x%04x: %w", uint16(t), err)
	}
	return f, nil
}

// SupportedWireFormats gives the formats of a LeafNode's supported_wire_formats,
// nil without it.
func (e Extensions) SupportedWireFormats() (WireFormats, error) {
	return e.wireFormats(ExtensionSupportedWireFormats)
}

// RequiredWireFormats gives the formats of a GroupContext's
// required_wire_formats, nil without it.
func (e Extensions) RequiredWireFormats() (WireFormats, error) {
	return e.wireFormats(ExtensionRequiredWireFormats)
}

// checkWireFormats: a member supports what the GroupContext requires.
func checkWireFormats(gc *GroupContext, n *LeafNode) error {
	want, err := gc.Extensions.RequiredWireFormats()
	if err != nil || len(want) == 0 {
		return err
	}
	have, err := n.Extensions.SupportedWireFormats()
	if err != nil {
		return err
	}
	for _, f := range want {
		if !f.isDefault() && !slices.Contains(have, f) {
			return fmt.Errorf("%w: %v", ErrWireFormat, f)
		}
	}
	return nil
}

// checkComponents: a leaf supports the components and media types that the
// GroupContext requires (draft-ietf-mls-extensions sections "Negotiating
// Extensions and Components" and "Content Advertisement").
func checkComponents(gc *GroupContext, n *LeafNode) error {
	want, err := gc.Extensions.AppData()
	if err != nil {
		return err
	}
	have, err := n.Extensions.AppData()
	if err != nil {
		return err
	}
	for _, list := range []ComponentID{ComponentAppComponents, ComponentSafeAAD} {
		required, _, err := want.Components(list)
		if err != nil {
			return err
		}
		supported, _, err := have.Components(list)
		if err != nil {
			return err
		}
		for _, id := range required {
			if !slices.Contains(supported, id) {
				return fmt.Errorf("%w: 0x%04x", ErrComponent, uint16(id))
			}
		}
	}
	required, err := want.MediaTypes()
	if err != nil {
		return err
	}
	supported, err := have.MediaTypes()
	if err != nil {
		return err
	}
	for _, m := range required {
		if !slices.ContainsFunc(supported, m.Equal) {
			return fmt.Errorf("%w: media type %s", ErrComponent, m.Type)
		}
	}
	return nil
}

// CheckComponents tells whether n supports the components (app_components,
// safe_aad) and media types (content_media_types) that c requires. Where all
// members are to be held to it, [Config.CheckComponents] has it done with each
// leaf and each new GroupContext; it fails with [ErrComponent].
func (c *GroupContext) CheckComponents(n *LeafNode) error {
	if err := checkComponents(c, n); err != nil {
		return fmt.Errorf("mls: components: %w", err)
	}
	return nil
}
