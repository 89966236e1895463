package testnet

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// NginxStream is the path of nginx's module for streams, "" if it is not installed.
func NginxStream() string {
	for _, dir := range []string{"/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"} {
		path := filepath.Join(dir, "ngx_stream_module.so")
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// Nginx starts nginx in the foreground with the blocks of a configuration (events and the rest are added); dir is its folder. The
// caller stops it.
func Nginx(ctx context.Context, dir, blocks string) (*Process, error) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx"
	}
	conf := fmt.Sprintf("load_module %s;\npid %s/nginx.pid;\ndaemon off;\nmaster_process off;\nerror_log stderr;\nevents {}\n%s\n", NginxStream(), dir, blocks)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("testnet: nginx: %w", err)
	}
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return nil, fmt.Errorf("testnet: nginx: %w", err)
	}
	return Start(ctx, Command{Name: "nginx", Path: path, Args: []string{"-p", dir, "-c", file, "-e", "stderr"}, Log: filepath.Join(dir, "nginx.log")})
}

// Caddy starts Caddy with a Caddyfile; dir is its folder. The caller stops it.
func Caddy(ctx context.Context, dir, caddyfile string) (*Process, error) {
	file := filepath.Join(dir, "Caddyfile")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("testnet: caddy: %w", err)
	}
	if err := os.WriteFile(file, []byte(caddyfile), 0o600); err != nil {
		return nil, fmt.Errorf("testnet: caddy: %w", err)
	}
	return Start(ctx, Command{Name: "Caddy", Path: "caddy", Args: []string{"run", "--config", file, "--adapter", "caddyfile"}, Env: []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, Log: filepath.Join(dir, "caddy.log")})
}
