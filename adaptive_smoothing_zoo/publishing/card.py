"""Model cards: made from the entry and the recorded results, never by hand."""

import json
from collections import Counter

from adaptive_smoothing_zoo.publishing.adaptive_record import AdaptiveRecord
from adaptive_smoothing_zoo.publishing.certificate_needs import needs_section
from adaptive_smoothing_zoo.publishing.certification_record import CertificationRecord, certificates_section
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve, matches
from adaptive_smoothing_zoo.publishing.evidence import Evidence
from adaptive_smoothing_zoo.publishing.leaderboard import percent
from adaptive_smoothing_zoo.publishing.records import RunRecord
from adaptive_smoothing_zoo.zoo.entry import (
    AdaptiveAlphaConfig,
    BaseNetConfig,
    Entry,
    HardMaxConfig,
    HeadConfig,
    HubFile,
    LogitMapConfig,
    ScaleConfig,
    Source,
    UrlFile,
)


def model_card(
    entry: Entry,
    evidence: Evidence | None,
    curve: ConstantCurve | None = None,
    certification: CertificationRecord | None = None,
) -> str:
    """The card's Markdown, with the front matter that the Hugging Face Hub reads.

    Args:
        evidence: all that is recorded of the entry, or None if nothing is; the card then says so.
        curve: what constant alphas reach with the same g and h, if that was measured.
        certification: the certificates of the triplet, if there are some.
    """
    record = None if evidence is None else evidence.run
    sections = [
        _front_matter(entry, record),
        f"# {entry.name} ({entry.dataset}, {entry.threat_model}, eps {entry.eps})\n\n{entry.description}",
        f"## What it computes\n\n{_composition(entry)}",
        f"## Results\n\n{_results(entry, record)}",
        *([] if evidence is None else [f"## Stronger attacks and checks\n\n{_scrutiny(evidence)}"]),
        *(
            [f"## Beside constant alphas\n\n{_comparison(record, curve)}"]
            if record is not None and curve is not None and matches(curve, record)
            else []
        ),
        *(
            [f"## Certified radii\n\n{_certificates(entry, certification)}"]
            if entry.head is None or certification is not None
            else []
        ),
        f"## How it was made\n\n{entry.training or 'See the paper.'}",
        *([f"## Where the weights are\n\n{_sources(entry)}"] if entry.weights.components else []),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in (*_LIMITS, *entry.limits)),
        f"## How to load it\n\n{how_to_load(entry)}",
        f"## Citation\n\n{entry.paper.authors}. *{entry.paper.title}*. {entry.paper.venue}. <{entry.paper.link}>",
    ]
    return "\n\n".join(sections) + "\n"


_LIMITS = (
    "Robust accuracy is what the named attacks left standing. It is no certificate, and it says nothing of other "
    "perturbations, radii or data.",
    "Images must be float, in [0, 1], of the size given above; normalization happens inside.",
)


def _front_matter(entry: Entry, record: RunRecord | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    measured = []
    if record is not None:
        attacked = f"AutoAttack accuracy (%), {record.threat_model} {record.eps}"
        measured = [
            EvalResult(
                task_type="image-classification",
                dataset_type=entry.dataset,
                dataset_name=f"{record.n} examples: {record.data}",
                dataset_split="test" if record.test_set_size is not None else None,
                metric_type="accuracy",
                metric_name=name,
                metric_value=float(percent(value)),
            )
            for name, value in (("clean accuracy (%)", record.clean_accuracy), (attacked, record.robust_accuracy))
        ]
    data = ModelCardData(
        library_name="adaptive-smoothing-zoo",
        license=entry.license,
        pipeline_tag="image-classification",
        tags=["adversarial-robustness", "adaptive-smoothing", "autoattack", "robustbench", entry.threat_model],
        datasets=[entry.dataset],
        metrics=["accuracy"],
        model_name=entry.name if measured else None,
        eval_results=measured or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _composition(entry: Entry) -> str:
    if entry.head is not None:
        return _fine_tuned(entry, entry.head)
    rows = [
        ("std_model (g)", _base_net(entry.std_model)),
        ("rob_model (h)", _base_net(entry.rob_model)),
        ("std_map (t_g), rob_map (t_h)", f"{_map(entry.std_map)}, {_map(entry.rob_map)}".replace("|", "\\|")),
        *_surrogate(entry),
        ("alpha range", _alpha(entry)),
        ("images", _images(entry)),
        ("classes", str(entry.num_classes)),
    ]
    scaled = isinstance(entry.std_map, ScaleConfig) and isinstance(entry.rob_map, ScaleConfig)
    g, h = ("t_g g(x)", "t_h h(x)") if scaled else ("std_map(g(x))", "rob_map(h(x))")
    return f"`log((1 - alpha) softmax({g}) + alpha softmax({h}))`\n\n{_table(rows)}"


def _fine_tuned(entry: Entry, head: HeadConfig) -> str:
    """What a classifier computes that ``reset_classifier`` made of a mix."""
    nets = {"std_model": ("g", entry.std_model), "rob_model": ("h", entry.rob_model)}
    used = [name for name in nets if head.features in (name, "both")]
    rows = [
        *((f"{name} ({nets[name][0]})", f"{_base_net(nets[name][1])}, {head.stages[name]} stages") for name in used),
        ("images", _images(entry)),
        ("classes", str(head.num_classes) if head.num_classes else "none"),
    ]
    features = f"the pooled features of {' and '.join(f'{nets[name][0]} ({name})' for name in used)}"
    output = (
        f"Logits of {head.num_classes} classes: a linear layer on {features}."
        if head.num_classes
        else f"{features[0].upper()}{features[1:]}, without a classifier."
    )
    return f"{output} This is no mix: alpha and the logit maps take no part.\n\n{_table(rows)}"


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| part | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def _images(entry: Entry) -> str:
    return " x ".join(map(str, entry.image_shape)) + " (channels x height x width)"


def _surrogate(entry: Entry) -> list[tuple[str, str]]:
    if entry.surrogate is None:
        return []
    return [("surrogate to attack through", f"`{entry.surrogate.name}`, alpha {entry.surrogate.alpha:g}")]


def _base_net(config: BaseNetConfig) -> str:
    arguments = ", ".join(f"{key}={value}" for key, value in config.arguments.items())
    text = f"`{config.architecture}({arguments})`"
    return f"{text}, weights of `{config.pretrained}`" if config.pretrained else text


def _map(config: LogitMapConfig) -> str:
    if isinstance(config, ScaleConfig):
        return f"{config.factor:g}"
    if isinstance(config, HardMaxConfig):
        return "hard maximum"
    z = f"GELU(normed + {config.clamp_bias:g})" if config.clamp_bias >= 0 else f"GELU(normed - {-config.clamp_bias:g})"
    return f"{config.scale:g} sign(z) |z|^{config.power:g} with z = {z}, over the top {config.top_k} logits"


def _alpha(entry: Entry) -> str:
    alpha = entry.alpha
    if isinstance(alpha, AdaptiveAlphaConfig):
        return (
            f"[{alpha.alpha_min:g}, {alpha.alpha_max:g}], chosen per input by a mixing network "
            f"(version {alpha.version}, planes {alpha.planes}, alpha_logit scale {alpha.logit_scale:g}, "
            f"bias {alpha.logit_bias:g})"
        )
    return f"{alpha.value:g}, constant"


def _results(entry: Entry, record: RunRecord | None) -> str:
    parts = []
    if entry.published is not None:
        parts.append(
            f"As published ({entry.published.source}): clean {entry.published.clean} %, "
            f"AutoAttack {entry.published.autoattack} %"
            + (f", adaptive AutoAttack {entry.published.adaptive} %." if entry.published.adaptive else ".")
        )
    if record is None:
        why = "the weights cannot be downloaded on the machines this was built on"
        parts.append(f"Not measured here: {why}." if entry.weights.components else "Not measured here.")
        return "\n\n".join(parts)
    low, high = record.confidence_interval
    rows = [
        f"| {'none (clean)' if name == 'clean' else f'and {name}'} | {percent(value)} |"
        for name, value in record.accuracy_after.items()
    ]
    parts.append("\n".join(["| attacks | accuracy, % |", "| --- | --- |", *rows]))
    whole = "the whole test set" if record.is_full_standard_run else "not the whole test set"
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    parts.append(
        f"{record.protocol} with {record.engine}, {record.threat_model}, eps {record.eps}, n = {record.n} ({whole}; "
        f"95 % interval of the robust accuracy {percent(low)} to {percent(high)} %), seed {record.seed}, batch size "
        f"{record.batch_size}, {record.device_name}, {record.dtype}, TF32 {'on' if record.tf32 else 'off'}. "
        f"Data: {record.data}. Versions: {versions}."
    )
    parts += [f"{remark[0].upper()}{remark[1:]}." for remark in record.remarks]
    if record.warnings:
        quoted = "\n".join(f"> {warning}" for warning in record.warnings)
        parts.append(
            "AutoAttack's own checks raised a flag, so read the robust accuracy as an upper bound that a stronger "
            f"attack may well lower:\n\n{quoted}"
        )
    else:
        parts.append("AutoAttack's own checks raised no flag.")
    return "\n\n".join(parts)


def _scrutiny(evidence: Evidence) -> str:
    parts = []
    if evidence.failed_checks:
        names = ", ".join(evidence.failed_checks)
        parts.append(f"**The robust accuracy is not to be trusted as it stands**: asz validate failed in {names}.")
    parts.append(_adaptive(evidence.adaptive))
    parts.append(_validation(evidence))
    if evidence.broken:
        parts.append(
            f"Best known robust accuracy: **{percent(evidence.best_known)} %**. AutoAttack left "
            f"{round(evidence.run.robust_accuracy * evidence.run.n)} of {evidence.run.n} examples standing; "
            f"{len(evidence.broken)} of them fell to what is named here."
        )
    return "\n\n".join(parts)


def _adaptive(record: AdaptiveRecord | None) -> str:
    if record is None:
        return "Attacks adapted to the mix (`asz adapt`) were not run; they must be expected to lower the accuracy."
    rows = [
        f"| {name if name == 'standard' else f'and {name}'} | {percent(value)} |"
        for name, value in record.accuracy_after.items()
    ]
    table = "\n".join(["| attacks | accuracy, % |", "| --- | --- |", *rows])
    return (
        f"Attacks adapted to the mix, on the examples that the standard attacks left (`asz adapt`, seed {record.seed}, "
        f"{record.device_name}):\n\n{table}"
    )


def _validation(evidence: Evidence) -> str:
    validation = evidence.validation
    if validation is None:
        return "Whether the number can be trusted was not checked (`asz validate`)."
    verdicts = Counter(result.verdict for result in validation.checks)
    found = (
        f"`asz validate` on the first {validation.n} examples: {verdicts['passed']} checks passed, "
        f"{verdicts['failed']} failed, {verdicts['not applicable']} did not apply"
    )
    if validation.recorded_n is not None:
        found += f"; its attacks broke {len(validation.newly_broken)} examples that AutoAttack had left"
    failures = [f"- {result.name}: {result.found} Expected: {result.rule}" for result in validation.failed]
    return "\n".join([f"{found}.", *(["", *failures] if failures else [])])


def _comparison(record: RunRecord, curve: ConstantCurve) -> str:
    rows = [f"| {point.alpha:g} | {percent(point.clean)} | {percent(point.robust)} |" for point in curve.points]
    table = "\n".join(["| alpha | clean, % | AutoAttack, % |", "| --- | --- | --- |", *rows])
    text = (
        f"The same g and h with constant alphas (0 is g alone, 1 is h alone), measured in the same way on the same "
        f"{curve.n} examples:\n\n{table}"
    )
    reached = curve.clean_at(record.robust_accuracy)
    if reached is None:
        return f"{text}\n\nNo constant alpha in the table reaches this model's AutoAttack accuracy."
    gain = round(100 * (record.clean_accuracy - reached), 2)
    verdict = f"{abs(gain):.2f} points {'above' if gain > 0 else 'below'} it" if gain else "no more and no less"
    return (
        f"{text}\n\nAt this model's AutoAttack accuracy ({percent(record.robust_accuracy)} %) the curve of constant "
        f"alphas has a clean accuracy of {percent(reached)} % (linear between neighbouring alphas); this model has "
        f"{percent(record.clean_accuracy)} %, {verdict}. One example is {100 / curve.n:.2f} points."
    )


def _certificates(entry: Entry, record: CertificationRecord | None) -> str:
    if record is not None:
        return certificates_section(record)
    if entry.rob_model.architecture in ("gaussian_smoothed", "lipschitz"):
        return "Not computed here (`asz certify`); h is of a kind that has certificates."
    return needs_section(entry)


def _sources(entry: Entry) -> str:
    rows = [
        f"| {part} | {'; else '.join(map(_source, component.sources))} |"
        for part, component in entry.weights.components.items()
    ]
    table = "\n".join(["| part | original checkpoint |", "| --- | --- |", *rows])
    verified = (
        "Loaded with this package, these weights gave the published clean accuracy."
        if entry.weights.verified
        else "Not verified: `asz verify` measures the clean accuracy of what these files give and records their hashes."
    )
    return f"{table}\n\n{verified}"


def _source(source: Source) -> str:
    if isinstance(source, HubFile):
        return f"[{source.repo}](https://huggingface.co/{source.repo}), `{source.filename}`"
    if isinstance(source, UrlFile):
        return f"<{source.url}>"
    which = "" if source.index is None else f", file {source.index}"
    return f"Google Drive, by RobustBench's id for `{source.model}`{which}"


def how_to_load(entry: Entry, reference: str | None = None) -> str:
    """The code that loads it: by its name in the zoo, or by a reference that ``load_model`` takes."""
    what = f'"{entry.name}", dataset="{entry.dataset}", threat_model="{entry.threat_model}"'
    output = "log_probabilities" if entry.head is None else "logits" if entry.head.num_classes else "features"
    return (
        "```python\nfrom adaptive_smoothing_zoo import load_model\n\n"
        f"model = load_model({what if reference is None else json.dumps(reference)})\n"
        f"{output} = model(images)  # images in [0, 1]\n```"
    )
