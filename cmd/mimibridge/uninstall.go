package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/store"
	"github.com/mimibridge/mimibridge/internal/admin"
)

const aboutUninstall = `
Takes the provider down for good, so that nothing of it is left at other providers, on the chat network or on this machine. The
running daemon closes the rooms kept here, has all local users leave those kept elsewhere and takes back their consent; when
other providers have been told, the adapter takes its users, rooms and aliases off the network; then the daemon stops, and this
command removes the database and the files of users, and says what is left to do by hand.

-n only lists all that. It can be interrupted at any time: the daemon goes on by itself, over restarts too, and the command run
again shows it. It waits for providers that cannot be reached, for up to 30 days; -give-up waits a minute for them.

-files only removes the files, without telling anybody, if the daemon cannot run any more: other providers see the users in
their rooms for ever, and the network keeps what the adapter has put there.`

func cmdUninstall(ctx context.Context, e *env, args []string) error {
	a := ask(e, "uninstall", aboutUninstall)
	dry := a.fs.Bool("n", false, "a dry run: list what would be done")
	yes := a.fs.Bool("yes", false, "do not ask")
	giveUp := a.fs.Bool("give-up", false, "wait no longer than a minute for who cannot be reached")
	only := a.fs.Bool("files", false, "remove the files only; the daemon must not run")
	if _, err := a.parse(args, 0, 0); err != nil {
		return err
	}
	c, err := config.Load(*a.path)
	if err != nil {
		return err
	}
	l, err := leftoversOf(c)
	if err != nil {
		return err
	}
	if *dry {
		var steps []string
		if err := a.Get(ctx, "/v1/uninstall/plan", nil, &steps); err != nil && !*only {
			return a.notRunning(ctx, c, l, err, false)
		}
		a.print(map[string][]string{"steps": steps, "files": l.files, "by_hand": l.byHand}, func() {
			for _, s := range steps {
				fmt.Fprintln(e.out, s)
			}
			l.print(e, "remove ")
		})
		return nil
	}
	if *only {
		if err := a.Get(ctx, "/healthz", nil, e.err); err == nil {
			return errorWithHint(errors.New("the daemon runs"), "without -files it tells everybody first; or stop it")
		}
		if err := a.confirm(*yes, "Remove the database of "+c.Domain+" without telling anybody?"); err != nil {
			return err
		}
		return l.remove(e)
	}
	var s core.UninstallState
	if err := a.Get(ctx, "/v1/uninstall", nil, &s); err != nil {
		return a.notRunning(ctx, c, l, err, true)
	}
	if !s.Running {
		if err := a.confirm(*yes, "Close all rooms of "+c.Domain+", remove all its users and its database?"); err != nil {
			return err
		}
	}
	if !s.Running || *giveUp {
		if err := a.Post(ctx, "/v1/uninstall", admin.Query{GiveUp: *giveUp}, nil); err != nil {
			return hinted(err)
		}
	}
	if err := a.followUninstall(ctx); err != nil {
		return err
	}
	if err := a.Post(ctx, "/v1/uninstall/stop", admin.Query{}, nil); err != nil {
		return hinted(err)
	}
	for a.Get(ctx, "/healthz", nil, new(strings.Builder)) == nil {
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return l.remove(e)
}

// followUninstall prints what the daemon does until it is done.
func (a *asker) followUninstall(ctx context.Context) error {
	from, waits := 0, ""
	const goesOn = "the daemon goes on by itself; `mimibridge uninstall` shows how far it is, with -give-up it does not wait for who cannot be reached"
	for {
		var s core.UninstallState
		if err := a.Get(ctx, "/v1/uninstall", url.Values{"from": {strconv.Itoa(from)}}, &s); ctx.Err() != nil {
			return errorWithHint(errors.New("interrupted"), goesOn)
		} else if err != nil {
			return hinted(err)
		}
		for _, step := range s.Steps {
			fmt.Fprintln(a.e.out, step)
		}
		from = s.Next
		if s.Done {
			return nil
		}
		if w := strings.Join(s.Waits, "; "); w != waits && w != "" {
			fmt.Fprintln(a.e.out, "waiting for", w)
			waits = w
		}
		if err := pause(ctx, time.Second/2); err != nil {
			return errorWithHint(err, goesOn)
		}
	}
}

// notRunning is what to do when no daemon answers: it may have done its part already.
func (a *asker) notRunning(ctx context.Context, c *config.Config, l *leftovers, err error, remove bool) error {
	if !errors.Is(err, admin.ErrNotRunning) {
		return err
	}
	o, oerr := storeOptions(c)
	if oerr != nil {
		return oerr
	}
	u, uerr := store.ReadUninstall(ctx, o)
	switch {
	case errors.Is(uerr, fs.ErrNotExist): // the database is gone already
	case uerr != nil:
		return uerr
	case u != store.Uninstalled:
		return errorWithHint(err, "start it with `mimibridge run`: it has to tell the others. If it cannot run any more: `mimibridge uninstall -files`")
	}
	if !remove {
		l.print(a.e, "remove ")
		return nil
	}
	return l.remove(a.e)
}

// leftovers is what is on this machine.
type leftovers struct {
	c      *config.Config
	files  []string
	byHand []string
}

// assetName is what files of users are called, core/assets.
var assetName = regexp.MustCompile(`^[0-9a-f]{40}(\.part)?$`)

// leftoversOf lists only what is known to be the daemon's own, whatever else lies in the same folders.
func leftoversOf(c *config.Config) (*leftovers, error) {
	l := &leftovers{c: c}
	add := func(path string) {
		if _, err := os.Lstat(path); err == nil {
			l.files = append(l.files, path)
		}
	}
	dbs := []string{}
	if c.Storage.Postgres == "" {
		dbs = append(dbs, c.Storage.SQLite)
		names, err := store.AdapterFiles(c.Storage.SQLite)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, n := range names {
			dbs = append(dbs, store.AdapterFile(c.Storage.SQLite, n))
		}
	}
	// The database with the mark that all is done goes last: what is interrupted here is gone on with.
	slices.Reverse(dbs)
	entries, err := os.ReadDir(c.Assets.Folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && assetName.MatchString(e.Name()) || e.IsDir() && strings.HasPrefix(e.Name(), "cache-") {
			add(filepath.Join(c.Assets.Folder, e.Name()))
		}
	}
	if len(entries) == len(l.files) {
		add(c.Assets.Folder)
	}
	if r := c.Federation.Record; r != "" {
		add(r)
	}
	for _, db := range dbs {
		for _, end := range []string{"-wal", "-shm", ".lock", ""} {
			add(db + end)
		}
	}

	say := func(format string, args ...any) { l.byHand = append(l.byHand, fmt.Sprintf(format, args...)) }
	if c.Storage.Postgres != "" {
		say("the database: dropdb --force %s", dropArguments(c.Storage.Postgres))
	}
	switch x, m := c.Network.XMPP, c.Network.Matrix; {
	case x != nil:
		say("in the XMPP server's configuration: what it has of %s and %s; then restart it", x.Users, x.Rooms)
	case m != nil:
		say("in the homeserver's configuration: the registration under app_service_config_files, and its copy of %s; then restart it", m.Registration)
	}
	say("on the web server: https://%s/.well-known/mimi-protocol-directory", c.Domain)
	say("the service: systemctl disable --now mimibridge; rm /etc/systemd/system/mimibridge.service; userdel mimibridge")
	if key := c.Secrets.KeyFile; key != "" {
		say("the configuration with the secrets beside it: %s, and the sealing key %s, without which no backup can be opened", filepath.Dir(c.File), key)
	} else {
		say("the configuration with the secrets beside it: %s", filepath.Dir(c.File))
	}
	return l, nil
}

// dropArguments are those of PostgreSQL's dropdb.
func dropArguments(dsn string) string {
	var host, port, user, db string
	if _, err := fmt.Sscanf(store.PostgresName(dsn), "host=%s port=%s user=%s dbname=%s", &host, &port, &user, &db); err != nil {
		return "DATABASE"
	}
	return fmt.Sprintf("--host=%s --port=%s --username=%s %s", host, port, user, db)
}

func (l *leftovers) print(e *env, verb string) {
	for _, f := range l.files {
		fmt.Fprintln(e.out, verb+f)
	}
	fmt.Fprintln(e.out, "\nLeft to do by hand:")
	for _, s := range l.byHand {
		fmt.Fprintln(e.out, "  "+s)
	}
}

// remove removes the files, and says what is left.
func (l *leftovers) remove(e *env) error {
	if l.c.Storage.Postgres == "" {
		// A daemon that has started meanwhile keeps its files.
		if err := store.InUse(l.c.Storage.SQLite); err != nil {
			return err
		}
	}
	again, err := leftoversOf(l.c) // the daemon that has just ended has removed some
	if err != nil {
		return err
	}
	for _, f := range again.files {
		if err := os.RemoveAll(f); err != nil {
			return errorWithHint(err, "run it again as the user whose files these are, or as root")
		}
	}
	again.print(e, "removed ")
	return nil
}
