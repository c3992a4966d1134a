"""The article's figures follow from its inputs, and those that cannot hold are told."""

import pytest

from curriculum_api.estimate import article
from curriculum_api.estimate.shape import of_preset
from curriculum_api.wire import Precision

from .inputs import MACHINES

SHAPE = of_preset("llama-3.1-8b")
CLAIMS = {
    claim.what: claim for claim in article.claims(MACHINES["gb10-sm121"], MACHINES["b200-sm100"])
}


def test_half_an_h200_at_55_percent_makes_the_articles_days() -> None:
    assert 14 <= article.said_days(SHAPE, article.PRETRAIN) <= 15


def test_its_days_need_more_than_a_spark_has() -> None:
    need = article.needed_tflops(6 * SHAPE.parameters, days=14.5)

    assert need == pytest.approx(270, rel=0.01)
    assert need > MACHINES["gb10-sm121"].product(Precision.BF16).peak / 1e12


@pytest.mark.parametrize(
    ("what", "reproduced", "holds"),
    [
        ("phase 1: 141B tokens at 8K", "14.5 days", False),
        ("a GB10 against an H200, BF16", "0.50x", False),
        ("phases 1, 2: memory of a GPU, DDP", "15 GiB BF16", False),
        ("NVFP4 against BF16 on B200", "2x", False),
        ("a Spark's hour, owned", "$0.152", False),
        ("power of 20 Sparks, a month", "$420", False),
        ("20 Sparks, a month", "$2,643", True),
        ("as many cloud H200, a month", "$25,550", False),
        ("100 rented hours a month", "$350", False),
        ("breakeven against the cloud", "3.2 months", False),
    ],
)
def test_each_figure_follows_from_the_articles_inputs(
    what: str, reproduced: str, holds: bool
) -> None:
    claim = CLAIMS[what]

    assert (claim.reproduced, claim.holds) == (reproduced, holds)
    assert claim.measured != claim.said
