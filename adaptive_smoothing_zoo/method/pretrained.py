"""Saving and loading a mix of any two nets, under the names of the Hugging Face Hub's mixins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from torch import nn


class Pretrained(nn.Module):
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    The saved model is a :class:`adaptive_smoothing_zoo.zoo.triplet.Triplet`, a mix with its entry. Later rooms set the
    functions that make, read and upload one.
    """

    with_entry: ClassVar[Callable[..., Any]]
    reader: ClassVar[Callable[..., Any]]
    uploader: ClassVar[Callable[..., str]]

    def save_pretrained(self, folder: str | Path, max_shard_size: str | int | None = None, **words: Any) -> None:
        """Write ``config.json`` and ``model.safetensors``, which ``from_pretrained`` reads.

        They replace those of an earlier save in the folder. The nets are described by their source:
        ``backbones.build``, ``load_base_net``, a reference, timm, torchvision, a class of RobustBench, or PyTorch's
        layers (see ``backbones.layers``), also inside ``Preprocessed``. Every command accepts the folder, as
        ``asz eval folder``. If the mix was loaded and changed since, its description says so, and its paper and
        published accuracies are omitted unless ``words`` give new ones.

        Args:
            max_shard_size: in bytes or like "1GB"; larger weights are split over several files.
            words: fields of :class:`adaptive_smoothing_zoo.zoo.entry.Entry` that cannot be derived from the modules:
                ``name``, ``dataset``, ``threat_model`` and ``eps`` (defaults of the commands' attacks: 8/255 in l_inf
                without ``eps``, and the card then says that this is no claim), ``paper``, ``license``,
                ``additional_data``, ...; and ``image_shape``, (channels, height, width), if neither net declares it.

        Raises:
            ConfigError: an entry cannot describe the model (a net of unknown code, a replaced layer, weights in half
                precision).
            ResultsError: the folder cannot be written.
        """
        type(self).with_entry(self, **words).save_pretrained(folder, max_shard_size)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        **words: Any,
    ) -> str:
        """Upload the output of ``save_pretrained`` with a model card to the Hub as "org/name"; return its address.

        Args:
            private, token, revision, commit_message: as of :func:`adaptive_smoothing_zoo.publishing.push.push`.
            words: as of ``save_pretrained``.

        Raises:
            ConfigError: as ``save_pretrained``.
            HubError: the Hub rejects the upload; the message says why.
        """
        options = {"private": private, "token": token, "revision": revision, "commit_message": commit_message}
        return type(self).uploader(type(self).with_entry(self, **words), repo_id, **options)

    @classmethod
    def from_pretrained(cls, folder_or_repo: str | Path, **options: Any) -> Any:
        """Load a mix that ``save_pretrained`` wrote, from a folder or a repository of the Hub ("org/name").

        Args:
            options: those of :meth:`adaptive_smoothing_zoo.zoo.triplet.Triplet.from_pretrained`: revision, cache_dir,
                token, local_files_only, device, dtype.

        Returns:
            The mix as a :class:`Triplet`, with its entry, in eval mode, with frozen weights.

        Raises:
            ConfigError, WeightsError: the files are incomplete or invalid; nothing is partly loaded.
        """
        return cls.reader(folder_or_repo, **options)
