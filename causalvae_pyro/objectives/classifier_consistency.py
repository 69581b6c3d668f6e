"""Consistency of decoded counterfactuals with classifiers of the labels, and with real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.objectives.classifier_fit import check_classifiers, label_loss, reserved
from causalvae_pyro.objectives.consistency import ramp
from causalvae_pyro.objectives.label_support import LabelSupport
from causalvae_pyro.utils.label_columns import label_features, label_widths, one_label_each
from causalvae_pyro.utils.missing_labels import any_missing
from causalvae_pyro.utils.modes import frozen
from causalvae_pyro.utils.random_state import kept_rng_state
from causalvae_pyro.utils.unseen_pairs import asks_for

__all__ = ["ClassifierConsistency"]


class ClassifierConsistency(nn.Module):
    """Consistency with classifiers of the labels: they must recover, from a decoded counterfactual, what it was decoded from.

    ::

        sum_i -log p_r(u'_i | view(x')) - a D(view(x'), u') + b |x' - x^|_1
            + c sum_(i: u'_i = u_i) |r_i(view(x')) - r_i(view(x^))|,
        x' = decoder(z', eps_x),    z' ~ p(z | u'), or with c > 0 the image's own where u'_i = u_i

    ``u'`` are the image's labels ``u``, some of them another's, and ``x^`` is the reconstruction. Each label comes, with
    probability ``share``, from another image of the batch; the noise is the image's own. The gradient reaches the decoder only.
    Each step uses one of the classifiers, chosen at random, on images changed by its augmentation.

    The last part (smooth near 0) keeps readings of what is to stay where they are. A classifier that is sure of a label has no
    gradient left, while an intervention on another concept draws what usually goes with it: women's smiles are broader than
    men's, and ``do(gender)`` draws them so, which turns faces between smile and none. It is paid for in what is set
    (docs/notes.md), so that by default there is no such part.

    A decoder finds changes that satisfy a network and mean nothing to a person: blotches round the eyes that several classifiers,
    and a judge with them, take for the other sex. A discriminator ``D(x, u)``, trained in the same steps to tell images and
    reconstructions with their labels from counterfactuals with theirs, sees such changes and takes them back (docs/notes.md has
    figures).

    Where labels are numbers, those wanted stay among the combinations that training has seen
    (:class:`~causalvae_pyro.objectives.label_support.LabelSupport`): of others critics know nothing, and what pleases them there
    is noise.

    Args:
        classifiers: Modules from images ``[N, C, H, W]`` to ``[N, n]``, trained already or by
            :class:`~causalvae_pyro.objectives.ClassifierFit` beside: logits of binary labels, standardised values of others.
        augmentations: Random changes of images that leave the labels as they are, one for each classifier.
        binary: Which labels are binary (0 or 1); by default all of them.
        discriminator: Module ``(images, standardised labels) -> [N]``, high for what looks real, e.g.
            :class:`~causalvae_pyro.networks.ProjectionDiscriminator`; by default none. It is part of this module, and trained.
        realism: ``a``, its factor beside the classifiers', >= 0.
        minimality: ``b``, the price of a change of the image, summed over pixels, >= 0. With a price, effects stay where they are
            needed.
        preservation: ``c``, the price of a change in what the classifier reads (logits of binary labels and categories,
            standardised values of others) of labels that are the image's own, >= 0.
        preserver: The classifier that reads them, by default the step's. One that reads a label from its own signs alone
            (``ClassifierFit(balanced=)``): who reads smiles from open mouths calls them changed when the mouth is.
        share: Probability that a label comes from another image, in (0, 1].
        rows: Share of the batch that takes part, in (0, 1]: the first rows.
        names: Of the concepts, for ``unseen``.
        unseen: Pairs of classes that are not asked for, see :func:`~causalvae_pyro.utils.unseen_pairs.unseen_pairs`: of what no
            image shows, classifiers know nothing, and what pleases them there is noise (docs/notes.md). A label of another
            image that would make such a pair stays the image's own.
        weight: Factor in the loss. By default it starts after a tenth of the training and is full after a quarter.

    Source: De Sousa Ribeiro et al. 2023 (counterfactual fine-tuning), who train so with predictors of the parents; He et al. 2019
    (AttGAN) and Choi et al. 2018 (StarGAN) for a classifier together with a discriminator.
    """

    name = "classifier_consistency"

    def __init__(
        self,
        classifiers: Sequence[nn.Module],
        *,
        augmentations: Sequence[Callable[[Tensor], Tensor]],
        binary: Sequence[bool] | None = None,
        discriminator: nn.Module | None = None,
        realism: float = 1.0,
        minimality: float = 0.0,
        preservation: float = 0.0,
        preserver: nn.Module | None = None,
        share: float = 0.5,
        rows: float = 1.0,
        names: Sequence[str] = (),
        unseen: Sequence[Sequence[Any]] = (),
        weight: float | Callable[[float], float] | None = None,
    ) -> None:
        super().__init__()
        check_classifiers(classifiers, augmentations)
        if strange := {name for pair in unseen for name in pair[::2]} - set(names):
            raise ValueError(f"unseen: got a pair with {min(strange)!r}; the names are {', '.join(names) or 'not given'}")
        for argument, value in (("share", share), ("rows", rows)):
            if not 0 < value <= 1:
                raise ValueError(f"{argument}: got {value}; must lie in (0, 1]")
        for argument, value in (("realism", realism), ("minimality", minimality), ("preservation", preservation)):
            if not value >= 0:
                raise ValueError(f"{argument}: got {value}; must be >= 0")
        # In a tuple: trained elsewhere, or not at all.
        self._classifiers = tuple(classifiers)
        self.augmentations, self.discriminator = list(augmentations), discriminator
        self.binary = None if binary is None else torch.tensor(list(binary), dtype=torch.bool)
        self.realism, self.minimality, self.preservation = realism, minimality, preservation
        self._preserver = None if preserver is None else (preserver,)
        self.share, self.rows = share, rows
        self._names, self._unseen = tuple(names), [tuple(pair) for pair in unseen]
        self.weight = ramp if weight is None else weight
        # Where all labels are binary, the pairs say it.
        self.support = None if self.binary is None or self.binary.all() else LabelSupport(len(self.binary))

    def forward(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        nothing = trace.nodes["z"]["value"].new_zeros(())
        if labels is None:
            return nothing
        one_label_each(model.prior, "ClassifierConsistency")
        x, eps_x = (trace.nodes[site]["value"] for site in ("x", "eps_x"))
        noise = eps_x.detach().reshape(-1, *eps_x.shape[-2:])[0]
        # A counterfactual needs all labels; a judge's images are not for training classifiers of any kind.
        keep = ~reserved(x)
        if any_missing(labels):
            keep &= ~labels.isnan().any(1)
        rows = keep.nonzero().squeeze(1)
        rows = rows[: max(1, round(self.rows * len(rows)))]
        if not len(rows):
            return nothing
        factual = labels[rows]
        target = self._swapped(factual)
        binary = torch.ones_like(target[0], dtype=torch.bool) if self.binary is None else self.binary.to(target.device)
        if self.support is not None:
            kinds = torch.tensor(getattr(model.prior, "kinds", (0,) * len(binary)), device=binary.device)
            numbers = ~binary & (kinds == 0)
            shift, scale = model.prior.shift, model.prior.scale
            own, wanted = ((u - shift) / scale * numbers for u in (factual, target))
            # Validation has no part in the training.
            if self.training:
                self.support.remember(own)
            target = torch.where(numbers, self.support.bring_near(wanted, own) * scale + shift, target)
        z, stays = model.prior(target).rsample(), target == factual
        if self.preservation:
            # The very values that the noise was inferred with.
            own = trace.nodes["z"]["value"].detach()
            z = torch.where(stays[..., None], own.reshape(-1, *own.shape[-3:])[0, rows], z)
        drawn = model.likelihood(model.decoder(z, noise[rows])).mean
        # Critics have seen no pixel outside; what one says of them is no gradient to follow.
        images = drawn.clamp(0, 1)
        # Chosen on the CPU, which costs no device sync.
        which = int(torch.randint(len(self._classifiers), ()))
        classifier = self._classifiers[which].to(images.device)
        reconstruction = trace.nodes["x"]["fn"].mean.detach().reshape(-1, *x.shape)[0, rows]
        view = self.augmentations[which]
        before = None
        if self.preservation:
            # Changed in the same way as the images.
            with kept_rng_state(x.device), torch.no_grad():
                before = view(reconstruction.clamp(0, 1))
        seen = view(images)
        with frozen(classifier):
            total = label_loss(classifier(seen), target, model.prior, binary).sum()
        if before is not None:
            widths = torch.tensor(label_widths(model.prior, len(binary)), device=stays.device)
            reader = classifier if self._preserver is None else self._preserver[0].to(images.device)
            with frozen(reader):
                with torch.no_grad():
                    expected = reader(before)
                change = F.smooth_l1_loss(reader(seen), expected, reduction="none")
            total = total + self.preservation * (change * stays.repeat_interleave(widths, 1)).sum()
        if self.discriminator is not None:
            # Photographs are sharper than any mean image, which is told from them by that alone, and a decoder that has to look
            # as sharp draws edges that are not there. So half of what counts as real are reconstructions.
            photographs = torch.rand(len(rows), 1, 1, 1, device=x.device) < 0.5
            real = torch.where(photographs, x[rows], reconstruction.clamp(0, 1))
            total = total + self.realism * self._realism(self.augmentations[which], real, factual, images, target, model.prior)
        if self.minimality:
            total = total + self.minimality * (drawn - reconstruction).abs().sum()
        return total * (len(labels) / len(rows))

    def _realism(self, view: Any, x: Tensor, labels: Tensor, images: Tensor, target: Tensor, prior: Any) -> Tensor:
        """Hinge loss of the discriminator, and of the decoder that has to please it; ``x`` are what counts as real."""
        discriminator: Any = self.discriminator
        real, intended = (label_features(prior, u) for u in (labels, target))
        both = view(torch.cat([x, images.detach()]))
        true, made = discriminator(both, torch.cat([real, intended])).chunk(2)
        own = F.relu(1 - true).sum() + F.relu(1 + made).sum()
        with frozen(discriminator):
            return own - discriminator(view(images), intended).sum()

    def _swapped(self, labels: Tensor) -> Tensor:
        other = torch.stack([column[torch.randperm(len(column), device=labels.device)] for column in labels.unbind(-1)], -1)
        chosen = torch.rand_like(labels) < self.share
        if not self._unseen:
            return torch.where(chosen, other, labels)
        target = labels.clone()
        # One after the other, in any order: what one label may become depends on what the others have become.
        for k in torch.randperm(labels.shape[1]).tolist():
            wanted = target.clone()
            wanted[:, k] = torch.where(chosen[:, k], other[:, k], labels[:, k])
            own = [pair for pair in self._unseen if self._names[k] in pair[::2]]
            refused = asks_for(wanted, self._names, own).any(1)
            target = torch.where(refused[:, None], target, wanted)
        return target
