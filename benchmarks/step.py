"""Training step of ``fit`` against a hand-written PyTorch step of the same maths, side by side in one run.

Both start from the same weights, use the same networks, data path and optimiser, and must arrive at the same loss. The
hand-written loop has no Pyro in it: no traces, no sites, no distributions.

python benchmarks/step.py --out benchmarks/results/step.json
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
import time

import torch
from environment import describe, write_json

from causalvae_pyro import fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.recipes import Recipe


def hand_written(model, guide, images, labels, steps, batch_size, lr):
    """The same objective written out; returns the mean loss per image."""
    scm, decoder, likelihood, encoder, head = model.scm, model.decoder, model.likelihood, guide.encoder, guide.head
    shift, scale, prior_std = model.prior.shift, model.prior.scale, model.prior.std
    parameters = [*model.parameters(), *guide.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)
    generator = torch.Generator().manual_seed(0)
    log_two_pi = math.log(2 * math.pi)
    total, step = torch.zeros((), dtype=torch.float64), 0
    while step < steps:
        for index in torch.randperm(len(images), generator=generator).split(batch_size):
            index = index.to(images.device)
            x = images[index].float().div_(255)
            target = ((labels[index] - shift) / scale)[..., None]
            optimizer.zero_grad(set_to_none=True)
            loc, std = head(encoder(x))
            z = loc + std * torch.randn_like(std)
            sigma = likelihood.scale
            squares = torch.nn.functional.mse_loss(decoder(z).sigmoid(), x, reduction="sum")
            reconstruction = -0.5 * squares / sigma.square() - x.numel() * (sigma.log() + 0.5 * log_two_pi)
            lam = prior_std[:, None]
            kl = ((std / lam).square() + ((loc - target) / lam).square() - 1).sum() / 2 + (lam.log() - std.log()).sum()
            noise = scm.noise_scale
            residual = (target - scm.means(target)) / noise[:, None]
            label_fit = 0.5 * (residual.square() + log_two_pi).sum() + len(index) * noise.log().sum()
            loss = -reconstruction + kl + label_fit
            # fit looks at the loss of every step on a CPU; so does this loop.
            if not images.is_cuda and not math.isfinite(loss.item()):
                raise FloatingPointError("loss")
            loss.backward()
            optimizer.step()
            total = total + loss.detach() / len(index)
            step += 1
            if step == steps:
                break
    return total.item() / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps per round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    data = Pendulum("train", size=args.size)
    images, labels = data.images[: args.steps * args.batch_size], data.labels[: args.steps * args.batch_size]
    torch.manual_seed(0)
    recipe = Recipe()
    run = recipe.build(data.graph, images, labels)
    # Where they lie during training, for both.
    for module in (run.model, run.guide):
        module.to(args.device)
    images, labels = images.to(args.device), labels.to(args.device)
    # The memory layout that fit chooses, for both.
    for module in (*run.model.modules(), *run.guide.modules()):
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            module.to(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {"fit": [], "hand-written": []}
    losses: dict[str, float] = {}
    for round_ in range(args.rounds + 1):
        # Turns are taken in alternating order, so that a drift of the machine's speed hits both alike.
        for name in list(seconds)[:: 1 if round_ % 2 else -1]:
            model, guide = copy.deepcopy((run.model, run.guide))
            start = time.perf_counter()
            if name == "fit":
                options = {"batch_size": args.batch_size, "epochs": 1, "schedule": None, "lr": 1e-3, "progress": False}
                history = fit(model, guide, (images, labels), objective=recipe.objective(run), device=args.device, **options)
                losses[name] = history["loss"][-1]
            else:
                torch.manual_seed(0)
                losses[name] = hand_written(model, guide, images, labels, args.steps, args.batch_size, 1e-3)
            # The first round warms up.
            if round_:
                seconds[name].append((time.perf_counter() - start) / args.steps)
    difference = abs(losses["fit"] - losses["hand-written"]) / abs(losses["hand-written"])
    # cuDNN multiplies with ten bits.
    if difference > (1e-4 if args.device == "cpu" else 2e-3):
        sys.exit(f"the two loops do not compute the same: losses {losses}")
    ratios = [a / b for a, b in zip(seconds["fit"], seconds["hand-written"], strict=True)]
    result = {
        "milliseconds_per_step": {name: 1000 * statistics.median(values) for name, values in seconds.items()},
        "ratio_median": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "loss": losses,
        "options": vars(args),
        **describe(),
    }
    for name, value in result["milliseconds_per_step"].items():
        print(f"{name:<14}{value:8.1f} ms per step of {args.batch_size} images, {args.threads} threads")
    print(f"fit / hand-written: {result['ratio_median']:.3f} (median of {args.rounds}; {min(ratios):.3f} to {max(ratios):.3f})")
    print(f"mean loss per image: {losses['fit']:.3f} and {losses['hand-written']:.3f}")
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
