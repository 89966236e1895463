// Package assets keeps files: those of this provider's users in a folder beside the database (Store), and copies of
// what was downloaded from elsewhere (Cache). Both stream; memory is bounded by a buffer for each file under way.
//
// A file of a user has a random name of 160 bits, which is all that is needed to read it: attachments are
// encrypted before they come here, and what is published is for everybody. The row that says whose it is and until
// when lies in the database; a file without a row is swept away a day later, a row without a file is a file that is gone.
package assets

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/port"
	"github.com/mimibridge/mimibridge/core/store"
)

// Config says where files lie and how much of them there may be.
type Config struct {
	Folder string // made with mode 0700 if absent
	Store  *store.Store
	// MaxFile is the most that one file may have, Quota what all files of one user may have together, in octets. 0 is
	// DefaultMaxFile and DefaultQuota.
	MaxFile, Quota int64
	Now            func() time.Time // nil is time.Now
	// Over, if not nil, hears that a user wanted more: of "file size" or of "upload quota". It must not block.
	Over func(user, what string)
}

// Defaults of Config.
const (
	DefaultMaxFile int64 = 100 << 20
	DefaultQuota   int64 = 1 << 30
)

const (
	nameOctets = 20
	partSuffix = ".part"
	// strayAge is how old a file without a row is before it is swept: one that is just being written has none.
	strayAge   = 24 * time.Hour
	sweepBatch = 256
)

// Store is the files of the users of this provider. Safe for concurrent use.
type Store struct {
	cfg Config

	mu    sync.Mutex
	under map[string]int64 // octets of files under way, by user
}

var _ port.Assets = (*Store)(nil)

// Open makes the folder if it is not there.
func Open(cfg Config) (*Store, error) {
	if cfg.MaxFile <= 0 {
		cfg.MaxFile = DefaultMaxFile
	}
	if cfg.Quota <= 0 {
		cfg.Quota = DefaultQuota
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Over == nil {
		cfg.Over = func(string, string) {}
	}
	if err := os.MkdirAll(cfg.Folder, 0o700); err != nil {
		return nil, fmt.Errorf("assets: %w", err)
	}
	return &Store{cfg: cfg, under: map[string]int64{}}, nil
}

// MaxFile is the most that one file may have, in octets.
func (s *Store) MaxFile() int64 { return s.cfg.MaxFile }

// What Config.Over hears.
const (
	overFile = "file size"
	overAll  = "upload quota"
)

// Writer takes one file. It is not safe for concurrent use.
type Writer struct {
	s     *Store
	row   store.Asset
	f     *os.File
	limit int64 // by file and quota
	over  error // what a write beyond limit fails with
	what  string
	err   error
}

// Create begins a file of a user. size is a hint, -1 if unknown: what is known to be too large is refused at once.
// Expires is zero for never. The caller ends it by Commit or Discard.
func (s *Store) Create(ctx context.Context, user, mediaType string, size int64, expires time.Time) (*Writer, error) {
	var used int64
	if err := s.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		used, err = tx.AssetsSize(user)
		return err
	}); err != nil {
		return nil, err
	}
	w := &Writer{s: s, row: store.Asset{User: user, Type: mediaType}, limit: s.cfg.MaxFile, over: s.tooLarge(), what: overFile}
	if !expires.IsZero() {
		w.row.Expires = expires.UnixMilli()
	}
	s.mu.Lock()
	left := s.cfg.Quota - used - s.under[user]
	s.mu.Unlock()
	if left < w.limit {
		w.limit, w.over, w.what = max(left, 0), s.overQuota(), overAll
	}
	if size > w.limit || w.limit == 0 {
		s.cfg.Over(user, w.what)
		return nil, w.over
	}
	var name [nameOctets]byte
	rand.Read(name[:])
	w.row.Name = hex.EncodeToString(name[:])
	f, err := os.OpenFile(filepath.Join(s.cfg.Folder, w.row.Name+partSuffix), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("assets: %w", err)
	}
	w.f = f
	return w, nil
}

func (s *Store) tooLarge() error {
	return fault.Newf(fault.TooLarge, "a file may have at most %s", size(s.cfg.MaxFile))
}

func (s *Store) overQuota() error {
	return fault.Newf(fault.TooLarge, "there is no room for this file: your files may have %s in all", size(s.cfg.Quota))
}

func size(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%d GB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MB", n>>20)
	}
	return fmt.Sprintf("%d octets", n)
}

// Write adds to the file. Beyond the limit for one file or the user's quota it fails with fault.TooLarge.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n := int64(len(p))
	w.s.mu.Lock()
	if w.row.Size+n > w.limit {
		w.err = w.over
	} else {
		w.s.under[w.row.User] += n
		w.row.Size += n
	}
	w.s.mu.Unlock()
	if w.err != nil {
		w.s.cfg.Over(w.row.User, w.what)
		return 0, w.err
	}
	if _, err := w.f.Write(p); err != nil {
		w.err = fmt.Errorf("assets: %w", err)
		return 0, w.err
	}
	return len(p), nil
}

// Commit makes the file available under the name it returns; file and row are on disk then. After an error the file is
// discarded.
func (w *Writer) Commit(ctx context.Context) (name string, err error) {
	defer w.Discard()
	if w.err != nil {
		return "", w.err
	}
	path := filepath.Join(w.s.cfg.Folder, w.row.Name)
	if err := w.f.Sync(); err != nil {
		return "", fmt.Errorf("assets: %w", err)
	}
	if err := os.Rename(path+partSuffix, path); err != nil {
		return "", fmt.Errorf("assets: %w", err)
	}
	if d, err := os.Open(w.s.cfg.Folder); err == nil {
		d.Sync() // the name, too
		d.Close()
	}
	w.row.Created = w.s.cfg.Now().UnixMilli()
	ok := false
	if err := w.s.cfg.Store.Update(ctx, func(tx *store.Tx) (err error) {
		ok, err = tx.InsertAsset(&w.row, w.s.cfg.Quota)
		return err
	}); err != nil {
		return "", err // the transaction may yet happen: the sweep decides
	}
	if !ok {
		os.Remove(path)
		w.s.cfg.Over(w.row.User, overAll)
		return "", w.s.overQuota()
	}
	return w.row.Name, nil
}

// Discard ends a file that was not committed. Safe to call again, and after Commit.
func (w *Writer) Discard() {
	if w.f == nil {
		return
	}
	w.f.Close()
	w.f = nil
	os.Remove(filepath.Join(w.s.cfg.Folder, w.row.Name+partSuffix))
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.s.under[w.row.User] -= w.row.Size; w.s.under[w.row.User] <= 0 {
		delete(w.s.under, w.row.User)
	}
}

// ValidName reports whether a text can be the name of a file: nothing else ever becomes part of a path.
func ValidName(name string) bool {
	return len(name) == 2*nameOctets && strings.Trim(name, "0123456789abcdef") == ""
}

var errGone = fault.New(fault.NotFound, "there is no such file, or not any more")

// Asset opens a file, for port.Assets.
func (s *Store) Asset(ctx context.Context, name string) (*port.Asset, error) {
	if !ValidName(name) {
		return nil, errGone
	}
	var row *store.Asset
	if err := s.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		row, err = tx.Asset(name)
		return err
	}); err != nil {
		return nil, err
	}
	if row == nil || row.Expires != 0 && s.cfg.Now().UnixMilli() >= row.Expires {
		return nil, errGone
	}
	f, err := os.Open(filepath.Join(s.cfg.Folder, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("assets: %w", err)
	}
	a := &port.Asset{Body: f, Size: row.Size, Type: row.Type}
	if row.Expires != 0 {
		a.Expires = time.UnixMilli(row.Expires)
	}
	return a, nil
}

// Delete removes files, rows first.
func (s *Store) Delete(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	if err := s.cfg.Store.Update(ctx, func(tx *store.Tx) error {
		for _, n := range names {
			if err := tx.DeleteAsset(n); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, n := range names {
		if err := os.Remove(filepath.Join(s.cfg.Folder, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("assets: %w", err)
		}
	}
	return nil
}

// DeleteUser removes all files of a user.
func (s *Store) DeleteUser(ctx context.Context, user string) error {
	var names []string
	if err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		as, err := tx.UserAssets(user)
		for _, a := range as {
			names = append(names, a.Name)
		}
		return err
	}); err != nil {
		return err
	}
	return s.Delete(ctx, names...)
}

// Sweep removes files whose time is over, and what a crash has left behind. It says how many.
func (s *Store) Sweep(ctx context.Context) (n int, err error) {
	now := s.cfg.Now()
	for {
		var names []string
		if err := s.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
			names, err = tx.ExpiredAssets(now.UnixMilli(), sweepBatch)
			return err
		}); err != nil {
			return n, err
		}
		if len(names) == 0 {
			break
		}
		if err := s.Delete(ctx, names...); err != nil {
			return n, err
		}
		n += len(names)
	}
	stray, err := s.sweepStray(ctx, now)
	return n + stray, err
}

func (s *Store) sweepStray(ctx context.Context, now time.Time) (n int, err error) {
	d, err := os.Open(s.cfg.Folder)
	if err != nil {
		return 0, fmt.Errorf("assets: %w", err)
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(sweepBatch)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("assets: %w", err)
		}
		for _, e := range entries {
			name := strings.TrimSuffix(e.Name(), partSuffix)
			if fi, err := e.Info(); err != nil || !fi.Mode().IsRegular() || !ValidName(name) || now.Sub(fi.ModTime()) < strayAge {
				continue // not ours, or still being written
			}
			var row *store.Asset
			if name == e.Name() {
				if err := s.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
					row, err = tx.Asset(name)
					return err
				}); err != nil {
					return n, err
				}
			}
			if row == nil && os.Remove(filepath.Join(s.cfg.Folder, e.Name())) == nil {
				n++
			}
		}
	}
}
