package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/adapters/console"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// binary builds the command once for all tests of the package.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mimibridge-binary-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "mimibridge")
	cmd := exec.Command("go", "build", "-tags", "goolm", "-trimpath", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// provider is a daemon without a network: the real binary with a configuration of its own.
type provider struct {
	t            *testing.T
	bin          string
	domain, dir  string
	config, addr string
	admin        string // the admin listener
	ca           *testnet.CA
	cmd          *exec.Cmd
	log          *bytes.Buffer
	mu           sync.Mutex
}

// newProviders makes daemons that know each other, and starts none.
func newProviders(t *testing.T, domains ...string) []*provider {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	ca, err := testnet.NewCA(root)
	if err != nil {
		t.Fatal(err)
	}
	ports, err := testnet.FreePorts(2 * len(domains))
	if err != nil {
		t.Fatal(err)
	}
	peers := ""
	for i, d := range domains {
		peers += fmt.Sprintf("    %s: %q\n", d, testnet.Loopback(ports[2*i]))
	}
	var list []*provider
	for i, d := range domains {
		p := &provider{t: t, bin: bin, ca: ca, domain: d, dir: filepath.Join(root, d), addr: testnet.Loopback(ports[2*i]), admin: testnet.Loopback(ports[2*i+1])}
		p.config = filepath.Join(p.dir, "mimibridge.yaml")
		if err := os.Mkdir(p.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ca.IssueWith(d, testnet.CertOptions{Names: []string{d, "mimi." + d}}); err != nil {
			t.Fatal(err)
		}
		p.write("sealing.key", config.NewSealingKey())
		p.write("mimibridge.yaml", fmt.Sprintf("domain: %[1]s\nnetwork: {}\nfederation:\n  listen: %[2]q\n  url: \"https://%[2]s\"\n  cert_file: ../%[1]s.crt\n  key_file: ../%[1]s.key\n  ca_file: ../ca.pem\n  peers:\n%[3]sadmin:\n  listen: %[4]q\n  token: hunter2\nlog: {format: json}\n",
			d, p.addr, peers, p.admin))
		list = append(list, p)
	}
	return list
}

func (p *provider) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// Write takes the log.
func (p *provider) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *provider) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// start starts the daemon and waits until it is ready.
func (p *provider) start(env ...string) *provider {
	p.t.Helper()
	p.log = new(bytes.Buffer)
	p.cmd = exec.Command(p.bin, "run", "-c", p.config)
	p.cmd.Stderr = p
	p.cmd.Env = append(os.Environ(), env...)
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { p.stop() })
	for range 600 {
		if _, _, status := p.run("", "health"); status == 0 {
			return p
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.t.Fatalf("%s does not start: %s", p.domain, p.logged())
	return nil
}

// stop stops the daemon and returns its exit status.
func (p *provider) stop() int {
	if p.cmd == nil {
		return 0
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
	status := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	if p.t.Failed() {
		p.t.Logf("log of %s:\n%s", p.domain, p.logged())
	}
	return status
}

// run runs one command about the daemon.
func (p *provider) run(stdin string, args ...string) (stdout, stderr string, status int) {
	p.t.Helper()
	cmd := exec.Command(p.bin, args...)
	cmd.Env = append(os.Environ(), "MIMIBRIDGE_CONFIG="+p.config)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		p.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ok is run for a command that has to succeed.
func (p *provider) ok(args ...string) string {
	p.t.Helper()
	out, errs, status := p.run("", args...)
	if status != 0 {
		p.t.Fatalf("mimibridge %s: status %d: %s%s", strings.Join(args, " "), status, out, errs)
	}
	return out
}

func (p *provider) get(path, token string) (int, string) {
	p.t.Helper()
	return p.http(http.MethodGet, path, token, "")
}

func (p *provider) http(method, path, token, body string) (int, string) {
	p.t.Helper()
	req, err := http.NewRequest(method, "http://"+p.admin+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

// talker is a `mimibridge chat -json`.
type talker struct {
	p    *provider
	in   io.WriteCloser
	cmd  *exec.Cmd
	seen []console.Line
	more chan console.Line
}

func (p *provider) chat(as, room string) *talker {
	p.t.Helper()
	args := []string{"chat", "-json", "-as", as}
	if room != "" {
		args = append(args, room)
	}
	c := &talker{p: p, cmd: exec.Command(p.bin, args...), more: make(chan console.Line, 1000)}
	c.cmd.Env = append(os.Environ(), "MIMIBRIDGE_CONFIG="+p.config)
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		p.t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.in.Close(); _ = c.cmd.Process.Kill(); _ = c.cmd.Wait() })
	go func() {
		defer close(c.more)
		in := bufio.NewScanner(out)
		for in.Scan() {
			var l console.Line
			if json.Unmarshal(in.Bytes(), &l) == nil && l.Event == "" {
				// a Reply: of interest is what was refused at once
				var r console.Reply
				if json.Unmarshal(in.Bytes(), &r) == nil && r.Error != "" {
					l.Event, l.Error = "error", r.Error
				}
			}
			if l.Event != "" {
				c.more <- l
			}
		}
	}()
	c.await("to be attached", func(l console.Line) bool { return l.Event == "attached" })
	return c
}

func (c *talker) do(req console.Request) {
	c.p.t.Helper()
	b, err := json.Marshal(req)
	if err == nil {
		_, err = c.in.Write(append(b, '\n'))
	}
	if err != nil {
		c.p.t.Fatal(err)
	}
}

// await waits for a line; one that came before counts. The limit says "hangs", not "slow".
func (c *talker) await(what string, ok func(console.Line) bool) console.Line {
	c.p.t.Helper()
	for _, l := range c.seen {
		if ok(l) {
			return l
		}
	}
	late := time.After(90 * time.Second)
	for {
		select {
		case l, open := <-c.more:
			if !open {
				c.p.t.Fatalf("chat at %s ended while waiting for %s; seen: %+v", c.p.domain, what, c.seen)
			}
			c.seen = append(c.seen, l)
			if ok(l) {
				return l
			}
		case <-late:
			c.p.t.Fatalf("waited at %s in vain for %s; seen: %+v", c.p.domain, what, c.seen)
		}
	}
}

func (c *talker) event(name, user string) console.Line {
	c.p.t.Helper()
	return c.await(name+" of "+user, func(l console.Line) bool { return l.Event == name && (user == "" || l.User == user) })
}

func (c *talker) text(text string) console.Line {
	c.p.t.Helper()
	return c.await("the message "+text, func(l console.Line) bool { return l.Event == "message" && l.Text == text })
}
