"""What the core alone must do: load a model, capture, make a vector, generate and steer.

`make test-core` runs it where nothing but the core is installed; test_core.py runs it with the
imports of the extras refused to trimtab's own modules.
"""

import builtins
import sys
import tempfile
from pathlib import Path
from typing import Any

EXTRAS = {
    "pandas", "datasets", "scipy", "sklearn", "matplotlib", "seaborn", "openai", "trl", "gguf",
    "submitit",
}  # fmt: skip


def refuse_extras() -> None:
    """Make every import of an extra in a module of trimtab fail as if it were not installed."""
    real = builtins.__import__

    def guarded(name: str, given: Any = None, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] in EXTRAS and str((given or {}).get("__name__")).startswith(
            "trimtab"
        ):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, given, *rest, **named)

    builtins.__import__ = guarded


def main() -> None:
    import trimtab as tt
    from trimtab.cli import main as command

    lm = tt.load("village")
    rude, kind = (tt.prompts(f"village/{tone}", split="train").take(8) for tone in ("rude", "kind"))
    states = tt.capture(lm, kind), tt.capture(lm, rude)
    vector = tt.mean_difference(*states)
    with tempfile.TemporaryDirectory() as folder:
        vector.save(Path(folder) / "kind.safetensors")
        vector = tt.load_vector(Path(folder) / "kind.safetensors", model=lm)
    plain, steered = tt.generate(
        lm, rude.take(1), steering=[None, tt.Add(vector, layer=4, coefficient=2.5)],
        max_new_tokens=8,
    )  # fmt: skip
    assert plain.text != steered.text
    tokens = lm.tokenizer(rude[0].text, return_tensors="pt")
    with tt.steer(lm, tt.Ablate(vector, layer=4)):
        lm.model(**tokens)
    assert command(["--version"]) == 0
    try:
        tt.probe(*states)
    except tt.UsageError as error:
        assert "trimtab[experiments]" in str(error), error  # noqa: PT017
    else:
        raise AssertionError("a probe needs scikit-learn, which should not be here")
    assert command(["run", "toxicity", "--runs", tempfile.mkdtemp()]) == 2
    print("the core does its work")


if __name__ == "__main__":
    if "--refuse-extras" in sys.argv:
        refuse_extras()
    main()
