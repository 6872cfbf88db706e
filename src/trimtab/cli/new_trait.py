"""`trimtab persona new-trait`: a trait written by a language model."""

from pathlib import Path


def new_trait(
    name: str,
    /,
    *,
    description: str,
    out: Path = Path("."),
    writer: str = "gpt-4.1",
    url: str | None = None,
) -> None:
    """Have a language model write a trait: instruction pairs, questions, evaluation prompt.

    What it writes is checked and shown; edit the two files before you use them.

    Parameters
    ----------
    name
        One word, such as "sarcastic".
    description
        What the trait is.
    out
        A folder; trait_data_extract/ and trait_data_eval/ are made in it.
    writer
        The model that writes.
    url
        An OpenAI-compatible endpoint.
    """
    from trimtab.experiments.persona.new_trait import new_trait as write

    for path, trait in write(name, description, out, writer, url):
        print(f"{path}: {len(trait.instructions)} pairs, {len(trait.questions)} questions")
    for positive, negative in trait.instructions:
        print(f"  + {positive}\n  - {negative}")
    print(f"Edit them, then: trimtab run persona --traits {name} --trait_folder {out}")
