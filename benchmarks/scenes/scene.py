"""What a scene is, and its images as a data set with true counterfactuals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from causalvae_pyro.graph import CausalGraph

__all__ = ["Mechanism", "Scene", "SceneData", "follows", "uniform"]

#: From the values of a concept's causes, each ``[N]``, and its noise ``[N]`` in [0, 1) to its values ``[N]``.
Mechanism = Callable[[Mapping[str, NDArray], NDArray], NDArray]


def uniform(low: float, high: float) -> Mechanism:
    """A root between two values."""
    return lambda causes, noise: low + (high - low) * noise


def follows(function: Callable[..., NDArray], spread: float) -> Mechanism:
    """A child: a function of its causes, by their names, plus noise that spans ``spread``."""
    return lambda causes, noise: function(**causes) + spread * (noise - 0.5)


@dataclass(frozen=True)
class Scene:
    """A structural causal model and what it looks like.

    Attributes:
        graph: Over the concepts.
        mechanisms: One for each concept.
        draw: From the concepts' values, the image's own noise ``[own]`` in [0, 1) and a side in pixels to the picture
            ``[side, side, C]`` in [0, 1].
        must: The CF-score that each concept has to reach.
        own: Numbers of noise that no concept describes.
        kinds: How many kinds there are of the concepts that are categories, by name.
    """

    graph: CausalGraph
    mechanisms: Mapping[str, Mechanism]
    draw: Callable[[Mapping[str, float], NDArray, int], NDArray]
    must: float
    own: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)

    def values(self, noise: NDArray, do: Mapping[str, NDArray] | None = None) -> NDArray:
        """Values ``[N, n]`` of all concepts from their noise ``[N, n]``, under interventions."""
        found: dict[str, NDArray] = {}
        for name in self.graph.order:
            causes = {cause: found[cause] for cause in self.graph.parents(name)}
            own = self.mechanisms[name](causes, noise[:, self.graph.index(name)])
            found[name] = np.broadcast_to((do or {}).get(name, own), own.shape)
        return np.stack([found[name] for name in self.graph.names], 1)


class SceneData:
    """Images of a scene, with the protocol of :class:`causalvae_pyro.evaluation.data.CounterfactualData`.

    Args:
        scene: The scene.
        count: Number of images.
        seed: Of all noise.
        size: Side in pixels.

    Attributes:
        images: ``[N, C, size, size]`` uint8.
        labels: ``[N, n]`` float32.
    """

    def __init__(self, scene: Scene, count: int, seed: int, size: int = 64) -> None:
        self.scene, self.size, self.graph = scene, size, scene.graph
        noise = np.random.default_rng(seed).random((count, len(scene.graph) + scene.own))
        self._noise, self._own = noise[:, : len(scene.graph)], noise[:, len(scene.graph) :]
        values = scene.values(self._noise)
        self.labels = torch.tensor(values, dtype=torch.float32)
        self.images = self._draw(values, self._own)
        # One concept at least is continuous: labels tell which image they belong to, and so its noise.
        self._rows = {row.tobytes(): i for i, row in enumerate(self.labels.numpy())}
        if len(self._rows) < count:
            raise ValueError(f"count: got {count}; two of the images have equal labels with seed {seed}: fewer, or another seed")

    def counterfactual(self, labels: Tensor, do: Mapping[str, float | Tensor]) -> tuple[Tensor, Tensor]:
        """True counterfactual labels ``[N, n]`` and images in [0, 1], with all noise kept, of images of this data set.

        Args:
            labels: The images' labels ``[N, n]``.
            do: For each concept set, a number or ``[N]``.
        """
        rows = [self._rows[row.tobytes()] for row in labels.float().numpy()]
        values = self.scene.values(self._noise[rows], {name: np.asarray(value, float) for name, value in do.items()})
        return torch.tensor(values, dtype=torch.float32), self._draw(values, self._own[rows]).float() / 255

    def _draw(self, values: NDArray, own: NDArray) -> Tensor:
        names = self.graph.names
        pictures = [self.scene.draw(dict(zip(names, v, strict=True)), o, self.size) for v, o in zip(values, own, strict=True)]
        array = np.clip(np.stack(pictures), 0, 1)
        return torch.from_numpy((array * 255).round().astype(np.uint8)).movedim(-1, 1).contiguous()
