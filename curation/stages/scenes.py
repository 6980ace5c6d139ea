"""The quickstart's pool: made, not collected, so that the right answer is known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from curation.stage import Context, Stage
from curation.workspace import Workspace


@dataclass(frozen=True)
class Scenes(Stage):
    """Makes a messy pool of composed scenes, test images that leak into it, and labelled sets to judge a backbone.

    Args:
        images: Images of the pool, about.
        seed: Seed of the scenes.
    """

    name: ClassVar[str] = "scenes"
    images: int = 1400
    seed: int = 0

    def pool(self, workspace: Workspace) -> Path:
        """Where the pool is made."""
        return workspace.root / "scenes" / "pool"

    def run(self, context: Context) -> dict[str, Any]:
        """Writes scenes/pool, scenes/train, scenes/test, scenes/leak and scenes/truth.parquet."""
        from curation.miniature.scenes import make_scenes

        out = context.workspace.stage_folder(self.name)
        context.session.on_zero(lambda: make_scenes(out, seed=self.seed, images=self.images))
        return {"summary": f"a pool of about {self.images} images in {out / 'pool'}"}
