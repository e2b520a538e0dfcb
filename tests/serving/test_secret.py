"""The token's file: made private, refused where it is not, found where the server put it."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1pipe.errors import UserError
from r1pipe.serving import secret


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(secret.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_both_ends_meet_at_the_default_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="r1pipe serve"):
        secret.find_token(None, 1)
    token, path, written = secret.keep_token(None, 1)
    assert written and path == tmp_path / "r1pipe" / "server-1.token"
    assert path.stat().st_mode & 0o777 == 0o600 and len(token) >= 32
    assert secret.find_token(None, 1) == token
    assert secret.keep_token(None, 1) == (token, path, False)
    assert secret.keep_token(None, 2)[0] != token


def test_the_environment_goes_before_the_default_and_a_named_file_before_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = str(tmp_path / "mine")
    token = secret.keep_token(named, 1)[0]
    monkeypatch.setenv(secret.VARIABLE, "e" * 20)
    assert secret.find_token(None, 1) == "e" * 20
    assert secret.keep_token(None, 1) == ("e" * 20, None, False)
    assert secret.find_token(named, 1) == token
    monkeypatch.setenv(secret.VARIABLE, "short")
    with pytest.raises(UserError, match="16 or more"):
        secret.find_token(None, 1)


def test_a_file_that_others_could_read_or_change_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("t" * 40)
    path.chmod(0o640)
    for ask in (secret.find_token, secret.keep_token):
        with pytest.raises(UserError, match="chmod 600"):
            ask(str(path), 1)
    path.chmod(0o600)
    assert secret.find_token(str(path), 1) == "t" * 40
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(UserError, match="cannot read"):
        secret.find_token(str(link), 1)
    with pytest.raises(UserError):
        secret.find_token(str(tmp_path), 1)
    path.write_text("two words are no token")
    with pytest.raises(UserError, match="holds no token"):
        secret.find_token(str(path), 1)


def test_tokens_are_compared_whole() -> None:
    assert secret.same("abc", "abc")
    assert not any(
        secret.same("abc", other) for other in ("", "ab", "abcd", "ABC", "äbc", "\ud800")
    )
