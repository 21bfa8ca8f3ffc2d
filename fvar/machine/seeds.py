"""Random seeds that follow from labels, so that a resumed or differently distributed run draws the same numbers."""

from __future__ import annotations

import hashlib


def seed_for(*parts: int | str) -> int:
    """A 63-bit seed from any labels, e.g. `seed_for(seed, step, rank)`; near labels give unrelated seeds."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
