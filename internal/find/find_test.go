package find

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

func TestServers(t *testing.T) {
	for _, tc := range []struct {
		name, file, text string
		more             map[string]string
		want             Server
	}{
		{"Prosody", "etc/prosody/prosody.cfg.lua", `
-- VirtualHost "commented.example"
--[[ VirtualHost "also.example"
]]
component_ports = { 5999 }
component_interfaces = { "127.0.0.2" }
VirtualHost "localhost"
VirtualHost "example.org"
	authentication = "internal_hashed"
Component "upload.example.org" "http_file_share"
Include "conf.d/*.cfg.lua"
`, map[string]string{"etc/prosody/conf.d/x.cfg.lua": `VirtualHost "example.net"`},
			Server{Name: "Prosody", Network: "xmpp", Domains: []string{"example.org", "example.net"}, Addr: "127.0.0.2:5999", Upload: "upload.example.org"}},
		{"ejabberd", "etc/ejabberd/ejabberd.yml", "hosts: [localhost, example.org]\nlisten:\n  - {port: 5222, module: ejabberd_c2s}\n  - {port: 5348, ip: \"::\", module: ejabberd_service}\nmodules:\n  mod_http_upload: {host: \"up.@HOST@\"}\n", nil,
			Server{Name: "ejabberd", Network: "xmpp", Domains: []string{"example.org"}, Addr: "127.0.0.1:5348", Upload: "up.example.org"}},
		{"Synapse", "etc/matrix-synapse/homeserver.yaml", "server_name: example.org\nlisteners:\n- {port: 9000, type: metrics, resources: []}\n- {port: 8009, tls: false, bind_addresses: ['::1', '127.0.0.1'], type: http, resources: [{names: [client, federation]}]}\napp_service_config_files: [/etc/matrix-synapse/a.yaml]\n", nil,
			Server{Name: "Synapse", Network: "matrix", Domains: []string{"example.org"}, Addr: "http://127.0.0.1:8009", Registrations: []string{"/etc/matrix-synapse/a.yaml"}}},
		{"Dendrite", "etc/dendrite/dendrite.yaml", "version: 2\nglobal: {server_name: example.org}\napp_service_api: {config_files: [/etc/x.yaml]}\n", nil,
			Server{Name: "Dendrite", Network: "matrix", Domains: []string{"example.org"}, Addr: "http://127.0.0.1:8008", Registrations: []string{"/etc/x.yaml"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			put(t, root, tc.file, tc.text)
			for name, text := range tc.more {
				put(t, root, name, text)
			}
			tc.want.File = filepath.Join(root, tc.file)
			if got := Servers(root); len(got) != 1 || !reflect.DeepEqual(got[0], tc.want) {
				t.Errorf("found %+v", got)
			}
			if got, ok := File(tc.want.File); !ok || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("by name: %+v", got)
			}
		})
	}
	t.Run("nonsense", func(t *testing.T) {
		root := t.TempDir()
		for _, p := range parsers {
			put(t, root, p.files[0], "\x00{{{: [")
		}
		if got := Servers(root); len(got) != 0 {
			t.Errorf("found %+v", got)
		}
	})
}

func put(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCertificate(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "etc/letsencrypt/live/other")
	ca, err := testnet.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.IssueWith("x", testnet.CertOptions{Names: []string{"example.org", "mimi.example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{cert: "fullchain.pem", key: "privkey.pem"} {
		if err := os.Rename(from, filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	if c, k, ok := Certificate(root, "example.org", "mimi.example.org"); !ok || filepath.Base(c) != "fullchain.pem" || filepath.Base(k) != "privkey.pem" {
		t.Errorf("%s %s %v", c, k, ok)
	}
	if c, _, ok := Certificate(root, "example.org", "example.net"); ok {
		t.Errorf("%s does not name example.net", c)
	}
}

func FuzzServers(f *testing.F) {
	f.Add("VirtualHost \"x\"\nInclude \"*\"", true)
	f.Add("hosts: [a]\nlisten: []\nserver_name: x\nglobal: {server_name: y}\nmodules: {mod_http_upload: 1}", false)
	f.Fuzz(func(t *testing.T, text string, lua bool) {
		parse := []func(string, string) (Server, bool){ejabberd, synapse, dendrite}
		if lua {
			parse = parse[:0]
			parse = append(parse, prosody)
		}
		for _, p := range parse {
			if s, ok := p(text, "/nowhere/x"); ok && (s.Network == "" || s.Addr == "") {
				t.Errorf("%+v", s)
			}
		}
	})
}
