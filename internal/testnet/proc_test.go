package testnet

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// gone reports whether no process has the id; a zombie that nobody waits for counts as gone.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for !gone(pid) {
		if t.Context().Err() != nil {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

func readPid(t *testing.T, path string) int {
	t.Helper()
	for {
		b, _ := os.ReadFile(path)
		if s := strings.TrimSpace(string(b)); s != "" && bytes.HasSuffix(b, []byte("\n")) {
			pid, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
}

func TestProcess(t *testing.T) {
	dir := t.TempDir()
	start := func(t *testing.T, ctx context.Context, script string) *Process {
		t.Helper()
		p, err := Start(ctx, Command{Name: "sh", Path: "sh", Args: []string{"-c", script}, Dir: dir, Log: filepath.Join(dir, "sh.log")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Stop)
		return p
	}
	t.Run("Stop ends the process and what it started", func(t *testing.T) {
		p := start(t, t.Context(), "sleep 1000 & echo $! > child1; wait")
		child := readPid(t, filepath.Join(dir, "child1"))
		p.Stop()
		if p.Running() || !gone(p.Pid()) {
			t.Error("still running")
		}
		waitGone(t, child)
		p.Stop()
	})
	t.Run("Stop of a process that ignores TERM", func(t *testing.T) {
		p, err := Start(t.Context(), Command{Name: "sh", Path: "sh", Args: []string{"-c", "trap '' TERM; echo $$ > deaf; while :; do sleep 1000; done"}, Dir: dir, Log: filepath.Join(dir, "deaf.log"), Grace: 1})
		if err != nil {
			t.Fatal(err)
		}
		readPid(t, filepath.Join(dir, "deaf"))
		p.Stop()
		waitGone(t, p.Pid())
	})
	t.Run("the end of the context stops the process", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := start(t, ctx, "sleep 1000")
		cancel()
		<-p.Done()
	})
	t.Run("the death of the starter ends the process", func(t *testing.T) {
		// The test binary starts itself as the starter and is killed with -9.
		cmd := exec.Command(os.Args[0], "-test.run=^TestStarterHelper$")
		cmd.Env = append(os.Environ(), "TESTNET_STARTER="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		child := readPid(t, filepath.Join(dir, "orphan"))
		if gone(child) {
			t.Fatal("the helper's child is not running")
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		waitGone(t, child)
	})
	t.Run("a process that ends early names its log", func(t *testing.T) {
		free, err := FreePorts(1)
		if err != nil {
			t.Fatal(err)
		}
		p := start(t, t.Context(), "echo no such configuration; exit 3")
		err = p.WaitPort(t.Context(), Loopback(free[0]))
		if err == nil || !strings.Contains(err.Error(), "no such configuration") || !strings.Contains(err.Error(), "exit status 3") {
			t.Errorf("error %v", err)
		}
	})
}

func TestStarterHelper(t *testing.T) {
	dir := os.Getenv("TESTNET_STARTER")
	if dir == "" {
		return // only a part of TestProcess
	}
	p, err := Start(context.Background(), Command{Name: "sh", Path: "sh", Args: []string{"-c", "echo $$ > orphan; exec sleep 1000"}, Dir: dir, Log: filepath.Join(dir, "orphan.log")})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
}

func TestFreePorts(t *testing.T) {
	got, err := FreePorts(50)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, port := range got {
		if seen[port] {
			t.Errorf("port %d twice", port)
		}
		seen[port] = true
	}
	l, err := net.Listen("tcp", Loopback(got[0]))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestCA(t *testing.T) {
	ca, err := NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile, err := ca.Issue("a", "a.example")
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(keyFile); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("key file %v %v", fi, err)
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		for _, name := range []string{"a.example", "127.0.0.1"} {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
				t.Errorf("%s usage %d: %v", name, usage, err)
			}
		}
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: "b.example", Roots: ca.Pool()}); err == nil {
		t.Error("valid for another name")
	}
}
