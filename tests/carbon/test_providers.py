"""Every service against a server on a real socket that speaks its documented format, and at least ten faults of each.

Whatever a service does: no crash but an error that has a name, and never a value that it did not give.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from hpccarbon.carbon import providers, series
from hpccarbon.carbon.providers.base import Fetched
from hpccarbon.carbon.providers.http import Malformed, ProviderError
from hpccarbon.config import Carbon, Provider
from hpccarbon.errors import CarbonError, ConfigError
from tests.carbon.server import Answer, Asked, Server

NOW = datetime(2026, 11, 20, 12, 30, tzinfo=timezone.utc)
SINCE = datetime(2026, 11, 20, 9, tzinfo=timezone.utc)
UNTIL = datetime(2026, 11, 20, 11, tzinfo=timezone.utc)
BASE = int(SINCE.timestamp())
KEY = "k3y-of-the-site"


def iso(at: int, form: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime(form)


class Case(NamedTuple):
    """A service: what it answers for 9 to 11 h (outside too, as services do) and the hours that must come of it."""

    name: str
    zone: str
    basis: str
    good: Callable[[], Any]
    hours: dict[int, float]
    given: Mapping[str, Any] = MappingProxyType({})
    list_at: Callable[[Any], list[Any]] = lambda reply: []
    value_at: tuple[str, ...] = ()
    wrong_zone: Callable[[Any], None] | None = None
    secret_at: str = ""


def em() -> Any:
    rows = [
        {"zone": "DE", "carbonIntensity": value, "datetime": iso(BASE + 3600 * at, "%Y-%m-%dT%H:%M:%S.000Z"),
         "updatedAt": "2026-11-20T12:45:11.204Z", "emissionFactorType": "lifecycle", "isEstimated": at == 1,
         "estimationMethod": None, "temporalGranularity": "hourly"}
        for at, value in ((-1, 371), (0, 348), (1, 340), (2, 300))
    ]  # fmt: skip
    return {"zone": "DE", "history": rows, "temporalGranularity": "hourly"}


def neso_rows(form: str = "%Y-%m-%dT%H:%MZ") -> list[dict[str, Any]]:
    return [
        {"from": iso(BASE + 1800 * at, form), "to": iso(BASE + 1800 * (at + 1), form),
         "intensity": {"forecast": 170 + at, "actual": 160 + at, "index": "moderate"}}
        for at in range(-1, 4)
    ]  # fmt: skip


def region() -> Any:
    rows = [{**row, "intensity": {"forecast": row["intensity"]["forecast"], "index": "low"}} for row in neso_rows()]
    return {"data": {"regionid": 13, "dnoregion": "UKPN London", "shortname": "London", "data": rows}}


def charts() -> Any:
    stamps = [BASE + 900 * at for at in range(-8, 12)]
    return {"unix_seconds": stamps, "co2eq": [400.0 + at for at in range(20)], "co2eq_forecast": [None] * 20,
            "deprecated": False}  # fmt: skip


def watt() -> Any:
    rows = [{"point_time": iso(BASE + 300 * at, "%Y-%m-%dT%H:%M:%S+00:00"), "value": 900.0} for at in range(25)]
    meta = {"region": "CAISO_NORTH", "signal_type": "co2_moer", "model": {"date": "2026-03-01"},
            "units": "lbs_co2_per_mwh", "data_point_period_seconds": 300, "warnings": []}  # fmt: skip
    return {"data": rows, "meta": meta}


def rte() -> Any:
    rows = [
        {"perimetre": "France", "date_heure": iso(BASE + 900 * at, "%Y-%m-%dT%H:%M:%S+00:00"),
         "taux_co2": 20 + at if at < 6 else None}
        for at in range(8)
    ]  # fmt: skip
    return {"total_count": 8, "results": rows}


def matrix() -> Any:
    values = [[BASE, "211.4"], [BASE + 3600, "NaN"]]
    found = [{"metric": {"__name__": "x", "zone": "campus"}, "values": values}]
    return {"status": "success", "data": {"resultType": "matrix", "result": found}}


def set_zone(*path: str) -> Callable[[Any], None]:
    def change(reply: Any) -> None:
        for name in path[:-1]:
            reply = reply[int(name) if name.isdigit() else name]
        reply[path[-1]] = 7 if path[-1] == "regionid" else "ELSEWHERE"

    return change


PROMETHEUS: dict[str, Any] = {"query": "site_grid_intensity_gco2e_per_kwh", "basis": "direct"}
CASES = [
    Case("electricity_maps", "DE", "lifecycle", em, {0: 348, 1: 340}, {}, lambda reply: reply["history"],
         ("carbonIntensity",), set_zone("zone"), "auth-token"),
    Case("neso_national", "GB", "direct", lambda: {"data": neso_rows()}, {0: 160.5, 1: 162.5}, {},
         lambda reply: reply["data"], ("intensity", "actual")),
    Case("neso_regional", "GB-NESO-13", "direct", region, {0: 170.5, 1: 172.5}, {},
         lambda reply: reply["data"]["data"], ("intensity", "forecast"), set_zone("data", "regionid")),
    Case("energy_charts", "DE", "lifecycle", charts, {0: 409.5, 1: 413.5}),
    Case("watttime", "CAISO_NORTH", "direct", watt, {0: 900 * 0.45359237, 1: 900 * 0.45359237}, {"user": "site"},
         lambda reply: reply["data"], ("value",), set_zone("meta", "region"), "authorization"),
    Case("rte_eco2mix", "FR", "direct", rte, {0: 21.5, 1: 24.5}, {}, lambda reply: reply["results"], ("taux_co2",)),
    Case("site_http", "campus", "direct", matrix, {0: 211.4}, PROMETHEUS,
         lambda reply: reply["data"]["result"][0]["values"], (), set_zone("data", "result", "0", "metric", "zone"),
         "authorization"),
]  # fmt: skip
each_service = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


class Run:
    """One fetch against a server: what came of it, how long was slept, what the server saw."""

    def __init__(
        self,
        case: Case,
        answer: Callable[[Asked], Answer],
        monkeypatch: pytest.MonkeyPatch,
        timeout_s: float = 5.0,
        call: str = "fetch",
    ) -> None:
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("SITE_KEY", KEY)
        self.slept: list[float] = []
        self.result: Fetched | None = None
        self.error: CarbonError | ConfigError | None = None

        def with_login(request: Asked) -> Answer:
            if case.name == "watttime" and request.path == "/login":
                return Answer(b'{"token": "t0ken"}')
            return answer(request)

        with Server(with_login).running() as server:
            given = Provider(base_url=server.url, key_env="SITE_KEY", timeout_s=timeout_s, **case.given)
            settings = Carbon(providers={case.name: given})
            service = providers.make(case.name, settings, case.basis, NOW, self.slept.append)  # type: ignore[arg-type]
            try:
                if call == "fetch":
                    self.result = service.fetch(case.zone, SINCE, UNTIL)
                else:
                    self.result = service.forecast(case.zone, NOW)
            except (CarbonError, ConfigError) as err:
                self.error = err
        self.asked = [request for request in server.asked if request.path != "/login"]

    @property
    def hours(self) -> dict[int, float]:
        assert self.result is not None, self.error
        made = series.to_hours(self.result.points)
        return {(hour - BASE) // 3600: value for hour, (value, _, _) in made.items()}

    def failed(self, *words: str) -> None:
        assert self.error is not None, f"no error but {self.result}"
        for word in words:
            assert word in str(self.error), str(self.error)
        assert KEY not in str(self.error) and "t0ken" not in str(self.error)


def body(reply: Any) -> bytes:
    return json.dumps(reply).encode()


def serve(reply: Any) -> Callable[[Asked], Answer]:
    return lambda _: Answer(reply if isinstance(reply, bytes) else body(reply))


@each_service
def test_a_good_answer_gives_the_hours_and_says_where_they_are_from(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(case, serve(case.good()), monkeypatch)
    assert run.hours == pytest.approx(case.hours)
    assert run.result is not None
    origin = run.result.origin
    assert origin.basis == case.basis and origin.source and origin.licence and origin.provider == case.name
    assert origin.signal == ("marginal" if case.name == "watttime" else "average")
    assert all(request.headers["user-agent"].startswith("hpccarbon/") for request in run.asked)
    for request in run.asked:
        assert KEY not in request.path
        if case.secret_at:
            assert ("t0ken" if case.name == "watttime" else KEY) in request.headers[case.secret_at]
        else:
            # A service that wants no key gets none, but where the site gave it one of its own.
            assert case.name == "rte_eco2mix" or KEY not in str(request)


@each_service
@pytest.mark.parametrize("status", [401, 403, 400])
def test_a_refusal_is_named_at_once(case: Case, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "zone <b>\x1b[31m" + "x" * 5000
    run = Run(case, lambda _: Answer(body({"error": said}), status), monkeypatch)
    run.failed(str(status))
    assert len(str(run.error)) < 700 and "\x1b" not in str(run.error)
    assert len(run.asked) == (2 if case.name == "watttime" and status == 401 else 1) or case.name == "watttime"


@each_service
def test_429_waits_as_it_is_told_and_goes_on(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: Asked) -> Answer:
        if request.number == (1 if case.name == "watttime" else 0):
            return Answer(b'{"message": "Too many requests"}', 429, {"Retry-After": "7"})
        return Answer(body(case.good()))

    run = Run(case, answer, monkeypatch)
    assert run.hours == pytest.approx(case.hours) and 7.0 in run.slept


@each_service
def test_429_for_an_hour_is_not_waited_for(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(case, lambda _: Answer(b"", 429, {"Retry-After": "3600"}), monkeypatch)
    run.failed("wait 3600 s")
    assert max(run.slept, default=0) <= 120


@each_service
def test_500_is_tried_again_and_then_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(case, lambda _: Answer(b'{"error": {"code": "500", "message": "internal"}}', 500), monkeypatch)
    run.failed("500", "5 times")
    waits = [wait for wait in run.slept if wait.is_integer()]  # the others keep the distance between requests
    assert waits == [1, 2, 4, 8] and len(run.asked) == 5


@each_service
def test_silence_is_a_time_out_and_not_the_end(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    first = 1 if case.name == "watttime" else 0

    def answer(request: Asked) -> Answer:
        return Answer(body(case.good()), delay_s=0.6 if request.number == first else 0)

    run = Run(case, answer, monkeypatch, timeout_s=0.3)
    assert run.hours == pytest.approx(case.hours) and len(run.asked) == 2


@each_service
def test_a_cut_answer_is_never_taken_for_a_whole_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(case, lambda _: Answer(body(case.good()), cut=True), monkeypatch).failed("cut its answer short")


@each_service
@pytest.mark.parametrize(
    "reply", [b"<html>maintenance</html>", b"", b"{", b"[" * 100_000, b"\xff\xfe\x00", b"nul"], ids=range(6)
)
def test_what_is_no_json_is_named(case: Case, reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(case, serve(reply), monkeypatch)
    assert isinstance(run.error, Malformed), run.error
    run.failed("did not answer JSON")


@each_service
@pytest.mark.parametrize(
    "reply",
    [None, 7, "word", [], [1], {}, {"data": None}, {"data": {"data": 3}}, {"data": [None]}, {"status": "error"},
     {"unix_seconds": [1], "co2eq": [], "co2eq_forecast": []}, {"results": [{"x": 1}]}, {"history": [{}]}],
    ids=str,
)  # fmt: skip
def test_json_of_another_shape_gives_no_value(case: Case, reply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(case, serve(reply), monkeypatch)
    assert run.error is not None or (run.result is not None and run.result.points == [])
    assert run.error is None or isinstance(run.error, ProviderError)


@each_service
def test_nothing_is_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = case.good()
    if case.name == "energy_charts":
        reply |= {"unix_seconds": [], "co2eq": [], "co2eq_forecast": []}
    elif case.name == "site_http":
        reply["data"]["result"] = []
    else:
        case.list_at(reply).clear()
    run = Run(case, serve(reply), monkeypatch)
    assert run.result is not None and run.result.points == []


@each_service
def test_nulls_are_not_known_and_never_zero(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = case.good()
    if case.name == "energy_charts":
        reply["co2eq"] = [None] * len(reply["co2eq"])
    elif case.name == "site_http":
        reply["data"]["result"][0]["values"] = [[BASE, "NaN"], [BASE + 3600, "+Inf"]]
    else:
        for row in case.list_at(reply):
            inner = row
            for name in case.value_at[:-1]:
                inner = inner[name]
            inner[case.value_at[-1]] = None
            if case.name == "neso_national":
                inner["forecast"] = None
    run = Run(case, serve(reply), monkeypatch)
    assert run.result is not None and run.result.points == []


@each_service
def test_another_zone_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.wrong_zone is not None:
        reply = case.good()
        case.wrong_zone(reply)
        run = Run(case, serve(reply), monkeypatch)
        assert isinstance(run.error, Malformed)
        run.failed("answered for" if case.name != "site_http" else "the series is of") if case.name not in (
            "watttime",
        ) else run.failed("ELSEWHERE")
    elif case.name in ("neso_national", "rte_eco2mix"):
        Run(case._replace(zone="PL"), serve(case.good()), monkeypatch).failed("alone, not PL")
    else:  # the reply names no country: a wrong one is answered with 422
        said = {"detail": [{"loc": ["query", "country"], "msg": "value is not a valid enumeration member"}]}
        run = Run(case, lambda _: Answer(body(said), 422), monkeypatch)
        run.failed("422", "enumeration member")


@each_service
def test_what_lies_outside_of_the_span_is_left_out(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that answers for the future only, or for another day, brought nothing."""
    text = json.dumps(case.good()).replace("2026-11-20T", "2026-12-24T")
    for at in range(-8, 13):
        text = text.replace(str(BASE + 900 * at), str(BASE + 900 * at + 34 * 86400))
    run = Run(case, serve(text.encode()), monkeypatch)
    assert run.result is not None and run.result.points == []


@each_service
def test_hours_that_come_twice_count_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = case.good()
    if case.name == "energy_charts":
        for name in ("unix_seconds", "co2eq", "co2eq_forecast"):
            reply[name] += reply[name]
    else:
        rows = case.list_at(reply)
        rows += copy.deepcopy(rows)
        rows.reverse()
        if "total_count" in reply:
            reply["total_count"] *= 2
    assert Run(case, serve(reply), monkeypatch).hours == pytest.approx(case.hours)


@each_service
@pytest.mark.parametrize("value", [-1, 1e9, "348", True, [1], {"a": 1}], ids=str)
def test_a_value_that_is_none_is_refused(case: Case, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = case.good()
    if case.name == "energy_charts":
        reply["co2eq"][9] = value
    elif case.name == "site_http":
        if value in ("348", True):
            pytest.skip("Prometheus writes numbers as strings")
        reply["data"]["result"][0]["values"][0][1] = value if isinstance(value, (list, dict)) else str(value)
    else:
        inner = case.list_at(reply)[1]
        for name in case.value_at[:-1]:
            inner = inner[name]
        inner[case.value_at[-1]] = value
    assert isinstance(Run(case, serve(reply), monkeypatch).error, Malformed)


@each_service
def test_a_redirect_to_another_place_is_not_followed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(lambda _: Answer(body(case.good()))).running() as other:
        to = f"http://localhost:{urlsplit(other.url).port}/"
        run = Run(case, lambda _: Answer(b"", 302, {"Location": to}), monkeypatch)
        run.failed("redirects to another place")
        assert other.asked == []


@each_service
def test_a_server_that_is_not_there_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "*")
    given = Provider(base_url="http://127.0.0.1:9", key_env="SITE_KEY", **case.given)
    slept: list[float] = []
    service = providers.make(case.name, Carbon(providers={case.name: given}), case.basis, NOW, slept.append)  # type: ignore[arg-type]
    with pytest.raises(ProviderError, match=r"127\.0\.0\.1"):
        service.fetch(case.zone, SINCE, UNTIL)


@each_service
def test_a_key_is_never_sent_in_the_clear(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if not case.secret_at:
        pytest.skip("this service takes no key")
    monkeypatch.setenv("SITE_KEY", KEY)
    given = Provider(base_url="http://service.invalid/api", key_env="SITE_KEY", **case.given)
    service = providers.make(case.name, Carbon(providers={case.name: given}), case.basis, NOW)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="https only"):
        service.fetch(case.zone, SINCE, UNTIL)


# ---- what only one service does ------------------------------------------------------------------------------------


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def test_electricity_maps_asks_for_ten_days_at_once_and_by_its_own_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("electricity_maps")._replace(zone="berlin")

    def answer(request: Asked) -> Answer:
        assert request.path == "/carbon-intensity/past-range" and request.query["disableCallerLookup"] == "true"
        start = int(datetime.fromisoformat(request.query["start"].replace("Z", "+00:00")).timestamp())
        end = int(datetime.fromisoformat(request.query["end"].replace("Z", "+00:00")).timestamp())
        assert end - start <= 10 * 86400
        rows = [{"zone": "DE", "carbonIntensity": 300, "datetime": iso(at)} for at in range(start, end, 3600)]
        return Answer(body({"zone": "DE", "data": rows, "temporalGranularity": "hourly"}))

    monkeypatch.setenv("SITE_KEY", KEY)
    with Server(answer).running() as server:
        given = Provider(base_url=server.url, key_env="SITE_KEY", zones={"berlin": "DE"})
        service = providers.make(case.name, Carbon(providers={case.name: given}), "lifecycle", NOW)
        found = service.fetch("berlin", NOW - timedelta(days=25), NOW)
    assert len(server.asked) == 3
    assert len(series.to_hours(found.points)) in (600, 601)


def test_electricity_maps_free_plan_is_told_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_KEY", KEY)
    with Server(lambda _: Answer(b'{"error": "Request unauthorized for zoneKey"}', 403)).running() as server:
        given = Provider(base_url=server.url, key_env="SITE_KEY")
        service = providers.make("electricity_maps", Carbon(providers={"electricity_maps": given}), "lifecycle", NOW)
        with pytest.raises(ProviderError, match="last 24 hours only: --since 24h"):
            service.fetch("DE", NOW - timedelta(days=2), NOW)


def test_neso_takes_the_actual_and_labels_what_is_only_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = neso_rows()
    rows[3]["intensity"]["actual"] = rows[4]["intensity"]["actual"] = None
    run = Run(case_of("neso_national"), serve({"data": rows}), monkeypatch)
    assert run.result is not None
    assert [point.kind for point in run.result.points] == ["measured", "measured", "forecast", "forecast"]


def test_a_regions_data_may_be_a_list_or_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("neso_regional")
    reply = case.good()
    as_list = {"data": [reply["data"]]}
    assert Run(case, serve(as_list), monkeypatch).hours == pytest.approx(case.hours)
    by_postcode = case._replace(given={"zones": {"lab": "OX11 0AB"}}, zone="lab")
    reply["data"]["postcode"] = "OX11"
    run = Run(by_postcode, serve(reply), monkeypatch)
    assert run.asked[0].path.endswith("/postcode/OX11") and run.hours == pytest.approx(case.hours)


def test_watttime_logs_in_again_when_its_token_has_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    logins: list[str] = []

    def answer(request: Asked) -> Answer:
        if request.path == "/login":
            logins.append(request.headers["authorization"])
            return Answer(body({"token": f"t{len(logins)}"}))
        if request.headers["authorization"] == "Bearer t1":
            return Answer(b'{"error": "Unauthorized"}', 401)
        return Answer(body(watt()))

    monkeypatch.setenv("SITE_KEY", KEY)
    with Server(answer).running() as server:
        given = Provider(base_url=server.url, key_env="SITE_KEY", user="me")
        service = providers.make("watttime", Carbon(providers={"watttime": given}), "direct", NOW)
        with pytest.raises(ProviderError, match="401"):
            service.fetch("CAISO_NORTH", SINCE, UNTIL)
        assert len(service.fetch("CAISO_NORTH", SINCE, UNTIL).points) == 24
    assert len(logins) == 2 and logins[0].startswith("Basic ")


def test_watttime_states_its_model_and_refuses_another_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(case_of("watttime"), serve(watt()), monkeypatch)
    assert run.result is not None and run.result.origin.edition == "2026-03-01"
    reply = watt()
    reply["meta"]["units"] = "g_per_kwh"
    Run(case_of("watttime"), serve(reply), monkeypatch).failed("units")
    reply = watt()
    reply["meta"]["warnings"] = [{"type": "X", "message": "old model"}]
    warned = Run(case_of("watttime"), serve(reply), monkeypatch)
    assert warned.result is not None and warned.result.notes == ("watttime warns: old model",)


def test_watttimes_average_signal_is_an_average(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = watt()
    reply["meta"]["signal_type"] = "co2_aoer"
    case = case_of("watttime")._replace(given={"user": "site", "query": "co2_aoer"})
    run = Run(case, serve(reply), monkeypatch)
    assert run.result is not None and run.result.origin.signal == "average"
    assert run.asked[0].query["signal_type"] == "co2_aoer"
    with pytest.raises(ConfigError, match="co2_moer"):
        given = Provider(user="u", key_env="SITE_KEY", query="health")
        providers.make("watttime", Carbon(providers={"watttime": given}), "direct", NOW)


def test_rte_reads_every_page_and_half_hours_of_the_consolidated_set(monkeypatch: pytest.MonkeyPatch) -> None:
    first = NOW - timedelta(days=5)
    rows = [
        {"date_heure": (first + timedelta(minutes=15 * at)).isoformat(), "taux_co2": 30} for at in range(4 * 24 * 3)
    ]

    def answer(request: Asked) -> Answer:
        if "cons-def" in request.path:
            begin = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
            old = [
                {"date_heure": (begin + timedelta(minutes=15 * at)).isoformat(), "taux_co2": None if at % 2 else 18}
                for at in range(8)
            ]
            return Answer(body(old))
        offset, limit = int(request.query["offset"]), int(request.query["limit"])
        assert limit <= 100
        return Answer(body({"total_count": len(rows), "results": rows[offset : offset + limit]}))

    with Server(answer).running() as server:
        settings = Carbon(providers={"rte_eco2mix": Provider(base_url=server.url)})
        service = providers.make("rte_eco2mix", settings, "direct", NOW)
        recent = service.fetch("FR", first, NOW)
        old = service.fetch("FR", datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc))
    assert len(recent.points) == len(rows)
    made = series.to_hours(old.points)
    assert [covered for _, covered, _ in made.values()] == [3600, 3600] and old.points[0].kind == "measured"


def test_the_sites_csv_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "start,zone,intensity_gco2e_per_kwh,basis,method,kind\n"
        "2026-11-20T09:00:00Z,campus,211.4,direct,average,actual\n"
        "2026-11-20T10:00:00Z,campus,,direct,average,actual\n"
        "2026-11-20T11:00:00+01:00,other,5,direct,average,actual\n"
    )
    case = case_of("site_http")._replace(given={"basis": "direct"})
    assert Run(case, serve(text.encode()), monkeypatch).hours == {0: 211.4}
    for wrong, words in (
        (text.replace("09:00:00Z", "09:00:00"), "no time with Z or an offset"),
        (text.replace("211.4", "much"), "row 2"),
        (text.replace("direct", "lifecycle"), "row 2: basis"),
        (text.replace("average", "marginal"), "row 2: method"),
        (text.replace("intensity_", ""), "no column intensity_gco2e_per_kwh"),
        (text + "2026-11-20T09:00:00Z,campus,5,direct,average,actual\n", "a second value"),
        (text.replace("actual", "guess"), "kind 'guess'"),
        ("x" * 140_000, "is no CSV"),
    ):
        Run(case, serve(wrong.encode()), monkeypatch).failed(words)


def test_prometheus_several_series_are_an_error_and_long_spans_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = matrix()
    reply["data"]["result"] *= 2
    Run(case_of("site_http"), serve(reply), monkeypatch).failed("2 series")

    def answer(request: Asked) -> Answer:
        start, end = (datetime.fromisoformat(request.query[name].replace("Z", "+00:00")) for name in ("start", "end"))
        assert (end - start).total_seconds() / int(request.query["step"]) <= 11_000
        return Answer(body({"status": "success", "data": {"resultType": "matrix", "result": []}}))

    with Server(answer).running() as server:
        given = Provider(base_url=server.url, **PROMETHEUS)
        service = providers.make("site_http", Carbon(providers={"site_http": given}), "direct", NOW)
        assert service.fetch("campus", NOW - timedelta(days=1000), NOW).points == []
    assert len(server.asked) == 3


FORECASTS: dict[str, Any] = {
    "electricity_maps": {
        "zone": "DE",
        "forecast": [{"carbonIntensity": 355, "datetime": "2026-11-20T13:00:00.000Z"}],
    },
    "neso_national": {
        "data": [
            {"from": "2026-11-20T13:00Z", "to": "2026-11-20T13:30Z", "intensity": {"forecast": 355, "actual": None}}
        ]
    },
    "energy_charts": {"unix_seconds": [BASE + 4 * 3600], "co2eq_forecast": [355.0], "deprecated": False},
    "watttime": {**watt(), "data": [{"point_time": "2026-11-20T13:00:00+00:00", "value": 355 / 0.45359237}]},
}


@pytest.mark.parametrize("name", FORECASTS)
def test_forecasts_are_labelled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(case_of(name), serve(FORECASTS[name]), monkeypatch, call="forecast")
    assert run.result is not None, run.error
    assert {point.kind for point in run.result.points} == {"forecast"}
    assert run.result.points[0].g_per_kwh == pytest.approx(355)


@pytest.mark.parametrize("name", ["rte_eco2mix", "site_http"])
def test_services_without_a_forecast_have_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(case_of(name), serve(b""), monkeypatch, call="forecast")
    assert run.result is not None and run.result.points == [] and run.asked == []


@each_service
def test_days_on_which_clocks_change_have_as_many_hours_as_they_have(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Europe's clocks go back on 2026-10-25: 25 hours. Everything is UTC, so no hour is lost and none counts twice."""
    begin = datetime(2026, 10, 24, 22, tzinfo=timezone.utc)
    end = datetime(2026, 10, 25, 23, tzinfo=timezone.utc)
    first = int(begin.timestamp())
    hours = range(25)
    replies: dict[str, Any] = {
        "electricity_maps": {
            "zone": "DE",
            "data": [{"carbonIntensity": 100 + at, "datetime": iso(first + 3600 * at)} for at in hours],
        },
        "neso_national": {
            "data": [
                {
                    "from": iso(first + 1800 * at),
                    "to": iso(first + 1800 * (at + 1)),
                    "intensity": {"actual": 100 + at // 2},
                }
                for at in range(50)
            ]
        },
        "energy_charts": {
            "unix_seconds": [first + 900 * at for at in range(100)],
            "co2eq": [100.0 + at // 4 for at in range(100)],
            "co2eq_forecast": [None] * 100,
        },
        "watttime": {
            **watt(),
            "data": [
                {"point_time": iso(first + 300 * at), "value": (100 + at // 12) / 0.45359237} for at in range(301)
            ],
        },
        "rte_eco2mix": {
            "total_count": 100,
            "results": [{"date_heure": iso(first + 900 * at), "taux_co2": 100 + at // 4} for at in range(100)],
        },
        "site_http": {
            "status": "success",
            "data": {
                "resultType": "matrix",
                "result": [{"metric": {}, "values": [[first + 3600 * at, str(100 + at)] for at in hours]}],
            },
        },
    }
    if case.name == "neso_regional":
        pytest.skip("the same rows as nationally")
    answers = serve(replies[case.name])
    monkeypatch.setenv("SITE_KEY", KEY)
    login = Answer(b'{"token": "t"}')
    with Server(lambda request: login if request.path == "/login" else answers(request)).running() as server:
        given = Provider(base_url=server.url, key_env="SITE_KEY", **case.given)
        now = datetime(2026, 10, 26, tzinfo=timezone.utc)
        service = providers.make(case.name, Carbon(providers={case.name: given}), case.basis, now)  # type: ignore[arg-type]
        made = series.to_hours(service.fetch(case.zone, begin, end).points)
    assert [(hour - first) // 3600 for hour in sorted(made)] == list(hours)
    assert [made[first + 3600 * at][0] for at in hours] == pytest.approx([100 + at for at in hours])


# ---- keys and settings ---------------------------------------------------------------------------------------------


def test_a_key_comes_from_a_file_that_not_everybody_reads(tmp_path: Any) -> None:
    from hpccarbon.carbon.providers.http import key_of, need_key

    path = tmp_path / "key"
    path.write_text(" abc \n")
    path.chmod(0o640)
    assert key_of("x", Provider(key_file=str(path)), {}) == "abc"
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="everybody may read it"):
        key_of("x", Provider(key_file=str(path)), {})
    with pytest.raises(ConfigError, match="No such file"):
        key_of("x", Provider(key_file=str(tmp_path / "none")), {})
    assert key_of("x", Provider(), {"HPCCARBON_X_KEY": "v"}) == "v"
    with pytest.raises(ConfigError, match="HPCCARBON_X_KEY"):
        need_key("x", Provider(), {})
    with pytest.raises(ConfigError, match="no key has") as told:
        key_of("x", Provider(key_env="K"), {"K": "a\r\nX-Evil: 1"})
    assert "Evil" not in str(told.value)


def test_an_unknown_provider_and_a_basis_it_has_not_are_named() -> None:
    with pytest.raises(ConfigError, match="did you mean `energy_charts`"):
        providers.make("energy_chart", Carbon(), "lifecycle", NOW)
    with pytest.raises(ConfigError, match=r"carbon\.basis = direct"):
        providers.make("neso_national", Carbon(), "lifecycle", NOW)
    with pytest.raises(ConfigError, match="state lifecycle or direct"):
        settings = Carbon(providers={"site_http": Provider(base_url="https://x")})
        providers.make("site_http", settings, "direct", NOW)
    with pytest.raises(ConfigError, match="base_url"):
        settings = Carbon(providers={"energy_charts": Provider(base_url="ftp://x")})
        providers.make("energy_charts", settings, "lifecycle", NOW)


def test_every_service_of_the_table_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", KEY)
    for name, entry in providers.SERVICES.items():
        basis = entry.bases[0]
        given = Provider(base_url="https://service.invalid", key_env="K", user="u", basis=basis)  # type: ignore[arg-type]
        service = providers.make(name, Carbon(providers={name: given}), basis, NOW)  # type: ignore[arg-type]
        assert service.name == name
