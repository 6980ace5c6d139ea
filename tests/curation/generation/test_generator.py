"""The generator and the loading of its pipeline, on a real pipeline of random weights."""

import functools
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from curation.generation.generator import ImageGenerator
from curation.generation.pipelines import Sampling, load_pipeline, picture_size
from tests.curation.generation.tiny_diffusion import save_tiny_diffusion, save_tiny_flux

KEY = "curation.synthesis"
SAMPLING = Sampling(2, 7.5, None, None, None, None, "float32", None, 95)
Save = Callable[..., Path]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    @functools.cache
    def saved(**options: Any) -> Path:
        return save_tiny_diffusion(tmp_path_factory.mktemp("model") / "tiny", **options)

    return saved


def generator(folder: Path, batch_size: int = 4, automatic: bool = True, **changes: Any) -> ImageGenerator:
    sampling = Sampling(**{**vars(SAMPLING), **changes})
    return ImageGenerator(load_pipeline(folder, sampling, KEY), sampling, KEY, batch_size, automatic).eval()


@torch.inference_mode()
def draw(module: ImageGenerator, seeds: list[int], captions: list[str] | None = None, pictures: Any = None) -> dict:
    captions = captions or [f"caption {seed}" for seed in seeds]
    batch = {"row": seeds, "caption": captions, "seed": seeds, "picture_list": pictures or [None] * len(seeds)}
    return module.predict_step(batch, 0)


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)


def test_predict_step__an_image_depends_on_its_row_alone(save: Save) -> None:
    module = generator(save())
    alone = draw(module, [7])["jpeg_list"][0]
    among = draw(module, [3, 2**62, 7, 5])["jpeg_list"]
    assert np.abs(pixels(alone) - pixels(among[2])).max() <= 1
    assert draw(module, [3, 2**62, 7, 5])["jpeg_list"] == among
    assert len(set(among)) == 4
    other = draw(module, [7], ["another caption"])["jpeg_list"][0]
    assert np.abs(pixels(alone) - pixels(other)).max() > 1


def test_predict_step__settings_reach_the_pipeline(save: Save) -> None:
    changes: list[dict] = [
        {}, {"steps": 3}, {"guidance": 2.0}, {"negative_prompt": "a blurred picture"}, {"dtype": "bfloat16"},
        {"scheduler": "EulerAncestralDiscreteScheduler"}, {"quality": 50},
    ]  # fmt: skip
    jpegs = [draw(generator(save(), **change), [1, 2])["jpeg_list"][1] for change in changes]
    assert len(set(jpegs)) == len(changes)
    wide = draw(generator(save(), height=16, width=48), [1])
    assert (wide["height_list"], wide["width_list"]) == ([16], [48])
    assert pixels(wide["jpeg_list"][0]).shape == (16, 48, 3)


@pytest.mark.parametrize(("spoil", "error"), [("numbers", "its pixels are no numbers"), ("black", "it is black")])
def test_predict_step__what_is_no_picture_is_a_failed_row(save: Save, spoil: str, error: str) -> None:
    result = draw(generator(save(spoil=spoil)), [1, 2])
    assert result["jpeg_list"] == [None, None] and result["error_list"] == [error] * 2
    assert result["unsafe_list"] == [None, None]


def test_predict_step__the_safety_checkers_verdict(save: Save) -> None:
    flagged = draw(generator(save(unsafe_above=-2.0)), [1, 2])
    assert flagged["unsafe_list"] == [True, True] and flagged["jpeg_list"] == [None, None]
    assert "safety checker flagged it" in flagged["error_list"][0]
    clean = draw(generator(save(unsafe_above=2.0)), [1, 2])
    assert clean["unsafe_list"] == [False, False] and clean["error_list"] == [None, None]
    assert clean["jpeg_list"] == draw(generator(save()), [1, 2])["jpeg_list"]


def test_predict_step__image_to_image_begins_with_the_picture(save: Save) -> None:
    folder = save()
    red, green = (np.full((32, 32, 3), colour, np.uint8) for colour in ((220, 20, 20), (20, 220, 20)))
    module = generator(folder, strength=0.5)
    assert picture_size(module.pipeline, module.sampling, KEY) == (32, 32)
    result = draw(module, [1, 2, 1], ["a", "a", "a"], [red, "its picture x.jpg cannot be used (truncated)", green])
    assert result["error_list"] == [None, "its picture x.jpg cannot be used (truncated)", None]
    assert result["jpeg_list"][1] is None
    assert np.abs(pixels(result["jpeg_list"][0]) - pixels(result["jpeg_list"][2])).max() > 5


def test_predict_step__a_pipeline_of_another_family(tmp_path: Path) -> None:
    folder = save_tiny_flux(tmp_path / "flux")
    module = generator(folder, height=32, width=48, negative_prompt="a blurred picture")
    result = draw(module, [1, 2, 3])
    assert (result["height_list"], result["width_list"]) == ([32] * 3, [48] * 3) and len(set(result["jpeg_list"])) == 3
    start = np.full((32, 48, 3), 90, np.uint8)
    begun = draw(generator(folder, height=32, width=48, strength=0.5), [1, 2], pictures=[start, start])
    assert (begun["height_list"], begun["width_list"]) == ([32] * 2, [48] * 2) and begun["error_list"] == [None, None]


def hungry(module: ImageGenerator, fits: int) -> ImageGenerator:
    """The same generator on a device whose memory holds so many images."""
    kind = type(module.pipeline)

    class Hungry(kind):  # type: ignore[misc, valid-type]
        @functools.wraps(kind.__call__)
        def __call__(self, prompt: list[str], **arguments: Any) -> Any:
            if len(prompt) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(prompt=prompt, **arguments)

    module.pipeline.__class__ = Hungry
    return module


def test_out_of_memory__halves_until_the_images_fit(save: Save, capsys: pytest.CaptureFixture) -> None:
    module = hungry(generator(save(), batch_size=8), fits=2)
    assert len(set(draw(module, list(range(7)))["jpeg_list"])) == 7
    assert module.limit == 1  # 7, then 3, then 1: halves, whatever was left over
    assert "synthesis  7 images at once do not fit into memory: 3 from here on" in capsys.readouterr().out


def test_out_of_memory__a_given_batch_is_halved_once(save: Save) -> None:
    assert len(draw(hungry(generator(save(), 4, automatic=False), fits=2), list(range(4)))["jpeg_list"]) == 4
    with pytest.raises(
        RuntimeError, match=r"^curation\.synthesis: 2 image.* set curation\.synthesis\.batch_size to less"
    ):
        draw(hungry(generator(save(), 4, automatic=False), fits=1), list(range(4)))


def test_out_of_memory__not_one_image_fits(save: Save) -> None:
    with pytest.raises(RuntimeError, match=r"1 image.* do not fit .* curation\.synthesis\.height"):
        draw(hungry(generator(save()), fits=0), [1, 2])


def test_load_pipeline__refuses_weights_that_would_be_drawn_at_random(save: Save, tmp_path: Path) -> None:
    for part in ("unet", "text_encoder"):
        folder = shutil.copytree(save(), tmp_path / part)
        path = next((folder / part).glob("*.safetensors"))
        tensors = load_file(path)
        del tensors[sorted(tensors)[0]]
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=rf"^curation\.synthesis\.model: .*{part} holds .* of the .* parameters"):
            load_pipeline(folder, SAMPLING, KEY)


def test_load_pipeline__names_the_key_of_what_the_model_does_not_take(save: Save, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"curation\.synthesis\.scheduler is 'FlowMatch.*takes one of .*DDIMScheduler"):
        generator(save(), scheduler="FlowMatchEulerDiscreteScheduler")
    folder = shutil.copytree(save(), tmp_path / "other")
    index = (folder / "model_index.json").read_text()
    (folder / "model_index.json").write_text(index.replace("StableDiffusionPipeline", "DanceDiffusionPipeline"))
    with pytest.raises(
        ValueError, match=r"^curation\.synthesis\.model: diffusers cannot load .* as AutoPipelineForText"
    ):
        generator(folder)
