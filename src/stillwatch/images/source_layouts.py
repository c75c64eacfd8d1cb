"""Map the files of a folder of images, in one of several layouts, to the MVTec layout.

The layouts are those of public data sets and of anomalib:

* MVTec AD: Bergmann et al., "The MVTec Anomaly Detection Dataset" (IJCV 2021)
* MVTec LOCO AD: Bergmann et al., "Beyond Dents and Scratches" (IJCV 2022)
* BTAD: Mishra et al., "VT-ADL" (ISIE 2021)
* VisA: Zou et al., "SPot-the-Difference" (ECCV 2022)
* anomalib's data module ``Folder``: a folder of good parts, beside it one folder per defect type

Only names are read, no image. Capitals do not matter.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from stillwatch.errors import LayoutError
from stillwatch.images.layout import (
    IGNORE_FILE,
    IMAGE_SUFFIXES,
    REGION_FILE,
    check_defect_type,
    is_litter,
    is_normal_folder,
    visible_files,
)
from stillwatch.images.mask_names import folded, is_mask_folder, separate_masks
from stillwatch.text import some_of

_SECTIONS = ("train", "test", "ground_truth")
_VISA_NORMALS = ("data", "images", "normal")
_VISA_SPLIT = Path("split_csv", "1cls.csv")
_TEST_NORMALS = {"normal_test", "good_test", "ok_test"}

_Targets = Iterator[tuple[str, str]]
"""Path in the source folder, path in the category's folder; both POSIX."""


@dataclass(frozen=True)
class SourceFiles:
    """What a folder of images becomes in a category."""

    layout: str
    """The layout's name, for people."""
    files: Mapping[str, Path]
    """POSIX path in the category's folder, as in ``images.layout`` -> file."""
    left_out: tuple[str, ...] = ()
    """Images for which the layout has no place; POSIX, relative to the folder."""


def category_files(folder: Path, *, follow_links: bool = False) -> SourceFiles:
    """Find the layout of a folder with one category.

    Args:
        folder: of one category.
        follow_links: symbolic links may lead out of the folder above ``folder``.

    Raises:
        LayoutError: the folder is not there, has no known layout, two of its files would get the
            same path, or as ``images.layout.visible_files``.
    """
    _ensure_folder(folder)
    source = folder.resolve()
    paths = list(visible_files(source, None if follow_links else source.parent))
    name, targets = _recognised(source, paths)
    if not targets:
        raise LayoutError(f"{folder}: {_other_layout(source, paths)}")
    targets += [(path, path) for path in paths if path in (REGION_FILE, IGNORE_FILE)]
    return SourceFiles(name, _by_target(source, targets), _left_out(paths, targets))


def labelled_files(
    folder: Path, label: str, *, to_test: bool = False, follow_links: bool = False
) -> SourceFiles:
    """Take all images of a folder for images with one label.

    Args:
        folder: images; a mask may lie beside its image (``images.mask_names``).
        label: ``good``, or a defect type.
        to_test: good images are only tested with, and not learnt from; others always are.
        follow_links: symbolic links may lead out of the folder above ``folder``.

    Raises:
        LayoutError: the folder is not there, has folders in it or no image, the label is not
            allowed as a defect type, or as ``images.layout.visible_files``.
    """
    if label != "good":
        _check_defect_type(label)
    _ensure_folder(folder)
    source = folder.resolve()
    paths = list(visible_files(source, None if follow_links else source.parent))
    inner = _inner_folders(paths)
    if inner:
        raise LayoutError(
            f"{folder}: has folders in it ({some_of(inner)}). Name the folder that holds the "
            "images."
        )
    section = "train" if label == "good" and not to_test else "test"
    files = {f"{section}/{label}/{path}": source / path for path in paths if _is_image(path)}
    if not files:
        raise LayoutError(
            f"{folder}: holds no image. Images end in {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    for mask in separate_masks(list(files))[1]:
        files[mask.replace(section, "ground_truth", 1)] = files.pop(mask)
    return SourceFiles(f"images of one folder, all with the label {label}", files)


class _Layout(NamedTuple):
    name: str
    known_by: str
    """The folder by which a person knows the layout."""
    read: Callable[[Path, list[str]], _Targets]
    """Folder of a category, paths of its files -> targets; none if the layout is another one."""
    remark: str = ""


def _recognised(folder: Path, paths: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The name of a folder's layout, and its targets, which are none if the layout is unknown."""
    for layout in _LAYOUTS:
        targets = list(layout.read(folder, paths))
        if targets:
            return layout.name + layout.remark, targets
    return "", []


def _divided_visa(folder: Path, paths: list[str]) -> _Targets:
    tested = _test_normals_of_visa(folder) if any(_below(paths, *_VISA_NORMALS)) else set()
    return _visa(paths, tested) if tested else iter(())


def _undivided_visa(_folder: Path, paths: list[str]) -> _Targets:
    return _visa(paths, set()) if any(_below(paths, *_VISA_NORMALS)) else iter(())


def _visa(paths: list[str], tested: set[str]) -> _Targets:
    """``tested`` has the names of the good images that are only tested with."""
    for path, name in _below(paths, *_VISA_NORMALS):
        yield path, f"{'test' if name in tested else 'train'}/good/{name}"
    for path, name in _below(paths, "data", "images", "anomaly"):
        yield path, f"test/anomaly/{name}"
    for path, name in _below(paths, "data", "masks", "anomaly"):
        yield path, f"ground_truth/anomaly/{name}"


def _test_normals_of_visa(folder: Path) -> set[str]:
    """The names of the good test images in VisA's split file; none without the file."""
    file = folder.parent / _VISA_SPLIT
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            return {
                PurePosixPath(row["image"]).name
                for row in csv.DictReader(lines)
                if (row["object"], row["split"], row["label"]) == (folder.name, "test", "normal")
            }
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError) as error:
        raise LayoutError(
            f"{file}: is not VisA's split file with the columns object, split, label and image. "
            "Restore it, or remove it: all good images are then learnt from."
        ) from error


def _mvtec_loco(folder: Path, paths: list[str]) -> _Targets:
    # In a folder of its own, as its files have the names of other files in train/good.
    validation = [
        (path, f"train/good/validation/{below}")
        for path, below in _below(paths, "validation", "good")
    ]
    return iter([*_mvtec_ad(folder, paths), *validation] if validation else [])


def _btad(folder: Path, paths: list[str]) -> _Targets:
    is_btad = any(_below(paths, "train", "ok")) and any(_below(paths, "test", "ko"))
    return _mvtec_ad(folder, paths) if is_btad else iter(())


def _mvtec_ad(_folder: Path, paths: list[str]) -> _Targets:
    for section in _SECTIONS:
        for path, below in _below(paths, section):
            label, slash, rest = below.partition("/")
            is_normal = bool(slash) and is_normal_folder(label)
            yield path, f"{section}/{'good' if is_normal else label}{slash}{rest}"


def _anomalib_folder(folder: Path, paths: list[str]) -> _Targets:
    """The folders beside the good parts are defect types, apart from tested normals and masks."""
    tops = set(_inner_folders(paths))
    normals = {top for top in tops if _is_normal(top)}
    if not normals or {folded(top) for top in tops} & {"train", "test"}:
        return
    tested = {top for top in tops if folded(top) in _TEST_NORMALS}
    masks = {top for top in tops if is_mask_folder(top)}
    defects = tops - normals - tested - masks
    for path in paths:
        top, slash, below = path.partition("/")
        if not slash:
            continue
        if top in normals:
            yield path, f"train/good/{below}"
        elif top in tested:
            yield path, f"test/good/{below}"
        elif top in defects:
            yield path, f"test/{top}/{below}"
        elif top in masks and defects and not _is_normal(below.partition("/")[0]):
            yield path, f"ground_truth/{_with_defect(folder / top, below, defects)}"


def _with_defect(masks: Path, below: str, defects: set[str]) -> str:
    """The path of a mask, which begins with its defect type.

    Raises:
        LayoutError: there are several types, and the mask is in no folder of one of them.
    """
    first, slash, _ = below.partition("/")
    if slash and folded(first) in map(folded, defects):
        return below
    if len(defects) == 1:
        return f"{min(defects)}/{below}"
    named = some_of(sorted(defects))
    raise LayoutError(
        f"{masks / below}: may be the mask of an image of any of the folders {named}. Sort the "
        f"masks into folders of these names inside {masks}."
    )


_LAYOUTS = (
    _Layout("VisA", "Data/Images/Normal", _divided_visa, f", divided by {_VISA_SPLIT}"),
    _Layout(
        "VisA",
        "Data/Images/Normal",
        _undivided_visa,
        f" without {_VISA_SPLIT}, so all good images are learnt from",
    ),
    _Layout("MVTec LOCO AD", "validation/good", _mvtec_loco),
    _Layout("BTAD", "train/ok", _btad),
    _Layout("anomalib's Folder", "good or normal", _anomalib_folder),
    _Layout("MVTec AD", "train/good", _mvtec_ad),
)
"""The first layout that finds files is the layout of a folder."""


def _below(paths: Iterable[str], *folders: str) -> Iterator[tuple[str, str]]:
    """The paths in a folder, and what of each is below the folder; ``folders`` are folded."""
    for path in paths:
        parts = PurePosixPath(path).parts
        above, below = parts[: len(folders)], parts[len(folders) :]
        if below and tuple(map(folded, above)) == folders:
            yield path, "/".join(below)


def _inner_folders(paths: Iterable[str]) -> list[str]:
    """The folders that lie directly in the source folder, sorted, without those of the system."""
    tops = {path.partition("/")[0] for path in paths if "/" in path}
    return sorted(top for top in tops if not is_litter(top))


def _by_target(source: Path, targets: list[tuple[str, str]]) -> dict[str, Path]:
    counts = Counter(target for _, target in targets)
    doubled, count = counts.most_common(1)[0]
    if count > 1:
        first, second = sorted(path for path, target in targets if target == doubled)[:2]
        raise LayoutError(
            f"{source}: {first} and {second} would both become {doubled}; rename one of them."
        )
    return {target: source / path for path, target in targets}


def _left_out(paths: list[str], targets: list[tuple[str, str]]) -> tuple[str, ...]:
    taken = {path for path, _ in targets}
    return tuple(sorted(path for path in paths if _is_image(path) and path not in taken))


def _is_image(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES and not any(
        map(is_litter, PurePosixPath(path).parts)
    )


def _is_normal(folder_name: str) -> bool:
    return is_normal_folder(folder_name) or folded(folder_name) == "normal"


def _ensure_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise LayoutError(f"{folder}: no such folder. Name a folder of images.")


def _check_defect_type(label: str) -> None:
    if is_normal_folder(label):
        raise LayoutError(f"defect type {label!r}: is the name for good parts, which --good adds.")
    check_defect_type(label)


def _other_layout(folder: Path, paths: list[str]) -> str:
    """What a folder without a known layout has, and what to do."""
    inner = _inner_folders(paths)
    categories = [
        name
        for name in inner
        if _recognised(folder / name, [below for _, below in _below(paths, folded(name))])[1]
    ]
    if categories:
        return f"holds several categories ({some_of(categories)}). Name the folder of one of them."
    if not inner and any(map(_is_image, paths)):
        return "has images, and nothing that says what they show. Add --good or --defect NAME."
    seen = f"the folders {some_of(inner)}" if inner else "no folder with files"
    known = ", ".join(dict.fromkeys(f"{one.name} ({one.known_by})" for one in _LAYOUTS))
    return (
        f"has {seen}, which fits no layout that is read: {known}. For a folder of images that all "
        "show the same, add --good or --defect NAME."
    )
