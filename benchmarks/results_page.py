"""The accuracy benchmark's cells as one page."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from benchmarks.cells import Cell, labelled_settings
from benchmarks.published_figures import PUBLISHED, Published
from benchmarks.tables import markdown, mean_and_spread, origin
from stillwatch.detectors import detector_class

_CHANCE = 0.5


def _training_seconds(cell: Cell) -> float:
    """Seconds of the training and of the phases that it reused, where they are known."""
    taken_over = [seconds or 0.0 for seconds in cell.get("taken_over", {}).values()]
    return float(cell["report"]["train_seconds"] + sum(taken_over))


_COLUMNS: dict[str, tuple[Callable[[Cell], float | None], str]] = {
    "image AUROC": (lambda cell: cell["report"]["image_auroc"], ".3f"),
    "against calibration": (lambda cell: cell.get("against_calibration_auroc"), ".3f"),
    "in the same light": (lambda cell: cell.get("same_light_auroc"), ".3f"),
    "image AP": (lambda cell: cell["report"]["image_ap"], ".3f"),
    "pixel AUROC": (lambda cell: cell["report"]["pixel_auroc"], ".3f"),
    "AUPRO": (lambda cell: cell["report"]["aupro"], ".3f"),
    "recall": (lambda cell: cell["report"]["recall"], ".3f"),
    "ms/image": (lambda cell: cell["report"]["ms_per_image"], ".0f"),
    "training s": (_training_seconds, ".0f"),
    "MB": (lambda cell: cell["megabytes"], ".0f"),
    "paper's image score, AUROC": (lambda cell: cell["published_score_auroc"], ".3f"),
}


def render(cells: Sequence[Cell]) -> str:
    """The page in Markdown: a table per category, then the published figures.

    Args:
        cells: as ``benchmarks.accuracy`` writes them, at least one.
    """
    lines = [
        "# Methods on the same images",
        "",
        "ROOT is the folder that contains the category. The settings teacher.name, images.size and "
        "training.photographs of a row are in the file that --params names.",
        "",
        "Figures are means over the seeds ± half the distance from the lowest to the highest seed; "
        "pixel figures are computed at the evaluation size. The profile is the set of defaults of "
        "the settings; settings that differ from the profile are listed beside it. The profile "
        "laptop is smaller and shorter than published, and mostly uses another optimizer. For "
        "reverse_distillation it adds three things that the paper does not have: positions that "
        "are reconstructed well get less gradient (easy_share), the features are disturbed in "
        "training (disturbance), and the map is relative to the usual value in the image "
        "(relative).",
        "",
        "Cells whose commit is older than the grid of 4 pixels have maps that were combined pixel "
        "by pixel, which gives slightly different scores.",
        "",
        "Recall is the recall at the calibrated threshold, whose false-alarm rate is at most 5 % "
        "on average. Two further image AUROCs show how much of the image AUROC comes from light. "
        "'Against calibration' compares the test anomalies with the calibration normals, which "
        "have the light of the training images. 'In the same light' compares the test images after "
        "each was brought to the brightness of the training images. The last column has the image "
        "score that a paper defines. No decision uses these three columns.",
        "",
        *_about_published_scores(cells),
        "Times are rough: most runs shared the machine with other work, so one row may show "
        "several times the seconds of another row for the same network.",
        "",
        *_about_training_seconds(cells),
        "",
    ]
    for category in sorted({cell["category"] for cell in cells}):
        of_category = [cell for cell in cells if cell["category"] == category]
        lines += [f"## {category}", "", _origin(of_category), "", *_table(of_category), ""]
    lines += ["## Published figures", "", *_published({cell["detector"] for cell in cells})]
    return "\n".join(lines) + "\n"


def _origin(cells: Sequence[Cell]) -> str:
    of = {name: sorted({str(cell[name]) for cell in cells}) for name in ("detector", "seed")}
    command = (
        f"python -m benchmarks.accuracy --root ROOT --categories {cells[0]['category']} "
        f"--detectors {' '.join(of['detector'])} --seeds {' '.join(of['seed'])} --out results"
    )
    digests = sorted({cell["category_digest"] for cell in cells if "category_digest" in cell})
    images = f" Digest of the images, where recorded: {', '.join(digests)}." if digests else ""
    return origin(command, cells) + images


def _about_published_scores(cells: Sequence[Cell]) -> list[str]:
    scored = [cell for cell in cells if cell["published_score_auroc"] is not None]
    below = _names(cell for cell in scored if cell["published_score_auroc"] < _CHANCE)
    if not below:
        return []
    return [
        f"A paper's score below 0.5 does not tell defective images from good ones: {below}. The "
        "other columns are of the same trained network and the same images. The score of "
        "multiresolution is a loss over the whole image, of which a defect may be a small part; "
        "the module docstring of the detector describes a test of this explanation.",
        "",
    ]


def _about_training_seconds(cells: Sequence[Cell]) -> list[str]:
    if not any(map(_uses_photographs, cells)):
        return []
    unknown = _names(cell for cell in cells if _may_lack_seconds(cell))
    about = (
        "The first training that needs a patch teacher trains it, and later trainings reuse it; "
        "training s includes the seconds of the patch teacher in every row"
    )
    if not unknown:
        return [f"{about}."]
    return [
        f"{about} except the following, where some trainings do not record whether they trained "
        f"it: {unknown}."
    ]


def _may_lack_seconds(cell: Cell) -> bool:
    if "taken_over" in cell:
        return None in cell["taken_over"].values()
    return _uses_photographs(cell)


def _uses_photographs(cell: Cell) -> bool:
    return detector_class(cell["detector"]).uses_photographs(cell["settings"]["detector"])


def _names(cells: Iterable[Cell]) -> str:
    categories = defaultdict(set)
    for cell in cells:
        categories[cell["detector"]].add(cell["category"])
    return "; ".join(
        f"{name} on {', '.join(sorted(categories[name]))}" for name in sorted(categories)
    )


def _table(cells: Sequence[Cell]) -> list[str]:
    rows = []
    for runs in _runs_by_row(cells):
        figures = [
            mean_and_spread([of(run) for run in runs], form) for of, form in _COLUMNS.values()
        ]
        rows.append([*_labels(runs[0]), str(len(runs)), *figures])
    return markdown(["detector", "teacher, size", "profile", "seeds", *_COLUMNS], rows)


def _runs_by_row(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The runs that differ only in their seed, sorted by the labels of their row."""
    rows = defaultdict(list)
    for cell in cells:
        settings = json.dumps(cell["settings"], sort_keys=True)
        rows[_labels(cell), settings, cell.get("category_digest", "")].append(cell)
    return [rows[row] for row in sorted(rows)]


def _labels(cell: Cell) -> tuple[str, str, str]:
    """Detector, teacher and size, and profile: the first columns of a row."""
    settings = cell["settings"]
    seen = f"{settings['teacher']['name']}, {settings['images']['size']}"
    if _uses_photographs(cell):
        seen += ", photographs" if settings["photographs"] else ", no photographs"
    profile = labelled_settings(cell["detector"], settings["profile"], settings["detector"])
    return cell["detector"], seen, profile


def _published(detectors: set[str]) -> list[str]:
    known = [name for name in PUBLISHED if name in detectors]
    unknown = sorted(detectors - PUBLISHED.keys())
    rows = [
        *([name, *_published_figures(PUBLISHED[name])] for name in known),
        *([name, *["–"] * 6] for name in unknown),
    ]
    figures = ["image AUROC", "pixel AUROC", "AUPRO"]
    head = ["detector", *figures, "screw alone", "teacher, size", "note"]
    intro = (
        "Figures on MVTec AD: the mean of the 15 categories, and screw alone (image AUROC / pixel "
        "AUROC / AUPRO). Do not compare them with the tables above, which have other teachers, "
        "sizes and lengths of training. 'Recalled' marks a figure that was not checked again in "
        "its source."
    )
    return [intro, "", *markdown(head, rows)]


def _published_figures(one: Published) -> list[str]:
    screw = " / ".join(figure or "–" for figure in one.screw) if any(one.screw) else "–"
    means = [figure or "–" for figure in (one.image_auroc, one.pixel_auroc, one.aupro)]
    return [*means, screw, one.teacher, one.note]
