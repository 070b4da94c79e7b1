"""Records what `go tool asm` makes of the .s files beside this script.

    python record.py GOROOT...

writes one .json per file: by Go version and function, the bytes in hex, with .. where the linker
writes. The tests compare with these; no toolchain is needed to run them.
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
# Directives and rules that a version does not have yet.
MISSING = {"1.19": ("PCALIGN", "(GS*1)"), "1.21": ("PCALIGN",)}


def record(
    goroot: Path, source: Path, package: str = "main", *defines: str
) -> tuple[str, dict[str, str]]:
    """The version, and the functions of a file as this toolchain assembles them."""
    go = str(goroot / "bin/go")
    version = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"go(1\.\d+)", version)
    assert match
    text = source.read_text(encoding="utf-8")
    for word in MISSING.get(match[1], ()):
        text = "".join(line for line in text.splitlines(keepends=True) if word not in line)
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "go_asm.h").write_text(GO_ASM_H)
        copy = Path(scratch, source.name)
        copy.write_text(text, encoding="utf-8")
        flags = [word for define in defines for word in ("-D", define)]
        include = [
            "-I",
            scratch,
            "-I",
            str(goroot / "pkg/include"),
            "-I",
            str(goroot / "src/runtime"),
        ]
        listing = subprocess.run(
            [
                go,
                "tool",
                "asm",
                "-p",
                package,
                *flags,
                *include,
                "-S",
                "-o",
                f"{scratch}/o",
                str(copy),
            ],
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
    return match[1], {name: "".join(data) for name, data in functions.items()}


def main() -> None:
    """Records every file with every toolchain given."""
    for source in sorted(HERE.glob("*.s")):
        versions = dict(record(Path(goroot), source) for goroot in sys.argv[1:])
        source.with_suffix(".json").write_text(json.dumps(versions, indent=1) + "\n")
    for name, define in (
        ("linux", "GOOS_linux"),
        ("darwin", "GOOS_darwin"),
        ("simd", "GOEXPERIMENT_simd"),
    ):
        versions = dict(
            record(
                Path(goroot),
                Path(goroot, "src/runtime/preempt_amd64.s"),
                "runtime",
                "GOARCH_amd64",
                define,
            )
            for goroot in sys.argv[1:]
        )
        (HERE / f"preempt_{name}.json").write_text(json.dumps(versions, indent=1) + "\n")


if __name__ == "__main__":
    main()
