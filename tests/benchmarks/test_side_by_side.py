"""Rows are made ready side by side and measured one after another, each in a process of its own."""

import multiprocessing
import os
import threading
import time
from functools import partial

from benchmarks.speed.side_by_side import side_by_side
from vie import VieError


def make_ready(folder, task):
    note(folder, f"begun {task}")
    if task == "broken":
        raise VieError("cannot be made\nand a second line")
    time.sleep(0.2)
    note(folder, f"ready {task}")
    if task == "lost":
        threading.Timer(0.1, os._exit, [1]).start()
    if task == "slow":
        time.sleep(1)

    def measure():
        note(folder, f"measured {task}")
        if task == "killed":
            os._exit(1)
        if task == "fails":
            raise RuntimeError("out of memory")
        time.sleep(0.1)
        note(folder, f"ended {task}")
        return {"task": task, "process": os.getpid()}

    return measure


def note(folder, what):
    with open(folder / "log", "a") as log:
        print(what, file=log)


def test_none_is_measured_before_all_are_ready(tmp_path, monkeypatch):
    # Forked from a server, processes share no more with this one than spawned ones, and are there in a moment.
    get_context = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: get_context({"spawn": "forkserver"}[kind]))
    asked = []

    def tasks():
        for name in ("one", "broken", "killed", "lost", "fails", "slow", "two", "late"):
            asked.append(name)
            yield name

    found = {}
    for task, result in side_by_side(partial(make_ready, tmp_path), tasks(), 7):
        found[task] = result
        if task == "two":
            assert asked[-1] == "two"
    died = "its process has died"
    assert [found[task] for task in ("broken", "killed", "lost", "fails")] == [
        *("cannot be made", died, died, "out of memory")
    ]
    processes = {found[task]["process"] for task in ("one", "two", "late")}
    assert len(processes - {os.getpid()}) == 3
    log = (tmp_path / "log").read_text().split("\n")
    first = log.index("measured one")
    assert {"ready one", "ready killed", "ready fails", "ready two"} <= set(log[:first])
    assert log.index("ended one") < log.index("measured killed") < log.index("measured two")
    assert log.index("ended two") < log.index("begun late")
