"""Images of the one-class protocol: one class is normal, all others are anomalies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision import datasets

from stillwatch.errors import LayoutError
from stillwatch.images.decode import resize_image

CLASSES = range(10)
"""Of every data set."""
DIGITS = "digits"
_STORED = {
    "mnist": (datasets.MNIST, "MNIST/raw/train-images-idx3-ubyte"),
    "fashion_mnist": (datasets.FashionMNIST, "FashionMNIST/raw/train-images-idx3-ubyte"),
    "cifar10": (datasets.CIFAR10, "cifar-10-batches-py/data_batch_1"),
}
"""Data sets whose files the user brings, and one of the files."""
DATASETS = (DIGITS, *_STORED)
_VALIDATION_SHARE = 0.1
_LARGEST_OF_DIGITS = 16


@dataclass(frozen=True)
class Part:
    """Images of all classes: uint8 (N, h, w) or (N, h, w, 3), and their classes (N,)."""

    images: NDArray[np.uint8]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class OneClass:
    """One class's task, its images uint8 (N, S, S, 3)."""

    train: NDArray[np.uint8]
    validation: NDArray[np.uint8]
    test: NDArray[np.uint8]
    anomalous: NDArray[np.bool_]
    """Of each test image, whether it is of another class."""


def read_dataset(name: str, folder: Path) -> tuple[Part, Part]:
    """The training and the test part of one of ``DATASETS``; nothing is downloaded.

    Args:
        name: of the data set.
        folder: where torchvision finds its files; ``digits`` comes with scikit-learn.

    Raises:
        LayoutError: the files are not there or cannot be read.
    """
    return (
        _digits() if name == DIGITS else (_stored(name, folder, True), _stored(name, folder, False))
    )


def one_class(
    parts: tuple[Part, Part], normal: int, *, side: int, normals: int | None = None
) -> OneClass:
    """The task in which class ``normal`` is normal.

    A tenth of its training images is for validation; who is in it depends on nothing but the
    number of training images. The test has all images of the test part.

    Args:
        parts: training and test.
        normal: the normal class.
        side: that images are resized to, bilinearly.
        normals: training images that are used at most, those for validation included; None: all.
    """
    train, test = parts
    rows = np.flatnonzero(train.classes == normal)
    rows = np.random.default_rng(0).permutation(rows)[:normals]
    watched = max(1, round(_VALIDATION_SHARE * len(rows)))
    return OneClass(
        train=_resized(train.images[rows[watched:]], side),
        validation=_resized(train.images[rows[:watched]], side),
        test=_resized(test.images, side),
        anomalous=test.classes != normal,
    )


def _digits() -> tuple[Part, Part]:
    """Scikit-learn's handwritten digits, half of each class for training."""
    images, classes = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * (255 / _LARGEST_OF_DIGITS)).round().astype(np.uint8)
    rows = train_test_split(np.arange(len(pixels)), test_size=0.5, stratify=classes, random_state=0)
    train, test = (Part(pixels[of_part], classes[of_part]) for of_part in rows)
    return train, test


def _stored(name: str, folder: Path, train: bool) -> Part:
    dataset, file = _STORED[name]
    try:
        stored = dataset(folder, train=train, download=False)
    except Exception as error:  # damaged files raise nearly anything
        raise LayoutError(
            f"{folder.resolve()}: torchvision cannot read {name} there. Put its files where they "
            f"are looked for ({file} is one), or name their folder with --folder."
        ) from error
    return Part(np.asarray(stored.data), np.asarray(stored.targets))


def _resized(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    grey = images.ndim == 3
    pixels = np.repeat(images[..., None], 3, axis=3) if grey else images
    return np.stack([resize_image(image, side, side) for image in pixels])
