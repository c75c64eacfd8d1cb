"""Style distillation: a network imitates the small errors of an autoencoder on normals.

**Experimental**: no published figure could be read to hold the method against, and its results are
uneven. It is worse than chance on *plate*, and most of what it finds on *screw* is brightness: a
turned normal is no outlier where parts lie in any pose, and the squared error grows with
brightness.

Chung, Park, Keum, Ki, Kang, "Unsupervised Anomaly Detection Using Style Distillation", IEEE Access
8, 2020, pages 221494 to 221502 (document 9288772).

An autoencoder rebuilds normals imperfectly, too, so that its error over-detects on them.
Its mild distortions of normals are the *style*. A second network with more capacity (SDN) learns to
give a normal the same style, and, regularised with outliers, to leave unknown content as it is,
which the autoencoder distorts: the difference between both is the score. With x a normal, r(x) the
normal turned by 90, 180 or 270 degrees, A the frozen autoencoder and d a distance,

    L = mean d(SDN(x), A(x)) + 0.5 mean d(SDN(r(x)), r(x)),    map = d(SDN(x), A(x))

No official code and no table of results could be read: only the abstract and a review's summary.
The loss, its weight 0.5 and the rotations are theirs; both architectures, the distance (squared
error for SDN and map, which is averaged over 4×4 pixels), the smoothing, optimiser and lengths are
ours. No published figure is claimed to be reproduced. The profile ``paper`` is no more than longer:
its lengths are ours.

Our own figures are in docs/results.md.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.combination import GRID
from stillwatch.detectors.autoencoder import (
    ConvolutionalAutoencoder,
    Distance,
    autoencoder_phase,
    away_from_edges,
)
from stillwatch.detectors.base import Batch, Detector, Phase, warm_up_and_cosine
from stillwatch.detectors.blocks.augmentations import quarter_turned
from stillwatch.detectors.blocks.maps import averaged
from stillwatch.detectors.blocks.similarity import squared_error
from stillwatch.sections import Section
from stillwatch.teachers.networks import Teacher

_WIDTHS = (24, 48, 160)


class StyleDistillationSettings(Section):
    """The paper's outlier_weight: 0.5."""

    autoencoder_epochs: int = Field(20, ge=1, description="passes of the autoencoder")
    epochs: int = Field(4, ge=1, description="passes of the style network")
    batch_size: int = Field(8, ge=1, description="images per step, at most")
    learning_rate: float = Field(0.001, gt=0, lt=1, description="highest rate of Adam")
    distance: Distance = Field("l2", description="l2 or ssim, for training the autoencoder")
    outlier_weight: float = Field(0.5, ge=0, description="of the loss on turned images")


class StyleDistillation(Detector):
    """Outlier-exposed style distillation network (OE-SDN), experimental."""

    name = "style_distillation"
    version = 1
    Settings = StyleDistillationSettings
    quick: ClassVar = {
        "autoencoder_epochs": 5,
        "epochs": 2,
        "batch_size": 2,
        "learning_rate": 0.005,
    }
    paper: ClassVar = {"autoencoder_epochs": 200, "epochs": 100, "learning_rate": 0.0002}
    experimental = True
    exportable = True

    settings: StyleDistillationSettings

    def __init__(self, teacher: Teacher, settings: StyleDistillationSettings) -> None:
        super().__init__(teacher, settings)
        self.autoencoder = ConvolutionalAutoencoder()
        self.style = StyleNetwork()

    @classmethod
    def teacher_strides(cls, teacher_name: str, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """Empty: the method uses images only."""
        return ()

    def phases(self) -> list[Phase]:
        """The autoencoder; then, with it frozen, the style network."""
        return [
            autoencoder_phase(
                self.autoencoder,
                self.settings.distance,
                epochs=self.settings.autoencoder_epochs,
                batch_size=self.settings.batch_size,
                learning_rate=self.settings.learning_rate,
            ),
            Phase(
                name="style",
                module=self.style,
                loss=self._loss,
                optimizer=lambda ps: torch.optim.Adam(ps, lr=self.settings.learning_rate),
                epochs=self.settings.epochs,
                batch_size=self.settings.batch_size,
                schedule=warm_up_and_cosine,
            ),
        ]

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """Squared difference of style network and autoencoder at stride 4, at least 0."""
        return [averaged(squared_error(self.style(images), self.autoencoder(images)), GRID)]

    def _loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            rebuilt = self.autoencoder(batch.images)
        imitation = squared_error(self.style(batch.images), rebuilt).mean()
        turned = quarter_turned(batch.images)
        regularisation = squared_error(self.style(turned), turned).mean()
        return imitation + self.settings.outlier_weight * regularisation


class StyleNetwork(nn.Module):
    """Adds the output of a small U-Net to the image."""

    def __init__(self) -> None:
        super().__init__()
        shallow, middle, deep = _WIDTHS
        self.at_full = _twice(3, shallow)
        self.at_half = _twice(shallow, middle)
        self.at_quarter = _twice(middle, deep)
        self.up_half = nn.ConvTranspose2d(deep, middle, 2, stride=2)
        self.merge_half = _twice(2 * middle, middle)
        self.up_full = nn.ConvTranspose2d(middle, shallow, 2, stride=2)
        self.merge_full = _twice(2 * shallow, shallow)
        self.change = nn.Conv2d(shallow, 3, 1)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Change the style of images (B, 3, H, W), in the same size."""
        return away_from_edges(self._changed, images)

    def _changed(self, images: Tensor) -> Tensor:
        full = self.at_full(images)
        half = self.at_half(F.max_pool2d(full, 2))
        quarter = self.at_quarter(F.max_pool2d(half, 2))
        half = self.merge_half(torch.cat([self.up_half(quarter), half], dim=1))
        full = self.merge_full(torch.cat([self.up_full(half), full], dim=1))
        changed: Tensor = images + self.change(full)
        return changed


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
