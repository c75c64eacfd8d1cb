"""Published figures of the methods, from the papers and the authors' repositories.

Image AUROC, pixel AUROC and AUPRO on MVTec AD, mean of the 15 categories unless the note says
otherwise. Do not compare them with measured figures of another teacher or resolution.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One method's published figures; None where none is known."""

    image_auroc: str | None
    pixel_auroc: str | None
    aupro: str | None
    teacher: str
    note: str


PUBLISHED = {
    "stfpm": Published(
        "0.955",
        "0.970",
        "0.921 (recalled)",
        "ResNet-18, 256×256",
        "image AUROC: from the authors' code",
    ),
    "reverse_distillation": Published(
        "0.985 (recalled)",
        "0.978",
        "0.939",
        "Wide-ResNet-50-2, 256×256",
        "AUPRO per image",
    ),
    "rd_plus_plus": Published(
        "0.994 (recalled)",
        "0.983 (recalled)",
        "0.950 (recalled)",
        "Wide-ResNet-50-2, 256×256",
        "epoch chosen on the test set",
    ),
    "multiresolution": Published(
        "0.877 (recalled)",
        "0.907 (recalled)",
        None,
        "VGG-16, 128×128",
        "pixel AUROC of gradient maps, defective images only",
    ),
    "uninformed_students": Published(
        None,
        None,
        "0.914",
        "patch teacher of ResNet-18, 256×256",
        "three patch sizes, stride 1",
    ),
    "efficient_ad": Published(
        "0.988",
        None,
        "0.931 (recalled)",
        "PDN-S distilled from a Wide-ResNet-101, 256×256",
        "70,000 steps; PDN-M: 0.991",
    ),
    "asymmetric_student_teacher": Published(
        "0.992 (recalled)",
        "0.950 (recalled)",
        None,
        "EfficientNet-B5, 768×768",
        "image score: mean of the map",
    ),
    "dinomaly": Published(
        "0.997",
        "0.984",
        "0.948 (recalled)",
        "DINOv2 ViT-B/14, 392×392",
        "AUROC from anomalib; AUPRO and the authors' image AUROC, 0.996: one detector of all",
    ),
    "destseg": Published(
        "0.986",
        "0.979",
        None,
        "ResNet-18, 256×256",
        "5,000 steps; pixel average precision 0.758",
    ),
    "style_distillation": Published(
        None, None, None, "none", "the tables of the paper could not be read"
    ),
    "patchcore": Published(
        "0.990",
        "0.980",
        "0.931",
        "Wide-ResNet-50-2, 224×224",
        "coreset 1 %",
    ),
    "autoencoder": Published(
        None,
        None,
        "0.694",
        "none, 256×256",
        "SSIM; squared error: 0.790; from the paper of uninformed students",
    ),
}
"""By detector. "recalled" marks a figure that was not checked again in its source."""


def published_rows() -> Iterator[list[str]]:
    """One row for each method: its name, the three figures, the teacher and the note."""
    for name, one in PUBLISHED.items():
        figures = (one.image_auroc, one.pixel_auroc, one.aupro)
        yield [f"`{name}`", *(figure or "–" for figure in figures), one.teacher, one.note]
