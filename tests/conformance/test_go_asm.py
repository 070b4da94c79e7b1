"""The assembler against Go's own: its test suite and the runtime's files, byte for byte.

    pytest -s tests/conformance/test_go_asm.py

Toolchains are installed by package name; PUSHCALL_GOROOTS may name further ones that have their
sources, separated by colons, such as those of 1.13 to 1.18. For go_asm.h of the runtime each
toolchain compiles the package once, up to half a minute.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import capstone
import pytest
from elftools.elf.elffile import ELFFile
from toolchains import ROOT, versions
from toolchains import goroot as goroot_of

from asm import go_listing, relink
from asm.assemble import AsmError, Source, Target, assemble
from pushcall import api
from runtime_model import toolchain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asm.image import Function, Image

EXAMPLES = ROOT / "examples"
PROGRAM = Path(__file__).parent / "programs/verdicts"
DECODER: Any = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
DECODER.detail = True
MORE = tuple(p for p in os.environ.get("PUSHCALL_GOROOTS", "").split(":") if p)
RUNTIME_OF = (*(v for v in versions() if not v.startswith(("1.21", "1.23", "1.25"))), *MORE)
SUITE_OF = (*(v for v in versions() if v.startswith(("1.19", "1.22", "1.27"))), *MORE)

RUNTIME = (
    "preempt asm sys_linux memmove memclr rt0_linux duff".split()  # noqa: SIM905
)
BYTEALG = "compare count equal index indexbyte".split()  # noqa: SIM905
# Refused by us with a reason: what Go makes of them is another instruction than was written.
REFUSED = {
    "PUSHQ $4045620583": "pushes 0xfffffffff1234567",
    "UD1": "UD1 has a ModRM byte",
    "VADDPD.Z X30, X1, X0": "zeroing without a mask; refused by Go from 1.21 on",
}


def root(name: str) -> Path:
    """The GOROOT of a version or at a path; skips where it cannot be had."""
    if name in MORE:
        return Path(name)
    try:
        return goroot_of(name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"Go {name} is not here and cannot be installed: {error}")


def run(goroot: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(goroot / "bin/go"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0"} | environment,
    )


@cache
def version(goroot: Path) -> tuple[int, int]:
    match = re.search(r"go(\d+)\.(\d+)", run(goroot, "version").stdout)
    assert match
    return int(match[1]), int(match[2])


@dataclass
class Expected:
    data: bytearray = field(default_factory=bytearray)
    fields: list[int] = field(default_factory=list)


def go_tool_asm(goroot: Path, path: Path, package: str, scratch: Path) -> dict[str, Expected]:
    """The functions of a file as Go's assembler makes them, and where its linker writes."""
    flags = [f"-D={n}" for n in ("GOOS_linux", "GOARCH_amd64", "GOAMD64_v1")]
    include = [f"-I={p}" for p in (scratch, goroot / "pkg/include", goroot / "src/runtime")]
    minor = version(goroot)[1]
    if minor >= 15:
        flags += ["-p", package]
    if 16 <= minor <= 21:
        flags.append("-compiling-runtime")
    listing = run(
        goroot, "tool", "asm", "-S", *flags, *include,
        "-o", str(scratch / "o"), str(path),
    )  # fmt: skip
    assert listing.returncode == 0, listing.stderr
    found: dict[str, Expected] = {}
    current = Expected()
    for line in listing.stdout.splitlines():
        if head := re.match(r"(\S+?)(?:<\d+>)?(?:<\w+>)? STEXT ", line):
            name = head[1].replace('"".', f"{package}.")
            current = found.setdefault(name, Expected())
        elif not line.startswith("\t"):
            current = Expected()
        elif dump := re.match(r"\t0x[0-9a-f]{4,} ((?:[0-9a-f]{2} )+)", line):
            current.data += bytes.fromhex(dump[1])
        elif rel := re.match(r"\trel (\d+)\+4 ", line):
            current.fields.append(int(rel[1]))
    return found


def ours(goroot: Path, path: Path, package: str, go_asm_h: str) -> Image:
    """The same file through our assembler; every undefined symbol gets some address."""
    externs: dict[str, int] = {}
    target = Target(
        go=version(goroot),
        package=package,
        headers={"go_asm.h": go_asm_h},
        include_dirs=(goroot / "src/runtime", goroot / "pkg/include"),
    )
    source = Source(path.name, path.read_text(encoding="utf-8"))
    while True:
        try:
            return assemble(
                [source], target, text_address=0x400000, data_address=0x800000, externs=externs
            )
        except AsmError as error:
            undefined = [
                d.message.removeprefix("undefined symbol ")
                for d in error.diagnostics
                if d.message.startswith("undefined symbol ")
            ]
            if len(undefined) < len(error.diagnostics) or set(undefined) <= set(externs):
                raise
            externs |= dict.fromkeys(undefined, 0x600000)


def files(goroot: Path) -> Iterator[tuple[Path, str]]:
    for directory, package, names in (
        ("src/runtime", "runtime", RUNTIME),
        ("src/internal/bytealg", "internal/bytealg", BYTEALG),
    ):
        for name in names:
            path = goroot / directory / f"{name}_amd64.s"
            if path.exists():
                yield path, package


@pytest.mark.parametrize("name", RUNTIME_OF)
def test_runtime_files_are_byte_identical(name: str, tmp_path: Path) -> None:
    goroot = root(name)
    equal = 0
    for path, package in files(goroot):
        text = toolchain.go_asm_h(toolchain.at(goroot), package, goroot)
        (tmp_path / "go_asm.h").write_text(text)
        image = ours(goroot, path, package, text)
        for symbol, want in go_tool_asm(goroot, path, package, tmp_path).items():
            function = image.function(symbol)
            assert function is not None, (path.name, symbol)
            code = bytearray(b"".join(i.data for i in function.instructions))
            for at in want.fields:
                code[at : at + 4] = want.data[at : at + 4] = bytes(4)
            assert code == want.data, (path.name, symbol)
            equal += 1
    print(f"\nGo {name}: {equal} functions equal")


def suite(goroot: Path) -> Iterator[tuple[str, str, list[str]]]:
    """File, instruction, the encodings that Go's suite accepts."""
    testdata = goroot / "src/cmd/asm/internal/asm/testdata"
    for path in (
        testdata / "amd64enc.s",
        testdata / "amd64enc_extra.s",
        *sorted((testdata / "avx512enc").glob("*.s")),
    ):
        for line in path.read_text().splitlines():
            match = re.match(r"\t([A-Z0-9][^/]*?)\s*//\s*(.*)$", line)
            if match is None:
                continue
            codes = [code.strip().replace(" ", "") for code in match[2].split(" or ")]
            if all(re.fullmatch(r"[0-9a-f]+", code) for code in codes):
                yield path.name, match[1], codes


@pytest.mark.parametrize("name", SUITE_OF)
def test_gos_suite_of_encodings(name: str) -> None:
    goroot = root(name)
    lines = list(suite(goroot))
    if not lines:
        pytest.skip("this GOROOT has no testdata of cmd/asm")
    target = Target(go=version(goroot))
    exact = 0
    wrong: list[str] = []
    refused: list[str] = []
    for file, statement, codes in lines:
        source = Source(file, f"TEXT f(SB), 516, $0\n{statement}\n")
        try:
            image = assemble([source], target, text_address=0, data_address=0x10000)
        except AsmError as error:
            refused.append(statement)
            if statement not in REFUSED:
                wrong.append(str(error))
            continue
        code = b"".join(i.data for i in image.functions[0].instructions).hex()
        if code in codes:
            exact += 1
        else:
            wrong.append(f"{file}: {statement}: {code}, not {' or '.join(codes)}")
    print(f"\nGo {name}: {exact} of {len(lines)} lines exact, refused: {refused}")
    assert not wrong


@pytest.mark.parametrize("name", RUNTIME_OF)
def test_the_real_async_preempt_passes_check(name: str) -> None:
    goroot = root(name)
    major, minor = version(goroot)
    if minor < 14:
        pytest.skip("there is no asyncPreempt before 1.14")
    result = api.check(
        EXAMPLES / "float_loop.s",
        go=f"{major}.{minor}",
        trampoline=goroot / "src/runtime/preempt_amd64.s",
    )
    print(f"\nGo {name}: {result.verdict}, {result.points} preemptions")
    assert result.verdict == "preserved"
    assert result.points > 100


@pytest.mark.parametrize("name", versions())
def test_listings_of_a_build_hold_its_machine_code(name: str, tmp_path: Path) -> None:
    """compile -S and objdump of one program, linked by us, against the program's own bytes."""
    goroot = root(name)
    for file in PROGRAM.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    built = subprocess.run(
        [str(goroot / "bin/go"), "build", "-trimpath", "-gcflags=-S", "-o", "program", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"},
    )
    dumped = run(goroot, "tool", "objdump", "-s", r"^main\.", str(tmp_path / "program")).stdout
    compiled = _linked(Source("S", built.stderr))
    linked = _linked(Source("objdump", dumped))
    with (tmp_path / "program").open("rb") as file:
        elf = ELFFile(file)
        text = elf.get_section_by_name(".text")
        start, data = text["sh_addr"], text.data()
        symbols = {s.name: s["st_value"] for s in elf.get_section_by_name(".symtab").iter_symbols()}
    equal = 0
    for function in compiled.functions:
        other = linked.function(function.name)
        address = symbols.get(function.name)
        if other is None or address is None or function.size <= len(b"\x0f\x0b"):
            continue
        own = data[address - start :][: function.size]
        for image, f in ((compiled, function), (linked, other)):
            assert b"".join(i.data for i in f.instructions) == _moved(own, address, f), f.name
            assert image.findfunc(f.address) is f
        equal += 1
    print(f"\nGo {name}: {equal} functions of both listings equal those of the program")
    assert equal > 10


def _linked(source: Source) -> Image:
    listing = go_listing.read(source)
    assert listing is not None
    return relink.link(listing, text_address=0x10000000, data_address=0x20000000, externs={})


def _moved(own: bytes, address: int, function: Function) -> bytes:
    """The program's bytes, but for the fields that a linker fills in, which are the function's."""
    out = bytearray(own)
    for i in function.instructions:
        at = i.address - function.address
        for insn in DECODER.disasm(own[at : at + len(i.data)], address + at):
            relative = any(
                o.type == capstone.x86.X86_OP_MEM and o.mem.base == capstone.x86.X86_REG_RIP
                for o in insn.operands
            )
            branch = capstone.CS_GRP_BRANCH_RELATIVE in insn.groups and insn.imm_size == 4
            field = insn.disp_offset if relative else insn.imm_offset if branch else 0
            if field:
                out[at + field : at + field + 4] = i.data[field : field + 4]
    return bytes(out)
