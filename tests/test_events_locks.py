"""Events take no lock that whoever finds them, or is interrupted by them, may hold.

Each program runs in a child process with a time limit, since what must not happen is that it hangs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.systems import needs_fork, needs_signals

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]

SECONDS = 30.0

COMMON = """
import faulthandler, gc, logging, os, signal, sys, threading, warnings
faulthandler.dump_traceback_later(20, exit=True)
import saferocks

class Locked(logging.Handler):
    '''Holds a lock of its own while it writes, which the same thread cannot take twice.'''
    def __init__(self):
        super().__init__()
        self.mine, self.lines, self.midst = threading.Lock(), [], None
    def emit(self, record):
        with self.mine:
            midst, self.midst = self.midst, None
            if midst is not None:
                midst()
            self.lines.append(record.getMessage().split()[0])

handler = Locked()
logging.basicConfig(handlers=[handler], level=logging.INFO)

def leak(db):
    cycle = [db.snapshot()]
    cycle.append(cycle)
"""


def lines_of(run: Run, program: str, *arguments: str) -> list[str]:
    """Return what a program prints, which ends well and says nothing else."""
    done = run(COMMON + program, *arguments, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


COLLECTED = """
class Logged:
    '''Takes the place of stderr, as in the workers of some task queues.'''
    def write(self, text):
        logging.warning(text)

warnings.simplefilter("ignore" if sys.argv[1] == "events" else "always")
logging.captureWarnings(sys.argv[1] == "captured")
sys.stderr = Logged() if sys.argv[1] == "stderr" else sys.stderr
with saferocks.open("db") as db:
    leak(db)
    handler.midst = gc.collect  # the collection that finds the leak comes while the lock is held
    logging.warning("begun")
    print(handler.lines)
    db.handles()
sys.stderr = sys.__stderr__
print([line if line.startswith("saferocks") else "warning" for line in handler.lines[1:]])
"""


@pytest.mark.parametrize("how", ["events", "captured", "stderr"])
def test_a_leak_that_is_found_while_its_thread_logs(run_python: Run, how: str) -> None:
    """A finalizer in the midst of a logging handler, whose lock its thread holds, waits for nothing.

    The event comes with the next ordinary call; the warning, too, if `logging` gets warnings, or what goes to stderr.
    """
    first, later = lines_of(run_python, COLLECTED, how)
    assert first == "['begun']"
    assert later == str(["saferocks.handle_leaked", *(["warning"] if how != "events" else [])])


CROSSED = """
warnings.simplefilter("always")
logging.captureWarnings(True)
with saferocks.open("db") as db:
    leak(db)
    outer, held, over = threading.Lock(), threading.Event(), threading.Event()

    def log():
        def midst():
            held.set()
            with outer:  # which the other thread holds, until its finalizers are through
                over.set()
        handler.midst = midst
        logging.warning("other")

    with outer:
        thread = threading.Thread(target=log)
        thread.start()
        held.wait()
        gc.collect()  # finds the leak, while the other thread holds the handler's lock and waits for us
        print("collected", over.is_set())
    thread.join()
    db.handles()
print("saferocks.handle_leaked" in handler.lines)
"""


def test_a_leak_that_is_found_while_another_thread_logs(run_python: Run) -> None:
    """A finalizer does not wait for a thread that holds the handler's lock and waits for the finalizer's."""
    assert lines_of(run_python, CROSSED) == ["collected False", "True"]


SIGNALLED = """
warnings.simplefilter("ignore")
db = saferocks.open("db").__enter__()

def on_signal(*_):
    leak(db)
    gc.collect()
    db.close()  # tells a leak and the closing, in the midst of what holds the lock
    print("closed", handler.lines)

signal.signal(signal.SIGUSR1, on_signal)
logging.getLogger("saferocks").setLevel(logging.DEBUG)
handler.midst = lambda: os.kill(os.getpid(), signal.SIGUSR1)
logging.warning("begun")
print(handler.lines)
saferocks.open_handles()
print(handler.lines)
"""


@needs_signals
def test_a_signal_handler_in_the_midst_of_logging(run_python: Run) -> None:
    """What a signal handler closes while the interrupted code holds the handler's lock is told afterwards."""
    assert lines_of(run_python, SIGNALLED) == [
        "closed []",
        "['begun']",
        "['begun', 'saferocks.handle_leaked', 'saferocks.database_closed']",
    ]


STRUCTLOG = """
warnings.simplefilter("ignore")
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stdout),  # takes a plain lock for each line
                    processors=[lambda _l, _m, entry: entry["event"]])
db = saferocks.open("db").__enter__()

class Output:
    '''Is interrupted while it is written to, which is under the lock.'''
    def write(self, text):
        if "begun" in text:
            leak(db)
            gc.collect()
            db.handles()
        sys.stdout.write(text)
    flush = sys.stdout.flush

logger = structlog.wrap_logger(structlog.PrintLogger(Output()), processors=[lambda _l, _m, entry: entry["event"]])
logger.info("begun")
db.close()
"""


def test_within_a_line_of_structlog(run_python: Run) -> None:
    """What comes up while structlog writes a line, under a lock that cannot be taken twice, is told afterwards."""
    assert lines_of(run_python, STRUCTLOG) == [
        "saferocks.database_opened",
        "begun",
        "saferocks.handle_leaked",
        "saferocks.database_closed",
    ]


HOOKED = """
warnings.simplefilter("ignore")
db = saferocks.open("db").__enter__()
lock, heard = threading.Lock(), []

def hook(event):
    with lock:
        if not heard:
            os.kill(os.getpid(), signal.SIGUSR1)
        heard.append(event.fields["label"])

def on_signal(*_):
    db.snapshot(label="second")
    db.handles()

signal.signal(signal.SIGUSR1, on_signal)
saferocks.events.set_hooks([hook])
db.snapshot(label="first")
db.handles()
print(heard)
saferocks.events.set_hooks([])
db.close()
"""


@needs_signals
def test_a_signal_handler_in_the_midst_of_a_hook(run_python: Run) -> None:
    """A hook that holds its lock is not called again in its midst, but when it is through."""
    assert lines_of(run_python, HOOKED) == ["['first', 'second']"]


ESCAPING = """
logging.captureWarnings(True)
warnings.simplefilter("always")
db, kept = saferocks.open("db").__enter__(), []

def on_signal(*_):
    kept.append(db.iter().__enter__())
    list(db.items())
    db.snapshot()
    db.close()
    print("closed", handler.lines)

signal.signal(signal.SIGUSR1, on_signal)
handler.midst = lambda: os.kill(os.getpid(), signal.SIGUSR1)
logging.warning("begun")
saferocks.open_handles()
print([line for line in handler.lines if line.startswith("saferocks")], len(handler.lines))
"""


@needs_signals
def test_a_signal_handler_in_the_midst_of_logging_whose_handles_escape(run_python: Run) -> None:
    """The warnings that `logging` captures wait, as the events do, until the interrupted call has left its lock."""
    told = ["saferocks.handle_unscoped", "saferocks.handle_leaked", "saferocks.handle_outlived_database"]
    assert lines_of(run_python, ESCAPING) == ["closed []", f"{told} 7"]


ENDLESS = """
warnings.simplefilter("ignore")
calls, kept = [], []

def hook(event):
    calls.append(event.name)
    with saferocks.open(f"log{len(calls)}") as log:
        log.snapshot()
        kept.append(log.iter().__enter__())

saferocks.events.set_hooks([hook])
with saferocks.open("db") as db:
    pass
print(calls.count("saferocks.database_opened"), calls.count("saferocks.database_closed"), len(saferocks.events.pending))
saferocks.events.set_hooks([])
kept.clear()
"""


def test_a_hook_that_causes_events_comes_to_an_end(run_python: Run) -> None:
    """What a hook does is told, and what it does when it is told of that is not, or it would go on for ever."""
    # The opening and the closing of the program, and of the two databases that the hook opens for those.
    assert lines_of(run_python, ENDLESS) == ["3 3 0"]


FORKED = """
warnings.simplefilter("ignore")
saferocks.events.set_hooks([lambda event: None])
with saferocks.open("db") as db:
    db.snapshot()  # told by whoever comes next: not by the child
    child = os.fork()
    if child == 0:
        saferocks.events.set_hooks([lambda event: print("child", event.name, flush=True)])
        saferocks.open_handles()
        os._exit(0)
    print(os.waitpid(child, 0)[1])
"""


@needs_fork
def test_a_forked_child_tells_nothing_of_its_parent(run_python: Run) -> None:
    """What was queued before a fork is told by the parent alone."""
    assert lines_of(run_python, FORKED) == ["0"]


FORKED_IN_A_HOOK = """
warnings.simplefilter("ignore")
import structlog
from saferocks import _bound, metrics
from prometheus_client import CollectorRegistry, generate_latest
registry = CollectorRegistry()
metrics.register(registry)

def hook(event):
    child = os.fork()
    if child == 0:
        open_handles = [line for line in generate_latest(registry).decode().splitlines()
                        if line.startswith("saferocks_open_handles{") and not line.endswith(" 0.0")]
        print("child", open_handles, _bound.kept, flush=True)
        os._exit(0)
    print("parent", os.waitpid(child, 0)[1], len(_bound.kept))

with saferocks.open("db") as db, structlog.contextvars.bound_contextvars(request_id="r"), db.items():
    db.snapshot()
    saferocks.events.set_hooks([hook])
    db.handles()
    saferocks.events.set_hooks([])
print(_bound.kept)
"""


@needs_fork
def test_a_child_that_a_hook_forks(run_python: Run) -> None:
    """A child that is forked in a hook has no figures of its parent's handles, and nothing that was bound to them."""
    assert lines_of(run_python, FORKED_IN_A_HOOK) == ["child [] {}", "parent 0 1", "{}"]
