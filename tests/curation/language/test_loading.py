"""A local model with its tokenizer."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from curation.language import LanguageModel, Request
from curation.language.loading import load, messages_of
from tests.curation.language.tiny_lm import TEMPLATE, build_tiny_lm

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
HISTORY = (("user", "a"), ("assistant", "b"))


def tokens_of(folder: Path, request: Request, system: str | None = None) -> str:
    loaded = load(folder, LanguageModel(str(folder), dtype="float32"), "key")
    return loaded.tokenizer.decode(loaded.tokens(messages_of(request, system), "key"))


def test_tokens__the_conversation_up_to_the_answer(tmp_path: Path) -> None:
    text = tokens_of(build_tiny_lm(tmp_path), Request("寿司?", history=HISTORY), system="Be brief.")
    turns = ["<|system|>Be brief.", "<|user|>a", "<|assistant|>b", "<|user|>寿司?"]
    assert text == "<|end|>".join(turns) + "<|end|><|assistant|>"


def test_tokens__a_template_without_system_messages(tmp_path: Path) -> None:
    folder = build_tiny_lm(tmp_path, template=NO_SYSTEM)
    assert tokens_of(folder, Request("c"), "Be brief.") == "<|user|>Be brief.\n\nc<|end|><|assistant|>"


def test_tokens__a_template_that_refuses_is_said(tmp_path: Path) -> None:
    folder = build_tiny_lm(tmp_path, template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ValueError, match="key.model: its chat template refuses a conversation .roles must alternate"):
        tokens_of(folder, Request("c"))


def test_load__lacking_weights_are_no_random_ones(tmp_path: Path) -> None:
    folder = build_tiny_lm(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"key\.model is .* lacks 1 weights .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder, LanguageModel(str(folder)), "key")


def test_load__the_repository_s_own_sampling_is_not_used(tmp_path: Path) -> None:
    folder = build_tiny_lm(tmp_path)
    (folder / "generation_config.json").write_text('{"do_sample": true, "top_k": 1, "repetition_penalty": 9.0}')
    config = load(folder, LanguageModel(str(folder)), "key").network.generation_config
    assert not config.do_sample and config.repetition_penalty in (None, 1.0) and config.eos_token_id
