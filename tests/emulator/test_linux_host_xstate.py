"""What AVX and AVX-512 add to a signal frame, against the one that the host's kernel builds.

As test_linux_host_frame does, with an XRSTOR before and an XSAVE behind (SDM volume 1, 13.7 and
13.8). Components that the host's processor lacks are named in the skip.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from test_linux_host_frame import BASE, DATA, HANDLER, RESTORER, RSP, Outcome, apply, patch
from test_linux_host_frame import build_like as build_without
from test_linux_host_frame import host as host  # noqa: PLC0414  # a fixture

from emulator import extended
from emulator.host_cpuid import cpuid
from emulator.linux import fpstate, signal_frame
from emulator.linux.signal_abi import SaFlags, SigAction
from emulator.memory import Memory, Prot

if TYPE_CHECKING:
    from test_linux_host_frame import Host

    from emulator.registers import Registers

TEST_X, AFTER_X = DATA + 0x1000, DATA + 0x2000  # XSAVE areas
ASKED = extended.FEATURES
STATE = bytes(i * 11 + i // 200 & 0xFF for i in range(extended.SIZE))
NAMES = {
    extended.AVX: "AVX", extended.OPMASK: "opmask", extended.ZMM_HI256: "ZMM_Hi256",
    extended.HI16_ZMM: "Hi16_ZMM",
}  # fmt: skip
ALL = extended.only(STATE, ASKED)


@pytest.fixture(scope="module", autouse=True)
def _supported(host: Host) -> None:
    del host
    if not cpuid(1)[2] >> 27 & 1:
        pytest.skip("the host's kernel does not use XSAVE")
    supported = cpuid(0xD)[0]
    missing = [name for bit, name in NAMES.items() if not supported & bit]
    if missing:
        pytest.skip(f"the host has no {', '.join(missing)}")
    if any(cpuid(0xD, b.bit_length() - 1)[1] != 576 + extended.COMPONENTS[b][0] for b in NAMES):
        pytest.skip("the host's XSAVE area has another layout than Intel's processors give it")


def area(state: bytes) -> bytes:
    """An XSAVE area that XRSTOR takes."""
    header = struct.pack("<QQ48x", extended.in_use(state), 0)
    return bytes(512) + header + extended.whole(state)


def run(host: Host, state: bytes, handler: str = "") -> Outcome:
    mask = f"mov eax, {ASKED}; xor edx, edx;"
    return host.run(
        sa_flags=SaFlags.SIGINFO,
        handler=handler,
        load=f"{mask} xrstor64 [{TEST_X}]",
        store=f"{mask} mov rcx, {AFTER_X}; xsave64 [rcx]; .byte 0xc5, 0xf8, 0x77",
        prepare=(TEST_X, area(state)),
    )


def build_like(outcome: Outcome, state: bytes) -> tuple[Memory, Registers, signal_frame.Frame]:
    """The same frame, built by the model."""
    memory = Memory()
    memory.map("all", BASE, 0x40000, Prot.RW | Prot.EXEC)
    registers = outcome.sent.copy()
    registers.extended = state
    action = SigAction(HANDLER, SaFlags.SIGINFO | SaFlags.RESTORER, RESTORER, 1 << 9)
    return memory, registers, signal_frame.build(memory, registers, outcome.info, action)


CASES = {
    "all components": ASKED,
    "YMM only": extended.AVX,
    "masks only": extended.OPMASK,
    "the lower 16 ZMM": extended.AVX | extended.ZMM_HI256,
    "the upper 16 ZMM only": extended.HI16_ZMM,
}


@pytest.mark.parametrize("case", CASES)
def test_the_extended_state_in_the_frame_is_the_hosts(host: Host, case: str) -> None:
    state = extended.only(STATE, CASES[case])
    outcome = run(host, state)
    memory, registers, frame = build_like(outcome, state)
    assert fpstate.frame_size(outcome.sent) == fpstate.FRAME_SIZE
    place = outcome.u64(outcome.entry["RDX"] + signal_frame.OFFSETS["fpstate"])
    assert frame.fpstate == (RSP - 128 - 2692) & -64
    theirs = outcome.stack[place - BASE :][:2688]
    mine = memory.read(frame.fpstate, 2692)
    magic1, whole, features, used = struct.unpack_from("<IIQI", mine, 464)
    their = struct.unpack_from("<IIQI", theirs, 464)
    assert (magic1, whole, used) == (their[0], 2692, 2688)
    assert features == their[2] & 0xE7 == 0xE7
    assert mine[-4:] == outcome.stack[place - BASE + their[3] :][:4]
    # XSTATE_BV, of the components that are modelled; the rest of the header is zero.
    assert mine[512] == theirs[512] & 0xE7 == CASES[case] | 3
    assert mine[513:576] == bytes(1) + theirs[514:576]
    assert mine[576:2688].hex(" ", 32) == theirs[576:2688].hex(" ", 32)
    assert registers.extended == extended.INITIAL  # as the handler finds it


def test_without_it_the_frame_is_as_before(host: Host) -> None:
    outcome = run(host, extended.INITIAL)
    memory, _, frame = build_like(outcome, extended.INITIAL)
    other, _, same = build_without(outcome, SaFlags.SIGINFO)
    assert frame == same
    assert memory.read(frame.fpstate, 580) == other.read(same.fpstate, 580)
    place = outcome.u64(outcome.entry["RDX"] + signal_frame.OFFSETS["fpstate"])
    assert outcome.stack[place - BASE + 512] & 0xE7 == 3


YMM7_HIGH, K2, ZMM9_HIGH, ZMM20 = 576 + 16 * 7, 1088 + 16, 1152 + 32 * 9, 1664 + 64 * 4
CHANGES = {
    "nothing": (),
    "a byte of each component": tuple(
        (f"fx+{at}", 0x1122_3344_5566_7788) for at in (YMM7_HIGH, K2, ZMM9_HIGH, ZMM20)
    ),
    "XSTATE_BV without AVX": (("fx+512", 0xE3),),
    "XSTATE_BV without masks": (("fx+512", 0xC7),),
    "xfeatures without the upper ZMM": (("fx+472", 0x67),),
    "xfeatures as without AVX": (("fx+472", 3),),
    "no first magic: FXSAVE only": (("fx+464", 0),),
    "fpstate 0: initial": (("fpstate", 0),),
}


@pytest.mark.parametrize("case", CHANGES)
def test_sigreturn_restores_what_the_frame_says(host: Host, case: str) -> None:
    changes = CHANGES[case]
    outcome = run(host, ALL, patch(*changes))
    memory, registers, frame = build_like(outcome, ALL)
    apply(memory, frame, *changes)
    registers["RFLAGS"] = 0x202
    signal_frame.restore_sigcontext(memory, frame.address, registers)
    theirs = outcome.stack[AFTER_X - BASE :][:2688]
    assert extended.whole(registers.extended).hex(" ", 32) == theirs[576:].hex(" ", 32)
    for name in ("XMM3", "XMM15"):
        at = 160 + 16 * int(name[3:])
        assert registers[name] == int.from_bytes(outcome.after_fx[at : at + 16], "little")
