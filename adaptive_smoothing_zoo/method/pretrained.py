"""Saving and loading a mix of any two nets, under the names of the Hugging Face Hub's mixins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from torch import nn


class Pretrained(nn.Module):
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    What is saved is a :class:`adaptive_smoothing_zoo.zoo.triplet.Triplet`, the mix that knows its entry: later rooms
    set what makes one, reads one, and uploads one.
    """

    with_entry: ClassVar[Callable[..., Any]]
    reader: ClassVar[Callable[..., Any]]
    uploader: ClassVar[Callable[..., str]]

    def save_pretrained(self, folder: str | Path, max_shard_size: str | int | None = None, **words: Any) -> None:
        """Write ``config.json`` and ``model.safetensors``: all that ``from_pretrained`` needs, nothing else.

        The nets are described by what made them: ``backbones.build``, ``load_base_net``, a reference, timm,
        torchvision, a class of RobustBench, or PyTorch's layers (see ``backbones.layers``), also behind
        ``Preprocessed``. The folder is one that every command takes, as ``asz eval folder``.

        Args:
            max_shard_size: in bytes or like "1GB"; weights that are larger are written to several files.
            words: fields of :class:`adaptive_smoothing_zoo.zoo.entry.Entry` that no module says: ``name``,
                ``dataset``, ``threat_model`` and ``eps`` (what the commands attack with: 8/255 in l_inf without
                ``eps``, and the card then says that this is no claim), ``paper``, ``license``, ``additional_data``,
                ...; and ``image_shape``, (channels, height, width), where neither net says what images it was made for.

        Raises:
            ConfigError: this is not what an entry can describe (a net of unknown code, a layer that was exchanged,
                weights in half precision).
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
        """Upload to the Hub as "org/name" what ``save_pretrained`` writes, with a model card; return its address.

        Args:
            private, token, revision, commit_message: as of :func:`adaptive_smoothing_zoo.publishing.push.push`.
            words: as of ``save_pretrained``.

        Raises:
            ConfigError: as ``save_pretrained``.
            HubError: the Hub does not take it; the message says why.
        """
        options = {"private": private, "token": token, "revision": revision, "commit_message": commit_message}
        return type(self).uploader(type(self).with_entry(self, **words), repo_id, **options)

    @classmethod
    def from_pretrained(cls, folder_or_repo: str | Path, **options: Any) -> Any:
        """Load what ``save_pretrained`` wrote, from a folder or a repository of the Hub ("org/name").

        Args:
            options: of :meth:`adaptive_smoothing_zoo.zoo.triplet.Triplet.from_pretrained`: revision, cache_dir, token,
                local_files_only, device, dtype.

        Returns:
            The mix as a :class:`Triplet`, which knows its entry: in eval mode, its weights frozen.

        Raises:
            ConfigError, WeightsError: the files do not say or hold what they must; nothing is loaded in part.
        """
        return cls.reader(folder_or_repo, **options)
