"""The loss of images that training does not see."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import torch
from torch import Tensor

from causalvae_pyro.training.batches import LoaderBatches, TensorBatches, parts_of
from causalvae_pyro.training.objective import Objective
from causalvae_pyro.utils.images import scale_observations
from causalvae_pyro.utils.missing_labels import declare_missing
from causalvae_pyro.utils.modes import evaluation_mode
from causalvae_pyro.utils.pyro_lock import one_at_a_time
from causalvae_pyro.utils.random_state import kept_rng_state

__all__ = ["PREFIX", "Validation"]

#: Of the history's columns that are of these images.
PREFIX = "validation_"


class Validation:
    """Loss and terms on held-out images, in evaluation mode and without gradients.

    Order and random numbers are the same each time, so that epochs differ by their weights alone; the training's own random
    numbers stay as they were.

    Args:
        loss: The loss.
        batches: The images.
        pixels: Whether they are images; see :func:`~causalvae_pyro.utils.images.pixels_of`.
        parts: In so many parts a batch goes through the networks.
        seed: Of the order and the random numbers.
        device: Where the pair is.
        total: Sums a tensor over all processes.
    """

    def __init__(
        self,
        loss: Objective,
        batches: TensorBatches | LoaderBatches,
        *,
        pixels: bool | None,
        parts: int,
        seed: int,
        device: torch.device,
        total: Callable[[Tensor], Tensor] = lambda t: t,
    ) -> None:
        self.loss, self.batches, self.pixels, self.parts = loss, batches, pixels, parts
        self.seed, self.device, self.total = seed, device, total

    @one_at_a_time
    def columns(self) -> dict[str, float]:
        """Means per image: ``validation_loss``, and ``validation_`` with each term's name."""
        names: list[str] = []
        found: list[Tensor] = []
        images = 0
        with kept_rng_state(self.device), evaluation_mode(self.loss), torch.no_grad(), pyro.validation_enabled(False):
            pyro.set_rng_seed(self.seed)
            for batch, labels, missing in self.batches(torch.Generator().manual_seed(self.seed)):
                for x, known in parts_of(batch, labels, self.parts):
                    with declare_missing(missing):
                        value = self.loss(scale_observations(x, self.pixels, dtype=torch.get_default_dtype()), known)
                    terms = {"loss": value, **getattr(self.loss.objective, "last_terms", {})}
                    names = list(terms)
                    found.append(torch.stack(list(terms.values())))
                    images += len(x)
        sums = torch.stack(found).cpu().double().sum(0)
        means = self.total(sums) / self.total(sums.new_tensor([images]))
        return {PREFIX + name: mean for name, mean in zip(names, means.tolist(), strict=True)}
