import numpy as np
import pytest

from pretrain.corpus import draw_fraction
from tests.pretrain.test_train import trainer
from vie import VieError

VIDEOS = np.arange(100, 1100)


@pytest.mark.parametrize("fraction", [0.3, 0.7, 1.0])
def test_a_fraction_holds_that_many_different_videos_in_order(fraction):
    drawn = draw_fraction(VIDEOS, fraction, seed=0)
    assert len(set(drawn.tolist())) == len(drawn) == 1000 * fraction
    assert set(drawn.tolist()) <= set(VIDEOS.tolist())
    assert (np.diff(drawn) > 0).all()


def test_fractions_are_nested_and_depend_on_the_seed():
    small, large, other = (draw_fraction(VIDEOS, *given) for given in ((0.3, 5), (0.7, 5), (0.3, 6)))
    assert set(small.tolist()) <= set(large.tolist())
    assert set(small.tolist()) != set(other.tolist())


def test_a_run_on_a_fraction(tiny_corpus, tmp_path):
    """It has that many instances, and is not continued on another fraction."""
    settings = ("local_aggregation.clusters=2", "local_aggregation.neighbours=4")
    job = trainer(tiny_corpus, tmp_path / "run", "data.fraction=0.5", *settings)
    assert len(job.objective.bank) == len(job.corpus.train_videos) == 24
    assert len(job.corpus.val_videos) == 16
    job.train()
    with pytest.raises(VieError, match=r"data\.fraction=0\.5"):
        trainer(tiny_corpus, tmp_path / "run", *settings)
