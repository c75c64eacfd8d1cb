import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillwatch.errors import LayoutError
from stillwatch.images.layout import (
    ImageFile,
    category_folders,
    check_category_name,
    check_defect_type,
    is_feedback,
    refused_by_windows,
    scan_category,
    unsafe_name,
)

MakeCategory = Callable[..., Path]


def test_a_category_is_scanned_in_a_fixed_order(make_category: MakeCategory) -> None:
    category = scan_category(make_category("bolt", train=2, test=1, anomalies=1))
    assert category.name == "bolt"
    assert category.images == (
        ImageFile("test/good/000.png", "test", "good", None),
        ImageFile("test/scratch/000.png", "test", "scratch", "ground_truth/scratch/000_mask.png"),
        ImageFile("train/good/000.png", "train", "good", None),
        ImageFile("train/good/001.png", "train", "good", None),
    )
    assert [image.path for image in category.train_normals] == [
        "train/good/000.png",
        "train/good/001.png",
    ]
    assert [image.path for image in category.test_normals] == ["test/good/000.png"]
    assert [image.path for image in category.test_anomalies] == ["test/scratch/000.png"]


def test_the_files_of_a_region_are_found_and_are_no_images(make_category: MakeCategory) -> None:
    folder = make_category(train=1, test=1, anomalies=0)
    without = scan_category(folder)
    assert without.region_files == ()
    (folder / "ignore.png").touch()
    assert scan_category(folder).region_files == ("ignore.png",)
    (folder / "region.png").touch()
    found = scan_category(folder)
    assert found.region_files == ("region.png", "ignore.png")
    assert found.images == without.images


def test_a_region_may_not_be_a_link_out_of_the_image_set(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    folder = make_category(train=1, test=0, anomalies=0)
    (tmp_path / "elsewhere.png").touch()
    (folder / "region.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(LayoutError, match=r"region\.png: leaves the image set"):
        scan_category(folder)


def test_corrected_images_are_to_learn_from_or_a_split_of_their_own(
    make_category: MakeCategory,
) -> None:
    folder = make_category(train=1, test=0, anomalies=1)
    for place in ("good/a.png", "ok/b.png", "scratch/000.png"):
        (folder / "feedback" / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / "feedback" / place).touch()
    category = scan_category(folder)
    assert category.images == (
        ImageFile("feedback/good/a.png", "train", "good", None),
        ImageFile("feedback/ok/b.png", "train", "good", None),
        ImageFile("feedback/scratch/000.png", "feedback", "scratch", None),
        ImageFile("test/scratch/000.png", "test", "scratch", "ground_truth/scratch/000_mask.png"),
        ImageFile("train/good/000.png", "train", "good", None),
    )
    assert [image.path for image in category.test_anomalies] == ["test/scratch/000.png"]
    assert [is_feedback(image.path) for image in category.images] == [True] * 3 + [False] * 2


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/a", "a/", "-x", "a:b", "a\n"])
def test_names_that_no_defect_type_may_have(name: str) -> None:
    with pytest.raises(LayoutError, match="defect type"):
        check_defect_type(name)
    check_defect_type("Kratzer 2")


def test_ok_is_good(make_category: MakeCategory) -> None:
    category = scan_category(make_category(good="ok", train=1, test=1, anomalies=0))
    assert category.images == (
        ImageFile("test/ok/000.png", "test", "good", None),
        ImageFile("train/ok/000.png", "train", "good", None),
    )


def test_a_mask_may_have_the_images_own_name(make_category: MakeCategory) -> None:
    folder = make_category(anomalies=2)
    masks = folder / "ground_truth" / "scratch"
    (masks / "000_mask.png").rename(masks / "000.png")
    (masks / "001_mask.png").unlink()
    found = [image.mask for image in scan_category(folder).test_anomalies]
    assert found == ["ground_truth/scratch/000.png", None]


def test_a_mask_of_a_normal_is_reported(make_category: MakeCategory) -> None:
    folder = make_category(test=1)
    (folder / "ground_truth" / "good").mkdir()
    (folder / "ground_truth" / "good" / "000_mask.png").touch()
    assert scan_category(folder).test_normals[0].mask == "ground_truth/good/000_mask.png"


def test_whatever_lies_among_the_images_is_listed(make_category: MakeCategory) -> None:
    folder = make_category(train=1)
    images = folder / "train" / "good"
    for name in ("001.PNG", "animation.gif", "data.npy", ".hidden.png"):
        (images / name).touch()
    found = [Path(image.path).name for image in scan_category(folder).train_normals]
    assert found == ["000.png", "001.PNG", "animation.gif", "data.npy"]


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir",
        "#recycle",
        "__MACOSX",
        "$RECYCLE.BIN",
        "lost+found",
        "Thumbs.db",
        "desktop.ini",
        "Icon\r",
        "000.json",
        "labels.TXT",
        "000.xml",
        "set.csv",
    ],
)
@pytest.mark.parametrize("place", ["train/good", "test/scratch", "ground_truth/scratch", "test"])
def test_files_of_other_programs_are_left_out_and_named(
    make_category: MakeCategory, name: str, place: str
) -> None:
    folder = make_category(train=1, test=1, anomalies=1)
    before = scan_category(folder)
    if "." in name or "\r" in name:
        (folder / place / name).touch()
    else:
        (folder / place / name).mkdir()
        (folder / place / name / "000.png").touch()
    (folder / "readme.txt").touch()  # the data sets of MVTec have one: no image is meant
    category = scan_category(folder)
    assert category.images == before.images
    assert category.litter == (f"{place}/{name}",)


@pytest.mark.parametrize("place", ["train/good/monday", "TRAIN/Good/line 2/shift_1", "train/ok/a"])
def test_sub_folders_of_images_are_read(make_category: MakeCategory, place: str) -> None:
    folder = make_category(train=1, test=0, anomalies=1)
    (folder / place).mkdir(parents=True)
    (folder / place / "x.png").touch()
    deep = folder / "test/scratch/deep"
    deep.mkdir()
    (deep / "000.png").touch()
    (folder / "ground_truth/scratch/deep").mkdir()
    (folder / "ground_truth/scratch/deep/000_mask.png").touch()
    category = scan_category(folder)
    assert f"{place}/x.png" in [image.path for image in category.train_normals]
    assert {image.path: image.mask for image in category.test_anomalies} == {
        "test/scratch/000.png": "ground_truth/scratch/000_mask.png",
        "test/scratch/deep/000.png": "ground_truth/scratch/deep/000_mask.png",
    }


@pytest.mark.parametrize(
    "place", ["train/scratch", "train/NG", "train/good/NG", "test/good/Scratch", "test/scratch/ok"]
)
def test_folders_that_say_both_good_and_not_good(make_category: MakeCategory, place: str) -> None:
    folder = make_category()
    (folder / place).mkdir()
    (folder / place / "x.png").touch()
    with pytest.raises(LayoutError, match=f"{place}: .*move"):
        scan_category(folder)


@pytest.mark.parametrize("train", ["train/good", "train/OK", "Train/Good", "TRAIN/Ok"])
@pytest.mark.parametrize("good", ["test/good", "test/OK", "Test/GOOD"])
@pytest.mark.parametrize("bad", ["test/NG", "test/Scratch", "Test/defect"])
def test_capitals_do_not_matter(tmp_path: Path, train: str, good: str, bad: str) -> None:
    folder = tmp_path / "set" / "bolt"
    mask = f"Ground_Truth/{Path(bad).name.lower()}/000_mask.png"
    for path in (f"{train}/000.png", f"{good}/000.png", f"{bad}/000.png", mask):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    assert set(category_folders(folder.parent)) == {"bolt"}
    category = scan_category(folder)
    assert [image.path for image in category.train_normals] == [f"{train}/000.png"]
    assert [image.path for image in category.test_normals] == [f"{good}/000.png"]
    (anomaly,) = category.test_anomalies
    assert (anomaly.path, anomaly.mask) == (f"{bad}/000.png", mask)
    assert anomaly.defect_type == Path(bad).name


@pytest.mark.parametrize(
    "mask",
    [
        "000_GT.png",
        "000_mask.JPG",
        "000_MASK.PNG",
        "000-label.bmp",
        "000.bmp",
        "000 seg.tif",
        "masks/000.png",
        "000/0.png",
        "000/000.png",
    ],
)
def test_names_of_masks(make_category: MakeCategory, mask: str) -> None:
    folder = make_category(anomalies=1)
    masks = folder / "ground_truth" / "scratch"
    (masks / mask).parent.mkdir(exist_ok=True)
    (masks / "000_mask.png").rename(masks / mask)
    category = scan_category(folder)
    found = Path(mask).parent if mask.startswith("000/") else mask
    assert category.test_anomalies[0].mask == f"ground_truth/scratch/{found}"
    assert category.stray_masks == ()


def test_names_of_masks_may_compose_their_accents_otherwise(make_category: MakeCategory) -> None:
    folder = make_category(anomalies=0)
    for path in ("test/scho\u0308n/\xfc.png", "ground_truth/sch\xf6n/u\u0308_mask.png"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).touch()
    category = scan_category(folder)
    assert category.test_anomalies[0].mask == "ground_truth/sch\xf6n/u\u0308_mask.png"
    assert category.stray_masks == ()


@pytest.mark.parametrize("mask", ["000_GT.png", "000_mask.png", "000_label.bmp", "masks/000.png"])
@pytest.mark.parametrize("place", ["test/scratch", "test/good", "train/good"])
def test_masks_beside_their_images(make_category: MakeCategory, mask: str, place: str) -> None:
    folder = make_category(train=1, test=1, anomalies=1)
    (folder / "ground_truth/scratch/000_mask.png").unlink()
    images = [image.path for image in scan_category(folder).images]
    (folder / place / mask).parent.mkdir(exist_ok=True)
    (folder / place / mask).touch()
    category = scan_category(folder)
    assert [image.path for image in category.images] == images
    masks = {image.path: image.mask for image in category.images if image.mask}
    assert masks == {f"{place}/000.png": f"{place}/{mask}"}


def test_an_image_named_like_a_mask_of_no_image_stays_an_image(make_category: MakeCategory) -> None:
    folder = make_category(anomalies=1)
    (folder / "test/scratch/bottle_label.png").touch()
    category = scan_category(folder)
    assert category.test_anomalies[1].path == "test/scratch/bottle_label.png"
    assert category.stray_masks == ()


@pytest.mark.parametrize(
    "mask",
    [
        *("ground_truth/scratch/7_mask.png", "ground_truth/dent/000_mask.png"),
        *("ground_truth/000.png", "ground_truth/scratch/000_gt.png", "test/good/masks/9.png"),
        *("ground_truth/scratch/000x.png", "ground_truth/scratch/001_mask.gif"),
    ],
)
def test_masks_that_fit_no_image_or_are_a_second_one(
    make_category: MakeCategory, mask: str
) -> None:
    folder = make_category(anomalies=1)
    (folder / mask).parent.mkdir(exist_ok=True)
    (folder / mask).touch()
    assert len(scan_category(folder).stray_masks) == 1


def test_a_mask_that_fits_two_images_is_of_neither(make_category: MakeCategory) -> None:
    folder = make_category(anomalies=1)
    (folder / "test/scratch/000.jpg").touch()
    category = scan_category(folder)
    assert [image.mask for image in category.test_anomalies] == [None, None]
    assert category.stray_masks == ("ground_truth/scratch/000_mask.png",)


@pytest.mark.parametrize(
    "path", ["x.png", "train/x.PNG", "test/x.jpg", "validation/good/x.tif", "feedback/x.bmp"]
)
def test_images_in_folders_that_are_not_read_are_named(
    make_category: MakeCategory, path: str
) -> None:
    folder = make_category()
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).touch()
    assert scan_category(folder).unread_images == (path,)


def test_an_image_set_is_its_folders_with_train(make_category: MakeCategory) -> None:
    root = make_category("screw").parent
    make_category("bolt")
    (root / "licenses").mkdir()
    (root / ".cache" / "train").mkdir(parents=True)
    (root / "readme.txt").touch()
    assert category_folders(root) == {"bolt": root / "bolt", "screw": root / "screw"}


def test_the_root_may_be_a_link(make_category: MakeCategory, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(make_category("bolt").parent)
    (folder,) = category_folders(tmp_path / "link").values()
    assert scan_category(folder).name == "bolt"


@pytest.mark.parametrize("content", ["nothing", "no train", "empty train", "no images"])
def test_an_empty_category(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "bolt"
    folder.mkdir()
    if content != "nothing":
        (folder / ("test" if content == "no train" else "train") / "good").mkdir(parents=True)
    if content == "no images":
        (folder / "train" / "good" / "readme.txt").touch()
    with pytest.raises(LayoutError, match=r"bolt/train: no images of good parts; put .*train/good"):
        scan_category(folder)


@pytest.mark.parametrize("root", ["missing", "empty"])
def test_a_root_without_categories(tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayoutError, match=r"no category found; it needs"):
        category_folders(tmp_path / root)


def test_a_category_taken_for_a_root_is_told_so(make_category: MakeCategory) -> None:
    folder = make_category("bolt")
    with pytest.raises(LayoutError, match=r"itself a category, so name its parent folder .*/set\."):
        category_folders(folder)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("../x", "x"),
        ("..", "part-1"),
        ("", "part-1"),
        ("Bracket 7", "bracket-7"),
        ("a/b", "a-b"),
        ("bolt\n", "bolt"),
        ("größe", "gr-e"),
    ],
)
def test_names_that_no_category_may_have(name: str, allowed: str) -> None:
    with pytest.raises(LayoutError, match=rf"Name it '{allowed}', for example\.$"):
        check_category_name(name)
    check_category_name(allowed)


def test_a_folder_with_such_a_name_stops_no_other(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    root = make_category("Bolt 1").parent
    make_category("nut")
    (root / "away").symlink_to(tmp_path)
    folders = category_folders(root)
    assert set(folders) == {"Bolt 1", "nut"}
    assert scan_category(folders["nut"]).images
    with pytest.raises(LayoutError, match="category 'Bolt 1'"):
        scan_category(folders["Bolt 1"])


def test_what_is_no_file(make_category: MakeCategory) -> None:
    folder = make_category()
    os.mkfifo(folder / "train" / "good" / "pipe.png")
    with pytest.raises(LayoutError, match=r"pipe\.png: not a regular file"):
        scan_category(folder)


@pytest.mark.parametrize(
    "place",
    [
        "train/good/x.png",
        "test/good/x.png",
        "ground_truth/scratch/x_mask.png",
        "test/crack",
        "ground_truth/good",
    ],
)
def test_a_link_that_leaves_the_image_set(
    make_category: MakeCategory, tmp_path: Path, place: str
) -> None:
    folder = make_category()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.png").touch()
    target = outside if "." not in place else outside / "x.png"
    (folder / place).symlink_to(target)
    with pytest.raises(LayoutError, match="leaves the image set"):
        scan_category(folder)


@pytest.mark.parametrize("moved", ["train", "test", "ground_truth", "."])
def test_a_folder_that_is_a_link_out_of_the_image_set(
    make_category: MakeCategory, tmp_path: Path, moved: str
) -> None:
    folder = make_category()
    (folder / moved).resolve().rename(tmp_path / "outside")
    (folder / moved if moved != "." else folder).symlink_to(tmp_path / "outside")
    with pytest.raises(LayoutError, match="leaves the image set"):
        scan_category(folder)


def test_links_inside_the_image_set_are_followed(make_category: MakeCategory) -> None:
    first = make_category("bolt")
    second = make_category("nut", train=1)
    (second / "train" / "good" / "x.png").symlink_to(first / "train" / "good" / "000.png")
    (second / "test" / "dent").symlink_to("../../bolt/test/scratch")
    category = scan_category(second)
    assert category.train_normals[-1].path == "train/good/x.png"
    assert {image.defect_type for image in category.test_anomalies} == {"scratch", "dent"}


def test_a_link_to_nothing(make_category: MakeCategory) -> None:
    folder = make_category()
    (folder / "train" / "good" / "x.png").symlink_to("gone.png")
    (folder / "test" / "good" / "loop.png").symlink_to("loop.png")
    with pytest.raises(LayoutError, match=r"loop\.png: a symbolic link to nothing"):
        scan_category(folder)
    (folder / "test" / "good" / "loop.png").unlink()
    with pytest.raises(LayoutError, match=r"x\.png: a symbolic link to nothing"):
        scan_category(folder)


def test_files_that_dvc_linked_to_its_cache_are_read(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    folder = make_category(train=1)
    cached = tmp_path / "cache/files/md5/d8" / ("0" * 30)
    cached.parent.mkdir(parents=True)
    (folder / "train/good/000.png").rename(cached)
    (folder / "train/good/000.png").symlink_to(cached)
    assert [image.path for image in scan_category(folder).train_normals] == ["train/good/000.png"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("train/good/a\nb.png", "control"),
        ("train/good/a\x7f.png", "control"),
        ("train/good/a\u202eb.png", "invisible"),
        ("train/good/a\udcff.png", "UTF-8"),
        ("train/good/-rf.png", "dash"),
        ("test/-x/000.png", "dash"),
        ("train/good/ a.png", "space"),
        ("train/good/a.png ", "space"),
        ("train/good/a.", "dot"),
        ("train/good/a|b.png", r"character \|"),
        ("train/good/a\\b.png", r"character \\"),
    ],
)
def test_unsafe_names(path: str, reason: str) -> None:
    assert re.search(reason, unsafe_name(path) or "")


def test_a_colon_is_refused_by_windows_only() -> None:
    assert unsafe_name("train/good/12:30.png") is None
    assert refused_by_windows("train/good/12:30.png") == "has a colon, which Windows refuses"
    assert refused_by_windows("train/good/12.30.png") is None


@pytest.mark.parametrize("path", ["train/good/000.png", "test/größe/Teil 7 (2).jpeg", "a/b-c.tif"])
def test_safe_names(path: str) -> None:
    assert unsafe_name(path) is None


@given(name=st.text("abcXYZ019_.-", max_size=20))
def test_plain_names_are_safe(name: str) -> None:
    assert unsafe_name(f"train/good/a{name}.png") is None


def test_a_file_name_that_is_not_utf_8(make_category: MakeCategory) -> None:
    folder = make_category(train=1)
    (folder / "train" / "good" / os.fsdecode(b"\xff.png")).touch()
    with pytest.raises(LayoutError, match=r"\\udcff\.png: the name is not valid UTF-8"):
        scan_category(folder)
