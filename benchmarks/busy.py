"""What a training step and an inspection take beside busy processes, by thread policy.

Times steps of a training (reverse distillation, EfficientNet-Lite0, batches of 8 made images of 256
pixels) and the inspection of single images with pauses between them, as a server does it; alone,
then beside 1, 2 and 4 other trainings that have the same policy. Policies take turns, so that what
else the machine does hits them alike. Prints the page, and writes it where that is asked for.

    .venv/bin/python -m benchmarks.busy --page docs/busy.md
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.revision import commit, machine, short_commit
from benchmarks.tables import markdown
from stillwatch.machine.threads import SPIN, thread_environment

POLICIES: Mapping[str, Mapping[str, str]] = {
    "library default": {"OMP_WAIT_POLICY": ""},
    "stillwatch": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
"""Variables of the user; an empty one stands for none, without a policy of stillwatch either."""
JOBS = {"training": "training step", "inspection": "inspection of an image"}
BUSY = (0, 1, 2, 4)
BATCH, SIDE, IMAGES = 8, 256, 32
FEWEST = 3
"""Steps that are timed, however long they take."""
PAUSE_SECONDS = 0.05
OTHER_WORK = 0.1
"""Share of the machine's CPU time that other programs may take before the page says so."""


@dataclass(frozen=True)
class Measured:
    """Times of one job."""

    job: str
    policy: str
    busy: int
    seconds: tuple[float, ...]
    other_work: float
    """Share of the CPU time that other programs took just before."""


def main() -> None:
    """Measure and print; or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="that each job is timed for")
    parser.add_argument("--rounds", type=int, default=3, help="times that each job is timed")
    parser.add_argument("--busy", type=int, nargs="+", default=BUSY, help="numbers of processes")
    parser.add_argument("--page", type=Path, help="file to write the page to")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job is not None:
        _be(given.job, given.seconds)
        return
    measured = [
        _measure(job, policy, busy, given.seconds)
        for _ in range(given.rounds)
        for busy, job, policy in itertools.product(given.busy, JOBS, POLICIES)
    ]
    counts = " ".join(str(count) for count in given.busy)
    command = (
        f"python -m benchmarks.busy --seconds {given.seconds:g} --rounds {given.rounds} "
        f"--busy {counts} --page docs/busy.md"
    )
    page = render(measured, command)
    print(page)
    if given.page is not None:
        given.page.write_text(page, encoding="utf-8")


def _measure(job: str, policy: str, busy: int, seconds: float) -> Measured:
    other_work = psutil.cpu_percent(interval=1.0) / 100
    environment = _environment(POLICIES[policy])
    with _busy_processes(busy, environment):
        done = subprocess.run(
            _command(job, seconds), env=environment, capture_output=True, text=True, check=True
        )
    times = tuple(json.loads(done.stdout.splitlines()[-1]))
    print(f"{policy}, {job}, beside {busy}: {statistics.median(times):.3f} s", file=sys.stderr)
    return Measured(job, policy, busy, times, other_work)


def _environment(user: Mapping[str, str]) -> dict[str, str]:
    """Of a process that is measured, with the user's variables and no others about threads."""
    about_threads = {*thread_environment({}), "OMP_WAIT_POLICY"}
    kept = {name: value for name, value in os.environ.items() if name not in about_threads}
    if user.get("OMP_WAIT_POLICY") == "":
        return kept
    return thread_environment(kept | user)


@contextmanager
def _busy_processes(count: int, environment: Mapping[str, str]) -> Iterator[None]:
    """Run trainings until the block ends; it begins when all of them compute."""
    processes = [
        subprocess.Popen(
            _command("training", float("inf")), env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count)
    ]
    try:
        for process in processes:
            if process.stdout is None or not process.stdout.readline():
                raise SystemExit("a busy process ended before it computed; see above")
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _command(job: str, seconds: float) -> list[str]:
    return [sys.executable, "-m", "benchmarks.busy", "--job", job, "--seconds", str(seconds)]


def _be(job: str, seconds: float) -> None:
    """Do the job for so long; print a line when it begins and the times when it ends."""
    steps = _training_steps() if job == "training" else _inspections()
    next(steps)  # the first is slower
    print("computing", flush=True)
    until = time.monotonic() + seconds
    times: list[float] = []
    while len(times) < FEWEST or time.monotonic() < until:
        times.append(next(steps))
        if seconds == float("inf"):
            times.clear()
    print(json.dumps(times))


def _training_steps() -> Iterator[float]:
    """The seconds of each step of a training, which goes on for ever."""
    import numpy as np
    import torch

    from stillwatch.detectors import build_detector, detector_class
    from stillwatch.geometry import fitted
    from stillwatch.machine.devices import mixed_precision
    from stillwatch.settings import TeacherSettings
    from stillwatch.teachers.networks import load_teacher
    from stillwatch.training.data import TrainingImages
    from stillwatch.training.state import PhaseState

    cpu, name, teacher = torch.device("cpu"), "reverse_distillation", TeacherSettings()
    network = load_teacher(teacher, detector_class(name).teacher_strides(teacher.name, {}))
    detector = build_detector(name, network, {}, seed=0)
    detector.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    parts = list(pixels), list(pixels[:BATCH])
    images, _ = TrainingImages(*parts, None, fitted([(SIDE, SIDE)], SIDE), network, cpu).normals
    state = PhaseState.start(detector.phases()[0])
    phase = state.phase
    phase.module.train()
    while True:
        for batch in images.batches(BATCH, torch.randperm(IMAGES)):
            began = time.perf_counter()
            with mixed_precision(cpu):
                loss = phase.loss(batch)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            state.optimizer.step()
            yield time.perf_counter() - began


def _inspections() -> Iterator[float]:
    """The seconds of each image of a stream that never ends."""
    import numpy as np
    import torch

    from stillwatch.detectors import build_detector, detector_class
    from stillwatch.inference.torch_scorer import TorchScorer
    from stillwatch.settings import TeacherSettings
    from stillwatch.teachers.networks import load_teacher

    cpu, name, teacher = torch.device("cpu"), "reverse_distillation", TeacherSettings()
    network = load_teacher(teacher, detector_class(name).teacher_strides(teacher.name, {}))
    scorer = TorchScorer(build_detector(name, network, {}, seed=0), cpu)
    image = np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8)
    while True:
        began = time.perf_counter()
        scorer(image)
        yield time.perf_counter() - began
        time.sleep(PAUSE_SECONDS)


def render(measured: Sequence[Measured], command: str) -> str:
    """The page in Markdown: medians over all rounds.

    Args:
        measured: every job with every policy beside the same numbers of processes.
        command: what measured.
    """
    import torch

    other_work = max(one.other_work for one in measured)
    busy = sorted({one.busy for one in measured})
    lines = [
        "# Beside other work",
        "",
        f"`{command}`, commit {short_commit(commit())}, {machine(torch.device('cpu'))}.",
        "",
        *(
            [
                f"**Other programs ran beside the measurements**: they took up to {other_work:.0%} "
                "of the machine's CPU time. Run the command again on a quiet machine.",
                "",
            ]
            if other_work > OTHER_WORK
            else []
        ),
        "Median seconds, alone and beside other trainings with the same policy. *library default* "
        "sets nothing; *stillwatch* uses one thread for each physical core and a short spin ("
        + ", ".join(f"`{name}={value}`" for name, value in SPIN.items())
        + "); *passive* does not spin at all (`OMP_WAIT_POLICY=PASSIVE`), and its row shows what "
        "that costs on a quiet machine.",
        "",
    ]
    for job, heading in JOBS.items():
        rows = [
            [policy, *(f"{_median(measured, job, policy, count):.3f}" for count in busy)]
            for policy in POLICIES
        ]
        head = [heading, *("alone" if count == 0 else f"beside {count}" for count in busy)]
        lines += [*markdown(head, rows), ""]
    return "\n".join(lines)


def _median(measured: Sequence[Measured], job: str, policy: str, busy: int) -> float:
    wanted = (job, policy, busy)
    return statistics.median(
        second
        for one in measured
        if (one.job, one.policy, one.busy) == wanted
        for second in one.seconds
    )


if __name__ == "__main__":
    main()
