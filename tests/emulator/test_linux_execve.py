"""The start of a program, and waits on files, in a machine that runs an executable.

The layout of the initial stack and the auxiliary vector: System V ABI for AMD64, 3.4.1 and 3.4.3.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from small_computer import assemble

from emulator.elf import Elf, ElfError
from emulator.fault import GuestStopped
from emulator.linux import execve
from emulator.linux.open_file import S_IFIFO, Input
from emulator.linux.tree import Tree
from emulator.machine import Machine
from emulator.memory import Memory, Prot
from emulator.unicorn_cpu import UnicornCpu

if TYPE_CHECKING:
    from pathlib import Path

BASE = 0x40_0000
HEADERS = 64 + 3 * 56
TEXT = BASE + 0x1000
DATA = BASE + 0x2000


def executable(
    path: Path, text: str, data: bytes = b"", *, pie: bool = False, interpreter: bytes = b""
) -> Elf:
    """A file with a page of text, and a page of data of which half is in the file."""
    origin = 0 if pie else BASE
    code = assemble(text, TEXT - BASE + origin)
    kind = 3 if pie else 2
    header = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", kind, 62, 1, origin + 0x1000, 64, 0, 0, 64, 56, 3, 64, 0, 0
    )

    def segment(kind: int, flags: int, offset: int, size: int, memory: int) -> bytes:
        return struct.pack(
            "<IIQQQQQQ", kind, flags, offset, origin + offset, 0, size, memory, 0x1000
        )

    headers = (
        segment(1, 4, 0, HEADERS, HEADERS)
        + segment(1, 5, 0x1000, len(code), len(code))
        + (
            segment(3, 4, 0x2000, len(interpreter), len(interpreter))
            if interpreter
            else segment(1, 6, 0x2000, len(data), 0x1800)
        )
    )
    file = (header + headers).ljust(0x1000, b"\0") + code.ljust(0x1000, b"\0")
    path.write_bytes(file + (interpreter or data))
    return Elf(path)


def boot(elf: Elf, argv: tuple[bytes, ...] = (), envp: tuple[bytes, ...] = ()) -> Machine:
    memory = Memory()
    machine = Machine(memory, UnicornCpu(memory), budget=100_000)
    execve.load(machine, elf, argv, envp)
    return machine


def test_the_stack_holds_arguments_environment_and_auxiliary_vector(tmp_path: Path) -> None:
    elf = executable(tmp_path / "a", "nop")
    machine = boot(elf, (b"one", b"two"), (b"HOME=/",))
    (thread,) = machine.threads.values()
    memory, rsp = machine.memory, thread.registers["RSP"]
    assert rsp % 16 == 0
    words = struct.unpack("<48Q", memory.read(rsp, 48 * 8))

    def text(address: int) -> bytes:
        return memory.read(address, 16).split(b"\0")[0]

    assert words[0] == 2
    assert [text(at) for at in words[1:3]] == [b"one", b"two"]
    assert words[3] == 0
    assert text(words[4]) == b"HOME=/"
    assert words[5] == 0
    auxiliary = dict(zip(words[6::2], words[7::2], strict=True))
    assert auxiliary[6] == 4096  # AT_PAGESZ
    assert auxiliary[9] == TEXT  # AT_ENTRY
    assert (auxiliary[3], auxiliary[4], auxiliary[5]) == (BASE + 64, 56, 3)  # AT_PHDR …
    assert text(auxiliary[31]) == b"/program"  # AT_EXECFN
    assert len(set(memory.read(auxiliary[25], 16))) > 4  # AT_RANDOM: 16 bytes


def test_segments_are_protected_and_filled_up_with_zeros(tmp_path: Path) -> None:
    machine = boot(executable(tmp_path / "a", "nop", b"data"))
    memory = machine.memory
    assert memory.read(DATA, 8) == b"data\0\0\0\0"
    assert memory.read(DATA + 0x1FF8, 8) == bytes(8)
    assert [memory.find(at).prot for at in (BASE, TEXT, DATA)] == [  # type: ignore[union-attr]
        Prot.READ,
        Prot.RX,
        Prot.RW,
    ]
    assert memory.find(DATA + 0x2000) is None


def test_a_write_to_its_own_text_is_a_fault(tmp_path: Path) -> None:
    machine = boot(executable(tmp_path / "a", f"mov byte ptr [{TEXT}], 0"))
    with pytest.raises(GuestStopped, match="write to protected memory at 0x401000"):
        machine.run()


def test_a_position_independent_program_is_moved(tmp_path: Path) -> None:
    code = "lea rdi, [rip - 7]; shr rdi, 40; mov eax, 231; syscall"
    machine = boot(executable(tmp_path / "a", code, pie=True))
    assert machine.run() == execve.ELF_ET_DYN_BASE >> 40


def test_an_interpreter_is_refused_by_name(tmp_path: Path) -> None:
    elf = executable(tmp_path / "a", "nop", interpreter=b"/lib64/ld-linux-x86-64.so.2\0")
    with pytest.raises(ElfError, match="interpreter /lib64/ld-linux"):
        boot(elf)


def test_the_vsyscall_page_tells_the_time(tmp_path: Path) -> None:
    code = f"mov rax, {execve.VSYSCALL}; mov edi, {DATA}; xor esi, esi; call rax; ud2"
    machine = boot(executable(tmp_path / "a", code, b"\1"))
    with pytest.raises(GuestStopped):
        machine.run()
    assert machine.memory.u64(DATA) == 1_767_225_600  # 2026-01-01


SEND = f"mov edi, 3; mov esi, {DATA + 64}; mov edx, 8; mov eax, 1; syscall;"
THREAD = (
    "mov edi, 0x50f00; lea rsi, [rsp - 4096]; xor edx, edx; mov eax, 56; syscall;"
    "test eax, eax; jz child;"
)


def test_a_thread_that_waits_for_a_counter_goes_on_when_another_adds_to_it(tmp_path: Path) -> None:
    code = (
        f"xor edi, edi; xor esi, esi; mov eax, 290; syscall; {THREAD}"
        f"mov edi, 3; mov esi, {DATA}; mov edx, 8; xor eax, eax; syscall;"
        f"mov edi, {DATA}; mov rdi, [rdi]; add edi, eax; mov eax, 231; syscall;"
        f"child: mov ecx, 1000; l: dec ecx; jnz l; {SEND} c: jmp c"
    )
    machine = boot(executable(tmp_path / "a", code, bytes(64) + struct.pack("<Q", 40)))
    assert machine.run() == 48
    assert machine.now > 2000


@pytest.mark.parametrize(("timeout", "status"), [(-1, 1), (5, 1), (0, 0)])
def test_epoll_waits_for_news_or_its_time(tmp_path: Path, timeout: int, status: int) -> None:
    text = struct.pack("<IQ", 1, 7).ljust(64, b"\0") + struct.pack("<Q", 1)
    code = (
        "xor edi, edi; xor esi, esi; mov eax, 290; syscall;"  # 3: eventfd
        "xor edi, edi; mov eax, 291; syscall;"  # 4: epoll
        f"mov edi, 4; mov esi, 1; mov edx, 3; mov r10d, {DATA}; mov eax, 233; syscall; {THREAD}"
        f"mov edi, 4; mov esi, {DATA + 128}; mov edx, 8; mov r10d, {timeout}; xor r8d, r8d;"
        "mov eax, 281; syscall; mov edi, eax; mov eax, 231; syscall;"
        f"child: mov ecx, 1000; l: dec ecx; jnz l; {SEND} c: jmp c"
    )
    machine = boot(executable(tmp_path / "a", code, text.ljust(256, b"\0")))
    assert machine.run() == status


def test_an_epoll_that_hears_nothing_ends_at_its_time(tmp_path: Path) -> None:
    code = (
        "xor edi, edi; mov eax, 291; syscall;"
        f"mov edi, 3; mov esi, {DATA}; mov edx, 8; mov r10d, 20; xor r8d, r8d;"
        "mov eax, 281; syscall; mov edi, eax; mov eax, 231; syscall"
    )
    machine = boot(executable(tmp_path / "a", code, b"\1"))
    assert machine.run() == 0
    assert machine.now >= 20_000_000


def test_the_guest_sees_no_file_of_the_host(tmp_path: Path) -> None:
    def opened(path: bytes, flags: int = 0) -> int:
        code = (
            f"mov edi, -100; mov esi, {DATA}; mov edx, {flags}; xor r10d, r10d;"
            "mov eax, 257; syscall; mov edi, eax; neg edi; mov eax, 231; syscall"
        )
        machine = boot(executable(tmp_path / "a", code, path + b"\0"))
        machine.linux.tree = Tree({"/given": b"text"})
        status = machine.run()
        assert status is not None
        return status

    assert opened(b"/etc/passwd") == 2  # ENOENT
    assert opened(b"/proc/self/maps") == 2
    assert opened(str(tmp_path / "a").encode()) == 2
    assert opened(b"/given") == 256 - 3  # a descriptor
    assert opened(b"/given", 1) == 30  # EROFS
    assert opened(b"/new", 0o101) == 30
    assert not (tmp_path / "new").exists()


def test_a_missing_call_ends_the_run_or_returns_enosys(tmp_path: Path) -> None:
    code = "mov eax, 59; syscall; neg eax; mov edi, eax; mov eax, 231; syscall"
    elf = executable(tmp_path / "a", code)
    with pytest.raises(GuestStopped, match=r"system call 59 \(execve\) at 0x401005"):
        boot(elf).run()
    machine = boot(elf)
    machine.linux.enosys = True
    assert machine.run() == 38


def test_memory_and_output_have_limits(tmp_path: Path) -> None:
    code = (
        "xor edi, edi; mov esi, 0x40000000; mov edx, 3; mov r10d, 0x22; mov r8, -1; xor r9d, r9d;"
        "mov eax, 9; syscall; neg eax; mov edi, eax; mov eax, 231; syscall"
    )
    elf = executable(tmp_path / "a", code)
    machine = boot(elf)
    machine.linux.memory_limit = 64 << 20
    assert machine.run() == 12  # ENOMEM
    code = f"l: mov edi, 1; mov esi, {DATA}; mov edx, 100; mov eax, 1; syscall; jmp l"
    machine = boot(executable(tmp_path / "b", code, b"text"))
    machine.linux.output_limit = 1000
    with pytest.raises(GuestStopped, match="1000 bytes of output"):
        machine.run()


def test_a_snapshot_holds_files_and_random_numbers(tmp_path: Path) -> None:
    code = (
        f"xor edi, edi; mov esi, {DATA}; mov edx, 2; xor eax, eax; syscall; nop;"
        f"xor edi, edi; mov esi, {DATA + 2}; mov edx, 2; xor eax, eax; syscall;"
        f"mov edi, {DATA + 8}; mov esi, 8; xor edx, edx; mov eax, 318; syscall; ud2"
    )
    machine = boot(executable(tmp_path / "a", code, bytes(32)))
    machine.linux.files[0] = Input(S_IFIFO | 0o600, data=b"abcdef")
    machine.add_breakpoint(TEXT + 16, lambda _: machine.stop())
    assert machine.run() is None
    snapshot = machine.snapshot()
    seen = []
    for _ in range(2):
        with pytest.raises(GuestStopped):
            machine.run()
        seen.append(machine.memory.read(DATA, 16))
        machine.restore(snapshot)
    assert seen[0] == seen[1]
    assert seen[0][:4] == b"abcd"
