"""What a person is told to do once a federation's run has stopped."""

from __future__ import annotations

from barnraise.coordinator.endings import after_a_stop


def test_a_run_that_would_stop_again_is_not_to_be_opened_again() -> None:
    """A run that is opened again takes up the refusals that are on record."""
    assert "run abort" in after_a_stop("A204") and "stop again" in after_a_stop("A204")
    assert "it goes on" in after_a_stop("D104")
