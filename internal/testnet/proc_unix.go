//go:build unix && !linux

package testnet

import "syscall"

// sysProcAttr gives the child a process group of its own. Only Linux can also tie its life to the starter's.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
