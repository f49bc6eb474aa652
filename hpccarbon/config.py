"""One TOML file becomes one frozen `Config`. Nothing else reads settings, and nothing here is read twice."""

from __future__ import annotations

import os
import re
import socket
from datetime import timezone, tzinfo
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from hpccarbon.errors import ConfigError

DEFAULT_PATH = Path("/etc/hpccarbon/hpccarbon.toml")
ENVIRONMENT = "HPCCARBON_CONFIG"
BESIDE = "%c/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


class Paths(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where things lie. `%n` in `state_dir`, `run_dir` and `daemon.root` becomes the node's name, `%c/` at the head of
    `shared_dir` the directory of the file that says so.

    `state_dir` is node-local disk (the store), `run_dir` node-local and root's (job files, socket, pid), `shared_dir`
    is read by everyone who reports: `shards/`, `ledger/`, `jobs/` and `intensity/` lie below it.
    """

    state_dir: str = "/var/lib/hpccarbon"
    run_dir: str = "/run/hpccarbon"
    shared_dir: str = "/var/lib/hpccarbon/shared"


class Daemon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node daemon's rhythm and rights.

    `cpus` is how many CPUs Slurm hands out on a node (CPUs= in slurm.conf; 0: those the kernel runs on).
    `seal_after_job_s` bounds the time from a job's end to its shard; `seal_user` is whom the sealing child becomes
    before it touches the shared file system (empty: stays who it is); `keep_days` is how long sealed rows stay in
    the store, and `store_limit_mb` (0: none) what all rows may take there: beyond it the oldest hours go, sealed ones
    first (docs/reliability.md); `idle_power_w` is the static power of all CPU packages together (0: learned). `weights`
    is what dynamic energy goes by: CPU time, or what a hardware counter says of each job (docs/method.md, "Weights").
    `steps` divides each job's energy among its steps too (docs/reports.md, "Steps").
    `textfile` is the file that node_exporter's textfile collector reads (docs/dashboards.md); empty: none is written.
    """

    root: str = "/"
    cpus: int = 0
    interval_s: float = 1.0
    seal_s: int = 900
    seal_after_job_s: int = 10
    seal_user: str = ""
    keep_days: int = 7
    store_limit_mb: int = 0
    idle_power_w: float = 0.0
    dram_idle_power_w: float = 0.0
    weights: Literal["cpu_time", "cycles", "instructions", "llc_misses", "cpu_clock"] = "cpu_time"
    steps: bool = False
    textfile: str = ""


class Meters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which meters run. Order does not matter: what nests is never added twice."""

    enabled: tuple[str, ...] = ("rapl", "nvml", "amd", "cray", "bmc", "hwmon", "model")


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long GPU drivers may take: `timeout_s` for the readings of a tick, `start_timeout_s` for the first look.

    A driver that takes longer leaves a gap in the GPUs' energy; the CPUs' goes on.
    """

    timeout_s: float = 0.1
    start_timeout_s: float = 5.0


class Bmc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node's management controller, asked for the power of the whole node. Empty `kind`: not asked.

    `redfish` needs `url` (https://BMC), `ipmi` takes the local BMC where `host` is empty; `%n` in both becomes the
    node's name. `credentials` is a file of root's (mode 600) with the lines `user = NAME` and `password = SECRET`.
    A certificate is checked against the system's authorities, `ca_file`, or `fingerprint` (SHA-256 of the certificate,
    for self-signed ones); `insecure` checks nothing. `chassis` is the Redfish Id where the choice is wrong, `cipher`
    the IPMI cipher suite (0: ipmitool's own).
    """

    kind: Literal["", "redfish", "ipmi"] = ""
    url: str = ""
    host: str = ""
    credentials: str = "/etc/hpccarbon/bmc.credentials"
    interval_s: float = 10.0
    timeout_s: float = 5.0
    auth: Literal["session", "basic"] = "session"
    ca_file: str = ""
    fingerprint: str = ""
    insecure: bool = False
    chassis: str = ""
    cipher: int = 0


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The site's own figures for nodes without a sensor: power of all CPUs together, idle and at full load (W).

    0 takes them from the table of CPU families (docs/method.md, "Nodes without a sensor"). `memory_w_per_gib` models
    the memory where the CPUs are measured and the memory is not (0: it is left out).
    """

    idle_power_w: float = 0.0
    full_power_w: float = 0.0
    memory_w_per_gib: float = 0.0


class Slurm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to ask Slurm: `conf` is exported as SLURM_CONF, `bin_dir` precedes PATH, `timeout_s` bounds every command.

    `accounting` is where job records come from: `auto` takes sacct, or pyslurm where only that is there (never tried).
    `admin_comment`: `aggregate --watch` writes a job's summary into its AdminComment (docs/reports.md).
    """

    conf: str = ""
    bin_dir: str = ""
    timeout_s: float = 20.0
    accounting: Literal["auto", "sacct", "pyslurm", "none"] = "auto"
    admin_comment: bool = False


class Embodied(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What making the hardware emitted, kg CO2e: the site's own figures, or rows of the packaged table (`*_item`).

    `node_kg` is a node without its GPUs. A range of 0 to 0 means x/÷ 1.6 for nodes, x/÷ 2.5 for GPUs. `life_years` is
    the time it is spread over; hours that nobody used are `unallocated`. `node_cores` and `node_gpus` are what a node
    has to divide among its jobs (cores as Slurm counts CPUs).
    """

    node_kg: float = 0.0
    node_low_kg: float = 0.0
    node_high_kg: float = 0.0
    node_item: str = ""
    gpu_kg: float = 0.0
    gpu_low_kg: float = 0.0
    gpu_high_kg: float = 0.0
    gpu_item: str = ""
    node_cores: int = 0
    node_gpus: int = 0
    life_years: float = 5.0
    source: str = ""


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the cluster that stands elsewhere, or behind another meter: what differs from `[carbon]` there.

    `nodes` (Slurm's hostlist notation) go before `partitions` (names, or patterns such as `gpu*`). Empty and 0 mean
    "as in [carbon]".
    """

    nodes: str = ""
    partitions: tuple[str, ...] = ()
    zone: str = ""
    pue: float = 0.0
    node_factor: float = 0.0
    embodied: Embodied | None = None


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to ask one service. A key stands in a file or in an environment variable, never here.

    `zones` are the service's own names for our zones where they differ (a region, an EIC code). `query`, `basis` and
    `kind` say what a site's own service (`site_http`) answers with.
    """

    base_url: str = ""
    key_file: str = ""
    key_env: str = ""
    user: str = ""
    zones: dict[str, str] = {}
    query: str = ""
    basis: Literal["", "lifecycle", "direct"] = ""
    kind: Literal["average", "marginal"] = "average"
    timeout_s: float = 30.0


class Market(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contracts behind the electricity (GHG Protocol scope 2, market-based).

    `contract_share` of the energy is covered at `contract_g_per_kwh`; the rest takes the supplier's or country's
    residual mix, which is not the grid mix and has no default.
    """

    contract_share: float = 0.0
    contract_g_per_kwh: float = 0.0
    residual_g_per_kwh: float = 0.0
    source: str = ""


class Carbon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What turns energy into grams. `pue` has no default: 0 means unknown, and every report then says so.

    `pue_of_year` ("2025" = 1.31) goes before it, so that an older year keeps its own, and `pue_file` before both: a CSV
    with the columns `start` and `pue`, an hour a row, where the building is metered.

    `node_factor` covers what the meters inside the node do not see (power supply losses, fans, disks): energy at the
    wall / energy of the meters; 1.0 on nodes whose BMC is read. `yearly` is which packaged yearly value goes first:
    what a zone produced, or what it consumed (imports traced; under the ODbL). `provider` is the service whose hourly
    values are preferred. `fixed_g_per_kwh` (0: none) with its source replaces every series: a site's own plant.
    """

    zone: str = ""
    basis: Literal["lifecycle", "direct"] = "lifecycle"
    pue: float = 0.0
    pue_of_year: dict[str, float] = {}
    pue_file: str = ""
    node_factor: float = 1.0
    comparisons: bool = True
    yearly: Literal["production", "consumption"] = "production"
    provider: str = ""
    fixed_g_per_kwh: float = 0.0
    fixed_source: str = ""
    wue_l_per_kwh: float = 0.0
    places: dict[str, Place] = {}
    providers: dict[str, Provider] = {}
    embodied: Embodied = Embodied()
    market: Market = Market()


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How reports speak: `timezone` is where the reader's days and months begin (IANA name).

    The ledger is by whole hours of UTC: in a zone of half hours the hour at midnight counts to the day it began in.
    """

    timezone: str = "UTC"


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long raw shards stay once the ledger holds them (`hpccarbon retention`).

    After `pack_days` a day's shards become one file; after `keep_days` that file is removed (0: never).
    """

    pack_days: int = 14
    keep_days: int = 0


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What some accounts may use in a calendar period of the reader's zone: `kwh` of metered energy, or `kg_co2e`.

    No `accounts`: the whole cluster, with what was idle and what the system used.
    """

    accounts: tuple[str, ...] = ()
    period: Literal["month", "quarter", "year"] = "year"
    kwh: float = 0.0
    kg_co2e: float = 0.0


class Submit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`hpccarbon sbatch`: `estimate` is when it says what a job will cost, `max_delay_h` how long `--green` may delay
    one that names no `--max-delay`, `timeout_s` after how long it submits without having found anything out.
    """

    estimate: Literal["always", "terminal", "never"] = "always"
    max_delay_h: float = 12.0
    timeout_s: float = 2.0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that was decided about this site, checked once at load.

    `privacy` is who reads what: `group`, whoever may open the files; `own`, `aggregate` closes the rooms of the shared
    directory to all but their owner and `admin_group` (empty: the group they have), and writes each user an extract.
    """

    cluster: str = "cluster"
    privacy: Literal["group", "own"] = "group"
    admin_group: str = ""
    paths: Paths = Paths()
    daemon: Daemon = Daemon()
    meters: Meters = Meters()
    gpu: Gpu = Gpu()
    bmc: Bmc = Bmc()
    model: Model = Model()
    slurm: Slurm = Slurm()
    carbon: Carbon = Carbon()
    report: Report = Report()
    submit: Submit = Submit()
    budgets: dict[str, Budget] = {}
    retention: Retention = Retention()

    def state_dir(self, node: str) -> Path:
        """The node's own directory for the store."""
        return Path(self.paths.state_dir.replace("%n", node))

    def run_dir(self, node: str) -> Path:
        """The node's own directory for job files, pid and socket."""
        return Path(self.paths.run_dir.replace("%n", node))

    def root_dir(self, node: str) -> Path:
        """Below which the daemon reads kernel files: `/`, but for tests and containers."""
        return Path(self.daemon.root.replace("%n", node))

    def textfile(self, node: str) -> Path | None:
        """The file of the node's metrics; None: there is none."""
        return Path(self.daemon.textfile.replace("%n", node)) if self.daemon.textfile else None

    def zone(self) -> tzinfo:
        """The reader's zone, where days and months begin. Raises: ConfigError, if there is none of that name."""
        name = self.report.timezone
        if name == "UTC":
            return timezone.utc
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as err:
            raise ConfigError(f"report.timezone: no zone {name!r}; write an IANA name, e.g. Europe/Berlin") from err

    def shared(self, room: Literal["shards", "ledger", "jobs", "intensity", "imported", "habits", "extracts"]) -> Path:
        """A room of the shared directory."""
        return Path(self.paths.shared_dir) / room


def node_name(given: str | None = None) -> str:
    """The node's name as Slurm knows it: given, else SLURMD_NODENAME, else the short host name."""
    name = given or os.environ.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]
    if not _NAME.fullmatch(name):
        raise ConfigError(f"node name {name!r} cannot be used in a file name; use letters, digits, '.', '_', '-'")
    return name


def load(path: Path | None = None) -> Config:
    """Read the configuration: `path`, else $HPCCARBON_CONFIG, else /etc/hpccarbon/hpccarbon.toml, else defaults.

    Raises: ConfigError naming the file, the key and what is allowed. A path that was asked for must exist;
        the default one may be absent.
    """
    asked = path or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
    where = asked or DEFAULT_PATH
    try:
        text = where.read_bytes()
    except FileNotFoundError:
        if asked is None:
            return Config()
        raise ConfigError(f"config {where}: no such file (see docs/install.md for an example)") from None
    except OSError as err:
        raise ConfigError(f"config {where}: {err.strerror}") from err
    config = parse(text, str(where))
    if not config.paths.shared_dir.startswith(BESIDE):
        return config
    shared_dir = str(where.resolve().parent / config.paths.shared_dir.removeprefix(BESIDE))
    return msgspec.structs.replace(config, paths=msgspec.structs.replace(config.paths, shared_dir=shared_dir))


def parse(text: bytes | str, where: str = "config") -> Config:
    """A `Config` from TOML text. Raises: ConfigError naming `where`, the key and the reason."""
    try:
        config = msgspec.toml.decode(text, type=Config)
    except (msgspec.DecodeError, ValueError, RecursionError) as err:
        raise ConfigError(f"config {where}: {_explain(str(err))}") from err
    _check(config, where)
    return config


def _explain(message: str) -> str:
    """msgspec's message, with the nearest known key where one was mistyped."""
    found = re.search(r"unknown field `([^`]+)`(?: - at `\$\.?([^`]*)`)?", message)
    if not found:
        return message
    import difflib

    key, table = found.group(1), found.group(2) or ""
    known = [field.name for field in msgspec.structs.fields(_section(table))]
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key `{table + '.' if table else ''}{key}`; {hint}"


def _section(table: str) -> type[msgspec.Struct]:
    """The struct behind a table's path: `carbon.embodied`, `carbon.places[...].embodied`."""
    section: Any = Config
    for part in filter(None, table.split(".")):
        name = part.partition("[")[0]
        found: Any = next((field.type for field in msgspec.structs.fields(section) if field.name == name), section)
        inner = [one for one in get_args(found) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
        section = inner[0] if inner else found
    return cast("type[msgspec.Struct]", section)


def _check(config: Config, where: str) -> None:
    """What types cannot say. Raises ConfigError for the first rule broken."""
    daemon, carbon = config.daemon, config.carbon
    rules = (
        (bool(_NAME.fullmatch(config.cluster)), "cluster: use letters, digits, '.', '_', '-' (it names a directory)"),
        (0.1 <= daemon.interval_s <= 60, "daemon.interval_s: must lie between 0.1 and 60 s"),
        (10 <= daemon.seal_s <= 3600, "daemon.seal_s: must lie between 10 and 3600 s"),
        (1 <= daemon.seal_after_job_s <= 3600, "daemon.seal_after_job_s: must lie between 1 and 3600 s"),
        (
            0 <= config.retention.pack_days <= 3660 and 0 <= config.retention.keep_days <= 36600,
            "retention: pack_days must lie between 0 and 3660, keep_days between 0 and 36600",
        ),
        (
            not config.retention.keep_days or 0 < config.retention.pack_days <= config.retention.keep_days,
            "retention: keep_days removes what pack_days has packed; it must not be smaller",
        ),
        (1 <= daemon.keep_days <= 3660, "daemon.keep_days: must lie between 1 and 3660 days"),
        (
            daemon.store_limit_mb == 0 or 10 <= daemon.store_limit_mb <= 1_000_000,
            "daemon.store_limit_mb: must lie between 10 and 1000000 MB, or be 0 for no limit",
        ),
        (daemon.idle_power_w >= 0 and daemon.dram_idle_power_w >= 0, "daemon.idle_power_w: must not be negative"),
        (
            0 <= config.model.idle_power_w <= config.model.full_power_w or not config.model.full_power_w,
            "model: idle_power_w must lie between 0 and full_power_w",
        ),
        (
            0.01 <= config.gpu.timeout_s <= 10 and 0.1 <= config.gpu.start_timeout_s <= 60,
            "gpu: timeout_s must lie between 0.01 and 10 s, start_timeout_s between 0.1 and 60 s",
        ),
        (0 <= config.model.memory_w_per_gib <= 5, "model.memory_w_per_gib: must lie between 0 and 5 W"),
        *_bmc_rules(config.bmc),
        (carbon.pue == 0 or 1 <= carbon.pue <= 10, "carbon.pue: must lie between 1 and 10 (it is total / IT energy)"),
        (1 <= carbon.node_factor <= 10, "carbon.node_factor: must lie between 1 and 10"),
        *_carbon_rules(carbon),
        (0 < config.submit.max_delay_h <= 168, "submit.max_delay_h: must lie between 0 and 168 h"),
        (0.1 <= config.submit.timeout_s <= 60, "submit.timeout_s: must lie between 0.1 and 60 s"),
        *(
            (
                min(budget.kwh, budget.kg_co2e) >= 0 and (budget.kwh > 0) != (budget.kg_co2e > 0),
                f"budgets.{name}: give either kwh or kg_co2e, above 0",
            )
            for name, budget in config.budgets.items()
        ),
        (
            not daemon.textfile or (Path(daemon.textfile).is_absolute() and daemon.textfile.endswith(".prom")),
            "daemon.textfile: must be absolute and end in .prom (node_exporter reads no other)",
        ),
        (
            all(map(os.path.isabs, (config.paths.state_dir, config.paths.run_dir)))
            and config.paths.shared_dir.startswith(("/", BESIDE)),
            "paths: must be absolute",
        ),
        (
            not set(config.paths.shared_dir) & set("*?[]"),
            "paths.shared_dir: must not hold * ? [ or ] (the query engine takes them for patterns)",
        ),
    )
    for holds, message in rules:
        if not holds:
            raise ConfigError(f"config {where}: {message}")


def _carbon_rules(carbon: Carbon) -> list[tuple[bool, str]]:
    """The rules of `[carbon]`'s tables; what a zone is called is checked where the tables are, in carbon/zones."""
    market = carbon.market
    rules = [
        (
            not carbon.fixed_g_per_kwh or bool(carbon.fixed_source.strip()),
            "carbon.fixed_g_per_kwh: say where the figure is from in carbon.fixed_source",
        ),
        (0 <= carbon.fixed_g_per_kwh <= 5000, "carbon.fixed_g_per_kwh: must lie between 0 and 5000"),
        (
            all(re.fullmatch(r"\d{4}", year) and 1 <= pue <= 10 for year, pue in carbon.pue_of_year.items()),
            'carbon.pue_of_year: years and values between 1 and 10, as in "2025" = 1.31',
        ),
        (not carbon.pue_file or carbon.pue_file.startswith("/"), "carbon.pue_file: must be absolute"),
        (0 <= carbon.wue_l_per_kwh <= 100, "carbon.wue_l_per_kwh: must lie between 0 and 100"),
        (0 <= market.contract_share <= 1, "carbon.market.contract_share: must lie between 0 and 1"),
        (
            not market.contract_share or bool(market.source.strip()),
            "carbon.market.source: name the contract that contract_share stands on",
        ),
        *_embodied_rules(carbon.embodied, "carbon.embodied"),
    ]
    for name, place in carbon.places.items():
        table = f"carbon.places.{name}"
        rules += _embodied_rules(place.embodied or carbon.embodied, f"{table}.embodied")
        rules += [
            (bool(place.nodes or place.partitions), f"{table}: name its nodes or its partitions"),
            (place.pue == 0 or 1 <= place.pue <= 10, f"{table}.pue: must lie between 1 and 10"),
            (place.node_factor == 0 or 1 <= place.node_factor <= 10, f"{table}.node_factor: must lie between 1 and 10"),
        ]
    for name, provider in carbon.providers.items():
        rules.append(
            (0 < provider.timeout_s <= 600, f"carbon.providers.{name}.timeout_s: must lie between 0 and 600 s")
        )
    return rules


def _bmc_rules(bmc: Bmc) -> tuple[tuple[bool, str], ...]:
    redfish = bmc.kind == "redfish"
    return (
        (1 <= bmc.interval_s <= 60, "bmc.interval_s: must lie between 1 and 60 s"),
        (0.5 <= bmc.timeout_s <= 30, "bmc.timeout_s: must lie between 0.5 and 30 s"),
        (not redfish or bmc.url.startswith(("https://", "http://")), "bmc.url: redfish needs https://BMC"),
        (
            not redfish or bmc.insecure or bmc.url.startswith("https://"),
            "bmc.url: http:// sends the password in the clear; use https://, or say bmc.insecure = true",
        ),
        (
            not bmc.fingerprint or bool(re.fullmatch(r"[0-9A-Fa-f:]{64,95}", bmc.fingerprint)),
            "bmc.fingerprint: must be a SHA-256 in hexadecimal",
        ),
        (not (bmc.fingerprint and bmc.insecure), "bmc: fingerprint and insecure exclude each other"),
        (0 <= bmc.cipher <= 17, "bmc.cipher: must lie between 0 and 17"),
    )


def _embodied_rules(embodied: Embodied, table: str) -> list[tuple[bool, str]]:
    """The rules of one table of hardware."""
    figures = (embodied.node_kg, embodied.node_low_kg, embodied.node_high_kg)
    gpu_figures = (embodied.gpu_kg, embodied.gpu_low_kg, embodied.gpu_high_kg)
    given = any(figures) or any(gpu_figures) or bool(embodied.node_item) or bool(embodied.gpu_item)
    rules = [
        (0.5 <= embodied.life_years <= 30, f"{table}.life_years: must lie between 0.5 and 30"),
        (min(*figures, *gpu_figures) >= 0, f"{table}: kilograms must not be negative"),
        (
            not (embodied.node_kg or embodied.gpu_kg) or bool(embodied.source.strip()),
            f"{table}.source: say where node_kg and gpu_kg are from",
        ),
        (
            not given or embodied.node_cores > 0,
            f"{table}.node_cores: how many CPUs a node has to divide among its jobs",
        ),
        (embodied.node_gpus >= 0, f"{table}.node_gpus: must not be negative"),
    ]
    for name, (middle, low, high) in (("node", figures), ("gpu", gpu_figures)):
        rules.append(
            (not (low or high) or 0 < low <= middle <= high, f"{table}: {name}_low_kg <= {name}_kg <= {name}_high_kg")
        )
    return rules
