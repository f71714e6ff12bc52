"""What ends a command with one line instead of a traceback: a user's mistake, or something that broke on the way."""


class UsageError(ValueError):
    """Something the user gave cannot work. The command line prints it as one line, without a traceback."""

    def __init__(self, where: str, reason: str, fix: str) -> None:
        """`where`: the key and its value, or the file. `reason`: why it cannot work. `fix`: what to do instead."""
        super().__init__(f"{where}: {reason}. Fix: {fix}{'' if fix.endswith('?') else '.'}")
        self.where, self.reason, self.fix = where, reason, fix

    def __reduce__(self) -> tuple[type["UsageError"], tuple[str, str, str]]:
        return type(self), (self.where, self.reason, self.fix)  # keeps its three parts across processes


class Stopped(Exception):
    """The user asked for the end before anything was trained."""


class RunFailed(RuntimeError):
    """A part of what was running died, failed or fell silent; the message says which and why."""
