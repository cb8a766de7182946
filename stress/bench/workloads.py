"""The workloads, by the names that db_bench has for them, and what each may cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: What is judged, and against what: ratios to bare rocksdict unless a workload says otherwise.
_POINT, _POINT_GOAL = 1.10, 1.00
_SCAN, _SCAN_GOAL = 1.15, 1.05
_SEEK, _SEEK_GOAL = 1.5, 1.25
_ITERATOR = 3.5
_SNAPSHOT_US, _SNAPSHOT_GOAL_US = 1.2, 1.0
_STACK_US = 1.5
#: Keys of a multi-get, rows of a batch.
KEYS_AT_ONCE = 100
BATCH_ROWS = 1000


class Make(Enum):
    """What is made ready for a round."""

    PRESENT = "keys that are there, in random order"
    ABSENT = "keys that are not, each between two that are"
    NEXT = "keys after the last one, in order"
    FRESH = "keys that are not there, in random order"
    CHUNKS = "lists of 100 keys that are there, in random order"
    BATCHES = "lists of 1,000 keys, in random order"
    WHOLE = "a function that reads rows to the end"


@dataclass(frozen=True)
class Stage:
    """Databases that several workloads are measured on, one for each column.

    Attributes:
        name: What a reader is told of it.
        value_bytes: The length of its values.
        on_disk: Whether the rows are in SST files; in the memtable otherwise.
        variants: Whether saferocks is there with each of its settings, or only as it comes.
        share: The part of the rows that it has.
    """

    name: str
    value_bytes: int = 100
    on_disk: bool = True
    variants: bool = False
    share: float = 1.0


WRITTEN = Stage("100 B", variants=True)
WRITTEN_LARGE = Stage("4 KiB", 4096, share=0.1)
TABLES = Stage("SST", variants=True)
MEMTABLE = Stage("memtable", on_disk=False)
TABLES_LARGE = Stage("SST 4 KiB", 4096, share=0.1)


@dataclass(frozen=True)
class Workload:
    """What is measured on each column that can do it.

    Attributes:
        name: db_bench's name for it, where it has one; what `--only` takes.
        stage: On what.
        operation: What the columns do; see `stress.bench.columns`.
        make: What they get for it.
        budget: The most that the figure may be; None if it is shown and not judged.
        goal: What it should come to.
        unit: The figure's: `x` for the ratio of the judged column to the base, `us` for the difference.
        threads: How many threads share the work.
        judged: The columns that the figure is about; each has a row.
        base: What they are compared with.
        note: What tells it from others of its name.
    """

    name: str
    stage: Stage
    operation: str
    make: Make
    budget: float | None = None
    goal: float | None = None
    unit: str = "x"
    threads: int = 1
    judged: tuple[str, ...] = ("saferocks",)
    base: str = "bare"
    note: str = ""

    def detail(self, judged: str) -> str:
        """Say on what it was measured."""
        threads = f"{self.threads} threads" if self.threads > 1 else ""
        column = judged if judged != self.judged[0] else ""
        return " ".join(filter(None, (self.stage.name, self.note, threads, column)))


def _writing(stage: Stage) -> tuple[Workload, ...]:
    return (
        Workload("fillseq", stage, "writes", Make.NEXT, _POINT),
        Workload("fillrandom", stage, "writes", Make.FRESH, _POINT),
        Workload("overwrite", stage, "writes", Make.PRESENT, _POINT),
        Workload("writebatch", stage, "batches", Make.BATCHES, _POINT),
        Workload("deleterandom", stage, "deletes", Make.PRESENT, _POINT),
    )


def _reading(stage: Stage) -> tuple[Workload, ...]:
    return (
        Workload("readrandom", stage, "reads", Make.PRESENT, _POINT, _POINT_GOAL),
        Workload("readmissing", stage, "reads", Make.ABSENT, _POINT, _POINT_GOAL),
        Workload("in", stage, "tests", Make.PRESENT, _POINT, _POINT_GOAL),
        Workload("multireadrandom", stage, "many", Make.CHUNKS, _POINT, _POINT_GOAL),
    )


def _together(threads: int) -> tuple[Workload, ...]:
    return (
        Workload("readrandom", TABLES, "reads", Make.PRESENT, threads=threads),
        Workload("multireadrandom", TABLES, "many", Make.CHUNKS, threads=threads),
        Workload("readseq", TABLES, "scan", Make.WHOLE, threads=threads),
    )


#: In the order in which they are measured; those of a stage stand together.
WORKLOADS: tuple[Workload, ...] = (
    *_writing(WRITTEN),
    *_reading(TABLES),
    Workload("readseq", TABLES, "scan", Make.WHOLE, _SCAN, _SCAN_GOAL, judged=("saferocks", "leases")),
    Workload("readreverse", TABLES, "scan_back", Make.WHOLE, _SCAN, _SCAN_GOAL),
    Workload("seekrandom", TABLES, "seeks", Make.PRESENT, _SEEK, _SEEK_GOAL, note="items"),
    Workload("seekrandom", TABLES, "cursors", Make.PRESENT, _SEEK, _SEEK_GOAL, note="cursor"),
    Workload("newiterator", TABLES, "iterators", Make.PRESENT, _ITERATOR),
    Workload("snapshot", TABLES, "snapshots", Make.PRESENT, _SNAPSHOT_US, _SNAPSHOT_GOAL_US, "us", note="point reads"),
    Workload("snapshot", TABLES, "states", Make.PRESENT, note="with scans"),
    Workload("trace", TABLES, "deep", Make.PRESENT, _STACK_US, unit="us", judged=("stack",), base="saferocks"),
    *_together(2),
    *_together(8),
    *_reading(MEMTABLE),
    Workload("readseq", MEMTABLE, "scan", Make.WHOLE, _SCAN, _SCAN_GOAL),
    *_writing(WRITTEN_LARGE),
    *_reading(TABLES_LARGE),
    Workload("readseq", TABLES_LARGE, "scan", Make.WHOLE, _SCAN, _SCAN_GOAL),
)
