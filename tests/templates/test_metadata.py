"""What Dataflow is told of the parameters: the committed files, and each regex beside the parser it stands for."""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines import interactions, orders_source, predict, publish, publish_guards, publish_options
from pipelines.bigquery import Table
from pipelines.features import FeaturesOptions
from pipelines.orders_arguments import instant
from serving import store
from templates import metadata, parameters
from templates.parameters import TEMPLATES
from tests.dataflow.discovery import Discovery
from tests.templates.values import LEAST, USABLE_AND_NOT, USABLE_AND_NOT_THERE
from transforms import storage
from transforms.errors import UsageError
from transforms.interactions import EVENT_COLUMNS, RESERVED

ROOT = Path(__file__).resolve().parents[2]
EVERY = [(name, parameter) for name, template in TEMPLATES.items() for parameter in template.offered]
JUDGED_FURTHER = {"guards", "columns"}  # one is a file that is opened, the other is read with the orders


@pytest.fixture(autouse=True)
def _cloud_storage_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)


@functools.cache
def described(name: str) -> dict[str, dict[str, Any]]:
    """The committed parameters by name."""
    content = json.loads((ROOT / "templates" / name / "metadata.json").read_text())
    return {parameter["name"]: parameter for parameter in content["parameters"]}


def matches(name: str, parameter: str, value: str) -> bool:
    return all(re.fullmatch(regex, value) for regex in described(name)[parameter]["regexes"])


def parsed(name: str, given: dict[str, str]) -> dict[str, Any]:
    """Every field the pipeline's own command line takes from these arguments, flags as they are there."""
    argv = [f"--{key}" if value == "true" else f"--{key}={value}" for key, value in given.items() if value != "false"]
    if name == "publish":
        options: Any = publish_options.parse(argv)[0]
        return {**vars(options), **vars(options.places)}
    kinds = {
        "features": FeaturesOptions,
        "predict": predict.PredictOptions,
        "interactions": interactions.InteractionsOptions,
    }
    options = kinds[name].parse(argv)[0]
    return {**vars(options), **vars(options.orders)}


def accepts(name: str, parameter: str, value: str) -> bool:
    """Whether the pipeline's own code takes the value."""
    least = dict(LEAST[name])
    if value.startswith("gs://") and storage.resolve(value)[1] != value.removeprefix("gs://").rstrip("/"):
        return False  # it would be another place than the one that was named
    if parameter in ("orders_query", "events"):
        del least["orders"]
    if name == "interactions" and parameter in ("context", "time_unit"):
        least["events"] = least.pop("orders")
    if parameter == "bigquery_table":
        least["staging"] = "gs://shop/staging"
    try:
        if parameter == "columns" and not value.endswith(".toml"):  # a file is opened with the orders
            names = tuple(pair.partition("=")[0].strip() for pair in value.split(","))
            orders_source.parse_columns(value, names if name == "interactions" else orders_source.COLUMNS)
        elif parameter == "override":
            publish_guards.parse_overrides(part.strip() for part in value.split(";"))
        elif parameter in ("bigquery_table", "features_table"):
            Table.parse(parameter, value)
        elif parameter == "serving":
            assert not store.is_local(value)
        if parameter not in JUDGED_FURTHER | {"override"}:
            parsed(name, least | {parameter: value})
    except (UsageError, argparse.ArgumentTypeError):
        return False
    return True


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_committed_file_is_what_the_parser_says(name: str) -> None:
    assert metadata.path(name).read_text() == metadata.text(name), "python -m templates.metadata"


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_argument_of_the_command_is_offered_or_withheld_for_a_reason(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"pipelines.{name}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    usage, _, _ = done.stdout.partition("\n\n")
    arguments = set(re.findall(r"--(\w+)", usage))
    withheld = TEMPLATES[name].withheld
    assert len(arguments) > 8
    assert set(described(name)) == arguments - set(withheld)
    assert set(withheld) <= arguments and all(withheld.values())


@pytest.mark.parametrize("name", TEMPLATES)
def test_required_is_what_the_command_cannot_do_without(name: str) -> None:
    parsed(name, LEAST[name])
    needed = set()
    for parameter in LEAST[name]:
        try:
            parsed(name, {key: value for key, value in LEAST[name].items() if key != parameter})
        except UsageError:
            needed.add(parameter)
    one_of = {"orders"} & needed  # or orders_query: the service cannot be told of that
    assert {key for key, parameter in described(name).items() if not parameter["isOptional"]} == needed - one_of


@pytest.mark.parametrize(("name", "parameter"), EVERY)
def test_defaults_are_those_of_the_command(name: str, parameter: str) -> None:
    found = parsed(name, LEAST[name]).get({"guards": "-", "override": "overrides"}.get(parameter, parameter))
    default = described(name)[parameter].get("defaultValue")
    if parameter in LEAST[name]:
        assert default is None
    elif isinstance(found, bool):
        assert default == {True: "true", False: "false"}[found]
    else:
        assert default == (None if found in (None, "", [], {}, ()) else str(found))


@pytest.mark.parametrize(("name", "parameter"), EVERY)
def test_usable_and_unusable_values(name: str, parameter: str) -> None:
    usable, unusable = USABLE_AND_NOT_THERE.get((name, parameter)) or USABLE_AND_NOT[parameter]
    for value in usable:
        assert matches(name, parameter, value), value
        assert accepts(name, parameter, value), value
    for value in unusable:
        assert not matches(name, parameter, value), value


@pytest.mark.parametrize(("name", "parameter"), EVERY)
def test_what_the_regex_accepts_the_parser_accepts(name: str, parameter: str) -> None:
    (regex,) = described(name)[parameter]["regexes"]

    @settings(max_examples=60)
    @given(st.from_regex(regex, fullmatch=True))
    def agree(value: str) -> None:
        assume(not value.endswith("\n"))  # Python's $ alone lets it pass
        if parameter == "override":
            guards = [part.partition("=")[0].strip() for part in value.split(";")]
            assume(len(guards) == len(set(guards)))  # no regex counts
        if parameter == "columns":
            named = [pair.partition("=")[0].strip() for pair in value.split(",")]
            theirs = [pair.partition("=")[2].strip() for pair in value.split(",")]
            assume(len({*named, *theirs}) == 2 * len(named))
        if parameter == "context":
            columns = [column.strip() for column in value.split(",")]
            assume(len({column.upper() for column in columns}) == len(columns))
            assume(not {column.upper() for column in columns} & set(RESERVED) and not {*columns} & set(EVENT_COLUMNS))
        assert accepts(name, parameter, value), value

    agree()


def number_kinds() -> list[tuple[str, str]]:
    return [each for each in EVERY if described(each[0])[each[1]]["paramType"] == "NUMBER"]


@pytest.mark.parametrize(("name", "parameter"), number_kinds())
def test_numbers_agree_with_the_parser_in_both_directions(name: str, parameter: str) -> None:
    edges = [limit + step for limit in (0, 10, 65_535, 65_600, 66_000, 70_000, 100_000) for step in range(-2, 3)]
    for number in [*edges, *range(1, 110_000, 3_331), 10**6]:
        assert matches(name, parameter, str(number)) == accepts(name, parameter, str(number)), number


def test_dates_agree_with_the_parser_in_both_directions() -> None:
    day = datetime.date(1895, 12, 31)
    while day < datetime.date(2105, 1, 1):  # both kinds of centuries
        assert matches("features", "cutoff", str(day))
        day += datetime.timedelta(days=1)


@given(st.from_regex(r"[12][09][0-9]{2}-[01][0-9]-[0-3][0-9]", fullmatch=True))
def test_dates_that_do_not_exist(text: str) -> None:
    assume(not text.endswith("\n") and text.isascii())
    assert matches("features", "cutoff", text) == accepts("features", "cutoff", text)


@given(st.datetimes(min_value=datetime.datetime(1000, 1, 1), timezones=st.sampled_from([None, datetime.UTC])))
def test_times_as_python_writes_them(moment: datetime.datetime) -> None:
    assert matches("features", "snapshot_time", moment.isoformat())
    assert instant(moment.isoformat()).replace(tzinfo=None) == moment.replace(tzinfo=None)


def examples() -> list[tuple[str, str, str]]:
    """Template, parameter and value, of every command in the pages and in each --help."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "pipelines").glob("*.py"))]
    found = []
    for page in pages:
        text = re.sub(r"\\{1,2}\n\s*", " ", page.read_text())
        for name, rest in re.findall(
            r"python -m pipelines\.(publish|features|predict|interactions) (?:\.\.\. )?(-.*)", text
        ):
            try:
                words = shlex.split(rest.replace("...", ""), comments=True)
            except ValueError:
                continue  # a sentence that names the command
            for flag, value in itertools.pairwise(words):
                if flag[2:] in TEMPLATES[name].offered and not value.startswith(("-", "$(")):
                    found.append((name, flag[2:], value))
    return found


def test_examples_of_the_pages_and_of_help_are_accepted() -> None:
    places = ("GCS_READ_FOLDER", "GCS_WRITE_FOLDER", "GCS_READ_FILE")
    checked = set()
    for name, parameter, value in examples():
        local = "://" not in value or value.startswith("sqlite://")
        if local and (
            described(name)[parameter]["paramType"] in places or parameter in ("orders", "events", "output", "serving")
        ):
            assert not matches(name, parameter, value), value
            continue
        assert matches(name, parameter, value), (name, parameter, value)
        checked.add((name, parameter))
    assert {("publish", "serving"), ("publish", "override"), ("features", "orders"), ("features", "output")} <= checked
    assert len(checked) >= 12


@pytest.mark.parametrize(("name", "parameter"), EVERY)
def test_a_regex_means_the_same_everywhere(name: str, parameter: str) -> None:
    """No group with a question mark, no class whose meaning depends on the engine, nothing counted beyond RE2's limit."""
    (regex,) = described(name)[parameter]["regexes"]
    assert regex.startswith("^") and regex.endswith("$")
    assert not re.search(r"\(\?|\\[dwbDWSBpP]|\\[1-9]", regex)
    assert all(int(count) <= 1000 for count in re.findall(r"\{(?:\d+,)?(\d+)\}", regex))


@pytest.mark.parametrize("name", TEMPLATES)
def test_help_says_what_is_accepted(name: str) -> None:
    for key, parameter in described(name).items():
        assert parameter["helpText"][0] == parameter["helpText"][0].upper()
        assert f"Accepted here: {TEMPLATES[name].offered[key].kind.accepted}." in parameter["helpText"]
        assert ("separated by ;" in parameter["helpText"]) == (key == "override")


@pytest.mark.parametrize("name", TEMPLATES)
def test_help_does_not_offer_what_is_refused(name: str) -> None:
    """Texts of the terminal's help that speak of this machine have another here."""
    for key, parameter in described(name).items():
        said, _, _ = parameter["helpText"].partition("Accepted here:")
        assert not re.search(r"\blocal\b|sqlite|this machine|\bpath\.db|May be repeated", said), (key, said)


def test_help_of_shards_says_the_default_of_a_job_elsewhere() -> None:
    assert f"(default: {publish._REMOTE_SHARDS})" in described("publish")["shards"]["helpText"]


@pytest.mark.emulators  # whose environment holds the document
@pytest.mark.parametrize("name", TEMPLATES)
def test_only_fields_and_types_that_google_knows(name: str) -> None:
    Discovery.load("dataflow.v1b3").require(json.loads(metadata.path(name).read_text()), "TemplateMetadata")


@pytest.mark.emulators
@pytest.mark.parametrize("name", TEMPLATES)
def test_gcloud_takes_the_file(name: str, tmp_path: Path) -> None:
    from tests.templates import gcloud

    command = [
        "dataflow", "flex-template", "build", "gs://shop/templates/t.json", "--image", "gcr.io/shop/t:1", "--sdk-language",
        "PYTHON", "--metadata-file", str(metadata.path(name)), "--print-only", "--format=value(.)",
    ]  # fmt: skip
    done = gcloud.run(command, gcloud.environment(tmp_path, "http://127.0.0.1:1"))
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout)
    assert spec["image"] == "gcr.io/shop/t:1"
    assert spec["metadata"] == json.loads(metadata.path(name).read_text())


def test_the_separator_is_in_no_guard() -> None:
    assert not [guard for guard in publish_guards.GUARDS if parameters.SEPARATOR in guard]


def test_every_column_of_orders_can_be_mapped() -> None:
    for column in orders_source.COLUMNS:
        assert matches("features", "columns", f"{column}=Theirs")
