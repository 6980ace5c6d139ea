"""What a scene is composed of: printed fabrics, and what is none: grounds, digits, letters, drawings, words."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 64
PATTERNS = (
    "striped", "checked", "dotted", "ringed", "gridded", "zigzag", "wavy", "diamond", "brick", "crossed",
)  # fmt: skip
LETTERS = "AEFHKMNRTWXY"
SHAPES = ("star", "house", "face", "tree", "heart", "arrow")
WORDS = ("sale", "menu", "open", "taxi", "hotel", "music", "paper", "north")


@dataclass(frozen=True)
class Scene:
    """image: RGB, SIDE x SIDE; caption: what it shows."""

    image: Image.Image
    caption: str


@functools.cache
def photographs() -> tuple[Image.Image, ...]:
    """scikit-learn's two sample photographs: a temple and a flower, 640 x 427."""
    from sklearn.datasets import load_sample_images

    return tuple(Image.fromarray(image) for image in load_sample_images().images)


@functools.cache
def glyphs() -> np.ndarray:
    """float32 [1797, 8, 8] in [0, 1]: scikit-learn's handwritten digits."""
    from sklearn.datasets import load_digits

    return (load_digits().images / 16.0).astype(np.float32)


def _stroke(rng: np.random.Generator, glyph: np.ndarray) -> Image.Image:
    """A glyph at 64 x 64, L, with a random weight of the stroke."""
    large = Image.fromarray((glyph * 255).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    stroke = (np.asarray(large, np.float32) - 70) * rng.uniform(1.6, 2.6)
    return Image.fromarray(np.clip(stroke, 0, 255).astype(np.uint8))


def ground(rng: np.random.Generator) -> Image.Image:
    """A patch of a photograph, or a smooth gradient with noise."""
    if rng.random() < 0.75:
        soft = _patch(rng).rotate(int(rng.integers(4)) * 90).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))
        # Out of focus and paler than what lies on it, as a background is.
        grey = Image.new("RGB", soft.size, tuple(int(v) for v in np.asarray(soft).mean(axis=(0, 1))))
        return Image.blend(soft, grey, float(rng.uniform(0.1, 0.6)))
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(corners).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    noisy = smooth + rng.normal(0, rng.uniform(2, 14), smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def contrasting(rng: np.random.Generator, colour: np.ndarray) -> tuple[int, int, int]:
    """A random colour that stands out from another."""
    for _ in range(20):
        found = rng.integers(0, 256, 3)
        if np.abs(found - colour).sum() > 230:
            break
    return int(found[0]), int(found[1]), int(found[2])


def paste(rng: np.random.Generator, base: Image.Image, mask: Image.Image, side: int) -> Image.Image:
    """Lays a mask (L, any size) on a ground in one colour, turned by up to 20 degrees, at a random place."""
    mask = mask.resize((side, side), Image.Resampling.BICUBIC).rotate(
        float(rng.uniform(-20, 20)), Image.Resampling.BICUBIC
    )
    colour = contrasting(rng, np.asarray(base, np.float32).mean(axis=(0, 1)))
    x, y = (int(value) for value in rng.integers(0, SIDE - side + 1, 2))
    out = base.copy()
    out.paste(Image.new("RGB", mask.size, colour), (x, y), mask)
    return out


def fabric(rng: np.random.Generator, name: str) -> Scene:
    """A fabric with one of PATTERNS in two colours, a little turned and bent, in the light of a photograph."""
    y, x = np.mgrid[: 2 * SIDE, : 2 * SIDE] / 2.0  # drawn at twice the size: smooth edges
    bend = rng.uniform(0, 0.6)
    across = x + bend * np.sin(y / rng.uniform(8, 16) + rng.uniform(0, 6))
    down = y + bend * np.sin(x / rng.uniform(8, 16) + rng.uniform(0, 6))
    angle, period = rng.uniform(-0.15, 0.15), rng.uniform(13, 19)
    u = (math.cos(angle) * across + math.sin(angle) * down) / period + rng.uniform()
    v = (math.cos(angle) * down - math.sin(angle) * across) / period + rng.uniform()
    drawn = Image.fromarray((_pattern(name, u, v, rng.uniform(0.35, 0.65)) * 255).astype(np.uint8))
    share = np.asarray(drawn.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)[..., None] / 255
    first = rng.integers(0, 256, 3)
    second = contrasting(rng, first)
    colours = first * share + np.array(second) * (1 - share)
    light = np.asarray(_patch(rng).convert("L").filter(ImageFilter.GaussianBlur(3)), np.float32)
    shade = 1 + rng.uniform(0.2, 0.7) * np.clip(light / max(1.0, float(light.mean())) - 1, -1, 1)
    lit = colours * shade[..., None] + rng.normal(0, rng.uniform(2, 12), colours.shape)
    return Scene(Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)), f"{name} fabric")


def _pattern(name: str, u: np.ndarray, v: np.ndarray, width: float) -> np.ndarray:
    """bool: where the second colour lies; u, v in units of the pattern's period, width in (0, 1)."""
    x, y = u % 1 - 0.5, v % 1 - 0.5  # from the middle of a cell
    radius = np.hypot(x, y)
    if name == "striped":
        return x < width - 0.5
    if name == "checked":
        return (np.floor(u) + np.floor(v)) % 2 < 1
    if name == "dotted":
        return radius < 0.2 + 0.15 * width
    if name == "ringed":
        return np.abs(radius - 0.3) < 0.07 + 0.08 * width
    if name == "gridded":
        return np.minimum(np.abs(x), np.abs(y)) < 0.1 + 0.1 * width
    if name == "zigzag":
        return (u + 0.8 * np.abs((0.8 * v % 1) * 2 - 1)) % 1 < width
    if name == "wavy":
        return (u + 0.3 * np.sin(2 * np.pi * 0.8 * v)) % 1 < width
    if name == "diamond":
        return np.abs(x) + 0.6 * np.abs(y) < 0.2 + 0.25 * width
    if name == "brick":
        row = np.floor(1.6 * v)
        joint = np.abs((u + 0.5 * (row % 2)) % 1 - 0.5) > 0.44 - 0.04 * width
        return joint | (np.abs(1.6 * v % 1 - 0.5) > 0.4 - 0.06 * width)
    if name == "crossed":
        return (np.minimum(np.abs(x), np.abs(y)) < 0.08 + 0.1 * width) & (np.maximum(np.abs(x), np.abs(y)) < 0.36)
    raise ValueError(f"{name!r} is none of {', '.join(PATTERNS)}")


def _patch(rng: np.random.Generator) -> Image.Image:
    """A square of a photograph."""
    photo = photographs()[rng.integers(2)]
    side = int(rng.integers(70, 240))
    x, y = int(rng.integers(photo.width - side)), int(rng.integers(photo.height - side))
    return photo.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def other(rng: np.random.Generator) -> Scene:
    """A scene that is no fabric: a bare ground, a handwritten digit, a printed letter, or a drawn shape."""
    kind = rng.random()
    base = ground(rng)
    if kind < 0.25:
        return Scene(base, "a plain background")
    if kind < 0.5:
        mask = Image.new("L", (80, 80))
        mask.paste(_stroke(rng, glyphs()[int(rng.integers(len(glyphs())))]), (8, 8))
        return Scene(paste(rng, base, mask, int(rng.integers(40, 65))), "a handwritten digit")
    mask = Image.new("L", (80, 80))
    pen = ImageDraw.Draw(mask)
    if kind < 0.75:
        letter = LETTERS[rng.integers(len(LETTERS))]
        pen.text((40, 40), letter, fill=255, font=ImageFont.load_default(size=64), anchor="mm")
        return Scene(paste(rng, base, mask, int(rng.integers(36, 61))), f"the printed letter {letter}")
    shape = SHAPES[rng.integers(len(SHAPES))]
    _shape(pen, shape)
    return Scene(paste(rng, base, mask, int(rng.integers(36, 61))), f"a drawing of a {shape}")


def _shape(pen: ImageDraw.ImageDraw, shape: str) -> None:
    if shape == "star":
        points = [(40 + r * math.sin(a * math.pi / 5), 40 - r * math.cos(a * math.pi / 5))
                  for a in range(10) for r in [36 if a % 2 == 0 else 15]]  # fmt: skip
        pen.polygon(points, fill=255)
    elif shape == "house":
        pen.polygon([(8, 38), (40, 8), (72, 38)], fill=255)
        pen.rectangle((16, 38, 64, 72), fill=255)
        pen.rectangle((34, 52, 46, 72), fill=0)
    elif shape == "face":
        pen.ellipse((8, 8, 72, 72), outline=255, width=6)
        pen.ellipse((24, 26, 32, 34), fill=255)
        pen.ellipse((48, 26, 56, 34), fill=255)
        pen.arc((24, 30, 56, 60), 20, 160, fill=255, width=6)
    elif shape == "tree":
        pen.polygon([(40, 4), (70, 54), (10, 54)], fill=255)
        pen.rectangle((34, 54, 46, 76), fill=255)
    elif shape == "heart":
        pen.ellipse((8, 12, 42, 46), fill=255)
        pen.ellipse((38, 12, 72, 46), fill=255)
        pen.polygon([(10, 36), (70, 36), (40, 74)], fill=255)
    else:
        pen.polygon([(6, 32), (42, 32), (42, 12), (74, 40), (42, 68), (42, 48), (6, 48)], fill=255)


def written(rng: np.random.Generator, image: Image.Image, word: str) -> Image.Image:
    """A word in black on a white band across an image."""
    out = image.copy()
    pen = ImageDraw.Draw(out)
    size = int(rng.integers(13, 17))
    y = int(rng.integers(2, SIDE - size - 6))
    pen.rectangle((0, y, SIDE, y + size + 4), fill="white")
    pen.text((SIDE / 2, y + size / 2 + 2), word, fill="black", font=ImageFont.load_default(size=size), anchor="mm")
    return out


def card(rng: np.random.Generator, word: str) -> Image.Image:
    """A word on a plain ground."""
    base = Image.new("RGB", (SIDE, SIDE), tuple(int(value) for value in rng.integers(0, 256, 3)))
    return written(rng, base, word)


def altered(rng: np.random.Generator, image: Image.Image) -> tuple[Image.Image, int]:
    """(image, JPEG quality) after one of the changes that copies on the web have."""
    kind = rng.integers(6)
    width, height = image.size
    quality = 88
    if kind == 0:
        quality = int(rng.integers(35, 75))
    elif kind == 1:
        share = rng.uniform(0.84, 0.95)
        w, h = int(width * share), int(height * share)
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        image = image.crop((x, y, x + w, y + h))
    elif kind == 2:
        share = rng.uniform(0.6, 0.9)
        image = image.resize((int(width * share), int(height * share)), Image.Resampling.BILINEAR)
    elif kind == 3:
        gain = rng.uniform(0.75, 1.25, 3)
        image = Image.fromarray(np.clip(np.asarray(image, np.float32) * gain, 0, 255).astype(np.uint8))
    elif kind == 4:
        margin = int(rng.integers(2, 5))
        framed = Image.new(
            "RGB", (width + 2 * margin, height + 2 * margin), ("white", "black", "grey")[rng.integers(3)]
        )
        framed.paste(image, (margin, margin))
        image = framed
    else:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.0)))
    return image, quality
