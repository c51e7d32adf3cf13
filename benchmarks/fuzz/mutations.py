"""Ways in which a file is damaged, or changed by somebody who means harm."""

import random
from collections.abc import Callable

NUMBERS = (0, 1, 127, 128, 255, 32_767, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 10**9, 10**12, 2**63 - 1, 2**64 - 1)
WORDS = (b"nan", b"inf", b"-inf", b"-1", b"1e999", b"0", b"null", b"true", b'"x"', b"[]", b"{}", b"''", b"9" * 5000)
WORDS += (b"[" * 3000, b"{a=" * 3000, b'{"a":' * 3000, b"\xff\xfe", b"\x00", b"10000000000", b"../..", b"\n\n")


def mutated(raw: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """The bytes of a file with one to three changes; `others` are files from which pieces are taken."""
    changed = bytearray(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        chance.choice(_WAYS)(changed, others, chance)
    return bytes(changed)


def _flip(raw: bytearray, others: list[bytes], chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 8))):
        if raw:
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)


def _set(raw: bytearray, others: list[bytes], chance: random.Random) -> None:
    if raw:
        raw[chance.randrange(len(raw))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def _cut(raw: bytearray, others: list[bytes], chance: random.Random) -> None:
    del raw[chance.choice((0, chance.randrange(len(raw) + 1), max(0, len(raw) - chance.randrange(1, 20)))) :]


def _delete(raw: bytearray, others: list[bytes], chance: random.Random) -> None:
    start = chance.randrange(len(raw) + 1)
    del raw[start : start + _length(chance)]


def _insert(raw: bytearray, others: list[bytes], chance: random.Random) -> None:
    start = chance.randrange(len(raw) + 1)
    raw[start:start] = chance.randbytes(_length(chance))


def _repeat(raw: bytearray, others: list[bytes], chance: random.Random) -> None:
    start, end = (chance.randrange(len(raw) + 1) for _ in range(2))
    raw[start:start] = raw[end : end + _length(chance)] * chance.choice((1, 1, 2, 50))


def _splice(raw: bytearray, others: list[bytes], chance: random.Random) -> None:
    other, start = chance.choice(others), chance.randrange(len(raw) + 1)
    begin = chance.randrange(len(other) + 1)
    length = min(chance.choice((_length(chance), len(other))), len(other) // 2)  # a whole file would be a right one
    raw[start : start + length] = other[begin : begin + length]


def _number(raw: bytearray, others: list[bytes], chance: random.Random) -> None:
    """Overwrite a number, most often one of the header."""
    size, order = chance.choice((1, 2, 4, 8)), chance.choice(("little", "big"))
    value = chance.choice(NUMBERS) % 256**size
    start = chance.randrange(min(len(raw), chance.choice((16, 256, 10**9))) + 1)
    raw[start : start + size] = value.to_bytes(size, order)  # pyright: ignore[reportArgumentType]


def _word(raw: bytearray, others: list[bytes], chance: random.Random) -> None:
    """In a text: another word in place of one, most often of a number."""
    places = [at for at in range(len(raw)) if raw[at] in b"0123456789"] or [0]
    start = chance.choice((chance.choice(places), chance.randrange(len(raw) + 1)))
    end = start
    while end < len(raw) and raw[end] in b"0123456789.eE+-_abcdefghijklmnopqrstuvwxyz" and end - start < 30:
        end += 1
    raw[start:end] = chance.choice(WORDS)


def _line(raw: bytearray, others: list[bytes], chance: random.Random) -> None:
    """In a text: a line less, or twice, or at another place."""
    lines = bytes(raw).split(b"\n")
    taken = lines.pop(chance.randrange(len(lines)))
    for _ in range(chance.randrange(3)):
        lines.insert(chance.randrange(len(lines) + 1), taken)
    raw[:] = b"\n".join(lines)


def _length(chance: random.Random) -> int:
    return chance.choice((1, 1, 2, 4, 8, 16, 64, chance.randrange(1, 1000)))


_WAYS: tuple[Callable[[bytearray, list[bytes], random.Random], None], ...] = (
    _flip,
    _flip,
    _set,
    _cut,
    _delete,
    _insert,
    _repeat,
    _splice,
    _number,
    _number,
    _word,
    _word,
    _line,
)
