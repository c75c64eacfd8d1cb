"""Published figures of the methods, from the papers and the authors' repositories.

Image AUROC, pixel AUROC and AUPRO on MVTec AD, mean of the 15 categories unless the note says
otherwise. Do not compare them with measured figures of another teacher or resolution.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One method's published figures; None where none is known."""

    image_auroc: str | None
    pixel_auroc: str | None
    aupro: str | None
    teacher: str
    note: str
    screw: tuple[str | None, str | None, str | None] = (None, None, None)
    """The same three figures of the category screw alone."""


PUBLISHED = {
    "stfpm": Published(
        "0.955",
        "0.970",
        "0.921 (recalled)",
        "ResNet-18, 256×256",
        "image AUROC and screw: from the authors' code",
        ("0.895", "0.988", None),
    ),
    "reverse_distillation": Published(
        "0.985 (recalled)",
        "0.978",
        "0.939",
        "Wide-ResNet-50-2, 256×256",
        "AUPRO per image",
        ("0.970 (recalled)", "0.996 (recalled)", "0.982 (recalled)"),
    ),
    "multiresolution": Published(
        "0.877 (recalled)",
        "0.907 (recalled)",
        None,
        "VGG-16, 128×128",
        "pixel AUROC of gradient maps, defective images only",
        ("0.833 (recalled)", "0.960 (recalled)", None),
    ),
    "uninformed_students": Published(
        None,
        None,
        "0.914",
        "patch teacher of ResNet-18, 256×256",
        "three patch sizes, stride 1",
        (None, None, "0.942 (recalled)"),
    ),
    "efficient_ad": Published(
        "0.988",
        None,
        "0.931 (recalled)",
        "PDN-S distilled from a Wide-ResNet-101, 256×256",
        "70,000 steps; PDN-M: 0.991",
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
        ("0.964", "0.992", "0.971"),
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


@dataclass(frozen=True)
class PublishedOneClass:
    """One method's published one-class figures; None where none is known."""

    mnist: str | None
    fashion_mnist: str | None
    cifar10: str | None
    note: str


PUBLISHED_ONE_CLASS = {
    "uninformed_students": PublishedOneClass(
        "0.9935",
        None,
        "0.8196",
        "five students, patches of 33 pixels; nearest neighbour in the paper: 0.9753, 0.8189",
    ),
    "multiresolution": PublishedOneClass(
        "0.9871 (recalled)",
        "about 0.945 (recalled)",
        "0.8718 (recalled)",
        "VGG-16; 32×32, CIFAR-10 224×224; image score: the loss of the image",
    ),
    "reverse_distillation": PublishedOneClass(
        "0.993 (recalled)", "0.950 (recalled)", "0.865 (recalled)", "32×32"
    ),
    "style_distillation": PublishedOneClass(
        None, None, None, "the one-class figures of the paper could not be read"
    ),
}
"""Image AUROC, mean of the ten classes, by detector; "recalled" as above."""
