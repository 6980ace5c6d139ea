"""The search for concepts as a pure algorithm: stop rules, limits, history, check."""

from collections.abc import Callable, Sequence

import pytest

from curation.concepts.discovery import Discovery
from curation.concepts.names import merge_key
from curation.concepts.prompts import Prompts
from curation.concepts.settings import Discover
from curation.language.models import Answer, LanguageModel, Request
from tests.curation.concepts.food_model import KEYS, OUTSIDERS, FoodModel

GENERATOR = LanguageModel("generator")


def scripted(draws: Sequence[Sequence[str]], like: Callable[[str], Sequence[str]] = lambda concept: ()) -> Discovery:
    """A discovery of names without capitals: draw by draw as listed (then nothing new), and `like` of a concept."""
    left = list(draws)

    def ask(role: str, requests: list[Request]) -> list[Answer]:
        discovery.log.append((role, requests))
        if role == "generator":
            return [Answer("\n".join(f"1. {name}" for name in (left.pop(0) if left else draws[0])), "stop")]
        names = [like(request.prompt.split('"')[1]) for request in requests]
        return [Answer("\n".join(f"- {name}" for name in found) or "I'm sorry, I cannot.", "stop") for found in names]

    discovery = Logged(Discover(GENERATOR), Prompts(), "food", "dishes", ask)
    return discovery


class Logged(Discovery):
    log: list[tuple[str, list[Request]]]

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.log = []


def with_settings(discovery: Logged, **settings: object) -> Logged:
    discovery.settings = Discover(GENERATOR, **settings)  # type: ignore[arg-type]
    return discovery


@pytest.mark.parametrize(
    ("draws", "growth", "expected"),
    [
        ([["ale", "bun"], ["cod"], ["dip"], ["egg"]], 0.5, 3),  # 1 is not below 0.5 * 2, but below 0.5 * 3
        ([["ale", "bun"], ["ale"], ["cod"]], 0.01, 2),  # nothing new
        ([["ale"], ["bun", "ale"], ["cod"]], 0.99, 3),
    ],
)
def test_generate__stops_at_the_first_draw_that_adds_less_than_the_share(
    draws: list[list[str]], growth: float, expected: int
) -> None:
    discovery = with_settings(scripted(draws), growth_generate=growth)
    discovery.generate()
    assert discovery.counts["draws"] == expected and discovery.counts["generation_stopped_by"] == "growth"
    assert {entry.concept for entry in discovery.entries.values()} == {
        name for draw in draws[:expected] for name in draw
    }


def test_generate__at_least_two_draws_each_with_its_own_seed() -> None:
    discovery = scripted([["ale"]])
    discovery.generate()
    seeds = [requests[0].seed for _, requests in discovery.log]
    assert len(seeds) == len(set(seeds)) == 2


def test_generate__a_refusal_does_not_end_it() -> None:
    discovery = scripted([["ale", "bun"], [], ["cod"], ["cod"]])
    discovery.generate()
    assert [entry.concept for entry in discovery.entries.values()] == ["ale", "bun", "cod"]
    assert discovery.counts["draws"] == 4 and discovery.counts["without_items"] == 1
    assert [turn[0] for turn in discovery.history] == ["user", "assistant"] * 3  # without the refusal


def test_generate__ends_where_no_list_comes() -> None:
    discovery = scripted([[]])
    discovery.generate()
    assert discovery.counts["draws"] == 5 and discovery.counts["generation_stopped_by"] == "no list in the answers"
    assert [line["rejected"] for line in discovery.unparsed] == [[]] * 5


def test_expand__rounds_over_all_or_only_new_concepts() -> None:
    chain = {"ale": ["bun"], "bun": ["cod"], "cod": ["dip"], "dip": []}
    for only_new, asked in [(False, [1, 2, 3, 4]), (True, [1, 1, 1, 1])]:
        discovery = with_settings(scripted([["ale"]], chain.__getitem__), only_new=only_new)
        discovery.run([])
        rounds = [len(requests) for role, requests in discovery.log if role == "expander"]
        assert rounds == asked and discovery.counts["sizes"] == [1, 2, 3, 4, 4]
        assert discovery.counts["expansion_stopped_by"] == "growth"
        assert discovery.entries["dip"].parent == "cod" and discovery.entries["dip"].round == 3


def test_expand__the_conversation_that_generated_is_its_history() -> None:
    discovery = scripted([["ale", "bun"], ["cod"]])
    discovery.run([])
    requests = [request for role, asked in discovery.log if role == "expander" for request in asked]
    prompt = discovery.log[0][1][0].prompt
    assert all(request.history == discovery.history for request in requests)
    assert discovery.history[:4] == (
        ("user", prompt), ("assistant", "1. ale\n1. bun"), ("user", prompt), ("assistant", "1. cod"),
    )  # fmt: skip
    assert len({request.seed for request in requests}) == len(requests)


def test_expand__shorter_histories() -> None:
    discovery = with_settings(scripted([["ale", "bun"], ["cod"]]), history="list")
    discovery.run([])
    assert discovery.history[1] == ("assistant", "1. ale\n2. bun\n3. cod") and len(discovery.history) == 2
    discovery = with_settings(scripted([["ale"]]), history="none")
    discovery.run([])
    assert discovery.history == ()


@pytest.mark.parametrize(
    ("limit", "counts"),
    [
        ({"max_draws": 3}, {"draws": 3, "generation_stopped_by": "max_draws"}),
        ({"max_calls": 4}, {"calls": 4, "draws": 4, "generation_stopped_by": "max_calls"}),
        ({"max_concepts": 5}, {"draws": 3, "generation_stopped_by": "max_concepts"}),
        ({"max_draws": 4, "max_rounds": 2}, {"sizes": [8, 16, 24], "expansion_stopped_by": "max_rounds"}),
        ({"max_draws": 4, "max_calls": 15}, {"calls": 15, "sizes": [8, 16, 16], "expansion_stopped_by": "max_calls"}),
        ({"max_draws": 4, "max_concepts": 21}, {"sizes": [8, 16, 21], "expansion_stopped_by": "max_concepts"}),
        ({"max_draws": 4, "max_rounds": 0}, {"sizes": [8], "expansion_stopped_by": "not asked for"}),
    ],
)
def test_limits__end_a_model_that_always_has_more(limit: dict[str, int], counts: dict[str, object]) -> None:
    endless = [[f"food {'abcdefgh'[n]}x", f"meal {'abcdefgh'[n]}x"] for n in range(8)]
    discovery = with_settings(scripted(endless, lambda concept: [concept + "y"]), growth_generate=0.001, **limit)
    discovery.run([])
    assert {name: discovery.counts[name] for name in counts} == counts


def test_run__given_names_stay_first_and_unchecked() -> None:
    def ask(role: str, requests: list[Request]) -> list[Answer]:
        if role == "checker":
            checked.extend(request.prompt.split('"')[1] for request in requests)
            return [Answer("No", "stop") for _ in requests]
        return [Answer("1. Ales\n2. cod", "stop") for _ in requests]

    checked: list[str] = []
    discovery = Discovery(Discover(GENERATOR, checker=LanguageModel("other")), Prompts(), "food", "dishes", ask)
    discovery.run(["buns", "ale", "bun"])
    assert [(entry.concept, entry.origin, entry.valid) for entry in discovery.entries.values()] == [
        ("buns", "given", True), ("ale", "given", True), ("bun", "given", True), ("cod", "generated", False),
    ]  # fmt: skip
    assert checked == ["cod"]


@pytest.mark.parametrize(
    ("answer", "valid", "reason"),
    [
        (Answer("Yes.", "stop"), True, None),
        (Answer("**No**, it is not.", "stop"), False, "the checker says no"),
        (Answer("Well, " + "x" * 10_000, "length"), False, "unclear: Well, xxx"),
        (Answer("", "failed", error="HTTP 400: too long"), False, "not checked: HTTP 400: too long"),
    ],
)
def test_verify__only_a_yes_is_a_yes(answer: Answer, valid: bool, reason: str | None) -> None:
    def ask(role: str, requests: list[Request]) -> list[Answer]:
        return (
            [answer, Answer("yes", "stop")] if role == "checker" else [Answer("1. ale\n2. bun", "stop")] * len(requests)
        )

    discovery = Discovery(Discover(GENERATOR, checker=LanguageModel("other")), Prompts(), "food", "dishes", ask)
    discovery.run([])
    entry = discovery.entries["ale"]
    assert entry.valid is valid and (entry.reason or "").startswith(reason or "") and len(entry.reason or "") < 100


def test_verify__by_probability_with_one_seed() -> None:
    def ask(role: str, requests: list[Request]) -> list[Answer]:
        if role != "checker":
            return [Answer("1. ale\n2. bun", "stop")] * len(requests)
        assert {request.seed for request in requests} == {requests[0].seed}
        assert all(request.choices == ("Yes", "No") for request in requests)
        return [Answer("Yes", "stop", probability) for probability in probabilities]

    probabilities: list[float | None] = [0.59, 0.6]
    settings = Discover(GENERATOR, checker=LanguageModel("other"), check_by="probability", check_threshold=0.6)
    discovery = Discovery(settings, Prompts(), "food", "dishes", ask)
    discovery.run([])
    assert [(entry.valid, entry.probability) for entry in discovery.entries.values()] == [(False, 0.59), (True, 0.6)]
    probabilities[:] = [0.59, None]  # an answer that begins with neither word: its text decides
    discovery = Discovery(settings, Prompts(), "food", "dishes", ask)
    discovery.run([])
    assert [(entry.valid, entry.probability) for entry in discovery.entries.values()] == [(False, 0.59), (True, None)]
    probabilities[:] = [None, None]
    with pytest.raises(ValueError, match="discover.checker 'other' gives no log-probabilities; use check_by: answer"):
        Discovery(settings, Prompts(), "food", "dishes", ask).run([])


def test_run__a_step_without_any_answer_is_an_error() -> None:
    def ask(role: str, requests: list[Request]) -> list[Answer]:
        failed = Answer("", "failed", error="the prompt's 900 tokens exceed the model's context of 512")
        return [failed] * len(requests) if role == "expander" else [Answer("1. ale\n2. bun", "stop")] * len(requests)

    with pytest.raises(ValueError, match=r"discover\.generator: none of 2 .*context of 512.*history: list or none"):
        Discovery(Discover(GENERATOR), Prompts(), "food", "dishes", ask).run([])


def test_generate__draws_that_fail_do_not_end_it_as_if_all_was_found() -> None:
    def ask(role: str, requests: list[Request]) -> list[Answer]:
        asked.append(role)
        return [Answer("1. ale\n2. bun", "stop") if len(asked) == 1 else Answer("", "failed", error="HTTP 500")]

    asked: list[str] = []
    with pytest.raises(ValueError, match=r"discover\.generator: 5 draws .* gave nothing, the last failed \(HTTP 500\)"):
        Discovery(Discover(GENERATOR), Prompts(), "food", "dishes", ask).run([])
    assert asked == ["generator"] * 6


@pytest.mark.parametrize("check_first", [False, True])
def test_run__finds_what_a_model_of_400_terms_knows_and_drops_the_outsiders(check_first: bool) -> None:
    model, asked = FoodModel(), []

    def ask(role: str, requests: list[Request]) -> list[Answer]:
        asked.extend(request.prompt for request in requests if role == "expander")
        bodies = [([{"content": request.prompt}], {"seed": request.seed}) for request in requests]
        return [Answer(model(*body), "stop") for body in bodies]

    settings = Discover(GENERATOR, checker=LanguageModel("other"), only_new=True, check_first=check_first)
    discovery = Discovery(settings, Prompts(), "food", "dishes", ask)
    discovery.run([])
    found, counts = list(discovery.entries.values()), discovery.counts
    assert {merge_key(entry.concept) for entry in found if entry.valid} == KEYS
    assert {entry.concept.casefold().rstrip("s") for entry in found if not entry.valid} == {
        name.casefold() for name in OUTSIDERS
    }
    assert counts["generated"] < 310 and counts["generation_stopped_by"] == counts["expansion_stopped_by"] == "growth"
    assert any(name in prompt for prompt in asked for name in OUTSIDERS) is not check_first


def test_expand__little_growth_of_few_answers_is_no_end() -> None:
    def ask(role: str, requests: list[Request]) -> list[Answer]:
        if role == "generator":
            return [Answer("1. ale\n2. bun\n3. cod", "stop")]
        return [Answer("- ale", "stop"), *[Answer("", "failed", error="HTTP 500")] * (len(requests) - 1)]

    discovery = Discovery(Discover(GENERATOR), Prompts(), "food", "dishes", ask)
    discovery.generate()
    with pytest.raises(
        ValueError, match=r"curation\.concepts\.discover\.generator: 2 of 3 questions of round 1 failed"
    ):
        discovery.expand()
