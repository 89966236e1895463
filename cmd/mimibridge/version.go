package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

func cmdVersion(_ context.Context, e *env, args []string) error {
	if err := parse(flags(e, "version", "Prints the version of mimibridge, its commit and the Go it was built with."), args); err != nil {
		return err
	}
	fmt.Fprintln(e.out, version())
	return nil
}

// version is what the build says of itself: "mimibridge v0.1.0 (1a2b3c4d5e6f, modified) go1.26 linux/amd64".
func version() string {
	v, rev, modified := "(devel)", "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				rev = s.Value[:min(12, len(s.Value))]
			case "vcs.modified":
				if s.Value == "true" {
					modified = ", modified"
				}
			}
		}
	}
	if v != "(devel)" {
		rev = "" // the version says it
	} else if rev != "" {
		rev = " (" + rev + modified + ")"
	}
	return fmt.Sprintf("mimibridge %s%s %s %s/%s", v, rev, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
