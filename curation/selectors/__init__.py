"""Ways to order the images that are left, and so to choose some of them: the paper's, and baselines to compare with.

All read the same columns and embeddings. `curation.select.method` and `select --method` name one by its class.
Imports no torch.
"""

from curation.selectors.balanced_clusters import BalancedClusters
from curation.selectors.base import Candidates, Ranking, Selector
from curation.selectors.one_score import ClipScore, OneScore
from curation.selectors.pareto import Pareto
from curation.selectors.random_draw import Random
from curation.selectors.semantic_deduplication import SemanticDeduplication

METHODS: dict[str, type[Selector]] = {
    kind.__name__: kind for kind in (Pareto, Random, ClipScore, OneScore, BalancedClusters, SemanticDeduplication)
}

__all__ = [
    "METHODS", "BalancedClusters", "Candidates", "ClipScore", "OneScore", "Pareto", "Random", "Ranking", "Selector",
    "SemanticDeduplication",
]  # fmt: skip
