package mls

import (
	"iter"
	"slices"

	"github.com/mimibridge/mimibridge/core/mls/tlspl"
)

// ComponentData is one entry of an [AppDataDictionary].
type ComponentData struct {
	ID   ComponentID
	Data []byte
}

// AppDataDictionary is the content of the app_data_dictionary extension
// (draft-ietf-mls-extensions section "Attaching Application Data to MLS
// Messages"): at most one entry a component, sorted. The zero value is empty.
// A copy by assignment shares the entries until Set or Delete; use Clone.
type AppDataDictionary struct {
	entries []ComponentData
}

func (d *AppDataDictionary) find(id ComponentID) (int, bool) {
	return slices.BinarySearchFunc(d.entries, id, func(e ComponentData, id ComponentID) int {
		return int(e.ID) - int(id)
	})
}

// Get gives the data of a component; the slice is the dictionary's own.
func (d AppDataDictionary) Get(id ComponentID) ([]byte, bool) {
	if i, ok := d.find(id); ok {
		return d.entries[i].Data, true
	}
	return nil, false
}

// Set stores data, which the dictionary keeps.
func (d *AppDataDictionary) Set(id ComponentID, data []byte) {
	i, ok := d.find(id)
	// The slice is replaced rather than written to, so that copies by
	// assignment stay as they were.
	if ok {
		d.entries = slices.Clone(d.entries)
		d.entries[i].Data = data
		return
	}
	d.entries = slices.Insert(slices.Clone(d.entries), i, ComponentData{id, data})
}

// Delete removes a component; absent is no error.
func (d *AppDataDictionary) Delete(id ComponentID) {
	if i, ok := d.find(id); ok {
		d.entries = slices.Delete(slices.Clone(d.entries), i, i+1)
	}
}

// Clone gives a copy; the data slices are shared.
func (d AppDataDictionary) Clone() AppDataDictionary {
	return AppDataDictionary{slices.Clone(d.entries)}
}

// Len is the number of components.
func (d AppDataDictionary) Len() int { return len(d.entries) }

// All iterates in the order of the component IDs.
func (d AppDataDictionary) All() iter.Seq2[ComponentID, []byte] {
	return func(yield func(ComponentID, []byte) bool) {
		for _, e := range d.entries {
			if !yield(e.ID, e.Data) {
				return
			}
		}
	}
}

// Extension gives d as an extension.
func (d AppDataDictionary) Extension() Extension {
	return Extension{ExtensionAppDataDictionary, tlspl.Marshal(&d)}
}

// MarshalTLS writes d.
func (d *AppDataDictionary) MarshalTLS(w *tlspl.Writer) {
	w.Vector(func(w *tlspl.Writer) {
		for _, e := range d.entries {
			w.Uint16(uint16(e.ID))
			w.Opaque(e.Data)
		}
	})
}

// UnmarshalTLS reads d; entries out of order or twice are a failure.
func (d *AppDataDictionary) UnmarshalTLS(r *tlspl.Reader) {
	d.entries = readComponents(r)
}

func readComponents(r *tlspl.Reader) []ComponentData {
	var out []ComponentData
	r.Vector(func(r *tlspl.Reader) {
		e := ComponentData{ComponentID(r.Uint16()), r.Opaque()}
		if n := len(out); n > 0 && out[n-1].ID >= e.ID {
			r.Failf("component 0x%04x out of order", uint16(e.ID))
			return
		}
		out = append(out, e)
	})
	return out
}

// ComponentsList is the data of the components app_components and safe_aad
// (draft-ietf-mls-extensions section "Negotiating Extensions and Components").
type ComponentsList []ComponentID

// MarshalTLS writes l.
func (l *ComponentsList) MarshalTLS(w *tlspl.Writer) { writeVector16(w, *l) }

// UnmarshalTLS reads l.
func (l *ComponentsList) UnmarshalTLS(r *tlspl.Reader) { *l = vector16[ComponentID](r) }

// SafeAADItem is one component's additional authenticated data.
type SafeAADItem struct {
	ID   ComponentID
	Data []byte
}

// MarshalSafeAAD frames items as authenticated_data (draft-ietf-mls-extensions
// section "Safe Additional Authenticated Data"), sorted by component. Two items of
// one component cannot be told apart by a reader; the last one is kept.
func MarshalSafeAAD(items []SafeAADItem) []byte {
	var d AppDataDictionary
	for _, it := range items {
		d.Set(it.ID, it.Data)
	}
	return tlspl.Marshal(&d)
}

// ParseSafeAAD reads authenticated_data framed as SafeAAD. Items must be in
// increasing order of their component and nothing may follow.
func ParseSafeAAD(b []byte) ([]SafeAADItem, error) {
	r := tlspl.NewReader(b)
	var out []SafeAADItem
	for _, e := range readComponents(r) {
		out = append(out, SafeAADItem(e))
	}
	if err := r.Done(); err != nil {
		return nil, wrapf(err, "safe AAD")
	}
	return out, nil
}
