"""Morpho-MNIST over several seeds: CausalVAE and a conditional VAE of the same size, judged alike.

All get the same images, labels, split, networks for the image's own noise and epochs; ``ours`` is
``examples/train_morphomnist.py``. A conditional VAE is given an image's true labels, and knows no mechanism: ``do(thickness)``
leaves the intensity as it is. It is therefore scored twice, so and with *all* labels of the true counterfactual told to it.
CausalVAE is scored on images alone and with the image's labels known. ``ours_alone`` and ``cvae_read`` are the two without and
with predictors that take part in training. Each seed has judges of its own, trained on real images.

Every pair of a model and a seed is a file under ``--cells`` that is not run again, so a stopped benchmark goes on where it was.

python benchmarks/morphomnist.py --root PATH/TO/morphomnist --out benchmarks/results/morphomnist.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from environment import describe, write_json
from morphomnist_judges import Judges
from torch import Tensor

from causalvae_pyro import CausalELBO, FixedPrior, GaussianLikelihood, counterfactual, encode, fit
from causalvae_pyro.baselines import CVAE, CVAEGuide
from causalvae_pyro.datasets import MorphoMNIST
from causalvae_pyro.guides import LabelConditionedGuide
from causalvae_pyro.metrics import r2_score, seeds_interval
from causalvae_pyro.networks import FiLMDecoder, RandomSymmetry, SpatialEncoder
from causalvae_pyro.objectives import PredictorConsistency, warm_up
from causalvae_pyro.training import resolve_device

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from train_morphomnist import make, make_objective, make_readers

MODELS = ("ours", "ours_alone", "cvae", "cvae_read")
READERS, READER_EPOCHS = 3, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with the published files")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="run only from this seed on, to share the work")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--noise-dim", type=int, default=32, help="dimensions of the image's own noise")
    parser.add_argument("--prior-std", type=float, default=0.01, help="CausalVAE's lambda2 in label standard deviations")
    parser.add_argument("--limit", type=int, help="train on the first so many images only")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--predictors", type=Path, default=Path("runs/morphomnist_judges"), help="where trained judges are kept")
    parser.add_argument("--cells", type=Path, default=Path(__file__).parent / "results" / "morphomnist", help="finished seeds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "morphomnist.json")
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in ("epochs", "noise_dim", "prior_std", "limit")}
    for seed in range(args.first_seed, args.seeds):
        for model in args.models:
            file = args.cells / f"{model}-{seed}.json"
            if not file.is_file() or json.loads(file.read_text())["settings"] != settings:
                scores = run(model, args.root, seed, device=args.device, judges=args.predictors, **settings)
                write_json(file, {"settings": settings, "scores": scores, **describe()})
            print(model, seed, json.dumps(json.loads(file.read_text())["scores"]), flush=True)
    if args.first_seed or tuple(args.models) != MODELS:
        return
    rows = [
        {model: json.loads((args.cells / f"{model}-{seed}.json").read_text())["scores"] for model in MODELS}
        for seed in range(args.seeds)
    ]
    result = {"seeds": args.seeds, "settings": settings, "scores": summarise(rows), **describe()}
    write_json(args.out, result)
    for name, value in result["scores"].items():
        ends = " to ".join(f"{end:.4f}" for end in value.get("interval", []))
        print(f"{name:<72}{value['mean']:>12.4f}   {ends}")
    print(f"wrote {args.out}")


def summarise(rows: list[dict]) -> dict:
    """Intervals of every number in the seeds' scores, keyed by its path."""
    flat = [dict(_flatten(row)) for row in rows]
    return {key: seeds_interval([values[key] for values in flat]) for key in flat[0]}


def _flatten(scores: dict, prefix: str = "") -> Any:
    for key, value in scores.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, dict):
            yield from _flatten(value, name)
        else:
            yield name, value


def run(
    model: str,
    root: str,
    seed: int,
    epochs: int,
    noise_dim: int,
    prior_std: float,
    limit: int | None,
    device: str,
    judges: Path,
) -> dict[str, Any]:
    """One model from one seed, trained and scored."""
    train, test = (MorphoMNIST(root, split, seed=seed) for split in ("train", "test"))
    images, labels = train.images[:limit], train.labels[:limit]
    where, x = resolve_device(device), test.images.float() / 255
    started = time.perf_counter()
    readers = []
    if model in ("ours", "cvae_read"):
        readers = make_readers(images, labels, READERS, READER_EPOCHS if limit is None else 1, seed, where)
    torch.manual_seed(seed)
    ours = model in ("ours", "ours_alone")
    if ours:
        pair: Any = make(images, labels, train.graph, noise_dim, prior_std)
        objective = make_objective(pair[1], readers)
    else:
        pair = conditional_vae(images, labels, train.graph.names, noise_dim)
        terms = [PredictorConsistency(readers, std=0.015, augmentation=RandomSymmetry())] if readers else []
        objective = CausalELBO(w_eps=1.0, w_z=0.0, w_eps_x=warm_up(0.1), terms=terms)
    fit(*pair, (images, labels), objective=objective, epochs=epochs, lr=3e-3, seed=seed, device=device)
    scores: dict[str, Any] = {"seconds": time.perf_counter() - started, "parameters": _count(*pair)}

    panel = Judges.load_or_train(judges / f"{seed}{'' if limit is None else f'-{limit}'}.pt", train, seed, limit, where)
    scores["real images"] = panel(x, test.labels, test.digits)
    if ours:
        r2 = r2_score(pair[0].prior.to_labels(encode(*pair, x)).cpu(), test.labels)
        scores["r2"] = dict(zip(test.graph.names, r2.tolist(), strict=True))
        scores |= judge(test, panel, lambda do: counterfactual(*pair, x, do))
        known = LabelConditionedGuide(pair[1], pair[0])
        scores["labels known"] = judge(test, panel, lambda do: counterfactual(pair[0], known, x, do, test.labels))
        return scores

    def told(do: dict[str, Tensor]) -> Tensor:
        truth = MorphoMNIST.counterfactual_labels(test.labels, do)
        return counterfactual(*pair, x, {name: truth[:, i] for i, name in enumerate(test.graph.names)}, test.labels)

    scores |= judge(test, panel, lambda do: counterfactual(*pair, x, do, test.labels))
    scores["true labels told"] = judge(test, panel, told)
    return scores


def conditional_vae(images: Tensor, labels: Tensor, names: tuple[str, ...], noise_dim: int) -> tuple[CVAE, CVAEGuide]:
    """On the networks of the example."""
    n, prior = len(names), FixedPrior.from_labels(labels)
    decoder = FiLMDecoder.from_images(images, n, noise_dim=noise_dim)
    model = CVAE(names, prior, decoder, GaussianLikelihood(learn_scale=True), noise_dim=noise_dim)
    shift, scale = labels.mean(0).tolist(), labels.std(0).tolist()
    encoder = SpatialEncoder(tuple(images.shape[1:]), label_dim=n, label_shift=shift, label_scale=scale)
    return model, CVAEGuide(encoder, prior, noise_dim=noise_dim)


def judge(test: MorphoMNIST, judges: Judges, draw: Callable[[dict[str, Tensor]], Tensor]) -> dict[str, dict[str, float]]:
    """What the judges read from reconstructions and from counterfactuals, against the closed-form truth."""
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    scores = {"reconstructions": judges(draw({}).cpu().clamp(0, 1), test.labels, test.digits)}
    for column, name in enumerate(test.graph.names):
        do = {name: test.labels[order, column]}
        truth = MorphoMNIST.counterfactual_labels(test.labels, do)
        scores[f"do({name})"] = judges(draw(do).cpu().clamp(0, 1), truth, test.digits)
    return scores


def _count(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


if __name__ == "__main__":
    main()
