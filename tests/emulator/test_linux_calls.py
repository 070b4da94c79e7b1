"""System calls about threads, time, futexes, memory and output, by their man pages."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from small_computer import (
    CODE,
    DATA,
    EXIT,
    FUTEX,
    HANDLER,
    NANOSLEEP,
    OTHER,
    PID,
    RT_SIGPROCMASK,
    WATCHED,
    assemble,
    computer,
    exits,
    install,
    stack_top,
    start,
    syscall,
)

from emulator.fault import Deadlock, GuestFault, GuestStopped
from emulator.linux import clock, futex
from emulator.linux.errno import Errno
from emulator.linux.signal_abi import AltStack
from emulator.linux.threads import ThreadState
from emulator.memory import PAGE

if TYPE_CHECKING:
    from emulator.machine import Machine

CLONE, WRITE, MMAP, MUNMAP, MADVISE = 56, 1, 9, 11, 28
CLOCK_GETTIME, GETTIMEOFDAY, CLOCK_NANOSLEEP, SCHED_YIELD = 228, 96, 230, 24
GETPID, GETTID, ARCH_PRCTL, SET_TID_ADDRESS = 39, 186, 158, 218
GO_CLONE_FLAGS = 0x50F00  # of newosproc: VM FS FILES SIGHAND SYSVSEM THREAD
WAIT, WAKE, PRIVATE = 0, 1, 128


def result_of(call: str) -> int:
    """What a system call returns to a program that ends with it, signed."""
    return run(call)[0]


def run(call: str, setup: bytes = b"") -> tuple[int, Machine]:
    machine = computer({CODE: f"{call} ud2"})
    machine.memory.write(DATA, setup)
    thread = start(machine)
    with pytest.raises(GuestFault, match="invalid"):
        machine.run()
    value = thread.registers["RAX"]
    return value - (value >> 63 << 64), machine


# Threads


def test_clone_as_go_makes_its_threads() -> None:
    child = stack_top(1) - 0x100
    code = (
        f"mov rbx, 7; {syscall(CLONE, GO_CLONE_FLAGS | 0x80000, child, 0, 0, DATA)}"
        f"test rax, rax; jz c; s: jmp s; c: mov rcx, fs:[rdi - {GO_CLONE_FLAGS | 0x80000}];"
        f"add rbx, rcx; {exits('rbx')}"
    )
    machine = computer({CODE: code})
    machine.memory.put_u64(DATA, 30)
    parent = start(machine)
    parent.sigmask = 0xFF
    parent.altstack = AltStack(DATA, 0, 0x1000)
    assert machine.run() == 37
    new = machine.threads[PID + 1]
    assert parent.registers["RAX"] == new.tid
    assert new.registers["RSP"] == child
    assert new.sigmask == 0xFF
    assert new.altstack == AltStack()


def test_clone_of_a_process_is_refused() -> None:
    machine = computer({CODE: syscall(CLONE, 17, 0)})
    start(machine)
    with pytest.raises(GuestStopped, match="clone with flags 0x11: only threads"):
        machine.run()


def test_clear_child_tid_is_zeroed_and_woken_when_the_thread_ends() -> None:
    flags = GO_CLONE_FLAGS | 0x200000 | 0x1000000  # CHILD_CLEARTID, CHILD_SETTID
    code = (
        f"{syscall(CLONE, flags, stack_top(1), 0, DATA, 0)} test rax, rax; jz c;"
        f"{syscall(FUTEX, DATA, WAIT, PID + 1, 0)} mov ebx, [rdi]; add rbx, rax;"
        f"{exits('rbx')}; c: {syscall(EXIT, 0)}"
    )
    machine = computer({CODE: code}, slice_ns=100)
    start(machine)
    assert machine.run() == 0
    assert machine.memory.u32(DATA) == 0
    assert machine.threads[PID + 1].state is ThreadState.EXITED


def test_the_last_threads_exit_ends_the_process() -> None:
    machine = computer({CODE: syscall(EXIT, 5), OTHER: syscall(EXIT, 6)})
    start(machine)
    start(machine, OTHER, time=100)
    assert machine.run() == 6


def test_pid_is_the_first_threads_tid() -> None:
    assert result_of(syscall(GETPID)) == result_of(syscall(GETTID)) == PID
    assert result_of(syscall(SET_TID_ADDRESS, DATA)) == PID


def test_arch_prctl_sets_and_reads_fs() -> None:
    value, machine = run(
        f"{syscall(ARCH_PRCTL, 0x1002, DATA + 8)} {syscall(ARCH_PRCTL, 0x1003, DATA)}"
    )
    assert value == 0
    assert machine.memory.u64(DATA) == DATA + 8
    assert machine.threads[PID].registers["FS_BASE"] == DATA + 8
    high = f"mov rsi, -1; mov edi, 0x1002; mov eax, {ARCH_PRCTL}; syscall;"
    assert result_of(high) == -Errno.EPERM


def test_sched_yield_lets_the_thread_that_is_behind_run() -> None:
    machine = computer(
        {
            CODE: f"mov ecx, 10; l: dec ecx; jnz l; {syscall(SCHED_YIELD)} {exits('1')}",
            OTHER: exits("2"),
        }
    )
    start(machine)
    start(machine, OTHER, time=20)
    assert machine.run() == 2


# Time


def test_clocks_show_virtual_time() -> None:
    for number, base in ((0, clock.EPOCH), (1, clock.BOOT)):
        value, machine = run(f"nop; nop; {syscall(CLOCK_GETTIME, number, DATA)}")
        assert value == 0
        seconds, ns = struct.unpack("<qq", machine.memory.read(DATA, 16))
        assert seconds * 10**9 + ns == base + 6
    assert result_of(syscall(CLOCK_GETTIME, 77, DATA)) == -Errno.EINVAL
    assert result_of(syscall(CLOCK_GETTIME, 1, 64)) == -Errno.EFAULT


def test_gettimeofday_is_the_real_time_clock_in_microseconds() -> None:
    _, machine = run(f"mov ecx, 1000; l: dec ecx; jnz l; {syscall(GETTIMEOFDAY, DATA, 0)}")
    seconds, us = struct.unpack("<qq", machine.memory.read(DATA, 16))
    assert seconds * 10**9 + us * 1000 == clock.EPOCH + 2000


def timespec(seconds: int, ns: int) -> bytes:
    return struct.pack("<qq", seconds, ns)


@pytest.mark.parametrize("bad", [timespec(-1, 0), timespec(0, 10**9), timespec(0, -1)])
def test_invalid_timespec_is_einval(bad: bytes) -> None:
    assert run(syscall(NANOSLEEP, DATA, 0), bad)[0] == -Errno.EINVAL
    assert run(syscall(FUTEX, DATA + 64, WAIT, 0, DATA), bad)[0] == -Errno.EINVAL


def test_nanosleep_takes_as_long_as_asked() -> None:
    value, machine = run(syscall(NANOSLEEP, DATA, 0), timespec(2, 5))
    assert value == 0
    assert machine.now == 4 + 2_000_000_005


def test_clock_nanosleep_relative_and_absolute() -> None:
    assert run(syscall(CLOCK_NANOSLEEP, 1, 0, DATA, 0), timespec(0, 99))[1].now == 6 + 99
    value, machine = run(syscall(CLOCK_NANOSLEEP, 1, 1, DATA, 0), timespec(1, 500))
    assert (value, machine.now) == (0, 500)
    value, machine = run(syscall(CLOCK_NANOSLEEP, 1, 1, DATA, 0), timespec(0, 500))
    assert (value, machine.now) == (0, 6)  # that time has passed


# Futexes


def test_futex_wait_returns_eagain_where_the_word_has_changed() -> None:
    assert result_of(syscall(FUTEX, DATA, WAIT | PRIVATE, 1, 0)) == -Errno.EAGAIN


def test_futex_wait_times_out_at_its_time() -> None:
    value, machine = run(syscall(FUTEX, DATA, WAIT, 0, DATA + 16), bytes(16) + timespec(0, 700))
    assert value == -Errno.ETIMEDOUT
    assert machine.now == 6 + 700
    assert machine.linux.futex_queue == []


def test_futex_wait_bitset_has_an_absolute_timeout() -> None:
    call = syscall(FUTEX, DATA, 9, 0, DATA + 16, 0, 1)
    value, machine = run(call, bytes(16) + timespec(1, 300))
    assert (value, machine.now) == (-Errno.ETIMEDOUT, 300)


def test_futex_bad_addresses_and_operations() -> None:
    assert result_of(syscall(FUTEX, DATA + 1, WAIT, 0, 0)) == -Errno.EINVAL
    assert result_of(syscall(FUTEX, 64, WAIT, 0, 0)) == -Errno.EFAULT
    assert result_of(syscall(FUTEX, DATA, 9, 0, 0, 0, 0)) == -Errno.EINVAL
    machine = computer({CODE: syscall(FUTEX, DATA, 6)})
    start(machine)
    with pytest.raises(GuestStopped, match="futex operation 6"):
        machine.run()


def test_futex_wake_wakes_those_who_wait_longest_and_counts_them() -> None:
    wait = syscall(FUTEX, DATA, WAIT | PRIVATE, 0, 0)
    machine = computer(
        {
            CODE: f"{wait} {syscall(EXIT, 0)}",
            OTHER: f"mov ecx, 100; l: dec ecx; jnz l; {syscall(FUTEX, DATA, WAKE, 2)}"
            f"mov rbx, rax; {syscall(FUTEX, DATA + 4, WAKE, 9)} add rbx, rax; {exits('rbx')}",
        },
        slice_ns=50,
    )
    waiters = [start(machine, index=i, time=3 - i) for i in range(3)]
    start(machine, OTHER, 3)
    woken_at = 1 + 200 + 5
    assert machine.run() == 2
    assert machine.linux.futex_queue == [waiters[0].tid]
    assert [t.state is ThreadState.FUTEX for t in waiters] == [True, False, False]
    assert all(thread.time >= woken_at for thread in waiters[1:])
    assert all(thread.registers["RAX"] in (0, EXIT) for thread in waiters[1:])


def test_futex_wake_of_a_bitset_wakes_those_with_a_bit_in_common() -> None:
    machine = computer({CODE: syscall(FUTEX, DATA, 9, 0, 0, 0, 2)})
    start(machine)
    with pytest.raises(Deadlock):
        machine.run()
    thread = machine.threads[PID]
    assert futex.wake(machine.linux, thread, DATA, 1, 4) == 0
    assert futex.wake(machine.linux, thread, DATA, 1, 6) == 1
    assert thread.state is ThreadState.RUNNABLE


def test_waiting_from_a_gate() -> None:
    """A wait that Python began never restarts; RAX has the result where the gate returns to."""
    machine = computer({CODE: exits("rax"), OTHER: f"{syscall(FUTEX, DATA, WAKE, 1)} s: jmp s"})

    def sleep(thread: object) -> int:
        futex.wait(machine.linux, thread, DATA, 0)  # type: ignore[arg-type]
        return CODE

    start(machine, machine.gate("sleep", sleep)).registers["RAX"] = 9
    start(machine, OTHER)
    assert machine.run() == 0


# Memory and output


def test_mmap_gives_zeroed_memory_that_the_processor_sees() -> None:
    call = syscall(MMAP, 0, 2 * PAGE + 1, 3, 0x22, -1, 0)
    value, machine = run(f"{call} mov rbx, [rax]; mov qword ptr [rax + {3 * PAGE - 8}], 5;")
    region = machine.memory.find(value)
    assert region is not None
    assert (region.start, region.size) == (value, 3 * PAGE)
    assert machine.memory.u64(value + 3 * PAGE - 8) == 5
    assert machine.threads[PID].registers["RBX"] == 0


def test_mmap_honours_a_free_hint_and_refuses_to_replace() -> None:
    hint = 0x1000_0000
    assert result_of(syscall(MMAP, hint, PAGE, 3, 0x22, -1, 0)) == hint
    assert result_of(syscall(MMAP, CODE, PAGE, 3, 0x22, -1, 0)) != CODE
    assert result_of(syscall(MMAP, CODE, PAGE, 3, 0x100022, -1, 0)) == -Errno.EEXIST
    assert result_of(syscall(MMAP, hint, 0, 3, 0x22, -1, 0)) == -Errno.EINVAL
    assert result_of(syscall(MMAP, 0, PAGE, 3, 2, 3, 0)) == -Errno.EBADF
    with pytest.raises(GuestStopped, match="file descriptor 1"):
        result_of(syscall(MMAP, 0, PAGE, 3, 2, 1, 0))


def test_madvise_dontneed_zeroes() -> None:
    value, machine = run(syscall(MADVISE, DATA + PAGE, PAGE, 4), b"\1" * 2 * PAGE)
    assert value == 0
    assert machine.memory.read(DATA, 2 * PAGE) == b"\1" * PAGE + bytes(PAGE)
    assert result_of(syscall(MADVISE, DATA, 64 * PAGE, 4)) == -Errno.ENOMEM
    assert result_of(syscall(MADVISE, DATA, PAGE, 14)) == 0
    assert result_of(syscall(MADVISE, DATA + 1, PAGE, 4)) == -Errno.EINVAL


def test_write_collects_output_and_hands_it_on() -> None:
    machine = computer({CODE: f"{syscall(WRITE, 2, DATA, 5)} {exits('rax')}"})
    machine.memory.write(DATA, b"hello, world")
    seen: list[tuple[int, bytes]] = []
    machine.linux.sink = lambda fd, data: seen.append((fd, data))
    start(machine)
    assert machine.run() == 5
    assert seen == [(2, b"hello")]
    assert machine.linux.output == {1: b"", 2: b"hello"}
    assert result_of(syscall(WRITE, 7, DATA, 1)) == -Errno.EBADF
    assert result_of(syscall(WRITE, 1, 64, 1)) == -Errno.EFAULT


def test_rt_sigprocmask_blocks_unblocks_and_sets() -> None:
    for how, expected in ((0, 0b1111), (1, 0b0001), (2, 0b1110)):
        machine = computer({CODE: f"{syscall(RT_SIGPROCMASK, how, DATA, DATA + 8, 8)} ud2"})
        machine.memory.put_u64(DATA, 0b1110)
        thread = start(machine)
        thread.sigmask = 0b0011
        with pytest.raises(GuestFault):
            machine.run()
        assert thread.sigmask == expected
        assert machine.memory.u64(DATA + 8) == 0b0011
    assert result_of(syscall(RT_SIGPROCMASK, 3, DATA, 0, 8)) == -Errno.EINVAL
    assert result_of(syscall(RT_SIGPROCMASK, 0, DATA, 0, 4)) == -Errno.EINVAL


# Faults that a handler takes


def test_fault_handler_may_repair_and_go_on() -> None:
    """The instruction is executed again with the register that the handler has changed."""
    machine = computer(
        {
            CODE: f"mov eax, 64; mov rbx, [rax]; {exits('rbx')}",
            HANDLER: f"mov rcx, {DATA}; mov [rdx + 144], rcx; ret",
        }
    )
    machine.memory.put_u64(DATA, 12)
    install(machine, 11)
    start(machine)
    assert machine.run() == 12


def test_fault_with_its_signal_blocked_kills_with_the_fault() -> None:
    machine = computer({CODE: "mov eax, 64; mov rbx, [rax]", HANDLER: "ret"})
    install(machine, 11)
    start(machine).sigmask = 1 << 10
    with pytest.raises(GuestFault, match="read of unmapped memory at 0x40") as caught:
        machine.run()
    assert caught.value.tid == PID


def test_stack_overflow_into_a_guard_is_a_fault_there() -> None:
    machine = computer({CODE: "l: push rax; jmp l"})
    start(machine)
    with pytest.raises(GuestFault, match="write to unmapped memory at 0x5ffff8"):
        machine.run()


def test_instruction_that_the_engine_refuses_is_never_given_to_a_handler() -> None:
    machine = computer({CODE: "nop; nop", HANDLER: "ret"})
    install(machine, 4)
    machine.cpu.refuse(CODE + 1, "for this test")
    start(machine)
    with pytest.raises(GuestFault, match=r"cannot execute exactly.*for this test"):
        machine.run()


def test_watched_code_steps_over_system_calls_and_faults_too() -> None:
    machine = computer({WATCHED: f"{syscall(GETPID)} ud2"})
    machine.watch(WATCHED, WATCHED + 0x100)
    thread = start(machine, WATCHED)
    with pytest.raises(GuestFault, match="invalid"):
        machine.run()
    assert thread.registers["RAX"] == PID
    assert thread.instructions == 2
    assert thread.registers["RIP"] == WATCHED + len(assemble(syscall(GETPID), WATCHED))
