"""`trimtab layers`: the layer analysis of the toxicity experiment, alone."""

from pathlib import Path

from trimtab.cli.run import Pairs


def layers(
    *,
    model: str | None = None,
    recipe: str | None = None,
    config: Path | None = None,
    set: Pairs = None,
    load_existing: Path | None = None,
    challenging_size: int | None = None,
    benign_size: int | None = None,
    runs: Path = Path("runs"),
    **setting: str,
) -> None:
    """Steer at every layer, by every coefficient, on development prompts: which layer is best?

    Parameters
    ----------
    model
        "village" (the model in the package), a Hugging Face id, or a folder.
    recipe
        Settings that come with the package: phi-4-mini, qwen3-8b or village.
    config
        Settings in a YAML file; they override the recipe's.
    set
        Single settings, such as --set k=10 temperature=0; they override the file's.
    load_existing
        The folder of a toxicity run, whose model, prompts and vectors are used; or a published
        experiment_results.json or layer_analysis_results.json, whose analysis is shown as it is.
    challenging_size
        Challenging development prompts to steer.
    benign_size
        Benign development prompts to steer.
    runs
        Where run folders are made.
    setting
        Any setting by its own name; the same as --set.
    """
    from trimtab.cli.progress import progress
    from trimtab.cli.run import settings
    from trimtab.errors import UsageError
    from trimtab.experiments.reports import layers_of_file, plot
    from trimtab.experiments.toxicity import experiment as toxicity
    from trimtab.experiments.toxicity.config import ToxicityConfig
    from trimtab.parsing import read_json

    given = settings(recipe, config, set or (), setting, "toxicity") | (
        {"model": model} if model else {}
    )
    if load_existing and given:
        raise UsageError(
            f"An existing run keeps its settings; found {', '.join(given)} beside --load-existing.",
            "Only --challenging-size and --benign-size may go with it.",
        )
    if load_existing and load_existing.is_file():
        if challenging_size or benign_size:
            raise UsageError(
                f"The analysis in {load_existing} has its prompts, and they cannot be changed.",
                "Leave out --challenging-size and --benign-size, or name a run folder.",
            )
        print("\n".join(layers_of_file(load_existing)))
        return
    with progress() as tell:
        if load_existing:
            folder = toxicity.layers_of(
                load_existing, challenging=challenging_size, benign=benign_size, progress=tell
            )
        else:
            sizes = {"layer_challenging": challenging_size, "layer_benign": benign_size}
            given |= {name: size for name, size in sizes.items() if size is not None}
            folder = toxicity.layers(ToxicityConfig.read(given), runs, tell)
    chosen = read_json(folder / "layers.json")["chosen"]
    print(f"best: layer {chosen['layer']}, coefficient {chosen['coefficient']:g}")
    print(f"plots: {plot(folder / 'layers.json')[0].parent}")
