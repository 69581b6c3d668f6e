"""Faces: SMILE, BEARD or one of DEAR's concept groups, with noise of the image's own at several resolutions.

The training of causalvae train celeba, in Python. A predictor that had no part in it judges the counterfactuals.

python examples/train_celeba.py --root PATH --group smile
"""

import argparse

import torch

from causalvae_pyro import counterfactual, encode, fit, save
from causalvae_pyro.datasets import CELEBA_GROUPS, CelebA
from causalvae_pyro.evaluation import train_photograph_predictor
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.plots.style import save_figure
from causalvae_pyro.recipes import choose_recipe


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with the files, as torchvision or Kaggle has them")
    parser.add_argument("--group", default="smile", choices=sorted(CELEBA_GROUPS))
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--size", type=int, default=64, choices=[64, 128])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--limit", type=int, help="train on the first so many images only")
    parser.add_argument("--predictor-steps", type=int, default=1000, help="of the training of the predictor that judges")
    parser.add_argument("--workers", type=int, help="threads that decode; by default one per core")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--mixed-precision", choices=["bf16"], help="half the time where the processor computes in it")
    parser.add_argument("--out", default="runs/celeba")
    args = parser.parse_args()

    torch.manual_seed(0)
    options = {"size": args.size, "download": args.download, "workers": args.workers}
    data, test = (CelebA(args.root, args.group, split, **options) for split in ("train", "test"))
    images, labels = torch.as_tensor(data.images[: args.limit]), data.labels[: args.limit]
    recipe, why = choose_recipe(images, labels, decoder="hierarchical")
    print(why or "mirrored and slightly changed images keep their labels")
    run = recipe.build(data.graph, images, labels, {"data": {"name": "celeba", "root": args.root, "group": args.group}})
    fit(
        run.model,
        run.guide,
        (images, labels),
        objective=recipe.objective(run),
        epochs=args.epochs,
        batch_size=32,
        device=args.device,
        mixed_precision=args.mixed_precision,
    )
    save(run, args.out)

    predictor = train_photograph_predictor(images, labels, run.config["binary"], steps=args.predictor_steps)
    x, truth = torch.as_tensor(test.images[:1000]), test.labels[:1000]
    read = run.model.prior.to_labels(encode(run.model, run.guide, x)).cpu()
    rows = [("factual", x[:8])]
    for column, name in enumerate(test.concepts):
        label, other = truth[:, column], 1 - truth[:, column]
        changed, z = counterfactual(run.model, run.guide, x, {name: other}, return_latents=True)
        changed, meant = changed.cpu().clamp(0, 1), run.model.prior.to_labels(z).cpu()
        rows.append((f"do({name} = the other)", changed[:8]))

        def right(seen, wanted, column=column):
            return f"{100 * ((seen[:, column] > 0.5) == (wanted > 0.5)).float().mean().item():.1f} %"

        seen = predictor.predict(changed)
        print(
            f"{name}: read correctly from {right(read, label)} of test images; set to the other value, seen by the predictor in "
            f"{right(seen, other)} (in images left alone {right(predictor.predict(x), other)})"
        )
        # Nobody knows the truth of its effects: whether they follow at all, and whether the picture shows what the model means.
        for effect in test.graph.descendants(name):
            k = test.graph.index(effect)
            follows = 100 * ((meant[:, k] > 0.5) != (truth[:, k] > 0.5)).float().mean().item()
            print(
                f"  its effect {effect}: the model changes it in {follows:.1f} %, seen as meant in {right(seen, meant[:, k], k)}"
            )
    save_figure(plot_comparison(rows), f"{args.out}/counterfactuals.png")
    print(f"wrote {args.out}/counterfactuals.png")


if __name__ == "__main__":
    main()
