"""Columns of an Arrow table as numbers that can be not a number. Knows no column by name."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Numbers = npt.NDArray[np.float64]


def numbers(column: pa.ChunkedArray) -> Numbers:
    """A column as floats; not a number where it is null."""
    import numpy as np
    import pyarrow as pa

    values: Numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False) if len(column) else np.zeros(0)
    return values


def seconds(column: pa.ChunkedArray, first: datetime) -> Numbers:
    """Times as s since `first`; not a number where there is none."""
    import pyarrow as pa

    stamps = numbers(column.cast(pa.timestamp("s", tz="UTC")).cast(pa.int64()))
    return stamps - first.timestamp()
