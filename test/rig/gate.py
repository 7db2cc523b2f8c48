"""How many container suites run beside each other: as many as keep the processors busy, and no more."""

import contextlib
import threading
import time


def cpu_times(path="/proc/stat"):
    """Idle and all CPU time of the machine so far, in ticks. What runs with a low priority counts as idle."""
    with open(path, encoding="ascii") as file:
        user, nice, system, idle, waiting, *others = map(int, file.readline().split()[1:9])
    return nice + idle + waiting, user + nice + system + idle + waiting + sum(others)


class Gate:
    """
    Lets workers in: ``few`` in any case, and further ones one by one while the processors have time left.

    A suite waits for daemons and clocks for a good part of its time, some more, some less: a fixed number leaves
    the processors idle or makes suites late.
    """

    # Seconds after an entrance before the next one: until then the last one shows in the CPU time.
    SETTLE = 8
    # The share of CPU time that has to be left for one more.
    LEFT = 0.12

    def __init__(self, few, times=cpu_times, clock=time.monotonic, sleep=time.sleep):
        self.few = few
        self.inside = 0
        self.entrance = threading.Lock()
        self.count = threading.Lock()
        self.times, self.clock, self.sleep = times, clock, sleep

    def _change(self, number):
        with self.count:
            self.inside += number

    def _wait(self):
        """Wait until one more may come in."""
        since, before = self.clock(), self.times()
        while self.inside >= self.few:
            self.sleep(1)
            if self.clock() - since < self.SETTLE:
                continue
            now = self.times()
            if now[0] - before[0] >= self.LEFT * (now[1] - before[1]):
                return
            since, before = self.clock(), now

    @contextlib.contextmanager
    def entered(self):
        """A context that one worker is in."""
        with self.entrance:
            self._wait()
            self._change(1)
        try:
            yield
        finally:
            self._change(-1)
