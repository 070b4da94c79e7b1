"""Guest code on the real processor is alone with its memory: whatever it tries ends in a stop.

Signals and si_codes are those of Linux (arch/x86/kernel/traps.c); numbers of system calls are of
arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from native_host import native_objection
from small_cpu import CODE, CODE_END, CONSTANTS, DATA, DATA_END, STACK, STACK_END, assemble

from emulator.host_cpuid import NativeUnavailableError
from emulator.memory import Memory, Prot
from emulator.native.fenced_child import FencedChild
from emulator.native.ptrace import STEPPED, ChildGoneError, Halt
from emulator.registers import Registers

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGILL, SIGTRAP, SIGFPE, SIGSEGV = 4, 5, 8, 11
SI_KERNEL, MAPERR, ACCERR = 128, 1, 2


def memory() -> Memory:
    made = Memory()
    made.map("text", CODE, CODE_END - CODE, Prot.RX)
    made.map("data", DATA, DATA_END - DATA, Prot.RW)
    made.map("constants", CONSTANTS, 0x1000, Prot.READ)
    made.map("stack", STACK, STACK_END - STACK, Prot.RW)
    return made


@pytest.fixture(scope="module")
def child() -> Iterator[FencedChild]:
    if why := native_objection():
        pytest.skip(why)
    made = FencedChild(memory())
    yield made
    made.close()


def load(child: FencedChild, text: str | bytes, **values: int) -> Registers:
    """Puts code at CODE, and the child before its first instruction."""
    child.memory.write(CODE, text if isinstance(text, bytes) else assemble(text))
    registers = Registers()
    registers["RIP"], registers["RSP"] = CODE, STACK_END - 0x100
    for name, value in values.items():
        registers[name] = value
    child.load(registers)
    return registers


def state(child: FencedChild) -> Registers:
    registers = Registers()
    child.save(registers)
    return registers


GETPID, KILL, PTRACE, PROCESS_VM_WRITEV = 39, 62, 101, 311
MMAP, FORK, EXECVE, EVENTFD = 9, 57, 59, 290
ATTACKS = {
    "getpid": (GETPID, 0, 0),
    "kill of the parent": (KILL, os.getpid(), signal.SIGKILL),
    "ptrace of the parent": (PTRACE, 16, os.getpid()),
    "process_vm_writev to the parent": (PROCESS_VM_WRITEV, os.getpid(), DATA),
    "mmap": (MMAP, 0, 1 << 40),
    "fork": (FORK, 0, 0),
    "execve": (EXECVE, DATA, 0),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_system_call_is_made(child: FencedChild, name: str) -> None:
    number, first, second = ATTACKS[name]
    before = load(child, "syscall; int3", RAX=number, RDI=first, RSI=second)
    assert child.resume(9) == Halt(call=number)
    after = state(child)
    assert set(before.diff(after)) == {"RIP", "RCX", "R11"}  # SDM volume 2, SYSCALL
    assert after["RIP"] == CODE + 2
    assert child.resume(9).signo == SIGTRAP


def test_a_system_call_of_32_bits_is_none_either(child: FencedChild) -> None:
    load(child, "int 0x80; int3", RAX=37)  # kill
    assert child.resume(9) == Halt(call=37, foreign=True)


# Signal and si_code of what an instruction alone can do.
ENDS = {
    "int3": ("int3", SIGTRAP, SI_KERNEL),
    "ud2": ("ud2", SIGILL, 2),
    "hlt": ("hlt", SIGSEGV, SI_KERNEL),
    "in": ("in al, dx", SIGSEGV, SI_KERNEL),
    "rdmsr": ("rdmsr", SIGSEGV, SI_KERNEL),
    "int 13": ("int 0x0d", SIGSEGV, SI_KERNEL),
    "time stamp": ("rdtsc", SIGSEGV, SI_KERNEL),
    "time stamp and processor": ("rdtscp", SIGSEGV, SI_KERNEL),
    "division": ("xor ecx, ecx; div ecx", SIGFPE, 1),
    "jump to 0": ("xor eax, eax; jmp rax", SIGSEGV, MAPERR),
    "jump to the kernel": ("mov rax, 0xffffffff81000000; jmp rax", SIGSEGV, MAPERR),
    "jump to data": ("mov eax, 0x600000; jmp rax", SIGSEGV, ACCERR),
    "write of code": ("mov [rip], eax", SIGSEGV, ACCERR),
    "write of constants": ("mov ecx, 0x610000; mov [rcx], eax", SIGSEGV, ACCERR),
    "stack that runs out": ("l: push rax; jmp l", SIGSEGV, MAPERR),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_whatever_goes_wrong_is_a_stop(child: FencedChild, name: str) -> None:
    text, signo, code = ENDS[name]
    load(child, text)
    halt = child.resume(9)
    assert (halt.signo, halt.code) == (signo, code)


def test_an_endless_loop_ends(child: FencedChild) -> None:
    load(child, "l: jmp l")
    assert child.resume(0).signo == signal.SIGXCPU
    assert child.step() == STEPPED


# vsyscall(7): the one page of the kernel's that cannot be unmapped is behind the filter, too.
def test_the_vsyscall_page_makes_no_call(child: FencedChild) -> None:
    load(child, "mov rax, 0xffffffffff600000; call rax; int3")
    halt = child.resume(9)
    assert halt.call == 96 or halt.signo == SIGSEGV  # gettimeofday; vsyscall=none


def test_nothing_of_ours_is_mapped_or_open(child: FencedChild) -> None:
    process = Path(f"/proc/{child.pid}")
    lines = (process / "maps").read_text("ascii").splitlines()
    places = {line.split()[0]: line.split()[1] for line in lines if "[" not in line}
    assert places == {
        f"{region.start:08x}-{region.end:08x}": "".join(
            letter if region.prot & bit else "-"
            for letter, bit in (("r", Prot.READ), ("w", Prot.WRITE), ("x", Prot.EXEC))
        )
        + "s"
        for region in child.memory.regions
    }
    left = [line for line in lines if "[" in line]
    assert all(re.search(r"\[(vdso|vvar\w*|vsyscall|vvar_vclock)\]$", line) for line in left)
    assert not any("w" in line.split()[1] for line in left)
    assert list((process / "fd").iterdir()) == []
    assert os.getsid(child.pid) == child.pid
    # What is shared with the guest is its memory alone: an address of ours is none of the child's.
    load(child, "mov [rax], rax", RAX=id(child))
    assert child.resume(9).signo == SIGSEGV


def test_stores_are_seen_on_both_sides(child: FencedChild) -> None:
    load(child, "mov rcx, [rbx + 16]; mov [rbx + 24], rcx; int3", RBX=DATA)
    child.memory.put_u64(DATA + 0x10, 77)
    child.resume(9)
    assert child.memory.u64(DATA + 0x18) == 77


def test_we_can_make_system_calls_in_its_name(child: FencedChild) -> None:
    code = child.memory.read(CODE, 16)
    assert child.system_call(GETPID) == child.pid
    assert child.system_call(MMAP, 0, 1 << 40, 3, 0x22, 2**64 - 1, 0) == -12  # ENOMEM
    assert child.system_call(EVENTFD, 0, 0) == -24  # EMFILE
    assert child.memory.read(CODE, 16) == code


# signal(7): of a signal that a handler takes, the frame is the kernel's.
def test_a_handler_runs_where_sigreturn_is_allowed() -> None:
    with_handler = FencedChild(memory(), allow=(15,))  # rt_sigreturn
    try:
        load(with_handler, "inc rbx; inc rbx; int3")
        handler = CODE + 0x100
        with_handler.memory.write(handler, assemble("inc r12; ret"))
        restorer = CODE + 0x200
        with_handler.memory.write(restorer, assemble("mov eax, 15; syscall"))
        for index, word in enumerate((handler, 0x0400_0004, restorer, 0)):
            with_handler.memory.put_u64(DATA + 8 * index, word)
        assert with_handler.system_call(13, signal.SIGURG, DATA, 0, 8) == 0
        registers = load(with_handler, "inc rbx; inc rbx; int3", RBX=5)
        assert with_handler.step() == STEPPED
        os.kill(with_handler.pid, signal.SIGURG)
        assert with_handler.resume(9).signo == signal.SIGURG
        assert with_handler.resume(9, signo=signal.SIGURG).signo == SIGTRAP
        after = state(with_handler)
        assert (after["RBX"], after["R12"], after["RIP"]) == (7, 0, CODE + 7)
        assert registers["RSP"] == after["RSP"]
    finally:
        with_handler.close()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_closed_or_forgotten_it_is_gone() -> None:
    for forget in (False, True):
        child: FencedChild | None = FencedChild(memory())
        assert child is not None
        pid = child.pid
        if not forget:
            child.close()
        child = None
        assert gone(pid)


def test_killed_by_somebody_it_says_so() -> None:
    child = FencedChild(memory())
    load(child, "l: jmp l")
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(ChildGoneError, match=r"killed|signal 9"):
        child.step()
    child.close()


def test_it_dies_with_us() -> None:
    places = [str(Path(__file__).parents[n]) for n in range(3)]
    text = f"""
import sys
sys.path[:0] = {places!r}
from test_fenced_child import *
child = FencedChild(memory())
load(child, "l: jmp l")
print(child.pid, flush=True)
child.resume(600)
"""
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        process.wait()
        for _ in range(100):
            if gone(pid):
                break
            time.sleep(0.05)
        assert gone(pid)


def test_memory_that_cannot_be_shared_is_refused() -> None:
    made = memory()
    made.map("arena", 0xC0_0000_0000, 0x1000, Prot.RW, private=True)
    with pytest.raises(NativeUnavailableError, match="arena"):
        FencedChild(made)


def test_registers_that_the_processor_lacks_are_refused() -> None:
    child = FencedChild(memory())
    child.features &= ~0xE0  # AVX-512's
    registers = Registers()
    registers["YMM3"] = 1 << 200 if child.features & 4 else 0
    child.load(registers)
    registers["K1"] = 5
    with pytest.raises(NativeUnavailableError, match="components 0x20 of XCR0"):
        child.load(registers)
    child.close()
