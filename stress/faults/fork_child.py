"""What a child does with what it has inherited: each use has to be refused, and it ends with a status of its own."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn

import saferocks

if TYPE_CHECKING:
    from collections.abc import Callable

_OPENER = "fork_parent.py:"

#: Uses of each handle that a parent holds, by its name in `Parent.held`.
USES: dict[str, tuple[Callable[[Any], Any], ...]] = {
    "db": (
        lambda db: db[b"w0-000000"],
        lambda db: db.put(b"child", b"1"),
        lambda db: db.delete(b"w0-000000"),
        lambda db: db.flush(),
        lambda db: db.compact_range(None, None),
        lambda db: db.items(),
        lambda db: db.snapshot(),
        lambda db: db.write_batch(),
        lambda db: db.get([b"w0-000000"] * 10),
        lambda db: db.drop_column_family("f"),
    ),
    "family": (lambda family: family.put(b"child", b"1"), lambda family: family.get(b"a")),
    "items": (next, list),
    "chain": (next, list),
    "snap": (lambda snap: snap[b"w0-000000"], lambda snap: snap.items()),
    "seen": (next,),
    "cursor": (lambda cursor: cursor.next(), lambda cursor: cursor.key(), lambda cursor: cursor.seek(b"a")),
    "batch": (lambda batch: batch.put(b"child", b"1"), lambda batch: batch.len()),
    "bulk": (lambda bulk: bulk.flush(), lambda bulk: bulk.put(b"child", b"1")),
    "sst": (lambda sst: sst.finish(), lambda sst: sst.file_size()),
    "checkpoint": (lambda checkpoint: checkpoint.create("copy"),),
}


class Worker:
    """What the workers of a pool inherit, which a task cannot be given."""

    held: dict[str, Any]
    directory: str

    def __init__(self) -> None:
        self.held = {}
        self.directory = ""


worker = Worker()


def use(held: dict[str, Any], random: Random) -> list[str]:
    """Use some handles in some ways; return what was wrong."""
    wrong = []
    for name in random.sample(sorted(held), min(4, len(held))):
        number = random.randrange(len(USES[name]))
        try:
            found = USES[name][number](held[name])
        except saferocks.ForkedHandleError as error:
            if _OPENER not in str(error):
                wrong.append(f"the error for use {number} of {name} does not tell the opening line: {error}")
        except BaseException as error:  # noqa: BLE001 - told
            wrong.append(f"use {number} of {name} raised {error!r} in a child")
        else:
            wrong.append(f"use {number} of {name} gave {found!r:.60} in a child")
    return wrong


def open_one(directory: str) -> list[str]:
    """Open a database, which must be refused, and leave no trace."""
    path = os.path.join(directory, f"refused-{os.getpid()}")
    try:
        saferocks.open(path).__enter__()
    except saferocks.ForkedProcessError:
        return ["a refused opening made its directory"] if os.path.exists(path) else []
    return ["a child whose parent had opened a database opened one"]


def leave(held: dict[str, Any], random: Random) -> list[str]:
    """Leave the `with` of some handles, the database last, with and without an exception."""
    wrong = []
    error = random.choice((None, LookupError("in a child")))
    names = [name for name in held if hasattr(held[name], "__exit__")]
    for name in sorted(names, key=lambda name: (name == "db", random.random())):
        try:
            held[name].__exit__(None if error is None else type(error), error, None)
        except BaseException as failure:  # noqa: BLE001 - told
            wrong.append(f"leaving {name} in a child raised {failure!r}")
    return wrong


def act(held: dict[str, Any], directory: str, random: Random) -> list[str]:
    """Do something at random with what was inherited; return what was wrong."""
    wrong = []
    for what in random.sample(("use", "open", "leave", "drop"), random.randrange(1, 5)):
        if what == "use":
            wrong += use(held, random)
        elif what == "open":
            wrong += open_one(directory)
        elif what == "leave":
            wrong += leave(held, random)
        else:
            held.clear()
            gc.collect()
    return wrong


@dataclass
class Child:
    """A child to be, made before the fork so that its parent knows the status.

    Attributes:
        held: The parent's handles by name.
        directory: Where it says what was wrong.
        seed: Of what it does.
        status: With which it ends.
    """

    held: dict[str, Any] = field(repr=False)
    directory: str
    seed: int
    status: int = 0

    def __post_init__(self) -> None:
        self.status = self.seed % 100

    def run(self) -> NoReturn:
        """Do something, and end: at once, or as the interpreter does at the end of a program."""
        random = Random(self.seed)
        try:
            self._say(act(self.held, self.directory, random))
            if random.random() < 0.5:
                ctypes.pythonapi.Py_Exit(self.status)
            os._exit(self.status)
        finally:
            os._exit(250)

    def run_grandchild(self) -> NoReturn:
        """Let a child of this one run, and end with its status."""
        try:
            pid = os.fork()
            if not pid:
                self.run()
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        finally:
            os._exit(251)

    def run_function(self) -> None:
        """Do something, and end as a process of multiprocessing."""
        self._say(act(self.held, self.directory, Random(self.seed)))
        sys.exit(self.status)

    def _say(self, wrong: list[str]) -> None:
        if wrong:
            with open(os.path.join(self.directory, f"child-{os.getpid()}.txt"), "a") as file:
                file.writelines(f"{line}\n" for line in wrong)


def refused_task(seed: int) -> list[str]:
    """Do something in a worker of a pool."""
    return act(dict(worker.held), worker.directory, Random(seed))


def own_database(path: str, status: int) -> None:
    """Use a database of one's own, in a process whose parent has left none in it, and end."""
    with saferocks.open(path) as db:
        for number in range(100):
            db[b"%03d" % number] = b"v"
        with db.write_batch() as batch:
            batch[b"last"] = b"v"
        db.flush()
        with db.snapshot() as snap, snap.keys() as keys:
            rows = len(list(keys))
    os._exit(status if rows == 101 else 252)
