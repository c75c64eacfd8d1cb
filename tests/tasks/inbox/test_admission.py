"""Admit files from the inbox to the image set or to the quarantine."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from small_disk import small_disk
from tests.tasks.conftest import MakeCategory

from stillwatch.errors import StorageError
from stillwatch.files import file_md5
from stillwatch.images.layout import scan_category
from stillwatch.settings import CheckSettings, InboxSettings, Settings
from stillwatch.tasks.data.workspace import Workspace
from stillwatch.tasks.inbox.admission import Admission, admit_arrivals
from stillwatch.tasks.inbox.arrivals import still_files
from stillwatch.tasks.inbox.quarantine import quarantine

MakeImage = Callable[[Path, int], None]


@pytest.fixture
def plant(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(
        update={
            "inbox": InboxSettings(path=tmp_path / "inbox", settle_seconds=0),
            "checks": CheckSettings(min_side=8),
        }
    )


@pytest.fixture
def bolt(workspace: Workspace, make_category: MakeCategory) -> Path:
    make_category(workspace.data / "bolt")
    return workspace.data / "bolt"


@pytest.fixture
def inbox(plant: Settings) -> Path:
    return plant.inbox.path / "bolt"


def admit(workspace: Workspace, plant: Settings) -> dict[str, Admission]:
    arrivals = still_files(plant.inbox.path, plant.inbox.settle_seconds)
    return {one.name: one for one in admit_arrivals(arrivals, workspace, plant)}


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def write_mask(path: Path, *, side: int = 8, marked: int = 255) -> None:
    """A mask whose upper quarter is marked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", (side, side))
    mask.paste(marked, (0, 0, side, side // 4))
    mask.save(path)


def test_the_folder_decides_where_a_file_goes(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    make_image(inbox / "good" / "new.png", 500)
    make_image(inbox / "hole" / "drilled.png", 501)
    write_mask(inbox / "hole" / "drilled_mask.png")
    before = (inbox / "good" / "new.png").read_bytes()
    admitted = admit(workspace, plant)
    assert {one.admitted_as for one in admitted.values()} == {
        "train/good/new.png",
        "test/hole/drilled.png",
        "ground_truth/hole/drilled_mask.png",
    }
    assert (bolt / "train" / "good" / "new.png").read_bytes() == before
    masks = {image.path: image.mask for image in scan_category(bolt).images}
    assert masks["test/hole/drilled.png"] == "ground_truth/hole/drilled_mask.png"
    assert files_in(plant.inbox.path) == set()


def test_capitals_and_other_names_of_masks(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    (bolt / "test" / "hole").rename(bolt / "test" / "Hole")
    make_image(inbox / "OK" / "new.png", 500)
    write_mask(inbox / "OK" / "new_GT.png", marked=0)
    make_image(inbox / "HOLE" / "drilled.png", 501)
    write_mask(inbox / "HOLE" / "drilled_GT.BMP")
    write_mask(inbox / "HOLE" / "drilled_label.png")
    admitted = {name: one.admitted_as for name, one in admit(workspace, plant).items()}
    assert admitted == {
        "bolt/good/new.png": "train/good/new.png",
        "bolt/good/new_GT.png": None,
        "bolt/HOLE/drilled.png": "test/Hole/drilled.png",
        "bolt/HOLE/drilled_GT.BMP": "ground_truth/hole/drilled_mask.bmp",
        "bolt/HOLE/drilled_label.png": None,
    }
    masks = {image.path: image.mask for image in scan_category(bolt).images}
    assert masks["test/Hole/drilled.png"] == "ground_truth/hole/drilled_mask.bmp"


def test_each_category_is_checked_by_its_own_settings(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    strict = plant.model_copy(update={"categories": {"bolt": {"checks": {"min_side": 9}}}})
    make_image(inbox / "good" / "new.png", 500)
    make_image(plant.inbox.path / "nut" / "good" / "new.png", 501)
    admitted = admit(workspace, strict)
    assert "checks.min_side asks for 9" in str(admitted["bolt/good/new.png"].reason)
    assert admitted["nut/good/new.png"].admitted_as == "train/good/new.png"


def test_corrected_images_go_to_feedback_and_need_no_mask(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    make_image(inbox / "feedback" / "ok" / "new.png", 500)
    make_image(inbox / "Feedback" / "hole" / "missed.png", 501)
    make_image(inbox / "feedback" / "hole" / "missed_mask.png", 502)
    make_image(inbox / "feedback" / "bare.png", 503)
    make_image(inbox / "Feedback" / "bare-too.png", 504)
    make_image(inbox / "good" / "again.png", 500)
    make_image(inbox / "dent" / "again.png", 501)
    admitted = admit(workspace, plant)
    assert {name: (one.source, one.admitted_as) for name, one in admitted.items()} == {
        "bolt/feedback/good/new.png": ("feedback", "feedback/good/new.png"),
        "bolt/feedback/hole/missed.png": ("feedback", "feedback/hole/missed.png"),
        "bolt/feedback/hole/missed_mask.png": ("feedback", None),
        "bolt/feedback/bare.png": ("collection", None),
        "bolt/feedback/bare-too.png": ("collection", None),
        "bolt/good/again.png": ("collection", None),
        "bolt/dent/again.png": ("collection", None),
    }
    assert (bolt / "feedback" / "hole" / "missed.png").exists()
    folder = quarantine(plant) / "bolt"
    assert "put it into feedback/good" in (folder / "feedback/bare.png.reason.txt").read_text()
    reason = (folder / "feedback/hole/missed_mask.png.reason.txt").read_text()
    assert "corrected anomalies have none" in reason
    assert "feedback/good/new.png" in (folder / "good/again.png.reason.txt").read_text()
    assert files_in(plant.inbox.path) == set()


def test_the_first_image_of_a_new_category_is_admitted(
    workspace: Workspace, plant: Settings, make_image: MakeImage
) -> None:
    make_image(plant.inbox.path / "nut" / "ok" / "1.png", 1)
    admit(workspace, plant)
    assert files_in(workspace.data / "nut") == {"train/good/1.png"}


def test_an_image_with_a_taken_name_is_renamed_with_its_mask(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    taken = (bolt / "test" / "hole" / "000.png").read_bytes()
    make_image(inbox / "hole" / "000.png", 600)
    write_mask(inbox / "hole" / "000_mask.png")
    admitted = admit(workspace, plant)
    image = admitted["bolt/hole/000.png"].admitted_as
    assert image is not None
    assert image != "test/hole/000.png"
    assert (bolt / "test" / "hole" / "000.png").read_bytes() == taken
    masks = {one.path: one.mask for one in scan_category(bolt).images}
    assert masks[image] == admitted["bolt/hole/000_mask.png"].admitted_as


def refused(folder: Path, make_image: MakeImage) -> dict[str, str]:
    """Files that must be refused -> the reason."""
    make_image(folder / "good" / "whole.png", 700)
    whole = (folder / "good" / "whole.png").read_bytes()
    (folder / "good" / "cut.png").write_bytes(whole[:60])
    (folder / "good" / "again.png").write_bytes(whole)
    (folder / "good" / "empty.png").touch()
    (folder / "good" / "notes.txt").write_text("no image")
    (folder / "good" / "-rf.png").write_bytes(whole)
    Image.new("RGB", (4, 9)).save(folder / "good" / "small.png")
    (folder / "good" / "link.png").symlink_to(folder / "good" / "cut.png")
    (folder / "good" / "deeper").mkdir()
    make_image(folder / "hole" / "bare.png", 701)
    make_image(folder / "hole" / "lost_mask.png", 702)
    make_image(folder / "bare_mask.png", 703)
    Image.new("L", (8, 8), 255).save(folder / "region.png")
    Image.new("L", (8, 8), 0).save(folder / "ignore.png")
    return {
        "good/cut.png": "damaged or cut short",
        "good/whole.png": "is a byte-for-byte copy of train/good/again.png",
        "good/empty.png": "the file is empty",
        "good/notes.txt": "does not end in .bmp",
        "good/-rf.png": "begins with a dash",
        "good/small.png": "is 4×9 pixels; checks.min_side asks for 8",
        "good/link.png": "is not a plain file",
        "good/deeper": "is not a plain file",
        "hole/bare.png": "has no mask, as other anomalies of bolt have",
        "hole/lost_mask.png": "the inbox does not have the image of that name",
        "bare_mask.png": "has no label: put it into good or <defect>",
        "region.png": "/bolt/region.png and run 'stillwatch retrain'",
        "ignore.png": "/bolt/ignore.png and run 'stillwatch retrain'",
    }


def test_refused_files_are_in_the_quarantine_with_their_reasons(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    before = files_in(bolt)
    expected = refused(inbox, make_image)
    admitted = admit(workspace, plant)
    folder = quarantine(plant) / "bolt"
    for name, reason in expected.items():
        found = admitted[f"bolt/{name}"]
        assert found.admitted_as is None, name
        assert found.reason is not None
        assert reason in found.reason
        assert reason in (folder / f"{name}.reason.txt").read_text()
        assert (folder / name).is_symlink() or (folder / name).exists(), name
    assert files_in(bolt) - before == {"train/good/again.png"}
    assert files_in(inbox) == set()


def test_a_second_refused_file_of_the_same_name_is_kept(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path
) -> None:
    for content in ("first", "second"):
        (inbox / "good").mkdir(parents=True, exist_ok=True)
        (inbox / "good" / "notes.txt").write_text(content)
        admit(workspace, plant)
    folder = quarantine(plant) / "bolt" / "good"
    assert {(folder / name).read_text() for name in ("notes.txt", "notes-1.txt")} == {
        "first",
        "second",
    }


def test_a_category_name_that_is_not_allowed_is_refused(
    workspace: Workspace, plant: Settings, make_image: MakeImage
) -> None:
    make_image(plant.inbox.path / "Big Bolt" / "good" / "1.png", 1)
    (only,) = admit(workspace, plant).values()
    assert only.reason is not None
    assert "a-z, 0-9" in only.reason
    assert not (workspace.data / "Big Bolt").exists()


def test_files_that_are_being_written_are_ignored(
    plant: Settings, inbox: Path, make_image: MakeImage
) -> None:
    make_image(inbox / "good" / "new.png", 1)
    make_image(inbox / "good" / ".partial.png", 2)
    assert still_files(plant.inbox.path, settle_seconds=3600) == []
    assert [one.name for one in still_files(plant.inbox.path, 0)] == ["bolt/good/new.png"]


def test_a_missing_inbox_is_empty(plant: Settings) -> None:
    assert still_files(plant.inbox.path, 0) == []


@pytest.mark.parametrize("name", [b"\xff.txt", b"n" * 245 + b".txt"], ids=["no UTF-8", "long"])
def test_a_file_with_an_unusual_name_does_not_stop_others(
    workspace: Workspace,
    plant: Settings,
    bolt: Path,
    inbox: Path,
    make_image: MakeImage,
    name: bytes,
) -> None:
    make_image(inbox / "good" / "sound.png", 500)
    (inbox / "good" / os.fsdecode(name)).write_text("no image")
    admitted = admit(workspace, plant)
    assert (bolt / "train" / "good" / "sound.png").exists()
    assert files_in(inbox) == set()
    (reason,) = (quarantine(plant) / "bolt" / "good").glob("*.reason.txt")
    refused = reason.with_name(reason.name.removesuffix(".reason.txt"))
    assert refused.read_text() == "no image"
    shown = name.decode("utf-8", "surrogateescape").encode(errors="backslashreplace").decode()
    assert reason.read_text().startswith(f"bolt/good/{shown}: ")
    assert f"bolt/good/{shown}" in admitted


def test_a_new_name_that_is_too_long_does_not_stop_others(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    name = "n" * 246 + ".png"
    make_image(bolt / "train" / "good" / name, 500)
    make_image(inbox / "good" / name, 501)
    make_image(inbox / "good" / "sound.png", 502)
    admitted = admit(workspace, plant)
    assert admitted["bolt/good/sound.png"].admitted_as == "train/good/sound.png"
    assert "File name too long" in str(admitted[f"bolt/good/{name}"].reason)
    assert files_in(inbox) == set()


def test_a_folder_is_quarantined_across_file_systems(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    with small_disk(plant.inbox.path, size="1m"):
        make_image(inbox / "good" / "deeper" / "1.png", 500)
        make_image(inbox / "good" / "sound.png", 501)
        admit(workspace, plant)
        assert (bolt / "train" / "good" / "sound.png").exists()
        assert (quarantine(plant) / "bolt" / "good" / "deeper" / "1.png").exists()
        assert list((inbox / "good").iterdir()) == []


def test_a_file_that_cannot_be_moved_stays_and_does_not_stop_others(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    make_image(inbox / "good" / "sound.png", 500)
    with small_disk(inbox / "good" / "a_mount", size="1m"):
        for _ in range(2):
            stays = admit(workspace, plant)["bolt/good/a_mount"]
            assert (stays.stays, stays.admitted_as) == (True, None)
            assert "it cannot be moved" in str(stays.reason)
    assert (bolt / "train" / "good" / "sound.png").exists()
    assert files_in(quarantine(plant)) == set()


def test_a_mask_left_behind_by_an_interrupted_run_is_admitted(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    make_image(inbox / "dent" / "1.png", 500)
    write_mask(inbox / "dent" / "1_mask.png")
    obstacle = bolt / "ground_truth" / "dent"
    obstacle.touch()
    with pytest.raises(StorageError):
        admit(workspace, plant)
    assert (bolt / "test" / "dent" / "1.png").exists()
    obstacle.unlink()
    make_image(bolt / "renamed.png", 501)
    renamed = f"000-{file_md5(bolt / 'renamed.png')[:8]}"
    (bolt / "renamed.png").rename(bolt / "test" / "hole" / f"{renamed}.png")
    write_mask(inbox / "hole" / "000_mask.png")
    admit(workspace, plant)
    assert files_in(inbox) == set()
    masks = {one.path: one.mask for one in scan_category(bolt).images}
    assert masks["test/dent/1.png"] == "ground_truth/dent/1_mask.png"
    assert masks[f"test/hole/{renamed}.png"] == f"ground_truth/hole/{renamed}_mask.png"


def test_the_mask_of_a_refused_image_is_not_used_for_another_image(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    make_image(bolt / "test" / "dent" / "1.png", 500)
    (inbox / "dent").mkdir(parents=True)
    (inbox / "dent" / "1.png").write_bytes((bolt / "test" / "dent" / "1.png").read_bytes()[:60])
    write_mask(inbox / "dent" / "1_mask.png")
    admitted = admit(workspace, plant)
    assert "the inbox does not have the image of that name" in str(
        admitted["bolt/dent/1_mask.png"].reason
    )
    assert not (bolt / "ground_truth" / "dent").exists()


def test_the_mask_that_arrives_with_a_copy_of_an_admitted_image_is_admitted(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    make_image(bolt / "test" / "dent" / "1.png", 500)
    make_image(inbox / "dent" / "again.png", 500)
    write_mask(inbox / "dent" / "again_mask.png")
    admitted = admit(workspace, plant)
    assert admitted["bolt/dent/again.png"].admitted_as is None
    assert admitted["bolt/dent/again_mask.png"].admitted_as == "ground_truth/dent/1_mask.png"


def test_files_changed_after_the_scan_stay_for_the_next_run(
    workspace: Workspace,
    plant: Settings,
    bolt: Path,
    inbox: Path,
    make_image: MakeImage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_image(inbox / "hole" / "1.png", 500)
    write_mask(inbox / "hole" / "1_mask.png")
    (inbox / "hole" / "2.png").write_bytes((inbox / "hole" / "1.png").read_bytes()[:60])
    found = still_files(plant.inbox.path, 0)
    make_image(inbox / "hole" / "1.png", 501)
    make_image(inbox / "hole" / "2.png", 502)
    assert admit_arrivals(found, workspace, plant) == []
    assert [message.partition(":")[0] for message in caplog.messages] == [
        *("bolt/hole/1.png", "bolt/hole/2.png", "bolt/hole/1_mask.png"),
    ]
    assert files_in(inbox) == {"hole/1.png", "hole/2.png", "hole/1_mask.png"}
    assert not quarantine(plant).exists()
    write_mask(inbox / "hole" / "2_mask.png")
    assert {one.admitted_as is None for one in admit(workspace, plant).values()} == {False}


def test_the_age_of_a_file_is_measured_by_the_clock_of_its_file_system(
    plant: Settings, inbox: Path, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_image(inbox / "good" / "new.png", 500)
    here = time.time()
    monkeypatch.setattr(time, "time", lambda: here + 86400)
    assert still_files(plant.inbox.path, settle_seconds=3600) == []


def test_an_image_with_an_unusable_mask_is_refused_together_with_the_mask(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    for number, name in enumerate(("large", "empty", "cut", "sound")):
        make_image(inbox / "dent" / f"{name}.png", 500 + number)
    write_mask(inbox / "dent" / "large_mask.png", side=16)
    write_mask(inbox / "dent" / "empty_mask.png", marked=0)
    write_mask(inbox / "dent" / "sound_mask.png")
    whole = (inbox / "dent" / "sound_mask.png").read_bytes()
    (inbox / "dent" / "cut_mask.png").write_bytes(whole[:40])
    before = files_in(bolt)
    reasons = {name: one.reason or "" for name, one in admit(workspace, plant).items()}
    for name, reason in (
        ("large", "is 16×16 pixels and its image 8×8"),
        ("empty", "marks no pixel"),
        ("cut", "damaged or cut short"),
    ):
        assert reason in reasons[f"bolt/dent/{name}_mask.png"]
        both = f"has a mask that cannot be used ({name}_mask.png: "
        assert both in reasons[f"bolt/dent/{name}.png"]
        assert reason in reasons[f"bolt/dent/{name}.png"]
    assert files_in(bolt) - before == {"test/dent/sound.png", "ground_truth/dent/sound_mask.png"}
    assert files_in(inbox) == set()


def test_a_mask_of_another_size_than_its_admitted_image_is_refused(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    make_image(bolt / "test" / "dent" / "1.png", 500)
    (bolt / "test" / "dent" / "2.png").touch()
    write_mask(inbox / "dent" / "1_mask.png", side=16)
    write_mask(inbox / "dent" / "2_mask.png")
    admitted = admit(workspace, plant)
    assert "its image 8×8" in str(admitted["bolt/dent/1_mask.png"].reason)
    other = "is a mask, and its image test/dent/2.png cannot be used: the file is empty"
    assert str(admitted["bolt/dent/2_mask.png"].reason).startswith(other)


def without_masks(bolt: Path) -> None:
    """No anomaly of the category has a mask."""
    (bolt / "ground_truth" / "hole" / "000_mask.png").unlink()


def test_the_first_mask_is_refused_while_other_anomalies_have_none(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    without_masks(bolt)
    write_mask(bolt / "ground_truth" / "hole" / "of_no_image_mask.png")
    make_image(inbox / "dent" / "1.png", 500)
    write_mask(inbox / "dent" / "1_mask.png")
    admitted = admit(workspace, plant)
    assert admitted["bolt/dent/1.png"].admitted_as == "test/dent/1.png"
    reason = admitted["bolt/dent/1_mask.png"].reason
    assert reason == (
        "is a mask, and test/hole/000.png of bolt would have none: put it into the inbox again "
        "together with theirs, named after the images"
    )


def test_the_first_masks_are_admitted_if_they_cover_all_anomalies(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    without_masks(bolt)
    make_image(inbox / "dent" / "1.png", 500)
    write_mask(inbox / "dent" / "1_mask.png")
    write_mask(inbox / "hole" / "000_mask.png", marked=0)
    reasons = {name: one.reason or "" for name, one in admit(workspace, plant).items()}
    assert "would have none" in reasons["bolt/dent/1_mask.png"], "the other cannot be used"
    assert "marks no pixel" in reasons["bolt/hole/000_mask.png"]
    write_mask(inbox / "dent" / "1_mask.png")
    write_mask(inbox / "hole" / "000_mask.png")
    admit(workspace, plant)
    assert {image.mask for image in scan_category(bolt).test_anomalies} == {
        "ground_truth/dent/1_mask.png",
        "ground_truth/hole/000_mask.png",
    }


def test_the_first_anomalies_of_a_category_need_masks_if_one_of_them_has_one(
    workspace: Workspace, plant: Settings, make_image: MakeImage
) -> None:
    folder = plant.inbox.path / "nut" / "hole"
    for number, name in enumerate(("1", "2", "bare")):
        make_image(folder / f"{name}.png", number)
    write_mask(folder / "1_mask.png")
    write_mask(folder / "2_mask.png")
    admitted = admit(workspace, plant)
    refused = {name for name, one in admitted.items() if one.admitted_as is None}
    assert refused == {"nut/hole/bare.png"}
