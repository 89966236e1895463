package testnet

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
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

// DendriteOptions says how a homeserver is started.
type DendriteOptions struct {
	ServerName    string   // "matrix.example"; the part after the colon in its users' ids
	Registrations []string // registration files of application services, which must exist
	Port          int      // 0 takes a free one
	Dir           string   // data and log; "" makes a folder, in memory where possible, that Stop removes
	Progress      *Progress
}

// Dendrite is a running homeserver. Its methods may be called concurrently, but Start, Stop and Kill by one
// goroutine at a time.
type Dendrite struct {
	ServerName string
	URL        string // "http://127.0.0.1:PORT", for clients
	Dir        string

	bin, addr, secret string
	ownDir            bool
	mu                sync.Mutex
	proc              *Process
}

// StartDendrite builds the homeserver if need be, writes its configuration and starts it. It is ready for clients
// when this returns. It ends with ctx.
func StartDendrite(ctx context.Context, o DendriteOptions) (*Dendrite, error) {
	bin, err := BuildDendrite(ctx, o.Progress)
	if err != nil {
		return nil, err
	}
	if o.Port == 0 {
		ports, err := FreePorts(1)
		if err != nil {
			return nil, err
		}
		o.Port = ports[0]
	}
	d := &Dendrite{ServerName: o.ServerName, Dir: o.Dir, bin: bin, addr: Loopback(o.Port)}
	d.URL = "http://" + d.addr
	if d.Dir == "" {
		d.ownDir = true
		if d.Dir, err = tempDirInMemory("mimibridge-dendrite-"); err != nil {
			return nil, fmt.Errorf("testnet: start dendrite: %w", err)
		}
	} else if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("testnet: start dendrite: %w", err)
	}
	if err := d.configure(o); err != nil {
		d.removeDir()
		return nil, fmt.Errorf("testnet: configure dendrite: %w", err)
	}
	if err := d.Start(ctx); err != nil {
		d.removeDir()
		return nil, err
	}
	return d, nil
}

func (d *Dendrite) configure(o DendriteOptions) error {
	var secret [16]byte
	rand.Read(secret[:])
	d.secret = hex.EncodeToString(secret[:])
	services := make([]string, len(o.Registrations))
	for i, path := range o.Registrations {
		abs, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		services[i] = abs
	}
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
`, o.ServerName, list, d.secret, db("federationapi"), db("mediaapi"), db("roomserver"), db("syncapi"), db("keyserver"), db("relayapi"), db("mscs"))
	if err := os.WriteFile(filepath.Join(d.Dir, "dendrite.yaml"), []byte(yaml), 0o600); err != nil {
		return err
	}
	key := filepath.Join(d.Dir, "matrix_key.pem")
	if _, err := os.Stat(key); err == nil {
		return nil
	}
	if out, err := exec.Command(filepath.Join(d.bin, "generate-keys"), "--private-key", key).CombinedOutput(); err != nil {
		return fmt.Errorf("generate-keys: %w: %s", err, lastLines(string(out), 5))
	}
	return nil
}

// Start starts the homeserver again after Stop or Kill, with the data it had.
func (d *Dendrite) Start(ctx context.Context) error {
	p, err := Start(ctx, Command{
		Name: "dendrite",
		Path: filepath.Join(d.bin, "dendrite"),
		Args: []string{"-config", "dendrite.yaml", "-http-bind-address", d.addr},
		Dir:  d.Dir,
		Log:  d.LogPath(),
	})
	if err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := p.WaitPort(ready, d.addr); err != nil {
		p.Stop()
		return err
	}
	for {
		req, err := http.NewRequestWithContext(ready, http.MethodGet, d.URL+"/_matrix/client/versions", nil)
		if err != nil {
			p.Stop()
			return fmt.Errorf("testnet: start dendrite: %w", err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-ready.Done():
			p.Stop()
			return fmt.Errorf("testnet: dendrite does not get ready: %w; end of its log:\n%s", err, Tail(d.LogPath(), 15))
		case <-time.After(50 * time.Millisecond):
		}
	}
	d.mu.Lock()
	d.proc = p
	d.mu.Unlock()
	return nil
}

// LogPath is the file with what the homeserver printed.
func (d *Dendrite) LogPath() string { return filepath.Join(d.Dir, "dendrite.log") }

// Process is the running homeserver, or the one that ran last.
func (d *Dendrite) Process() *Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.proc
}

// Kill ends the homeserver as a crash would; its data stays for Start.
func (d *Dendrite) Kill() { d.Process().Kill() }

// Halt ends the homeserver in order; its data stays for Start.
func (d *Dendrite) Halt() { d.Process().Stop() }

// Stop ends the homeserver and removes its folder, if StartDendrite made it.
func (d *Dendrite) Stop() {
	d.Process().Stop()
	d.removeDir()
}

func (d *Dendrite) removeDir() {
	if d.ownDir {
		_ = os.RemoveAll(d.Dir)
	}
}

// CreateUser registers a local user: "juliet" becomes @juliet:ServerName.
func (d *Dendrite) CreateUser(ctx context.Context, name, password string) error {
	url := d.URL + "/_synapse/admin/v1/register"
	var nonce struct {
		Nonce string `json:"nonce"`
	}
	if err := httpJSON(ctx, http.MethodGet, url, nil, &nonce); err != nil {
		return fmt.Errorf("testnet: create user %s: %w", name, err)
	}
	mac := hmac.New(sha1.New, []byte(d.secret))
	mac.Write([]byte(strings.Join([]string{nonce.Nonce, name, password, "notadmin"}, "\x00")))
	err := httpJSON(ctx, http.MethodPost, url, map[string]any{
		"nonce": nonce.Nonce, "username": name, "password": password, "admin": false,
		"mac": hex.EncodeToString(mac.Sum(nil)),
	}, nil)
	if err != nil {
		return fmt.Errorf("testnet: create user %s: %w", name, err)
	}
	return nil
}

func httpJSON(ctx context.Context, method, url string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", resp.Status, lastLines(string(b), 3))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

// tempDirInMemory makes a folder in a tmpfs where there is one with room, else where temporary files go: a
// homeserver on a slow disk is several times slower.
func tempDirInMemory(pattern string) (string, error) {
	if dir, err := os.MkdirTemp("/dev/shm", pattern); err == nil {
		if freeBytes(dir) > 512<<20 {
			return dir, nil
		}
		os.Remove(dir)
	}
	return os.MkdirTemp("", pattern)
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
