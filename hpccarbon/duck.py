"""The query engine without the Python package around it: the one module that loads DuckDB. Import it inside functions.

`import duckdb` costs 0.25 s of CPU time (DuckDB 2.0), the engine 0.07 s of it: the rest are relations, expressions
and data frames, in Python, that nobody here uses and every `hpccarbon report` would wait for. Its compiled half alone
has all that DB-API 2 asks for: connect, execute, fetch, the exceptions; those are the very objects that `duckdb` hands
out. Who wants more (Arrow tables) imports `duckdb` itself, which then works on the same connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb
else:
    try:
        import _duckdb as duckdb
    except ImportError:  # DuckDB before 1.4, where the compiled half lies inside the package
        import duckdb

__all__ = ["SETTINGS", "duckdb"]

SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "temp_directory": "",
    "python_enable_replacements": "false",
}
"""Of every connection: it fetches no extension, writes no temporary file and sees no Python variable."""
