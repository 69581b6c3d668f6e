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
        sets: The images' groups, where a batch consists of sets of images of one group.
    """

    def __init__(self, count: int, batch_size: int, part: tuple[int, int], sets: GroupSets | None = None) -> None:
        self.count, self.batch_size, self.part, self.sets = count, batch_size, part, sets
        #: So many consecutive rows stay together.
        self.size = 1 if sets is None else sets.size

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.batch_size)
        return whole + (rest >= self.part[1] * self.size)

    def digest(self) -> int:
        """Checksum of the data."""
        return self.count

    def _indices(self, generator: torch.Generator, done: int) -> list[Tensor]:
        """The rows of this process, batch by batch, without those of the epoch's first so many batches."""
        order = torch.randperm(self.count, generator=generator) if self.sets is None else self.sets.order(generator)
        rank, processes = self.part
        batches = order.split(self.batch_size)[done : len(self)]
        return [index.view(-1, self.size).tensor_split(processes)[rank].flatten() for index in batches]


class GroupSets:
    """Orders images such that consecutive rows are sets of images of one group.

    Args:
        groups: The group of each image, ``[N]``.
        size: Images of a set. Of a group whose number of images is no multiple of it, others are left out in each epoch.
    """

    def __init__(self, groups: Tensor, size: int) -> None:
        self.size = size
        self.groups = groups.unique(return_inverse=True)[1].cpu()
        counts = self.groups.bincount()
        #: Images of an epoch.
        self.count = int((counts // size * size).sum())
        # Sorted by group, an image's place within its own.
        place = torch.cat([torch.arange(count) for count in counts.tolist()])
        self.whole = place < (counts // size * size).repeat_interleave(counts)

    def order(self, generator: torch.Generator) -> Tensor:
        """The images of an epoch, ``[count]``."""
        shuffled = torch.randperm(len(self.groups), generator=generator)
        together = shuffled[self.groups[shuffled].argsort(stable=True)][self.whole].view(-1, self.size)
        return together[torch.randperm(len(together), generator=generator)].flatten()


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
        sets: GroupSets | None = None,
    ) -> None:
        self.images = images.to(device)
        self.labels = None if labels is None else labels.to(device=device, dtype=torch.get_default_dtype())
        self.missing = labels is not None and any_missing(labels)
        self.rows = torch.arange(len(images))
        if self.missing:
            labelled = (~labels.isnan()).any(1).nonzero().flatten().cpu()  # type: ignore[union-attr]
            self.rows = torch.cat([self.rows, labelled.repeat(repeats - 1)])
        super().__init__(len(self.rows) if sets is None else sets.count, batch_size, part, sets)

    def digest(self) -> int:
        """Of some of the images and all of the labels."""
        some = self.images[:: max(1, len(self.images) // 16)]
        parts = [some, *([] if self.labels is None else [self.labels]), *([] if self.sets is None else [self.sets.groups])]
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


def parts_of(x: Tensor, labels: Tensor | None, count: int, size: int = 1) -> list[tuple[Tensor, Tensor | None]]:
    """A batch in so many parts, or in as many as it has sets of ``size`` images."""
    rows = torch.arange(len(x)).view(-1, size).tensor_split(min(count, len(x) // size))
    lengths = [part.numel() for part in rows]
    return list(zip(x.split(lengths), [None] * len(lengths) if labels is None else labels.split(lengths), strict=True))


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
    groups: Tensor | None = None,
    group_size: int = 2,
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
        groups: See :func:`~causalvae_pyro.fit`.
        group_size: Images of one group that stay together.

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
    sets = None if groups is None else _sets(groups, group_size, batch_size, part[1], size, images is not None, repeats)
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
    return TensorBatches(images, labels, batch_size, repeats, device, part, sets)


def _sets(groups: Tensor, size: int, batch_size: int, processes: int, images: int, tensors: bool, repeats: int) -> GroupSets:
    """The groups, checked."""
    if not tensors:
        raise ValueError("groups: they are for tensors and simulators only; got a dataset of pairs")
    if not isinstance(groups, Tensor) or tuple(groups.shape) != (images,) or groups.is_floating_point():
        kind = f"{groups.dtype} of shape {list(groups.shape)}" if isinstance(groups, Tensor) else type(groups).__name__
        raise ValueError(f"groups: got {kind}; expected whole numbers of shape [{images}], the group of each image")
    if repeats > 1:
        raise ValueError(f"labelled_repeats: got {repeats}; with groups it must be 1")
    if batch_size % (size * processes):
        raise ValueError(f"batch_size: got {batch_size}; with groups of {size} it must be a multiple of {size * processes}")
    sets = GroupSets(groups, size)
    if not sets.count:
        raise ValueError(f"groups: none has {size} images; there must be one that has")
    return sets
