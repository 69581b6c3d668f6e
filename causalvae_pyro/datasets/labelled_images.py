"""What the image data sets share: images and labels in memory, and how they are indexed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.data import Dataset

from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.utils.images import scale_images

__all__ = ["LabelledImages"]


class LabelledImages(Dataset):
    """Images with one column of labels for each concept of a graph. Indexing gives a float image in [0, 1] and its labels.

    Attributes:
        images: ``[N, C, H, W]`` uint8.
        labels: ``[N, n]``.
        graph: The causal graph of the concepts.
        transform: Optional callable on the float image ``[C, H, W]`` that indexing returns.
    """

    images: Tensor
    labels: Tensor
    graph: CausalGraph
    transform: Callable[[Tensor], Tensor] | None

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names of the labels' columns."""
        return self.graph.names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = scale_images(self.images[index])
        return (self.transform(image) if self.transform else image), self.labels[index]
