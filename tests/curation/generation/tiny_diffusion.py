"""Real pipelines of 32 x 32 pixels, built here with random weights: Stable Diffusion of 7 MB, and Flux."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save_tiny_diffusion(folder: Path, unsafe_above: float | None = None, spoil: str | None = None) -> Path:
    """Saves a pipeline and returns its folder.

    unsafe_above: cosine above which its safety checker flags an image; None: it has none. spoil: "numbers" puts a
    parameter of the denoiser to no number, "black" makes the decoder draw nothing.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=16, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=8, cross_attention_dim=32,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=16,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=16,
        )  # fmt: skip
        if spoil == "numbers":
            nn.init.constant_(unet.conv_out.bias, float("nan"))
        elif spoil == "black":
            nn.init.zeros_(vae.decoder.conv_out.weight)
            nn.init.constant_(vae.decoder.conv_out.bias, -2.0)
        tokenizer, text_encoder = _text()
        checker, extractor = (None, None) if unsafe_above is None else _safety(unsafe_above)
        scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
        pipeline = StableDiffusionPipeline(
            vae,
            text_encoder,
            tokenizer,
            unet,
            scheduler,
            checker,
            extractor,
            requires_safety_checker=checker is not None,
        )
        pipeline.save_pretrained(folder)
    return folder


def save_tiny_flux(folder: Path) -> Path:
    """Saves a pipeline of another family, a transformer with two text encoders, and returns its folder."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        tokenizer, clip = _text()
        t5 = T5Config(vocab_size=514, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
        transformer = FluxTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
        )  # fmt: skip
        vae = AutoencoderKL(
            sample_size=32, block_out_channels=(4,), latent_channels=1, norm_num_groups=1, use_quant_conv=False,
            use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5,
        )  # fmt: skip
        scheduler = FlowMatchEulerDiscreteScheduler()
        FluxPipeline(scheduler, vae, clip, tokenizer, T5EncoderModel(t5), tokenizer, transformer).save_pretrained(
            folder
        )
    return folder


def _text() -> tuple[Any, Any]:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip
    return tokenizer, CLIPTextModel(config)


def _safety(unsafe_above: float) -> tuple[Any, Any]:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    nn.init.normal_(checker.concept_embeds)
    nn.init.constant_(checker.concept_embeds_weights, unsafe_above)
    size = {"height": 32, "width": 32}
    return checker, CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
