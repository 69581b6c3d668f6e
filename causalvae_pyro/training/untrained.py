"""A warning about a causal layer that training leaves as it was."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

__all__ = ["LayerWatch"]


class LayerWatch:
    """Warns after the first epoch if the mechanisms of a graph with edges have not changed at all.

    An objective may give them no gradient: with a guide over ``z`` nothing in the default bound depends on the causal layer.
    The images are then as good as ever, and the counterfactuals are not.

    Args:
        model: The model; one without a causal layer, or without anything to learn in it, is let through.
    """

    def __init__(self, model: Any) -> None:
        layer = getattr(model, "scm", None)
        has_edges = bool(getattr(getattr(layer, "graph", None), "edges", ()))
        learned = [p for p in layer.parameters() if p.requires_grad] if has_edges and isinstance(layer, nn.Module) else []
        self.before = [(p, p.detach().clone()) for p in learned]

    def check(self) -> None:
        """Warns, once, if nothing has changed since this was made."""
        if self.before and all(torch.equal(p, old) for p, old in self.before):
            warnings.warn(
                "objective: it gives the causal layer no gradient, so the mechanisms stay as they are and counterfactuals follow "
                "none; add a term that fits them: CausalELBO(..., terms=[LabelFit()])",
                stacklevel=2,
            )
        self.before = []
