package core_test

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/core/mls/tlspl"
	"github.com/mimibridge/mimibridge/core/store"
)

// watch remembers all that a provider's database ever held of MLS secrets, as it lay there and as what it was.
type watch struct {
	t       *testing.T
	p       *provider
	mu      sync.Mutex
	key     []byte
	sealer  *store.Sealer
	sealed  map[string]bool   // values as they lie in the database, under the sealing key
	secrets map[string]string // secret → what it is
}

func newWatch(t *testing.T, p *provider) *watch {
	key := make([]byte, store.KeySize) // as in provider.start
	sealer, err := store.NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	return &watch{t: t, p: p, key: key, sealer: sealer, sealed: map[string]bool{}, secrets: map[string]string{}}
}

// lies is what lies in the database now.
type lies struct {
	sealed  map[string]bool
	plain   [][]byte
	secrets map[string]string
}

// now reads the database with the sealing key.
func (w *watch) now() *lies {
	w.t.Helper()
	l := &lies{sealed: map[string]bool{}, secrets: map[string]string{}}
	open := func(table, key, column string, b []byte) []byte {
		w.t.Helper()
		plain, err := w.sealer.Open(table, key, column, b)
		if err != nil {
			w.t.Fatal(err)
		}
		if b != nil {
			l.sealed[string(b)] = true
			l.plain = append(l.plain, plain)
		}
		return plain
	}
	w.p.sql(w.t, func(db *sql.DB) error {
		each := func(query string, fn func(scan func(...any) error) error) error {
			rows, err := db.Query(query)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				if err := fn(rows.Scan); err != nil {
					return err
				}
			}
			return rows.Err()
		}
		err := each(`SELECT room_id, state FROM client_room`, func(scan func(...any) error) error {
			var room string
			var b []byte
			err := scan(&room, &b)
			if plain := open("client_room", room, "state", b); plain != nil {
				w.state(l, plain)
			}
			return err
		})
		if err != nil {
			return err
		}
		err = each(`SELECT room_id, epoch, leaf, kind, data FROM client_ratchet`, func(scan func(...any) error) error {
			var room string
			var epoch, leaf, kind uint64
			var b []byte
			err := scan(&room, &epoch, &leaf, &kind, &b)
			plain := open("client_ratchet", fmt.Sprintf("%s/%d/%d/%d", room, epoch, leaf, kind), "data", b)
			switch uint8(kind) {
			case mls.RatchetNode, mls.RatchetExport:
				l.secrets[string(plain)] = "secret tree node"
			case mls.RatchetHandshake, mls.RatchetApplication:
				w.ratchet(l, plain)
			}
			return err
		})
		if err != nil {
			return err
		}
		err = each(`SELECT room_id, next FROM client_pending`, func(scan func(...any) error) error {
			var room string
			var b []byte
			err := scan(&room, &b)
			open("client_pending", room, "next", b)
			return err
		})
		if err != nil {
			return err
		}
		return each(`SELECT ref, secret FROM key_package`, func(scan func(...any) error) error {
			var ref, b []byte
			err := scan(&ref, &b)
			var k mls.KeyPackageSecrets
			if err := k.UnmarshalBinary(open("key_package", string(ref), "secret", b)); err != nil {
				return err
			}
			l.secrets[string(k.InitKey)] = "KeyPackage init key"
			l.secrets[string(k.LeafKey)] = "KeyPackage leaf key"
			return err
		})
	})
	return l
}

// ratchet takes a stored ratchet apart: its chain secret and what the next message will be protected with.
func (w *watch) ratchet(l *lies, b []byte) {
	r := tlspl.NewReader(b)
	generation, secret := r.Uint32(), r.Opaque()
	r.Vector(func(r *tlspl.Reader) {
		r.Uint32()
		l.secrets[string(r.Opaque())] = "skipped message key"
		r.Opaque()
	})
	if err := r.Done(); err != nil {
		w.t.Fatal(err)
	}
	l.secrets[string(secret)] = "chain secret"
	// RFC 9420 section 9.1: what the chain secret gives next. It is never to be stored at all.
	info := tlspl.NewWriter()
	info.Uint16(16)
	info.String("MLS 1.0 key")
	info.Opaque([]byte{byte(generation >> 24), byte(generation >> 16), byte(generation >> 8), byte(generation)})
	key, err := hkdf.Expand(sha256.New, secret, string(info.Bytes()), 16)
	if err != nil {
		w.t.Fatal(err)
	}
	w.secrets[string(key)] = "message key"
}

// state takes a stored epoch apart, as mls.Group.MarshalEpoch writes it, and holds what is in it against what may be.
func (w *watch) state(l *lies, b []byte) {
	w.t.Helper()
	r := tlspl.NewReader(b)
	var gc mls.GroupContext
	var tree mls.RatchetTree
	r.Uint8()
	r.Uint8()
	gc.UnmarshalTLS(r)
	tree.UnmarshalTLS(r)
	r.Opaque() // interim transcript hash
	r.Opaque() // confirmation tag
	r.Uint32()
	r.Optional(func(r *tlspl.Reader) { new(mls.GroupInfo).UnmarshalTLS(r) })
	r.Optional(func(r *tlspl.Reader) { new(mls.ReInit).UnmarshalTLS(r) })
	r.Vector(func(r *tlspl.Reader) { r.Opaque(); r.Opaque() })
	r.Optional(func(r *tlspl.Reader) {
		// Encryption secret and application exporter are not kept: the trees they root have taken their place.
		for range epochSecrets {
			if s := r.Opaque(); len(s) > 0 {
				l.secrets[string(s)] = "epoch secret"
			}
		}
	})
	r.Vector(func(r *tlspl.Reader) {
		x, priv := r.Uint32(), r.Opaque()
		if r.Err() != nil {
			return
		}
		l.secrets[string(priv)] = "path key"
		pub, err := mls.HPKEPublicKey(gc.CipherSuite, priv)
		if err != nil {
			w.t.Fatal(err)
		}
		var want []byte
		if int(x) < len(tree.Nodes) {
			switch n := tree.Nodes[x]; {
			case n.Leaf != nil:
				want = n.Leaf.EncryptionKey
			case n.Parent != nil:
				want = n.Parent.EncryptionKey
			}
		}
		if !bytes.Equal(pub, want) {
			w.t.Errorf("epoch %d: the stored key of node %d is not the tree's", gc.Epoch, x)
		}
	})
	r.Vector(func(r *tlspl.Reader) { r.Uint32(); r.Uint64(); r.Uint16(); r.Opaque(); r.Opaque() })
	r.Vector(func(r *tlspl.Reader) { r.Opaque(); r.Opaque(); r.Uint16(); r.Opaque(); r.Opaque() })
	r.Optional(func(r *tlspl.Reader) {
		r.Uint64()
		for range 4 {
			r.Opaque()
		}
		r.Uint16()
		for range 3 {
			r.Opaque()
		}
	})
	past := 0
	r.Vector(func(r *tlspl.Reader) {
		past++
		var old mls.GroupContext
		old.UnmarshalTLS(r)
		if r.Err() == nil && old.Epoch+3 < gc.Epoch {
			w.t.Errorf("epoch %d is still held in epoch %d", old.Epoch, gc.Epoch)
		}
		l.secrets[string(r.Opaque())] = "epoch secret"
		l.secrets[string(r.Opaque())] = "epoch secret"
		r.Uint32()
		r.Vector(func(r *tlspl.Reader) {
			r.Uint32()
			r.Optional(func(r *tlspl.Reader) { new(mls.LeafNode).UnmarshalTLS(r) })
		})
		r.Vector(func(r *tlspl.Reader) { r.Uint32() })
	})
	if err := r.Done(); err != nil || past > 3 {
		w.t.Fatalf("%d past epochs, %v", past, err)
	}
}

// epochSecrets is how many secrets of an epoch MarshalEpoch writes.
const epochSecrets = 8

// look adds what lies there now to what is remembered.
func (w *watch) look() *lies {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.now()
	for b := range l.sealed {
		w.sealed[b] = true
	}
	for s, what := range l.secrets {
		w.secrets[s] = what
	}
	return l
}

// finds is what a search found of what should be gone, by kind.
type finds map[string]int

func (f finds) total() (n int) {
	for _, k := range f {
		n += k
	}
	return n
}

// files reads the database's file, or a copy's, and its write-ahead log.
func files(t *testing.T, path string) []byte {
	t.Helper()
	var hay []byte
	for _, f := range []string{path, path + "-wal"} {
		b, err := os.ReadFile(f)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		hay = append(hay, b...)
	}
	return hay
}

// search looks for every secret and every sealed value that was there once and is no more: in the files as they are, in
// whatever in them looks like a sealed value, opened with the sealing key, and in what is stored now. It says how much
// it looked for.
func (w *watch) search(hay []byte, l *lies) (f finds, sought map[string]int) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	f, sought = finds{}, map[string]int{}
	old := map[string]string{}
	for s, what := range w.secrets {
		if l.secrets[s] == "" {
			old[s] = what
			sought[what]++
		}
	}
	in := func(b []byte, where string) {
		for s, what := range old {
			if bytes.Contains(b, []byte(s)) {
				f[what+" "+where]++
			}
		}
	}
	in(hay, "in the clear")
	for _, b := range l.plain {
		in(b, "in a value stored now")
	}
	// A sealed value begins with the key's id. What is left of one is opened without regard to its tag: its beginning, up
	// to where SQLite goes on with it on another page.
	id := w.sealer.Seal("", "", "", []byte{})[:4]
	for rest := hay; ; {
		i := bytes.Index(rest, id)
		if i < 0 {
			break
		}
		rest = rest[i+4:]
		if len(rest) < chacha20.NonceSizeX {
			break
		}
		c, err := chacha20.NewUnauthenticatedCipher(w.key, rest[:chacha20.NonceSizeX])
		if err != nil {
			w.t.Fatal(err)
		}
		c.SetCounter(1)
		b := bytes.Clone(rest[chacha20.NonceSizeX:min(len(rest), 4096)])
		c.XORKeyStream(b, b)
		in(b, "under a sealed value's head")
	}
	// Pieces of sealed values, wherever a page may have kept them.
	const piece = 16
	pieces := map[[piece]byte]bool{}
	for s := range w.sealed {
		if l.sealed[s] {
			continue
		}
		sought["sealed value"]++
		for i := 4; i+piece <= len(s); i += piece {
			pieces[[piece]byte([]byte(s[i:]))] = true
		}
	}
	for i := 0; i+piece <= len(hay); i++ {
		if pieces[[piece]byte(hay[i:])] {
			f["piece of a sealed value"]++
		}
	}
	return f, sought
}

// TestForget: of keys that were used, of epochs that are over and of KeyPackages that were taken nothing is left in the
// database and its write-ahead log, even to one who has the sealing key. Nothing is claimed of the medium below.
func TestForget(t *testing.T) {
	_, ps := newNetwork(t, "a.example", "b.example")
	a, b := ps[0], ps[1]
	a.empty, b.empty = 24*time.Hour, 24*time.Hour
	wa, wb := newWatch(t, a), newWatch(t, b)
	// b looks before each delivery: at its KeyPackages before the Welcome comes, for one.
	d := b.guard()
	d.in = func(_ context.Context, body []byte, let func([]byte) error) error {
		wb.look()
		return let(body)
	}
	a.start()
	b.start()
	room := open(t, a, b.user("bob"))
	// b looks in its door, too.
	live := func() { wa.look(); wb.look() }
	live()
	n := 0
	chat := func() {
		for _, p := range ps {
			who := map[*provider]string{a: "alice", b: "bob"}[p]
			p.say(room, who, fmt.Sprint("words ", n))
			n++
			a.awaitTexts(room, n)
			b.awaitTexts(room, n)
			live()
		}
	}
	for i := range 4 {
		chat()
		// Commits with paths by both sides, and leaves that come and go.
		x, y := fmt.Sprint("amy", i), fmt.Sprint("ben", i)
		b.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: b.user("bob"), Target: a.user(x)})
		a.awaitJoined(room, a.user(x))
		b.awaitJoined(room, a.user(x))
		live()
		a.intake(adapter.Intent{Kind: adapter.Invite, Room: room, Actor: a.user("alice"), Target: b.user(y)})
		a.awaitJoined(room, b.user(y))
		b.awaitJoined(room, b.user(y))
		live()
		b.intake(adapter.Intent{Kind: adapter.LeaveRoom, Room: room, Actor: b.user(y)})
		a.awaitLeft(room, b.user(y))
		b.awaitLeft(room, b.user(y))
		agree(t, room, a, b)
		live()
	}
	chat()

	// A KeyPackage's leaf key lives on as a path key, until its leaf has another.
	kinds := []string{"KeyPackage init key", "epoch secret", "path key", "chain secret", "message key", "secret tree node", "sealed value"}
	for _, w := range []*watch{wa, wb} {
		path := filepath.Join(w.p.dir, "mimi.db")
		// While the log is not emptied, it has much of it: so the search finds what is there.
		l := w.look()
		found, sought := w.search(files(t, path), l)
		if found["piece of a sealed value"] == 0 || found["chain secret under a sealed value's head"] == 0 {
			t.Fatalf("%s: the search finds nothing in a log that was not emptied: %v", w.p.domain, found)
		}
		for _, k := range kinds {
			if sought[k] == 0 {
				t.Errorf("%s: no %s was looked for: %v", w.p.domain, k, sought)
			}
		}
		t.Logf("%s: sought %v; in the log before it is emptied: %v", w.p.domain, sought, found)

		w.p.stop()
		if found, _ := w.search(files(t, path), w.now()); found.total() != 0 {
			t.Errorf("%s: left after stopping: %v", w.p.domain, found)
		}
		// Without secure_delete, what is deleted stays in the file: so it is that which does it.
		bare := filepath.Join(t.TempDir(), "copy.db")
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(bare, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		db, err := sql.Open("sqlite", "file:"+bare+"?_pragma=journal_mode(DELETE)&_pragma=secure_delete(OFF)")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(`DELETE FROM client_ratchet; UPDATE client_room SET state=NULL`); err != nil {
			t.Fatal(err)
		}
		db.Close()
		if found, _ := w.search(files(t, bare), &lies{}); found["piece of a sealed value"] == 0 {
			t.Errorf("%s: the search finds nothing in a file without secure_delete: %v", w.p.domain, found)
		}
	}

	// A daemon that runs empties its log from time to time.
	for _, p := range ps {
		p.empty = 20 * time.Millisecond
		p.start()
	}
	chat()
	for _, w := range []*watch{wa, wb} {
		path := filepath.Join(w.p.dir, "mimi.db")
		var found finds
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			l := w.look()
			hay := files(t, path)
			if found, _ = w.search(hay, l); found.total() == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: left while running: %v", w.p.domain, found)
			}
		}
	}
}
