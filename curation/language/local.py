"""Answers of a local causal model: a Lightning prediction loop over batches of requests, on all ranks.

Batches are cut from the requests that have no answer yet, by length; a batch is stored whole or not at all. What is
left after a kill is therefore cut as before, on any number of ranks, and gives the same answers.
"""

import contextlib
import gc
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from curation.language.answers import AnswerWriter, Naming
from curation.language.loading import Loaded, load, messages_of
from curation.language.models import Answer, LanguageModel, Request
from curation.language.protocol import cut_text
from curation.language.sampling import RowSampler, choice_probability, first_tokens
from curation.language.weights import fetch
from curation.progress import Progress
from curation.session import Session

# The model asked last, with what it was loaded from; the next call of `ask` is most often to the same one.
_kept: list[tuple[Any, Loaded]] = []


def answer_locally(
    model: LanguageModel, requests: list[Request], failed: list[Request], naming: Naming, folder: Path,
    session: Session, key: str, title: str, done: int,
) -> None:  # fmt: skip
    """Answers all requests and stores each batch when it is done. Called by all ranks.

    requests: without a stored answer. failed: asked before, in vain; in batches of their own, so that those of the
    others stay as they were. done: how many of the same task were stored before.
    """
    model.check_ranks(key, session.world_size)
    loaded = _load(model, naming, session, key)
    batches = [batch for part in (requests, failed) for batch in cut_batches(part, model.batch_size, naming)]
    mine = batches[session.rank :: session.world_size]
    bar = Progress(title, done + len(requests) + len(failed), done, "answers", session.is_zero, session.world_size)
    loader = DataLoader(_Batches(mine, loaded, model, key), batch_size=None, num_workers=0)
    module = Answerer(mine, model, loaded, naming, key)
    module.allow_zero_length_dataloader_with_multiple_devices = True
    with AnswerWriter(folder, session.rank) as writer, contextlib.closing(bar), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(LeafSpec|does not have many workers).*")
        trainer = session.trainer(callbacks=[_Storing(naming, writer, bar)])
        trainer.predict(module, loader, return_predictions=False)
    session.barrier()


def cut_batches(requests: list[Request], size: int, naming: Naming) -> list[list[Request]]:
    """Batches of requests of like length, the longest first, in an order that the list's does not change."""

    def rank(request: Request) -> tuple[int, str]:
        return -len(request.prompt) - sum(len(content) for _, content in request.history), naming.id(request)

    ordered = sorted(requests, key=rank)
    return [ordered[first : first + size] for first in range(0, len(ordered), size)]


def _load(model: LanguageModel, naming: Naming, session: Session, key: str) -> Loaded:
    wanted = ({**naming.identity, "parameters": None}, model.dtype, model.device_map)
    if not _kept or _kept[0][0] != wanted:
        forget_model()  # first: two models at a time may not fit
        folder = session.on_zero(lambda: fetch(model.model, model.revision, key))
        if not folder.exists():  # another node with a cache of its own
            folder = fetch(model.model, model.revision, key)
        _kept.append((wanted, load(folder, model, key)))
    return _kept[0][1]


def forget_model() -> None:
    """Frees the memory of the model that was asked last."""
    _kept.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Batches(Dataset):
    """A rank's batches as tokens; an item is a whole batch."""

    def __init__(self, batches: list[list[Request]], loaded: Loaded, model: LanguageModel, key: str) -> None:
        self.batches, self.loaded, self.model, self.key = batches, loaded, model, key

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Of one batch: input_ids and attention_mask int64 [B, L], padded on the left, and their places in it.

        refused: (place, why) of the requests that are too long for the model.
        """
        room = self.loaded.context - self.model.max_tokens
        places, tokens, refused = [], [], []
        for place, request in enumerate(self.batches[number]):
            ids = self.loaded.tokens(messages_of(request, self.model.system), self.key)
            if len(ids) > room:
                refused.append((place, self._too_long(len(ids))))
            else:
                places.append(place)
                tokens.append(ids)
        width = max(map(len, tokens), default=0)
        padded = [[self.loaded.pad] * (width - len(ids)) + ids for ids in tokens]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in tokens]
        return {
            "number": number, "places": places, "refused": refused,
            "input_ids": torch.tensor(padded, dtype=torch.int64),
            "attention_mask": torch.tensor(mask, dtype=torch.int64),
        }  # fmt: skip

    def _too_long(self, tokens: int) -> str:
        return (
            f"the prompt's {tokens} tokens and {self.key}.max_tokens {self.model.max_tokens} exceed the model's "
            f"context of {self.loaded.context}"
        )


class Answerer(LightningModule):
    """Generates the answers to the batches of one rank, of which Lightning hands over the tokens."""

    def __init__(
        self, batches: list[list[Request]], model: LanguageModel, loaded: Loaded, naming: Naming, key: str
    ) -> None:
        super().__init__()
        self.batches, self.model, self.loaded, self.naming, self.key = batches, model, loaded, naming, key
        if model.device_map is None:  # else Accelerate has placed the weights, and Lightning must not move them
            self.network = loaded.network
        self.first: dict[tuple[str, str], tuple[list[int], list[int]]] = {}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[tuple[Request, Answer]]:
        """The answers to the batch's requests, those too long for the model last."""
        whole = self.batches[batch["number"]]
        refused = [(whole[place], Answer("", "failed", error=reason)) for place, reason in batch["refused"]]
        requests = [whole[place] for place in batch["places"]]
        if not requests:
            return refused
        try:
            tokens, logits = self._generate(requests, batch["input_ids"], batch["attention_mask"])
        except torch.OutOfMemoryError:
            raise RuntimeError(
                f"{self.key}.batch_size is {self.model.batch_size}: a batch of prompts of "
                f"{batch['input_ids'].shape[1]} tokens does not fit into the GPU's memory; halve it, or lower "
                f"{self.key}.max_tokens"
            ) from None
        return [*zip(requests, self._answers(requests, tokens, logits), strict=True), *refused]

    def _generate(self, requests: list[Request], ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the answers int64 [B, L] and the logits of the first ones [B, V]."""
        from transformers import LogitsProcessorList

        network, device = self.loaded.network, self.loaded.network.device
        seeds = [int(self.naming.id(request), 16) for request in requests]
        sampler = RowSampler(seeds, self.model.temperature, self.model.top_p, device)
        with torch.autocast(device.type, enabled=False):  # answers depend on the model's own precision alone
            tokens = network.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=self.model.max_tokens,
                logits_processor=LogitsProcessorList([sampler]),
            )  # fmt: skip
        assert sampler.first is not None
        return tokens[:, ids.shape[1] :], sampler.first

    def _answers(self, requests: list[Request], tokens: Tensor, logits: Tensor) -> Iterator[Answer]:
        for row, request in enumerate(requests):
            ids = tokens[row].tolist()
            end = next((place for place, token in enumerate(ids) if token in self.loaded.ends), None)
            text, cut = cut_text(self.loaded.tokenizer.decode(ids[:end], skip_special_tokens=True))
            share = self._probability(request.choices, logits[row : row + 1]) if request.choices else None
            yield Answer(text, "length" if cut or end is None else "stop", share)

    def _probability(self, choices: tuple[str, str], logits: Tensor) -> float | None:
        if choices not in self.first:
            words = self.loaded.tokenizer.convert_ids_to_tokens(list(range(len(self.loaded.tokenizer))))
            self.first[choices] = first_tokens(words, choices)
        yes, no = self.first[choices]
        return choice_probability(logits, yes, no)[0] if yes and no else None


class _Storing(Callback):
    """Writes a batch's answers in one go."""

    def __init__(self, naming: Naming, writer: AnswerWriter, bar: Progress) -> None:
        self.naming, self.writer, self.bar = naming, writer, bar
        self.began = time.monotonic()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        seconds, self.began = time.monotonic() - self.began, time.monotonic()
        each = seconds / len(outputs)
        self.writer.append([self.naming.record(request, answer, each) for request, answer in outputs])
        self.bar.step(len(outputs))
