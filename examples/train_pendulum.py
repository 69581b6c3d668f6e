"""Train CausalVAE on Pendulum, piece by piece, and save it.

python examples/train_pendulum.py --out runs/example
"""

import argparse

import torch

from causalvae_pyro import (
    AdditiveNoiseSCM,
    AmortizedGuide,
    CausalELBO,
    CausalVAE,
    ConvDecoder,
    ConvEncoder,
    FixedPrior,
    GaussianLikelihood,
    Run,
    fit,
    save,
)
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation.evaluate import evaluate, score_table
from causalvae_pyro.objectives import LabelFit


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=64, help="side of the images, a multiple of 16")
    parser.add_argument("--limit", type=int, help="use the first so many images only")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/example")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    data = Pendulum("train", size=args.size)
    images, labels = data.images[: args.limit], data.labels[: args.limit]
    n, shape = len(data.graph), tuple(images.shape[1:])

    scm = AdditiveNoiseSCM(data.graph, learn_noise=True)  # z_i = g_i(A_i o z) + s_i eps_i
    model = CausalVAE(
        scm,
        FixedPrior.from_labels(labels, std=0.005),  # p(z | u) = N(standardised u, 0.005^2)
        ConvDecoder.from_images(images, n),
        GaussianLikelihood(learn_scale=True),
    )
    guide = AmortizedGuide(ConvEncoder(shape), scm, init_scale=0.005)  # q(z | x), mapped back to eps

    fit(
        model,
        guide,
        (images, labels),
        objective=CausalELBO(w_eps=0, w_z=1, terms=[LabelFit()]),  # a bound on log p(x, u)
        epochs=args.epochs,
        device=args.device,
        seed=args.seed,
    )

    run = Run(model, guide, {"data": {"name": "pendulum", "size": args.size}})
    save(run, args.out)
    print(score_table(evaluate(run, Pendulum("test", size=args.size), limit=args.limit)))
    print(f"saved to {args.out}; look at it with: causalvae evaluate {args.out}")


if __name__ == "__main__":
    main()
