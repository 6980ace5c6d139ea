"""LogME and NCTI against scores of the official implementations (tests/fixtures: random features, seed 0)."""

from pathlib import Path

import numpy as np
import pytest

from pas_train.evaluation.transferability import combine_ncti, logme, ncti, ncti_terms

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("name", ["logme_300x24", "logme_40x96"])
def test_logme__stored_scores_of_both_rules(name: str) -> None:
    stored = np.load(FIXTURES / f"{name}.npz")
    arrays = stored["features"], stored["labels"]
    assert logme(*arrays) == pytest.approx(float(stored["logme"]), rel=1e-9)
    assert logme(*arrays, rule="icml") == pytest.approx(float(stored["logme_icml"]), rel=1e-9)


def test_ncti__stored_terms_and_scores() -> None:
    stored = np.load(FIXTURES / "ncti.npz")
    terms = [ncti_terms(features, stored["labels"]) for features in stored["features"]]
    for name in ("ncc", "seli", "vc"):
        np.testing.assert_allclose([one[name] for one in terms], stored[name], rtol=1e-8)
    np.testing.assert_allclose(combine_ncti(terms), stored["ncti"], atol=1e-7)
    np.testing.assert_allclose(ncti(list(stored["features"]), stored["labels"]), stored["ncti"], atol=1e-7)
