"""Which combinations of labels images show, as far as training has seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["LabelSupport"]

# Rows that are remembered, that are enough to judge by, and by which it is measured how far neighbours lie apart.
_MEMORY, _ENOUGH, _PROBES = 1024, 256, 256
_QUANTILE, _FACTOR = 0.95, 2.0
# Of the way from the image's own labels to the ones wanted.
_SHARES = (1.0, 0.5, 0.25)


class LabelSupport(nn.Module):
    """Remembers labels that are numbers, and says whether others lie among them.

    They do if one of those seen is as near as most are to their own nearest: at most twice as far as the 95th percentile.

    Args:
        count: Number of labels.
    """

    seen: Tensor
    place: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.full((_MEMORY, count), torch.nan))
        self.register_buffer("place", torch.tensor(0))

    def remember(self, labels: Tensor) -> None:
        """Keeps labels ``[N, n]``, the latest 1,024 of them.

        Args:
            labels: In comparable units, without missing ones.
        """
        labels = labels[-_MEMORY:]
        rows = (self.place + torch.arange(len(labels), device=self.place.device)) % _MEMORY
        self.seen[rows] = labels.to(self.seen)
        self.place += len(labels)

    def bring_near(self, target: Tensor, labels: Tensor) -> Tensor:
        """The labels wanted, or those half or a quarter of the way there that lie among the ones seen, or the image's own.

        Args:
            target: The labels wanted, ``[N, n]``.
            labels: The images' own.
        """
        known = self.seen[~self.seen.isnan().any(1)]
        if len(known) < _ENOUGH:
            return target
        probes = known[torch.randperm(len(known), device=known.device)[:_PROBES]]
        # The nearest of a row in memory is the row itself.
        reach = _FACTOR * torch.cdist(probes, known).topk(2, 1, largest=False).values[:, 1].quantile(_QUANTILE)
        result, found = labels.clone(), torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        for share in _SHARES:
            wanted = labels.lerp(target, share)
            inside = ~found & (torch.cdist(wanted.to(known), known).amin(1) <= reach)
            result, found = torch.where(inside[:, None], wanted, result), found | inside
        return result
