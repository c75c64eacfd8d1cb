"""Reload a registered model in a fresh process and score images with it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from stillwatch.errors import TrackingError
from stillwatch.inference.parity import Scores
from stillwatch.machine.threads import thread_environment

_PROGRAM = Path(__file__).with_name("reload_process.py")
"""Run as a file, since a module would import the installed ``stillwatch`` and not the model's."""


class FreshProcess:
    """A process that shares nothing with the evaluation; use as a context manager.

    The process imports the large libraries while the model is still being registered.
    """

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM)],
            env=thread_environment(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def scores(
        self,
        uri: str,
        model: str,
        images: Sequence[Path],
        *,
        device: str,
        timeout_seconds: float,
        if_slow: str,
        if_broken: str,
    ) -> Scores:
        """Load a model with its registered code and score files; call once.

        Args:
            uri: the tracking store and registry.
            model: ``models:/NAME/VERSION``.
            images: image files.
            device: ``auto``, ``cpu`` or ``cuda[:i]``.
            timeout_seconds: after which the process is killed.
            if_slow: sentence for the error after a timeout: what to do.
            if_broken: sentence for the error if the model cannot be loaded: what to do.

        Raises:
            TrackingError: a timeout, or the model cannot be loaded or fails on an image.
        """
        order = {"uri": uri, "model": model, "device": device, "images": [str(i) for i in images]}
        try:
            said, complaint = self._process.communicate(json.dumps(order), timeout_seconds)
        except subprocess.TimeoutExpired as error:
            raise TrackingError(
                f"{model}: reloading it from {uri} and scoring {len(images)} images took more than "
                f"{timeout_seconds:g} s. {if_slow}"
            ) from error
        if self._process.returncode != 0:
            reason = (complaint.strip().splitlines() or [f"exit {self._process.returncode}"])[-1]
            raise TrackingError(f"{model}: cannot be reloaded from {uri} ({reason}). {if_broken}")
        rows = json.loads(said.splitlines()[-1])
        return Scores(tuple(row["score"] for row in rows), tuple(row["verdict"] for row in rows))
