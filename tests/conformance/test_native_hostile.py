"""Programs that do their worst on the real processor end in a report, and leave nothing behind.

What the kernel would make of each: arch/x86/kernel/traps.c. System calls go to the emulated Linux.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from both_engines import EXAMPLES
from native_host import native_objection

from emulator.engines import ENGINES
from pushcall.api import run

if TYPE_CHECKING:
    from pushcall.snippet.run import Outcome


@pytest.fixture(autouse=True)
def _native() -> None:
    if why := native_objection():
        pytest.skip(why)


def children(of: int) -> set[int]:
    """The processes whose parent one is: ppid of proc(5)."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text("utf-8").rpartition(") ")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == of:
            found.add(int(path.parent.name))
    return found


KILL, MMAP, FORK, PTRACE, VM_WRITEV = 62, 9, 57, 101, 311
EXHAUST = (
    f"again: MOVQ ${MMAP}, AX; XORL DI, DI; MOVQ $0x100000000, SI; MOVQ $3, DX; MOVQ $0x22, R10; "
    "MOVQ $-1, R8; XORL R9, R9; SYSCALL; MOVQ AX, (AX); JMP again"
)
ENDS = {
    "wild jump": ("MOVQ $0x123456789, AX; JMP AX", "SIGSEGV: jump to unmapped memory"),
    "jump to data": ("MOVQ SP, AX; JMP AX", "SIGSEGV: jump to memory that is not executable"),
    "vsyscall": ("MOVQ $0xffffffffff600000, AX; CALL AX", "SIGSEGV: jump to unmapped memory"),
    "crash": ("MOVQ $0x1234, AX; MOVQ AX, (AX)", "SIGSEGV: write to unmapped memory at 0x1234"),
    "stack": (
        "again: MOVQ AX, (SP); SUBQ $4096, SP; JMP again",
        "SIGSEGV: write to unmapped memory",
    ),
    "ud2": ("UD2", "SIGILL: invalid instruction"),
    "int3": ("INT $3", "breakpoint"),
    "hlt": ("HLT", "SIGSEGV: privileged instruction"),
    "int 0x80": ("INT $0x80", "int 0x80: a 32-bit system call"),
    "sysenter": ("BYTE $0x0f; BYTE $0x34", "sysenter"),
    "mov to a segment register": ("BYTE $0x8e; BYTE $0xd0", "mov ss"),
    "loop": ("again: JMP again", "budget of 3000 instructions"),
    "fork": (f"MOVQ ${FORK}, AX; SYSCALL", "fork"),
    "ptrace": (f"MOVQ ${PTRACE}, AX; MOVQ ${os.getpid()}, SI; SYSCALL", "ptrace"),
    "process_vm_writev": (f"MOVQ ${VM_WRITEV}, AX; SYSCALL", "system call 311"),
    "exhausting memory": (EXHAUST, ""),
}


def ended(code: str, engine: str) -> Outcome:
    text = "TEXT main·main(SB), 4, $0-0\n\t" + code.replace("; ", "\n\t") + "\n\tRET\n"
    return run(text, engine=engine, never=True, budget=3000, go="1.22")[1]


@pytest.mark.parametrize("name", ENDS)
def test_it_ends_in_a_report(name: str) -> None:
    code, said = ENDS[name]
    before = children(os.getpid())
    reports = []
    for engine in ENGINES:
        out = ended(code, engine)
        assert out.crash is not None
        assert out.status == 1
        reports.append((out.crash.title, out.crash.where, out.instructions))
    assert said.lower() in reports[1][0].lower()
    if "privileged" not in said:  # what the emulator names more of
        assert reports[0] == reports[1]
    gc.collect()
    assert children(os.getpid()) <= before


def test_a_kill_is_the_emulated_kernels() -> None:
    code = f"MOVQ ${KILL}, AX; MOVQ ${os.getpid()}, DI; MOVQ ${signal.SIGKILL}, SI; SYSCALL"
    assert ended(code, "native").status == 0


def test_a_ctrl_c_in_an_endless_loop_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "loop.s"
    path.write_text("TEXT main·main(SB), 4, $0-0\nagain:\n\tJMP again\n", "utf-8")
    command = [sys.executable, "-m", "pushcall", "run", str(path), "--engine", "native", "--never"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            limit = time.monotonic() + 60
            while not (guests := children(process.pid)):
                assert time.monotonic() < limit
                time.sleep(0.05)
            time.sleep(0.5)
            guests |= children(process.pid)
            process.send_signal(signal.SIGINT)
            out = process.communicate(timeout=60)[0]
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in out
    assert not any(Path(f"/proc/{guest}").exists() for guest in guests)


# seccomp(2), linux/filter.h: a filter under which one system call fails with EPERM.
DENYING = """
import ctypes, struct, sys
from pushcall.cli.main import main
denied = int(sys.argv.pop(1))
parts = (0x20, 0, 0, 0), (0x15, 0, 1, denied), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)
code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *part) for part in parts))
program = struct.pack("<H6xQ", len(parts), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0
main()
"""
DENIED = {PTRACE: "needs ptrace, which this host does not allow", 317: "be fenced by seccomp"}


@pytest.mark.parametrize("number", DENIED)
@pytest.mark.parametrize("command", ["run", "check", "compare"])
def test_a_host_that_denies_it_is_told_in_one_line(command: str, number: int) -> None:
    arguments = [command, str(EXAMPLES / "add.s")]
    arguments += [] if command == "compare" else ["--engine", "native"]
    ran = subprocess.run(
        [sys.executable, "-c", DENYING, str(number), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("pushcall: the native engine")
    assert DENIED[number] in line
