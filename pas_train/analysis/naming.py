"""Short names of data sets, no two alike."""

from collections.abc import Sequence

from pas_train.records import short_name


def short_names(sources: Sequence[str]) -> list[str]:
    """A short name of each, as results have them; equal ones are numbered."""
    names = [short_name(source) for source in sources]
    return [f"{name} ({place + 1})" if names.count(name) > 1 else name for place, name in enumerate(names)]
