"""Function tables of all formats, written by hand as cmd/link's pcln.go describes them.

The verdicts expected are those of each version's isAsyncSafePoint, read from its source.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest
from go_binary import ASM_FLAG, DATA, Function, GoBinaryWriter, pc_table

from emulator.elf import Elf, ElfError
from runtime_model import pcvalue
from runtime_model.buildinfo import named_version
from runtime_model.moduledata import GoBinary, NotGoError, UnknownVersionError
from runtime_model.pclntab_format import PclntabError
from runtime_model.pcvalue import PcValueError, PcValues
from runtime_model.preempt import BadRestartPCError, Reason, static_verdict
from runtime_model.safepoints import StaticVerdicts, function_ranges
from runtime_model.version import GoVersion

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSIONS = [(1, minor) for minor in range(13, 28)]
NOPS = b"\x90" * 100

MAIN = Function(
    "main.main",
    NOPS,
    tables={0: [(10, -1), (30, -2), (100, -1)], 2: [(50, -1), (60, 0), (70, 1), (100, -1)]},
    inlined=[("runtime.inlined", 20), ("other.inlined", 20)],
    lines=[(20, 7), (50, 8), (100, 300)],
)
ASM = Function("main.assembly", NOPS, locals="none", flag=ASM_FLAG, file=1)
NO_POINTERS = Function("main.noPointers", NOPS, locals="no_pointers", flag=ASM_FLAG)
RUNTIME = Function("runtime.schedule", NOPS)
REFLECT = Function("reflect.Value.Call", NOPS)
NEWER = Function("internal/runtime/maps.hash", NOPS)
OLDER = Function("runtime/internal/sys.bits", NOPS)
ALL = [MAIN, ASM, NO_POINTERS, RUNTIME, REFLECT, NEWER, OLDER]


def written(tmp_path: Path, version: tuple[int, int], *functions: Function, **more: bool) -> Path:
    path = tmp_path / "binary"
    path.write_bytes(bytes(GoBinaryWriter(version, list(functions) or ALL, **more)))
    return path


@pytest.fixture(params=VERSIONS, ids=lambda v: "{}.{}".format(*v))
def binary(request: pytest.FixtureRequest, tmp_path: Path) -> GoBinary:
    return GoBinary(written(tmp_path, request.param))


def reason(binary: GoBinary, name: str, offset: int) -> Reason:
    return static_verdict(binary, binary.names[name].entry + offset, binary.version).reason


def test_functions_names_and_bounds(binary: GoBinary) -> None:
    assert [f.name for f in binary] == [f.name for f in ALL] + ["runtime.call32"]
    main = binary.names["main.main"]
    assert (main.entry, main.end, main.limit) == (0x401000, 0x401064, 0x401070)
    assert binary.findfunc(0x401000 - 1) is None
    found = binary.findfunc(0x401000 + 99)
    assert found is not None
    assert found.name == "main.main"
    assert binary.findfunc(binary.table.end) is None


def test_pcdatavalue2_gives_the_value_and_where_its_run_starts(binary: GoBinary) -> None:
    main = binary.names["main.main"]
    at = main.entry
    assert [main.pcdatavalue2(0, at + o) for o in (0, 9, 10, 29, 30, 99)] == [
        (-1, at),
        (-1, at),
        (-2, at + 10),
        (-2, at + 10),
        (-1, at + 30),
        (-1, at + 30),
    ]
    assert main.pcdatavalue2(1, at) == (-1, 0)  # offset 0: no table
    assert main.pcdatavalue2(9, at) == (-1, 0)  # behind npcdata
    with pytest.raises(PclntabError, match="says nothing"):
        main.pcdatavalue2(0, at + 100)


def test_unsafe_points_assembly_and_packages(binary: GoBinary) -> None:
    assert reason(binary, "main.main", 9) is Reason.SAFE
    assert reason(binary, "main.main", 10) is Reason.UNSAFE_POINT
    assert reason(binary, "main.assembly", 0) is Reason.ASSEMBLY
    assert reason(binary, "runtime.schedule", 0) is Reason.PACKAGE
    assert reason(binary, "reflect.Value.Call", 0) is Reason.PACKAGE


def test_the_no_pointers_map_and_the_asm_flag_mark_assembly(binary: GoBinary) -> None:
    """1.14 to 1.17 compare the map with &no_pointers_stackmap, 1.18 on looks at the flag."""
    assert reason(binary, "main.noPointers", 0) is Reason.ASSEMBLY


def test_packages_that_are_never_preempted_change_with_the_version(binary: GoBinary) -> None:
    newer = reason(binary, "internal/runtime/maps.hash", 0)
    older = reason(binary, "runtime/internal/sys.bits", 0)
    # The binaries are of patch release 1: internal/runtime/ came with 1.23.8 and 1.24.2.
    assert (newer is Reason.PACKAGE) == (binary.version.number >= (1, 25))
    assert (older is Reason.PACKAGE) == (binary.version.number < (1, 25))


def test_the_function_inlined_innermost_decides_the_package(binary: GoBinary) -> None:
    assert reason(binary, "main.main", 49) is Reason.SAFE
    assert reason(binary, "main.main", 50) is Reason.PACKAGE
    assert reason(binary, "main.main", 60) is Reason.SAFE
    frames = binary.names["main.main"].frames(0x401000 + 50)
    assert [(f.function, f.line) for f in frames] == [("runtime.inlined", 300), ("main.main", 8)]


def test_files_and_lines(binary: GoBinary) -> None:
    main, assembly = binary.names["main.main"], binary.names["main.assembly"]
    assert main.file_line(main.entry + 19) == ("/src/main.go", 7)
    assert main.file_line(main.entry + 20) == ("/src/main.go", 8)
    assert assembly.file_line(assembly.entry) == ("/src/asm_amd64.s", 2)


def test_ranges_say_of_every_pc_what_the_verdict_says(binary: GoBinary) -> None:
    for function in binary:
        ranges = function_ranges(function, function.end, binary.version)
        assert (ranges[0].start, ranges[-1].end) == (function.entry, function.end)
        for each in ranges:
            for pc in range(each.start, each.end):
                verdict = static_verdict(binary, pc, binary.version)
                assert (verdict.safe, verdict.reason) == (each.verdict.safe, each.verdict.reason)


@pytest.mark.parametrize("version", VERSIONS)
def test_names_are_found_by_their_ends(version: tuple[int, int], tmp_path: Path) -> None:
    table = GoBinary(written(tmp_path, version)).table
    assert [f.name for f in table.named("main")] == ["main.main"]
    assert [f.name for f in table.named("maps.hash")] == ["internal/runtime/maps.hash"]
    assert [f.name for f in table.named("Value.Call")] == ["reflect.Value.Call"]
    assert table.named("ain") == []


@pytest.mark.parametrize("version", VERSIONS)
def test_tables_are_found_without_section_headers(version: tuple[int, int], tmp_path: Path) -> None:
    binary = GoBinary(written(tmp_path, version, sections=False))
    assert binary.version.number == version
    assert "main.main" in binary.names


RESTARTS = Function(
    "main.restarts",
    NOPS,
    tables={0: [(10, -3), (20, -4), (60, -5), (100, -3)]},
)


@pytest.mark.parametrize("version", [(1, 18), (1, 19), (1, 20), (1, 27)])
def test_restarts_go_back_to_their_start_or_to_the_entry(
    version: tuple[int, int], tmp_path: Path
) -> None:
    binary = GoBinary(written(tmp_path, version, RESTARTS))
    at = binary.names["main.restarts"].entry
    resumes = [
        static_verdict(binary, at + offset, binary.version).resume - at
        for offset in (0, 9, 10, 19, 20, 59, 60, 80)
    ]
    assert resumes == [0, 0, 10, 10, 0, 0, 60, 60]
    with pytest.raises(BadRestartPCError, match="bad restart PC"):
        static_verdict(binary, at + 81, binary.version)  # more than 20 bytes: the runtime throws


@pytest.mark.parametrize("version", [(1, 15), (1, 16), (1, 17)])
def test_restarts_are_unsafe_up_to_1_17(version: tuple[int, int], tmp_path: Path) -> None:
    binary = GoBinary(written(tmp_path, version, RESTARTS))
    assert {reason(binary, "main.restarts", o) for o in (0, 10, 20)} == {Reason.UNSAFE_POINT}


def test_register_map_indices_of_1_14_are_safe(tmp_path: Path) -> None:
    indices = Function("main.indices", NOPS, tables={0: [(10, 0), (20, 5), (30, -2), (100, -1)]})
    binary = GoBinary(written(tmp_path, (1, 14), indices))
    reasons = [reason(binary, "main.indices", offset) for offset in (0, 10, 20, 30)]
    assert reasons == [Reason.SAFE, Reason.SAFE, Reason.UNSAFE_POINT, Reason.SAFE]


def test_a_table_has_numbers_of_several_bytes() -> None:
    # Values -1 → 300 → -2000, ends 200 and 20000: zigzag uvarints by hand.
    assert pc_table([(200, 300), (20000, -2000)]).hex() == "da04c801" + "f723d89a01" + "00"


def test_a_build_without_a_version_is_asked_for_unless_its_format_tells(tmp_path: Path) -> None:
    for version in ((1, 14), (1, 23)):
        path = written(tmp_path, version, buildinfo=False)
        with pytest.raises(UnknownVersionError, match="--go"):
            GoBinary(path)
        assert GoBinary(path, GoVersion(*version)).version.number == version
    assert GoBinary(written(tmp_path, (1, 17), buildinfo=False)).version.number == (1, 16)


def test_a_version_that_does_not_write_the_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownVersionError, match=r"1\.20"):
        GoBinary(written(tmp_path, (1, 22)), GoVersion(1, 17))


def test_versions_are_read_from_build_strings() -> None:
    def named(text: str) -> tuple[int, int, int | None] | None:
        found = named_version(text)
        return found and (*found.number, found.patch)

    assert named("go1.22.10") == (1, 22, 10)
    assert named("go1.19.8 (Debian)") == (1, 19, 8)
    assert named("devel go1.26-abcdef Mon") == (1, 26, 0)
    assert named("devel +abcdef") is None


def test_internal_runtime_came_to_the_list_with_1_23_8_and_1_24_2() -> None:
    """As isAsyncSafePoint of kubectl (1.23.8), kpt (1.23.6), cbt (1.24.1), anthoscli (1.24.2)."""
    refused = {
        (minor, patch): "internal/runtime/" in GoVersion(1, minor, patch).never_preempted_packages
        for minor, patch in ((22, 12), (23, 6), (23, 8), (24, 1), (24, 2), (25, 0), (23, None))
    }
    assert [v for v, there in refused.items() if not there] == [(22, 12), (23, 6), (24, 1)]


def test_what_is_no_go_program_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, (1, 22))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 0xFFFFFFF1), b"\0" * 4))
    with pytest.raises(PclntabError, match="unknown magic"):
        GoBinary(path)
    path.write_bytes(
        bytes(GoBinaryWriter((1, 22), ALL, sections=False)).replace(
            struct.pack("<I", 0xFFFFFFF1), b"\0" * 4
        )
    )
    with pytest.raises(NotGoError):
        GoBinary(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"not an ELF file at all", "not an ELF"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 60, "EM_NONE|sound|ELF"),
    ],
)
def test_files_that_are_no_executables_are_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ElfError, match=message):
        Elf(path)


def test_elf_reads_addresses_and_refuses_those_outside(tmp_path: Path) -> None:
    with Elf(written(tmp_path, (1, 22))) as elf:
        assert bytes(elf.view(0x401000, 4)) == b"\x90" * 4
        assert bytes(elf.view(DATA, 5)) == b"\xff Go "
        assert elf.sections[".text"].address == 0x401000
        with pytest.raises(ElfError, match="no bytes"):
            elf.u64(0x10)
        with pytest.raises(ElfError, match="leave"):
            elf.view(DATA, 1 << 20)


def test_tables_are_decoded_as_the_runtimes_step_does_it() -> None:
    """The quick way against the one that follows runtime.step, on tables sound and broken."""
    chance = random.Random(1)

    def outcome(decoder: Callable[[memoryview, int, int], PcValues], data: bytes, size: int) -> str:
        try:
            return str(decoder(memoryview(data), 0, size))
        except PcValueError:
            return "error"

    sound = 0
    for _ in range(20_000):
        data = bytes(
            chance.choice((0, 1, 2, 3, 0x7F, 0x80, 0x81, 0xFF, chance.randint(0, 255)))
            for _ in range(chance.randint(0, 14))
        )
        size = chance.choice((5, 100, 1000, 1 << 20, 1 << 33))
        expected = outcome(pcvalue._walk, data, size)
        assert outcome(pcvalue.decode, data, size) == expected, data.hex()
        sound += expected != "error"
    assert sound > 1000
    wide = bytes.fromhex(
        "02 8501 03 ffffffff07 00"
    )  # 1 - 1 = 0 for 133 bytes, then -2 for 2^31 - 1
    assert pcvalue.decode(memoryview(wide), 0, 1 << 32) == PcValues(
        [133, 133 + (1 << 31) - 1], [0, -2]
    )


def test_a_functab_out_of_order_is_refused(tmp_path: Path) -> None:
    """runtime.moduledataverify1 throws: "invalid runtime symbol table"."""
    path = written(tmp_path, (1, 22))
    data = bytearray(path.read_bytes())
    table = data.index(struct.pack("<I4B", 0xFFFFFFF1, 0, 0, 1, 8))
    functab = table + struct.unpack_from("<Q", data, table + 64)[0]
    second, third = (struct.unpack_from("<I", data, functab + 8 * i)[0] for i in (1, 2))
    struct.pack_into("<I", data, functab + 8, third + 1)
    path.write_bytes(data)
    assert second < third
    with pytest.raises(PclntabError, match="not in the order of addresses"):
        GoBinary(path)


@pytest.mark.parametrize("version", [(1, 18), (1, 22), (1, 26), (1, 27)])
@pytest.mark.parametrize("sections", [True, False])
def test_pointers_that_stand_in_relocations_alone_are_read(
    version: tuple[int, int], sections: bool, tmp_path: Path
) -> None:
    """As in a static position-independent executable, whose loader is the program itself."""
    path = written(tmp_path, version, pie=True, sections=sections)
    plain_path = tmp_path / "plain"
    plain_path.mkdir()
    plain = GoBinary(written(plain_path, version))
    with GoBinary(path) as binary:
        assert binary.elf.position_independent
        data = binary.elf.segments[2]
        assert binary.elf.u64(data.address + 128) == binary.pclntab_address
        assert path.read_bytes()[data.offset + 128 :][:16] == bytes(16)  # pcHeader, funcnametab
        assert [(f.name, f.entry, f.end) for f in binary] == [
            (f.name, f.entry, f.end) for f in plain
        ]
        assert reason(binary, "main.main", 50) is Reason.PACKAGE  # by way of gofunc


def test_what_is_refused_is_what_the_ranges_refuse(binary: GoBinary) -> None:
    verdicts = StaticVerdicts(binary.table, binary.version)
    for function in binary:
        refused = {
            pc: verdict.reason
            for start, stop, verdict in verdicts.refused(function, function.end)
            for pc in range(function.entry + start, function.entry + stop)
        }
        ranges = function_ranges(function, function.end, binary.version)
        assert refused == {
            pc: each.verdict.reason
            for each in ranges
            if not each.verdict.safe
            for pc in range(each.start, each.end)
        }


def test_the_version_is_read_from_what_schedinit_looks_at(tmp_path: Path) -> None:
    """CMPQ runtime.buildVersion+8(SB), $0; the string and its header lie behind it here."""
    code = bytes.fromhex("48833d10000000 00 c3") + b"\x90" * 7
    code += struct.pack("<QQ", 0x401000 + len(code) + 16, 9) + b"go1.21.13"
    schedinit = Function("runtime.schedinit", code)
    binary = GoBinary(written(tmp_path, (1, 21), schedinit, MAIN, buildinfo=False))
    assert (binary.build_version, binary.version.patch) == ("go1.21.13", 13)


def test_the_runtime_sees_no_name_at_offset_0(tmp_path: Path) -> None:
    """funcnameFromNameOff; without go:buildid, another function's name stands there."""
    path = written(tmp_path, (1, 22), RUNTIME)
    with GoBinary(path) as binary:
        place = binary.table._names
        function = next(iter(binary))
        assert static_verdict(binary, function.entry, binary.version).reason is Reason.PACKAGE
        at = path.read_bytes().index(bytes(binary.table.view[:64])) + function.offset + 4
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, at, 0)
    names = data.index(b"go:buildid\0")
    data[names : names + 11] = b"runtime.fn\0"
    path.write_bytes(data)
    with GoBinary(path) as binary:
        assert binary.table._names == place
        function = next(iter(binary))
        assert function.name == "runtime.fn"
        assert static_verdict(binary, function.entry, binary.version).reason is Reason.SAFE
        (only,) = function_ranges(function, function.end, binary.version)
        assert only.verdict.reason is Reason.SAFE
