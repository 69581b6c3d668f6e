"""Whether an image's own noise tells what an intervention has set."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from causalvae_pyro.evaluation.scored_images import ScoredImages
from causalvae_pyro.interventions.abduction import abduct_for
from causalvae_pyro.interventions.counterfactuals import counterfactual
from causalvae_pyro.utils.numbers import evenly_spaced
from causalvae_pyro.utils.pyro_lock import one_at_a_time

__all__ = ["noise_leak"]

# Images, at most and at least, and the parts of them, each told by the others.
_MOST, _FEWEST, _FOLDS = 300, 40, 5


@one_at_a_time
def noise_leak(scored: ScoredImages) -> dict[str, float]:
    """How much of the value set can be read from the noise ``eps_x`` of the counterfactual image: R^2 on images held out.

    Each concept is set to a value that has nothing to do with the image, and the counterfactual is abducted. Its noise is what
    makes this image differ from others with the same concepts, and the value was drawn by chance, so a noise that tells it holds
    a part of what the concept draws: a ghost of it, which stays where it was when the concept is set anew. 0 is right. It is
    told by a ridge regression: what is not linear it does not see, and of thousands of dimensions that are all in use only a leak
    that many of them share. No truth is needed; a model that returns its input has 0, too. No pixel noise is kept.

    Args:
        scored: The images; 300 of them are used at most.

    Returns:
        For each concept R^2, at least 0; empty for a model without noise of its own, or below 40 images.
    """
    run, count = scored.run, min(_MOST, len(scored.x))
    if not getattr(run.model, "noise_dim", 0) or count < _FEWEST:
        return {}
    chosen = evenly_spaced(count, len(scored.x))
    x, handed, result = scored.x[chosen], scored.handed[chosen], {}
    generator = torch.Generator().manual_seed(scored.seed)
    for column, name in enumerate(scored.data.graph.names):
        values = scored.labels[chosen, column][torch.randperm(count, generator=generator)]
        do = {name: values}
        images, z = counterfactual(run.model, run.guide, x, do, handed, return_latents=True)
        # A guide that uses labels is handed those that the model means: the image shows them, be they true or not.
        told = scored.hand(scored.read_labels(z).to(scored.labels))
        noise = torch.cat(
            [
                abduct_for(run.model, run.guide, part.clamp(0, 1), labels)["eps_x"].cpu()
                for part, labels in zip(images.split(64), told.split(64), strict=True)
            ]
        )
        kinds = scored.kinds[column]
        target = one_hot(values.long(), kinds).double() if kinds else values[:, None].double()
        result[name] = _told(noise.flatten(1).double(), target)
    return result


def _told(noise: Tensor, target: Tensor) -> float:
    """R^2 of a regression of the target on the noise, on rows held out."""
    from sklearn.linear_model import RidgeCV  # slow to import
    from sklearn.model_selection import KFold, cross_val_predict

    spread = (target - target.mean(0)).square().sum()
    if not spread:
        return 0.0
    # As it is: noise that is used has a standard deviation of about 1, and what is not used lies near 0.
    regression, folds = RidgeCV(torch.logspace(-2, 5, 15).tolist()), KFold(_FOLDS, shuffle=True, random_state=0)
    told = cross_val_predict(regression, noise.numpy(), target.numpy(), cv=folds)
    error = (torch.as_tensor(told).reshape(target.shape) - target).square().sum()
    return max(0.0, 1 - (error / spread).item())
