"""Running statistics of batch normalisation, found anew for weights that no training step has seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import pyro.poutine as poutine
import torch
from torch import nn

from causalvae_pyro.training.batches import LoaderBatches, TensorBatches, parts_of
from causalvae_pyro.utils.compat import BatchNorm
from causalvae_pyro.utils.images import pixels_of, scale_observations
from causalvae_pyro.utils.missing_labels import declare_missing
from causalvae_pyro.utils.modes import evaluation_mode
from causalvae_pyro.utils.pyro_lock import one_at_a_time
from causalvae_pyro.utils.random_state import kept_rng_state

__all__ = ["BatchStatistics"]


class BatchStatistics:
    """The running means and variances of a pair's batch normalisation.

    They are of the activations that the weights of the last steps gave. An average of the weights gives others.

    Args:
        model: The model.
        guide: Its guide.
        batches: The training data.
        parts: In so many parts a batch goes through the networks.
        device: Where the pair is.

    Source: Izmailov et al. 2018, who recompute them for averaged weights.
    """

    def __init__(
        self, model: nn.Module, guide: nn.Module, batches: TensorBatches | LoaderBatches, parts: int, device: torch.device
    ) -> None:
        self.model, self.guide, self.batches, self.parts, self.device = model, guide, batches, parts, device
        found = (module for root in (model, guide) for module in root.modules())
        self.layers = [layer for layer in dict.fromkeys(found) if isinstance(layer, BatchNorm) and layer.track_running_stats]

    @contextmanager
    def recomputed(self) -> Iterator[None]:
        """Those of the present weights, for a while."""
        kept = [{name: value.clone() for name, value in layer.named_buffers()} for layer in self.layers]
        try:
            self.recompute()
            yield
        finally:
            for layer, buffers in zip(self.layers, kept, strict=True):
                for name, value in layer.named_buffers():
                    value.copy_(buffers[name])

    @one_at_a_time
    def recompute(self) -> None:
        """Those of the present weights, for good, by one pass over the training data; random numbers stay as they were.

        All but batch normalisation is in evaluation mode, as where the pair is used.
        """
        if not self.layers:
            return
        momenta = [layer.momentum for layer in self.layers]
        with kept_rng_state(self.device), evaluation_mode(self.model, self.guide), torch.no_grad():
            # The same statistics after a resumption.
            pyro.set_rng_seed(0)
            try:
                for layer in self.layers:
                    layer.reset_running_stats()
                    # The mean of all batches.
                    layer.momentum = None
                    layer.training = True
                self._pass()
            finally:
                for layer, momentum in zip(self.layers, momenta, strict=True):
                    layer.momentum, layer.training = momentum, False

    def _pass(self) -> None:
        for x, labels, missing in self.batches(torch.Generator().manual_seed(0)):
            for images, known in parts_of(x, labels, self.parts):
                images = scale_observations(images, pixels_of(self.model), dtype=torch.get_default_dtype())
                with pyro.validation_enabled(False), declare_missing(missing):
                    trace = poutine.trace(self.guide).get_trace(images, known)
                    poutine.replay(self.model, trace=trace)(images, known)
