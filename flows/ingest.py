"""New images from the inbox: admitted, versioned, checked, and announced to whoever retrains."""

from collections.abc import Mapping, Sequence

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from stillwatch.errors import LayoutError, StillwatchError, StorageError
from stillwatch.flows.events import deliver
from stillwatch.settings import Settings
from stillwatch.tasks.data.examine import examine
from stillwatch.tasks.data.version import DataVersion, version
from stillwatch.tasks.data.workspace import open_workspace
from stillwatch.tasks.inbox.admission import Admission, admit
from stillwatch.tasks.inbox.announcements import forget, unannounced
from stillwatch.tasks.inbox.arrivals import still_files
from stillwatch.tasks.inbox.champion_check import RejectedNormal, rejected_normals
from stillwatch.tasks.locks import exclusive
from stillwatch.tasks.validation.task import page_path, validate

VERSIONED = "stillwatch.images.versioned"
"""The event that categories have new images, versioned and sound; its payload names them."""


def ingest_images(settings: Settings) -> State[None]:
    """Take in what lies still in the inbox; the body of a flow.

    What an earlier run admitted and could not announce, since it failed or was killed, is announced
    by this one, whether or not there is something new.

    The state is Failed when a category with new images does not pass its checks: its images stay
    versioned, so that nothing is lost, and it is not announced. It is Failed, too, when a file
    cannot be moved out of the inbox, or when new images could not be shown to the champion: that is
    no fault of theirs, so they are announced.

    Raises:
        StillwatchError: the inbox or the workspace cannot be used, or the announcement could not be
            delivered.
    """
    with exclusive(settings, "ingest", "taking in new images"):
        return _ingest(settings)


def _ingest(settings: Settings) -> State[None]:
    arrivals = still_files(settings.inbox.path, settings.inbox.settle_seconds)
    left_over = unannounced(settings.state_dir)
    if not arrivals and not left_over:
        return Completed(message=f"nothing new in {settings.inbox.path}")
    workspace = open_workspace(settings)
    admissions = admit(arrivals, workspace, settings)
    data = version(
        workspace, split=settings.split, smallest_alpha=settings.calibration.alpha_reject
    )
    changed = unannounced(settings.state_dir)
    failures = {name: _failure(name, data, settings) for name in changed}
    sound = [name for name in changed if failures[name] is None]
    doubts, unseen = _second_looks(sound, changed, data, settings)
    create_table_artifact(
        table=_rows(admissions, doubts),
        key="ingest",
        description=f"What came through the inbox, now {data.name} ({data.dir_hash})",
    )
    # Last, and in this order: what an ingest does before it ends, the next one does again.
    if sound:
        announce(sound, data)
    # Images that failed a check wait for a person; a disk that failed is no verdict on them.
    forget(
        [name for name in changed if not isinstance(failures[name], StorageError)],
        settings.state_dir,
    )
    wrong = [str(error) for error in failures.values() if error] + unseen
    wrong += [f"{one.name} stays in the inbox: {one.reason}" for one in admissions if one.stays]
    if wrong:
        return Failed(message=" ".join(wrong))
    return Completed(message=_sentence(admissions, left_over))


def announce(categories: Sequence[str], data: DataVersion) -> None:
    """Emit the event that these categories have new images.

    Raises:
        ServerError: the Prefect server did not take it.
    """
    deliver(
        VERSIONED,
        resource={"prefect.resource.id": f"stillwatch.data-version.{data.name}"},
        payload={"categories": list(categories), "data_version": data.dir_hash},
    )


def _failure(name: str, data: DataVersion, settings: Settings) -> StillwatchError | None:
    """Why a category must not be trained on; None if nothing is wrong with it."""
    if name not in data.categories:
        return LayoutError(f"{name}: has no good image to learn from yet; put some into the inbox.")
    try:
        examined = examine(data.categories[name], root=data.root, settings=settings)
        report = validate(
            examined.manifest,
            folder=examined.folder,
            page=page_path(settings.state_dir, name),
            checks=settings.checks,
            calibration=settings.calibration,
            max_megapixels=settings.images.max_megapixels,
            data_version=data.name,
        )
        report.raise_if_failed()
    except StillwatchError as error:
        return error
    return None


def _second_looks(
    names: Sequence[str],
    changed: Mapping[str, Sequence[str]],
    data: DataVersion,
    settings: Settings,
) -> tuple[dict[str, list[RejectedNormal]], list[str]]:
    """The doubts of each category, and a sentence for each whose champion could not be asked."""
    doubts, unseen = {}, []
    for name in names:
        try:
            doubts[name] = _doubts(name, changed[name], data, settings)
        except Exception as error:
            reason = str(error) if isinstance(error, StillwatchError) else f"{error!r}."
            unseen.append(
                f"{name}: its new good images are announced, but the champion could not look at "
                f"them: {reason} Look at them yourself, or show them to 'stillwatch inspect' "
                "once this is fixed."
            )
    return doubts, unseen


def _doubts(
    name: str, came: Sequence[str], data: DataVersion, settings: Settings
) -> list[RejectedNormal]:
    here = data.categories[name].files
    normals = [path for path in came if path.startswith("train/") and path in here]
    doubts = rejected_normals(name, normals, folder=data.root / name, settings=settings)
    for doubt in doubts:
        get_run_logger().warning(
            "%s/%s came as a good part and %s rejects it (p = %.3g). Look at it: if it is not "
            "good, move it to test/<defect>.",
            *(name, doubt.path, doubt.model, doubt.p_value),
        )
    return doubts


def _sentence(admissions: Sequence[Admission], left_over: Mapping[str, Sequence[str]]) -> str:
    admitted = sum(one.admitted_as is not None for one in admissions)
    said = f"{admitted} of {len(admissions)} files admitted"
    if left_over:
        said += f"; announced what an earlier run had admitted: {', '.join(left_over)}"
    return said


def _rows(
    admissions: Sequence[Admission], doubts: dict[str, list[RejectedNormal]]
) -> list[dict[str, str]]:
    looks = {
        (name, doubt.path): f"rejected by {doubt.model}, p = {doubt.p_value:.3g}"
        for name, found in doubts.items()
        for doubt in found
    }
    rows = [
        {
            "file": one.name,
            "source": one.source,
            "admitted as": one.admitted_as or ("stays" if one.stays else "quarantined"),
            "why": one.reason or "",
            "to look at": looks.pop((one.category, one.admitted_as or ""), ""),
        }
        for one in admissions
    ]
    earlier = [
        {
            "file": f"{name}/{path}",
            "source": "collection",
            "admitted as": path,
            "why": "came with an earlier ingest",
            "to look at": look,
        }
        for (name, path), look in looks.items()
    ]
    return rows + earlier
