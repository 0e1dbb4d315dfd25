"""What a run tells those who listen."""

from __future__ import annotations

from ldru_study.cli.run import Listeners


class Listener:
    """Keeps what it hears, or cannot print it."""

    def __init__(self, error=None):
        self.heard, self.error = [], error

    def said(self, text):
        if self.error:
            raise self.error
        self.heard.append(text)


def test_who_cannot_print_ends_no_study_and_the_others_hear():
    here = Listener()
    Listeners(Listener(OSError(28, "No space left on device")), here).said("half done")
    assert here.heard == ["half done"]
