"""Strings as somebody who means harm would choose them, and what must not be left of them in each kind of output.

A job's name, account, partition, comment, a user's name, a node's name in a forged shard: whoever chooses one of them
chooses it from here. Everything that would happen if a string were obeyed has the word `owned` in it.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from html.parser import HTMLParser

NAMES: dict[str, str] = {
    "plain": "relax-7.in",
    "empty": "",
    "space": " ",
    "title": "\x1b]0;owned\x07",
    "colours": "\x1b[31m\x1b[5mowned\x1b[0m",
    "cursor": "\x1b[2J\x1b[1;1Howned\x1b[K",
    "clipboard": "\x1b]52;c;b3duZWQ=\x07",
    "link": "\x1b]8;;https://owned.invalid\x1b\\click\x1b]8;;\x1b\\",
    "answerback": "\x1b[c\x1b[6n\x05",
    "c1": "\x9b31mowned\x9d0;owned\x9c",
    "backspaces": "innocent\x08\x08\x08\x08\x08\x08\x08\x08owned",
    "nul": "owned\x00after",
    "del": "owned\x7f\x7f",
    "newline": "first\nowned: 0.0 kWh",
    "return": "first\rowned",
    "crlf": "first\r\nX-Owned: yes",
    "line separators": "a\u2028owned\u2029b\x85c\x0bd\x0ce",
    "right to left": "txt.\u202egpj.owned\u202c",
    "isolates": "\u2066owned\u2069 \u2067\u061c\u200f\u200e",
    "zero width": "o\u200bw\u200cn\u200de\u2060d\ufeff",
    "tags": "owned\U000e0041\U000e007f",
    "combining": "o" + "\u0301\u20dd" * 60 + "wned",
    "wide": "日本語のジョブ名 owned ｆｕｌｌ",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 owned",
    "surrogate": "owned\ud800",
    "private use": "owned\ue000\U0010fffd",
    "noncharacter": "owned\ufffe\uffff",
    "script": "<script>owned()</script>",
    "image": "<img src=x onerror=owned()>",
    "svg": "<svg/onload=owned()>",
    "attribute": '" onmouseover="owned()" x=\'',
    "single quote": "' onfocus='owned()' autofocus='",
    "close script": "</script><script>owned()</script>",
    "close style": "</style></title></textarea><iframe src=//owned.invalid>",
    "comment": "--><owned-tag><!--",
    "cdata": "]]><owned-tag>",
    "javascript url": "javascript:owned()",
    "entity": "&lt;owned&gt; &#60;script&#62; &amp;",
    "template": "{{ owned() }}{% include 'owned' %}${owned()}",
    "markdown": "[owned](javascript:owned()) |owned| `owned`",
    "formula": '=HYPERLINK("https://owned.invalid","owned")',
    "command": "=cmd|'/c owned'!A1",
    "plus": "+owned()",
    "minus": "-2+3+owned()",
    "at": "@SUM(owned())",
    "spaced formula": "  =owned()",
    "tab formula": "\t=owned()",
    "quoted formula": '"=owned()"',
    "wide formula": "＝owned()",
    "csv": 'a,"owned",=owned()\r\nb',
    "json": '","owned":"\\u0000',
    "label": 'a"} 1e99\nowned{x="',
    "backslash": "owned\\",
    "backslash n": 'owned\\n\\"',
    "sql": "'; DROP TABLE owned; --",
    "format": "%s%n%(owned)s {0.__class__}",
    "shell": "$(touch owned)`touch owned`;touch owned|touch owned&",
    "path": "../../../../tmp/owned",
    "absolute": "/tmp/owned",
    "dot": ".",
    "double dot": "..",
    "option": "--output=owned",
    "rich markup": "[bold red]owned[/] [link=https://owned.invalid]x[/link]",
    "sacct fields": "owned|0:0|COMPLETED|1970-01-01T00:00:00|",
    "number": "0x1p-3",
    "null word": "null",
    "four kibibytes": "owned " + "A" * 4090,
    "four kibibytes of escapes": "\x1b[31m" * 819 + "\x1b",
    "four kibibytes of combining": "o" + "\u0301" * 2048,
}
"""What the string would do -> the string. Not all of them can be UTF-8 (`storable`)."""

HARMLESS = "harmless"
"""What to compare with: the same report with this in every place of a hostile string has the same structure."""

_OBEYED = frozenset(("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"))
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
_SAMPLE = re.compile(
    r"[a-zA-Z_:][a-zA-Z0-9_:]*"
    r"(?:\{(?:[a-zA-Z_][a-zA-Z0-9_]*=\"(?:[^\"\\\n]|\\[\\\"n])*\"(?:,|(?=\})))*\})?"
    r" (?:[-+]?(?:[0-9.]+(?:e[-+]?[0-9]+)?|Inf)|NaN)(?: -?[0-9]+)?"
)
_PROMETHEUS_COMMENT = re.compile(r"# (?:HELP [a-zA-Z_:][a-zA-Z0-9_:]* .*|TYPE [a-zA-Z_:][a-zA-Z0-9_:]* [a-z]+|EOF)")


def storable() -> dict[str, str]:
    """The strings that can be in a file of UTF-8: all but lone surrogates."""
    return {what: name for what, name in NAMES.items() if not re.search("[\ud800-\udfff]", name)}


def obeyed(output: str) -> list[str]:
    """The characters of an output that a terminal or an eye would obey: none may be left but line ends."""
    return sorted({c for c in output if c not in "\n" and unicodedata.category(c) in _OBEYED})


def formulas(text: str) -> list[str]:
    """The cells of a CSV text that a spreadsheet would calculate: none may be left but numbers."""
    cells = [cell for line in csv.reader(io.StringIO(text, newline="")) for cell in line]
    return [cell for cell in cells if cell.lstrip().startswith(_FORMULA) and not _is_number(cell)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def structure(html: str) -> list[tuple[str, tuple[str, ...]]]:
    """The elements of a page in order, each with the names of its attributes: no string may change it."""
    reader = _Structure()
    reader.feed(html)
    reader.close()
    return reader.elements


class _Structure(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        for name, value in attrs:
            if name in ("href", "src", "action", "formaction") and value:
                assert not value.strip().lower().startswith(("javascript:", "data:text", "vbscript:")), value[:80]

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", ()))

    def handle_comment(self, data: str) -> None:
        self.elements.append(("!--", ()))


def exposition_faults(text: str) -> list[str]:
    """The lines of a Prometheus exposition that are neither a sample, a comment nor empty."""
    return [
        line
        for line in text.split("\n")
        if line and not _SAMPLE.fullmatch(line) and not _PROMETHEUS_COMMENT.fullmatch(line)
    ]
