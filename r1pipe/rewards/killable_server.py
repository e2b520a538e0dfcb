"""The server of the killable pool: forks workers from a warm image, shares the cores, kills."""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from typing import NoReturn

from r1pipe.rewards.killable_channel import ERROR, KEEP_ALIVE, TICK_S, TIMED_OUT, Channel
from r1pipe.rewards.killable_tasks import (
    QUANTUM_S,
    Batch,
    Task,
    Worker,
    memory_limit,
    private_bytes,
)
from r1pipe.rewards.killable_worker import FAILED, resolve, serve

MAX_CORES = 16
MAX_PAUSED = 96
"""Processes that wait in the middle of a slow call; each keeps some 12 MB of its own."""


class Server:
    """Runs calls on as many workers as there are cores, those that have had least time first.

    A call that is not done after a quantum (0.1 s) is stopped in its process while anything else
    waits, and goes on with the others that are slow, least time first. So calls that hang never
    stand in the way of ordinary ones, and a slow honest one gets as much as any that hangs. What
    counts against its limit is its own work: not the time in which it was stopped, nor that in
    which it waited for a core that others kept busy.
    """

    def __init__(self, control: socket.socket) -> None:
        control.setblocking(False)
        self._control, self._parent = control, os.getppid()
        self._cores = min(MAX_CORES, len(os.sched_getaffinity(0)))
        self._memory = memory_limit()
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._batches: set[Batch] = set()
        self._waiting: deque[Batch] = deque()
        self._idle: list[Worker] = []
        self._running: list[Worker] = []
        self._paused: list[Worker] = []
        self._children: set[int] = set()
        self._dying: set[int] = set()
        self._loaded: set[str] = set()
        self._generation = 0
        self._next_tick = 0.0

    def run(self) -> NoReturn:
        """Serve until the parent is gone."""
        self._control.send(b"R", socket.MSG_NOSIGNAL)
        while True:
            for key, events in self._selector.select(self._until_next_check()):
                self._handle(key.fileobj, events)
            now = time.monotonic()
            self._reap()
            self._preempt(now)
            if now >= self._next_tick:
                self._tick(now)
            self._dispatch()

    def _until_next_check(self) -> float:
        checks = [self._next_tick, *(worker.check_at for worker in self._running)]
        return max(0.0, min(checks) - time.monotonic())

    def _handle(self, source: object, events: int) -> None:
        if isinstance(source, Channel) and source.fileno() < 0:
            return  # closed by an event before this one
        if isinstance(source, Batch):
            self._hear_batch(source, events)
        elif isinstance(source, Worker):
            self._hear_worker(source, events)
        else:
            self._accept()

    def _accept(self) -> None:
        """Take the sockets of new batches; leave where the parent has closed its end."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, 16, 16)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._leave()
            for descriptor in descriptors:
                batch = Batch(socket.socket(fileno=descriptor))
                self._batches.add(batch)
                self._selector.register(batch, selectors.EVENT_READ)

    def _hear_batch(self, batch: Batch, events: int) -> None:
        alive = bool(batch.flush())
        if alive and events & selectors.EVENT_READ:
            alive = batch.receive()
        if not alive:
            self._cancel(batch)
            return
        if batch.parse():
            failure = self._load(batch)
            if failure:
                batch.send(ERROR, 0, failure.encode("utf-8", "replace"))
            elif batch.queued:
                self._waiting.append(batch)
        self._watch(batch)

    def _load(self, batch: Batch) -> str | None:
        """Import what the batch calls, so that workers are forked with it. Return what failed."""
        names = [name for name in (batch.function, batch.warm_up) if name]
        if self._loaded.issuperset(names):
            return None
        try:
            resolve(batch.function)
            if batch.warm_up and batch.warm_up not in self._loaded:
                resolve(batch.warm_up)()
        except Exception:
            return traceback.format_exc(limit=-3)
        self._loaded.update(names)
        gc.collect()
        gc.freeze()  # what is never collected is never written to, and stays shared with the forks
        self._generation += 1
        for worker in list(self._idle):
            self._kill(worker)
        return None

    def _cancel(self, batch: Batch) -> None:
        batch.queued.clear()
        if batch in self._waiting:
            self._waiting.remove(batch)
        for worker in [*self._running, *self._paused]:
            if worker.task is not None and worker.task.batch is batch:
                self._kill(worker)
        self._batches.discard(batch)
        self._selector.unregister(batch)
        batch.close()

    def _hear_worker(self, worker: Worker, events: int) -> None:
        alive = bool(worker.flush())
        if events & selectors.EVENT_READ:
            alive = worker.receive() and alive
        answer = worker.parse()
        if answer is not None:
            status, worn, body = answer
            self._answer(worker.task, status, body)
            was_paused = worker in self._paused
            self._remove(worker)
            worker.task = None
            if worn or not alive or worker.generation != self._generation or self._is_full():
                self._kill(worker)
                return
            if was_paused:  # it had answered when it was stopped
                os.kill(worker.pid, signal.SIGCONT)
            self._idle.append(worker)
        elif not alive:
            task = worker.task
            self._kill(worker)
            if task is not None:
                self._died(task)
            return
        self._watch(worker)

    def _is_full(self) -> bool:
        return len(self._idle) >= self._cores

    def _died(self, task: Task) -> None:
        """Try a call once more whose worker was killed from outside, or killed itself."""
        task.deaths += 1
        for worker in list(self._idle):  # what killed one may have been sent to all of them:
            self._kill(worker)  # the second try has a process of its own
        if task.deaths < 2:
            self._requeue(task)
        else:
            self._answer(task, FAILED, b'["WorkerDied", "its worker process died twice"]')

    def _requeue(self, task: Task) -> None:
        task.batch.queued.appendleft(task)
        if task.batch not in self._waiting:
            self._waiting.append(task.batch)

    def _answer(self, task: Task | None, status: bytes, body: bytes = b"") -> None:
        if task is not None and task.batch in self._batches:
            task.batch.send(status, task.index, body)
            self._watch(task.batch)

    def _watch(self, channel: Channel) -> None:
        writing = selectors.EVENT_WRITE if channel.wants_to_write else 0
        if self._selector.get_key(channel).events != selectors.EVENT_READ | writing:
            self._selector.modify(channel, selectors.EVENT_READ | writing)

    def _preempt(self, now: float) -> None:
        """Kill what has had its time; stop what has had a quantum where others wait."""
        for worker in list(self._running):
            task = worker.task
            if task is None or now < worker.check_at:
                continue
            worker.charge(now)
            if task.is_spent(now, self._cores):
                self._kill(worker)
                self._answer(task, TIMED_OUT)
            elif self._paused or self._waiting:
                os.kill(worker.pid, signal.SIGSTOP)
                self._running.remove(worker)
                self._paused.append(worker)

    def _dispatch(self) -> None:
        """Fill the cores: calls that have not begun, then stopped ones that had least time."""
        stuck = False
        while len(self._running) < self._cores:
            task = None
            if not stuck and len(self._paused) < MAX_PAUSED:
                task = self._next_task()
            if task is not None:
                worker = self._idle.pop() if self._idle else self._fork()
                if worker is None:
                    stuck = True
                    self._requeue(task)
                    if not self._running and not self._paused:
                        self._cannot_fork(task.batch)
                    continue
                self._running.append(worker)
                worker.begin(task)
                self._watch(worker)
            elif self._paused:
                self._resume()
            else:
                return

    def _next_task(self) -> Task | None:
        """Return a call that has not begun; batches take turns."""
        while self._waiting:
            batch = self._waiting.popleft()
            if batch.queued:
                task = batch.queued.popleft()
                if batch.queued:
                    self._waiting.append(batch)
                return task
        return None

    def _resume(self) -> None:
        worker = min(self._paused, key=Worker.had)
        self._paused.remove(worker)
        task, now = worker.task, time.monotonic()
        if task is None or task.is_spent(now, self._cores):
            self._kill(worker)
            self._answer(task, TIMED_OUT)
            return
        self._running.append(worker)
        worker.go_on(now)
        os.kill(worker.pid, signal.SIGCONT)

    def _fork(self) -> Worker | None:
        """Return a new worker, or None where the machine allows no more processes."""
        ours, theirs = socket.socketpair()
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return None
        if pid == 0:
            serve(theirs.fileno(), server)
        theirs.close()
        self._children.add(pid)
        worker = Worker(ours, pid, self._generation)
        self._selector.register(worker, selectors.EVENT_READ)
        return worker

    def _cannot_fork(self, batch: Batch) -> None:
        batch.queued.clear()
        batch.send(ERROR, 0, b"the machine allows no new process (limit of processes or memory)")
        self._watch(batch)

    def _kill(self, worker: Worker) -> None:
        os.kill(worker.pid, signal.SIGKILL)
        self._dying.add(worker.pid)
        self._remove(worker)
        self._selector.unregister(worker)
        worker.close()

    def _remove(self, worker: Worker) -> None:
        for workers in (self._idle, self._running, self._paused):
            if worker in workers:
                workers.remove(worker)

    def _reap(self) -> None:
        """Wait for those that were killed, and for no other: a pid in use must not be free."""
        for pid in list(self._dying):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._dying.discard(pid)
                self._children.discard(pid)

    def _tick(self, now: float) -> None:
        if os.getppid() != self._parent:
            self._leave()
        busy = self._running or self._paused or self._dying
        self._next_tick = now + (QUANTUM_S / 2 if busy else TICK_S)
        for batch in self._batches:
            if now >= batch.next_sign and not batch.wants_to_write:
                batch.send(KEEP_ALIVE)
                batch.next_sign = now + TICK_S
        if busy:
            self._relieve_memory()

    def _relieve_memory(self) -> None:
        """Kill the largest worker where all of them together take too much."""
        image = private_bytes(os.getpid())  # shared with every fork
        workers = (*self._running, *self._paused)
        sizes = {worker: max(0, private_bytes(worker.pid) - image) for worker in workers}
        if sum(sizes.values()) > self._memory:
            largest = max(sizes, key=lambda worker: sizes[worker])
            task = largest.task
            self._kill(largest)
            self._answer(task, FAILED, b'["MemoryError", "more memory than its share"]')

    def _leave(self) -> NoReturn:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        while self._children:
            os.waitpid(self._children.pop(), 0)
        os._exit(0)


def main() -> NoReturn:
    """Serve the process at the other end of standard input."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    Server(control).run()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(1)
