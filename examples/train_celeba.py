"""Faces: SMILE, BEARD or one of DEAR's concept groups, with noise of the image's own at several resolutions.

The same as causalvae train celeba, in Python. A predictor that had no part in the training judges the counterfactuals.

python examples/train_celeba.py --root PATH --group smile
"""

import argparse

import torch

from causalvae_pyro import Recipe, counterfactual, encode, fit, save
from causalvae_pyro.datasets import CELEBA_GROUPS, CelebA
from causalvae_pyro.evaluation import train_photograph_predictor
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.plots.style import save_figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with the files, as torchvision or Kaggle has them")
    parser.add_argument("--group", default="smile", choices=sorted(CELEBA_GROUPS))
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--size", type=int, default=64, choices=[64, 128])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--limit", type=int, help="train on the first so many images only")
    parser.add_argument("--predictor-steps", type=int, default=1000, help="of the training of the predictor that judges")
    parser.add_argument("--workers", type=int, help="processes that decode; by default one per core")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="runs/celeba")
    args = parser.parse_args()

    torch.manual_seed(0)
    options = {"size": args.size, "download": args.download, "workers": args.workers}
    data, test = (CelebA(args.root, args.group, split, **options) for split in ("train", "test"))
    images, labels = torch.as_tensor(data.images[: args.limit]), data.labels[: args.limit]
    recipe = Recipe(decoder="hierarchical")
    run = recipe.build(data.graph, images, labels, {"data": {"name": "celeba", "root": args.root, "group": args.group}})
    fit(
        run.model,
        run.guide,
        (images, labels),
        objective=recipe.objective(run),
        epochs=args.epochs,
        batch_size=32,
        device=args.device,
    )
    save(run, args.out)

    predictor = train_photograph_predictor(images, labels, run.config["binary"], steps=args.predictor_steps)
    x, truth = torch.as_tensor(test.images[:1000]), test.labels[:1000]
    read = run.model.prior.to_labels(encode(run.model, run.guide, x)).cpu()
    rows = [("factual", x[:8])]
    for column, name in enumerate(test.concepts):
        label, other = truth[:, column], 1 - truth[:, column]
        changed = counterfactual(run.model, run.guide, x, {name: other}).cpu().clamp(0, 1)
        rows.append((f"do({name} = the other)", changed[:8]))

        def right(seen, meant, column=column):
            return f"{100 * ((seen[:, column] > 0.5) == (meant > 0.5)).float().mean().item():.1f} %"

        print(
            f"{name}: read correctly from {right(read, label)} of test images; set to the other value, seen by the predictor in "
            f"{right(predictor.predict(changed), other)} (in images left alone {right(predictor.predict(x), other)})"
        )
    save_figure(plot_comparison(rows), f"{args.out}/counterfactuals.png")
    print(f"wrote {args.out}/counterfactuals.png")


if __name__ == "__main__":
    main()
