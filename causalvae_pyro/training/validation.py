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

    def check(self) -> None:
        """Takes one image through it, so that what cannot be scored shows before the training.

        Raises:
            ValueError: If it cannot.
        """
        try:
            self._sums(most=1)
        except ValueError as error:
            # Pyro adds the shapes of all sites.
            raise ValueError(f"validation: {str(error).partition(chr(10))[0]}") from None

    def columns(self) -> dict[str, float]:
        """Means per image: ``validation_loss``, and ``validation_`` with each term's name."""
        names, sums, images = self._sums()
        means = self.total(sums) / self.total(sums.new_tensor([images]))
        return {PREFIX + name: mean for name, mean in zip(names, means.tolist(), strict=True)}

    @one_at_a_time
    def _sums(self, most: int | None = None) -> tuple[list[str], Tensor, int]:
        """Loss and terms, their sums over all images, or the first batch's first ones, and how many these are."""
        names: list[str] = []
        found: list[Tensor] = []
        images = 0
        with kept_rng_state(self.device), evaluation_mode(self.loss), torch.no_grad(), pyro.validation_enabled(False):
            pyro.set_rng_seed(self.seed)
            for batch, labels, missing in self.batches(torch.Generator().manual_seed(self.seed)):
                for x, known in parts_of(
                    batch[:most], None if labels is None else labels[:most], self.parts if most is None else 1
                ):
                    with declare_missing(missing):
                        value = self.loss(scale_observations(x, self.pixels, dtype=torch.get_default_dtype()), known)
                    terms = {"loss": value, **getattr(self.loss.objective, "last_terms", {})}
                    names = list(terms)
                    found.append(torch.stack(list(terms.values())))
                    images += len(x)
                if most is not None:
                    break
        return names, torch.stack(found).cpu().double().sum(0), images
