"""The text of a RobustBench submission, for the form "new model"."""

from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.evidence import Evidence
from adaptive_smoothing_zoo.publishing.leaderboard import percent
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.threat import parse_eps
from adaptive_smoothing_zoo.zoo.entry import Entry


def claim(entry: Entry, evidence: Evidence, checkpoint: str, identity: Identity) -> str:
    """The submission's text.

    Args:
        evidence: all that is recorded of the entry.
        checkpoint: where reviewers get weights and code, a link.
        identity: of the model that ``load_model`` gives, which must be the one that was evaluated.

    Raises:
        ResultsError: the run is not one that a leaderboard may be told of; the message lists every reason.
    """
    record, reasons = evidence.run, []
    if not record.is_full_standard_run:
        whole = f"{record.test_set_size}" if record.test_set_size else "the official test set in its order"
        reasons.append(
            f"it took {record.n} examples ({record.data}) through {', '.join(record.attacks)}, "
            f"TF32 {'on' if record.tf32 else 'off'}; a claim needs {', '.join(STANDARD_ATTACKS)} in full float32 on "
            f"all of the test set ({whole})"
        )
    if record.identity != identity:
        reasons.append("the model that was evaluated is not the one that load_model gives")
    if not record.deterministic:
        reasons.append("two passes over the same images gave different logits; the rules ask for a deterministic model")
    if parse_eps(record.eps) != entry.eps_value:
        reasons.append(f"its eps was {record.eps}, the entry's is {entry.eps}")
    if evidence.failed_checks:
        reasons.append(f"asz validate failed in {', '.join(evidence.failed_checks)}: the number is not to be trusted")
    if entry.dataset not in ("cifar10", "cifar100"):
        reasons.append(f"RobustBench has no leaderboard for {entry.dataset}")
    if reasons:
        raise ResultsError(f"the recorded run of {entry.key} cannot be claimed: {'; '.join(reasons)}")
    evaluation = (
        f"AutoAttack (standard), {record.engine}, full test set of {record.n} images, seed {record.seed}, "
        f"float32, {record.device_name}"
    )
    warned = "; ".join(record.warnings) or "none"
    return "\n".join(
        [
            f"[New Model] <{entry.name}>",
            "",
            "### Paper Information",
            "",
            f"- Paper Title: {entry.paper.title}",
            f"- Paper URL: {entry.paper.link}",
            f"- Paper authors: {entry.paper.authors}",
            "",
            "### Leaderboard Claim(s)",
            "",
            "## Model 1",
            "",
            f"- Architecture: {entry.architecture}",
            f"- Dataset: {entry.dataset}",
            f"- Threat Model: {entry.threat_model}",
            f"- eps: {record.eps}",
            f"- Clean accuracy: {percent(record.clean_accuracy)}%",
            f"- Robust accuracy: {percent(record.robust_accuracy)}%",
            *([f"- Best known robust accuracy: {percent(evidence.best_known)}%"] if evidence.broken else []),
            f"- Additional data: {str(entry.additional_data).lower()}",
            f"- Evaluation method: {evaluation}",
            f"- Warnings of AutoAttack: {warned}",
            *(f"- Remark: {remark}" for remark in evidence.remarks),
            f"- Checkpoint and code: {checkpoint}",
            "",
            "### Model Zoo",
            "",
            "- [x] I want to add my model(s) to the Model Zoo",
            f"- [x] The architecture is available: `pip install adaptive-smoothing-zoo`, "
            f'`load_model("{entry.name}", dataset="{entry.dataset}", threat_model="{entry.threat_model}")`',
            f"- License: {entry.license}",
            "",
        ]
    )
