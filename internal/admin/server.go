// Package admin is how a running daemon is looked after: HTTP with JSON on a Unix socket that only its owner may open, for
// the commands of mimibridge; and, if configured, a plain TCP listener for monitoring and the delete-account hook.
//
// On the socket, below /v1/: status, rooms, peers, users, queues, reports, directory, config, reload, uninstall, and console/, which is
// the console adapter's. What changes something is a POST. An error is {"error": "…", "kind": "not found"}, with the status
// code of its kind. On both: /metrics (Prometheus text format), /healthz (the process answers), /readyz (the provider
// serves and its database answers), and the same two under the names that Matrix bridges have them,
// /_matrix/mau/live and /_matrix/mau/ready. On the listener alone: POST /hooks/delete-account, with the token.
package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/mimibridge/mimibridge/core"
	"github.com/mimibridge/mimibridge/core/fault"
	"github.com/mimibridge/mimibridge/core/mimiuri"
)

// Config is what the server works with.
type Config struct {
	Provider *core.Provider
	Version  string
	Socket   string       // path; required
	Listen   string       // "host:port", empty for none
	Token    string       // of the listener, empty for none
	Console  http.Handler // of the console adapter, nil for none
	// Provision takes commands in the name of the network's users: POST /provision on the listener, with the token. Nil for none.
	Provision http.Handler
	// Settings gives what `config show` prints; Reload reads the configuration again and says what it changed and what needs a restart.
	Settings func() any
	Reload   func() (changed, restart []string, err error)
	// Stop has the process end in order.
	Stop func()
	// LocalUser makes of the network's id of a user ("alice@example.org", "@alice:example.org") the user's URI.
	LocalUser func(id string) (mimiuri.URI, bool)
	Log       zerolog.Logger
}

// Server serves both. Make it with New.
type Server struct {
	cfg    Config
	socket net.Listener
	tcp    net.Listener
}

// New opens the socket and the listener, so that an address that is taken is an error at the start. A socket file that a crashed
// daemon left behind is replaced.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg}
	if c, err := net.DialTimeout("unix", cfg.Socket, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("admin: another daemon serves the socket %s", cfg.Socket)
	}
	if fi, err := os.Lstat(cfg.Socket); err == nil {
		if fi.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("admin: %s exists and is no socket", cfg.Socket)
		}
		if err := os.Remove(cfg.Socket); err != nil {
			return nil, fmt.Errorf("admin: %w", err)
		}
	}
	var err error
	if s.socket, err = listenPrivate(cfg.Socket); err != nil {
		return nil, fmt.Errorf("admin: socket: %w", err)
	}
	if cfg.Listen != "" {
		if s.tcp, err = net.Listen("tcp", cfg.Listen); err != nil {
			s.socket.Close()
			return nil, fmt.Errorf("admin: listener: %w", err)
		}
	}
	return s, nil
}

var umask sync.Mutex

// listenPrivate makes the socket with mode 0600 from its first moment on.
func listenPrivate(path string) (net.Listener, error) {
	umask.Lock()
	defer umask.Unlock()
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}

// Run serves until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	serve := func(ln net.Listener, h http.Handler) {
		if ln == nil {
			return
		}
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10, BaseContext: func(net.Listener) context.Context { return ctx }}
		wg.Add(2)
		go func() {
			defer wg.Done()
			if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				s.cfg.Log.Error().Err(err).Msg("the admin listener failed")
			}
		}()
		go func() {
			defer wg.Done()
			<-ctx.Done()
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if srv.Shutdown(grace) != nil {
				srv.Close()
			}
		}()
	}
	serve(s.socket, s.recovered(s.socketHandler()))
	serve(s.tcp, s.recovered(s.tcpHandler()))
	wg.Wait()
	return nil
}

// Close closes what New opened, for a server that is not run.
func (s *Server) Close() {
	s.socket.Close()
	if s.tcp != nil {
		s.tcp.Close()
	}
}

// Addr is the TCP listener's address, nil without one.
func (s *Server) Addr() net.Addr {
	if s.tcp == nil {
		return nil
	}
	return s.tcp.Addr()
}

func (s *Server) recovered(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == http.ErrAbortHandler {
				panic(p) // what has begun must not look whole
			}
			if p != nil {
				s.cfg.Log.Error().Str("panic", fmt.Sprintf("%T", p)).Str("path", r.URL.Path).Msg("an admin request failed")
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

func (s *Server) monitoring(mux *http.ServeMux, guarded func(http.HandlerFunc) http.HandlerFunc) {
	live := func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok\n") }
	ready := func(w http.ResponseWriter, r *http.Request) {
		if err := s.cfg.Provider.Ready(r.Context()); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, public(err))
			return
		}
		io.WriteString(w, "ok\n")
	}
	mux.HandleFunc("GET /healthz", live)
	mux.HandleFunc("GET /_matrix/mau/live", live)
	mux.HandleFunc("GET /readyz", ready)
	mux.HandleFunc("GET /_matrix/mau/ready", ready)
	mux.HandleFunc("GET /metrics", guarded(s.serveMetrics))
}

func (s *Server) tcpHandler() http.Handler {
	mux := http.NewServeMux()
	s.monitoring(mux, func(h http.HandlerFunc) http.HandlerFunc {
		if s.cfg.Token == "" {
			return h
		}
		return s.authorized(h)
	})
	if s.cfg.Token != "" {
		mux.HandleFunc("POST /hooks/delete-account", s.authorized(s.deleteAccount))
		if s.cfg.Provision != nil {
			mux.HandleFunc("POST /provision", s.authorized(s.cfg.Provision.ServeHTTP))
		}
	}
	return mux
}

func (s *Server) authorized(h http.HandlerFunc) http.HandlerFunc {
	want := sha256.Sum256([]byte(s.cfg.Token))
	return func(w http.ResponseWriter, r *http.Request) {
		given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(given))
		if !ok || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h(w, r)
	}
}

// deleteAccount takes {"user": "alice@example.org"}: the network has deleted this account. The deletion is a job that goes on in the
// background; asking again changes nothing.
func (s *Server) deleteAccount(w http.ResponseWriter, r *http.Request) {
	var body struct {
		User string `json:"user"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 4096)).Decode(&body); err != nil || body.User == "" {
		fail(w, fault.New(fault.Malformed, `the body is {"user": "ID"}`))
		return
	}
	user, ok := s.cfg.LocalUser(body.User)
	host := s.cfg.Provider.Host("")
	switch {
	case !ok:
		fail(w, fault.New(fault.Malformed, "this is no user of this provider"))
		return
	case host == nil:
		fail(w, fault.New(fault.Unavailable, "there is no adapter"))
		return
	}
	if err := host.DeleteUser(r.Context(), user); err != nil {
		fail(w, err)
		return
	}
	s.cfg.Log.Info().Str("user", user.String()).Msg("the account is gone; its deletion begins")
	w.WriteHeader(http.StatusAccepted)
}

func public(err error) string {
	if text := fault.Public(err); text != "" {
		return text
	}
	return "it failed; the log of the daemon says why"
}

var statusOf = map[fault.Kind]int{
	fault.Malformed: http.StatusBadRequest, fault.Forbidden: http.StatusForbidden, fault.NotFound: http.StatusNotFound,
	fault.TooLarge: http.StatusRequestEntityTooLarge, fault.Conflict: http.StatusConflict, fault.Limited: http.StatusTooManyRequests,
	fault.Unavailable: http.StatusServiceUnavailable, fault.Internal: http.StatusInternalServerError,
}

func fail(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf[fault.KindOf(err)])
	_ = json.NewEncoder(w).Encode(map[string]string{"error": public(err), "kind": fault.KindOf(err).String()})
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}
