"""Model cards: made from the entry and the recorded results, never by hand."""

from adaptive_smoothing_zoo.publishing.accuracies import known_accuracies
from adaptive_smoothing_zoo.publishing.certificate_needs import needs_section
from adaptive_smoothing_zoo.publishing.certification_record import CertificationRecord, certificates_section
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve
from adaptive_smoothing_zoo.publishing.evidence import Evidence
from adaptive_smoothing_zoo.publishing.pages import page, percent
from adaptive_smoothing_zoo.publishing.trade_off_plot import Point, TradeOff
from adaptive_smoothing_zoo.zoo.entry import Entry, NetEntry, Paper


def model_card(
    entry: Entry,
    evidence: Evidence | None,
    curve: ConstantCurve | None = None,
    certification: CertificationRecord | None = None,
    front: str | None = None,
    picture: str | None = None,
) -> str:
    """The card's Markdown, with the front matter that the Hugging Face Hub reads.

    Args:
        evidence: all records of the entry, or None if there are none; the card then says so.
        curve: accuracies of constant alphas, if they were measured with the entry's own g and h.
        certification: the certificates of the triplet, if any.
        front: name of the picture, next to the card, of the Pareto front from which this mix was chosen, if any.
        picture: name of the file, next to the card, of the picture from ``trade_off``; left out if that gives None.
    """
    run, curve = None if evidence is None else evidence.run, fitting(curve, evidence)
    reached: float | None = None
    reached_best: float | None = None
    gain = 0.0
    if evidence is not None and run is not None and curve is not None:
        reached, reached_best = curve.clean_at(run.robust_accuracy), curve.clean_at(evidence.best_known)
        gain = 0.0 if reached is None else round(100 * (run.clean_accuracy - reached), 2)
    return page(
        "card.md",
        front_matter=_front_matter(entry, evidence),
        entry=entry,
        used=_used_nets(entry),
        evidence=evidence,
        run=run,
        curve=curve,
        reached=reached,
        reached_best=reached_best,
        gain=gain,
        certificates=_certificates(entry, certification),
        how_to_load=how_to_load(entry),
        citation=citation(entry.paper),
        front=front,
        picture=picture if trade_off(entry, evidence, curve) else None,
        accuracies=known_accuracies(entry, evidence, certification),
    )


def fitting(curve: ConstantCurve | None, evidence: Evidence | None) -> ConstantCurve | None:
    """The curve of constant alphas, if there is a standard run that was measured in the same way; else None."""
    run = None if evidence is None else evidence.run
    return curve if curve is not None and run is not None and run.is_standard and curve.matches(run) else None


def trade_off(entry: Entry, evidence: Evidence | None, curve: ConstantCurve | None) -> TradeOff | None:
    """The picture of a card: the model next to the curve of constant alphas. None if there is no fitting curve.

    Args:
        evidence, curve: see ``model_card``.
    """
    curve = fitting(curve, evidence)
    if evidence is None or curve is None:
        return None
    clean, best = 100 * evidence.run.clean_accuracy, 100 * evidence.best_known
    points = [Point(label=entry.name, clean=clean, robust=100 * evidence.run.robust_accuracy, key=entry.key)]
    if evidence.broken:
        points.append(Point(label="after all attacks", clean=clean, robust=best, key=f"{entry.key} best", open=True))
    return TradeOff(points=tuple(points), curve=curve.line, robust=f"AutoAttack accuracy, % (n = {curve.n})")


def net_card(entry: NetEntry, evidence: Evidence | None) -> str:
    """A short page in Markdown with the measurements of a net; ``evidence`` is None if there are none."""
    run = None if evidence is None else evidence.run
    about = {"accuracies": known_accuracies(entry, evidence), "citation": citation(entry.paper)}
    return page("net_card.md", entry=entry, evidence=evidence, run=run, **about)


def citation(paper: Paper) -> str:
    """The citation of a publication, as far as it is known."""
    if "title" in paper.missing:
        return "Not published."
    venue = f" {paper.venue}." if paper.venue not in ("", "N/A") else ""
    link = paper.link and f" <{paper.link}>"
    return f"{paper.authors}. *{paper.title}*.{venue}{link}"


def _metrics(evidence: Evidence) -> dict[str, float]:
    """The measured accuracies, fractions, by the names that the Hub shows, which say what speaks against them."""
    run = evidence.run
    attack = "AutoAttack accuracy" if run.is_standard else "robust accuracy, not the standard protocol"
    doubt = f", not to be trusted: asz validate failed in {', '.join(evidence.failed_checks)}"
    under = f" (%), {run.threat_model} {run.eps}{doubt if evidence.failed_checks else ''}"
    metrics = {"clean accuracy (%)": run.clean_accuracy, f"{attack}{under}": run.robust_accuracy}
    if evidence.broken or evidence.adaptive is not None or evidence.validation is not None:
        metrics[f"accuracy after all recorded attacks{under}"] = evidence.best_known
    return metrics


def _front_matter(entry: Entry, evidence: Evidence | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    measured = []
    if evidence is not None:
        run = evidence.run
        chosen = f", {run.chosen_among} of which chose the mix" if run.chosen_among else ""
        measured = [
            EvalResult(
                task_type="image-classification",
                dataset_type=entry.dataset,
                dataset_name=f"{run.n} examples{chosen}: {run.data}",
                dataset_split="test" if run.test_set_size is not None else None,
                metric_type="accuracy",
                metric_name=name,
                metric_value=float(percent(value)),
            )
            for name, value in _metrics(evidence).items()
        ]
    threat = [entry.threat_model] if entry.says_threat else []
    data = ModelCardData(
        library_name="adaptive-smoothing-zoo",
        license=entry.license,
        pipeline_tag="image-classification",
        tags=["adversarial-robustness", "adaptive-smoothing", "autoattack", "robustbench", *threat],
        datasets=[entry.dataset],
        metrics=["accuracy"],
        model_name=entry.name if measured else None,
        eval_results=measured or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _used_nets(entry: Entry) -> list[tuple[str, str]]:
    """Letter and name of each base net that takes part in the output."""
    nets = [("g", "std_model"), ("h", "rob_model")]
    return [net for net in nets if entry.head is None or entry.head.features in (net[1], "both")]


def _certificates(entry: Entry, record: CertificationRecord | None) -> str | None:
    if record is not None:
        return certificates_section(record)
    if entry.head is not None:
        return None
    if entry.rob_model.architecture in ("gaussian_smoothed", "lipschitz"):
        return "Not computed here (`asz certify`); h is of a kind that has certificates."
    return needs_section(entry)


def how_to_load(entry: Entry, reference: str | None = None) -> str:
    """The code that loads a triplet: by its name in the zoo, or by a reference that ``load_model`` takes."""
    output = "log_probabilities" if entry.head is None else "logits" if entry.head.num_classes else "features"
    return page("how_to_load.md", entry=entry, reference=reference, output=output).rstrip()
