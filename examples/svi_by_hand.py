"""The whole of it in plain Pyro: SVI, Trace_ELBO and poutine.do, without this package's trainer.

python examples/svi_by_hand.py
"""

import argparse

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from causalvae_pyro import AmortizedGuide, CausalVAE, ConvDecoder, ConvEncoder, FixedPrior, GaussianLikelihood, LinearSCM
from causalvae_pyro.datasets import Pendulum


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()

    pyro.set_rng_seed(0)
    data = Pendulum("train", size=args.size)
    images, labels = data.images[: args.limit], data.labels[: args.limit]
    scm = LinearSCM(data.graph, learn_noise=True)
    prior = FixedPrior.from_labels(labels, std=0.1)
    model = CausalVAE(scm, prior, ConvDecoder.from_images(images, 4), GaussianLikelihood(learn_scale=True))
    guide = AmortizedGuide(ConvEncoder(tuple(images.shape[1:])), num_concepts=4)

    svi = SVI(model, guide, Adam({"lr": 1e-3}), loss=Trace_ELBO())
    for epoch in range(args.epochs):
        total = 0.0
        for index in torch.randperm(len(images)).split(64):
            total += svi.step(images[index], labels[index])
        print(f"epoch {epoch + 1}: loss {total / len(images):.1f} nats per image")

    with torch.no_grad():
        eps = guide(images[:4])
        world = poutine.condition(poutine.do(model, data={"light": 1.5}), data={"eps": eps})
        z = poutine.trace(world).get_trace(num_samples=4).nodes["z"]["value"]
    print(f"light under do(light = 1.5): {z[:, 1, 0].tolist()}")


if __name__ == "__main__":
    main()
