"""The JSON Schema of study files, for editors: completion, hover texts and red lines."""

from __future__ import annotations

from typing import Any

from ldru_study.spec.engine import ENGINE_CONFIGS
from ldru_study.spec.model import MODEL_CONFIGS
from ldru_study.spec.study import StudyFile
from ldru_study.spec.task import OWN_TASKS
from ldru_study.spec.trial import TrialConfig
from ldru_study.tasks.registry import task_names

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a study file.

    It is as strict as an editor can be: what spans several fields, such as a width that is no
    multiple of its heads, only `load_study` finds.
    """
    frame = StudyFile.model_json_schema()
    trial = TrialConfig.model_json_schema()
    definitions = trial.pop("$defs") | frame.pop("$defs")
    fields = trial["properties"]
    own = []
    for config in OWN_TASKS.values():
        written = config.model_json_schema()
        definitions |= written.pop("$defs", {}) | {config.__name__: written}
        own.append({"$ref": f"#/$defs/{config.__name__}"})
    # families of tasks are open: names of further members are text as well
    fields["task"] = {"anyOf": [{"enum": list(task_names())}, {"type": "string"}, *own]}
    for name in ("task", "sampling", "model"):
        frame["properties"][name] = fields[name]
    # a grid may supply what is missing here, so nothing inside is required
    frame["properties"]["train"] = {"$ref": "#/$defs/TrainConfig"}
    frame["properties"]["grid"] |= {
        "properties": _axes(fields, definitions),
        "additionalProperties": False,
    }
    seed = definitions["EvaluateConfig"]["properties"]["seed"]
    frame["properties"]["seeds"] = {
        "description": "how many seeds (0, 1, ...), or which",
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "array", "minItems": 1, "items": seed | {"default": 0}},
        ],
    }
    return {"$schema": _DIALECT, **frame, "$defs": definitions}


def _axes(fields: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return what each axis of a grid may hold, by its dotted path."""
    items = {name: fields[name] for name in ("task", "sampling", "model")}
    for name, field in definitions["TrainConfig"]["properties"].items():
        items[f"train.{name}"] = field
    for path, variants in (("model", MODEL_CONFIGS), ("train.engine", ENGINE_CONFIGS)):
        for config in variants.values():
            for name, field in definitions[config.__name__]["properties"].items():
                known = items.setdefault(f"{path}.{name}", {"anyOf": []})
                known["anyOf"].append({key: field[key] for key in field if key != "default"})
    for name, field in definitions["CurriculumConfig"]["properties"].items():
        items[f"train.curriculum.{name}"] = field
    return {axis: {"type": "array", "minItems": 1, "items": item} for axis, item in items.items()}
