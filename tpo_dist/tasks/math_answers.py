"""Whether an answer is the same mathematics as another, by math-verify."""

import logging

from tpo_dist.tasks.extraction import MARKER
from tpo_dist.tasks.text import require

_LONGEST = 300
"""Characters behind the last marker, or else at the end of a completion, in which the answer is looked for: what comes
before is how it came to be."""


def same_mathematics(right: str, completion: str) -> bool:
    """Whether math-verify takes the answer at the end of a completion for the right one.

    It may take for ever, on purpose of whoever wrote the completion: call it where it may be killed. Raises UsageError
    where math-verify is not installed.
    """
    library = require("math_verify", "math-verify")
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it warns of time limits being off for every answer
    _, marker, rest = completion.rpartition(MARKER)
    tail = rest[:_LONGEST] if marker else rest[-_LONGEST:]
    found = library.parse(tail.replace("−", "-"), parsing_timeout=None)
    return bool(library.verify(library.parse(f"${right}$", parsing_timeout=None), found, timeout_seconds=None))
