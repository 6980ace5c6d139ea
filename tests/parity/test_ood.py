"""Out-of-domain scores against CLIPN's own inference."""

from pathlib import Path

import numpy as np
import pytest

from curation.ood import ood_scores

STORED = np.load(Path(__file__).parents[1] / "fixtures" / "clipn_scores.npz")


@pytest.mark.parametrize(("rule", "in_domain"), [("atd", "atd"), ("ctw", "ctw")])
def test_ood_scores__stored_scores(rule: str, in_domain: str) -> None:
    features = STORED["image"], STORED["text_yes"], STORED["text_no"]
    scores = ood_scores(*features, logit_scale=float(STORED["logit_scale"]), rule=rule)
    # float32 logits near 100 have steps of 8e-6, which the stored scores went through as well.
    np.testing.assert_allclose(scores, 1 - STORED[in_domain], atol=2e-5)
    assert scores.dtype == np.float32


def test_ood_scores__default_is_the_papers_formula() -> None:
    features = STORED["image"], STORED["text_yes"], STORED["text_no"]
    np.testing.assert_allclose(ood_scores(*features), STORED["ood"], atol=2e-5)
