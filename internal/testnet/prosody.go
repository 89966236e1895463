package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// ProsodyInstall is the command that installs what StartProsody needs.
const ProsodyInstall = "apt-get install -y prosody"

// ProsodyOptions says what server to start.
type ProsodyOptions struct {
	Dir        string            // for configuration, data and log; made if need be
	Domain     string            // "xmpp.example"
	Users      map[string]string // local part and password of each account
	Components []string          // domains of external components (XEP-0114)
	Secret     string            // of all components
	MUC        string            // domain of a MUC service of Prosody's own, "" for none
	Upload     string            // domain of an upload service (XEP-0363), "" for none

	// CertFile and KeyFile let clients use STARTTLS, and components TLS from the first octet at
	// ComponentTLS. The certificate names Domain.
	CertFile, KeyFile string

	// Ports to use instead of free ones: for a server that is started again. Zero values are chosen.
	Ports ProsodyPorts

	Modules   []string // to be loaded besides the usual ones; those of Debian's prosody-modules may be named
	HostLines []string // of configuration, below the domain
	MUCLines  []string // below MUC
	CompLines []string // below each of Components
	More      []string // at the end: other components

	Plain bool // let clients log in without STARTTLS even though there is a certificate
}

// ProsodyPorts are ports on 127.0.0.1.
type ProsodyPorts struct{ C2S, Component, ComponentTLS, HTTP int }

// Prosody is a running Prosody XMPP server for one domain, on loopback only.
type Prosody struct {
	*Process
	Domain        string
	C2S           string // "127.0.0.1:port" for clients
	ComponentAddr string // "127.0.0.1:port" for components
	ComponentTLS  string // the same with TLS, "" without certificate
	Ports         ProsodyPorts
	Config        string // path of the configuration file
	ServerLog     string // path of Prosody's own log; LogPath is what it printed
	Version       string // "Prosody 0.12.3", "Prosody" if it does not say
}

// CheckProsody reports whether Prosody is installed; the error names the command that installs it.
func CheckProsody() error {
	for _, program := range []string{"prosody", "prosodyctl"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("testnet: %s is not installed; install it with: %s", program, ProsodyInstall)
		}
	}
	return nil
}

// ProsodyVersion is the name and version of the installed Prosody, "Prosody" if it does not say.
func ProsodyVersion(ctx context.Context) string {
	out, _ := exec.CommandContext(ctx, "prosodyctl", "about").Output()
	// Advice about libraries that are not installed may stand before it.
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "Prosody" && f[1][0] >= '0' && f[1][0] <= '9' {
			return strings.Join(f, " ")
		}
	}
	return "Prosody"
}

// StartProsody starts a server and waits until it takes connections. It touches no other Prosody on the machine and
// nothing outside of Dir. If Prosody is not installed, the error says how to install it.
func StartProsody(ctx context.Context, o ProsodyOptions) (*Prosody, error) {
	if err := CheckProsody(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("testnet: start prosody: %w", err)
	}
	for _, d := range []string{"data", "certs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("testnet: start prosody: %w", err)
		}
	}
	tls := o.CertFile != ""
	if o.Ports.C2S == 0 {
		ports, err := FreePorts(4)
		if err != nil {
			return nil, err
		}
		o.Ports = ProsodyPorts{ports[0], ports[1], ports[2], ports[3]}
	}
	p := &Prosody{
		Domain: o.Domain, Ports: o.Ports,
		C2S: Loopback(o.Ports.C2S), ComponentAddr: Loopback(o.Ports.Component),
		Config: filepath.Join(dir, "prosody.cfg.lua"), ServerLog: filepath.Join(dir, "prosody.log"),
		Version: ProsodyVersion(ctx),
	}
	if tls {
		p.ComponentTLS = Loopback(o.Ports.ComponentTLS)
	}
	if err := os.WriteFile(p.Config, []byte(o.config(dir)), 0o600); err != nil {
		return nil, fmt.Errorf("testnet: start prosody: %w", err)
	}
	if err := o.accounts(dir); err != nil {
		return nil, fmt.Errorf("testnet: start prosody: %w", err)
	}
	p.Process, err = Start(ctx, Command{
		Name: "prosody", Path: "prosody", Args: []string{"-F", "--config", p.Config},
		Dir: dir, Log: filepath.Join(dir, "prosody.out"),
	})
	if err != nil {
		return nil, err
	}
	for _, addr := range []string{p.C2S, p.ComponentAddr, p.ComponentTLS} {
		if addr == "" {
			continue
		}
		if err := p.WaitPort(ctx, addr); err != nil {
			p.Stop()
			return nil, errors.Join(err, fmt.Errorf("end of the server's log:\n%s", Tail(p.ServerLog, 15)))
		}
	}
	return p, nil
}

// accounts writes Prosody's account files (storage "internal"): prosodyctl would take a second for each.
func (o ProsodyOptions) accounts(dir string) error {
	folder := filepath.Join(dir, "data", prosodyEscape(o.Domain), "accounts")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	for user, password := range o.Users {
		text := "return {\n\t[\"password\"] = " + luaString(password) + ";\n};\n"
		if err := os.WriteFile(filepath.Join(folder, prosodyEscape(user)+".dat"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// prosodyEscape is how Prosody's internal storage writes names of files.
func prosodyEscape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}

// luaString quotes s for Lua.
func luaString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c > '~' {
			fmt.Fprintf(&b, "\\%03d", c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func (o ProsodyOptions) config(dir string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	tls := o.CertFile != ""
	line("pidfile = %s", luaString(filepath.Join(dir, "prosody.pid")))
	line("data_path = %s", luaString(filepath.Join(dir, "data")))
	line("certificates = %s", luaString(filepath.Join(dir, "certs")))
	line("run_as_root = true")
	line("log = { { levels = { min = \"info\" }, to = \"file\", filename = %s } }", luaString(filepath.Join(dir, "prosody.log")))
	line(`interfaces = { "127.0.0.1" }
local_interfaces = { "127.0.0.1" }
component_interfaces = { "127.0.0.1" }
http_interfaces = { "127.0.0.1" }
https_ports = {}
s2s_ports = {}
c2s_direct_tls_ports = {}
c2s_ports = { %d }
component_ports = { %d }`, o.Ports.C2S, o.Ports.Component)
	if o.Upload == "" {
		line("http_ports = {}")
	} else {
		line("http_ports = { %d }\nhttp_external_url = \"http://%s/\"\nhttp_default_host = %s", o.Ports.HTTP, Loopback(o.Ports.HTTP), luaString(o.Upload))
	}
	modules := `"disco", "saslauth", "roster", "ping", "carbons", "pep", "version", "vcard4", "vcard_legacy", "blocklist"`
	disabled := `"s2s"`
	if tls {
		modules += `, "tls", "net_multiplex"`
		line("ssl_ports = { %d }", o.Ports.ComponentTLS)
		line("certificate = %s", luaString(o.CertFile))
		line("ssl = { certificate = %s, key = %s }", luaString(o.CertFile), luaString(o.KeyFile))
	} else {
		disabled += `, "tls"`
	}
	for _, m := range o.Modules {
		modules += ", " + luaString(m)
	}
	line("modules_enabled = { %s }", modules)
	line("modules_disabled = { %s }", disabled)
	line("allow_unencrypted_plain_auth = %t", !tls || o.Plain)
	line(`c2s_require_encryption = false
authentication = "internal_plain"
storage = "internal"
limits = {}
network_backend = "epoll"
c2s_stanza_size_limit = 8*1024*1024
component_stanza_size_limit = 8*1024*1024`)
	line("VirtualHost %s", luaString(o.Domain))
	for _, l := range o.HostLines {
		line("\t%s", l)
	}
	if o.MUC != "" {
		line("Component %s \"muc\"", luaString(o.MUC))
		for _, l := range o.MUCLines {
			line("\t%s", l)
		}
	}
	if o.Upload != "" {
		line("Component %s \"http_file_share\"", luaString(o.Upload))
	}
	components := append([]string(nil), o.Components...)
	sort.Strings(components)
	for _, c := range components {
		line("Component %s", luaString(c))
		line("\tcomponent_secret = %s", luaString(o.Secret))
		for _, l := range o.CompLines {
			line("\t%s", l)
		}
	}
	for _, l := range o.More {
		line("%s", l)
	}
	return b.String()
}
