"""CausalVAE (Yang et al., CVPR 2021) as Pyro programs.

The generative model p(x, z, eps | u) is :class:`CausalVAE`; the encoder q(eps | x, u) is a guide from
:mod:`causalvae_pyro.guides`; :func:`fit` trains the pair; ``pyro.poutine.do`` or :func:`counterfactual` intervenes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causalvae_pyro.checkpoints import Run, load, save
    from causalvae_pyro.graph import CausalGraph
    from causalvae_pyro.guides import AmortizedGuide
    from causalvae_pyro.interventions import (
        Replace,
        Scale,
        Shift,
        abduct,
        ate,
        counterfactual,
        encode,
        intervene,
        ite,
        reconstruct,
    )
    from causalvae_pyro.likelihoods import GaussianLikelihood
    from causalvae_pyro.model import CausalVAE
    from causalvae_pyro.networks import ConvDecoder, ConvEncoder
    from causalvae_pyro.objectives import CausalELBO
    from causalvae_pyro.priors import FixedPrior
    from causalvae_pyro.recipes import Recipe
    from causalvae_pyro.scm import AdditiveNoiseSCM, LinearSCM
    from causalvae_pyro.training import fit

__version__ = "0.1.0"

__all__ = [
    "AdditiveNoiseSCM",
    "AmortizedGuide",
    "CausalELBO",
    "CausalGraph",
    "CausalVAE",
    "ConvDecoder",
    "ConvEncoder",
    "FixedPrior",
    "GaussianLikelihood",
    "LinearSCM",
    "Recipe",
    "Replace",
    "Run",
    "Scale",
    "Shift",
    "abduct",
    "ate",
    "counterfactual",
    "encode",
    "fit",
    "intervene",
    "ite",
    "load",
    "reconstruct",
    "save",
]

#: The public names by the module that defines them, and the other modules. They are imported on first use (PEP 562), so that
#: the command line does not import PyTorch to print its help.
_MODULES: dict[str, tuple[str, ...]] = {
    "baselines": (),
    "checkpoints": ("Run", "load", "save"),
    "cli": (),
    "datasets": (),
    "discovery": (),
    "distributions": (),
    "evaluation": (),
    "explore": (),
    "graph": ("CausalGraph",),
    "guides": ("AmortizedGuide",),
    "interventions": (
        "Replace",
        "Scale",
        "Shift",
        "abduct",
        "ate",
        "counterfactual",
        "encode",
        "intervene",
        "ite",
        "reconstruct",
    ),
    "likelihoods": ("GaussianLikelihood",),
    "metrics": (),
    "model": ("CausalVAE",),
    "networks": ("ConvDecoder", "ConvEncoder"),
    "objectives": ("CausalELBO",),
    "plots": (),
    "priors": ("FixedPrior",),
    "recipes": ("Recipe",),
    "scm": ("AdditiveNoiseSCM", "LinearSCM"),
    "training": ("fit",),
    "utils": (),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name == module:
            return import_module(f"{__name__}.{name}")
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
