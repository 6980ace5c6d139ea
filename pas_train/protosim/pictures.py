"""Pictures of a comparison: how many prototypes each set uses, and what the exclusive ones stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pas_train.analysis.drawing import INK, colour, figure, save

TILES = 6  # images of a prototype
SIDE = 1.25  # inches of an image


@dataclass(frozen=True)
class Example:
    """pixels: uint8 [3, S, S], as the model saw it; patches: bool [rows, columns], those of the prototype; whole: its
    class token has the prototype.
    """  # noqa: D205

    pixels: np.ndarray
    patches: np.ndarray
    whole: bool


@dataclass(frozen=True)
class Strip:
    """One prototype: its number, images that have it, and some of them."""

    prototype: int
    images: int
    tokens: int
    examples: list[Example]


def draw_strips(path: Path, strips: Sequence[Strip], place: int) -> None:
    """A row of images for each prototype, what is not the prototype's made pale. place: of the set, for its colour."""
    with figure(1.5 + SIDE * TILES, (SIDE + 0.1) * len(strips)) as drawn:
        axes = np.atleast_2d(drawn.subplots(len(strips), TILES + 1, width_ratios=[1.3 / SIDE] + [1] * TILES))
        drawn.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.01)
        for row, strip in zip(axes, strips, strict=True):
            for axis in row:
                axis.set_axis_off()
            row[0].text(
                0, 0.62, f"no. {strip.prototype}", weight="bold", transform=row[0].transAxes, color=colour(place)
            )
            plural = "s" if strip.images != 1 else "", "es" if strip.tokens != 1 else ""
            said = f"{strip.images:,} image{plural[0]}\n{strip.tokens:,} patch{plural[1]}"
            row[0].text(0, 0.52, said, transform=row[0].transAxes, va="top", size=8, linespacing=1.5)
            for axis, example in zip(row[1:], strip.examples, strict=False):
                _draw_example(axis, example, colour(place))
        save(drawn, path, dpi=130)


def _draw_example(axis: Any, example: Example, frame: str) -> None:
    pixels = example.pixels.transpose(1, 2, 0).astype(float) / 255
    side = pixels.shape[0]
    rows, columns = example.patches.shape
    own = np.repeat(np.repeat(example.patches, -(-side // rows), axis=0), -(-side // columns), axis=1)[:side, :side]
    if own.any():
        pale = 0.3 * pixels + 0.7
        pixels = np.where(own[..., None], pixels, pale)
    axis.imshow(pixels, interpolation="nearest" if side < 100 else "antialiased")
    height, width = side / rows, side / columns
    for r, c in zip(*np.nonzero(example.patches), strict=True):
        for dr, dc, start, end in (
            (-1, 0, (0, 0), (0, 1)), (1, 0, (1, 0), (1, 1)), (0, -1, (0, 0), (1, 0)), (0, 1, (0, 1), (1, 1)),
        ):  # fmt: skip
            r2, c2 = r + dr, c + dc
            if not (0 <= r2 < rows and 0 <= c2 < columns and example.patches[r2, c2]):
                ys, xs = zip(start, end, strict=True)
                axis.plot(
                    [(c + x) * width - 0.5 for x in xs], [(r + y) * height - 0.5 for y in ys],
                    color=frame, lw=1.2, solid_capstyle="round",
                )  # fmt: skip
    if example.whole:
        axis.set_title("whole image", size=6.5, color=INK, weight="normal", loc="center", pad=1)
    axis.set_xlim(-0.5, side - 0.5)
    axis.set_ylim(side - 0.5, -0.5)


def draw_use(path: Path, images: np.ndarray, sizes: np.ndarray, names: Sequence[str], kind: np.ndarray) -> None:
    """Each prototype by the share of the images of two sets that have it, on logarithmic axes."""
    floor = 0.5 / sizes.max()
    shares = np.maximum(images / np.maximum(sizes, 1), floor)
    jitter = np.random.default_rng(0).normal(0, 0.03, shares.shape)
    shares = np.where(images == 0, floor * np.exp(3 * jitter), shares)
    with figure(5, 4.6) as drawn:
        axis = drawn.subplots()
        for place, title in ((-1, "shared"), (0, f"only {names[0]}"), (1, f"only {names[1]}")):
            mine = kind == place
            shade = colour(place) if place >= 0 else "#9aa4b2"
            axis.scatter(
                *(100 * shares[mine]).T, s=14, linewidths=0, label=f"{title} ({mine.sum():,})", color=shade, alpha=0.8
            )
        ends = [100 * floor * 0.6, 150]
        ticks = [100 * floor, *(10.0**power for power in range(-4, 3) if 10.0**power > 250 * floor)]
        names_of_ticks = ["none", *(f"{tick:g}" for tick in ticks[1:])]
        axis.plot(ends, ends, color=INK, lw=0.8, ls=":", zorder=0)
        axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends, aspect="equal")
        for ruler in (axis.xaxis, axis.yaxis):
            ruler.set_ticks(ticks, names_of_ticks)
            ruler.set_ticks([], minor=True)
        axis.set_xlabel(f"% of the images of {names[0]} that have it")
        axis.set_ylabel(f"% of the images of {names[1]} that have it")
        axis.set_title("Prototypes by use")
        axis.legend(loc="upper left", bbox_to_anchor=(0.02, 0.98))
        save(drawn, path, path.with_suffix(".svg"))
