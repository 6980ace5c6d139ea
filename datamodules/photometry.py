"""The colour changes, blur and inversion of the views on the training device, a batch at a time.

The crops and the parameters of each view come from the workers (`ViewPair.crop`); nothing is drawn here, no operation
waits for the device, and no image is handled alone. What each operation computes is said in `view_arrays`; results
agree with it but for the last bits of sums, so that a pixel may differ by one grey level.

N = images of a chunk, both views counted; S = side of the views.
"""

import math

import torch
from torch import Tensor

from datamodules.views import GREY, SIGMA, THRESHOLD

CHUNK = 256  # images at once: some 150 MB for each of a handful of intermediate results at 224 px
LUMA = (19595.0, 38470.0, 7471.0)  # Pillow's, in 1 / 65536; sums stay exact in float32
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@torch.no_grad()
def finish_views(crops: Tensor, photometry: Tensor, order: Tensor, sigma_max: float) -> Tensor:
    """Finished views uint8 [2, B, 3, S, S] of crops of that shape.

    photometry: float32 [2, B, PHOTOMETRY], columns as in `views`. order: int8 [2, B, 4], the colour changes, -1 for
    none. sigma_max: the strongest blur that can come, in pixels; 0 if none can.
    """
    pixels, parameters, orders = crops.flatten(0, 1), photometry.flatten(0, 1), order.flatten(0, 1).long()
    out = torch.empty_like(pixels)
    for start in range(0, len(pixels), CHUNK):
        chunk = slice(start, start + CHUNK)
        out[chunk] = _finish(pixels[chunk].float(), parameters[chunk], orders[chunk], sigma_max)
    return out.view_as(crops)


def _finish(pixels: Tensor, parameters: Tensor, order: Tensor, sigma_max: float) -> Tensor:
    pixels = jitter(pixels, parameters[:, :4], order)
    pixels = torch.where(_each(parameters[:, GREY] > 0), luma(pixels), pixels)
    if sigma_max > 0:
        pixels = blur(pixels, parameters[:, SIGMA], sigma_max)
    pixels = torch.where(pixels >= _each(parameters[:, THRESHOLD]), 255 - pixels, pixels)
    return pixels.to(torch.uint8)


def luma(pixels: Tensor) -> Tensor:
    """Grey value [N, 1, S, S] of pixels [N, 3, S, S], rounded as Pillow rounds it."""
    red, green, blue = pixels.split(1, dim=1)
    total = (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return total.add_(32768).mul_(1 / 65536).floor_()


def jitter(pixels: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Each image's colour changes in its own order; factors: [N, 4] of operation 0 to 3, order: int64 [N, 4].

    Brightness, contrast and saturation are one operation with another base, so the three before and the three after
    the hue are steps that all images take together; where an image has nothing to do, its factor is 1.
    """
    place = (order == HUE).int().argmax(dim=1)
    for step in range(3):
        pixels = _blend(pixels, factors, order[:, step], place > step)
    shift = torch.where((order == HUE).any(dim=1), factors[:, HUE], 0)
    pixels = _shift_hue(pixels, shift)
    for step in range(1, 4):
        pixels = _blend(pixels, factors, order[:, step], place < step)
    return pixels


def _blend(pixels: Tensor, factors: Tensor, operation: Tensor, active: Tensor) -> Tensor:
    """Away from or towards black, the mean grey or each pixel's grey, whichever each image's operation [N] says."""
    grey = luma(pixels)
    mean = (grey.mean(dim=(2, 3), keepdim=True, dtype=torch.float64) + 0.5).floor_().float()
    base = grey.mul_(_each(operation == SATURATION)).addcmul_(mean, _each(operation == CONTRAST).float())
    active = active & (operation >= 0) & (operation != HUE)
    factor = torch.where(active, factors.gather(1, operation.clamp(min=0)[:, None])[:, 0], 1)
    return torch.addcmul(base, pixels - base, _each(factor)).clamp_(0, 255).floor_()


def _shift_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turns the colour circle by `shift` [N] of a full turn, see view_arrays."""
    red, green, blue = pixels.unbind(dim=1)
    largest, smallest = pixels.amax(dim=1), pixels.amin(dim=1)
    chroma = largest - smallest
    inverse = 1 / chroma.clamp(min=1)
    sextant = torch.where(largest == green, 2 + (blue - red) * inverse, 4 + (red - green) * inverse)
    sextant = torch.where(largest == red, (green - blue) * inverse, sextant) + 6 * shift[:, None, None]
    turned = torch.empty_like(pixels)
    for channel, offset in enumerate((5, 3, 1)):
        place = sextant + offset
        place = place - 6 * (place * (1 / 6)).floor_()
        share = torch.minimum(place, 4 - place).clamp_(0, 1)
        turned[:, channel] = (largest - chroma * share + 0.5).floor_()
    return turned


def blur(pixels: Tensor, sigmas: Tensor, sigma_max: float) -> Tensor:
    """Gaussian blur of each image with its own standard deviation in pixels [N]; 0 leaves it as it is.

    A product with one banded S x S matrix an image for the rows and for the columns: a device multiplies so many
    matrices faster than it adds shifted copies, whatever the strengths. Weights are cut at three deviations, and
    those of pixels outside are given to the edge.
    """
    bands = _bands(pixels.shape[-1], sigmas, math.ceil(3 * sigma_max))
    rows = torch.bmm(pixels.flatten(1, 2), bands.transpose(1, 2)).view_as(pixels)
    blurred = torch.empty_like(rows)
    for channel in range(rows.shape[1]):
        blurred[:, channel] = torch.bmm(bands, rows[:, channel])
    return blurred.add_(0.5).floor_()


def _bands(size: int, sigmas: Tensor, reach: int) -> Tensor:
    """Matrices [N, size, size] whose products with a column blur it."""
    places = torch.arange(-reach, size + reach, device=sigmas.device)
    distances = (torch.arange(size, device=sigmas.device)[:, None] - places).abs()
    each = sigmas[:, None, None]
    weights = torch.exp(-0.5 * (distances / each.clamp(min=1e-3)) ** 2) * (distances <= (3 * each).ceil())
    weights = weights / weights.sum(dim=2, keepdim=True)
    inside = weights[:, :, reach : reach + size].clone()
    inside[:, :, 0] += weights[:, :, :reach].sum(dim=2)
    inside[:, :, -1] += weights[:, :, reach + size :].sum(dim=2)
    return inside


def _each(values: Tensor) -> Tensor:
    """One value an image, to be used with its pixels."""
    return values[:, None, None, None]
