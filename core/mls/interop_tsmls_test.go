//go:build live

package mls

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
)

func TestInteropTSMLS(t *testing.T) {
	ts := startTSMLS(t)
	for _, suite := range CipherSuites() {
		t.Run(suite.String(), func(t *testing.T) {
			t.Run("ours creates", func(t *testing.T) { playInterop(t, suite, ours{}, ts) })
			t.Run("theirs creates", func(t *testing.T) { playInterop(t, suite, ts, ours{}) })
		})
	}
}

// TestInteropThree has mls-go and ts-mls in one group with us between them.
func TestInteropThree(t *testing.T) {
	ts := startTSMLS(t)
	t.Run("mls-go creates", func(t *testing.T) { playInterop(t, 1, mlsGo{}, ts) })
}

// tsMLS is ts-mls of npm, in a node process of its own.
type tsMLS struct {
	in      io.Writer
	out     *bufio.Reader
	members atomic.Uint32
}

func (*tsMLS) name() string { return "ts-mls" }

func (*tsMLS) lacks(step string) string {
	switch step {
	case lackUpdate:
		return "ts-mls makes no Update whose private key it keeps (RFC 9420 section 12.1.2)"
	case lackHalfATree:
		return "ts-mls takes the commit_secret from the root even where the root is not on the filtered direct path, " +
			"and so derives once too often (RFC 9420 sections 4.1.2 and 7.4); no half of the tree is left empty"
	}
	return ""
}

// startTSMLS installs what testdata/tsmls/package-lock.json pins, once, into the
// user's cache, and starts the script there.
func startTSMLS(t *testing.T) *tsMLS {
	t.Helper()
	const cure = "install node 18 or newer with npm, such as by: apt-get install nodejs npm"
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("ts-mls needs node: %v; %s", err, cure)
	}
	lock, err := os.ReadFile("testdata/tsmls/package-lock.json")
	must(t, err)
	cache, err := os.UserCacheDir()
	must(t, err)
	dir := filepath.Join(cache, "mimibridge", fmt.Sprintf("tsmls-%x", sha256.Sum256(lock))[:22])
	if _, err := os.Stat(dir); err != nil {
		npm, err := exec.LookPath("npm")
		if err != nil {
			t.Fatalf("ts-mls needs npm: %v; %s", err, cure)
		}
		must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
		// Made beside and moved, so that what was half installed is not taken
		// for the whole.
		tmp, err := os.MkdirTemp(filepath.Dir(dir), "tsmls-")
		must(t, err)
		defer os.RemoveAll(tmp)
		for _, f := range []string{"package.json", "package-lock.json"} {
			b, err := os.ReadFile(filepath.Join("testdata/tsmls", f))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(tmp, f), b, 0o644))
		}
		c := exec.Command(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		c.Dir = tmp
		if b, err := c.CombinedOutput(); err != nil {
			t.Fatalf("npm ci: %v\n%s", err, b)
		}
		if err := os.Rename(tmp, dir); err != nil {
			if _, there := os.Stat(dir); there != nil {
				t.Fatal(err)
			}
		}
	}
	script, err := os.ReadFile("testdata/tsmls/members.mjs")
	must(t, err)
	// Modules are looked for beside the script.
	f, err := os.CreateTemp(dir, "members-*.mjs")
	must(t, err)
	t.Cleanup(func() { os.Remove(f.Name()) })
	_, err = f.Write(script)
	must(t, err)
	must(t, f.Close())
	c := exec.Command(node, f.Name())
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	t.Cleanup(func() {
		in.Close()
		if err := c.Wait(); err != nil {
			t.Errorf("node: %v", err)
		}
	})
	return &tsMLS{in: in, out: bufio.NewReaderSize(out, 1<<20)}
}

type tsCall struct {
	ID      uint32 `json:"id"`
	Op      string `json:"op"`
	Member  uint32 `json:"member"`
	Suite   uint16 `json:"suite,omitempty"`
	Name    string `json:"name,omitempty"`
	Message []byte `json:"message,omitempty"`
	Add     []byte `json:"add,omitempty"`
	Remove  string `json:"remove,omitempty"`
	PSKID   []byte `json:"pskID,omitempty"`
	PSK     []byte `json:"psk,omitempty"`
	Private bool   `json:"private,omitempty"`
	GroupID []byte `json:"groupID,omitempty"`
	Text    []byte `json:"text,omitempty"`
	AAD     []byte `json:"aad,omitempty"`
	Label   string `json:"label,omitempty"`
	Context []byte `json:"context,omitempty"`
	N       int    `json:"n,omitempty"`
}

type tsAnswer struct {
	ID      uint32 `json:"id"`
	Error   string `json:"error"`
	Message []byte `json:"message"`
	Welcome []byte `json:"welcome"`
	Text    []byte `json:"text"`
	AAD     []byte `json:"aad"`
}

var tsCalls atomic.Uint32

func (s *tsMLS) call(c tsCall) (*tsAnswer, error) {
	c.ID = tsCalls.Add(1)
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if _, err := s.in.Write(append(b, '\n')); err != nil {
		return nil, err
	}
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	a := new(tsAnswer)
	if err := json.Unmarshal(line, a); err != nil {
		return nil, fmt.Errorf("%w: %s", err, line)
	}
	if a.ID != c.ID {
		return nil, fmt.Errorf("answer %d to call %d", a.ID, c.ID)
	}
	if a.Error != "" {
		return nil, errors.New("ts-mls: " + a.Error)
	}
	return a, nil
}

type tsMember struct {
	s  *tsMLS
	id uint32
}

func (s *tsMLS) newMember(t *testing.T, suite CipherSuite, name string) groupMember {
	m := &tsMember{s, s.members.Add(1)}
	_, err := s.call(tsCall{Op: "new", Member: m.id, Suite: uint16(suite), Name: name, PSKID: interopPSKID, PSK: interopPSK})
	must(t, err)
	return m
}

// do makes a call of which one message comes back.
func (m *tsMember) do(c tsCall) ([]byte, error) {
	c.Member = m.id
	a, err := m.s.call(c)
	if err != nil {
		return nil, err
	}
	return a.Message, nil
}

func (m *tsMember) keyPackage() ([]byte, error) { return m.do(tsCall{Op: "keyPackage"}) }

func (m *tsMember) create(groupID []byte) error {
	_, err := m.do(tsCall{Op: "create", GroupID: groupID})
	return err
}

func (m *tsMember) join(welcome []byte) error {
	_, err := m.do(tsCall{Op: "join", Message: welcome})
	return err
}

func (m *tsMember) joinExternal(info []byte) ([]byte, error) {
	return m.do(tsCall{Op: "joinExternal", Message: info})
}

func (m *tsMember) commit(c interopCommit) ([]byte, []byte, error) {
	call := tsCall{Op: "commit", Member: m.id, Add: c.add, Remove: c.remove, Private: c.private, AAD: c.aad}
	if c.psk {
		call.PSK = interopPSKID
	}
	a, err := m.s.call(call)
	if err != nil {
		return nil, nil, err
	}
	return a.Message, a.Welcome, nil
}

func (m *tsMember) process(msg []byte) error {
	_, err := m.do(tsCall{Op: "process", Message: msg})
	return err
}

func (m *tsMember) groupInfo() ([]byte, error) { return m.do(tsCall{Op: "groupInfo"}) }

func (m *tsMember) encrypt(text, aad []byte) ([]byte, error) {
	return m.do(tsCall{Op: "encrypt", Text: text, AAD: aad})
}

func (m *tsMember) decrypt(msg []byte) (text, aad []byte, err error) {
	a, err := m.s.call(tsCall{Op: "decrypt", Member: m.id, Message: msg})
	if err != nil {
		return nil, nil, err
	}
	return a.Text, a.AAD, nil
}

func (m *tsMember) export(label string, context []byte, n int) ([]byte, error) {
	a, err := m.s.call(tsCall{Op: "export", Member: m.id, Label: label, Context: context, N: n})
	if err != nil {
		return nil, err
	}
	return a.Text, nil
}

func (m *tsMember) authenticator() ([]byte, error) {
	a, err := m.s.call(tsCall{Op: "authenticator", Member: m.id})
	if err != nil {
		return nil, err
	}
	return a.Text, nil
}

func (m *tsMember) proposeUpdate() ([]byte, error) { return nil, errors.New("see lacks") }
