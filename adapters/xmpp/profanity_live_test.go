//go:build live

package xmpp

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mimibridge/mimibridge/core/adapter"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// profanity is the client of that name in a terminal of its own (tmux).
type profanity struct {
	l      *live
	socket string
}

func (l *live) profanity(user, password string) *profanity {
	l.t.Helper()
	dir := l.t.TempDir()
	_, port, _ := strings.Cut(l.server.c2s, ":")
	account := fmt.Sprintf("[me]\nenabled=true\njid=%s@%s\nserver=127.0.0.1\nport=%s\nresource=prof\npassword=%s\ntls.policy=disable\nmuc.service=%s\nmuc.nick=%s\n",
		user, testDomain, port, password, testRooms, user)
	for name, text := range map[string]string{
		"data/profanity/accounts": account,
		"config/profanity/profrc": "[ui]\nsplash=false\n[notifications]\nmessage=off\nroom=off\ninvite=off\n",
	} {
		path := filepath.Join(dir, name)
		l.must(os.MkdirAll(filepath.Dir(path), 0o700))
		l.must(os.WriteFile(path, []byte(text), 0o600))
	}
	p := &profanity{l: l, socket: filepath.Join(dir, "tmux")}
	cmd := exec.CommandContext(l.ctx, "tmux", "-S", p.socket, "-f", "/dev/null", "new-session", "-d", "-x", "180", "-y", "50", "profanity -a me")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "XDG_DATA_HOME="+filepath.Join(dir, "data"), "TERM=xterm-256color", "LANG=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("tmux and profanity: %v: %s", err, out)
	}
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.t.Logf("the screen:\n%s", p.screen())
		}
		_ = exec.Command("tmux", "-S", p.socket, "kill-server").Run()
	})
	return p
}

func (p *profanity) screen() string {
	out, _ := exec.Command("tmux", "-S", p.socket, "capture-pane", "-p").Output()
	return string(out)
}

// line types a line.
func (p *profanity) line(text string) {
	p.l.t.Helper()
	for _, args := range [][]string{{"-l", text}, {"Enter"}} {
		if out, err := exec.CommandContext(p.l.ctx, "tmux", append([]string{"-S", p.socket, "send-keys"}, args...)...).CombinedOutput(); err != nil {
			p.l.t.Fatalf("%v: %s", err, out)
		}
	}
}

// see waits until a text stands on the screen.
func (p *profanity) see(text string) {
	p.l.t.Helper()
	ctx, cancel := context.WithTimeout(p.l.ctx, time.Minute)
	defer cancel()
	for !strings.Contains(p.screen(), text) {
		select {
		case <-ctx.Done():
			p.l.t.Fatalf("%q does not come onto the screen", text)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// A person at a terminal client opens a room, takes it as it is, and talks with somebody elsewhere.
func TestLiveProfanity(t *testing.T) {
	covers(t, "a room and a conversation at a terminal", "XEP-0045", "both", "profanity")
	l := newLiveWith(t, prosody, false, func(l *live, _ *Config) {
		l.prosody = func(o *testnet.ProsodyOptions) { o.Plain = true }
	})
	l.reachable(l.login("benvolio@xmpp.example/street"))
	p := l.profanity("romeo", "pass romeo")
	p.see("logged in")
	p.line("/join " + balcony + " nick Romeo")
	l.tw.must(l.tw.until("the room is made", func() bool { r := l.tw.rooms[balconyURI]; return r != nil && r.known }))
	p.see("Use '/room accept'") // until then the command has no room to work on
	p.line("/room accept")
	l.tw.must(l.tw.until("it is open", func() bool { return l.tw.rooms[balconyURI].info.Open }))
	l.tw.do(func() { l.tw.add(l.tw.room(balconyURI), julietURI, romeoURI, nil) })
	l.tw.must(l.tw.delivered(balconyURI))
	p.see("juliet")
	n := l.tw.count(adapter.SendMessage)
	p.line("But, soft! what light?")
	if text, _ := l.sent(n).Content.PlainText(); text != "But, soft! what light?" {
		t.Errorf("%q", text)
	}
	l.tw.say(balconyURI, julietURI, "Ay me!")
	p.see("Ay me!")
}
