"""The options of the default pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.graph import GraphLike, as_graph
from causalvae_pyro.guides import AmortizedGuide, IterativeGuide, PosteriorGuide
from causalvae_pyro.likelihoods import GaussianLikelihood
from causalvae_pyro.model import CausalVAE
from causalvae_pyro.networks import ConvDecoder, ConvEncoder, SpatialEncoder, SpriteDecoder
from causalvae_pyro.objectives.elbo import CausalELBO
from causalvae_pyro.objectives.sleep_phase import SleepPhase
from causalvae_pyro.objectives.sparsity import EffectSparsity
from causalvae_pyro.objectives.terms import LabelFit, Term, warm_up
from causalvae_pyro.priors import CategoricalPrior, FixedPrior, LabelPrior
from causalvae_pyro.recipes import backdrop, photographs
from causalvae_pyro.recipes.concepts import label_concepts
from causalvae_pyro.recipes.growth import grow_scene, grow_sprites
from causalvae_pyro.recipes.price import price_growth
from causalvae_pyro.recipes.views import VIEWS
from causalvae_pyro.scm import AdditiveNoiseSCM, CategoricalSCM, CausalLayer
from causalvae_pyro.scm.categories import WIDEST
from causalvae_pyro.utils.images import check_images, scale_images
from causalvae_pyro.utils.label_columns import is_binary, kind_counts
from causalvae_pyro.utils.unseen_pairs import unseen_pairs

__all__ = ["Recipe"]

# Images of 8 bits hold no smaller differences. Fitting differences below a grey level creates spurious effects of the wrong
# concepts.
_GREY_LEVEL = 1 / 255
_STD = 0.005
# With noise of the image's own concepts are read less closely.
_OWN_STD = 0.02
# Sparsity weight of the change of a pixel at the end of the training, relative to that of a layer's place at the start, and its
# scale. A twentieth of this price lets fields draw splinters around what moves where an effect does not follow its causes
# (docs/notes.md).
PIXEL_PRICE, PIXEL_SCALE = 1e-3, 0.02


@dataclass(frozen=True)
class Recipe:
    """Choices of the default model.

    The guide reads each concept off the image alone, ``q(z | x)``; the conditional prior ties it closely to its label;
    nonlinear mechanisms with learned noise are fitted to the labels; a convolutional decoder with a learned Gaussian
    scale decodes the image. The objective bounds ``log p(x, u)``.

    Where most labels are missing, call :func:`fit_mechanisms` before :func:`~causalvae_pyro.fit`, and pass
    :meth:`labelled_repeats` on to the latter.

    With ``decoder="sprites"`` the image is composed of layers that the concepts move. The decoder is trained on concepts from the
    labels (``teacher_forcing`` of :class:`~causalvae_pyro.CausalELBO`) with a sparsity penalty on every effect, and the guide
    also learns from decoded interventions (:class:`~causalvae_pyro.objectives.SleepPhase`). Interventions on children then come
    out right as well; other decoders render children through their causes (docs/notes.md). After training, the guide corrects its
    estimate by encoding its own reconstruction (:class:`~causalvae_pyro.guides.IterativeGuide`). It assumes a few moving parts.
    Where these leave much of the images unexplained, more are grown (:func:`~causalvae_pyro.recipes.grow_sprites`).

    With ``decoder="scene"`` the layers also change their colour and opacity, and the background is a sum of fields that concepts
    switch on (:class:`~causalvae_pyro.networks.SceneDecoder`): for what brightens, fades, bends or appears. Layers that the start
    has missed are grown, and what turns may carry what slides along it (:func:`~causalvae_pyro.recipes.grow_scene`). The
    rest is as with sprites. With ``noise_dim`` there are no layers: fields draw, displacement fields move what they have drawn
    (:class:`~causalvae_pyro.networks.Displacement`), and the image's own noise switches both on as well, for a few numbers in
    which images differ, such as the colour and the width of a face.

    With ``decoder="backdrop"`` the layers lie over a background that is another one in each image. The image's own noise draws
    it, at several resolutions, and no concept changes it (:class:`~causalvae_pyro.networks.BackdropDecoder`). In the first
    quarter of the training there is no noise, so that the layers take what follows the concepts. It assumes parts of one colour
    each whose place, size or rotation follows a concept; where none is found, :meth:`build` refuses.

    With ``decoder="auto"`` the data choose; see :func:`choose_recipe`.

    With ``decoder="hierarchical"``, for images with much of their own such as photographs, the image's own noise has several
    resolutions (:class:`~causalvae_pyro.networks.HierarchicalDecoder`). Such a decoder would ignore the concepts: classifiers of
    the labels and a discriminator, trained in the same steps, criticise decoded counterfactuals
    (:class:`~causalvae_pyro.objectives.ClassifierConsistency`).

    With ``decoder="bilinear"``, for photographs of groups such as persons under several lights, the image is linear in its own
    noise, with a basis that the concepts choose (:class:`~causalvae_pyro.networks.BilinearDecoder`). Basis, noise and the reading
    of the concepts have closed forms; a short training is enough.

    Args:
        dim: Dimensions of each concept.
        prior_std: ``lambda2`` in label standard deviations; by default 0.005, for a scene with noise 0.02, with
            ``decoder="backdrop"`` 0.05 and, with ``decoder="hierarchical"``, 0.3 for binary labels (0 and 1) and 0.05 for others.
        w_eps: See :class:`~causalvae_pyro.CausalELBO`.
        w_z: See :class:`~causalvae_pyro.CausalELBO`.
        decoder: ``"conv"``, ``"sprites"``, ``"scene"``, ``"backdrop"``, ``"hierarchical"``, ``"bilinear"`` or ``"auto"``.
        encoder: ``"conv"``, or ``"spatial"``: finer, and slower. The guides of ``"backdrop"``, ``"hierarchical"`` and
            ``"bilinear"`` have their own.
        labelled_share: Where labels are missing: share of the images that an epoch shows, at least, which have some; in [0, 1).
        sparsity_weight: For sprites and scenes without noise, the weight of
            :class:`~causalvae_pyro.objectives.EffectSparsity` at the start, >= 0. With a backdrop it is that of a likelihood
            as sharp as a grey level (``sharpness``).
        sparsity_weight_growth: Ratio of final to initial sparsity weight, > 0. By default 20 where a label follows from the
            others and 1 where none does, or fewer than 40 images have all labels
            (:func:`~causalvae_pyro.recipes.price.price_growth`), as the run's configuration says. The price of a scene's fields
            ends at the same weight whatever the growth.
        refinements: For sprites, scenes and backdrops, see :class:`~causalvae_pyro.guides.IterativeGuide`.
        noise_dim: Dimensions of the image's own noise ``eps_x``: what the labels do not say, such as the handwriting or the
            person. 0 where the labels say everything, as the simulators' do. For ``decoder="conv"`` and ``"scene"``. It is read
            by an encoder of its own, and its divergence comes in over the first tenth of the training (half of it for a scene).
        consistency: For the hierarchical decoder, the weight of the classifiers of counterfactuals, >= 0; with 0 there are none,
            nor a discriminator.
        realism: For the hierarchical decoder, the discriminator's factor beside them, >= 0; 0 for none.
        minimality: For the hierarchical decoder, the price of a changed pixel beside them, >= 0.
        preservation: For the hierarchical decoder, the price beside them of a reading that changes and should not, >= 0; 0 for
            none. With 0.7 somewhat less changes that should not, and what is set is seen less often (docs/notes.md).
        cast: For the hierarchical decoder: the critics look through coloured light of so much, >= 0, in [0, 1] units of a colour,
            another one in each corner; not where ``views`` has no ``"light"``. Else colours at the edges of a face please them.
        mirror: For the hierarchical decoder: mirrored images keep their labels, for the classifiers and the encoder. Not where
            left and right matter. For the bilinear decoder: mirrored images are more groups. Where left and right matter, with
            the sign of labels changed, if they are read like that.
        views: For the hierarchical decoder: which small changes leave the labels as they are, for the classifiers and the
            encoder, of ``"shift"``, ``"turn"``, ``"zoom"`` and ``"light"``. Not ``"light"`` where a label is a brightness, nor
            ``"shift"`` where it is a place.
        grouped: For the hierarchical decoder: images of one group (a person under several lights) have the same noise, and
            train with ``fit(groups=)``. Then images of a group show each other's counterfactuals
            (:class:`~causalvae_pyro.objectives.GroupSwap`), in place of classifiers and discriminator. Always True with the
            bilinear decoder, which needs no such term.
        teacher_forcing: For ``decoder="conv"`` without ``noise_dim``: the decoder learns from the labels' concepts and the guide
            from decoded interventions, as with sprites. Without, both learn from the bound alone, for which few labels will do.
    """

    dim: int = 1
    prior_std: float | None = None
    w_eps: float = 0.0
    w_z: float = 1.0
    labelled_share: float = 1 / 6
    decoder: str = "conv"
    encoder: str = "conv"
    sparsity_weight: float = 2000.0
    sparsity_weight_growth: float | None = None
    refinements: int = 1
    noise_dim: int = 0
    consistency: float = 200.0
    realism: float = 2.0
    minimality: float = 0.0015
    preservation: float = 0.0
    cast: float = 0.15
    mirror: bool = True
    views: tuple[str, ...] = VIEWS
    grouped: bool = False
    teacher_forcing: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.labelled_share < 1:
            raise ValueError(f"labelled_share: got {self.labelled_share}; must lie in [0, 1)")
        if not self.sparsity_weight >= 0:
            raise ValueError(f"sparsity_weight: got {self.sparsity_weight}; must be >= 0")
        if self.sparsity_weight_growth is not None and not self.sparsity_weight_growth > 0:
            raise ValueError(f"sparsity_weight_growth: got {self.sparsity_weight_growth}; must be > 0")
        if self.refinements < 0:
            raise ValueError(f"refinements: got {self.refinements}; must be at least 0")
        if self.noise_dim < 0 or (self.noise_dim and self.decoder not in ("conv", "scene", "auto")):
            raise ValueError(f"noise_dim: got {self.noise_dim}; must be at least 0, and 0 with decoder {self.decoder!r}")
        if self.grouped and self.decoder not in ("hierarchical", "bilinear", "auto"):
            raise ValueError(f"grouped: got True; with decoder {self.decoder!r} it must be False")
        if self.decoder == "bilinear" and not self.grouped:
            raise ValueError("grouped: got False; with decoder 'bilinear' it must be True: images of a group share their noise")
        for name in ("consistency", "realism", "minimality", "preservation", "cast"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; must be >= 0")
        if isinstance(self.views, str) or not set(self.views) <= set(VIEWS):
            raise ValueError(f"views: got {self.views!r}; valid: any of {', '.join(map(repr, VIEWS))}")
        # From a file they come as a list.
        object.__setattr__(self, "views", tuple(self.views))
        for argument, value, valid in (
            ("decoder", self.decoder, ("conv", "sprites", "scene", "backdrop", "hierarchical", "bilinear", "auto")),
            ("encoder", self.encoder, ("conv", "spatial")),
        ):
            if value not in valid:
                raise ValueError(f"{argument}: got {value!r}; valid: {', '.join(map(repr, valid))}")

    @torch.inference_mode(False)
    def build(
        self,
        graph: GraphLike,
        images: Tensor,
        labels: Tensor,
        config: dict[str, Any] | None = None,
        *,
        kinds: Mapping[str, int | Sequence[str]] | None = None,
        groups: Tensor | None = None,
    ) -> Run:
        """Makes an untrained model and guide for such data.

        Args:
            graph: The causal graph over the labels, in any form of :func:`~causalvae_pyro.graph.as_graph`.
            images: Training images ``[N, C, H, W]``, uint8 or in [0, 1].
            labels: Training labels ``[N, n]``, NaN where missing.
            config: More entries for the run's configuration.
            kinds: For each concept that is a category the number of its kinds, or their words in the order of their numbers, as a
                data set's ``kinds`` has it. All concepts then have as many dimensions as the one with the most kinds needs.
            groups: The group of each image, ``[N]``, for the bilinear decoder and, with ``decoder="auto"``, for the choice.

        Raises:
            ValueError: If images or labels have a shape that graph or networks cannot take, a concept has too few
                labels, or for ``decoder="backdrop"`` nothing in the images follows a concept.
        """
        check_images(images, "images")
        graph = as_graph(graph)
        n, shape = len(graph), tuple(images.shape[1:])
        if tuple(labels.shape) != (len(images), n):
            raise ValueError(f"labels: expected shape {[len(images), n]} (images x concepts), got {list(labels.shape)}")
        columns = kind_counts(kinds or {}, graph.names)
        if self.decoder == "auto":
            from causalvae_pyro.recipes.choice import choose_recipe  # which imports this module

            given = {name: value for name, value in asdict(self).items() if value != asdict(Recipe())[name] and name != "decoder"}
            chosen, reason = choose_recipe(images, labels, groups=groups, kinds=columns, **given)
            return chosen.build(graph, images, labels, {**(config or {}), "chosen": reason}, kinds=kinds, groups=groups)
        options = asdict(self)
        if self.sparsity_weight_growth is None and self.decoder in ("sprites", "scene", "backdrop") and not self.noise_dim:
            options["sparsity_weight_growth"] = price_growth(labels)
        config = {"recipe": options, **(config or {})}
        counts = [(kinds or {}).get(name, 0) for name in graph.names]
        if any(counts) and self.decoder in ("sprites", "scene", "backdrop"):
            raise ValueError(f"kinds: got categories, which decoder {self.decoder!r} cannot have; use another, such as 'conv'")
        dim = max(self.dim, *columns)
        classes = [binary or bool(count) for binary, count in zip(is_binary(labels), counts, strict=True)]
        if unseen := unseen_pairs(labels, graph.names, classes):
            config["unseen"] = unseen
        if self.decoder in ("hierarchical", "bilinear"):
            return photographs.build(self, graph, images, labels, config, counts, groups)
        if self.decoder == "backdrop":
            return backdrop.build(self, graph, images, labels, config)
        std = (_OWN_STD if self.decoder == "scene" and self.noise_dim else _STD) if self.prior_std is None else self.prior_std
        scm: CausalLayer = AdditiveNoiseSCM(graph, dim, learn_noise=True)
        prior: LabelPrior = FixedPrior.from_labels(labels, dim, std=std)
        if any(counts):
            prior = CategoricalPrior.from_labels(labels, counts, dim, std=std)
            scm = CategoricalSCM(scm, prior.kinds, width=min(std, WIDEST))
        likelihood = GaussianLikelihood(learn_scale=True)
        if self.decoder in ("sprites", "scene"):
            decoder: nn.Module = self._layers(images, n, label_concepts(prior, labels))
            if not self.noise_dim:
                config["start"] = {"parts": decoder.parts_at_start, "unexplained": decoder.unexplained_at_start}
            # From the error of an image without sprites, as fast as the image improves: the sparsity weight is relative to it.
            spread, faster = max(0.01, _spread(images)), SpriteDecoder.lr_factor
            likelihood = GaussianLikelihood(spread, learn_scale=True, min_scale=_GREY_LEVEL, lr_factor=faster)
        else:
            decoder = ConvDecoder.from_images(images, n, dim, noise_dim=self.noise_dim)
        model = CausalVAE(scm, prior, decoder, likelihood, noise_dim=self.noise_dim)
        encoder = ConvEncoder(shape) if self.encoder == "conv" else SpatialEncoder(shape, 128, channels=16)
        # With no normalisation and a shared encoder eps_x is lost in the first steps.
        own = SpatialEncoder(shape) if self.noise_dim else None
        guide: PosteriorGuide = AmortizedGuide(encoder, scm, noise_dim=self.noise_dim, noise_encoder=own, init_scale=std)
        if self.decoder in ("sprites", "scene"):
            guide = IterativeGuide(guide, model, refinements=self.refinements)
        return Run(model, guide, config)

    def _layers(self, images: Tensor, n: int, concepts: Tensor) -> SpriteDecoder:
        """The decoder with layers, from its start on."""
        if self.decoder == "sprites":
            return grow_sprites(images, n, self.dim, concepts=concepts, weight=self.sparsity_weight)
        return grow_scene(images, n, self.dim, concepts=concepts, weight=self.sparsity_weight, noise_dim=self.noise_dim)

    def objective(self, run: Run) -> ELBO:
        """The objective to train the pair with.

        Args:
            run: What :meth:`build` made.
        """
        if self.decoder == "auto":
            return Recipe(**run.config["recipe"]).objective(run)
        if self.decoder in ("hierarchical", "bilinear"):
            return photographs.objective(self, run)
        if self.decoder == "backdrop":
            return backdrop.objective(self, run, self._weight(run))
        if self.decoder == "conv" and (self.noise_dim or not self.teacher_forcing):
            return CausalELBO(self.w_eps, self.w_z, w_eps_x=warm_up(0.1), terms=[LabelFit()])
        if self.decoder == "conv":
            return CausalELBO(self.w_eps, self.w_z, teacher_forcing=1.0, terms=[LabelFit(), SleepPhase(run.guide)])
        terms: list[Term]
        if self.noise_dim:
            # The price of fields makes no difference here (docs/notes.md), and takes as long as the rest. Real images teach how
            # to read the noise: in the sleep phase it would outweigh the concepts.
            terms = [LabelFit(), SleepPhase(run.guide, noise=False)]
            return CausalELBO(self.w_eps, self.w_z, w_eps_x=_noise_price, teacher_forcing=1.0, terms=terms)

        weight = self._weight(run)
        terms = [LabelFit(), EffectSparsity(weight), SleepPhase(run.guide)]
        if self.decoder == "scene":
            # There are thousands of pixels, each with a size of its own.
            price = PIXEL_PRICE / self._growth(run)
            terms.append(EffectSparsity(lambda p: price * weight(p), scale=PIXEL_SCALE, sizes="field_sizes"))
        return CausalELBO(self.w_eps, self.w_z, teacher_forcing=1.0, terms=terms)

    def _weight(self, run: Run) -> Callable[[float], float]:
        """The price of effects, from the progress of the training."""
        growth = self._growth(run)
        return lambda progress: self.sparsity_weight * growth**progress

    def _growth(self, run: Run) -> float:
        return self.sparsity_weight_growth or run.config.get("recipe", {}).get("sparsity_weight_growth") or 1.0

    def labelled_repeats(self, labels: Tensor) -> int:
        """How often :func:`~causalvae_pyro.fit` has to show images with labels to make them ``labelled_share`` of what it shows.

        Args:
            labels: Training labels ``[N, n]``, NaN where missing.
        """
        labelled = int((~labels.isnan()).any(1).sum())
        if not labelled:
            raise ValueError("labels: all of them are missing")
        share = self.labelled_share
        return max(1, round(share / (1 - share) * (len(labels) - labelled) / labelled))


def _noise_price(progress: float) -> float:
    """Of the noise's divergence: all of it from the start, and there is no noise."""
    return min(1.0, max(0.02, 2 * progress))


def _spread(images: Tensor) -> float:
    """Root mean squared difference from the median image, of some of the images."""
    some = scale_images(images[:: max(1, len(images) // 300)]).float()
    return (some - some.median(0).values).square().mean().sqrt().item()
