"""go_asm.h of the layout tables against the compiler's, and Go's own files through `pushcall asm`.

    pytest -s tests/conformance/test_go_asm_h.py

Each toolchain compiles its package runtime once or twice, seconds to half a minute. Where the
table serves, the result must be what the toolchain's header gives.
"""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import pytest
import toolchains
from elftools.elf.elffile import ELFFile

from asm.elf import relocatable
from asm.source import AsmError
from pushcall.snippet import listing
from pushcall.snippet.program import Options, load
from runtime_model import layout, toolchain

# Of Go's tree, the assembly for linux/amd64 that the conformance of the assembler measures.
FILES = (
    *(f"runtime/{n}_amd64.s" for n in ("asm", "preempt", "sys_linux", "memmove", "memclr", "duff")),
    *(f"internal/bytealg/{n}_amd64.s" for n in ("compare", "count", "equal", "index", "indexbyte")),
)
# 1.17 writes what does not fit into 63 bits as a dump of its big.Int.
UNREADABLE = "constant.intVal{"


@pytest.fixture(params=toolchains.versions())
def found(request: pytest.FixtureRequest) -> toolchain.Toolchain:
    try:
        return toolchain.at(toolchains.goroot(request.param))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"Go {request.param} is not here and cannot be installed: {error}")


def defines(text: str) -> dict[str, str]:
    words = {"true": "1", "false": "0"}
    pairs = re.findall(r"^#define (\w+) (.*)$", text, re.MULTILINE)
    return {name: words.get(value, value) for name, value in pairs}


def test_the_table_says_what_the_compiler_says(found: toolchain.Toolchain) -> None:
    ours = defines(layout.go_asm_h(layout.load(found.version)))
    theirs = defines(toolchain.go_asm_h(found, "runtime", found.root))
    # DWARF gives the anonymous and the signal frame's types, too: the compiler leaves them out.
    both = {n for n in ours.keys() & theirs.keys() if not theirs[n].startswith(UNREADABLE)}
    assert {n: (ours[n], theirs[n]) for n in both if int(ours[n], 0) != int(theirs[n], 0)} == {}
    constants = {n for n in ours if n.startswith("const_")}
    assert constants <= theirs.keys()
    print(f"\n{found.release}: {len(both)} of {len(theirs)} names are in the table, all the same")
    assert len(both) > 300


def test_gos_own_files_with_the_table_are_those_with_the_toolchain(
    found: toolchain.Toolchain,
) -> None:
    count = undefined = 0
    for name in FILES:
        path = found.root / "src" / name
        if not path.exists():
            continue
        config = load(path, Options()).config
        assert config.version.number == found.version
        assert config.package.path == str(Path(name).parent)
        image = listing.assemble(config).user
        asked = listing.assemble(load(path, Options(goroot=found.root)).config).user
        assert image.segments == asked.segments, name
        assert image.relocations == asked.relocations, name
        if name.startswith("runtime/"):
            assert not any("package runtime of" in source for source in image.lines), name
        elf = ELFFile(io.BytesIO(relocatable(image)))
        symbols = elf.get_section_by_name(".symtab")
        left = {r.symbol for r in image.undefined}
        assert left <= {s.name for s in symbols.iter_symbols() if s["st_shndx"] == "SHN_UNDEF"}
        if left:
            with pytest.raises(AsmError, match="undefined symbol"):
                listing.assemble(config, Path("never.elf"))
        count += 1
        undefined += len(left)
    print(f"\n{found.release}: {count} files, {undefined} undefined symbols left to relocations")
    assert count >= 10
