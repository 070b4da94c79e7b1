"""A loss names the instruction that is to blame: of a mutant, the one that was changed.

Which instruction it is, and what it does, is known from the mutation itself.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asm.mkpreempt import stack_text, xregs_text
from pushcall.api import check, program
from pushcall.check import exhaustive as checking
from pushcall.check import explain as explaining
from pushcall.check.explain import explain
from pushcall.check.mutants import Workshop
from pushcall.cli import main as cli
from pushcall.trampoline.mutations import text
from runtime_model.trampoline import Trampoline
from runtime_model.version import GoVersion

if TYPE_CHECKING:
    from pushcall.check.verdict import Explanation

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = {"1.22": stack_text(), "1.27": xregs_text()}
FAMILIES = sorted(TEXTS)
SNIPPET = """
TEXT main·main(SB), 4|512, $0-0
	MOVQ	$0x1234567, R14
	PCMPEQL	X15, X15
	STC
	RET
"""


@cache
def workshop(go: str) -> Workshop:
    major, minor = go.split(".")
    return Workshop(Trampoline(), GoVersion(int(major), int(minor)))


def explained(go: str, number: int) -> dict[str, Explanation]:
    """Of each register that a mutant loses at the first boundary that loses any."""
    shop = workshop(go)
    config = shop.mutant_config(shop.mutations[number])
    result = checking.check(config, until_lost=True, start=shop.start)
    return dict(
        zip((x.register for x in result.losses), explain(config, result.losses), strict=True)
    )


def mutant(go: str, instruction: str, fault: str) -> int:
    shop = workshop(go)
    found = [
        number
        for number, m in enumerate(shop.mutations)
        if text(shop.code[m.index].insn) == instruction and fault in (m.kind, m.detail)
    ]
    assert found, instruction
    return found[0]


def address(go: str, instruction: str) -> int:
    return next(int(x.insn.ip) for x in workshop(go).code if text(x.insn) == instruction)


# (family, instruction, what it becomes, the register, what is said of which instruction, words)
CHANGED = [
    ("1.22", "mov [rsp+18h],rbx", "mov [rsp+20h],rbx", "RBX", "saved", "had written nothing"),
    ("1.22", "mov [rsp+18h],rbx", "mov [rsp+10h],rbx", "RDX", "overwrote", "overwrote it before"),
    ("1.22", "mov [rsp+18h],rbx", "mov [rsp+18h],bx", "RBX", "saved", "2 of its 8 bytes"),
    ("1.22", "mov [rsp+18h],rbx", "mov [rsp+18h],rdx", "RBX", "stored", "had put RDX"),
    ("1.22", "mov [rsp+18h],rbx", "mov rbx,[rsp+18h]", "RBX", "overwrote", "nothing had saved RBX"),
    ("1.22", "mov r9,[rsp+38h]", "mov r9,[rsp+30h]", "R9", "restored", "had put R8"),
    ("1.22", "mov r9,[rsp+38h]", "mov r9w,[rsp+38h]", "R9", "restored", "only 2 of the 8 bytes"),
    ("1.22", "mov r9,[rsp+38h]", "mov r8,[rsp+38h]", "R9", "loaded", "instead"),
    ("1.22", "mov r9,[rsp+38h]", "mov [rsp+38h],r9", "R9", "stored", "instead"),
    ("1.22", "movups [rsp+0C0h],xmm5", "movhps [rsp+0C0h],xmm5", "XMM5", "saved", "8 of its 16"),
    ("1.22", "movups xmm5,[rsp+0C0h]", "movlps xmm5,[rsp+0C0h]", "XMM5", "restored", "only 8 of"),
    ("1.22", "movups xmm5,[rsp+0C0h]", "movups xmm5,[rsp+0D0h]", "XMM5", "restored", "put XMM6"),
    ("1.22", "pop rbp", "pop rsi", "RSI", "restored", "had put RBP"),
    ("1.27", "movups [rax+140h],xmm5", "movsd [rax+140h],xmm5", "XMM5", "saved", "8 of its 16"),
    ("1.27", "movups [rax+140h],xmm5", "movups [rax+140h],xmm6", "XMM5", "stored", "put XMM6"),
    ("1.27", "movups xmm5,[rax+140h]", "movups xmm5,[rax+150h]", "XMM5", "restored", "nothing"),
    ("1.27", "movups xmm5,[rax+140h]", "movhps xmm5,[rax+140h]", "XMM5", "restored", "only 8 of"),
    ("1.27", "mov rax,[r14+30h]", "mov rax,[r14+28h]", "RIP", "changed", "unmapped memory"),
]  # fmt: skip


@pytest.mark.parametrize(("go", "instruction", "became", "register", "role", "words"), CHANGED)
def test_the_changed_instruction_is_named(
    go: str, instruction: str, became: str, register: str, role: str, words: str
) -> None:
    found = explained(go, mutant(go, instruction, became))[register]
    assert words in found.text
    parts = [part for part in found.parts if part.role == role]
    assert [part.step.disassembly for part in parts] == [became]
    source = next(x.source for x in workshop(go).code if text(x.insn) == instruction)
    assert parts[0].step.at.source == " ".join(source.split())
    assert parts[0].step.at.pc == address(go, instruction)
    assert parts[0].step.at.symbol.startswith("runtime.asyncPreempt+0x")


@pytest.mark.parametrize("go", FAMILIES)
@pytest.mark.parametrize(("register", "slot"), [("RBX", "[rsp+18h]"), ("RAX", "[rsp]")])
def test_of_a_dropped_save_the_restore_is_named(go: str, register: str, slot: str) -> None:
    found = explained(go, mutant(go, f"mov {slot},{register.lower()}", "dropped"))[register]
    assert f"nothing saved {register}" in found.text or f"had saved {register}" in found.text
    restored = [part for part in found.parts if part.role == "restored"]
    assert [part.step.disassembly for part in restored] == [f"mov {register.lower()},{slot}"]


@pytest.mark.parametrize("go", FAMILIES)
def test_of_a_dropped_restore_the_save_is_named(go: str) -> None:
    found = explained(go, mutant(go, "mov r9,[rsp+38h]", "dropped"))["R9"]
    assert "nothing restores R9, which asyncPreempt2 overwrote" in found.text
    saved = [part for part in found.parts if part.role == "saved"]
    assert [part.step.disassembly for part in saved] == ["mov [rsp+38h],r9"]
    assert saved[0].address is not None
    assert f"at {saved[0].address:#x} by `MOVQ R9, 56(SP)`" in found.text


def test_a_stack_that_does_not_balance_names_both_sides() -> None:
    found = explained("1.22", mutant("1.22", "add rsp,170h", "add rsp,178h"))
    named = {part.step.disassembly for e in found.values() for part in e.parts}
    assert "add rsp,178h" in named


@pytest.mark.parametrize("go", FAMILIES)
@pytest.mark.parametrize(
    ("before", "after", "register", "named", "words"),
    [
        ("RET", "ADDQ $8, 0(SP)\n\tRET", "RIP", "ADDQ $8, 0(SP)", "took the PC from"),
        ("RET", "MOVQ BP, 8(SP)\n\tRET", "MEMORY", "MOVQ BP, 8(SP)", "is not asyncPreempt's"),
        ("RET", "FLD1\n\tRET", "FSW", "FLD1", "changed FSW from 0x0 to 0x3800"),
        ("RET", "MOVL $0x3f80, -16(SP)\n\tLDMXCSR -16(SP)\n\tRET", "MXCSR", "LDMXCSR -16(SP)",
         "changed MXCSR from 0x1f80 to 0x3f80"),
        ("POPFQ", "POPFQ\n\tADDQ $0, AX", "RFLAGS", "ADDQ $0, AX", "changed RFLAGS"),
        ("PUSHFQ", "ADDQ $1, BP\n\tPUSHFQ", "RFLAGS", "ADDQ $1, BP", "`PUSHFQ`"),
        ("RET", "BYTE $0xc2; BYTE $8; BYTE $0", "RSP", "BYTE $0xc2; BYTE $8; BYTE $0",
         "8 bytes higher"),
        ("RET", "MOVQ 0x10, AX\n\tRET", "RIP", "MOVQ 0x10, AX", "was the last of asyncPreempt"),
    ],
)  # fmt: skip
def test_what_is_no_saved_register_is_explained(
    go: str, before: str, after: str, register: str, named: str, words: str
) -> None:
    trampoline = TEXTS[go].replace(f"\t{before}\n", f"\t{after}\n")
    result = check(SNIPPET, trampoline=trampoline, go=go, explain=True)
    loss = next(loss for loss in result.losses if loss.register == register)
    assert loss.explanation is not None
    assert words in loss.explanation.text
    assert named in {part.step.at.source for part in loss.explanation.parts}


def test_a_value_below_rsp_names_what_overwrote_it() -> None:
    text_ = (
        "TEXT main·main(SB), 4|512, $0-0\n\tMOVQ $42, {0}(SP)\n\tNOP\n\tMOVQ {0}(SP), AX\n\tRET\n"
    )
    pushed = check(text_.format(-8), explain=True).losses[0].explanation
    assert pushed is not None
    assert "pushCall put the interrupted PC there" in pushed.text
    deeper = check(text_.format(-16), go="1.22", explain=True).losses[0].explanation
    assert deeper is not None
    assert "`PUSHQ BP` at runtime.asyncPreempt overwrote it" in deeper.text


def test_the_command_shows_it_beneath_the_loss_and_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop.s").write_text(SNIPPET, "utf-8")
    broken = TEXTS["1.22"].replace("\tMOVQ 24(SP), BX\n", "")
    (tmp_path / "mine.s").write_text(broken, "utf-8")
    arguments = ["pushcall", "check", str(tmp_path / "loop.s"), "--trampoline"]
    outputs = []
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", [*arguments, str(tmp_path / "mine.s"), *more])
        with pytest.raises(SystemExit):
            cli.main()
        outputs.append(capsys.readouterr().out)
    lines = outputs[0].splitlines()
    beneath = lines[
        next(n for n, line in enumerate(lines) if "RBX" in line and "lost at" in line) + 1
    ]
    assert beneath.strip().startswith("nothing restores RBX, which asyncPreempt2 overwrote")
    explanation = json.loads(outputs[1])["losses"][0]["explanation"]
    assert explanation["text"].startswith("nothing restores RBX")
    saved = explanation["instructions"][0]
    assert saved["role"] == "saved"
    assert saved["source"] == "MOVQ BX, 24(SP)"
    assert saved["disassembly"] == "mov [rsp+18h],rbx"
    assert saved["position"].startswith(f"{tmp_path / 'mine.s'}:")
    assert saved["symbol"].startswith("runtime.asyncPreempt+0x")
    assert int(saved["address"], 16) % 8 == 0


def test_a_ctrl_c_while_losses_are_explained_leaves_the_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = program(EXAMPLES / "lost" / "red_zone.s").config
    result = checking.check(config)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(explaining, "Follower", stop)
    explaining.attach(config, result)
    assert result.status == 130
    assert result.to_json()["losses"][0]["register"] == "MEMORY"
