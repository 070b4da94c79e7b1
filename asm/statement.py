"""The parts of a statement: operands between commas, the size of a frame, where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asm import literal
from asm.lexer import INT, OP, Token
from asm.source import Fault, Span

if TYPE_CHECKING:
    from collections.abc import Sequence


def span_of(tokens: Sequence[Token]) -> Span:
    """The stretch from the first token to the last."""
    first, last = tokens[0], tokens[-1]
    return Span(first.source, first.start, max(last.end, first.end), first.origin)


def text_of(tokens: Sequence[Token]) -> str:
    """The statement as its line has it: tokens out of macros stand at their invocation."""
    source = tokens[0].source
    start = min(t.start for t in tokens)
    return source.text[start : max(t.end for t in tokens)].strip()


def split_operands(tokens: list[Token], word: Token) -> list[list[Token]]:
    """Splits at the commas outside of parentheses; `AX:DX` is the old way to write `DX, AX`."""
    if not tokens:
        return []
    groups: list[list[Token]] = [[]]
    nesting = 0
    colon = -1
    before = word
    for token in tokens:
        if token.kind is OP:
            if token.text in "([":
                nesting += 1
            elif token.text in ")]":
                nesting -= 1
            elif nesting == 0 and token.text in {",", ":"}:
                if not groups[-1]:
                    raise Fault(token.span, "expected an operand before this")
                if token.text == ":":
                    if colon >= 0:
                        raise Fault(token.span, "a second colon")
                    colon = len(groups) - 1
                groups.append([])
                before = token
                continue
        groups[-1].append(token)
        before = token
    if not groups[-1]:
        raise Fault(before.span, "expected an operand after this")
    if colon >= 0:
        groups[colon], groups[colon + 1] = groups[colon + 1], groups[colon]
    return groups


def frame_size(group: list[Token]) -> tuple[int, int | None]:
    """Reads `$frame`, `$-frame`, `$frame-args`: two numbers, not a subtraction."""
    texts = [t.text for t in group]
    span = span_of(group)
    if texts[0] != "$" or len(group) < 2:
        raise Fault(span, "the frame size must be $frame-args")
    at = 1
    negative = texts[at] == "-"
    at += negative
    if at >= len(group) or group[at].kind is not INT:
        raise Fault(span, "the frame size must be a number")
    frame = literal.integer(group[at])
    if frame >= 1 << 31:
        raise Fault(group[at].span, "the frame is too large")
    rest = group[at + 1 :]
    if not rest:
        return (-frame if negative else frame), None
    if len(rest) != 2 or rest[0].text != "-" or rest[1].kind is not INT:
        raise Fault(span_of(rest), "the argument size must be -number")
    args = literal.integer(rest[1])
    if args >= 1 << 31:
        raise Fault(rest[1].span, "the argument size is too large")
    return (-frame if negative else frame), args
