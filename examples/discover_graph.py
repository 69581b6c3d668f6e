"""Find the causal graph from labels and images, without an order, and watch it form.

    python examples/discover_graph.py --out runs/discover

Stage one learns it from the labels alone, stage two jointly with the encoder and decoder; then the graph is frozen, and training
goes on with its causal layer. The picture shows the strengths A as they form, and the graph found beside the true one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import causalvae_pyro as cv
from causalvae_pyro.datasets import Flow, Pendulum
from causalvae_pyro.discovery import GraphSearch, allowed_edges, discover_graph, refine_graph, with_graph
from causalvae_pyro.metrics import cf_score, shd
from causalvae_pyro.plots.style import MIN_FONT, figure_style, readable, save_figure, subplots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["pendulum", "flow"], default="pendulum")
    parser.add_argument("--noise", type=float, default=0.3, help="mechanism noise in label standard deviations; 0 as published")
    parser.add_argument("--order", nargs="+", help="the concepts, causes first, where the order is known")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, default=4, help="of stage two, and as many again with the graph found")
    parser.add_argument("--limit", type=int, help="train on so many images only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/discover"))
    args = parser.parse_args()
    source = {"pendulum": Pendulum, "flow": Flow}[args.data]
    data = source("train", noise=args.noise, size=args.size, seed=args.seed)
    every = max(1, len(data) // (args.limit or len(data)))
    images, labels, names, truth = data.images[::every], data.labels[::every], data.graph.names, data.graph
    allowed = allowed_edges(names, order=args.order)

    # Stage one: labels alone.
    found = discover_graph(labels, names, allowed=allowed, seed=args.seed)
    print(f"from the labels, by descent alone: {found.continuous.edges}, SHD {shd(found.continuous, truth)}")
    print(f"from the labels, all graphs compared: {found.graph.edges}, SHD {shd(found.graph, truth)}")

    # Stage two: no graph in the causal layer yet, candidate mechanisms on what the encoder reads.
    torch.manual_seed(args.seed)
    scm = cv.LinearSCM(cv.CausalGraph(names), dim=2)
    prior = cv.FixedPrior.from_labels(labels, dim=2, std=0.005)
    decoder = cv.ConvDecoder.from_images(images, len(names), dim=2)
    model = cv.CausalVAE(scm, prior, decoder, cv.GaussianLikelihood(learn_scale=True))
    guide = cv.AmortizedGuide(cv.ConvEncoder(tuple(images.shape[1:])), scm, init_scale=0.005)
    search = GraphSearch(found.candidates, lagrangian=found.lagrangian)
    cv.fit(model, guide, (images, labels), objective=cv.CausalELBO(terms=[search]), epochs=args.epochs, seed=args.seed)
    z = cv.encode(model, guide, images)
    read = refine_graph(z.mean(-1), search.graph(names), allowed=allowed, seed=args.seed)
    print(f"jointly with images, by descent: {search.graph(names).edges}, SHD {shd(search.graph(names), truth)}")
    print(f"from what the encoder reads, all graphs compared: {read.edges}, SHD {shd(read, truth)}")

    # Every image has its labels here, and they are the concepts without the encoder's error: their graph counts.
    graph = found.graph
    # The graph is frozen: from here on interventions reach every descendant.
    model, guide = with_graph(model, guide, graph)
    cv.fit(model, guide, (images, labels), epochs=args.epochs, seed=args.seed)
    test = source("test", noise=args.noise, size=args.size, seed=args.seed)
    x, factual = test.images[:: len(test) // 64], test.labels[:: len(test) // 64]
    for name in names:
        do = {name: factual[:, names.index(name)].flip(0)}
        true_labels, true = test.counterfactual(factual, do)
        made, z = cv.counterfactual(model, guide, x, do, return_latents=True)
        effects = [names.index(effect) for effect in truth.descendants(name)]
        error, moved = ((u - true_labels)[:, effects].abs().mean().item() for u in (model.prior.to_labels(z), factual))
        what = f"; its effects: mean error {error:.2f}, they move by {moved:.2f}" if effects else ""
        print(f"do({name}): CF-score {cf_score(made, true, x):.3f} (0: the image left alone, 1: the true one){what}")
    args.out.mkdir(parents=True, exist_ok=True)
    cv.save(cv.Run(model, guide, {}), args.out)
    path = args.out / "discovery.png"
    save_figure(draw([*found.snapshots], [*search.snapshots], graph, truth), path)
    print(f"wrote {path}")


@figure_style()
def draw(labels: list[torch.Tensor], images: list[torch.Tensor], graph: cv.CausalGraph, truth: cv.CausalGraph) -> Figure:
    """Strengths over rounds and epochs, the graph found and the true one."""
    rounds = sorted({0, len(labels) // 3, 2 * len(labels) // 3, len(labels) - 1})
    panels = [(f"labels, round {i + 1}", labels[i]) for i in rounds]
    panels += [(f"images, epoch {i + 1}", matrix) for i, matrix in enumerate(images)][-2:]
    panels += [("found", graph.adjacency), ("true", truth.adjacency)]
    names = [readable(name) for name in graph.names]
    figure, grid = subplots(2, (len(panels) + 1) // 2, height=4.8)
    for axes, (title, matrix) in zip(grid.flat, panels, strict=False):
        axes.imshow(matrix.numpy(), vmin=0, vmax=1)
        axes.set_title(title)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        # The names of the row's first panel are those of all.
        axes.set_yticks(range(len(names)), names if axes in grid[:, 0] else [])
        axes.set(xlabel="effect", ylabel="cause")
        for j, i in (matrix >= 0.05).nonzero().tolist():
            colour = "white" if matrix[j, i] < 0.6 else "black"
            axes.text(i, j, f"{matrix[j, i]:.2f}", ha="center", va="center", fontsize=MIN_FONT, color=colour)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    figure.suptitle("strength of the edge from each cause to each effect")
    return figure


if __name__ == "__main__":
    main()
