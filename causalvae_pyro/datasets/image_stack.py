"""Many image files as one tensor, in memory or memory-mapped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from causalvae_pyro.datasets.cache import UndecodableError, cache_folder, digest, file_states, fill_cache, open_cache
from causalvae_pyro.datasets.image_files import decode_image

__all__ = ["ImageStack", "describe_shape"]

#: Bytes of decoded images that are kept in memory; more go through a cache.
IN_MEMORY = 2**31


class ImageStack(Dataset):
    """Image files of one size and mode, decoded when they are indexed.

    Args:
        folder: Where they lie.
        files: Their names.
        mode: See :func:`~causalvae_pyro.datasets.image_files.decode_image`; with ``None`` all must have that of ``like``.
        size: Side to which they are resized; with ``None`` all must have the size of ``like``.
        like: The file whose shape all others have to have.
    """

    def __init__(self, folder: Path, files: Sequence[str], mode: str | None, size: int | None, like: str) -> None:
        self.folder, self.files, self.mode, self.like = folder, files, mode, like
        self.size = None if size is None else (size, size)
        self.shape = self._decode(like).shape

    def _decode(self, name: str) -> Tensor:
        return decode_image(self.folder / name, "images", mode=self.mode, size=self.size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        try:
            image = self._decode(self.files[index])
        except (ValueError, OSError) as error:
            raise UndecodableError(str(error)) from None
        if image.shape != self.shape:
            hint = '; mode="RGB" converts them' if image.shape[0] != self.shape[0] else "; size=... resizes all of them"
            raise UndecodableError(
                f"images: {self.folder / self.files[index]} is {describe_shape(image.shape)}, {self.folder / self.like} is "
                f"{describe_shape(self.shape)}; all must agree{hint}"
            )
        return image

    def load(self, cache: Path | None, name: str, *, keep: bool = True) -> Tensor | None:
        """All images ``[N, C, H, W]``.

        They are memory-mapped from a cache if one is asked for or they take more than :data:`IN_MEMORY` bytes.

        Args:
            cache: The cache's folder; by default, where one is needed, :func:`~causalvae_pyro.datasets.cache.cache_folder`.
            name: Part of the name of the cache's file, beside a digest of the images' folder, names, sizes and times.
            keep: Return them; else they are checked only, and cached where they need to be.

        Raises:
            ValueError: If a file cannot be decoded or is of another shape, or the cache is damaged.
            OSError: If the cache cannot be written.
        """
        shape = (len(self), *self.shape)
        if cache is None and torch.Size(shape).numel() <= IN_MEMORY:
            images = torch.empty(shape if keep else (0,), dtype=torch.uint8)
            for index in range(len(self)):
                image = self._checked(index)
                if keep:
                    images[index] = image
            return images if keep else None
        folder = cache_folder(self.folder) if cache is None else cache
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"causalvae_{name}_{self._digest()}.npy"
        if not path.is_file():
            try:
                fill_cache(path, self, self.shape)
            except UndecodableError as error:
                raise ValueError(str(error)) from None
        return open_cache(path, shape, "images") if keep else None

    def _checked(self, index: int) -> Tensor:
        try:
            return self[index]
        except UndecodableError as error:
            raise ValueError(str(error)) from None

    def _digest(self) -> str:
        # Joined as strings: paths take several times as long, and there may be 200,000.
        states = file_states(os.path.join(self.folder, name) for name in self.files)
        return digest(str(self.folder.resolve()), self.mode, self.size, self.files, states)


def describe_shape(shape: Sequence[int]) -> str:
    """``[C, H, W]`` in words."""
    return f"{shape[2]} x {shape[1]} with {shape[0]} channels"
