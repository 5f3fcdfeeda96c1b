import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, ThreatModel, load_model
from adaptive_smoothing_zoo.attacks.autoattack.square import Square
from adaptive_smoothing_zoo.attacks.autoattack.square_draws import KeyedSquares
from adaptive_smoothing_zoo.attacks.losses import margin
from adaptive_smoothing_zoo.attacks.margin_bounds import bounded_margins
from adaptive_smoothing_zoo.attacks.random_streams import run_keys
from adaptive_smoothing_zoo.data import load_data


class Table(nn.Module):
    """A net whose logits are the pixels of one row of the image."""

    def __init__(self, row):
        super().__init__()
        self.row = row

    def forward(self, images):
        return 40.0 * images[:, 0, self.row] - 20.0


@pytest.mark.parametrize("alpha", [0.05, 0.5, 0.9, 1.0])
def test_margins_of_constant_mixes_are_exact_or_certainly_not_wanted(alpha):
    model = MixedClassifier(Table(0), Table(1), alpha)
    points = torch.rand(4000, 1, 2, 5) ** 3
    points[::2, :, 0] = points[::2, :, 0].round()  # nets that are certain
    labels = torch.randint(5, (4000,))
    expected, worth = margin(model(points), labels), torch.randn(4000) * 3
    ask = bounded_margins(model)
    found = ask(points, labels, worth)
    known = torch.isfinite(found)
    torch.testing.assert_close(found[known], expected[known])
    assert bool((expected[~known] >= worth[~known]).all())
    assert 0 < int(known.sum()) == ask.std_runs < ask.asked == 4000


def test_margins_of_adaptive_mixes_skip_the_mixing_network_only_where_it_cannot_matter():
    model = load_model("Demo2026Adaptive", dataset="digits").eval()
    examples = load_data("digits").first(200)
    points = (examples.images + 0.4 * torch.rand_like(examples.images) - 0.2).clamp(0, 1)
    with torch.no_grad():
        expected = margin(model(points), examples.labels)
    ask = bounded_margins(model)
    for worth in (expected + 0.2 * torch.randn(200), torch.full((200,), 0.5), expected, expected + 1e-6):
        found = ask(points, examples.labels, worth)
        known = torch.isfinite(found)
        torch.testing.assert_close(found[known], expected[known], rtol=1e-4, atol=1e-4)
        assert bool((expected[~known] >= worth[~known]).all())
    assert 0 < ask.mixing_runs < ask.std_runs < ask.asked == 800
    assert not torch.isfinite(ask(points, examples.labels, torch.full((200,), -torch.inf))).any()


class Flipped(MixedClassifier):
    def forward(self, images):
        return super().forward(images).flip(1)


def flipped(how):
    """A mix whose answer is not that of its parts."""
    if how == "subclass":
        return Flipped(Table(0), Table(1), 0.9)
    model = MixedClassifier(Table(0), Table(1), 0.9)
    if how == "hook":
        model.register_forward_hook(lambda module, inputs, output: output.flip(1))
    elif how == "pre-hook":
        model.register_forward_pre_hook(lambda module, inputs: (inputs[0].flip(3),))
    else:
        plain = model.forward
        model.forward = lambda images: plain(images).flip(1)
    return model


@pytest.mark.parametrize("how", ["subclass", "hook", "pre-hook", "forward"])
def test_a_mix_whose_answer_other_code_changes_has_no_bounds_and_predicts_what_it_says(how):
    assert bounded_margins(flipped(how)) is None
    points = torch.rand(200, 1, 2, 5)
    assert torch.equal(flipped(how).predict(points), flipped(how)(points).argmax(1))


def test_single_nets_and_mixes_without_weight_for_the_robust_net_have_no_bounds():
    assert bounded_margins(Table(0)) is None
    assert bounded_margins(MixedClassifier(Table(0), Table(1), 0.0)) is None


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_square_goes_the_same_way_with_and_without_bounds_one_by_one_or_many_at_once(norm):
    model = load_model("Demo2026Adaptive", dataset="digits").eval().requires_grad_(False)
    images = load_data("digits").first(12).images
    labels = model(images).argmax(1)
    threat = ThreatModel(norm, {"Linf": 0.12, "L2": 0.6}[norm])
    keys = run_keys(0, "square", 0, torch.arange(12))
    squares = KeyedSquares(0, "square", (1, 8, 8), threat, torch.device("cpu"), queries=60)
    ends = []
    for ask, batch_size in ((None, 1), (None, 70), (bounded_margins(model), 1), (bounded_margins(model), 90)):
        attack = Square(threat, squares, queries=60, ask=ask, batch_size=batch_size)
        state = attack.start(images, labels, labels, keys)
        asked = 0
        while not bool((state.found | state.exhausted).all()):
            asked += attack.step(state, model)
        ends.append(state)
        if batch_size == 1:
            assert asked == 12 * 61
    assert 0 < int(ends[0].found.sum()) < 12
    for end in ends[1:]:
        assert torch.equal(end.found, ends[0].found)
        found = end.found
        torch.testing.assert_close(end.adversarials[found], ends[0].adversarials[found])
        torch.testing.assert_close(end.best[~found], ends[0].best[~found])
        torch.testing.assert_close(end.best_margin[~found], ends[0].best_margin[~found], rtol=1e-4, atol=1e-4)
