"""A model and a guide that map through the same causal layer."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import unwrap
from torch import nn

__all__ = ["ANOTHER_LAYER", "check_pair"]

ANOTHER_LAYER = (
    "guide: got one that maps through another causal layer than the model's; must share it, as AmortizedGuide(encoder, model.scm)"
    " does; copy the two together: copy.deepcopy((model, guide))"
)


def check_pair(model: Any, guide: Any) -> None:
    """Refuses a guide that maps through a causal layer, or consults a model, that is not this model's.

    Such a pair trains well, since the guide's concepts are right, and its counterfactuals are wrong: the noise that one layer
    abducts means nothing to the other.

    Args:
        model: The model, wrapped by handlers or not; one without a causal layer is let through.
        guide: The guide, and whatever guides are parts of it.

    Raises:
        ValueError: If the two do not belong together.
    """
    model, guide = unwrap(model), unwrap(guide)
    layer = getattr(model, "scm", None)
    if layer is None:
        return
    # Wrappers and lists of guides hold others.
    for part in guide.modules() if isinstance(guide, nn.Module) else [guide]:
        own = getattr(part, "scm", None)
        # Pyro's automatic guides have parts that are named after the model's, and are no layers.
        if own is not layer and hasattr(own, "to_exogenous"):
            raise ValueError(ANOTHER_LAYER)
