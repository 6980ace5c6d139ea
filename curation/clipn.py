"""CLIPN's `no` text tower: what an image does not show (Wang et al. 2023; spec of the published code)."""

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PROMPTS = 16
# The text tower's top-level names; each has a twin ending in _no.
TOWER = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")


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


def load_no_branch(clip: nn.Module, path: Path) -> NoBranch:
    """The `no` tower of a file: ours (only `_no` keys), or CLIPN's training checkpoint.

    Raises FileNotFoundError, or ValueError listing the keys that are missing or left over.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"curation.ood.no_branch: {path} does not exist; "
            "train one with `python -m pas_train fit --config clipn.yaml`"
        )
    branch = NoBranch(clip)
    state = {re.sub(r"^module\.", "", key): value for key, value in _read(path).items()}
    own = {key: value.float() for key, value in state.items() if _is_no(key)}
    expected = branch.state_dict()
    missing, extra = sorted(set(expected) - set(own)), sorted(set(own) - set(expected))
    shapes = [key for key in set(own) & set(expected) if own[key].shape != expected[key].shape]
    if missing or extra or shapes:
        wrong = [f"missing {_some(missing)}"] * bool(missing) + [f"left over {_some(extra)}"] * bool(extra)
        wrong += [f"of another shape {_some(shapes)}"] * bool(shapes)
        raise ValueError(f"curation.ood.no_branch: {path} does not fit the image-text model: {'; '.join(wrong)}")
    branch.load_state_dict(own)
    return branch


def save_no_branch(branch: NoBranch, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the tower's own keys as safetensors."""
    from safetensors.torch import save_file

    from datamodules.files import atomic

    with atomic(path) as temporary:
        save_file(
            {key: value.detach().to(dtype).contiguous().cpu() for key, value in branch.state_dict().items()}, temporary
        )


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"curation.ood.no_branch: {path} is damaged or no weight file ({reason}); fetch or train it again"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict):
        raise ValueError(
            f"curation.ood.no_branch: {path} holds no weights by name; give the file that "
            "`python -m pas_train fit --config clipn.yaml` wrote, or CLIPN's training checkpoint"
        )
    return state


def _is_no(key: str) -> bool:
    return any(key == f"{name}_no" or key.startswith(f"{name}_no.") for name in TOWER) or key == "prompt_no"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")


def clipn_losses(
    image: Tensor, text_yes: Tensor, text_no: Tensor, logit_scale: Tensor | float, same_text: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, its parts) of a batch of N pairs; all features unit [N, D].

    L_yes: a picture's own text should say yes; L_no: other texts should say no; L_tso: the two towers' embeddings of
    a text should be far apart. loss = (L_yes + L_no + L_tso) / 2. same_text: bool [N, N], true where two texts are
    the same; such pairs i != j are left out of L_no, for their `no` would be wrong.
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
    return (loss_yes + loss_no + loss_tso) / 2, parts
