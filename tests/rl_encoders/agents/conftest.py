import pytest

from rl_encoders.recent import forget
from tests.rl_encoders.agents.worlds import line


@pytest.fixture(scope="session")
def replay():
    """A point on a line that random actions push about."""
    return line()


@pytest.fixture(autouse=True)
def _nothing_seen_before():
    forget()
