"""Untrusted text files: bounded, never executed, errors in one line."""

from __future__ import annotations

import json

import pytest

from hyperfocal import files
from hyperfocal.data.formats.yaml_files import load_yaml
from hyperfocal.files import as_utf8, load_json, read_text, shown
from hyperfocal.types import ConfigError, DataError


def refused(read, path, what):
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert what in message
    assert message.startswith(f"{path}: ")
    assert len(message) < 400
    assert "\n" not in message


def test_good_files(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, "\xc3\xa4"]}')
    wanted = {"a": [1, 2.5, "ä"]}
    assert load_json(file) == wanted
    assert load_yaml(file) == {"a": ["1", "2.5", "ä"]}  # plain values stay text
    assert json.loads(read_text(file)) == wanted


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[1" + b"0" * 10_000 + b"]", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"\x00", "not readable as JSON"),
        (b"", "not readable as JSON"),
        (b'{"a": 1', "not readable as JSON"),
    ],
)
def test_bad_json(tmp_path, text, what):
    file = tmp_path / "a.json"
    file.write_bytes(text)
    refused(load_json, file, what)


def test_json_that_would_not_fit_into_memory_is_not_read(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(list(range(1000))))
    monkeypatch.setattr(files, "physical_memory", lambda: 10 * file.stat().st_size - 1)
    monkeypatch.setattr(files.json, "load", lambda file: pytest.fail("was read"))
    refused(load_json, file, "this machine has")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGE_BOMB = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new}\n  <<: [{', '.join(['*' + old] * 10)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (BOMB, "aliases (*name) are not allowed"),
        (MERGE_BOMB, "aliases (*name) are not allowed"),
        ("names: !!python/object/apply:os.system ['touch pwned']", "could not determine"),
        ("names: !!python/name:os.system", "could not determine"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: [", "not readable as YAML"),
        ("? {a: 1}\n: b", "not readable as YAML"),
        ("\x07", "not readable as YAML"),
        ("#" * (1 << 20) + "#", "too large"),
    ],
)
def test_bad_yaml(tmp_path, monkeypatch, text, what):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data.yaml"
    file.write_text(text)
    refused(load_yaml, file, what)
    assert [path.name for path in tmp_path.iterdir()] == ["data.yaml"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_with_a_byte_order_mark(tmp_path, encoding):
    file = tmp_path / "a.json"
    text = json.dumps({"a": ["Ä", "犬", "🐶"]}, ensure_ascii=False)
    file.write_bytes(f"\ufeff{text}".encode(encoding))
    assert read_text(file) == text
    assert load_json(file) == load_yaml(file) == json.loads(text)
    with as_utf8(file) as content:
        assert content == text.encode()
    size = file.stat().st_size
    refused(lambda path: read_text(path, size - 1), file, f"more than {size - 1} bytes")
    file.write_bytes(file.read_bytes()[:-1])  # half a character
    refused(read_text, file, "nor UTF-16")
    refused(load_json, file, "not readable as JSON")


def test_utf16_without_a_byte_order_mark_is_refused(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("Äaß".encode("utf-16-le"))
    refused(read_text, file, "not UTF-8")


def test_text_has_a_limit_and_an_encoding(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * 11)
    assert read_text(file, 11) == "x" * 11
    refused(lambda path: read_text(path, 10), file, "more than 10 bytes")
    file.write_bytes(b"\xff")
    refused(read_text, file, "not UTF-8")
    refused(read_text, tmp_path, "not readable")
    with pytest.raises(ConfigError):
        read_text(file, error=ConfigError)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "absent")


def test_bad_values_are_shown_in_one_short_line():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("a\nb", "x" * 10**7, 10**5000, deep, [1] * 10**5, {"a": "b"}):
        text = shown(value)
        assert len(text) <= 60
        assert "\n" not in text
    assert shown("cat") == "'cat'"
    while deep:  # taken apart from outside: Python would free it recursively
        deep = deep.pop()  # type: ignore[assignment]
