package content_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/mimibridge/mimibridge/core/content"
)

var aeads = map[string]uint16{"AES-128-GCM": content.AEADAES128GCM, "AES-256-GCM": content.AEADAES256GCM, "ChaCha20-Poly1305": content.AEADChaCha20Poly1305}

// whole gives the same algorithm from a library that takes whole messages.
func whole(t testing.TB, alg uint16, key []byte) cipher.AEAD {
	t.Helper()
	var a cipher.AEAD
	var err error
	if alg == content.AEADChaCha20Poly1305 {
		a, err = chacha20poly1305.New(key)
	} else {
		var b cipher.Block
		if b, err = aes.NewCipher(key); err == nil {
			a, err = cipher.NewGCM(b)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func octets(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// The sizes are around those of blocks, of the pieces that are hashed, and of the buffers.
var sizes = []int{0, 1, 15, 16, 17, 31, 32, 33, 1000, 32<<10 - 1, 32 << 10, 32<<10 + 1, 48 << 10, 64<<10 - 17, 64 << 10, 64<<10 + 1, 128<<10 + 5, 300000}

func encrypted(t testing.TB, alg uint16, plain []byte, piece int) ([]byte, content.External) {
	t.Helper()
	var out bytes.Buffer
	w, err := content.NewEncrypter(rand.Reader, alg, &out)
	if err != nil {
		t.Fatal(err)
	}
	for p := plain; len(p) > 0; {
		n := min(piece, len(p))
		if m, err := w.Write(p[:n]); err != nil || m != n {
			t.Fatalf("wrote %d of %d: %v", m, n, err)
		}
		p = p[n:]
	}
	if _, err := w.External(); err == nil {
		t.Fatal("complete before Close")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := w.External()
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), e
}

// TestExternalAgainstLibraries: what is written in pieces is what the libraries make of the whole, and the other way round.
func TestExternalAgainstLibraries(t *testing.T) {
	for name, alg := range aeads {
		for _, n := range sizes {
			t.Run(fmt.Sprint(name, " ", n), func(t *testing.T) {
				plain := octets(n)
				got, e := encrypted(t, alg, plain, 1+n/3)
				a := whole(t, alg, e.Key)
				if want := a.Seal(nil, e.Nonce, plain, nil); !bytes.Equal(got, want) {
					t.Fatal("the ciphertext differs")
				}
				if sum := sha256.Sum256(got); e.Size != uint64(len(got)) || e.HashAlg != content.HashSHA256 || !bytes.Equal(e.ContentHash, sum[:]) {
					t.Errorf("External %+v", e.Size)
				}
				if content.EncryptedSize(alg, uint64(n)) != e.Size {
					t.Errorf("EncryptedSize %d", content.EncryptedSize(alg, uint64(n)))
				}
				for _, aad := range sizes[:len(sizes)-2] {
					e.AAD = octets(aad)
					sealed := a.Seal(nil, e.Nonce, plain, e.AAD)
					sum := sha512.Sum512(sealed)
					e.HashAlg, e.ContentHash = content.HashSHA512, sum[:]
					r, err := e.Decrypt(bytes.NewReader(sealed), 1<<20)
					if err != nil {
						t.Fatalf("additional data of %d octets: %v", aad, err)
					}
					if back, err := io.ReadAll(r); err != nil || !bytes.Equal(back, plain) {
						t.Fatalf("additional data of %d octets: decrypted to something else: %v", aad, err)
					}
				}
			})
		}
	}
}

func TestExternalReaders(t *testing.T) {
	algs := map[string]uint16{"none": content.AEADNone}
	for k, v := range aeads {
		algs[k] = v
	}
	for name, alg := range algs {
		t.Run(name, func(t *testing.T) {
			plain := octets(200001)
			er, err := content.NewEncryptReader(rand.Reader, alg, iotest.HalfReader(bytes.NewReader(plain)))
			if err != nil {
				t.Fatal(err)
			}
			sealed, err := io.ReadAll(er)
			if err != nil {
				t.Fatal(err)
			}
			e, err := er.External()
			if err != nil {
				t.Fatal(err)
			}
			// Not from the beginning of the file.
			src := bytes.NewReader(append([]byte("head"), sealed...))
			if _, err := src.Seek(4, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			r, err := e.Decrypt(src, int64(len(sealed)))
			if err != nil {
				t.Fatal(err)
			}
			if err := iotest.TestReader(r, plain); err != nil {
				t.Error(err)
			}
			var out bytes.Buffer
			w, err := content.NewDecryptWriter(&out, &e, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(w, iotest.OneByteReader(bytes.NewReader(sealed))); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil || !bytes.Equal(out.Bytes(), plain) {
				t.Errorf("DecryptWriter: %v", err)
			}
			if _, err := w.Write([]byte{0}); err == nil {
				t.Error("a write after Close")
			}
			// A peer that says the plaintext's size means the same.
			e.Size = uint64(len(plain))
			if err := e.Verify(bytes.NewReader(sealed), 1<<20); err != nil {
				t.Errorf("size of the plaintext: %v", err)
			}
			e.Size = 0
			if err := e.Verify(bytes.NewReader(sealed), 1<<20); err != nil {
				t.Errorf("unknown size: %v", err)
			}
		})
	}
}

// TestExternalRefuses: whatever is not as the message says gives an error and, from Decrypt, no octet of plaintext.
func TestExternalRefuses(t *testing.T) {
	plain := octets(100000)
	for name, alg := range aeads {
		sealed, good := encrypted(t, alg, plain, 5000)
		cut := func(n int) []byte { return sealed[:n] }
		flip := func(i int) []byte {
			b := bytes.Clone(sealed)
			b[(i+len(b))%len(b)] ^= 1
			return b
		}
		for _, c := range []struct {
			name   string
			in     []byte
			change func(*content.External)
			want   error
		}{
			{"first octet", flip(0), nil, content.ErrCorrupt},
			{"an octet in the middle", flip(50000), nil, content.ErrCorrupt},
			{"last octet of the tag", flip(-1), nil, content.ErrCorrupt},
			{"first octet, no hash", flip(0), noHash, content.ErrCorrupt},
			{"octet in a later piece, no hash", flip(70000), noHash, content.ErrCorrupt},
			{"tag, no hash", flip(-1), noHash, content.ErrCorrupt},
			{"cut short", cut(len(sealed) - 1), nil, content.ErrCorrupt},
			{"cut short, no size, no hash", cut(len(sealed) - 1), func(e *content.External) { noHash(e); e.Size = 0 }, content.ErrCorrupt},
			{"nothing", nil, nil, content.ErrCorrupt},
			{"nothing, no size, no hash", nil, func(e *content.External) { noHash(e); e.Size = 0 }, content.ErrCorrupt},
			{"less than a tag", cut(7), func(e *content.External) { noHash(e); e.Size = 0 }, content.ErrCorrupt},
			{"longer", append(bytes.Clone(sealed), 0), nil, content.ErrCorrupt},
			{"longer by a tag", append(bytes.Clone(sealed), make([]byte, 16)...), nil, content.ErrCorrupt},
			{"longer, no size, no hash", append(bytes.Clone(sealed), 0), func(e *content.External) { noHash(e); e.Size = 0 }, content.ErrCorrupt},
			{"wrong hash", sealed, func(e *content.External) { e.ContentHash[0] ^= 1 }, content.ErrCorrupt},
			{"wrong key", sealed, func(e *content.External) { e.Key[0] ^= 1 }, content.ErrCorrupt},
			{"wrong nonce", sealed, func(e *content.External) { e.Nonce[0] ^= 1 }, content.ErrCorrupt},
			{"wrong additional data", sealed, func(e *content.External) { e.AAD = []byte{0} }, content.ErrCorrupt},
			{"size over the limit", sealed, func(e *content.External) { e.Size = 1 << 40 }, content.ErrLimit},
			{"size not said, over the limit", sealed, func(e *content.External) { e.Size = 0 }, content.ErrLimit},
			{"unknown AEAD", sealed, func(e *content.External) { e.EncAlg = 3 }, content.ErrUnsupported},
			{"unknown hash", sealed, func(e *content.External) { e.HashAlg = 200 }, content.ErrUnsupported},
			{"truncated hash algorithm", sealed, func(e *content.External) { e.HashAlg, e.ContentHash = 6, e.ContentHash[:4] }, content.ErrUnsupported},
			{"short hash", sealed, func(e *content.External) { e.ContentHash = e.ContentHash[:31] }, content.ErrUnsupported},
			{"hash without an algorithm", sealed, func(e *content.External) { e.HashAlg = 0 }, content.ErrUnsupported},
			{"short key", sealed, func(e *content.External) { e.Key = e.Key[1:] }, content.ErrUnsupported},
			{"long nonce", sealed, func(e *content.External) { e.Nonce = make([]byte, 13) }, content.ErrUnsupported},
			{"key without an AEAD", sealed, func(e *content.External) { e.EncAlg = 0 }, content.ErrUnsupported},
		} {
			t.Run(name+", "+c.name, func(t *testing.T) {
				e := good
				e.Key, e.Nonce, e.ContentHash = bytes.Clone(e.Key), bytes.Clone(e.Nonce), bytes.Clone(e.ContentHash)
				limit := int64(200000)
				if c.change != nil {
					c.change(&e)
				}
				if strings.Contains(c.name, "not said, over") {
					limit = 1000
				}
				if r, err := e.Decrypt(bytes.NewReader(c.in), limit); !errors.Is(err, c.want) || r != nil {
					t.Errorf("Decrypt: %v", err)
				}
				if err := e.Verify(bytes.NewReader(c.in), limit); !errors.Is(err, c.want) {
					t.Errorf("Verify: %v", err)
				}
				w, err := content.NewDecryptWriter(io.Discard, &e, limit)
				if err == nil {
					if _, err = w.Write(c.in); err == nil {
						err = w.Close()
					}
				}
				if !errors.Is(err, c.want) {
					t.Errorf("DecryptWriter: %v", err)
				}
			})
		}
	}
}

func noHash(e *content.External) { e.HashAlg, e.ContentHash = 0, nil }

// changing is a source that is another one in the second pass.
type changing struct {
	*bytes.Reader
	second []byte
}

func (c *changing) Seek(off int64, whence int) (int64, error) {
	if whence == io.SeekStart {
		c.Reader = bytes.NewReader(c.second)
	}
	return c.Reader.Seek(off, whence)
}

func TestExternalSourceChanges(t *testing.T) {
	sealed, e := encrypted(t, content.AEADAES128GCM, octets(1000), 1000)
	other := bytes.Clone(sealed)
	other[500] ^= 1
	r, err := e.Decrypt(&changing{bytes.NewReader(sealed), other}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, content.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ n int }

func (f *failing) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestExternalErrors(t *testing.T) {
	if _, err := content.NewEncrypter(rand.Reader, 99, io.Discard); !errors.Is(err, content.ErrUnsupported) {
		t.Errorf("unknown AEAD: %v", err)
	}
	if _, err := content.NewEncryptReader(strings.NewReader("short"), content.AEADAES128GCM, strings.NewReader("")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("no randomness: %v", err)
	}
	w, err := content.NewEncrypter(rand.Reader, content.AEADAES128GCM, &failing{100})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 101)); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("full disk: %v", err)
	}
	if err := w.Close(); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("Close after an error: %v", err)
	}
	if _, err := w.External(); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("External after an error: %v", err)
	}
	r, err := content.NewEncryptReader(rand.Reader, content.AEADAES128GCM, iotest.ErrReader(io.ErrClosedPipe))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("broken source: %v", err)
	}
	e := content.External{Expires: 100}
	if e.Expired(99) || !e.Expired(100) || (&content.External{}).Expired(1<<40) {
		t.Error("Expired")
	}
}

// endless never ends, and counts what was read of it.
type endless struct{ n int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.n += int64(len(p))
	return len(p), nil
}

// TestExternalEndless: a server that goes on sending is not listened to beyond what was said.
func TestExternalEndless(t *testing.T) {
	_, e := encrypted(t, content.AEADAES128GCM, octets(1000), 1000)
	var src endless
	if err := e.Verify(&src, 1<<30); !errors.Is(err, content.ErrCorrupt) || src.n > 1<<20 {
		t.Errorf("size said: %v after %d octets", err, src.n)
	}
	e.Size = 0
	src = endless{}
	if err := e.Verify(&src, 1<<20); !errors.Is(err, content.ErrLimit) || src.n > 1<<21 {
		t.Errorf("size not said: %v after %d octets", err, src.n)
	}
}

func FuzzExternal(f *testing.F) {
	f.Add([]byte("plain"), []byte("aad"), uint16(3), uint8(0))
	f.Add(octets(70000), octets(33000), uint16(40000), uint8(1))
	f.Fuzz(func(t *testing.T, plain, aad []byte, piece uint16, which uint8) {
		alg := []uint16{content.AEADAES128GCM, content.AEADAES256GCM, content.AEADChaCha20Poly1305}[which%3]
		sealed, e := encrypted(t, alg, plain, int(piece)+1)
		a := whole(t, alg, e.Key)
		if want := a.Seal(nil, e.Nonce, plain, nil); !bytes.Equal(sealed, want) {
			t.Fatal("the ciphertext differs")
		}
		e.AAD, e.Size = aad, 0
		noHash(&e)
		var out bytes.Buffer
		w, err := content.NewDecryptWriter(&out, &e, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		for p := a.Seal(nil, e.Nonce, plain, aad); len(p) > 0; {
			n := min(int(piece)+1, len(p))
			if _, err := w.Write(p[:n]); err != nil {
				t.Fatal(err)
			}
			p = p[n:]
		}
		if err := w.Close(); err != nil || !bytes.Equal(out.Bytes(), plain) {
			t.Fatalf("decrypted to something else: %v", err)
		}
	})
}

func BenchmarkExternal(b *testing.B) {
	plain := octets(4 << 20)
	for name, alg := range aeads {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(plain)))
			for b.Loop() {
				w, err := content.NewEncrypter(rand.Reader, alg, io.Discard)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.Write(plain); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
