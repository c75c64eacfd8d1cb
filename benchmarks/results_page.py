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
    """With those of the phases that were taken over, where they are known."""
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
        "ROOT is the folder that holds a category; teacher, size and photographs of a row are "
        "teacher.name, images.size and training.photographs in the file that --params names.",
        "",
        "Means over the seeds ± half the distance from the lowest to the highest; pixel figures at "
        "the evaluation size. The profile says what the settings are: laptop is smaller and "
        "shorter than published, and mostly has another optimizer; for reverse_distillation it "
        "adds three things that the paper does not have: positions that are rebuilt well already "
        "get less gradient (easy_share), the features that are trained on are disturbed "
        "(disturbance), and the map is relative to what is usual in the image (relative). What "
        "stands beside a profile differs from it. Recall is that of the calibrated threshold, for "
        "which at most 5 % of false alarms are promised on average. Two "
        "more image AUROCs say how much of the first is the light: that of the same anomalies "
        "against the calibration normals, which are lit like the training, and that of the test "
        "images after each was brought to the training's brightness. The last column is the image "
        "score that a paper defines for itself; these three decide nothing.",
        "",
        *_about_published_scores(cells),
        "Times are rough: most cells ran beside other work, so that the same network takes several "
        "times as long in one row as in another.",
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
        "other columns are of the same trained network and the same images. Multiresolution's is a "
        "loss over the whole image, of which a defect may be a small part: its module docstring "
        "has a test of that.",
        "",
    ]


def _about_training_seconds(cells: Sequence[Cell]) -> list[str]:
    if not any(detector_class(cell["detector"]).uses_photographs for cell in cells):
        return []
    unknown = _names(cell for cell in cells if _may_lack_seconds(cell))
    about = (
        "A patch teacher is taught by the first training that needs it, and others take it over; "
        "training s has its seconds in every row"
    )
    if not unknown:
        return [f"{about}."]
    return [
        f"{about} but these, of some of whose trainings it is not recorded whether they taught it: "
        f"{unknown}."
    ]


def _may_lack_seconds(cell: Cell) -> bool:
    if "taken_over" in cell:
        return None in cell["taken_over"].values()
    return detector_class(cell["detector"]).uses_photographs


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
    """The runs that differ in their seed alone, in the order of what a row is called."""
    rows = defaultdict(list)
    for cell in cells:
        settings = json.dumps(cell["settings"], sort_keys=True)
        rows[_labels(cell), settings, cell.get("category_digest", "")].append(cell)
    return [rows[row] for row in sorted(rows)]


def _labels(cell: Cell) -> tuple[str, str, str]:
    """What a row is called."""
    settings = cell["settings"]
    seen = f"{settings['teacher']['name']}, {settings['images']['size']}"
    if detector_class(cell["detector"]).uses_photographs:
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
    head = ["detector", *figures, "the same of screw alone", "teacher, size", "note"]
    intro = (
        "MVTec AD, mean of its 15 categories, and screw alone. Not comparable with the tables "
        "above, which have other teachers, sizes and lengths of training."
    )
    return [intro, "", *markdown(head, rows)]


def _published_figures(one: Published) -> list[str]:
    screw = " / ".join(figure or "–" for figure in one.screw) if any(one.screw) else "–"
    means = [figure or "–" for figure in (one.image_auroc, one.pixel_auroc, one.aupro)]
    return [*means, screw, one.teacher, one.note]
