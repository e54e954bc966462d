"""Works: commands in processes of their own, several at a time, each on a GPU that is free, after those they need."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from signal import Signals
from typing import Any

import torch
from tqdm import tqdm

from vie import VieError
from vie.files import write_text_atomically
from vie.settings import flatten
from vie.stopping import listening

Command = list[str]
Asked = dict[str, Any]
"""What a command is asked for, as JSON has it. No folder of the machine is in it, so that corpora and runs may move."""

DONE = "done.json"
"""What a work's commands were asked for that need not be carried out again."""

LOG = "log.txt"
"""What its commands have printed."""

POLL = 0.5
"""Seconds after which a signal that asks to stop is seen at the latest."""


def _anything(before: Asked) -> None:
    pass


@dataclass(frozen=True)
class Work:
    """What is made in a folder by one command, and then measured by others.

    Attributes:
        name: What errors call it.
        folder: Where it is made.
        to_make: What ``make`` is asked for.
        make: Gives the command, once what it needs is made.
        needs: Keys of the works that come before it.
        to_measure: What each command of ``measure`` is asked for.
        measure: Gives these commands, once it is made.
        follows: Raises ``VieError`` if what was made for one asking cannot be brought to this one, which the command
            would not see.
    """

    name: str
    folder: Path
    to_make: Asked
    make: Callable[[], Command]
    needs: Sequence[str] = ()
    to_measure: Sequence[Asked] = ()
    measure: Callable[[], list[Command]] = list
    follows: Callable[[Asked], None] = _anything

    def done(self) -> dict[str, Any]:
        """What has been carried out: ``made`` for which asking, or null, and ``measured`` for which."""
        path = self.folder / DONE
        return {"begun": None, "made": None, "measured": [], **(json.loads(path.read_text()) if path.exists() else {})}


def asked_of(settings: Any, left_out: Callable[[str], bool] = lambda key: False) -> Asked:
    """The settings that are not the defaults, however they were given: a changed recipe shows in them.

    Args:
        settings: A dataclass with defaults for everything.
        left_out: Which dotted keys change nothing of what is made.
    """

    def plain(values: Any) -> Asked:
        read_back: Asked = json.loads(json.dumps(flatten(asdict(values))))  # tuples become lists, as in a file
        return read_back

    defaults, given = plain(type(settings)()), plain(settings)
    return {key: value for key, value in given.items() if value != defaults.get(key, ...) and not left_out(key)}


def visible_gpus() -> list[str]:
    """Names of the GPUs that works may use, as CUDA_VISIBLE_DEVICES takes them; one empty name if there is none."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return given.split(",")
    return [str(number) for number in range(torch.cuda.device_count())] or [""]


def carry_out(
    works: Mapping[str, Work],
    parallel: int,
    gpus: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> dict[str, Exception]:
    """Carries out whatever of some works has not been carried out, or is asked for otherwise by now.

    What fails keeps nothing else from being carried out, but for what needs it. Asked by a signal to stop, it asks its
    processes, waits for them, and begins nothing any more.

    Args:
        works: By key; what comes first is begun first. One stands after those that it needs.
        parallel: Processes at a time, spread over the GPUs.
        gpus: Their names, as CUDA_VISIBLE_DEVICES takes them; by default all that are visible.
        environment: Variables for all commands, over those of this process.

    Returns:
        What went wrong, by key; works that need a failed one included.

    Raises:
        VieError: There is no place to work at.
    """
    if parallel < 1:
        raise VieError(f"{parallel} runs at a time are none: give at least 1")
    names = list(gpus) or visible_gpus()
    places = [names[number % len(names)] for number in range(parallel)]
    return _Crew(works, places, {**os.environ, **(environment or {})}).carry_out()


class _Crew:
    def __init__(self, works: Mapping[str, Work], places: Sequence[str], environment: dict[str, str]) -> None:
        self.works, self.environment, self.count = works, environment, len(places)
        self.places: SimpleQueue[str] = SimpleQueue()
        for place in places:
            self.places.put(place)
        self.finished: dict[str, BaseException | None] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.stopped = ""

    def carry_out(self) -> dict[str, Exception]:
        waiting = list(self.works)
        running: dict[Future[None], str] = {}
        with (
            ThreadPoolExecutor(self.count) as pool,
            listening() as listener,
            tqdm(total=len(waiting), unit="work", disable=None) as bar,
        ):
            try:
                while waiting or running:
                    if listener.asked and not self.stopped:
                        self._stop(Signals(listener.asked).name)
                    for key in list(waiting):
                        work = self.works[key]
                        if len(running) < self.count and all(needed in self.finished for needed in work.needs):
                            waiting.remove(key)
                            running[pool.submit(self._carry_out, work)] = key
                    for future in wait(running, POLL, FIRST_COMPLETED).done:
                        self.finished[running.pop(future)] = future.exception()
                        bar.update()
            except KeyboardInterrupt:
                self._stop(Signals.SIGINT.name)
                raise
        return {key: error for key in self.works if isinstance(error := self.finished[key], Exception)}

    def _stop(self, signal: str) -> None:
        self.stopped = signal
        for process in list(self.processes):
            process.terminate()

    def _carry_out(self, work: Work) -> None:
        for needed in work.needs:
            if self.finished[needed]:
                raise VieError(f"{self.works[needed].name}, which it needs, has failed")
        done = work.done()
        if done["made"] == work.to_make and all(asked in done["measured"] for asked in work.to_measure):
            return
        if before := done["begun"] or done["made"]:
            work.follows(before)
        work.folder.mkdir(parents=True, exist_ok=True)
        place = self.places.get()
        try:
            if done["made"] != work.to_make:
                # A run that was stopped on its way is no less one of what it was begun as.
                _keep(work, {**done, "begun": work.to_make})
                self._call(work.make(), work.folder, place)
                done = {"begun": work.to_make, "made": work.to_make, "measured": []}
                _keep(work, done)
            for asked, command in zip(work.to_measure, work.measure(), strict=True):
                if asked not in done["measured"]:
                    self._call(command, work.folder, place)
                    done["measured"].append(asked)
                    _keep(work, done)
        finally:
            self.places.put(place)

    def _call(self, command: Command, folder: Path, place: str) -> None:
        if self.stopped:
            raise VieError(f"stopped by {self.stopped} before it began; the same command goes on from there")
        with (folder / LOG).open("ab") as log:
            environment = {**self.environment, "CUDA_VISIBLE_DEVICES": place}
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            self.processes.append(process)
            if self.stopped:  # in between
                process.terminate()
            status = process.wait()
            self.processes.remove(process)
        if status < 0:
            raise VieError(f"its process was ended by {Signals(-status).name}; the same command goes on from there")
        if status:
            raise VieError(_last_words(folder / LOG) or f"its process ended with status {status}")


def _keep(work: Work, done: Mapping[str, Any]) -> None:
    write_text_atomically(work.folder / DONE, json.dumps(done))


def _last_words(log: Path) -> str:
    """What was printed last, where progress bars begin a line anew by a carriage return."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[-600:]
