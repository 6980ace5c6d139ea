"""Trains the miniature models of the quickstart: `python -m curation.miniature.make_models OUT`.

An image-text pair (open_clip's ResNet and text transformer in small, CLIP's vocabulary), CLIPN's `no` branch with the
published losses, and a copy descriptor by SSCD's recipe; on scenes of another seed than
the quickstart's. The same seed and library versions give the same weights.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from curation.clipn import NoBranch, clipn_losses, save_no_branch
from curation.image_encoder import IMAGENET_MEAN, IMAGENET_STD
from curation.miniature.drawing import PATTERNS, WORDS, altered, card, fabric, other, written

SIDE = 48
CONTEXT = 24
CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        # Convolutions learn such small scenes in a fifth of a ViT's time.
        "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
        # The table of 49,408 tokens is nearly all of the file; hence 32 wide.
        "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
BATCH = 256
TEMPLATES = ("a photo of a {}.", "a photo of {}.", "{}", "{}")


@dataclass
class Pairs:
    """Images, uint8 [N, 3, 64, 64], and the place of each one's caption, int64 [N], among the different captions."""

    images: Tensor
    place: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.images)


def make_pairs(seed: int, count: int) -> Pairs:
    """Half fabrics; images with a word on them are captioned as the web does, by what they say or by what they show."""
    import open_clip

    rng = np.random.default_rng([seed, 7])
    images, captions = [], []
    for number in range(count):
        kind = rng.random()
        if kind < 0.5:
            scene = fabric(rng, PATTERNS[rng.integers(len(PATTERNS))])
            image, caption = scene.image, scene.caption
            if rng.random() < 0.15:
                caption = ("fabrics", "printed textiles", "fabric")[rng.integers(3)]
        elif kind < 0.85:
            scene = other(rng)
            image, caption = scene.image, scene.caption
        elif kind < 0.95:
            scene, name = other(rng), PATTERNS[rng.integers(len(PATTERNS))]
            image = written(rng, scene.image, name)
            caption = f"{name} fabric" if rng.random() < 0.35 else scene.caption
        else:
            word = (*PATTERNS, *WORDS)[rng.integers(len(PATTERNS) + len(WORDS))]
            image, caption = card(rng, word), f"the word {word}"
        if number % 3 == 0:
            image = altered(rng, image)[0].resize((64, 64))
        images.append(np.asarray(image).transpose(2, 0, 1))
        captions.append(TEMPLATES[rng.integers(len(TEMPLATES))].format(caption))
    names, place = np.unique(captions, return_inverse=True)
    tokens = open_clip.SimpleTokenizer(context_length=CONTEXT)(names.tolist())
    return Pairs(torch.from_numpy(np.stack(images)), torch.from_numpy(place), tokens)


def batches(count: int, steps: int, seed: int) -> Iterator[Tensor]:
    """int64 [BATCH] rows, shuffled epoch after epoch."""
    rng = np.random.default_rng(seed)
    epoch = count // BATCH
    for step in range(steps):
        if step % epoch == 0:
            order = torch.from_numpy(rng.permutation(count))
        yield order[step % epoch * BATCH :][:BATCH]


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """A window and an order of the colours, one for the batch; normalised, float32 [N, 3, 48, 48]."""
    small = window(images[:, torch.randperm(3, generator=generator)], 0.82, SIDE, generator)
    return (small - 127.5) / 63.75


def window(images: Tensor, least: float, side: int, generator: torch.Generator) -> Tensor:
    """One square of `least` to all of the side for the batch, resized to `side`; float32 in [0, 255]."""
    full = images.shape[-1]
    edge = int(torch.randint(int(full * least), full + 1, (1,), generator=generator))
    y, x = torch.randint(0, full - edge + 1, (2,), generator=generator).tolist()
    cut = images[..., y : y + edge, x : x + edge].float()
    return F.interpolate(cut, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def steps_of(
    net: nn.Module, lr: float, steps: int, count: int, seed: int, name: str
) -> Iterator[tuple[Tensor, Callable[[Tensor], None]]]:
    """Rows of each step, and what takes the step's loss: AdamW with one cycle of the rate."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    began = time.perf_counter()
    for step, rows in enumerate(batches(count, steps, seed)):

        def learn(loss: Tensor, step: int = step) -> None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 50 == 0:
                print(
                    f"{name}  step {step}/{steps}  loss {loss.item():.3f}  {time.perf_counter() - began:.0f} s",
                    flush=True,
                )

        yield rows, learn


def train_pair(pairs: Pairs, seed: int, steps: int) -> nn.Module:
    """The image-text pair, contrastive over the different captions of a batch."""
    import open_clip

    torch.manual_seed(seed)
    model = open_clip.CLIP(**CONFIG["model_cfg"]).train()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    for rows, learn in steps_of(model, 3e-3, steps, len(pairs), seed, "image-text"):
        captions, own = pairs.place[rows].unique(return_inverse=True)
        image = F.normalize(model.encode_image(varied(pairs.images[rows], generator)), dim=1)
        text = F.normalize(model.encode_text(pairs.tokens[captions]), dim=1)
        logits = model.logit_scale.exp().clamp(max=100) * image @ text.T
        # A caption's images share its share of the other direction's target.
        target = F.one_hot(own, len(captions)).float()
        learn((F.cross_entropy(logits, own) + F.cross_entropy(logits.T, (target / target.sum(0)).T)) / 2)
    return model.eval()


def train_no_branch(model: Any, pairs: Pairs, seed: int, steps: int) -> NoBranch:
    """CLIPN's `no` tower on the same pairs, image and yes towers frozen."""
    torch.manual_seed(seed)
    branch = NoBranch(model).train()
    generator = torch.Generator().manual_seed(seed)
    # The scores multiply cosines by 100, as do the published models; the miniature's own factor is near 15, at which
    # the losses would tolerate answers that the scores do not.
    scale = torch.tensor(100.0)
    for rows, learn in steps_of(branch, 1e-3, steps, len(pairs), seed + 1, "no branch"):
        place = pairs.place[rows]
        captions, own = place.unique(return_inverse=True)
        with torch.no_grad():
            image = F.normalize(model.encode_image(varied(pairs.images[rows], generator)), dim=1)
            yes = F.normalize(model.encode_text(pairs.tokens[captions]), dim=1)[own]
        no = F.normalize(branch(pairs.tokens[place], generator), dim=1)
        learn(clipn_losses(image, yes, no, scale, place[:, None] == place[None])[0])
    return branch.eval()


class Descriptor(nn.Module):
    """A small convolutional trunk, GeM pooling (p = 3), a linear layer, unit length."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for wider, stride in ((32, 2), (64, 2), (64, 1), (128, 2), (160, 2)):
            layers += [nn.Conv2d(width, wider, 3, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU(inplace=True)]
            width = wider
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] normalised images to unit [N, dim]."""
        pooled = self.trunk(x).clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)
        return F.normalize(self.head(pooled), dim=1)


def copies(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two altered copies, uint8 [N, 3, 64, 64] each, of fabrics and other scenes."""
    from PIL import Image

    rng = np.random.default_rng([seed, 8])
    pairs: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number in range(count):
        image = fabric(rng, PATTERNS[rng.integers(len(PATTERNS))]).image if number % 3 else other(rng).image
        if number % 12 == 0:
            image = written(rng, image, PATTERNS[rng.integers(len(PATTERNS))])
        elif number % 12 == 5:
            image = card(rng, (*PATTERNS, *WORDS)[rng.integers(len(PATTERNS) + len(WORDS))])
        for side, images in enumerate(pairs):
            copy = altered(rng, image)[0] if side or rng.random() < 0.5 else image
            images.append(np.asarray(copy.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1))
    return np.stack(pairs[0]), np.stack(pairs[1])


def train_descriptor(seed: int, count: int, steps: int) -> Descriptor:
    """InfoNCE between the copies and KoLeo's entropy term, which spreads what is no copy (SSCD)."""
    torch.manual_seed(seed)
    net = Descriptor().train()
    first, second = (torch.from_numpy(images) for images in copies(seed, count))
    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
    target = torch.arange(2 * BATCH).roll(BATCH)
    itself = torch.eye(2 * BATCH, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for rows, learn in steps_of(net, 3e-3, steps, count, seed + 2, "descriptor"):
        views = torch.cat([window(side[rows], 0.84, 64, generator) for side in (first, second)])
        z = net((views - mean) / std)
        similarity = (z @ z.T).masked_fill(itself, -1)
        others = similarity.scatter(1, target[:, None], -1.0)
        nearest = (2 - 2 * others.max(dim=1).values).clamp(min=1e-8).sqrt()
        learn(F.cross_entropy(similarity / 0.05, target) - nearest.log().mean())
    return net.eval()


def make_descriptor(path: Path, seed: int, count: int, steps: int) -> None:
    """Trains and writes the copy descriptor."""
    descriptor = train_descriptor(seed, count, steps)
    with torch.no_grad():
        scripted = torch.jit.trace(descriptor, torch.zeros(1, 3, 64, 64))
    torch.jit.save(scripted.half(), path)  # in float16; computed in float32 like the others


def make_image_text(folder: Path, seed: int, count: int, steps: int) -> None:
    """Trains and writes the image-text pair and its `no` tower, in float16."""
    pairs = make_pairs(seed, count)
    model = train_pair(pairs, seed, steps)
    branch = train_no_branch(model, pairs, seed, steps // 4)
    folder.mkdir(parents=True, exist_ok=True)
    half = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    save_file(half, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    save_no_branch(branch, folder / "no_branch.safetensors", torch.float16)


def main() -> None:
    """Trains and writes all three."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the weights")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--only", choices=["copy", "image-text"])
    parser.add_argument("--pairs", type=int, default=24000, help="images with captions")
    parser.add_argument(
        "--steps", type=int, default=1200, help="of the image-text pair; a quarter of it for the no branch"
    )
    parser.add_argument("--copies", type=int, default=16000, help="pairs of altered copies")
    parser.add_argument("--copy-steps", type=int, default=400)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.only != "image-text":
        make_descriptor(args.out / "copy-descriptor.torchscript.pt", args.seed, args.copies, args.copy_steps)
    if args.only != "copy":
        make_image_text(args.out / "image-text", args.seed, args.pairs, args.steps)
    files = [path for path in args.out.rglob("*") if path.is_file()]
    print(f"{args.out}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
