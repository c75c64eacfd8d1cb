"""Adding the images of a folder to a category: all of them, or none."""

from pathlib import Path

import pytest
from tests.tasks.conftest import MakeCategory
from tests.tasks.made_versions import contents

from stillwatch.errors import ImageError, LayoutError
from stillwatch.tasks.data.adding import AddedFiles, add_files, category_files, labelled_files
from stillwatch.tasks.data.workspace import Workspace


def write(folder: Path, *names: str) -> Path:
    """Files whose content is their name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    return folder


def test_a_category_in_mvtec_layout_is_copied_without_what_lies_beside_it(
    tmp_path: Path, workspace: Workspace, make_category: MakeCategory
) -> None:
    source = tmp_path / "Screw photos"
    make_category(source, normals=3)
    write(source, "license.txt", "region.png", "Test/good/001.png")
    done = add_files(category_files(source), "screw", workspace)
    assert done == AddedFiles(copied=8, kept=0)
    added = contents(workspace.data / "screw")
    assert added["test/good/001.png"] == b"Test/good/001.png"
    assert "license.txt" not in added
    assert "region.png" in added


def test_images_with_a_label_go_to_its_folder_and_their_masks_beside(
    tmp_path: Path, workspace: Workspace
) -> None:
    good = write(tmp_path / "new", "1.png", "2.PNG", ".hidden.png", "notes.txt")
    add_files(labelled_files(good, "good"), "screw", workspace)
    bad = write(tmp_path / "bad", "1.jpg", "1_mask.png", "odd_mask.png", "2.png", "2_GT.bmp")
    add_files(labelled_files(bad, "scratch"), "screw", workspace)
    unseen = write(tmp_path / "unseen", "3.png")
    add_files(labelled_files(unseen, "good", to_test=True), "screw", workspace)
    assert contents(workspace.data / "screw").keys() == {
        *("train/good/1.png", "train/good/2.PNG", "test/good/3.png"),
        *("test/scratch/1.jpg", "ground_truth/scratch/1_mask.png", "test/scratch/odd_mask.png"),
        *("test/scratch/2.png", "ground_truth/scratch/2_GT.bmp"),
    }


def test_what_is_there_already_is_kept(tmp_path: Path, workspace: Workspace) -> None:
    source = write(tmp_path / "new", "1.png")
    add_files(labelled_files(source, "good"), "screw", workspace)
    write(source, "2.png")
    assert add_files(labelled_files(source, "good"), "screw", workspace) == AddedFiles(1, 1)


def test_another_image_of_the_same_name_is_refused_and_nothing_is_added(
    tmp_path: Path, workspace: Workspace
) -> None:
    add_files(labelled_files(write(tmp_path / "old", "1.png"), "good"), "screw", workspace)
    before = contents(workspace.data)
    source = write(tmp_path / "new", "0.png")
    (source / "1.png").write_text("other", encoding="utf-8")
    with pytest.raises(ImageError, match=r"same name \(train/good/1\.png\)\. Rename yours"):
        add_files(labelled_files(source, "good"), "screw", workspace)
    assert contents(workspace.data) == before


@pytest.mark.parametrize("is_new", [True, False])
def test_nothing_is_added_if_one_file_cannot_be_copied(
    tmp_path: Path, workspace: Workspace, is_new: bool
) -> None:
    if not is_new:
        add_files(labelled_files(write(tmp_path / "old", "0.png"), "good"), "screw", workspace)
    before = contents(workspace.root)
    files = labelled_files(write(tmp_path / "new", "1.png", "2.png"), "good")
    (tmp_path / "new" / "2.png").unlink()
    with pytest.raises(ImageError, match=r"2\.png: cannot be read"):
        add_files(files, "screw", workspace)
    after = contents(workspace.root)
    assert after == before | {".dvc/tmp/stillwatch.lock": b""}


def test_a_category_needs_good_images_first(tmp_path: Path, workspace: Workspace) -> None:
    files = labelled_files(write(tmp_path / "bad", "1.png"), "scratch")
    with pytest.raises(LayoutError, match="stillwatch add screw IMAGES --good"):
        add_files(files, "screw", workspace)
    assert not workspace.data.exists()


@pytest.mark.parametrize(
    ("names", "label", "said"),
    [
        ((), None, "no such folder"),
        (("1.png",), None, "has images and no folder train/good.*--good or --defect NAME"),
        (("screw/train/good/1.png",), None, r"several categories \(screw\)"),
        (("readme.txt",), None, "has no folder train/good"),
        (("readme.txt",), "good", "holds no image"),
        (("1.png", "inner/2.png"), "good", r"has folders in it \(inner\)"),
        (("1.png",), "OK", "is the name for good parts, which --good adds"),
        (("1.png",), "../x", "is not the name of one folder"),
    ],
)
def test_a_folder_that_cannot_be_added_is_refused_with_what_to_do(
    tmp_path: Path, names: tuple[str, ...], label: str | None, said: str
) -> None:
    source = write(tmp_path / "images", *names)
    with pytest.raises(LayoutError, match=said):
        category_files(source) if label is None else labelled_files(source, label)
