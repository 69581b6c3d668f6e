"""Finding the causal graph: from labels, then jointly with images."""

from causalvae_pyro.discovery.acyclicity import exponential_acyclicity, logdet_acyclicity, polynomial_acyclicity
from causalvae_pyro.discovery.candidates import Candidates, LinearCandidates, NetworkCandidates, allowed_edges
from causalvae_pyro.discovery.independence import dependence, independent_graph
from causalvae_pyro.discovery.joint import GraphSearch, with_graph
from causalvae_pyro.discovery.labels import Discovery, discover_graph, refine_graph
from causalvae_pyro.discovery.lagrangian import AugmentedLagrangian
from causalvae_pyro.discovery.local import LocalFits, climb
from causalvae_pyro.discovery.scores import entropy_score, gaussian_score
from causalvae_pyro.discovery.threshold import to_dag

__all__ = [
    "AugmentedLagrangian",
    "Candidates",
    "Discovery",
    "GraphSearch",
    "LinearCandidates",
    "LocalFits",
    "NetworkCandidates",
    "allowed_edges",
    "climb",
    "dependence",
    "discover_graph",
    "entropy_score",
    "exponential_acyclicity",
    "gaussian_score",
    "independent_graph",
    "logdet_acyclicity",
    "polynomial_acyclicity",
    "refine_graph",
    "to_dag",
    "with_graph",
]
