"""Values of Go literals: integers, floats, strings, characters (the Go specification, Literals)."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from asm.source import Fault

if TYPE_CHECKING:
    from asm.lexer import Token

_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.?))",
    re.DOTALL,
)
_SIMPLE = dict(zip("abfnrtv\\'\"", "\a\b\f\n\r\t\v\\'\"", strict=True))
_LEADING_ZERO = re.compile(r"0[0-7_]+\Z")


def integer(token: Token) -> int:
    """The value of an integer literal; base by its prefix, a leading 0 means octal."""
    text = token.text
    try:
        # Base 0 refuses 09, which is no octal number, but also 07.
        value = int(text.replace("_", ""), 8 if _LEADING_ZERO.match(text) else 0)
    except ValueError:
        raise Fault(token.span, f"{text} is not an integer") from None
    if value >= 1 << 64:
        raise Fault(token.span, f"{text} does not fit in 64 bits")
    return value


def floating(token: Token) -> float:
    """The value of a floating-point literal."""
    text = token.text.replace("_", "")
    try:
        value = float.fromhex(text) if text[:2] in {"0x", "0X"} else float(text)
    except (ValueError, OverflowError):
        value = math.inf
    if math.isinf(value):
        raise Fault(token.span, f"{token.text} is not a 64-bit floating-point number")
    return value


def string_bytes(token: Token) -> bytes:
    """The bytes of a string literal: escapes of bytes stay bytes, the rest is UTF-8."""
    text = token.text
    if text.startswith("`"):
        return text[1:-1].replace("\r", "").encode()
    body = text[1:-1]
    out = bytearray()
    at = 0
    for match in _ESCAPE.finditer(body):
        out += body[at : match.start()].encode()
        at = match.end()
        simple, octal, byte, short, long, _ = match.groups()
        if simple:
            out += _SIMPLE[simple].encode()
        elif octal or byte:
            value = int(octal, 8) if octal else int(byte, 16)
            if value > 255:
                raise Fault(token.span, f"escape \\{octal} is not a byte")
            out.append(value)
        elif short or long:
            point = int(short or long, 16)
            if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
                raise Fault(token.span, f"U+{point:X} is not a character")
            out += chr(point).encode()
        else:
            raise Fault(token.span, f"unknown escape {match.group()}")
    out += body[at:].encode()
    return bytes(out)


def unquote(token: Token) -> str:
    """The text of a string literal that names something."""
    try:
        return string_bytes(token).decode()
    except UnicodeDecodeError:
        raise Fault(token.span, "not UTF-8") from None


def character(token: Token) -> int:
    """The code point of a character literal."""
    quoted = token._replace(text='"' + token.text[1:-1].replace('"', '\\"') + '"')
    raw = string_bytes(quoted)
    if len(raw) == 1:
        return raw[0]
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = ""
    if len(text) != 1:
        raise Fault(token.span, f"{token.text} is not one character")
    return ord(text)
