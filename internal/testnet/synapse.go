package testnet

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
)

// SynapseVersion is the version of matrix-synapse that BuildSynapse installs.
const SynapseVersion = "1.163.2"

// BuildSynapse makes sure that Synapse is installed in a Python environment of its own in the user's cache folder
// and returns that folder. The first time takes about a minute and needs Debian's python3-venv and the Python package
// index. Programs that call it at the same time wait for each other. progress may be nil.
func BuildSynapse(ctx context.Context, progress *Progress) (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("testnet: install synapse: %w", err)
	}
	dir = filepath.Join(cache, "mimibridge", "synapse-"+SynapseVersion)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("testnet: install synapse: %w", err)
	}
	stamp := filepath.Join(dir, "installed")
	if built(stamp, SynapseVersion) {
		return dir, nil
	}
	unlock, err := lockFile(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", fmt.Errorf("testnet: install synapse: %w", err)
	}
	defer unlock()
	if built(stamp, SynapseVersion) {
		return dir, nil
	}
	err = progress.Step("installing Synapse "+SynapseVersion+" from the Python package index", func() error {
		run := func(name string, args ...string) error {
			out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w:\n%s", err, lastLines(string(out), 10))
			}
			return nil
		}
		if err := run(debianPython, "-m", "venv", "--clear", filepath.Join(dir, "env")); err != nil {
			return fmt.Errorf("Python cannot make an environment: apt-get install -y python3-venv (%w)", err)
		}
		if err := run(filepath.Join(dir, "env", "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "matrix-synapse=="+SynapseVersion); err != nil {
			return err
		}
		return os.WriteFile(stamp, []byte(SynapseVersion), 0o644)
	})
	if err != nil {
		return "", fmt.Errorf("testnet: install synapse: %w", err)
	}
	return dir, nil
}

// StartSynapse installs the homeserver if need be, writes its configuration and starts it. It is ready for clients when this
// returns. It ends with ctx.
func StartSynapse(ctx context.Context, o HomeserverOptions) (*Homeserver, error) {
	env, err := BuildSynapse(ctx, o.Progress)
	if err != nil {
		return nil, err
	}
	h, err := newHomeserver("synapse", o)
	if err != nil {
		return nil, err
	}
	h.health = "/_matrix/client/versions"
	h.command = Command{Path: filepath.Join(env, "env", "bin", "python"), Args: []string{"-m", "synapse.app.homeserver", "-c", "homeserver.yaml"}}
	return h.begin(ctx, func(services []string) error { return configureSynapse(ctx, h, services) })
}

func configureSynapse(ctx context.Context, h *Homeserver, services []string) error {
	_, port, err := net.SplitHostPort(h.addr)
	if err != nil {
		return err
	}
	// No limits: the tests are faster than people.
	free := map[string]any{"per_second": 10000, "burst_count": 10000}
	limits := map[string]any{}
	for _, name := range []string{"rc_message", "rc_registration", "rc_admin_redaction", "rc_room_creation"} {
		limits[name] = free
	}
	conf := map[string]any{
		"server_name":                 h.ServerName,
		"pid_file":                    filepath.Join(h.Dir, "synapse.pid"),
		"signing_key_path":            filepath.Join(h.Dir, "signing.key"),
		"media_store_path":            filepath.Join(h.Dir, "media"),
		"log_config":                  filepath.Join(h.Dir, "log.yaml"),
		"database":                    map[string]any{"name": "sqlite3", "args": map[string]any{"database": filepath.Join(h.Dir, "homeserver.db")}},
		"listeners":                   []any{map[string]any{"port": json.Number(port), "type": "http", "bind_addresses": []string{"127.0.0.1"}, "resources": []any{map[string]any{"names": []string{"client"}}}}},
		"registration_shared_secret":  h.secret,
		"macaroon_secret_key":         h.secret,
		"form_secret":                 h.secret,
		"report_stats":                false,
		"trusted_key_servers":         []any{},
		"bcrypt_rounds":               4,
		"presence":                    map[string]any{"enabled": false},
		"app_service_config_files":    services,
		"rc_login":                    map[string]any{"address": free, "account": free, "failed_attempts": free},
		"rc_joins":                    map[string]any{"local": free, "remote": free},
		"rc_invites":                  map[string]any{"per_room": free, "per_user": free, "per_issuer": free},
		"rc_joins_per_room":           free,
		"federation_domain_whitelist": []string{},
		"suppress_key_server_warning": true,
		// Keys for application services' devices: both are switches of experiments, also in a release.
		"experimental_features": map[string]any{"msc2409_to_device_messages_enabled": true, "msc3202_transaction_extensions": true},
	}
	for k, v := range limits {
		conf[k] = v
	}
	if f := h.federation; f != nil {
		delete(conf, "federation_domain_whitelist")
		conf["tls_certificate_path"], conf["tls_private_key_path"], conf["federation_custom_ca_list"] = f.CertFile, f.KeyFile, []string{f.CAFile}
		conf["ip_range_blacklist"], conf["federation_client_minimum_tls_version"] = []string{}, "1.2"
		conf["listeners"] = append(conf["listeners"].([]any), map[string]any{"port": f.Port, "type": "http", "tls": true, "bind_addresses": []string{"127.0.0.1"},
			"resources": []any{map[string]any{"names": []string{"federation"}}}})
	}
	b, err := json.Marshal(conf) // JSON is YAML
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(h.Dir, "homeserver.yaml"), b, 0o600); err != nil {
		return err
	}
	const logging = `{"version": 1, "disable_existing_loggers": false, "formatters": {"f": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
 "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}}, "root": {"level": "WARNING", "handlers": ["h"]}}`
	if err := os.WriteFile(filepath.Join(h.Dir, "log.yaml"), []byte(logging), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, h.command.Path, "-m", "synapse.app.homeserver", "-c", "homeserver.yaml", "--generate-keys")
	cmd.Dir = h.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(string(out), 5))
	}
	return nil
}
