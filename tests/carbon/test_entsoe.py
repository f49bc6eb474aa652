"""ENTSO-E: XML over a real socket; the platform's odd ways, and the arithmetic of the mix."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from hpccarbon.carbon import providers, series, zones
from hpccarbon.carbon.providers import entsoe
from hpccarbon.carbon.providers.base import Fetched
from hpccarbon.carbon.providers.http import Malformed, NoData, ProviderError
from hpccarbon.config import Carbon, Provider
from hpccarbon.errors import CarbonError, ConfigError
from tests.carbon.server import Answer, Asked, Server

FI = "10YFI-1--------U"
SINCE = datetime(2026, 11, 20, tzinfo=timezone.utc)
BASE = int(SINCE.timestamp())
NOW = SINCE + timedelta(days=1)
TOKEN = "t0ken-of-the-site"
FACTORS, NOTES = entsoe.factors_of("lifecycle")


def document(*entries: str) -> bytes:
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    space = "urn:iec62325.351:tc57wg16:451-6:generationloaddocument:3:0"
    return f'{head}<GL_MarketDocument xmlns="{space}"><type>A75</type>{"".join(entries)}</GL_MarketDocument>'.encode()


def entry(
    psr_type: str, values: dict[int, float], *, step: str = "PT15M", hours: int = 1, curve: str = "A03",
    area: str = FI, domain: str = "inBiddingZone_Domain", start: datetime = SINCE,
) -> str:  # fmt: skip
    points = "".join(f"<Point><position>{at}</position><quantity>{mw}</quantity></Point>" for at, mw in values.items())
    begin, end = (moment.strftime("%Y-%m-%dT%H:%MZ") for moment in (start, start + timedelta(hours=hours)))
    return (
        f'<TimeSeries><mRID>1</mRID><{domain}.mRID codingScheme="A01">{area}</{domain}.mRID>'
        f"<quantity_Measure_Unit.name>MAW</quantity_Measure_Unit.name><curveType>{curve}</curveType>"
        f"<MktPSRType><psrType>{psr_type}</psrType></MktPSRType><Period><timeInterval><start>{begin}</start>"
        f"<end>{end}</end></timeInterval><resolution>{step}</resolution>{points}</Period></TimeSeries>"
    )


def acknowledgement(text: str) -> bytes:
    space = "urn:iec62325.351:tc57wg16:451-1:acknowledgementdocument:7:0"
    reason = f"<Reason><code>999</code><text>{text}</text></Reason>"
    return f'<Acknowledgement_MarketDocument xmlns="{space}">{reason}</Acknowledgement_MarketDocument>'.encode()


NUCLEAR = entry("B14", {1: 4361, 3: 4358})
GAS = entry("B04", {1: 212, 2: 208, 3: 201, 4: 197})
GOOD = document(NUCLEAR, GAS)


def mw(reply: bytes) -> dict[str, list[float]]:
    return {one.psr_type: [mw for _, mw in one.mw.values()] for one in entsoe.parse_generation(reply, FI)}


class Run:
    """One fetch of an hour of Finland."""

    def __init__(
        self,
        answer: Callable[[Asked], Answer],
        monkeypatch: pytest.MonkeyPatch,
        timeout_s: float = 5.0,
        zone: str = "FI",
    ) -> None:
        monkeypatch.setenv("SITE_KEY", TOKEN)
        monkeypatch.setenv("NO_PROXY", "*")
        self.slept: list[float] = []
        self.result: Fetched | None = None
        self.error: CarbonError | ConfigError | None = None
        with Server(answer).running() as server:
            given = Provider(base_url=f"{server.url}/api", key_env="SITE_KEY", timeout_s=timeout_s)
            settings = Carbon(providers={"entsoe": given})
            service = providers.make("entsoe", settings, "lifecycle", NOW, self.slept.append)
            try:
                self.result = service.fetch(zone, SINCE, SINCE + timedelta(hours=1))
            except (CarbonError, ConfigError) as err:
                self.error = err
                assert TOKEN not in str(err)
        self.asked = server.asked


def test_the_mix_is_generation_times_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(lambda _: Answer(GOOD), monkeypatch)
    assert run.result is not None
    quarters = [
        (n * 12 + g * 490) / (n + g) for n, g in zip([4361, 4361, 4358, 4358], [212, 208, 201, 197], strict=True)
    ]
    assert [point.g_per_kwh for point in run.result.points] == pytest.approx(quarters)
    made = series.to_hours(run.result.points)
    assert made[BASE][0] == pytest.approx(sum(quarters) / 4) and made[BASE][1:] == (3600, "estimated")
    assert run.asked[0].query == {
        "securityToken": TOKEN, "documentType": "A75", "processType": "A16", "in_Domain": FI,
        "periodStart": "202611200000", "periodEnd": "202611200100",
    }  # fmt: skip


def test_positions_that_are_left_out_repeat_or_are_holes_as_the_curve_says() -> None:
    assert mw(document(NUCLEAR)) == {"B14": [4361, 4361, 4358, 4358]}
    assert mw(document(entry("B14", {1: 4361, 3: 4358}, curve="A01"))) == {"B14": [4361, 4358]}
    assert mw(document(entry("B14", {3: 4358}))) == {"B14": [4358, 4358]}


def test_pumping_and_storage_are_not_generation() -> None:
    pumping = entry("B10", {1: 500}, domain="outBiddingZone_Domain")
    assert mw(document(NUCLEAR, pumping)) == {"B14": [4361, 4361, 4358, 4358]}
    with_storage = entsoe.parse_generation(document(NUCLEAR, entry("B10", {1: 9000})), FI)
    assert entsoe.intensities(with_storage, FACTORS) == entsoe.intensities(
        entsoe.parse_generation(document(NUCLEAR), FI), FACTORS
    )


def test_resolutions_may_differ_and_periods_may_have_gaps() -> None:
    hourly = entry("B04", {1: 200}, step="PT60M", curve="A01")
    made = entsoe.intensities(entsoe.parse_generation(document(NUCLEAR, hourly), FI), FACTORS)
    assert [point.end - point.start for point in made] == [900] * 4
    later = entry("B14", {1: 4000}, start=SINCE + timedelta(hours=3))
    assert len(mw(document(NUCLEAR, later))["B14"]) == 8


def test_an_interval_that_lacks_a_kind_of_plant_is_dropped_not_zero() -> None:
    gappy = entry("B04", {1: 212, 2: 208, 4: 197}, curve="A01")
    made = entsoe.intensities(entsoe.parse_generation(document(NUCLEAR, gappy), FI), FACTORS)
    assert [(point.start - BASE) // 900 for point in made] == [0, 1, 3]


def test_much_generation_without_a_factor_gives_no_intensity_and_little_is_left_out() -> None:
    def made(other: float) -> list[series.Point]:
        return entsoe.intensities(entsoe.parse_generation(document(NUCLEAR, entry("B20", {1: other})), FI), FACTORS)

    assert made(3000) == [] and len(made(50)) == 4 and made(50)[0].g_per_kwh == pytest.approx(12)


def test_stand_ins_are_said() -> None:
    assert FACTORS["B02"] == FACTORS["B05"] == 820 and "lignite" in NOTES["B02"]
    direct, _ = entsoe.factors_of("direct")
    assert direct["B05"] == 760 and direct["B14"] == 0 and direct["B06"] is None


def test_a_note_comes_only_with_the_plant_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(lambda _: Answer(document(NUCLEAR, entry("B02", {1: 100}))), monkeypatch)
    assert run.result is not None and len(run.result.notes) == 1 and "820" in run.result.notes[0]


@pytest.mark.parametrize("status", [200, 400])
def test_no_data_is_an_answer_whatever_its_status(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(lambda _: Answer(acknowledgement("No matching data found for Data item"), status), monkeypatch)
    assert run.error is None and run.result is not None and run.result.points == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(acknowledgement("Unauthorized. Missing or invalid security token."), 401), "401"),
        (Answer(acknowledgement("The amount of requested data exceeds allowed limit."), 400), "exceeds allowed limit"),
        (Answer(b"Max allowed requests per minute", 429, {"Retry-After": "600"}), "wait 600 s"),
        (Answer(b"", 503), "5 times"),
        (Answer(GOOD, cut=True), "cut its answer short"),
        (Answer(b"<html>maintenance"), "no XML"),
        (Answer(b""), "no XML"),
        (Answer(b"<html/>"), "a html instead"),
        (Answer(b"{}"), "no XML"),
        (Answer(b'<!DOCTYPE x [<!ENTITY a "aa">]><x>&a;</x>'), "entities"),
        (Answer(document(entry("B14", {1: 5}, area="10YFR-RTE------C"))), "answered for '10YFR"),
        (Answer(document(entry("B14", {1: 5}, step="P1Y"))), "resolution"),
        (Answer(document(entry("B14", {9: 5}))), "position 9 of 4"),
        (Answer(document(entry("B14", {1: 1e9}))), "MW"),
        (Answer(document(NUCLEAR.replace("4361", "many"))), "without position or quantity"),
        (Answer(document(NUCLEAR.replace("MAW", "KWH"))), "expected MAW"),
        (Answer(document(NUCLEAR.replace("<psrType>B14</psrType>", ""))), "kind of plant"),
        (Answer(document(NUCLEAR.replace("T01:00Z", "T00:00Z"))), "a period of 0 s"),
        (Answer(document(NUCLEAR.replace("00:00Z", "00:00"))), "no time with an offset"),
    ],
    ids=range(19),
)  # fmt: skip
def test_faults_have_names(answer: Answer, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(lambda _: answer, monkeypatch)
    assert isinstance(run.error, ProviderError), run.result
    assert words in str(run.error), str(run.error)


def test_silence_then_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(lambda asked: Answer(GOOD, delay_s=0 if asked.number else 0.6), monkeypatch, timeout_s=0.3)
    assert run.result is not None and len(run.result.points) == 4


def test_an_empty_document_and_one_of_another_day_bring_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    other_day = document(entry("B14", {1: 5}, start=SINCE + timedelta(days=40)))
    for reply in (document(), other_day):
        run = Run(lambda _, reply=reply: Answer(reply), monkeypatch)  # type: ignore[misc]
        assert run.result is not None and run.result.points == []


def test_a_series_that_comes_twice_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    once, twice = (
        Run(lambda _, reply=reply: Answer(reply), monkeypatch).result  # type: ignore[misc]
        for reply in (GOOD, document(NUCLEAR, GAS, NUCLEAR, GAS))
    )
    assert once is not None and twice is not None and once.points == twice.points


def test_an_area_without_a_code_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(lambda _: Answer(GOOD), monkeypatch, zone="US-CA")
    assert isinstance(run.error, ConfigError) and "EIC" in str(run.error) and run.asked == []


def test_a_parser_says_no_data_by_its_type() -> None:
    with pytest.raises(NoData):
        entsoe.parse_generation(acknowledgement("No matching data found"), FI)
    with pytest.raises(Malformed):
        entsoe.parse_generation(b"\x00", FI)


def check_character(code: str) -> str:
    """The last character of an EIC from its first 15 (ENTSO-E, EIC reference manual: weights 16 to 2, modulo 37)."""
    letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-"
    total = sum(letters.index(letter) * (16 - at) for at, letter in enumerate(code[:15]))
    return letters[36 - (total - 1) % 37]


@pytest.mark.parametrize("zone", entsoe.AREAS)
def test_every_area_code_has_its_check_character_and_a_zone(zone: str) -> None:
    code = entsoe.AREAS[zone]
    assert len(code) == 16 and check_character(code) == code[15]
    assert zones.require(zone) == zone
