package testnet

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress prints one line for each step of something long, with the time it took. On a terminal the line
// of the running step counts its seconds; elsewhere a step says so every half minute. The zero value, and
// nil, print nothing. All methods may be called concurrently, but one step runs at a time.
type Progress struct {
	W        io.Writer
	Terminal bool // W is a terminal: lines may be written over
	mu       sync.Mutex
}

// Step runs f as the step called what.
func (p *Progress) Step(what string, f func() error) error {
	if p == nil || p.W == nil {
		return f()
	}
	start := time.Now()
	end := make(chan struct{})
	var ticking sync.WaitGroup
	every := 30 * time.Second
	if p.Terminal {
		every = time.Second
		p.printf("  %s …", what)
	}
	ticking.Add(1)
	go func() {
		defer ticking.Done()
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-end:
				return
			case <-t.C:
				if p.Terminal {
					p.printf("\r  %s … %s", what, Elapsed(start))
				} else {
					p.printf("  %s: %s so far\n", what, Elapsed(start))
				}
			}
		}
	}()
	err := f()
	close(end)
	ticking.Wait()
	result := "done"
	if err != nil {
		result = "failed"
	}
	if p.Terminal {
		p.printf("\r\x1b[K")
	}
	p.printf("  %s: %s in %s\n", what, result, Elapsed(start))
	return err
}

// Line prints a line of its own.
func (p *Progress) Line(format string, args ...any) {
	if p != nil && p.W != nil {
		p.printf(format+"\n", args...)
	}
}

func (p *Progress) printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.W, format, args...)
}

// Elapsed is the time since start for people: "0.4 s", "12 s", "2 min 05 s".
func Elapsed(start time.Time) string {
	d := time.Since(start)
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	s := int(d.Seconds())
	return fmt.Sprintf("%d min %02d s", s/60, s%60)
}
