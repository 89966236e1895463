// Package demo shows two MIMI providers at work: Prosody for xmpp.example and Dendrite for matrix.example, each with a
// mimibridge daemon that is a process of its own, and a conversation between real clients of both. All
// of it listens on 127.0.0.1 only and ends with the demo.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mimibridge/mimibridge/internal/setup"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

// Options says how the demo runs.
type Options struct {
	Binary   string // the mimibridge program, for the daemons
	In       io.Reader
	Out      io.Writer
	Terminal bool // In and Out are a terminal
	Once     bool // stop after the conversation
	Yes      bool // install what is missing without asking
	Keep     bool // leave the folder behind
	Requests bool // print every request between the providers
}

// ErrIncomplete is returned when the conversation did not arrive as it was sent, or was found in plaintext.
var ErrIncomplete = errors.New("demo: not everything arrived as it should; see above")

// demo is one run.
type demo struct {
	Options
	progress *testnet.Progress
	dir      string
	ca       *testnet.CA

	prosody  *testnet.Prosody
	dendrite *testnet.Dendrite
	xmpp     *daemon // the provider of xmpp.example
	matrix   *daemon // the provider of matrix.example
	romeo    *testnet.SlixClient
	juliet   *testnet.NioClient

	room   string // the room's address for XMPP
	portal string // the room's ID on Matrix
	lines  []*line
	told   map[string]bool // message IDs whose way was printed
	failed bool

	conference string // domain of a conference service of Prosody's own; "" for none
}

const (
	xmppDomain   = "xmpp.example"
	matrixDomain = "matrix.example"
	roomURI      = "mimi://xmpp.example/r/balcony"

	romeoPassword  = "montague-verona"
	julietPassword = "capulet-verona"
)

// Run runs the demo until it is over or ctx ends. Everything it started has then been stopped, and its folder
// removed. After a failure the error says where the logs are.
func Run(ctx context.Context, o Options) (err error) {
	d := &demo{Options: o, told: map[string]bool{}, progress: &testnet.Progress{W: o.Out, Terminal: o.Terminal}}
	if err := d.prepare(ctx); err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "mimibridge-demo-"); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	// The processes end when this function does, in its own order; not all at once with ctx.
	procs, stopAll := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		stopped := d.stop()
		stopAll()
		switch {
		case err != nil && ctx.Err() == nil:
			d.sayf("\nThe logs are in %s.", d.dir)
		case o.Keep:
			d.sayf("\nConfigurations, databases and logs are in %s.", d.dir)
		default:
			if rmErr := os.RemoveAll(d.dir); rmErr != nil && err == nil {
				err = rmErr
			}
			d.sayf("\nStopped %s; %s is removed.", plural(stopped, "process", "processes"), d.dir)
		}
		if err != nil && ctx.Err() != nil {
			err = errors.New("demo: stopped before the conversation was over")
		}
	}()
	if err := d.start(ctx, procs); err != nil {
		return err
	}
	if err := d.talk(ctx, procs); err != nil {
		return err
	}
	if o.Requests {
		if err := d.requests(); err != nil {
			return err
		}
	}
	if err := d.judge(); err != nil {
		return err
	}
	if o.Once {
		return nil
	}
	d.tellLogins()
	<-ctx.Done()
	return nil
}

func (d *demo) sayf(format string, args ...any) { fmt.Fprintf(d.Out, format+"\n", args...) }

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// dendriteMB and dendriteMinutes are what the first build takes: the modules, the build cache, the programs.
const (
	dendriteMB      = 1200
	dendriteMinutes = 2
)

// prepare says what is to be installed and built, and does it.
func (d *demo) prepare(ctx context.Context) error {
	d.sayf("mimibridge demo: two MIMI providers on this machine, Prosody and Dendrite behind them, and a conversation.")
	d.sayf("Everything listens on 127.0.0.1, on free ports, and ends with the demo.\n")
	missing := setup.Missing(ctx, setup.ForDemo())
	build := !testnet.DendriteBuilt()
	mb, minutes := 60, 1 // what the run itself takes
	if len(missing) > 0 {
		d.sayf("It installs these Debian packages; their services are not started, and none that runs is touched:")
		for _, n := range missing {
			d.sayf("    %-20s %s", n.Package, n.Name)
			mb += n.MB
		}
		minutes++
	}
	if build {
		d.sayf("It builds Dendrite %s, a Matrix homeserver, from the Go module proxy into your cache folder; once.", testnet.DendriteVersion)
		mb += dendriteMB
		minutes += dendriteMinutes
	}
	if len(missing) == 0 && !build {
		d.sayf("Nothing is to be installed or built.")
	}
	d.sayf("It needs about %d MB of disk and %s.\n", mb, plural(minutes, "minute", "minutes"))
	if err := setup.Install(ctx, missing, setup.Options{In: d.In, Terminal: d.Terminal, Yes: d.Yes, Progress: d.progress}); err != nil {
		return err
	}
	_, err := testnet.BuildDendrite(ctx, d.progress)
	return err
}

// start starts the servers, then the daemons, then the clients.
func (d *demo) start(ctx, procs context.Context) (err error) {
	if d.ca, err = testnet.NewCA(filepath.Join(d.dir, "ca")); err != nil {
		return err
	}
	ports, err := testnet.FreePorts(3)
	if err != nil {
		return err
	}
	d.xmpp = newDaemon(d, xmppDomain, "Prosody", ports[0], matrixDomain, ports[1])
	d.matrix = newDaemon(d, matrixDomain, "Dendrite", ports[1], xmppDomain, ports[0])

	err = d.progress.Step("starting Prosody for "+xmppDomain, func() error { return d.startProsody(ctx, procs) })
	if err != nil {
		return err
	}
	if err := d.matrix.writeMatrix(ports[2]); err != nil {
		return err
	}
	err = d.progress.Step("starting Dendrite for "+matrixDomain, func() error { return d.startDendrite(ctx, procs) })
	if err != nil {
		return err
	}
	if err := d.xmpp.writeXMPP(d.prosody.ComponentAddr); err != nil {
		return err
	}
	if err := d.matrix.write(d.matrix.networkMatrix(d.dendrite.URL, ports[2])); err != nil {
		return err
	}
	err = d.progress.Step("starting the two mimibridge daemons", func() error {
		for _, m := range []*daemon{d.xmpp, d.matrix} {
			if err := m.start(ctx, procs); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = d.progress.Step("logging in romeo (slixmpp) and juliet (matrix-nio)", func() error { return d.startClients(ctx, procs) })
	if err != nil {
		return err
	}
	d.sayf("")
	d.sayf("  testtable: server %s", d.prosody.Version)
	d.sayf("  testtable: server Dendrite %s", testnet.DendriteVersion)
	for _, m := range []*daemon{d.xmpp, d.matrix} {
		d.sayf("  mimibridge for %-15s process %d, federation on %s, configuration %s", m.domain, m.proc.Pid(), m.addr, m.config)
	}
	d.sayf("")
	return nil
}

// stop ends everything by process id, the clients first, and returns how many processes that were.
func (d *demo) stop() int {
	n := 0
	if d.romeo != nil {
		d.romeo.Stop()
		n++
	}
	if d.juliet != nil {
		d.juliet.Stop()
		n++
	}
	for _, m := range []*daemon{d.xmpp, d.matrix} {
		if m != nil && m.proc != nil {
			m.proc.Stop()
			n++
		}
	}
	if d.prosody != nil {
		d.prosody.Stop()
		n++
	}
	if d.dendrite != nil {
		d.dendrite.Stop()
		n++
	}
	return n
}

// within runs f with a limit that only a broken set-up reaches.
func within(ctx context.Context, limit time.Duration, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := f(ctx); err != nil {
		return fmt.Errorf("demo: %s: %w", what, err)
	}
	return nil
}

// oneLine makes a text fit a line of the terminal.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
