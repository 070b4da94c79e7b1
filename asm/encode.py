"""One instruction to bytes: our own encoders first, Keystone for the rest, Capstone as judge."""

from __future__ import annotations

from asm import direct, keystone_fence, verify
from asm.intel import Insn, render
from asm.machine import CannotEncodeError, Encoded

_cache: dict[Insn, Encoded] = {}
_verified: set[tuple[Insn, bytes]] = set()
_CACHE_LIMIT = 100_000


def encode(insn: Insn, proposed: Encoded | None = None) -> Encoded:
    """The machine code of one instruction, compared with what was asked.

    `proposed` is an encoding that the choice of a form has made already: two of those may read
    the same to Intel, who leaves out what Go says.

    Raises:
        CannotEncodeError: it has none that we know.
        verify.MismatchError: an encoder erred; nothing is returned then.
    """
    if proposed is not None:
        key = (insn, proposed.data)
        if key not in _verified:
            verify.check(insn, proposed.data)
            if len(_verified) >= _CACHE_LIMIT:
                _verified.clear()
            _verified.add(key)
        return proposed
    encoded = _cache.get(insn)
    if encoded is None:
        encoded = direct.encode(insn) or keystone_fence.encode(insn)
        if encoded is None:
            raise CannotEncodeError(f"no encoding of {render(insn)}")
        verify.check(insn, encoded.data)
        if len(_cache) >= _CACHE_LIMIT:
            _cache.clear()
        _cache[insn] = encoded
    return encoded
