"""The answer in a completion. Every function takes time linear in the text, and finds one answer or none.

Where a text has several, the last one counts: a list of guesses has one chance, not as many as it has entries.
"""

import re
from decimal import Decimal
from fractions import Fraction

MARKER = "####"
"""Stands before the final answer in GSM8K."""
_COMMA = "[,\u00a0\u2009\u202f]"  # between thousands; the others are blanks at which no line breaks
_DIGITS = rf"[0-9]{{1,3}}(?:{_COMMA}[0-9]{{3}})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
_ONE = re.compile(rf"([-+]?)(?:\\?\$ ?)?({_DIGITS})")
_ANY = re.compile(rf"(?:(?<![0-9A-Za-z)\]}}])(-)\\?\$?)?({_DIGITS})(?:/({_DIGITS}))?")  # 10-3 names no negative number
_FRACTION = re.compile(rf"\\[dt]?frac\{{({_DIGITS})\}}\{{({_DIGITS})\}}")
_LONGEST = 100
"""A number with more characters is none: nobody's answer, and slow to compare."""


def tagged(text: str, tag: str = "answer") -> str | None:
    """What stands between the last `<tag>` ... `</tag>`, without blanks around it."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return text[start + len(tag) + 2 : end].strip() if 0 <= start < end else None


def marked_number(text: str) -> Decimal | None:
    """The number behind the last marker; None where the rest of that line is anything but one number."""
    line = _marked_line(text)
    return None if line is None else number(line.removesuffix("."))


def flexible_number(text: str) -> Decimal | Fraction | None:
    """The last number behind the last marker, on its line; where there is none, the last one in the last `\\boxed{}`;
    else the last one of the text. 3/4 is one number."""
    for part in (_marked_line(text), boxed(text), text):
        if part is not None and (found := _last_number(part)) is not None:
            return found
    return None


def number(text: str) -> Decimal | None:
    """A text that is one number in ASCII digits, with or without sign, $ and commas between thousands."""
    bare = text.strip(" ").replace("−", "-")
    found = _ONE.fullmatch(bare) if len(bare) <= _LONGEST else None
    return None if found is None else _decimal(found[1] + found[2])


def _marked_line(text: str) -> str | None:
    """What follows the last marker on its line."""
    start = text.rfind(MARKER)
    return None if start < 0 else text[start + len(MARKER) :].partition("\n")[0].strip(" \t\r")


def _last_number(text: str) -> Decimal | Fraction | None:
    plain = text.replace("−", "-").replace("{,}", ",").replace("\\,", ",")  # as TeX writes thousands
    last = None
    for match in _ANY.finditer(_FRACTION.sub(r"\1/\2", plain)):
        last = match
    if last is None or len(last[0]) > _LONGEST:
        return None
    above = _decimal((last[1] or "") + last[2])
    if last[3] is None:
        return above
    below = _decimal(last[3])
    return Fraction(above) / Fraction(below) if below else None


def _decimal(digits: str) -> Decimal:
    return Decimal(re.sub(_COMMA, "", digits))


def boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{...}`, whose braces match."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for at in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : at]
    return None
