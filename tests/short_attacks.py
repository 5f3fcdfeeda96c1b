"""The same machinery with shorter attacks."""

from functools import partialmethod

from adaptive_smoothing_zoo.attacks.autoattack.reference import ReferenceEngine
from adaptive_smoothing_zoo.attacks.catalogue import complete
from adaptive_smoothing_zoo.attacks.search import Search


def shorten(monkeypatch, **numbers):
    """Let every engine have these numbers where its attacks have such."""

    def init(self, original, model, threat, settings, **more):
        original(self, model, threat, complete(settings).limited(**numbers), **more)

    for engine in (Search, ReferenceEngine):
        monkeypatch.setattr(engine, "__init__", partialmethod(init, engine.__init__))
