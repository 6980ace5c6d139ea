"""A real causal model of 170 kB, built here: a Llama of two layers over bytes, with a chat template."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]


def tiny_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte, and five special ones."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate([*bytes_, *SPECIAL])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", additional_special_tokens=SPECIAL[2:]
    )
    fast.chat_template = template
    return fast


def build_tiny_lm(
    folder: Path, answers: dict[str, str] | None = None, *, template: str | None = TEMPLATE, context: int = 512,
    steps: int = 150, seed: int = 0,
) -> Path:  # fmt: skip
    """Saves a tiny model and returns its folder. answers: prompt -> answer that it is trained to give (a second)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer(template)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        if answers:
            _train(model, tokenizer, answers, steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, answers: dict[str, str], steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = []
    for prompt, answer in answers.items():
        start = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        rows.append((start, [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]))
    width = max(len(start) + len(end) for start, end in rows)
    pad = [width - len(start) - len(end) for start, end in rows]
    ids = torch.tensor([s + e + [tokenizer.pad_token_id] * n for (s, e), n in zip(rows, pad, strict=True)])
    labels = torch.tensor([[-100] * len(s) + e + [-100] * n for (s, e), n in zip(rows, pad, strict=True)])
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
