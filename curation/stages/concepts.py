"""The concept bank: given as a list, found by language models, edited by a person."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from curation.concepts.bank import BankFiles, Entry, print_of
from curation.concepts.discovery import Discovery
from curation.concepts.files import read_concepts
from curation.concepts.prompts import Prompts
from curation.concepts.settings import KEY, Discover
from curation.language import Answer, Request, ask, release
from curation.packaged import resolve
from curation.stage import Context, Stage, plain
from datamodules.files import atomic, fingerprint, read_json, write_json

GAPS = "gaps.json"


@dataclass(frozen=True)
class Concepts(Stage):
    """The bank B of the domain's concepts and the general bank B' (paper section 3.1).

    Given concepts are always in the bank; language models add to them. The bank is concepts/bank.csv, which a person
    may edit: the next run takes it as it is then. Without the file it is what was given and found.

    Args:
        file: Concepts, one a line (.txt; # begins a comment), a yaml list, or a .csv with a column `concept`.
        words: Concepts written in the yaml itself; added to those of the file.
        general: The general bank B' of the second score. When empty, the domain's name and description, and the wider
            categories that a language model names.
        discover: Language models that find concepts and check them; null takes the given ones alone.
        prompts: What the models are asked.
    """

    name: ClassVar[str] = "concepts"
    keeps: ClassVar[tuple[str, ...]] = ("answers", "bank.csv", "written.json", GAPS)
    lends: ClassVar[tuple[str, ...]] = ("answers",)  # the rest is a person's, or a second round's
    file: str | None = None
    words: list[str] = field(default_factory=list)
    general: list[str] = field(default_factory=list)
    discover: Discover | None = None
    prompts: Prompts = field(default_factory=Prompts)

    def identity(self, context: Context) -> dict[str, Any]:
        """The words themselves, the models, and what a person or a second round made of them."""
        gaps = self.gaps(context)
        edited = self.files(context).edited(gaps)
        if edited is not None:
            return {"edited": print_of(edited)}
        return {**self._origin(context), **({"gaps": print_of(gaps)} if gaps else {})}

    def _origin(self, context: Context) -> dict[str, Any]:
        words = {"concepts": self.given(), "general": self.given_general(context)}
        if self.discover is None:
            return words
        models = {role: model.identity() for role, model in self.discover.models().items()}
        return {**words, "domain": [context.domain, context.description], **models}

    def check(self, context: Context) -> None:
        """Reads the file or the edited table; the models must be at hand, unless a person's table is the bank."""
        self.prompts.check_placeholders()
        if self.files(context).edited(self.gaps(context)) is None:
            self.given()
            self.given_general(context)
            if self.discover is not None:
                self.check_models(context)

    def check_models(self, context: Context) -> None:
        """Raises what keeps the models from being asked."""
        assert self.discover is not None
        self.discover.check_settings()
        if not context.description:
            raise ValueError(
                "curation.description is empty, but the prompts of curation.concepts.discover name it; write the kind "
                "of the domain's concepts, such as 'bird species'"
            )
        missing: dict[str, ValueError | OSError] = {}  # all that is missing is told at once
        for key, model in {self.discover.key(role): model for role, model in self.discover.models().items()}.items():
            try:
                model.check(key, context.session.world_size)
            except (ValueError, OSError) as error:
                missing[str(error)] = error
        if missing:
            raise type(next(iter(missing.values())))(". Also, ".join(missing))

    def intact(self, context: Context) -> bool:
        """Both tables: a deleted bank.csv is written again."""
        files = self.files(context)
        return files.table.exists() and (files.folder / "bank.parquet").exists()

    def edited(self, context: Context) -> bool:
        """Whether bank.csv is a person's."""
        return self.files(context).edited(self.gaps(context)) is not None

    def files(self, context: Context) -> BankFiles:
        """The tables of the bank."""
        return BankFiles(context.workspace.stage_folder(self.name))

    def given(self) -> list[str]:
        """The concepts of the yaml. Raises ValueError for blank entries, of a file also for repeated ones."""
        words = list(self.words)
        if self.file is not None:
            words += read_concepts(Path(resolve(self.file)))
        if not words and self.discover is None:
            raise ValueError(
                "curation.concepts has no concept; give `file:` (one concept a line), `words:`, or `discover:` with "
                "the language models that find them"
            )
        return _without_repeats(words, "words")

    def given_general(self, context: Context) -> list[str]:
        """Open in the paper: B' is the domain's name and description unless given."""
        words = self.general or [word for word in (context.domain, context.description) if word]
        return _without_repeats(words, "general")

    def bank(self, context: Context) -> list[str]:
        """The domain's concepts. Raises FileNotFoundError before the stage ran."""
        return self.files(context).valid(general=False)

    def general_bank(self, context: Context) -> list[str]:
        """The general bank B'. Raises FileNotFoundError before the stage ran."""
        return self.files(context).valid(general=True)

    def run(self, context: Context) -> dict[str, Any]:
        """Writes bank.parquet, bank.csv and, of answers that were of no use, unparsed.jsonl."""
        files = self.files(context)
        gaps, edited = context.session.on_zero(lambda: (gaps := self.gaps(context), files.edited(gaps)))
        discovery = None
        if edited is not None:
            context.say(f"{self.name:<10} takes {files.table} as it was edited; delete it to go back to what was found")
            entries = edited
        elif self.discover is not None:
            discovery = self._discover(context, self.discover)
            entries = [*discovery.entries.values(), *gaps]
        else:
            entries = [*map(Entry, self.given()), *gaps]
        if not any(entry.general and entry.valid for entry in entries):
            entries += [Entry(word, general=True) for word in self.given_general(context)]
            entries += discovery.general if discovery else []
        if not any(entry.valid and not entry.general for entry in entries):
            raise ValueError(_why_empty(files, discovery))
        unparsed = discovery.unparsed if discovery else []

        def write() -> None:
            if unparsed:
                lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in unparsed)
                with atomic(files.folder / "unparsed.jsonl") as temporary:
                    temporary.write_text(lines, encoding="utf-8")
            files.write(entries, gaps, by_hand=edited is not None)

        context.session.on_zero(write)
        counts = {**discovery.counts, "unparsed": len(unparsed)} if discovery else {}
        summary = _summary(entries, counts, edited is not None)
        if counts.get("failed"):
            summary += f"; delete {files.folder / 'stage.json'} to ask what failed again"
        return {"rows": len(entries), "summary": summary, "output": print_of(entries), **counts}

    def _discover(self, context: Context, discover: Discover) -> Discovery:
        checker = discover.checker
        if checker is None:
            context.say(f"{self.name:<10} note: {KEY}.checker is null: what the models name is not checked")
        elif checker.model == discover.generator.model:
            context.say(
                f"{self.name:<10} warning: {KEY}.checker is the generator, {checker.model}: it seldom sees its own "
                "mistakes; name another model"
            )
        with self.interview(context) as discovery:
            if discover.wider and not self.general:
                discovery.widen(self.given_general(context))
            discovery.run(self.given())
        return discovery

    @contextmanager
    def interview(self, context: Context) -> Iterator[Discovery]:
        """The models of `discover`, ready to be asked on all ranks; their memory is free again afterwards."""
        assert self.discover is not None
        discover, models = self.discover, self.discover.models()
        titles = {"generator": "generate", "expander": "expand", "checker": "check"}
        store = context.workspace.stage_folder(self.name) / "answers"

        def ask_role(role: str, requests: list[Request]) -> list[Answer]:
            return ask(
                models[role], requests, folder=store, session=context.session, key=discover.key(role),
                title=titles[role],
            )  # fmt: skip

        def say(line: str) -> None:
            context.say(f"{self.name:<10} {line}")

        try:
            yield Discovery(discover, self.prompts, context.domain, context.description, ask_role, say)
        finally:
            if any(model.endpoint is None for model in models.values()):
                release()

    def gaps(self, context: Context) -> list[Entry]:
        """What a second round found (stage `gaps`); nothing where there was none under these settings."""
        record = self.gaps_record(context)
        entries = [Entry(**entry) for entry in record["entries"]] if record else []
        return entries if any(entry.valid for entry in entries) else []

    def gaps_record(self, context: Context) -> dict[str, Any] | None:
        """concepts/gaps.json, where it belongs to these settings."""
        record = read_json(self.files(context).folder / GAPS) if "gaps" in context.stages else None
        return record if record is not None and record["first_round"] == self.first_round(context) else None

    def write_gaps(self, context: Context, entries: list[Entry], facts: dict[str, Any]) -> None:
        """Keeps what a second round found, and with `facts` why it was asked, in concepts/gaps.json."""
        record = {"first_round": self.first_round(context), **facts, "entries": [asdict(entry) for entry in entries]}
        write_json(self.files(context).folder / GAPS, record)

    def first_round(self, context: Context) -> str:
        """Identifies the settings that a second round belongs to; a person's edits of the bank are none of them."""
        second = plain(context.stages["gaps"].settings())
        return fingerprint([plain(self.settings()), plain(self._origin(context)), second])


def _without_repeats(words: list[str], name: str) -> list[str]:
    first: dict[str, str] = {}
    for word in (" ".join(word.split()) for word in words):
        if not word:
            raise ValueError(f"curation.concepts.{name} holds an empty entry; take it out")
        first.setdefault(word.casefold(), word)
    return list(first.values())


def _summary(entries: list[Entry], counts: dict[str, Any], by_hand: bool) -> str:
    domain = [entry for entry in entries if not entry.general]
    valid = sum(entry.valid for entry in domain)
    text = f"{valid} concepts, {sum(entry.general and entry.valid for entry in entries)} general"
    if by_hand:
        return f"{text}, from the edited bank.csv"
    if not counts:
        return text
    rounds = len(counts["sizes"]) - 1
    unchecked = sum(not entry.valid and str(entry.reason).startswith("not checked") for entry in domain)
    text += (
        f"; {counts['draws']} draws (ended by {counts['generation_stopped_by']}), {rounds} rounds (ended by "
        f"{counts['expansion_stopped_by']}), {counts['calls']} questions, "
        f"{len(domain) - valid - unchecked} refused by the check"
    )
    useless = [
        (unchecked, "concepts left out unchecked"), (counts["failed"], "answers failed"),
        (counts["without_items"], "answers without a list"),
    ]  # fmt: skip
    return text + "".join(f", {number} {what}" for number, what in useless if number)


def _why_empty(files: BankFiles, discovery: Discovery | None) -> str:
    if discovery is None:
        return f"curation.concepts: {files.table} has no valid concept; add some, or delete the file"
    if discovery.entries:
        some = ", ".join(f"{entry.concept!r} ({entry.reason})" for entry in list(discovery.entries.values())[:3])
        return (
            f"curation.concepts: the checker refused all {len(discovery.entries)} concepts that were found, such as "
            f"{some}; see curation.concepts.prompts.check, and whether {KEY}.checker knows the domain"
        )
    said = [line["error"] or line["answer"] for line in discovery.unparsed[-1:]]
    return (
        f"curation.concepts: no answer held a list of concepts; {KEY}.generator said {said[0] if said else ''!r}; see "
        "curation.concepts.prompts.generate, and whether the model knows the domain"
    )
