import hashlib
import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillwatch.errors import SettingsError, SplitError
from stillwatch.images.split import (
    PARTS,
    assign,
    group_of,
    part_of,
    read_split_file,
    write_split_file,
)
from stillwatch.settings import SplitSettings

DEFAULTS = SplitSettings()
GROUPED = SplitSettings(group_pattern=r"^(s\d+)_")


def md5(content: object) -> str:
    return hashlib.md5(str(content).encode(), usedforsecurity=False).hexdigest()


def normals(first: int, last: int) -> dict[str, str]:
    return {f"train/good/{index:05}.png": md5(index) for index in range(first, last)}


def sizes(assignment: dict[str, str]) -> tuple[int, ...]:
    counts = Counter(assignment.values())
    return tuple(counts[part] for part in PARTS)


@pytest.mark.parametrize(
    ("count", "alpha", "expected"),
    [
        (320, 0.05, (224, 32, 64)),
        (80, 0.05, (53, 8, 19)),
        (30, 0.15, (21, 3, 6)),
        (30, 0.05, (8, 3, 19)),
        (3, 0.05, (0, 0, 3)),
        (0, 0.05, (0, 0, 0)),
    ],
)
def test_sizes_of_a_first_assignment(count: int, alpha: float, expected: tuple[int, ...]) -> None:
    result = assign({}, normals(0, count), settings=DEFAULTS, smallest_alpha=alpha)
    assert sizes(result) == expected


histories = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 120)), min_size=1, max_size=5)
"""What lies in train/good at each version: a range of images, as (first, how many)."""


@given(
    history=histories,
    alpha=st.sampled_from([0.02, 0.05, 0.1, 0.15, 0.5]),
    calibration=st.sampled_from([0.1, 0.2, 0.35]),
    validation=st.sampled_from([0.05, 0.1, 0.3]),
)
def test_old_assignments_stay_and_new_images_restore_the_shares(
    history: list[tuple[int, int]], alpha: float, calibration: float, validation: float
) -> None:
    shares = SplitSettings(calibration_share=calibration, validation_share=validation)
    assigned: dict[str, str] = {}
    for first, count in history:
        images = normals(first, first + count)
        result = assign(assigned, images, settings=shares, smallest_alpha=alpha)
        assert assigned.items() <= result.items()
        assert result.keys() == assigned.keys() | set(images.values())
        new = [one for one in images.values() if one not in assigned]
        before = Counter(assigned[one] for one in images.values() if one in assigned)
        after = Counter(result[one] for one in images.values())
        wanted = max(math.ceil(round(calibration * count, 6)), math.ceil(round(1 / alpha, 6)) - 1)
        short = max(0, wanted - before["calibration"])
        assert after["calibration"] - before["calibration"] == min(short, len(new))
        wanted = math.ceil(round(validation * count, 6))
        rest = len(new) - min(short, len(new))
        short = max(0, wanted - before["validation"])
        assert after["validation"] - before["validation"] == min(short, rest)
        assigned = result


def test_shares_are_the_decimal_numbers_that_were_written() -> None:
    shares = SplitSettings(calibration_share=0.07, validation_share=0.14)  # binary: 8 and 15
    result = assign({}, normals(0, 100), settings=shares, smallest_alpha=0.5)
    assert sizes(result) == (79, 14, 7)


@given(order=st.randoms(use_true_random=False), count=st.integers(0, 80))
def test_order_and_names_of_the_files_do_not_matter(order: random.Random, count: int) -> None:
    images = list(normals(0, count).items())
    expected = assign({}, dict(images), settings=DEFAULTS, smallest_alpha=0.1)
    order.shuffle(images)
    assert assign({}, dict(images), settings=DEFAULTS, smallest_alpha=0.1) == expected
    renamed = {f"train/ok/{index}.bmp": one for index, (_, one) in enumerate(images)}
    assert assign({}, renamed, settings=DEFAULTS, smallest_alpha=0.1) == expected


@given(copies=st.integers(0, 40))
def test_exact_duplicates_count_once(copies: int) -> None:
    images = normals(0, 80)
    expected = assign({}, images, settings=DEFAULTS, smallest_alpha=0.05)
    images |= {f"train/good/copy{index}.png": md5(index) for index in range(copies)}
    assert assign({}, images, settings=DEFAULTS, smallest_alpha=0.05) == expected
    parts = part_of(images, expected)
    assert Counter(parts.values())["duplicate"] == copies


def test_of_duplicates_the_first_path_has_the_part() -> None:
    images = {"train/good/b.png": md5(1), "train/good/a.png": md5(1), "train/good/c.png": md5(2)}
    assert part_of(images, {md5(1): "calibration"}) == {
        "train/good/a.png": "calibration",
        "train/good/b.png": "duplicate",
        "train/good/c.png": "unassigned",
    }


def corrected(first: int, last: int) -> dict[str, str]:
    return {path.replace("train", "feedback"): one for path, one in normals(first, last).items()}


@given(
    history=histories,
    feedback=st.lists(st.tuples(st.integers(200, 230), st.integers(0, 40)), max_size=5),
    alpha=st.sampled_from([0.02, 0.1, 0.5]),
)
def test_corrected_normals_come_into_train_and_change_nothing_for_the_others(
    history: list[tuple[int, int]], feedback: list[tuple[int, int]], alpha: float
) -> None:
    alone: dict[str, str] = {}
    assigned: dict[str, str] = {}
    seen: set[str] = set()
    for (first, count), (start, more) in itertools.zip_longest(
        history, feedback, fillvalue=(200, 0)
    ):
        collected, added = normals(first, first + count), corrected(start, start + more)
        alone = assign(alone, collected, settings=DEFAULTS, smallest_alpha=alpha)
        assigned = assign(assigned, collected | added, settings=DEFAULTS, smallest_alpha=alpha)
        seen |= set(added.values()) - alone.keys()
        assert assigned == dict.fromkeys(seen, "train") | alone


def test_what_lies_in_train_and_was_corrected_too_is_only_trained_on() -> None:
    both = normals(0, 40) | corrected(0, 40)
    result = assign({}, both, settings=DEFAULTS, smallest_alpha=0.1)
    assert sizes(result) == (40, 0, 0)


def test_a_corrected_normal_of_a_group_waits_until_the_group_is_in_train() -> None:
    images = grouped([3, 3])
    assigned = {one: "train" if "s1" in path else "calibration" for path, one in images.items()}
    feedback = {
        f"feedback/good/{name}.png": md5(name) for name in ("s0_new", "s1_new", "s7_new", "other")
    }
    result = assign(assigned, images | feedback, settings=GROUPED, smallest_alpha=0.1)
    assert result == assigned | {md5("s1_new"): "train", md5("other"): "train"}
    assert part_of(feedback, result)["feedback/good/s7_new.png"] == "unassigned"
    later = {f"train/good/s7_{index}.png": md5(("s7", index)) for index in range(2)}
    grown = assign(result, images | feedback | later, settings=GROUPED, smallest_alpha=0.5)
    homes = {grown[one] for one in later.values()}
    assert grown.get(md5("s7_new")) == ("train" if homes == {"train"} else None)
    assert md5("s0_new") not in grown


group_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=25)


def grouped(counts: list[int], start: int = 0) -> dict[str, str]:
    return {
        f"train/good/s{group}_{start + index}.png": md5((group, start + index))
        for group, count in enumerate(counts)
        for index in range(count)
    }


@settings(max_examples=60)
@given(before=group_sizes, added=group_sizes, order=st.randoms(use_true_random=False))
def test_groups_stay_together_also_when_they_grow(
    before: list[int], added: list[int], order: random.Random
) -> None:
    first = grouped(before)
    assigned = assign({}, first, settings=GROUPED, smallest_alpha=0.1)
    images = list((first | grouped(added, start=100)).items())
    order.shuffle(images)
    result = assign(assigned, dict(images), settings=GROUPED, smallest_alpha=0.1)
    assert assigned.items() <= result.items()
    parts: dict[str | None, set[str]] = {}
    for path, part in part_of(dict(images), result).items():
        parts.setdefault(group_of(path, GROUPED.group_pattern), set()).add(part)
    assert all(len(found) == 1 for found in parts.values())


@settings(max_examples=60)
@given(counts=group_sizes)
def test_groups_fill_calibration_then_validation(counts: list[int]) -> None:
    images = grouped(counts)
    total = len(images)
    result = assign({}, images, settings=GROUPED, smallest_alpha=0.1)
    train, validation, calibration = sizes(result)
    wanted = max(math.ceil(round(0.2 * total, 6)), 9)
    assert calibration >= min(wanted, total)
    assert calibration < wanted + max(counts)
    if validation:
        assert calibration >= wanted
    if train:
        assert validation >= math.ceil(round(0.1 * total, 6))


def test_a_group_found_in_several_parts_grows_where_most_of_it_is() -> None:
    images = grouped([5])
    one, *others = images.values()
    assigned = {one: "train"} | dict.fromkeys(others, "calibration")
    grown = images | {"train/good/s0_9.png": md5("new")}
    result = assign(assigned, grown, settings=GROUPED, smallest_alpha=0.1)
    assert result == assigned | {md5("new"): "calibration"}


def test_an_image_in_two_groups_belongs_to_that_of_its_first_path() -> None:
    images = grouped([3, 3])
    assigned = {one: "train" if "s1" in path else "calibration" for path, one in images.items()}
    images |= {"train/good/s0_9.png": md5("both"), "train/good/s1_9.png": md5("both")}
    for ordered in (images, dict(reversed(images.items()))):
        result = assign(assigned, ordered, settings=GROUPED, smallest_alpha=0.1)
        assert result == assigned | {md5("both"): "calibration"}


@pytest.mark.parametrize(
    ("path", "pattern", "group"),
    [
        ("train/good/s7_001.png", None, None),
        ("train/good/s7_001.png", r"^(s\d+)_", "s7"),
        ("train/good/s7_001.png", r"s\d", "s7"),
        ("train/good/x.png", r"^(s\d+)_", "x.png"),
        ("train/good/x.png", r"(s\d+)?", "x.png"),
        ("s1_train/good/x.png", r"s\d", "x.png"),
    ],
)
def test_group_of(path: str, pattern: str | None, group: str | None) -> None:
    assert group_of(path, pattern) == group


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(SettingsError, match=r"split\.group_pattern: '\(' is not a regular"):
        group_of("a.png", "(")


def test_the_split_file_comes_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    assert read_split_file(path) == {}
    assignments = {
        "screw": assign({}, normals(0, 30), settings=DEFAULTS, smallest_alpha=0.1),
        "bolt": {},
    }
    write_split_file(path, assignments)
    assert read_split_file(path) == assignments
    text = path.read_text()
    write_split_file(path, {name: assignments[name] for name in ("bolt", "screw")})
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"schema_version": 1}',
        '{"schema_version": 1, "categories": []}',
        '{"schema_version": 1, "categories": {"screw": []}}',
        '{"schema_version": 1, "categories": {"screw": {"abc": "train"}}}',
        json.dumps({"schema_version": 1, "categories": {"screw": {md5(0): "trian"}}}),
        json.dumps({"schema_version": 1, "categories": {"screw": {md5(0): ["train"]}}}),
        f'{{"schema_version": 1, "categories": {{"screw": {{"{md5(0)}": "train", "{md5(0)}": '
        '"calibration"}}}',
        "<<<<<<< HEAD\n{}",
    ],
)
def test_a_damaged_split_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(SplitError, match=r"split\.json: not a usable split file .* git"):
        read_split_file(path)


def test_a_split_file_of_the_future(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text('{"schema_version": 2, "categories": {}}')
    with pytest.raises(SplitError, match="update stillwatch"):
        read_split_file(path)
