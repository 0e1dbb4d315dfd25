"""A task in a study file: a name, or a language of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from ldru_study.errors import UnknownNameError, did_you_mean
from ldru_study.spec.strict import Strict
from ldru_study.tasks.custom import NAME, automaton_of, automaton_text, regex_text
from ldru_study.tasks.registry import find_task

_Name = Annotated[str | None, Field(None, pattern=rf"^{NAME}$", description="shown in tables")]


class RegexTask(Strict):
    """Accept the strings that a regular expression matches as a whole."""

    regex: str = Field(description='such as "(0|1)*010(0|1)*"; in the syntax of automata-lib')
    alphabet: str | None = Field(
        None, description="all symbols, letters or digits; null: those that the expression names"
    )
    name: _Name

    def text(self) -> str:
        """Return the text form; see `custom`."""
        return regex_text(self.regex, alphabet=self.alphabet, name=self.name)


class AutomatonConfig(Strict):
    """A deterministic automaton whose states have names."""

    alphabet: str = Field(description="a letter or digit per symbol")
    states: Annotated[dict[str, list[str]], Field(min_length=1)] = Field(
        description="for every state the states that the symbols lead to, in their order"
    )
    start: str | None = Field(None, description="state before the first symbol; null: the first")
    accept: list[str] | None = Field(None, description="the states that accept")
    classes: dict[str, Annotated[int, Field(ge=0)]] | None = Field(
        None, description="instead of accept: the class of every state"
    )


class AutomatonTask(Strict):
    """Give every string the class of the state that an automaton ends in."""

    automaton: AutomatonConfig
    name: _Name

    def text(self) -> str:
        """Return the text form; see `custom`.

        Raises:
            ValueError: the automaton is none, with the place of what is wrong.
        """
        given = self.automaton
        if (given.accept is None) == (given.classes is None):
            raise ValueError("automaton: give either accept or classes")
        classes = given.classes
        if given.accept is not None:
            if unknown := [state for state in given.accept if state not in given.states]:
                raise ValueError(
                    f"automaton.accept: no state is called '{unknown[0]}'. "
                    f"{did_you_mean(unknown[0], given.states)}".rstrip()
                )
            classes = {state: int(state in given.accept) for state in given.states}
        try:
            found = automaton_of(
                given.alphabet, given.states, given.start or next(iter(given.states)), classes or {}
            )
        except ValueError as error:
            raise ValueError(f"automaton.{error}") from None
        return automaton_text(found, alphabet=given.alphabet, name=self.name)


OWN_TASKS: dict[str, type[RegexTask] | type[AutomatonTask]] = {
    "regex": RegexTask,
    "automaton": AutomatonTask,
}


def as_task_text(value: Any) -> Any:
    """Return the name by which `find_task` finds what a study file gives as a task.

    Raises:
        ValueError: it is neither a task's name nor a language that can be learned.
    """
    if isinstance(value, Mapping):
        own = _own(value)
        if own.name is not None and _is_known(own.name):
            raise ValueError(f"name: '{own.name}' is another task. Choose another name")
        value = own.text()
    if not isinstance(value, str):
        return value
    try:
        return find_task(value).name
    except UnknownNameError as error:
        # pydantic adds the place to values that are refused so
        raise ValueError(str(error)) from None


def _is_known(name: str) -> bool:
    try:
        find_task(name)
    except UnknownNameError:
        return False
    return True


def _own(value: Mapping[str, Any]) -> RegexTask | AutomatonTask:
    from ldru_study.spec.paths import format_place
    from ldru_study.spec.problems import problems_of

    kinds = [kind for kind in OWN_TASKS if kind in value]
    if len(kinds) != 1:
        found_fields = ", ".join(map(str, value)) or "nothing"
        raise ValueError(
            f"a task of your own has the field regex or automaton; found {found_fields}"
        )
    model = OWN_TASKS[kinds[0]]
    try:
        return model.model_validate(dict(value))
    except ValidationError as error:
        found = [(format_place(place), text) for place, text in problems_of(error, model)]
        raise ValueError(
            " ".join(f"{place}: {text}" if place else text for place, text in found)
        ) from None
