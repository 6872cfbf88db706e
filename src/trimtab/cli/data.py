"""`trimtab data`: prompt sets that are not in the package."""


def fetch(collection: str, /, *, mirror: str | None = None) -> None:
    """Bring published prompt sets into the cache.

    Checksums are recorded at the first download, and checked afterwards. The sets are then prompt
    sources: --harmful refusal/harmful --harmless refusal/harmless, or any of the names printed.

    Parameters
    ----------
    collection
        refusal: AdvBench, MaliciousInstruct, TDC2023, HarmBench, JailbreakBench, StrongREJECT and
        Alpaca.
    mirror
        A folder or an address with the original files, such as the folder raw of another
        machine's cache.
    """
    from trimtab.data.fetch import cache_folder
    from trimtab.data.fetch import fetch as fetched

    for name, count in fetched(collection, mirror).items():
        print(f"{collection}/{name}: {count} prompts")
    print(f"cache: {cache_folder(collection)}")
