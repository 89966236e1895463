//go:build live

package image

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/mimibridge/mimibridge/config"
	"github.com/mimibridge/mimibridge/internal/testnet"
)

const top = "../.."

// TestDockerfile takes the Dockerfile's steps, starts the result in its own empty root as its own user, waits for its health check, and
// stops it.
func TestDockerfile(t *testing.T) {
	img, err := Build(t.Context(), top, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	err = filepath.WalkDir(img.Root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(img.Root, path)
			files = append(files, rel)
		}
		return err
	})
	if want := []string{"etc/ssl/certs/ca-certificates.crt", "mimibridge"}; err != nil || !slices.Equal(files, want) {
		t.Errorf("the image has %q (%v), want %q", files, err, want)
	}
	bin, err := elf.Open(filepath.Join(img.Root, "mimibridge"))
	if err != nil {
		t.Fatal(err)
	}
	defer bin.Close()
	if libs, _ := bin.ImportedLibraries(); len(libs) > 0 || bin.Section(".interp") != nil {
		t.Errorf("the binary is not static: %q", libs)
	}
	if img.UID == 0 || img.GID == 0 || len(img.Healthcheck) == 0 || !slices.Contains(img.Expose, "8443") {
		t.Fatalf("%+v", img)
	}

	data := filepath.Join(img.Root, "data")
	ca, err := testnet.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.IssueWith("c", testnet.CertOptions{Names: []string{"example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	ports, err := testnet.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, content []byte) {
		path := filepath.Join(data, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(path, int(img.UID), int(img.GID)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, from := range map[string]string{"fullchain.pem": cert, "privkey.pem": key} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		put(name, b)
	}
	put("sealing.key", []byte(config.NewSealingKey()))
	put("mimibridge.yaml", fmt.Appendf(nil, "domain: example.org\nnetwork: {}\nfederation: {listen: %q, cert_file: fullchain.pem, key_file: privkey.pem}\n", testnet.Loopback(ports[0])))

	var log bytes.Buffer
	run := img.Command(t.Context(), append(img.Entrypoint, img.Cmd...)...)
	run.Stderr = &log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	healthy := false
	for range 300 {
		if img.Command(t.Context(), img.Healthcheck...).Run() == nil {
			healthy = true
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	_ = run.Process.Signal(syscall.SIGTERM)
	if err := run.Wait(); err != nil || !healthy {
		t.Errorf("healthy: %v, ended: %v; it logged:\n%s", healthy, err, log.String())
	}
	if out, err := img.Command(t.Context(), img.Healthcheck...).CombinedOutput(); err == nil {
		t.Errorf("a daemon that was stopped is healthy: %s", out)
	}
	if out, err := img.Command(t.Context(), img.Entrypoint[0], "version").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "mimibridge ") {
		t.Errorf("version: %v, %s", err, out)
	}
}

// TestUnit has systemd read the unit, and judge how exposed it is.
func TestUnit(t *testing.T) {
	dir := t.TempDir()
	b, err := os.ReadFile(filepath.Join(top, "packaging", "mimibridge.service"))
	if err != nil {
		t.Fatal(err)
	}
	// The program is not installed; another stands for it.
	unit := filepath.Join(dir, "mimibridge.service")
	if err := os.WriteFile(unit, bytes.Replace(b, []byte("ExecStart=/usr/local/bin/mimibridge"), []byte("ExecStart=/bin/true"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", unit).CombinedOutput(); err != nil || strings.Contains(string(out), "mimibridge.service:") {
		t.Errorf("verify: %v\n%s", err, out)
	}
	// 0 is locked in, 10 exposed; systemd calls what is below 2.5 OK.
	if out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=yes", "--threshold=25", unit).CombinedOutput(); err != nil {
		t.Errorf("security: %v\n%s", err, out)
	}
	for _, want := range []string{"Type=notify", "WatchdogSec=", "ExecReload=/bin/kill -HUP $MAINPID", "User=mimibridge"} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("the unit lacks %s", want)
		}
	}
}

// TestCompose reads the compose examples: what they build and mount is there, and what they promise of the container holds.
func TestCompose(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(top, "packaging", "*", "compose.yaml"))
	if err != nil || len(found) != 2 {
		t.Fatalf("%v %q", err, found)
	}
	for _, path := range found {
		var c struct {
			Services map[string]struct {
				Image    string   `yaml:"image"`
				Build    string   `yaml:"build"`
				Ports    []string `yaml:"ports"`
				Volumes  []string `yaml:"volumes"`
				ReadOnly bool     `yaml:"read_only"`
				Depends  []string `yaml:"depends_on"`
			} `yaml:"services"`
			Volumes map[string]any `yaml:"volumes"`
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(b, &c); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		m := c.Services["mimibridge"]
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), m.Build, "Dockerfile")); err != nil || !m.ReadOnly || !slices.Contains(m.Volumes, "./mimibridge:/data") || !slices.Contains(m.Ports, "8443:8443") {
			t.Errorf("%s: %v %+v", path, err, m)
		}
		for name, s := range c.Services {
			if name == "mimibridge" {
				continue
			}
			if !slices.Contains(m.Depends, name) || !strings.Contains(s.Image, ":") || strings.HasSuffix(s.Image, ":latest") {
				t.Errorf("%s: %s %+v", path, name, s)
			}
			for _, v := range s.Volumes {
				from, _, _ := strings.Cut(v, ":")
				if _, named := c.Volumes[from]; !named && !strings.HasPrefix(from, "./") {
					t.Errorf("%s: volume %s", path, v)
				}
			}
		}
	}
}
