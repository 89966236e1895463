package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/mimibridge/mimibridge/core/store"
)

const aboutDBUpgrade = `
Brings the database to the schema of this version, which the daemon does too when it starts. The daemon must not run. Make a backup first: an
older version refuses a database of a newer schema, and there is no way back but the backup.`

const aboutDBVerify = `
Reads the whole database, while the daemon runs or not, and changes nothing: whether it is sound, the sealing key is the right one,
everything that is sealed opens, and what must hold between its tables does. Exit status 1 if anything does not.`

func cmdDBUpgrade(ctx context.Context, e *env, args []string) error {
	fs := flags(e, "db upgrade", aboutDBUpgrade)
	path := configFlag(fs)
	dry := fs.Bool("n", false, "a dry run: do it, and undo it again")
	if err := parse(fs, args); err != nil {
		return err
	}
	_, o, err := loadStore(*path)
	if err != nil {
		return err
	}
	from, err := store.Upgrade(ctx, o, *dry)
	switch {
	case err != nil:
		return err
	case from == store.SchemaVersion:
		fmt.Fprintf(e.out, "The database has schema %d, which is this version's.\n", from)
	case *dry:
		fmt.Fprintf(e.out, "The database has schema %d. The upgrade to %d would succeed; nothing was changed.\n", from, store.SchemaVersion)
	default:
		fmt.Fprintf(e.out, "The database was upgraded from schema %d to %d.\n", from, store.SchemaVersion)
	}
	return nil
}

func cmdDBVerify(ctx context.Context, e *env, args []string) error {
	fs := flags(e, "db verify", aboutDBVerify)
	path := configFlag(fs)
	asJSON := fs.Bool("json", false, "print JSON, for scripts")
	if err := parse(fs, args); err != nil {
		return err
	}
	_, o, err := loadStore(*path)
	if err != nil {
		return err
	}
	v, err := store.Verify(ctx, o, progress(e))
	if err != nil {
		return err
	}
	if *asJSON {
		(&asker{e: e, json: asJSON}).print(v, nil)
	} else {
		fmt.Fprintf(e.out, "schema %d, %d sealed values open\n", v.Schema, v.Sealed)
		for _, p := range v.Problems {
			fmt.Fprintf(e.out, "  %s\n", p)
		}
	}
	if n := len(v.Problems); n > 0 {
		return errorWithHint(fmt.Errorf("the database is not sound: %s", strings.Join(v.Problems, "; ")), "stop the daemon, keep the file, and restore a backup: `mimibridge restore -force FILE`")
	}
	return nil
}
