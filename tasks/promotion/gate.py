"""The gate: promote a registered winner, leave it to a person, or refuse it."""

import logging
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion
from prefect import task
from prefect.cache_policies import NO_CACHE

from stillwatch.comparison.comparison import Comparison
from stillwatch.errors import ArtefactError, PromotionError
from stillwatch.settings import GateSettings, Settings
from stillwatch.tasks.data.examine import ExaminedCategory
from stillwatch.tasks.evaluation.result import DetectorResult
from stillwatch.tasks.evaluation.winner import (
    Choice,
    below_floors,
    lacking_evidence,
    too_many_false_alarms,
)
from stillwatch.tasks.locks import exclusive
from stillwatch.tasks.promotion.alias import changing_champion
from stillwatch.tasks.promotion.compare import compare_with
from stillwatch.tasks.promotion.promote import AUTOMATIC, promote
from stillwatch.tasks.registry import approval
from stillwatch.tasks.registry.artefact_check import check_artefact
from stillwatch.tasks.registry.judgement import Judgement, read_judgement, write_judgement
from stillwatch.tasks.registry.register import Registration
from stillwatch.tasks.registry.versions import (
    CHALLENGER,
    CHAMPION,
    RegisteredVersion,
    described_version,
    model_name,
    registered_version,
    remove_tags,
    set_alias,
    tag_version,
    version_with_alias,
    versions_of,
)
from stillwatch.tasks.tracking.client import Tracking, open_tracking
from stillwatch.tasks.tracking.tags import EVALUATION


@dataclass(frozen=True)
class JudgedVersion:
    """A registered version after the gate's decision."""

    version: RegisteredVersion
    judgement: Judgement | None
    """None: the version became champion in another way, and was never judged."""


def judge_winner(
    registration: Registration,
    choice: Choice,
    category: ExaminedCategory,
    *,
    settings: Settings,
) -> JudgedVersion:
    """Compare a registered winner with the champion, and promote it if the settings allow that.

    A version is judged once for each champion that it could replace and each evaluation (other test
    images, thresholds or evaluation settings), and never again after it has been champion: a
    version that was rolled back does not return by itself.

    Args:
        registration: of the winner.
        choice: the winner and the results that it was chosen from.
        category: on whose test images champion and challenger are compared.

    Returns:
        The version after the decision.

    Raises:
        StillwatchError: the champion or the version cannot be read now. The version gets no
            judgement, and the next retraining judges it.
    """
    tracking, name, number = open_tracking(settings), category.version.name, registration.version
    doing = f"judging a version of {model_name(name)}"
    with exclusive(settings, f"judge-{name}", doing):
        _judge(tracking, registration, choice, category, settings)
    version = registered_version(tracking, name, number)
    judgement = read_judgement(tracking, version) if approval.GATE in version.tags else None
    return JudgedVersion(described_version(tracking, name, number), judgement)


judge_task = task(
    name="judge",
    task_run_name="judge {category.version.name}",
    cache_policy=NO_CACHE,
)(judge_winner)


def _judge(
    tracking: Tracking,
    registration: Registration,
    choice: Choice,
    category: ExaminedCategory,
    settings: Settings,
) -> None:
    winner, number = choice.winner, registration.version
    name = model_name(winner.category)
    with changing_champion(tracking, winner.category, settings):
        champion = version_with_alias(tracking, name, CHAMPION)
    versions = {int(version.version): version for version in versions_of(tracking, name)}
    challenger = versions[number]
    evaluation = tracking.tags(winner.run_id).get(EVALUATION, "")
    if not _needs_judgement(tracking, challenger, champion, evaluation):
        return
    set_alias(tracking, name, CHALLENGER, number)
    comparison, sentence = None, ""
    if champion is not None:
        comparison, sentence = compare_with(
            tracking, versions[champion], challenger, choice, category, settings
        )
    withdrawn = champion is None and any(
        approval.CHAMPION_SINCE in version.tags for version in versions.values()
    )
    surely_better = comparison is not None and comparison.answer == "better"
    missed = [
        *(() if surely_better else below_floors(winner, settings.retrain.floors)),
        *too_many_false_alarms(winner),
    ]
    reasons = [
        *reasons_to_withhold(
            comparison, settings.gate, first=champion is None, withdrawn=withdrawn
        ),
        *lacking_evidence(winner),
        *missed,
        *(_over_budget(winner, settings.gate) if champion is None else ()),
    ]
    if not reasons and not registration.created:
        reasons = artefact_problems(tracking, challenger, settings)
    refused = comparison is not None and comparison.refused
    judgement = Judgement(
        version=number,
        evaluation=evaluation,
        compared_with=champion,
        answer=comparison.answer if comparison else None,
        comparison=sentence,
        missed_floors="; ".join(missed),
    )
    # Until the last tag is set, the version is not judged: it is judged again after a kill.
    remove_tags(tracking, challenger, [approval.GATE, approval.NOT_PROMOTED])
    write_judgement(tracking, challenger, judgement)
    tags = {
        **({approval.NOT_PROMOTED: "; ".join(reasons)} if reasons else {}),
        approval.APPROVAL: approval.REFUSED if refused else approval.PENDING,
        approval.GATE: approval.decision(
            refused=refused, findings=_findings(comparison, champion), champion=champion
        ),
    }
    tag_version(tracking, challenger, tags)
    if reasons:
        return
    reason = sentence or "the category's first champion, and it reaches the floors"
    try:
        promote(
            winner.category,
            version=number,
            reason=reason,
            settings=settings,
            who=AUTOMATIC,
            check=False,
        )
    except PromotionError as error:
        # The champion has changed since; the next retraining compares with the new one.
        logging.getLogger(__name__).warning("%s", error)


def _findings(comparison: Comparison | None, champion: int | None) -> list[str]:
    """The comparison in a few words."""
    if comparison is None:
        return [] if champion is None else ["not comparable"]
    vetoes = [f"vetoed by {figure}" for figure in comparison.vetoes]
    return [comparison.answer, *vetoes]


def _needs_judgement(
    tracking: Tracking, version: ModelVersion, champion: int | None, evaluation: str
) -> bool:
    """Whether a version was not judged like this before, or its promotion failed."""
    tags = version.tags
    if int(version.version) == champion or approval.CHAMPION_SINCE in tags:
        return False
    # Without a reason against it, a judged version would be champion: its promotion failed.
    if approval.NOT_PROMOTED not in tags or not approval.was_judged_against(tags, champion):
        return True
    try:
        return read_judgement(tracking, version).evaluation != evaluation
    except ArtefactError:
        return True


def reasons_to_withhold(
    comparison: Comparison | None, gate: GateSettings, *, first: bool, withdrawn: bool
) -> list[str]:
    """Why the settings do not allow a promotion without a person.

    Args:
        comparison: with the champion, if there was any.
        gate: the settings.
        first: the category has no champion.
        withdrawn: a person has removed the alias of the champion.
    """
    reasons = []
    if gate.promotion == "approval":
        reasons.append("gate.promotion asks for a person's approval")
    if withdrawn:
        reasons.append("a person has withdrawn the champion")
    if comparison is not None and comparison.vetoes:
        reasons.append(f"vetoed by {', '.join(comparison.vetoes)}")
    if comparison is None and not first:
        reasons.append("it could not be compared with the champion")
    elif comparison is not None and comparison.answer not in gate.automatic:
        reasons.append(f"the gate's answer is {comparison.answer}")
    return reasons


def artefact_problems(tracking: Tracking, version: ModelVersion, settings: Settings) -> list[str]:
    """Why the artefact of a version that an earlier retraining registered is not valid any more."""
    try:
        check_artefact(tracking, version, settings)
    except PromotionError as error:
        return [str(error)]
    return []


def _over_budget(first: DetectorResult, gate: GateSettings) -> list[str]:
    """Why the first winner of a category, which is not compared, is too slow."""
    took, budget = first.ms_per_image, gate.latency_budget_ms
    if budget is None or took <= budget:
        return []
    return [f"it took {took:.1f} ms per image, and gate.latency_budget_ms is {budget:g}"]
