"""After SIGKILL nothing is lost, nothing is doubled, and the next run is green.

Each docstring says what is injected and what is expected; docs/reliability.md is made of them.
"""

import pytest
from tests.faults.moments import Started, trainings_of, wait_until
from tests.faults.retrainings import RETRAIN, epochs_done, green, set_epochs
from tests.flows.conftest import Plant

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_killed_in_training(plant: Plant) -> None:
    """SIGKILL of `stillwatch retrain` during a training.

    The training process ends, too. The next run resumes from the checkpoint. There is one training
    and one registered version.
    """
    set_epochs(plant, 40)
    started = Started(plant, *RETRAIN)
    started.wait_until(lambda: epochs_done(plant) > 3)
    started.kill()
    wait_until(lambda: not trainings_of(plant))
    assert green(plant).data.tags["stillwatch.resumed"] == "true"
