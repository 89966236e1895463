// Package setup says what the demo and the tests need besides Go, and installs what is missing from Debian's
// packages. No service is started by that, none that runs is touched, and what is installed already
// is not upgraded. Where it cannot install, its error is the command to type.
package setup

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

// python is Debian's own interpreter, for which its python3-… packages are; another may be first on PATH.
const python = "/usr/bin/python3"

// Need is one thing that has to be there.
type Need struct {
	Name    string   // for people: "Prosody (an XMPP server)"
	Package string   // Debian's package
	Units   []string // services that the package would start
	MB      int      // disk it takes with what it depends on, roughly
	Have    func(ctx context.Context) bool
}

func program(names ...string) func(context.Context) bool {
	return func(context.Context) bool {
		for _, n := range names {
			if _, err := exec.LookPath(n); err == nil {
				return true
			}
		}
		return false
	}
}

func module(name string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		// A folder that a removed package left behind imports as well; it has no file.
		return exec.CommandContext(ctx, python, "-c", "import "+name+"; open("+name+".__file__)").Run() == nil
	}
}

// ForDemo are what the demo uses. Dendrite is not among them: it is built, not installed.
func ForDemo() []Need {
	return []Need{
		{Name: "Prosody, an XMPP server", Package: "prosody", Units: []string{"prosody.service"}, MB: 20, Have: program("prosody", "/usr/bin/prosody")},
		{Name: "slixmpp, an XMPP client", Package: "python3-slixmpp", MB: 40, Have: module("slixmpp")},
		{Name: "matrix-nio, a Matrix client", Package: "python3-matrix-nio", MB: 30, Have: module("nio")},
	}
}

// ForTests are what the tests use. Synapse is not among them: it goes into a Python environment of its own.
func ForTests() []Need {
	return append(ForDemo(),
		Need{Name: "ejabberd, an XMPP server", Package: "ejabberd", Units: []string{"ejabberd.service", "epmd.service", "epmd.socket"}, MB: 60, Have: func(context.Context) bool { return testnet.CheckEjabberd() == nil }},
		Need{Name: "profanity, an XMPP client for the terminal", Package: "profanity", MB: 20, Have: program("profanity")},
		Need{Name: "tmux, in which it runs", Package: "tmux", MB: 2, Have: program("tmux")},
		Need{Name: "PostgreSQL, a database", Package: "postgresql", Units: []string{"postgresql.service"}, MB: 60, Have: func(context.Context) bool { return testnet.CheckPostgres() == nil }},
		Need{Name: "Python environments", Package: "python3-venv", MB: 10, Have: module("ensurepip")},
		Need{Name: "Node.js, for another MLS implementation", Package: "nodejs", MB: 150, Have: program("node")},
		Need{Name: "nginx, a web server", Package: "nginx-light", Units: []string{"nginx.service"}, MB: 3, Have: program("nginx", "/usr/sbin/nginx")},
		Need{Name: "nginx's module for streams", Package: "libnginx-mod-stream", MB: 1, Have: func(context.Context) bool { return testnet.NginxStream() != "" }},
		Need{Name: "Caddy, a web server", Package: "caddy", Units: []string{"caddy.service"}, MB: 40, Have: program("caddy")},
		Need{Name: "zsh, a shell to complete in", Package: "zsh", MB: 20, Have: program("zsh")},
		Need{Name: "fish, a shell to complete in", Package: "fish", MB: 10, Have: program("fish")},
		Need{Name: "systemd's tools, for the unit", Package: "systemd", MB: 10, Have: program("systemd-analyze")},
		Need{Name: "npm, which fetches that", Package: "npm", MB: 150, Have: program("npm")},
	)
}

// Missing returns those of the needs that are not met.
func Missing(ctx context.Context, needs []Need) []Need {
	var out []Need
	for _, n := range needs {
		if !n.Have(ctx) {
			out = append(out, n)
		}
	}
	return out
}

// Options says how Install talks to the person.
type Options struct {
	In       io.Reader
	Terminal bool // In and the progress are a terminal: Install asks before it changes the machine
	Yes      bool // the answer is yes
	Progress *testnet.Progress
}

// Command is what a person types to install the needs.
func Command(needs []Need) string {
	return "sudo apt-get install --no-install-recommends " + strings.Join(packages(needs), " ")
}

func packages(needs []Need) []string {
	out := make([]string, len(needs))
	for i, n := range needs {
		out[i] = n.Package
	}
	return out
}

// ErrDeclined is returned when the person does not want anything installed.
var ErrDeclined = errors.New("setup: nothing was installed, as you asked")

//go:embed apt.sh
var aptScript string

// Install installs the needs, asking once on a terminal.
func Install(ctx context.Context, needs []Need, o Options) error {
	if len(needs) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		var names []string
		for _, n := range needs {
			names = append(names, n.Name+" (Debian calls it "+n.Package+")")
		}
		return fmt.Errorf("setup: missing: %s; there is no apt-get here, install it by your system's own means", strings.Join(names, "; "))
	}
	if o.Terminal && !o.Yes {
		o.Progress.Line("Install with apt-get: %s? [Y/n] ", strings.Join(packages(needs), " "))
		line, err := bufio.NewReader(o.In).ReadString('\n')
		if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "" && answer != "y" && answer != "yes" {
			return fmt.Errorf("%w; by hand: %s", ErrDeclined, Command(needs))
		}
	}
	var units []string
	for _, n := range needs {
		units = append(units, n.Units...)
	}
	args := append([]string{"sh", "-s", strings.Join(units, ",")}, packages(needs)...)
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("sudo"); err != nil {
			return fmt.Errorf("setup: missing: %s; as root: %s", strings.Join(packages(needs), ", "), strings.TrimPrefix(Command(needs), "sudo "))
		}
		if !o.Terminal {
			args = append([]string{"-n"}, args...) // nobody can type a password
		} else if err := authenticate(ctx); err != nil {
			return fmt.Errorf("setup: sudo: %w; by hand: %s", err, Command(needs))
		}
		args = append([]string{"sudo"}, args...)
	}
	return o.Progress.Step("installing "+strings.Join(packages(needs), ", "), func() error {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		// The script restores what it changed when it is asked to end.
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.Stdin = strings.NewReader(aptScript)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("setup: apt-get failed (%w); by hand: %s\n%s", err, Command(needs), tail(out.String(), 12))
		}
		for _, n := range needs {
			if !n.Have(ctx) {
				return fmt.Errorf("setup: the package %s is installed, but %s cannot be found", n.Package, n.Name)
			}
		}
		return nil
	})
}

// authenticate lets sudo ask for its password while the terminal is free.
func authenticate(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "sudo", "-v")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
