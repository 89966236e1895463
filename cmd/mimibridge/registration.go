package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/mimibridge/mimibridge/adapters/matrix"
	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core/federation"
)

const aboutRegistration = `
Prints the application service registration that the Matrix homeserver needs, made first if the file
that the configuration names does not exist. Give the homeserver a copy: Synapse lists it under
app_service_config_files, Dendrite under app_service_api.config_files; then restart the homeserver.
It holds both tokens: keep it from others.`

func cmdRegistration(_ context.Context, e *env, args []string) error {
	fs := flags(e, "registration", aboutRegistration)
	path := configFlag(fs)
	if err := parse(fs, args); err != nil {
		return err
	}
	c, err := config.Load(*path)
	if err != nil {
		return err
	}
	m := c.Network.Matrix
	if m == nil {
		return errorWithHint(errors.New("this configuration is of an XMPP provider"), "an XMPP server needs no registration; `mimibridge init -h` tells what it does need")
	}
	if m.RegistrationText != "" {
		_, err := fmt.Fprintln(e.out, m.RegistrationText)
		return err
	}
	if err := ensureRegistration(m); err != nil {
		return err
	}
	b, err := os.ReadFile(m.Registration)
	if err != nil {
		return fmt.Errorf("read the registration: %w", err)
	}
	_, err = e.out.Write(b)
	return err
}

// loadRegistration reads the registration from where the configuration says.
func loadRegistration(m *config.Matrix) (*matrix.Registration, error) {
	if m.RegistrationText != "" {
		return matrix.ParseRegistration(m.RegistrationText, m.ServerName)
	}
	return matrix.LoadRegistration(m.Registration, m.ServerName)
}

// ensureRegistration writes the registration file unless it exists.
func ensureRegistration(m *config.Matrix) error { return makeRegistration(m, "") }

// makeRegistration does it for a homeserver that reaches this daemon at reach, "host:port"; empty is this machine.
func makeRegistration(m *config.Matrix, reach string) error {
	if reach == "" {
		reach = listenURLHost(m.Listen)
	}
	_, err := matrix.NewRegistration(m.Registration, "http://"+reach, m.ServerName)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// listenURLHost makes a listener's address one that can be dialled from the same machine.
func listenURLHost(listen string) string {
	for _, any := range []string{"", "0.0.0.0", "[::]"} {
		if port, ok := strings.CutPrefix(listen, any+":"); ok {
			return "127.0.0.1:" + port
		}
	}
	return listen
}

func token() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// writeNew writes a file that must not exist yet.
func writeNew(path, content string, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

// directoryOf is the directory document of a configuration.
func directoryOf(c *config.Config) []byte {
	return federation.NewServer(federation.Config{Domain: c.Domain, BaseURL: c.Federation.URL}, federation.Ports{}).Directory()
}
