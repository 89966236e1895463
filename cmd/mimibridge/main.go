// Command mimibridge lets an XMPP server or a Matrix homeserver take part in MIMI federation.
//
// Each subcommand is a file of this package and thin: what it does lies in the packages below. Exit status: 0
// all is well, 1 it failed, 2 the command line is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/mattn/go-isatty"
)

// env is the outside of the command, so that tests can stand in for it.
type env struct {
	in       io.Reader
	out, err io.Writer
	terminal bool // in and out are a terminal: questions may be asked
}

// command is one subcommand. run parses args with flags of its own.
type command struct {
	name, short string
	run         func(ctx context.Context, e *env, args []string) error
}

func commands() []command {
	return []command{
		{"run", "run the provider", cmdRun},
		{"init", "write a configuration, asking what it needs", cmdInit},
		{"check", "test a configuration and what it points to", cmdCheck},
		{"registration", "print the Matrix application service registration", cmdRegistration},
		{"demo", "show two providers at work on real servers of their own", cmdDemo},
		{"version", "print the version", cmdVersion},
	}
}

// errUsage ends the command with status 2; what was wrong has been printed.
var errUsage = errors.New("usage")

// hintError is an error with what would cure it.
type hintError struct {
	err  error
	hint string
}

func (h *hintError) Error() string { return h.err.Error() }
func (h *hintError) Unwrap() error { return h.err }

// errorWithHint adds a cure to an error. The hint is one sentence, or a command to type.
func errorWithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hintError{err, hint}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	e := &env{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		terminal: isatty.IsTerminal(os.Stdin.Fd()) && isatty.IsTerminal(os.Stdout.Fd()),
	}
	code := run(ctx, e, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, e *env, args []string) int {
	if len(args) == 0 {
		usage(e.err)
		return 2
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(e.out)
		return 0
	case "-version", "--version":
		args[0] = "version"
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		err := c.run(ctx, e, args[1:])
		switch {
		case err == nil || errors.Is(err, flag.ErrHelp):
			return 0
		case errors.Is(err, errUsage):
			return 2
		}
		fmt.Fprintf(e.err, "mimibridge %s: %s\n", c.name, strings.TrimPrefix(err.Error(), c.name+": "))
		if h := (*hintError)(nil); errors.As(err, &h) {
			fmt.Fprintf(e.err, "  cure: %s\n", strings.ReplaceAll(h.hint, "\n", "\n        "))
		}
		return 1
	}
	fmt.Fprintf(e.err, "mimibridge: there is no command %q\n", args[0])
	usage(e.err)
	return 2
}

func usage(w io.Writer) {
	fmt.Fprint(w, "mimibridge joins an XMPP server or a Matrix homeserver to MIMI federation.\n\nUsage: mimibridge COMMAND [flags]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-14s %s\n", c.name, c.short)
	}
	fmt.Fprint(w, "\n`mimibridge COMMAND -h` lists a command's flags.\n")
}

// flags makes the flag set of a subcommand; about is its help text.
func flags(e *env, name, about string) *flag.FlagSet {
	fs := flag.NewFlagSet("mimibridge "+name, flag.ContinueOnError)
	fs.SetOutput(e.err)
	fs.Usage = func() {
		fmt.Fprintf(e.err, "Usage: mimibridge %s [flags]\n\n%s\n\nFlags:\n", name, strings.TrimSpace(about))
		fs.PrintDefaults()
	}
	return fs
}

// configFlag adds -c.
func configFlag(fs *flag.FlagSet) *string {
	return fs.String("c", "mimibridge.yaml", "the configuration `file`")
}

// parse parses flags and refuses arguments after them.
func parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(fs.Output(), "unexpected argument %q\n", fs.Arg(0))
		fs.Usage()
		return errUsage
	}
	return nil
}
