package testnet

import "syscall"

// sysProcAttr gives the child a process group of its own, so that a Ctrl-C on the terminal reaches only the
// starter, which then stops its children in order; and has the kernel kill it should the starter die.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
