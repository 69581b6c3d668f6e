"""Soft interventions on a trained run: a concept shifted, scaled, or given another mechanism; and their average effects.

make pendulum
python examples/soft_interventions.py --run runs/pendulum --shift 2
"""

import argparse

import torch

from causalvae_pyro import Replace, Scale, Shift, ate, counterfactual, load
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.interventions import twin_worlds
from causalvae_pyro.plots import plot_comparison
from causalvae_pyro.plots.style import save_figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/pendulum")
    parser.add_argument("--shift", type=float, default=2.0, help="how far the light moves to the right")
    parser.add_argument("--scale", type=float, default=0.5, help="factor of the pendulum's angle")
    parser.add_argument("--count", type=int, default=8, help="images in the picture")
    parser.add_argument("--average", type=int, default=200, help="images that the effects are averaged over")
    parser.add_argument("--out", default="soft_interventions.png")
    args = parser.parse_args()

    run = load(args.run)
    data = Pendulum("test", size=run.config["data"]["size"])
    names = data.graph.names

    def choose(count):
        rows = torch.arange(count) * len(data) // count  # spread over the grid of scenes
        return data.images[rows].float() / 255, data.labels[rows]

    unit = data.units[data.graph.index("light")]
    changes = {
        f"light + {args.shift:g} {unit}": {"light": Shift(args.shift)},
        f"pendulum x {args.scale:g}": {"pendulum": Scale(args.scale)},
        # Hard and soft interventions mix, and any function of the natural value and the parents (none here) does.
        f"light = 10 {unit}, |pendulum|": {"light": 10.0, "pendulum": lambda natural, parents: natural.abs()},
        # Half the spread about the middle. The light keeps its noise, which is standard normal in the model.
        "new mechanism": {"light": Replace(lambda parents, noise: 9 + 2 * noise)},
    }

    x, _ = choose(args.count)
    rows = [("factual", x)]
    rows += [(title, counterfactual(run.model, run.guide, x, do=change)) for title, change in changes.items()]
    save_figure(plot_comparison(rows), args.out)
    print(f"wrote {args.out}")

    # Average effects over images, with the guide's uncertainty in 5 posterior samples; the simulator knows the true ones.
    x, labels = choose(args.average)
    change = changes[f"light + {args.shift:g} {unit}"]
    true_labels, true_images = data.counterfactual(labels, do={"light": labels[:, 1] + args.shift})
    for concept in ("shadow_length", "shadow_position"):
        effect = ate(run.model, run.guide, x, change, outcome=concept, num_samples=5)
        low, high = effect.interval
        true = (true_labels - labels)[:, names.index(concept)].mean().item()
        print(
            f"light + {args.shift:g} -> {concept}: {effect.value:.3f}, 95 % [{low:.3f}, {high:.3f}] over images; true {true:.3f}"
        )

    def brightness(images):
        return images.mean((1, 2, 3))

    effect = ate(run.model, run.guide, x, change, outcome=brightness)
    true = (brightness(true_images) - brightness(x)).mean().item()
    print(f"light + {args.shift:g} -> brightness of the image: {effect.value:.5f}; true {true:.5f}")

    # No image at all: pairs of worlds from the model that share their noise.
    factual, shifted = twin_worlds(run.model, change, num_samples=500)
    moved = (run.model.prior.to_labels(shifted.z) - run.model.prior.to_labels(factual.z)).mean(0)
    print(
        "in the model's own worlds:", ", ".join(f"{name} {value:+.3f}" for name, value in zip(names, moved.tolist(), strict=True))
    )


if __name__ == "__main__":
    main()
