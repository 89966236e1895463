// Command testtable runs the project's tests and ends with one table: suite, server and version, tests,
// seconds. It is what `make test` and `make test-fast` call.
//
// A suite is a Go package, or the demo. A test that works with a server names it on a line of its output
// that contains "testtable: server NAME VERSION". A skipped test counts as a failed one: what is missing is
// installed, or is said.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/mimibridge/mimibridge/internal/setup"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

func main() {
	live := flag.Bool("live", false, "run the tests with real servers too, installing what is missing")
	demo := flag.String("demo", "", "run this mimibridge `binary`'s demo once, as the last suite")
	timeout := flag.String("timeout", "20m", "`duration` one package may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *live, *demo, *timeout, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "testtable:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, live bool, demo, timeout string, packages []string) error {
	progress := &testnet.Progress{W: os.Stdout, Terminal: isatty.IsTerminal(os.Stdout.Fd())}
	if live {
		o := setup.Options{In: os.Stdin, Terminal: isatty.IsTerminal(os.Stdin.Fd()) && progress.Terminal, Yes: os.Getenv("YES") == "1", Progress: progress}
		if err := setup.Install(ctx, setup.Missing(ctx, setup.ForTests()), o); err != nil {
			return err
		}
		for _, build := range []func(context.Context, *testnet.Progress) (string, error){testnet.BuildDendrite, testnet.BuildSynapse, testnet.BuildJSSDK} {
			if _, err := build(ctx, progress); err != nil {
				return err
			}
		}
	}
	tags := "goolm" // encryption on Matrix, which the program is built with
	if live {
		tags += ",live"
	}
	args := []string{"test", "-json", "-count=1", "-timeout", timeout, "-tags", tags}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	t := &table{w: os.Stdout}
	readErr := t.read(out)
	waitErr := cmd.Wait()
	if demo != "" {
		if err := runDemo(ctx, t, demo); err != nil {
			return err
		}
	}
	t.print()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case readErr != nil:
		return fmt.Errorf("read the test results: %w", readErr)
	case t.failed() > 0:
		return fmt.Errorf("%d failed", t.failed())
	case waitErr != nil:
		return fmt.Errorf("go test: %w", waitErr)
	}
	return nil
}

// runDemo runs the demo once. Each line of the conversation that it ends with "ok" or "FAILED" counts as a test.
func runDemo(ctx context.Context, t *table, binary string) error {
	fmt.Fprintf(t.w, "\n%s demo\n", binary)
	cmd := exec.CommandContext(ctx, binary, "demo")
	cmd.Env = append(os.Environ(), "ONCE=1", "YES=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	s := t.suite("demo")
	s.ran = true
	d := &demoOutput{suite: s, w: t.w}
	cmd.Stdout, cmd.Stderr = d, os.Stderr
	start := time.Now()
	err := cmd.Run()
	s.seconds = time.Since(start).Seconds()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		s.failed++
	case err != nil:
		return err
	case s.passed == 0:
		s.failed++
		fmt.Fprintln(t.w, "the demo printed no result")
	}
	return nil
}

// demoOutput passes the demo's output on and counts its results.
type demoOutput struct {
	suite *suite
	w     interface{ Write([]byte) (int, error) }
	line  []byte
}

func (d *demoOutput) Write(b []byte) (int, error) {
	for _, c := range b {
		if c != '\n' {
			d.line = append(d.line, c)
			continue
		}
		line := strings.TrimSpace(string(d.line))
		d.line = d.line[:0]
		if rest, ok := strings.CutPrefix(line, "ok "); ok && rest != "" {
			d.suite.passed++
		}
		d.suite.server(line)
	}
	return d.w.Write(b)
}
