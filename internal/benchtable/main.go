// Command benchtable runs benchmarks and ends with one table for each package that has some. It is what `make bench`
// calls. The results go by on standard error as they come. Benchmarks with real servers (build tag live) run, too, for those servers
// that are there; for the others it says that they are not. The last lines are all targets together.
//
// It knows these names. A benchmark whose name ends with a number, as Encrypt/1000, is a row of that size. The metrics
// ns/WHAT and x/WHAT are how long something comparable took and how many times that long this did; x/target is how many
// times are allowed, and B/target how many octets of what else is counted in octets. UNIT/most and UNIT/least bound any other metric. Results of BenchmarkPeer/NAME are those of another implementation and stand beside NAME's.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mimibridge/mimibridge/internal/testnet"
)

func main() {
	peer := flag.String("peer", "peer", "what the other implementation is called")
	bench := flag.String("bench", ".", "the benchmarks to run, as of go test")
	benchtime := flag.String("benchtime", "500ms", "how long each runs, as of go test")
	live := flag.Bool("live", false, "run the benchmarks with real servers, too")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := time.Now()
	tables, failed, err := run(ctx, append([]string{"-tags", "goolm", "-bench", *bench, "-benchtime", *benchtime}, flag.Args()...))
	var absent []string
	if *live {
		for _, s := range servers {
			if !s.there(ctx) {
				absent = append(absent, s.name)
				continue
			}
			// A few messages each: what counts here is what the server takes.
			more, bad, e := run(ctx, []string{"-tags", "live,goolm", "-bench", "^BenchmarkLive$/^" + s.name + "$", "-benchtime", "200x", s.pkg})
			tables, failed, err = append(tables, more...), append(failed, bad...), errors.Join(err, e)
		}
	}
	targets, missed := 0, []string{}
	for _, t := range tables {
		n, m := t.print(os.Stdout, *peer)
		targets += n
		for _, name := range m {
			missed = append(missed, path.Base(t.pkg)+" "+name)
		}
	}
	fmt.Printf("\n%d s in all; %d of %d targets met\n", int(time.Since(start).Seconds()), targets-len(missed), targets)
	if len(missed) > 0 {
		fmt.Printf("MISSED: %s\n", strings.Join(missed, ", "))
	}
	// What failed has no row above, and would not be missed.
	for _, f := range failed {
		fmt.Println("FAILED:", f)
	}
	if len(absent) > 0 {
		fmt.Printf("not run, since they are not on this machine (make test installs them): %s\n", strings.Join(absent, ", "))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchtable:", err)
		os.Exit(1)
	}
}

// server is a real one that benchmarks run with.
type server struct {
	name, pkg string
	there     func(context.Context) bool
}

var servers = []server{
	{"Prosody", "./adapters/xmpp", func(context.Context) bool { return testnet.CheckProsody() == nil }},
	{"ejabberd", "./adapters/xmpp", func(context.Context) bool { return testnet.CheckEjabberd() == nil }},
	{"Dendrite", "./adapters/matrix", func(context.Context) bool { return testnet.DendriteBuilt() }},
	{"Synapse", "./adapters/matrix", func(context.Context) bool { return testnet.SynapseBuilt() }},
}

// run runs go test and reads what it says.
func run(ctx context.Context, args []string) (tables []*table, failed []string, err error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-run", "^$", "-benchmem", "-timeout", "30m"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, nil, err
	}
	tables, failed, err = read(io.TeeReader(out, os.Stderr))
	return tables, failed, errors.Join(err, cmd.Wait())
}

// table is what one package's benchmarks gave.
type table struct {
	pkg  string
	rows []*row
}

type row struct {
	name, size string
	metrics    map[string]float64
	peer       map[string]float64 // nil: the other implementation has nothing like it
}

var line = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.+)$`)

// read takes the output of go test apart. failed are benchmarks and packages that go test says so of.
func read(r io.Reader) (tables []*table, failed []string, err error) {
	var t *table
	s := bufio.NewScanner(r)
	for s.Scan() {
		if pkg, ok := strings.CutPrefix(s.Text(), "pkg: "); ok {
			t = &table{pkg: pkg}
			tables = append(tables, t)
			continue
		}
		if what, ok := strings.CutPrefix(strings.TrimSpace(s.Text()), "--- FAIL: "); ok {
			failed = append(failed, what)
		} else if what, ok := strings.CutPrefix(s.Text(), "FAIL\t"); ok {
			failed = append(failed, strings.ReplaceAll(what, "\t", " "))
		}
		m := line.FindStringSubmatch(s.Text())
		if m == nil || t == nil {
			continue
		}
		name, size, f := m[1], "", strings.Fields(m[2])
		if i := strings.LastIndexByte(name, '/'); i >= 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name, size = name[:i], name[i+1:]
			}
		}
		metrics := map[string]float64{}
		for i := 0; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return nil, nil, fmt.Errorf("not a result: %q", s.Text())
			}
			metrics[f[i+1]] = v
		}
		if own, ok := strings.CutPrefix(name, "Peer/"); ok {
			if i := slices.IndexFunc(t.rows, func(r *row) bool { return r.name == own && r.size == size }); i >= 0 {
				t.rows[i].peer = metrics
				continue
			}
		}
		t.rows = append(t.rows, &row{name: name, size: size, metrics: metrics})
	}
	return tables, failed, s.Err()
}

// print writes the table and, below it, which targets were missed. It gives their number and the missed ones.
func (t *table) print(w io.Writer, peer string) (targets int, missed []string) {
	if len(t.rows) == 0 {
		return 0, nil
	}
	cells := [][]string{{"", "size", "time", "allocated", "against", "", "ratio", "target", "", peer, "allocated", "x ours", ""}}
	for _, r := range t.rows {
		c := make([]string, len(cells[0]))
		c[0], c[1], c[2], c[3] = r.name, r.size, duration(r.metrics["ns/op"]), size(r.metrics, "B/op")
		what, ratio := r.against()
		if what != "" {
			c[4], c[5], c[6] = what, duration(r.metrics["ns/"+what]), fmt.Sprintf("%.2f", ratio)
		}
		if limit, ok := r.metrics["x/target"]; ok {
			targets++
			c[7], c[8] = fmt.Sprintf("%.2f", limit), "met"
			if ratio > limit {
				c[8] = "MISSED"
				missed = append(missed, strings.TrimSuffix(r.name+"/"+r.size, "/"))
			}
		}
		if r.peer != nil {
			c[9], c[10] = duration(r.peer["ns/op"]), size(r.peer, "B/op")
			c[11] = fmt.Sprintf("%.1f", r.peer["ns/op"]/r.metrics["ns/op"])
		}
		var rest []string
		for unit, v := range r.metrics {
			switch {
			case unit == "ns/op", unit == "B/op", unit == "allocs/op", unit == "MB/s", strings.HasSuffix(unit, "/target"), strings.HasSuffix(unit, "/most"), strings.HasSuffix(unit, "/least"), what != "" && (unit == "x/"+what || unit == "ns/"+what):
			default:
				one := fmt.Sprintf("%s %s", strconv.FormatFloat(v, 'f', -1, 64), unit)
				bound := func(limit float64, word string, bad bool) {
					targets++
					verdict := "met"
					if bad {
						verdict = "MISSED"
						missed = append(missed, r.name+" "+unit)
					}
					one += fmt.Sprintf(" (target %s%s: %s)", word, strconv.FormatFloat(limit, 'f', -1, 64), verdict)
				}
				if limit, ok := r.metrics["B/target"]; ok && strings.HasPrefix(unit, "B/") {
					bound(limit, "", v > limit)
				}
				if limit, ok := r.metrics[unit+"/most"]; ok {
					bound(limit, "at most ", v > limit)
				}
				if limit, ok := r.metrics[unit+"/least"]; ok {
					bound(limit, "at least ", v < limit)
				}
				rest = append(rest, one)
			}
		}
		slices.Sort(rest)
		c[12] = strings.Join(rest, ", ")
		cells = append(cells, c)
	}
	width := make([]int, len(cells[0]))
	for i := range width {
		used := false
		for j, c := range cells {
			width[i] = max(width[i], len([]rune(c[i])))
			used = used || j > 0 && c[i] != ""
		}
		if !used {
			width[i] = 0
		}
	}
	fmt.Fprintf(w, "\n%s\n", t.pkg)
	for _, c := range cells {
		var b strings.Builder
		for i, s := range c {
			if width[i] == 0 {
				continue
			}
			pad := strings.Repeat(" ", width[i]-len([]rune(s)))
			if left := i == 0 || i == 4 || i == 8 || i == 12; left {
				b.WriteString(s + pad + "  ")
			} else {
				b.WriteString(pad + s + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	if targets > 0 {
		fmt.Fprintf(w, "%d of %d targets met", targets-len(missed), targets)
		if len(missed) > 0 {
			fmt.Fprintf(w, "; missed: %s", strings.Join(missed, ", "))
		}
		fmt.Fprintln(w)
	}
	return targets, missed
}

// against gives what a result is compared with, "" if with nothing.
func (r *row) against() (what string, ratio float64) {
	for unit, v := range r.metrics {
		if name, ok := strings.CutPrefix(unit, "x/"); ok && name != "target" {
			if _, ok := r.metrics["ns/"+name]; ok {
				return name, v
			}
		}
	}
	return "", 0
}

func duration(ns float64) string {
	switch {
	case ns == 0: // what is measured otherwise
		return ""
	case ns < 1e3:
		return fmt.Sprintf("%.0f ns", ns)
	case ns < 1e6:
		return fmt.Sprintf("%.1f µs", ns/1e3)
	case ns < 1e9:
		return fmt.Sprintf("%.2f ms", ns/1e6)
	}
	return fmt.Sprintf("%.2f s", ns/1e9)
}

func size(metrics map[string]float64, unit string) string {
	switch n, ok := metrics[unit]; {
	case !ok:
		return ""
	case n < 10e3:
		return fmt.Sprintf("%.0f B", n)
	case n < 10e6:
		return fmt.Sprintf("%.0f kB", n/1e3)
	default:
		return fmt.Sprintf("%.0f MB", n/1e6)
	}
}
