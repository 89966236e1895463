// Package find looks for what is on this machine already: chat servers, by their configuration files, and certificates. It only
// reads, and what it cannot read or understand it leaves out: everything it finds is a suggestion.
package find

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// Server is a chat server that was found.
type Server struct {
	Name    string   // Prosody, ejabberd, Synapse, Dendrite
	Network string   // xmpp or matrix
	File    string   // where it was found
	Domains []string // of its users; the first is the suggestion
	Addr    string   // xmpp: "host:port" of the component listener; matrix: URL of the client API
	Upload  string   // xmpp: the domain of its upload service, if one is configured
	// Registrations are the application services that it lists (matrix).
	Registrations []string
}

// maxFile bounds what is read of a file.
const maxFile = 1 << 20

func read(path string) (string, bool) {
	f, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	return string(b), err == nil
}

var parsers = []struct {
	files []string
	parse func(text, file string) (Server, bool)
}{
	{[]string{"etc/prosody/prosody.cfg.lua", "usr/local/etc/prosody/prosody.cfg.lua"}, prosody},
	{[]string{"etc/ejabberd/ejabberd.yml", "opt/ejabberd/conf/ejabberd.yml"}, ejabberd},
	{[]string{"etc/matrix-synapse/homeserver.yaml", "data/homeserver.yaml"}, synapse},
	{[]string{"etc/dendrite/dendrite.yaml", "etc/dendrite.yaml"}, dendrite},
}

// Servers looks at the usual places below root ("/").
func Servers(root string) (found []Server) {
	for _, p := range parsers {
		for _, name := range p.files {
			path := filepath.Join(root, name)
			text, ok := read(path)
			if !ok {
				continue
			}
			if s, ok := p.parse(text, path); ok {
				found = append(found, s)
			}
		}
	}
	return found
}

// File reads one configuration of which the kind is not known.
func File(path string) (Server, bool) {
	text, ok := read(path)
	if !ok {
		return Server{}, false
	}
	if strings.HasSuffix(path, ".lua") {
		return prosody(text, path)
	}
	for _, parse := range []func(string, string) (Server, bool){dendrite, synapse, ejabberd} {
		if s, ok := parse(text, path); ok {
			return s, true
		}
	}
	return Server{}, false
}

var (
	luaComment   = regexp.MustCompile(`(?m)--(\[\[(?s:.*?)\]\]|[^\n]*)`)
	luaHost      = regexp.MustCompile(`(?m)^\s*VirtualHost\s*\(?\s*["']([^"']+)["']`)
	luaComponent = regexp.MustCompile(`(?m)^\s*Component\s*\(?\s*["']([^"']+)["']\s*\)?\s*["'](http_file_share|http_upload)["']`)
	luaPorts     = regexp.MustCompile(`(?m)^\s*component_ports?\s*=\s*\{?\s*(\d+)`)
	luaIface     = regexp.MustCompile(`(?m)^\s*component_interfaces?\s*=\s*\{?\s*["']([^"']+)["']`)
	luaInclude   = regexp.MustCompile(`(?m)^\s*Include\s*\(?\s*["']([^"']+)["']`)
)

func prosody(text, file string) (s Server, ok bool) {
	for _, m := range luaInclude.FindAllStringSubmatch(luaComment.ReplaceAllString(text, ""), -1) {
		pattern := m[1]
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(file), pattern)
		}
		more, _ := filepath.Glob(pattern)
		for _, f := range more[:min(len(more), 100)] {
			if t, ok := read(f); ok {
				text += "\n" + t
			}
		}
	}
	text = luaComment.ReplaceAllString(text, "")
	s = Server{Name: "Prosody", Network: "xmpp", File: file}
	host, port := "127.0.0.1", "5347"
	for _, m := range luaHost.FindAllStringSubmatch(text, -1) {
		if m[1] != "localhost" {
			s.Domains = append(s.Domains, m[1])
		}
	}
	if m := luaPorts.FindStringSubmatch(text); m != nil {
		port = m[1]
	}
	if m := luaIface.FindStringSubmatch(text); m != nil && m[1] != "*" && m[1] != "::" && m[1] != "0.0.0.0" {
		host = m[1]
	}
	if m := luaComponent.FindStringSubmatch(text); m != nil {
		s.Upload = m[1]
	}
	s.Addr = net.JoinHostPort(host, port)
	return s, luaHost.MatchString(text)
}

func ejabberd(text, file string) (s Server, ok bool) {
	var c struct {
		Hosts  []string `yaml:"hosts"`
		Listen []struct {
			Port   int    `yaml:"port"`
			IP     string `yaml:"ip"`
			Module string `yaml:"module"`
		} `yaml:"listen"`
		Modules map[string]yaml.Node `yaml:"modules"`
	}
	if yaml.Unmarshal([]byte(text), &c) != nil || len(c.Hosts) == 0 {
		return s, false
	}
	s = Server{Name: "ejabberd", Network: "xmpp", File: file, Domains: slices.DeleteFunc(c.Hosts, func(h string) bool { return h == "localhost" }), Addr: "127.0.0.1:5347"}
	for _, l := range c.Listen {
		if l.Module != "ejabberd_service" {
			continue
		}
		host := strings.Trim(l.IP, "[]")
		if host == "" || host == "::" || host == "0.0.0.0" {
			host = "127.0.0.1"
		}
		s.Addr = net.JoinHostPort(host, strconv.Itoa(l.Port))
	}
	if n, there := c.Modules["mod_http_upload"]; there && len(s.Domains) > 0 {
		var o struct {
			Host  string   `yaml:"host"`
			Hosts []string `yaml:"hosts"`
		}
		_ = n.Decode(&o)
		s.Upload = "upload." + s.Domains[0]
		for _, h := range append(o.Hosts, o.Host) {
			if h != "" {
				s.Upload = strings.ReplaceAll(h, "@HOST@", s.Domains[0])
			}
		}
	}
	return s, true
}

func synapse(text, file string) (s Server, ok bool) {
	var c struct {
		Name      string `yaml:"server_name"`
		Listeners []struct {
			Port      int      `yaml:"port"`
			TLS       bool     `yaml:"tls"`
			Bind      []string `yaml:"bind_addresses"`
			Resources []struct {
				Names []string `yaml:"names"`
			} `yaml:"resources"`
		} `yaml:"listeners"`
		Services []string `yaml:"app_service_config_files"`
	}
	if yaml.Unmarshal([]byte(text), &c) != nil || c.Name == "" {
		return s, false
	}
	// The Debian package keeps the name in a file of its own; then the main file has none and is not taken.
	s = Server{Name: "Synapse", Network: "matrix", File: file, Domains: []string{c.Name}, Addr: "http://127.0.0.1:8008", Registrations: c.Services}
	for _, l := range c.Listeners {
		client := false
		for _, r := range l.Resources {
			client = client || slices.Contains(r.Names, "client")
		}
		if !client || l.Port == 0 {
			continue
		}
		host, scheme := "127.0.0.1", "http://"
		if len(l.Bind) == 1 && !slices.Contains([]string{"", "::", "::1", "0.0.0.0"}, l.Bind[0]) {
			host = l.Bind[0]
		}
		if l.TLS {
			scheme = "https://"
		}
		s.Addr = scheme + net.JoinHostPort(host, strconv.Itoa(l.Port))
		break
	}
	return s, true
}

func dendrite(text, file string) (s Server, ok bool) {
	var c struct {
		Global struct {
			Name string `yaml:"server_name"`
		} `yaml:"global"`
		Services struct {
			Files []string `yaml:"config_files"`
		} `yaml:"app_service_api"`
	}
	if yaml.Unmarshal([]byte(text), &c) != nil || c.Global.Name == "" {
		return s, false
	}
	return Server{Name: "Dendrite", Network: "matrix", File: file, Domains: []string{c.Global.Name}, Addr: "http://127.0.0.1:8008", Registrations: c.Services.Files}, true
}

// Certificate looks for a certificate with its chain that names all the names, and its key, in the usual places below root.
func Certificate(root string, names ...string) (cert, key string, ok bool) {
	if len(names) == 0 {
		return "", "", false
	}
	d := names[0]
	for _, c := range [][2]string{
		{"etc/letsencrypt/live/" + d + "/fullchain.pem", "etc/letsencrypt/live/" + d + "/privkey.pem"},
		{"etc/letsencrypt/live/*/fullchain.pem", "privkey.pem"},
		{"etc/dehydrated/certs/" + d + "/fullchain.pem", "etc/dehydrated/certs/" + d + "/privkey.pem"},
		{"root/.acme.sh/" + d + "_ecc/fullchain.cer", "root/.acme.sh/" + d + "_ecc/" + d + ".key"},
		{"var/lib/caddy/.local/share/caddy/certificates/*/" + d + "/" + d + ".crt", d + ".key"},
		{"etc/prosody/certs/" + d + ".crt", "etc/prosody/certs/" + d + ".key"},
	} {
		certs, _ := filepath.Glob(filepath.Join(root, c[0]))
		for _, cert := range certs {
			key := filepath.Join(root, c[1])
			if !strings.Contains(c[1], "/") {
				key = filepath.Join(filepath.Dir(cert), c[1])
			}
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				continue
			}
			good := true
			for _, n := range names {
				good = good && pair.Leaf.VerifyHostname(n) == nil
			}
			if good {
				return cert, key, true
			}
		}
	}
	return "", "", false
}
