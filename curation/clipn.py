"""CLIPN's `no` text tower: what an image does not show (Wang et al. 2023; spec of the published code)."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curation.clipn_checkpoints import TOWER, check_base, is_no, load_keys, read_weights

PROMPTS = 16


class NoBranch(nn.Module):
    """A second text tower, begun as a copy of the first, with learnable prompts added at every position.

    prompt_no: float32 [16, context, width]. In training each text takes one of 17 prompts at random, the 16 or their
    mean; in evaluation the mean of the 16. State-dict keys are the published ones (`transformer_no...`, `prompt_no`).
    """

    attn_mask: Tensor
    token_embedding_no: nn.Module
    positional_embedding_no: nn.Parameter
    transformer_no: nn.Module
    ln_final_no: nn.Module

    def __init__(self, clip: Any) -> None:
        super().__init__()
        tower = clip.text if hasattr(clip, "text") else clip  # open_clip's newer layout wraps the text tower
        pool = getattr(tower, "pool_type", None) or getattr(tower, "text_pool_type", "argmax")
        if not all(hasattr(tower, name) for name in TOWER) or pool != "argmax" or tower.attn_mask is None:
            raise ValueError(
                "curation.ood.no_branch: CLIPN's `no` tower needs an image-text model with CLIP's own text transformer "
                f"(causal, read at the end of the text), not {type(tower).__name__} with pooling {pool!r}; "
                "ViT-B-16 with laion2b_s34b_b88k is CLIPN's"
            )
        for name in TOWER:
            value = getattr(tower, name)
            twin = nn.Parameter(value.detach().clone()) if isinstance(value, nn.Parameter) else copy.deepcopy(value)
            setattr(self, f"{name}_no", twin)
        context, width = self.positional_embedding_no.shape
        self.prompt_no = nn.Parameter(torch.zeros(PROMPTS, context, width))
        # Causal, as in the first tower; not stored in checkpoints.
        mask = torch.full((context, context), float("-inf")).triu_(1)
        self.register_buffer("attn_mask", mask, persistent=False)
        self.train().requires_grad_(True)  # the frozen tower's copy is neither in training mode nor learning

    def forward(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[N, D] embeddings, not normalised, of int64 tokens [N, context]."""
        x = self.token_embedding_no(tokens) + self.positional_embedding_no + self._prompt(len(tokens), generator)
        x = self.ln_final_no(self.transformer_no(x, attn_mask=self.attn_mask))
        end = tokens.argmax(dim=-1)  # the end-of-text token has the largest number
        return self._project(x[torch.arange(len(x), device=x.device), end])

    def _project(self, x: Tensor) -> Tensor:
        projection = self.text_projection_no
        return projection(x) if isinstance(projection, nn.Module) else x @ projection

    def _prompt(self, count: int, generator: torch.Generator | None) -> Tensor:
        mean = self.prompt_no.mean(dim=0)
        if not self.training:
            return mean
        choices = torch.cat([self.prompt_no, mean[None]])
        drawn = torch.randint(len(choices), (count,), generator=generator)
        return choices[drawn.to(choices.device)]


def load_no_branch(clip: nn.Module, path: Path, key: str = "curation.ood.no_branch") -> NoBranch:
    """The `no` tower of a file: ours (only `_no` keys), or CLIPN's training checkpoint of the same image-text model.

    key: the yaml key that names the file, for errors.
    Raises FileNotFoundError, or ValueError listing the keys that are missing or left over, or those of the image tower
    and the first text tower that are not the given model's.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{key}: {path} does not exist; train one with `python -m pas_train fit --config clipn.yaml`"
        )
    branch = NoBranch(clip)
    state = read_weights(path, key)
    own = {name: value for name, value in state.items() if is_no(name)}
    load_keys(branch, own, f"{key}: {path} does not fit the image-text model")
    base = {name: value for name, value in state.items() if not is_no(name)}
    if base:
        check_base(clip, base, f"{key}: {path} is not of this image-text model")
    return branch


def save_no_branch(branch: NoBranch, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the tower's own keys as safetensors."""
    from safetensors.torch import save_file

    from datamodules.files import atomic

    with atomic(path) as temporary:
        save_file(
            {key: value.detach().to(dtype).contiguous().cpu() for key, value in branch.state_dict().items()}, temporary
        )


def clipn_losses(
    image: Tensor,
    text_yes: Tensor,
    text_no: Tensor,
    logit_scale: Tensor | float,
    same_text: Tensor | None = None,
    opposite_weight: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, its parts) of a batch of N pairs; all features unit [N, D].

    L_yes: a picture's own text should say yes; L_no: other texts should say no; L_tso: the two towers' embeddings of
    a text should be far apart. loss = (L_yes + L_no + opposite_weight L_tso) / 2, with a weight of 1 as published.
    same_text: bool [N, N], true where two texts are the same; such pairs i != j are left out of L_no, for their `no`
    would be wrong.
    """
    yes, no = logit_scale * image @ text_yes.T, logit_scale * image @ text_no.T
    margin = yes - no
    # log of the two-way softmax, as logsigmoid: the published code's log(softmax) underflows.
    loss_yes = -nn.functional.logsigmoid(margin.diagonal()).mean()
    others = ~torch.eye(len(image), dtype=torch.bool, device=image.device)
    if same_text is not None:
        others &= ~same_text
    loss_no = -(nn.functional.logsigmoid(-margin) * others).sum() / others.sum().clamp(min=1)
    cosine = (text_yes * text_no).sum(dim=1)
    loss_tso = (2 - (2 - 2 * cosine + 1e-4).sqrt()).mean()
    parts = {"yes": loss_yes, "no": loss_no, "tso": loss_tso}
    return (loss_yes + loss_no + opposite_weight * loss_tso) / 2, parts
