"""How a Trainer shows what lies in its session: its attributes, to read and to set, and functions as its methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from trainwright.session.session import Hooks, Session

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
_SHOWN: dict[str, Forwarded[Any]] = {}


class Forwarded(Generic[T]):
    """An attribute of the Trainer's that lies in its session."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        _SHOWN[name] = self

    @overload
    def __get__(self, trainer: None, kind: type) -> Self: ...

    @overload
    def __get__(self, trainer: object, kind: type) -> T: ...

    def __get__(self, trainer: object | None, kind: type) -> Self | T:
        """Return its value."""
        if trainer is None:
            return self
        value: T = getattr(trainer._session, self.name)  # type: ignore[attr-defined]  # a Trainer
        return value

    def __set__(self, trainer: object, value: T) -> None:
        """Set it."""
        setattr(trainer._session, self.name, value)  # type: ignore[attr-defined]  # a Trainer

    def __delete__(self, trainer: object) -> None:
        """Forget it."""
        delattr(trainer._session, self.name)  # type: ignore[attr-defined]  # a Trainer


class _Overridden:
    """An attribute that a subclass of Trainer has in its own way, a property for one: the session asks the Trainer."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, session: Any, kind: type | None = None) -> Any:
        return self if session is None else getattr(session.hooks, self.name)

    def __set__(self, session: Any, value: Any) -> None:
        setattr(session.hooks, self.name, value)


def session_of(trainer: Any) -> Session:
    """Return a Trainer's session."""
    session: Session = trainer._session
    return session


def begun(trainer: Hooks) -> Session:
    """Return a session for a Trainer, which has none of its parts yet."""
    kind = type(trainer)
    own = frozenset(n for n, shown in _SHOWN.items() if inspect.getattr_static(kind, n, shown) is not shown)
    return _kind(own)(trainer)


@cache
def _kind(own: frozenset[str]) -> type[Session]:
    """Return the class of the sessions of Trainers that have some attributes in their own way."""
    if not own:
        return Session
    members: dict[str, Any] = {name: _Overridden(name) for name in own}
    return type("Session", (Session,), {**members, "__reduce__": lambda self: (_empty, (own,), vars(self))})


def _empty(own: frozenset[str]) -> Session:
    """Return a session without its parts, for `pickle` and `copy`."""
    kind = _kind(own)
    return kind.__new__(kind)


def copy_of(trainer: T) -> T:
    """Return a shallow copy of a Trainer, whose attributes can be set without changing the first's."""
    made = object.__new__(type(trainer))
    session = session_of(made)
    vars(session).update({**vars(session_of(trainer)), "hooks": made})
    vars(made).update({**vars(trainer), "_session": session})
    return made


def method(function: Callable[Concatenate[Session, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Return a function of the session as a method of the Trainer."""

    @wraps(function)
    def of_trainer(trainer: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(trainer._session, *args, **kwargs)

    return of_trainer
