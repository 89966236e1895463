package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command describes a process to start.
type Command struct {
	Name string   // for messages: "prosody"
	Path string   // the program: a path, or a name looked up in PATH
	Args []string // without the program's name
	Dir  string   // working directory, "" for the current one
	Env  []string // "NAME=value", added to this process's environment
	Log  string   // file that takes stdout and stderr, appended to; required

	// Stdin and Stdout, if set, replace the null device and the log file: for clients that are driven over
	// pipes. The copying ends with the process.
	Stdin  io.Reader
	Stdout io.Writer

	// As is the user to run as, for programs that refuse to run as root; nil is this process's.
	As *syscall.Credential

	// Grace is how long Stop waits between TERM and KILL; zero is 5 s.
	Grace time.Duration
}

// Process is a running program. All methods may be called concurrently.
type Process struct {
	cmd  Command
	pid  int
	done chan struct{}
	err  error // of Wait, valid once done is closed
	stop sync.Once
}

// Start starts the program in a process group of its own. When ctx ends it is stopped as by Stop. The
// error names what was to be started.
func Start(ctx context.Context, c Command) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("testnet: start %s: %w", c.Name, err)
	}
	if c.Grace == 0 {
		c.Grace = 5 * time.Second
	}
	if err := os.MkdirAll(filepath.Dir(c.Log), 0o700); err != nil {
		return nil, fmt.Errorf("testnet: start %s: %w", c.Name, err)
	}
	logFile, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("testnet: start %s: %w", c.Name, err)
	}
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdin = c.Stdin
	cmd.Stderr = logFile
	cmd.Stdout = logFile
	if c.Stdout != nil {
		cmd.Stdout = c.Stdout
	}
	// A grandchild that keeps the pipes open must not keep Wait.
	cmd.WaitDelay = 2 * time.Second
	cmd.SysProcAttr = sysProcAttr()
	cmd.SysProcAttr.Credential = c.As

	p := &Process{cmd: c, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends the death signal when the starting thread ends, not the process. The thread is
		// held until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer logFile.Close()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.err = cmd.Wait()
		// What the process left behind in its group goes with it, at once: later its id may be a stranger's.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("testnet: start %s: %w", c.Name, err)
	}
	p.pid = cmd.Process.Pid
	go func() {
		select {
		case <-ctx.Done():
			p.Stop()
		case <-p.done:
		}
	}()
	return p, nil
}

// Pid is the process id.
func (p *Process) Pid() int { return p.pid }

// LogPath is the file with what the process printed.
func (p *Process) LogPath() string { return p.cmd.Log }

// Done is closed once the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the process ended: nil for exit status 0 or while it still runs.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Stop ends the process with TERM, and with KILL after the grace period, and waits until it is gone, with
// whatever it started in its process group. Stopping twice is no error.
func (p *Process) Stop() {
	p.stop.Do(func() {
		if p.signalGroup(syscall.SIGTERM) {
			select {
			case <-p.done:
			case <-time.After(p.cmd.Grace):
			}
		}
		p.signalGroup(syscall.SIGKILL)
	})
	<-p.done
}

// Kill ends the process with KILL at once (a crash) and waits until it is gone.
func (p *Process) Kill() {
	p.stop.Do(func() { p.signalGroup(syscall.SIGKILL) })
	<-p.done
}

// signalGroup signals the process group while its leader has not ended, and reports whether that was so.
func (p *Process) signalGroup(sig syscall.Signal) bool {
	if !p.Running() {
		return false
	}
	_ = syscall.Kill(-p.pid, sig)
	return true
}

// Signal sends sig to the process alone, for instance SIGSTOP and SIGCONT for a peer that hangs.
func (p *Process) Signal(sig syscall.Signal) error {
	if !p.Running() {
		return os.ErrProcessDone
	}
	return syscall.Kill(p.pid, sig)
}

// WaitPort waits until addr ("host:port") accepts connections. It fails when ctx ends, and at once when
// the process ends; then the error carries the end of the log.
func (p *Process) WaitPort(ctx context.Context, addr string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := WaitPort(ctx, addr); err != nil {
		if !p.Running() {
			err = fmt.Errorf("it ended (%v)", p.err)
		}
		return fmt.Errorf("testnet: %s does not answer at %s: %w; end of its log:\n%s", p.cmd.Name, addr, err, Tail(p.cmd.Log, 15))
	}
	return nil
}

// WaitPort waits until addr accepts TCP connections or ctx ends.
func WaitPort(ctx context.Context, addr string) error {
	d := net.Dialer{Timeout: time.Second}
	for {
		c, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// Tail returns the last n lines of a file, or why it could not be read.
func Tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

var ports struct {
	sync.Mutex
	given map[int]bool
}

// FreePorts returns n different TCP ports that nothing on 127.0.0.1 listens on. They are taken from below the
// range the kernel gives to outgoing connections, and never given twice by one program: a
// server that is started a moment later finds its port still free.
func FreePorts(n int) ([]int, error) {
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = make(map[int]bool)
	}
	var out []int
	for try := 0; len(out) < n; try++ {
		if try > 2000+100*n {
			return nil, fmt.Errorf("testnet: no %d free ports on 127.0.0.1", n)
		}
		port := 10240 + rand.IntN(32000-10240)
		if ports.given[port] {
			continue
		}
		// Both the loopback address and the wildcard: a server may bind either.
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		l.Close()
		if l, err = net.Listen("tcp", ":"+strconv.Itoa(port)); err != nil {
			continue
		}
		l.Close()
		ports.given[port] = true
		out = append(out, port)
	}
	return out, nil
}

// Loopback is "127.0.0.1:port".
func Loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
