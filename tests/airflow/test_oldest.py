"""Both DAGs on the oldest Airflow: they come to the very same."""

from __future__ import annotations

import pytest

from tests.airflow.environment import OLDEST
from tests.airflow.fixtures import Install
from tests.airflow.story import Story, told

pytestmark = pytest.mark.airflow


def test_the_oldest_airflow_comes_to_the_same(story: Story, install: Install) -> None:
    oldest = told(install("oldest", version=OLDEST))
    assert oldest.left == story.left
    assert oldest.build.states == story.build.states and oldest.serve.states == story.serve.states
