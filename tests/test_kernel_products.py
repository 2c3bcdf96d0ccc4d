"""Products in 8 bits of our own beside the runtime's."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest

from one_operator import Arrays, needs_library, numbers, session
from seqserve_server.kernels import compiled_library


@needs_library
@pytest.mark.parametrize("level", ["", "vnni"])
@pytest.mark.parametrize(("depth", "columns"), [(64, 16), (512, 48), (30, 7), (129, 100), (4, 33), (2048, 512)])
@pytest.mark.parametrize("operator", ["Product", "ProductBias", "ProductAdd", "ProductBiasAdd"])
def test_products_have_the_bits_of_their_definition(operator: str, depth: int, columns: int, level: str) -> None:
    random = np.random.default_rng(depth + columns)
    constants: Arrays = {
        "weight": random.integers(-127, 128, (depth, columns)).astype(np.int8),
        "column_scales": random.uniform(0.001, 0.1, columns).astype(np.float32),
    }

    def given(rows: int) -> Arrays:
        inputs: Arrays = {
            "rounded": random.integers(0, 256, (rows, depth)).astype(np.uint8),
            "scales": random.uniform(0.01, 2, (rows, 1)).astype(np.float32),
        }
        if "Bias" in operator:
            inputs["bias"] = numbers(19, columns)
        if operator.endswith("Add"):
            inputs["residual"] = numbers(20, rows, columns)
        return inputs

    with mock.patch.dict(os.environ, {"SEQSERVE_KERNELS": level}):
        compiled = session(operator, given(1), {}, compiled=True, constants=constants)
    defined = session(operator, given(1), {}, compiled=False, constants=constants)
    for rows in (1, 2, 3, 7, 8, 15, 16, 17, 40, 64, 100):
        inputs = given(rows)
        np.testing.assert_array_equal(compiled.run(None, inputs)[0], defined.run(None, inputs)[0])


@needs_library
def test_a_matrix_that_two_sessions_share_outlives_the_first() -> None:
    random = np.random.default_rng(3)
    inputs: Arrays = {"rounded": random.integers(0, 256, (9, 64)).astype(np.uint8), "scales": numbers(4, 9, 1)}
    constants: Arrays = {
        "weight": random.integers(-127, 128, (64, 32)).astype(np.int8), "column_scales": numbers(5, 32),
    }
    expected = session("Product", inputs, {}, compiled=False, constants=constants).run(None, inputs)[0]
    first = session("Product", inputs, {}, compiled=True, constants=constants)
    second = session("Product", inputs, {}, compiled=True, constants=constants)
    other = session(
        "Product", inputs, {}, compiled=True, constants=constants | {"column_scales": constants["column_scales"] * 2}
    )
    del first
    np.testing.assert_array_equal(second.run(None, inputs)[0], expected)
    np.testing.assert_array_equal(other.run(None, inputs)[0], expected * 2)


def loops(listing: str, longest: int = 100) -> Iterator[list[str]]:
    """Instructions between a jump backwards and where it goes, of loops of no more than so many."""
    found = re.findall(r"^ *([0-9a-f]+):\t(.*)$", listing, re.MULTILINE)
    places = {address: place for place, (address, _) in enumerate(found)}
    for place, (_, instruction) in enumerate(found):
        jump = re.match(r"j\w+ +([0-9a-f]+)", instruction)
        begin = places.get(jump[1], place) if jump else place
        if place - longest < begin < place:
            yield [each for _, each in found[begin:place]]


@needs_library
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instructions are those of another processor")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="there is no objdump here, of binutils")
def test_sums_of_products_stay_in_registers() -> None:
    """The compiler once stored all at each step of the depth, which took twice as long and changed no result."""
    command = ["objdump", "-d", "--no-show-raw-insn", str(compiled_library())]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    several = [(sum("vpdpbusd" in each for each in loop), loop) for loop in loops(listing)]
    products = [(count, loop) for count, loop in several if count >= 8]
    assert {count for count, _ in products} >= {24, 20, 16, 12, 8}  # six to two rows by four blocks
    for _, loop in products:
        assert [each for each in loop if re.match(r"v?mov\w+ +%[xyz]mm\d+,.*\(", each)] == []
