"""The common part of the image simulators: structural causal models that render their samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from causalvae_pyro.datasets.labelled_images import LabelledImages
from causalvae_pyro.datasets.structural import abduct_noise, check_do, complete, counterfactual_values

__all__ = ["ImageSimulator"]

PARTITIONS = ("iid", "grid", "compositional")
SPLITS = ("train", "test", "all")
_CHUNK = 64


class ImageSimulator(LabelledImages):
    """Labelled images of a scene whose labels follow known mechanisms, so that true counterfactuals can be rendered.

    A subclass names its graph, the grid of its root concepts, the mechanism of each child and how a scene is rendered. All
    images are rendered into memory (uint8) when the object is made; no file is read or written.

    Args:
        split: ``"train"``, ``"test"`` or ``"all"``.
        transform: Optional callable on the float image ``[3, size, size]`` that indexing returns.
        partition: How train and test scenes are told apart: ``"iid"`` (random, 80 / 20), ``"grid"`` (every fifth scene
            is a test scene, as in the paper: test scenes are neighbours of training scenes), ``"compositional"`` (whole
            regions of label combinations are held out).
        size: Height and width of the images in pixels.
        noise: Exogenous noise added to each child's mechanism, in standard deviations of that child's label; 0 makes
            the children deterministic, as published.
        seed: Fixes the random split and the mechanism noise.

    Attributes:
        images: ``[N, 3, size, size]`` uint8.
        labels: ``[N, n]`` float32, in the simulator's own units.
        concepts: The names of the labels' columns.
        graph: The true :class:`~causalvae_pyro.CausalGraph`.

    Raises:
        ValueError: If ``split`` or ``partition`` is unknown, ``size`` is below 8 or ``noise`` is negative.
    """

    #: Unit of each label, for axes and tables.
    units: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        split: str = "train",
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        partition: str = "iid",
        size: int = 64,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: got {split!r}; valid: {list(SPLITS)}")
        if partition not in PARTITIONS:
            raise ValueError(f"partition: got {partition!r}; valid: {list(PARTITIONS)}")
        if size < 8:
            raise ValueError(f"size: got {size}; images need at least 8 pixels a side")
        if not 0 <= noise < float("inf"):
            raise ValueError(f"noise: got {noise}; must be finite and >= 0")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed: got {seed}; must lie in [0, 2**32)")
        self.split, self.partition, self.size, self.noise, self.seed = split, partition, size, noise, seed
        self.transform = transform
        labels = self.published_labels()
        index = self._select(labels)
        labels = self._disturb(labels, torch.Generator().manual_seed(seed))
        self.labels = labels[index].float()
        self.images = self.render_uint8(self.labels, size)

    # What a simulator has to define ------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def published_labels(cls) -> Tensor:
        """Labels of all published scenes without mechanism noise, ``[N, n]`` float64, in published order."""

    @classmethod
    @abstractmethod
    def root_ranges(cls) -> Mapping[str, tuple[float, float]]:
        """The interval of each root concept."""

    @classmethod
    @abstractmethod
    def mechanism(cls, name: str, parents: Mapping[str, Tensor]) -> Tensor:
        """The noiseless value of child ``name`` for its parents' values, each ``[N]``."""

    @classmethod
    @abstractmethod
    def draw(cls, labels: Tensor, size: int) -> Tensor:
        """Draws ``[N, n]`` labels as ``[N, 3, size, size]`` images in [0, 1]."""

    @classmethod
    @abstractmethod
    def file_name_labels(cls, labels: Tensor) -> Tensor:
        """What the authors' files are named after, and their code reads back: whole numbers, cut off or counted.

        Args:
            labels: Of published scenes, ``[..., n]``.

        Returns:
            ``[..., n]`` float64, all of them whole.
        """

    @classmethod
    def exogenous(cls, name: str, count: int, generator: torch.Generator) -> Tensor:
        """Samples the noise that child ``name`` has in the published data already, ``[count]`` float64; none by default."""
        return torch.zeros(count, dtype=torch.float64)

    # What follows from it ----------------------------------------------------------------------------------------

    @classmethod
    def label_std(cls) -> Tensor:
        """Standard deviation of each label over the published grid, ``[n]`` float64: the unit of ``noise``."""
        return cls.published_labels().std(0)

    @classmethod
    def label_range(cls) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each label over the published grid, ``([n], [n])`` float64."""
        labels = cls.published_labels()
        return labels.amin(0), labels.amax(0)

    @classmethod
    def render(cls, labels: Tensor, size: int = 96) -> Tensor:
        """Draws scenes.

        Args:
            labels: ``[N, n]`` in the simulator's units, on any device. They need not obey the mechanisms.
            size: Height and width in pixels.

        Returns:
            ``[N, 3, size, size]`` float images in [0, 1] on the labels' device.

        Raises:
            ValueError: If the labels have another shape or hold a value that is not finite.
        """
        labels = cls._check_labels(labels)
        if not len(labels):
            return labels.new_zeros(0, 3, size, size)
        return torch.cat([cls.draw(chunk, size) for chunk in labels.split(_CHUNK)])

    @classmethod
    def render_uint8(cls, labels: Tensor, size: int = 96) -> Tensor:
        """As :meth:`render`, rounded to uint8 with a quarter of the memory."""
        labels = cls._check_labels(labels)
        out = torch.empty(len(labels), 3, size, size, dtype=torch.uint8, device=labels.device)
        for target, chunk in zip(out.split(_CHUNK), labels.split(_CHUNK), strict=True):
            if len(chunk):
                target.copy_(cls.draw(chunk, size).mul_(255).round_())
        return out

    def simulate(self, num_samples: int, *, seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Samples fresh scenes from the causal model, off the published grid.

        Roots are uniform over their ranges; children follow the mechanisms with this object's ``noise``.

        Returns:
            Labels ``[num_samples, n]`` float32 and images ``[num_samples, 3, size, size]`` in [0, 1].
        """
        generator = torch.Generator().manual_seed(self.seed + 1 if seed is None else seed)
        labels = torch.zeros(num_samples, len(self.graph), dtype=torch.float64)
        for name, (low, high) in self.root_ranges().items():
            labels[:, self.graph.index(name)] = low + (high - low) * torch.rand(
                num_samples, generator=generator, dtype=torch.float64
            )
        for name in self.graph.children:
            labels[:, self.graph.index(name)] = self.exogenous(name, num_samples, generator)
        labels = self._disturb(complete(self.graph, self.mechanism, labels), generator).float()
        return labels, self.render(labels, self.size)

    def counterfactual(self, labels: Tensor, do: Mapping[str, float | Tensor]) -> tuple[Tensor, Tensor]:
        """The true counterfactual: abduct the mechanisms' noise, set the intervened labels, recompute the descendants.

        Args:
            labels: Factual labels ``[N, n]``.
            do: For each intervened concept a number or a tensor ``[N]``, in the label's unit.

        Returns:
            The counterfactual labels ``[N, n]`` and images ``[N, 3, size, size]`` in [0, 1].

        Raises:
            ValueError: If ``do`` names an unknown concept, or a value has a wrong shape or is not finite.

        Example:
            >>> data = Pendulum("test", size=16)
            >>> labels, images = data.counterfactual(data.labels[:5], {"light": 12.0})
            >>> labels[:, 1].tolist(), images.shape
            ([12.0, 12.0, 12.0, 12.0, 12.0], torch.Size([5, 3, 16, 16]))
        """
        labels = self._check_labels(labels)
        check_do(self.graph, do, len(labels))
        result = labels.clone()
        if do:
            result = counterfactual_values(self.graph, self.mechanism, labels.double(), do).to(labels.dtype)
        return result, self.render(result, self.size)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(split={self.split!r}, partition={self.partition!r}, size={self.size}, "
            f"noise={self.noise}, seed={self.seed}: {len(self)} images)"
        )

    # Details -----------------------------------------------------------------------------------------------------

    def _disturb(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        if self.noise == 0:
            return labels
        draws = torch.randn(labels.shape, generator=generator, dtype=torch.float64) * (self.noise * self.label_std())
        draws[:, [self.graph.index(name) for name in self.graph.roots]] = 0
        return complete(self.graph, self.mechanism, abduct_noise(self.graph, self.mechanism, labels) + draws)

    def _select(self, labels: Tensor) -> Tensor:
        count = len(labels)
        if self.split == "all":
            return torch.arange(count)
        if self.partition == "iid":
            test = torch.zeros(count, dtype=torch.bool)
            test[torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))[: count // 5]] = True
        elif self.partition == "grid":
            test = torch.arange(count) % 5 == 4
        else:
            test = self._held_out_region(labels)
        return (test if self.split == "test" else ~test).nonzero().squeeze(1)

    def _held_out_region(self, labels: Tensor) -> Tensor:
        # Both corners of the first two roots' square where the two are jointly low or jointly high: every single value
        # still occurs in training, the combinations do not.
        first, second = (labels[:, self.graph.index(name)] for name in self.graph.roots[:2])
        thirds = torch.tensor([1 / 3, 2 / 3], dtype=labels.dtype)
        low = (first < first.quantile(thirds[0])) & (second < second.quantile(thirds[0]))
        high = (first > first.quantile(thirds[1])) & (second > second.quantile(thirds[1]))
        return low | high

    @classmethod
    def _check_labels(cls, labels: Tensor) -> Tensor:
        labels = torch.as_tensor(labels)
        if not labels.is_floating_point():
            labels = labels.float()
        if labels.ndim != 2 or labels.shape[1] != len(cls.graph):
            raise ValueError(
                f"labels: expected shape [N, {len(cls.graph)}] for {list(cls.graph.names)}, got {list(labels.shape)}"
            )
        if not torch.isfinite(labels).all():
            raise ValueError("labels: got a value that is not finite")
        return labels
