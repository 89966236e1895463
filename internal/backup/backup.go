// Package backup copies a provider that lies in SQLite into one file and back.
//
// The file is a tar archive: manifest.json, database.db, adapter-NAME.db for each adapter, and assets.txt, a list of the files of
// users ("size path" lines) that lie in a folder of their own and are not copied. Secrets and message content are sealed in it as
// in the database; the sealing key is not in it.
package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/core/store"
)

// Format is the version of the archive.
const Format = 1

// Options say what is copied. Progress, if set, is told what is done next.
type Options struct {
	Store    store.Options
	Assets   string // the folder
	Version  string // of this program
	Progress func(string)
}

// Manifest describes an archive.
type Manifest struct {
	Format      int       `json:"format"`
	Domain      string    `json:"domain"`
	Made        time.Time `json:"made"`
	Version     string    `json:"version"`
	Schema      int       `json:"schema"`
	Files       []File    `json:"files"`
	Assets      int       `json:"assets"`       // files of users
	AssetOctets int64     `json:"asset_octets"` // of them together
	AssetFolder string    `json:"asset_folder"`
}

// File is a database in the archive.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

const (
	manifestName = "manifest.json"
	databaseName = "database.db"
	assetsName   = "assets.txt"

	maxManifest = 1 << 20
	maxLine     = 8 << 10
)

var adapterFile = regexp.MustCompile(`^adapter-([a-z][a-z0-9_]{0,40})\.db$`)

func (o *Options) progress(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

// Write makes an archive while the daemon runs or not. The file must not exist yet; it is there whole or not at all.
func Write(ctx context.Context, o Options, file string) (m *Manifest, err error) {
	wrap := func(err error) error { return fmt.Errorf("backup: %w", err) }
	if _, err := os.Lstat(file); err == nil {
		return nil, wrap(fmt.Errorf("%s is there already", file))
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), ".mimibridge-backup-")
	if err != nil {
		return nil, wrap(err)
	}
	defer os.RemoveAll(dir)
	m = &Manifest{Format: Format, Domain: o.Store.Domain, Made: time.Now().UTC().Truncate(time.Second), Version: o.Version, AssetFolder: o.Assets}

	// The adapters' databases first: what a network has been shown since may come again, and never the other way round.
	adapters, err := store.AdapterFiles(o.Store.Path)
	if err != nil {
		return nil, err
	}
	for _, a := range adapters {
		if err := o.snapshot(ctx, m, store.AdapterFile(o.Store.Path, a), dir, "adapter-"+a+".db"); err != nil {
			return nil, err
		}
	}
	if err := o.snapshot(ctx, m, o.Store.Path, dir, databaseName); err != nil {
		return nil, err
	}
	o.progress("checking the copy")
	copied := o.Store
	copied.Path = filepath.Join(dir, databaseName)
	v, err := store.Verify(ctx, copied, nil)
	if err != nil {
		return nil, err
	}
	if len(v.Problems) > 0 {
		return nil, wrap(fmt.Errorf("the database is not sound, nothing was written: %s", strings.Join(v.Problems, "; ")))
	}
	m.Schema = v.Schema
	list, err := o.listAssets(m, filepath.Join(dir, assetsName))
	if err != nil {
		return nil, wrap(err)
	}

	o.progress("writing %s", file)
	part := filepath.Join(dir, "archive")
	out, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, wrap(err)
	}
	defer out.Close()
	w := tar.NewWriter(out)
	head, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, wrap(err)
	}
	add := func(name string, size int64, r io.Reader) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: m.Made}); err != nil {
			return err
		}
		_, err := io.Copy(w, r)
		return err
	}
	if err := add(manifestName, int64(len(head)), bytes.NewReader(head)); err != nil {
		return nil, wrap(err)
	}
	for _, f := range append(m.Files, list) {
		in, err := os.Open(filepath.Join(dir, f.Name))
		if err != nil {
			return nil, wrap(err)
		}
		err = add(f.Name, f.Size, in)
		in.Close()
		if err != nil {
			return nil, wrap(err)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), out.Sync(), out.Close()); err != nil {
		return nil, wrap(err)
	}
	if err := os.Link(part, file); err != nil { // fails if somebody has made it meanwhile
		return nil, wrap(err)
	}
	return m, nil
}

func (o *Options) snapshot(ctx context.Context, m *Manifest, path, dir, name string) error {
	o.progress("copying %s", filepath.Base(path))
	to := filepath.Join(dir, name)
	if err := store.Snapshot(ctx, path, to); err != nil {
		return err
	}
	f, err := describe(to, name)
	if err == nil {
		m.Files = append(m.Files, f)
	}
	return err
}

func describe(path, name string) (f File, err error) {
	in, err := os.Open(path)
	if err != nil {
		return f, fmt.Errorf("backup: %w", err)
	}
	defer in.Close()
	h := sha256.New()
	f.Name = name
	if f.Size, err = io.Copy(h, in); err != nil {
		return f, fmt.Errorf("backup: %w", err)
	}
	f.SHA256 = hex.EncodeToString(h.Sum(nil))
	return f, nil
}

// listAssets writes the list of the files of users; copies of files that lie elsewhere are left out.
func (o *Options) listAssets(m *Manifest, to string) (f File, err error) {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return f, err
	}
	defer out.Close()
	w := bufio.NewWriter(out)
	if o.Assets != "" {
		err = filepath.WalkDir(o.Assets, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist): // none yet, or gone meanwhile
				return nil
			case err != nil:
				return err
			case d.IsDir() && strings.HasPrefix(d.Name(), "cache-"):
				return fs.SkipDir
			case !d.Type().IsRegular():
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return nil
			}
			rel, err := filepath.Rel(o.Assets, path)
			if err != nil {
				return err
			}
			m.Assets++
			m.AssetOctets += info.Size()
			_, err = fmt.Fprintf(w, "%d %s\n", info.Size(), rel)
			return err
		})
		if err != nil {
			return f, err
		}
	}
	if err := errors.Join(w.Flush(), out.Close()); err != nil {
		return f, err
	}
	return describe(to, assetsName)
}

// Restored is what Restore has done.
type Restored struct {
	Manifest
	Kept    []string // where the former databases are now
	Missing int      // files of users that are listed in the archive and not in the folder
}

// Restore puts the databases of an archive in their place, the provider's as another incarnation. Nothing is changed unless
// the archive is whole, of the domain, and opens with the key; a daemon must not run. Unless force is set there must not be a database
// yet; with it the former ones are moved aside.
func Restore(ctx context.Context, o Options, file string, force bool) (*Restored, error) {
	wrap := func(err error) error { return fmt.Errorf("backup: %w", err) }
	if _, err := os.Stat(o.Store.Path); err == nil && !force {
		return nil, wrap(fmt.Errorf("%w: %s", ErrThere, o.Store.Path))
	}
	r, dir, err := o.open(ctx, file, filepath.Dir(o.Store.Path))
	if err != nil {
		return nil, wrap(err)
	}
	defer os.RemoveAll(dir)
	o.progress("putting the databases in their place")
	kept, err := store.Restore(ctx, o.Store, filepath.Join(dir, databaseName), func() error {
		for _, f := range r.Files {
			a := adapterFile.FindStringSubmatch(f.Name)
			if a == nil {
				continue
			}
			to := store.AdapterFile(o.Store.Path, a[1])
			kept, err := store.Aside(to)
			if err == nil {
				err = os.Rename(filepath.Join(dir, f.Name), to)
			}
			if err != nil {
				return wrap(err)
			}
			if kept != "" {
				r.Kept = append(r.Kept, kept)
			}
		}
		return nil
	})
	if kept != "" {
		r.Kept = append(r.Kept, kept)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// IsArchive reports whether a file looks like an archive of Write.
func IsArchive(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	h, err := tar.NewReader(f).Next()
	return err == nil && h.Name == manifestName
}

// Move puts the databases of an archive, which are SQLite's, into the empty PostgreSQL database that o names, as another
// incarnation. prepare makes the tables of the adapter that its key names.
func Move(ctx context.Context, o Options, file string, prepare map[string]func(context.Context, *sql.DB) error) (*Restored, error) {
	wrap := func(err error) error { return fmt.Errorf("backup: %w", err) }
	r, dir, err := o.open(ctx, file, filepath.Dir(file))
	if err != nil {
		return nil, wrap(err)
	}
	defer os.RemoveAll(dir)
	var adapters []store.MoveAdapter
	for _, f := range r.Files {
		if a := adapterFile.FindStringSubmatch(f.Name); a != nil {
			adapters = append(adapters, store.MoveAdapter{Name: a[1], From: filepath.Join(dir, f.Name), Prepare: prepare[a[1]]})
		}
	}
	if err := store.Move(ctx, o.Store, filepath.Join(dir, databaseName), adapters, o.Progress); err != nil {
		return nil, err
	}
	return r, nil
}

// ErrThere is returned by Restore without force if there is a database.
var ErrThere = errors.New("there is a database already")

// open unpacks an archive of this provider into a new folder in parent, which the caller removes.
func (o *Options) open(ctx context.Context, file, parent string) (r *Restored, dir string, err error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, "", err
	}
	defer in.Close()
	if dir, err = os.MkdirTemp(parent, ".mimibridge-restore-"); err != nil {
		return nil, "", err
	}
	r = &Restored{}
	r.Manifest, err = o.unpack(ctx, in, dir, &r.Missing)
	if err == nil && r.Domain != o.Store.Domain {
		err = fmt.Errorf("the backup is of the provider %q, the configuration says %q", r.Domain, o.Store.Domain)
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, "", err
	}
	return r, dir, nil
}

// unpack reads an archive into dir and checks it against its manifest.
func (o *Options) unpack(ctx context.Context, in io.Reader, dir string, missing *int) (m Manifest, err error) {
	bad := func(format string, args ...any) (Manifest, error) {
		return m, fmt.Errorf("this is no backup of mimibridge, or it is damaged: "+format, args...)
	}
	t := tar.NewReader(in)
	h, err := t.Next()
	if err != nil || h.Name != manifestName || h.Size > maxManifest {
		return bad("it does not begin with a manifest")
	}
	b, err := io.ReadAll(io.LimitReader(t, maxManifest))
	if err != nil {
		return bad("%w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return bad("the manifest cannot be read")
	}
	if m.Format != Format {
		return m, fmt.Errorf("the backup has format %d, this mimibridge (%s) knows %d: it was made by %s", m.Format, o.Version, Format, m.Version)
	}
	want := map[string]File{}
	for _, f := range m.Files {
		if f.Name != databaseName && !adapterFile.MatchString(f.Name) || want[f.Name].Name != "" {
			return bad("it has a file %q", f.Name)
		}
		want[f.Name] = f
	}
	if want[databaseName].Name == "" {
		return bad("there is no database in it")
	}
	listed := false
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return bad("%w", err)
		}
		if err := ctx.Err(); err != nil {
			return m, err
		}
		if h.Name == assetsName && !listed {
			listed = true
			if err := o.missing(t, missing); err != nil {
				return bad("%w", err)
			}
			continue
		}
		f, ok := want[h.Name]
		if !ok || h.Size != f.Size || h.Typeflag != tar.TypeReg {
			return bad("%q is not what the manifest says", h.Name)
		}
		delete(want, h.Name)
		o.progress("reading %s", h.Name)
		out, err := os.OpenFile(filepath.Join(dir, f.Name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return m, err
		}
		sum := sha256.New()
		_, err = io.Copy(io.MultiWriter(out, sum), t)
		if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
			return bad("%w", err)
		}
		if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
			return bad("%s was changed", f.Name)
		}
	}
	if len(want) > 0 || !listed {
		return bad("it ends too early")
	}
	return m, nil
}

// missing counts the listed files of users that are not in the folder.
func (o *Options) missing(r io.Reader, n *int) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		size, name, ok := strings.Cut(lines.Text(), " ")
		want, err := strconv.ParseInt(size, 10, 64)
		if !ok || err != nil || !filepath.IsLocal(name) {
			return errors.New("the list of files cannot be read")
		}
		if info, err := os.Stat(filepath.Join(o.Assets, name)); err != nil || info.Size() != want {
			*n++
		}
	}
	return lines.Err()
}
