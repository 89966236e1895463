package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

const aboutInit = `
Writes a configuration with comments, the sealing key, and for XMPP the component secret, for Matrix the
registration; then prints what the chat server needs to be told. On a terminal it asks for what
no flag gives. Files that exist are never overwritten.`

// answers are what init needs to know.
type answers struct {
	domain, network, server, url, cert, key string
}

func cmdInit(_ context.Context, e *env, args []string) error {
	fl := flags(e, "init", aboutInit)
	path := configFlag(fl)
	var a answers
	fl.StringVar(&a.domain, "domain", "", "the MIMI provider `domain`, usually that of your users' addresses")
	fl.StringVar(&a.network, "network", "", "`xmpp or matrix`")
	fl.StringVar(&a.server, "server", "", "XMPP: the server's component listener, `host:port`; Matrix: the homeserver's URL")
	fl.StringVar(&a.url, "url", "", "the `URL` at which other providers reach the federation listener")
	fl.StringVar(&a.cert, "cert", "", "the PEM `file` with the certificate for the domain and its chain")
	fl.StringVar(&a.key, "key", "", "the PEM `file` with the certificate's key")
	if err := parse(fl, args); err != nil {
		return err
	}
	if _, err := os.Stat(*path); err == nil {
		return errorWithHint(fmt.Errorf("%s exists already", *path), "-c FILE writes another, `mimibridge check -c "+*path+"` tests this one")
	}
	if err := a.complete(e); err != nil {
		return err
	}

	dir := filepath.Dir(*path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// The secrets first: without them the configuration would be incomplete.
	if err := writeUnlessThere(filepath.Join(dir, "sealing.key"), config.NewSealingKey()); err != nil {
		return err
	}
	if a.network == "xmpp" {
		if err := writeUnlessThere(filepath.Join(dir, "component.secret"), token()+"\n"); err != nil {
			return err
		}
	}
	text := a.configuration()
	c, err := config.Parse(*path, []byte(text))
	if err != nil {
		return fmt.Errorf("these answers do not make a configuration:\n%w", err)
	}
	if c.Network.Matrix != nil {
		if err := ensureRegistration(c.Network.Matrix); err != nil {
			return err
		}
	}
	if err := writeNew(*path, text, 0o600); err != nil {
		return err
	}
	fmt.Fprintf(e.out, "Wrote %s. Back up %s apart from the database: without it the database cannot be read.\n\n", *path, c.Secrets.KeyFile)
	tellServer(e, c)
	fmt.Fprintf(e.out, "Then let https://%s/.well-known/mimi-protocol-directory be answered by this daemon (%s),\nand try it:\n\n    mimibridge check -c %s\n    mimibridge run -c %s\n", c.Domain, c.Federation.Listen, *path, *path)
	return nil
}

// complete asks for what is missing; without a terminal it takes the defaults and needs the rest.
func (a *answers) complete(e *env) error {
	in := bufio.NewReader(e.in)
	ask := func(p *string, flagName, question, def string, check func(string) error) error {
		for *p == "" {
			if !e.terminal {
				if def == "" {
					return errorWithHint(fmt.Errorf("-%s is needed", flagName), "there is no terminal to ask on; `mimibridge init -h` lists the flags")
				}
				*p = def
				break
			}
			fmt.Fprintf(e.out, "%s", question)
			if def != "" {
				fmt.Fprintf(e.out, " [%s]", def)
			}
			fmt.Fprint(e.out, ": ")
			line, err := in.ReadString('\n')
			if err != nil && line == "" {
				return errors.New("the input ended")
			}
			*p = strings.TrimSpace(line)
			if *p == "" {
				*p = def
			}
			if err := check(*p); *p != "" && err != nil {
				fmt.Fprintf(e.out, "  %v\n", err)
				*p = ""
			}
		}
		return check(*p)
	}
	any := func(string) error { return nil }
	if err := ask(&a.domain, "domain", "MIMI provider domain, usually that of your users' addresses", "", func(s string) error {
		_, err := mimiuri.NormalizeDomain(s)
		return err
	}); err != nil {
		return err
	}
	a.domain, _ = mimiuri.NormalizeDomain(a.domain)
	if err := ask(&a.network, "network", "Your chat server: xmpp or matrix", "", func(s string) error {
		if s != "xmpp" && s != "matrix" {
			return fmt.Errorf("%q is neither xmpp nor matrix", s)
		}
		return nil
	}); err != nil {
		return err
	}
	server, def := "Where its component listener is, host:port", "127.0.0.1:5347"
	if a.network == "matrix" {
		server, def = "Its client-server URL", "http://127.0.0.1:8008"
	}
	if err := ask(&a.server, "server", server, def, any); err != nil {
		return err
	}
	host, _, _ := strings.Cut(a.domain, ":")
	if err := ask(&a.url, "url", "The URL at which other providers will reach this daemon", "https://"+net.JoinHostPort(host, "8443"), any); err != nil {
		return err
	}
	if err := ask(&a.cert, "cert", "Certificate file (PEM, with its chain; it names "+host+")", "fullchain.pem", any); err != nil {
		return err
	}
	return ask(&a.key, "key", "Its key file (PEM)", "privkey.pem", any)
}

// configuration is the file: less than 40 lines, each setting with what it is for.
func (a *answers) configuration() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# mimibridge: the MIMI provider of %s. Paths are relative to this file.\n", a.domain)
	fmt.Fprintf(&b, "# A misspelt key is an error; `mimibridge check -c FILE` tests everything this file points to.\n\n")
	fmt.Fprintf(&b, "# Users are mimi://%s/u/NAME to other providers.\ndomain: %s\n\n", a.domain, quote(a.domain))
	if a.network == "xmpp" {
		fmt.Fprintf(&b, "network:\n  xmpp:\n    # The server's component listener (XEP-0114); both component domains below use the same secret.\n")
		fmt.Fprintf(&b, "    server: %s\n    local_domain: %s\n", quote(a.server), quote(a.domain))
		fmt.Fprintf(&b, "    users: %s         # the gateway, and the users of other providers\n", quote("mimi."+a.domain))
		fmt.Fprintf(&b, "    rooms: %s   # MIMI rooms as multi-user chats\n", quote("rooms.mimi."+a.domain))
		fmt.Fprintf(&b, "    secret_file: component.secret\n\n")
	} else {
		fmt.Fprintf(&b, "network:\n  matrix:\n    # The client-server URL of the homeserver, and its name in user IDs.\n")
		fmt.Fprintf(&b, "    homeserver: %s\n    server_name: %s\n", quote(a.server), quote(a.domain))
		fmt.Fprintf(&b, "    # Where the homeserver reaches this daemon; the registration says the same.\n    listen: \"127.0.0.1:29333\"\n    registration: registration.yaml\n\n")
	}
	fmt.Fprintf(&b, "federation:\n  # HTTPS for other providers: where it listens, and the URL under which they reach it.\n")
	fmt.Fprintf(&b, "  listen: %s\n  url: %s\n", quote(listenFor(a.url)), quote(a.url))
	fmt.Fprintf(&b, "  # The certificate names the domain above and the host of url.\n  cert_file: %s\n  key_file: %s\n\n", quote(a.cert), quote(a.key))
	fmt.Fprintf(&b, "storage:\n  sqlite: mimibridge.db\n\n")
	fmt.Fprintf(&b, "secrets:\n  # Seals MLS keys and messages in the database. Back it up apart from that.\n  key_file: sealing.key\n\n")
	fmt.Fprintf(&b, "# Who may use it: none, user or admin, by address, domain or \"*\".\npermissions:\n  %s: user\n\n", quote(a.domain))
	fmt.Fprintf(&b, "log:\n  level: info\n")
	return b.String()
}

func listenFor(url string) string {
	hostport := strings.TrimSuffix(strings.TrimPrefix(url, "https://"), "/")
	if _, port, err := net.SplitHostPort(hostport); err == nil {
		return ":" + port
	}
	return ":443"
}

// quote makes a YAML scalar of a string. A double-quoted YAML scalar is a superset of a JSON string.
func quote(s string) string {
	plain := s != ""
	for _, r := range s {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./-_", r) {
			plain = false
		}
	}
	if plain && !strings.HasPrefix(s, "-") && strings.ContainsAny(s, "abcdefghijklmnopqrstuvwxyz") {
		return s
	}
	return fmt.Sprintf("%q", s)
}

func writeUnlessThere(path, content string) error {
	err := writeNew(path, content, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// tellServer prints what the chat server's own configuration needs.
func tellServer(e *env, c *config.Config) {
	if m := c.Network.Matrix; m != nil {
		fmt.Fprintf(e.out, `Give the homeserver a copy of %s and restart it:

    # Synapse, homeserver.yaml             # Dendrite, dendrite.yaml
    app_service_config_files:              app_service_api:
      - /etc/matrix/mimibridge.yaml          config_files: [/etc/matrix/mimibridge.yaml]

`, m.Registration)
		return
	}
	x := c.Network.XMPP
	_, port, _ := net.SplitHostPort(x.Server)
	fmt.Fprintf(e.out, `Give the XMPP server both components, with the secret from %s in place of SECRET, and reload it:

    -- Prosody, prosody.cfg.lua
    component_ports = { %s }
    Component "%s"
      component_secret = "SECRET"
    Component "%s"
      component_secret = "SECRET"

    # ejabberd, ejabberd.yml, under listen:
    - port: %s
      module: ejabberd_service
      hosts:
        %s: { password: "SECRET" }
        %s: { password: "SECRET" }

`, x.SecretFile, port, x.Users, x.Rooms, port, x.Users, x.Rooms)
}
