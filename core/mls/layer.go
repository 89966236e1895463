package mls

// layer is a map with changes that are not made yet: staging a Commit in a state
// with a thousand local leaves does not copy what it knows of them.
type layer[K comparable, V any] struct {
	base map[K]V
	over map[K]V
	gone map[K]bool // of base
}

func newLayer[K comparable, V any](base map[K]V) *layer[K, V] {
	return &layer[K, V]{base, map[K]V{}, map[K]bool{}}
}

func (l *layer[K, V]) get(k K) (v V, ok bool) {
	if v, ok = l.over[k]; ok || l.gone[k] {
		return v, ok
	}
	v, ok = l.base[k]
	return v, ok
}

func (l *layer[K, V]) set(k K, v V) { l.over[k] = v }

func (l *layer[K, V]) drop(k K) {
	delete(l.over, k)
	l.gone[k] = true
}

// len counts; base must not have changed.
func (l *layer[K, V]) len() int {
	n := len(l.base)
	for k := range l.gone {
		if _, ok := l.base[k]; ok {
			n--
		}
	}
	for k := range l.over {
		if _, ok := l.base[k]; !ok || l.gone[k] {
			n++
		}
	}
	return n
}

// apply makes the changes to m.
func (l *layer[K, V]) apply(m map[K]V) {
	for k := range l.gone {
		delete(m, k)
	}
	for k, v := range l.over {
		m[k] = v
	}
}
