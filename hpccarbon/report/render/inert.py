"""Makes strings that somebody else chose harmless where they are printed. Knows nothing about what they mean."""

from __future__ import annotations

import unicodedata

# What a terminal or a reader's eye would obey instead of showing: control characters (Cc), direction marks and
# zero-width characters (Cf), line and paragraph separators (Zl, Zp), lone surrogates (Cs), private use (Co) and
# what no font knows yet (Cn).
_OBEYED = frozenset(("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"))
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")  # the wide ones count in some locales


def inert(text: str, width: int = 0) -> str:
    """The text with every character that is obeyed rather than shown written as an escape, cut to `width` columns.

    Args:
        text: anything; 4 KiB of control sequences too.
        width: columns at most (wide characters count two); 0 does not cut. What is cut ends in `…`.
    """
    if text.isascii() and text.isprintable():
        return text if not width or len(text) <= width else text[: max(width - 1, 0)] + "…"
    # A character is at least one column or an escape of four: what lies further on cannot be seen anyway.
    shown = "".join(map(_shown, text[: width + 1] if width else text))
    return shown if not width else cut(shown, width)


def _shown(character: str) -> str:
    if unicodedata.category(character) in _OBEYED:
        code = ord(character)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def columns(text: str) -> int:
    """How many terminal columns a harmless text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) == "Me":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """The text, or as much of its beginning as fits `width` columns with a `…` after it."""
    if columns(text) <= width:
        return text
    taken, room = [], width - 1
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        taken.append(character)
    return "".join(taken) + "…"


def cell(text: str) -> str:
    """A string for a spreadsheet: harmless, and never a formula (a quote goes before what would begin one)."""
    shown = inert(text)
    return "'" + shown if text.lstrip().startswith(_FORMULA) or shown.startswith(_FORMULA) else shown
