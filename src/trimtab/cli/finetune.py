"""`trimtab run finetune`: what fine-tuning does to a trait, and what steering does to that."""

from pathlib import Path

from trimtab.cli.run import Pairs, settings


def run(
    *,
    config: Path | None = None,
    set_: Pairs = None,
    runs: Path = Path("runs"),
    **setting: str,
) -> None:
    """Fine-tune the village on trait-laden data plainly and steered, and foresee the shift.

    The same command again continues a run that was stopped.

    Parameters
    ----------
    config
        Settings in a YAML file.
    set_
        Single settings, such as --set trait=optimistic seeds=[0]; they override the file's.
    runs
        Where run folders are made.
    setting
        Any setting by its own name, such as --trait optimistic; the same as --set.
    """
    from trimtab.experiments.finetune.config import FinetuneConfig

    chosen = FinetuneConfig.read(settings(None, config, set_ or (), setting))

    from trimtab.cli.progress import progress
    from trimtab.experiments.finetune.experiment import run as experiment
    from trimtab.reports import write_finetune_report

    with progress() as tell:
        folder = experiment(chosen, runs, tell)
    print(f"report: {write_finetune_report(folder)}")
