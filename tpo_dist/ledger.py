"""The ledger: what happened to every block, in one SQLite file that only grows and that others read meanwhile.

Rows are inserted and never changed; the state of the blocks is what follows from them (`History`). Each call of the
stream is one transaction. WAL with synchronous=NORMAL: a process that is killed loses nothing that was written; a
machine that loses power may lose the last transactions, never a part of one, and none up to the last start of a driver
or return to a checkpoint. What is lost is learnt from the checkpoint that the run goes on from.
"""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple, Self

from tpo_dist.blocks import Event, Settled
from tpo_dist.errors import RunFailed, UsageError
from tpo_dist.history import History

_APPLICATION = 0x74706F64  # marks the file as ours, in SQLite's own header field for that
_FORMAT = 1
_DURABLE = ("session", "rolled_back")  # kinds that, with all before them, are on disk before `write` returns
_PATIENCE_SECONDS = 30.0  # for another process that writes or recovers
_COLUMNS = "seq INTEGER PRIMARY KEY, at REAL, kind TEXT, block INT, step INT, version INT, worker TEXT, detail TEXT"
_INSERT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT seq, at, kind, block, step, version, worker, detail FROM events"
_RESTORE = "take it, or the whole run, from a copy, or start the job again"


class Row(NamedTuple):
    """One row: an event, and when it was written."""

    seq: int
    """From 1, without gaps."""
    at: float
    """Seconds since 1970."""
    event: Event


class Ledger:
    """One run's ledger, open; a context that closes it. It is a `Journal`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `open` or `read`."""
        self.path, self._connection = path, connection
        self._rows = 0

    @classmethod
    def open(cls, path: Path) -> Self:
        """For writing; it is made where there is none. Raises UsageError where it is damaged, or no ledger."""
        with reading(path):
            # Its one user may make it in one thread and use it in another, as Ray does with actors.
            connection = sqlite3.connect(path, timeout=_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False)
            ledger = cls(path, connection)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("BEGIN IMMEDIATE")
                if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                    connection.execute(f"PRAGMA user_version = {_FORMAT}")
                    connection.execute(f"CREATE TABLE events ({_COLUMNS})")
                connection.execute("COMMIT")
                ledger._refuse_others()
                ledger._rows = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
            except BaseException:
                connection.close()
                raise
            return ledger

    @classmethod
    def read(cls, path: Path) -> Self:
        """For reading, also while another process writes. Raises UsageError where there is none, or it is damaged."""
        if not path.is_file():
            raise UsageError(
                str(path),
                "there is no ledger",
                "a run has one once its processes stand; wait for it, or name another run",
            )
        with reading(path):
            connection = _connect_to_read(path)
            ledger = cls(path, connection)
            try:
                ledger._refuse_others()
            except BaseException:
                connection.close()
                raise
            return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is lost without it."""
        self._connection.close()

    def write(self, events: Sequence[Event]) -> None:
        """Append them in one transaction. Raises RunFailed where the disk does not take them, the file was removed, or
        another process has written since this one opened it: that of a driver that was killed may outlive it for a
        moment."""
        if not self.path.exists():  # what is written would go with this process
            raise RunFailed(f"{self.path} was removed, and with it the account of every prompt; go on with --resume")
        now, connection = time.time(), self._connection
        rows = [(seq, now, *event) for seq, event in enumerate(events, start=self._rows + 1)]
        try:
            durable = any(event.kind in _DURABLE for event in events)
            if durable:
                connection.execute("PRAGMA synchronous = FULL")
            if len(rows) == 1:
                connection.execute(_INSERT, rows[0])  # a transaction of its own
            else:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_INSERT, rows)
                connection.execute("COMMIT")
            if durable:
                connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            taken = isinstance(error, sqlite3.IntegrityError)
            why = "another process has written to it meanwhile" if taken else error
            raise RunFailed(f"{self.path} cannot be written ({why})") from error
        self._rows += len(rows)

    def rows(self, where: str = "1", values: Sequence[Any] = ()) -> Iterator[Row]:
        """Every row, or those that a condition in SQL names, oldest first: one moment of the ledger.

        Raises UsageError where the file turns out to be damaged.
        """
        with reading(self.path):
            for seq, at, *event in self._connection.execute(f"{_SELECT} WHERE {where} ORDER BY seq", values):
                yield Row(seq, at, Event(*event))

    def begin_session(self, config: Mapping[str, Any], first_step: int) -> None:
        """A driver starts here, or goes on. Raises UsageError where its blocks have another size than those so far."""
        size, before = config["rollout"]["block_size"], self._last_block_size()
        if before not in (None, size):
            reason = f"this run has {before}, and its ledger counts blocks of that size"
            raise UsageError(f"rollout.block_size = {size}", reason, "leave it out, or start a new run with it")
        detail = json.dumps({"first_step": first_step, "config": config})
        self.write([Event("session", step=first_step, detail=detail)])

    def block_size(self) -> int:
        """Draws of a block. Raises UsageError where no session has begun."""
        size = self._last_block_size()
        if size is None:
            raise UsageError(str(self.path), "says nothing of a run yet", "wait until the run has started")
        return size

    def history(self) -> History:
        """The state of every block. Raises UsageError where the file is damaged, or its rows contradict each other."""
        history = History()
        for _ in self.replay(history):
            pass
        return history

    def replay(self, history: History) -> Iterator[Row]:
        """Every row, applied to the history once the next is asked for. Raises UsageError as `history` does."""
        for number, row in enumerate(self.rows(), start=1):
            yield row
            problem = contradiction(history, row, number)
            if problem is not None:
                raise UsageError(str(self.path), problem, _RESTORE)

    def resume(self, step: int, settled: Settled) -> None:
        """The run goes on from a checkpoint at `step` that knows these blocks as settled; all others are queued.

        Raises UsageError where a block was trained before that step and the checkpoint does not have it.
        """
        history, beyond = History(), set(settled.beyond)
        unknown: dict[int, int] = {}  # blocks that were trained, and the checkpoint lacks, with their step
        for _, _, event in self.replay(history):
            if event.kind == "trained" and event.step is not None:
                trained = (block for block in history.taken.get(event.step, ()) if block >= settled.below)
                unknown.update({block: event.step for block in trained if block not in beyond})
            elif event.block is not None:
                unknown.pop(event.block, None)
        for block, at in unknown.items():
            if at < step:
                raise UsageError(
                    str(self.path),
                    f"says that step {at} trained block {block}, which the checkpoint at step {step} does not have",
                    "keep ledger.db and the checkpoints of one run together, from the same copy",
                )
        self.write(history.going_back(step, settled, keep_blocks=False))

    def _last_block_size(self) -> int | None:
        with reading(self.path):
            sizes = [json.loads(row.event.detail or "")["config"]["rollout"] for row in self.rows("kind = 'session'")]
        return int(sizes[-1]["block_size"]) if sizes else None

    def check(self) -> None:
        """Read the whole file. Raises UsageError where it is damaged."""
        with reading(self.path):
            (found,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise UsageError(str(self.path), f"is damaged ({' '.join(str(found).split())})", _RESTORE)

    def _refuse_others(self) -> None:
        application = self._connection.execute("PRAGMA application_id").fetchone()[0]
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if application != _APPLICATION:
            raise UsageError(str(self.path), "is no ledger of this program", _RESTORE)
        if version != _FORMAT:
            reason = f"is of format {version}, and this program reads {_FORMAT}"
            raise UsageError(str(self.path), reason, "use the version of this program that made it")
        self._connection.execute(f"{_SELECT} LIMIT 1").fetchone()


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Where the folder cannot be written and nobody writes the ledger, as in an archive, SQLite would have to put its
    log in order there first: then a copy is read, in memory."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE_SECONDS)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        return connection
    except sqlite3.OperationalError:
        connection.close()
        if os.access(path.parent, os.W_OK):
            raise
    memory = sqlite3.connect(":memory:")
    with TemporaryDirectory(prefix="tpo-ledger-") as folder:
        try:
            for file in (path, path.with_name(f"{path.name}-wal")):
                if file.exists():
                    shutil.copyfile(file, Path(folder, file.name))
        except OSError as error:
            raise UsageError(str(path), f"cannot be read ({error.strerror})", "see its permissions") from None
        with closing(sqlite3.connect(Path(folder, path.name))) as copy:
            copy.backup(memory)
    return memory


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Inside, what turns out to be damaged in the ledger there is a UsageError: its pages, or the text of its rows."""
    try:
        yield
    except (sqlite3.Error, json.JSONDecodeError) as error:
        raise UsageError(str(path), f"is damaged, or no ledger ({error})", _RESTORE) from error


def contradiction(history: History, row: Row, number: int) -> str | None:
    """Apply the row of that number; why it cannot be, if it cannot."""
    try:
        if row.seq != number:
            return f"lacks row {number}"
        history.apply(row.event)
    except (ValueError, TypeError) as error:
        return f"contradicts itself in row {row.seq} ({error})"
    return None
