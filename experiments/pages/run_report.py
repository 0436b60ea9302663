"""Write all files of a run's report."""

from pathlib import Path

from experiments.analysis import files, tables
from experiments.analysis.history import History
from experiments.pages import drawing, figures, markup, run_page, summary
from pbt import files as file_system
from pbt import store as stores


def write_report(
    store: stores.Store,
    directory: Path,
    name: str | None = None,
) -> str:
    """Write all files of a report, and replace older ones.

    Args:
        store: The store of the run, which may be training.
        directory: The directory of the report. It is made if it is missing.
        name: The run's name in titles, by default that of its directory.

    Returns:
        The summary, in Markdown.

    Raises:
        OSError: A file could not be written.
    """
    run_dir = store.path.parent
    history = History.read(store, name or run_dir.resolve().name)
    directory.mkdir(parents=True, exist_ok=True)
    file_system.remove_old(directory, ".*.tmp")  # of killed processes
    text = summary.summary(history, run_dir)
    written = {
        "summary.md": text,
        "reports.csv": tables.reports_csv(history),
        "episodes.csv": tables.episodes_csv(history),
        "events.jsonl": tables.events_jsonl(history),
    }
    if history.lineage:
        written["schedule.csv"] = tables.schedule_csv(history.schedule)
    for file_name, content in written.items():
        files.replace(directory / file_name, content)
    drawn = figures.figures(history) if history.reports else {}
    for file_name, figure in drawn.items():
        drawing.save(figure, directory / file_name)
    files.replace(directory / markup.FILE_NAME, run_page.page(history, run_dir, drawn))
    return text
