"""Which light makes the shadow fall at 12? An intervention found by its gradient, on a trained run.

make pendulum
python examples/optimise_intervention.py --run runs/pendulum --position 12
"""

import argparse
from pathlib import Path

import torch

from causalvae_pyro import Shift, counterfactual, load
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.plots import plot_comparison, plot_matrix
from causalvae_pyro.plots.style import save_figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/pendulum")
    parser.add_argument("--position", type=float, default=12.0, help="where the shadow shall fall")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", default="optimise_intervention.png")
    args = parser.parse_args()

    run = load(args.run)
    data = Pendulum("test", size=run.config["data"]["size"])
    chosen = torch.arange(args.count) * len(data) // args.count  # spread over the grid of scenes
    x, labels = data.images[chosen], data.labels[chosen]
    light, shadow = (data.graph.index(name) for name in ("light", "shadow_position"))

    # Newton's method for each image. The shadow goes to the left where the light goes to the right.
    value = labels[:, light].clone().requires_grad_()
    for _ in range(args.steps):
        images, z = counterfactual(run.model, run.guide, x, do={"light": value}, return_latents=True)
        position = run.model.prior.to_labels(z)[:, shadow]
        (slope,) = torch.autograd.grad(position.sum(), value)
        with torch.no_grad():
            value -= ((position - args.position) / slope.clamp(max=-0.1)).clamp(-1, 1)
            value.clamp_(-20, 40)
    value = value.detach()
    true, true_images = data.counterfactual(labels, do={"light": value})
    for found, model_says, is_at in zip(value.tolist(), position.tolist(), true[:, shadow].tolist(), strict=True):
        print(f"light = {found:6.2f}: the model's shadow at {model_says:6.2f}, the simulator's at {is_at:6.2f}")
    error = (true[:, shadow] - args.position).abs().mean().item()
    print(f"mean distance of the true shadow from {args.position:g}: {error:.3f}")

    rows = [("factual", x), (f"shadow at {args.position:g}", images.detach()), ("simulator", true_images)]
    save_figure(plot_comparison(rows), args.out)

    # The gradient of every concept with respect to a shift of each, averaged over the images.
    gradients = torch.zeros(4, 4)
    for cause, name in enumerate(data.graph.names):
        by = torch.zeros(len(x), requires_grad=True)
        _, z = counterfactual(run.model, run.guide, x, do={name: Shift(by)}, return_latents=True)
        for effect, column in enumerate(run.model.prior.to_labels(z).unbind(-1)):
            gradients[cause, effect] = torch.autograd.grad(column.sum(), by, retain_graph=True)[0].mean()
    picture = Path(args.out).with_stem(f"{Path(args.out).stem}_gradients")
    save_figure(plot_matrix({"mean gradient": gradients}, data.graph.names), picture)
    print(f"wrote {args.out} and {picture}")


if __name__ == "__main__":
    main()
