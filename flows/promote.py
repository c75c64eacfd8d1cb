"""The flows ``promote`` and ``rollback``, which change champions."""

from prefect import flow
from prefect.client.schemas import State
from prefect.states import Completed

from stillwatch.errors import PromotionError
from stillwatch.flows.run_settings import run_settings
from stillwatch.tasks.promotion.promote import promote as promote_version
from stillwatch.tasks.promotion.rollback import rollback as roll_back


@flow(name="promote", flow_run_name="promote {category}")
def promote(
    category: str, approver: str, reason: str, version: int | None = None, despite: str = ""
) -> State[None]:
    """Make a version that waits for approval the champion of its category.

    Args:
        category: The product line.
        approver: Your name, for the history; nobody checks it.
        reason: Why, for the history.
        version: Which one; empty for the challenger.
        despite: Of a version that misses a floor: why it becomes champion in spite of that.
    """
    record = promote_version(
        category,
        version=version,
        reason=reason,
        despite=despite,
        settings=run_settings(),
        who=_named(approver),
    )
    return Completed(message=f"version {record.to_version} is the champion of {category}")


@flow(name="rollback", flow_run_name="rollback {category}")
def rollback(category: str, approver: str, reason: str, version: int | None = None) -> State[None]:
    """Make an earlier champion the champion again.

    Args:
        category: The product line.
        approver: Your name, for the history; nobody checks it.
        reason: Why, for the history.
        version: An earlier champion's; empty for the one before.
    """
    record = roll_back(
        category, version=version, reason=reason, settings=run_settings(), who=_named(approver)
    )
    return Completed(message=f"version {record.to_version} is the champion of {category} again")


def _named(approver: str) -> str:
    if not approver.strip():
        raise PromotionError("approver is empty. Fill in your name: the history keeps it.")
    return f"{approver.strip()} (not authenticated)"
