"""SSCD's score normalisation, an option of the leakage gate."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from curation.embeddings import Embeddings
from curation.evaluation_sets import check_set
from curation.leakage import background_similarity, max_similarity
from curation.representatives import hashes
from curation.stage import Context
from curation.stages.evaluation_images import embed_sets, embedded
from curation.workspace import write_array
from datamodules.datasets.names import placed

KEY = "curation.leakage.score_normalisation"


@dataclass(frozen=True)
class ScoreNormalisation:
    """Similarities to a test image that resembles everything count for less (SSCD, Pizzi et al. 2022).

    The score of an image is the highest, over the test images t, of cosine(image, t) - beta * (mean cosine of t to its
    nearest background images). Scores are no cosines: neither the paper's threshold nor another cosine fits them.

    Args:
        threshold: Images with a higher score are dropped, whatever their cosine.
        beta: Weight of the mean (SSCD: 1).
        neighbours: Background images of the mean (SSCD: 3).
        background: Folder, shards or CSV of images that resemble the pool and hold no copy of a test image; null draws
            from the pool, among what is not closer to a test image than the gate's own threshold.
        sample: Images that are drawn from the pool.
    """

    threshold: float
    beta: float = 1.0
    neighbours: int = 3
    background: str | None = None
    sample: int = 10_000

    def check(self, workspace: Path) -> None:
        """Raises for settings that make no sense, and for a background that is not there."""
        if not math.isfinite(self.threshold):
            raise ValueError(f"{KEY}.threshold must be a number, got {self.threshold}")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"{KEY}.beta must be at least 0, got {self.beta}")
        if not 1 <= self.neighbours <= self.sample:
            raise ValueError(f"{KEY}.neighbours must be from 1 to sample ({self.sample}), got {self.neighbours}")
        if self.background is not None:
            check_set("background", placed(self.background, workspace), f"{KEY}.background")

    def offsets(
        self, context: Context, tests: Embeddings, rows: np.ndarray, pool: Embeddings, below: float, batch_size: int,
        device: torch.device,
    ) -> np.ndarray:  # fmt: skip
        """What is added to the similarities to each test image, float32 [T]; on all ranks.

        rows, pool: of the index, and their vectors; below: similarity to a test image of the pool's images that may be
        drawn.
        """
        folder = context.workspace.stage_folder("leakage")
        # Kept: another device would give other last digits to the chunks that an interrupted run left.
        path = folder / "background.npy"
        own = None
        if self.background is not None and not context.session.on_zero(path.exists):
            sets = {"background": placed(self.background, context.workspace.root)}
            space = embed_sets(context, folder / "background", sets, batch_size, f"{KEY}.background")
            own = embedded(space, f"{KEY}.background")[1]

        def means() -> np.ndarray:
            if not path.exists():
                background = self._draw(context, tests, rows, pool, below, device) if own is None else own
                if len(background) < self.neighbours:
                    raise ValueError(
                        f"{KEY}.neighbours is {self.neighbours}, but the background has {len(background)} images; give "
                        "a larger background, or fewer neighbours"
                    )
                write_array(path, background_similarity(tests, background, self.neighbours, device))
            return np.load(path)

        return np.float32(-self.beta) * context.session.on_zero(means)

    def _draw(
        self, context: Context, tests: Embeddings, rows: np.ndarray, pool: Embeddings, below: float,
        device: torch.device,
    ) -> Embeddings:  # fmt: skip
        """The images with the smallest hashes of seed and key, less what may be copies of test images."""
        keys = context.workspace.index["key"].combine_chunks()
        order = np.argsort(hashes(keys, rows, context.seed)[:, 0], kind="stable")
        sample = pool.take(np.sort(order[: self.sample]))
        return sample.take(max_similarity(sample, tests, device=device)[0] <= below)
