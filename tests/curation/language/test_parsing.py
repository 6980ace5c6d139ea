"""Lists and verdicts in the forms that models write."""

import time

import pytest

from curation.language.parsing import parse_items, parse_yes_no

DISHES = ["Pizza", "Sushi", "Ramen"]


@pytest.mark.parametrize(
    "text",
    [
        "1. Pizza\n2. Sushi\n3. Ramen",
        "1) Pizza\n2) Sushi\n3) Ramen",
        "(1) Pizza\n(2) Sushi\n(3) Ramen",
        "1 - Pizza\n2 - Sushi\n3 - Ramen",
        "[1] Pizza\n[2] Sushi\n[3] Ramen",
        "#1 Pizza\n#2 Sushi\n#3 Ramen",
        "a. Pizza\nb. Sushi\nc. Ramen",
        "- Pizza\n- Sushi\n- Ramen",
        "* Pizza\n+ Sushi\n• Ramen",
        "- [ ] Pizza\n- [x] Sushi\n- [ ] Ramen",
        "> - Pizza\n> - Sushi\n> - Ramen",
        "1. Pizza 2. Sushi 3. Ramen",
        "• Pizza • Sushi • Ramen",
        "Sure! 1. Pizza\n2. Sushi\n3. Ramen",
        "**1. Pizza**\n**2. Sushi**\n**3. Ramen**",
        "**Pizza**: a flat bread\n**Sushi**: rice\n**Ramen**: a soup",
        "1. **Pizza** is a flat bread.\n2. __Sushi__ is rice.\n3. *Ramen* - soup",
        "1. Pizza – flat bread\n2. Sushi—rice with fish\n3. Ramen: a soup",
        "1. Pizza (Italian)\n2. Sushi, a dish of rice and fish\n3. Ramen -- soup, with noodles",
        '1. "Pizza"\n2. “Sushi”\n3. `Ramen`.',
        "- <b>Pizza</b>\n- [Sushi](http://a.org/x)\n- ~~Ramen~~",
        "Pizza\nSushi\nRamen",
        "Pizza\n\nSushi\n\nRamen\n",
        "Pizza, Sushi, Ramen.",
        "Pizza, Sushi and Ramen",
        "Pizza; Sushi; and Ramen",
        "Pizza, Sushi,\nRamen",
        "Here are some dishes: Pizza, Sushi, Ramen",
        "Italian: Pizza\nJapanese dishes: Sushi, Ramen, Pizza".replace(
            "Italian: Pizza\n", "Italian: Pizza, Sushi, Pizza\n"
        ),
        '["Pizza", "Sushi", "Ramen"]',
        'Sure:\n```json\n["Pizza", "Sushi", "Ramen"]\n```\nEnjoy!',
        '{"dishes": ["Pizza", "Sushi", "Ramen"]}',
        '[{"name": "Pizza", "from": "Italy"}, {"name": "Sushi"}, {"Name": "Ramen"}]',
        '{"name": "Pizza"}\n{"name": "Sushi"}\n{"name": "Ramen"}',
        '{"Pizza": "bread", "Sushi": "rice", "Ramen": "soup"}',
        '{"1": "Pizza", "2": "Sushi", "3": "Ramen"}',
        '{"Italy": ["Pizza"], "Japan": ["Sushi", "Ramen"]}',
        '"Pizza",\n"Sushi",\n"Ramen"',
        "| # | Dish | From |\n|---|:--|---|\n| 1 | Pizza | Italy |\n| 2 | Sushi | Japan |\n| 3 | Ramen | Japan |",
        "# Dishes\n\n## Italy\n* Pizza\n\n## Japan\n* Sushi\n* Ramen\n\nLet me know if you need more!",
        "<think>Is it Pasta, or Burger?</think>\n1. Pizza\n2. Sushi\n3. Ramen",
        "thoughts\n- Pasta\n</think>- Pizza\n- Sushi\n- Ramen",
        "1. Pizza\n2. pizza\n3. Sushi\n4. PIZZA\n5. Ramen",
    ],
)
def test_parse_items__forms(text: str) -> None:
    parsed = parse_items(text)
    assert parsed.items == DISHES and parsed.rejected == []


@pytest.mark.parametrize(
    "names",
    [
        ["Shepherd's pie", "AC/DC burger", 'Ben & Jerry\'s "Cherry Garcia"', "7-layer dip", "Mac and cheese"],
        ["寿司", "拉面", "茶"],
        ["борщ", "пельмени", "crème brûlée", "jalapeño", "ปลาทู"],
        ["Fish-and-chips", "Coq au vin", "half-and-half", "100% rye bread", "Baden-Baden tart"],
    ],
)
def test_parse_items__names_as_they_are(names: list[str]) -> None:
    for number_of in ("{}. {}", "- {1}"):
        text = "\n".join(number_of.format(number, name) for number, name in enumerate(names, 1))
        assert parse_items(text).items == names


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "As an AI language model, I do not eat, drink, or cook.",
        "1. I cannot list such things.",
        "Food is a vast domain, with dishes from the countryside, and the courses of a city, and so much more.",
        "Pizza is an Italian dish made of dough and cheese.",
    ],
)
def test_parse_items__refusals_and_prose_give_nothing_but_are_kept(text: str) -> None:
    parsed = parse_items(text)
    assert parsed.items == [] and len(parsed.rejected) == 1 and parsed.rejected[0] in text


@pytest.mark.parametrize("text", ["", "   \n\n", "<think>Pizza, Sushi, Ramen", "```\n```"])
def test_parse_items__nothing(text: str) -> None:
    assert parse_items(text, "length").items == []


@pytest.mark.parametrize(
    ("text", "items", "rejected"),
    [
        ("1. Pizza\n2. Sushi\n3. Ram", ["Pizza", "Sushi"], ["Ram"]),
        ("1. Pizza\n2. Sushi\n", ["Pizza", "Sushi"], []),
        ("Pizza, Sushi, Ram", ["Pizza", "Sushi"], ["Ram"]),
        ('["Pizza", "Sushi", "Ram', ["Pizza", "Sushi"], []),
        ('```json\n["Pizza", "Su\\"shi",', ["Pizza", 'Su"shi'], []),
        ('[{"name": "Pizza"}, {"name": "Sushi"}, {"name": "Ra', ["Pizza", "Sushi"], []),
        ('["Pizza", "Sushi"]', ["Pizza", "Sushi"], []),
    ],
)
def test_parse_items__what_a_limit_cut_is_not_trusted(text: str, items: list[str], rejected: list[str]) -> None:
    parsed = parse_items(text, "length")
    assert (parsed.items, parsed.rejected) == (items, rejected)
    assert len(parse_items(text, "stop").items) >= len(items)


def test_parse_items__what_is_no_item_is_rejected() -> None:
    entries = [
        "Pizza",
        "x" * 150,
        "12345",
        "...",
        "q",
        "etc.",
        "aaaaaaa",
        "http://a.org",
        "one two " * 6,
        "[concept]",
        "N/A",
    ]
    parsed = parse_items("\n".join(f"{number}. {entry}" for number, entry in enumerate(entries, 1)))
    assert parsed.items == ["Pizza"] and parsed.rejected == [" ".join(entry.split()) for entry in entries[1:]]


def test_parse_items__fields_below_an_item_are_none() -> None:
    text = "1. Pizza\n   - Origin: Italy\n   - **Taste:** good\n2. Sushi\n   - Origin: Japan"
    assert parse_items(text).items == ["Pizza", "Sushi"] and len(parse_items(text).rejected) == 3


def test_parse_items__many_rejected_entries_are_few_short_lines() -> None:
    parsed = parse_items("- " + "\n- ".join(["x" * 10_000] * 200))
    assert parsed.items == [] and [len(line) for line in parsed.rejected] == [300] * 100


@pytest.mark.parametrize(
    "piece",
    ["[", "{", '["', "*", "_", " ", "\t", ",", "a,", "•", "1. ", "- ", "\n  ", "|", "`", ".\n", ". ", "<", "A: ", "("],
)
def test_parse_items__no_answer_takes_long(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    began = time.monotonic()
    assert parse_items(text, "length").items == [] and parse_yes_no(text) is None
    assert time.monotonic() - began < 8


def test_parse_items__ten_thousand_characters() -> None:
    names = [f"dish of {number:03d}" for number in range(800)]
    for text in (
        ", ".join(names),
        "\n".join(f"{n}. {name}" for n, name in enumerate(names)),
        str(names).replace("'", '"'),
    ):
        assert len(text) > 10_000 and parse_items(text).items == names


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Yes", True), ("no", False), ("**Yes**, pizza is a dish.", True), ("No.\nA car is no dish.", False),
        ("'Yes'", True), ("TRUE", True), ("false.", False), ("Answer: No", False), ("The answer is yes.", True),
        ("Final answer: **No**", False), ("Pizza is a dish of dough. Yes", True), ("It is a car.\n\nNo.", False),
        ("So the answer: yes", True), ('{"valid": false, "why": "x"}', False), ('```\n{"answer": "yes"}\n```', True),
        ("<think>no, or is it</think>\nYes", True), ("Yes and no", None), ("Maybe", None), ("Yesterday", None),
        ("None", None), ("Not sure", None), ("There is no doubt", None), ("", None), ("<think>Yes", None),
    ],
)  # fmt: skip
def test_parse_yes_no__verdicts(text: str, verdict: bool | None) -> None:
    assert parse_yes_no(text) is verdict
