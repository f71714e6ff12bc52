"""The answer in a completion. Every function takes time linear in the text, and finds one answer or none.

Where a text has several, the last one counts: a list of guesses has one chance, not as many as it has entries.
"""

import re
from decimal import Decimal

MARKER = "####"
"""Stands before the final answer in GSM8K."""
_NUMBER = re.compile(r"-?[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|-?[0-9]+(?:\.[0-9]+)?|-?\.[0-9]+")
_DOLLAR = re.compile(r"^(-?)\$ ?")
_DIGITS = 100
"""A number with more characters is none: nobody's answer, and slow to compare."""


def tagged(text: str, tag: str = "answer") -> str | None:
    """What stands between the last `<tag>` ... `</tag>`, without blanks around it."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return text[start + len(tag) + 2 : end].strip() if 0 <= start < end else None


def marked_number(text: str) -> Decimal | None:
    """The number behind the last marker; None where the rest of that line is anything but one number."""
    start = text.rfind(MARKER)
    if start < 0:
        return None
    line = text[start + len(MARKER) :].partition("\n")[0]
    return number(line.strip(" \t\r").removesuffix("."))


def flexible_number(text: str) -> Decimal | None:
    """The marked number; else that in the last `\\boxed{}`; else the last number of the text."""
    found = marked_number(text)
    if found is not None:
        return found
    inside = boxed(text)
    if inside is not None and (found := number(inside)) is not None:
        return found
    last = None
    for match in _NUMBER.finditer(text):
        last = match.group()
    return None if last is None else number(last)


def number(text: str) -> Decimal | None:
    """A text that is one number in ASCII digits, with or without $ and commas between thousands."""
    bare = _DOLLAR.sub(r"\1", text.strip(" "))
    if len(bare) > _DIGITS or not _NUMBER.fullmatch(bare):
        return None
    return Decimal(bare.replace(",", ""))


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
