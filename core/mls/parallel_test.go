package mls

import (
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
)

func TestInParallel(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	for _, n := range []int{0, 1, 3, 4, 5, 1000} {
		did := make([]atomic.Int32, n)
		must(t, inParallel(n, 4, func(i int) error { did[i].Add(1); return nil }))
		for i := range did {
			if did[i].Load() != 1 {
				t.Fatalf("%d of %d was done %d times", i, n, did[i].Load())
			}
		}
		for range 20 {
			err := inParallel(n, 4, func(i int) error {
				if i%7 == 2 {
					return fmt.Errorf("number %d", i)
				}
				return nil
			})
			if n > 2 && (err == nil || err.Error() != "number 2") || n <= 2 && err != nil {
				t.Fatalf("of %d: %v", n, err)
			}
		}
	}
	defer func() {
		if recover() != "deep down" {
			t.Error("a panic is not the caller's")
		}
	}()
	_ = inParallel(100, 1, func(i int) error { panic("deep down") })
}

// TestX509Joiner: the chains of a tree are verified on all processors, each of them once, and one that is not good keeps a
// joiner out.
func TestX509Joiner(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	ca := newTestCA(t)
	var asked atomic.Int32
	cfg := testConfig()
	cfg.VerifyCredential = func(c CredentialContext) error {
		if c.Reason == ReasonTree {
			asked.Add(1)
		}
		_, err := c.Credential.VerifyChain(x509.VerifyOptions{Roots: ca.roots, CurrentTime: testTime, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err
	}
	const n = 100
	out, last := x509Group(t, cfg, ca, n)
	g, err := JoinGroup(cfg, out.Welcome, out.Tree, []JoinKey{last}, nil)
	must(t, err)
	if len(g.Members()) != n || asked.Load() != n {
		t.Fatalf("%d members, %d chains verified", len(g.Members()), asked.Load())
	}
	// Other roots vouch for none of them.
	ca.roots = newTestCA(t).roots
	if _, err := JoinGroup(cfg, out.Welcome, out.Tree, []JoinKey{last}, nil); !errors.Is(err, ErrCredential) {
		t.Fatal(err)
	}
}
