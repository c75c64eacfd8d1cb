"""Does the registered model, reloaded from the registry, give what the trained one gave?"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from stillwatch.errors import TrackingError
from stillwatch.inference.parity import Scores

_PROGRAM = Path(__file__).with_name("reload_process.py")
"""Run as a file: as a module, it would import this ``stillwatch`` before the model's own."""


class FreshProcess:
    """A process that knows nothing of the evaluated detector; use as a context manager.

    It starts to import the large libraries at once, while the model is still being registered.
    """

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM)],
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
        """Load a model, with the code that was registered with it, and score files; once.

        Args:
            uri: the tracking store and registry.
            model: ``models:/NAME/VERSION``.
            images: image files.
            device: ``auto``, ``cpu`` or ``cuda[:i]``.
            timeout_seconds: the process is stopped after that.
            if_slow: what to do then, in a sentence for the error.
            if_broken: what to do where the model cannot be loaded, likewise.

        Raises:
            TrackingError: it took too long, the model cannot be loaded, or fails on an image.
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
