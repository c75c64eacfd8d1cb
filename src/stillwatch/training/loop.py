"""The training loop of all methods: seeded, resumable, with a validation loss in each epoch.

Every epoch starts from a seed made of the setting, the phase and the epoch. No random state is
carried from one epoch to the next, so a training that resumes from a checkpoint ends with the same
weights.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stillwatch.combination import Combination
from stillwatch.detectors.base import Batch, Detector, Phase
from stillwatch.errors import DeviceMemoryError, TrainingError
from stillwatch.geometry import Geometry
from stillwatch.images.decode import Pixels
from stillwatch.inference.stitching import level_maps
from stillwatch.inference.torch_scorer import TorchScorer
from stillwatch.machine.devices import full_precision, mixed_precision
from stillwatch.settings import MEASURED_EPOCHS, TrainingSettings
from stillwatch.training.checkpoints import Checkpoint, grouped, load_checkpoint, save_checkpoint
from stillwatch.training.data import TilePool, TrainingImages, evenly_spread, seed_of
from stillwatch.training.job import EpochReport
from stillwatch.training.shared_phases import load_shared, save_shared, shared_folder
from stillwatch.training.state import PhaseState

_STATISTICS_BATCH = 16
_STATISTICS_PIXELS = 1_000_000_000
"""Most pixels of the validation normals whose level maps are in memory together."""
_WATCHED_SHARE = 0.25
"""Most validation tiles, relative to the most tiles of an epoch."""


@dataclass(frozen=True)
class TrainingSummary:
    """Times and losses of a whole training."""

    seconds: float
    """Seconds, without the phases whose weights came from another training."""
    kept_epochs: dict[str, int]
    """Phase -> the epoch whose weights were kept."""
    taken_over: dict[str, float]
    """Phase whose weights came from another training -> seconds that it took there."""
    figures: dict[str, float]
    """``<phase>/<figure>`` -> what a phase measured on its held-out images."""
    resumed: bool
    epochs: tuple[EpochReport, ...]
    combination: Combination
    """How level maps become anomaly maps, with statistics of the validation normals."""


def train(
    detector: Detector,
    *,
    train_images: Sequence[Pixels],
    validation_images: Sequence[Pixels],
    geometry: Geometry,
    settings: TrainingSettings,
    device: torch.device,
    checkpoint: Path | None,
    on_epoch: Callable[[EpochReport], None],
    photographs: NDArray[np.uint8] | None = None,
    shared: Path | None = None,
) -> TrainingSummary:
    """Train ``detector`` in place; it is left on ``device``, in eval mode, ready to score.

    Args:
        detector: as ``build_detector`` made it.
        train_images: scaled, uint8 (h, w, 3) each, the only images that weights are fitted to.
        validation_images: likewise, normals that choose the epoch and set statistics.
        geometry: how images are cut into tiles.
        settings: seed, tiles of an epoch and checkpoint interval.
        device: where to train.
        checkpoint: folder to resume from and to write to; None: no checkpoints.
        on_epoch: called after every epoch that this call trains.
        photographs: uint8 (P, S, S, 3), at least 3, for phases and losses that ask for them.
        shared: folder of phases that several trainings share; None: none are kept.

    Raises:
        TrainingError: no images, or a loss that is not finite.
        DeviceMemoryError: a batch does not fit into the device's memory.
    """
    for part, images in (("train", train_images), ("validation", validation_images)):
        if len(images) == 0:
            raise TrainingError(f"there are no {part} normals. Add good images to train/good.")
    detector.to(device).to(memory_format=torch.channels_last).eval()
    every = TrainingImages(
        train_images, validation_images, photographs, geometry, detector.teacher, device
    )
    training = _Training(
        detector=detector,
        images=every,
        settings=settings,
        device=device,
        checkpoint=checkpoint,
        shared=shared,
        identity=_identity(detector, settings, every),
        on_epoch=on_epoch,
    )
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return training.run()
    except torch.OutOfMemoryError as error:
        setting = training.batch_setting
        lower = f"detectors.{detector.name}.{setting} or images.size" if setting else "images.size"
        raise DeviceMemoryError(
            f"{device} has not enough memory for detector '{detector.name}'. Lower {lower}, or set "
            "training.device to cpu.",
            setting,
        ) from error


@dataclass(frozen=True)
class _Normals:
    """Some tiles of a pool, in batches."""

    pool: TilePool
    rows: Tensor

    def __iter__(self) -> Iterator[Batch]:
        return self.pool.batches(_STATISTICS_BATCH, self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass
class _Training:
    detector: Detector
    images: TrainingImages
    settings: TrainingSettings
    device: torch.device
    checkpoint: Path | None
    shared: Path | None
    identity: str
    on_epoch: Callable[[EpochReport], None]
    reports: list[EpochReport] = field(default_factory=list)
    kept_epochs: dict[str, int] = field(default_factory=dict)
    taken_over: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    batch_setting: str | None = None
    """The detector's setting that limits the batch size of the running phase."""
    started: float = field(default_factory=time.monotonic)

    def run(self) -> TrainingSummary:
        saved = load_checkpoint(self.checkpoint, self.identity) if self.checkpoint else None
        train, validation = self.images.normals
        if saved is None:
            self._measure(f"{self.settings.seed}/prepare", self.detector.prepare, train)
        else:
            self._resume(saved)
        phases = self.detector.phases()
        reached = 0 if saved is None else saved.state["phase"]
        for index in range(reached, len(phases)):
            state = PhaseState.start(phases[index])
            if saved is not None and index == reached:
                state.restore(saved)
            if self.shared is not None and state.phase.shared_as is not None:
                self._run_shared_phase(state, index, phases, self.shared)
            else:
                self._run_phase(state, index, phases)
            self._check(phases[index], index)
        self.detector.eval()
        self.batch_setting = None
        combination = self._combination(validation.tiles.images)
        return TrainingSummary(
            self._seconds(),
            self.kept_epochs,
            self.taken_over,
            self.figures,
            saved is not None,
            tuple(self.reports),
            combination,
        )

    def _combination(self, normals: Sequence[Pixels]) -> Combination:
        scorer = TorchScorer(self.detector, self.device)
        geometry = self.images.geometry
        seen = evenly_spread(normals, _STATISTICS_PIXELS)
        levels = list(level_maps(scorer, geometry, seen, _STATISTICS_BATCH))
        return self.detector.combination(levels, geometry.sigma)

    def _measure(self, seed: str, see: Callable[[_Normals], None], images: TilePool) -> None:
        _seed(seed)
        most = MEASURED_EPOCHS * self._tiles_per_epoch(images)
        with torch.no_grad(), full_precision(self.device):
            see(_Normals(images, images.spread(most)))

    def _run_phase(self, state: PhaseState, index: int, phases: list[Phase]) -> None:
        phase = state.phase
        self.batch_setting = f"{phase.settings_prefix}batch_size"
        train, watched = self._pools(phase)
        epochs = self._passes(phase)
        if phase.prepare is not None and state.epochs_done == 0:
            self._measure(self._seed_name(phase, index, "prepare"), phase.prepare, train)
        began, done_before = time.monotonic(), state.epochs_done
        for epoch in range(state.epochs_done, epochs):
            _seed(self._seed_name(phase, index, f"{epoch}"))
            train_loss = self._train_epoch(state, index, epoch, epochs, train)
            _seed(self._seed_name(phase, index, "validation"))
            validation_loss = self._validate(state, epoch, watched)
            self._require_finite(phase, epoch, train_loss, validation_loss)
            state.epochs_done = epoch + 1
            epochs_left = sum(map(self._passes, phases[index:])) - state.epochs_done
            seconds_per_epoch = (time.monotonic() - began) / (state.epochs_done - done_before)
            report = EpochReport(
                phase=phase.name,
                epoch=epoch,
                epochs=epochs,
                train_loss=train_loss,
                validation_loss=validation_loss,
                seconds=self._seconds(),
                seconds_left=epochs_left * seconds_per_epoch,
            )
            self.reports.append(report)
            if state.epochs_done % self.settings.checkpoint_every == 0 or epoch + 1 == epochs:
                self._save(state, index)
            self.on_epoch(report)
        phase.module.load_state_dict(state.kept)
        phase.module.eval()
        self.kept_epochs[phase.name] = state.kept_epoch

    def _check(self, phase: Phase, index: int) -> None:
        """Record the phase's figures, also where another training has trained its weights."""
        check = phase.check
        if check is None:
            return

        def see(held_out: _Normals) -> None:
            found = check(held_out)
            self.figures |= {f"{phase.name}/{name}": value for name, value in found.items()}

        self._measure(self._seed_name(phase, index, "check"), see, self._pools(phase)[1])

    def _run_shared_phase(
        self, state: PhaseState, index: int, phases: list[Phase], shared: Path
    ) -> None:
        """Load the phase's weights from another training, else train the phase and keep them."""
        phase = state.phase
        pools = self._pools(phase)
        folder = shared_folder(
            shared,
            phase,
            self.detector.teacher,
            [pool.tiles for pool in pools],
            self._tiles_per_epoch(pools[0]),
        )
        found = load_shared(folder, phase)
        if found is None:
            self._run_phase(state, index, phases)
            save_shared(folder, state.kept, state.kept_epoch, self._seconds_of(phase))
        else:
            phase.module.eval()
            self.kept_epochs[phase.name] = found.epoch
            self.taken_over[phase.name] = found.seconds

    def _pools(self, phase: Phase) -> tuple[TilePool, TilePool]:
        return self.images.photographs if phase.on_photographs else self.images.normals

    def _passes(self, phase: Phase) -> int:
        return phase.passes(self._tiles_per_epoch(self._pools(phase)[0]))

    def _tiles_per_epoch(self, images: TilePool) -> int:
        return min(self._most_tiles, len(images))

    @property
    def _most_tiles(self) -> int:
        """Most tiles of an epoch."""
        return self.settings.largest_epoch(self.images.geometry.tile)

    def _train_epoch(
        self, state: PhaseState, index: int, epoch: int, epochs: int, images: TilePool
    ) -> float:
        phase = state.phase
        phase.module.train()
        total = torch.zeros((), device=self.device)
        count = self._tiles_per_epoch(images)
        steps = phase.steps_per_epoch(count)
        rows = images.drawn(epoch, count, self._seed_name(phase, index, "order"))
        batches = images.batches(phase.batch_size, rows)
        for step, batch in enumerate(batches, start=epoch * steps):
            progress = (step + 0.5) / (epochs * steps)
            state.set_learning_rate(progress)
            with mixed_precision(self.device):
                loss = phase.loss(replace(batch, progress=progress))
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            state.optimizer.step()
            total += loss.detach() * len(batch)
        return float(total) / count

    @torch.no_grad()
    def _validate(self, state: PhaseState, epoch: int, images: TilePool) -> float:
        phase = state.phase
        total = torch.zeros((), device=self.device)
        phase.module.eval()
        rows = images.spread(max(1, round(_WATCHED_SHARE * self._most_tiles)))
        for batch in images.batches(phase.batch_size, rows):
            with mixed_precision(self.device):
                total += phase.loss(batch) * len(batch)
        loss = float(total) / len(rows)
        state.keep_if_better(loss, epoch)
        return loss

    def _require_finite(self, phase: Phase, epoch: int, *losses: float) -> None:
        if not all(math.isfinite(loss) for loss in losses):
            raise TrainingError(
                f"detector '{self.detector.name}', phase '{phase.name}', epoch {epoch}: the "
                f"training loss is {losses[0]} and the validation loss {losses[1]}. Lower "
                f"detectors.{self.detector.name}.{phase.settings_prefix}learning_rate."
            )

    def _save(self, state: PhaseState, index: int) -> None:
        if self.checkpoint is None:
            return
        values = {
            "identity": self.identity,
            "phase": index,
            "kept_epochs": self.kept_epochs,
            "taken_over": self.taken_over,
            "figures": self.figures,
            "seconds": self._seconds(),
            "reports": [asdict(report) for report in self.reports],
        }
        tensors = grouped(detector=_without_teacher(self.detector))
        checkpoint = Checkpoint(values | state.values(), tensors | state.tensors())
        save_checkpoint(self.checkpoint, checkpoint)

    def _resume(self, saved: Checkpoint) -> None:
        own = self.detector.state_dict()
        self.detector.load_state_dict(own | saved.group("detector"))
        self.reports = [EpochReport(**report) for report in saved.state["reports"]]
        self.kept_epochs = saved.state["kept_epochs"]
        self.taken_over = saved.state["taken_over"]
        self.figures = saved.state["figures"]
        self.started -= saved.state["seconds"]

    def _seed_name(self, phase: Phase, index: int, moment: str) -> str:
        if phase.shared_as is None:
            return f"{self.settings.seed}/{index}/{moment}"
        return f"shared/{phase.name}/{moment}"

    def _seconds_of(self, phase: Phase) -> float:
        """Seconds of the phase that has just ended, those before a resume included."""
        before = [report.seconds for report in self.reports if report.phase != phase.name]
        return self._seconds() - max(before, default=0.0)

    def _seconds(self) -> float:
        return time.monotonic() - self.started


def _seed(name: str) -> None:
    torch.manual_seed(seed_of(name))


def _without_teacher(detector: Detector) -> dict[str, Tensor]:
    state = detector.state_dict()
    return {name: value for name, value in state.items() if not name.startswith("teacher.")}


def _identity(detector: Detector, settings: TrainingSettings, images: TrainingImages) -> str:
    """Digest of everything that a checkpoint of this training depends on."""
    parts = [pool.tiles.digest for pool in (*images.normals, *images.photographs)]
    digest = hashlib.sha256(
        f"{detector.name}/{detector.version}/{detector.settings.model_dump_json()}/"
        f"{detector.teacher.digest}/{settings.seed}/{settings.tiles_per_epoch}/{parts}".encode()
    )
    return digest.hexdigest()
