"""CF-scores of a run on a scene, and where they fall short."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from causalvae_pyro import abduct, counterfactual, encode, intervene, reconstruct
from causalvae_pyro.checkpoints import Run
from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.interventions import FADE, predict
from causalvae_pyro.metrics import cf_score, r2_score
from causalvae_pyro.utils.images import scale_images
from scenes.scene import SceneData

__all__ = ["PARTS", "score", "strip"]

#: The score; that of images that keep what the reconstruction lacks where nothing changes (``fade``); what it would be with the
#: reconstruction's error alone; with the decoder's alone (counterfactual concepts known); and with those of decoder and
#: mechanisms (factual concepts known, not read from the image).
PARTS = ("score", "kept", "ceiling", "decoder", "mechanism")


def score(run: Run, data: SceneData, seed: int = 0) -> dict:
    """Scores of interventions on each concept, with values from its marginal.

    Args:
        run: The trained pair.
        data: Test images.
        seed: Of the values.

    Returns:
        ``mse`` of reconstructions, ``r2`` and the :data:`PARTS` by concept.
    """
    generator, model, guide = torch.Generator().manual_seed(seed), run.model, run.guide
    x, names = scale_images(data.images), data.graph.names
    again = reconstruct(model, guide, x)
    with torch.no_grad():
        read = model.prior.to_labels(encode(model, guide, x))
    result: dict = {part: {} for part in PARTS}
    result["mse"] = (again - x).square().mean().item()
    result["r2"] = dict(zip(names, r2_score(read, data.labels).tolist(), strict=True))
    noise = abduct(guide, x)
    known = {**noise, "eps": model.scm.to_exogenous(_concepts(run, data.labels)).detach()}
    for j, name in enumerate(names):
        do = {name: data.labels[torch.randperm(len(x), generator=generator), j]}
        labels, true = data.counterfactual(data.labels, do)
        told = {**noise, "eps": model.scm.to_exogenous(_concepts(run, labels)).detach()}
        answers = {
            "score": counterfactual(model, guide, x, do),
            "kept": counterfactual(model, guide, x, do, pixel_noise=1.0, fade=FADE).clamp(0, 1),
            "ceiling": true + again - x,
            "decoder": _image(model, told),
            "mechanism": _image(intervene(model, do), known),
        }
        for part, images in answers.items():
            result[part][name] = cf_score(images, true, x)
    return result


def strip(run: Run, data: SceneData) -> list[tuple[str, Tensor]]:
    """Named rows of images: some factual ones, and for each concept the model's counterfactuals and the true ones.

    Args:
        run: The trained pair.
        data: Test images.
    """
    x, labels = data.images[:8], data.labels[:8]
    found: list[tuple[str, Tensor]] = [("image", scale_images(x)), ("reconstruction", reconstruct(run.model, run.guide, x))]
    for j, name in enumerate(data.graph.names):
        # High where it is low, and low where it is high.
        ends = data.labels[:, j].quantile(torch.tensor([0.05, 0.95]))
        do = {name: torch.where(labels[:, j] > data.labels[:, j].median(), ends[0], ends[1])}
        do = {name: do[name].round()} if bool((data.labels[:, j] == data.labels[:, j].round()).all()) else do
        found += [(f"do({name})", counterfactual(run.model, run.guide, x, do)), ("true", data.counterfactual(labels, do)[1])]
    return [(name, images.clamp(0, 1)) for name, images in found]


def _concepts(run: Run, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return prior_mean(run.model.prior(labels))


def _image(model: object, noise: Mapping[str, Tensor]) -> Tensor:
    return predict(model, noise, pixel_noise=False).nodes["x_mean"]["value"]  # type: ignore[arg-type]
