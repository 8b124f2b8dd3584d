"""
Development tasks: `nox -l` lists them, `nox -s tests -- -k retry` runs one.

Each session makes its own environment, with the versions and hashes of constraints.txt. With `nox --no-venv` all of
them use the environment that nox runs in, filled as CONTRIBUTING.md says; `.ci/run` does so.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests", "docs", "wheel"]

PACKAGE = "restaurant_llm_batch"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names of the program; the first is the package of Debian too."""
FONTS = "fonts-noto-cjk"


def install(session: nox.Session) -> None:
    """Install what constraints.txt pins, and the package in editable form; nothing under `--no-venv`."""
    if session.venv_backend != "none":
        session.install("--require-hashes", "--requirement", "constraints.txt")
        session.install("--no-deps", "--no-build-isolation", "--editable", ".")


def environment(session: nox.Session, name: str) -> tuple[Path, Path]:
    """Return an empty folder of the session, and the folder of programs of a new environment in it."""
    folder = Path(session.create_tmp()).resolve() / name
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "venv", str(folder / "environment"), silent=True)
    return folder, folder / "environment" / ("Scripts" if sys.platform == "win32" else "bin")


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, lint, security, spelling, metadata and import contracts."""
    install(session)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("bandit", "--quiet", "--configfile", "pyproject.toml", "--recursive", "src")
    session.run("codespell")
    session.run("validate-pyproject", "pyproject.toml")
    # import-linter reads the package's source; what the package depends on need not be installed.
    session.run("lint-imports", env={"PYTHONPATH": "src"})


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy on everything, pyright on user code and on the completeness of the public names."""
    install(session)
    session.run("mypy")
    session.run(
        "mypy", "examples"
    )  # apart: examples/resume.py and benchmarks/resume.py are one module to mypy
    session.run("pyright")
    session.run("pyright", "--verifytypes", PACKAGE, "--ignoreexternal")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default tests; arguments after `--` go to pytest."""
    install(session)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests marked slow: the full cross-products."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "slow", *session.posargs)


@nox.session
def hardening(session: nox.Session) -> None:
    """Run the attacks at length: interleavings, interrupts, flipped bits, growing inputs, leaking secrets."""
    install(session)
    session.run(
        "python", "-m", "pytest", "--hardening", "-m", "hardening", "--timeout=10800", *session.posargs
    )


@nox.session
def simulate(session: nox.Session) -> None:
    """
    Play simulation tests at any length: `nox -s simulate -- --seconds 600`, or `-- --seed 1234 --plans 1`.

    `-- --mutants` plants each known fault in the engine, and says which check finds it.
    """
    install(session)
    session.run("python", "-m", "tests.support.simulation", *session.posargs)


@nox.session
def sharing(session: nox.Session) -> None:
    """
    Have real processes that pause and die share a limit: `nox -s sharing -- file --seconds 60 --seeds 5`.

    `redis` needs the program redis-server, and `ray` the package ray: `nox --no-venv -s sharing -- ray`.
    """
    install(session)
    session.run("python", "-m", "tests.support.sharing", *session.posargs)


@nox.session(venv_backend="none")
def heavy(session: nox.Session) -> None:
    """Run the tests against real vLLM and transformers servers; takes minutes and gigabytes."""
    session.run("bash", "tests/heavy/run", *session.posargs, external=True)


@nox.session
def browser(session: nox.Session) -> None:
    """Run the tests of the page in the system's Chromium; root installs it on Debian and Ubuntu if it is missing."""
    install(session)
    if not any(map(shutil.which, CHROMIUM)):
        if os.geteuid() or not shutil.which("apt-get"):
            session.error("no Chromium is installed; on Debian and Ubuntu: sudo apt-get install chromium")
        session.run(
            "apt-get", "install", "--yes", "--no-install-recommends", *CHROMIUM[:1], FONTS, external=True
        )
    if session.venv_backend != "none":
        session.install("playwright>=1.49")  # not pinned with the rest, since it takes 45 MB
    session.run("python", "-m", "pytest", "-n0", "-m", "browser", "tests/page", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the default tests under coverage, child processes included, and check the gate."""
    install(session)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "--timeout=300", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site; a warning is an error."""
    install(session)
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run benchmarks by name, or the two that guard every change: `nox -s bench -- ladder rates`."""
    install(session)
    for name in session.posargs or ["overhead", "import_time"]:
        session.run("python", f"benchmarks/{name}.py")


@nox.session
def quality(session: nox.Session) -> None:
    """Measure the offline model on the gold set; `nox -s quality -- --wrong` also prints what it gets wrong."""
    install(session)
    session.run("python", "benchmarks/quality.py", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """
    Build the distributions, check them, and run README's first command from the wheel in an empty environment.

    An argument after `--` names a folder in which the distributions are kept.
    """
    install(session)
    folder, scripts = environment(session, "wheel")
    elsewhere = folder / "elsewhere"
    dist = Path(session.posargs[0]).resolve() if session.posargs else folder / "dist"
    elsewhere.mkdir()
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(dist), silent=True)
    (built,) = dist.glob("*.whl")
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))

    install_wheel = ["-m", "pip", "install", "--quiet", "--no-compile", f"{built}[cli]"]
    session.run(str(scripts / "python"), *install_wheel, external=True, silent=True)
    with session.chdir(elsewhere):
        shown = session.run(str(scripts / "restaurant-llm-batch"), "summarize", external=True, silent=True)
    if "ko-1" not in str(shown):
        session.error(f"the wheel did not summarise the reviews that it ships:\n{shown}")
    make_page = "from restaurant_llm_batch._page.document import document; document({}, 'page')"
    session.run(
        str(scripts / "python"), "-c", make_page, external=True
    )  # of scripts and styles that it ships


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the default tests with the lowest versions that pyproject.toml allows of each direct dependency."""
    install(session)
    _, scripts = environment(session, "lowest")
    python = str(scripts / "python")
    # The extras of the test group are named again: only what a requirement names itself counts as direct.
    package = ".[cli,fastapi,fastembed,opentelemetry,plots,tables,tiktoken,tokenizers,trio]"
    lowest_versions = ["--resolution", "lowest-direct", "--group", "tests", "--editable", package]
    session.run("uv", "pip", "install", "--quiet", "--python", python, *lowest_versions)
    # Old versions warn of each other.
    session.run(python, "-m", "pytest", "-W", "default", *session.posargs, external=True)


@nox.session
def audit(session: nox.Session) -> None:
    """Look for known vulnerabilities of the pinned versions; say so if no database can be reached."""
    install(session)
    found = Path(session.create_tmp()).resolve() / "audit.json"
    found.unlink(missing_ok=True)
    pinned = ["--requirement", "constraints.txt", "--require-hashes", "--disable-pip"]
    report = ["--vulnerability-service", "osv", "--format", "json", "--output", str(found)]
    said = session.run("pip-audit", *pinned, *report, silent=True, success_codes=[0, 1])
    if not found.exists():  # both a vulnerability and a failed connection are status 1
        session.skip(
            f"NOT AUDITED, no database of vulnerabilities can be reached: {str(said).strip()[-200:]}"
        )
    packages = json.loads(found.read_text(encoding="utf-8"))["dependencies"]
    vulnerable = [
        f"{one['name']} {one['version']}: {', '.join(v['id'] for v in one['vulns'])}"
        for one in packages
        if one.get("vulns")
    ]
    if vulnerable:
        session.error("known vulnerabilities:\n" + "\n".join(vulnerable))
    session.log(f"no known vulnerability in {len(packages)} packages")


@nox.session
def sbom(session: nox.Session) -> None:
    """
    Write a software bill of materials (CycloneDX JSON) of the package and of what it installs.

    An argument after `--` names the file.
    """
    install(session)
    folder, scripts = environment(session, "sbom")
    bill = Path(session.posargs[0] if session.posargs else folder / "restaurant-llm-batch.cdx.json").resolve()
    bill.parent.mkdir(parents=True, exist_ok=True)
    session.run(
        str(scripts / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        ".",
        external=True,
        silent=True,
    )
    written = ["--pyproject", "pyproject.toml", "--mc-type", "library", "--output-reproducible"]
    session.run("cyclonedx-py", "environment", *written, "--output-file", str(bill), str(scripts / "python"))
    components = json.loads(bill.read_text(encoding="utf-8"))["components"]
    if not {"openai", "pydantic"} <= {component["name"] for component in components}:
        session.error(f"the bill of materials {bill} lacks what the package depends on")
    session.log(f"{len(components)} components in {bill}")


@nox.session
def lock(session: nox.Session) -> None:
    """Write constraints.txt anew: the newest versions that pyproject.toml allows, for all platforms, with hashes."""
    install(session)
    # The package itself, because its test group names its extras; it is left out of the file.
    package = Path(session.create_tmp()).resolve() / "package.txt"
    package.write_text(f"restaurant-llm-batch @ {Path.cwd().as_uri()}\n", encoding="utf-8")
    session.run(
        *("uv", "pip", "compile", str(package), "--group", "pyproject.toml:dev", "--universal"),
        *("--python-version", "3.11", "--upgrade", "--generate-hashes", "--no-annotate", "--quiet"),
        *("--no-emit-package", "restaurant-llm-batch", "--no-emit-index-url", "--no-emit-find-links"),
        *("--custom-compile-command", "nox -s lock", "--output-file", "constraints.txt"),
    )
