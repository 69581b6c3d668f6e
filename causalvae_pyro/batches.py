"""Shuffled batches of images and labels, from tensors on the device or from a dataset."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from causalvae_pyro.missing import any_missing

__all__ = ["LoaderBatches", "TensorBatches", "make_batches"]


class TensorBatches:
    """Shuffled batches by index selection from tensors that stay on the device, uint8 images as uint8."""

    def __init__(self, images: Tensor, labels: Tensor | None, batch_size: int, repeats: int, device: torch.device) -> None:
        self.images = images.to(device)
        self.labels = None if labels is None else labels.to(device=device, dtype=torch.get_default_dtype())
        self.batch_size = batch_size
        self.missing = labels is not None and any_missing(labels)
        self.rows = torch.arange(len(images))
        if self.missing:
            labelled = (~labels.isnan()).any(1).nonzero().flatten().cpu()  # type: ignore[union-attr]
            self.rows = torch.cat([self.rows, labelled.repeat(repeats - 1)])

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __call__(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None, bool]]:
        order = self.rows[torch.randperm(len(self.rows), generator=generator)].to(self.images.device)
        for index in order.split(self.batch_size):
            x = self.images[index]
            x = x.to(torch.get_default_dtype()).div_(255) if x.dtype == torch.uint8 else x
            yield x, None if self.labels is None else self.labels[index], self.missing


class LoaderBatches:
    """Shuffled batches from a dataset of ``(image, labels)`` pairs."""

    def __init__(self, data: Dataset, batch_size: int, device: torch.device) -> None:
        self.data, self.batch_size, self.device = data, batch_size, device

    def __len__(self) -> int:
        return math.ceil(len(self.data) / self.batch_size)  # type: ignore[arg-type]

    def __call__(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor | None, bool]]:
        for x, labels in DataLoader(self.data, self.batch_size, shuffle=True, generator=generator):
            # Before they are on the device, where a look would have to wait.
            yield x.to(self.device), labels.to(self.device, torch.get_default_dtype()), any_missing(labels)


def make_batches(data: Any, batch_size: int, repeats: int, device: torch.device, graph: Any) -> TensorBatches | LoaderBatches:
    """Batches of what :func:`~causalvae_pyro.fit` takes as ``data``: its arguments of the same names.

    Args:
        data: See :func:`~causalvae_pyro.fit`.
        batch_size: Images per batch.
        repeats: ``labelled_repeats``.
        device: Where the batches lie.
        graph: The model's graph, for the number of labels and their names in errors; ``None`` for a model without.

    Returns:
        A callable from a generator, which orders the data, to an epoch's triples of images, labels or ``None``, and
        whether labels may be missing; with a length.

    Raises:
        ValueError: If data or arguments are malformed.
    """
    if isinstance(data, tuple):
        images, labels = data
    elif getattr(data, "transform", None) is None and hasattr(data, "images") and hasattr(data, "labels"):
        images, labels = data.images, data.labels
    else:
        images = labels = None
    size = len(data) if images is None else len(images)
    if batch_size > size:
        raise ValueError(f"batch_size: got {batch_size}, the data has {size} images; must be at most that")
    if images is None:
        if repeats > 1:
            raise ValueError(f"labelled_repeats: got {repeats}, but which images have labels is known of tensors only; must be 1")
        return LoaderBatches(data, batch_size, device)
    if images.ndim != 4:
        raise ValueError(f"images: expected shape [N, C, H, W], got {list(images.shape)}")
    if images.dtype != torch.uint8 and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(
            f"images: pixels must lie in [0, 1] or be uint8, got {images.min().item():.4g} to {images.max().item():.4g}"
        )
    if labels is not None:
        expected = [size, labels.shape[-1] if graph is None else len(graph)]
        if list(labels.shape) != expected:
            raise ValueError(f"labels: expected shape {expected} (images x concepts), got {list(labels.shape)}")
        if bool(labels.isinf().any()):
            row, column = labels.isinf().nonzero()[0].tolist()
            value = labels[row, column].item()
            raise ValueError(f"labels: got {value} in row {row}, column {column}; must be finite, or NaN where missing")
        for i, count in enumerate((~labels.isnan()).sum(0).tolist()):
            if count < min(2, size):
                name = f"in column {i}" if graph is None else repr(graph.names[i])
                raise ValueError(f"labels: the concept {name} has {count} of them; each concept takes at least 2")
    return TensorBatches(images, labels, batch_size, repeats, device)
