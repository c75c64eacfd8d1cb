"""Label inspected images: score log, inbox, versioned image set."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_versions import versioned

from stillwatch.errors import ImageError, LayoutError, StillwatchError, StorageError
from stillwatch.images.split import read_split_file
from stillwatch.inference.score_log import GivenVerdict, LoggedImage, open_score_log
from stillwatch.settings import CheckSettings, InboxSettings, Settings
from stillwatch.tasks.data.workspace import Workspace
from stillwatch.tasks.inbox.admission import admit_arrivals
from stillwatch.tasks.inbox.arrivals import still_files
from stillwatch.tasks.inbox.labels import LabelCount, count_labels, label_images

MakeImage = Callable[[Path, int], None]


@pytest.fixture
def plant(settings: Settings, plate: Path, tmp_path: Path) -> Settings:
    """A plant with the versioned category plate."""
    return settings.model_copy(
        update={
            "inbox": InboxSettings(path=tmp_path / "inbox", settle_seconds=0),
            "checks": CheckSettings(min_side=8),
        }
    )


@pytest.fixture
def seen(plant: Settings, make_image: MakeImage, tmp_path: Path) -> list[Path]:
    """Three images; version 3 rejected the first, passed the second, and knows no third."""
    files = [tmp_path / "line" / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        make_image(file, 5000 + number)
    with open_score_log(plant) as log:
        for file, verdict in zip(files, ("reject", "pass"), strict=False):
            log.append(
                "plate", [LoggedImage(3, file.name, md5(file), 120.0, 9.0, 0.5, 0.5, verdict)]
            )
    return files


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def label(files: list[Path], label: str, plant: Settings) -> list[str]:
    done = label_images(files, "plate", label, who="Eva", settings=plant)
    assert [one.file for one in done] == files
    return [one.copy.relative_to(plant.inbox.path).as_posix() for one in done]


def inbox(plant: Settings) -> set[str]:
    return {one.name for one in still_files(plant.inbox.path, 0)}


def test_corrected_normals_are_only_trained_on_and_corrected_anomalies_are_not(
    plant: Settings, workspace: Workspace, seen: list[Path]
) -> None:
    before = versioned(workspace).categories["plate"]
    assert label(seen[:1], "good", plant) == ["plate/feedback/good/0.png"]
    assert label(seen[1:2], "hole", plant) == ["plate/feedback/hole/1.png"]
    admit_arrivals(still_files(plant.inbox.path, 0), workspace, plant)
    after = versioned(workspace).categories["plate"]
    assert after.assignment == before.assignment | {md5(seen[0]): "train"}
    assert read_split_file(workspace.split_file)["plate"] == after.assignment
    assert after.files == before.files | {
        "feedback/good/0.png": md5(seen[0]),
        "feedback/hole/1.png": md5(seen[1]),
    }
    assert after.digest != before.digest
    assert not inbox(plant)
    assert all(file.exists() for file in seen)


def test_a_file_that_an_ingest_moves_meanwhile_is_no_obstacle(
    plant: Settings, seen: list[Path], make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = plant.inbox.path / "plate" / "good" / "moved.png"
    make_image(moved, 6000)
    really_open = Path.open

    def move_and_open(path: Path, *arguments: Any, **more: Any) -> Any:
        if path == moved:
            path.unlink()
        return really_open(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", move_and_open)
    assert label(seen[:1], "good", plant) == ["plate/feedback/good/0.png"]


def test_the_remark_names_the_verdict_and_labels_are_counted(
    plant: Settings, seen: list[Path]
) -> None:
    (first,) = label_images(seen[:1], "plate", "good", who="Eva", settings=plant)
    assert (first.given, first.remark) == (
        GivenVerdict(3, "reject"),
        "the label corrects the verdict: reject (version 3)",
    )
    second, third = label_images(seen[1:], "plate", "ok", who="Eva", settings=plant)
    assert second.remark.startswith("the label agrees with the verdict: pass (version 3)")
    assert (third.given, third.remark) == (None, "the score log does not have this image")
    assert count_labels(plant, "plate") == [
        LabelCount(GivenVerdict(3, "reject"), "good", 1),
        LabelCount(GivenVerdict(3, "pass"), "good", 1),
    ]
    first.copy.unlink()
    label(seen[:1], "hole", plant)
    assert LabelCount(GivenVerdict(3, "reject"), "hole", 1) in count_labels(plant, "plate")
    assert len(count_labels(plant, "plate")) == 2, "the last label counts"


def test_two_files_with_one_name_are_both_kept(
    plant: Settings, seen: list[Path], make_image: MakeImage, tmp_path: Path
) -> None:
    make_image(tmp_path / "other" / "0.png", 7000)
    both = [seen[0], tmp_path / "other" / "0.png"]
    assert len(set(label(both, "good", plant))) == len(inbox(plant)) == 2


def test_one_unusable_file_refuses_all_files(
    plant: Settings, plate: Path, seen: list[Path], tmp_path: Path
) -> None:
    (known,) = label(seen[2:], "hole", plant)
    whole = seen[0].read_bytes()
    folder = tmp_path / "refused"
    folder.mkdir()
    for name in (".hidden.png", "1_mask.png", "notes.txt", "-rf.png"):
        (folder / name).write_bytes(whole)
    (folder / "cut.png").write_bytes(whole[:60])
    refused = {
        tmp_path / "missing.png": "no such file",
        folder: "not a plain file",
        folder / ".hidden.png": "begins with a dot",
        folder / "1_mask.png": "takes such files for masks",
        folder / "notes.txt": "does not end in .bmp",
        folder / "-rf.png": "begins with a dash",
        folder / "cut.png": "damaged or cut short",
        plate / "train" / "good" / "000.png": "byte-for-byte copy of train/good/000.png",
        seen[2]: f"byte-for-byte copy of {known}, which is in the inbox",
        seen[1]: f"byte-for-byte copy of {seen[1]}",
    }
    for file, reason in refused.items():
        with pytest.raises(ImageError) as refusal:
            label([seen[1], file], "hole", plant)
        assert str(refusal.value).startswith(f"{file}: ")
        assert reason in str(refusal.value)
    assert inbox(plant) == {known}
    with open_score_log(plant) as log:
        assert [one.file for one in log.read_labels("plate")] == [seen[2].name]


@pytest.mark.parametrize(
    ("category", "label", "said"),
    [("plato", "hole", "did you mean 'plate'"), ("plate", "a/b", "defect type 'a/b'")],
)
def test_an_unknown_category_and_an_invalid_label_are_refused(
    plant: Settings, workspace: Workspace, seen: list[Path], category: str, label: str, said: str
) -> None:
    with pytest.raises(LayoutError, match=said):
        label_images(seen, category, label, who="Eva", settings=plant)
    assert not inbox(plant)


def test_after_an_error_of_the_score_log_the_inbox_is_unchanged(
    plant: Settings, seen: list[Path]
) -> None:
    (plant.state_dir / "scores" / "plate.db").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match="score log"):
        label_images(seen, "plate", "good", who="Eva", settings=plant)
    assert not inbox(plant)


def test_after_an_error_of_the_inbox_no_label_is_recorded(
    plant: Settings, seen: list[Path]
) -> None:
    (plant.inbox.path / "plate").mkdir(parents=True)
    (plant.inbox.path / "plate" / "feedback").write_text("a file")
    with pytest.raises(StillwatchError, match="cannot be written"):
        label_images(seen, "plate", "good", who="Eva", settings=plant)
    assert count_labels(plant, "plate") == []
