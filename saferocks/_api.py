"""All public names, brought together from their rooms; `saferocks` loads this at the first use of one."""

from saferocks import _fork as _fork, _startup
from saferocks._batch import BulkWriter as BulkWriter, WriteBatch as WriteBatch
from saferocks._database import Rdict as Rdict, open as open  # noqa: A004 - the word for it, as in `dbm.open`
from saferocks._dump import SignalDump as SignalDump, dump as dump, dump_on_signal as dump_on_signal
from saferocks._engine import (
    BlockBasedIndexType as BlockBasedIndexType,
    BlockBasedOptions as BlockBasedOptions,
    BottommostLevelCompaction as BottommostLevelCompaction,
    Cache as Cache,
    ChecksumType as ChecksumType,
    CompactOptions as CompactOptions,
    CuckooTableOptions as CuckooTableOptions,
    DatabaseClosedError as DatabaseClosedError,
    DataBlockIndexType as DataBlockIndexType,
    DBCompactionStyle as DBCompactionStyle,
    DBCompressionType as DBCompressionType,
    DBPath as DBPath,
    DBRecoveryMode as DBRecoveryMode,
    Env as Env,
    FifoCompactOptions as FifoCompactOptions,
    FlushOptions as FlushOptions,
    IngestExternalFileOptions as IngestExternalFileOptions,
    KeyEncodingType as KeyEncodingType,
    MemtableFactory as MemtableFactory,
    Options as Options,
    PlainTableFactoryOptions as PlainTableFactoryOptions,
    SliceTransform as SliceTransform,
    UniversalCompactionStopStyle as UniversalCompactionStopStyle,
    UniversalCompactOptions as UniversalCompactOptions,
    WriteBufferManager as WriteBufferManager,
    WriteOptions as WriteOptions,
)
from saferocks._family_handle import ColumnFamily as ColumnFamily
from saferocks._files import Checkpoint as Checkpoint, SstFileWriter as SstFileWriter
from saferocks._guard import check as check
from saferocks._handle import Scope as Scope
from saferocks._iterator import RdictIter as RdictIter
from saferocks._options import AccessType as AccessType, ReadOptions as ReadOptions
from saferocks._scan import (
    RdictColumns as RdictColumns,
    RdictEntities as RdictEntities,
    RdictItems as RdictItems,
    RdictKeys as RdictKeys,
    RdictValues as RdictValues,
)
from saferocks._settings import configure as configure, strict as strict
from saferocks._snapshot import Snapshot as Snapshot, SnapshotFamily as SnapshotFamily
from saferocks.errors import (
    AbortedError as AbortedError,
    BusyError as BusyError,
    ColumnFamilyDroppedError as ColumnFamilyDroppedError,
    ColumnFamilyNotFoundError as ColumnFamilyNotFoundError,
    ConcurrentUseError as ConcurrentUseError,
    CorruptionError as CorruptionError,
    EngineError as EngineError,
    ForkedHandleError as ForkedHandleError,
    ForkedProcessError as ForkedProcessError,
    HandleClosedError as HandleClosedError,
    HandleError as HandleError,
    HandleExpiredError as HandleExpiredError,
    IncompleteError as IncompleteError,
    InvalidArgumentError as InvalidArgumentError,
    IOFailedError as IOFailedError,
    Leak as Leak,
    LeakedHandlesError as LeakedHandlesError,
    LeakedHandleWarning as LeakedHandleWarning,
    LockedError as LockedError,
    ModeMismatchError as ModeMismatchError,
    NoSpaceError as NoSpaceError,
    NotEnteredError as NotEnteredError,
    NotSupportedError as NotSupportedError,
    OverdueHandleWarning as OverdueHandleWarning,
    PortForbiddenError as PortForbiddenError,
    PortInUseError as PortInUseError,
    ReadOnlyError as ReadOnlyError,
    SaferocksError as SaferocksError,
    ShutdownError as ShutdownError,
    TimedOutError as TimedOutError,
    TryAgainError as TryAgainError,
    UnscopedHandleWarning as UnscopedHandleWarning,
)
from saferocks.inspection import (
    AuditReport as AuditReport,
    HandleInfo as HandleInfo,
    MemoryUsage as MemoryUsage,
    open_handles as open_handles,
)

#: rocksdict's name for it.
DbClosedError = DatabaseClosedError

_startup.is_used()
