"""Every column that hpccarbon writes, once: name, type, unit, meaning. Opens no file; pyarrow only inside functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_VERSION = 1
LEDGER_VERSION = 1
JOBS_VERSION = 1


class Column(NamedTuple):
    """A column: `type` is a key of `ARROW_TYPES`, `unit` is empty for names and ids."""

    name: str
    type: str
    nullable: bool
    unit: str
    meaning: str


SHARD: tuple[Column, ...] = (
    Column("bucket", "minute", False, "UTC minute", "start of the minute the energy was used in"),
    Column("holder", "word", False, "", "who is charged: job, system, unallocated; meter: what a meter counted"),
    Column("job_id", "int64", True, "", "Slurm job id (SLURM_JOB_ID); null unless holder is job"),
    Column("run", "word", True, "", "the run of the job: a requeued job has several; null unless holder is job"),
    Column("meter", "word", True, "", "the counter, e.g. rapl/intel-rapl:0; null unless holder is meter"),
    Column("uid", "int64", True, "", "Unix user id of the job's owner"),
    Column("user", "word", True, "", "user name, null where no hook told it"),
    Column("account", "word", True, "", "Slurm account, null where no hook told it"),
    Column("partition", "word", True, "", "Slurm partition, null where no hook told it"),
    Column("cpu_uj", "int64", True, "µJ", "energy of the CPU packages; null where no CPU meter could be read"),
    Column("dram_uj", "int64", True, "µJ", "energy of the memory; null where no such meter could be read"),
    Column("gpu_uj", "int64", True, "µJ", "energy of the GPUs; null where no such meter could be read"),
    Column("other_uj", "int64", True, "µJ", "whole-node meter minus the components; null without a whole-node meter"),
    Column("idle_uj", "int64", False, "µJ", "the static part of the sum: energy the hardware draws however busy it is"),
    Column("modelled_uj", "int64", False, "µJ", "the part of the sum that a model estimated, not a sensor"),
    Column("cpu_time_us", "int64", True, "µs", "CPU time used, all cores together"),
    Column("alloc_cores", "int32", True, "cores", "cores (Slurm CPUs) held; null where unknown"),
    Column("alloc_gpus", "int32", True, "GPUs", "GPUs held; null where unknown"),
    Column("present_ms", "int64", False, "ms", "how long the holder was there in this bucket"),
    Column("covered_ms", "int64", False, "ms", "how much of present_ms every meter of the node could be read for"),
)
"""A shard row: one holder in one bucket on one node (cluster, node, boot id stand in the file's metadata)."""

_SUMS = ("cpu_uj", "dram_uj", "gpu_uj", "other_uj", "idle_uj", "modelled_uj", "cpu_time_us", "present_ms", "covered_ms")
SUM_COLUMNS: tuple[str, ...] = _SUMS
"""Columns that are added up: null plus a value is the value, null plus null stays null."""
MAX_COLUMNS: tuple[str, ...] = ("alloc_cores", "alloc_gpus")
"""Columns of which a group keeps the largest value."""
ENERGY_COLUMNS: tuple[str, ...] = ("cpu_uj", "dram_uj", "gpu_uj", "other_uj")
"""The components; their sum is a row's energy."""
KEY_COLUMNS: tuple[str, ...] = ("holder", "job_id", "run", "meter", "uid", "user", "account", "partition")
"""What tells one holder from another, in shards and ledger."""

_SHARD_BY_NAME = {column.name: column for column in SHARD}

LEDGER: tuple[Column, ...] = (
    Column("hour", "hour", False, "UTC hour", "start of the hour"),
    Column("node", "word", False, "", "node name as Slurm knows it"),
    *(_SHARD_BY_NAME[name] for name in KEY_COLUMNS),
    *(_SHARD_BY_NAME[name] for name in SUM_COLUMNS),
    *(_SHARD_BY_NAME[name] for name in MAX_COLUMNS),
    Column("first_bucket", "minute", False, "UTC minute", "first minute of the hour with a row"),
    Column("last_bucket", "minute", False, "UTC minute", "last minute of the hour with a row"),
)
"""A ledger row: one holder in one hour on one node; the cluster stands in the file's metadata."""

JOBS: tuple[Column, ...] = (
    Column("job_id", "int64", False, "", "raw Slurm job id (JobIDRaw)"),
    Column("restart", "int32", False, "", "0 for the first run, counted up by each requeue"),
    Column("array_job_id", "int64", True, "", "id of the array, null for a job that is no array task"),
    Column("array_task_id", "int64", True, "", "index in the array"),
    Column("het_job_id", "int64", True, "", "id of the heterogeneous job's leader"),
    Column("het_offset", "int32", True, "", "component of the heterogeneous job"),
    Column("name", "text", True, "", "job name: chosen by the user, hostile until escaped"),
    Column("user", "word", True, "", "user name"),
    Column("uid", "int64", True, "", "Unix user id"),
    Column("account", "word", True, "", "Slurm account"),
    Column("partition", "word", True, "", "Slurm partition"),
    Column("qos", "word", True, "", "Slurm QOS"),
    Column("state", "word", True, "", "Slurm state: COMPLETED, FAILED, CANCELLED, TIMEOUT, ..."),
    Column("exit_code", "word", True, "", "exit code as Slurm prints it, code:signal"),
    Column("submit", "second", True, "UTC", "submit time"),
    Column("start", "second", True, "UTC", "start time"),
    Column("end", "second", True, "UTC", "end time, null while running"),
    Column("elapsed_s", "int64", True, "s", "run time on the wall clock"),
    Column("alloc_nodes", "int32", True, "nodes", "nodes held"),
    Column("alloc_cores", "int32", True, "cores", "Slurm CPUs held on all nodes"),
    Column("alloc_tres", "text", True, "", "AllocTRES as Slurm prints it"),
    Column("total_cpu_us", "int64", True, "µs", "CPU time that Slurm itself counted (TotalCPU)"),
    Column("consumed_energy_j", "int64", True, "J", "ConsumedEnergyRaw, where the site has an energy plugin"),
    Column("nodelist", "text", True, "", "nodes in Slurm's hostlist notation"),
)
"""A job record: one run of one job as Slurm's accounting knows it."""

JOB_TABLE: tuple[Column, ...] = (
    Column("cluster", "text", False, "", "cluster of the ledger"),
    Column("job", "text", False, "", "the id as people write it: 123, array task 123_4, component 123+1"),
    Column("job_id", "int64", False, "", "raw Slurm job id (JobIDRaw)"),
    Column("name", "text", True, "", "job name: chosen by the user, hostile until escaped (csv and xdmod escape it)"),
    Column("user", "text", True, "", "user name, as accounting knows it, else as the hooks told it"),
    Column("uid", "int64", True, "", "Unix user id, likewise"),
    Column("account", "text", True, "", "Slurm account, likewise"),
    Column("partition", "text", True, "", "Slurm partition, likewise"),
    Column("qos", "text", True, "", "Slurm QOS"),
    Column("restart", "int32", True, "", "how often it was requeued; state, times and nodes are those of its last run"),
    Column("state", "text", True, "", "Slurm state: COMPLETED, FAILED, CANCELLED, TIMEOUT, ..."),
    Column("exit_code", "text", True, "", "exit code as Slurm prints it, code:signal"),
    Column("submit", "microsecond", True, "UTC", "submit time"),
    Column("start", "microsecond", True, "UTC", "start time"),
    Column("end", "microsecond", True, "UTC", "end time, null while running"),
    Column("elapsed_s", "int64", True, "s", "run time on the wall clock"),
    Column("alloc_nodes", "int32", True, "nodes", "nodes held; without a record those on which it used energy"),
    Column("alloc_cores", "int32", True, "cores", "Slurm CPUs held on all nodes"),
    Column("alloc_tres", "text", True, "", "AllocTRES as Slurm prints it"),
    Column("nodelist", "text", True, "", "nodes in Slurm's hostlist notation"),
    Column("energy_uj", "int64", True, "µJ", "energy in the period, all its runs; null where no meter was ever read"),
    Column("energy_kwh", "float64", True, "kWh", "the same for people"),
    Column("co2e_g", "float64", True, "g CO2e", "grams of that, with node factor and PUE; null where an hour has none"),
    Column("cpu_uj", "int64", True, "µJ", "energy of the CPU packages; null where no CPU meter could be read"),
    Column("dram_uj", "int64", True, "µJ", "energy of the memory; null where no such meter could be read"),
    Column("gpu_uj", "int64", True, "µJ", "energy of the GPUs; null where no such meter could be read"),
    Column("other_uj", "int64", True, "µJ", "whole-node meter minus the components; null without a whole-node meter"),
    Column("static_uj", "int64", True, "µJ", "the part that the hardware draws however busy it is (`idle_uj`)"),
    Column("modelled_uj", "int64", True, "µJ", "the part that a model estimated, not a sensor"),
    Column("covered_percent", "float64", True, "%", "part of its node time for which every meter could be read"),
    Column("measured_percent", "float64", True, "%", "part of the energy that sensors measured; null without energy"),
    Column("node_hours", "float64", False, "h", "node time that daemons saw in the period"),
    Column("unseen_node_hours", "float64", False, "h", "node time that accounting knows and no daemon saw"),
    Column("core_hours", "float64", True, "h", "Slurm CPUs held × time, as daemons saw it"),
    Column("cpu_hours", "float64", True, "h", "CPU time used"),
    Column("cpu_used_percent", "float64", True, "%", "cpu_hours / core_hours"),
)
"""A row of `load_jobs` and `hpccarbon export`: one job in a period, made by site/jobtable.py, never stored."""
GPUS_IN_TRES = r"(?:^|,)gres/gpu=(?P<gpus>\d+)"
"""GPUs in `alloc_tres` (`gres/gpu=4,gres/gpu:a100=4`): the untyped sum. For Python, DuckDB and Arrow alike."""

PRODUCED_BY = "hpccarbon"
"""Key prefix of the file metadata: `hpccarbon.schema`, `.version`, `.cluster`, `.node`, `.boot_id`, ..."""


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type behind a column's type word."""
    import pyarrow as pa

    types: dict[str, Any] = {
        "int64": pa.int64(),
        "int32": pa.int32(),
        "word": pa.dictionary(pa.int32(), pa.string()),
        "text": pa.string(),
        "minute": pa.timestamp("s", tz="UTC"),
        "hour": pa.timestamp("s", tz="UTC"),
        "second": pa.timestamp("s", tz="UTC"),
    }
    return types[name]


def arrow_schema(columns: tuple[Column, ...], metadata: dict[str, str] | None = None) -> pa.Schema:
    """The Arrow schema of `SHARD`, `LEDGER` or `JOBS`, with the file's metadata (keys without the prefix)."""
    import pyarrow as pa

    fields = [pa.field(column.name, arrow_type(column.type), nullable=column.nullable) for column in columns]
    prefixed = {f"{PRODUCED_BY}.{key}": value for key, value in (metadata or {}).items()}
    return pa.schema(fields, metadata=prefixed)
