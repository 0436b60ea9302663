"""Create a run, from fresh draws or from another run's members, or go on with one."""

import contextlib
from dataclasses import replace
from pathlib import Path

from pbt import decide, owner, records, storage, store
from pbt.records import Event, Member
from pbt.run import RunConfig

_NAMED_DIFFERENCES = 6
"""Most settings that an error names. Another agent differs in more than a line can hold."""
_FORK_PIN_S = 600.0
"""Seconds for which the checkpoints of a run that trains are kept while they are copied."""


class OtherSettings(ValueError):
    """The directory holds a run with other settings. The message names the first differences."""

    @classmethod
    def of(cls, run_dir: Path, stored: RunConfig, given: RunConfig) -> "OtherSettings":
        """Return the error for a run that has `stored` settings where others are `given`."""
        # What decides priors, such as the agent, comes before them.
        differences = sorted(stored.differences(given), key=lambda one: one.startswith("space."))
        if (more := len(differences) - _NAMED_DIFFERENCES) > 0:
            differences[_NAMED_DIFFERENCES:] = [f"and {more} more"]
        return cls(
            f"{run_dir} holds a run with other settings (stored -> given: "
            f"{'; '.join(differences)}): give the stored ones (only the total steps may grow), or "
            "another directory"
        )


def open_or_create(
    run_dir: Path,
    config: RunConfig,
    fork: Path | None = None,
    *,
    url: str | None = None,
    checkpoints: str | None = None,
    durable: bool = True,
) -> store.Store:
    """Open a run, or create it if it is not there yet. A script begins with this call.

    It may be killed at any point and called again. If several processes call it at the same time,
    one creates the run and the others open it.

    Args:
        run_dir: The run's directory.
        config: The run's settings. A larger `total_steps` extends a run that is there.
        fork: Directory of another run to start from if the run is created, see `create_run`.
        url: The PostgreSQL database that holds the store of the run if it is created.
        checkpoints: Where the checkpoints of the run are if it is created, see `create_run`.
        durable: Whether the files survive a power cut (fsync). False is for toys and tests.

    Raises:
        OtherSettings: There is a run with other settings.
        ValueError: `create_run` refuses the directory or `fork`.
        store.StoreError: The run, or the one to fork, cannot be opened.
        checkpoint.CheckpointError: A checkpoint of `fork` is damaged.
    """
    # Another process may create the run between any look and `create_run`, so only that decides.
    with contextlib.suppress(store.RunExists):
        return create_run(run_dir, config, fork, url=url, checkpoints=checkpoints, durable=durable)
    return resume(run_dir, config, durable=durable)


def resume(run_dir: Path, config: RunConfig, *, durable: bool = True) -> store.Store:
    """Open a run that must have the given settings, and extend it if its total is smaller.

    Args:
        run_dir: The run's directory.
        config: The run's settings. Only `total_steps` may differ. A smaller one changes nothing.
        durable: Whether commits survive a power cut (fsync). False is for toys and tests.

    Raises:
        OtherSettings: The run has other settings.
        store.StoreError: The run cannot be opened.
    """
    run_store = store.Store.open(run_dir, durable=durable)
    try:
        stored = run_store.config
        larger = max(stored.total_steps, config.total_steps)
        if replace(stored, total_steps=larger).differences(replace(config, total_steps=larger)):
            raise OtherSettings.of(run_dir, stored, config)
        if larger > stored.total_steps:
            run_store.extend(larger)
        storage.of(run_dir, durable=durable).adopt(  # its creation was killed, or knew no marks
            run_store.identity(), run_store.referenced_checkpoints()
        )
    except BaseException:
        run_store.close()
        raise
    return run_store


def create_run(
    run_dir: Path,
    config: RunConfig,
    fork: Path | None = None,
    *,
    url: str | None = None,
    checkpoints: str | None = None,
    name: str | None = None,
    durable: bool = True,
) -> store.Store:
    """Create a run and return its open store. If anything is wrong, create nothing.

    Each member draws its first hyperparameters from a generator of its own. So the draws do not
    depend on the population's size, and runs that differ only in their strategy begin alike.

    Args:
        run_dir: The run's directory. It is made if it is missing.
        config: The run's settings.
        fork: Directory of another run to start from. Member i takes over the last weights and
            hyperparameters of member i there, and counts agent steps from 0. Values outside the new
            space are moved to its bounds, and missing ones are drawn. Members that the other run
            does not have, or never trained, begin as in a new run.
        url: The PostgreSQL database that holds the run's store, such as postgresql://host/name,
            without a password. None: SQLite, in the run's directory.
        checkpoints: Folder or URL of the run's checkpoints, such as s3://bucket/run, without keys.
            It is one run's alone. None: `checkpoints` in the run's directory.
        name: A name by which machines that share only the PostgreSQL database find the run.
        durable: Whether the files survive a power cut (fsync). False is for toys and tests.

    Raises:
        store.RunExists: There is a run already. If it was found in the database by its name, the
            directory leads to it now.
        store.NotARun: `fork` is not a run.
        store.StoreError: The database cannot be reached or written to.
        ValueError: `fork` has no checkpoint to start from, `run_dir` holds the checkpoints of a
            run whose store is gone, `checkpoints` does not have those of the run of this name, or
            `url` or `checkpoints` cannot be used.
        checkpoint.CheckpointError: A checkpoint of `fork` is damaged, or the place of the run's
            checkpoints is away.
    """
    place = storage.of(run_dir, checkpoints, durable=durable)
    is_orphaned = place.is_used()  # before the look for the store
    if store.find(run_dir) is not None:
        raise store.RunExists(f"{run_dir} holds a run already: resume it, or choose another one")
    file = store.file_for(run_dir, url)
    is_known = url is not None and name is not None and _is_known(file, url, name, place)
    if is_orphaned and not is_known:
        raise ValueError(
            f"{place} holds the checkpoints of a run whose {file.name} is not in {run_dir}: put "
            f"{file.name} back to go on with that run. For a new one choose another place, or move "
            "the checkpoints away"
        )
    store.check_can_create(file, url)
    members = [
        Member(
            id=member,
            version=0,
            agent_steps=0,
            hyperparameters=config.space.sample(
                decide.generator(config.seed, member, 0, decide.Purpose.INITIAL)
            ),
        )
        for member in range(config.population)
    ]
    sources = [] if fork is None else _trained_members(fork, config.population)
    run_dir.mkdir(parents=True, exist_ok=True)
    storage.record(run_dir, checkpoints)
    events = []
    if fork is not None:
        for source in sources:
            drawn = members[source.id]
            members[source.id], event = _fork(place, fork, source, drawn, config)
            events.append(event)
    run_store = store.Store.create(
        file, config, members, events=events, url=url, name=name, durable=durable
    )
    place.mark(run_store.identity())
    return run_store


def _is_known(file: Path, url: str, name: str, place: storage.Storage) -> bool:
    """Return whether the database has a run of this name; its checkpoints must be in `place`."""
    try:
        with store.Store.open_named(file, url, name) as found:
            if place.adopt(found.identity(), found.referenced_checkpoints()):
                return True
    except store.NotARun:
        return False
    raise ValueError(
        f"the database has the run {name}, and its checkpoints are not in {place}: give the place "
        "with which it was begun, or another database"
    )


def _trained_members(fork: Path, population: int) -> list[Member]:
    """Return a run's first members, as far as they have checkpoints, which are verified."""
    with store.Store.open(fork) as forked:
        members = [member for member in forked.members()[:population] if member.checkpoint]
        if not members:
            raise ValueError(f"{fork} has no checkpoint to start from: nothing was trained there")
        for member in members:
            assert member.checkpoint is not None
            if records.may_go_on(member, forked.config):  # else nothing supersedes it
                with contextlib.suppress(store.StoreError):  # read-only, so nobody trains it
                    forked.pin(member.checkpoint, owner.current(), _FORK_PIN_S)
            storage.of(fork).open_verified(member.checkpoint, member.id, member.version)
    return members


def _fork(
    place: storage.Storage,
    fork: Path,
    source: Member,
    drawn: Member,
    config: RunConfig,
) -> tuple[Member, Event]:
    """Publish another run's checkpoint as version 0 of a member; return it and its event."""
    assert source.checkpoint is not None
    known = {
        name: source.hyperparameters.get(name, value)
        for name, value in drawn.hyperparameters.items()
    }
    member = replace(drawn, hyperparameters=config.space.clip(known))
    details = {
        "run": str(fork.resolve()),
        "member": source.id,
        "version": source.version,
        "agent_steps": source.agent_steps,
        "state": source.state,
        "hyperparameters": dict(source.hyperparameters),
    }
    name = place.child_of(
        source.checkpoint,
        source.id,
        source.version,
        member.id,
        member.version,
        {"hyperparameters": dict(member.hyperparameters), "forked": details},
        donor_root=storage.of(fork).local,
    )
    return replace(member, checkpoint=name), Event("forked", member.id, 0, 0, details)
