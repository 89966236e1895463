package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/mimibridge/mimibridge/adapters/console"
	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/adapters/xmpp"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/backup"
)

const aboutBackup = `
Copies the databases into FILE, a tar archive of mode 0600, while the daemon runs or not. Secrets and message content are sealed
in it. Not in it are the sealing key, without which it cannot be opened, the configuration, and the files of users; it says
where they are. FILE must not exist yet.

PostgreSQL has its own tools for this: the command says which.`

const aboutRestore = `
Puts the databases of FILE, which ` + "`mimibridge backup`" + ` made, in their place. The daemon must not run. As the copy is from earlier, no key
in it is used again: the daemon joins its rooms anew when it starts, and what was sent since the backup is not repeated.

Where the configuration names PostgreSQL, FILE moves the provider there from SQLite: into a database that is empty. (A backup of
PostgreSQL is a dump; the command says how that is loaded.)

With -loaded and without FILE: the database was put back by other means, a dump into PostgreSQL, a snapshot of the machine, and
is marked as such.`

// storeOptions are those of the configuration's database.
func storeOptions(c *config.Config) (store.Options, error) {
	domain, err := mimiuri.NormalizeDomain(c.Domain)
	return store.Options{Path: c.Storage.SQLite, Postgres: c.Storage.Postgres, Key: c.Secrets.SealingKey, Domain: domain}, err
}

// loadStore reads the configuration and gives what it says about storage.
func loadStore(path string) (*config.Config, store.Options, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, store.Options{}, err
	}
	o, err := storeOptions(c)
	return c, o, err
}

// progress shows what is done next, to a person.
func progress(e *env) func(string) {
	return func(what string) {
		if e.terminal {
			fmt.Fprintf(e.err, "… %s\n", what)
		}
	}
}

func cmdBackup(ctx context.Context, e *env, args []string) error {
	fs := flags(e, "backup FILE", aboutBackup)
	path := configFlag(fs)
	asJSON := fs.Bool("json", false, "print JSON, for scripts")
	rest, err := parseArgs(fs, args, 1, 1)
	if err != nil {
		return err
	}
	c, o, err := loadStore(*path)
	if err != nil {
		return err
	}
	if o.Postgres != "" {
		return errorWithHint(errors.New("PostgreSQL is backed up with its own tools"),
			fmt.Sprintf("pg_dump --format=custom --exclude-table-data=node --file=%s --dbname='%s'\nand keep the sealing key apart from it", rest[0], store.PostgresName(o.Postgres)))
	}
	m, err := backup.Write(ctx, backup.Options{Store: o, Assets: c.Assets.Folder, Version: version(), Progress: progress(e)}, rest[0])
	if err != nil {
		return err
	}
	if *asJSON {
		(&asker{e: e, json: asJSON}).print(m, nil)
		return nil
	}
	var octets int64
	for _, f := range m.Files {
		octets += f.Size
	}
	fmt.Fprintf(e.out, "%s: %s, schema %d, %d database files, %s\n", rest[0], m.Domain, m.Schema, len(m.Files), octetsText(octets))
	fmt.Fprintln(e.out, "Not in it, to be kept apart from it:")
	key := c.Secrets.KeyFile
	if key == "" {
		key = "in the environment variable " + c.Secrets.KeyEnv
	}
	fmt.Fprintf(e.out, "  the sealing key, without which it cannot be opened: %s\n", key)
	fmt.Fprintf(e.out, "  the configuration and what it names: %s\n", c.File)
	fmt.Fprintf(e.out, "  %d files of users, %s: %s\n", m.Assets, octetsText(m.AssetOctets), m.AssetFolder)
	return nil
}

func cmdRestore(ctx context.Context, e *env, args []string) error {
	fs := flags(e, "restore FILE", aboutRestore)
	path := configFlag(fs)
	force := fs.Bool("force", false, "move the databases that are there aside")
	loaded := fs.Bool("loaded", false, "the database has been put back already: a dump was loaded, a snapshot restored")
	rest, err := parseArgs(fs, args, 0, 1)
	if err != nil {
		return err
	}
	if *loaded == (len(rest) == 1) {
		fmt.Fprintln(e.err, "either FILE or -loaded is needed")
		fs.Usage()
		return errUsage
	}
	c, o, err := loadStore(*path)
	switch {
	case err != nil:
		return err
	case o.Postgres != "" && !*loaded && backup.IsArchive(rest[0]):
		r, err := backup.Move(ctx, backup.Options{Store: o, Assets: c.Assets.Folder, Version: version(), Progress: progress(e)}, rest[0],
			map[string]func(context.Context, *sql.DB) error{"xmpp": xmpp.PrepareDB, "matrix": matrix.PrepareDB, "console": console.PrepareDB})
		if err != nil {
			return errorWithHint(err, "it needs a database without a provider in it, and the sealing key that the backup was made with")
		}
		fmt.Fprintf(e.out, "Moved %s as of %s into PostgreSQL. The daemon joins its rooms anew when it starts.\n", r.Domain, r.Made.Local().Format("2006-01-02 15:04"))
		tellMissing(e, c, r)
		return nil
	case o.Postgres != "" && !*loaded:
		return errorWithHint(errors.New("a dump is loaded with PostgreSQL's own tools"),
			fmt.Sprintf("stop all daemons on it, then\npg_restore --clean --if-exists --no-owner --dbname='%s' %s\nmimibridge restore -loaded", store.PostgresName(o.Postgres), rest[0]))
	case *loaded:
		if err := store.MarkRestored(ctx, o); err != nil {
			return err
		}
		fmt.Fprintln(e.out, "The database is marked as a copy from earlier: the daemon joins its rooms anew when it starts.")
		return nil
	}
	r, err := backup.Restore(ctx, backup.Options{Store: o, Assets: c.Assets.Folder, Version: version(), Progress: progress(e)}, rest[0], *force)
	if errors.Is(err, backup.ErrThere) {
		return errorWithHint(err, "-force moves it aside")
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(e.out, "Restored %s as of %s. The daemon joins its rooms anew when it starts.\n", r.Domain, r.Made.Local().Format("2006-01-02 15:04"))
	for _, k := range r.Kept {
		fmt.Fprintf(e.out, "  the former one is kept: %s\n", k)
	}
	tellMissing(e, c, r)
	return nil
}

func tellMissing(e *env, c *config.Config, r *backup.Restored) {
	if r.Missing > 0 {
		fmt.Fprintf(e.out, "  %d of %d files of users are missing in %s: copy that folder back, too\n", r.Missing, r.Assets, c.Assets.Folder)
	}
}

// octetsText is a size for people.
func octetsText(n int64) string {
	for _, u := range []string{"octets", "kB", "MB", "GB"} {
		if n < 10_000 {
			return fmt.Sprintf("%d %s", n, u)
		}
		n = (n + 500) / 1000
	}
	return fmt.Sprintf("%d TB", n)
}
