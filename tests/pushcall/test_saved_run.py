"""`pushcall run BINARY --save FILE` and `pushcall run FILE`, on an executable without a toolchain.

What goes on is compared with the run that was never stopped. Real Go programs are in
tests/conformance/test_saved.py.
"""

from __future__ import annotations

import hashlib
import json
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from go_binary import Function, GoBinaryWriter
from keystone import KS_ARCH_X86, KS_MODE_64, Ks

from pushcall.booted.saved import MAGIC, VERSION, SavedRun
from pushcall.cli.main import cli
from pushcall.usage import UsageError

if TYPE_CHECKING:
    from pathlib import Path

# Writes "0123456789" a digit at a time, with some work between, and ends with status 7.
COUNTS = """
    xor ebx, ebx
again:
    lea eax, [rbx + 48]
    push rax
    mov edi, 1; mov rsi, rsp; mov edx, 1; mov eax, 1; syscall
    pop rax
    mov ecx, 50
work:
    dec ecx; jnz work
    inc ebx; cmp ebx, 10; jne again
    mov edi, 7; mov eax, 231; syscall
"""


@dataclass
class Ended:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """The command, in this process."""

    def command(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        status = cli.main(["run", *map(str, arguments)], standalone_mode=False)
        return Ended(status, *capfd.readouterr())

    return command


def refused(*arguments: str | Path) -> str:
    with pytest.raises(UsageError) as caught:
        cli.main(["run", *map(str, arguments)], standalone_mode=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assembled(text: str) -> bytes:
    return bytes(Ks(KS_ARCH_X86, KS_MODE_64).asm(text)[0])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("saved") / "counts"
    path.write_bytes(bytes(GoBinaryWriter((1, 22), [Function("main.main", assembled(COUNTS))])))
    return path


@pytest.fixture
def saved(program: Path, run: Run) -> Path:
    path = program.with_name("half")
    ended = run(program, "--save", path, "--at", "700")
    assert (ended.returncode, ended.stdout) == (0, "0123456")
    assert f"goes on with: pushcall run {path}" in ended.stderr
    return path


def document(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return {key: value for key, value in found.items() if key not in ("repeat", "events", "saved")}


def test_it_goes_on_where_it_was_saved(program: Path, saved: Path, run: Run) -> None:
    whole = run(program, "--json", "--events")
    first = run(program, "--json", "--events", "--save", saved.with_name("other"), "--at", "700")
    second = run(saved, "--json", "--events")
    assert (whole.returncode, first.returncode, second.returncode) == (1, 0, 1)
    assert json.loads(first.stdout)["exit"] == {"status": None, "how": "saved"}
    assert json.loads(first.stdout)["instructions"] == 700
    assert document(second.stdout) == document(whole.stdout)
    assert json.loads(whole.stdout)["stdout"] == "0123456789"
    events = [json.loads(each.stdout)["events"] for each in (first, second, whole)]
    assert events[0] + events[1] == events[2]
    plain = run(saved)
    assert plain.stdout == "789"  # what was written before was written before
    assert f"again: pushcall run {saved}\n" in plain.stderr


def test_it_is_saved_again_and_where_the_budget_ends(program: Path, saved: Path, run: Run) -> None:
    again = saved.with_name("again")
    assert run(saved, "--save", again, "--at", "900").returncode == 0
    assert json.loads(run(again, "--json").stdout)["stdout"] == "0123456789"
    short = run(program, "--budget", "300", "--save", again)
    assert short.returncode == 1
    assert "the budget of 300 instructions is used up" in short.stderr
    assert json.loads(run(again, "--json").stdout)["stdout"] == "0123456789"


def test_a_program_that_has_ended_is_not_saved(program: Path, saved: Path, run: Run) -> None:
    never = saved.with_name("never")
    ended = run(program, "--save", never, "--at", "100000")
    assert ended.returncode == 1
    assert "nothing was saved: the program ended after " in ended.stderr
    assert not never.exists()


ENDLESS = """
    mov byte ptr [rsp - 8], 46; mov edi, 1; lea rsi, [rsp - 8]; mov edx, 1; mov eax, 1; syscall
    xor ebx, ebx
again:
    inc rbx; jmp again
"""
BEFORE = 7  # instructions before the loop


def test_ctrl_c_saves(tmp_path: Path) -> None:
    path, file = tmp_path / "endless", tmp_path / "saved"
    code = assembled(ENDLESS)
    path.write_bytes(bytes(GoBinaryWriter((1, 22), [Function("main.main", code)])))
    command = [sys.executable, "-m", "pushcall", "run", str(path), "--save", str(file)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == "."
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors
    state = SavedRun(file)._document.machine
    assert f"{state.instructions} instructions in" in errors
    registers = state.process.threads[0].registers
    assert registers["RBX"] == (state.instructions - BEFORE + 1) // 2


def test_what_a_saved_run_has_cannot_be_given(saved: Path) -> None:
    assert "a saved run has its own --seed" in refused(saved, "--seed", "0")
    assert "a saved run has its own --stdin" in refused(saved, "--stdin", "-")
    assert "a saved run has its own --never" in refused(saved, "--never")
    assert "a saved run has its own arguments" in refused(saved, "--", "one")


@pytest.mark.parametrize("command", ["check", "asm", "mutants"])
def test_only_run_takes_a_saved_run(saved: Path, command: str) -> None:
    with pytest.raises(UsageError, match="a saved run; `pushcall run` goes on with it"):
        cli.main([command, str(saved)], standalone_mode=False)


def test_at_says_where_to_save(program: Path, tmp_path: Path) -> None:
    assert "says where to --save" in refused(program, "--at", "5")
    assert "one number of instructions" in refused(program, "--save", tmp_path / "s", "--at", "5,6")
    assert "no directory" in refused(program, "--save", tmp_path / "none/s", "--at", "5")
    assert "cannot be used together" in refused(program, "--save", tmp_path / "s", "--gdb", "0")


def sealed(text: bytes, pages: bytes, version: int = VERSION) -> bytes:
    """A file with a right checksum."""
    length = struct.pack("<Q", len(text))
    digest = hashlib.sha256(length + text + pages).digest()
    return MAGIC + struct.pack("<I", version) + digest + length + text + pages


def test_a_file_that_is_none_is_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    good = saved.read_bytes()
    head = len(MAGIC) + 44
    size = int.from_bytes(good[head - 8 : head], "little")
    text, pages = good[head : head + size], good[head + size :]
    assert sealed(text, pages) == good
    decoded = json.loads(zlib.decompress(text))

    def packed(document: Any) -> bytes:
        return zlib.compress(json.dumps(document).encode())

    deep = zlib.compress(b"[" * 100_000)
    bomb = zlib.compress(bytes(1 << 20))
    huge = zlib.compress(b"1" * 5000)
    cases = {
        "cut off": good[: head - 1],
        "checksum": good[:-1],
        "checksum is": bytes([*good[:-1], good[-1] ^ 1]),
        "version 9": sealed(text, pages, 9),
        "no end": sealed(text[:100], pages),
        "unexpected": sealed(packed({}), pages),
        "Expecting value": sealed(bomb, pages),
        "recursion": sealed(deep, pages),
        "digits": sealed(huge, pages),
        "unexpected 5": sealed(packed([*decoded[:-1], 5]), pages),
        "No such file": sealed(packed(["/none", *decoded[1:]]), pages),
        "is not the executable": sealed(packed([decoded[0], "00", *decoded[2:]]), pages),
        "null byte": sealed(packed(["/a\0b", *decoded[1:]]), pages),
    }
    for message, content in cases.items():
        path = tmp_path / "bad"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            SavedRun(path).check_binary()
    path.write_bytes(sealed(packed([*decoded[:2], "?", *decoded[3:]]), pages))
    assert "?" in refused(path)
    path.write_bytes(sealed(text, b"nonsense"))
    assert "not a saved run that one can go on from" in refused(path)
    path.write_bytes(sealed(text, zlib.compress(zlib.decompress(pages) + b"x")))
    assert "more pages than it says" in refused(path)


# Three times: sends SIGURG to itself, whose handler returns, and then calls asyncPreempt.
PREEMPTED = """
    push 0; push 0; push 0x4000000; lea rax, [rip + handler]; push rax
    mov edi, 23; mov rsi, rsp; xor edx, edx; mov r10d, 8; mov eax, 13
    syscall
    mov ebx, 3
again:
    mov edi, 1000; mov esi, edi; mov edx, 23; mov eax, 234
    syscall
    call 0x60
    dec ebx; jnz again
    xor edi, edi; mov eax, 231; syscall
handler:
    add rsp, 8; mov eax, 15; syscall
"""
BEFORE_FIRST = 12  # instructions
IN_ROUND = 12  # of which the fifth is tgkill's SYSCALL


def test_it_stops_before_the_signal_of_a_preemption(tmp_path: Path, run: Run) -> None:
    """At the SYSCALL: the first thing that the saved run does is to send it."""
    path, file, later = tmp_path / "preempted", tmp_path / "file", tmp_path / "later"
    functions = [
        Function("main.main", assembled(PREEMPTED).ljust(0x60, b"\x90")),
        Function("runtime.asyncPreempt", b"\xc3"),
    ]
    path.write_bytes(bytes(GoBinaryWriter((1, 22), functions)))
    whole = run(path, "--json", "--events")
    first = run(path, "--json", "--events", "--save", file, "--preemption", "2")
    assert json.loads(first.stdout)["instructions"] == BEFORE_FIRST + IN_ROUND + 4
    second = run(file, "--json", "--events", "--save", later, "--preemption", "3")
    last = run(later, "--json", "--events")
    assert document(last.stdout) == document(whole.stdout)
    assert json.loads(last.stdout)["preemptions"] == 3
    parts = [json.loads(each.stdout)["events"] for each in (first, second, last)]
    assert [part[0]["event"] for part in parts[1:]] == ["PreemptRequested"] * 2
    assert [*parts[0], *parts[1], *parts[2]] == json.loads(whole.stdout)["events"]
    assert "saved run has had 1 already" in refused(file, "--save", later, "--preemption", "1")
    never = run(path, "--save", tmp_path / "never", "--preemption", "4")
    assert never.returncode == 1
    assert "nothing was saved: the program ended with status 0 before" in never.stderr
