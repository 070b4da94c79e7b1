"""The layouts against numbers that other sources give."""

from __future__ import annotations

import re

import pytest

from runtime_model.layout import LayoutError, go_asm_h, known_versions, load, parse_version

ALL = [(1, minor) for minor in range(13, 28)]

# `go tool compile -asmhdr` of each toolchain: g.sched, g.atomicstatus, g.goid, g.preempt, m.curg,
# m.p, m.locks, p.runqhead; sizes of g, m, p, schedt.
ASMHDR = {
    (1, 13): (56, 144, 152, 177, 192, 208, 264, 1496, 376, 840, 9088, 328),
    (1, 14): (56, 144, 152, 177, 192, 208, 264, 1520, 376, 840, 10216, 336),
    (1, 15): (56, 144, 152, 177, 192, 208, 264, 1520, 376, 992, 10216, 344),
    (1, 16): (56, 144, 152, 177, 192, 208, 264, 1520, 376, 1024, 10064, 352),
    (1, 17): (56, 144, 152, 177, 192, 208, 264, 1520, 392, 1024, 10000, 6128),
    (1, 18): (56, 144, 152, 177, 192, 208, 264, 400, 392, 1008, 8888, 6080),
    (1, 19): (56, 144, 152, 177, 192, 208, 264, 400, 392, 1008, 8912, 6080),
    (1, 20): (56, 144, 152, 177, 192, 208, 264, 400, 392, 1000, 8904, 1632),
    (1, 21): (56, 144, 152, 177, 192, 208, 264, 400, 408, 1008, 8912, 1632),
    (1, 22): (56, 144, 152, 177, 192, 208, 264, 400, 424, 2024, 8944, 6824),
    (1, 23): (56, 152, 160, 185, 192, 208, 264, 392, 432, 1760, 8944, 6824),
    (1, 24): (56, 152, 160, 185, 192, 208, 264, 392, 440, 1832, 8952, 6824),
    (1, 25): (56, 144, 152, 177, 184, 200, 256, 392, 440, 1816, 9512, 6848),
    (1, 26): (56, 144, 152, 177, 184, 208, 264, 400, 456, 1824, 15920, 6872),
    (1, 27): (56, 144, 152, 177, 184, 208, 264, 400, 456, 1832, 15920, 6872),
}


def test_every_version_from_1_13_to_1_27_is_there() -> None:
    assert list(known_versions()) == ALL


@pytest.mark.parametrize("version", ALL)
def test_offsets_are_those_of_asmhdr(version: tuple[int, int]) -> None:
    layout = load(version)
    fields = "g.sched g.atomicstatus g.goid g.preempt m.curg m.p m.locks p.runqhead"
    got = [layout.offset(*path.split(".")) for path in fields.split()]
    got += [layout.size(name) for name in ("g", "m", "p", "schedt")]
    assert tuple(got) == ASMHDR[version]


@pytest.mark.parametrize("version", ALL)
def test_what_assembly_and_kernel_fix_is_the_same_in_every_version(
    version: tuple[int, int],
) -> None:
    """Prologues compare with 16(g); the kernel's struct ucontext is ABI (asm/sigcontext.h)."""
    layout = load(version)
    assert layout.version == version
    assert layout.offset("g", "stack.hi") == 8
    assert layout.offset("g", "stackguard0") == 16
    assert layout.offset("g", "stackguard1") == 24
    assert layout.offset("g", "m") == 48
    assert layout.offset("gobuf", "sp") == 0
    assert layout.offset("gobuf", "pc") == 8
    assert layout.offset("g", "sched.pc") == layout.offset("g", "sched") + 8
    assert layout.offset("m", "g0") == 0
    assert layout.constant("stackPreempt") == 0xFFFFFFFFFFFFFADE
    assert layout.offset("ucontext", "uc_mcontext") == 40
    assert layout.offset("ucontext", "uc_sigmask") == 296
    assert layout.offset("sigcontext", "rsp") == 120
    assert layout.offset("sigcontext", "rip") == 128
    assert layout.offset("sigcontext", "fpstate") == 184
    assert layout.field("fpstate", "_xmm").offset == 160
    assert layout.size("fpstate") == 512
    assert layout.offset("sigactiont", "sa_flags") == 8
    assert layout.size("sigactiont") == 32


@pytest.mark.parametrize("version", ALL)
def test_fields_of_preemption_appear_with_their_version(version: tuple[int, int]) -> None:
    """runtime2.go: asynchronous preemption came in 1.14, xRegs in 1.26; 1.26 drops _Psyscall."""
    layout = load(version)
    for path in ("g.preempt", "g.gcscandone", "m.gsignal", "p.schedtick", "p.sysmontick.schedwhen"):
        assert layout.has(*path.split(".", 1)), path
    asynchronous = version >= (1, 14)
    for path in ("g.preemptStop", "g.asyncSafePoint", "m.preemptGen", "m.signalPending"):
        assert layout.has(*path.split(".")) == asynchronous, path
    assert layout.has("p", "preempt") == asynchronous
    assert layout.has("g", "preemptscan") != asynchronous
    assert layout.has("p", "xRegs.scratch") == ("xRegState" in layout) == (version >= (1, 26))
    assert layout.has("g", "sched.ret") == (version < (1, 25))
    assert ("_Psyscall" in layout.constants) == (version < (1, 26))
    assert ("_Gpreempted" in layout.constants) == asynchronous


def test_1_27_has_the_offsets_seen_in_a_running_program() -> None:
    """asyncPreempt of a binary built by 1.27 reads g.m, m.p and p.xRegs at these."""
    layout = load((1, 27))
    assert layout.offset("g", "m") == 0x30
    assert layout.offset("m", "p") == 0xD0
    assert layout.offset("p", "xRegs.scratch") == 0x35E8
    assert layout.offset("p", "xRegs.cache") == 0x3E28


@pytest.mark.parametrize("version", ALL)
def test_go_asm_h_defines_offsets_sizes_and_constants(version: tuple[int, int]) -> None:
    layout = load(version)
    text = go_asm_h(layout)
    lines = text.splitlines()
    assert "#define g_stackguard0 16" in lines
    assert "#define gobuf_sp 0" in lines
    assert f"#define g__size {layout.size('g')}" in lines
    assert "#define const__Grunning 2" in lines
    names = re.findall(r"^#define (\w+) -?\d+$", text, re.MULTILINE)
    assert len(names) == len(set(names)) == text.count("#define")


@pytest.mark.parametrize("version", ALL)
def test_fields_lie_inside_their_struct_without_overlap(version: tuple[int, int]) -> None:
    """Go's structs have no unions."""
    layout = load(version)
    for name in layout.names:
        struct = layout.struct(name)
        end = 0
        for field, place in struct.fields.items():
            assert place.offset >= end, f"{name}.{field}"
            end = place.offset + place.size
            if place.struct is not None:
                assert layout.size(place.struct) == place.size, f"{name}.{field}"
        assert end <= struct.size or not struct.fields, name


def test_what_is_not_recorded_is_an_error_that_names_it() -> None:
    layout = load((1, 22))
    with pytest.raises(LayoutError, match=r"Go 1\.22: no struct xRegPerP is recorded"):
        layout.struct("xRegPerP")
    with pytest.raises(LayoutError, match=r"Go 1\.22: g\.sched\.xp: gobuf has no field xp"):
        layout.offset("g", "sched.xp")
    with pytest.raises(LayoutError, match=r"Go 1\.22: g\.m\.curg: no struct before \.curg"):
        layout.offset("g", "m.curg")
    with pytest.raises(LayoutError, match=r"Go 1\.22: no constant _Gzombie is recorded"):
        layout.constant("_Gzombie")
    with pytest.raises(LayoutError, match=r"no layout of Go 1\.12; known: 1\.13, .*, 1\.27$"):
        load((1, 12))


@pytest.mark.parametrize(
    "text", ["1.22", "go1.22", "1.22.10", "go1.22.10", "go1.22rc1", "go1.22.10 X:nocoverage"]
)
def test_parse_version_takes_the_ways_go_writes_it(text: str) -> None:
    assert parse_version(text) == (1, 22)


@pytest.mark.parametrize("text", ["", "1", "go", "1.x", "v1.22", "22", "1.22.10.1"])
def test_parse_version_refuses_anything_else(text: str) -> None:
    with pytest.raises(ValueError, match="not a Go version"):
        parse_version(text)
