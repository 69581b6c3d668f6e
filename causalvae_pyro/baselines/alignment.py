"""Which latent of a model without names stands for which concept, so that it can be scored and intervened on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.interventions.counterfactuals import encode
from causalvae_pyro.model import CausalVAE
from causalvae_pyro.priors import LabelPrior

__all__ = ["AlignedPrior", "align", "relabel"]


class AlignedPrior(LabelPrior):
    """Label to latent and latent to label by least squares, one line for each way.

    Unless the two are functions of each other the lines are not each other's inverse: the latent expected for a label, and the
    label expected for a latent.

    Args:
        num_concepts: Number of latents.
        to_latent: Intercept and slope of the latent on the label, ``[n, 2]``.
        to_label: Intercept and slope of the label on the latent's mean over its dimensions, ``[n, 2]``.
        std: Standard deviation of the latent given the label, ``[n]``.
        dim: Dimensions of each latent.
    """

    to_latent: Tensor
    to_label: Tensor
    std: Tensor

    def __init__(self, num_concepts: int, to_latent: Tensor, to_label: Tensor, std: Tensor, dim: int = 1) -> None:
        super().__init__(num_concepts, dim)
        for name, lines in (("to_latent", to_latent), ("to_label", to_label), ("std", std)):
            self.register_buffer(name, torch.as_tensor(lines, dtype=torch.get_default_dtype()))

    def lambda1(self, labels: Tensor) -> Tensor:
        return (self.to_latent[:, 0] + self.to_latent[:, 1] * labels)[..., None].expand(*labels.shape, self.dim)

    def lambda2(self, labels: Tensor) -> Tensor:
        return self.std[:, None].expand(*labels.shape, self.dim)

    def to_labels(self, z: Tensor) -> Tensor:
        return self.to_label[:, 0] + self.to_label[:, 1] * z.mean(-1)


def align(run: Run, images: Tensor, labels: Tensor, names: tuple[str, ...]) -> Run:
    """Names latents after the concepts they follow best, and gives each a map from and to its label.

    Labels are matched with as many latents, one to one, such that the sum of absolute correlations is largest. Unsupervised
    models are thus told what their latents mean: their scores are what they would be with the best names.

    Args:
        run: A trained pair with at least as many latents as there are labels.
        images: Training images ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: Their labels ``[N, n]``.
        names: Of the labels' concepts.

    Returns:
        A pair that shares decoder, likelihood and weights with ``run``. Latents without a label keep their names.

    Raises:
        ValueError: If there are fewer latents than labels, or a name is that of another latent.
    """
    old = run.model.graph
    if len(old) < labels.shape[1]:
        raise ValueError(f"labels: got {labels.shape[1]} for {len(old)} latents; there must be at least as many latents")
    z = encode(run.model, run.guide, images, labels).mean(-1).double().cpu()
    pairs = _matched(z, labels.double().cpu())
    renamed = list(old.names)
    for i, j in pairs:
        renamed[i] = names[j]
    if len(set(renamed)) < len(old):
        raise ValueError(f"names: got {list(names)}; some are those of other latents, {list(old.names)}")
    new = dict(zip(old.names, renamed, strict=True))
    graph = CausalGraph(renamed, [(new[a], new[b]) for a, b in old.edges])
    return _with(run, _renamed(run.model.scm, graph), _prior(z, labels, pairs, run.model.scm.dim))


def relabel(run: Run, images: Tensor, labels: Tensor) -> Run:
    """The same latents under the same names, read and set in the units of other labels.

    Args:
        run: A trained pair whose concepts are the labels', in the same order.
        images: Images ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: The other labels ``[N, n]``.

    Returns:
        A pair that shares everything but the prior with ``run``.
    """
    z = encode(run.model, run.guide, images, labels).mean(-1).double().cpu()
    pairs = [(i, i) for i in range(len(run.graph))]
    return _with(run, run.model.scm, _prior(z, labels, pairs, run.model.scm.dim))


def _prior(z: Tensor, labels: Tensor, pairs: list[tuple[int, int]], dim: int) -> AlignedPrior:
    """The lines between latents and the labels that they are paired with."""
    count, u = z.shape[1], labels.double().cpu()
    to_latent, to_label, std = torch.zeros(count, 2), torch.zeros(count, 2), torch.ones(count)
    to_latent[:, 1] = to_label[:, 1] = 1
    for i, j in pairs:
        to_latent[i], to_label[i] = _line(u[:, j], z[:, i]), _line(z[:, i], u[:, j])
        std[i] = (z[:, i] - to_latent[i, 0] - to_latent[i, 1] * u[:, j]).std().clamp(min=1e-6)
    return AlignedPrior(count, to_latent, to_label, std, dim)


def _with(run: Run, scm: Any, prior: AlignedPrior) -> Run:
    model = CausalVAE(scm, prior, run.model.decoder, run.model.likelihood, noise_dim=run.model.noise_dim)
    model = model.to(run.model.zero.device).eval()
    # The same guide, its weights and all, but for the layer and the model that it maps through.
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*run.guide.parameters(), *run.guide.buffers())}
    guide = copy.deepcopy(run.guide, shared | {id(run.model): model, id(run.model.scm): scm})
    return Run(model, guide, run.config)


def _matched(z: Tensor, u: Tensor) -> list[tuple[int, int]]:
    from scipy.optimize import linear_sum_assignment  # slow to import

    z, u = ((t - t.mean(0)) / t.std(0).clamp(min=1e-12) for t in (z, u))
    rows, columns = linear_sum_assignment(-(z.T @ u).abs().numpy())
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _line(x: Tensor, y: Tensor) -> Tensor:
    slope = ((x - x.mean()) * (y - y.mean())).mean() / x.var(correction=0).clamp(min=1e-24)
    return torch.stack([y.mean() - slope * x.mean(), slope])


def _renamed(scm: Any, graph: CausalGraph) -> Any:
    new = type(scm)(**(scm.init_args | {"graph": graph}))
    new.load_state_dict(scm.state_dict())
    return new
