"""The settings in ``params.yaml``, typed; an unknown key is an error."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

import yaml
from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic import ValidationError as PydanticError

from stillwatch.errors import SettingsError
from stillwatch.geometry import STRIDE, Geometry, Shape, fitted, tiled
from stillwatch.sections import Section, parse_section, wrong_values
from stillwatch.text import CATEGORY_NAME, unknown_name

_LARGEST_SCALE = 4.0
_EPOCH_PIXELS = 400 * 256**2
MEASURED_EPOCHS = 10
"""Statistics before a training, and a memory, see the tiles of so many epochs at most."""


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise ValueError(
            "has a password in it. Leave it out: a database's comes from PGPASSWORD or ~/.pgpass, "
            "an MLflow server's from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return address


Address = Annotated[str, AfterValidator(_without_password)]
"""A URL; it is logged and recorded, so it must not hold a password."""
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Margin = Annotated[float, Field(ge=0.0, lt=1.0)]
Profile = Literal["paper", "laptop"]
"""The set of defaults of a method's own settings."""
SelectBy = Literal["image_auroc", "image_ap", "pixel_auroc", "aupro"]
"""The figure that selects a detector and decides about a challenger."""


class WorkspaceSettings(Section):
    """Where the image set lives: a git + DVC repository."""

    path: Path = Field(Path(), description="git + DVC repository that holds the image set")
    image_set: str = Field("data", description="folder in it that DVC tracks as <image_set>.dvc")
    remote: str | None = Field(
        None,
        description="DVC remote to push to; null: the workspace's default, else a local folder",
    )

    @property
    def data(self) -> Path:
        """The image set's folder."""
        return self.path / self.image_set


class InboxSettings(Section):
    """The folder for new images."""

    path: Path = Field(Path("inbox"), description="holds <category>/{good,<defect>}/*")
    settle_seconds: float = Field(
        60.0, ge=0, description="a file is taken once nobody has written to it for so long"
    )


class ImageSettings(Section):
    """How image files become pixels; the aspect ratio is always kept."""

    scale: Literal["fit"] | float = Field(
        "fit",
        description="fit: the longer side becomes size; or a factor of the file's own pixels, such "
        "as 1.0 or 0.5, at which images are cut into overlapping tiles",
    )
    size: int = Field(
        256, ge=32, le=2048, description="fit: longer side in pixels; a factor: side of a tile"
    )
    overlap: int = Field(
        32,
        ge=0,
        description="pixels that neighbouring tiles share, at least, where scale is a factor",
    )
    white_level: int | None = Field(
        None, ge=1, le=65535, description="value shown as white in 16-bit images; null: bit depth"
    )
    max_megapixels: float = Field(200.0, gt=0, description="larger images are refused undecoded")

    @field_validator("scale", mode="before")
    @classmethod
    def _scale_is_possible(cls, scale: Any) -> Any:
        is_factor = isinstance(scale, int | float) and 0 < scale <= _LARGEST_SCALE
        if scale != "fit" and not is_factor:
            raise ValueError(
                f"is {scale}, and must be fit, or a factor above 0 and at most {_LARGEST_SCALE:g}"
            )
        return scale

    @model_validator(mode="after")
    def _tiles_are_possible(self) -> "ImageSettings":
        if self.scale == "fit":
            return self
        if self.size % STRIDE:
            raise ValueError(
                f"size is {self.size}, and the side of a tile must be a multiple of {STRIDE}"
            )
        if self.overlap >= self.size:
            raise ValueError(
                f"overlap ({self.overlap}) must be less than the side of a tile, size ({self.size})"
            )
        return self

    def geometry(self, shapes: Sequence[Shape]) -> Geometry:
        """Scale and tiles of a category's images.

        Args:
            shapes: (height, width) of the files of the training images, at least one.
        """
        if self.scale == "fit":
            return fitted(shapes, self.size)
        return tiled(shapes, self.scale, self.size, self.overlap)


class SplitSettings(Section):
    """How ``train/good`` is divided; an image once assigned is never moved."""

    calibration_share: Share = Field(0.2, description="share of the distinct normals")
    validation_share: Share = Field(0.1, description="share of the distinct normals")
    group_pattern: str | None = Field(
        None, description="regular expression on the file name; its first group stays together"
    )


class CalibrationSettings(Section):
    """False-alarm rates that the two thresholds are calibrated for."""

    alpha_reject: Share = Field(0.05, description="false-alarm rate of the verdict reject")
    alpha_review: Share = Field(0.15, description="rate at which a good part is not passed")

    @model_validator(mode="after")
    def _review_before_reject(self) -> "CalibrationSettings":
        if self.alpha_review < self.alpha_reject:
            raise ValueError(
                f"alpha_review ({self.alpha_review}) must be at least alpha_reject "
                f"({self.alpha_reject}): what is rejected is also not passed"
            )
        return self


class CheckSettings(Section):
    """Thresholds of the image-set checks."""

    min_side: int = Field(32, ge=1, description="shortest side in pixels")
    min_train_normals: int = Field(10, ge=2, description="distinct images that are trained on")
    outlier_z: float = Field(
        8.0, gt=0, description="robust z-score beyond which sharpness or exposure is an outlier"
    )
    max_clipped: Share = Field(0.5, description="share of pixels at 0 or 255")
    near_duplicate_ratio: Share = Field(
        0.2, description="hash distance relative to the category's typical nearest neighbour"
    )
    smallest_defect: float | None = Field(
        None,
        gt=0,
        description="side in pixels of the file of the smallest defect that matters, where no mask "
        "shows one; null: unknown",
    )


class TeacherSettings(Section):
    """The frozen pretrained network and where its weights may come from."""

    name: str = Field(
        "efficientnet_lite0",
        description="efficientnet_lite0..2, a torchvision name (resnet18, wide_resnet50_2, vgg16) "
        "or a timm name (resnet18.tv_in1k)",
    )
    weights_dir: Path = Field(
        Path("weights"), description="folder searched first; then torch's hub folder"
    )
    sha256: str | None = Field(
        None, description="expected digest of a weights file that stillwatch does not know"
    )
    allow_download: bool = Field(False, description="may ask timm's hub as the last resort")


class TrainingSettings(Section):
    """Settings of the training that all methods share."""

    seed: int = Field(0, ge=0, description="seed of initialisation, order and augmentation")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda[:i]"
    )
    profile: Literal["auto", "paper", "laptop"] = Field(
        "auto",
        description="the methods' own settings where detectors says nothing: paper (as published), "
        "laptop (what two CPU cores can afford); auto: paper on a GPU, else laptop",
    )
    tiles_per_epoch: int | None = Field(
        None,
        ge=1,
        description="most tiles (images, with images.scale fit) that an epoch trains on; null: as "
        "many as have the pixels of 400 images of 256 × 256",
    )
    checkpoint_every: int = Field(5, ge=1, description="epochs between checkpoints")
    photographs: Path | None = Field(
        None,
        description="folder of everyday photographs for the methods that use them, of which at "
        "most 1000 are read; null: none",
    )
    timeout_minutes: float = Field(
        240.0, gt=0, description="a longer training is stopped and failed"
    )

    def largest_epoch(self, tile: Shape) -> int:
        """Most tiles of this shape that an epoch trains on."""
        if self.tiles_per_epoch is not None:
            return self.tiles_per_epoch
        return max(1, _EPOCH_PIXELS // (tile[0] * tile[1]))


class EvaluationSettings(Section):
    """How test figures are computed."""

    size: int = Field(
        256, ge=32, le=2048, description="longer side at which pixel metrics are computed"
    )
    bootstrap_resamples: int = Field(1000, ge=100, description="resamples behind each interval")
    synthetic_anomalies: int = Field(
        32, ge=4, description="made when a category has no real ones; always marked synthetic"
    )


class FloorSettings(Section):
    """Lowest figures with which a version becomes champion without a person."""

    image_auroc: float = Field(0.7, ge=0, le=1)
    aupro: float = Field(0.3, ge=0, le=1, description="asked only where there are masks")
    recall: float = Field(
        0.5, ge=0, le=1, description="at the threshold; asked only of at least 10 real anomalies"
    )


class RetrainSettings(Section):
    """Defaults of the flow ``retrain``."""

    detectors: tuple[str, ...] = Field(("patchcore", "reverse_distillation"), min_length=1)
    select_by: SelectBy = "image_auroc"
    allow_baselines: bool = Field(
        True, description="baselines, which do not distil (patchcore, autoencoder), may win"
    )
    floors: FloorSettings = FloorSettings()


class VetoMargins(Section):
    """How much worse than the champion's the other figures may be."""

    image_auroc: Margin = 0.02
    aupro: Margin = 0.02
    recall: Margin = 0.05
    false_alarm_rate: Margin = Field(0.02, description="higher by this much")


class GateSettings(Section):
    """When a challenger may replace the champion, on the same test images."""

    margin: Margin = Field(
        0.02, description="of retrain.select_by: not_worse means surely not lower by more than this"
    )
    veto_margins: VetoMargins = VetoMargins()
    resamples: int = Field(2000, ge=100, description="resamples of the test images")
    latency_budget_ms: float | None = Field(
        None,
        gt=0,
        description="per image, on the machine that compares (of the first version: that "
        "evaluates): above the budget a person decides; surely above, the challenger is refused; "
        "null: none",
    )
    promotion: Literal["automatic", "approval"] = Field(
        "automatic",
        description="automatic: the answers below promote without a person; approval: a person "
        "approves every champion, the first included",
    )
    automatic: tuple[Literal["better", "not_worse"], ...] = Field(
        ("better",),
        description="answers that promote without a person, where promotion is automatic",
    )


class InspectionSettings(Section):
    """Folders to inspect, and the length of the score log."""

    path: Path = Field(
        Path("to_inspect"), description="the deployment inspect may read folders in it, no others"
    )
    log_rows: int = Field(
        1_000_000,
        ge=1,
        description="rows of the score log per category; the oldest are removed first",
    )


class ServingSettings(Section):
    """``stillwatch serve``."""

    poll_seconds: float = Field(
        5.0, gt=0, description="how often the registry is asked for the champions"
    )
    max_requests: int = Field(64, ge=1, description="requests at a time; more are refused")
    max_megapixels: float = Field(
        400.0,
        gt=0,
        description="sum over the images of all requests at a time; more are refused, but never an "
        "image alone",
    )
    batch_size: int = Field(16, ge=1, description="images that are scored together, at most")
    batch_wait_ms: float = Field(
        2.0, ge=0, description="how long the first image of a batch waits for others"
    )


class DriftSettings(Section):
    """When the scores of a champion count as drifted, and what follows."""

    false_alarm_probability: Share = Field(
        0.01,
        description="probability that a stream without drift ever alarms, for each test",
    )
    on_alarm: Literal["ask", "retrain"] = Field(
        "ask", description="ask: ask a person for images; retrain: at once, on the present images"
    )


class RuntimeSettings(Section):
    """Where the flows run their tasks."""

    task_runner: Literal["thread", "process", "ray"] = Field(
        "thread",
        description="where tasks run; a training is always a process, with ray on a machine of the "
        "cluster",
    )
    ray_address: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9.-]+:\d+$",
        description="host:port of the Ray cluster's head, for task_runner ray",
    )
    slots_per_device: int | None = Field(
        None,
        ge=1,
        description="trainings and evaluations at a time on each GPU, or trainings on the CPU of a "
        "machine without, which share its cores; null: one on a GPU, at most two on a CPU",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="that each process computes with on the CPU; null: one for each physical core "
        "that it may use, and for a training its slot's share of them. OMP_NUM_THREADS in the "
        "environment comes first",
    )

    @model_validator(mode="after")
    def _ray_is_somewhere(self) -> "RuntimeSettings":
        if self.task_runner == "ray" and self.ray_address is None:
            raise ValueError(
                "task_runner is ray, and ray_address is not set. Set it to host:port of the "
                "cluster's head, as 'ray start --head' prints it"
            )
        return self


class TrackingSettings(Section):
    """MLflow."""

    uri: Address | None = Field(
        None,
        description="server, or a database (postgresql://user@host/name) that is opened directly; "
        "null: SQLite in the state folder",
    )
    artifacts: Address | None = Field(
        None,
        pattern="^s3://[^/]+",
        description="where new experiments keep their files, s3://bucket/folder; null: the state "
        "folder; a server decides itself",
    )
    s3_endpoint: Address | None = Field(
        None, pattern="^https?://", description="address of the S3 store; null: Amazon's"
    )

    @property
    def server(self) -> str | None:
        """Address of a tracking server that runs elsewhere; None if the store is opened here."""
        served = self.uri is not None and urlsplit(self.uri).scheme in {"http", "https"}
        return self.uri if served else None

    @model_validator(mode="after")
    def _server_decides(self) -> "TrackingSettings":
        if self.server is not None and self.artifacts is not None:
            raise ValueError(
                f"artifacts ({self.artifacts}) is for a store that is opened directly. The server "
                f"{self.server} decides itself: set its MLFLOW_ARTIFACTS_DESTINATION"
            )
        return self


class ServicesSettings(Section):
    """The servers that stillwatch starts on this machine."""

    host: str = Field(
        "127.0.0.1",
        pattern=r"^[A-Za-z0-9.-]+$",
        description="IPv4 address or name at which they listen; others than this machine can reach "
        "it unless it is loopback, so it needs passwords in the environment then",
    )
    prefect_database: Address | None = Field(
        None,
        pattern="^postgresql://",
        description="postgresql://user@host/name; null: SQLite in the state folder",
    )


_PER_CATEGORY = (
    "images",
    "split",
    "calibration",
    "checks",
    "teacher",
    "training",
    "detectors",
    "evaluation",
    "retrain",
    "gate",
    "drift",
)
"""Sections that ``categories`` may override; the others name folders, devices and servers."""
_OF_ALL_CATEGORIES = {
    "teacher": ("weights_dir", "allow_download"),
    "training": ("device", "photographs"),
}
"""What of these sections names folders and devices as well."""
_FOLDERS = {
    "workspace": "path",
    "inbox": "path",
    "inspection": "path",
    "teacher": "weights_dir",
    "training": "photographs",
}
"""The setting of each section that names a folder."""


class Settings(Section):
    """The whole of ``params.yaml``, or what of it holds for one category."""

    state_dir: Path = Field(Path(".stillwatch"), description="caches, stores, servers' data")
    workspace: WorkspaceSettings = WorkspaceSettings()
    inbox: InboxSettings = InboxSettings()
    images: ImageSettings = ImageSettings()
    split: SplitSettings = SplitSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    checks: CheckSettings = CheckSettings()
    teacher: TeacherSettings = TeacherSettings()
    training: TrainingSettings = TrainingSettings()
    detectors: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="per method; its keys are checked by the method itself"
    )
    evaluation: EvaluationSettings = EvaluationSettings()
    retrain: RetrainSettings = RetrainSettings()
    gate: GateSettings = GateSettings()
    inspection: InspectionSettings = InspectionSettings()
    serving: ServingSettings = ServingSettings()
    drift: DriftSettings = DriftSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    tracking: TrackingSettings = TrackingSettings()
    services: ServicesSettings = ServicesSettings()
    categories: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="per category: settings that differ from those above, in the same sections",
    )

    def for_category(self, name: str) -> "Settings":
        """The settings of one category: those of the file, but for what ``categories.NAME`` says.

        Dictionaries are merged at every level; every other value is replaced.

        Args:
            name: of the category; one that ``categories`` does not name has those of the file.

        Returns:
            Settings whose ``categories`` is empty.
        """
        values = dict(self) | {"categories": {}}
        return Settings.model_validate(_merged(values, self.categories.get(name, {})))

    @model_validator(mode="after")
    def _categories_are_valid(self) -> "Settings":
        wrong = [one for name in self.categories for one in self._wrong_overrides(name)]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _wrong_overrides(self, name: str) -> list[str]:
        """What is wrong with ``categories.NAME``, one phrase per wrong key or value."""
        if not CATEGORY_NAME.fullmatch(name):
            return [f"categories: '{name}' is no category: names have only a-z, 0-9, '_' and '-'"]
        wrong = list(_misplaced(self.categories[name]))
        if not wrong:
            try:
                self.for_category(name)
            except PydanticError as error:
                wrong = wrong_values(error)
        return [f"categories.{name}.{one}" for one in wrong]


def _misplaced(override: dict[str, Any]) -> Iterator[str]:
    """The keys that a category cannot override, each with where the setting belongs."""
    for key, values in override.items():
        if key in _PER_CATEGORY:
            for inner in _OF_ALL_CATEGORIES.get(key, ()):
                if isinstance(values, dict) and inner in values:
                    yield f"{key}.{inner} is the same for all categories: set {key}.{inner} instead"
        elif key in Settings.model_fields:
            yield f"{key} is the same for all categories: move it to the top level of the file"
        else:
            yield f"{key}: {_unknown_override(key)}"


def _unknown_override(key: str) -> str:
    for name in _PER_CATEGORY:
        if key in getattr(Settings.model_fields[name].annotation, "model_fields", {}):
            return f"unknown setting '{key}' (did you mean '{name}.{key}'?)"
    return unknown_name("setting", key, list(_PER_CATEGORY))


def _merged(base: Any, override: Any) -> Any:
    """``override`` on top of ``base``, merged at every level of dictionaries and sections."""
    values = dict(base) if isinstance(base, Section) else base
    if not isinstance(values, dict) or not isinstance(override, dict):
        return override
    return values | {key: _merged(values.get(key), one) for key, one in override.items()}


def load_settings(path: Path) -> Settings:
    """Read ``path`` (YAML). Relative folders in it are relative to the file's folder.

    Raises:
        SettingsError: no such file, not YAML, an unknown key or a value out of range.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(
            f"{path.absolute()}: no such settings file. Run stillwatch in the folder of a plant, "
            "name a file with --params, or make a plant with 'stillwatch init FOLDER'."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # that of YAML has several lines
        raise SettingsError(f"{path}: cannot be read as YAML ({reason}). Fix the file.") from error
    settings = parse_section(Settings, values or {}, where=str(path))
    return _anchor_paths(settings, path.resolve().parent)


def _anchor_paths(settings: Settings, base: Path) -> Settings:
    anchored: dict[str, Any] = {"state_dir": base / settings.state_dir}
    for name, key in _FOLDERS.items():
        section = getattr(settings, name)
        if (folder := getattr(section, key)) is not None:
            anchored[name] = section.model_copy(update={key: base / folder})
    return settings.model_copy(update=anchored)
