"""Options as dataclasses: a command takes groups, Typer sees flat options.

A group is a dataclass whose fields are `Annotated` with Typer's options. Where the library has a
dataclass for the same thing (`ReadOptions`), the group extends it and declares its fields again,
with their options, so that the library takes what the command line gives.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from enum import Enum
from functools import cache
from inspect import Parameter
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo, ParameterInfo

from seats_cli.errors import ConfigError

# The flag of each parameter, by the name that the library gives it: {"attention": "--attn"}.
FLAGS: dict[str, str] = {}


@dataclasses.dataclass(frozen=True)
class Omit:
    """Fields of a group that a command does not take: `Annotated[Group, Omit("seed")]`."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups.

    Typer reads a function's signature, so the result has one in which the options of each group
    stand in its place: those that its class declares itself, in that order, then those that it
    inherits. A field's parameter has the name of its flag (`still_tolerance`, "--skip-still":
    `skip_still`), under which settings files and `context.get_parameter_source` know it; the
    group's default is the option's. Choices arrive as plain strings.

    `functools.wraps` must not be used here: it would lead Typer to the original signature.
    """
    parameters: list[Parameter] = []
    groups: dict[str, tuple[Any, dict[str, str]]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        group, omitted = parameter.annotation, ()
        if get_origin(group) is Annotated and isinstance(get_args(group)[1], Omit):
            group, omitted = get_args(group)[0], get_args(group)[1].names
        if not (isinstance(group, type) and dataclasses.is_dataclass(group)):
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
            _note_flag(parameter.name, parameter.annotation)
            continue
        flat = {name: option for name, option in _options(group).items() if name not in omitted}
        groups[parameter.name] = (group, {name: option.name for name, option in flat.items()})
        parameters += flat.values()

    for parameter in parameters:
        for info in get_args(parameter.annotation):
            if isinstance(info, ParameterInfo) and parameter.default in (None, Parameter.empty):
                # Typer before 0.16 would show "None".
                info.show_default = info.show_default is not True and info.show_default

    def run(**values: Any) -> None:
        plain = {k: v.value if isinstance(v, Enum) else v for k, v in values.items()}
        for name, (group, flat) in groups.items():
            plain[name] = group(**{field: plain.pop(option) for field, option in flat.items()})
        command(**plain)

    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, __name__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@cache  # every command has some of the same groups
def _options(group: type[Any]) -> dict[str, Parameter]:
    """The fields of a group that are options, and the parameter that Typer gets for each."""
    hints = get_type_hints(group, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(group)}
    found = {}
    for name in dict.fromkeys((*inspect.get_annotations(group), *fields)):
        if (flag := _note_flag(name, hints[name])) is None:
            continue
        default = fields[name].default
        found[name] = Parameter(
            flag.lstrip("-").replace("-", "_"),
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if default is dataclasses.MISSING else default,
            annotation=hints[name],
        )
    return found


def _note_flag(name: str, hint: Any) -> str | None:
    """The flag by which a parameter is typed, noted for `with_flags`; None if it has none."""
    option = next((one for one in get_args(hint) if isinstance(one, OptionInfo)), None)
    if option is None:
        return None
    # Inside `Annotated`, Typer takes the first name for what is a default elsewhere.
    names = map(str, (option.default, *(option.param_decls or ())))
    flag = next(name for name in names if name.startswith("--")).partition("/")[0]
    if FLAGS.setdefault(name, flag) != flag:
        raise ValueError(f"{name} is {FLAGS[name]} in one command and {flag} in another")
    return flag


def was_typed(context: typer.Context, name: str) -> bool:
    """Whether a parameter was typed, and not taken from settings or defaults.

    Parameters
    ----------
    name : str
        A parameter of the command or a field of one of its groups.
    """
    option = FLAGS.get(name, name).lstrip("-").replace("-", "_")
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def with_flags(sentence: str, *, bare: bool = True) -> str:
    """A message of the library with flags for the parameters that it names.

    `` `attention=eager` `` becomes ``--attn eager``, `` `audio=False` `` ``--no-audio``, and
    `` `max_frames` `` ``--max-frames``.

    Parameters
    ----------
    bare : bool
        Whether to translate names without backticks, too, if they have an underscore: those
        can't be mistaken for words.
    """
    sentence = _QUOTED.sub(_translated, sentence)
    return _BARE.sub(_translated, sentence) if bare else sentence


_VALUE = r"(?:=(?P<value>\"[^\"`]*\"|'[^'`]*'|[^\s`\"',;]*[^\s`\"',;.]))?"
_QUOTED = re.compile(rf"`(?P<name>[a-z]\w*){_VALUE}`")
_BARE = re.compile(rf"(?<![\w./?&='\"`-])(?P<name>[a-z]+(?:_[a-z]+)+){_VALUE}(?![\w/'\"`-]|\.\w)")


def _translated(match: re.Match[str]) -> str:
    flag, value = FLAGS.get(match["name"]), match["value"]
    if flag is None:
        return match[0]
    if value is None or value == "True":
        return flag
    if value == "False":
        return f"--no-{flag.lstrip('-')}"
    return f"{flag} {value.strip(_MARKS)}"


_MARKS = "'\""


def sentence_of(error: Exception) -> str:
    """What an error says, in the words of the command line.

    Names without backticks stay in a `ConfigError`: there they are keys of a file.
    """
    return with_flags(str(error), bare=not isinstance(error, ConfigError))
