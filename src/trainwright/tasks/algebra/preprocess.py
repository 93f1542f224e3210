"""What happens to a problem and its answer before they become tokens; each has a form in the configuration, so that a
run that goes on does the same."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from inspect import signature
from typing import Any

from trainwright.errors import ConfigError, DataError, did_you_mean
from trainwright.tasks.algebra.data import pair_of
from trainwright.tasks.algebra.expressions import NotAPolynomial, Polynomial, terms, written

Pair = tuple[str, str]
Preprocessor = Callable[[Pair], Pair]


@dataclass(frozen=True)
class ReversedOrder:
    """The answer's items in reversed order; of rows with `||` between them, the rows."""

    delimiter: str = "|"

    def __call__(self, pair: Pair) -> Pair:
        """Return the problem and its changed answer."""
        outer = _outer(pair[1], self.delimiter)
        return pair[0], f" {outer} ".join(_items(pair[1], outer)[::-1])


@dataclass(frozen=True)
class LastElement:
    """The last of the answer's items alone; of rows with `||` between them, the last row."""

    delimiter: str = "|"

    def __call__(self, pair: Pair) -> Pair:
        """Return the problem and its changed answer."""
        return pair[0], _items(pair[1], _outer(pair[1], self.delimiter))[-1]


@dataclass(frozen=True)
class ExpandedForm:
    """Polynomials as terms of a coefficient and all exponents: `3*x^2 - y` becomes `C3 E2 E0 + C-1 E0 E1`.

    Attributes:
        variables: whose exponents are written, in this order.
        delimiter: between several polynomials.
    """

    variables: tuple[str, ...] = ("x",)
    delimiter: str = "|"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variables", tuple(self.variables))

    def __call__(self, pair: Pair) -> Pair:
        """Return problem and answer in this form.

        Raises:
            DataError: one of them is no expanded polynomial.
        """
        problem, answer = map(self._all_expanded, pair)
        return problem, answer

    def _all_expanded(self, text: str) -> str:
        outer = f" {self.delimiter * 2} "
        rows = (_items(row, self.delimiter) for row in text.split(outer.strip()))
        return outer.join(f" {self.delimiter} ".join(map(self._expanded, row)) for row in rows)

    def _expanded(self, text: str) -> str:
        try:
            return " + ".join(map(self._term, terms(text)))
        except NotAPolynomial as error:
            raise DataError(
                f"{text[:60]!r} is no expanded polynomial in {', '.join(self.variables)}: {error}."
            ) from None

    def _term(self, term: Polynomial) -> str:
        if len(term) > 1:
            raise NotAPolynomial(f"the product ({written(term)}) is not expanded")
        powers, value = next(iter(term.items()), ((), Fraction(0)))
        other = next((name for name, _ in powers if name not in self.variables), None)
        if other is not None:
            raise NotAPolynomial(f"'{other}' is neither a number nor a power of one of them")
        return " ".join([f"C{value}", *(f"E{dict(powers).get(name, 0)}" for name in self.variables)])


@dataclass(frozen=True)
class Chain:
    """Several, one after the other; each gets what the one before made."""

    parts: tuple[Any, ...]

    def __init__(self, *parts: Any) -> None:
        object.__setattr__(self, "parts", parts)

    def __call__(self, pair: Pair) -> Pair:
        """Return problem and answer after all parts."""
        made: Pair = self.process_sample(pair)
        return made

    def process_sample(self, source: Any) -> Any:
        """Return what the parts make of a row."""
        for part in self.parts:
            source = applied(part, source)
        return source


def applied(preprocessor: Any, source: Any) -> Any:
    """Return what a preprocessor makes of a row: one with `process_sample` is given the row as the file has it, or what
    the one before it made; a function is given problem and answer."""
    if hasattr(preprocessor, "process_sample"):
        return preprocessor.process_sample(source)
    return preprocessor(source if isinstance(source, tuple) else pair_of(source))


def reader(preprocessor: Any) -> Callable[[Any], Any]:
    """Return what makes the texts of a row; ready tokens are taken as they are.

    It raises a DataError where a preprocessor makes something else.
    """

    def read(source: Any) -> Any:
        if preprocessor is None or (isinstance(source, Mapping) and "input_ids" in source):
            return pair_of(source)
        try:
            made = applied(preprocessor, source)
        except DataError:
            raise
        except Exception as error:  # of the user's code, whose row is told
            raise DataError(f"the preprocessor raised {type(error).__name__}: {error}.") from error
        if isinstance(made, tuple) and len(made) == 2 and all(isinstance(one, str) for one in made):
            return made
        raise DataError(f"the preprocessor made {str(made)[:60]!r} of it; (input text, target text) is expected.")

    return read


KNOWN: dict[str, Any] = {
    "reversed_order": ReversedOrder,
    "last_element": LastElement,
    "expanded_form": ExpandedForm,
}


def read_preprocessor(given: Any, where: str) -> Any:
    """Return the preprocessor of a configuration, or None for none.

    Args:
        given: a name, a mapping of `name` and its options, `package.module:function`, a function of (problem, answer)
            as one pair, an object with `process_sample(source)`, or a list of these.
        where: the key, for messages.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(given, type) and hasattr(given, "process_sample"):
        return _made(given, {}, where)
    if given is None or callable(given) or hasattr(given, "process_sample"):
        return given
    if isinstance(given, str) and ":" in given:
        return read_preprocessor(imported(given, where), where)
    if isinstance(given, Sequence) and not isinstance(given, str):
        return Chain(*(one for one in (read_preprocessor(part, where) for part in given) if one))
    name, options = (given.get("name"), dict(given)) if isinstance(given, Mapping) else (given, {})
    options.pop("name", None)
    if isinstance(name, str) and ":" in name:
        return _made(imported(name, where), options, where)
    if name not in KNOWN:
        raise ConfigError(
            f"{where} '{name}' is not known.{did_you_mean(str(name), KNOWN)} Known: {', '.join(KNOWN)}, a list of "
            "them, a mapping of name and options, or module:function."
        )
    return _made(KNOWN[name], options, where)


def _made(kind: Any, options: dict[str, Any], where: str) -> Any:
    try:
        return kind(**options)
    except TypeError as error:
        known = [name for name in signature(kind).parameters if name not in ("args", "kwargs")]
        name = next((name for name, one in KNOWN.items() if one is kind), kind.__qualname__)
        if set(options) - set(known):
            raise ConfigError(
                f"{where}: {name} has the options {', '.join(known)}, not {', '.join(options)}."
            ) from None
        raise ConfigError(f"{where}: {name} cannot be made from {options or 'no options'} ({error}).") from None


def described(given: Any) -> Any:
    """Return a preprocessor as a configuration that `read_preprocessor` takes; a function by module and name."""
    if given is None or isinstance(given, str | Mapping):
        return given
    if isinstance(given, Chain):
        return [described(part) for part in given.parts]
    if isinstance(given, Sequence):
        return [described(part) for part in given]
    for name, kind in KNOWN.items():
        if isinstance(given, kind):
            values = {key: getattr(given, key) for key in kind.__dataclass_fields__}
            return {"name": name} | {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
    if hasattr(given, "__qualname__"):
        return f"{given.__module__}:{given.__qualname__}"
    if not hasattr(given, "process_sample"):
        return f"__main__:{given!r}"
    options = {name: _described_option(value) for name, value in vars(given).items() if not name.startswith("_")}
    return {"name": f"{type(given).__module__}:{type(given).__qualname__}", **options}


def _described_option(value: Any) -> Any:
    plain = value is None or isinstance(value, str | int | float | list | tuple)
    return (list(value) if isinstance(value, tuple) else value) if plain else described(value)


def is_described_by_value(given: Any) -> bool:
    """Whether the configuration alone says what is done, and no code of the user's."""
    if isinstance(given, list):
        return all(map(is_described_by_value, given))
    name = given.get("name") if isinstance(given, Mapping) else given
    return name is None or ":" not in name


def imported(path: str, where: str) -> Any:
    """Return what `package.module:name` names.

    Raises:
        ConfigError: it cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        other = ", or set it as the pipeline's dataset_load_preprocessor" if where.endswith("preprocessor") else ""
        raise ConfigError(
            f"{where} '{path}' cannot be imported ({error}). Put the function into a module that can{other}."
        ) from None
    return found


def _outer(text: str, delimiter: str) -> str:
    """Return what is between the outermost items of a text: the delimiter, doubled where it is between rows."""
    return delimiter * 2 if delimiter * 2 in text else delimiter


def _items(text: str, delimiter: str) -> list[str]:
    return [one.strip() for one in text.split(delimiter)]
