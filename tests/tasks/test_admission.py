"""From the inbox into the image set or the quarantine: whole, once, and by the label alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from stillwatch.images.layout import scan_category
from stillwatch.settings import CheckSettings, InboxSettings, Settings
from tasks.admission import Admission, admit_arrivals, quarantine
from tasks.inbox import still_files
from tasks.workspace import Workspace
from tests.tasks.conftest import MakeCategory

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


def test_the_folder_is_the_label(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    make_image(inbox / "good" / "new.png", 500)
    make_image(inbox / "hole" / "drilled.png", 501)
    Image.new("L", (8, 8), 255).save(inbox / "hole" / "drilled_mask.png")
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


def test_what_was_corrected_keeps_its_mark_and_needs_no_mask(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    make_image(inbox / "feedback" / "ok" / "new.png", 500)
    make_image(inbox / "feedback" / "hole" / "missed.png", 501)
    make_image(inbox / "feedback" / "hole" / "missed_mask.png", 502)
    make_image(inbox / "feedback" / "bare.png", 503)
    make_image(inbox / "good" / "again.png", 500)
    make_image(inbox / "dent" / "again.png", 501)
    admitted = admit(workspace, plant)
    assert {name: (one.source, one.admitted_as) for name, one in admitted.items()} == {
        "bolt/feedback/good/new.png": ("feedback", "feedback/good/new.png"),
        "bolt/feedback/hole/missed.png": ("feedback", "feedback/hole/missed.png"),
        "bolt/feedback/hole/missed_mask.png": ("feedback", None),
        "bolt/feedback/bare.png": ("collection", None),
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


def test_the_first_image_of_a_new_product_line(
    workspace: Workspace, plant: Settings, make_image: MakeImage
) -> None:
    make_image(plant.inbox.path / "nut" / "ok" / "1.png", 1)
    admit(workspace, plant)
    assert files_in(workspace.data / "nut") == {"train/good/1.png"}


def test_a_name_that_is_taken_is_changed_and_the_mask_goes_along(
    workspace: Workspace, plant: Settings, bolt: Path, inbox: Path, make_image: MakeImage
) -> None:
    taken = (bolt / "test" / "hole" / "000.png").read_bytes()
    make_image(inbox / "hole" / "000.png", 600)
    Image.new("L", (8, 8), 255).save(inbox / "hole" / "000_mask.png")
    admitted = admit(workspace, plant)
    image = admitted["bolt/hole/000.png"].admitted_as
    assert image is not None
    assert image != "test/hole/000.png"
    assert (bolt / "test" / "hole" / "000.png").read_bytes() == taken
    masks = {one.path: one.mask for one in scan_category(bolt).images}
    assert masks[image] == admitted["bolt/hole/000_mask.png"].admitted_as


def refused(folder: Path, make_image: MakeImage) -> dict[str, str]:
    """Files that must not be admitted -> what the reason must say."""
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
    return {
        "good/cut.png": "damaged or cut short",
        "good/whole.png": "has the very bytes of train/good/again.png",
        "good/empty.png": "the file is empty",
        "good/notes.txt": "does not end in .bmp",
        "good/-rf.png": "begins with a dash",
        "good/small.png": "is 4×9 pixels; checks.min_side asks for 8",
        "good/link.png": "is not a plain file",
        "good/deeper": "is not a plain file",
        "hole/bare.png": "has no mask, as other anomalies of bolt have",
        "hole/lost_mask.png": "did not come with it",
    }


def test_what_is_refused_waits_in_the_quarantine_with_its_reason(
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


def test_a_refused_name_does_not_replace_another_in_the_quarantine(
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


def test_a_file_that_is_still_being_written_is_left_alone(
    plant: Settings, inbox: Path, make_image: MakeImage
) -> None:
    make_image(inbox / "good" / "new.png", 1)
    make_image(inbox / "good" / ".partial.png", 2)
    assert still_files(plant.inbox.path, settle_seconds=3600) == []
    assert [one.name for one in still_files(plant.inbox.path, 0)] == ["bolt/good/new.png"]


def test_an_inbox_that_does_not_exist_is_empty(plant: Settings) -> None:
    assert still_files(plant.inbox.path, 0) == []
