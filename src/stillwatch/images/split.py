"""Assign the normals to train, validation and calibration, once and by content.

An assignment is kept in the split file, versioned with the data. Whatever is added to or removed
from the images later, an assigned image never changes its part: otherwise calibration images
would have been trained on, and the thresholds' false-alarm bound would be void.

The bound would also be void if scores decided which images are in calibration. Corrected normals,
which were selected by their scores, therefore only come into train, and do not change the parts of
other images.
"""

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

from stillwatch.calibration import images_needed
from stillwatch.errors import SettingsError, SplitError
from stillwatch.files import write_json
from stillwatch.images.layout import is_feedback
from stillwatch.settings import SplitSettings

PARTS = ("train", "validation", "calibration")
SCHEMA_VERSION = 1

Assignment = dict[str, str]
"""md5 of an image file's bytes (hexadecimal) -> part."""


def read_split_file(path: Path) -> dict[str, Assignment]:
    """Read the split file: category -> assignment; empty if there is no such file.

    Raises:
        SplitError: the file cannot be read, or as ``parse_split``.
    """
    try:
        return parse_split(path.read_bytes(), str(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _damaged(str(path), str(error)) from error


def parse_split(data: bytes, name: str) -> dict[str, Assignment]:
    """Parse a split file; ``name`` is for the message.

    Raises:
        SplitError: it is not a split file, is of a newer schema, or assigns an image twice.
    """
    try:
        content = json.loads(data, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise _damaged(name, str(error)) from error
    if not isinstance(content, dict) or not isinstance(content.get("schema_version"), int):
        raise _damaged(name, "it has no schema_version")
    if content["schema_version"] > SCHEMA_VERSION:
        raise SplitError(
            f"{name}: written by a newer stillwatch (schema {content['schema_version']}, this one "
            f"knows {SCHEMA_VERSION}); update stillwatch."
        )
    categories = content.get("categories")
    if not isinstance(categories, dict):
        raise _damaged(name, "it has no categories")
    for category, assignment in categories.items():
        if not isinstance(assignment, dict):
            raise _damaged(name, f"category {category} is not a table")
        for md5, part in assignment.items():
            if not re.fullmatch(r"[0-9a-f]{32}", md5) or part not in PARTS:
                raise _damaged(name, f"{category} assigns {md5!r} to {part!r}")
    return categories


def write_split_file(path: Path, assignments: Mapping[str, Mapping[str, str]]) -> None:
    """Write the split file, sorted, so that a version's difference shows what was added."""
    categories = {name: dict(assignment) for name, assignment in assignments.items()}
    write_json(path, {"schema_version": SCHEMA_VERSION, "categories": categories})


def assign(
    assigned: Mapping[str, str],
    normals: Mapping[str, str],
    *,
    settings: SplitSettings,
    smallest_alpha: float,
) -> Assignment:
    """Assign the new ones of a category's normals so as to restore the shares.

    Calibration is filled first, up to max(ceil(share * n), ceil(1/alpha) - 1) of the n distinct
    normals at hand, then validation up to ceil(share * n); the rest is for training. Images are
    taken in the order of a hash of their content, so that the result depends on nothing else. The
    images of one group go to one part together, to the part where the group already is (if a
    pattern set late finds a group in several parts, to the one with most of its images).

    Corrected normals (``is_feedback``) go to train and count for none of these numbers: the other
    normals are assigned as if there were no corrected ones. A corrected normal of a group that has,
    or may get, other images stays unassigned until those images are in train.

    Args:
        assigned: what was assigned before; entries of images that are gone are kept.
        normals: path -> md5 of the files now in ``train/good`` and ``feedback/good``.
        settings: shares and group pattern.
        smallest_alpha: smallest false-alarm rate that thresholds are calibrated for, in (0, 1).

    Returns:
        ``assigned`` and the new images, but for those that wait.

    Raises:
        SettingsError: the group pattern is not a regular expression.
    """
    distinct = {md5: path for path, md5 in sorted(normals.items(), reverse=True)}
    corrected = {md5: path for md5, path in distinct.items() if is_feedback(path)}
    present = {md5: path for md5, path in distinct.items() if md5 not in corrected}
    targets = _targets(len(present), settings, smallest_alpha)
    result = dict(assigned)
    counts = Counter(assigned[md5] for md5 in present if md5 in assigned)
    homes, waiting = _groups(present, assigned, settings.group_pattern)
    for group, members in waiting.items():
        if group in homes:
            counts[homes[group]] += len(members)
            result.update(dict.fromkeys(members, homes[group]))
    homeless = [members for group, members in waiting.items() if group not in homes]
    for members in sorted(homeless, key=_content_key):
        short = (name for name, target in targets.items() if counts[name] < target)
        part = next(short, "train")
        counts[part] += len(members)
        result.update(dict.fromkeys(members, part))
    homes, _ = _groups(present, result, settings.group_pattern)
    for md5, path in corrected.items():
        shared = _group_in_name(path, settings.group_pattern)
        if shared is None or homes.get(shared) == "train":
            result.setdefault(md5, "train")
    return result


def images_to_add(
    counts: Mapping[str, int], *, to_learn: int, settings: SplitSettings, smallest_alpha: float
) -> int | None:
    """Smallest number of new normals with which ``assign`` gives ``to_learn`` or more to train.

    None where the shares leave nothing to train.

    Args:
        counts: part -> distinct normals that it has now; also the number of ``unassigned`` ones.
        to_learn: at least 1.
        settings: shares.
        smallest_alpha: as for ``assign``.
    """
    if settings.calibration_share + settings.validation_share >= 1:
        return None
    present = sum(counts.get(part, 0) for part in (*PARTS, "unassigned"))
    new = to_learn
    while True:
        targets = _targets(present + new, settings, smallest_alpha)
        kept = sum(max(0, target - counts.get(part, 0)) for part, target in targets.items())
        if new + counts.get("unassigned", 0) - kept >= to_learn:
            return new
        new += 1


def part_of(normals: Mapping[str, str], assignment: Mapping[str, str]) -> dict[str, str]:
    """Path -> part; ``duplicate`` for all but the first path of the same content.

    Args:
        normals: path -> md5.
        assignment: md5 -> part; an image that it lacks is ``unassigned``.
    """
    parts: dict[str, str] = {}
    seen: set[str] = set()
    for path, md5 in sorted(normals.items()):
        parts[path] = "duplicate" if md5 in seen else assignment.get(md5, "unassigned")
        seen.add(md5)
    return parts


def group_of(path: str, pattern: str | None) -> str | None:
    """Name of the group that an image belongs to; None without a pattern.

    Args:
        path: only the file name is looked at.
        pattern: regular expression, searched; its first group (else the whole match) is the name.
            A file name that it does not match is a group of its own.

    Raises:
        SettingsError: ``pattern`` is not a regular expression.
    """
    if pattern is None:
        return None
    return _group_in_name(path, pattern) or PurePosixPath(path).name


def _group_in_name(path: str, pattern: str | None) -> str | None:
    """The group in the file name; None without a match."""
    if pattern is None:
        return None
    try:
        match = re.search(pattern, PurePosixPath(path).name)
    except re.error as error:
        raise SettingsError(
            f"split.group_pattern: {pattern!r} is not a regular expression ({error}); correct it."
        ) from error
    if match is None:
        return None
    return (match.group(1) if match.re.groups else match.group()) or None


def _groups(
    present: Mapping[str, str], assigned: Mapping[str, str], pattern: str | None
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The part of every group that has one, and the new images of every group."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    waiting: dict[str, list[str]] = defaultdict(list)
    for md5, path in present.items():
        group = group_of(path, pattern) or md5
        if md5 in assigned:
            votes[group][assigned[md5]] += 1
        else:
            waiting[group].append(md5)
    homes = {group: found.most_common(1)[0][0] for group, found in votes.items()}
    return homes, waiting


def _content_key(members: list[str]) -> str:
    # Not the smallest md5 of a group, which would favour large groups.
    return hashlib.sha256("".join(sorted(members)).encode()).hexdigest()


def _targets(count: int, settings: SplitSettings, smallest_alpha: float) -> dict[str, int]:
    """The number of images that calibration and validation get of ``count``."""
    return {
        "calibration": max(
            _share(settings.calibration_share, count), images_needed(smallest_alpha)
        ),
        "validation": _share(settings.validation_share, count),
    }


def _share(share: float, count: int) -> int:
    # As the decimal in the settings: with the binary float, 0.07 of 100 images would be 8.
    return math.ceil(Fraction(str(share)) * count)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    if repeated:
        raise ValueError(f"{repeated[0]} is in it twice")
    return dict(pairs)


def _damaged(name: str, reason: str) -> SplitError:
    return SplitError(
        f"{name}: not a usable split file ({reason}); restore the version that git has, and never "
        "edit it by hand."
    )
