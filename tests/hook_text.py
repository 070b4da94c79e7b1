"""Whether the text of a piece of machine code has the words that its comments name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enum import IntEnum


def assert_words(text: str, words: type[IntEnum]) -> list[tuple[str, str]]:
    """Each line whose comment is a word's name has eight times its index as displacement.

    The lines with other comments: (comment, instruction).
    """
    others = []
    for line in text.splitlines():
        instruction, _, comment = line.partition(";")
        name = comment.strip()
        if name in words.__members__:
            number = words[name] * 8
            assert f" + {number}]" in instruction or (number == 0 and "+" not in instruction), line
        elif name:
            others.append((name, instruction))
    return others
