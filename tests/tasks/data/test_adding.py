"""Adding the images of a folder to a category: all of them, or none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.tasks.conftest import MakeCategory
from tests.tasks.made_versions import contents

from stillwatch.errors import ImageError, LayoutError
from stillwatch.images.layout import scan_category
from stillwatch.images.masks import read_mask
from stillwatch.images.source_layouts import category_files, labelled_files
from stillwatch.tasks.data.adding import AddedFiles, add_files
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
    done = add_files(category_files(source).files, "screw", workspace)
    assert done == AddedFiles(copied=8, kept=0)
    added = contents(workspace.data / "screw")
    assert added["test/good/001.png"] == b"Test/good/001.png"
    assert "license.txt" not in added
    assert "region.png" in added


def test_images_with_a_label_go_to_its_folder_and_their_masks_beside(
    tmp_path: Path, workspace: Workspace
) -> None:
    good = write(tmp_path / "new", "1.png", "2.PNG", ".hidden.png", "notes.txt")
    add_files(labelled_files(good, "good").files, "screw", workspace)
    bad = write(tmp_path / "bad", "1.jpg", "1_mask.png", "odd_mask.png", "2.png", "2_GT.bmp")
    add_files(labelled_files(bad, "scratch").files, "screw", workspace)
    unseen = write(tmp_path / "unseen", "3.png")
    add_files(labelled_files(unseen, "good", to_test=True).files, "screw", workspace)
    assert contents(workspace.data / "screw").keys() == {
        *("train/good/1.png", "train/good/2.PNG", "test/good/3.png"),
        *("test/scratch/1.jpg", "ground_truth/scratch/1_mask.png", "test/scratch/odd_mask.png"),
        *("test/scratch/2.png", "ground_truth/scratch/2_GT.bmp"),
    }


def test_what_is_there_already_is_kept(tmp_path: Path, workspace: Workspace) -> None:
    source = write(tmp_path / "new", "1.png")
    add_files(labelled_files(source, "good").files, "screw", workspace)
    write(source, "2.png")
    assert add_files(labelled_files(source, "good").files, "screw", workspace) == AddedFiles(1, 1)


def test_images_go_to_the_folders_that_the_category_has_in_other_capitals(
    tmp_path: Path, workspace: Workspace
) -> None:
    write(workspace.data / "screw", "Train/OK/1.png", "Test/Scratch/1.png")
    good = write(tmp_path / "good", "2.png")
    add_files(labelled_files(good, "good").files, "screw", workspace)
    scratch = write(tmp_path / "scratch", "2.png")
    add_files(labelled_files(scratch, "scratch").files, "screw", workspace)
    assert contents(workspace.data / "screw").keys() == {
        *("Train/OK/1.png", "Train/OK/2.png", "Test/Scratch/1.png", "Test/Scratch/2.png"),
    }
    two = write(tmp_path / "two", "train/good/3.png", "test/SCRATCH/3.png", "test/scratch/3.png")
    with pytest.raises(LayoutError, match=r"would both become .*screw/Test/Scratch/3\.png; rename"):
        add_files(category_files(two).files, "screw", workspace)


def test_another_image_of_the_same_name_is_refused_and_nothing_is_added(
    tmp_path: Path, workspace: Workspace
) -> None:
    add_files(labelled_files(write(tmp_path / "old", "1.png"), "good").files, "screw", workspace)
    before = contents(workspace.data)
    source = write(tmp_path / "new", "0.png")
    (source / "1.png").write_text("other", encoding="utf-8")
    with pytest.raises(ImageError, match=r"same name \(train/good/1\.png\)\. Rename yours"):
        add_files(labelled_files(source, "good").files, "screw", workspace)
    assert contents(workspace.data) == before


@pytest.mark.parametrize("is_new", [True, False])
def test_nothing_is_added_if_one_file_cannot_be_copied(
    tmp_path: Path, workspace: Workspace, is_new: bool
) -> None:
    if not is_new:
        add_files(
            labelled_files(write(tmp_path / "old", "0.png"), "good").files, "screw", workspace
        )
    before = contents(workspace.root)
    files = labelled_files(write(tmp_path / "new", "1.png", "2.png"), "good").files
    (tmp_path / "new" / "2.png").unlink()
    with pytest.raises(ImageError, match=r"2\.png: cannot be read"):
        add_files(files, "screw", workspace)
    after = contents(workspace.root)
    assert after == before | {".dvc/tmp/stillwatch.lock": b""}


def test_a_category_needs_good_images_first(tmp_path: Path, workspace: Workspace) -> None:
    files = labelled_files(write(tmp_path / "bad", "1.png"), "scratch").files
    with pytest.raises(LayoutError, match="stillwatch add screw IMAGES --good"):
        add_files(files, "screw", workspace)
    assert not workspace.data.exists()


@pytest.mark.parametrize(
    ("names", "label", "said"),
    [
        ((), None, "no such folder"),
        (("1.png",), None, "has images, and nothing .* Add --good or --defect NAME"),
        (
            ("screw/train/good/1.png", "nut/normal/1.png"),
            None,
            r"several categories \(nut, screw\)",
        ),
        (("readme.txt",), None, r"has no folder with files, .* MVTec AD \(train/good\)"),
        (
            ("left/1.png", "right/2.png"),
            None,
            r"has the folders left, right, which fits no layout that is read: VisA \(Data/Images/"
            r"Normal\), MVTec LOCO AD \(validation/good\), BTAD \(train/ok\), anomalib's Folder "
            r"\(good or normal\), MVTec AD \(train/good\)\. .* --good or --defect NAME",
        ),
        (
            ("good/1.png", "bent/1.png", "cut/1.png", "mask/1.png"),
            None,
            r"mask/1\.png: may be the mask of an image of any of the folders bent, cut\. Sort",
        ),
        (("train/good/1.png", "train/OK/1.png"), None, "would both become train/good/1.png"),
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


VISA = (
    *(f"Data/Images/Normal/{number}.JPG" for number in range(4)),
    *("Data/Images/Anomaly/0.JPG", "Data/Masks/Anomaly/0.png", "image_anno.csv"),
)
MVTEC_LOCO = (
    *("train/good/0.png", "train/good/1.png", "validation/good/0.png", "test/good/0.png"),
    *("test/logical_anomalies/0.png", "test/structural_anomalies/0.png"),
    *(f"ground_truth/logical_anomalies/0/00{number}.png" for number in range(2)),
    "ground_truth/structural_anomalies/0/000.png",
)
BTAD = ("train/ok/0.bmp", "train/ok/1.bmp", "test/ok/2.bmp", "test/ko/0.bmp")


@pytest.mark.parametrize(
    ("names", "layout", "counts"),
    [
        (("train/good/0.png", "test/bent/0.png"), "MVTec AD", (1, 0, 1, 0)),
        (MVTEC_LOCO, "MVTec LOCO AD", (3, 1, 2, 2)),
        ((*BTAD, "ground_truth/ko/0.png"), "BTAD", (2, 1, 1, 1)),
        (
            VISA,
            "VisA without split_csv/1cls.csv, so all good images are learnt from",
            (4, 0, 1, 1),
        ),
        (
            ("normal/0.png", "normal_test/0.png", "abnormal/0.png", "mask/0.png"),
            "anomalib's Folder",
            (1, 1, 1, 1),
        ),
        (
            ("good/0.png", "colour/0.png", "crack/0.png", "mask/crack/0.png", "@eaDir/0.png"),
            "anomalib's Folder",
            (1, 0, 2, 1),
        ),
    ],
)
def test_each_layout_is_read_with_its_masks(
    tmp_path: Path,
    workspace: Workspace,
    names: tuple[str, ...],
    layout: str,
    counts: tuple[int, int, int, int],
) -> None:
    found = category_files(write(tmp_path / "images", *names))
    add_files(found.files, "part", workspace)
    assert (found.layout, found.left_out) == (layout, ())
    category = scan_category(workspace.data / "part")
    assert counts == (
        len(category.train_normals),
        len(category.test_normals),
        len(category.test_anomalies),
        sum(image.mask is not None for image in category.test_anomalies),
    )
    assert (category.stray_masks, category.unread_images) == ((), ())


def test_visa_is_divided_by_its_split_file(tmp_path: Path, workspace: Workspace) -> None:
    folder = write(tmp_path / "candle", *VISA)
    split = tmp_path / "split_csv" / "1cls.csv"
    split.parent.mkdir()
    split.write_text(
        "object,split,label,image,mask\n"
        "candle,train,normal,candle/Data/Images/Normal/0.JPG,\n"
        "candle,test,normal,candle/Data/Images/Normal/3.JPG,\n"
        "capsules,test,normal,capsules/Data/Images/Normal/1.JPG,\n"
        "candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png\n",
        encoding="utf-8",
    )
    found = category_files(folder)
    assert found.layout == "VisA, divided by split_csv/1cls.csv"
    add_files(found.files, "candle", workspace)
    assert contents(workspace.data / "candle").keys() == {
        *("train/good/0.JPG", "train/good/1.JPG", "train/good/2.JPG", "test/good/3.JPG"),
        *("test/anomaly/0.JPG", "ground_truth/anomaly/0.png"),
    }
    split.write_text("image\ncandle/Data/Images/Normal/3.JPG\n", encoding="utf-8")
    with pytest.raises(LayoutError, match=r"1cls\.csv: is not VisA's split file with the columns"):
        category_files(folder)


def test_the_masks_of_an_image_in_mvtec_loco_are_joined(
    tmp_path: Path, workspace: Workspace
) -> None:
    names = ("train/good/0.png", "validation/good/0.png", "test/logical_anomalies/0.png")
    source = write(tmp_path / "juice", *names)
    masks = source / "ground_truth" / "logical_anomalies" / "0"
    masks.mkdir(parents=True)
    for number in range(2):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[number, :3] = 255 - number  # LOCO numbers the kinds of defect by the value
        Image.fromarray(pixels).save(masks / f"00{number}.png")
    add_files(category_files(source).files, "juice", workspace)
    category = scan_category(workspace.data / "juice")
    mask = category.test_anomalies[0].mask
    assert mask is not None
    assert read_mask(category.folder / mask).sum() == 6


def test_images_without_a_place_in_the_layout_are_named(tmp_path: Path) -> None:
    names = ("train/good/0.png", "odd/1.png", "loose.png", "@eaDir/0.png", "notes.txt")
    assert category_files(write(tmp_path, *names)).left_out == ("loose.png", "odd/1.png")


@pytest.mark.parametrize("label", [None, "good"])
def test_links_to_a_pool_are_followed_only_if_asked(
    tmp_path: Path, workspace: Workspace, label: str | None
) -> None:
    pool = write(tmp_path / "pool", "1.png")
    source = tmp_path / "sets" / "screw"
    folder = source / "train" / "good" if label is None else source
    folder.mkdir(parents=True)
    (folder / "1.png").symlink_to(pool / "1.png")
    with pytest.raises(LayoutError, match=r"leaves the image set .* --follow-links"):
        category_files(source) if label is None else labelled_files(source, label)
    found = (
        category_files(source, follow_links=True)
        if label is None
        else labelled_files(source, label, follow_links=True)
    )
    add_files(found.files, "screw", workspace)
    added = workspace.data / "screw" / "train" / "good" / "1.png"
    assert not added.is_symlink()
    assert added.read_bytes() == b"1.png"
