"""The tables of linear nets, whose gaps in a ball are known in closed form."""

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo import ThreatModel
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.tuning.measure import GapAttack, measure_tables

SHAPE, CLASSES = (1, 4, 4), 5
IMAGES = 0.5 + 0.2 * (torch.rand(24, *SHAPE, generator=torch.Generator().manual_seed(0)) - 0.5)


def linear(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    net[1].weight.data *= 8
    return net.eval()


G, H = linear(0), linear(1)
LABELS = H(IMAGES).argmax(dim=1)
LABELS[::6] = (LABELS[::6] + 1) % CLASSES  # which h gets wrong


def smallest_gap(threat):
    """Of h in the ball, (N,); the ball lies inside the box here."""
    weight = H[1].weight.detach()
    logits = H(IMAGES).detach()
    found = []
    for row, label in zip(logits, LABELS, strict=True):
        others = [j for j in range(CLASSES) if j != label]
        norms = torch.stack([(weight[label] - weight[j]) for j in others])
        length = norms.abs().sum(1) if threat.norm == "Linf" else norms.norm(dim=1)
        found.append((row[label] - row[others] - threat.eps * length).min())
    return torch.stack(found)


def gap(logits):
    own = logits.gather(-1, LABELS.expand(logits.shape[:-1])[..., None]).squeeze(-1)
    return own - logits.scatter(-1, LABELS.expand(logits.shape[:-1])[..., None], -torch.inf).amax(-1)


@pytest.mark.parametrize("threat", [ThreatModel("Linf", 0.02), ThreatModel("L2", 0.05)], ids=str)
def test_the_gap_is_the_closed_form_s_and_never_below(threat):
    tables = measure_tables(G, H, IMAGES, LABELS, threat, attack=GapAttack(targets=CLASSES))
    assert torch.equal(tables.std, G(IMAGES))
    assert torch.equal(tables.rob, H(IMAGES))
    exact, found = smallest_gap(threat), gap(tables.attacked).amin(dim=0)
    assert (found >= exact - 1e-5).all()
    stands = exact > 1e-3
    assert stands.sum() >= 5
    torch.testing.assert_close(found[stands], exact[stands], rtol=0.02, atol=1e-3)
    assert (found[(exact < -1e-3) & (gap(tables.rob) > 0)] <= 0).all()
    wrong = gap(tables.rob) <= 0
    assert wrong.sum() >= 4
    assert torch.equal(tables.attacked[:, wrong], tables.rob[wrong].expand(3, -1, -1))


def test_it_resumes_and_belongs_to_the_nets(tmp_path, monkeypatch):
    threat = ThreatModel("Linf", 0.02)
    monkeypatch.setattr("adaptive_smoothing_zoo.tuning.measure.brisk_batch_size", lambda model, images: 5)
    expected = measure_tables(G, H, IMAGES, LABELS, threat)
    seen = []

    def interrupt(done):
        seen.append(done)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_tables(G, H, IMAGES, LABELS, threat, state=tmp_path, on_progress=interrupt)
    again = measure_tables(G, H, IMAGES, LABELS, threat, state=tmp_path, on_progress=seen.append)
    assert seen == [5, 10, 10, 15, 20, 24]  # a resumed run says first what is done
    for name in ("std", "rob", "attacked", "labels"):
        assert torch.equal(getattr(again, name), getattr(expected, name))
    with pytest.raises(ResultsError, match="rob_model"):
        measure_tables(G, linear(2), IMAGES, LABELS, threat, state=tmp_path)


def test_nets_of_other_classes_are_refused():
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES + 1))
    with pytest.raises(ValueError, match="5 classes and h 6"):
        measure_tables(G, other, IMAGES, LABELS, ThreatModel("Linf", 0.02))


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        GapAttack(targets=0)
