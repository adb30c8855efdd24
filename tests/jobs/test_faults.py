"""Random faults on a cluster: five minutes, and two hours; see `tests.jobs.faults`."""

import pytest

from tests.jobs.faults import Faults

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize(("seconds", "seed"), [(300, 1), (7200, 2)], ids=["5-minutes", "2-hours"])
def test_no_wrong_model_is_published_ever(tmp_path, seconds, seed):
    faults = Faults(tmp_path, seed)
    try:
        print(f"seed {seed}: {faults.run(seconds)}")
    finally:
        faults.close()
    assert faults.wrong == []
