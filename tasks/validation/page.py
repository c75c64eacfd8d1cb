"""Render a validation report as a self-contained HTML page and as Markdown for Prefect."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stillwatch.files import atomic_file
from stillwatch.images.split import PARTS
from stillwatch.tasks.html import TEMPLATES, Thumbnails
from stillwatch.tasks.validation.advice import ScaleAdvice
from stillwatch.tasks.validation.report import CheckOutcome, Failure, ValidationReport
from stillwatch.text import printable

MOST_ON_THE_PAGE = 50
MOST_IN_MARKDOWN = 12
PARTS_OF_TRAIN = (*PARTS, "duplicate", "unassigned")


@dataclass(frozen=True)
class Picture:
    """A thumbnail and its file."""

    path: str
    uri: str | None


@dataclass(frozen=True)
class Row:
    """One failure with its thumbnails."""

    failure: Failure
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Section:
    """One failed check with those of its failures that are shown."""

    check: CheckOutcome
    rows: tuple[Row, ...]

    @property
    def more(self) -> int:
        """Number of failures that are not shown."""
        return self.check.failures - len(self.rows)


@dataclass(frozen=True)
class Count:
    """Number of images in one folder of the category."""

    folder: str
    images: int
    note: str


def write_page(
    path: Path, report: ValidationReport, thumbnails: Thumbnails, *, data_version: str
) -> None:
    """Write the HTML page atomically; the page needs no other file and no network."""
    region = report.region
    picture = thumbnails.region_uri(region.image, region.file) if region and region.image else None
    text = TEMPLATES.get_template("validation.html.j2").render(
        report=report,
        sections=sections(report, thumbnails, at_most=MOST_ON_THE_PAGE),
        counts=counts(report),
        region=region,
        region_picture=picture,
        data_version=data_version,
        checked=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def markdown_page(
    report: ValidationReport, thumbnails: Thumbnails, *, page: Path, data_version: str
) -> str:
    """A short form of the page for a Prefect artifact, which names the file of the HTML page."""
    lines = [f"# {_escaped(report.verdict())}", "", f"Data version {_escaped(data_version)}."]
    lines += ["", *(f"- **broke:** {_escaped(message)}" for message in report.errored)]
    for section in sections(report, thumbnails, at_most=MOST_IN_MARKDOWN):
        check = section.check
        lines += ["", f"## {check.severity}: {_escaped(check.title)}: {check.tally}", ""]
        lines += [_escaped(check.advice), "", "| | file | expected | found |"]
        lines += ["|---|---|---|---|", *(_markdown_row(row) for row in section.rows)]
        if section.more:
            lines += ["", f"and {section.more} more"]
    if report.region is not None:
        lines += ["", "## Region of interest", "", _escaped(report.region.sentence())]
    lines += _markdown_scales(report.scale)
    lines += ["", "## Images", "", "| folder | images | |", "|---|---:|---|"]
    lines += [
        f"| {_escaped(count.folder)} | {count.images} | {count.note} |" for count in counts(report)
    ]
    return "\n".join([*lines, "", f"The whole page: `{printable(str(page))}`", ""])


def _markdown_scales(advice: ScaleAdvice | None) -> list[str]:
    if advice is None:
        return []
    lines = ["", "## Smallest defect and scale", "", *map(_escaped, advice.sentences())]
    if advice.options:
        lines += ["", "| images | after scaling | tiles | training | an image |"]
        lines += ["|---|---:|---:|---:|---:|"]
    return lines + [
        f"| {option.name}{' (set)' * option.chosen} | {option.seen} | {option.tiles} "
        f"| {option.training} | {option.inspection} |"
        for option in advice.options
    ]


def sections(
    report: ValidationReport, thumbnails: Thumbnails, *, at_most: int
) -> tuple[Section, ...]:
    """The failed checks, critical ones first; together they show ``at_most`` failures."""
    failed = [check for check in report.outcomes if check.failures]
    failed.sort(key=lambda check: check.severity != "critical")
    shown = _shares([check.failures for check in failed], at_most)
    return tuple(
        Section(
            check,
            tuple(_row(failure, thumbnails) for failure in report.of_check(check.name)[:share]),
        )
        for check, share in zip(failed, shown, strict=True)
    )


def counts(report: ValidationReport) -> tuple[Count, ...]:
    """Number of images per folder, with their use."""
    split, parts = report.facts["split"], report.facts["part"]
    shares = ", ".join(f"{parts[part]} {part}" for part in PARTS_OF_TRAIN if part in parts)
    feedback = report.facts["feedback"]
    rows = [Count("train/good", split.get("train", 0) - feedback.get("good", 0), shares)]
    for defect_type, images in sorted(report.facts["defect_type"].items(), key=_good_first):
        masks = report.facts["mask"].get(defect_type, 0)
        note = "" if defect_type == "good" else f"{masks} with a mask"
        rows.append(Count(f"test/{defect_type}", images, note))
    for defect_type, images in sorted(feedback.items(), key=_good_first):
        note = (
            "only trained on; in the parts above"
            if defect_type == "good"
            else "figures of their own"
        )
        rows.append(Count(f"feedback/{defect_type}", images, note))
    return tuple(rows)


def _shares(sizes: Sequence[int], at_most: int) -> list[int]:
    """Split ``at_most`` rows: all of small sections, equal shares of large ones, at least one."""
    left, shares = at_most, [0] * len(sizes)
    by_size = sorted(range(len(sizes)), key=lambda index: sizes[index])
    for done, index in enumerate(by_size):
        shares[index] = min(sizes[index], max(left // (len(sizes) - done), 1))
        left -= shares[index]
    return shares


def _good_first(item: tuple[str, int]) -> tuple[bool, str]:
    return item[0] != "good", item[0]


def _row(failure: Failure, thumbnails: Thumbnails) -> Row:
    files = [path for path in (failure.path, failure.related) if path is not None]
    return Row(failure, tuple(Picture(path, thumbnails.data_uri(path)) for path in files))


def _markdown_row(row: Row) -> str:
    failure = row.failure
    images = " ".join(f"![]({picture.uri})" for picture in row.pictures if picture.uri)
    texts = (printable(failure.path or ""), failure.expected, failure.found)
    return f"| {' | '.join([images, *map(_escaped, texts)])} |"


def _escaped(text: str) -> str:
    """``text`` with the markup characters of Markdown and HTML escaped."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~&<>-])", r"\\\1", text)
