"""Makes damaged inputs from good ones, from a seed. Knows no format."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests import hostile

MAX_BYTES = 1 << 16
_NUMBERS = (0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 10**18, 2**63 - 1, 2**63, 2**64, 10**40, -(10**18))
_WORDS = ("", " ", "\n", "\r\n", "\0", "nan", "NaN", "inf", "-inf", "1e400", "null", "true", "1_0", "٣", "１", "0x10")
TOKENS: tuple[bytes, ...] = (
    *(str(number).encode() for number in _NUMBERS),
    *(word.encode() for word in _WORDS),
    *(name.encode("utf-8", "surrogatepass") for name in hostile.NAMES.values() if len(name) < 200),
    b"\xff\xfe",
    b"\xc3(",
    b"9" * 5000,
    b"[" * 2000,
    b"A" * 4096,
)
"""What has broken programs before: numbers at the edges of their types, words that are numbers, strings of users."""


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with up to eight things done to it; now and then random bytes, or the seed as it is."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(300))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
        _damage(rng, data, seeds)
    return bytes(data[:MAX_BYTES])


def _damage(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 32, 200)))
    match rng.randrange(9):
        case 0 if data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        case 1 if data:
            data[at % len(data)] = rng.randrange(256)
        case 2:
            del data[at:end]
        case 3:
            del data[at:]
        case 4:
            data[at:at] = data[at:end] * rng.choice((1, 2, 50))
        case 5:
            data[at:at] = rng.choice(TOKENS)
        case 6:
            data[at:end] = rng.choice(TOKENS)
        case 7:
            _replace_number(rng, data, at)
        case _:
            other = rng.choice(seeds)
            begin = rng.randrange(len(other) + 1)
            data[at:end] = other[begin : begin + rng.choice((4, 16, 64, 500))]


def _replace_number(rng: random.Random, data: bytearray, at: int) -> None:
    """Put another number in the place of the next one."""
    begin = next((place for place in range(at, len(data)) if 48 <= data[place] <= 57), None)
    if begin is None:
        return
    end = begin
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    data[begin:end] = str(rng.choice(_NUMBERS)).encode()
