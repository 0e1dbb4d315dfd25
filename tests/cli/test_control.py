"""`logs -f` from the moment on that a study was sent, before anybody drives it."""

from __future__ import annotations

import threading
import time

import pytest
from click.testing import CliRunner
from tests.conftest import TINY, submission_of

from ldru_study.cli import control, main
from ldru_study.results.drivers import forget, new_record, renew
from ldru_study.results.logs import StudyLog


def follow(store):
    return CliRunner().invoke(main, ["logs", "tiny", "-f", "--store", store.uri])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(control, "_POLL_S", 0.02)


def test_a_driver_that_is_yet_to_come_is_waited_for(store):
    submission = submission_of(TINY, store)

    def drive():
        time.sleep(0.3)
        renew(store, new_record("tiny", submission.submission_id))
        log = StudyLog(store, "tiny", submission.submission_id)
        log.write("half done\n")
        log.flush_lines()
        forget(store, submission.submission_id)

    driver = threading.Thread(target=drive)
    driver.start()
    done = follow(store)
    driver.join()
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(" half done\n")


def test_one_that_does_not_come_is_given_up(store, monkeypatch):
    monkeypatch.setattr(control, "_BEGINS_S", 0.2)
    submission_of(TINY, store)
    assert (follow(store).exit_code, follow(store).output) == (0, "")
