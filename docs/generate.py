"""Writes what is made from the code: docs/cli.md, schema.md, report_json.md, config.md, api.md, the README's badges.

python docs/generate.py          writes them (`make docs`)
python docs/generate.py --check  exits 1 naming those that are not what the code says
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import click
import msgspec

from hpccarbon import schema
from hpccarbon.carbon import series
from hpccarbon.cli import FOR_EVERYONE, FOR_OPERATORS, Entry, group
from hpccarbon.config import Config
from hpccarbon.report import compare, frames
from hpccarbon.report.budget import BudgetReport
from hpccarbon.report.job import JobReport
from hpccarbon.report.summary import Summary
from hpccarbon.report.usage import UsageReport
from hpccarbon.site import ledger
from hpccarbon.slurm.record import JobRecord
from hpccarbon.submit.advise import Advised
from hpccarbon.tracker.data import EmissionsData
from hpccarbon.tracker.decorator import track_emissions
from hpccarbon.tracker.emissions import EmissionsTracker

HERE = Path(__file__).resolve().parent
MADE = "<!-- Made from the code by docs/generate.py (`make docs`): changes belong there. -->\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [list(headings), ["---"] * len(headings), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells) + "\n"


# ---- cli.md ---------------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Every command with its options, from what `--help` prints."""
    parts = [
        "# Commands\n",
        MADE,
        "Data goes to stdout, speech to stderr. Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 130"
        " interrupted. A failure is one line `error: the thing: the reason (the next step)`.\n",
        table(("command", ""), [(f"[`{entry.name}`](#hpccarbon-{entry.name})", entry.help) for entry in _entries()]),
    ]
    context = click.Context(group, info_name="hpccarbon")
    for entry in _entries():
        command = group.get_command(context, entry.name)
        assert command is not None
        parts.append(command_text(command, f"hpccarbon {entry.name}", context))
    return "\n".join(parts)


def _entries() -> tuple[Entry, ...]:
    return (*FOR_EVERYONE, *FOR_OPERATORS)


def command_text(command: click.Command, name: str, parent: click.Context) -> str:
    """One command: what it does, its call, its options, its subcommands."""
    context = click.Context(command, info_name=name.rsplit(" ", 1)[-1], parent=parent)
    parts = [f"## {name}\n", _prose(command.help or "")]
    pieces = " ".join(piece for piece in command.collect_usage_pieces(context) if piece)
    parts.append(f"```\n{name} {pieces}\n```\n")
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    rows = [(f"`{param.human_readable_name}`", "") for param in arguments]
    rows += [(_names(option), _meaning(option)) for option in options]
    if options:
        parts.append(table(("option", "meaning"), rows))
    if command.epilog:
        parts.append(_prose(command.epilog))
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            below = command.get_command(context, sub)
            if below is not None and not below.hidden:
                parts.append(command_text(below, f"{name} {sub}", context).replace("## ", "### ", 1))
    return "\n".join(parts)


def _prose(text: str) -> str:
    """Help text as Markdown: paragraphs that click must not wrap (after a \\b) are code."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text).strip("\n")):
        if paragraph.lstrip().startswith("\b"):
            body = inspect.cleandoc(paragraph.lstrip()[1:].strip("\n"))
            paragraphs.append(f"```\n{body}\n```\n")
        else:
            paragraphs.append(" ".join(paragraph.split()) + "\n")
    return "\n".join(paragraphs)


def _names(option: click.Option) -> str:
    value = ""
    if not option.is_flag and not option.count:
        choices = getattr(option.type, "choices", None)
        value = option.metavar or ("|".join(map(str, choices)) if choices else option.type.name.upper())
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return f"{names} {value}".strip()


def _meaning(option: click.Option) -> str:
    said = option.help or ""
    if option.show_default and option.default is not None:
        said += f" [default: {option.default}]"
    return said.strip()


# ---- schema.md ------------------------------------------------------------------------------------------------------

FILES = (
    (
        "Shards",
        schema.SHARD,
        schema.SHARD_VERSION,
        "`shards/CLUSTER/date=YYYY-MM-DD/hour=HH/NODE.BOOT.parquet`: one row per holder and minute on one node, and"
        " `meter` rows with what the meters themselves counted. For each component the sum over `job`, `system` and"
        " `unallocated` rows equals the sum over `meter` rows, as integers. Where `daemon.steps` is on, the"
        " metadata holds `hpccarbon.steps`: a JSON array with `[job_id, run, step, cpu_uj, dram_uj, gpu_uj, other_uj,"
        " cpu_time_us]` for each step of the hour, parts of the job's rows.",
    ),
    (
        "Ledger",
        schema.LEDGER,
        schema.LEDGER_VERSION,
        "`ledger/CLUSTER/date=YYYY-MM-DD/hour=HH.parquet`: the shards of an hour, one row per holder and node.",
    ),
    (
        "Job records",
        schema.JOBS,
        schema.JOBS_VERSION,
        "`jobs/CLUSTER/month=YYYY-MM.parquet`: what Slurm's accounting knows, one row per run of a job.",
    ),
    (
        "Intensities",
        series.INTENSITY,
        series.VERSION,
        "`intensity/ZONE/SIGNAL.BASIS/YYYY-MM/FETCHED.PROVIDER.parquet`: one row per hour and revision; zone, signal"
        " (`average`, `marginal`) and basis (`lifecycle`, `direct`) stand in the path.",
    ),
)


def schema_page() -> str:
    """Every column that is written, from hpccarbon/schema.py."""
    parts = [
        "# Files and columns\n",
        MADE,
        "All files are Parquet and lie below `paths.shared_dir`: any engine reads them. A null is a value that is not"
        " known; it is never a zero. The file's metadata holds what is the same for all rows, under keys that begin"
        f" with `{schema.PRODUCED_BY}.`: `schema`, `version`, `cluster`, and for shards `node`, `boot_id`, `hour` and"
        " more. A release reads the versions named here and refuses others by name.\n",
    ]
    for title, columns, version, text in FILES:
        parts += [f"## {title}, version {version}\n", text + "\n", _columns(columns)]
    summed = ", ".join(f"`{name}`" for name in schema.SUM_COLUMNS)
    largest = ", ".join(f"`{name}`" for name in schema.MAX_COLUMNS)
    parts.append(
        f"Added up from shards to ledger and from ledger to report: {summed} (null and a value is the value, null and"
        f" null stays null). Of {largest} the largest value is kept.\n"
    )
    parts += [
        "## Jobs, as `hpccarbon export` and `load_jobs` give them\n",
        "One row per job that used energy in a period, or held nodes then as accounting knows: `hpccarbon export`"
        " as csv and parquet, and [`load_jobs(...).table`](api.md#jobs). Energy and grams are those within the period."
        " Nothing of it is stored; a release may add columns.\n",
        _columns(schema.JOB_TABLE),
    ]
    return "\n".join(parts)


def _columns(columns: Iterable[schema.Column]) -> str:
    rows = [
        (f"`{column.name}`", _type(column.type), "yes" if column.nullable else "no", column.unit, column.meaning)
        for column in columns
    ]
    return table(("column", "type", "may be null", "unit", "meaning"), rows)


def _type(word: str) -> str:
    return {
        "word": "text, dictionary-encoded",
        "minute": "timestamp, s",
        "hour": "timestamp, s",
        "second": "timestamp, s",
        "microsecond": "timestamp, µs",
    }.get(word, word)


# ---- report_json.md -------------------------------------------------------------------------------------------------


TITLES = {
    "JobReport": "`report --job`: JobReport",
    "UsageReport": "`report --by`: UsageReport",
    "BudgetReport": "`report --budget`: BudgetReport",
    "Summary": "`summary`: Summary",
    "Advised": "`advise`: Advised",
}


def json_page() -> str:
    """The documents of `--format json`, from the structs that are encoded."""
    parts = [
        "# JSON of `hpccarbon report`, `summary` and `advise`\n",
        MADE,
        f"`schema_version` {JobReport.__struct_defaults__[0]}. Within a version fields are added, never renamed or"
        " given another meaning. Times are UTC (RFC 3339); null is 'not known'. Energies are integers in microjoules:"
        " read them as 64-bit integers, because a double is exact only up to 2^53 µJ, which is about 2,500 kWh."
        " The text is plain ASCII; strings that users chose (job and account names) are given as they are and must be"
        " escaped where they are shown. CSV and Parquet have the same figures as flat rows: one per run of a job, or"
        " one per line of a table; strings in CSV cannot become formulas.\n",
    ]
    seen: dict[type, None] = {}
    for root in (JobReport, UsageReport, BudgetReport, Summary, Advised):
        _collect(root, seen)
    for struct in seen:
        title = TITLES.get(struct.__name__, struct.__name__)
        parts += [f"## {title}\n", " ".join((struct.__doc__ or "").split()) + "\n"]
        rows = [(f"`{name}`", _json_type(kind), text) for name, kind, text in _fields(struct)]
        parts.append(table(("field", "type", "meaning"), rows))
    return "\n".join(parts)


def _fields(struct: type) -> list[tuple[str, Any, str]]:
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    found = []
    for field in info.fields:
        kind: Any = field.type
        text = ""
        if isinstance(kind, msgspec.inspect.Metadata):
            kind, text = kind.type, (kind.extra_json_schema or {}).get("description", "")
        found.append((field.encode_name, kind, text))
    return found


def _below(kind: Any) -> list[Any]:
    if isinstance(kind, msgspec.inspect.Metadata):
        return _below(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return [found for one in kind.types for found in _below(one)]
    if isinstance(kind, msgspec.inspect.ListType):
        return _below(kind.item_type)
    return [kind]


def _collect(struct: type, seen: dict[type, None]) -> None:
    if struct in seen:
        return
    seen[struct] = None
    for _, kind, _ in _fields(struct):
        for one in _below(kind):
            if isinstance(one, msgspec.inspect.StructType):
                _collect(one.cls, seen)


def _json_type(kind: Any) -> str:
    known: dict[type, str] = {
        msgspec.inspect.IntType: "integer",
        msgspec.inspect.FloatType: "number",
        msgspec.inspect.StrType: "string",
        msgspec.inspect.BoolType: "boolean",
        msgspec.inspect.NoneType: "null",
        msgspec.inspect.DateTimeType: "time",
        msgspec.inspect.DateType: "date",
    }
    if isinstance(kind, msgspec.inspect.Metadata):
        return _json_type(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return " or ".join(_json_type(one) for one in kind.types)
    if isinstance(kind, msgspec.inspect.ListType):
        return f"list of {_json_type(kind.item_type)}"
    if isinstance(kind, msgspec.inspect.StructType):
        return f"[{kind.cls.__name__}](#{_anchor(kind.cls)})"
    if isinstance(kind, msgspec.inspect.LiteralType):
        return ", ".join(f"`{value}`" for value in kind.values)
    return known[type(kind)]


def _anchor(struct: type) -> str:
    return struct.__name__.lower()


# ---- configuration ------------------------------------------------------------------------------------------------


def config_page() -> str:
    """Every table and key of the TOML file."""
    parts = [
        "# Configuration\n",
        MADE,
        "One TOML file for the site, `/etc/hpccarbon/hpccarbon.toml` unless `$HPCCARBON_CONFIG` or `--config` names"
        " another; `slurm_scripts/hpccarbon.toml.example` is one to begin with. A key that is not known, or a value"
        " that cannot be, is an error that names the file, the key and the reason.\n",
    ]
    seen: list[tuple[str, type]] = [("", Config)]
    for name, struct in seen:
        rows = []
        meanings = key_meanings(struct)
        for field in msgspec.structs.fields(struct):
            inner = _tables(field.type)
            path = f"{name}.{field.encode_name}" if name else field.encode_name
            if inner:
                many = ".NAME" if get_origin(field.type) is dict else ""
                known = [place for place, one in seen if one in inner]
                seen += [] if known else [(f"{path}{many}", one) for one in inner]
                rows += [
                    (f"`{field.encode_name}`", f"table, as `[{place}]`", "none", meanings.get(field.name, ""))
                    for place in known
                ]
                continue
            default = "none" if field.default is msgspec.NODEFAULT else f"`{json.dumps(field.default)}`"
            meaning = meanings.get(field.name, "")
            rows.append((f"`{field.encode_name}`", _config_type(field.type), default, meaning))
        parts.append(f"## {f'[{name}]' if name else 'At the top'}\n")
        parts.append(inspect.cleandoc(struct.__doc__ or "") + "\n")
        if rows:
            parts.append(table(("key", "type", "default", "meaning"), rows))
    return "\n".join(parts)


def key_meanings(struct: type) -> dict[str, str]:
    """What stands below each field of a struct, as Python's tools take it for the field's documentation."""
    (defined,) = ast.parse(inspect.getsource(struct)).body
    assert isinstance(defined, ast.ClassDef)
    found = {}
    for field, below in zip(defined.body, defined.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def _tables(kind: Any) -> list[type]:
    """The structs in a type: a table of its own, or those of a table of tables."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [found for one in get_args(kind) for found in _tables(one)]


def _config_type(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in get_args(kind))
    if get_origin(kind) is Annotated:
        return _config_type(get_args(kind)[0])
    if get_origin(kind) is tuple:
        return f"list of {_config_type(get_args(kind)[0])}"
    if get_args(kind):
        return " to ".join(_config_type(one) for one in get_args(kind))
    return {str: "text", int: "integer", float: "number", bool: "true or false"}[kind]


# ---- api.md ---------------------------------------------------------------------------------------------------------


def api_page() -> str:
    """What `import hpccarbon` offers: each call, what it returns, and what that contains."""
    parts = [
        "# Python API\n",
        MADE,
        "What `import hpccarbon` offers; each name is loaded when it is first asked for. How it is used:"
        " [the tracker](tracker.md), [reports](reports.md), [SQL](sql.md). Types are Python's; `pa` is pyarrow, `pd`"
        " pandas. What is not known is None or null, never 0, unless the table says so.\n",
        "## In a job\n",
        _autodoc("autoclass", "hpccarbon.EmissionsTracker"),
        _call("EmissionsTracker", EmissionsTracker.__init__, "the tracker, not yet started"),
        "Its `final_emissions: float | None`, kg CO2e, and `final_emissions_data: EmissionsData | None`,"
        " [the row](#emissionsdata), hold the result after `flush` and `stop`. As a context manager it starts and stops"
        " by itself.\n",
        _members(EmissionsTracker),
        _autodoc("autoclass", "hpccarbon.OfflineEmissionsTracker"),
        _autodoc("autofunction", "hpccarbon.track_emissions"),
        _call("track_emissions", track_emissions, "the function, decorated: its own results and exceptions stay"),
        _autodoc("autoclass", "hpccarbon.OutputMethod"),
        "### EmissionsData\n",
        f"`hpccarbon.tracker.data.EmissionsData`: {_about(EmissionsData)}\n",
        _members(EmissionsData),
        "### In a notebook: `%%carbon`\n",
        "`%load_ext hpccarbon.tracker.notebook` makes the cell magic `%%carbon [PROJECT]`. It runs the cell with a"
        " tracker around it and returns nothing: below the cell stands a table of energy, its dynamic part, whose it"
        " is, grams and time, and the variable `_carbon` holds [the row](#emissionsdata), with `project_name` PROJECT,"
        " or `cell`. No file is written.\n",
        "## After the jobs\n",
        _autodoc("autofunction", "hpccarbon.load_jobs"),
        _call("load_jobs", frames.load_jobs, "[Jobs](#jobs)"),
        "### Jobs\n",
        f"`hpccarbon.report.frames.Jobs`: {_about(frames.Jobs)}\n",
        _members(frames.Jobs),
        "The columns of `table` and `to_pandas()` stand in"
        " [the schema](schema.md#jobs-as-hpccarbon-export-and-load_jobs-give-them); the DataFrame's index is `job`."
        " [CarbonOf](report_json.md#carbonof) and [SetAside](report_json.md#setaside) are those of the JSON. `len()` is"
        " the number of jobs.\n",
        _autodoc("autofunction", "hpccarbon.compare"),
        _call("compare", compare.compare, "[Comparison](#comparison)"),
        "### Comparison\n",
        f"`hpccarbon.report.compare.Comparison`: {_about(compare.Comparison)} As text it is the table that the command"
        " prints; a notebook shows it as HTML.\n",
        _members(compare.Comparison),
        "### Model\n",
        f"`hpccarbon.report.compare.Model`: {_about(compare.Model)}\n",
        _members(compare.Model),
        "## The ledger\n",
        _autodoc("autoclass", "hpccarbon.site.ledger.Ledger", "members"),
        _members(ledger.Ledger),
        "### Selection and EnergyRow\n",
        f"`hpccarbon.site.ledger.Selection`: {_about(ledger.Selection)}\n",
        _members(ledger.Selection),
        f"`hpccarbon.site.ledger.EnergyRow`: {_about(ledger.EnergyRow)}\n",
        _members(ledger.EnergyRow),
        "### JobRecord\n",
        f"`Ledger.jobs()` gives `hpccarbon.slurm.record.JobRecord`: {_about(JobRecord)}\n",
        _members(JobRecord, {column.name: column.meaning for column in schema.JOBS}),
    ]
    return "\n".join(parts)


def _autodoc(directive: str, name: str, *options: str) -> str:
    lines = [f".. {directive}:: {name}", *(f"   :{option}:" for option in options)]
    return "```{eval-rst}\n" + "\n".join(lines) + "\n```\n"


def _call(name: str, function: Any, returns: str) -> str:
    """A call with its arguments and their types, and what comes back."""
    arguments = str(inspect.signature(function)).replace("'", "").replace("(self, ", "(").rpartition(" -> ")[0]
    if len(arguments) > 100:
        arguments = "(\n    " + re.sub(r", (?=\w+: |\*)", ",\n    ", arguments[1:-1]) + ",\n)"
    return f"```text\n{name}{arguments}\n```\n\nReturns {returns}.\n"


def _about(documented: type) -> str:
    return " ".join(inspect.cleandoc(documented.__doc__ or "").split())


def _members(documented: type, meanings: Mapping[str, str] | None = None) -> str:
    """Fields with their types, then properties and methods with what they return; without a meaning where fields
    have none of their own, because the class's text tells them."""
    (defined,) = ast.parse(inspect.getsource(documented)).body
    assert isinstance(defined, ast.ClassDef)
    told = {**key_meanings(documented), **(meanings or {})}
    rows = []
    for part in defined.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            rows.append((f"`{part.target.id}`", f"`{ast.unparse(part.annotation)}`", told.get(part.target.id, "")))
        elif isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and part.returns is not None:
            shown = any(isinstance(one, ast.Name) and one.id == "property" for one in part.decorator_list)
            arguments = ast.unparse(part.args).removeprefix("self").removeprefix(", ")
            meaning = " ".join((ast.get_docstring(part) or "").partition("\n\n")[0].split()).replace("<", "&lt;")
            name = f"`{part.name}`" if shown else f"`{part.name}({arguments})`"
            rows.append((name, f"`{ast.unparse(part.returns)}`", meaning))
    heads = ("name", "type, or what it returns", "meaning")
    told_all = all(meaning for _, _, meaning in rows)
    return table(heads, rows) if told_all else table(heads[:2], [row[:2] for row in rows])


# ---- badges ---------------------------------------------------------------------------------------------------------

COLUMN_PX, MARGIN_PX = 6.6, 14
"""A letter's mean width at 11 px, and what stands around a text."""
BADGE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{label}: {value}">
<title>{label}: {value}</title>
<rect width="{width}" height="20" rx="3" fill="#3b4252"/>
<path d="M{left} 0h{right}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{right}z" fill="#1f6f43"/>
<g fill="#fff" font-family="DejaVu Sans,Verdana,sans-serif" font-size="11" text-anchor="middle">
<text x="{left_middle}" y="14">{label}</text><text x="{right_middle}" y="14">{value}</text>
</g>
</svg>
"""


def badge(label: str, value: str) -> str:
    """A picture of two words, which needs no service."""
    left, right = (round(len(text) * COLUMN_PX) + MARGIN_PX for text in (label, value))
    return BADGE.format(
        label=label,
        value=value,
        width=left + right,
        left=left,
        right=right - 3,
        left_middle=left // 2,
        right_middle=left + right // 2,
    )


def _project(key: str) -> str:
    """A value of pyproject.toml's `[project]`."""
    return str(msgspec.toml.decode((HERE.parent / "pyproject.toml").read_bytes())["project"][key])


def python_words(noted: dict[str, dict[str, Any]]) -> str:
    """What `make pythons` saw pass, and when; what the project asks for, where it saw nothing.

    Args:
        noted: docs/badges/pythons.json, which that program alone writes.
    """
    seen = {version: one["on"] for version, one in noted.items() if re.fullmatch(r"3\.\d+", version) and one["passed"]}
    if not seen:
        return f"{_project('requires-python').removeprefix('>=')} or newer"
    versions = sorted(seen, key=lambda version: int(version[2:]))
    minors = [int(version[2:]) for version in versions]
    whole = len(minors) > 2 and minors == list(range(minors[0], minors[-1] + 1))
    said = f"{versions[0]} to {versions[-1]}" if whole else ", ".join(versions)
    return f"{said}, tried {min(seen.values())}"


def _python() -> str:
    path = HERE / "badges" / "pythons.json"
    return python_words(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})


def _slurm() -> str:
    """The releases of docs/install.md, "What was tried": of those that the lab's own and `make compat` can run."""
    page = (HERE / "install.md").read_text(encoding="utf-8").partition("## What was tried")[2]
    code = (HERE.parent / "tests" / "compat.py").read_text(encoding="utf-8")
    can = {"22.05", *re.findall(r"Slurm (\d\d\.\d\d), Python", code)}
    return ", ".join(sorted(can & set(re.findall(r"\b\d\d\.\d\d\b", page))))


PAGES = {
    "cli.md": cli_page,
    "schema.md": schema_page,
    "report_json.md": json_page,
    "config.md": config_page,
    "api.md": api_page,
    "badges/python.svg": lambda: badge("Python", _python()),
    "badges/slurm.svg": lambda: badge("tried with Slurm", _slurm()),
    "badges/licence.svg": lambda: badge("licence", _project("license")),
    "badges/joules.svg": lambda: badge("holders = meters", "to the µJ, by hpccarbon verify"),
}


def outdated(write: bool) -> list[str]:
    """The pages that are not what the code says; written anew where `write`."""
    stale = []
    for name, make in PAGES.items():
        path, text = HERE / name, make()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if write:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    return stale


def main(argv: Sequence[str]) -> int:
    """Write the pages, or check them."""
    check = "--check" in argv
    stale = outdated(write=not check)
    for name in stale:
        print(f"docs/{name}: {'not what the code says; run `make docs`' if check else 'written'}", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
