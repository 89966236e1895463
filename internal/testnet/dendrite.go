package testnet

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	_ "modernc.org/sqlite" // writeAhead
)

// DendriteVersion is the version of the homeserver that BuildDendrite builds; tools/dendrite pins it.
const DendriteVersion = "v0.15.2"

var dendriteCommands = []string{"dendrite", "generate-keys", "create-account"}

// BuildDendrite makes sure that the homeserver's programs are in the user's cache folder and returns that folder.
// The first build takes one to two minutes, needs the Go toolchain, the Go module proxy and a checkout of
// this repository; afterwards it costs a few milliseconds. Programs that call it at the same time
// wait for each other. progress may be nil.
func BuildDendrite(ctx context.Context, progress *Progress) (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("testnet: build dendrite: %w", err)
	}
	dir = filepath.Join(cache, "mimibridge", "dendrite-"+DendriteVersion)
	module, want, err := dendriteModule()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("testnet: build dendrite: %w", err)
	}
	stamp := filepath.Join(dir, "built-from")
	if built(stamp, want) {
		return dir, nil
	}
	unlock, err := lockFile(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", fmt.Errorf("testnet: build dendrite: %w", err)
	}
	defer unlock()
	if built(stamp, want) {
		return dir, nil
	}
	err = progress.Step("building Dendrite "+DendriteVersion+" from the Go module proxy", func() error {
		fresh, err := os.MkdirTemp(dir, "new-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(fresh)
		args := []string{"build", "-mod=readonly", "-o", fresh + string(filepath.Separator)}
		for _, c := range dendriteCommands {
			args = append(args, "github.com/element-hq/dendrite/cmd/"+c)
		}
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-buildvcs=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			if errors.Is(err, exec.ErrNotFound) {
				return errors.New("the go command is missing: install Go 1.26 or newer")
			}
			return fmt.Errorf("%w:\n%s", err, lastLines(string(out), 15))
		}
		for _, c := range dendriteCommands {
			if err := os.Rename(filepath.Join(fresh, c), filepath.Join(dir, c)); err != nil {
				return err
			}
		}
		return os.WriteFile(stamp, []byte(want), 0o644)
	})
	if err != nil {
		return "", fmt.Errorf("testnet: build dendrite: %w", err)
	}
	return dir, nil
}

func built(stamp, want string) bool {
	got, err := os.ReadFile(stamp)
	return err == nil && string(got) == want
}

// dendriteModule finds tools/dendrite above the working folder, and what a build from it depends on.
func dendriteModule() (dir, digest string, err error) {
	at, err := os.Getwd()
	if err != nil {
		return "", "", fmt.Errorf("testnet: find tools/dendrite: %w", err)
	}
	for {
		dir := filepath.Join(at, "tools", "dendrite")
		mod, errMod := os.ReadFile(filepath.Join(dir, "go.mod"))
		sum, errSum := os.ReadFile(filepath.Join(dir, "go.sum"))
		if errMod == nil && errSum == nil {
			h := sha256.New()
			fmt.Fprintf(h, "%d\n", len(mod))
			h.Write(mod)
			h.Write(sum)
			return dir, hex.EncodeToString(h.Sum(nil)), nil
		}
		up := filepath.Dir(at)
		if up == at {
			return "", "", errors.New("testnet: tools/dendrite is not above the working folder: run this in a checkout of mimibridge")
		}
		at = up
	}
}

// StartDendrite builds the homeserver if need be, writes its configuration and starts it. It is ready for clients
// when this returns. It ends with ctx.
func StartDendrite(ctx context.Context, o HomeserverOptions) (*Homeserver, error) {
	bin, err := BuildDendrite(ctx, o.Progress)
	if err != nil {
		return nil, err
	}
	h, err := newHomeserver("dendrite", o)
	if err != nil {
		return nil, err
	}
	h.health = "/_matrix/client/versions"
	h.command = Command{Path: filepath.Join(bin, "dendrite"), Args: []string{"-config", "dendrite.yaml", "-http-bind-address", h.addr}}
	return h.begin(ctx, func(services []string) error { return configureDendrite(h, bin, services) })
}

// writeAhead makes a database in WAL mode, which stays with the file. In SQLite's default mode Dendrite's readers and
// writers lock each other out on a busy machine, and it panics.
func writeAhead(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		return err
	}
	_, err = db.Exec("PRAGMA journal_mode=WAL")
	return errors.Join(err, db.Close())
}

func configureDendrite(h *Homeserver, bin string, services []string) error {
	list, err := json.Marshal(services) // JSON is YAML
	if err != nil {
		return err
	}
	db := func(name string) string {
		return fmt.Sprintf(`database: {connection_string: "file:%s.db"}`, name)
	}
	// JetStream on disk: the queue towards application services survives a restart of the homeserver.
	yaml := fmt.Sprintf(`version: 2
global:
  server_name: %q
  private_key: matrix_key.pem
  disable_federation: true
  jetstream: {in_memory: false, storage_path: ./js}
  presence: {enable_inbound: false, enable_outbound: false}
  cache: {max_size_estimated: 64mb}
app_service_api: {config_files: %s}
client_api:
  registration_disabled: true
  registration_shared_secret: %q
  rate_limiting: {enabled: false}
federation_api: {%s}
media_api: {base_path: ./media, %s}
room_server: {%s}
sync_api: {%s, search: {enabled: false}}
user_api: {bcrypt_cost: 4, account_database: {connection_string: "file:userapi.db"}}
key_server: {%s}
relay_api: {%s}
mscs: {mscs: [], %s}
logging: [{type: std, level: warn}]
`, h.ServerName, list, h.secret, db("federationapi"), db("mediaapi"), db("roomserver"), db("syncapi"), db("keyserver"), db("relayapi"), db("mscs"))
	if err := os.WriteFile(filepath.Join(h.Dir, "dendrite.yaml"), []byte(yaml), 0o600); err != nil {
		return err
	}
	for _, name := range []string{"federationapi", "mediaapi", "roomserver", "syncapi", "userapi", "keyserver", "relayapi", "mscs"} {
		if err := writeAhead(filepath.Join(h.Dir, name+".db")); err != nil {
			return err
		}
	}
	key := filepath.Join(h.Dir, "matrix_key.pem")
	if _, err := os.Stat(key); err == nil {
		return nil
	}
	if out, err := exec.Command(filepath.Join(bin, "generate-keys"), "--private-key", key).CombinedOutput(); err != nil {
		return fmt.Errorf("generate-keys: %w: %s", err, lastLines(string(out), 5))
	}
	return nil
}
