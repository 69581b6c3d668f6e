"""Effect handlers under which a decoder sees other values than the guide's samples."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from causalvae_pyro.distributions import sample_detached
from causalvae_pyro.utils.missing_labels import MaskedPrior

__all__ = ["TeacherForcingMessenger", "ZeroNoiseMessenger"]


class TeacherForcingMessenger(Messenger):
    """Replaces what a guide samples for ``eps`` by ``f^-1(z)``, ``z ~ p(z | u)``, in a share of the images.

    The guide's own sample stays in the site's ``infer["guide_sample"]``. Enter it before the trace.

    Args:
        scm: The causal layer ``f``.
        prior: ``p(z | u)`` over ``[batch, n, d]``; where labels are missing, concepts stay as the guide has them.
        share: In [0, 1].
    """

    def __init__(self, scm: Any, prior: Any, share: float) -> None:
        super().__init__()
        self.scm, self.prior, self.share = scm, prior, share

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] != "eps" or msg["done"] or msg["is_observed"]:
            return
        own: Tensor = msg["fn"](*msg["args"], **msg["kwargs"])
        known = self.prior.known if isinstance(self.prior, MaskedPrior) else None
        complete = self.prior if known is None else self.prior.all_concepts
        z = sample_detached(complete.expand(own.shape[:-2]))
        stays = torch.rand(own.shape[:-2], device=own.device)[..., None, None] >= self.share
        if known is not None:
            z = torch.where(known[..., None], z, self.scm.to_endogenous(own))
        # Not detached: f(f^-1(z)) = z has no gradient for the causal layer, f alone would have.
        msg["value"] = torch.where(stays, own, self.scm.to_exogenous(z))
        msg["infer"] = {**msg["infer"], "guide_sample": own}
        msg["done"] = True


class ZeroNoiseMessenger(Messenger):
    """Replaces what a guide samples for ``eps_x`` by 0, its prior mean. Enter it before the trace."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "eps_x" and not msg["done"]:
            msg["value"] = torch.zeros_like(msg["fn"](*msg["args"], **msg["kwargs"]))
            msg["done"] = True
