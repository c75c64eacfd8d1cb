"""The flow ``ingest``: admit, version, check and announce the new images of the inbox."""

from collections.abc import Mapping, Sequence

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from stillwatch.errors import LayoutError, StillwatchError, StorageError
from stillwatch.flows.events import emit_and_confirm
from stillwatch.flows.run_settings import run_settings
from stillwatch.images.layout import section_of
from stillwatch.settings import Settings
from stillwatch.tasks.data.examine import examine
from stillwatch.tasks.data.version import DataVersion, ensure_categories_exist, version
from stillwatch.tasks.data.workspace import open_workspace
from stillwatch.tasks.inbox.admission import Admission, admit
from stillwatch.tasks.inbox.announcements import forget, unannounced
from stillwatch.tasks.inbox.arrivals import still_files
from stillwatch.tasks.inbox.champion_check import RejectedNormal, rejected_normals
from stillwatch.tasks.locks import exclusive
from stillwatch.tasks.validation.task import validate

VERSIONED = "stillwatch.images.versioned"
"""The event that categories have new images, which are versioned and passed their checks; its
payload names the categories."""


@flow(name="ingest", flow_run_name="ingest")
def ingest() -> State[None]:
    """Take in the images that lie still in the inbox, and announce their categories."""
    return ingest_images(run_settings())


def ingest_images(settings: Settings) -> State[None]:
    """Take in the images that lie still in the inbox; the body of the flow.

    Also announces what an earlier run admitted and could not announce, because it failed or was
    killed, whether or not there are new images.

    The state is Failed when a category with new images does not pass its checks: the images stay
    versioned, so that nothing is lost, and are not announced. The state is also Failed when a file
    cannot be moved out of the inbox, or when the champion could not inspect the new images; these
    images are announced, since the fault is not theirs.

    Raises:
        StillwatchError: the inbox or the workspace cannot be used, the settings name a category
            that the image set does not have, or the announcement could not be delivered.
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
    ensure_categories_exist(settings, workspace.data)
    data = version(workspace, settings)
    changed = unannounced(settings.state_dir)
    own = {name: settings.for_category(name) for name in changed}
    failures = {name: _failure(name, data, own[name]) for name in changed}
    sound = {name: own[name] for name in changed if failures[name] is None}
    rejected, unchecked = _champion_checks(sound, changed, data)
    create_table_artifact(
        table=_rows(admissions, rejected),
        key="ingest",
        description=f"What came through the inbox, now {data.name} ({data.dir_hash})",
    )
    # Last, and in this order: a run that is killed before leaves this to the next run.
    if sound:
        emit_and_confirm(
            VERSIONED,
            resource={"prefect.resource.id": f"stillwatch.data-version.{data.name}"},
            payload={"categories": list(sound), "data_version": data.dir_hash},
        )
    # Images that failed a check wait for a person. A full disk says nothing about the images, so
    # the next run checks them again.
    forget(
        [name for name in changed if not isinstance(failures[name], StorageError)],
        settings.state_dir,
    )
    wrong = [str(error) for error in failures.values() if error] + unchecked
    wrong += [f"{one.name} stays in the inbox: {one.reason}" for one in admissions if one.stays]
    if wrong:
        return Failed(message=" ".join(wrong))
    return Completed(message=_sentence(admissions, left_over))


def _failure(name: str, data: DataVersion, settings: Settings) -> StillwatchError | None:
    """Why a category must not be trained on; None if it passed its checks."""
    if name not in data.categories:
        return LayoutError(f"{name}: has no good image to learn from yet; put some into the inbox.")
    try:
        examined = examine(data.categories[name], root=data.root, settings=settings)
        report = validate(
            examined.manifest, folder=examined.folder, settings=settings, data_version=data.name
        )
        report.raise_if_failed()
    except StillwatchError as error:
        return error
    return None


def _champion_checks(
    categories: Mapping[str, Settings], changed: Mapping[str, Sequence[str]], data: DataVersion
) -> tuple[dict[str, list[RejectedNormal]], list[str]]:
    """New normals that the champion rejects, and a sentence for each category without an answer."""
    rejected, unchecked = {}, []
    for name, settings in categories.items():
        try:
            rejected[name] = _rejected_by_champion(name, changed[name], data, settings)
        except Exception as error:
            reason = str(error) if isinstance(error, StillwatchError) else f"{error!r}."
            unchecked.append(
                f"{name}: its new good images are announced, but the champion could not inspect "
                f"them: {reason} Look at them yourself, or run 'stillwatch inspect' on them once "
                "this is fixed."
            )
    return rejected, unchecked


def _rejected_by_champion(
    name: str, new: Sequence[str], data: DataVersion, settings: Settings
) -> list[RejectedNormal]:
    here = data.categories[name].files
    normals = [path for path in new if section_of(path) == "train" and path in here]
    rejected = rejected_normals(name, normals, folder=data.root / name, settings=settings)
    for normal in rejected:
        get_run_logger().warning(
            "%s/%s came as a good part and %s rejects it (p = %.3g). Look at it: if it is not "
            "good, move it to test/<defect>.",
            *(name, normal.path, normal.model, normal.p_value),
        )
    return rejected


def _sentence(admissions: Sequence[Admission], left_over: Mapping[str, Sequence[str]]) -> str:
    admitted = sum(one.admitted_as is not None for one in admissions)
    sentence = f"{admitted} of {len(admissions)} files admitted"
    if left_over:
        sentence += f"; announced what an earlier run had admitted: {', '.join(left_over)}"
    return sentence


def _rows(
    admissions: Sequence[Admission], rejected: dict[str, list[RejectedNormal]]
) -> list[dict[str, str]]:
    remarks = {
        (name, normal.path): f"rejected by {normal.model}, p = {normal.p_value:.3g}"
        for name, found in rejected.items()
        for normal in found
    }
    rows = [
        {
            "file": one.name,
            "source": one.source,
            "admitted as": one.admitted_as or ("stays" if one.stays else "quarantined"),
            "why": one.reason or "",
            "to look at": remarks.pop((one.category, one.admitted_as or ""), ""),
        }
        for one in admissions
    ]
    earlier = [
        {
            "file": f"{name}/{path}",
            "source": "collection",
            "admitted as": path,
            "why": "came with an earlier ingest",
            "to look at": remark,
        }
        for (name, path), remark in remarks.items()
    ]
    return rows + earlier
