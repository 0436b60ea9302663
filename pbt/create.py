"""Create a run, from fresh draws or from another run's members."""

from dataclasses import replace
from pathlib import Path

from pbt import checkpoint, decide, store
from pbt.records import Event, Member
from pbt.run import RunConfig


def create_run(
    run_dir: Path, config: RunConfig, fork: Path | None = None, *, durable: bool = True
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
        durable: Whether the files survive a power cut (fsync). False is for toys and tests.

    Raises:
        store.RunExists: There is a run already.
        store.NotARun: `fork` is not a run.
        ValueError: `fork` has no checkpoint to start from.
        checkpoint.CheckpointError: A checkpoint of `fork` is damaged.
    """
    if (run_dir / store.FILE_NAME).exists():
        raise store.RunExists(f"{run_dir} holds a run already: resume it, or choose another one")
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
    events = []
    if fork is not None:
        for source in sources:
            drawn = members[source.id]
            members[source.id], event = _fork(run_dir, fork, source, drawn, config, durable)
            events.append(event)
    run_store = store.Store.create(
        run_dir / store.FILE_NAME, config, members, events=events, durable=durable
    )
    checkpoint.mark(run_dir / "checkpoints", run_store.identity(), durable=durable)
    return run_store


def _trained_members(fork: Path, population: int) -> list[Member]:
    """Return a run's first members, as far as they have checkpoints, which are verified."""
    with store.Store.open(fork) as forked:
        members = [member for member in forked.members()[:population] if member.checkpoint]
    if not members:
        raise ValueError(f"{fork} has no checkpoint to start from: nothing was trained there")
    for member in members:
        assert member.checkpoint is not None
        checkpoint.open_verified(fork / "checkpoints", member.checkpoint, member.id, member.version)
    return members


def _fork(
    run_dir: Path,
    fork: Path,
    source: Member,
    drawn: Member,
    config: RunConfig,
    durable: bool,
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
    name = checkpoint.child_of(
        run_dir / "checkpoints",
        source.checkpoint,
        source.id,
        source.version,
        member.id,
        member.version,
        {"hyperparameters": dict(member.hyperparameters), "forked": details},
        donor_root=fork / "checkpoints",
        durable=durable,
    )
    return replace(member, checkpoint=name), Event("forked", member.id, 0, 0, details)
