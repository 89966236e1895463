package content

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/poly1305" //nolint:staticcheck // the only incremental Poly1305; chacha20poly1305 wants a whole message
)

// AEAD algorithms of the IANA registry that this package implements (section "External content"). AES-128-GCM is the one
// that everybody has. All have keys of 16 or 32 octets, nonces of 12 and tags of 16.
const (
	AEADNone             uint16 = 0
	AEADAES128GCM        uint16 = 1
	AEADAES256GCM        uint16 = 2
	AEADChaCha20Poly1305 uint16 = 29
)

// Hash algorithms of the IANA Named Information registry that this package implements, beside HashSHA256. Those cut to
// fewer than 224 bits are not taken: they say too little about a file that somebody else keeps.
const (
	HashNone    uint8 = 0
	HashSHA384  uint8 = 7
	HashSHA512  uint8 = 8
	HashSHA3224 uint8 = 9
	HashSHA3256 uint8 = 10
	HashSHA3384 uint8 = 11
	HashSHA3512 uint8 = 12
)

// Errors of encryption and decryption.
var (
	// ErrUnsupported: an algorithm this package does not have, or a key or nonce that is not one of it.
	ErrUnsupported = errors.New("content: algorithm not supported")
	// ErrCorrupt: size, hash or tag are not what the message says. Nothing of the plaintext is to be believed.
	ErrCorrupt = errors.New("content: external content is not what the message says")
)

const (
	aeadNonce = 12
	aeadTag   = 16
	// maxPlain is the most that any of the algorithms may encrypt under one nonce (RFC 5116: P_MAX of AES-GCM).
	maxPlain = 1<<36 - 32
)

func keySize(alg uint16) (n int, ok bool) {
	switch alg {
	case AEADNone:
		return 0, true
	case AEADAES128GCM:
		return 16, true
	case AEADAES256GCM, AEADChaCha20Poly1305:
		return 32, true
	}
	return 0, false
}

func newHash(alg uint8) (hash.Hash, bool) {
	switch alg {
	case HashNone:
		return nil, true
	case HashSHA256:
		return sha256.New(), true
	case HashSHA384:
		return sha512.New384(), true
	case HashSHA512:
		return sha512.New(), true
	case HashSHA3224:
		return sha3.New224(), true
	case HashSHA3256:
		return sha3.New256(), true
	case HashSHA3384:
		return sha3.New384(), true
	case HashSHA3512:
		return sha3.New512(), true
	}
	return nil, false
}

// SupportsExternal reports whether e can be decrypted and checked here: the algorithms are known, key and nonce have their
// length. An error wraps ErrUnsupported.
func SupportsExternal(e *External) error {
	n, ok := keySize(e.EncAlg)
	if !ok {
		return fmt.Errorf("%w: AEAD %d", ErrUnsupported, e.EncAlg)
	}
	nonce := aeadNonce
	if e.EncAlg == AEADNone {
		nonce = 0
	}
	if len(e.Key) != n || len(e.Nonce) != nonce {
		return fmt.Errorf("%w: AEAD %d with a key of %d and a nonce of %d octets", ErrUnsupported, e.EncAlg, len(e.Key), len(e.Nonce))
	}
	if e.EncAlg == AEADNone && len(e.AAD) != 0 {
		return fmt.Errorf("%w: additional data without encryption", ErrUnsupported)
	}
	h, ok := newHash(e.HashAlg)
	if !ok {
		return fmt.Errorf("%w: hash %d", ErrUnsupported, e.HashAlg)
	}
	if h != nil && len(e.ContentHash) != h.Size() || h == nil && len(e.ContentHash) != 0 {
		return fmt.Errorf("%w: hash %d of %d octets", ErrUnsupported, e.HashAlg, len(e.ContentHash))
	}
	return nil
}

// Expired reports whether the content is no longer to be had at a time, in seconds since the Unix epoch.
func (e *External) Expired(now int64) bool { return e.Expires != 0 && now >= int64(e.Expires) }

// The algorithms have one tag at the end of all, so one pass cannot tell good from bad before it has seen everything. Decrypt
// therefore takes two over a source that can be read again, and gives plaintext away only after the first. What is
// downloaded goes to a file as it came, encrypted, and is read twice from there; what came in a single stream
// and must not be stored encrypted can go through DecryptWriter to a place that can be discarded. Either way memory
// is bounded by a buffer of chunkSize.

// chunkSize is the size of the buffers, a multiple of every block size.
const chunkSize = 64 << 10

// Encrypter encrypts what is written to it and writes the result to w: the ciphertext, at Close the tag. Key and
// nonce are fresh for each one.
type Encrypter struct {
	w    io.Writer
	st   stream
	hash hash.Hash
	e    External
	buf  []byte
	err  error
	done bool
}

// NewEncrypter makes an Encrypter for an AEAD algorithm, 0 for none, that draws key and nonce from rand. The hash is
// SHA-256.
func NewEncrypter(rand io.Reader, alg uint16, w io.Writer) (*Encrypter, error) {
	n, ok := keySize(alg)
	if !ok {
		return nil, fmt.Errorf("content: encrypt: %w: AEAD %d", ErrUnsupported, alg)
	}
	x := &Encrypter{w: w, hash: sha256.New(), e: External{EncAlg: alg, HashAlg: HashSHA256}}
	if alg != AEADNone {
		secret := make([]byte, n+aeadNonce)
		if _, err := io.ReadFull(rand, secret); err != nil {
			return nil, fmt.Errorf("content: encrypt: key: %w", err)
		}
		x.e.Key, x.e.Nonce = secret[:n:n], secret[n:]
	}
	st, err := newStream(alg, x.e.Key, x.e.Nonce, nil)
	if err != nil {
		return nil, fmt.Errorf("content: encrypt: %w", err)
	}
	x.st = st
	return x, nil
}

// Write encrypts p. It does not keep it.
func (x *Encrypter) Write(p []byte) (n int, err error) {
	if x.err == nil && x.done {
		x.err = errors.New("content: encrypt: write after close")
	}
	if x.buf == nil {
		x.buf = make([]byte, chunkSize)
	}
	for len(p) > 0 && x.err == nil {
		m := min(len(p), chunkSize)
		out := x.buf[:m]
		if x.err = x.st.encrypt(out, p[:m]); x.err == nil {
			x.err = x.emit(out)
		}
		if x.err == nil {
			n, p = n+m, p[m:]
		}
	}
	return n, x.err
}

func (x *Encrypter) emit(b []byte) error {
	x.hash.Write(b)
	x.e.Size += uint64(len(b))
	if _, err := x.w.Write(b); err != nil {
		return fmt.Errorf("content: encrypt: %w", err)
	}
	return nil
}

// Close writes the tag. It does not close the writer beneath.
func (x *Encrypter) Close() error {
	if x.done || x.err != nil {
		return x.err
	}
	x.done = true
	x.err = x.emit(x.st.tag())
	return x.err
}

// External says how to decrypt and check what was written: after Close without an error, everything but URL,
// expiry and names is in it.
func (x *Encrypter) External() (External, error) {
	if x.err != nil || !x.done {
		return External{}, errors.Join(errors.New("content: encrypt: not complete"), x.err)
	}
	e := x.e
	e.ContentHash = x.hash.Sum(nil)
	return e, nil
}

// EncryptReader encrypts src while it is read, for an upload: read to the end, then External says how it was done.
type EncryptReader struct {
	src io.Reader
	enc *Encrypter
	out bytes.Buffer
	in  []byte
	err error
}

// NewEncryptReader is NewEncrypter for reading.
func NewEncryptReader(rand io.Reader, alg uint16, src io.Reader) (*EncryptReader, error) {
	r := &EncryptReader{src: src}
	enc, err := NewEncrypter(rand, alg, &r.out)
	if err != nil {
		return nil, err
	}
	r.enc = enc
	return r, nil
}

// Read reads ciphertext.
func (r *EncryptReader) Read(p []byte) (int, error) {
	if r.in == nil {
		r.in = make([]byte, chunkSize)
	}
	for r.out.Len() == 0 && r.err == nil && len(p) > 0 {
		n, err := r.src.Read(r.in)
		if _, werr := r.enc.Write(r.in[:n]); werr != nil {
			r.err = werr
		} else if err == io.EOF {
			if r.err = r.enc.Close(); r.err == nil {
				r.err = io.EOF
			}
		} else if err != nil {
			r.err = fmt.Errorf("content: encrypt: read: %w", err)
		}
	}
	if r.out.Len() > 0 || len(p) == 0 {
		return r.out.Read(p)
	}
	return 0, r.err
}

// External is as of Encrypter.
func (r *EncryptReader) External() (External, error) { return r.enc.External() }

// EncryptedSize gives the octets that n octets of plaintext become.
func EncryptedSize(alg uint16, n uint64) uint64 {
	if alg == AEADNone {
		return n
	}
	return n + aeadTag
}

// Verify reads all of src, at most max octets, and checks size, hash and tag of it. It gives nothing of the plaintext. Errors
// wrap ErrUnsupported, ErrLimit for more than max octets, ErrCorrupt, or are those of src.
func (e *External) Verify(src io.Reader, max int64) error {
	d, err := newDecrypter(io.Discard, e, max)
	if err != nil {
		return err
	}
	d.onlyCheck = true
	if _, err := io.CopyBuffer(d, struct{ io.Reader }{src}, make([]byte, chunkSize)); err != nil {
		return err
	}
	return d.Close()
}

// Decrypt gives the plaintext of src. It first reads all of src to check it, as Verify, then again from where it was to
// decrypt it: nothing is given away that was not checked. Should src change between the passes, Read ends with ErrCorrupt
// instead of io.EOF.
func (e *External) Decrypt(src io.ReadSeeker, max int64) (io.Reader, error) {
	start, err := src.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, fmt.Errorf("content: decrypt: %w", err)
	}
	if err := e.Verify(src, max); err != nil {
		return nil, err
	}
	if _, err := src.Seek(start, io.SeekStart); err != nil {
		return nil, fmt.Errorf("content: decrypt: %w", err)
	}
	r := &decryptReader{src: src, in: make([]byte, chunkSize)}
	if r.d, err = newDecrypter(&r.out, e, max); err != nil {
		return nil, err
	}
	return r, nil
}

type decryptReader struct {
	src io.Reader
	d   *DecryptWriter
	out bytes.Buffer
	in  []byte
	err error
}

func (r *decryptReader) Read(p []byte) (int, error) {
	for r.out.Len() == 0 && r.err == nil && len(p) > 0 {
		n, err := r.src.Read(r.in)
		if _, werr := r.d.Write(r.in[:n]); werr != nil {
			r.err = werr
		} else if err == io.EOF {
			if r.err = r.d.Close(); r.err == nil {
				r.err = io.EOF
			}
		} else if err != nil {
			r.err = fmt.Errorf("content: decrypt: read: %w", err)
		}
	}
	if r.out.Len() > 0 || len(p) == 0 {
		return r.out.Read(p)
	}
	return 0, r.err
}

// DecryptWriter decrypts what is written to it in one pass. What it writes is NOT checked until Close returns nil:
// the writer beneath has to be something that the caller can discard, such as a temporary file, never a connection.
type DecryptWriter struct {
	w         io.Writer
	e         External
	st        stream
	hash      hash.Hash
	max       int64
	size      uint64
	held      []byte // the last octets so far, which may be the tag
	in, buf   []byte
	err       error
	closed    bool
	onlyCheck bool
}

// NewDecryptWriter makes a DecryptWriter for the content that e describes, at most max octets of it. Errors are those of
// Verify.
func NewDecryptWriter(unchecked io.Writer, e *External, max int64) (*DecryptWriter, error) {
	return newDecrypter(unchecked, e, max)
}

func newDecrypter(w io.Writer, e *External, max int64) (*DecryptWriter, error) {
	if err := SupportsExternal(e); err != nil {
		return nil, fmt.Errorf("content: decrypt: %w", err)
	}
	if max < 0 || e.Size > uint64(max) {
		return nil, fmt.Errorf("content: decrypt: %w: %d octets", ErrLimit, e.Size)
	}
	st, err := newStream(e.EncAlg, e.Key, e.Nonce, e.AAD)
	if err != nil {
		return nil, fmt.Errorf("content: decrypt: %w", err)
	}
	h, _ := newHash(e.HashAlg)
	return &DecryptWriter{w: w, e: *e, st: st, hash: h, max: max}, nil
}

func (d *DecryptWriter) tagSize() int {
	if d.e.EncAlg == AEADNone {
		return 0
	}
	return aeadTag
}

// Write decrypts p. It does not keep it.
func (d *DecryptWriter) Write(p []byte) (int, error) {
	if d.err == nil && d.closed {
		d.err = errors.New("content: decrypt: write after close")
	}
	if d.err != nil {
		return 0, d.err
	}
	if d.size += uint64(len(p)); d.size > uint64(d.max) {
		d.err = fmt.Errorf("content: decrypt: %w: more than %d octets", ErrLimit, d.max)
		return 0, d.err
	}
	if d.e.Size != 0 && d.size > d.e.Size+uint64(d.tagSize()) {
		d.err = fmt.Errorf("%w: it is longer", ErrCorrupt)
		return 0, d.err
	}
	if d.hash != nil {
		d.hash.Write(p)
	}
	if d.buf == nil {
		d.buf = make([]byte, chunkSize)
		d.held = make([]byte, 0, aeadTag)
	}
	for rest := p; len(rest) > 0 && d.err == nil; {
		// All but the last octets, which may be the tag, are ciphertext: first what was held of the octets before.
		m := min(len(rest), chunkSize-aeadTag)
		in := append(append(d.in[:0], d.held...), rest[:m]...)
		d.in, rest = in, rest[m:]
		n := max(0, len(in)-d.tagSize())
		d.held = append(d.held[:0], in[n:]...)
		d.err = d.plain(in[:n])
	}
	if d.err != nil {
		return 0, d.err
	}
	return len(p), nil
}

func (d *DecryptWriter) plain(in []byte) error {
	if d.onlyCheck {
		return d.st.authenticate(in)
	}
	out := d.buf[:len(in)]
	if err := d.st.decrypt(out, in); err != nil {
		return err
	}
	if _, err := d.w.Write(out); err != nil {
		return fmt.Errorf("content: decrypt: %w", err)
	}
	return nil
}

// Close checks size, hash and tag. Unless it returns nil, what was written is to be discarded. It does not close
// the writer beneath.
func (d *DecryptWriter) Close() error {
	if d.closed || d.err != nil {
		return d.err
	}
	d.closed = true
	d.err = d.check()
	return d.err
}

func (d *DecryptWriter) check() error {
	// The draft leaves open whether the size is that of the plaintext or of what is at the URL.
	if d.e.Size != 0 && d.size != d.e.Size && d.size != d.e.Size+uint64(d.tagSize()) {
		return fmt.Errorf("%w: it is shorter", ErrCorrupt)
	}
	if d.hash != nil && subtle.ConstantTimeCompare(d.hash.Sum(nil), d.e.ContentHash) != 1 {
		return fmt.Errorf("%w: its hash", ErrCorrupt)
	}
	if subtle.ConstantTimeCompare(d.st.tag(), d.held) != 1 {
		return fmt.Errorf("%w: its tag", ErrCorrupt)
	}
	return nil
}

// stream is an AEAD taken in pieces of any length. Pieces are encrypted and decrypted in order; tag ends it.
type stream interface {
	encrypt(dst, src []byte) error
	decrypt(dst, src []byte) error
	// authenticate is decrypt without plaintext.
	authenticate(src []byte) error
	tag() []byte
}

var errTooLong = fmt.Errorf("%w: more than the algorithm may encrypt", ErrLimit)

func newStream(alg uint16, key, nonce, aad []byte) (stream, error) {
	switch alg {
	case AEADNone:
		return noStream{}, nil
	case AEADAES128GCM, AEADAES256GCM:
		return newGCM(key, nonce, aad)
	case AEADChaCha20Poly1305:
		return newChaCha(key, nonce, aad)
	}
	return nil, fmt.Errorf("%w: AEAD %d", ErrUnsupported, alg)
}

type noStream struct{}

func (noStream) encrypt(dst, src []byte) error { copy(dst, src); return nil }
func (noStream) decrypt(dst, src []byte) error { copy(dst, src); return nil }
func (noStream) authenticate([]byte) error     { return nil }
func (noStream) tag() []byte                   { return nil }

// chaChaStream is ChaCha20-Poly1305 of RFC 8439 section 2.8.
type chaChaStream struct {
	c    *chacha20.Cipher
	mac  *poly1305.MAC
	aad  uint64
	size uint64
}

func newChaCha(key, nonce, aad []byte) (*chaChaStream, error) {
	c, err := chacha20.NewUnauthenticatedCipher(key, nonce)
	if err != nil {
		return nil, err
	}
	var macKey [32]byte
	c.XORKeyStream(macKey[:], macKey[:])
	c.SetCounter(1)
	s := &chaChaStream{c: c, mac: poly1305.New(&macKey), aad: uint64(len(aad))}
	s.mac.Write(aad)
	s.pad(s.aad)
	return s, nil
}

func (s *chaChaStream) pad(n uint64) {
	var zero [16]byte
	if n %= 16; n != 0 {
		s.mac.Write(zero[n:])
	}
}

func (s *chaChaStream) add(b []byte) error {
	if s.size += uint64(len(b)); s.size > maxPlain {
		return errTooLong
	}
	s.mac.Write(b)
	return nil
}

func (s *chaChaStream) encrypt(dst, src []byte) error {
	s.c.XORKeyStream(dst, src)
	return s.add(dst)
}

func (s *chaChaStream) decrypt(dst, src []byte) error {
	if err := s.add(src); err != nil {
		return err
	}
	s.c.XORKeyStream(dst, src)
	return nil
}

func (s *chaChaStream) authenticate(src []byte) error { return s.add(src) }

func (s *chaChaStream) tag() []byte {
	s.pad(s.size)
	var lengths [16]byte
	binary.LittleEndian.PutUint64(lengths[:8], s.aad)
	binary.LittleEndian.PutUint64(lengths[8:], s.size)
	s.mac.Write(lengths[:])
	return s.mac.Sum(nil)
}

// gcmStream is AES-GCM (NIST SP 800-38D) in pieces. The standard library has GCM only for whole messages, but GHASH is linear:
// the library makes the GHASH of each piece (as that of additional data without a plaintext, at the speed of
// the processor's instructions), and the pieces are put together here with a multiplication each.
type gcmStream struct {
	ctr   cipher.Stream
	gcm   cipher.AEAD
	nonce []byte
	mask  gf128 // E(J0)
	h     gf128 // the hash key
	hn    gf128 // h to the power of the blocks of a full piece
	z     gf128 // (GHASH so far) times h
	part  []byte
	aad   uint64
	size  uint64
}

// gcmPiece is how many octets are hashed at a time.
const gcmPiece = 32 << 10

func newGCM(key, nonce, aad []byte) (*gcmStream, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	s := &gcmStream{nonce: nonce, aad: uint64(len(aad)), part: make([]byte, 0, gcmPiece)}
	if s.gcm, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	var b [16]byte
	block.Encrypt(b[:], b[:])
	s.h = loadGF(b[:])
	var j0 [16]byte
	copy(j0[:], nonce)
	j0[15] = 1
	block.Encrypt(b[:], j0[:])
	s.mask = loadGF(b[:])
	j0[15] = 2
	s.ctr = cipher.NewCTR(block, j0[:]) // its counter has more bits than GCM's, which makes no difference below maxPlain
	s.hn = s.h
	for n := 1; n < gcmPiece/16; n *= 2 {
		s.hn = s.hn.times(s.hn)
	}
	for len(aad) > gcmPiece {
		s.absorb(aad[:gcmPiece])
		aad = aad[gcmPiece:]
	}
	s.absorb(aad)
	return s, nil
}

// absorb adds a piece to the hash. All but the last before a change of kind are gcmPiece long; a shorter one is
// padded with zeros to whole blocks, as GCM does at the ends of additional data and ciphertext.
func (s *gcmStream) absorb(piece []byte) {
	if len(piece) == 0 {
		return
	}
	power := s.hn
	if len(piece) < gcmPiece {
		power = s.h.power((len(piece) + 15) / 16)
	}
	// The library's tag is E(J0) + (G + L)·h, with G the GHASH of the piece and L the block of its length.
	tag := loadGF(s.gcm.Seal(nil, s.nonce, nil, piece))
	length := gf128{hi: uint64(len(piece)) * 8}
	g := tag.plus(s.mask).plus(length.times(s.h)) // G·h
	s.z = s.z.times(power).plus(g)
}

func (s *gcmStream) add(b []byte) error {
	if s.size += uint64(len(b)); s.size > maxPlain {
		return errTooLong
	}
	for len(b) > 0 {
		n := min(len(b), gcmPiece-len(s.part))
		s.part = append(s.part, b[:n]...)
		b = b[n:]
		if len(s.part) == gcmPiece {
			s.absorb(s.part)
			s.part = s.part[:0]
		}
	}
	return nil
}

func (s *gcmStream) encrypt(dst, src []byte) error {
	s.ctr.XORKeyStream(dst, src)
	return s.add(dst)
}

func (s *gcmStream) decrypt(dst, src []byte) error {
	if err := s.add(src); err != nil {
		return err
	}
	s.ctr.XORKeyStream(dst, src)
	return nil
}

func (s *gcmStream) authenticate(src []byte) error { return s.add(src) }

func (s *gcmStream) tag() []byte {
	s.absorb(s.part)
	s.part = s.part[:0]
	lengths := gf128{hi: s.aad * 8, lo: s.size * 8}
	t := s.mask.plus(s.z).plus(lengths.times(s.h))
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, t.hi), t.lo)
}

// gf128 is an element of GCM's field: the first bit of the block, the highest of hi, is the coefficient of x^0.
type gf128 struct{ hi, lo uint64 }

func loadGF(b []byte) gf128 {
	return gf128{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (a gf128) plus(b gf128) gf128 { return gf128{a.hi ^ b.hi, a.lo ^ b.lo} }

// times multiplies in time that does not depend on the values.
func (a gf128) times(b gf128) (z gf128) {
	for i := range 128 {
		word := a.hi
		if i >= 64 {
			word = a.lo
		}
		take := -(word >> (63 - i%64) & 1) // all ones or all zeros
		z.hi ^= b.hi & take
		z.lo ^= b.lo & take
		reduce := -(b.lo & 1)
		b.lo = b.lo>>1 | b.hi<<63
		b.hi = b.hi>>1 ^ 0xe1<<56&reduce
	}
	return z
}

// power gives a to the power of n, which is no secret.
func (a gf128) power(n int) gf128 {
	z := gf128{hi: 1 << 63}
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			z = z.times(a)
		}
		a = a.times(a)
	}
	return z
}
