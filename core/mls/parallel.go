package mls

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// inParallel calls f for 0 to n-1 on all processors, some at a time in order, and gives the error of the smallest index that
// has one: what a loop would give. After an error the rest may be left out. A panic of f is one of the caller's. The
// goroutines are gone when it returns.
//
// Verifying the leaves of a tree and sealing the secrets of a path are what large groups cost, and independent of each other.
func inParallel(n, batch int, f func(i int) error) error {
	workers := min(runtime.GOMAXPROCS(0), (n+batch-1)/batch)
	if workers <= 1 {
		for i := range n {
			if err := f(i); err != nil {
				return err
			}
		}
		return nil
	}
	var next atomic.Int64
	var failed atomic.Bool
	type result struct {
		at    int
		err   error
		panic any
	}
	results := make([]result, workers)
	work := func(r *result) {
		defer func() {
			if r.panic = recover(); r.panic != nil {
				failed.Store(true)
			}
		}()
		// Batches before one that fails have been begun, and are gone through.
		for !failed.Load() {
			first := int(next.Add(int64(batch))) - batch
			for i := first; i < min(first+batch, n); i++ {
				if err := f(i); err != nil {
					r.at, r.err = i, err
					failed.Store(true)
					return
				}
			}
			if first >= n {
				return
			}
		}
	}
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Go(func() { work(&results[w]) })
	}
	work(&results[0])
	wg.Wait()
	var found *result
	for i := range results {
		r := &results[i]
		if r.panic != nil {
			panic(r.panic)
		}
		if r.err != nil && (found == nil || r.at < found.at) {
			found = r
		}
	}
	if found == nil {
		return nil
	}
	return found.err
}
