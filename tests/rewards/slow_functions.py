"""Functions that the tests call through the killable workers: honest ones and others."""

import contextlib
import os
import signal
import time


def echo(value):
    return value


def pid(_):
    return os.getpid()


def work(seconds, _=None):
    """Take CPU time of this process, however busy the machine is."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


def spin(_):
    while True:
        pass


def ignore_signals(_):
    for number in range(1, 32):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_IGN)
    while True:
        with contextlib.suppress(BaseException):
            spin(_)


def power(number):
    return (10**7 + number) ** (10**7) % 7


def eat(_):
    kept = []
    while True:
        kept.append(b"x" * (1 << 24))


def sleep(_):
    time.sleep(1000)


def recur(number):
    return recur(number) + 1


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(what):
    raise ValueError(f"no {what}")


def leave(_):
    raise SystemExit(3)


def unspeakable(_):
    return object()


def environment(_):
    """Return the names in the environment, and where the open files lead."""
    files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    return [sorted(os.environ), [file for file in files if os.path.exists(file)]]


def any_of(name, *arguments):
    return globals()[name](*arguments)
