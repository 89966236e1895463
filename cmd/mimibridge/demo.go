package main

import (
	"context"
	"os"

	"github.com/mimibridge/mimibridge/internal/demo"
)

const aboutDemo = `
Starts on this machine, on free ports of 127.0.0.1: Prosody for xmpp.example, Dendrite for matrix.example,
and a mimibridge daemon for each; then plays a conversation with real clients of both networks and
prints every hop of every message. Afterwards all of it stays up, so that you can log in by hand,
until Ctrl-C. It says first what it installs, and asks.

ONCE=1, or a run without a terminal, stops after the conversation; the exit status is 0 only if every line
arrived. YES=1 answers the question.`

func cmdDemo(ctx context.Context, e *env, args []string) error {
	fs := flags(e, "demo", aboutDemo)
	keep := fs.Bool("keep", false, "leave the folder with configurations, databases and logs behind")
	requests := fs.Bool("requests", false, "print every request between the providers, with its sizes")
	if err := parse(fs, args); err != nil {
		return err
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	return demo.Run(ctx, demo.Options{
		Binary: binary, In: e.in, Out: e.out, Terminal: e.terminal,
		Once: os.Getenv("ONCE") == "1" || !e.terminal,
		Yes:  os.Getenv("YES") == "1",
		Keep: *keep, Requests: *requests,
	})
}
