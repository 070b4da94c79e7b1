"""A batch on the real processor says what one on Unicorn says, and of AVX registers more."""

from __future__ import annotations

import pytest
from native_host import native_objection
from test_avx_trampolines import LAYOUTS, LIVE, SHORT, blamed, text_of, without
from test_batch_hooks import TRAMPOLINES, tried

from asm import go
from asm.mkpreempt import stack_text
from emulator import frames
from emulator.extended import FEATURES
from emulator.extended_images import AREA
from emulator.registers import ARITHMETIC_FLAGS, LAYOUT, SIZE, XMM
from pushcall.api import check
from pushcall.check.batch import NO_INSTRUCTION
from pushcall.check.batch_hooks import CALL_SIZE, Word


@pytest.fixture(autouse=True)
def _host() -> None:
    if why := native_objection():
        pytest.skip(why)


def test_the_text_has_the_words_and_offsets_of_the_tables() -> None:
    text = go.text("batch_native_amd64.s")
    defined = dict(
        line.split()[1:3]
        for line in text.splitlines()
        if line.startswith("#define") and len(line.split()) > 2
    )
    for word in Word:
        if word.name in defined:
            assert defined[word.name] == f"batch·words+{8 * word}(SB)"
    for name, (offset, _) in LAYOUT.items():
        if f"{name}_" in defined:
            assert defined[f"{name}_"] == str(offset)
        if name in XMM[:15]:
            assert f"\tDO(X{name[3:]}, {offset})" in text
    for name in ("NEXT", "WORDS", "POISON", "EXTENDED", "WINDOW"):
        assert defined[name] == str(getattr(frames, name))
    assert int(defined["BLOCK_SIZE"]) == SIZE
    assert int(defined["IMAGE"]) == AREA
    assert int(defined["CALL_SIZE"]) == CALL_SIZE
    assert int(defined["NO_INSTRUCTION"], 0) == NO_INSTRUCTION[0]
    assert int(defined["ARITHMETIC_FLAGS"], 0) == ARITHMETIC_FLAGS


@pytest.mark.parametrize("name", ["1.27", "R9 is not restored", "writes above RSP"])
def test_it_says_of_frames_what_unicorn_says(name: str) -> None:
    assert tried(*TRAMPOLINES[name], native=True) == tried(*TRAMPOLINES[name])


def test_a_trampoline_that_never_ends_is_given_up() -> None:
    text = stack_text().replace("\tRET", "forever:\n\tJMP forever")
    assert tried(text, "1.22", count=2, native=True).unjudged == {100, 101}


def test_a_system_call_in_a_trampoline_is_not_made() -> None:
    text = stack_text().replace("\tPUSHFQ\n", "\tPUSHFQ\n\tMOVQ $60, AX\n\tSYSCALL\n")
    assert tried(text, "1.22", count=2, native=True).unjudged == {100, 101}


def test_avx_registers_are_judged_in_batches() -> None:
    if objection := native_objection(FEATURES):
        pytest.skip(objection)
    layout = LAYOUTS["avx512"]
    bad = text_of(layout, restores=without(layout.restores(), "Z20"))
    result = check(SHORT["avx512"], trampoline=bad, engine="native")
    assert result.direct < result.points
    assert blamed(result) == ["ZMM20"]
    assert all(loss.points >= LIVE for loss in result.losses)
