"""Trains the miniature models of the quickstart:  python -m curation.miniature.make_models OUT [--seed 1000]

An image-text pair (open_clip's ViT, standard vocabulary), CLIPN's `no` branch with the published losses, and a copy
descriptor by SSCD's recipe in small; on scenes of other seeds and other handwritten digits than the quickstart judges
with. Under ten minutes on two cores; the same seed and library versions give the same weights.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curation.clipn import NoBranch, clipn_losses, save_no_branch
from curation.miniature.drawing import NAMES, WORDS, altered, card, digit, other, written
from curation.miniature.scenes import split_glyphs

SIDE = 32
CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": SIDE, "layers": 4, "width": 96, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def make_pairs(seed: int, count: int) -> tuple[np.ndarray, list[str]]:
    """(uint8 [N, 3, 64, 64], captions): half digits; words are captioned as the web does, by what they say or show."""
    rng = np.random.default_rng([seed, 7])
    rows = split_glyphs()[0]
    images, captions = [], []
    for number in range(count):
        kind = rng.random()
        if kind < 0.5:
            scene = digit(rng, int(rng.choice(rows)))
            image, caption = scene.image, scene.caption
        elif kind < 0.85:
            scene = other(rng)
            image, caption = scene.image, scene.caption
        elif kind < 0.95:
            scene, name = other(rng), NAMES[rng.integers(10)]
            image = written(rng, scene.image, name)
            caption = f"the handwritten digit {name}" if rng.random() < 0.5 else scene.caption
        else:
            word = (*NAMES, *WORDS)[rng.integers(len(NAMES) + len(WORDS))]
            image, caption = card(rng, word), f"the word {word}"
        if number % 3 == 0:
            image = altered(rng, image)[0].resize((64, 64))
        images.append(np.asarray(image).transpose(2, 0, 1))
        captions.append(f"a photo of {caption}.")
    return np.stack(images), captions


def batches(count: int, size: int, epochs: int, seed: int) -> Iterator[np.ndarray]:
    """Shuffled rows, epoch after epoch."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(count)
        yield from (order[first : first + size] for first in range(0, count - size + 1, size))


def cropped(images: Tensor, generator: torch.Generator, side: int = SIDE) -> Tensor:
    """A random square of 80 to 100 % of the side for the whole batch, resized to `side`; float in [0, 255]."""
    full = images.shape[-1]
    edge = int(torch.randint(int(full * 0.8), full + 1, (1,), generator=generator))
    y, x = torch.randint(0, full - edge + 1, (2,), generator=generator).tolist()
    window = images[..., y : y + edge, x : x + edge].float()
    return F.interpolate(window, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def train_pair(images: np.ndarray, captions: list[str], seed: int, epochs: int) -> nn.Module:
    """The image-text pair, contrastive; pairs with the same caption are no negatives of each other."""
    import open_clip

    torch.manual_seed(seed)
    model = open_clip.CLIP(**CONFIG["model_cfg"])  # type: ignore[arg-type]
    tokens = open_clip.SimpleTokenizer(context_length=24)(captions)
    pixels, generator = torch.from_numpy(images), torch.Generator().manual_seed(seed)
    steps = epochs * (len(images) // 256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps, pct_start=0.1)
    began = time.time()
    for step, rows in enumerate(batches(len(images), 256, epochs, seed)):
        x = (cropped(pixels[rows], generator) - 127.5) / 63.75
        image, text, scale = model(x, tokens[rows])
        logits = scale.clamp(max=100) * image @ text.T
        same = (tokens[rows][:, None] == tokens[rows][None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"image-text  step {step}/{steps}  loss {loss.item():.3f}  {time.time() - began:.0f} s", flush=True)
    return model.eval()


def train_no_branch(model: nn.Module, images: np.ndarray, captions: list[str], seed: int, epochs: int) -> NoBranch:
    """CLIPN's `no` tower on the same pairs, image and yes towers frozen."""
    import open_clip

    torch.manual_seed(seed)
    branch = NoBranch(model).train()
    tokens = open_clip.SimpleTokenizer(context_length=24)(captions)
    pixels, generator = torch.from_numpy(images), torch.Generator().manual_seed(seed)
    steps = epochs * (len(images) // 256)
    optimizer = torch.optim.AdamW(branch.parameters(), lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    scale = model.logit_scale.exp().clamp(max=100)  # type: ignore[operator, union-attr]
    for step, rows in enumerate(batches(len(images), 256, epochs, seed + 1)):
        x = (cropped(pixels[rows], generator) - 127.5) / 63.75
        with torch.no_grad():
            image = F.normalize(model.encode_image(x), dim=1)  # type: ignore[operator]
            yes = F.normalize(model.encode_text(tokens[rows]), dim=1)  # type: ignore[operator]
        no = F.normalize(branch(tokens[rows], generator), dim=1)
        same = (tokens[rows][:, None] == tokens[rows][None]).all(-1)
        loss, parts = clipn_losses(image, yes, no, scale.detach(), same)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            shown = "  ".join(f"{name} {value.item():.3f}" for name, value in parts.items())
            print(f"no branch   step {step}/{steps}  {shown}", flush=True)
    return branch.eval()


class Descriptor(nn.Module):
    """A small convolutional trunk, GeM pooling (p = 3), a linear layer, unit length."""

    def __init__(self, widths: tuple[int, ...] = (24, 48, 96, 128), dim: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(width_in, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, S, S] normalised images to unit [N, dim]."""
        pooled = self.trunk(x).clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)
        return F.normalize(self.head(pooled), dim=1)


def copies(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two altered copies, uint8 [N, 3, 64, 64] each, of digits and other scenes."""
    from PIL import Image

    rng = np.random.default_rng([seed, 8])
    rows = split_glyphs()[0]
    pairs: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number in range(count):
        scene = digit(rng, int(rng.choice(rows))) if number % 3 else other(rng)
        image = written(rng, scene.image, NAMES[rng.integers(10)]) if number % 12 == 0 else scene.image
        for side, images in enumerate(pairs):
            copy = altered(rng, image)[0] if side or rng.random() < 0.5 else image
            images.append(np.asarray(copy.resize((64, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1))
    return np.stack(pairs[0]), np.stack(pairs[1])


def train_descriptor(seed: int, count: int, epochs: int) -> Descriptor:
    """InfoNCE between the copies and KoLeo's entropy term, which spreads what is no copy (SSCD)."""
    torch.manual_seed(seed)
    net = Descriptor().train()
    first, second = (torch.from_numpy(images) for images in copies(seed, count))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) * 255
    steps = epochs * (count // 256)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step, rows in enumerate(batches(count, 256, epochs, seed + 2)):
        z = net((torch.cat([first[rows], second[rows]]).float() - mean) / std)
        similarity = (z @ z.T).masked_fill(torch.eye(512, dtype=torch.bool), -1)
        target = torch.arange(512).roll(256)
        others = similarity.scatter(1, target[:, None], -1.0)
        nearest = (2 - 2 * others.max(dim=1).values).clamp(min=1e-8).sqrt()
        loss = F.cross_entropy(similarity / 0.05, target) - 1.0 * nearest.log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"descriptor  step {step}/{steps}  loss {loss.item():.3f}", flush=True)
    return net.eval()


def main() -> None:
    """Trains and writes all three."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=16000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--only", nargs="+", default=["copy", "image-text"], choices=["copy", "image-text"])
    parser.add_argument("--copies", type=int, default=8000)
    args = parser.parse_args()
    folder = args.out / "image-text"
    folder.mkdir(parents=True, exist_ok=True)
    if "copy" in args.only:
        descriptor = train_descriptor(args.seed, args.copies, 10)
        with torch.no_grad():
            scripted = torch.jit.trace(descriptor, torch.zeros(1, 3, 64, 64))
        torch.jit.save(scripted, args.out / "copy-descriptor.torchscript.pt")
    if "image-text" in args.only:
        make_image_text(folder, args)
    total = sum(path.stat().st_size for path in itertools.chain(folder.iterdir(), args.out.glob("*.pt")))
    print(f"{args.out}: {total / 2**20:.1f} MiB")


def make_image_text(folder: Path, args: argparse.Namespace) -> None:
    """Trains and writes the image-text pair and its `no` tower."""
    images, captions = make_pairs(args.seed, args.pairs)
    model = train_pair(images, captions, args.seed, args.epochs)
    branch = train_no_branch(model, images, captions, args.seed, max(2, args.epochs // 3))
    half = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    torch.save(half, folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    save_no_branch(branch, folder / "no_branch.safetensors", torch.float16)


if __name__ == "__main__":
    main()
