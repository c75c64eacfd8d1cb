"""Write and read bundles: a trained and calibrated detector as a folder of files.

``weights.safetensors`` holds every tensor, the teacher's included; ``bundle.json`` holds everything
else. An exported bundle holds a graph in place of the weights, and needs no torch. Nothing is
pickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, JsonValue, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from stillwatch import __version__
from stillwatch.calibration import Calibration, Threshold, calibrate
from stillwatch.combination import Combination
from stillwatch.errors import BundleError, SettingsError
from stillwatch.files import atomic_folder, write_json
from stillwatch.geometry import Geometry
from stillwatch.sections import Section, parse_section

SCHEMA_VERSION = 1
WEIGHTS_FILE = "weights.safetensors"
INFO_FILE = "bundle.json"
REGION_FILE = "region.png"

GraphFormat = Literal["onnx", "openvino"]
GRAPH_FILES: dict[GraphFormat, tuple[str, ...]] = {
    "onnx": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
}
"""Files of each format; the runtime opens the first."""
_MAKE_AGAIN = "Copy the bundle again from where it was made, or make it again."


class DetectorInfo(Section):
    """The method, its version, and the settings that rebuild the detector."""

    name: str
    version: int
    settings: dict[str, JsonValue]


class TeacherInfo(Section):
    """The pretrained network whose weights are inside the bundle."""

    name: str
    digest: str = Field(description="sha256 of the weights file that it was loaded from")


class NormalScores(Section):
    """Image scores of the normals that the detector was trained and validated on."""

    train: tuple[FiniteFloat, ...]
    validation: tuple[FiniteFloat, ...]


class EpochLosses(Section):
    """Losses of one epoch."""

    phase: str
    epoch: int
    train_loss: FiniteFloat
    validation_loss: FiniteFloat


class TrainingInfo(Section):
    """Seed, duration, device and losses of the training."""

    seed: int
    seconds: FiniteFloat = Field(
        description="without the phases whose weights came from another training"
    )
    device: str
    resumed: bool
    kept_epochs: dict[str, int]
    taken_over: dict[str, FiniteFloat] = Field(
        default_factory=dict,
        description="phase whose weights came from another training -> seconds that it took there",
    )
    figures: dict[str, FiniteFloat] = Field(
        default_factory=dict,
        description="what phases measured on their held-out images: <phase>/<figure> -> value",
    )
    losses: tuple[EpochLosses, ...]


class FileInfo(Section):
    """Digest and size of a file."""

    sha256: str
    bytes: int


class GraphInfo(Section):
    """The network as a graph: uint8 tiles (B, H, W, 3) in, float32 level maps out."""

    format: GraphFormat
    files: dict[str, FileInfo]
    model_version: int | None = Field(
        None, ge=1, description="in the registry, whose scores these are; null: of none"
    )

    @model_validator(mode="after")
    def _has_its_files(self) -> "GraphInfo":
        if set(self.files) != set(GRAPH_FILES[self.format]):
            raise ValueError(f"a graph in {self.format} is {', '.join(GRAPH_FILES[self.format])}")
        return self


class BundleInfo(Section):
    """The content of ``bundle.json``; ``write_bundle`` fills in digest and size of the weights."""

    schema_version: int = SCHEMA_VERSION
    stillwatch_version: str = __version__
    category: str
    detector: DetectorInfo
    teacher: TeacherInfo
    geometry: Geometry = Field(description="how images are scaled and cut into tiles")
    combination: Combination = Field(description="how level maps become an anomaly map")
    white_level: int = Field(ge=1, le=65535, description="raw value shown as white")
    calibration: Calibration
    largest_image: int = Field(
        ge=1, description="pixels, after scaling, of the largest calibration image"
    )
    normal_scores: NormalScores
    fingerprint: str
    provenance: dict[str, str]
    training: TrainingInfo
    region: FileInfo | None = Field(
        None, description=f"of {REGION_FILE}, white where defects count; null: everywhere"
    )
    groups: dict[str, int] = Field(
        default_factory=dict, description="calibration images per group; empty without groups"
    )
    weights_sha256: str = ""
    weights_bytes: int = 0
    graph: GraphInfo | None = Field(
        None, description="what an exported bundle holds in place of these weights"
    )
    created: str = Field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"),
        description="ISO 8601, UTC",
    )

    @property
    def files(self) -> dict[str, FileInfo]:
        """The files beside ``bundle.json``, by name."""
        network = {WEIGHTS_FILE: FileInfo(sha256=self.weights_sha256, bytes=self.weights_bytes)}
        if self.graph is not None:
            network = self.graph.files
        return network if self.region is None else network | {REGION_FILE: self.region}

    @model_validator(mode="after")
    def _thresholds_are_scores(self) -> "BundleInfo":
        scores = self.calibration.scores
        if list(scores) != sorted(scores):
            raise ValueError("the calibration scores are not in ascending order")
        for threshold in (self.calibration.reject, self.calibration.review):
            if not _is_score(threshold, scores):
                raise ValueError(
                    f"the threshold {threshold.value} is not calibration score number "
                    f"{threshold.rank} of {threshold.n}"
                )
        return self


@dataclass(frozen=True)
class Bundle:
    """A checked folder and the content of its ``bundle.json``."""

    folder: Path
    info: BundleInfo


def write_bundle(
    folder: Path,
    info: BundleInfo,
    tensors: Mapping[str, NDArray[np.generic]],
    region: Path | None = None,
) -> Bundle:
    """Write a bundle; an earlier bundle in ``folder`` is replaced as a whole.

    Args:
        folder: where the bundle goes.
        info: digests and sizes of the files are filled in here.
        tensors: the detector's state by name.
        region: PNG of the region of interest; None: defects count everywhere.
    """
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    weights = save(arrays)
    info = info.model_copy(
        update={
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "weights_bytes": len(weights),
            "region": None if region is None else file_info(region),
        }
    )
    with atomic_folder(folder) as temporary:
        # Not safetensors' own save_file: its error for a full disk is no OSError.
        (temporary / WEIGHTS_FILE).write_bytes(weights)
        if region is not None:
            shutil.copyfile(region, temporary / REGION_FILE)
        write_json(temporary / INFO_FILE, info.model_dump(mode="json"))
    return Bundle(folder, info)


def read_bundle(folder: Path) -> Bundle:
    """Read ``bundle.json`` and check the files beside it, weights or graph, against it.

    Raises:
        BundleError: a file is missing, truncated, unreadable or not the one that was written, or
            the bundle is of a newer schema.
    """
    info = read_info(folder / INFO_FILE)
    for name, expected in info.files.items():
        _check_file(folder / name, expected)
    return Bundle(folder, info)


def read_info(path: Path) -> BundleInfo:
    """Read a ``bundle.json`` without checking the files beside it.

    Raises:
        BundleError: it is missing, truncated, not ours, or of a newer schema.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}). Name the folder of a bundle: it holds "
            f"{INFO_FILE} and {WEIGHTS_FILE}."
        ) from error
    except ValueError as error:
        raise BundleError(f"{path}: truncated or not JSON ({error}). {_MAKE_AGAIN}") from error
    _check_schema(path, values)
    try:
        return parse_section(BundleInfo, values, where=str(path))
    except SettingsError as error:
        raise BundleError(f"{error} {_MAKE_AGAIN}") from error


def read_weights(bundle: Bundle) -> dict[str, NDArray[np.generic]]:
    """Every tensor of the bundle by name.

    Raises:
        BundleError: the weights file is no longer there or is not a safetensors file.
    """
    path = bundle.folder / WEIGHTS_FILE
    try:
        tensors: dict[str, NDArray[np.generic]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(
            f"{path}: cannot be read as safetensors ({error}). {_MAKE_AGAIN}"
        ) from error
    return tensors


def recalibrated(
    bundle: Bundle,
    folder: Path,
    *,
    alpha_reject: float,
    alpha_review: float,
    groups: dict[str, int] | None = None,
) -> Bundle:
    """Write the same detector with other false-alarm rates as a new bundle; no image is scored.

    Args:
        bundle: of the detector.
        folder: where the new bundle goes.
        alpha_reject: false-alarm rate of the verdict reject, in (0, 1).
        alpha_review: rate at which a normal is not passed, in (0, 1).
        groups: calibration images per group; None: as in ``bundle``.

    Raises:
        CalibrationError: the calibration set is too small for an alpha.
    """
    calibration = calibrate(
        bundle.info.calibration.scores, alpha_reject=alpha_reject, alpha_review=alpha_review
    )
    groups = bundle.info.groups if groups is None else groups
    info = bundle.info.model_copy(update={"calibration": calibration, "groups": groups})
    region = None if info.region is None else bundle.folder / REGION_FILE
    return derive_bundle(bundle, folder, info, region)


def derive_bundle(bundle: Bundle, folder: Path, info: BundleInfo, region: Path | None) -> Bundle:
    """Write the network of a bundle with another content of ``bundle.json``.

    Args:
        bundle: of the detector.
        folder: where the new bundle goes.
        info: digest and size of the region are filled in here.
        region: PNG of the region of interest; None: defects count everywhere.
    """
    found = None if region is None else file_info(region)
    info = info.model_copy(update={"region": found})
    with atomic_folder(folder) as temporary:
        for name in info.files:
            source = bundle.folder / name if region is None or name != REGION_FILE else region
            _link_or_copy(source, temporary / name)
        write_json(temporary / INFO_FILE, info.model_dump(mode="json"))
    return Bundle(folder, info)


def file_info(path: Path) -> FileInfo:
    """Digest and size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileInfo(sha256=digest, bytes=path.stat().st_size)


def _check_file(path: Path, expected: FileInfo) -> None:
    """Raise if a file is not the one that ``bundle.json`` describes."""
    try:
        found = file_info(path)
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}), and the bundle needs it. {_MAKE_AGAIN}"
        ) from error
    if found.bytes < expected.bytes:
        raise BundleError(
            f"{path}: truncated, has {found.bytes} of {expected.bytes} bytes. {_MAKE_AGAIN}"
        )
    if found.sha256 != expected.sha256:
        raise BundleError(
            f"{path}: its sha256 is {found.sha256[:12]}… and bundle.json says "
            f"{expected.sha256[:12]}…, so it is damaged or was replaced. {_MAKE_AGAIN}"
        )


def _check_schema(path: Path, values: Any) -> None:
    schema = values.get("schema_version") if isinstance(values, dict) else None
    if type(schema) is not int or schema < 1:
        raise BundleError(f"{path}: names no schema_version, so it is not a bundle. {_MAKE_AGAIN}")
    if schema > SCHEMA_VERSION:
        raise BundleError(
            f"{path}: has schema version {schema}, and this stillwatch ({__version__}) "
            f"knows versions up to {SCHEMA_VERSION}. Update stillwatch on this machine."
        )


def _is_score(threshold: Threshold, scores: tuple[float, ...]) -> bool:
    within = threshold.n == len(scores) and 1 <= threshold.rank <= threshold.n
    return within and threshold.value == scores[threshold.rank - 1]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
