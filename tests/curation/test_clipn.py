"""CLIPN's `no` tower and its losses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from curation.clipn import NoBranch, clipn_losses, load_no_branch, save_no_branch
from tests.tiny import CLIP

open_clip = pytest.importorskip("open_clip")
TEXTS = ["a cat", "a very long dog of words that does not fit into the context at all", "", "a cat"]


@pytest.fixture
def clip() -> nn.Module:
    torch.manual_seed(0)
    return open_clip.CLIP(**CLIP["model_cfg"]).eval()


@pytest.fixture
def tokens() -> Tensor:
    return open_clip.SimpleTokenizer(context_length=12)(TEXTS)


def shaken(clip: nn.Module, scale: float = 0.1) -> NoBranch:
    """A tower that has learnt something."""
    branch, generator = NoBranch(clip), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return branch


def test_no_branch__begins_as_a_copy_of_the_first_tower(clip: nn.Module, tokens: Tensor) -> None:
    branch = NoBranch(clip)
    for branch.training in (True, False):  # the prompts are zero
        torch.testing.assert_close(branch(tokens), clip.encode_text(tokens))
    before = clip.encode_text(tokens)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.add_(1)
    assert torch.equal(clip.encode_text(tokens), before)  # a copy, not the same weights
    assert all(parameter.requires_grad for parameter in branch.parameters())


def test_no_branch__is_in_training_mode_whatever_the_first_tower(clip: nn.Module) -> None:
    assert not clip.training
    assert all(module.training for module in NoBranch(clip).modules())


def test_no_branch__reads_the_layout_that_wraps_the_text_tower(tokens: Tensor) -> None:
    torch.manual_seed(0)
    clip = open_clip.CustomTextCLIP(**CLIP["model_cfg"]).eval()
    torch.testing.assert_close(NoBranch(clip).eval()(tokens), clip.encode_text(tokens))


def test_no_branch__published_names(clip: nn.Module) -> None:
    state = NoBranch(clip).state_dict()
    assert all("_no" in name for name in state)
    block = "transformer_no.resblocks.0"
    assert {"prompt_no", "token_embedding_no.weight", "positional_embedding_no", "ln_final_no.bias"} <= set(state)
    assert {"text_projection_no", f"{block}.attn.in_proj_weight", f"{block}.mlp.c_fc.bias"} <= set(state)
    assert state["prompt_no"].shape == (16, 12, 16) and not state["prompt_no"].any()


def test_no_branch__mean_prompt_at_every_position(clip: nn.Module, tokens: Tensor) -> None:
    branch = shaken(clip).eval()
    mean = branch.prompt_no.detach().mean(dim=0)
    plain = shaken(clip).eval()
    with torch.no_grad():
        plain.prompt_no.zero_()
        plain.positional_embedding_no.add_(mean)
    torch.testing.assert_close(branch(tokens), plain(tokens))


def test_no_branch__training_draws_one_of_17_prompts(clip: nn.Module) -> None:
    branch = shaken(clip)
    with torch.no_grad():
        prompts = branch._prompt(2000, torch.Generator().manual_seed(0))
        choices = torch.cat([branch.prompt_no, branch.prompt_no.mean(dim=0)[None]])
        distance = (prompts[:, None] - choices[None]).abs().amax(dim=(2, 3))
    assert distance.amin(dim=1).max() == 0
    counts = torch.bincount(distance.argmin(dim=1), minlength=17)
    assert counts.min() > 70 and counts.max() < 170  # 118 expected


def test_no_branch__draws_follow_the_generator(clip: nn.Module, tokens: Tensor) -> None:
    branch = shaken(clip)
    first, again, other = (branch(tokens, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_no_branch__other_text_towers_are_refused() -> None:
    class Pooled(nn.Module):
        text_pool_type = "last"

    with pytest.raises(ValueError, match=r"curation\.ood\.no_branch: .*not Pooled with pooling 'last'; ViT-B-16"):
        NoBranch(Pooled())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_save_no_branch__comes_back(clip: nn.Module, tokens: Tensor, tmp_path: Path, dtype: torch.dtype) -> None:
    branch = shaken(clip).eval()
    save_no_branch(branch, tmp_path / "no.safetensors", dtype)
    assert {value.dtype for value in load_file(tmp_path / "no.safetensors").values()} == {dtype}
    loaded = load_no_branch(clip, tmp_path / "no.safetensors").eval()
    assert loaded.prompt_no.dtype == torch.float32
    torch.testing.assert_close(loaded(tokens), branch(tokens), atol=0 if dtype == torch.float32 else 0.02, rtol=0.02)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_load_no_branch__training_checkpoint_of_the_authors(
    clip: nn.Module, tokens: Tensor, tmp_path: Path, prefix: str
) -> None:
    branch = shaken(clip).eval()
    state = {prefix + key: value for key, value in {**clip.state_dict(), **branch.state_dict()}.items()}
    torch.save({"epoch": 10, "name": "x", "state_dict": state, "optimizer": {}}, tmp_path / "epoch_10.pt")
    torch.testing.assert_close(load_no_branch(clip, tmp_path / "epoch_10.pt").eval()(tokens), branch(tokens))


def test_load_no_branch__what_does_not_fit_is_listed(clip: nn.Module, tmp_path: Path) -> None:
    state = NoBranch(clip).state_dict()
    wide = {**state, "text_projection_no": torch.zeros(16, 32)}
    less = {key: value for key, value in state.items() if key != "prompt_no"}
    more = {**state, "ln_final_no.extra": torch.zeros(1)}
    plain = {key: value for key, value in clip.state_dict().items() if not key.startswith("visual")}
    for wrong, message in (
        (wide, "of another shape text_projection_no$"),
        (less, r"missing prompt_no \(CLIPN's hand-crafted variant"),
        (more, "left over ln_final_no.extra$"),
        (plain, "missing .* and [0-9]+ more$"),
    ):
        save_file(wrong, tmp_path / "no.safetensors")
        with pytest.raises(
            ValueError, match=rf"curation\.ood\.no_branch: .*does not fit the image-text model: {message}"
        ):
            load_no_branch(clip, tmp_path / "no.safetensors")


def test_load_no_branch__missing_file(clip: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"curation\.ood\.no_branch: .*does not exist.*fit --config clipn\.yaml"
    ):
        load_no_branch(clip, tmp_path / "no.pt")


@pytest.mark.parametrize("name", ["no.safetensors", "no.pt"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x80\x02}q\x00."])
def test_load_no_branch__damaged_file(clip: nn.Module, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"curation\.ood\.no_branch: .*{name}"):
        load_no_branch(clip, tmp_path / name)


def test_load_no_branch__file_that_is_no_state_dict(clip: nn.Module, tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "no.pt")
    with pytest.raises(ValueError, match=r"curation\.ood\.no_branch: .*no\.pt"):
        load_no_branch(clip, tmp_path / "no.pt")


def unit_rows(count: int, seed: int) -> Tensor:
    rows = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.normalize(rows, dim=1)


def by_hand(image: np.ndarray, yes: np.ndarray, no: np.ndarray, scale: float) -> tuple[float, float, float]:
    """The published formulas, pair by pair."""
    count = len(image)
    p_yes = np.empty((count, count))
    for i in range(count):
        for j in range(count):
            a, b = np.exp(scale * image[i] @ yes[j]), np.exp(scale * image[i] @ no[j])
            p_yes[i, j] = a / (a + b)
    others = ~np.eye(count, dtype=bool)
    opposite = [2 - np.sqrt(2 - 2 * yes[i] @ no[i] + 1e-4) for i in range(count)]
    return -np.log(np.diag(p_yes)).mean(), -np.log(1 - p_yes[others]).mean(), float(np.mean(opposite))


@pytest.mark.parametrize("count", [2, 7])
def test_clipn_losses__published_formulas(count: int) -> None:
    features = [unit_rows(count, seed) for seed in range(3)]
    loss, parts = clipn_losses(*features, 10.0)
    expected = by_hand(*(feature.numpy() for feature in features), scale=10.0)
    np.testing.assert_allclose([parts[name] for name in ("yes", "no", "tso")], expected, rtol=1e-10)
    assert float(loss) == pytest.approx(sum(expected) / 2)


def test_clipn_losses__do_not_underflow() -> None:
    image = torch.eye(2)
    loss, _ = clipn_losses(image, -image, image, torch.tensor(100.0))  # everything is wrong
    assert float(loss) == pytest.approx((200 + np.log(2) + 2 - np.sqrt(4 + 1e-4)) / 2, rel=1e-5)


def test_clipn_losses__equal_texts_are_no_negatives() -> None:
    features = [unit_rows(4, seed) for seed in range(3)]
    same = torch.eye(4, dtype=torch.bool)
    assert clipn_losses(*features, 10.0, same)[0] == clipn_losses(*features, 10.0)[0]
    same[1, 2] = same[2, 1] = True
    _, parts = clipn_losses(*features, 10.0, same)
    margin = 10 * features[0] @ (features[1] - features[2]).T
    expected = nn.functional.softplus(margin)[~same].mean()
    torch.testing.assert_close(parts["no"], expected)


def test_clipn_losses__one_pair_has_no_negative() -> None:
    _, parts = clipn_losses(unit_rows(1, 0), unit_rows(1, 1), unit_rows(1, 2), 10.0)
    assert float(parts["no"]) == 0
