"""The protocol of Melistas et al. 2024 (arXiv 2403.20287): counterfactual image models side by side, on the same images.

Morpho-MNIST at 32 x 32 with the graph thickness -> intensity, image <- (thickness, intensity, digit), or CelebA at 64 x 64
with image <- (smiling, eyeglasses). Labels are known in abduction. Each test image is intervened on once per attribute, the value
drawn from another of ten bins; what is meant are the method's own counterfactual parents. Reported are

- effectiveness, by one network per attribute that was trained on real images and sees the image alone, beside its own error
  on real test images, and against the closed-form truth where there is one;
- composition, L1 in grey levels and (with ``--lpips``) LPIPS, after 1 and 10 null interventions, each of which abducts the last
  image anew, and reversibility, L1, both of the first 500 test images;
- minimality: the counterfactual latent divergence by a VAE of 16 dimensions that knows no label, of the first 1,000;
- the Frechet distance from training images, by the judge of the digit (of the first attribute), since Inception's weights may not
  be at hand: it compares rows of this table, and is no FID of another.

A conditional VAE, a conditional hierarchical VAE and ours are trained on the same images, with the same causal layer of the
attributes. Morpho-MNIST: ``--source t10k`` trains on 8,000 of the published 10,000 test digits and tests on the others,
``--source train`` on the 60,000 training digits and tests on the 10,000. Every cell (a method from one seed) is a file under
``--cells`` that is not run again, so a stopped benchmark goes on where it was.

python -m benchmarks.protocol --data morphomnist --root PATH/TO/morphomnist
python -m benchmarks.protocol --data celeba --root PATH/TO/celeba
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As a module (python -m) or as a script.
sys.path.insert(0, str(Path(__file__).parent))

import torch
from environment import describe, write_json
from protocol_judges import Judges, digit_judges, face_judges
from protocol_methods import METHODS, FaceReaders, Parts, Readers, photographs
from protocol_scores import Answer, agreement, read_all, score
from torch import Tensor

from causalvae_pyro import counterfactual, fit
from causalvae_pyro.datasets import CelebA, MorphoMNIST
from causalvae_pyro.metrics import seeds_interval
from causalvae_pyro.priors import CategoricalPrior
from causalvae_pyro.recipes import fit_mechanisms
from causalvae_pyro.scm import CategoricalSCM, SplineFlowSCM

RESULTS = Path(__file__).parent / "results"
ROWS = ("vae", "hvae", "ours")
_STD = 0.01
# The mechanisms have a few hundred numbers to learn; of more labels they are hardly better.
_LABELS, _STEPS = 1000, 200
# Test images whose counterfactuals are kept for a picture.
_SHOWN = 10


@dataclass(frozen=True)
class Source:
    """A data set of the protocol.

    Attributes:
        open: From folder, seed and options to training and test images.
        kinds: For each concept the number of its kinds, 0 for a number.
        judges: Makes the judges.
        readers: Makes the predictors that take part in training ours.
        sizes: Channels and noise channels of the hierarchical decoders.
        noise_dim: Dimensions of the conditional VAE's noise.
        batch_size: Images per step.
        truth: True counterfactual labels, where they are known.
        recipe: Builds ours in place of the hierarchical VAE with readers.
    """

    open: Callable[[argparse.Namespace, int, str], Any]
    kinds: tuple[int, ...]
    judges: Callable[..., Judges]
    readers: Callable[..., Any]
    sizes: tuple[tuple[int, ...], tuple[int, ...]]
    noise_dim: int
    batch_size: int
    truth: Callable[[Tensor, Mapping[str, Tensor]], Tensor] | None = None
    recipe: Callable[..., Any] | None = None


def open_digits(args: argparse.Namespace, seed: int, split: str) -> MorphoMNIST:
    if args.source == "t10k":
        return MorphoMNIST(args.root, split, seed=seed, digit=True)
    return MorphoMNIST(args.root, "all", source="train" if split == "train" else "t10k", digit=True)


def open_faces(args: argparse.Namespace, seed: int, split: str) -> CelebA:
    return CelebA(args.root, {"Smiling": [], "Eyeglasses": []}, split, crop=150, size=64, seed=seed)


SOURCES: dict[str, Source] = {
    "morphomnist": Source(
        open_digits,
        (0, 0, 10),
        lambda images, labels, names, epochs, seed, file: digit_judges(images, labels, epochs, seed, file),
        Readers,
        ((64, 64, 32, 16), (32, 16, 8)),
        32,
        64,
        truth=MorphoMNIST.counterfactual_labels,
    ),
    "celeba": Source(open_faces, (2, 2), face_judges, FaceReaders, ((96, 64, 32, 16), (32, 16, 8)), 128, 32, recipe=photographs),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(SOURCES), required=True)
    parser.add_argument("--root", required=True, help="folder with the published files")
    parser.add_argument("--source", choices=("t10k", "train"), default="t10k", help="morphomnist: which digits are trained on")
    parser.add_argument("--methods", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="run only from this seed on, to share the work")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--judge-epochs", type=int, default=6)
    parser.add_argument("--reader-epochs", type=int, default=5)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no", help="of the training")
    parser.add_argument("--limit", type=int, help="train on the first so many images, and test on as many at most")
    parser.add_argument("--pixel-noise", type=float, nargs="*", default=[1.0], help="also with this share of it kept")
    parser.add_argument("--fade", type=float, nargs="*", default=[0.03], help="also with all of it kept, and this fade")
    parser.add_argument("--lpips", help="file with AlexNet's weights, as torchvision publishes them; without, LPIPS is left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=Path, default=Path("runs/protocol"), help="where judges and weights are kept")
    parser.add_argument("--cells", type=Path, default=Path("runs/protocol-cells"), help="where finished cells are kept")
    parser.add_argument("--out", type=Path, help="the summary (default: benchmarks/results/protocol_DATA.json)")
    args = parser.parse_args(argv)
    if args.first_seed >= args.seeds:
        parser.error(f"--seeds: got {args.seeds} with --first-seed {args.first_seed}; seeds run from the one up to the other")
    if args.lpips is None:
        print("LPIPS is left out: --lpips FILE takes AlexNet's weights")
    cells: dict[str, list[dict[str, Any]]] = {}
    for seed in range(args.first_seed, args.seeds):
        for method in args.methods:
            file = args.cells / args.data / f"{method}-{seed}.json"
            settings = {"source": args.source, "epochs": args.epochs, "judge_epochs": args.judge_epochs, "limit": args.limit}
            settings |= {"reader_epochs": args.reader_epochs, "pixel_noise": args.pixel_noise, "fade": args.fade}
            settings |= {"lpips": args.lpips is not None, "precision": args.precision}
            if not file.is_file() or json.loads(file.read_text())["settings"] != settings:
                write_json(file, {"settings": settings, "seed": seed, **run(method, args, seed), **describe()})
            cells.setdefault(method, []).append(cell := json.loads(file.read_text()))
            print(method, seed, json.dumps(cell["scores"]), flush=True)
    if args.out is None and (args.first_seed or set(args.methods) != set(ROWS)):
        print("a part of the work: its cells are kept; the whole command, or --out FILE, writes the summary")
        return
    out = RESULTS / f"protocol_{args.data}.json" if args.out is None else args.out
    seeds = list(range(args.first_seed, args.seeds))
    write_json(out, {"data": args.data, "seeds": seeds, "rows": summarise(cells), "settings": settings, **describe()})
    for row, found in summarise(cells).items():
        print(row)
        for key, value in found.items():
            ends = " to ".join(f"{end:.4g}" for end in value.get("interval", []))
            print(f"  {key:<60}{value['mean']:>10.4f}   {ends}")
    print(f"wrote {out}")


def run(method: str, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One method from one seed, trained and scored."""
    source = SOURCES[args.data]
    train, test = (source.open(args, seed, split) for split in ("train", "test"))
    images, labels = torch.as_tensor(train.images[: args.limit]), train.labels[: args.limit]
    x, truth = torch.as_tensor(test.images[: args.limit]).float() / 255, test.labels[: args.limit]
    # Of other images other judges and mechanisms.
    of = [f"{seed}", *([args.source] if args.source != "t10k" else []), *([f"{args.limit}"] if args.limit else [])]
    folder = args.runs / args.data / "-".join(of)
    file = folder / f"judges-{args.judge_epochs}.pt"
    judges = source.judges(images, labels, train.graph.names, args.judge_epochs, seed, file)
    torch.manual_seed(seed)
    prior = CategoricalPrior.from_labels(labels, source.kinds, std=_STD)
    scm = CategoricalSCM(SplineFlowSCM(train.graph, prior.dim), prior.kinds, width=_STD)
    parts = Parts(
        images,
        prior,
        scm,
        lambda: [source.readers(images, labels, args.reader_epochs, seed)],
        source.sizes,
        source.noise_dim,
    )
    mechanisms = folder / "mechanisms.pt"
    if not mechanisms.is_file():
        fit_mechanisms(METHODS["vae"](parts)[0], labels[:_LABELS], steps=_STEPS)
        torch.save(scm.state_dict(), part := mechanisms.with_suffix(".part"))
        part.replace(mechanisms)
    scm.load_state_dict(torch.load(mechanisms, weights_only=True))
    scm.requires_grad_(False)
    started = time.process_time()
    torch.manual_seed(seed)
    if method == "ours" and source.recipe is not None:
        model, guide, objective, reading = source.recipe(train.graph, images, labels)
    else:
        model, guide, objective = METHODS[method](parts)
        reading = guide
    data = {"epochs": args.epochs, "batch_size": source.batch_size, "seed": seed, "device": args.device, "progress": False}
    data["mixed_precision"] = args.precision
    fit(model, guide, (images, labels), objective=objective, **data)
    seconds = time.process_time() - started
    torch.save({"model": model.state_dict(), "guide": guide.state_dict()}, folder / f"{method}.pt")

    def answering(share: float, fade: float | None = None) -> Answer:
        kept: dict[str, Any] = {"pixel_noise": share, "fade": fade}

        def answer(images: Tensor, labels: Tensor, do: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            found, z = counterfactual(model, reading, images, do, labels, **kept, return_latents=True)
            meant = model.prior.to_labels(z).cpu()
            # Of a binary effect what is meant is one of its labels.
            kinds = torch.tensor(source.kinds) > 0
            return found.cpu().clamp(0, 1), torch.where(kinds, meant.round(), meant)

        return answer

    # Each set to the value of the image before.
    few, own = x[:_SHOWN], truth[:_SHOWN]
    shown = {name: answering(0.0)(few, own, {name: own[:, i].roll(1)})[0] for i, name in enumerate(test.graph.names)}
    torch.save({"factual": few.clone(), **shown}, folder / f"{method}_shown.pt")
    answers = {"": answering(0.0)}
    answers |= {f"pixel noise {share:g}": answering(share) for share in args.pixel_noise}
    answers |= {f"pixel noise 1, fade {fade:g}": answering(1.0, fade) for fade in args.fade}
    options = {"truth": source.truth, "lpips_weights": args.lpips, "seed": seed}
    scores = {
        variant: score(answer, judges, test.graph, source.kinds, x, truth, truth, images, **options)
        for variant, answer in answers.items()
    }
    return {
        "scores": scores,
        "cpu_seconds": seconds,
        "parameters": sum(p.numel() for module in (model.decoder, model.likelihood, guide) for p in module.parameters()),
        "judges on real images": agreement(read_all(judges, x), test.graph.names, source.kinds, truth),
    }


def summarise(cells: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Means over the seeds, with intervals where there are several, by row and by the path of the figure."""
    rows: dict[str, dict[str, Any]] = {}
    for method, found in cells.items():
        for variant in found[0]["scores"]:
            flat = [dict(_flatten(cell["scores"][variant])) for cell in found]
            rows[f"{method} {variant}".strip()] = {key: _mean([values[key] for values in flat]) for key in flat[0]}
        for key in ("cpu_seconds", "parameters"):
            rows[method][key] = _mean([cell[key] for cell in found])
    first = next(iter(cells.values()))
    flat = [dict(_flatten(cell["judges on real images"])) for cell in first]
    return rows | {"judges on real images": {key: _mean([values[key] for values in flat]) for key in flat[0]}}


def _mean(values: list[float]) -> dict[str, Any]:
    """The mean, and its interval over several seeds; the values themselves are in the cells."""
    return {key: value for key, value in dict(seeds_interval(values)).items() if key in ("mean", "interval")}


def _flatten(scores: Mapping[str, Any], prefix: str = "") -> Any:
    for key, value in scores.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, dict):
            yield from _flatten(value, name)
        else:
            yield name, value


if __name__ == "__main__":
    main()
