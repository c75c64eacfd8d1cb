"""The novelty benchmark's cells as one page."""

import statistics
from collections.abc import Collection, Sequence

from benchmarks.cells import Cell, labelled_settings, needed_teacher
from benchmarks.published_figures import PUBLISHED_ONE_CLASS
from benchmarks.tables import markdown, mean_and_spread, origin

_IMAGES = {
    "digits": "scikit-learn's 1,797 handwritten digits of 8×8 pixels, a fixed half of each class "
    "for training, the other half for the test",
    "mnist": "MNIST, its own training and test parts",
    "fashion_mnist": "Fashion-MNIST, its own training and test parts",
    "cifar10": "CIFAR-10, its own training and test parts",
}


def render(cells: Sequence[Cell], command: str) -> str:
    """The page in Markdown: a table per data set, then the published figures.

    Args:
        cells: as ``benchmarks.novelty`` writes them, at least one.
        command: that was given last.
    """
    lines = [
        "# One class against the rest",
        "",
        origin(command, cells),
        "",
        "A method is trained on images of one class and scores the whole test part, in which all "
        "other classes are anomalies. Figures are image AUROCs of the maximum of the anomaly map: "
        "for each class, numbered as in the data set, the mean over the seeds; then the mean over "
        "the classes, ± half the distance from the lowest to the highest seed. The paper's score "
        "is the image score that a paper defines; no decision uses it.",
        "",
    ]
    for dataset in sorted({cell["dataset"] for cell in cells}):
        of_dataset = [cell for cell in cells if cell["dataset"] == dataset]
        lines += [f"## {dataset}", "", _images(of_dataset), "", *_table(of_dataset), ""]
    lines += ["## Published figures", "", *_published({cell["detector"] for cell in cells})]
    return "\n".join(lines) + "\n"


def _images(cells: Sequence[Cell]) -> str:
    trained = sorted({cell["train_normals"] for cell in cells})
    return (
        f"{_IMAGES[cells[0]['dataset']]}; enlarged bilinearly. Of each class, "
        f"{' to '.join(str(count) for count in sorted({trained[0], trained[-1]}))} images are used "
        "for training, and a ninth of this number for validation."
    )


def _table(cells: Sequence[Cell]) -> list[str]:
    classes = sorted({cell["class"] for cell in cells})
    rows = []
    for detector in sorted({cell["detector"] for cell in cells}):
        runs = [cell for cell in cells if cell["detector"] == detector]
        rows.append(
            [
                detector,
                ", ".join(sorted({_teacher_and_size(run) for run in runs})),
                " or ".join(sorted({_settings(run) for run in runs})),
                str(len({run["seed"] for run in runs})),
                *(_of_class(runs, number) for number in classes),
                _mean_of_classes(runs, classes, "image_auroc"),
                _mean_of_classes(runs, classes, "published_score_auroc"),
                format(statistics.mean(run["train_seconds"] for run in runs), ".1f"),
            ]
        )
    head = ["detector", "teacher, size", "profile", "seeds", *map(str, classes)]
    return markdown([*head, "mean", "paper's score, mean", "training s"], rows)


def _teacher_and_size(run: Cell) -> str:
    settings = run["settings"]
    teacher = needed_teacher(run["detector"], settings["teacher"], settings["detector"])
    return f"{teacher}, {settings['side']}"


def _settings(run: Cell) -> str:
    return labelled_settings(run["detector"], "laptop", run["settings"]["detector"])


def _of_class(runs: Sequence[Cell], number: int) -> str:
    found = [run["image_auroc"] for run in runs if run["class"] == number]
    return format(statistics.mean(found), ".3f") if found else "–"


def _mean_of_classes(runs: Sequence[Cell], classes: Collection[int], figure: str) -> str:
    """Over the seeds for which every class has the figure: another mean would not compare."""
    means = []
    for seed in sorted({run["seed"] for run in runs}):
        found = [run[figure] for run in runs if run["seed"] == seed and run[figure] is not None]
        means.append(statistics.mean(found) if len(found) == len(classes) else None)
    return mean_and_spread(means, ".3f")


def _published(detectors: Collection[str]) -> list[str]:
    rows = [
        [name, one.mnist or "–", one.fashion_mnist or "–", one.cifar10 or "–", one.note]
        for name, one in PUBLISHED_ONE_CLASS.items()
        if name in detectors
    ]
    intro = (
        "Mean image AUROC of the ten classes. Compare only means of the same data set; even there, "
        "teacher, size and number of training images differ. The digits of scikit-learn are not "
        "images of MNIST, so no figure here compares with those of the digits. 'Recalled' marks a "
        "figure that was not checked again in its source."
    )
    return [intro, "", *markdown(["detector", "MNIST", "Fashion-MNIST", "CIFAR-10", "note"], rows)]
