"""Recorded passes, with stand-ins for what only a GPU has: which shapes, which choice, what happens on failure."""

import logging
import weakref
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo.attacks import search
from adaptive_smoothing_zoo.attacks.losses import cross_entropy, loss_and_gradient
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.machine import graphs
from adaptive_smoothing_zoo.machine.graphs import CudaGraphs, Graphed, Recording, Rerun, tensors_used
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.threat import ThreatModel


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4)).requires_grad_(False)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return self.layers(images)


class Clocked(Rerun):
    """By whose clock the net takes so long, and a replay so long; it counts what it records."""

    def __init__(self, net=2.0, replay=1.0):
        super().__init__()
        self.took, self.time, self.calls, self.recorded, self.freed = (net, replay), 0.0, 0, 0, 0

    def record(self, work):
        self.recorded += 1
        return super().record(work)

    def now(self):
        self.calls += 1
        if self.calls % 2 == 0:  # it is asked before and after each of them, the net first
            self.time += self.took[self.calls // 2 % 2 == 0]
        return self.time

    def free(self):
        self.freed += 1


def _images(count=5, seed=0):
    return torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def _ask(model, images):
    labels = torch.zeros(len(images), dtype=torch.int64)
    return loss_and_gradient(model, images, lambda logits: cross_entropy(logits, labels))


def _graphed(recorder=None, net=None, often=1):
    return Graphed(net or Net(), recorder or Clocked(), often=often)


def test_outputs_and_gradients_are_the_nets_and_stay_as_they_are():
    net, graphed = Net(), _graphed()
    results = []
    for seed in range(4):
        results.append((graphed(_images(seed=seed)), *_ask(graphed, _images(seed=seed))))
    for seed, found in enumerate(results):
        for ours, expected in zip(found, (net(_images(seed=seed)), *_ask(net, _images(seed=seed))), strict=True):
            assert torch.equal(ours, expected)
    assert graphed.recorder.recorded == 3  # forward alone; forward and backward
    assert graphed.recorder.replays > 12


def test_a_gradient_is_right_whatever_was_replayed_since_its_forward_pass():
    net, graphed = Net(), _graphed()
    _ask(graphed, _images(2)), _ask(graphed, _images(5)), graphed(_images(5))
    points = [_images(5, seed=1).requires_grad_(), _images(5, seed=2).requires_grad_(), _images(2).requires_grad_()]
    outputs = [graphed(each) for each in points]
    graphed(_images(5, seed=7))
    for each, output in zip(points, outputs, strict=True):
        expected = torch.autograd.grad(net(each).logsumexp(1).sum(), each)[0]
        for again in range(2):
            found = torch.autograd.grad(output.logsumexp(1).sum(), each, retain_graph=True)[0]
            assert torch.equal(found, expected), again


def test_several_gradients_of_one_pass_take_one_pass():
    graphed, points = _graphed(), _images().requires_grad_()
    graphed(points)
    replays = graphed.recorder.replays
    output = graphed(points)
    for label in range(4):
        torch.autograd.grad(output[:, label].sum(), points, retain_graph=True)
    assert graphed.recorder.replays == replays + 5


def test_only_shapes_that_come_often_are_recorded_each_once():
    graphed = _graphed(often=3)
    for count in (4, 5, 4, 5):
        graphed(_images(count))
    assert graphed.recorder.recorded == 0
    for _ in range(4):
        graphed(_images(4))
    assert graphed.recorder.recorded == 1
    calls = graphed.model.calls
    with torch.no_grad():
        graphed(_images(4))
    assert graphed.model.calls == calls + 1
    assert graphed.recorder.recorded == 1


def test_another_precision_is_another_recording():
    graphed = _graphed()
    for tf32 in (False, True, False):
        with float32_precision(tf32):
            graphed(_images())
    assert graphed.recorder.recorded == 2


def test_what_a_net_keeps_for_one_shape_outlives_its_cache():
    class Cached(Net):
        offset = None

        def forward(self, images):
            if self.offset is None or len(self.offset) != len(images):
                self.offset = torch.arange(float(len(images)))[:, None]
                caches.append(weakref.ref(self.offset))
            return super().forward(images) + self.offset

    caches, graphed = [], _graphed(net=Cached())
    graphed(_images(4))
    graphed(_images(5))
    graphed(_images(6))
    assert [cache() is not None for cache in caches] == [True, True, True]
    held = tensors_used(Net(), _images(4))
    assert {tuple(tensor.shape) for tensor in held} >= {(4, 3, 2, 2), (6,), (4,)}
    assert len(held) == 5


def test_what_a_recording_cannot_be_of_runs_as_it_is():
    graphed = _graphed()
    with torch.autocast("cuda", enabled=False), torch.inference_mode():
        graphed(_images())
    graphed(_images(0))
    graphed(nn.Parameter(_images(), requires_grad=False))
    assert graphed.recorder.recorded == 0


def test_a_replay_that_is_not_faster_is_not_used_and_said(caplog):
    graphed = _graphed(Clocked(net=1.0, replay=1.0))
    with caplog.at_level(logging.INFO, graphs.__name__):
        for _ in range(3):
            assert torch.equal(_ask(graphed, _images())[0], Net()(_images()))
    assert "in batches of 5 and more, where a replay takes 1 s and the net 1 s" in caplog.text
    assert caplog.text.count("\n") == 1
    assert graphed.recorder.recorded == 2
    graphed(_images(6))
    assert graphed.recorder.recorded == 2
    graphed(_images(3))
    assert graphed.recorder.recorded == 3  # smaller batches get their chance


class Stale(Clocked):
    """Replays what it saw when it recorded, as a graph does of what the host has decided."""

    def record(self, work):
        recording = super().record(work)
        return Recording(lambda: setattr(self, "replays", self.replays + 1), recording.result)


class Blind(Clocked):
    """Its recordings of gradients give zeros."""

    def record(self, work):
        recording = super().record(work)
        if recording.result.ndim == 4:
            return Recording(lambda: recording.result.zero_(), recording.result)
        return recording


@pytest.mark.parametrize("kind", [Stale, Blind])
def test_a_recording_that_gives_something_else_is_not_used_and_said(kind, caplog):
    graphed, net = _graphed(kind()), Net()
    for _ in range(2):
        for ours, expected in zip(_ask(graphed, _images()), _ask(net, _images()), strict=True):
            assert torch.equal(ours, expected)
    assert "Net runs without CUDA graphs" in caplog.text
    assert "gives other outputs" in caplog.text
    recorded = graphed.recorder.recorded
    _ask(graphed, _images(2))
    assert graphed.recorder.recorded == recorded  # never again


class Full(Clocked):
    """Memory for recordings of at most three images."""

    def record(self, work):
        recording = super().record(work)
        if len(recording.result) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return recording


def test_where_memory_runs_out_larger_batches_run_as_they_are(caplog):
    graphed = _graphed(Full())
    for count in (5, 3, 6):
        assert torch.equal(graphed(_images(count)), Net()(_images(count)))
    assert graphed.recorder.recorded == 2
    assert graphed.recorder.freed == 1
    assert graphed.recorder.replays > 0
    assert "in batches of 5 and more: CUDA out of memory." in caplog.text


class Waiting(Clocked):
    def warm_up(self, work):
        raise RuntimeError("called a synchronizing CUDA operation")


def test_a_net_that_makes_the_host_wait_runs_as_it_is(caplog):
    graphed = _graphed(Waiting())
    for count in (5, 5, 3):
        assert torch.equal(graphed(_images(count)), Net()(_images(count)))
    assert graphed.recorder.recorded == 0
    assert caplog.text.count("synchronizing") == 1


@contextmanager
def _on(stream, log):
    log.append("aside")
    yield
    log.append("back")


class Stream:
    def __init__(self, device=None):
        self.waited = 0

    def wait_stream(self, other):
        self.waited += 1


class FakeGraph:
    log, pools = [], iter(range(100))

    def capture_begin(self, pool=None, capture_error_mode=None):
        self.number = next(self.pools) if pool is None else pool
        self.log.append("begin")

    def capture_end(self):
        self.log.append("end")

    def pool(self):
        return self.number

    def replay(self):
        self.log.append("replay")


@pytest.fixture
def cuda(monkeypatch):
    """What CudaGraphs takes from torch.cuda, without a GPU."""
    log, modes = FakeGraph.log, [0]
    log.clear()
    main = Stream()
    fakes = {
        "CUDAGraph": FakeGraph,
        "Stream": Stream,
        "stream": lambda stream: _on(stream, log),
        "current_stream": lambda device: main,
        "synchronize": lambda device=None: log.append("synchronize"),
        "empty_cache": lambda: log.append("empty"),
        "get_sync_debug_mode": lambda: modes[-1],
        "set_sync_debug_mode": modes.append,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return log, modes


def test_graphs_share_a_pool_while_one_of_them_lives(cuda):
    recorder = CudaGraphs(torch.device("cuda"))
    recordings = [recorder.record(lambda: torch.ones(1)) for _ in range(3)]
    pools = {graph.number for graph in recorder._graphs}
    assert len(pools) == 1
    assert len(recorder._graphs) == 3
    recordings[1].replay()
    assert recorder.replays == 1
    assert cuda[0][-1] == "replay"
    del recordings  # a pool without graphs is no more
    recorder.record(lambda: torch.ones(1))
    assert not pools & {graph.number for graph in recorder._graphs}


def test_a_recording_stands_on_its_own_stream_and_ends_whatever_happens(cuda):
    recorder = CudaGraphs(torch.device("cuda"))
    recorder.record(lambda: torch.ones(1))
    assert cuda[0] == ["synchronize", "empty", "aside", "begin", "end", "back"]
    cuda[0].clear()

    def failing():
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        recorder.record(failing)
    assert cuda[0] == ["synchronize", "empty", "aside", "begin", "end"]
    assert len(recorder._graphs) == 0


def test_what_makes_the_host_wait_is_refused_before_it_is_recorded(cuda):
    recorder, seen = CudaGraphs(torch.device("cuda")), []
    recorder.warm_up(lambda: seen.append(cuda[1][-1]))
    assert seen == [0, "error"]
    assert cuda[1][-1] == 0

    def waiting():
        if cuda[1][-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError):
        recorder.warm_up(waiting)
    assert cuda[1][-1] == 0


def test_nothing_is_recorded_on_a_cpu():
    assert graphs.recorder_of(torch.device("cpu")) is None
    assert isinstance(graphs.recorder_of(torch.device("cuda")), CudaGraphs)


def _verdicts(monkeypatch, recorder, net):
    monkeypatch.setattr(search, "recorder_of", lambda device: recorder)
    images = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(4))
    settings = AttackSettings(batch_size=4).limited(iterations=8, queries=30)
    threat, device = ThreatModel("Linf", 0.1), torch.device("cpu")
    engine = search.Search(net, threat, settings, num_classes=4, device=device)
    with torch.no_grad():
        labels = net(images).argmax(1)
    return engine, [(v.attack, v.points, v.broken, v.candidates) for v in engine.run(images, labels, torch.arange(6))]


def test_the_search_replays_and_finds_the_same(monkeypatch):
    monkeypatch.setattr(graphs, "OFTEN", 2)
    recorder = Clocked()
    engine, found = _verdicts(monkeypatch, recorder, Net())
    assert isinstance(engine.prepared, Graphed)
    assert recorder.replays > 50
    _, expected = _verdicts(monkeypatch, None, Net())
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[0] == theirs[0]
        assert all(map(torch.equal, ours[1:], theirs[1:]))


class Noisy(Net):
    def forward(self, images):
        return super().forward(images) + 1e-3 * torch.rand(len(images), 4)


def test_a_net_that_does_not_answer_the_same_twice_is_not_recorded(monkeypatch):
    recorder = Clocked()
    engine, _ = _verdicts(monkeypatch, recorder, Noisy())
    assert not isinstance(engine.prepared, Graphed)
    assert recorder.recorded == 0
