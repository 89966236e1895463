package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Snapshot copies a SQLite database, which may be in use, to a new file: one state of it, without what was deleted.
func Snapshot(ctx context.Context, path, to string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer db.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	f.Close()
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, to); err != nil {
		os.Remove(to)
		return fmt.Errorf("store: copy %s: %w", filepath.Base(path), err)
	}
	return nil
}

// AdapterFiles lists the names of the adapters that have a database beside the SQLite file at path.
func AdapterFiles(path string) (names []string, err error) {
	base := strings.TrimSuffix(path, filepath.Ext(path))
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), filepath.Base(base)+"-")
		if name, ok2 := strings.CutSuffix(name, ".db"); ok && ok2 && adapterName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// Aside moves a SQLite database away that is not in use, with its log; kept is where it is then, "" if there was none.
func Aside(path string) (kept string, err error) {
	to := path + ".before-" + time.Now().UTC().Format("20060102T150405.000")
	for _, end := range []string{"", "-wal", "-shm"} {
		switch err := os.Rename(path+end, to+end); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return "", fmt.Errorf("store: %w", err)
		case end == "":
			kept = to
		}
	}
	return kept, nil
}

// Restore puts the SQLite database in the file from in place of the one at o.Path, as another incarnation: it is upgraded, its
// group states are dropped, and what the daemon's lock file knows is kept. It is tried on the copy first: if the key or the domain is not the
// right one nothing has changed. It fails while a daemon runs. also, if set, is called when all that is done, and before the
// database takes its place: if it fails, the same can be done again. kept is where the former database is, "" if there was none.
func Restore(ctx context.Context, o Options, from string, also func() error) (kept string, err error) {
	sealer, err := NewSealer(o.Key)
	if err != nil {
		return "", err
	}
	lock, err := lockFile(o.Path + ".lock")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	path := o.Path
	o.Path, o.Restored = from, true
	s := &Store{o: o, sealer: sealer, lock: lock, node: newNodeState(), exists: true}
	err = s.openFile(ctx)
	s.lock = nil // is kept until the file is in its place
	s.closeFiles()
	if err != nil {
		return "", err
	}
	if also != nil {
		if err := also(); err != nil {
			return "", err
		}
	}
	if kept, err = Aside(path); err != nil {
		return "", err
	}
	if err := os.Rename(from, path); err != nil {
		return kept, fmt.Errorf("store: %w", err)
	}
	return kept, syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// MarkRestored makes a database that was put back by other means another incarnation: a PostgreSQL database into which a dump was
// loaded, a SQLite file of a snapshot. It fails while a daemon runs.
func MarkRestored(ctx context.Context, o Options) error {
	o.Restored = true
	sealer, err := NewSealer(o.Key)
	if err != nil {
		return err
	}
	s := &Store{o: o, sealer: sealer, node: newNodeState(), exists: true}
	defer s.closeFiles()
	if s.postgres() {
		return s.openPostgres(ctx)
	}
	if _, err := os.Stat(o.Path); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return s.openSQLite(ctx)
}

// errDry ends a dry run.
var errDry = errors.New("store: a dry run")

// Upgrade takes the schema from what it is to SchemaVersion, which Open does too; with dry it is done and undone again. It
// fails while a daemon runs.
func Upgrade(ctx context.Context, o Options, dry bool) (from int, err error) {
	sealer, err := NewSealer(o.Key)
	if err != nil {
		return 0, err
	}
	s := &Store{o: o, sealer: sealer, node: newNodeState(), dry: dry, exists: true}
	defer s.closeFiles()
	if s.postgres() {
		err = s.openPostgres(ctx)
	} else {
		if _, err := os.Stat(o.Path); err != nil {
			return 0, fmt.Errorf("store: %w", err)
		}
		err = s.openSQLite(ctx)
	}
	if errors.Is(err, errDry) {
		err = nil
	}
	return s.schema, err
}
