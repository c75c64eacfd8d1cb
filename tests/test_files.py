import os
import subprocess
from pathlib import Path

import pytest
from small_disk import small_disk

from stillwatch.errors import StorageError
from stillwatch.files import atomic_file, atomic_folder, move_whole, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert (target / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for name in ("first", "second"):
        with atomic_folder(target) as temporary:
            (temporary / name).write_text(name)
    assert [file.name for file in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_parent_that_is_a_file_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_json(tmp_path / "file" / "report.json", {})


def test_a_full_disk_is_said_so() -> None:
    full = Path("/dev/full")
    if not full.exists() or os.name != "posix":
        pytest.skip("this system has no /dev/full")
    from stillwatch.files import storage_errors

    with pytest.raises(StorageError, match="no space left"), storage_errors(full):
        full.write_text("x" * 100_000)


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"auroc": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_leave_its_own_place_is_not_in_two(tmp_path: Path) -> None:
    disk, target = tmp_path / "disk", tmp_path / "target"
    with small_disk(disk, size="200k"):
        (disk / "file").write_text("content")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StorageError, match="Read-only"):
            move_whole(disk / "file", target, staging=tmp_path)
        assert (disk / "file").exists()
    assert [one.name for one in tmp_path.iterdir()] == ["disk"]
