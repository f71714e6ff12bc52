"""Where the user stands, as the supervisor sees it."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol


class Desk(Protocol):
    """Where the user stands."""

    def stopping(self) -> bool:
        """Whether an early end is asked for."""
        ...

    def wish(self) -> int | Literal["auto"] | None:
        """A new number of rollout workers, once; None without a new one."""
        ...

    def tell(self, picture: Mapping[str, Any]) -> None:
        """What the run looks like now."""
        ...

    def fault(self, record: Mapping[str, Any]) -> None:
        """A fault, once it is over."""
        ...

    def say(self, text: str) -> None:
        """A line for the people who watch."""
        ...
