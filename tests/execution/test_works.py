"""The orders that a study becomes."""

from __future__ import annotations

from tests.conftest import TINY

from ldru_study.execution.submit import prepare, works_of
from ldru_study.spec.study import validate_study
from ldru_study.spec.yaml_file import parse_yaml


def test_an_order_says_what_the_study_says_of_a_trial(store):
    text = TINY + "resources: {cpus: 0.5, gpus: 0.25}\ntrial_timeout_s: 90\ncheckpoint_every_s: 3\n"
    file = parse_yaml(text, "tiny.yaml")
    works = works_of(prepare(validate_study(file.content, file), store, ["submit", "tiny.yaml"]))
    assert len(works) == 4
    for work in works:
        assert (work.cpus, work.gpus, work.device) == (0.5, 0.25, "cuda")
        assert (work.trial_timeout_s, work.checkpoint_every_s) == (90, 3)
