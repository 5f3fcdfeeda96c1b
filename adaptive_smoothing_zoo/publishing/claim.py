"""The text of a RobustBench submission, for the form "new model"."""

from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.evidence import Evidence
from adaptive_smoothing_zoo.publishing.pages import page
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.threat import L2, LINF, parse_eps
from adaptive_smoothing_zoo.zoo.entry import ModelEntry
from adaptive_smoothing_zoo.zoo.named import USUAL_EPS
from adaptive_smoothing_zoo.zoo.registry import entries_named

LEADERBOARDS = (("cifar10", LINF), ("cifar10", L2), ("cifar100", LINF), ("imagenet", LINF))  # RobustBench's


def claim(entry: ModelEntry, evidence: Evidence, checkpoint: str, identity: Identity) -> str:
    """The submission's text.

    Args:
        evidence: all records of the entry.
        checkpoint: link to weights and code, for the reviewers.
        identity: of the model as it is loaded now; it must be the one that was evaluated.

    Raises:
        ResultsError: the run may not be claimed; the message lists every reason.
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
        reasons.append(f"it has {run.n} examples ({run.data}); a claim needs all of the test set ({whole})")
    if among := max(run.chosen_among, entry.chosen_among(run.n)):
        reasons.append(f"{among} of its images chose the mix; choose it on images outside the test set")
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
    board = (entry.dataset, entry.threat_model)
    if board not in LEADERBOARDS:
        reasons.append(f"RobustBench has no leaderboard for {' '.join(board)}")
    elif run.threat.eps != parse_eps(USUAL_EPS[board]):
        reasons.append(f"its eps was {run.eps}; RobustBench's leaderboard for {' '.join(board)} has {USUAL_EPS[board]}")
    return [*reasons, *evidence.stale]
