# SPDX-License-Identifier: Apache-2.0
"""The search itself: an Optuna study in a storage that processes and machines share.

A storage holds one exploration. What its trials depend on is written into it: the space, the model,
the recipes' quality, and a hash of the cycle model and of the synthesised figures, so that trials
of different versions are never compared.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lutvar
from lutvar.files import json_text, make_folder
from lutvar.sources import sources_hash

from .space import ExploreError, Steps, Value
from .trial import OBJECTIVES, Task, Worth, evaluate

if TYPE_CHECKING:
    import optuna

FORMAT = "lutvar-explore-1"
_NAME = "lutvar explore"
#: Trials drawn at random before the sampler has something to go by.
_STARTUP = 24
#: Times that a storage is opened which another process is making.
_PATIENCE = 5
#: What the speed and the resources of a candidate are computed by.
_SOURCES = ("contract", "host/compile", "sim/model", "sim/explore")


def model_hash() -> str:
    """Hash of the code and data that judge a candidate: contract, compiler, cycle model, costs."""
    return sources_hash(*_SOURCES)[:24]


def identity(task: Task) -> dict[str, Any]:
    """What the trials of a task depend on, as it is kept in a storage."""
    quality = {name: asdict(quality) for name, quality in sorted(task.quality.items())}
    points = None if task.points is None else [point.as_dict() for point in task.points]
    judged = json_text([quality, asdict(task.shape), task.guided, points], sort_keys=True)
    return {
        "format": FORMAT,
        "lutvar": lutvar.__version__,
        "code": model_hash(),
        "model": task.model,
        "space": task.space.name,
        "fingerprint": task.space.fingerprint(),
        "judged": hashlib.sha256(judged.encode()).hexdigest()[:24],
    }


class Exploration:
    """An exploration in its storage.

    Args:
        task: what is searched and how it is judged.
        storage: a file (Optuna's journal, which a network file system can share), or a URL of a
            database, such as sqlite:///FILE.
        seed: of the sampler; the trials that are there count too, so that going on draws new ones.

    Raises:
        ExploreError: the storage holds another exploration, is of another version, or is none.
    """

    def __init__(self, task: Task, storage: str, seed: int = 0) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        self.task, self.storage, self.seed = task, storage, seed
        self._optuna = optuna
        kinds = optuna.study.StudyDirection
        directions = [kinds.MAXIMIZE if OBJECTIVES[n] else kinds.MINIMIZE for n in task.objectives]
        for patience in reversed(range(_PATIENCE)):
            try:
                backend = _backend(storage)
                known = {s.study_name: s for s in optuna.get_all_study_summaries(backend)}
                self._check(known)
                self.study = optuna.create_study(
                    storage=backend, study_name=_NAME, directions=directions, load_if_exists=True,
                    sampler=self._sampler(0),
                )  # fmt: skip
                break
            except ExploreError:
                raise
            except Exception as error:  # Optuna's or the database's
                # Of two that begin a database at once one fails, and finds it made the next time.
                if not patience or not type(error).__module__.startswith("sqlalchemy"):
                    raise ExploreError(
                        f"storage {storage}: cannot be used ({_first_line(error)}); take another "
                        "--storage"
                    ) from None
                time.sleep(0.5)
        for key, value in identity(task).items():
            if self.study.user_attrs.get(key) != value:
                self.study.set_user_attr(key, value)

    def _sampler(self, worker: int) -> optuna.samplers.BaseSampler:
        before = len(self.study.trials) if hasattr(self, "study") else 0
        mixed = hashlib.sha256(f"{self.seed} {worker} {before}".encode()).digest()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # multivariate sampling is called experimental
            return self._optuna.samplers.TPESampler(
                seed=int.from_bytes(mixed[:4], "big"), multivariate=True, n_startup_trials=_STARTUP
            )

    def _check(self, studies: Mapping[str, Any]) -> None:
        """Refuse a storage with other studies, or with trials that do not compare."""
        where = f"storage {self.storage}"
        if not studies:
            return
        if _NAME not in studies:
            raise ExploreError(f"{where}: holds {', '.join(studies)}; take another --storage")
        own, there = identity(self.task), studies[_NAME].user_attrs
        if not there:
            return  # another process has made it just now
        for key, what in (
            ("format", "is of another version"),
            ("model", "is of another model"),
            ("fingerprint", "is of another space"),
            ("judged", "was judged by other figures of recipes, units or model"),
            ("lutvar", "is of another version of lutvar"),
            ("code", "was made with another cycle model or other synthesised figures"),
        ):
            if key in there and there[key] != own[key]:
                name = "space" if key == "fingerprint" else key
                values = f" ({there[name]}, now {own[name]})" if there[name] != own[name] else ""
                raise ExploreError(f"{where}: {what}{values}; take another --storage")

    def worths(self) -> list[Worth]:
        """Every candidate that has been judged, each once, in the order of its first trial."""
        return list(self._judged().values())

    def _judged(self) -> dict[str, Worth]:
        states = (self._optuna.trial.TrialState.COMPLETE,)
        found: dict[str, Worth] = {}
        for trial in self.study.get_trials(deepcopy=False, states=states):
            if "worth" in trial.user_attrs:
                worth = Worth.of(trial.user_attrs["worth"])
                found.setdefault(_key(worth.values), worth)
        return found

    @property
    def trials(self) -> int:
        """Trials that are done, candidates that came up again among them."""
        return sum(t.state.is_finished() for t in self.study.get_trials(deepcopy=False))

    def run(
        self, trials: int, worker: int = 0, *,
        first: Iterable[Mapping[str, Value]] = (),
        on_trial: Callable[[Exploration], None] | None = None,
    ) -> None:  # fmt: skip
        """Try candidates until the storage has so many trials, whoever made them.

        A space that is not larger is tried as a whole, in order; otherwise the sampler chooses.

        Args:
            worker: of several in one run, so that each draws other candidates.
            first: candidates to try before the sampler's, such as the shipped sizes.
        """
        if self.task.space.size <= trials:
            self._run_all(on_trial)
            return
        known = self._judged()
        if worker == 0 and not self.trials:
            for values in first:
                self.study.enqueue_trial(dict(values), skip_if_exists=True)
        self.study.sampler = self._sampler(worker)
        while self.trials < trials:
            trial = self.study.ask()
            values = self._suggest(trial)
            worth = known.get(_key(values)) or evaluate(self.task, values)
            known[_key(values)] = worth
            trial.set_user_attr("worth", worth.as_dict())
            for name, excess in worth.excess.items():
                trial.set_constraint(name, excess)
            self.study.tell(trial, [worth.objective(name) for name in self.task.objectives])
            if on_trial is not None:
                on_trial(self)

    def _run_all(self, on_trial: Callable[[Exploration], None] | None) -> None:
        """Every candidate that nobody has tried; two processes may try one of them both."""
        distributions, known = self._distributions(), self._judged()
        for values in self.task.space.candidates():
            if self.trials > len(known):
                known = self._judged()  # others have been at work
            if _key(values) in known:
                continue
            known[_key(values)] = worth = evaluate(self.task, values)
            self.study.add_trial(
                self._optuna.trial.create_trial(
                    values=[worth.objective(name) for name in self.task.objectives],
                    params=values, distributions=distributions, constraints=worth.excess,
                    user_attrs={"worth": worth.as_dict()},
                )
            )  # fmt: skip
            if on_trial is not None:
                on_trial(self)

    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        kinds = self._optuna.distributions
        found: dict[str, optuna.distributions.BaseDistribution] = {}
        for key, values in self.task.space.dimensions.items():
            steps = self.task.space.fields.get(key)
            if isinstance(steps, Steps):
                high = steps.low + (len(values) - 1) * steps.step
                found[key] = kinds.IntDistribution(steps.low, high, step=steps.step)
            else:
                found[key] = kinds.CategoricalDistribution(values)
        return found

    def _suggest(self, trial: optuna.trial.Trial) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for key, kind in self._distributions().items():
            if isinstance(kind, self._optuna.distributions.IntDistribution):
                found[key] = trial.suggest_int(key, kind.low, kind.high, step=kind.step)
            else:
                value = trial.suggest_categorical(key, self.task.space.dimensions[key])
                assert value is not None  # no dimension has it as a value
                found[key] = value
        return found


def _backend(storage: str) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if "://" in storage:
        # SQLite locks the whole file while a process writes.
        arguments = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
        return optuna.storages.RDBStorage(storage, engine_kwargs=arguments)
    path = Path(storage)
    make_folder(path.parent)
    _check_journal(path)
    return optuna.storages.JournalStorage(JournalFileBackend(storage))


def _check_journal(path: Path) -> None:
    """Raise ExploreError for a file that is no journal: Optuna would write behind what is there."""
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return
    with path.open("rb") as file:
        line = file.readline(1 << 16)
    try:
        good = "op_code" in json.loads(line)
    except (ValueError, TypeError):
        good = False
    if not good:
        raise ExploreError(f"storage {path}: cannot be used (no journal); take another --storage")


def _key(values: Mapping[str, Value]) -> str:
    return json_text(dict(values), sort_keys=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
