"""Training of CLIPN's `no` tower for any open_clip model, with the published losses."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from curation.clipn import NoBranch, clipn_losses, save_no_branch
from curation.encoders import ImageTextEncoder
from curation.packaged import resolve


class TrainNoBranch(LightningModule):
    """Trains the `no` tower beside a frozen image-text model; defaults are CLIPN's (spec: 10 epochs, batch 2048).

    Args:
        model: open_clip architecture, or a folder with open_clip_config.json and weights.
        pretrained: open_clip's name of the weights, or a file; null for a folder.
        lr: Peak learning rate; a cosine to 0 follows, without warm-up.
        weight_decay: Of matrices; biases, norms and gains have none.
        output: Where no_branch.safetensors is written at the end; null for the run's folder.
        seed: Of the prompts that a step draws.
    """

    def __init__(
        self, model: str = "ViT-B-16", pretrained: str | None = "laion2b_s34b_b88k", lr: float = 3e-4,
        weight_decay: float = 0.2, output: str | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if lr <= 0:
            raise ValueError(f"model.lr must be positive, got {lr}")
        encoder = ImageTextEncoder.load(resolve(model), pretrained)
        # Frozen towers are no part of this module's checkpoints.
        object.__setattr__(self, "encoder", encoder)
        self.prepare = encoder.prepare
        self.branch = encoder.no_branch if isinstance(encoder.no_branch, NoBranch) else NoBranch(encoder.model)
        self.branch.requires_grad_(True)
        self.lr, self.weight_decay, self.output, self.seed = lr, weight_decay, output, seed
        self.order: Any = None

    def on_fit_start(self) -> None:
        """The frozen towers go where this module is."""
        self.encoder.to(self.device)

    def on_train_epoch_start(self) -> None:
        """A run that goes on draws the order of the epoch it is in."""
        self.branch.train()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """CLIPN's three losses on a batch of pairs; pairs that share a caption are no negatives."""
        encoder: ImageTextEncoder = self.encoder
        captions = batch["caption"]
        image, yes = encoder.embed_images(batch["image"]), encoder.embed_texts(captions)
        generator = torch.Generator().manual_seed(hash((self.seed, self.global_step)) % 2**31)
        tokens = encoder.tokenizer(captions).to(self.device)
        no = F.normalize(self.branch(tokens, generator).float(), dim=1)
        same = (tokens[:, None] == tokens[None]).all(dim=-1)
        scale = encoder.model.logit_scale.exp().detach().clamp(max=100)  # type: ignore[operator, union-attr]
        loss, parts = clipn_losses(image.detach(), yes.detach(), no, scale, same)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()})
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW (betas 0.9, 0.98, eps 1e-6), cosine per step."""
        matrices = [p for p in self.branch.parameters() if p.ndim >= 2]
        others = [p for p in self.branch.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.98), eps=1e-6)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_end(self) -> None:
        """Writes the tower."""
        if self.trainer.is_global_zero:
            path = Path(self.output) if self.output else Path(self.trainer.default_root_dir) / "no_branch.safetensors"
            save_no_branch(self.branch, path)
            print(f"no branch   {path}  (use it as curation.ood.no_branch)")
