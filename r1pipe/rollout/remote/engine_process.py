"""The process that holds the engine: takes work from the watcher, one piece at a time."""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from r1pipe.errors import EXIT_FAILED_STAGE, StageFailed, UserError
from r1pipe.serving.link import Link, LinkClosed
from r1pipe.serving.protocol import BAD_REQUEST, ENGINE_FAILED

TELL_SECONDS = 0.2
"""Least time between two messages of progress."""
Item = tuple[dict[str, Any], list[bytes]]


class Cancelled(BaseException):
    """Nobody wants what is being written."""


class EngineProcess:
    """Reads the link in a thread of its own, so that signs of life go on while the engine works."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._due: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._busy, self._told = False, 0.0

    def run(self) -> int:
        head, _ = self._link.receive()
        self._beat(head["beats"])
        try:
            hosted = _make(head)
        except (UserError, StageFailed) as error:
            self._link.send({"is": "not up", "message": str(error), "exit_code": error.exit_code})
            return error.exit_code
        except Exception as error:
            traceback.print_exc()
            message = f"the engine cannot start: {type(error).__name__}: {error}"
            self._link.send({"is": "not up", "message": message, "exit_code": EXIT_FAILED_STAGE})
            return EXIT_FAILED_STAGE
        self._link.send({"is": "up", "info": hosted.info()})
        threading.Thread(target=self._listen, daemon=True).start()
        while True:
            head, bodies = self._due.get()
            if head["do"] == "stop":
                hosted.close()
                return 0
            self._cancelled.clear()
            self._busy = True
            if not self._one(hosted, head, bodies):
                return EXIT_FAILED_STAGE
            self._busy = False

    def _one(self, hosted: Any, head: dict[str, Any], bodies: list[bytes]) -> bool:
        """Do one piece of work and answer; returns whether the engine can do another."""
        from r1pipe.rollout.remote.wire import Malformed

        try:
            results = hosted.do(head, bodies, self._progress)
        except Malformed as error:
            self._refuse(400, BAD_REQUEST, str(error))
        except Cancelled:
            self._refuse(409, BAD_REQUEST, "nobody waited for it any more")
        except Exception as error:
            # What it left behind, in memory or on a GPU, is not known: the next one starts anew.
            if not isinstance(error, (UserError, StageFailed)):
                traceback.print_exc()
            kind = BAD_REQUEST if isinstance(error, UserError) else ENGINE_FAILED
            self._refuse(500, kind, f"{type(error).__name__}: {error}"[:2000])
            return False
        else:
            self._link.send({"is": "result"}, results)
        return True

    def _refuse(self, status: int, error: str, message: str) -> None:
        self._link.send({"is": "refused", "status": status, "error": error, "message": message})

    def _progress(self, done: int) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        now = time.monotonic()
        if now - self._told < TELL_SECONDS:
            return
        self._told = now
        self._link.send({"is": "progress", "done": done})

    def _listen(self) -> None:
        try:
            while True:
                item = self._link.receive()
                if item[0]["do"] == "cancel":
                    self._cancelled.set()
                    continue
                if item[0]["do"] == "stop" and self._busy:
                    os._exit(0)
                self._due.put(item)
        except LinkClosed:
            os._exit(EXIT_FAILED_STAGE)

    def _beat(self, seconds: float) -> None:
        pause: Callable[[float], bool] = threading.Event().wait

        def beat() -> None:
            try:
                while True:
                    self._link.send({"is": "alive"})
                    pause(seconds)
            except LinkClosed:
                os._exit(EXIT_FAILED_STAGE)

        threading.Thread(target=beat, daemon=True).start()


def _make(settings: dict[str, Any]) -> Any:
    """Return the engine that the watcher asks for, ready to write."""
    from r1pipe.rollout.remote.hosted import Hosted
    from r1pipe.schema import Load, Rollout

    return Hosted(
        Rollout.model_validate(settings["rollout"]),
        settings["model"],
        Load.model_validate(settings["load"]),
    )


def main() -> int:
    """Serve the link whose descriptor is the first argument."""
    # The watcher decides when this process ends; Ctrl-C reaches both.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return EngineProcess(Link(socket.socket(fileno=int(sys.argv[1])))).run()
    except LinkClosed:
        return EXIT_FAILED_STAGE


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # libraries' own threads are not waited for
