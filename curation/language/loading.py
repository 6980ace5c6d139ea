"""A local causal model with its tokenizer, ready to answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curation.language.models import LanguageModel, Request

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Loaded:
    """A network of transformers in evaluation mode. ends: tokens that end an answer. context: in tokens."""

    network: Any
    tokenizer: Any
    pad: int
    ends: frozenset[int]
    context: int

    def tokens(self, messages: Messages, key: str) -> list[int]:
        """The conversation in the model's chat template, up to where its answer begins."""
        from jinja2 import TemplateError

        # Reasoning models would spend the answer's tokens on their thoughts; templates without the switch ignore it.
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, "enable_thinking": False}
        try:
            return self.tokenizer.apply_chat_template(messages, **options)
        except TemplateError as error:
            if messages[0]["role"] != "system":
                raise ValueError(f"{key}.model: its chat template refuses a conversation ({error})") from error
        # A template that knows no system message: it goes before the first message.
        first = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        return self.tokens([{**messages[1], "content": first}, *messages[2:]], key)


def messages_of(request: Request, system: str | None) -> Messages:
    """The conversation of a request: system message, history, prompt."""
    start = [{"role": "system", "content": system}] if system else []
    turns = [{"role": role, "content": content} for role, content in request.history]
    return [*start, *turns, {"role": "user", "content": request.prompt}]


def load(folder: Path, model: LanguageModel, key: str) -> Loaded:
    """The model in `folder`, on the CPU or, with a device map, where that says.

    Raises ValueError, naming `key`, where transformers cannot load it or the files do not hold all weights.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, model.dtype), device_map=model.device_map, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ValueError(f"{key}.model is {model.model!r}: transformers cannot load {folder} ({error})") from error
    network, info = found
    if info["missing_keys"] or info["mismatched_keys"]:
        names = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise ValueError(
            f"{key}.model is {model.model!r}: {folder} lacks {len(names)} weights of its architecture, such as "
            f"{names[0]}; it is damaged or no causal language model"
        )
    ends = network.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    if tokenizer.eos_token_id is not None:
        ends = sorted({*ends, tokenizer.eos_token_id})
    pad = next((token for token in (tokenizer.pad_token_id, *ends) if token is not None), 0)
    # The repository's own temperature, penalties and the like are not the yaml's.
    network.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=pad, do_sample=False)
    return Loaded(network.eval(), tokenizer, pad, frozenset(ends), _context(network.config))


def _context(config: Any) -> int:
    text = config.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or 2**31)
