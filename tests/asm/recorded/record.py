"""Records what `go tool asm` makes of the .s files beside this script.

    python record.py GOROOT...

writes one .json per file: by Go version and function, the bytes in hex, with .. where the linker
writes. A version names only the functions that differ from those of the version before it. The
tests compare with these; no toolchain is needed to run them. Recorded with Go 1.13.15, 1.14.15,
1.15.15, 1.16.15, 1.17.13, 1.18.10, 1.19.8, 1.20.14, 1.21.13, 1.22.10, 1.23.9, 1.24.11, 1.25.5,
1.26.6 and 1.27.3, given in this order. The files of matrix*.s are made here, too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# What the compiler would say of the runtime's structs; any numbers do.
GO_ASM_H = """
#define g_m 48
#define m_p 208
#define p_xRegs 0x3000
#define xRegPerP_scratch 0
#define xRegPerP_cache 0x840
#define const_offsetX86HasAVX 60
#define const_offsetX86HasAVX2 61
#define const_offsetX86HasAVX512 62
"""
# What a version does not have yet, or writes otherwise: such lines are left out.
_UP_TO_1_20 = ("PCALIGN", "(GS*1)")
MISSING = {f"1.{minor}": _UP_TO_1_20 for minor in range(13, 21)} | {"1.21": ("PCALIGN",)}
# Frame sizes on both sides of StackSmall and StackBig, with the slot of BP and without.
FRAMES = (0, 8, 112, 120, 128, 136, 4080, 4088, 4096, 4104, 70000)
FLAGS = ("0", "NOSPLIT", "WRAPPER", "WRAPPER|NOSPLIT", "NEEDCTXT", "NOFRAME", "NOSPLIT|NOFRAME")


def matrix(abi: str) -> str:
    """Functions of every frame size and flag, that call and that do not."""
    out = ['// Made by record.py.\n#include "textflag.h"\n']
    for flags in FLAGS:
        if abi and "NOSPLIT" not in flags:
            continue  # the assembler requires it of ABIInternal
        for frame in FRAMES if "NOFRAME" not in flags else (0,):
            for calls in (False, True):
                name = f"{flags.replace('|', '_')}_{frame}{'_calls' if calls else ''}"
                body = "\tCALL other(SB)\n" if calls else "\tMOVQ x+8(FP), AX\n"
                out.append(f"TEXT ·f_{name}{abi}(SB), {flags}, ${frame}-16\n{body}\tRET\n")
    return "\n".join(out)


def minor_version(goroot: Path) -> int:
    """19 for Go 1.19."""
    go = str(goroot / "bin/go")
    version = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"go1\.(\d+)", version)
    assert match
    return int(match[1])


def first(goroots: list[Path], minor: int) -> int:
    """The index of the first toolchain from this minor version on."""
    return next(i for i, g in enumerate(goroots) if minor_version(g) >= minor)


def record(
    goroot: Path, source: Path, package: str = "main", *defines: str
) -> tuple[str, dict[str, str]]:
    """The version, and the functions of a file as this toolchain assembles them."""
    minor = minor_version(goroot)
    version = f"1.{minor}"
    text = source.read_text(encoding="utf-8")
    for word in MISSING.get(version, ()):
        text = "".join(line for line in text.splitlines(keepends=True) if word not in line)
    flags = [word for define in defines for word in ("-D", define)]
    if minor >= 15:
        flags += ["-p", package]
    if 16 <= minor <= 21 and package == "runtime":
        flags += ["-compiling-runtime"]
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "go_asm.h").write_text(GO_ASM_H)
        copy = Path(scratch, source.name)
        copy.write_text(text, encoding="utf-8")
        for directory in (scratch, goroot / "pkg/include", goroot / "src/runtime"):
            flags += ["-I", str(directory)]
        listing = subprocess.run(
            [str(goroot / "bin/go"), "tool", "asm", *flags, "-S", "-o", f"{scratch}/o", str(copy)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    functions: dict[str, list[str]] = {}
    current: list[str] = []
    for line in listing.splitlines():
        if head := re.match(r"(\S+?)(?:<\d+>)? STEXT ", line):
            current = functions.setdefault(head[1].replace('"".', f"{package}."), [])
        elif not line.startswith("\t"):
            current = []
        elif dump := re.match(r"\t0x[0-9a-f]{4,} ((?:[0-9a-f]{2} )+)", line):
            current += dump[1].split()
        elif rel := re.match(r"\trel (\d+)\+4 ", line):
            current[int(rel[1]) : int(rel[1]) + 4] = [".."] * 4
    return version, {name: "".join(data) for name, data in functions.items()}


def changes(versions: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """What each version has that the one before has not."""
    before: dict[str, str] = {}
    out: dict[str, dict[str, str]] = {}
    for version, functions in versions.items():
        out[version] = {n: data for n, data in functions.items() if before.get(n) != data}
        before |= functions
    return out


def recorded(path: Path) -> dict[str, dict[str, str]]:
    """All functions of each version again, from what `changes` left."""
    functions: dict[str, str] = {}
    out: dict[str, dict[str, str]] = {}
    for version, changed in json.loads(path.read_text()).items():
        functions = functions | changed
        out[version] = functions
    return out


def write(path: Path, versions: dict[str, dict[str, str]]) -> None:
    """Writes the record of a file."""
    path.write_text(json.dumps(changes(versions), indent=1) + "\n")


def main() -> None:
    """Records every file with every toolchain given."""
    goroots = [Path(goroot) for goroot in sys.argv[1:]]
    (HERE / "matrix.s").write_text(matrix(""), encoding="utf-8")
    (HERE / "matrix_abiinternal.s").write_text(matrix("<ABIInternal>"), encoding="utf-8")
    for source in sorted(HERE.glob("*.s")):
        # Only the runtime may name an ABI, and that from 1.16 on.
        internal = source.stem == "matrix_abiinternal"
        package = "runtime" if internal else "main"
        with_abi = goroots[first(goroots, 16) :] if internal else goroots
        write(
            source.with_suffix(".json"),
            dict(record(goroot, source, package) for goroot in with_abi),
        )
    # The runtime's own, where it has the name of the package's header.
    asynchronous = goroots[first(goroots, 19) :]
    for name, define in (
        ("linux", "GOOS_linux"),
        ("darwin", "GOOS_darwin"),
        ("simd", "GOEXPERIMENT_simd"),
    ):
        versions = dict(
            record(
                goroot, goroot / "src/runtime/preempt_amd64.s", "runtime", "GOARCH_amd64", define
            )
            for goroot in asynchronous
        )
        (HERE / f"preempt_{name}.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()
