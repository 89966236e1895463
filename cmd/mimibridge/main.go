// Command mimibridge lets an XMPP server or a Matrix homeserver take part in MIMI federation.
//
// Each subcommand is a file of this package and thin: what it does lies in the packages below. Exit status: 0 all is
// well, 1 it failed, 2 the command line is wrong, 3 no daemon is running, 4 what was asked for does not exist.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/mattn/go-isatty"

	"github.com/mimibridge/mimibridge/internal/admin"
)

// env is the outside of the command, so that tests can stand in for it.
type env struct {
	in       io.Reader
	out, err io.Writer
	terminal bool // in and out are a terminal: questions may be asked

	flags *flag.FlagSet // of the command that runs; completion lists them
}

// command is one subcommand, with run, or a group of them. run parses args with flags of its own, before it does anything.
type command struct {
	name, short string
	run         func(ctx context.Context, e *env, args []string) error
	sub         []command
}

func commands() []command {
	return []command{
		{"run", "run the provider", cmdRun, nil},
		{"init", "write a configuration, asking what it needs", cmdInit, nil},
		{"check", "test a configuration and what it points to", cmdCheck, nil},
		{"config", "the configuration", nil, []command{
			{"show", "print what is in force and where each value comes from", cmdConfigShow, nil},
			{"schema", "print the JSON schema for editors", cmdConfigSchema, nil},
			{"reload", "have the daemon read it again", cmdConfigReload, nil},
		}},
		{"status", "print how the running daemon is", cmdStatus, nil},
		{"health", "exit with 0 if the daemon is ready, for containers", cmdHealth, nil},
		{"chat", "talk in a room from the terminal, or from a script", cmdChat, nil},
		{"room", "rooms kept here or entered from here", nil, []command{
			{"list", "list them", cmdRoomList, nil},
			{"show", "print one", cmdRoomShow, nil},
			{"members", "list who is in one", cmdRoomMembers, nil},
			{"destroy", "close one that is kept here, for good", cmdRoomDestroy, nil},
		}},
		{"peer", "other providers", nil, []command{
			{"list", "list those that rooms are shared with", cmdPeerList, nil},
			{"show", "print one", cmdPeerShow, nil},
			{"check", "fetch one's directory now", cmdPeerCheck, nil},
			{"retry", "deliver now what waits for one, or for all", cmdPeerRetry, nil},
			{"rules", "list who is allowed and denied", cmdPeerRules, nil},
			{"allow", "let one take part", peerRule("allow", "Lets a provider take part although the configuration does not: DOMAIN or *.DOMAIN. At once, and over restarts."), nil},
			{"deny", "neither serve nor ask one", peerRule("deny", "Ends what is exchanged with a provider: DOMAIN or *.DOMAIN. At once, and over restarts."), nil},
			{"forget", "take allow or deny back", peerRule("forget", "Takes `peer allow` or `peer deny` back."), nil},
		}},
		{"block", "users, rooms and providers blocked for everybody here", nil, []command{
			{"list", "list them", cmdBlockList, nil},
			{"add", "block one", blockCommand("add", "Blocks a user, a room or a provider for everybody here: mimi://DOMAIN/u/NAME, mimi://DOMAIN/r/NAME or mimi://DOMAIN. Of a user of this\nprovider it stops what they do."), nil},
			{"drop", "block one no more", blockCommand("drop", "Takes `block add` back."), nil},
		}},
		{"user", "users of this provider", nil, []command{
			{"list", "list those who have used it", cmdUserList, nil},
			{"show", "print one's rooms and contacts", cmdUserShow, nil},
			{"consent", "ask, grant or refuse for one, or set their policy", cmdUserConsent, nil},
			{"export", "print all that is stored of one, as JSON", cmdUserExport, nil},
			{"delete", "remove one and all that is stored of them", cmdUserDelete, nil},
			{"forget", "the same now, without waiting for rooms that cannot be reached", cmdUserForget, nil},
		}},
		{"queue", "what waits", nil, []command{
			{"list", "list it", cmdQueueList, nil},
			{"retry", "deliver now what waits for a peer, or for all", cmdPeerRetry, nil},
			{"drop", "give up what waits for a peer or an adapter in a room", cmdQueueDrop, nil},
		}},
		{"report", "reports of abuse in rooms kept here", nil, []command{
			{"list", "list them", cmdReportList, nil},
			{"show", "print one, with the messages", cmdReportShow, nil},
			{"drop", "forget one that has been dealt with", cmdReportDrop, nil},
		}},
		{"backup", "copy the databases into a file", cmdBackup, nil},
		{"restore", "put the databases of a backup in their place", cmdRestore, nil},
		{"db", "the database", nil, []command{
			{"upgrade", "bring it to this version's schema", cmdDBUpgrade, nil},
			{"verify", "read all of it and tell what is wrong", cmdDBVerify, nil},
		}},
		{"keys", "the key that seals secrets and messages in the database", nil, []command{
			{"rotate", "make a new one and seal everything anew; the daemon is stopped", cmdKeysRotate, nil},
		}},
		{"decode", "print an object of MIMI or MLS as JSON, with its IDs", cmdDecode, nil},
		{"directory", "print the directory document, for a web server to serve", cmdDirectory, nil},
		{"registration", "print the Matrix application service registration", cmdRegistration, nil},
		{"completion", "print a script for bash, zsh or fish", cmdCompletion, nil},
		{"demo", "show two providers at work on real servers of their own", cmdDemo, nil},
		{"uninstall", "leave all rooms, clean the network, remove the database", cmdUninstall, nil},
		{"version", "print the version", cmdVersion, nil},
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
	if args[0] == "complete" { // for the scripts of completion
		complete(e, args[1:])
		return 0
	}
	name, list, rest := "", commands(), args
	for {
		i := slices.IndexFunc(list, func(c command) bool { return len(rest) > 0 && c.name == rest[0] })
		if i < 0 {
			if name == "" {
				fmt.Fprintf(e.err, "mimibridge: there is no command %q\n", args[0])
				usage(e.err)
				return 2
			}
			if len(rest) > 0 && slices.Contains([]string{"help", "-h", "-help", "--help"}, rest[0]) {
				groupUsage(e.out, name, list)
				return 0
			}
			groupUsage(e.err, name, list)
			return 2
		}
		name = strings.TrimSpace(name + " " + rest[0])
		c := list[i]
		rest = rest[1:]
		if c.run != nil {
			return finish(e, name, c.run(ctx, e, rest))
		}
		list = c.sub
	}
}

// finish prints what went wrong and gives the exit status.
func finish(e *env, name string, err error) int {
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	}
	fmt.Fprintf(e.err, "mimibridge %s: %s\n", name, strings.TrimPrefix(err.Error(), name+": "))
	if h := (*hintError)(nil); errors.As(err, &h) {
		fmt.Fprintf(e.err, "  cure: %s\n", strings.ReplaceAll(h.hint, "\n", "\n        "))
	}
	var answered *admin.Error
	switch {
	case errors.Is(err, admin.ErrNotRunning):
		return 3
	case errors.Is(err, errNotFound), errors.As(err, &answered) && answered.Status == http.StatusNotFound:
		return 4
	}
	return 1
}

// errNotFound makes the exit status 4.
var errNotFound = errors.New("not found")

func groupUsage(w io.Writer, name string, list []command) {
	fmt.Fprintf(w, "Usage: mimibridge %s COMMAND [flags]\n\n", name)
	for _, c := range list {
		fmt.Fprintf(w, "  %-14s %s\n", c.name, c.short)
	}
}

func usage(w io.Writer) {
	fmt.Fprint(w, "mimibridge joins an XMPP server or a Matrix homeserver to MIMI federation.\n\nUsage: mimibridge COMMAND [flags]\n\n")
	for _, c := range commands() {
		name := c.name
		if c.sub != nil {
			name += " …"
		}
		fmt.Fprintf(w, "  %-14s %s\n", name, c.short)
	}
	fmt.Fprint(w, "\n`mimibridge COMMAND -h` lists a command's flags. Exit status: 0 all is well, 1 it failed, 2 the command line\nis wrong, 3 no daemon is running, 4 what was asked for does not exist.\n")
}

// flags makes the flag set of a subcommand; about is its help text.
func flags(e *env, name, about string) *flag.FlagSet {
	fs := flag.NewFlagSet("mimibridge "+name, flag.ContinueOnError)
	fs.SetOutput(e.err)
	e.flags = fs
	fs.Usage = func() {
		fmt.Fprintf(e.err, "Usage: mimibridge %s [flags]\n\n%s\n\nFlags:\n", name, strings.TrimSpace(about))
		fs.PrintDefaults()
	}
	return fs
}

// configFlag adds -c. Without it the file is what MIMIBRIDGE_CONFIG says, mimibridge.yaml here, or else the system's.
func configFlag(fs *flag.FlagSet) *string {
	path := os.Getenv("MIMIBRIDGE_CONFIG")
	if path == "" {
		path = "mimibridge.yaml"
		if _, err := os.Stat(path); err != nil && fs.Name() != "mimibridge init" {
			if _, err := os.Stat("/etc/mimibridge/mimibridge.yaml"); err == nil {
				path = "/etc/mimibridge/mimibridge.yaml"
			}
		}
	}
	return fs.String("c", path, "the configuration `file`")
}

// parse parses flags and refuses arguments.
func parse(fs *flag.FlagSet, args []string) error {
	_, err := parseArgs(fs, args, 0, 0)
	return err
}

// parseArgs parses flags, which may stand before, between and after the arguments, and wants from least to most arguments.
func parseArgs(fs *flag.FlagSet, args []string, least, most int) (positional []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, errUsage
		}
		if fs.NArg() == 0 {
			break
		}
		positional = append(positional, fs.Arg(0))
		args = fs.Args()[1:]
	}
	switch {
	case len(positional) > most:
		fmt.Fprintf(fs.Output(), "unexpected argument %q\n", positional[most])
	case len(positional) < least:
		fmt.Fprintln(fs.Output(), "an argument is missing")
	default:
		return positional, nil
	}
	fs.Usage()
	return nil, errUsage
}
