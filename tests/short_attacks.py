"""The same machinery with shorter attacks."""

from adaptive_smoothing_zoo.attacks.catalogue import complete
from adaptive_smoothing_zoo.attacks.search import Search


def shorten(monkeypatch, **numbers):
    """Let every search have these numbers where its attacks have such."""
    original = Search.__init__

    def init(self, model, threat, settings, **more):
        original(self, model, threat, complete(settings).limited(**numbers), **more)

    monkeypatch.setattr(Search, "__init__", init)
