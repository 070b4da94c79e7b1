"""Operands of Intel and AT&T text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from asm.intel import Mem
from asm.machine import REGISTER, SEGMENT_PREFIX
from asm.source import Fault, near_miss

if TYPE_CHECKING:
    from asm.operand import Prog
    from asm.source import Span
    from asm.x86_token import Cursor, Token

WIDTHS = {
    "byte": 8, "word": 16, "dword": 32, "fword": 48, "qword": 64, "tbyte": 80, "tword": 80,
    "xword": 80, "oword": 128, "xmmword": 128, "ymmword": 256, "zmmword": 512, "yword": 256,
    "zword": 512,
}  # fmt: skip
_ROUNDINGS = ("rn-sae", "rd-sae", "ru-sae", "rz-sae", "sae")
_ALIASES = {"st": "st(0)"} | {f"st{n}": f"st({n})" for n in range(8)}


@dataclass
class Operand:
    """One operand: a register, a number, an address, or a symbol by itself."""

    span: Span
    reg: str = ""
    value: int | None = None
    mem: Mem | None = None
    symbol: str = ""  # of an address relative to RIP, or of a branch
    offset: int = 0  # added to the symbol
    mask: str = ""
    zeroing: bool = False
    rounding: str = ""
    indirect: bool = False  # AT&T: *
    label_table: dict[str, list[Prog]] | None = None  # what 1b and 1f count in

    @property
    def is_symbol(self) -> bool:
        """Whether it is a place to go to, and no address in brackets."""
        return bool(self.symbol) and self.mem is None


def linker_name(text: str) -> str:
    """The symbol of a name; Go's dots and slashes are turned into themselves."""
    return text.replace("·", ".").replace("∕", "/")


def _register(token: Token) -> str:
    name = token.text.lower()
    return _ALIASES.get(name, name)


def _decorations(cursor: Cursor, operand: Operand) -> None:
    """`{k1}`, `{z}` and `{1to8}` behind an operand; AT&T writes `{%k1}`."""
    while cursor.take("{"):
        start = cursor.at - 1
        cursor.take("%")
        token = cursor.next("k1, z or 1to8")
        words = token.text.lower()
        while not cursor.sees("}"):  # 1to8 is a number and a word to the tokens
            words += cursor.next("}").text.lower()
        cursor.expect("}")
        if words in REGISTER and words[0] == "k" and not operand.mask:
            if words == "k0":
                raise Fault(cursor.since(start), "k0 cannot be a mask")
            operand.mask = words
        elif words == "z" and not operand.zeroing:
            operand.zeroing = True
        elif words in {"1to2", "1to4", "1to8", "1to16", "1to32"} and operand.mem is not None:
            operand.mem = operand.mem._replace(broadcast=int(words[3:]))
        else:
            raise Fault(cursor.since(start), f"{{{words}}} does not go here")


def _rounding(cursor: Cursor) -> Operand | None:
    """`{rn-sae}` as an operand of its own."""
    if not cursor.sees("{"):
        return None
    start = cursor.at
    cursor.at += 1
    words = ""
    while not cursor.take("}"):
        words += cursor.next("}").text.lower()
    if words not in _ROUNDINGS:
        raise Fault(cursor.since(start), f"{{{words}}} does not go here")
    return Operand(cursor.since(start), rounding=words)


def _check_address(mem: Mem, span: Span) -> Mem:
    for name in (mem.base, mem.index):
        if name and not (
            (REGISTER[name].kind == "g" and REGISTER[name].width == 64)
            or (name == mem.index and REGISTER[name].kind in "xyz")
        ):
            raise Fault(span, f"{name} cannot be part of an address here: write a 64-bit register")
    if mem.index == "rsp":
        raise Fault(span, "rsp cannot be an index")
    if mem.scale not in {1, 2, 4, 8}:
        raise Fault(span, "the scale must be 1, 2, 4 or 8")
    if not -(1 << 31) <= mem.disp < 1 << 31:
        raise Fault(span, f"the offset {mem.disp:#x} does not fit in 32 bits")
    return mem


# Intel


def intel(cursor: Cursor) -> Operand:
    """One operand: `rax`, `5`, `dword ptr fs:[rbx + 4*rcx + 8]`, `[rip + x]`, `label`."""
    if (rounding := _rounding(cursor)) is not None:
        return rounding
    start = cursor.at
    width = 0
    token = cursor.peek()
    following = cursor.peek(1)
    if token is not None and token.text.lower() in WIDTHS and following is not None:
        width = WIDTHS[token.text.lower()]
        cursor.at += 1
        cursor.take("ptr")
    segment = ""
    token = cursor.peek()
    if token is not None and token.text.lower() in SEGMENT_PREFIX:
        following = cursor.peek(1)
        if following is not None and following.text == ":":
            segment = token.text.lower()
            cursor.at += 2
    token = cursor.peek()
    if cursor.sees("["):
        operand = _intel_memory(cursor, start, width, segment)
    elif width or segment:
        raise Fault(cursor.span, "expected [ and an address")
    elif token is not None and token.kind == "word":
        operand = _intel_word(cursor, token, start)
    elif token is not None and token.kind == "local":
        cursor.at += 1
        operand = Operand(token.span, symbol=token.text)
    else:
        value = cursor.expression()
        operand = Operand(cursor.since(start), value=value)
    _decorations(cursor, operand)
    operand.span = cursor.since(start)
    return operand


def _intel_word(cursor: Cursor, token: Token, start: int) -> Operand:
    cursor.at += 1
    if token.text.lower() == "st" and cursor.take("("):
        number = cursor.next("a number").text
        cursor.expect(")")
        if number not in set("01234567"):
            raise Fault(cursor.since(start), f"there is no register st({number})")
        return Operand(token.span, reg=f"st({number})")
    register = _register(token)
    if register in REGISTER:
        return Operand(token.span, reg=register)
    if token.text.lower() in {"offset", "short", "near", "far"}:
        note = "write lea with [rip + symbol]" if token.text.lower() == "offset" else None
        raise Fault(token.span, f"{token.text} is not taken here", note)
    offset = 0
    if cursor.sees("+") or cursor.sees("-"):
        offset = cursor.expression()
    if cursor.sees("["):
        raise Fault(cursor.span, f"write [rip + {token.text}]")
    return Operand(cursor.since(start), symbol=linker_name(token.text), offset=offset)


def _intel_memory(cursor: Cursor, start: int, width: int, segment: str) -> Operand:
    cursor.expect("[")
    relative = cursor.take("rel")
    base = index = symbol = ""
    scale, disp, sign, first = 1, 0, 1, True
    while not cursor.take("]"):
        if not first or cursor.sees("+") or cursor.sees("-"):
            token = cursor.next("]")
            if token.text not in {"+", "-"}:
                raise Fault(token.span, f"expected + or - or ], found {token.text}")
            sign = 1 if token.text == "+" else -1
        first = False
        here = cursor.at
        token = cursor.next("an address")
        name = _register(token)
        if name in REGISTER or name == "rip":
            factor = cursor.factor() if cursor.take("*") else None
        elif token.kind == "number" and _scaled(cursor):
            cursor.at = here
            factor = cursor.factor()
            cursor.expect("*")
            token = cursor.next("a register")
            name = _register(token)
        elif token.kind == "word":
            if symbol or sign < 0:
                raise Fault(token.span, "an address takes one symbol, added")
            symbol = linker_name(token.text)
            continue
        else:
            cursor.at = here
            disp += sign * cursor.product()
            continue
        if name not in REGISTER and name != "rip":
            note = near_miss(name, REGISTER)
            raise Fault(token.span, f"expected a register, found {token.text}", note)
        if sign < 0:
            raise Fault(token.span, "a register cannot be subtracted")
        if name == "rip":
            relative = True
        elif factor is None and not base and REGISTER[name].kind == "g":
            base = name
        elif not index:
            index, scale = name, factor or 1
        else:
            raise Fault(token.span, "an address takes a base and an index")
    if index == "rsp" and scale == 1:
        base, index = index, base
    span = cursor.since(start)
    if relative or symbol:
        if not relative:
            raise Fault(span, f"{symbol} as an absolute address: write [rip + {symbol}]")
        if base or index or not symbol or segment:
            raise Fault(span, "[rip + symbol] takes no register and needs a symbol")
        return Operand(span, mem=Mem(width, rip=True), symbol=symbol, offset=disp)
    mem = _check_address(Mem(width, base, index, scale, disp, segment), span)
    return Operand(span, mem=mem)


def _scaled(cursor: Cursor) -> bool:
    """Whether a number before the cursor multiplies a register: `4*rcx`."""
    following = cursor.peek(1)
    return cursor.sees("*") and following is not None and _register(following) in REGISTER


# AT&T


def att(cursor: Cursor) -> Operand:
    """One operand: `%rax`, `$5`, `%fs:8(%rbx,%rcx,4)`, `x(%rip)`, `*%rax`, `label`."""
    if (rounding := _rounding(cursor)) is not None:
        return rounding
    start = cursor.at
    indirect = cursor.take("*")
    segment = ""
    if cursor.sees("%"):
        name = _att_register(cursor)
        if name in SEGMENT_PREFIX and cursor.take(":"):
            segment = name
        else:
            operand = Operand(cursor.since(start), reg=name, indirect=indirect)
            _decorations(cursor, operand)
            operand.span = cursor.since(start)
            return operand
    if cursor.take("$"):
        token = cursor.peek()
        if token is not None and token.kind == "word":
            raise Fault(cursor.span, "the address of a symbol is taken by lea of symbol(%rip)")
        return Operand(cursor.since(start), value=cursor.expression())
    operand = _att_address(cursor, start, segment, indirect=indirect)
    _decorations(cursor, operand)
    operand.span = cursor.since(start)
    return operand


def _att_register(cursor: Cursor) -> str:
    cursor.expect("%")
    token = cursor.next("a register")
    name = token.text.lower()
    if name == "st":
        number = "0"
        if cursor.take("("):
            number = cursor.next("a number").text
            cursor.expect(")")
        name = f"st({number})"
    if name not in REGISTER and name != "rip":
        raise Fault(token.span, f"no register %{token.text}", near_miss(name, REGISTER))
    return name


def _att_address(cursor: Cursor, start: int, segment: str, *, indirect: bool) -> Operand:
    symbol, disp = "", 0
    token = cursor.peek()
    if token is not None and token.kind in {"word", "local"}:
        cursor.at += 1
        symbol = linker_name(token.text)
        if cursor.sees("+") or cursor.sees("-"):
            disp = cursor.expression()
    elif not cursor.sees("(") or not _opens_registers(cursor):
        disp = cursor.expression()
    base = index = ""
    scale = 1
    bracketed = cursor.take("(")
    if bracketed:
        if cursor.sees("%"):
            base = _att_register(cursor)
        if cursor.take(","):
            if cursor.sees("%"):
                index = _att_register(cursor)
            if cursor.take(","):
                scale = cursor.factor()
        cursor.expect(")")
    span = cursor.since(start)
    if base == "rip" or (symbol and bracketed):
        if base != "rip" or index or not symbol or segment:
            raise Fault(span, "write symbol(%rip), without further registers")
        return Operand(span, mem=Mem(0, rip=True), symbol=symbol, offset=disp, indirect=indirect)
    if index == "rip":
        raise Fault(span, "rip cannot be an index")
    if symbol:
        if segment or indirect:
            raise Fault(span, f"{symbol} as an absolute address: write {symbol}(%rip)")
        return Operand(span, symbol=symbol, offset=disp)
    mem = _check_address(Mem(0, base, index, scale, disp, segment), span)
    return Operand(span, mem=mem, indirect=indirect)


def _opens_registers(cursor: Cursor) -> bool:
    """Whether a parenthesis holds registers: `(%rax)`, `(,%rcx,8)`; else it is a number's."""
    following = cursor.peek(1)
    return following is not None and following.text in {"%", ","}
