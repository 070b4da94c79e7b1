"""The start of a program: fs/binfmt_elf.c (load_elf_binary, create_elf_tables); execve(2).

Static executables, position-independent ones too, and those that name an interpreter but need no
library: it would only relocate them, which is done here. There is no vDSO, as under `vdso=0`, so
programs make system calls for the time; the vsyscall page, which old programs jump to, is there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.elf import ElfError
from emulator.memory import PAGE, Prot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emulator.elf import Elf, Segment
    from emulator.linux.threads import Thread
    from emulator.machine import Machine

ELF_ET_DYN_BASE: Final = 0x5555_5555_4000  # where Linux puts PIE without randomisation
STACK_TOP: Final = 0x7FFF_FFFF_F000
STACK_SIZE: Final = 8 << 20  # RLIMIT_STACK
VSYSCALL: Final = 0xFFFF_FFFF_FF60_0000
VSYSCALLS: Final = (96, 201, 309)  # gettimeofday, time, getcpu, 1024 bytes apart
MAX_ARG_STRLEN: Final = 128 << 10

# Auxiliary vector: include/uapi/linux/auxvec.h.
AT_NULL, AT_PHDR, AT_PHENT, AT_PHNUM, AT_PAGESZ, AT_BASE = 0, 3, 4, 5, 6, 7
AT_FLAGS, AT_ENTRY, AT_UID, AT_EUID, AT_GID, AT_EGID = 8, 9, 11, 12, 13, 14
AT_PLATFORM, AT_HWCAP, AT_CLKTCK, AT_SECURE, AT_RANDOM, AT_EXECFN = 15, 16, 17, 23, 25, 31


@dataclass(frozen=True)
class Loaded:
    """A program in memory: `base` is what its addresses were moved by."""

    base: int
    entry: int
    thread: Thread


def load(
    machine: Machine, elf: Elf, argv: Sequence[bytes], envp: Sequence[bytes], name: str = "/program"
) -> Loaded:
    """Maps a program and makes the process's first thread, at its entry.

    Raises ElfError for what needs an interpreter or lies over something else.
    """
    if elf.interpreter is not None and (elf.needed or not elf.position_independent):
        raise ElfError(
            f"{elf.path}: linked dynamically (interpreter {elf.interpreter}); only static "
            "executables can be run"
        )
    base = ELF_ET_DYN_BASE if elf.position_independent else 0
    memory = machine.memory
    for segment in elf.segments:
        _map_segment(machine, elf, segment, base)
    if base:
        for place, value in elf.relocations():
            memory.put_u64(place + base, value + base)
    process = machine.linux
    process.brk = max(s.address + s.size for s in elf.segments) + base + PAGE - 1 & -PAGE
    stack = memory.map("stack", STACK_TOP - STACK_SIZE, STACK_SIZE, Prot.RW, private=True)
    machine.cpu.attach(stack)
    _map_vsyscall(machine)
    rsp = _stack(machine, elf, argv, envp, base, name)
    thread = machine.spawn(rip=elf.entry + base, rsp=rsp)
    return Loaded(base, elf.entry + base, thread)


def _map_segment(machine: Machine, elf: Elf, segment: Segment, base: int) -> None:
    """A PT_LOAD segment: the file's bytes, then zeros; whole pages, as mmap gives them."""
    memory = machine.memory
    start = segment.address & -PAGE
    end = segment.address + segment.size + PAGE - 1 & -PAGE
    if start == end:
        return
    prot = Prot.NONE
    for wanted, bit in (
        (segment.readable, Prot.READ),
        (segment.writable, Prot.WRITE),
        (segment.executable, Prot.EXEC),
    ):
        prot |= bit if wanted else Prot.NONE
    if start + base < PAGE or end + base > STACK_TOP - STACK_SIZE:
        raise ElfError(f"{elf.path}: a segment at {start + base:#x}, where no program can be")
    try:
        name = f"{elf.path.name} {start:#x}"
        region = memory.map(name, start + base, end - start, prot, private=True)
    except ValueError as error:
        raise ElfError(f"{elf.path}: {error}") from None
    skip = segment.address - start
    if segment.file_size:
        data = elf.view(segment.address, segment.file_size)
        region.view[skip : skip + segment.file_size] = data
    machine.cpu.attach(region)


def _map_vsyscall(machine: Machine) -> None:
    """Native mode: at each entry `mov eax, number; syscall; ret`."""
    region = machine.memory.map("vsyscall", VSYSCALL, PAGE, Prot.RX)
    for index, number in enumerate(VSYSCALLS):
        code = b"\xb8" + number.to_bytes(4, "little") + b"\x0f\x05\xc3"
        region.view[1024 * index : 1024 * index + len(code)] = code
    machine.cpu.attach(region)


def _stack(
    machine: Machine,
    elf: Elf,
    argv: Sequence[bytes],
    envp: Sequence[bytes],
    base: int,
    name: str,
) -> int:
    """argc, argv, envp, auxv and the strings they point at; returns RSP."""
    memory, process = machine.memory, machine.linux
    at = STACK_TOP - 8

    def push(data: bytes) -> int:
        nonlocal at
        at -= len(data)
        memory.write(at, data)
        return at

    execfn = push(name.encode() + b"\0")
    environment = [push(text + b"\0") for text in reversed(envp)][::-1]
    arguments = [push(text + b"\0") for text in reversed(argv)][::-1]
    at &= -16
    platform = push(b"x86_64\0")
    random = push(process.random.randbytes(16))
    auxiliary = [
        (AT_HWCAP, 0),
        (AT_PAGESZ, PAGE),
        (AT_CLKTCK, 100),
        (AT_PHDR, elf.program_headers + base),
        (AT_PHENT, 56),
        (AT_PHNUM, elf.program_header_count),
        (AT_BASE, 0),
        (AT_FLAGS, 0),
        (AT_ENTRY, elf.entry + base),
        (AT_UID, process.uid),
        (AT_EUID, process.uid),
        (AT_GID, process.uid),
        (AT_EGID, process.uid),
        (AT_SECURE, 0),
        (AT_RANDOM, random),
        (AT_EXECFN, execfn),
        (AT_PLATFORM, platform),
        (AT_NULL, 0),
    ]
    words = [len(arguments), *arguments, 0, *environment, 0]
    for key, value in auxiliary:
        words += [key, value]
    process.saved_auxv = struct.pack(f"<{2 * len(auxiliary)}Q", *words[-2 * len(auxiliary) :])
    at = at - 8 * len(words) & -16
    memory.write(at, struct.pack(f"<{len(words)}Q", *words))
    return at


def check_arguments(argv: Sequence[bytes], envp: Sequence[bytes]) -> str | None:
    """Why the kernel would refuse them (E2BIG), or None."""
    total = sum(len(text) + 9 for text in (*argv, *envp))
    if any(len(text) >= MAX_ARG_STRLEN for text in (*argv, *envp)) or total > STACK_SIZE // 4:
        return "arguments and environment are too long"
    return None
