package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// EjabberdInstall is the command that installs what StartEjabberd needs.
const EjabberdInstall = "apt-get install -y ejabberd"

// EjabberdOptions says what server to start.
type EjabberdOptions struct {
	Dir        string            // for configuration, database and log; made if need be
	Domain     string            // "xmpp.example"
	Users      map[string]string // local part and password of each account
	Components []string          // domains of external components (XEP-0114)
	Secret     string            // of all components
	MUC        string            // domain of a MUC service of ejabberd's own, "" for none
	Upload     string            // domain of an upload service (XEP-0363), "" for none

	Modules []string // besides the usual ones, each as "mod_x: {…}"; the access rule "components" lets in Components

	// CertFile and KeyFile let clients use STARTTLS. The certificate names Domain.
	CertFile, KeyFile string

	// Ports to use instead of free ones: for a server that is started again. Zero values are chosen.
	Ports EjabberdPorts
}

// EjabberdPorts are ports on 127.0.0.1.
type EjabberdPorts struct{ C2S, Component, HTTP int }

// Ejabberd is a running ejabberd XMPP server for one domain, on loopback only. It is no Erlang node: nothing but its
// ports can be reached.
type Ejabberd struct {
	*Process
	Domain        string
	C2S           string // "127.0.0.1:port" for clients
	ComponentAddr string // "127.0.0.1:port" for components
	Ports         EjabberdPorts
	Config        string // path of the configuration file
	ServerLog     string // path of ejabberd's own log; LogPath is what it printed
	Version       string // "ejabberd 23.01"
}

// ejabberdHome finds the folder with ejabberd's library, "" if it is not installed.
func ejabberdHome() string {
	for _, pattern := range []string{"/usr/lib/*/ejabberd-*/ebin/ejabberd.app", "/usr/lib/ejabberd-*/ebin/ejabberd.app", "/usr/lib/erlang/lib/ejabberd-*/ebin/ejabberd.app"} {
		if list, _ := filepath.Glob(pattern); len(list) > 0 {
			sort.Strings(list)
			return filepath.Dir(filepath.Dir(list[0]))
		}
	}
	return ""
}

// CheckEjabberd reports whether ejabberd is installed; the error names the command that installs it.
func CheckEjabberd() error {
	if _, err := exec.LookPath("erl"); err != nil || ejabberdHome() == "" {
		return fmt.Errorf("testnet: ejabberd is not installed; install it with: %s", EjabberdInstall)
	}
	return nil
}

// StartEjabberd starts a server and waits until it takes connections. It touches no other ejabberd on the machine and
// nothing outside of Dir. If ejabberd is not installed, the error says how to install it.
func StartEjabberd(ctx context.Context, o EjabberdOptions) (*Ejabberd, error) {
	if err := CheckEjabberd(); err != nil {
		return nil, err
	}
	home := ejabberdHome()
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("testnet: start ejabberd: %w", err)
	}
	for _, d := range []string{"spool", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("testnet: start ejabberd: %w", err)
		}
	}
	if o.Ports.C2S == 0 {
		ports, err := FreePorts(3)
		if err != nil {
			return nil, err
		}
		o.Ports = EjabberdPorts{ports[0], ports[1], ports[2]}
	}
	e := &Ejabberd{
		Domain: o.Domain, Ports: o.Ports, C2S: Loopback(o.Ports.C2S), ComponentAddr: Loopback(o.Ports.Component),
		Config: filepath.Join(dir, "ejabberd.yml"), ServerLog: filepath.Join(dir, "log", "ejabberd.log"),
		Version: "ejabberd",
	}
	if _, v, ok := strings.Cut(filepath.Base(home), "-"); ok {
		v, _, _ = strings.Cut(v, "-")
		e.Version += " " + v
	}
	text, err := o.config(dir)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(e.Config, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("testnet: start ejabberd: %w", err)
	}
	var accounts []string
	for user, password := range o.Users {
		accounts = append(accounts, fmt.Sprintf("ejabberd_auth:try_register(%s,%s,%s)", erlBinary(user), erlBinary(o.Domain), erlBinary(password)))
	}
	sort.Strings(accounts)
	accounts = append(accounts, "ok.")
	// Not by ejabberdctl: it makes an Erlang node of it, with a port mapper that outlives the test, and runs as another user.
	e.Process, err = Start(ctx, Command{
		Name: "ejabberd", Path: "erl", Dir: dir, Log: filepath.Join(dir, "ejabberd.out"),
		Args: []string{"-noinput", "+sbwt", "none", "-mnesia", "dir", strconv.Quote(filepath.Join(dir, "spool")), "-s", "ejabberd", "-eval", strings.Join(accounts, ",")},
		Env: []string{"ERL_LIBS=" + filepath.Dir(home), "HOME=" + dir, "EJABBERD_CONFIG_PATH=" + e.Config, "EJABBERD_LOG_PATH=" + e.ServerLog,
			"ERL_CRASH_DUMP=/dev/null", "EJABBERD_PID_PATH="},
	})
	if err != nil {
		return nil, err
	}
	for _, addr := range []string{e.C2S, e.ComponentAddr} {
		if err := e.WaitPort(ctx, addr); err != nil {
			e.Stop()
			return nil, errors.Join(err, fmt.Errorf("end of the server's log:\n%s", Tail(e.ServerLog, 15)))
		}
	}
	return e, nil
}

// erlBinary writes s as a binary of Erlang.
func erlBinary(s string) string {
	out := make([]string, len(s))
	for i := range len(s) {
		out[i] = strconv.Itoa(int(s[i]))
	}
	return "<<" + strings.Join(out, ",") + ">>"
}

func (o EjabberdOptions) config(dir string) (string, error) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("hosts: [%q]", o.Domain)
	line("loglevel: info")
	tls := ""
	if o.CertFile != "" {
		// One file with both.
		var pem []byte
		for _, f := range []string{o.KeyFile, o.CertFile} {
			part, err := os.ReadFile(f)
			if err != nil {
				return "", fmt.Errorf("testnet: start ejabberd: %w", err)
			}
			pem = append(append(pem, part...), '\n')
		}
		path := filepath.Join(dir, "both.pem")
		if err := os.WriteFile(path, pem, 0o600); err != nil {
			return "", fmt.Errorf("testnet: start ejabberd: %w", err)
		}
		line("certfiles: [%q]", path)
		tls = ", starttls: true"
	} else {
		line("certfiles: []")
	}
	quoted := []string{`"none.invalid"`}
	for _, c := range o.Components {
		quoted = append(quoted, strconv.Quote(c))
	}
	line(`s2s_access: none
auth_method: internal
auth_password_format: plain
acl: {local: {user_regexp: ""}, components: {server: [%s]}}
access_rules: {local: {allow: local}, components: {allow: components}}
shaper_rules: {}
listen:
  - {port: %d, ip: "127.0.0.1", module: ejabberd_c2s, max_stanza_size: 8388608%s}`, strings.Join(quoted, ", "), o.Ports.C2S, tls)
	var hosts []string
	for _, c := range o.Components {
		hosts = append(hosts, fmt.Sprintf("%q: {password: %q}", c, o.Secret))
	}
	line("  - {port: %d, ip: \"127.0.0.1\", module: ejabberd_service, max_stanza_size: 8388608, access: all, hosts: {%s}}", o.Ports.Component, strings.Join(hosts, ", "))
	upload := ""
	if o.Upload != "" {
		line("  - {port: %d, ip: \"127.0.0.1\", module: ejabberd_http, request_handlers: {\"/upload\": mod_http_upload}}", o.Ports.HTTP)
		upload = fmt.Sprintf(", mod_http_upload: {host: %q, put_url: %q, docroot: %q, access: all, max_size: 10000000}",
			o.Upload, "http://"+Loopback(o.Ports.HTTP)+"/upload", filepath.Join(dir, "upload"))
	}
	muc := ""
	if o.MUC != "" {
		muc = fmt.Sprintf(", mod_muc: {host: %q, access: all, access_create: all}", o.MUC)
	}
	for _, m := range o.Modules {
		muc += ", " + m
	}
	line("modules: {mod_disco: {}, mod_caps: {}, mod_roster: {}, mod_ping: {}, mod_privacy: {}, mod_blocking: {}, mod_carboncopy: {}, mod_offline: {}, mod_vcard: {}, mod_pubsub: {plugins: [flat, pep]}%s%s}", muc, upload)
	return b.String(), nil
}
