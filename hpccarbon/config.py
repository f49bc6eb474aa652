"""One TOML file becomes one frozen `Config`. Nothing else reads settings, and nothing here is read twice."""

from __future__ import annotations

import os
import re
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
    """Where things lie."""

    state_dir: str = "/var/lib/hpccarbon"
    """Node-local disk for the daemon's store, never shared; `%n` becomes the node's name."""
    run_dir: str = "/run/hpccarbon"
    """Node-local and root's: job files, socket, pid; `%n` becomes the node's name. The hooks' `hooks.env` says the
    same."""
    shared_dir: str = "/var/lib/hpccarbon/shared"
    """Read by everyone who reports: `shards/`, `ledger/`, `jobs/` and `intensity/` lie below it. `%c/` at its head is
    the directory of the file that says so."""


class Daemon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node daemon's rhythm and rights."""

    root: str = "/"
    """Below it lie the kernel's files: another one for tests and containers; `%n` becomes the node's name."""
    cpus: int = 0
    """How many CPUs Slurm hands out on a node (CPUs= in slurm.conf); 0: those the kernel runs on."""
    interval_s: float = 1.0
    """A tick: how often meters and jobs are read, 0.1 to 60 s."""
    seal_s: int = 900
    """How often the store's rows become a shard, 10 to 3600 s."""
    seal_after_job_s: int = 10
    """How soon after a job's end they do, 1 to 3600 s."""
    seal_user: str = ""
    """Whom the sealing child becomes before it touches the shared file system; empty: it stays who it is."""
    keep_days: int = 7
    """How long sealed rows stay in the store, 1 to 3660 days."""
    store_limit_mb: int = 0
    """What all rows may take in the store: beyond it the oldest hours go, sealed ones first (docs/reliability.md); 0:
    no limit."""
    idle_power_w: float = 0.0
    """Static power of all CPU packages together; 0: learned while the node is idle (docs/method.md)."""
    dram_idle_power_w: float = 0.0
    """The same of the memory; 0: learned."""
    weights: Literal["cpu_time", "cycles", "instructions", "llc_misses", "cpu_clock"] = "cpu_time"
    """What dynamic energy goes by: CPU time, or a hardware counter of each job (docs/method.md, "Weights")."""
    steps: bool = False
    """Whether each job's energy is divided among its steps too (docs/reports.md, "Steps")."""
    textfile: str = ""
    """The file that node_exporter's textfile collector reads (docs/dashboards.md), absolute and ending in `.prom`; `%n`
    becomes the node's name. Empty: none is written."""


class Meters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which meters run. Order does not matter: what nests is never added twice."""

    enabled: tuple[str, ...] = ("rapl", "nvml", "amd", "cray", "bmc", "hwmon", "model")
    """The meters to look for on each node (docs/meters.md)."""


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long GPU drivers may take. One that takes longer leaves a gap in the GPUs' energy; the CPUs' goes on."""

    timeout_s: float = 0.1
    """How long the readings of a tick may take, 0.01 to 10 s."""
    start_timeout_s: float = 5.0
    """How long the first look may take, 0.1 to 60 s."""


class Bmc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node's management controller, asked for the power of the whole node.

    A certificate is checked against the system's authorities, `ca_file`, or `fingerprint`.
    """

    kind: Literal["", "redfish", "ipmi"] = ""
    """How it is asked; empty: not at all."""
    url: str = ""
    """Where Redfish answers, https://BMC; `%n` becomes the node's name. `redfish` needs it."""
    host: str = ""
    """The BMC that `ipmi` asks over the network; `%n` becomes the node's name. Empty: the node's own, locally."""
    credentials: str = "/etc/hpccarbon/bmc.credentials"
    """A file of root's (mode 600) with the lines `user = NAME` and `password = SECRET`."""
    interval_s: float = 10.0
    """How often it is asked, 1 to 60 s."""
    timeout_s: float = 5.0
    """How long an answer may take, 0.5 to 30 s; the tick does not wait for it."""
    auth: Literal["session", "basic"] = "session"
    """Redfish: one session for all questions, or name and password with each; without a session service the latter."""
    ca_file: str = ""
    """The authority that signed the BMC's certificate; empty: the system's."""
    fingerprint: str = ""
    """SHA-256 of the certificate, for a self-signed one."""
    insecure: bool = False
    """Whether no certificate is checked and http:// is allowed."""
    chassis: str = ""
    """The Redfish Id of the chassis, where the one that is chosen is wrong."""
    cipher: int = 0
    """The IPMI cipher suite, 1 to 17; 0: ipmitool's own."""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The site's own figures for nodes without a sensor."""

    idle_power_w: float = 0.0
    """All CPUs together, idle; 0: from the table of CPU families (docs/method.md, "Nodes without a sensor")."""
    full_power_w: float = 0.0
    """The same at full load; 0: from the table."""
    memory_w_per_gib: float = 0.0
    """Models the memory where the CPUs are measured and the memory is not, 0 to 5 W; 0: it is left out."""


class Slurm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to ask Slurm."""

    conf: str = ""
    """Exported as SLURM_CONF; empty: Slurm's commands find their own."""
    bin_dir: str = ""
    """Precedes PATH; empty: PATH as it is."""
    timeout_s: float = 20.0
    """Bounds every command."""
    accounting: Literal["auto", "sacct", "pyslurm", "none"] = "auto"
    """Where job records come from: `auto` takes sacct, or pyslurm where only that is there (never tried)."""
    admin_comment: bool = False
    """Whether `aggregate --watch` writes a job's summary into its AdminComment (docs/reports.md)."""


class Embodied(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What making the hardware emitted, kg CO2e: the site's own figures, or rows of the packaged table (`*_item`).

    A range of 0 to 0 means x/÷ 1.6 for nodes, x/÷ 2.5 for GPUs. Hours that nobody used are `unallocated`.
    """

    node_kg: float = 0.0
    """A node without its GPUs."""
    node_low_kg: float = 0.0
    """The lower end of what a node may be."""
    node_high_kg: float = 0.0
    """The upper end."""
    node_item: str = ""
    """A row of the packaged table in place of the three (docs/carbon.md)."""
    gpu_kg: float = 0.0
    """One GPU."""
    gpu_low_kg: float = 0.0
    """The lower end of what a GPU may be."""
    gpu_high_kg: float = 0.0
    """The upper end."""
    gpu_item: str = ""
    """A row of the packaged table in place of the three."""
    node_cores: int = 0
    """What a node has to divide among its jobs, as Slurm counts CPUs."""
    node_gpus: int = 0
    """GPUs of a node; 0: none."""
    life_years: float = 5.0
    """The time that the kilograms are spread over, 0.5 to 30 years."""
    source: str = ""
    """Where `node_kg` and `gpu_kg` are from: no figure without it."""


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the cluster that stands elsewhere, or behind another meter: what differs from `[carbon]` there."""

    nodes: str = ""
    """The nodes that stand there, in Slurm's hostlist notation; they go before `partitions`."""
    partitions: tuple[str, ...] = ()
    """The partitions that run there: names, or patterns such as `gpu*`."""
    zone: str = ""
    """The grid zone there; empty: as in `[carbon]`."""
    pue: float = 0.0
    """Total / IT energy of the building there; 0: as in `[carbon]`."""
    node_factor: float = 0.0
    """Energy at the wall / energy of the meters there; 0: as in `[carbon]`."""
    embodied: Embodied | None = None
    """The hardware there; none: as in `[carbon.embodied]`."""


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to ask one service. A key stands in a file or in an environment variable, never here."""

    base_url: str = ""
    """Another address than the service's own; `site_http` has none of its own and needs it."""
    key_file: str = ""
    """The file with the key, not readable by everybody."""
    key_env: str = ""
    """The variable with the key; empty: HPCCARBON_NAME_KEY."""
    user: str = ""
    """The account's name, where the service wants one beside the key (WattTime)."""
    zones: dict[str, str] = {}
    """The service's own names for our zones where they differ: a region, an EIC code, a postcode."""
    query: str = ""
    """`site_http`: what Prometheus is asked; empty: the address answers a CSV. WattTime: the signal (co2_moer)."""
    basis: Literal["", "lifecycle", "direct"] = ""
    """What a site's own service (`site_http`) answers with; the others say it themselves."""
    kind: Literal["average", "marginal"] = "average"
    """The same: of all generation, or of the next kWh."""
    timeout_s: float = 30.0
    """How long an answer may take, up to 600 s."""


class Market(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contracts behind the electricity (GHG Protocol scope 2, market-based)."""

    contract_share: float = 0.0
    """The part of the energy that contracts cover, 0 to 1."""
    contract_g_per_kwh: float = 0.0
    """Their intensity."""
    residual_g_per_kwh: float = 0.0
    """The supplier's or country's residual mix for the rest: it is not the grid mix and has no default."""
    source: str = ""
    """The contract that this stands on: no share without it."""


class Carbon(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What turns energy into grams."""

    zone: str = ""
    """The grid zone of the machine room (`hpccarbon intensity zones`)."""
    basis: Literal["lifecycle", "direct"] = "lifecycle"
    """Which emissions count: over the life cycle of the plants, or from their chimneys alone. Never mixed."""
    pue: float = 0.0
    """Total / IT energy of the building; 0: unknown, and every report then says so."""
    pue_of_year: dict[str, float] = {}
    """A year's own ("2025" = 1.31), so that an older year keeps it; goes before `pue`."""
    pue_file: str = ""
    """Where the building is metered: a CSV with the columns `start` and `pue`, an hour a row; goes before both."""
    node_factor: float = 1.0
    """What the meters inside the node do not see (power supply losses, fans, disks): energy at the wall / energy of the
    meters; 1.0 on nodes whose BMC is read."""
    comparisons: bool = True
    """Whether reports compare grams with kilometres by car."""
    yearly: Literal["production", "consumption"] = "production"
    """Which packaged yearly value goes first: what a zone produced, or what it consumed (imports traced; under the
    ODbL)."""
    provider: str = ""
    """The service whose hourly values are preferred."""
    fixed_g_per_kwh: float = 0.0
    """Replaces every series: a site's own plant; 0: none."""
    fixed_source: str = ""
    """Where that figure is from: none without it."""
    wue_l_per_kwh: float = 0.0
    """Litres of water per kWh of the nodes; 0: not said."""
    places: dict[str, Place] = {}
    providers: dict[str, Provider] = {}
    embodied: Embodied = Embodied()
    market: Market = Market()


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How reports speak."""

    timezone: str = "UTC"
    """Where the reader's days and months begin (IANA name). The ledger is by whole hours of UTC: in a zone of half
    hours the hour at midnight counts to the day it began in."""


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long raw shards stay once the ledger holds them (`hpccarbon retention`)."""

    pack_days: int = 14
    """After so many days a day's shards become one file; 0: never."""
    keep_days: int = 0
    """After so many that file is removed, if the ledger holds it; 0: never."""


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What some accounts may use in a calendar period of the reader's zone: either `kwh` or `kg_co2e`."""

    accounts: tuple[str, ...] = ()
    """The accounts it is for; none: the whole cluster, with what was idle and what the system used."""
    period: Literal["month", "quarter", "year"] = "year"
    """How long it is for."""
    kwh: float = 0.0
    """Metered energy; 0: this budget counts grams."""
    kg_co2e: float = 0.0
    """Carbon; 0: this budget counts energy."""


class Submit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When `hpccarbon sbatch` speaks, and how long it may hold a job up."""

    estimate: Literal["always", "terminal", "never"] = "always"
    """When it says what a job will cost: always, on a terminal, never."""
    max_delay_h: float = 12.0
    """How long `--green` may delay a job that names no `--max-delay`, up to 168 h."""
    timeout_s: float = 2.0
    """After how long it submits without having found anything out, 0.1 to 60 s."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that was decided about this site, checked once at load."""

    cluster: str = "cluster"
    """ClusterName of slurm.conf; it names the directories of shards, ledger and job records."""
    privacy: Literal["group", "own"] = "group"
    """Who reads what: `group`, whoever may open the files; `own`, `aggregate` closes the rooms of the shared directory
    to all but their owner and `admin_group`, and writes each user an extract (docs/security.md)."""
    admin_group: str = ""
    """Who reads everything where privacy is `own`; empty: the group that the rooms have."""
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
    name = given or os.environ.get("SLURMD_NODENAME") or os.uname().nodename.split(".")[0]
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
