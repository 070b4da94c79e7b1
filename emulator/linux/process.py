"""The one process of a machine: what its threads share in the kernel.

Threads, signal actions, process-wide pending signals, futex queue, output, and the exit status.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.fault import GuestStopped
from emulator.linux.errno import Errno
from emulator.linux.open_file import S_IFCHR, S_IFIFO, FileError, Input, Null, OpenFile, Output
from emulator.linux.signal_abi import NSIG, SigAction, SigInfo
from emulator.linux.threads import Thread, ThreadState
from emulator.linux.tree import Tree

if TYPE_CHECKING:
    from emulator.events import EventStream
    from emulator.linux.kernel_bugs import KernelBug
    from emulator.memory import Memory, Region
    from emulator.registers import Registers

MOST_FILES: Final = 1024  # RLIMIT_NOFILE
MMAP_BASE: Final = 0x7E00_0000_0000  # anonymous mappings without a hint go up from here

Sink = Callable[[int, bytes], None]  # file descriptor, data
Tracer = Callable[[Thread, SigInfo], SigInfo | None]  # the signal to deliver, none, or HELD


RandomState = tuple[int, tuple[int, ...], float | None]  # of random.Random


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A copy of everything that changes in a process; see Process.save."""

    threads: tuple[Thread, ...]
    actions: tuple[SigAction, ...]
    pending: tuple[SigInfo, ...]
    futex_queue: tuple[int, ...]
    output: tuple[tuple[int, bytes], ...]
    files: dict[int, OpenFile]
    cwd: str
    random: RandomState
    next_tid: int
    mmap_next: int
    exit_status: int | None
    need_resched: bool


class Process:
    """Kernel state of the process.

    `attach` makes new memory visible to the processor, `remap` tells it of memory that is gone or
    otherwise protected. What the guest sees of the outside, all given: `tree` (the files that it
    may read), `cpus`, `random` (of getrandom), `memory_limit` (bytes that may be writable)
    and `output_limit` (bytes on each of standard output and error; more ends the run).
    """

    def __init__(
        self,
        memory: Memory,
        events: EventStream,
        attach: Callable[[Region], None],
        remap: Callable[[], None] = lambda: None,
        *,
        pid: int = 1000,
        uid: int = 1000,
    ) -> None:
        self.memory = memory
        self.events = events
        self.attach = attach
        self.remap = remap
        self.pid = pid
        self.uid = uid
        self.threads: dict[int, Thread] = {}
        self.actions = [SigAction()] * (NSIG + 1)  # by signal number
        self.pending: list[SigInfo] = []  # directed at the process
        self.futex_queue: list[int] = []  # tids that wait, in order of arrival
        self.output: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
        self.sink: Sink | None = None
        self.output_limit: int | None = None
        self.files: dict[int, OpenFile] = {}
        for file in (Null(S_IFCHR | 0o666), *(Output(S_IFIFO | 0o600, 1, fd=fd) for fd in (1, 2))):
            self.install(file)
        self.tree = Tree()
        self.cwd = "/"
        self.cpus = 1
        self.random = random.Random(0)  # noqa: S311  # must be the same each time
        self.memory_limit: int | None = None
        self.brk = 0
        self.saved_auxv = b""  # as it stands on the first stack
        self.bugs: frozenset[KernelBug] = frozenset()
        self.enosys = False  # a system call that is not modelled returns ENOSYS, not ends the run
        self.next_tid = pid
        self.mmap_next = MMAP_BASE
        self.exit_status: int | None = None
        self.need_resched = False  # the running thread gives up its time slice
        self.tracer: Tracer | None = None

    def add_thread(self, registers: Registers, time: int) -> Thread:
        """A new thread with the next tid; the first one's is the pid."""
        thread = Thread(tid=self.next_tid, registers=registers, time=time)
        self.threads[thread.tid] = thread
        self.next_tid += 1
        return thread

    def set_stdin(self, data: bytes) -> None:
        """Standard input is a pipe that holds these bytes and then ends."""
        self.files[0] = Input(S_IFIFO | 0o600, data=data, references=1)

    def file(self, fd: int) -> OpenFile:
        """What a descriptor, of which 32 bits count, stands for; FileError EBADF."""
        found = self.files.get(fd & 0xFFFF_FFFF)
        if found is None:
            raise FileError(Errno.EBADF)
        return found

    def install(self, file: OpenFile, least: int = 0) -> int:
        """The lowest free descriptor, from `least` on, stands for the file; FileError EMFILE."""
        fd = least
        while fd in self.files:
            fd += 1
        if fd >= MOST_FILES:
            raise FileError(Errno.EMFILE)
        file.references += 1
        self.files[fd] = file
        return fd

    def write_out(self, fd: int, data: bytes) -> None:
        """Standard output or error; GuestStopped beyond the limit."""
        self.output[fd] += data
        if self.sink is not None:
            self.sink(fd, data)
        if self.output_limit is not None and len(self.output[fd]) > self.output_limit:
            raise GuestStopped(f"more than {self.output_limit} bytes of output")

    def alive(self) -> list[Thread]:
        """Threads that have not exited, by tid."""
        return [t for t in self.threads.values() if t.state is not ThreadState.EXITED]

    def save(self) -> ProcessState:
        """An independent copy of the state."""
        return ProcessState(
            threads=tuple(thread.copy() for thread in self.threads.values()),
            actions=tuple(self.actions),
            pending=tuple(self.pending),
            futex_queue=tuple(self.futex_queue),
            output=tuple((fd, bytes(data)) for fd, data in self.output.items()),
            files=copy.deepcopy(self.files),
            cwd=self.cwd,
            random=self.random.getstate(),
            next_tid=self.next_tid,
            mmap_next=self.mmap_next,
            exit_status=self.exit_status,
            need_resched=self.need_resched,
        )

    def restore(self, state: ProcessState) -> None:
        """Back to a saved state, of this process or of a twin. Thread objects are kept by tid."""
        old = self.threads.copy()
        self.threads.clear()
        for saved in state.threads:
            thread = old.get(saved.tid) or Thread(tid=saved.tid)
            thread.assign(saved)
            self.threads[saved.tid] = thread
        self.actions = list(state.actions)
        self.pending = list(state.pending)
        self.futex_queue = list(state.futex_queue)
        self.output = {fd: bytearray(data) for fd, data in state.output}
        self.files = copy.deepcopy(state.files)
        self.cwd = state.cwd
        self.random.setstate(state.random)
        self.next_tid = state.next_tid
        self.mmap_next = state.mmap_next
        self.exit_status = state.exit_status
        self.need_resched = state.need_resched
