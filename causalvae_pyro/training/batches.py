"""Shuffled batches of images and labels, from tensors on the device or from a dataset."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from causalvae_pyro.utils.images import check_observations
from causalvae_pyro.utils.missing_labels import any_missing

__all__ = ["LoaderBatches", "TensorBatches", "make_batches", "parts_of"]


class _Batches:
    """Shuffled rows in batches, of which each process has its part.

    Args:
        count: Number of rows.
        batch_size: Rows per batch, of all processes together.
        part: Number of this process and of all. The last batch is dropped if smaller than the number of processes.
    """

    def __init__(self, count: int, batch_size: int, part: tuple[int, int]) -> None:
        self.count, self.batch_size, self.part = count, batch_size, part

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.batch_size)
        return whole + (rest >= self.part[1])

    def digest(self) -> int:
        """Checksum of the data."""
        return self.count

    def _indices(self, generator: torch.Generator, done: int) -> list[Tensor]:
        """The rows of this process, batch by batch, without those of the epoch's first so many batches."""
        order = torch.randperm(self.count, generator=generator)
        rank, processes = self.part
        return [index.tensor_split(processes)[rank] for index in order.split(self.batch_size)[done : len(self)]]


class TensorBatches(_Batches):
    """Shuffled batches by index selection from tensors that stay on the device, uint8 images as uint8."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None,
        batch_size: int,
        repeats: int,
        device: torch.device,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.images = images.to(device)
        self.labels = None if labels is None else labels.to(device=device, dtype=torch.get_default_dtype())
        self.missing = labels is not None and any_missing(labels)
        self.rows = torch.arange(len(images))
        if self.missing:
            labelled = (~labels.isnan()).any(1).nonzero().flatten().cpu()  # type: ignore[union-attr]
            self.rows = torch.cat([self.rows, labelled.repeat(repeats - 1)])
        super().__init__(len(self.rows), batch_size, part)

    def digest(self) -> int:
        """Of some of the images and all of the labels."""
        some = self.images[:: max(1, len(self.images) // 16)]
        parts = [some, *([] if self.labels is None else [self.labels])]
        return zlib.crc32(b"".join(part.cpu().contiguous().view(torch.uint8).numpy().tobytes() for part in parts))

    def __call__(self, generator: torch.Generator, done: int = 0) -> Iterator[tuple[Tensor, Tensor | None, bool]]:
        indices = self._indices(generator, done)
        # All of them at once: each transfer would have to be waited for.
        rows = self.rows[torch.cat(indices)].to(self.images.device) if indices else self.rows[:0]
        for index in rows.split([len(index) for index in indices]):
            yield self.images[index], None if self.labels is None else self.labels[index], self.missing


class LoaderBatches(_Batches):
    """Shuffled batches from a dataset of ``(image, labels)`` pairs."""

    def __init__(
        self,
        data: Dataset,
        batch_size: int,
        device: torch.device,
        part: tuple[int, int] = (0, 1),
        pixels: bool | None = True,
    ) -> None:
        super().__init__(len(data), batch_size, part)  # type: ignore[arg-type]
        self.data, self.device, self.pixels = data, device, pixels
        self.checked = False

    def __call__(self, generator: torch.Generator, done: int = 0) -> Iterator[tuple[Tensor, Tensor | None, bool]]:
        batches = [index.tolist() for index in self._indices(generator, done)]
        # Its own generator: otherwise the loader uses the global one, once an epoch.
        for x, labels in DataLoader(self.data, batch_sampler=batches, generator=torch.Generator()):
            # Before they are on the device, where a test would be a device sync; for images already on one, the first batch only.
            if not self.checked or not isinstance(x, Tensor) or x.device.type == "cpu":
                check_observations(x, self.pixels, "images")
                self.checked = True
            yield x.to(self.device), labels.to(self.device, torch.get_default_dtype()), any_missing(labels)


def parts_of(x: Tensor, labels: Tensor | None, count: int) -> list[tuple[Tensor, Tensor | None]]:
    """A batch in so many parts, or in as many as it has images."""
    count = min(count, len(x))
    return list(zip(x.tensor_split(count), [None] * count if labels is None else labels.tensor_split(count), strict=True))


def _is_dataset(data: Any) -> bool:
    if isinstance(data, Tensor) or (isinstance(data, list) and any(isinstance(part, Tensor) for part in data)):
        # Tensors in a list are indexed as if they were pairs, with a message on their shapes.
        return False
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def make_batches(
    data: Any,
    batch_size: int,
    repeats: int,
    device: torch.device,
    names: Sequence[str] | None,
    part: tuple[int, int] = (0, 1),
    pixels: bool | None = True,
) -> TensorBatches | LoaderBatches:
    """Batches of what :func:`~causalvae_pyro.fit` takes as ``data``: its arguments of the same names.

    Args:
        data: See :func:`~causalvae_pyro.fit`.
        batch_size: Images per batch.
        repeats: ``labelled_repeats``.
        device: Where the batches lie.
        names: Of the label columns; ``None`` for a model without a graph.
        part: Number of this process and of all processes, which share each batch.
        pixels: Whether these are images; see :func:`~causalvae_pyro.utils.images.pixels_of`.

    Returns:
        A callable from a generator, which orders the data, and the number of batches to skip, to an epoch's triples of images
        as they are stored, labels or ``None``, and whether labels may be missing; with a length.

    Raises:
        ValueError: If data or arguments are malformed.
    """
    if isinstance(data, tuple):
        if len(data) != 2 or not isinstance(data[0], Tensor) or not (data[1] is None or isinstance(data[1], Tensor)):
            kinds = ", ".join(type(part).__name__ for part in data)
            raise ValueError(f"data: expected a pair of tensors (images, labels or None), got ({kinds})")
        images, labels = data
    elif getattr(data, "transform", None) is None and hasattr(data, "images") and hasattr(data, "labels"):
        images, labels = data.images, data.labels
    else:
        images = labels = None
    if images is None and not _is_dataset(data):
        raise ValueError(f"data: expected a pair of tensors (images, labels), or a dataset of pairs, got {type(data).__name__}")
    size = len(data) if images is None else len(images)
    if batch_size < part[1]:
        raise ValueError(f"batch_size: got {batch_size} for {part[1]} processes; must be at least 1 for each")
    if batch_size > size:
        raise ValueError(f"batch_size: got {batch_size}, the data has {size} images; must be at most that")
    if images is None:
        if repeats > 1:
            raise ValueError(f"labelled_repeats: got {repeats}, but which images have labels is known of tensors only; must be 1")
        return LoaderBatches(data, batch_size, device, part, pixels)
    check_observations(images, pixels, "images")
    if labels is not None:
        expected = [size, labels.shape[-1] if names is None else len(names)]
        if list(labels.shape) != expected:
            raise ValueError(f"labels: expected shape {expected} (images x concepts), got {list(labels.shape)}")
        if bool(labels.isinf().any()):
            row, column = labels.isinf().nonzero()[0].tolist()
            value = labels[row, column].item()
            raise ValueError(f"labels: got {value} in row {row}, column {column}; must be finite, or NaN where missing")
        for i, count in enumerate((~labels.isnan()).sum(0).tolist()):
            if count < min(2, size):
                name = f"in column {i}" if names is None else repr(names[i])
                raise ValueError(f"labels: the concept {name} has {count} of them; each concept takes at least 2")
    return TensorBatches(images, labels, batch_size, repeats, device, part)
