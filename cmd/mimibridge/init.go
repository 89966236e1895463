package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/core/mimiuri"
	"github.com/mimibridge/mimibridge/internal/find"
)

const aboutInit = `
Writes a configuration with comments, the sealing key, and for XMPP the component secret and what the server's configuration
needs, for Matrix the registration; then says the two things that are left to do. It looks at this machine for a chat server's
configuration and for certificates (-look DIR below another folder than /, -look none not at all), and on a terminal asks at
most six questions for what no flag gives.

If the configuration exists, only what flags give is changed in it: everything else, comments included, stays.`

// answers are what init needs to know.
type answers struct {
	domain, network, server, reach, listen, url, cert, key, storage, look, from string

	found find.Server
}

func cmdInit(_ context.Context, e *env, args []string) error {
	fl := flags(e, "init", aboutInit)
	path := configFlag(fl)
	var a answers
	fl.StringVar(&a.domain, "domain", "", "the MIMI provider `domain`, usually that of your users' addresses")
	fl.StringVar(&a.network, "network", "", "`xmpp, matrix or none` (a hub without a network)")
	fl.StringVar(&a.server, "server", "", "XMPP: the server's component listener, `host:port`; Matrix: the homeserver's URL")
	fl.StringVar(&a.reach, "reach", "", "Matrix: `host:port` at which the homeserver reaches this daemon, if not on the same machine (a container's name)")
	fl.StringVar(&a.listen, "listen", "", "`host:port` of the listener for other providers")
	fl.StringVar(&a.url, "url", "", "the `URL` at which other providers reach the listener, if not https://DOMAIN:PORT")
	fl.StringVar(&a.cert, "cert", "", "the PEM `file` with the certificate for the domain and its chain; find looks for it")
	fl.StringVar(&a.key, "key", "", "the PEM `file` with the certificate's key, if not beside it")
	fl.StringVar(&a.storage, "storage", "", "the database `file`, or a PostgreSQL URL")
	fl.StringVar(&a.look, "look", "/", "where to look for servers and certificates: a `folder`, or none")
	fl.StringVar(&a.from, "from", "", "the chat server's configuration `file`, if it is not in its usual place")
	if err := parse(fl, args); err != nil {
		return err
	}
	if _, err := os.Stat(*path); err == nil {
		return a.change(e, fl, *path)
	}
	a.lookAround(e)
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
	if a.postgres() {
		if err := writeUnlessThere(filepath.Join(dir, "postgres.url"), a.storage+"\n"); err != nil {
			return err
		}
	}
	text := a.configuration()
	c, err := config.Parse(*path, []byte(text))
	if err != nil {
		return fmt.Errorf("these answers do not make a configuration:\n%w", err)
	}
	if c.Network.Matrix != nil {
		if err := makeRegistration(c.Network.Matrix, a.reach); err != nil {
			return err
		}
	}
	snippets, err := writeSnippets(c, dir, a.found)
	if err != nil {
		return err
	}
	if err := writeNew(*path, text, 0o600); err != nil {
		return err
	}
	fmt.Fprintf(e.out, "Wrote %s. Back up %s apart from the database: without it the database cannot be read.\n\n", *path, c.Secrets.KeyFile)
	tellRest(e, c, *path, snippets)
	return nil
}

// appservice is where the homeserver's requests are taken.
func (a *answers) appservice() string {
	if _, port, err := net.SplitHostPort(a.reach); err == nil {
		return ":" + port
	}
	return "127.0.0.1:29333"
}

// change puts into a configuration that exists what flags say, and nothing else.
func (a *answers) change(e *env, fl *flag.FlagSet, path string) error {
	was, err := config.Load(path)
	if err != nil {
		return errorWithHint(err, "init changes only a configuration without errors")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(b)
	var done []string
	set := func(key, value string) {
		if err == nil {
			text, err = config.Set(text, key, quote(value))
			done = append(done, key)
		}
	}
	fl.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "domain":
			set("domain", a.domain)
		case "network":
			if now := networkOf(was); a.network != now && err == nil {
				err = errorWithHint(fmt.Errorf("%s is of a provider with the network %s", path, now), "another network is another provider: -c FILE writes a second configuration")
			}
		case "server":
			switch {
			case was.Network.XMPP != nil:
				set("network.xmpp.server", a.server)
			case was.Network.Matrix != nil:
				set("network.matrix.homeserver", a.server)
			}
		case "listen":
			set("federation.listen", a.listen)
		case "url":
			set("federation.url", a.url)
		case "cert":
			set("federation.cert_file", a.cert)
		case "key":
			set("federation.key_file", a.key)
		case "storage":
			if a.postgres() {
				if err == nil {
					err = errors.New("a database is moved by hand: see docs/operations.md")
				}
				return
			}
			set("storage.sqlite", a.storage)
		}
	})
	if err != nil {
		return err
	}
	if len(done) == 0 {
		fmt.Fprintf(e.out, "%s exists already and stays as it is: no flag says what to change.\n\n", path)
	} else {
		if _, err := config.Parse(path, []byte(text)); err != nil {
			return fmt.Errorf("nothing was changed, this would make an invalid configuration:\n%w", err)
		}
		if err := replaceFile(path, text); err != nil {
			return err
		}
		fmt.Fprintf(e.out, "Changed in %s: %s. Everything else is as it was.\n\n", path, strings.Join(done, ", "))
	}
	c, err := config.Load(path)
	if err != nil {
		return err
	}
	tellRest(e, c, path, nil)
	return nil
}

// replaceFile writes a file whole or not at all, with the mode it had.
func replaceFile(path, text string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), fi.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func networkOf(c *config.Config) string {
	switch {
	case c.Network.XMPP != nil:
		return "xmpp"
	case c.Network.Matrix != nil:
		return "matrix"
	}
	return "none"
}

func (a *answers) postgres() bool {
	return strings.HasPrefix(a.storage, "postgres://") || strings.HasPrefix(a.storage, "postgresql://")
}

// lookAround takes suggestions from what is on this machine.
func (a *answers) lookAround(e *env) {
	var servers []find.Server
	switch {
	case a.from != "":
		if s, ok := find.File(a.from); ok {
			servers = append(servers, s)
		} else {
			fmt.Fprintf(e.out, "Cannot make sense of %s; going on without it.\n", a.from)
		}
	case a.look != "none":
		servers = find.Servers(a.look)
	}
	for _, s := range servers {
		if len(s.Domains) == 0 || a.network != "" && s.Network != a.network {
			continue
		}
		if a.domain != "" && !slices.Contains(s.Domains, a.domain) {
			continue
		}
		a.found = s
		fmt.Fprintf(e.out, "Found %s for %s (%s): its values are suggested below.\n", s.Name, strings.Join(s.Domains, ", "), s.File)
		return
	}
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
	first := ""
	if len(a.found.Domains) > 0 {
		first = a.found.Domains[0]
	}
	if err := ask(&a.domain, "domain", "MIMI provider domain, usually that of your users' addresses", first, func(s string) error {
		_, err := mimiuri.NormalizeDomain(s)
		return err
	}); err != nil {
		return err
	}
	a.domain, _ = mimiuri.NormalizeDomain(a.domain)
	if err := ask(&a.network, "network", "Your chat server: xmpp, matrix, or none", a.found.Network, func(s string) error {
		if s != "xmpp" && s != "matrix" && s != "none" {
			return fmt.Errorf("%q is none of xmpp, matrix and none", s)
		}
		return nil
	}); err != nil {
		return err
	}
	if a.network != "none" {
		server, def := "Where its component listener is, host:port", "127.0.0.1:5347"
		if a.network == "matrix" {
			server, def = "Its client-server URL", "http://127.0.0.1:8008"
		}
		if a.found.Network == a.network {
			def = a.found.Addr
		}
		if err := ask(&a.server, "server", server, def, any); err != nil {
			return err
		}
	}
	host, _, _ := strings.Cut(a.domain, ":")
	names := []string{host}
	if u, err := url.Parse(a.url); err == nil && u.Hostname() != "" && u.Hostname() != host {
		names = append(names, u.Hostname())
	}
	cert, key, there := "", "", false
	if a.look != "none" {
		cert, key, there = find.Certificate(a.look, names...)
	}
	def := "fullchain.pem"
	if there {
		def = cert
	}
	if a.cert == "find" {
		if !there {
			return errorWithHint(fmt.Errorf("no certificate for %s was found", strings.Join(names, " and ")), "-cert FILE says where it is")
		}
		a.cert = cert
	}
	if err := ask(&a.cert, "cert", "Certificate file (PEM, with its chain; it names "+strings.Join(names, " and ")+")", def, any); err != nil {
		return err
	}
	if a.key == "" {
		if a.key = keyBeside(a.cert); there && a.cert == cert {
			a.key = key
		}
	}
	def = ":8443"
	if u, err := url.Parse(a.url); a.url != "" && err == nil {
		if def = ":443"; u.Port() != "" {
			def = ":" + u.Port()
		}
	}
	if err := ask(&a.listen, "listen", "Address to listen on for other providers, host:port", def, any); err != nil {
		return err
	}
	if a.url == "" {
		_, port, _ := net.SplitHostPort(a.listen)
		if a.url = "https://" + host; port != "443" {
			a.url += ":" + port
		}
	}
	return ask(&a.storage, "storage", "Database: a file, or postgres://…", "mimibridge.db", any)
}

// keyBeside guesses the file of a certificate's key.
func keyBeside(cert string) string {
	if dir, base := filepath.Split(cert); base == "fullchain.pem" || base == "cert.pem" {
		return dir + "privkey.pem"
	}
	return strings.TrimSuffix(cert, filepath.Ext(cert)) + ".key"
}

// configuration is the file: less than 40 lines, each setting with what it is for.
func (a *answers) configuration() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# mimibridge: the MIMI provider of %s. Paths are relative to this file.\n", a.domain)
	fmt.Fprintf(&b, "# A misspelt key is an error; `mimibridge check -c FILE` tests everything this file points to.\n\n")
	fmt.Fprintf(&b, "# Users are mimi://%s/u/NAME to other providers.\ndomain: %s\n\n", a.domain, quote(a.domain))
	switch a.network {
	case "xmpp":
		fmt.Fprintf(&b, "network:\n  xmpp:\n    # The server's component listener (XEP-0114); both component domains below use the same secret.\n")
		fmt.Fprintf(&b, "    server: %s\n    local_domain: %s\n", quote(a.server), quote(a.domain))
		fmt.Fprintf(&b, "    users: %s         # the gateway, and the users of other providers\n", quote("mimi."+a.domain))
		fmt.Fprintf(&b, "    rooms: %s   # MIMI rooms as multi-user chats\n", quote("rooms.mimi."+a.domain))
		fmt.Fprintf(&b, "    secret_file: component.secret\n\n")
	case "matrix":
		fmt.Fprintf(&b, "network:\n  matrix:\n    # The client-server URL of the homeserver, and its name in user IDs.\n")
		fmt.Fprintf(&b, "    homeserver: %s\n    server_name: %s\n", quote(a.server), quote(a.domain))
		fmt.Fprintf(&b, "    # Where the homeserver reaches this daemon; the registration says the same.\n    listen: %s\n    registration: registration.yaml\n\n", quote(a.appservice()))
	default:
		fmt.Fprintf(&b, "network: {}   # a hub for others; its own users have only the console (mimibridge chat)\n\n")
	}
	fmt.Fprintf(&b, "federation:\n  # HTTPS for other providers: where it listens, and the URL under which they reach it.\n")
	fmt.Fprintf(&b, "  listen: %s\n  url: %s\n", quote(a.listen), quote(a.url))
	fmt.Fprintf(&b, "  # The certificate names the domain above and the host of url.\n  cert_file: %s\n  key_file: %s\n\n", quote(a.cert), quote(a.key))
	if a.postgres() {
		fmt.Fprintf(&b, "storage:\n  postgres_file: postgres.url\n\n")
	} else {
		fmt.Fprintf(&b, "storage:\n  sqlite: %s\n\n", quote(a.storage))
	}
	fmt.Fprintf(&b, "secrets:\n  # Seals MLS keys and messages in the database. Back it up apart from that.\n  key_file: sealing.key\n\n")
	fmt.Fprintf(&b, "# Who may use it: none, user or admin, by address, domain or \"*\".\npermissions:\n  %s: user\n\n", quote(a.domain))
	fmt.Fprintf(&b, "log:\n  level: info\n")
	return b.String()
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

// prosodySnippet and ejabberdSnippet are what the server's configuration needs. upload is the domain of its upload service.
func prosodySnippet(x *config.XMPP, upload, secret string) string {
	_, port, _ := net.SplitHostPort(x.Server)
	if upload == "" {
		upload = "upload." + x.LocalDomain
	}
	return fmt.Sprintf(`component_ports = { %[1]s }
Component "%[2]s"
  component_secret = "%[4]s"
Component "%[3]s"
  component_secret = "%[4]s"

-- Files: below Component "%[5]s" "http_file_share"
--   http_file_share_access = { "%[2]s", "%[3]s" }
-- Optional, keeps rosters and bookmarks (XEP-0356, mod_privilege of prosody-modules):
--   below both Components:  modules_enabled = { "privilege" }
--   below VirtualHost "%[6]s", with "privilege" in the modules_enabled that hold for it
--   privileged_entities = { ["%[2]s"] = { roster = "both", iq = { ["http://jabber.org/protocol/pubsub"] = "both" } } }
`, port, x.Users, x.Rooms, secret, upload, x.LocalDomain)
}

func ejabberdSnippet(x *config.XMPP, secret string) string {
	_, port, _ := net.SplitHostPort(x.Server)
	return fmt.Sprintf(`# under listen:
  - port: %[1]s
    ip: "127.0.0.1"
    module: ejabberd_service
    hosts:
      %[2]s: { password: "%[4]s" }
      %[3]s: { password: "%[4]s" }
# under acl: and access_rules: (files; with mod_http_upload: { access: mimibridge_upload }, and privileges)
#   acl: { mimibridge: { server: [ %[2]s, %[3]s ] } }
#   access_rules: { mimibridge_upload: { allow: [ local, mimibridge ] }, mimibridge: { allow: mimibridge } }
# Optional, keeps rosters and bookmarks (XEP-0356), from ejabberd 23.10 on, under modules:
#   mod_privilege: { roster: { both: mimibridge }, iq: { "http://jabber.org/protocol/pubsub": { both: mimibridge } } }
`, port, x.Users, x.Rooms, secret)
}

// writeSnippets writes, for XMPP, what the server that was found needs; for one that is not known, of both kinds.
func writeSnippets(c *config.Config, dir string, found find.Server) (files []string, err error) {
	x := c.Network.XMPP
	if x == nil {
		return nil, nil
	}
	for name, text := range map[string]string{"prosody": prosodySnippet(x, found.Upload, x.Secret), "ejabberd": ejabberdSnippet(x, x.Secret)} {
		if found.Network == "xmpp" && !strings.EqualFold(found.Name, name) {
			continue
		}
		file := filepath.Join(dir, name+"-component."+map[string]string{"prosody": "cfg.lua", "ejabberd": "yml"}[name])
		if err := writeUnlessThere(file, text); err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	slices.Sort(files)
	return files, nil
}

// tellRest says the two things that are left to do.
func tellRest(e *env, c *config.Config, path string, snippets []string) {
	fmt.Fprintf(e.out, "Two things are left:\n\n1. ")
	switch x, m := c.Network.XMPP, c.Network.Matrix; {
	case m != nil:
		fmt.Fprintf(e.out, `Give the homeserver a copy of %s and restart it:

    # Synapse, homeserver.yaml             # Dendrite, dendrite.yaml
    app_service_config_files:              app_service_api:
      - /etc/matrix/mimibridge.yaml          config_files: [/etc/matrix/mimibridge.yaml]

`, m.Registration)
	case x != nil:
		from := ", with the component secret in place of SECRET"
		if len(snippets) > 0 {
			from = " (" + strings.Join(snippets, ", ") + " has it with the secret)"
		}
		indent := func(s string) string { return "    " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ") }
		fmt.Fprintf(e.out, "Give the XMPP server both components%s and restart it (for ejabberd, reload_config will\ndo):\n\n    -- Prosody, prosody.cfg.lua\n%s\n\n    # ejabberd, ejabberd.yml\n%s\n\n", from, indent(prosodySnippet(x, "", "SECRET")), indent(ejabberdSnippet(x, "SECRET")))
	default:
		fmt.Fprintf(e.out, "There is no chat server to be told anything: `mimibridge chat -as NAME` is for your users.\n\n")
	}
	fmt.Fprintf(e.out, `2. Let your web server answer https://%s/.well-known/mimi-protocol-directory: by a file with what
   mimibridge directory -c %s prints, or by passing that path on to %s.

Then try it:

    mimibridge check -c %[2]s
    mimibridge run -c %[2]s
`, c.Domain, path, c.Federation.Listen)
}
