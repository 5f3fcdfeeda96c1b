"""The text of a RobustBench submission, for the form "new model"."""

from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.evidence import Evidence
from adaptive_smoothing_zoo.publishing.pages import page
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.zoo.entry import ModelEntry
from adaptive_smoothing_zoo.zoo.registry import entries_named


def claim(entry: ModelEntry, evidence: Evidence, checkpoint: str, identity: Identity) -> str:
    """The submission's text.

    Args:
        evidence: all that is recorded of the entry.
        checkpoint: where reviewers get weights and code, a link.
        identity: of the model as it is loaded now, which must be the one that was evaluated.

    Raises:
        ResultsError: the run is not one that may be claimed; the message lists every reason.
    """
    if reasons := _reasons_against(entry, evidence, identity):
        raise ResultsError(f"the recorded run of {entry.key} cannot be claimed: {'; '.join(reasons)}")
    in_zoo = any(known.key == entry.key for known in entries_named(entry.name))
    about = {"entry": entry, "evidence": evidence, "run": evidence.run, "in_zoo": in_zoo}
    return page("claim.md", **about, checkpoint=checkpoint)


def _reasons_against(entry: ModelEntry, evidence: Evidence, identity: Identity) -> list[str]:
    run, reasons = evidence.run, []
    if run.n != run.test_set_size:
        whole = f"{run.test_set_size}" if run.test_set_size else "the official test set in its order"
        reasons.append(f"it took {run.n} examples ({run.data}); a claim needs all of the test set ({whole})")
    if run.chosen_among:
        reasons.append(f"{run.chosen_among} of its images chose the mix; choose it on images outside the test set")
    if run.deviation:
        reasons.append(f"it is {run.deviation}; a claim needs {', '.join(STANDARD_ATTACKS)} in full float32")
    if run.identity != identity:
        reasons.append("the model that was evaluated is not the one that is loaded now")
    if not run.deterministic:
        reasons.append("two passes over the same images gave different logits; the rules ask for a deterministic model")
    if run.threat.eps != entry.eps_value:
        reasons.append(f"its eps was {run.eps}, the entry's is {entry.eps}")
    if evidence.failed_checks:
        reasons.append(f"asz validate failed in {', '.join(evidence.failed_checks)}: the number is not to be trusted")
    if missing := [*entry.paper.missing, *(["word on additional data"] if entry.additional_data is None else [])]:
        reasons.append(f"it has no {' and no '.join(missing)}; asz describe sets what is missing")
    if entry.dataset not in ("cifar10", "cifar100"):
        reasons.append(f"RobustBench has no leaderboard for {entry.dataset}")
    return reasons
