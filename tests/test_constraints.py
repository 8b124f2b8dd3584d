"""constraints.txt pins all that development and CI install, by hash, and names no place to get it from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "constraints.txt").read_text(encoding="utf-8")
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINNED = [Requirement(line.removesuffix(" \\")) for line in TEXT.splitlines() if line and line[0] not in " #"]


def direct_requirements() -> list[Requirement]:
    """Return what the package, its extras that are tested, its groups and its build require."""
    groups = PYPROJECT["dependency-groups"].values()
    extras = PYPROJECT["project"]["optional-dependencies"]
    texts = [entry for group in groups for entry in group if isinstance(entry, str)]
    texts += PYPROJECT["project"]["dependencies"] + PYPROJECT["build-system"]["requires"]
    texts += [
        entry
        for name, entries in extras.items()
        if name not in {"notebook", "ray", "vllm"}
        for entry in entries
    ]
    found = [Requirement(text) for text in texts]
    return [requirement for requirement in found if requirement.name != "restaurant-llm-batch"]


def test_every_pin_is_one_version_with_hashes() -> None:
    blocks = re.split(r"\n(?=\S)", TEXT.partition("\n")[2].strip())
    pins = [block for block in blocks if not block.startswith("#")]

    assert len(pins) == len(PINNED) > 100
    for pin in pins:
        assert re.match(r"[\w.-]+==[\w.+!]+( ; .+)? \\\n", pin), pin[:80]
        assert re.fullmatch(r"(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n?)+", pin.partition("\n")[2]), pin[
            :80
        ]


def test_no_place_to_get_a_package_from_is_named() -> None:
    assert re.findall(r"://|--(?!hash)\w+|\bfile:|@|^\.|^/", TEXT, re.MULTILINE) == []


def test_all_that_is_required_directly_is_pinned_to_a_version_that_is_allowed() -> None:
    pinned = {canonicalize_name(pin.name): pin for pin in PINNED}
    for requirement in direct_requirements():
        (version,) = pinned[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(version.version, prereleases=True), str(requirement)


def test_every_requirement_has_a_lowest_version() -> None:
    without = [
        one for one in direct_requirements() if not any(spec.operator == ">=" for spec in one.specifier)
    ]

    assert [str(one) for one in without] == []


def test_ci_installs_what_is_pinned_and_nothing_else() -> None:
    scripts = [ROOT / ".ci" / "run", *(ROOT / ".github" / "workflows").glob("*.yml")]
    installs = re.findall(
        r"\bpip install\b.*", "\n".join(path.read_text(encoding="utf-8") for path in scripts)
    )

    assert len(installs) > 5
    allowed = ("--require-hashes -r constraints.txt", "--no-deps --no-build-isolation -e .")
    assert [line for line in installs if not line.split("#")[0].rstrip().endswith(allowed)] == []
