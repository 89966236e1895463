package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/core/mls"
	"github.com/mimibridge/mimibridge/internal/decode"
)

const aboutDecode = `
Prints an object as JSON, with the IDs that are calculated from it: the message ID of a content, the
KeyPackageRef of a KeyPackage, the ref of a proposal. KIND is content (application/mimi-content, or a status
report), keypackage, message (any MLSMessage), welcome, groupinfo (each as such or in an MLSMessage), or
directory (the JSON document). FILE is raw, hexadecimal or base64; - is standard input.

  mimibridge decode content hello.cbor -sender mimi://a.example/u/alice -room mimi://a.example/r/x
  curl -s https://a.example/.well-known/mimi-protocol-directory | mimibridge decode directory -`

func cmdDecode(ctx context.Context, e *env, args []string) error {
	set := flags(e, "decode KIND FILE", aboutDecode)
	sender := set.String("sender", "", "the user `URI` for a message ID, instead of what the content says")
	room := set.String("room", "", "the room `URI` for a message ID, instead of what the content says")
	suite := set.Uint("suite", 1, "the cipher suite `number` for a proposal's ref, which a message does not say")
	rest, err := parseArgs(set, args, 2, 2)
	if err != nil {
		return err
	}
	kind := rest[0]
	if !slices.Contains(decode.Kinds, kind) {
		fmt.Fprintf(e.err, "there is no kind %q; there are %s\n", kind, strings.Join(decode.Kinds, ", "))
		return errUsage
	}
	if *suite > 0xffff {
		return errors.New("a cipher suite is a number of 16 bits")
	}
	o := decode.Options{Suite: mls.CipherSuite(*suite)}
	if *sender != "" {
		if o.Sender, err = mimiuri.ParseKind(*sender, mimiuri.User); err != nil {
			return fmt.Errorf("-sender: %w", err)
		}
	}
	if *room != "" {
		if o.Room, err = mimiuri.ParseKind(*room, mimiuri.Room); err != nil {
			return fmt.Errorf("-room: %w", err)
		}
	}
	in := e.in
	if rest[1] != "-" {
		f, err := os.Open(rest[1])
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, decode.MaxInput+1))
	if err != nil {
		return err
	}
	v, err := decode.Decode(kind, b, o)
	if err != nil {
		return errorWithHint(err, "the kinds are "+strings.Join(decode.Kinds, ", ")+"; the input may be raw, hexadecimal or base64")
	}
	enc := json.NewEncoder(e.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
