"""`pushcall run` on executables, as far as no Go toolchain is needed: options, refusals, messages.

Booted Go programs are in tests/conformance/test_booted.py.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from go_binary import TEXT, Function, GoBinaryWriter
from keystone import KS_ARCH_X86, KS_MODE_64, Ks

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pushcall", "run", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def refused(*arguments: str | Path) -> str:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    return ended.stderr


def test_an_executable_that_is_not_go_is_refused(tmp_path: Path) -> None:
    assert "not a Go program" in refused(sys.executable)
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF" + bytes(100))
    assert "broken" in refused(broken)


def test_options_of_snippets_and_of_executables_are_told_apart() -> None:
    add = ROOT / "examples/add.s"
    assert "--seed is for executables" in refused(add, "--seed", "1")
    assert "--file is for executables" in refused(add, "--file", "/a=b")
    assert "a snippet takes no arguments: one two" in refused(add, "--", "one", "two")
    assert "--every is for snippets" in refused(sys.executable, "--every", "1")
    assert "-D is for snippets" in refused(sys.executable, "-D", "A=1")


def test_what_is_handed_in_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert "No such file" in refused(sys.executable, "--stdin", missing)
    assert "No such file" in refused(sys.executable, "--file", f"/a={missing}")
    assert "not /GUEST/PATH=HOST_PATH" in refused(sys.executable, "--file", "a")
    assert "not NAME=VALUE" in refused(sys.executable, "--env", "=1")


def test_gdbs_port_must_be_free_and_the_program_an_executable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = refused(sys.executable, "--gdb", port)
        assert message == f"pushcall: --gdb {port}: Address already in use\n"
    assert "--gdb is for executables" in refused(ROOT / "examples/add.s", "--gdb", "0")


def missing_calls(path: Path, wrapper: str) -> Path:
    """A Go program whose main.main makes socket(2) twice through a function, then exits."""
    assembler = Ks(KS_ARCH_X86, KS_MODE_64)
    call = TEXT + 0x40
    main = f"call {call}; call {call}; mov edi, 5; mov eax, 231; syscall"
    socket_ = bytes(assembler.asm("mov eax, 41; syscall; ret")[0])
    code = bytes(assembler.asm(main, TEXT)[0]).ljust(0x40, b"\xcc")
    writer = GoBinaryWriter((1, 22), [Function("main.main", code), Function(wrapper, socket_)])
    path.write_bytes(bytes(writer))
    return path


def test_a_missing_call_says_which_from_where_and_how_it_went_on(tmp_path: Path) -> None:
    """RIP 0x401045 is behind the SYSCALL; Go's function tables lead from there to main.main."""
    program = missing_calls(tmp_path / "program", "syscall.socket")
    which = "system call 41 (socket) at 0x401045 is not modelled"
    stopped = run(program)
    assert stopped.returncode == 1
    assert f"{which}: at 0x401047 in syscall.socket (" in stopped.stderr
    assert "for main.main (main.go:1)" in stopped.stderr
    assert "exit status" not in stopped.stderr
    program = missing_calls(tmp_path / "other", "internal/runtime/syscall/linux.Syscall6")
    document = json.loads(run(program, "--enosys", "--json").stdout)
    assert document["exit"] == {"status": 5, "how": "exit"}
    assert document["missing"] == [f"{which}: ENOSYS to main.main (main.go:1), 2 times"]


def test_check_and_trace_tell_executables_from_snippets() -> None:
    add = str(ROOT / "examples/add.s")

    def message(*arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "pushcall", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 2
        assert len(ended.stderr.splitlines()) == 1
        return ended.stderr

    assert "--function is for executables" in message("check", add, "--function", "f")
    assert "--preemption is for executables" in message("trace", add, "--preemption", "1")
    assert "name the function to check" in message("check", sys.executable)
    assert "not a Go program" in message("trace", sys.executable, "--plain")
    assert "--every is for snippets" in message("trace", sys.executable, "--plain", "--every", "5")
    assert "--arg is for executables" in message("check", add, "--arg", "5")
    assert "not a Go program" in message("check", sys.executable, "--function", "f")


def test_strace_shows_paths_bytes_descriptors_and_names_of_errors(tmp_path: Path) -> None:
    """As strace(1) on a host without /no prints these calls, but for the sign of the error."""
    code = """
        mov rax, 0x6f6e2f; push rax
        mov edi, -100; mov rsi, rsp; xor edx, edx; xor r10d, r10d; mov eax, 257; syscall
        mov edi, 1; lea rsi, [rip + text]; mov edx, 40; mov eax, 1; syscall
        mov edi, -1; mov eax, 3; syscall
        mov edi, 1; mov esi, 5; mov edx, 3; mov eax, 1; syscall
        xor edi, edi; mov eax, 231; syscall
    text:
    """
    path = tmp_path / "calls"
    assembled = bytes(Ks(KS_ARCH_X86, KS_MODE_64).asm(code)[0]) + b"0123456789" * 4
    path.write_bytes(bytes(GoBinaryWriter((1, 22), [Function("main.main", assembled)])))
    for option in ("--strace", "--events"):
        told = [line for line in run(path, option).stderr.splitlines() if " thread 1000" in line]
        assert [line.partition("1000 ")[2] for line in told] == [
            'openat(AT_FDCWD, "/no", 0, 0) = -ENOENT',
            'write(1, "01234567890123456789012345678901"..., 40) = 40',
            "close(-1) = -EBADF",
            "write(1, 5, 3) = -EFAULT",
            "exit_group(0) = ?",
        ]
