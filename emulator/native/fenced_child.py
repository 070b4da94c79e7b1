"""A process that holds the guest's memory and nothing else, and may do nothing but compute.

x86-64 Linux only. Guest code that runs on the real processor runs in such a child. Before its
first instruction the child has
- no memory but the guest's regions, at their addresses (shared mappings, which mremap(2) with an
  old size of 0 maps a second time): not our heap, not our stack, no C library, no vDSO that can be
  had away;
- no open files, no controlling terminal, no room to map more, to fork or to dump core;
- a seccomp(2) filter, which stops every system call (INT 0x80 and SYSENTER, too) before it is made
  and has ptrace(2) tell us; without us there, it fails;
- no time-stamp counter (PR_SET_TSC): reading it is SIGSEGV;
- our death for its own (PR_SET_PDEATHSIG, PTRACE_O_EXITKILL).

Rejected: executing a program of our own, which needs memory with a name, and a file.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import resource
import signal
import struct
import sys
import time
import weakref
from ctypes import c_int, c_size_t, c_ulong, c_void_p
from typing import TYPE_CHECKING, Final

from emulator.hooks import host_address
from emulator.host_cpuid import NativeUnavailableError
from emulator.memory import PAGE, Prot
from emulator.native.ptrace import O_EXITKILL, O_TRACESECCOMP, ChildGoneError, Halt, Request, Tracee
from emulator.registers import Flags

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emulator.memory import Memory, Region
    from emulator.registers import Registers

# System calls of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
_MPROTECT, _MUNMAP, _MREMAP, _SETSID, _PRCTL = 10, 11, 25, 112, 157
_SET_TID_ADDRESS, _SET_ROBUST_LIST, _SECCOMP, _RSEQ, _CLOSE_RANGE = 218, 273, 317, 334, 436

_SYSCALL: Final = b"\x0f\x05"
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_TSC, _PR_SET_NO_NEW_PRIVS = 1, 26, 38
_PR_TSC_SIGSEGV: Final = 2
_RSEQ_UNREGISTER: Final = 1
_SECCOMP_SET_MODE_FILTER: Final = 1
_EPERM: Final = -1

# seccomp(2): a filter in the classic BPF of linux/filter.h, over struct seccomp_data.
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _ARCH_AT = 0, 4
_AUDIT_ARCH_X86_64: Final = 0xC000_003E
_ALLOW, _TRACE, _TRACE_FOREIGN = 0x7FFF_0000, 0x7FF0_0000, 0x7FF0_0001
_FILTER_AT: Final = 64  # in the page of the first system calls
_PROGRAM_AT: Final = 48

_LOW: Final = 0x1000_0000_0000  # where that page, and regions on their way, are looked room for
_TASK_SIZE: Final = 0x7FFF_FFFF_F000
CPU_SECONDS: Final = 24 * 3600  # of processor time that a child may take in all
_NOTHING: Final = (
    resource.RLIMIT_CORE,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_MEMLOCK,
    resource.RLIMIT_MSGQUEUE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_NPROC,
)


# Signals that instructions raise.
OWN: Final = (signal.SIGILL, signal.SIGTRAP, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV)


class FencedChild(Tracee):
    """A child that executes the code of `memory`, as it is mapped when this is made.

    `allow` are numbers of system calls that it may make unseen. Raises NativeUnavailableError, at
    any time where the host does not go along, and ChildGoneError if somebody kills the child.
    """

    def __init__(self, memory: Memory, *, allow: Sequence[int] = ()) -> None:
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise NativeUnavailableError("the native engine needs x86-64 Linux")
        self.memory = memory
        self._regions = [*memory.regions]
        for region in self._regions:
            if region.private:
                raise NativeUnavailableError(f"{region.name}: memory that cannot be shared")
        self._page = mmap.mmap(-1, PAGE)
        super().__init__(0)
        self._libc.mremap.restype = c_void_p
        self._libc.mremap.argtypes = (c_void_p, c_size_t, c_size_t, c_int, c_void_p)
        self._libc.mprotect.argtypes = (c_void_p, c_size_t, c_int)
        size = sum(region.size for region in self._regions)
        self._place = _room(PAGE + size, self._regions)
        parent = os.getpid()
        # os.fork would run every library's at-fork handlers, and warns where there are threads.
        self.pid = ctypes.PyDLL(None).fork()
        if self.pid == 0:
            self._become_child(parent)
        if self.pid < 0:
            self.pid = 0
            raise NativeUnavailableError("the native engine has no room for a process")
        self.close = weakref.finalize(self, _end, self.pid, parent)
        try:
            self.wait()
        except ChildGoneError:
            raise NativeUnavailableError(
                "the native engine needs ptrace, which this host does not allow"
            ) from None
        try:
            self.request(Request.SETOPTIONS, O_EXITKILL | O_TRACESECCOMP)
            self._leave()
            self._move_in()
            self._shut(allow)
            self.open_extended()
        except BaseException:
            self.close()
            raise

    def _become_child(self, parent: int) -> None:
        """The child: makes the page from which all its system calls are made, and stops."""
        try:
            self._libc.prctl(_PR_SET_PDEATHSIG, c_ulong(signal.SIGKILL))
            if os.getppid() != parent:  # it has died already
                os._exit(1)
            source, flags = host_address(memoryview(self._page)), _MREMAP_MAYMOVE | _MREMAP_FIXED
            place = self._libc.mremap(source, 0, PAGE, flags, self._place)
            if place != self._place or self._libc.mprotect(place, PAGE, int(Prot.RX)) != 0:
                os._exit(1)
            self._page[:2] = _SYSCALL
            if self._libc.ptrace(int(Request.TRACEME), 0, None, None) == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(1)

    def _do(self, why: str, number: int, *arguments: int) -> None:
        """A system call of the child's that must succeed."""
        result = self.call(self._place, number, *arguments)
        if result < 0:
            reason = os.strerror(-result)
            raise NativeUnavailableError(f"the native engine cannot {why}: {reason}")

    def _leave(self) -> None:
        """Leaves all behind that the child has from us, but memory."""
        address, size, signature = self.restartable()
        if address:
            self._do("leave rseq", _RSEQ, address, size, _RSEQ_UNREGISTER, signature)
        self._do("leave its robust futexes", _SET_ROBUST_LIST, 0, 24)
        self._do("leave its thread", _SET_TID_ADDRESS, 0)
        self._do("leave our session", _SETSID)
        self._do("close our files", _CLOSE_RANGE, 0, 0xFFFF_FFFF, 0)

    def _move_in(self) -> None:
        """Gives up our memory and has the guest's regions at their addresses."""
        flags = _MREMAP_MAYMOVE | _MREMAP_FIXED
        staged = []
        place = self._place + PAGE
        for region in self._regions:
            source, why = host_address(region.view), f"map {region.name}"
            self._do(why, _MREMAP, source, 0, region.size, flags, place)
            staged.append(place)
            place += region.size
        self._give_up(self._place, place)
        left = [(start, end) for start, end, _ in _mappings(self.pid) if start >= place]
        left += [(start, end) for start, end, _ in _mappings(self.pid) if end <= self._place]
        for region, at in zip(self._regions, staged, strict=True):
            where = f"map {region.name} at {region.start:#x}"
            if any(start < region.end and region.start < end for start, end in left):
                raise NativeUnavailableError(f"the native engine cannot {where}")
            self._do(where, _MREMAP, at, region.size, region.size, flags, region.start)
            if region.prot != Prot.RW:
                self._do(where, _MPROTECT, region.start, region.size, int(region.prot))

    def _give_up(self, low: int, high: int) -> None:
        """Unmaps everything but [low, high)."""
        ranges = [(0, low, True), (high, _TASK_SIZE, True)]
        if any(self.call(self._place, _MUNMAP, start, end - start) for start, end, _ in ranges):
            ranges = [found for found in _mappings(self.pid) if not low <= found[0] < high]
            for start, end, writable in ranges:
                result = self.call(self._place, _MUNMAP, start, end - start)
                if result and (writable or result != _EPERM):  # sealed: the vDSO, in some kernels
                    reason = os.strerror(-result)
                    raise NativeUnavailableError(
                        f"the native engine cannot give up memory: {reason}"
                    )

    def _shut(self, allow: Sequence[int]) -> None:
        """Takes away what the child might still do."""
        for limit in _NOTHING:
            resource.prlimit(self.pid, limit, (0, 0))
        resource.prlimit(self.pid, resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        size = sum(region.size for region in self._regions) + PAGE
        resource.prlimit(self.pid, resource.RLIMIT_AS, (size, size))
        self._do("hide the time", _PRCTL, _PR_SET_TSC, _PR_TSC_SIGSEGV)
        self._do("give up privileges", _PRCTL, _PR_SET_NO_NEW_PRIVS, 1)
        program = _filter(allow)
        self._page[_FILTER_AT : _FILTER_AT + len(program)] = program
        head = struct.pack("<H6xQ", len(program) // 8, self._place + _FILTER_AT)
        self._page[_PROGRAM_AT : _PROGRAM_AT + len(head)] = head
        arguments = (_SECCOMP_SET_MODE_FILTER, 0, self._place + _PROGRAM_AT)
        self._do("be fenced by seccomp", _SECCOMP, *arguments)
        self._do("give up its first page", _MUNMAP, self._place, PAGE)

    # What is done with it.

    def load(self, registers: Registers) -> None:
        """See `Tracee.load`."""
        if self.flags() & Flags.TF:
            self.settle()
        super().load(registers)

    def settle(self) -> None:
        """Has the kernel forget that it was stepping; to be called behind POPF and its like.

        Else it takes the trap flag that it sets for the next step for the guest's own, where an
        instruction has cleared it (arch/x86/kernel/step.c: enable_single_step).
        """
        os.kill(self.pid, signal.SIGSTOP)
        while self.go(Request.CONT).signo != signal.SIGSTOP:
            pass

    def step(self) -> Halt:
        """Executes one instruction, or one iteration of a REP instruction.

        Returns STEPPED, or what came instead: the state is then that before the instruction.
        """
        while True:
            halt = self.go(Request.SINGLESTEP)
            if not halt.signo or (halt.signo in OWN and halt.code > 0):
                return halt
            # A signal that somebody has sent, or SIGXCPU: it is lost.

    def resume(self, seconds: int, *, signo: int = 0) -> Halt:
        """Runs at full speed until something stops it: a signal, a system call that is not allowed.

        SIGXCPU after so many seconds of processor time, and up to one more. `signo` is delivered
        first, as the kernel does it.
        """
        used = time.clock_gettime(~self.pid << 3 | 2)  # its process' CPU-time clock
        limit = int(used) + seconds + 1
        resource.prlimit(self.pid, resource.RLIMIT_CPU, (min(limit, CPU_SECONDS), CPU_SECONDS))
        return self.go(Request.CONT, signo)

    def system_call(self, number: int, *arguments: int) -> int:
        """Makes a system call in the child's name, whether it is allowed to or not.

        Returns what the kernel returns, an error as a negative number. All general registers and
        RIP are lost. Two bytes of guest code are another's for that time.
        """
        code = next((r for r in self._regions if r.prot & Prot.EXEC), None)
        if code is None:
            raise NativeUnavailableError("no code to make a system call from")
        kept = bytes(code.view[:2])
        code.view[:2] = _SYSCALL
        try:
            return self.call(code.start, number, *arguments)
        finally:
            code.view[:2] = kept


def _end(pid: int, owner: int) -> None:
    """Ends a child of this process."""
    if os.getpid() != owner:
        return
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _mappings(pid: int | str) -> list[tuple[int, int, bool]]:
    """Start, end and whether it can be written, of each mapping of a process below the kernel."""
    found = []
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as file:  # noqa: PTH123  # proc(5)
        for line in file:
            addresses, protection, *_ = line.split()
            start, end = (int(part, 16) for part in addresses.split("-"))
            if start < _TASK_SIZE:
                found.append((start, end, protection[1] == "w"))
    return found


def _room(size: int, regions: Iterable[Region]) -> int:
    """An address from which on neither we nor the guest have anything for so many bytes."""
    taken = [(start, end) for start, end, _ in _mappings("self")]
    taken += [(region.start, region.end) for region in regions]
    place = _LOW
    for start, end in sorted(taken):
        if start < place + size and place < end:
            place = end
    if place + size > _TASK_SIZE:
        raise NativeUnavailableError("the native engine has no room to map the guest's memory")
    return place


def _filter(allow: Sequence[int]) -> bytes:
    """Allows these system calls of the 64-bit kind, and has all others traced."""
    parts = [(_LOAD, 0, 0, _ARCH_AT), (_JUMP_EQUAL, 1, 0, _AUDIT_ARCH_X86_64)]
    parts += [(_RETURN, 0, 0, _TRACE_FOREIGN), (_LOAD, 0, 0, _NUMBER_AT)]
    for number in allow:
        parts += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    parts.append((_RETURN, 0, 0, _TRACE))
    return b"".join(struct.pack("<HBBI", *part) for part in parts)
