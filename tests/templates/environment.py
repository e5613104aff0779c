"""What an image holds, made on this machine of its Dockerfile alone.

    environment = make(print)                       # .venv-template: what the commands of templates/Dockerfile install
    image = environment.image("publish", "host/project/publish:1", variables)    # its Python and variables

    service = make(print, SERVICE).container({"CODE_VERSION": "0.1.0-1a2b3c"})   # .venv-service, of serving/Dockerfile
    subprocess.Popen([*service.command, ...], cwd=service.folder, env=service.variables)

There is no Docker here. So the RUN lines are carried out in a new virtual environment of this interpreter's Python, and
the folder of the image that COPY fills (/template, /service) is one below it that holds exactly that; no other path of
the image is used. What comes from other images (Beam's harness, Google's launcher) is not ours and is left out.
Everything else is done as the Dockerfile says it, by pip's commands with uv where the flags mean the same; a line that
is not understood is an error.

The environment has no dependency of the tests, and cannot import the checkout. It is kept for the next run; what the
Dockerfile, the lock or the sources changed is done anew from there on, as Docker would.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.dataflow.flex_templates import Image
from tests.templates import dockerfile
from tests.templates.dockerfile import Copy, Ignored, Instruction, NotUnderstood, copy, instructions

CONTEXT = Path(__file__).resolve().parents[2]
# Debian's packages that the image adds to its base, and the library this machine must have for each.
_LIBRARIES = {"libgomp1": "libgomp.so.1"}
_OF_AN_IMAGE = ("ARG", "ENV", "RUN", "USER", "ENTRYPOINT")  # what may stand from the first ARG on
_NOWHERE = "/nonexistent"  # the home of a user that is not root, as Debian calls it
# Flags of pip and uv's words for them; those of None concern what uv does not do anyway.
_UV = {
    "--no-cache-dir": None,
    "--no-compile": None,
    "--require-hashes": "--require-hashes",
    "--no-deps": "--no-deps",
    "--no-build-isolation": "--no-build-isolation",
    "-r": "-r",
}
_LINES = 15  # of a command that failed, in the message

Say = Callable[[str], None]


class CannotMake(RuntimeError):
    """The environment cannot be had; the text says why."""


@dataclass(frozen=True)
class Recipe:
    """What is made, and where.

    Attributes:
      dockerfile: its path in the context.
      folder: the one folder of the image that COPY fills and the commands name.
      home: the environment's directory on this machine.
      size: about how large that becomes.
    """

    dockerfile: str
    folder: str
    home: Path
    size: str

    def mapped(self, text: str) -> str:
        """A text with the image's folder, where it begins a path, as it is here."""
        return re.sub(rf"(?<![\w./-]){re.escape(self.folder)}(?![\w.-])", str(self.here), text)

    @property
    def here(self) -> Path:
        return self.home / self.folder.strip("/")

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"


TEMPLATE = Recipe("templates/Dockerfile", "/template", CONTEXT / ".venv-template", "3.5 GB")
SERVICE = Recipe("serving/Dockerfile", "/service", CONTEXT / ".venv-service", "130 MB")


@dataclass(frozen=True)
class Container:
    """What a started image would be: its process, the folder it starts in, its variables, and its user (None is root)."""

    command: tuple[str, ...]
    folder: Path
    variables: Mapping[str, str]
    user: int | None


@dataclass(frozen=True)
class Environment:
    """The installed environment: ``folder`` and ``home`` are the image's folder and its root's home.

    ``last`` are the instructions from the first ARG on, which depend on what a build is given.
    """

    recipe: Recipe
    last: tuple[Instruction, ...]

    @property
    def python(self) -> Path:
        return self.recipe.python

    @property
    def folder(self) -> Path:
        return self.recipe.here

    @property
    def home(self) -> Path:
        return self.recipe.home / "home"

    def container(self, given: Mapping[str, str]) -> Container:
        """What is started of an image that was built with these arguments.

        Raises:
          CannotMake: a last command of the Dockerfile fails with them.
        """
        arguments, own = dict[str, str](), dict[str, str]()
        command, user = list[str](), None
        for instruction in self.last:
            if instruction.keyword == "ARG":
                arguments.update([dockerfile.declared(instruction, given)])
            elif instruction.keyword == "ENV":
                key, value = dockerfile.assigned(instruction, arguments)
                own[key] = self.recipe.mapped(value)
            elif instruction.keyword == "RUN":
                _shell(instruction, self.recipe, own)
            elif instruction.keyword == "USER":
                user = dockerfile.user(instruction)
            else:
                command = [self.recipe.mapped(word) for word in dockerfile.words(instruction)]
        home = str(self.home) if user is None else _NOWHERE
        path = {"PATH": f"{self.python.parent}:{os.defpath}", "HOME": home, "LANG": "C.UTF-8"}
        return Container(tuple(command), self.folder, {**path, **own}, user)

    def image(self, template: str, name: str, variables: Mapping[str, str], code_version: str = "") -> Image:
        """The image of one template, under its full name, its processes with these variables beside its own.

        Raises:
          CannotMake: a last command of the Dockerfile fails for it.
        """
        made = self.container({"TEMPLATE": template, "IMAGE": name, "CODE_VERSION": code_version})
        return Image(str(self.python), {**made.variables, **variables})


@dataclass(frozen=True)
class _Layer:
    """One instruction, the files it copies with their paths in the image, and a key that depends on all before it."""

    instruction: Instruction
    files: tuple[tuple[Path, str], ...]
    key: str


def make(say: Say = lambda _: None, recipe: Recipe = TEMPLATE, context: Path = CONTEXT) -> Environment:
    """Makes the environment, or what is missing of it; two processes take turns.

    Raises:
      CannotMake: a command of the Dockerfile fails.
      NotUnderstood: the Dockerfile has an instruction that cannot be carried out here.
    """
    found = instructions((context / recipe.dockerfile).read_text())
    # From the first ARG on an instruction may depend on what the build is given.
    first = next((index for index, each in enumerate(found) if each.keyword == "ARG"), len(found))
    environment = Environment(recipe, tuple(found[first:]))
    _require_last(environment.last)
    layers = _layers(found[:first], recipe, context)
    recipe.home.mkdir(exist_ok=True)
    with open(recipe.home / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _complete(layers, environment, say)
    return environment


def _require_last(last: Sequence[Instruction]) -> None:
    """Raises: NotUnderstood for what cannot be carried out for one image alone."""
    user = None
    for instruction in last:
        if instruction.keyword not in _OF_AN_IMAGE:
            raise NotUnderstood(f"{instruction}: not understood behind the first ARG")
        if instruction.keyword == "ARG":
            dockerfile.declared(instruction, {})
        elif instruction.keyword == "USER":
            user = dockerfile.user(instruction)
        elif instruction.keyword == "ENTRYPOINT":
            dockerfile.words(instruction)
        elif instruction.keyword == "RUN" and user is not None:
            raise NotUnderstood(f"{instruction}: not understood behind USER")


def _layers(found: Sequence[Instruction], recipe: Recipe, context: Path) -> list[_Layer]:
    """Raises: NotUnderstood for what cannot be carried out."""
    ignored = Ignored((context / ".dockerignore").read_text())
    layers, key = list[_Layer](), sys.version
    for instruction in found:
        if instruction.keyword not in ("FROM", "COPY", "RUN") and instruction != Instruction("WORKDIR", recipe.folder):
            raise NotUnderstood(f"{instruction}: not understood before the first ARG")
        if instruction.keyword == "RUN":
            _require_understood(instruction, recipe)
        copied = Copy.parse(instruction) if instruction.keyword == "COPY" else None
        files = tuple(copied.files(context, ignored)) if copied else ()
        made = hashlib.sha256(f"{key}\0{instruction}".encode())
        for file, target in files:
            made.update(f"\0{target}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
        key = made.hexdigest()
        layers.append(_Layer(instruction, files, key))
    return layers


def _complete(layers: Sequence[_Layer], environment: Environment, say: Say) -> None:
    """Carries out the layers from the first on that is not there."""
    recipe = environment.recipe
    stamp = recipe.home / "layers.json"
    done = json.loads(stamp.read_text()) if stamp.exists() else []
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1].key, zip(done, layers, strict=False)))
    if same == len(layers):
        return
    if not any(layer.instruction.value.startswith("pip install ") for layer in layers[:same]):
        same = 0  # what another lock no longer names must not stay
        _begin(environment, say)
    # The folder as the copies leave it, without what later commands put there.
    shutil.rmtree(recipe.here, ignore_errors=True)
    recipe.here.mkdir()
    for index, layer in enumerate(layers):
        for file, target in layer.files:
            copy(file, Path(recipe.mapped(target)))
        if index >= same:
            stamp.write_text(json.dumps([each.key for each in layers[:index]]))
            if layer.instruction.keyword == "RUN":
                say(str(layer.instruction))
                _run(layer.instruction, recipe)
    stamp.write_text(json.dumps([each.key for each in layers]))


def _begin(environment: Environment, say: Say) -> None:
    home = environment.recipe.home
    say(f"a new environment in {home.name} with Python {sys.version.split()[0]}, about {environment.recipe.size}")
    for path in home.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    base = getattr(sys, "_base_executable", sys.executable)
    _call([base, "-m", "venv", str(home)], dict(os.environ), home)
    environment.home.mkdir()
    (home / ".gitignore").write_text("*\n")


def _require_understood(instruction: Instruction, recipe: Recipe) -> None:
    """Raises: NotUnderstood for a command of Debian or of pip that has no known equivalent here."""
    if instruction.value.startswith("apt-get "):
        _packages(instruction)
    elif instruction.value.startswith("pip install "):
        _pip_words(instruction, recipe)


def _run(instruction: Instruction, recipe: Recipe) -> None:
    if instruction.value.startswith("apt-get "):
        _require_libraries(_packages(instruction))
    elif instruction.value.startswith("pip install "):
        _install(_pip_words(instruction, recipe), recipe)
    else:
        _shell(instruction, recipe, {})


def _packages(instruction: Instruction) -> list[str]:
    """The packages that the image gets from Debian."""
    found = re.fullmatch(
        r"apt-get update && apt-get install --yes --no-install-recommends ([\w. +-]+) && rm -rf /var/lib/apt/lists/\*",
        instruction.value,
    )
    if found is None or not set(found[1].split()) <= set(_LIBRARIES):
        raise NotUnderstood(f"{instruction}: an installation of {', '.join(_LIBRARIES)} is understood")
    return found[1].split()


def _require_libraries(packages: Sequence[str]) -> None:
    """Nothing is installed here.

    Raises:
      CannotMake: this machine lacks a library of these packages.
    """
    for package in packages:
        try:
            ctypes.CDLL(_LIBRARIES[package])
        except OSError as error:
            raise CannotMake(f"the image's package {package} is missing on this machine: {error}") from error


def _pip_words(instruction: Instruction, recipe: Recipe) -> list[str]:
    """What stands behind ``pip install``."""
    words = shlex.split(instruction.value)[2:]
    for word in words:
        if word not in _UV and not word.startswith(f"{recipe.folder}/"):
            raise NotUnderstood(f"{instruction}: {word} is not a flag whose meaning is the same for uv")
    return words


def _install(words: Sequence[str], recipe: Recipe) -> None:
    flags = [recipe.mapped(flag) for flag in (_UV.get(word, word) for word in words) if flag]
    if "-r" not in words:
        flags.append("--no-cache")  # uv remembers what it once built of a folder
    uv = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--python", str(recipe.python)]
    variables = _variables(recipe)
    if "PIP_INDEX_URL" in variables:
        variables.setdefault("UV_DEFAULT_INDEX", variables["PIP_INDEX_URL"])
    try:
        _call([*uv, "--system-certs", *flags], variables, recipe.here)
    except CannotMake:  # no certificates in the system: uv has its own
        _call([*uv, *flags], variables, recipe.here)


def _shell(instruction: Instruction, recipe: Recipe, variables: Mapping[str, str]) -> None:
    command = recipe.mapped(instruction.value)
    _call(["/bin/sh", "-c", command], {**_variables(recipe), **variables}, recipe.here)


def _variables(recipe: Recipe) -> dict[str, str]:
    """This process's, which know the way to the packages, without what would have Python look elsewhere for modules."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "PATH": f"{recipe.python.parent}:{os.defpath}"}


def _call(command: list[str], variables: Mapping[str, str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, env=dict(variables), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-_LINES:])
        raise CannotMake(f"{shlex.join(command)} ended with {done.returncode}:\n{last}")


if __name__ == "__main__":
    make(print)
