"""Who shows what the library logs."""

from __future__ import annotations

import subprocess
import sys

import pytest

WARN = "logging.getLogger('restaurant_llm_batch').warning('heard')"


def said(code: str) -> str:
    """Run some code in a process of its own, and return what it wrote to stderr."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("module", ["restaurant_llm_batch", "restaurant_llm_batch._config.stopping"])
@pytest.mark.sample(1)
def test_a_program_that_does_not_set_logging_up_is_shown_nothing(module: str) -> None:
    assert said(f"import logging, {module}; {WARN}") == ""


@pytest.mark.slow
def test_a_program_that_does_is_shown_it_once() -> None:
    code = f"import logging, restaurant_llm_batch; logging.basicConfig(format='%(name)s %(message)s'); {WARN}"

    assert said(code) == "restaurant_llm_batch heard\n"


@pytest.mark.slow
def test_the_command_line_shows_it() -> None:
    code = f"""
import logging, sys
from contextlib import suppress
from restaurant_llm_batch.cli import main

sys.argv = ["restaurant-llm-batch", "--version"]
with suppress(SystemExit):
    main()
{WARN}
"""
    assert said(code) == "heard\n"
