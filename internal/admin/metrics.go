package admin

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
)

// family is one metric with its samples, in the Prometheus text format 0.0.4.
type family struct {
	name, kind, help string
	samples          []sample
}

type sample struct {
	labels string // `{peer="b.example"}` or empty
	value  float64
}

func label(pairs ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s=\"%s\"", pairs[i], strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(pairs[i+1]))
	}
	return "{" + b.String() + "}"
}

func writeFamilies(w io.Writer, fs []family) {
	for _, f := range fs {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
		slices.SortFunc(f.samples, func(a, b sample) int { return cmp.Compare(a.labels, b.labels) })
		for _, s := range f.samples {
			fmt.Fprintf(w, "%s%s %v\n", f.name, s.labels, s.value)
		}
	}
}

// counterFamilies turns core's counters into families: part.what is mimibridge_part_what_total, part.what.of has a label with the rest.
func counterFamilies(counters map[string]uint64) (fs []family) {
	by := map[string]*family{}
	for name, v := range counters {
		part, rest, _ := strings.Cut(name, ".")
		what, of, labelled := strings.Cut(rest, ".")
		metric := "mimibridge_" + clean(part) + "_" + clean(what) + "_total"
		f := by[metric]
		if f == nil {
			f = &family{name: metric, kind: "counter", help: "Counter " + what + " of " + strings.ReplaceAll(part, "_", " ") + " since the start."}
			by[metric] = f
		}
		s := sample{value: float64(v)}
		if labelled {
			s.labels = label("of", of)
		}
		f.samples = append(f.samples, s)
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		fs = append(fs, *by[name])
	}
	return fs
}

func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, strings.ToLower(s))
}

func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	p, ctx := s.cfg.Provider, r.Context()
	rooms, err := p.ListRooms(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	queues, err := p.Queues(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	peers, err := p.Peers(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	up := 0.0
	if p.Ready(ctx) == nil {
		up = 1
	}
	type key struct{ a, b string }
	byRoom, byQueue := map[key]int{}, map[key]int{}
	for _, room := range rooms {
		role := "follower"
		if room.Hub {
			role = "hub"
		}
		byRoom[key{role, room.Status}]++
	}
	for _, q := range queues {
		switch q.Kind {
		case "intent", "inbox":
			byQueue[key{q.Kind, ""}] += q.N
		default:
			byQueue[key{q.Kind, q.Target}] += q.N
		}
	}
	roomF := family{name: "mimibridge_rooms", kind: "gauge", help: "Rooms by role and status."}
	for k, n := range byRoom {
		roomF.samples = append(roomF.samples, sample{label("role", k.a, "status", k.b), float64(n)})
	}
	queueF := family{name: "mimibridge_queue_length", kind: "gauge", help: "Entries that wait, by kind, and by peer or adapter."}
	for k, n := range byQueue {
		queueF.samples = append(queueF.samples, sample{label("kind", k.a, "target", k.b), float64(n)})
	}
	success := family{name: "mimibridge_peer_last_success_timestamp_seconds", kind: "gauge", help: "When a request to a peer was last answered, since the start."}
	failing := family{name: "mimibridge_peer_failing", kind: "gauge", help: "1 if the last request to a peer was not answered."}
	for _, peer := range peers {
		if !peer.LastSuccess.IsZero() {
			success.samples = append(success.samples, sample{label("peer", peer.Domain), float64(peer.LastSuccess.UnixMilli()) / 1000})
		}
		f := 0.0
		if peer.Failure != "" {
			f = 1
		}
		failing.samples = append(failing.samples, sample{label("peer", peer.Domain), f})
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	one := func(name, kind, help string, v float64) family {
		return family{name, kind, help, []sample{{"", v}}}
	}
	fs := []family{
		{"mimibridge_info", "gauge", "The version that runs.", []sample{{label("version", s.cfg.Version, "domain", p.Domain()), 1}}},
		one("mimibridge_ready", "gauge", "1 if the provider serves and its database answers.", up),
		one("mimibridge_start_time_seconds", "gauge", "When the provider began to serve.", float64(p.Started().Unix())),
		roomF, queueF,
		one("mimibridge_peers", "gauge", "Other providers that rooms are shared with or that were asked something.", float64(len(peers))),
		success, failing,
		one("go_goroutines", "gauge", "Goroutines.", float64(runtime.NumGoroutine())),
		one("go_memstats_heap_alloc_bytes", "gauge", "Heap in use.", float64(mem.HeapAlloc)),
		one("go_memstats_sys_bytes", "gauge", "Memory from the system.", float64(mem.Sys)),
	}
	fs = append(fs, counterFamilies(p.Counters())...)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	writeFamilies(w, fs)
}
