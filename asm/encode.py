"""One instruction to bytes: our own encoders first, Keystone for the rest, Capstone as judge."""

from __future__ import annotations

from asm import direct, keystone_fence, verify, vex
from asm.intel import Insn, render
from asm.machine import CannotEncodeError, Encoded

_cache: dict[Insn, Encoded] = {}
_CACHE_LIMIT = 100_000


def encode(insn: Insn) -> Encoded:
    """The machine code of one instruction, compared with what was asked.

    Raises:
        CannotEncodeError: it has none that we know.
        verify.MismatchError: an encoder erred; nothing is returned then.
    """
    encoded = _cache.get(insn)
    if encoded is None:
        encoded = vex.encode(insn) or direct.encode(insn) or keystone_fence.encode(insn)
        if encoded is None:
            raise CannotEncodeError(f"no encoding of {render(insn)}")
        verify.check(insn, encoded.data)
        if len(_cache) >= _CACHE_LIMIT:
            _cache.clear()
        _cache[insn] = encoded
    return encoded
