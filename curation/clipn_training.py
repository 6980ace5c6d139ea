"""Training of CLIPN's `no` tower for any open_clip model, with the published losses."""

import hashlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from curation.clipn import NoBranch, clipn_losses, save_no_branch
from curation.encoders import ImageTextEncoder
from curation.packaged import resolve


class TrainNoBranch(LightningModule):
    """Trains the `no` tower beside a frozen image-text model (CLIPN, Wang et al. 2023).

    Starts as a copy of the yes tower with zero prompts; only the `_no` parameters learn. Defaults are CLIPN's, whose
    run is 10 epochs of CC3M at a global batch of 2048 in mixed precision.

    Args:
        model: open_clip architecture, or a folder with open_clip_config.json and weights.
        pretrained: open_clip's name of the weights, or a file; null for a folder.
        lr: Peak learning rate; a cosine to 0 over all steps, without warm-up.
        weight_decay: Of matrices; biases, norms and gains have none.
        logit_scale: Factor of the cosines in the losses. CLIPN takes the model's own, 100 in the published ones, and
            scores with 100; null takes the model's own, at most 100.
        opposite_weight: Of the loss that keeps the two towers' texts apart (CLIPN: 1). Where an image is not closer to
            every text than to its opposite, as with small models, less of it tells images of other things better.
        reuse_images: Embeds each picture once and remembers it, for pictures that come out alike every epoch
            (data.crop_scale 1); their embeddings stay in memory. Embedding them is most of the time on a CPU.
        output: File that is written at the end; null for no_branch.safetensors in the run's folder.
        seed: Of the prompts that a step draws.
    """

    encoder: ImageTextEncoder
    scale: Tensor

    def __init__(
        self, model: str = "ViT-B-16", pretrained: str | None = "laion2b_s34b_b88k", lr: float = 3e-4,
        weight_decay: float = 0.2, logit_scale: float | None = 100.0, opposite_weight: float = 1.0,
        reuse_images: bool = False, output: str | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if lr <= 0:
            raise ValueError(f"model.lr must be positive, got {lr}")
        if logit_scale is not None and logit_scale <= 0:
            raise ValueError(f"model.logit_scale must be positive, or null for the model's own, got {logit_scale}")
        if opposite_weight < 0:
            raise ValueError(f"model.opposite_weight must not be negative, got {opposite_weight}")
        encoder = ImageTextEncoder.load(resolve(model), pretrained, key="model")
        # The frozen towers are no submodule: they belong neither in checkpoints nor in the optimiser.
        object.__setattr__(self, "encoder", encoder)
        self.prepare = encoder.prepare
        self.branch = NoBranch(encoder.model)
        own = min(100.0, float(encoder.model.logit_scale.exp()))  # type: ignore[operator]
        self.register_buffer("scale", torch.tensor(logit_scale or own), persistent=False)
        self.lr, self.weight_decay, self.output, self.seed = lr, weight_decay, output, seed
        self.opposite_weight = opposite_weight
        self.seen: dict[bytes, Tensor] | None = {} if reuse_images else None

    def on_fit_start(self) -> None:
        """The frozen towers go where this module is."""
        self.encoder.to(self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """CLIPN's three losses on the global batch; pairs that share a caption are no negatives of each other."""
        encoder = self.encoder
        captions = batch["caption"]
        tokens = encoder.tokenizer(captions).to(self.device)
        # A function of the step: a run that goes on draws what it would have drawn.
        step = self.global_step * self.trainer.world_size + self.global_rank
        # Mixed into 32 bits: torch's generator on the CPU ignores a seed's upper half.
        mixed = np.random.SeedSequence((self.seed, step)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        with torch.no_grad():
            image, yes = self._embed_images(batch["image"]), encoder.embed_texts(captions)
        no = F.normalize(self.branch(tokens, generator).float(), dim=1)
        if self.trainer.world_size > 1:
            # The other ranks' pairs are negatives too; gradients flow back through the gathered `no` features.
            image, yes, tokens = (cast(Tensor, self.all_gather(value)).flatten(0, 1) for value in (image, yes, tokens))
            no = cast(Tensor, self.all_gather(no, sync_grads=True)).flatten(0, 1)
        same = (tokens[:, None] == tokens[None]).all(dim=-1)
        # In half precision the logits, near 100, would be a quarter of one apart.
        with torch.autocast(self.device.type, enabled=False):
            loss, parts = clipn_losses(image.float(), yes.float(), no.float(), self.scale, same, self.opposite_weight)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()})
        return loss

    def _embed_images(self, images: Tensor) -> Tensor:
        """Unit float32 [N, D] of uint8 [N, 3, S, S]."""
        if self.seen is None:
            return self.encoder.embed_images(images)
        names = [hashlib.sha1(image.tobytes(), usedforsecurity=False).digest() for image in images.cpu().numpy()]
        new = [place for place, name in enumerate(names) if name not in self.seen]
        if new:
            embeddings = self.encoder.embed_images(images[new])
            self.seen.update(zip([names[place] for place in new], embeddings.cpu(), strict=True))
        return torch.stack([self.seen[name] for name in names]).to(self.device)

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
        """Writes the tower and says where."""
        if self.trainer.is_global_zero:
            path = Path(self.output) if self.output else Path(self.trainer.default_root_dir) / "no_branch.safetensors"
            save_no_branch(self.branch, path)
            print(f"no branch   {path}  (use it as curation.ood.no_branch, or put it beside the model)")
