"""The benchmark of what the flow costs: the processes whose imports it times."""

import ast
from importlib.util import find_spec

import pytest
from benchmarks.overhead import PROCESSES


@pytest.mark.parametrize("statement", PROCESSES)
def test_the_modules_of_a_process_exist(statement: str) -> None:
    (line,) = ast.parse(statement).body
    assert isinstance(line, ast.Import)
    assert all(find_spec(module.name) for module in line.names)
