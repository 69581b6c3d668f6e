"""Questions about one image and their answers: what the page shows, without the page.

Abduction is done once for an image, so that the answer to a moved slider costs one pass through the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.evaluation.data import check_kinds, has_truth
from causalvae_pyro.explore.concepts import Concept, concept_of
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.interventions.abduction import NOISE_SITES
from causalvae_pyro.interventions.actions import InterventionSet
from causalvae_pyro.interventions.counterfactuals import abduct, abduct_pixels, predict
from causalvae_pyro.interventions.pixels import FADE, FadingNoise
from causalvae_pyro.plots.style import units_of
from causalvae_pyro.utils.images import as_images
from causalvae_pyro.utils.label_columns import one_label_each
from causalvae_pyro.utils.random_state import kept_rng_state

__all__ = ["Answer", "Explorer", "Factual", "Uncertainty"]

#: A concept counts as moved from this share of its range on: less is not visible in an image.
MOVED = 0.005


@dataclass(frozen=True)
class Factual:
    """An image and what abduction says about it.

    Attributes:
        image: ``[C, H, W]`` in [0, 1].
        reconstruction: The decoder's mean at the posterior mean, ``[C, H, W]``.
        concepts: Values read from the image, in label units, by name; empty where the prior cannot read labels.
        labels: Its true labels ``[n]`` in the order of the data; ``None`` for an uploaded image.
        source: The index of a test image, or the file name of an uploaded image.
        noise: The exogenous noise at the posterior mean, ``[1, ...]`` for each site.
        detail: What the decoder leaves out, as pixel noise; ``None`` where the likelihood has no location and scale.
    """

    image: Tensor
    reconstruction: Tensor
    concepts: Mapping[str, float]
    labels: Tensor | None
    source: int | str
    noise: Mapping[str, Tensor]
    detail: FadingNoise | None = None


@dataclass(frozen=True)
class Uncertainty:
    """How far counterfactuals of posterior samples lie apart.

    Attributes:
        image: Standard deviation of each pixel, ``[H, W]``, root mean square over the channels.
        concepts: Standard deviation of each concept after the intervention, in label units, by name.
        samples: Number of posterior samples.
    """

    image: Tensor
    concepts: Mapping[str, float]
    samples: int


@dataclass(frozen=True)
class Answer:
    """A counterfactual and what belongs to it.

    Attributes:
        do: The interventions, in label units.
        image: The counterfactual ``[C, H, W]``.
        concepts: Values after the intervention, in label units, by name; empty where the prior cannot read labels.
        moved: Concepts that are not intervened on and have changed by at least 0.5 % of their range, in index order.
        true_image: The true counterfactual ``[C, H, W]``; ``None`` where the data cannot provide it.
        true_concepts: True values after the intervention by name; empty where unknown.
        uncertainty: ``None`` where it was not asked for.
    """

    do: Mapping[str, float]
    image: Tensor
    concepts: Mapping[str, float]
    moved: tuple[str, ...]
    true_image: Tensor | None = None
    true_concepts: Mapping[str, float] | None = None
    uncertainty: Uncertainty | None = None


class Explorer:
    """Answers what images would have looked like, one image at a time and fast enough to follow a slider.

    Args:
        run: The trained pair.
        data: Test images with ``images``, ``labels`` and ``graph``; one with ``counterfactual`` gives the truth too, one with
            ``units`` the units of the labels, which else are those that the run knows.
        samples: Posterior samples behind an :class:`Uncertainty`, at least 2.
        seed: Of these samples; they are the same for every question about an image.

    Raises:
        ValueError: If an argument is out of range, the data have other concepts than the run, or the label of one of them
            does not vary.

    Example:
        >>> explorer = Explorer(load("pendulum"), Pendulum("test"))
        >>> answer = explorer.answer(explorer.test_image(17), {"light": 12.0})
    """

    def __init__(self, run: Run, data: Any, *, samples: int = 16, seed: int = 0) -> None:
        if samples < 2:
            raise ValueError(f"samples: got {samples}; a standard deviation takes at least 2")
        one_label_each(run.model.prior, "the live page")
        if set(run.graph.names) != set(data.graph.names):
            raise ValueError(f"data: has the concepts {list(data.graph.names)}, the run has {list(run.graph.names)}")
        check_kinds(run, data)
        self.run, self.data, self.samples, self.seed = run, data, samples, seed
        # The run may hold the concepts in another order than the data.
        self._order = [data.graph.index(name) for name in run.graph.names]
        units = units_of(data) or run.units
        self.concepts = tuple(concept_of(data, name, units.get(name, "")) for name in run.graph.names)
        self._drawn: tuple[Factual, dict[str, Tensor]] | None = None

    @property
    def graph(self) -> CausalGraph:
        """The run's causal graph."""
        return self.run.graph

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        channels, height, width = self.data.images.shape[1:]
        return channels, height, width

    @property
    def in_order(self) -> bool:
        """Whether the run holds the concepts in the order of the data."""
        return self.run.graph.names == self.data.graph.names

    @property
    def has_truth(self) -> bool:
        """Whether the data provide true counterfactuals."""
        return has_truth(self.data)

    def __len__(self) -> int:
        """Number of test images."""
        return len(self.data.labels)

    def concept(self, name: str) -> Concept:
        """A concept by its name."""
        return self.concepts[self.graph.index(name)]

    def test_image(self, index: int) -> Factual:
        """A test image and its abduction.

        Args:
            index: From 0 to ``len(self) - 1``.

        Raises:
            ValueError: If there is no such image.
        """
        if not 0 <= index < len(self):
            raise ValueError(f"index: got {index}; the test images are 0 to {len(self) - 1}")
        return self._abduct(self.data.images[index], self.data.labels[index], index)

    def own_image(self, image: Tensor, name: str) -> Factual:
        """An image from elsewhere and its abduction.

        Args:
            image: ``[C, H, W]``, uint8 or in [0, 1], of the shape of the test images; see
                :func:`~causalvae_pyro.explore.read_image`.
            name: Name of its file.

        Raises:
            ValueError: If it has another shape, or pixels out of range.
        """
        if tuple(image.shape) != self.shape:
            raise ValueError(f"image: expected shape {list(self.shape)}, got {list(image.shape)}")
        return self._abduct(image, None, name)

    def answer(self, factual: Factual, do: Mapping[str, float], *, uncertainty: bool = False, detail: bool = False) -> Answer:
        """The counterfactual of an image.

        Args:
            factual: From :meth:`test_image` or :meth:`own_image`.
            do: Concept to value, in label units; empty: the reconstruction.
            uncertainty: Find out how far posterior samples lie apart, which takes as many passes as there are samples.
            detail: Keep what the decoder leaves out, wherever the image stays as it was.

        Raises:
            ValueError: If a concept is unknown or a value is no finite number.
        """
        action = InterventionSet.from_do(self.run.model, do, 1)
        image, concepts = self._predict(action, factual.noise, factual.detail if detail else None)
        spread = None
        if uncertainty:
            images, values = self._samples(action, factual)
            deviations = {name: column.std().item() for name, column in values.items()}
            spread = Uncertainty(images.var(0).mean(0).sqrt(), deviations, self.samples)
        true_image, true_concepts = self._truth(factual, do)
        moved = tuple(
            c.name
            for c in self.concepts
            if c.name not in do and concepts and abs(concepts[c.name] - factual.concepts[c.name]) >= MOVED * (c.high - c.low)
        )
        return Answer(dict(do), image, concepts, moved, true_image, true_concepts, spread)

    def answer_all(
        self, factual: Factual, do: Mapping[str, float | Tensor], count: int, *, detail: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The counterfactuals of an image under several values, in one pass.

        Args:
            factual: From :meth:`test_image` or :meth:`own_image`.
            do: Concept to value or values ``[count]``, in label units.
            count: How many.
            detail: See :meth:`answer`.

        Returns:
            The images ``[count, C, H, W]``, and the true ones where the data draw them.

        Raises:
            ValueError: See :meth:`answer`.
        """
        action = InterventionSet.from_do(self.run.model, do, count)
        noise = {name: v.expand(count, *v.shape[1:]) if name in NOISE_SITES else v for name, v in factual.noise.items()}
        images, _ = self._predict_all(action, noise, factual.detail if detail else None)
        if factual.labels is None or not self.has_truth or hasattr(self.data, "counterfactual_targets"):
            return images, None
        return images, self.data.counterfactual(factual.labels.expand(count, -1), do)[1]

    def _abduct(self, image: Tensor, labels: Tensor | None, source: int | str) -> Factual:
        image = as_images(image[None], "image")[0]
        x, given = self._inputs(image, labels)
        noise = abduct(self.run.guide, x, given)
        reconstruction, concepts = self._predict(InterventionSet.from_do(self.run.model, {}, 1), noise)
        detail = None
        with suppress(ValueError):
            detail = FadingNoise(abduct_pixels(self.run.model, noise, x), reconstruction[None].to(x.device), FADE)
        return Factual(image, reconstruction, concepts, labels, source, noise, detail)

    def _inputs(self, image: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        device = self.run.model.zero.device
        return image[None].to(device), None if labels is None else labels[None, self._order].to(device)

    def _predict(
        self, action: InterventionSet, noise: Mapping[str, Tensor], detail: FadingNoise | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        images, values = self._predict_all(action, noise, detail)
        return images[0], {name: column[0].item() for name, column in values.items()}

    def _predict_all(
        self, action: InterventionSet, noise: Mapping[str, Tensor], detail: FadingNoise | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        nodes: Any = predict(action.apply(self.run.model), noise, pixel_noise=False if detail is None else detail).nodes
        images = nodes["x_mean" if detail is None else "x"]["value"].cpu()
        images, z = images if detail is None else images.clamp(0, 1), nodes["z"]["value"]
        prior = self.run.model.prior
        if not hasattr(prior, "to_labels"):
            return images, {}
        with torch.no_grad():
            labels = prior.to_labels(z).cpu()
        return images, dict(zip(self.graph.names, labels.unbind(-1), strict=True))

    def _samples(self, action: InterventionSet, factual: Factual) -> tuple[Tensor, dict[str, Tensor]]:
        if self._drawn is None or self._drawn[0] is not factual:
            device = self.run.model.zero.device
            with kept_rng_state(device):
                torch.manual_seed(self.seed)
                noise = abduct(self.run.guide, *self._inputs(factual.image, factual.labels), num_samples=self.samples)
            self._drawn = factual, {name: value.flatten(0, 1) for name, value in noise.items()}
        return self._predict_all(action.select(slice(0, 1), self.samples), self._drawn[1])

    def _truth(self, factual: Factual, do: Mapping[str, float]) -> tuple[Tensor | None, dict[str, float] | None]:
        if factual.labels is None or not self.has_truth:
            return None, None
        if hasattr(self.data, "counterfactual_targets"):
            return self._found(factual, do)
        labels, images = self.data.counterfactual(factual.labels[None], do)
        return images[0], dict(zip(self.data.graph.names, labels[0].tolist(), strict=True))

    def _found(self, factual: Factual, do: Mapping[str, float]) -> tuple[Tensor | None, dict[str, float] | None]:
        """The truth where it is another image of the data: there may be none with these labels."""
        index = int(factual.source)
        labels = self.data.counterfactual_labels(factual.labels[None], do)  # type: ignore[index]
        candidates = torch.cat([self.data.counterfactual_targets(index), torch.tensor([index])])
        same = candidates[(self.data.labels[candidates] == labels).all(1)]
        if not len(same):
            return None, None
        return as_images(self.data.images[same[:1]])[0], dict(zip(self.data.graph.names, labels[0].tolist(), strict=True))
