import numpy as np

from curation.report.groups import histogram


def test_histogram__ranges_double_and_none_is_lost() -> None:
    sizes = histogram(np.array([2, 2, 2, 3, 4, 9, 10_000]))
    assert [(row.images, row.groups, row.members) for row in sizes if row.groups] == [
        ("2", 3, 6), ("3 – 4", 2, 7), ("9 – 16", 1, 9), ("8,193 – 16,384", 1, 10_000)]  # fmt: skip
    assert len(sizes) == 14 and sizes[0].bar == 100 and sizes[2].bar == 0


def test_histogram__no_group() -> None:
    assert histogram(np.empty(0, int)) == []
