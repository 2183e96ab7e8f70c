"""What tests with a judge on loopback have in common."""

import pytest

from lacy_jax.cascade.remote import server as remote
from lacy_jax.evidence import judge as judges


@pytest.fixture
def quick_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key in the environment, and hardly a pause between two tries."""
    for name in judges.JUDGE.keys:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.001)
