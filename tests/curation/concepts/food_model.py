"""A language model that knows 400 food terms, answers in the ways of real ones, and slips in what is no food."""

import random
import re
from typing import Any

from curation.concepts.names import merge_key

WAYS = [
    "grilled", "roast", "smoked", "pickled", "fried", "steamed", "braised", "candied", "stuffed", "curried",
    "creamed", "glazed", "barbecued", "marinated", "poached", "jellied", "minced", "breaded", "salted", "spiced",
]  # fmt: skip
FOODS = [
    "salmon", "tofu", "chicken", "aubergine", "pork", "duck", "mushroom", "potato", "squid", "pumpkin", "lamb",
    "cabbage", "trout", "onion", "jalapeño", "shrimp", "turkey", "pepper", "plum", "bean",
]  # fmt: skip
TERMS = [f"{way} {food}" for way in WAYS for food in FOODS]
KEYS = {merge_key(term) for term in TERMS}
OUTSIDERS = ["bicycle", "Linux kernel", "violin sonata", "income tax", "steam engine"]


class FoodModel:
    """Script of a LanguageServer: (messages, body) -> text. terms: how many it knows; draws name the first 3 of 4."""

    def __init__(self, terms: int = 400, per_draw: int = 60) -> None:
        self.terms, self.per_draw = TERMS[:terms], per_draw
        self.keys = {merge_key(term) for term in self.terms}

    def __call__(self, messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        prompt = messages[-1]["content"]
        rng = random.Random(f"{prompt} {body.get('seed')}")
        concept = re.search(r'"(.*)"', prompt, re.DOTALL)
        if "Yes or No" in prompt:
            known = concept is not None and merge_key(concept[1]) in self.keys
            return rng.choice(["Yes", "**Yes.**", "yes, it is"]) if known else "No."
        if "wider categories" in prompt:
            return "1. dish\n2. meal\n3. ingredient\n4. Meals"
        if "one sentence" in prompt:
            assert concept is not None
            places = ["a rustic table", "a market stall", "a white plate", "a picnic blanket", "a busy kitchen"]
            light = rng.choice(["dusk", "noon", "dawn"])
            return f'Sure! Here it is:\n\n"A photo of {concept[1]} on {rng.choice(places)} in the light of {light}."'
        if concept is None:
            return self.listed(rng, rng.sample(self.terms[: len(self.terms) * 3 // 4], self.per_draw))
        food = next((food for food in FOODS if merge_key(concept[1]).endswith(merge_key(food))), None)
        if food is None:
            return self.listed(rng, OUTSIDERS)
        alike = [term for term in self.terms if term.endswith(food)]
        return self.listed(rng, rng.sample(alike, min(8, len(alike))) + rng.sample(self.terms, 2))

    def listed(self, rng: random.Random, names: list[str]) -> str:
        """The names in one of the forms of lists, with what models add."""
        if rng.random() < 0.3:
            names = [*names, rng.choice(OUTSIDERS)]
        form = rng.randrange(4)
        if form == 0:
            return "Sure! Here are some:\n\n" + "\n".join(f"{n}. **{name}**" for n, name in enumerate(names, 1))
        if form == 1:
            return "\n".join(f"- {name.upper()}: a dish" for name in names) + "\n\nI hope this helps!"
        if form == 2:
            return "```json\n[" + ", ".join(f'"{name}s"' for name in names) + "]\n```"
        return ", ".join(names)
