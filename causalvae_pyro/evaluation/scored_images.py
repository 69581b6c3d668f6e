"""The images scored, their labels and true counterfactuals, and what the model makes of them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.evaluation.data import check_kinds, has_truth
from causalvae_pyro.interventions.actions import Interventions
from causalvae_pyro.interventions.counterfactuals import counterfactual, encode, reconstruct
from causalvae_pyro.metrics import bootstrap_interval, r2_score
from causalvae_pyro.utils.images import as_images
from causalvae_pyro.utils.label_columns import is_binary, one_label_each
from causalvae_pyro.utils.modes import evaluation_mode

__all__ = ["FEWEST", "ScoredImages"]

#: Fewer images give no score of a representation, and no interval worth the name.
FEWEST = 8


class ScoredImages:
    """What the sections of the score card share: the images, their labels and what the model makes of them.

    Args:
        run: The trained pair.
        data: See :func:`~causalvae_pyro.evaluation.evaluate`, as for the sections' keys.
        x: The test images used, ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: Their labels ``[N, n]``.
        seed: Fixes the intervention values and the resamples.
        intervals: Whether scores get intervals.
        index: Which images of the data they are, ``[N]``; by default all of them.
        pixel_noise: See :func:`~causalvae_pyro.counterfactual`.
        fade: See :func:`~causalvae_pyro.counterfactual`.

    Attributes:
        order: Places of the data's concepts among the run's.
        handed: The labels in the run's order, ``[N, n']``, NaN for its concepts that the data has not.
        kinds: The number of each concept's kinds, 0 for a number.
        binary: Which concepts are numbers with labels 0 and 1 only.
        codes: The mean over the dimensions of each concept, of a category the kind, ``[N, n]``.
        read: The concepts in label units, ``[N, n]``.
        reconstruction: ``[N, C, H, W]``, on the CPU.
        true_rows: For each image another one of the data that is its true counterfactual, or ``None``.
        with_intervals: Whether scores get intervals.

    Raises:
        ValueError: If the data has a concept that the run has not, or pixels out of range.
    """

    def __init__(
        self,
        run: Run,
        data: Any,
        x: Tensor,
        labels: Tensor,
        seed: int,
        intervals: bool = True,
        index: Tensor | None = None,
        pixel_noise: float = 0.0,
        fade: float | None = None,
    ) -> None:
        one_label_each(run.model.prior, "the score card")
        names, own = data.graph.names, run.graph.names
        if not set(names) <= set(own):
            raise ValueError(f"data: got the concepts {list(names)}; valid: the run's, {list(own)}")
        check_kinds(run, data)
        x = as_images(x, "data.images")
        self.run, self.data, self.x, self.labels, self.seed = run, data, x, labels, seed
        self.pixel_noise, self.fade = pixel_noise, fade
        self.true_rows = self._draw_true_rows(torch.arange(len(x)) if index is None else index)
        self.with_intervals = intervals and len(x) >= FEWEST
        # The run may hold the concepts in another order, and more of them; all but what the guide is handed follows the data's.
        self.order = [own.index(name) for name in names]
        self.handed = self.hand(labels)
        z = encode(run.model, run.guide, x, self.handed)
        kinds = getattr(run.model.prior, "kinds", (0,) * len(own))
        self.kinds = [kinds[k] for k in self.order]
        self.binary = [binary and not k for binary, k in zip(is_binary(labels), self.kinds, strict=True)]
        self.codes, self.read = z.mean(-1).double().cpu()[:, self.order], self.read_labels(z)
        # The mean of a unit vector says nothing; of a category the code is the kind read.
        self.codes = torch.where(torch.tensor(self.kinds) > 0, self.read.double(), self.codes)
        self.reconstruction = reconstruct(run.model, run.guide, x, self.handed).cpu()

    def counterfactual(self, x: Tensor, do: Interventions, handed: Tensor) -> tuple[Tensor, Tensor]:
        """Images, on the CPU, and concepts."""
        model, guide = self.run.model, self.run.guide
        kept: dict[str, Any] = {"pixel_noise": self.pixel_noise, "fade": self.fade}
        images, z = counterfactual(model, guide, x, do, handed, **kept, return_latents=True)
        return images.cpu(), z

    def hand(self, labels: Tensor) -> Tensor:
        """Labels in the run's order, NaN for its concepts that the data has not."""
        handed = labels.new_full((len(labels), len(self.run.graph)), torch.nan)
        handed[:, self.order] = labels
        return handed

    def read_labels(self, z: Tensor) -> Tensor:
        """What the concepts ``[N, n', d]`` of the run say in label units, on the CPU, for the data's concepts: ``[N, n]``."""
        with evaluation_mode(self.run.model):
            return self.run.model.prior.to_labels(z).cpu()[:, self.order]

    def intended(self, do: dict[str, Tensor], z: Tensor, part: slice | Tensor = slice(None)) -> Tensor:
        """True counterfactual labels of some of the images, or what the model's own concepts ``z`` stand for."""
        if hasattr(self.data, "counterfactual_labels"):
            return self.data.counterfactual_labels(self.labels[part], do)
        if has_truth(self.data):
            return self.truth(do, part)[0]
        return self.read_labels(z)

    def truth(self, do: dict[str, Tensor], part: slice | Tensor = slice(None)) -> tuple[Tensor, Tensor]:
        """True counterfactual labels and images of some of the images, and for ``do`` the values of just these."""
        if self.true_rows is not None:
            rows = self.true_rows[part]
            return self.data.labels[rows], as_images(self.data.images[rows]).to(self.x.dtype)
        true_labels, true = self.data.counterfactual(self.labels[part], do)
        return true_labels, true.to(self.x.dtype)

    def values(self, name: str, generator: torch.Generator | None = None) -> Tensor:
        """The values that interventions on a concept set, ``[N]``: the other one, another kind, or those of other images."""
        index = self.data.graph.index(name)
        column, kinds = self.labels[:, index], self.kinds[index]
        if self.binary[index]:
            # The other value: a random one leaves half of the images as they are.
            return 1 - column
        generator = torch.Generator().manual_seed(self.seed) if generator is None else generator
        if kinds:
            # Another kind, of those that images have.
            present = column.unique() if (column != column[0]).any() else torch.arange(kinds).to(column)
            place = torch.searchsorted(present, column.contiguous())
            return present[(place + torch.randint(1, len(present), column.shape, generator=generator)) % len(present)]
        return column[torch.randperm(len(self.x), generator=generator)]

    def _draw_true_rows(self, index: Tensor) -> Tensor | None:
        """For each image another one of the data that is its true counterfactual; ``None`` where the data draw the truth."""
        if not hasattr(self.data, "counterfactual_targets"):
            return None
        generator = torch.Generator().manual_seed(self.seed)
        choices = map(self.data.counterfactual_targets, index.tolist())
        return torch.stack([rows[torch.randint(len(rows), (), generator=generator)] for rows in choices])

    def agreement(self, read: Tensor, labels: Tensor) -> Tensor:
        """R^2 of each concept; of a category that of its unit vectors, all together."""
        scores = [
            r2_score(*(one_hot(part.long(), k).flatten()[:, None].double() for part in (own, label)))[0]
            if k
            else r2_score(own[:, None], label[:, None])[0]
            for own, label, k in zip(read.T, labels.T, self.kinds, strict=True)
        ]
        return torch.stack(scores)

    def add_interval(self, intervals: dict[str, Any], key: str, arrays: Any, statistic: Any, **options: Any) -> None:
        """Puts the interval of a statistic over the images under the key, where it has one; see :func:`bootstrap_interval`."""
        # No interval where a resample has no score: one without the few images of a rare class, or on which nothing changes.
        with suppress(ValueError), np.errstate(divide="ignore", invalid="ignore"):
            intervals[key] = bootstrap_interval(arrays, statistic, seed=self.seed, **options)["interval"]
