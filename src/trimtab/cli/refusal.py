"""`trimtab run refusal`."""

from pathlib import Path

from trimtab.cli.run import Pairs, settings


def run(
    *,
    model: str | None = None,
    config: Path | None = None,
    set_: Pairs = None,
    runs: Path = Path("runs"),
    **setting: str,
) -> None:
    """Find the direction that mediates refusal, remove it, add it, and measure both.

    The same command again continues a run that was stopped.

    Parameters
    ----------
    model
        "village" (the model in the package), a Hugging Face id, or a folder.
    config
        Settings in a YAML file.
    set_
        Single settings, such as --set n_train=64 kl_threshold=0.2; they override the file's.
    runs
        Where run folders are made.
    setting
        Any setting by its own name, such as --harmful FILE; the same as --set.
    """
    from trimtab.experiments.refusal.config import RefusalConfig

    given = settings(None, config, set_ or (), setting)
    chosen = RefusalConfig.read(given | ({"model": model} if model else {}))

    from trimtab.cli.progress import progress
    from trimtab.experiments.refusal.experiment import run as experiment
    from trimtab.reports import write_refusal_report

    with progress() as tell:
        folder = experiment(chosen, runs, tell)
    print(f"report: {write_refusal_report(folder)}")
