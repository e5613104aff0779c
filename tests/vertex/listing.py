"""Lists as the service answers them: the filter language, order, pages and field masks.

The filters are Google's (google.aip.dev/160): ``AND`` between terms, ``OR`` binds tighter, ``NOT`` or ``-`` before one.
"""

from __future__ import annotations

import base64
import datetime
import fnmatch
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.vertex.resources import invalid

Resource = dict[str, Any]
Test = Callable[[Resource], bool]

_TOKEN = re.compile(
    r"""\s*(?P<token>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|!=|<=|>=|[=<>:()]|[^\s()"'=<>:!]+)""", re.VERBOSE
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """What may be listed how: by field of a filter the comparisons it takes, and the fields of ``orderBy``."""

    comparisons: Mapping[str, tuple[str, ...]]
    orders: tuple[str, ...] = ()
    camel_case: bool = False  # the document allows both spellings for models, one for jobs


JOB_RULES = Rules({
    "display_name": ("=", "!=", ":"), "state": ("=", "!="), "create_time": ("=", "!=", "<", "<=", ">", ">="),
    "labels": ("=", ":"),
})  # fmt: skip
MODEL_RULES = Rules(
    {"model": ("=", "!="), "display_name": ("=", "!="), "labels": ("=", ":")},
    ("display_name", "create_time", "update_time"),
    camel_case=True,
)
VERSION_RULES = Rules({"labels": ("=", ":")}, ("create_time", "update_time"), camel_case=True)


def page(
    found: Sequence[Resource], kind: str, query: Mapping[str, str], rules: Rules, fields: Sequence[str], most: int
) -> dict[str, Any]:
    """The answer to a list request, under ``kind`` such as customJobs.

    Args:
      found: in the order of an answer without ``orderBy``.
      fields: of the resource, for ``readMask``.
      most: resources in one page, whatever the request wants.

    Raises:
      Refused: the filter, the order, the mask, or the page's token or size cannot be used (400).
    """
    test = matcher(query.get("filter", ""), rules)
    kept = _ordered([each for each in found if test(each)], query.get("orderBy", ""), rules)
    size = int(query.get("pageSize", "0"))
    if size < 0:
        raise invalid(f"page_size {size} must not be negative")
    start = _start(query)
    end = start + min(size or most, most)
    mask = _mask(query.get("readMask", ""), fields)
    answer: dict[str, Any] = {kind: [mask(each) for each in kept[start:end]]} if kept[start:end] else {}
    if end < len(kept):
        answer["nextPageToken"] = base64.urlsafe_b64encode(f"{end}|{_asked(query)}".encode()).decode()
    return answer


def _asked(query: Mapping[str, str]) -> str:
    return f"{query.get('filter', '')}|{query.get('orderBy', '')}"


def _start(query: Mapping[str, str]) -> int:
    token = query.get("pageToken", "")
    if not token:
        return 0
    try:
        start, _, asked = base64.urlsafe_b64decode(token).decode().partition("|")
        if asked == _asked(query):
            return int(start)
    except ValueError:
        pass
    raise invalid(f"page_token {token!r} is not one of this list")


def _ordered(found: list[Resource], order: str, rules: Rules) -> list[Resource]:
    for part in reversed([part for part in order.split(",") if part.strip()]):
        name, _, direction = part.strip().partition(" ")
        if _snake(name) not in rules.orders or direction.strip().lower() not in ("", "asc", "desc"):
            raise invalid(f"order_by {part.strip()!r} is not supported, supported are: {', '.join(rules.orders)}")
        key = _camel(_snake(name))
        found = sorted(found, key=lambda each: str(each.get(key, "")), reverse=direction.strip().lower() == "desc")
    return found


def _mask(mask: str, fields: Sequence[str]) -> Callable[[Resource], Resource]:
    if mask in ("", "*"):
        return dict
    kept = {_camel(path.split(".")[0]) for path in mask.split(",")}
    if unknown := kept.difference(fields):
        raise invalid(f"read_mask names unknown fields: {', '.join(sorted(unknown))}")
    return lambda resource: {name: value for name, value in resource.items() if name in kept}


def matcher(text: str, rules: Rules) -> Test:
    """The test a filter makes.

    Raises:
      Refused: it cannot be read, or names what cannot be compared so (400).
    """
    if not text.strip():
        return lambda _: True
    return _Parser(text, rules).whole()


class _Parser:
    def __init__(self, text: str, rules: Rules) -> None:
        self._text, self._rules = text, rules
        self._tokens: list[str] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                raise self._wrong()
            self._tokens.append(found["token"])
            at = found.end()

    def whole(self) -> Test:
        test = self._expression()
        if self._tokens:
            raise self._wrong()
        return test

    def _expression(self) -> Test:
        tests = [self._factor()]
        # Two terms side by side are both wanted, with the word or without it.
        while self._tokens and self._tokens[0] != ")":
            if self._tokens[0] == "AND":
                self._tokens.pop(0)
            tests.append(self._factor())
        return lambda resource: all(test(resource) for test in tests)

    def _factor(self) -> Test:
        tests = [self._term()]
        while self._tokens[:1] == ["OR"]:
            self._tokens.pop(0)
            tests.append(self._term())
        return lambda resource: any(test(resource) for test in tests)

    def _term(self) -> Test:
        token = self._next()
        if token == "NOT":
            inner = self._term()
            return lambda resource: not inner(resource)
        if token == "(":
            inner = self._expression()
            if self._next() != ")":
                raise self._wrong()
            return inner
        if token.startswith("-"):
            self._tokens.insert(0, token[1:])
            inner = self._term()
            return lambda resource: not inner(resource)
        return self._restriction(token)

    def _restriction(self, field: str) -> Test:
        if field.endswith(".") and self._tokens:  # labels."a key"
            field += _unquoted(self._next())
        name, _, key = field.partition(".")
        name = self._field(name)
        if (name == "labels") != bool(key):
            if name != "labels" or self._tokens[:1] != [":"]:
                raise self._wrong(field)
            self._tokens.pop(0)
            key = _unquoted(self._next())
            return lambda resource: key in resource.get("labels", {})
        comparison = self._next()
        if comparison not in self._rules.comparisons[name]:
            raise self._wrong(f"{field} {comparison}")
        wanted = self._next()
        if name == "labels":
            return _of_label(key, comparison, _unquoted(wanted))
        return _of_field(name, comparison, _unquoted(wanted), self._wrong)

    def _field(self, name: str) -> str:
        field = _snake(name) if self._rules.camel_case else name
        if field not in self._rules.comparisons:
            raise self._wrong(name)
        return field

    def _next(self) -> str:
        if not self._tokens:
            raise self._wrong()
        return self._tokens.pop(0)

    def _wrong(self, part: str = "") -> Exception:
        supported = ", ".join(f"{name} ({' '.join(signs)})" for name, signs in self._rules.comparisons.items())
        return invalid(f"invalid filter {self._text!r}{f' at {part!r}' if part else ''}, supported are: {supported}")


def _of_label(key: str, comparison: str, wanted: str) -> Test:
    if comparison == ":":
        return lambda resource: (
            key in resource.get("labels", {}) and fnmatch.fnmatchcase(resource["labels"][key], wanted)
        )
    return lambda resource: resource.get("labels", {}).get(key) == wanted


def _of_field(name: str, comparison: str, wanted: str, wrong: Callable[[str], Exception]) -> Test:
    if name == "model":
        return lambda resource: _COMPARE[comparison](resource["name"].split("/")[-1].split("@")[0], wanted)
    if name == "create_time":
        try:
            instant = datetime.datetime.fromisoformat(wanted)
        except ValueError:
            raise wrong(wanted) from None
        if instant.tzinfo is None:
            raise wrong(wanted)
        return lambda resource: _COMPARE[comparison](datetime.datetime.fromisoformat(resource["createTime"]), instant)
    if comparison == ":":
        return lambda resource: fnmatch.fnmatchcase(str(resource.get(_camel(name), "")), wanted)
    return lambda resource: _COMPARE[comparison](str(resource.get(_camel(name), "")), wanted)


def _unquoted(token: str) -> str:
    if token[:1] in ('"', "'"):
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    return token


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", r"_\1", name).lower()


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)
