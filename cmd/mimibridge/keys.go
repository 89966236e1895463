package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core/store"
)

const aboutKeysRotate = `
Makes a new sealing key and seals all MLS secrets and messages in the database anew with it. Stop the daemon
first. It can be interrupted at any time: run it again and it goes on; until it is done the daemon
works with both keys.

The new key is in the file of the old one then, which becomes FILE.old: backups of the database from before
need it. Remove it together with them. A daemon that has its key from the environment cannot be
served: put the key into a file for this.`

func cmdKeysRotate(ctx context.Context, e *env, args []string) error {
	set := flags(e, "keys rotate", aboutKeysRotate)
	path := configFlag(set)
	if err := parse(set, args); err != nil {
		return err
	}
	c, err := config.Load(*path)
	if err != nil {
		return errorWithHint(err, "`mimibridge check -c "+*path+"` tests everything the configuration points to")
	}
	if c.Secrets.KeyEnv != "" {
		return errorWithHint(errors.New("the sealing key comes from the environment"), "write it to a file with mode 0600, name that in secrets.key_file, and set the environment from the file afterwards")
	}
	file := c.Secrets.KeyFile
	next := file + config.NextKeySuffix
	if c.Secrets.NextKey == nil {
		line := config.NewSealingKey()
		if c.Secrets.NextKey, err = config.ParseSealingKey(line); err != nil {
			return err
		}
		if err := writeDurably(next, line); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(e.out, "going on with the key in %s\n", next)
	}
	st, err := store.Open(ctx, store.Options{Path: c.Storage.SQLite, Postgres: c.Storage.Postgres, Domain: c.Domain, Key: c.Secrets.SealingKey, NextKey: c.Secrets.NextKey})
	if err != nil {
		return errorWithHint(err, "stop the daemon; nothing has been changed, and the next attempt goes on")
	}
	last, n := "", 0
	err = st.Reseal(ctx, func(table string, sealed int) error {
		if table != last && last != "" {
			fmt.Fprintf(e.out, "%-15s %d\n", last, n)
		}
		last, n = table, sealed
		return nil
	})
	if cerr := st.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errorWithHint(err, "run it again: it goes on where it was; until then the daemon works with both keys")
	}
	// The database is opened by the new key alone now. First the old one gets another name, so that there is always one of each.
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := writeDurably(file+".old", string(old)); err != nil {
		return err
	}
	if err := os.Rename(next, file); err != nil {
		return err
	}
	if err := syncFolder(file); err != nil {
		return err
	}
	fmt.Fprintf(e.out, "done: %s has the new key. %s.old opens backups from before; remove it together with them.\n", file, file)
	if c.Storage.Postgres != "" {
		fmt.Fprintln(e.out, "PostgreSQL keeps old rows until it vacuums: VACUUM FULL removes them now.")
	}
	return nil
}

// writeDurably writes a file with mode 0600 that is there whole, or not at all, whatever happens.
func writeDurably(path, content string) error {
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncFolder(path)
}

func syncFolder(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
