"""What the template's image holds, made on this machine of templates/Dockerfile alone.

    environment = make(print)                       # .venv-template: what the commands of the Dockerfile install
    image = environment.image("publish", "host/project/publish:1", variables)    # its Python and variables

There is no Docker here. So the RUN lines are carried out in a new virtual environment of this interpreter's Python, and
the folder /template is one below it that holds exactly what COPY copies; no other path of the image is used. What
comes from other images (Beam's harness, Google's launcher) is not ours and is left out. Everything else is done as the
Dockerfile says it, by pip's commands with uv where the flags mean the same; a line that is not understood is an error.

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
from tests.templates.dockerfile import Copy, Ignored, Instruction, NotUnderstood, assigned, copy, instructions

CONTEXT = Path(__file__).resolve().parents[2]
HOME = CONTEXT / ".venv-template"
# Debian's packages that the image adds to its base, and the library this machine must have for each.
_LIBRARIES = {"libgomp1": "libgomp.so.1"}
_IN_IMAGE = re.compile(r"(?<![\w./-])/template(?![\w.-])")  # the image's folder, where it begins a path
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
class Environment:
    """The installed environment: ``template`` and ``home`` are the image's /template and its user's home.

    ``last`` are the instructions that depend on which template it is.
    """

    python: Path
    template: Path
    home: Path
    last: tuple[Instruction, ...]

    def image(self, template: str, name: str, variables: Mapping[str, str]) -> Image:
        """The image of one template, under its full name, its processes with these variables beside its own.

        Raises:
          CannotMake: a last command of the Dockerfile fails for it.
        """
        given, own = {"TEMPLATE": template, "IMAGE": name}, dict[str, str]()
        for instruction in self.last:
            if instruction.keyword == "ENV":
                key, value = assigned(instruction, given)
                own[key] = _mapped(value, self.template)
            elif instruction.keyword == "RUN":
                _shell(instruction, self, own)
        path = {"PATH": f"{self.python.parent}:{os.defpath}", "HOME": str(self.home), "LANG": "C.UTF-8"}
        return Image(str(self.python), {**path, **own, **variables})


@dataclass(frozen=True)
class _Layer:
    """One instruction, the files it copies with their paths in the image, and a key that depends on all before it."""

    instruction: Instruction
    files: tuple[tuple[Path, str], ...]
    key: str


def make(say: Say = lambda _: None, home: Path = HOME, context: Path = CONTEXT) -> Environment:
    """Makes the environment, or what is missing of it; two processes take turns.

    Raises:
      CannotMake: a command of the Dockerfile fails.
      NotUnderstood: the Dockerfile has an instruction that cannot be carried out here.
    """
    found = instructions((context / "templates" / "Dockerfile").read_text())
    # From the first ARG on an instruction may depend on which template it is.
    first = next((index for index, each in enumerate(found) if each.keyword == "ARG"), len(found))
    environment = Environment(home / "bin" / "python", home / "template", home / "home", tuple(found[first:]))
    for instruction in environment.last:
        if instruction.keyword not in ("ARG", "ENV", "RUN", "ENTRYPOINT"):
            raise NotUnderstood(f"{instruction}: not understood behind the first ARG")
    layers = _layers(found[:first], context)
    home.mkdir(exist_ok=True)
    with open(home / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _complete(layers, environment, home, say)
    return environment


def _layers(found: Sequence[Instruction], context: Path) -> list[_Layer]:
    """Raises: NotUnderstood for what cannot be carried out."""
    ignored = Ignored((context / ".dockerignore").read_text())
    layers, key = list[_Layer](), sys.version
    for instruction in found:
        if instruction.keyword not in ("FROM", "COPY", "RUN") and instruction != Instruction("WORKDIR", "/template"):
            raise NotUnderstood(f"{instruction}: not understood before the first ARG")
        if instruction.keyword == "RUN":
            _require_understood(instruction)
        copied = Copy.parse(instruction) if instruction.keyword == "COPY" else None
        files = tuple(copied.files(context, ignored)) if copied else ()
        made = hashlib.sha256(f"{key}\0{instruction}".encode())
        for file, target in files:
            made.update(f"\0{target}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
        key = made.hexdigest()
        layers.append(_Layer(instruction, files, key))
    return layers


def _complete(layers: Sequence[_Layer], environment: Environment, home: Path, say: Say) -> None:
    """Carries out the layers from the first on that is not there."""
    stamp = home / "layers.json"
    done = json.loads(stamp.read_text()) if stamp.exists() else []
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1].key, zip(done, layers, strict=False)))
    if same == len(layers):
        return
    if not any(layer.instruction.value.startswith("pip install ") for layer in layers[:same]):
        same = 0  # what another lock no longer names must not stay
        _begin(environment, home, say)
    # The folder as the copies leave it, without what later commands put there.
    shutil.rmtree(environment.template, ignore_errors=True)
    environment.template.mkdir()
    for index, layer in enumerate(layers):
        for file, target in layer.files:
            copy(file, Path(_mapped(target, environment.template)))
        if index >= same:
            stamp.write_text(json.dumps([each.key for each in layers[:index]]))
            if layer.instruction.keyword == "RUN":
                say(str(layer.instruction))
                _run(layer.instruction, environment)
    stamp.write_text(json.dumps([each.key for each in layers]))


def _begin(environment: Environment, home: Path, say: Say) -> None:
    say(f"a new environment in {home.name} with Python {sys.version.split()[0]}, about 3.5 GB")
    for path in home.iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    base = getattr(sys, "_base_executable", sys.executable)
    _call([base, "-m", "venv", str(home)], dict(os.environ), home)
    environment.home.mkdir()
    (home / ".gitignore").write_text("*\n")


def _require_understood(instruction: Instruction) -> None:
    """Raises: NotUnderstood for a command of Debian or of pip that has no known equivalent here."""
    if instruction.value.startswith("apt-get "):
        _packages(instruction)
    elif instruction.value.startswith("pip install "):
        _pip_words(instruction)


def _run(instruction: Instruction, environment: Environment) -> None:
    if instruction.value.startswith("apt-get "):
        _require_libraries(_packages(instruction))
    elif instruction.value.startswith("pip install "):
        _install(_pip_words(instruction), environment)
    else:
        _shell(instruction, environment, {})


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


def _pip_words(instruction: Instruction) -> list[str]:
    """What stands behind ``pip install``."""
    words = shlex.split(instruction.value)[2:]
    for word in words:
        if word not in _UV and not word.startswith("/template/"):
            raise NotUnderstood(f"{instruction}: {word} is not a flag whose meaning is the same for uv")
    return words


def _install(words: Sequence[str], environment: Environment) -> None:
    flags = [_mapped(flag, environment.template) for flag in (_UV.get(word, word) for word in words) if flag]
    if "-r" not in words:
        flags.append("--no-cache")  # uv remembers what it once built of a folder
    uv = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--quiet", "--python", str(environment.python)]
    variables = _variables(environment)
    if "PIP_INDEX_URL" in variables:
        variables.setdefault("UV_DEFAULT_INDEX", variables["PIP_INDEX_URL"])
    try:
        _call([*uv, "--system-certs", *flags], variables, environment.template)
    except CannotMake:  # no certificates in the system: uv has its own
        _call([*uv, *flags], variables, environment.template)


def _shell(instruction: Instruction, environment: Environment, variables: Mapping[str, str]) -> None:
    command = _mapped(instruction.value, environment.template)
    _call(["/bin/sh", "-c", command], {**_variables(environment), **variables}, environment.template)


def _variables(environment: Environment) -> dict[str, str]:
    """This process's, which know the way to the packages, without what would have Python look elsewhere for modules."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "PATH": f"{environment.python.parent}:{os.defpath}"}


def _call(command: list[str], variables: Mapping[str, str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, env=dict(variables), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-_LINES:])
        raise CannotMake(f"{shlex.join(command)} ended with {done.returncode}:\n{last}")


def _mapped(text: str, template: Path) -> str:
    """A text with the image's folder /template as it is here."""
    return _IN_IMAGE.sub(str(template), text)


if __name__ == "__main__":
    make(print)
