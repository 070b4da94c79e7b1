// A guest that tries to get out: each line says what became of an attempt. With an argument it
// goes on without end: "output", "memory".
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func tell(what string, err error) {
	if err == nil {
		fmt.Println(what, "SUCCEEDED")
		return
	}
	text := err.Error()
	if at := strings.LastIndex(text, ": "); at >= 0 {
		text = text[at+2:]
	}
	fmt.Println(what, text)
}

func call(what string, number uintptr, arguments ...uintptr) {
	var a [6]uintptr
	copy(a[:], arguments)
	_, _, errno := syscall.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno == 0 {
		fmt.Println(what, "SUCCEEDED")
	} else {
		fmt.Println(what, errno.Error())
	}
}

func paths(own string) {
	for _, path := range []string{
		"/etc/passwd", "/proc/self/maps", "/proc/self/environ", "/proc/1/cmdline", "/dev/mem",
		"/dev/kmsg", "/sys/kernel/notes", "../../../etc/hostname", own,
	} {
		_, err := os.ReadFile(path)
		tell("read "+filepath.Base(path), err)
	}
	_, err := os.Readlink("/proc/self/exe")
	tell("readlink", err)
	_, err = os.Stat(own)
	tell("stat", err)
	tell("create", os.WriteFile(own+".escaped", []byte("here"), 0o666))
	tell("append", func() error {
		_, err := os.OpenFile(own, os.O_APPEND|os.O_WRONLY, 0)
		return err
	}())
	tell("given", func() error {
		_, err := os.OpenFile("/given", os.O_RDWR, 0)
		return err
	}())
	tell("mkdir", os.Mkdir(own+".dir", 0o777))
	tell("remove", os.Remove(own))
	tell("rename", os.Rename(own, own+".gone"))
	tell("symlink", os.Symlink("/etc/passwd", own+".link"))
	tell("chdir", os.Chdir("/etc"))
	for fd := 3; fd < 64; fd++ {
		if _, err := syscall.Write(fd, []byte("escaped")); err != syscall.EBADF && err != syscall.EINVAL {
			fmt.Println("descriptor", fd, err)
		}
	}
	listed, err := os.ReadDir("/")
	fmt.Println("list", err)
	for _, each := range listed {
		fmt.Println("listed", each.Name(), each.IsDir())
	}
	given, err := os.ReadFile("/given")
	fmt.Println("given:", string(given), err)
}

func network(address string) {
	for _, kind := range []string{"tcp", "udp"} {
		connection, err := net.DialTimeout(kind, address, time.Second)
		if err == nil {
			connection.Write([]byte("escaped"))
		}
		tell(kind, err)
	}
	_, err := net.Listen("tcp", "127.0.0.1:0")
	tell("listen", err)
	_, err = net.LookupHost("localhost.localdomain")
	if err == nil {
		fmt.Println("lookup SUCCEEDED")
	}
}

func processes(own string, parent int) {
	tell("command", exec.Command("/bin/sh", "-c", "touch "+own+".escaped").Run())
	tell("exec", syscall.Exec("/bin/true", []string{"true"}, nil))
	_, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
	tell("forkexec", err)
	tell("kill parent", syscall.Kill(parent, syscall.SIGTERM))
	tell("kill init", syscall.Kill(1, syscall.SIGKILL))
	tell("kill all", syscall.Kill(-1, syscall.SIGKILL))
	_, _, errno := syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0)
	fmt.Println("fork", errno.Error())
	call("vfork", syscall.SYS_VFORK)
	call("clone", syscall.SYS_CLONE, uintptr(syscall.SIGCHLD))
	call("clone3", 435, 0, 0)
	call("ptrace traceme", syscall.SYS_PTRACE, syscall.PTRACE_TRACEME)
	call("ptrace attach", syscall.SYS_PTRACE, syscall.PTRACE_ATTACH, uintptr(parent))
	call("process_vm_readv", 310, uintptr(parent))
	call("pidfd_open", 434, uintptr(parent))
}

func kernel() {
	page := make([]byte, 4096)
	at := uintptr(unsafe.Pointer(&page[0]))
	for _, each := range []struct {
		what   string
		number uintptr
	}{
		{"mount", syscall.SYS_MOUNT}, {"chroot", syscall.SYS_CHROOT}, {"reboot", syscall.SYS_REBOOT},
		{"setuid", syscall.SYS_SETUID}, {"unshare", syscall.SYS_UNSHARE}, {"setns", 308},
		{"bpf", 321}, {"io_uring_setup", 425}, {"perf_event_open", 298}, {"userfaultfd", 323},
		{"memfd_create", 319}, {"open_by_handle_at", 304}, {"shmget", syscall.SYS_SHMGET},
		{"init_module", syscall.SYS_INIT_MODULE}, {"keyctl", syscall.SYS_KEYCTL},
		{"iopl", syscall.SYS_IOPL}, {"personality", syscall.SYS_PERSONALITY},
		{"socketpair", syscall.SYS_SOCKETPAIR}, {"seccomp", 317}, {"kexec_load", 246},
	} {
		call(each.what, each.number, at, at, at, at, at)
	}
	call("mmap of a file", syscall.SYS_MMAP, 0, 4096, 3, syscall.MAP_SHARED, 1)
	call("mmap of 64 TiB", syscall.SYS_MMAP, 0, 1<<46, 3, syscall.MAP_PRIVATE|syscall.MAP_ANON, ^uintptr(0))
	call("mmap of 64 GiB", syscall.SYS_MMAP, 0, 1<<36, 3, syscall.MAP_PRIVATE|syscall.MAP_ANON, ^uintptr(0))
}

func outside() {
	name, err := os.Hostname()
	fmt.Println("host", name, err)
	fmt.Println("ids", os.Getuid(), os.Getgid(), os.Getpid(), os.Getppid())
	fmt.Println("environment", os.Environ())
	fmt.Println("arguments", os.Args[1:])
	fmt.Println("processors", runtime.NumCPU())
	fmt.Println("year", time.Now().UTC().Year())
	directory, err := os.Getwd()
	fmt.Println("directory", directory, err)
	input, err := io.ReadAll(os.Stdin)
	fmt.Println("input", string(input), err)
}

func main() {
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case "output":
			for {
				os.Stdout.Write(bytes.Repeat([]byte("output\n"), 10000))
			}
		case "memory":
			var kept [][]byte
			for {
				kept = append(kept, make([]byte, 64<<20))
			}
		}
	}
	var parent int
	fmt.Sscan(os.Args[3], &parent)
	outside()
	paths(os.Args[1])
	network(os.Args[2])
	processes(os.Args[1], parent)
	kernel()
	fmt.Println("done")
}
