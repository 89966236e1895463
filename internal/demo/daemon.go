package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// daemon is one mimibridge process with its folder.
type daemon struct {
	d       *demo
	domain  string
	network string // the program behind it
	addr    string // of the federation listener
	dir     string
	config  string
	log     string
	record  string
	base    string // the part of the configuration that does not depend on the network
	proc    *testnet.Process
}

func newDaemon(d *demo, domain, network string, port int, peer string, peerPort int) *daemon {
	dir := filepath.Join(d.dir, domain)
	m := &daemon{
		d: d, domain: domain, network: network, addr: testnet.Loopback(port), dir: dir,
		config: filepath.Join(dir, "mimibridge.yaml"),
		log:    filepath.Join(dir, "mimibridge.log"),
		record: filepath.Join(dir, "federation.record"),
	}
	m.base = fmt.Sprintf(`# Written by mimibridge demo: the MIMI provider of %[1]s.
domain: %[1]s
federation:
  listen: %[2]q
  url: "https://%[2]s"
  cert_file: %[1]s.crt
  key_file: %[1]s.key
  ca_file: ca.pem                 # the demo's own, thrown away with it
  peers:                          # there is no DNS for .example
    %[1]s: %[2]q
    %[3]s: %[4]q
  record: federation.record       # every body, as it is before TLS; the demo searches it
storage:
  sqlite: mimibridge.db
secrets:
  key_file: sealing.key
admin:
  console: false                  # nobody talks by it here, and the log shall tell of one adapter
permissions:
  %[1]s: user
log:
  level: debug
  format: json
`, domain, m.addr, peer, testnet.Loopback(peerPort))
	return m
}

// prepare makes the daemon's folder with certificate and sealing key.
func (m *daemon) prepare() error {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	cert, key, err := m.d.ca.Issue(m.domain, m.domain)
	if err != nil {
		return err
	}
	for from, to := range map[string]string{cert: m.domain + ".crt", key: m.domain + ".key", m.d.ca.File(): "ca.pem"} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(m.dir, to), b, 0o600)
		}
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(m.dir, "sealing.key"), []byte(config.NewSealingKey()), 0o600); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

// write writes the configuration; network is its section of that name.
func (m *daemon) write(network string) error {
	if err := os.WriteFile(m.config, []byte(m.base+network), 0o600); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	_, err := config.Load(m.config)
	return err
}

const componentSecret = "what's in a name"

func (m *daemon) writeXMPP(componentAddr string) error {
	if err := m.prepare(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.dir, "component.secret"), []byte(componentSecret+"\n"), 0o600); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return m.write(fmt.Sprintf(`network:
  xmpp:
    server: %q
    local_domain: %s
    users: %s
    rooms: %s
    secret_file: component.secret
`, componentAddr, xmppDomain, gatewayDomain, roomsDomain))
}

func (m *daemon) registration() string { return filepath.Join(m.dir, "registration.yaml") }

// writeMatrix makes the registration, which the homeserver needs before it starts.
func (m *daemon) writeMatrix(port int) error {
	if err := m.prepare(); err != nil {
		return err
	}
	_, err := matrix.NewRegistration(m.registration(), "http://"+testnet.Loopback(port), matrixDomain)
	return err
}

func (m *daemon) networkMatrix(homeserver string, port int) string {
	return fmt.Sprintf(`network:
  matrix:
    homeserver: %q
    server_name: %s
    listen: %q
    registration: registration.yaml
`, homeserver, matrixDomain, testnet.Loopback(port))
}

// start starts the process and waits for its federation listener.
func (m *daemon) start(ctx, procs context.Context) error {
	p, err := testnet.Start(procs, testnet.Command{
		Name: "mimibridge for " + m.domain, Path: m.d.Binary, Args: []string{"run", "-c", m.config}, Log: m.log,
		Grace: 15 * time.Second,
	})
	if err != nil {
		return err
	}
	m.proc = p
	return within(ctx, time.Minute, "start", func(ctx context.Context) error { return p.WaitPort(ctx, m.addr) })
}

// logLine is what the demo reads of a daemon's log.
type logLine struct {
	Time      time.Time `json:"time"`
	Event     string    `json:"event"`
	Room      string    `json:"room"`
	MessageID string    `json:"message_id"`
	Bytes     int       `json:"bytes"`
	Message   string    `json:"message"`
}

// events returns the lines of the log that tell of a message, from since on.
func (m *daemon) events(since time.Time) ([]logLine, error) {
	b, err := os.ReadFile(m.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("demo: %w", err)
	}
	var out []logLine
	for raw := range bytes.Lines(b) {
		var l logLine
		if !bytes.Contains(raw, []byte(`"message_id"`)) || json.Unmarshal(raw, &l) != nil || l.Event == "" {
			continue
		}
		// The log's times are cut to milliseconds.
		if !l.Time.Before(since.Truncate(time.Millisecond)) {
			out = append(out, l)
		}
	}
	return out, nil
}
