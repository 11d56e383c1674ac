"""Cells: what stands for a null, what is a ref, and which word of the status_map a cell says."""

from __future__ import annotations

import math
from datetime import date
from decimal import Decimal
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_youcan.exceptions import YouCanInvalidInputError
from airflow_provider_youcan.reconciliation.rows.cells import read_cell, read_ref, translate
from airflow_provider_youcan.reconciliation.rows.desired import DesiredState


@pytest.mark.parametrize(
    "null", [None, math.nan, np.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), Decimal("NaN")]
)
def test_every_form_of_null_is_a_null(null: object) -> None:
    assert read_cell(null) is None
    assert read_ref(null) is None


@pytest.mark.parametrize(
    ("cell", "ref"),
    [
        (21, "21"),
        (np.int64(21), "21"),
        (np.uint8(21), "21"),
        (Decimal(21), "21"),
        (Decimal("21.0"), "21"),
        ("021", "021"),
        (np.str_("021"), "021"),
    ],
)
def test_a_ref_is_text_or_a_whole_number(cell: object, ref: str) -> None:
    assert read_ref(cell) == ref
    assert type(read_ref(cell)) is str


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (21.0, "a column of numbers with a null among them"),
        (np.float64(21), "a column of numbers with a null among them"),
        (21.5, "is not a ref"),
        (True, "is not a ref"),
        (np.bool_(True), "is not a ref"),
        (Decimal("21.5"), "is not a ref"),
        (Decimal("Infinity"), "is not a ref"),
        (Decimal("1E+5000"), "is not a ref"),
        (date(2026, 1, 1), "is not a ref"),
        (np.array([1, 2]), "is not a ref"),
        (10**18, "is not a ref"),
    ],
)
def test_an_invalid_ref_is_refused_with_the_reason(cell: object, message: str) -> None:
    with pytest.raises(YouCanInvalidInputError, match=message):
        read_ref(cell)


@pytest.mark.parametrize(
    ("cell", "word"),
    [
        (1, "1"),
        (1.0, "1"),
        (np.int64(1), "1"),
        (Decimal("1.0"), "1"),
        (Decimal("1.50"), "1.50"),
        (True, "True"),
        (date(2026, 1, 31), "2026-01-31"),
        (UUID(int=1), str(UUID(int=1))),
    ],
)
def test_a_word_is_what_a_cell_says(cell: object, word: str) -> None:
    assert translate(read_cell(cell), {word: "paid"}) == "paid"


@given(st.one_of(st.integers(), st.floats(), st.decimals(), st.text(), st.binary(), st.lists(st.integers())))
def test_no_cell_breaks_anything_but_its_row(cell: object) -> None:
    desired = DesiredState(status_map={"payment": {"x": "paid"}})

    desired.add({"order_id": cell, "payment_status": "paid"})
    desired.add({"ref": cell, "payment_status": "paid"})
    desired.add({"order_id": "abc", "payment_status": cell})

    assert desired.rows == 3
