package testnet

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// HomeserverOptions says how a Matrix homeserver is started.
type HomeserverOptions struct {
	ServerName    string   // "matrix.example"; the part after the colon in its users' ids
	Registrations []string // registration files of application services, which must exist
	Port          int      // 0 takes a free one
	Dir           string   // data and log; "" makes a folder, in memory where possible, that Stop removes
	Progress      *Progress

	// Federation lets the homeserver talk with others; nil: it does not. Synapse only. ServerName is then "127.0.0.1:PORT", with the port of
	// Federation, as there is no DNS for anything else.
	Federation *HomeserverFederation
}

// HomeserverFederation is the listener for other homeservers, with TLS.
type HomeserverFederation struct {
	Port                      int
	CertFile, KeyFile, CAFile string // for 127.0.0.1; others' certificates are checked against CAFile alone
}

// Homeserver is a running Matrix homeserver. Its methods may be called concurrently, but Start, Halt, Stop and Kill by
// one goroutine at a time.
type Homeserver struct {
	ServerName string
	URL        string // "http://127.0.0.1:PORT", for clients
	Dir        string

	name, addr, secret, health string
	command                    Command // Path and Args
	registrations              []string
	federation                 *HomeserverFederation
	ownDir                     bool
	mu                         sync.Mutex
	proc                       *Process
}

// DendriteOptions and Dendrite are what StartDendrite takes and gives.
type (
	DendriteOptions = HomeserverOptions
	Dendrite        = Homeserver
)

func newHomeserver(name string, o HomeserverOptions) (*Homeserver, error) {
	if o.Port == 0 {
		ports, err := FreePorts(1)
		if err != nil {
			return nil, err
		}
		o.Port = ports[0]
	}
	var secret [16]byte
	rand.Read(secret[:])
	h := &Homeserver{ServerName: o.ServerName, Dir: o.Dir, name: name, addr: Loopback(o.Port), secret: hex.EncodeToString(secret[:]), ownDir: o.Dir == ""}
	h.URL = "http://" + h.addr
	h.registrations, h.federation = o.Registrations, o.Federation
	return h, nil
}

// begin makes the folder, has configure write the configuration (services are the registrations' absolute paths), and
// starts the homeserver.
func (h *Homeserver) begin(ctx context.Context, configure func(services []string) error) (*Homeserver, error) {
	var err error
	if h.ownDir {
		h.Dir, err = tempDirInMemory("mimibridge-" + h.name + "-")
	} else {
		err = os.MkdirAll(h.Dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("testnet: start %s: %w", h.name, err)
	}
	services := make([]string, len(h.registrations))
	for i, path := range h.registrations {
		if services[i], err = filepath.Abs(path); err != nil {
			break
		}
	}
	if err == nil {
		err = configure(services)
	}
	if err != nil {
		h.removeDir()
		return nil, fmt.Errorf("testnet: configure %s: %w", h.name, err)
	}
	if err := h.Start(ctx); err != nil {
		h.removeDir()
		return nil, err
	}
	return h, nil
}

// Start starts the homeserver again after Halt or Kill, with the data it had. Dendrite 0.15.2 now and then panics as it starts, when
// its federation part finds an event waiting before the room server is there: it is started again then, as a supervisor would, and only
// for that.
func (h *Homeserver) Start(ctx context.Context) error {
	for tries := 1; ; tries++ {
		err := h.start(ctx)
		if err == nil || tries == 5 || ctx.Err() != nil || !strings.Contains(Tail(h.LogPath(), 60), "federationapi/consumers.(*OutputRoomEventConsumer)") {
			return err
		}
	}
}

func (h *Homeserver) start(ctx context.Context) error {
	c := h.command
	c.Name, c.Dir, c.Log = h.name, h.Dir, h.LogPath()
	p, err := Start(ctx, c)
	if err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := p.WaitPort(ready, h.addr); err != nil {
		p.Stop()
		return err
	}
	for {
		err := httpJSON(ready, http.MethodGet, h.URL+h.health, nil, nil)
		if err == nil {
			break
		}
		select {
		case <-ready.Done():
			p.Stop()
			return fmt.Errorf("testnet: %s does not get ready: %w; end of its log:\n%s", h.name, err, Tail(h.LogPath(), 15))
		case <-p.Done():
			return fmt.Errorf("testnet: %s ended: %w; end of its log:\n%s", h.name, errors.Join(err, p.Err()), Tail(h.LogPath(), 15))
		case <-time.After(50 * time.Millisecond):
		}
	}
	h.mu.Lock()
	h.proc = p
	h.mu.Unlock()
	return nil
}

// LogPath is the file with what the homeserver printed.
func (h *Homeserver) LogPath() string { return filepath.Join(h.Dir, h.name+".log") }

// Process is the running homeserver, or the one that ran last.
func (h *Homeserver) Process() *Process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proc
}

// Kill ends the homeserver as a crash would; its data stays for Start.
func (h *Homeserver) Kill() { h.Process().Kill() }

// Halt ends the homeserver in order; its data stays for Start.
func (h *Homeserver) Halt() { h.Process().Stop() }

// Stop ends the homeserver and removes its folder, if it was not given one.
func (h *Homeserver) Stop() {
	h.Process().Stop()
	h.removeDir()
}

func (h *Homeserver) removeDir() {
	if h.ownDir {
		_ = os.RemoveAll(h.Dir)
	}
}

// CreateUser registers a local user: "juliet" becomes @juliet:ServerName. It uses Synapse's registration with a shared
// secret, which Dendrite has too.
func (h *Homeserver) CreateUser(ctx context.Context, name, password string) error {
	url := h.URL + "/_synapse/admin/v1/register"
	var nonce struct {
		Nonce string `json:"nonce"`
	}
	if err := httpJSON(ctx, http.MethodGet, url, nil, &nonce); err != nil {
		return fmt.Errorf("testnet: create user %s: %w", name, err)
	}
	mac := hmac.New(sha1.New, []byte(h.secret))
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
