"""
Development tasks: `nox -l` lists them, `nox -s tests -- -k retry` runs one.

Each session makes its own environment. With `nox --no-venv` all of them use the environment that nox runs in, which
`pip install --group dev -e .` has filled; `.ci/run` does so.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests", "docs", "wheel"]

PACKAGE = "restaurant_llm_batch"
PYPROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, group: str, *, project: bool = True) -> None:
    """Install a dependency group, and the package in editable form; nothing under `--no-venv`."""
    if session.venv_backend == "none":
        return
    editable = ["--editable", "."] if project else []
    session.install(*editable, *nox.project.dependency_groups(PYPROJECT, group))


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, lint, spelling, metadata and import contracts."""
    install(session, "lint", project=False)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("codespell")
    session.run("validate-pyproject", "pyproject.toml")
    # import-linter reads the package's source; what the package depends on need not be installed.
    session.run("lint-imports", env={"PYTHONPATH": "src"})


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy on everything, pyright on user code and on the completeness of the public names."""
    install(session, "types")
    session.run("mypy")
    session.run(
        "mypy", "examples"
    )  # apart: examples/resume.py and benchmarks/resume.py are one module to mypy
    session.run("pyright")
    session.run("pyright", "--verifytypes", PACKAGE, "--ignoreexternal")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default tests; arguments after `--` go to pytest."""
    install(session, "tests")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests marked slow: the full cross-products."""
    install(session, "tests")
    session.run("python", "-m", "pytest", "-m", "slow", *session.posargs)


@nox.session
def hardening(session: nox.Session) -> None:
    """Run the attacks at length: interleavings, interrupts, flipped bits, growing inputs, leaking secrets."""
    install(session, "tests")
    session.run(
        "python", "-m", "pytest", "--hardening", "-m", "hardening", "--timeout=1800", *session.posargs
    )


@nox.session(venv_backend="none")
def heavy(session: nox.Session) -> None:
    """Run the tests against real vLLM and transformers servers; takes minutes and gigabytes."""
    session.run("bash", "tests/heavy/run", *session.posargs, external=True)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the default tests under coverage, child processes included, and check the gate."""
    install(session, "tests")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "--timeout=300", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site; a warning is an error."""
    install(session, "docs")
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run benchmarks by name, or the two that guard every change: `nox -s bench -- ladder rates`."""
    install(session, "tests")
    for name in session.posargs or ["overhead", "import_time"]:
        session.run("python", f"benchmarks/{name}.py")


@nox.session
def quality(session: nox.Session) -> None:
    """Measure the offline model on the gold set; `nox -s quality -- --wrong` also prints what it gets wrong."""
    install(session, "tests")
    session.run("python", "benchmarks/quality.py", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """
    Build the distributions, check them, and run README's first command from the wheel in an empty environment.

    An argument after `--` names a folder in which the distributions are kept.
    """
    install(session, "wheel", project=False)
    folder = Path(session.create_tmp()).resolve() / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    environment, elsewhere = folder / "environment", folder / "elsewhere"
    dist = Path(session.posargs[0]).resolve() if session.posargs else folder / "dist"
    elsewhere.mkdir(parents=True)
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    (built,) = dist.glob("*.whl")
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))

    session.run("python", "-m", "venv", str(environment))
    scripts = environment / ("Scripts" if sys.platform == "win32" else "bin")
    install_wheel = ["-m", "pip", "install", "--quiet", "--no-compile", f"{built}[cli]"]
    session.run(str(scripts / "python"), *install_wheel, external=True, silent=True)
    with session.chdir(elsewhere):
        shown = session.run(str(scripts / "restaurant-llm-batch"), "summarize", external=True, silent=True)
    if "ko-1" not in str(shown):
        session.error(f"the wheel did not summarise the reviews that it ships:\n{shown}")
