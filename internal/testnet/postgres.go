package testnet

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Postgres is a running PostgreSQL server of its own, on loopback.
type Postgres struct {
	*Process
	Version  string
	command  Command
	dir      string
	addr     string
	password string
}

// PostgresEnv is the environment variable that tells tests of the store to use a PostgreSQL server: its URL, as a user who
// may create databases.
const PostgresEnv = "MIMIBRIDGE_TEST_POSTGRES"

// postgresProgram finds a program of the server: on PATH, or in the folder of Debian's newest version.
func postgresProgram(name string) (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	sort.Slice(found, func(i, j int) bool {
		v := func(p string) int { n, _ := strconv.Atoi(strings.Split(p, "/")[4]); return n }
		return v(found[i]) > v(found[j])
	})
	if len(found) > 0 {
		return found[0], nil
	}
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	return "", errors.New("testnet: PostgreSQL is not installed; on Debian: apt-get install postgresql")
}

// CheckPostgres says whether the server is installed, and what to do if not.
func CheckPostgres() error {
	_, err := postgresProgram("initdb")
	return err
}

// StartPostgres makes a database cluster in a temporary folder, starts a server on a free port and waits until it takes
// connections. It runs as the user postgres or nobody if this process is root, since PostgreSQL refuses to be root. With
// durable it syncs to disk as in production; without, a test is faster, and what a crash of the server leaves is undefined.
// Stop ends it and removes the folder.
func StartPostgres(ctx context.Context, durable bool) (*Postgres, error) {
	fail := func(err error) (*Postgres, error) { return nil, fmt.Errorf("testnet: start PostgreSQL: %w", err) }
	initdb, err := postgresProgram("initdb")
	if err != nil {
		return nil, err
	}
	server, err := postgresProgram("postgres")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "mimibridge-postgres-")
	if err != nil {
		return fail(err)
	}
	p := &Postgres{dir: dir, password: rand.Text()}
	ok := false
	defer func() {
		if !ok {
			os.RemoveAll(dir)
		}
	}()
	pwfile := filepath.Join(dir, "password")
	if err := os.WriteFile(pwfile, []byte(p.password+"\n"), 0o600); err != nil {
		return fail(err)
	}
	as, err := notRoot(dir, pwfile)
	if err != nil {
		return fail(err)
	}
	data := filepath.Join(dir, "data")
	cmd := exec.CommandContext(ctx, initdb, "-D", data, "-U", "mimibridge", "--pwfile", pwfile, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fail(fmt.Errorf("initdb: %w\n%s", err, out))
	}
	if out, err := exec.CommandContext(ctx, server, "--version").Output(); err == nil {
		// "postgres (PostgreSQL) 15.18 (Debian …)"
		if f := strings.Fields(string(out)); len(f) > 2 {
			p.Version = "PostgreSQL " + f[2]
		}
	}
	ports, err := FreePorts(1)
	if err != nil {
		return fail(err)
	}
	p.addr = Loopback(ports[0])
	settings := map[string]string{"listen_addresses": "127.0.0.1", "port": strconv.Itoa(ports[0]), "unix_socket_directories": "",
		"shared_buffers": "32MB", "max_connections": "300", "autovacuum": "off"}
	if !durable {
		settings["fsync"], settings["full_page_writes"], settings["max_wal_senders"], settings["wal_level"] = "off", "off", "0", "minimal"
	}
	args := []string{"-D", data}
	for k, v := range settings {
		args = append(args, "-c", k+"="+v)
	}
	p.command = Command{Name: "PostgreSQL", Path: server, Args: args, Dir: dir, Log: filepath.Join(dir, "log"), As: as}
	if err := p.serve(ctx); err != nil {
		return fail(err)
	}
	ok = true
	return p, nil
}

// Crash kills the server as nothing else does, and starts it again with what is on its disk.
func (p *Postgres) Crash(ctx context.Context) error {
	p.Kill()
	for try := 0; ; try++ {
		err := p.serve(ctx)
		if err == nil || ctx.Err() != nil || try == 50 {
			return err
		}
		time.Sleep(100 * time.Millisecond) // what served its clients may not be gone yet, and keeps it from starting
	}
}

func (p *Postgres) serve(ctx context.Context) (err error) {
	if p.Process, err = Start(ctx, p.command); err != nil {
		return err
	}
	for {
		conn, err := pgx.Connect(ctx, p.URL("postgres"))
		if err == nil {
			conn.Close(ctx)
			return nil
		}
		if !p.Running() || ctx.Err() != nil {
			err = fmt.Errorf("%w; end of its log:\n%s", err, Tail(p.LogPath(), 15))
			p.Process.Stop()
			return err
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// notRoot gives the files to a user without privileges and returns who that is; nil if this process is not root.
func notRoot(files ...string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := os.Chown(f, int(uid), int(gid)); err != nil {
			return nil, err
		}
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// URL is the connection string of a database.
func (p *Postgres) URL(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.UserPassword("mimibridge", p.password), Host: p.addr, Path: database, RawQuery: "sslmode=disable"}).String()
}

// Stop ends the server, its clients' connections as well, and removes its files.
func (p *Postgres) Stop() {
	if p.Signal(syscall.SIGINT) == nil { // its "fast" way; TERM would wait for the clients
		select {
		case <-p.Done():
		case <-time.After(10 * time.Second):
		}
	}
	p.Process.Stop()
	os.RemoveAll(p.dir)
}

// PostgresAt is a database for the tests of the store, of the server that PostgresEnv names: always the same one for a
// path, made when it is first asked for. It is "" without that variable.
func PostgresAt(ctx context.Context, path string) (string, error) {
	admin := os.Getenv(PostgresEnv)
	if admin == "" {
		return "", nil
	}
	u, err := url.Parse(admin)
	if err != nil {
		return "", errors.New("testnet: " + PostgresEnv + " is not a URL")
	}
	sum := sha256.Sum256([]byte(path))
	name := "t" + hex.EncodeToString(sum[:12])
	err = WithPostgres(ctx, func(conn *pgx.Conn) error {
		var n int
		if err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_database WHERE datname=$1`, name).Scan(&n); err != nil || n > 0 {
			return err
		}
		_, err := conn.Exec(ctx, `CREATE DATABASE `+name+` TEMPLATE template0`)
		if e := (*pgconn.PgError)(nil); errors.As(err, &e) && (e.Code == "23505" || e.Code == "42P04") {
			return nil // somebody else has just made it
		}
		return err
	})
	u.Path = "/" + name
	return u.String(), err
}

// WithPostgres runs fn with a connection to the server that PostgresEnv names.
func WithPostgres(ctx context.Context, fn func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, os.Getenv(PostgresEnv))
	if err != nil {
		return fmt.Errorf("testnet: %w", err)
	}
	defer conn.Close(ctx)
	return fn(conn)
}

// CopyPostgres makes the database of the path "to" a copy of that of the path "from", whatever was there. Nobody may be
// connected to either.
func CopyPostgres(ctx context.Context, from, to string) error {
	src, err := PostgresAt(ctx, from)
	if err != nil {
		return err
	}
	dst, err := PostgresAt(ctx, to)
	if err != nil {
		return err
	}
	base := func(s string) string { u, _ := url.Parse(s); return strings.TrimPrefix(u.Path, "/") }
	return WithPostgres(ctx, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, `DROP DATABASE `+base(dst)+` WITH (FORCE)`); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `CREATE DATABASE `+base(dst)+` TEMPLATE `+base(src))
		return err
	})
}
