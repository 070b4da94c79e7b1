"""What differs in memory where a goroutine goes on, as losses."""

from __future__ import annotations

from typing import Final

from runtime_model.events import Loss

MAX_MEMORY_LOSSES: Final = 8


def memory_losses(address: int, before: bytes, after: bytes) -> list[Loss]:
    """Eight-byte words that differ, as losses of MEMORY; at most MAX_MEMORY_LOSSES."""
    if before == after:
        return []
    losses = []
    for i in range(0, len(before), 8):
        old, new = before[i : i + 8], after[i : i + 8]
        if old != new:
            losses.append(
                Loss(
                    register="MEMORY",
                    address=address + i,
                    before=int.from_bytes(old, "little"),
                    after=int.from_bytes(new, "little"),
                )
            )
            if len(losses) == MAX_MEMORY_LOSSES:
                break
    return losses
