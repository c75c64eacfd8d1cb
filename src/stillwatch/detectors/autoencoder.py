"""Convolutional autoencoder: the reconstruction error is the anomaly map.

Bergmann, Löwe, Fauser, Sattlegger, Steger, "Improving Unsupervised Defect Segmentation by Applying
Structural Similarity to Autoencoders", VISAPP 2019, arXiv 1807.02011: trained and scored with the
squared error or with SSIM. It does not distil: it is a baseline, the one that style distillation
starts from, and can be chosen by a retraining unless ``retrain.allow_baselines`` is off. With x an
image, A(x) its reconstruction and d either distance at each pixel,

    L = mean d(x, A(x)),    map = d(x, A(x)), averaged over 4×4 pixels, smoothed

Our own: whole images in place of crops of 128×128, and a code that keeps its place in the image (a
sixty-fourth of the pixels, 32 channels) in place of one vector, so that any size will do; and the
rate of Adam warms up and decays, without weight decay.

Our own figures are in docs/results.md.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from stillwatch.combination import GRID
from stillwatch.detectors.base import Batch, Detector, Phase, warm_up_and_cosine
from stillwatch.detectors.blocks.maps import averaged, parts
from stillwatch.detectors.blocks.similarity import squared_error, structural_dissimilarity
from stillwatch.sections import Section
from stillwatch.teachers.networks import Teacher

Distance = Literal["l2", "ssim"]
DISTANCES: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": squared_error,
    "ssim": structural_dissimilarity,
}

_WIDTHS = (32, 64, 128)
_CODE = 32
_MARGIN = 16
"""Pixels added around an image: about the reach of the zero padding."""


class AutoencoderSettings(Section):
    """Settings; the authors' batch of 128 has crops in place of whole images."""

    epochs: int = Field(30, ge=1, description="passes over the training normals")
    batch_size: int = Field(8, ge=1, description="images per step, at most")
    learning_rate: float = Field(0.001, gt=0, lt=1, description="highest rate of Adam")
    distance: Distance = Field("ssim", description="l2 or ssim, in training and in scoring")


class Autoencoder(Detector):
    """Reconstruction with a convolutional autoencoder."""

    name = "autoencoder"
    version = 1
    Settings = AutoencoderSettings
    quick: ClassVar = {"epochs": 4, "batch_size": 2, "learning_rate": 0.005}
    paper: ClassVar = {"epochs": 200, "learning_rate": 0.0002}
    distils = False
    exportable = True

    settings: AutoencoderSettings

    def __init__(self, teacher: Teacher, settings: AutoencoderSettings) -> None:
        super().__init__(teacher, settings)
        self.autoencoder = ConvolutionalAutoencoder()

    @classmethod
    def teacher_strides(cls, teacher_name: str, settings: Mapping[str, Any]) -> tuple[int, ...]:
        """Empty: the method uses images only."""
        return ()

    def phases(self) -> list[Phase]:
        """One phase."""
        return [
            autoencoder_phase(
                self.autoencoder,
                self.settings.distance,
                epochs=self.settings.epochs,
                batch_size=self.settings.batch_size,
                learning_rate=self.settings.learning_rate,
            )
        ]

    def level_maps(self, images: Tensor) -> list[Tensor]:
        """Distance between image and reconstruction at stride 4, at least 0 to within rounding."""
        distance = DISTANCES[self.settings.distance]
        # One image at a time: SSIM enlarges the rounding in which batches of other sizes differ.
        errors = [distance(image, self.autoencoder(image)) for image in parts(images, 1)]
        return [averaged(torch.cat(errors), GRID)]


def autoencoder_phase(
    autoencoder: nn.Module,
    distance: Distance,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> Phase:
    """The phase that trains an autoencoder to reconstruct normals."""

    def loss(batch: Batch) -> Tensor:
        return DISTANCES[distance](batch.images, autoencoder(batch.images)).mean()

    return Phase(
        name="autoencoder",
        module=autoencoder,
        loss=loss,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=learning_rate),
        epochs=epochs,
        batch_size=batch_size,
        schedule=warm_up_and_cosine,
    )


class ConvolutionalAutoencoder(nn.Module):
    """An encoder of three halvings to a code of 32 channels, and its decoder."""

    def __init__(self) -> None:
        super().__init__()
        shallow, middle, deep = _WIDTHS
        self.encoder = nn.Sequential(
            *_halved(3, shallow),
            *_halved(shallow, middle),
            *_halved(middle, deep),
            nn.Conv2d(deep, _CODE, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(_CODE, deep, 3, padding=1),
            nn.LeakyReLU(0.2),
            *_doubled(deep, middle),
            *_doubled(middle, shallow),
            nn.ConvTranspose2d(shallow, 3, 4, stride=2, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images (B, 3, H, W) in the same size, in [0, 1]."""
        return away_from_edges(self._rebuilt, images)

    def _rebuilt(self, images: Tensor) -> Tensor:
        # To SSIM, an inverted image with negative values is as similar to the image as itself.
        return torch.sigmoid(self.decoder(self.encoder(images)))


def away_from_edges(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a network to images with a margin, so that zero padding does not reach the image.

    Args:
        network: images to images of the same size.
        images: (B, C, H, W).
    """
    padded = F.pad(images, (_MARGIN,) * 4, mode="replicate")
    return network(padded)[..., _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]


def _halved(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)


def _doubled(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)
