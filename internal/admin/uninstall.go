package admin

import (
	"net/http"
	"strconv"

	"github.com/mimibridge/mimibridge/core/fault"
)

func (s *Server) uninstall(get func(string, func(*http.Request) (any, error)), post func(string, func(*http.Request, Query) (any, error))) {
	p := s.cfg.Provider
	get("/v1/uninstall", func(r *http.Request) (any, error) {
		from, _ := strconv.Atoi(r.URL.Query().Get("from"))
		return p.Uninstalling(from), nil
	})
	get("/v1/uninstall/plan", func(r *http.Request) (any, error) {
		steps, err := p.UninstallPlan(r.Context())
		if steps == nil {
			steps = []string{}
		}
		return steps, err
	})
	post("/v1/uninstall", func(r *http.Request, q Query) (any, error) {
		return struct{}{}, p.Uninstall(r.Context(), q.GiveUp)
	})
	// The last thing the command asks for: what is left is files, and they are in use.
	post("/v1/uninstall/stop", func(r *http.Request, q Query) (any, error) {
		if !p.Uninstalling(0).Done {
			return nil, fault.New(fault.Conflict, "it is not done yet")
		}
		s.cfg.Stop()
		return struct{}{}, nil
	})
}
