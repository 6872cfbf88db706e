"""`trimtab plot`: the pictures and the page again, from saved results alone."""

from pathlib import Path


def plot(source: Path, /, *, output: Path | None = None) -> None:
    """Draw the plots again, PNG and PDF; for a run folder the report too.

    Parameters
    ----------
    source
        A run folder, its results.json, or a published experiment_results.json.
    output
        Where the plots go; left out: plots/ beside the results.
    """
    from trimtab.experiments import reports
    from trimtab.runs.page import saved

    with saved(source):
        if source.is_dir() and output is None:
            print(f"report: {reports.write_report(source)}")
            return
        files = reports.plot(source, output)
    print(f"plots: {len(files)} files in {files[0].parent}")
