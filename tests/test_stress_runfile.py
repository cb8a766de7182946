"""Reading `run.json` back."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from stress.record import Plan
from stress.runfile import FORMAT, RunFileError, load_run
from stress.runner import prepare

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@pytest.fixture
def file(tmp_path) -> Path:
    """The `run.json` of a run that has not begun."""
    return Path(prepare(Plan(("iterator-leak",), ("raw",), 1.0, 7), str(tmp_path), NOW).file)


def refusal(path: Path) -> str:
    with pytest.raises(RunFileError) as caught:
        load_run(path)
    text = str(caught.value)
    assert "\n" not in text
    assert repr(str(path)) in text
    return text


def test_what_a_run_writes_can_be_read(file: Path) -> None:
    """The record comes back as it was written, by a path of either kind."""
    found = load_run(file)
    assert found == load_run(str(file)) == json.loads(file.read_text())
    assert (found["format"], found["seed"]) == (FORMAT, 7)


def test_a_missing_file_is_said_to_be_missing(file: Path) -> None:
    """The text names the path and what to give instead."""
    assert "there is no file" in refusal(file.parent / "other.json")


def test_a_directory_is_not_taken_for_the_file_in_it(file: Path) -> None:
    """Whoever gives the directory of a run is told of the file in it."""
    assert "give the run.json in it" in refusal(file.parent)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(file: Path, share: float) -> None:
    """However much is missing at the end, it is refused and nothing of it is believed."""
    text = file.read_text()
    file.write_text(text[: int(len(text) * share)])
    assert "cut off" in refusal(file) if share else "not JSON" in refusal(file)


@pytest.mark.parametrize("content", ["[]", "{}", "3", "null", '"run"', '{"results": []}', '{"command": ""}'])
def test_json_of_another_kind_is_refused(file: Path, content: str) -> None:
    """JSON that is not the record of a run is said to be none."""
    file.write_text(content)
    assert "not the record of a run" in refusal(file)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"SST", b"[" * 100_000, b"# notes\n"])
def test_what_is_no_json_is_refused(file: Path, content: bytes) -> None:
    """Bytes of any kind are refused in one line, not with a traceback."""
    file.write_bytes(content)
    refusal(file)


@pytest.mark.parametrize("version", [0, 2, "1", None, "absent"])
def test_another_version_is_refused_with_the_command_to_run_again(file: Path, version: object) -> None:
    """A record of another version is not guessed at."""
    content = json.loads(file.read_text())
    content["format"] = version
    if version == "absent":
        del content["format"]
    file.write_text(json.dumps(content))
    text = refusal(file)
    assert f"this version reads {FORMAT}" in text
    assert content["command"] in text
