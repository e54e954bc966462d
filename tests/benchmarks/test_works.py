"""Works by real processes, each of which takes milliseconds."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from benchmarks.works import DONE, LOG, Work, carry_out
from vie import VieError


def work(folder, code: str, **given) -> Work:
    return Work(folder.name, folder, given.pop("asked", {}), lambda: [sys.executable, "-c", code], **given)


def test_places_are_shared_out_and_the_first_begin_first(tmp_path):
    code = f"import os; open(r'{tmp_path}/order', 'a').write(os.environ['CUDA_VISIBLE_DEVICES'] + os.environ['MINE'])"
    works = {str(number): work(tmp_path / str(number), f"{code}; print({number})") for number in range(4)}
    assert carry_out(works, 1, ["3"], {"MINE": "x"}) == {}
    assert (tmp_path / "order").read_text() == "3x" * 4
    ended = [(tmp_path / str(number) / DONE).stat().st_mtime_ns for number in range(4)]
    assert ended == sorted(ended)
    assert (tmp_path / "2" / LOG).read_text() == "2\n"
    with pytest.raises(VieError, match="0 runs at a time are none: give at least 1"):
        carry_out(works, 0)


def test_what_fails_is_told_by_its_last_words_and_the_rest_goes_on(tmp_path):
    works = {
        "a": work(tmp_path / "a", "import sys; print('50%\\r60%\\rno such thing', end=''); sys.exit(1)"),
        "b": work(tmp_path / "b", "", needs=["a"]),
        "c": work(tmp_path / "c", ""),
        "d": work(tmp_path / "d", "import os; os._exit(7)"),
        "e": work(tmp_path / "e", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
    }
    errors = carry_out(works, 2)
    assert {key: str(error) for key, error in errors.items()} == {
        "a": "no such thing",
        "b": "a, which it needs, has failed",
        "d": "its process ended with status 7",
        "e": "its process was ended by SIGKILL; the same command goes on from there",
    }
    assert json.loads((tmp_path / "c" / DONE).read_text())["made"] == {}


def test_what_cannot_follow_is_refused_before_its_command(tmp_path):
    def follows(before):
        if before != {"size": 2}:
            raise VieError(f"it was {before['size']}")

    carry_out({"a": work(tmp_path / "a", "raise SystemExit(1)", asked={"size": 1})}, 1)
    errors = carry_out({"a": work(tmp_path / "a", "print('called')", asked={"size": 2}, follows=follows)}, 1)
    assert str(errors["a"]) == "it was 1"
    assert "called" not in (tmp_path / "a" / LOG).read_text()


def test_asked_to_stop_it_asks_its_processes_and_begins_nothing_any_more(tmp_path):
    patient = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit('kept what there is'));"
        f"open(r'{tmp_path}/begun', 'w').close(); time.sleep(60)"
    )
    works = {"a": work(tmp_path / "a", patient), "b": work(tmp_path / "b", "")}

    def stop() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    errors = carry_out(works, 1)
    assert str(errors["a"]) == "kept what there is"
    assert str(errors["b"]) == "stopped by SIGTERM before it began; the same command goes on from there"
    assert not (tmp_path / "b" / LOG).exists()
    del works["a"]
    assert carry_out(works, 1) == {}
