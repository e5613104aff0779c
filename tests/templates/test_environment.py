"""The images' environments judged: each holds what the Dockerfile says and nothing else, and knows what it cannot do."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.templates import environment
from tests.templates.dockerfile import (
    Copy,
    Ignored,
    Instruction,
    NotUnderstood,
    assigned,
    declared,
    instructions,
    user,
    words,
)
from tests.templates.environment import TEMPLATE, CannotMake, Environment, Recipe

# --- What a Dockerfile says -----------------------------------------------------------------------------------------


def test_instructions_are_read_without_comments_and_with_their_continuations() -> None:
    text = "# syntax\nFROM a:1\n\n  # more\nRUN one && \\\n    # inside\n    two\nENV A=b\n"
    assert instructions(text) == [
        Instruction("FROM", "a:1"),
        Instruction("RUN", "one &&  two"),
        Instruction("ENV", "A=b"),
    ]


@pytest.mark.parametrize("line", ["ADD x /y", "VOLUME /x", "run pip check"])
def test_unknown_instructions_are_errors(line: str) -> None:
    with pytest.raises(NotUnderstood, match="not an instruction that is understood here"):
        instructions(f"FROM a:1\n{line}\n")


@pytest.mark.parametrize("value", ["--chown=1 a /b", "a* /b", "../a /b", "a b", "[a] /b"])
def test_copies_that_are_not_plain_are_errors(value: str) -> None:
    with pytest.raises(NotUnderstood, match="only plain paths"):
        Copy.parse(Instruction("COPY", value))


def test_copies_are_of_files_and_of_what_is_in_folders(tmp_path: Path) -> None:
    for name in ("a.txt", "code/b.py", "code/sub/c.py", "code/b.pyc", "other/d.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def copied(value: str) -> dict[str, str]:
        copy = Copy.parse(Instruction("COPY", value))
        assert copy is not None
        found = copy.files(tmp_path, Ignored("*\n!a.txt\n!code\n**/*.pyc\n"))
        return {str(file.relative_to(tmp_path)): target for file, target in found}

    assert copied("a.txt /t/b.txt") == {"a.txt": "/t/b.txt"}
    assert copied("a.txt /t/") == {"a.txt": "/t/a.txt"}
    assert copied("code /t/lib") == {"code/b.py": "/t/lib/b.py", "code/sub/c.py": "/t/lib/sub/c.py"}
    assert Copy.parse(Instruction("COPY", "--from=image:1 /opt/a /opt/a")) is None
    for missing in ("other", "none.txt"):
        with pytest.raises(NotUnderstood, match="there is no such file in the context"):
            copied(f"{missing} /t/x")


@pytest.mark.parametrize(
    ("rules", "path", "left_out"),
    [
        ("*", "a/b", True),
        ("*\n!a", "a/b", False),
        ("*\n!a\n**/*.pyc", "a/b/c.pyc", True),
        ("*\n!a\n**/*.pyc", "a.pyc", True),
        ("**/__pycache__", "a/__pycache__/b", True),
        ("a/*.txt", "a/b/c.txt", False),
        ("/a/?.txt", "a/b.txt", True),
        ("# a\n\nb/", "a", False),
        ("b/", "b/c", True),
        ("a\n!a/keep", "a/keep/x", False),
    ],
)
def test_the_last_rule_of_a_dockerignore_that_matches_decides(rules: str, path: str, left_out: bool) -> None:
    assert Ignored(rules)(path) is left_out


def test_variables_take_the_values_of_others() -> None:
    assert assigned(Instruction("ENV", "A=x-${B}/${C}"), {"B": "1", "C": "2"}) == ("A", "x-1/2")
    with pytest.raises(NotUnderstood, match="D has no value"):
        assigned(Instruction("ENV", "A=${D}"), {"B": "1"})
    with pytest.raises(NotUnderstood, match="one NAME=VALUE"):
        assigned(Instruction("ENV", "A 1"), {})


def test_an_argument_that_a_build_is_not_given_is_empty() -> None:
    assert declared(Instruction("ARG", "A"), {"A": "1", "B": "2"}) == ("A", "1")
    assert declared(Instruction("ARG", "A"), {"B": "2"}) == ("A", "")
    with pytest.raises(NotUnderstood, match="a name alone"):
        declared(Instruction("ARG", "A=1"), {})


def test_users_are_numbers_and_entry_points_lists() -> None:
    assert user(Instruction("USER", "65534")) == 65534
    for value in ("nobody", "0", "65534:65534", "${A}"):
        with pytest.raises(NotUnderstood, match="a number other than root's"):
            user(Instruction("USER", value))
    assert words(Instruction("ENTRYPOINT", '["a", "--b"]')) == ["a", "--b"]
    for value in ("a --b", "[a]", "[]", '["a", 1]', '{"a": "b"}'):
        with pytest.raises(NotUnderstood, match="a list is understood"):
            words(Instruction("ENTRYPOINT", value))


# --- Making it ------------------------------------------------------------------------------------------------------

BEGIN = """FROM python:3.11
WORKDIR /template
COPY requirements.lock /template/requirements.lock
RUN pip install --no-cache-dir --no-compile --require-hashes --no-deps -r /template/requirements.lock
COPY code /template/source/code
"""


class Context:
    """A tiny context whose Dockerfile installs nothing, and its environment."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root / "context", root / "home"
        (self.root / "templates").mkdir(parents=True)
        (self.root / "code").mkdir()
        (self.root / "requirements.lock").touch()
        self.write("code/main.py", "print('one')")
        self.write(".dockerignore", "**/*.pyc")

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def make(self, *lines: str, begin: str = BEGIN) -> tuple[Environment, list[str]]:
        """The environment, and the first words of what was carried out for it."""
        self.write("templates/Dockerfile", begin + "".join(f"{line}\n" for line in lines))
        said: list[str] = []
        recipe = Recipe("templates/Dockerfile", "/template", self.home, "nothing")
        made = environment.make(said.append, recipe, self.root)
        return made, [" ".join(line.split()[:3]) for line in said]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path)


RUNS = ("RUN python /template/source/code/main.py > /template/said", "RUN pip check")


@pytest.mark.templates
def test_only_what_changed_and_what_follows_is_done_again(context: Context) -> None:
    made, said = context.make(*RUNS)
    assert said == ["a new environment", "RUN pip install", "RUN python /template/source/code/main.py", "RUN pip check"]
    assert (made.folder / "said").read_text() == "one\n"
    assert context.make(*RUNS)[1] == []
    (made.folder / "left").touch()
    context.write("code/main.py", "print('two')")
    assert context.make(*RUNS)[1] == said[2:]
    assert (made.folder / "said").read_text() == "two\n" and not (made.folder / "left").exists()
    context.write("requirements.lock", "# another\n")
    assert context.make(*RUNS)[1] == said
    assert {path.name for path in made.folder.iterdir()} == {"requirements.lock", "source", "said"}


@pytest.mark.templates
def test_a_command_that_fails_is_an_error_until_it_does_not(context: Context) -> None:
    for _ in range(2):
        with pytest.raises(CannotMake, match=r"ended with 3:\nbecause"):
            context.make("RUN echo because; exit 3")
    assert context.make("RUN true")[1] == ["RUN true"]


@pytest.mark.templates
def test_a_missing_requirement_is_found_by_pip_check(context: Context) -> None:
    context.write(
        "code/METADATA", "Metadata-Version: 2.1\nName: lonely\nVersion: 1\nRequires-Dist: no-such-friend>=2\n"
    )
    site = "$(python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')/lonely-1.dist-info"
    with pytest.raises(CannotMake, match="lonely 1 requires no-such-friend, which is not installed"):
        context.make(f'RUN mkdir "{site}" && cp /template/source/code/METADATA "{site}/"', "RUN pip check")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("RUN pip install --user -r /template/requirements.lock", "--user is not a flag"),
        ("RUN pip install tensorflow", "tensorflow is not a flag"),
        ("RUN pip install --no-deps /template/source && true", "&& is not a flag"),
        ("RUN apt-get install git", "an installation of libgomp1 is understood"),
        ("WORKDIR /elsewhere", "not understood before the first ARG"),
        ("ENV A=b", "not understood before the first ARG"),
        ("USER 1000", "not understood before the first ARG"),
        ("ARG A\nCOPY code /template/x", "not understood behind the first ARG"),
        ("ARG A\nUSER 1000\nRUN true", "RUN true: not understood behind USER"),
        ("ARG A=1", "a name alone is understood"),
        ("ARG A\nUSER nobody", "a number other than root's is understood"),
        ("ARG A\nENTRYPOINT sleep 1", "a list is understood"),
        ("WORKDIR /service", "not understood before the first ARG"),
        ("RUN pip install --no-deps /service/source", "/service/source is not a flag"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_an_error(context: Context, line: str, named: str) -> None:
    begin = "FROM python:3.11\nWORKDIR /template\n"
    with pytest.raises(NotUnderstood, match=re.escape(named)):
        context.make(line, begin=begin)
    assert not context.home.exists(), "nothing was made before"


@pytest.mark.templates
def test_the_last_lines_are_carried_out_for_each_image(context: Context) -> None:
    lines = (
        "ARG TEMPLATE",
        "ARG IMAGE",
        "ENV NAME=${TEMPLATE}",
        "ENV ENTRY=/template/source/code/main.py",
        'RUN test "$NAME" = a',
    )
    made, _ = context.make(*lines)
    image = made.image("a", "host/a:1", {"MORE": "x"})
    assert image.environment["NAME"] == "a" and image.environment["MORE"] == "x"
    assert image.environment["ENTRY"] == str(made.folder / "source/code/main.py")
    assert image.environment.keys() == {"PATH", "HOME", "LANG", "NAME", "ENTRY", "MORE"}
    with pytest.raises(CannotMake, match="ended with 1"):
        made.image("b", "host/b:1", {})


@pytest.mark.templates
def test_a_container_is_of_what_the_build_was_given(context: Context) -> None:
    made, _ = context.make(
        "ARG CODE",
        "ENV CODE_IS=${CODE}",
        'RUN test "$CODE_IS" != two',
        "USER 1000",
        'ENTRYPOINT ["python", "/template/source/code/main.py", "--home", "/templates"]',
    )
    container = made.container({"CODE": "one", "OTHER": "x"})
    assert container.command == ("python", str(made.folder / "source/code/main.py"), "--home", "/templates")
    assert (container.user, container.folder) == (1000, made.folder)
    assert container.variables["CODE_IS"] == "one" and not Path(container.variables["HOME"]).exists()
    assert made.container({}).variables["CODE_IS"] == ""
    with pytest.raises(CannotMake, match="ended with 1"):
        made.container({"CODE": "two"})


# --- The real one ---------------------------------------------------------------------------------------------------


def python(made: Environment, code: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(made.python), *options, "-c", code],
        cwd=made.folder, env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.templates
@pytest.mark.parametrize("module", ["pytest", "hypothesis", "benchmarks", "mypy", "sklearn", "lifetimes"])
def test_nothing_of_the_tests_is_importable(image_environment: Environment, module: str) -> None:
    done = python(image_environment, f"import {module}")
    assert done.returncode == 1
    assert f"ModuleNotFoundError: No module named '{module}'" in done.stderr


@pytest.mark.templates
def test_folders_of_the_checkout_are_not_those_of_the_image(image_environment: Environment) -> None:
    """Libraries leave a package ``tests`` of their own."""
    for module in ("tests.dataflow", "tests.templates"):
        assert "ModuleNotFoundError: No module named 'tests" in python(image_environment, f"import {module}").stderr


@pytest.mark.templates
def test_our_packages_are_the_installed_ones(image_environment: Environment) -> None:
    names = ("transforms", "serving", "trainer", "pipelines", "templates")
    done = python(
        image_environment, f"import sys, {', '.join(names)}; print(*sys.path, *{names[0]}.__path__, sep='\\n')"
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert (
            not line or not Path(line).is_relative_to(environment.CONTEXT) or Path(line).is_relative_to(TEMPLATE.home)
        )
    assert f"{TEMPLATE.home}/lib/" in done.stdout.splitlines()[-1]


@pytest.mark.templates
def test_what_is_installed_is_what_is_locked(image_environment: Environment) -> None:
    lock = (environment.CONTEXT / "templates" / "requirements.lock").read_text()
    # Some are locked in two versions, for older and newer Pythons.
    locked = set(re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==([^ \\;]+)", lock, re.MULTILINE))
    listed = "import importlib.metadata as m; print(*(f'{d.name} {d.version}' for d in m.distributions()), sep='\\n')"
    found = dict(line.split(" ", 1) for line in python(image_environment, listed, ["-I"]).stdout.splitlines())
    installed = {re.sub("[-_.]+", "-", name).lower(): version for name, version in found.items()}
    assert {"apache-beam", "tensorflow", "google-cloud-datastore"} <= installed.keys()
    # The base image has pip, too; the project is not locked.
    assert {name for name, _ in installed.items() - locked} == {"pip", "clv-pipelines"}


@pytest.mark.templates
def test_the_folder_holds_what_was_copied(image_environment: Environment) -> None:
    """And what the commands made of it; no test, no environment, no history."""
    source = image_environment.folder / "source"
    sources = {path.name for path in source.iterdir()} - {"build", "clv_pipelines.egg-info"}
    packages = {"transforms", "serving", "trainer", "pipelines", "orchestration", "templates"}
    assert sources == packages | {"pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"}
    assert {path.name for path in image_environment.folder.iterdir()} >= {
        "requirements.lock",
        "launcher.py",
        "source",
    }
    for name in packages:
        ours = {path.relative_to(environment.CONTEXT) for path in (environment.CONTEXT / name).rglob("*.py")}
        assert {path.relative_to(source) for path in (source / name).rglob("*.py")} == ours


@pytest.mark.templates
@pytest.mark.parametrize(
    ("template", "name"), [("publish", "host/p/publish:latest"), ("publish", "publish"), ("other", "host/p/o:1")]
)
def test_an_image_that_does_not_say_what_it_is_is_not_built(
    image_environment: Environment, template: str, name: str
) -> None:
    with pytest.raises(CannotMake, match=r"error: .*CLV_"):
        image_environment.image(template, name, {})


@pytest.mark.templates
def test_an_image_says_which_code_it_is(image_environment: Environment) -> None:
    """Its manifests take it from there: no repository is near what is installed."""
    for told, said in (("0.1.0-0123456789ab", "0.1.0-0123456789ab"), ("", "0.1.0")):
        image = image_environment.image("publish", "host/p/publish:1", {}, code_version=told)
        done = subprocess.run(
            [image.python, "-m", "transforms.version"],
            cwd=image_environment.home, env=dict(image.environment), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.stdout, done.stderr) == (f"{said}\n", "")
