"""Settings of the search for concepts by language models."""

from dataclasses import dataclass

from curation.language.models import LanguageModel

KEY = "curation.concepts.discover"


@dataclass(frozen=True)
class Discover:
    """The search for concepts by language models. The paper: Mixtral-8x7B finds them, Llama-2-13B checks them.

    Args:
        generator: Names the first concepts.
        expander: Names concepts like the known ones; the generator when null, as in the paper.
        checker: Says of every concept whether it belongs; best another model than the generator. Null: no check.
        growth_generate: Lambda 1: draws end with the one that adds less than this share.
        growth_expand: Lambda 2: rounds end with the one that adds less than this share.
        per_draw: Concepts that one draw asks for.
        per_expansion: Concepts that one question of the expansion asks for.
        history: What the expander sees of the generation: draws (the paper: all questions and answers), list (the
            concepts alone, which is shorter) or none.
        only_new: Expand only the concepts of the round before; the paper asks about all, every round.
        max_draws: Most draws of the generation.
        max_rounds: Most rounds of the expansion; 0 leaves it out.
        max_calls: Most questions of generation and expansion together; the check adds one per concept.
        max_concepts: Most concepts, given ones included.
        check_first: Check what a step found before the next one asks about it, so that a mistake finds no relatives;
            the paper checks once, at the end.
        check_by: answer (its first word) or probability (of yes against no; an endpoint must give log-probabilities).
        check_threshold: With `check_by: probability`, least probability of a valid concept.
        wider: Ask for the wider categories of the general bank, where `general` is no list.
        seed: Of all draws.
    """

    generator: LanguageModel
    expander: LanguageModel | None = None
    checker: LanguageModel | None = None
    growth_generate: float = 0.01
    growth_expand: float = 0.01
    per_draw: int = 100
    per_expansion: int = 20
    history: str = "draws"
    only_new: bool = False
    max_draws: int = 100
    max_rounds: int = 8
    max_calls: int = 200_000
    max_concepts: int = 20_000
    check_first: bool = False
    check_by: str = "answer"
    check_threshold: float = 0.5
    wider: bool = True
    seed: int = 0

    def models(self) -> dict[str, LanguageModel]:
        """Role -> model. Without a model of its own the expander is the generator."""
        roles = {"generator": self.generator, "expander": self.expander or self.generator, "checker": self.checker}
        return {role: model for role, model in roles.items() if model is not None}

    def key(self, role: str) -> str:
        """The yaml key of a role's model."""
        return f"{KEY}.{'generator' if role == 'expander' and self.expander is None else role}"

    def check_settings(self) -> None:
        """Raises ValueError naming the yaml key."""
        allowed = {
            "growth_generate": (0 < self.growth_generate < 1, "a share between 0 and 1 (the paper: 0.01)"),
            "growth_expand": (0 < self.growth_expand < 1, "a share between 0 and 1 (the paper: 0.01)"),
            "per_draw": (self.per_draw >= 1, "a number from 1 up"),
            "per_expansion": (self.per_expansion >= 1, "a number from 1 up"),
            "history": (self.history in ("draws", "list", "none"), "draws, list or none"),
            "max_draws": (self.max_draws >= 2, "a number from 2 up: one draw cannot tell how much the next adds"),
            "max_rounds": (self.max_rounds >= 0, "a number from 0 (no expansion) up"),
            "max_calls": (self.max_calls >= 1, "a number from 1 up"),
            "max_concepts": (self.max_concepts >= 1, "a number from 1 up"),
            "check_by": (self.check_by in ("answer", "probability"), "answer or probability"),
            "check_threshold": (0 < self.check_threshold < 1, "a probability between 0 and 1"),
        }
        for name, (holds, choices) in allowed.items():
            if not holds:
                raise ValueError(f"{KEY}.{name} is {getattr(self, name)!r}; use {choices}")
        if self.generator.temperature == 0:
            raise ValueError(f"{KEY}.generator.temperature is 0: all draws would be the same; use 1.0 or so")
