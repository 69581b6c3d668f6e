"""What several tests make alike."""

from causalvae_pyro import AmortizedGuide

SPACES = ("exogenous", "endogenous")


def amortized(space, encoder, scm, **options):
    """A guide over ``eps`` or over ``z``, of the causal layer's shape."""
    where = {"scm": scm} if space == "endogenous" else {"num_concepts": len(scm.graph), "dim": scm.dim}
    return AmortizedGuide(encoder, **where, **options)
