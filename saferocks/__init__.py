"""saferocks: RocksDB for Python that nothing escapes from.

A context-manager-only layer over rocksdict. Every iterator, snapshot and batch is scoped,
tracked, and released; what escapes is named by the line that opened it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saferocks import (
        debug as debug,
        errors as errors,
        events as events,
        inspection as inspection,
        testing as testing,
    )
    from saferocks._api import *

__version__ = "0.1.0"

_MODULES = ("debug", "errors", "events", "inspection", "testing")

__all__ = [
    "AbortedError",
    "AccessType",
    "AuditReport",
    "BlockBasedIndexType",
    "BlockBasedOptions",
    "BottommostLevelCompaction",
    "BulkWriter",
    "BusyError",
    "Cache",
    "Checkpoint",
    "ChecksumType",
    "ColumnFamily",
    "ColumnFamilyDroppedError",
    "ColumnFamilyNotFoundError",
    "CompactOptions",
    "ConcurrentUseError",
    "CorruptionError",
    "CuckooTableOptions",
    "DBCompactionStyle",
    "DBCompressionType",
    "DBPath",
    "DBRecoveryMode",
    "DataBlockIndexType",
    "DatabaseClosedError",
    "DbClosedError",
    "EngineError",
    "Env",
    "FifoCompactOptions",
    "FlushOptions",
    "ForkedHandleError",
    "ForkedProcessError",
    "HandleClosedError",
    "HandleError",
    "HandleExpiredError",
    "HandleInfo",
    "IOFailedError",
    "IncompleteError",
    "IngestExternalFileOptions",
    "InvalidArgumentError",
    "KeyEncodingType",
    "Leak",
    "LeakedHandleWarning",
    "LeakedHandlesError",
    "LockedError",
    "MemoryUsage",
    "MemtableFactory",
    "ModeMismatchError",
    "NoSpaceError",
    "NotEnteredError",
    "NotSupportedError",
    "Options",
    "OverdueHandleWarning",
    "PlainTableFactoryOptions",
    "PortForbiddenError",
    "PortInUseError",
    "Rdict",
    "RdictColumns",
    "RdictEntities",
    "RdictItems",
    "RdictIter",
    "RdictKeys",
    "RdictValues",
    "ReadOnlyError",
    "ReadOptions",
    "SaferocksError",
    "Scope",
    "ShutdownError",
    "SignalDump",
    "SliceTransform",
    "Snapshot",
    "SnapshotFamily",
    "SstFileWriter",
    "TimedOutError",
    "TryAgainError",
    "UniversalCompactOptions",
    "UniversalCompactionStopStyle",
    "UnscopedHandleWarning",
    "WriteBatch",
    "WriteBufferManager",
    "WriteOptions",
    "__version__",
    "check",
    "configure",
    "dump",
    "dump_on_signal",
    "open",
    "open_handles",
    "strict",
]


def __getattr__(name: str) -> Any:
    """Load the package at the first use of one of its names.

    Importing it does not yet load RocksDB: pytest imports the plugin in here in every run, also
    of programs that have nothing to do with saferocks.
    """
    if name in _MODULES:
        return import_module(f"saferocks.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = vars(import_module("saferocks._api"))
    for each in __all__:
        if each in public:
            globals().setdefault(each, public[each])  # a test may have put something in its place
    if name not in globals():
        raise AttributeError(f"saferocks.{name} is not there yet: saferocks is being loaded further up this stack")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
