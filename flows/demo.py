"""The built-in sample set put where the demo may use it without committing to the checkout."""

from collections.abc import Callable
from pathlib import Path

from stillwatch.sample.image_set import make_sample_set
from stillwatch.settings import Settings
from stillwatch.tasks.data.version import matches_tracked
from stillwatch.tasks.data.workspace import open_workspace


def place_sample_set(settings: Settings, say: Callable[[str], None]) -> Path | None:
    """Make the sample set if need be and return the root to retrain from.

    None stands for the workspace's own image set: its bytes are those that the last commit
    records, so that versioning it commits nothing. Otherwise the sample set is made in the state
    folder, from where it is imported into a managed workspace.

    Raises:
        WorkspaceError: the settings name no usable workspace.
        StorageError: the disk is full or the folder cannot be written to.
    """
    workspace = open_workspace(settings)
    if not workspace.data.exists():
        say(f"making the sample set in {workspace.data}")
        make_sample_set(workspace.data)
    if matches_tracked(
        workspace,
        split=settings.split,
        smallest_alpha=settings.calibration.alpha_reject,
        log=say,
    ):
        say(f"{workspace.data} holds the very bytes that {workspace.dvc_file.name} records")
        return None
    say(
        f"{workspace.data} is not what {workspace.dvc_file.name} records: other images, or another "
        "zlib encodes the same pixels in other bytes. Using a workspace of its own instead."
    )
    root = settings.state_dir / "sample"
    if not root.exists():
        make_sample_set(root)
    return root
