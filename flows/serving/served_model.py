"""A registered version that inspects the images of requests."""

import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from stillwatch.flows.serving.batching import Batcher
from stillwatch.images.decode import shape_of
from stillwatch.inference.inspector import InspectedImage, Inspector
from stillwatch.inference.parity import Scores
from stillwatch.inference.score_log import Appearance, ScoreLog, appearance, logged
from stillwatch.inference.torch_scorer import load_scorer
from stillwatch.settings import Settings
from stillwatch.tasks.registry.artefact_check import (
    Examples,
    check_examples,
    read_examples,
    registered_bundle,
)
from stillwatch.tasks.registry.versions import category_of
from stillwatch.tasks.tracking.client import Tracking

_NAME = "the image"
"""What errors call the image of a request."""


@dataclass(frozen=True)
class Upload:
    """An image of a request, decoded for scoring."""

    image: NDArray[np.uint8]
    """(h, w, 3), scaled."""
    appearance: Appearance
    height: int
    """Of the image in the request, in pixels."""
    width: int
    pixels: NDArray[np.uint8] | None
    """(height, width, 3), kept where a picture was requested."""


class ServedModel:
    """A version with its inspector; the score of an image is logged before the response is sent.

    Args:
        inspector: of the version's bundle.
        compute: the only thread that scores images.
    """

    def __init__(
        self,
        version: ModelVersion,
        inspector: Inspector,
        settings: Settings,
        compute: Executor,
        log: ScoreLog,
    ) -> None:
        self.category = category_of(version.name)
        self.version = int(version.version)
        self.bundle = inspector.bundle
        self.max_megapixels = inspector.max_megapixels
        self._inspector = inspector
        self._log = log
        self.inspect = Batcher[Upload, InspectedImage](
            self._judge,
            compute,
            most=settings.serving.batch_size,
            wait_seconds=settings.serving.batch_wait_ms / 1000,
        )

    def megapixels(self, data: bytes) -> float:
        """Megapixels of an image file by its header, in any thread; raises as ``shape_of``."""
        height, width = shape_of(data, name=_NAME, max_megapixels=self.max_megapixels)
        return height * width / 1e6

    def read(self, data: bytes, *, overlay: bool) -> Upload:
        """Decode and scale an image file for this version, in any thread.

        Raises:
            ImageError: as ``Inspector.decode``.
        """
        file = self._inspector.decode(data, name=_NAME)
        seen = appearance(file.md5, file.pixels)
        height, width = file.pixels.shape[:2]
        return Upload(file.image, seen, height, width, file.pixels if overlay else None)

    def _judge(self, uploads: Sequence[Upload]) -> list[InspectedImage]:
        images = list(self._inspector.inspect(upload.image for upload in uploads))
        rows = [
            logged(upload.appearance, image, model_version=self.version, file=None)
            for upload, image in zip(uploads, images, strict=True)
        ]
        self._log.append(self.category, rows)
        return images


def load_model(
    tracking: Tracking, version: ModelVersion, settings: Settings, compute: Executor, log: ScoreLog
) -> ServedModel:
    """Load a version and check that its example images get the scores of the evaluation.

    Args:
        compute: the only thread that scores images, also the examples.
        log: of the scores of requests; the scores of the examples are not logged.

    Raises:
        StillwatchError: the artefact is not what was registered, or cannot be loaded here.
    """
    with tempfile.TemporaryDirectory(prefix="stillwatch-") as folder:
        bundle = registered_bundle(tracking, version, Path(folder))
        examples = read_examples(tracking, version, Path(folder))
        inspector = Inspector(
            bundle,
            load_scorer(bundle, settings.training.device),
            settings.serving.batch_size,
            settings.images.max_megapixels,
        )
    check_examples(bundle, examples, compute.submit(_scored, inspector, examples).result())
    return ServedModel(version, inspector, settings, compute, log)


def _scored(inspector: Inspector, examples: Examples) -> Scores:
    # One by one: the pixels of both may not fit into memory.
    decoded = (inspector.decode(data, name="an example image").image for data in examples.images)
    images = list(inspector.inspect(decoded))
    return Scores(tuple(i.score for i in images), tuple(i.verdict for i in images))
