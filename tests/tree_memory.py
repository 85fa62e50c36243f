"""Resident memory of a whole process tree, sampled while it runs."""

from __future__ import annotations

import threading

import psutil


class TreeMemory(threading.Thread):
    """Adds up the resident memory of a process and all its descendants, five times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._finished = threading.Event()

    def run(self) -> None:
        while not self._finished.wait(0.2):
            try:
                root = psutil.Process(self._pid)
                processes = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            total = 0
            for process in processes:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)

    def stop(self) -> None:
        self._finished.set()
        self.join()
