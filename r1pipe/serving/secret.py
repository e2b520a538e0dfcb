"""The token that every request needs: made, kept in a file that nobody else reads, compared."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from r1pipe.errors import Problem, UserError

VARIABLE = "R1PIPE_SERVER_TOKEN"
LEAST = 16
"""Characters of a token that somebody chose; ours have 43."""


def default_file(port: int) -> Path:
    """Return where a server on `port` and its clients on the same machine meet."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "r1pipe" if runtime else Path.home() / ".r1pipe"
    return folder / f"server-{port}.token"


def find_token(file: str | None, port: int) -> str:
    """Return the token a client has to show.

    From `file`, else the environment, else the default file. Raises UserError where there is none.
    """
    if file is None and (token := os.environ.get(VARIABLE)):
        return _checked(token.strip(), VARIABLE)
    path = Path(file).expanduser() if file is not None else default_file(port)
    try:
        return _checked(read_private(path), str(path))
    except FileNotFoundError:
        what = f"there is no token of the generation server: `{path}` does not exist"
        hint = f"start the server first (`r1pipe serve`), or set {VARIABLE}"
        raise UserError(Problem("rollout.server_token_file", what, hint)) from None


def keep_token(file: str | None, port: int) -> tuple[str, Path | None, bool]:
    """Return the token a server asks for, the file it is in (None: the environment's), and whether
    that was written now.

    A file that is named and there is kept, so that a server can be started again in mid-run.
    """
    if file is None and (token := os.environ.get(VARIABLE)):
        return _checked(token.strip(), VARIABLE), None, False
    path = Path(file).expanduser() if file is not None else default_file(port)
    with contextlib.suppress(FileNotFoundError):
        return _checked(read_private(path), str(path)), path, False
    token = secrets.token_urlsafe(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        what = f"cannot write `{path}`: {error.strerror}"
        raise UserError(Problem("rollout.server_token_file", what)) from error
    with os.fdopen(handle, "w") as stream:
        stream.write(token + "\n")
    return token, path, True


def read_private(path: Path) -> str:
    """Return a file's text; raises UserError unless it is the user's own and nobody else's."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        what = f"cannot read `{path}`: {error.strerror}"
        raise UserError(Problem("rollout.server_token_file", what)) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            what = f"`{path}` is not a file of yours"
            raise UserError(Problem("rollout.server_token_file", what))
        if status.st_mode & 0o077:
            what = f"others can read `{path}` (mode {stat.S_IMODE(status.st_mode):o})"
            raise UserError(Problem("rollout.server_token_file", what, f"chmod 600 {path}"))
        return os.read(handle, 4096).decode("ascii", errors="replace").strip()
    finally:
        os.close(handle)


def same(asked: str, given: str) -> bool:
    """Compare in a time that says nothing of where they part."""
    return hmac.compare_digest(asked.encode(), given.encode(errors="replace"))


def _checked(token: str, where: str) -> str:
    if len(token) >= LEAST and token.isascii() and token.isprintable() and " " not in token:
        return token
    what = f"holds no token: {LEAST} or more printable characters without spaces"
    hint = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'
    raise UserError(Problem(where, what, hint))
