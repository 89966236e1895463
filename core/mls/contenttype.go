package mls

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// MediaType is a media type with its parameters (draft-ietf-mls-extensions
// section "Content Advertisement"). Type is such as "text/plain"; in an
// [ApplicationFraming] it may be empty, which stands for the group's first.
type MediaType struct {
	Type       string
	Parameters []MediaParameter
}

// MediaParameter is a parameter of a MediaType, its value without quotes and
// escapes.
type MediaParameter struct{ Name, Value string }

// MarshalTLS writes m.
func (m *MediaType) MarshalTLS(w *tlspl.Writer) {
	w.String(m.Type)
	writeVectorOf(w, m.Parameters)
}

// UnmarshalTLS reads m.
func (m *MediaType) UnmarshalTLS(r *tlspl.Reader) {
	m.Type = r.String()
	if m.Parameters = vectorOf[MediaParameter](r); len(m.Parameters) == 0 {
		m.Parameters = nil
	}
}

// MarshalTLS writes p.
func (p *MediaParameter) MarshalTLS(w *tlspl.Writer) {
	w.String(p.Name)
	w.String(p.Value)
}

// UnmarshalTLS reads p.
func (p *MediaParameter) UnmarshalTLS(r *tlspl.Reader) { p.Name, p.Value = r.String(), r.String() }

// Equal compares types and parameter names without regard to case, values
// exactly, parameters in any order.
func (m MediaType) Equal(o MediaType) bool {
	if !strings.EqualFold(m.Type, o.Type) || len(m.Parameters) != len(o.Parameters) {
		return false
	}
	norm := func(ps []MediaParameter) []MediaParameter {
		out := slices.Clone(ps)
		for i := range out {
			out[i].Name = strings.ToLower(out[i].Name)
		}
		slices.SortFunc(out, func(a, b MediaParameter) int {
			if c := strings.Compare(a.Name, b.Name); c != 0 {
				return c
			}
			return strings.Compare(a.Value, b.Value)
		})
		return out
	}
	return slices.Equal(norm(m.Parameters), norm(o.Parameters))
}

// MediaTypeList is the data of the component content_media_types: of a LeafNode
// what a client reads, of a GroupContext what all members must. It is not empty.
type MediaTypeList []MediaType

// MarshalTLS writes l.
func (l *MediaTypeList) MarshalTLS(w *tlspl.Writer) { writeVectorOf(w, *l) }

// UnmarshalTLS reads l; an empty list is a failure.
func (l *MediaTypeList) UnmarshalTLS(r *tlspl.Reader) {
	*l = vectorOf[MediaType](r)
	if r.Err() == nil && len(*l) == 0 {
		r.Failf("empty list of media types")
	}
}

// MediaTypes gives the component content_media_types, nil if there is none.
func (d AppDataDictionary) MediaTypes() (MediaTypeList, error) {
	b, ok := d.Get(ComponentContentMediaTypes)
	if !ok {
		return nil, nil
	}
	var l MediaTypeList
	if err := tlspl.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("mls: content_media_types: %w", err)
	}
	return l, nil
}

// SetMediaTypes sets the component content_media_types; no types remove it.
func (d *AppDataDictionary) SetMediaTypes(types ...MediaType) {
	if len(types) == 0 {
		d.Delete(ComponentContentMediaTypes)
		return
	}
	l := MediaTypeList(types)
	d.Set(ComponentContentMediaTypes, tlspl.Marshal(&l))
}

// Components gives the list of a component that is one: app_components or
// safe_aad. ok is false if the dictionary has no such component.
func (d AppDataDictionary) Components(id ComponentID) (list ComponentsList, ok bool, err error) {
	b, ok := d.Get(id)
	if !ok {
		return nil, false, nil
	}
	if err := tlspl.Unmarshal(b, &list); err != nil {
		return nil, true, fmt.Errorf("mls: component 0x%04x: %w", uint16(id), err)
	}
	return list, true, nil
}

// SetComponents sets the list of app_components or safe_aad.
func (d *AppDataDictionary) SetComponents(id ComponentID, list ...ComponentID) {
	l := ComponentsList(list)
	d.Set(id, tlspl.Marshal(&l))
}

// ApplicationFraming is how application_data is framed in a group whose
// GroupContext has the component content_media_types
// (draft-ietf-mls-extensions section "Framing of application_data").
type ApplicationFraming struct {
	MediaType MediaType
	Content   []byte
}

// MarshalTLS writes f.
func (f *ApplicationFraming) MarshalTLS(w *tlspl.Writer) {
	f.MediaType.MarshalTLS(w)
	w.Opaque(f.Content)
}

// UnmarshalTLS reads f.
func (f *ApplicationFraming) UnmarshalTLS(r *tlspl.Reader) {
	f.MediaType.UnmarshalTLS(r)
	f.Content = r.Opaque()
}

// FrameApplication makes the application_data for a group: framed with its media
// type if c asks for framing, content as it is otherwise. The group's first media
// type is sent as an empty one.
func (c *GroupContext) FrameApplication(m MediaType, content []byte) ([]byte, error) {
	types, err := c.mediaTypes()
	if err != nil || types == nil {
		return content, err
	}
	if m.Equal(types[0]) {
		m = MediaType{}
	}
	return tlspl.Marshal(&ApplicationFraming{m, content}), nil
}

// ReadApplication takes application_data of a group apart. In a group without
// framing it is all content, with an empty media type. A framed empty media type
// comes back as the group's first.
func (c *GroupContext) ReadApplication(data []byte) (*ApplicationFraming, error) {
	types, err := c.mediaTypes()
	if err != nil {
		return nil, err
	}
	if types == nil {
		return &ApplicationFraming{Content: bytes.Clone(data)}, nil
	}
	f := new(ApplicationFraming)
	if err := tlspl.Unmarshal(data, f); err != nil {
		return nil, fmt.Errorf("mls: application framing: %w", err)
	}
	if f.MediaType.Type == "" {
		f.MediaType = types[0]
	}
	return f, nil
}

func (c *GroupContext) mediaTypes() (MediaTypeList, error) {
	d, err := c.Extensions.AppData()
	if err != nil {
		return nil, err
	}
	return d.MediaTypes()
}
