"""Small real models and pools that the tests build."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

CLIP = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


def save_clip(folder: Path, no_branch: bool = True, spread: float = 0.05) -> Path:
    """A random image-text model in open_clip's layout, with a `no` tower that differs from the first."""
    import open_clip

    from curation.clipn import NoBranch, save_no_branch

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = open_clip.CLIP(**CLIP["model_cfg"])
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps(CLIP))
    if no_branch:
        branch = NoBranch(model)
        with torch.no_grad():
            for parameter in branch.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
        save_no_branch(branch, folder / "no_branch.safetensors")
    return folder


class Pixels(nn.Module):
    """Unit vectors of an image's coarse pixels: alike for copies."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = nn.functional.adaptive_avg_pool2d(x, (6, 6)).flatten(1)
        flat = flat - flat.mean(dim=1, keepdim=True)
        return flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-6)


def save_descriptor(path: Path) -> Path:
    """A TorchScript copy descriptor."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Pixels(), torch.zeros(1, 3, 24, 24)), str(path))
    return path


def picture(number: int, side: int = 48) -> Image.Image:
    """A picture that differs from every other number's."""
    rng = np.random.default_rng(number)
    cells = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    image = Image.fromarray(cells).resize((side, side), Image.Resampling.NEAREST)
    ImageDraw.Draw(image).ellipse((8, 8, 8 + number % 30, 30), fill=(number * 7 % 256, 90, 30))
    return image


def save_pool(folder: Path, count: int = 40) -> Path:
    """Pictures 0 to count - 1, a recompressed copy of every eighth, and three files that are no images."""
    folder.mkdir(parents=True)
    for number in range(count):
        picture(number).save(folder / f"{number:03d}.png")
        if number % 8 == 0:
            picture(number).save(folder / f"{number:03d}-copy.jpg", quality=70)
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_bytes(b"<!doctype html><p>404")
    (folder / "cut.png").write_bytes((folder / "000.png").read_bytes()[:200])
    return folder
