"""Broken and lying files: clean errors, each within its time, never a crash or a hang."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
from go_binary import Function, GoBinaryWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.elf import ElfError
from runtime_model.moduledata import GoBinary, NotGoError, UnknownVersionError
from runtime_model.pclntab_format import PclntabError, Rules, table_format
from runtime_model.preempt import BadRestartPCError
from runtime_model.safepoints import function_ranges

CLEAN = (ElfError, NotGoError, PclntabError, UnknownVersionError, BadRestartPCError)
VERSIONS = [(1, 14), (1, 16), (1, 17), (1, 19), (1, 22), (1, 27)]
FUNCTION = Function(
    "main.main",
    b"\x90" * 60,
    tables={0: [(10, -1), (30, -2), (60, -1)], 2: [(20, -1), (40, 0), (60, -1)]},
    inlined=[("runtime.inlined", 5)],
)


@cache
def sound(version: tuple[int, int]) -> bytes:
    return bytes(GoBinaryWriter(version, [FUNCTION, Function("main.other", b"\x90" * 40)]))


@cache
def interesting(version: tuple[int, int]) -> list[int]:
    """The places in the file that hold something: not the padding."""
    data = sound(version)
    return [at for at in range(len(data)) if data[at] not in (0, 0x90, 0xCC)]


def read_everything(data: bytes) -> str:
    """Reads all that can be asked of a binary; the error that it ended with, if one."""
    with NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        try:
            with GoBinary(Path(file.name)) as binary:
                for function in binary:
                    binary.findfunc(function.entry)
                    for each in function_ranges(function, function.end, binary.version):
                        function.frames(each.start)
                        bytes(binary.code(each.start, each.end))
                binary.table.named("main.main")
        except CLEAN as error:
            return str(error)
    return ""


@pytest.mark.parametrize("version", VERSIONS)
def test_sound_files_have_no_error(version: tuple[int, int]) -> None:
    assert read_everything(sound(version)) == ""


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=160, derandomize=True, deadline=2000)
@given(data=st.data())
def test_flipped_bits_give_clean_errors(version: tuple[int, int], data: st.DataObject) -> None:
    places = data.draw(st.lists(st.sampled_from(interesting(version)), min_size=1, max_size=4))
    broken = bytearray(sound(version))
    for place in places:
        broken[place] ^= data.draw(st.integers(1, 255))
    read_everything(bytes(broken))


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=100, derandomize=True, deadline=2000)
@given(data=st.data())
def test_forged_words_give_clean_errors(version: tuple[int, int], data: st.DataObject) -> None:
    """Sizes, offsets and pointers at their extremes, wherever they stand."""
    place = data.draw(st.sampled_from(interesting(version)))
    value = data.draw(st.sampled_from([0, 1, 0x7F, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
    broken = bytearray(sound(version))
    width = data.draw(st.sampled_from([4, 8]))
    word = value.to_bytes(4, "little") * (width // 4)
    broken[place : place + width] = word
    read_everything(bytes(broken))


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=60, derandomize=True, deadline=2000)
@given(data=st.data())
def test_truncated_files_give_clean_errors(version: tuple[int, int], data: st.DataObject) -> None:
    whole = sound(version)
    read_everything(whole[: data.draw(st.integers(0, len(whole) - 1))])


def table_error(version: tuple[int, int], old: bytes, new: bytes) -> str:
    data = sound(version)
    assert data.count(old) >= 1
    return read_everything(data.replace(old, new))


def test_an_error_says_where() -> None:
    # The table of UnsafePoint: steps of 10, 20 and 30 bytes; a last one of 90 leaves the function.
    message = table_error(
        (1, 22), bytes.fromhex("000a 0114 021e 00"), bytes.fromhex("000a 0114 025a 00")
    )
    assert "pclntab at 0x4400" in message
    assert "goes past its function" in message
    assert "offset 0x" in message


def test_a_table_without_an_end_is_an_error() -> None:
    view = memoryview(bytes(GoBinaryWriter((1, 22), [FUNCTION])))
    start = view.obj.index(struct.pack("<I4B", 0xFFFFFFF1, 0, 0, 1, 8))
    with pytest.raises(PclntabError, match="only 40 bytes"):
        table_format(view[start : start + 40], 0x1000)
    with pytest.raises(PclntabError, match="64-bit x86"):
        table_format(memoryview(struct.pack("<I4B", 0xFFFFFFF1, 0, 0, 4, 8) + bytes(64)), 0)


def test_a_number_of_functions_that_does_not_fit_is_refused_at_once() -> None:
    data = bytearray(sound((1, 22)))
    at = data.index(struct.pack("<I4B", 0xFFFFFFF1, 0, 0, 1, 8))
    struct.pack_into("<Q", data, at + 8, 1 << 60)
    assert "do not fit" in read_everything(bytes(data))


def test_an_offset_of_the_header_that_leaves_the_address_space_is_refused() -> None:
    data = bytearray(sound((1, 22)))
    at = data.index(struct.pack("<I4B", 0xFFFFFFF1, 0, 0, 1, 8))
    struct.pack_into("<Q", data, at + 32, (1 << 64) - 1)
    assert "no moduledata points at the function table" in read_everything(bytes(data))


def test_rules_are_those_of_the_sources() -> None:
    assert Rules((1, 15)).FUNCDATA_InlTree == 4  # 1.16 dropped FUNCDATA_RegPointerMaps
    assert Rules((1, 16)).FUNCDATA_InlTree == 3
    assert [Rules((1, m)).inlined_call.size for m in (19, 20)] == [20, 16]


def test_names_within_names_are_no_gigabytes() -> None:
    """Each function's name is the end of the one before it: 2,000 of 60,000 bytes and less."""
    functions = [Function(f"f{i}", b"\x90") for i in range(2000)]
    writer = GoBinaryWriter((1, 22), [Function("x" * 60_000, b"\x90"), *functions])
    data = bytearray(bytes(writer))
    with NamedTemporaryFile() as file:
        path = Path(file.name)
        path.write_bytes(data)
        with GoBinary(path) as binary:
            table = data.index(bytes(binary.table.view[:64]))
            first = next(iter(binary)).nameoff
            places = [table + f.offset + 4 for f in binary]
        for i, place in enumerate(places):
            struct.pack_into("<i", data, place, first + i)
        path.write_bytes(data)
        with GoBinary(path) as binary, pytest.raises(PclntabError, match="lies within others"):
            _ = binary.names
