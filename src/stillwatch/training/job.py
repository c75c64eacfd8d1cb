"""Run a training in a child process, with progress events and a timeout. Needs no torch.

The job goes to the child as one line of JSON on its stdin, which then stays open: the child ends
when it closes, so that it ends with a killed parent. Events come back as lines of
JSON on its stdout.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import Field

from stillwatch.errors import DeviceMemoryError, TrainingError
from stillwatch.machine.threads import thread_environment
from stillwatch.sections import Section
from stillwatch.settings import CalibrationSettings, TeacherSettings, TrainingSettings

_POLL_SECONDS = 0.25
_TAIL_BYTES = 4000


class TrainingJob(Section):
    """The description of a training, as the child process reads it."""

    category: str
    detector: str
    detector_settings: dict[str, Any]
    teacher: TeacherSettings
    training: TrainingSettings
    calibration: CalibrationSettings
    white_level: int
    store: Path = Field(description="folder of the decoded images, scaled")
    parts: dict[str, tuple[str, ...]] = Field(
        description="train, validation and calibration: paths in the store"
    )
    region: Path | None = Field(description="PNG of the region of interest; null: everywhere")
    groups: dict[str, str] = Field(description="path -> group; empty without groups")
    checkpoint: Path = Field(description="folder that a killed training resumes from")
    shared: Path = Field(description="folder of the weights that trainings share")
    bundle: Path = Field(description="folder that the bundle is written to")
    fingerprint: str
    provenance: dict[str, str]

    @property
    def calibration_groups(self) -> dict[str, int]:
        """Number of calibration images per group."""
        calibration = self.parts["calibration"]
        return dict(Counter(self.groups[path] for path in calibration if path in self.groups))

    def on_device(self, device: str) -> "TrainingJob":
        """The same job on one device."""
        training = self.training.model_copy(update={"device": device})
        return self.model_copy(update={"training": training})


@dataclass(frozen=True)
class EpochReport:
    """Losses and times of one epoch."""

    phase: str
    epoch: int
    """0-based."""
    epochs: int
    """Of this phase."""
    train_loss: float
    validation_loss: float
    seconds: float
    """Seconds of training so far, those before a resume included."""
    seconds_left: float


def run_training(
    job: TrainingJob, *, on_epoch: Callable[[EpochReport], None], threads: int | None = None
) -> int:
    """Train, calibrate and write the bundle in a child process; wait for it.

    Args:
        job: what to train.
        on_epoch: called after every epoch; the child is killed when it raises.
        threads: to compute with on the CPU, unless the user's ``OMP_NUM_THREADS`` says otherwise;
            None: as many as this process.

    Returns:
        Peak memory in bytes, of the GPU if there is one, else of the process.

    Raises:
        TrainingError: the child's own sentence, a timeout, or a crash with the end of its stderr.
        DeviceMemoryError: the child's own sentence, when a batch does not fit into memory.
    """
    deadline = time.monotonic() + 60 * job.training.timeout_minutes
    with tempfile.TemporaryFile() as stderr, _child(stderr, threads) as child:
        events = _events(child)
        with suppress(BrokenPipeError):  # the loop below reports a child that died at once
            _send(child, job)
        while True:
            event = _next_event(events, deadline, job)
            if event is None:
                raise TrainingError(_crash(job, child.wait(), stderr))
            match event.pop("event"):
                case "epoch":
                    on_epoch(EpochReport(**event))
                case "failed":
                    if event["memory"]:
                        raise DeviceMemoryError(event["message"], event["batch_setting"])
                    raise TrainingError(event["message"])
                case "finished":
                    return int(event["peak_memory_bytes"])


@contextmanager
def _child(stderr: IO[bytes], threads: int | None) -> Iterator[subprocess.Popen[str]]:
    """The training process in a session of its own, killed with all that it started."""
    child = subprocess.Popen(
        [sys.executable, "-m", "stillwatch.training.child"],
        env=thread_environment(os.environ, threads),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        with suppress(BrokenPipeError):
            child.stdin.close()  # type: ignore[union-attr]


def _send(child: subprocess.Popen[str], job: TrainingJob) -> None:
    stdin: IO[str] = child.stdin  # type: ignore[assignment]
    stdin.write(job.model_dump_json() + "\n")
    stdin.flush()


def _events(child: subprocess.Popen[str]) -> "queue.Queue[dict[str, Any] | None]":
    """The child's events, None after the last; read in a thread, so that waiting can time out."""
    events: queue.Queue[dict[str, Any] | None] = queue.Queue()
    stdout: IO[str] = child.stdout  # type: ignore[assignment]

    def read() -> None:
        # A killed child may leave an incomplete last line.
        with stdout, suppress(json.JSONDecodeError):
            for line in stdout:
                events.put(json.loads(line))
        events.put(None)

    threading.Thread(target=read, name="training-events", daemon=True).start()
    return events


def _next_event(
    events: "queue.Queue[dict[str, Any] | None]", deadline: float, job: TrainingJob
) -> dict[str, Any] | None:
    while time.monotonic() < deadline:
        with suppress(queue.Empty):
            return events.get(timeout=_POLL_SECONDS)
    raise TrainingError(
        f"{job.category}: training '{job.detector}' took longer than "
        f"{job.training.timeout_minutes:g} minutes and was stopped. Raise training.timeout_minutes "
        f"or ask for fewer epochs or steps in detectors.{job.detector}; the next run with the same "
        "settings resumes from its last checkpoint."
    )


def _crash(job: TrainingJob, code: int, stderr: IO[bytes]) -> str:
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - _TAIL_BYTES))
    tail = stderr.read().decode("utf-8", errors="replace").strip()
    how = f"exit code {code}"
    if code < 0:
        how = f"signal {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        how += ", as when memory runs out"
    return (
        f"{job.category}: training '{job.detector}' ended without a result ({how}). Run it again "
        f"to resume from its last checkpoint. The end of its messages:\n{tail or '(none)'}"
    )
