"""The one exception for a user's mistake: it names the key, the value, the reason and the fix, in one line."""


class UsageError(ValueError):
    """Something the user gave cannot work. The command line prints it as one line, without a traceback."""

    def __init__(self, where: str, reason: str, fix: str) -> None:
        """`where`: the key and its value, or the file. `reason`: why it cannot work. `fix`: what to do instead."""
        super().__init__(f"{where}: {reason}. Fix: {fix}.")
        self.where, self.reason, self.fix = where, reason, fix

    def __reduce__(self) -> tuple[type["UsageError"], tuple[str, str, str]]:
        return type(self), (self.where, self.reason, self.fix)  # keeps its three parts across processes
