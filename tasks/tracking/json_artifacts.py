"""JSON files at the top of a run's artifacts: written whole, and read with doubt."""

import json
from dataclasses import dataclass
from typing import Any

from stillwatch.errors import ArtefactError
from stillwatch.tasks.tracking.client import Tracking


@dataclass(frozen=True)
class JsonArtifact:
    """One such file, which a run may have or not."""

    name: str
    remedy: str
    """What to do when it is damaged, and what happens then; a sentence."""

    def write(self, tracking: Tracking, run_id: str, content: Any) -> None:
        """Put ``content`` into a run, over what is there.

        Raises:
            TrackingError: the store does not answer or cannot be written.
        """
        with tracking.errors(f"store {self.name}"):
            tracking.client.log_dict(run_id, content, self.name)

    def read(self, tracking: Tracking, run_id: str) -> Any:
        """What a run holds; None: no such file.

        Raises:
            ArtefactError: the file is no JSON.
            TrackingError: the store does not answer.
        """
        if self.name not in tracking.artifact_names(run_id):
            return None
        with tracking.artifact(run_id, self.name) as path:
            try:
                return json.loads(path.read_bytes())
            except ValueError as error:
                raise self.damaged(tracking, run_id, error) from error

    def damaged(self, tracking: Tracking, run_id: str, error: Exception) -> ArtefactError:
        """The error for a file that is not what was written."""
        return ArtefactError(
            f"{self.name} of run {run_id} at {tracking.uri} is missing or damaged ({error!r}). "
            f"{self.remedy}"
        )
