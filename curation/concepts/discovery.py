"""The concepts of a domain from language models: draws, expansion round by round, check (paper section 3.1).

A pure algorithm on a callable: `ask(role, requests)` gives the answers of the generator, expander or checker, in
order. The same answers give the same bank.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from curation.concepts.bank import Entry
from curation.concepts.names import distinct, merge_key, readable
from curation.concepts.prompts import Prompts, draw_seed, fill
from curation.concepts.settings import KEY, Discover
from curation.language.models import Answer, Request
from curation.language.parsing import parse_items, parse_yes_no, without_thoughts

Ask = Callable[[str, list[Request]], list[Answer]]
CHOICES = ("Yes", "No")
WIDER = 10  # terms of the general bank asked for
MOST_FAILED = 0.1  # share of a round's questions
EMPTY_DRAWS = 5  # draws in a row without a list, after which no further one is asked for
KNOWN = 100  # names that {known} holds
KEPT_TEXT = 2000  # characters of an answer that are kept for inspection


@dataclass
class Discovery:
    """One run of the algorithm: what it found, how it ended, and which answers were of no use."""

    settings: Discover
    prompts: Prompts
    domain: str
    description: str
    ask: Ask
    say: Callable[[str], None] = field(default=lambda line: None)
    entries: dict[str, Entry] = field(default_factory=dict)  # by merge key
    general: list[Entry] = field(default_factory=list)
    checked: set[str] = field(default_factory=set)  # merge keys
    history: tuple[tuple[str, str], ...] = ()
    unparsed: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=lambda: {"calls": 0, "failed": 0, "without_items": 0, "draws": 0})

    def run(self, given: Iterable[str]) -> None:
        """All steps. given: concepts that are in the bank whatever the models say; the expansion asks about them too.

        Raises ValueError where no answer of a whole step came.
        """
        self.generate()
        found, self.entries = self.entries, {}
        for name in given:  # all of them, also two spellings of one name; what was found beside them is no news
            key = merge_key(name)
            self.entries[key if key and key not in self.entries else f"{key} {name}"] = Entry(name)
        for key, entry in found.items():
            if not self._is_full():
                self.entries.setdefault(key, entry)
        self.expand()
        self._verify_new()

    def generate(self) -> None:
        """B_0: the union of draws, until one adds less than the share lambda 1 of what the draws before it found."""
        settings = self.settings
        turns: list[tuple[str, str]] = []
        prompt = self._fill(self.prompts.generate, count=settings.per_draw)
        empty, stopped = 0, "max_draws"
        for number in range(1, settings.max_draws + 1):
            if not self._room(1):
                stopped = "max_calls"
                break
            request = Request(prompt, draw_seed(settings.seed, "generate", number))
            answer = self._ask("generator", [request])[0]
            before = len(self.entries)
            names = self._names("generator", request, answer)
            self._add(names, "generated", number, None, request.seed)
            new = len(self.entries) - before
            self.counts["draws"] = number
            # A refusal or a failed answer says nothing about how much is left to be found.
            empty = 0 if names else empty + 1
            if names:
                turns += [("user", prompt), ("assistant", without_thoughts(answer.text).strip())]
            self.say(f"draw {number}: {new} new concepts, {len(self.entries)} in all")
            if empty == EMPTY_DRAWS and answer.finish == "failed":
                raise ValueError(
                    f"{settings.key('generator')}: {empty} draws one after the other gave nothing, the last failed "
                    f"({answer.error}); see to the model and run again: what it answered is kept"
                )
            if self._is_full() or empty == EMPTY_DRAWS:
                stopped = "max_concepts" if self._is_full() else "no list in the answers"
                break
            if names and new < settings.growth_generate * before:
                stopped = "growth"
                break
        if settings.history == "list" and turns:
            lines = [f"{number}. {entry.concept}" for number, entry in enumerate(self.entries.values(), 1)]
            turns = [("user", prompt), ("assistant", "\n".join(lines))]
        self.history = () if settings.history == "none" else tuple(turns)
        self.counts |= {"generated": len(self.entries), "generation_stopped_by": stopped}

    def expand(self) -> None:
        """B_1, B_2, ...: rounds of concepts like the known ones, until one adds less than the share lambda 2."""
        settings = self.settings
        sizes = [len(self.entries)]
        asked: set[str] = set()
        stopped = "max_rounds"
        for number in range(1, settings.max_rounds + 1):
            if settings.check_first:
                self._verify_new()
            wanted = [
                key for key, entry in self.entries.items() if entry.valid and not (settings.only_new and key in asked)
            ]
            room = self._room(len(wanted))
            if not room or self._is_full():
                stopped = "max_concepts" if self._is_full() else "max_calls" if wanted else "nothing new"
                break
            keys = wanted[:room]
            asked.update(keys)
            failed = self.counts["failed"]
            self._ask_alike("expander", self.prompts.expand, [self.entries[key] for key in keys], "expanded", number)
            before = sizes[-1]
            sizes.append(len(self.entries))
            self.say(f"round {number}: {sizes[-1] - before} new concepts, {sizes[-1]} in all")
            if self._is_full() or len(keys) < len(wanted):
                stopped = "max_concepts" if self._is_full() else "max_calls"
                break
            if sizes[-1] - before < settings.growth_expand * before:
                failed = self.counts["failed"] - failed
                if failed > MOST_FAILED * len(keys):  # little growth of few answers says nothing
                    raise ValueError(
                        f"{settings.key('expander')}: {failed} of {len(keys)} questions of round {number} failed; see "
                        "to the model and run again: what it answered is kept"
                    )
                stopped = "growth"
                break
        self.counts |= {"sizes": sizes, "expansion_stopped_by": stopped if settings.max_rounds else "not asked for"}

    def ask_gaps(self, concepts: Iterable[str]) -> list[Entry]:
        """New concepts, checked, from other names and particular kinds of concepts of which few images were found."""
        self.checked |= set(self.entries)
        before = set(self.entries)
        self._ask_alike("generator", self.prompts.gap, [Entry(concept) for concept in concepts], "gap", None)
        self._verify_new()
        return [entry for key, entry in self.entries.items() if key not in before]

    def widen(self, known: Iterable[str]) -> None:
        """The general bank's wider categories, one question. known: what it holds already."""
        prompt = self._fill(self.prompts.wider, count=WIDER)
        request = Request(prompt, draw_seed(self.settings.seed, "wider"))
        answer = self._ask("generator", [request])[0]
        model = self.settings.generator.model
        names = self._names("generator", request, answer)[: 2 * WIDER]
        found = distinct(names, map(merge_key, known)).values()
        self.general = [Entry(name, True, "wider", model=model, seed=request.seed) for name in found]

    def _verify_new(self) -> None:
        new = {key: entry for key, entry in self.entries.items() if key not in self.checked and entry.origin != "given"}
        self.checked.update(new)
        self.verify(list(new.values()))

    def verify(self, entries: list[Entry]) -> None:
        """Asks the checker about every entry, always with the same seed, and marks those to which it says no."""
        settings = self.settings
        if settings.checker is None or not entries:
            return
        choices = CHOICES if settings.check_by == "probability" else None
        seed = draw_seed(settings.seed, "check")
        prompts = [self._fill(self.prompts.check, concept=entry.concept) for entry in entries]
        requests = [Request(prompt, seed, choices=choices) for prompt in prompts]
        answers = self._ask("checker", requests)
        answered = [answer for answer in answers if answer.finish != "failed"]
        earlier = any(entry.probability is not None for entry in self.entries.values())
        if choices and answered and not earlier and all(answer.probability is None for answer in answered):
            raise ValueError(
                f"{KEY}.check_by is 'probability', but {settings.key('checker')} {settings.checker.model!r} gives no "
                "log-probabilities; use check_by: answer"
            )
        for entry, request, answer in zip(entries, requests, answers, strict=True):
            verdict = self._verdict(answer)
            entry.probability = answer.probability if choices else None
            entry.valid, entry.reason = verdict is True, None
            if verdict is None:
                said = " ".join(answer.text.split())[:80]
                entry.reason = f"not checked: {answer.error}" if answer.finish == "failed" else f"unclear: {said}"
                self._keep("checker", request, answer, [])
            elif not verdict:
                entry.reason = "the checker says no"

    def _verdict(self, answer: Answer) -> bool | None:
        if answer.finish == "failed":
            return None
        if answer.probability is None:  # none was asked for, or neither word was among the likeliest
            return parse_yes_no(answer.text)
        return answer.probability >= self.settings.check_threshold

    def _ask_alike(self, role: str, template: str, entries: list[Entry], origin: str, number: int | None) -> None:
        """Asks for concepts like each of `entries` and adds those that are new."""
        known = ", ".join(entry.concept for entry in list(self.entries.values())[: -KNOWN - 1 : -1])
        count, seed = self.settings.per_expansion, self.settings.seed
        history = self.history if role == "expander" else ()
        requests = [
            Request(
                self._fill(template, concept=entry.concept, count=count, known=known),
                draw_seed(seed, origin, number, entry.concept), history,
            )
            for entry in entries
        ]  # fmt: skip
        for entry, request, answer in zip(entries, requests, self._ask(role, requests), strict=True):
            self._add(self._names(role, request, answer), origin, number, entry.concept, request.seed)

    def _ask(self, role: str, requests: list[Request]) -> list[Answer]:
        answers = self.ask(role, requests)
        failed = [answer for answer in answers if answer.finish == "failed"]
        if len(failed) == len(answers) > 1:
            remedy = f"; {KEY}.history: list or none makes the questions shorter" if requests[0].history else ""
            raise ValueError(
                f"{self.settings.key(role)}: none of {len(answers)} questions was answered ({failed[0].error}){remedy}"
            )
        self.counts["failed"] += len(failed)
        self.counts["calls"] += len(requests) if role != "checker" else 0
        return answers

    def _names(self, role: str, request: Request, answer: Answer) -> list[str]:
        """Readable names in an answer; what is none is kept for inspection."""
        if answer.finish == "failed":
            self._keep(role, request, answer, [])
            return []
        parsed = parse_items(answer.text, answer.finish)
        names = [name for name in map(readable, parsed.items) if merge_key(name)]
        if not names or parsed.rejected:
            self._keep(role, request, answer, parsed.rejected)
        self.counts["without_items"] += not names
        return names

    def _keep(self, role: str, request: Request, answer: Answer, rejected: list[str]) -> None:
        facts = {"role": role, "prompt": request.prompt, "seed": request.seed, "finish": answer.finish}
        text = {"error": answer.error, "rejected": rejected, "answer": answer.text[:KEPT_TEXT]}
        self.unparsed.append({**facts, **text})

    def _add(self, names: list[str], origin: str, number: int | None, parent: str | None, seed: int) -> None:
        model = self.settings.models()["expander" if origin == "expanded" else "generator"].model
        for name in names:
            if self._is_full():
                return
            entry = Entry(name, False, origin, number, parent, model, seed)
            self.entries.setdefault(merge_key(name), entry)

    def _room(self, wanted: int) -> int:
        return min(wanted, self.settings.max_calls - self.counts["calls"])

    def _is_full(self) -> bool:
        return len(self.entries) >= self.settings.max_concepts

    def _fill(self, template: str, **values: Any) -> str:
        return fill(template, domain=self.domain, description=self.description, **values)
