"""The base: division that loses nothing, settings that explain themselves, columns that hold together."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon import config, schema
from hpccarbon.errors import ConfigError
from hpccarbon.units import apportion, kwh

weights = st.dictionaries(st.text(max_size=4), st.integers(0, 10**15), min_size=1, max_size=40)


def test_a_kilowatt_hour_is_3600_kilojoules() -> None:
    assert kwh(3_600_000_000_000) == 1.0
    assert kwh(900_000_000_000) == 0.25


@given(total=st.integers(0, 10**18), shares=weights)
def test_apportion_loses_nothing_and_rounds_each_share_once(total: int, shares: dict[str, int]) -> None:
    whole = sum(shares.values())
    if whole == 0:
        if total:
            with pytest.raises(ValueError, match="all 0"):
                apportion(total, shares)
        return
    divided = apportion(total, shares)
    assert sum(divided.values()) == total
    assert list(divided) == list(shares)
    for key, weight in shares.items():
        exact = total * weight // whole
        assert exact <= divided[key] <= exact + 1
        assert divided[key] == 0 or weight > 0


@given(total=st.integers(0, 10**18), shares=weights)
def test_apportion_gives_the_larger_remainder_first(total: int, shares: dict[str, int]) -> None:
    whole = sum(shares.values())
    if whole == 0:
        return
    divided = apportion(total, shares)
    up = [total * w % whole for key, w in shares.items() if divided[key] > total * w // whole]
    down = [total * w % whole for key, w in shares.items() if divided[key] == total * w // whole]
    assert not up or not down or min(up) >= max(down)


def test_apportion_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="negative"):
        apportion(-1, {"a": 1})
    with pytest.raises(ValueError, match="negative"):
        apportion(1, {"a": -1, "b": 3})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[daemon]\nintervall_s = 3", "unknown key `daemon.intervall_s`; did you mean `interval_s`?"),
        ("clutser = 'x'", "unknown key `clutser`; did you mean `cluster`?"),
        ("[carbon]\npue = 0.9", "carbon.pue"),
        ("[carbon]\nbasis = 'marginal'", "marginal"),
        ("[daemon]\ninterval_s = 0.01", "daemon.interval_s"),
        ("[daemon]\nseal_s = 'often'", "daemon.seal_s"),
        ("[paths]\nstate_dir = 'relative'", "paths: must be absolute"),
        ("[paths]\nshared_dir = '/shared/[a-c]*'", "shared_dir: must not hold"),
        ("[carbon.embodied]\nnode_kgs = 1", "did you mean `node_kg`?"),
        ("[carbon.places.north.embodied]\ngpu_kgs = 1", "did you mean `gpu_kg`?"),
        ("cluster = '../../etc'", "cluster:"),
        ("[model]\nidle_power_w = 200\nfull_power_w = 100", "model:"),
        ("cluster = ", "site.toml"),
        (b"\xff\xfe", "site.toml"),
    ],
)
def test_a_bad_setting_is_named_with_its_file(text: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "site.toml")
    assert said in str(caught.value)
    assert "site.toml" in str(caught.value)


def test_a_config_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "missing.toml")


def test_the_shared_directory_may_lie_beside_the_config(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('[paths]\nshared_dir = "%c/shared"\n')
    assert config.load(site).paths.shared_dir == str(tmp_path / "shared")


def test_every_default_is_a_valid_config() -> None:
    assert config.parse("") == config.Config()


def test_a_node_name_that_is_no_file_name_is_refused() -> None:
    assert config.node_name("gpu-01.cluster") == "gpu-01.cluster"
    with pytest.raises(ConfigError, match="node name"):
        config.node_name("../n1")


@pytest.mark.parametrize("columns", [schema.SHARD, schema.LEDGER, schema.JOBS])
def test_columns_are_declared_once_with_a_known_type(columns: tuple[schema.Column, ...]) -> None:
    names = [column.name for column in columns]
    assert len(names) == len(set(names))
    built = schema.arrow_schema(columns, {"schema": "test"})
    assert built.names == names
    assert built.metadata == {b"hpccarbon.schema": b"test"}
    for column in columns:
        assert column.meaning
        assert built.field(column.name).nullable == column.nullable
        unit = {"_uj": "µJ", "_us": "µs", "_ms": "ms", "_s": "s", "_j": "J"}.get("_" + column.name.rsplit("_", 1)[-1])
        assert unit is None or column.unit == unit, column
