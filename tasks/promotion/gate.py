"""What becomes of a registered winner: champion by itself, left to a person, or refused."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from stillwatch.errors import PromotionError
from stillwatch.settings import GateSettings, Settings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.winner import below_floors
from stillwatch.tasks.promotion.alias import changing_champion
from stillwatch.tasks.promotion.compare import COMPARISON_RECORD, compare_with_champion
from stillwatch.tasks.promotion.disagreement import record_disagreement
from stillwatch.tasks.promotion.history import now
from stillwatch.tasks.promotion.promote import promote_by_itself
from stillwatch.tasks.registry.approval import (
    ANSWER,
    APPROVAL,
    CHAMPION_SINCE,
    COMPARED_WITH,
    COMPARISON,
    GATE,
    NOT_PROMOTED,
    PENDING,
    REFUSED,
    compared_with,
)
from stillwatch.tasks.registry.artefact_check import check_artefact
from stillwatch.tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    model_name,
    version_with_alias,
    versions_of,
)
from stillwatch.tasks.tracking.client import Tracking


@dataclass(frozen=True)
class Judgement:
    """What the gate says about a version."""

    answer: str | None
    """None: there was no champion, or it could not be inspected with."""
    sentence: str
    vetoes: tuple[str, ...]
    refused: bool
    """Nobody may promote it."""
    record: dict[str, Any]
    """For ``comparison.json``."""


NO_CHAMPION = Judgement(None, "", (), False, {})


def judge(
    tracking: Tracking,
    number: int,
    winner: DetectorResult,
    competing: Sequence[DetectorResult],
    category: ExaminedCategory,
    settings: Settings,
    *,
    just_checked: bool,
) -> None:
    """Compare a registered winner with the champion and do what the settings say about the answer.

    A version is judged once for each champion that it could replace, and never after it has been
    champion: what was rolled back does not come again by itself.

    Args:
        tracking: the store and registry.
        number: the version.
        winner: what the version is.
        competing: the detectors that it was chosen from, with all their seeds.
        category: on whose test images champion and challengers are compared.
        settings: all of them.
        just_checked: its artefact was checked for parity by this very retraining.

    Raises:
        StillwatchError: the store does not answer, or the champion or the version cannot be looked
            at now; nothing is said about the version, so that the next retraining asks again.
    """
    name = model_name(winner.category)
    with changing_champion(tracking, winner.category, settings):
        champion = version_with_alias(tracking, name, CHAMPION)
    versions = {int(version.version): version for version in versions_of(tracking, name)}
    tags = versions[number].tags
    was_champion = number == champion or CHAMPION_SINCE in tags
    judged = tags.get(COMPARED_WITH) == compared_with(champion)
    # Nothing was against it and it is no champion: its promotion was cut off.
    cut_off = judged and tags.get(NOT_PROMOTED) == ""
    if was_champion or (judged and not cut_off):
        return
    with tracking.errors(f"set an alias of {name}"):
        tracking.client.set_registered_model_alias(name, CHALLENGER, str(number))
    judgement = NO_CHAMPION
    if champion is not None:
        judgement = _against(
            tracking, versions[champion], versions[number], winner, competing, category, settings
        )
        about = {"challenger": number, "run": winner.run_id, "data_version": winner.data_version}
        COMPARISON_RECORD.write(tracking, winner.run_id, judgement.record | about)
    withdrawn = champion is None and any(CHAMPION_SINCE in v.tags for v in versions.values())
    reasons = [
        *_withheld(judgement, settings.gate, first=champion is None, withdrawn=withdrawn),
        *below_floors(winner, settings.retrain.floors),
        *(_over_budget(winner, settings.gate) if champion is None else ()),
    ]
    if not reasons and not just_checked:
        reasons = _unsound(tracking, versions[number], settings)
    _write(tracking, versions[number], judgement, champion, "; ".join(reasons))
    if not reasons:
        reason = judgement.sentence or "the category's first champion, and it reaches the floors"
        try:
            promote_by_itself(tracking, winner.category, number, reason=reason, settings=settings)
        except PromotionError as error:
            # Somebody changed the champion since; the next retraining compares with that one.
            logging.getLogger(__name__).warning("%s", error)


def _unsound(tracking: Tracking, version: ModelVersion, settings: Settings) -> list[str]:
    """Why what an earlier retraining registered may not become champion, if so."""
    try:
        check_artefact(tracking, version, settings)
    except PromotionError as error:
        return [str(error)]
    return []


def _against(
    tracking: Tracking,
    champion: ModelVersion,
    challenger: ModelVersion,
    winner: DetectorResult,
    competing: Sequence[DetectorResult],
    category: ExaminedCategory,
    settings: Settings,
) -> Judgement:
    about = {"champion": int(champion.version), "champion_run": champion.run_id, "compared": now()}
    try:
        found = compare_with_champion(
            tracking, champion, challenger, winner, competing, category, settings
        )
    except PromotionError as error:
        record = about | {"sentence": str(error)}
        return Judgement(None, f"not compared: {error}", (), False, record)
    record_disagreement(
        tracking,
        winner.run_id,
        found.champion,
        found.challenger,
        champion_version=int(champion.version),
    )
    said = found.comparison
    return Judgement(said.answer, said.sentence, said.vetoes, said.refused, about | said.record())


def _withheld(
    judgement: Judgement, gate: GateSettings, *, first: bool, withdrawn: bool
) -> list[str]:
    """Why the settings do not let it become champion by itself."""
    reasons = []
    if gate.promotion == "approval":
        reasons.append("gate.promotion asks for a person's approval")
    if withdrawn:
        reasons.append("a person has withdrawn the champion")
    if judgement.vetoes:
        reasons.append(f"vetoed by {', '.join(judgement.vetoes)}")
    if not first and judgement.answer is None:
        reasons.append("it could not be compared with the champion")
    elif not first and judgement.answer not in gate.automatic:
        reasons.append(f"the gate's answer is {judgement.answer}")
    return reasons


def _over_budget(first: DetectorResult, gate: GateSettings) -> list[str]:
    """Why the first winner of a category, which is compared with nothing, is too slow, if so."""
    took, budget = first.ms_per_image, gate.latency_budget_ms
    if budget is None or took <= budget:
        return []
    return [f"it took {took:.1f} ms per image, and gate.latency_budget_ms is {budget:g}"]


def _write(
    tracking: Tracking,
    version: ModelVersion,
    judgement: Judgement,
    champion: int | None,
    not_promoted: str,
) -> None:
    """As tags of the version; the one that says that it was judged comes last."""
    tags = {
        ANSWER: judgement.answer or "",
        GATE: REFUSED if judgement.refused else "open",
        COMPARISON: judgement.sentence,
        NOT_PROMOTED: not_promoted,
        APPROVAL: REFUSED if judgement.refused else PENDING,
        COMPARED_WITH: compared_with(champion),
    }
    with tracking.errors(f"tag version {version.version} of {version.name}"):
        for key, value in tags.items():
            tracking.client.set_model_version_tag(version.name, str(version.version), key, value)
