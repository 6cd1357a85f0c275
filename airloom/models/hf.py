"""Language models of `transformers` with adapters of `peft`, read from a local folder; nothing is downloaded.

The frozen base belongs to the spec and stays at the device (`frozen_bytes`); the vector holds the adapters, and a head where there is one, alone.

Shapes: B samples, T positions, V vocabulary, C classes.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from airloom.errors import MissingExtra, ScenarioError
from airloom.models.hf_stack import stack
from airloom.models.llama2c import read_llama2c
from airloom.models.module import ModelSpec, model
from airloom.models.train import forward

Head = Literal["causal", "classification"]
_AUTO = {"causal": "AutoModelForCausalLM", "classification": "AutoModelForSequenceClassification"}
_LLAMA = {"causal": "LlamaForCausalLM", "classification": "LlamaForSequenceClassification"}


@final
class TextModel(nn.Module):
    """Token ids [B, T], padded at the right, to logits: [B, T, V], or [B, C] of a classifier."""

    def __init__(self, inner: Any, pad: int | None) -> None:
        super().__init__()
        self.inner = inner
        self.pad = pad  # None: the model reads from left to right, so padding at the right is never seen and needs no mask
        self.settings: str = inner.config.to_json_string(use_diff=False)  # all that its parameters do not show: part of the spec's key

    def forward(self, ids_BT: Tensor) -> Tensor:
        if self.pad is None:
            return self.inner(input_ids=ids_BT, use_cache=False).logits
        is_pad_B11T = (ids_BT == self.pad)[:, None, None, :]
        lowest = torch.finfo(torch.float32).min
        mask_B1TT = torch.zeros(is_pad_B11T.shape, device=ids_BT.device).masked_fill(is_pad_B11T, lowest).expand(-1, -1, ids_BT.shape[1], -1)
        return self.inner(input_ids=ids_BT, attention_mask=mask_B1TT).logits


def hf_lora(
    path: Path | str,
    *,
    rank: int,
    alpha: float | None = None,
    scaling: Literal["alpha/r", "alpha/sqrt(r)"] = "alpha/r",
    targets: Sequence[str] | None = None,
    head: Head = "causal",
    classes: int | None = None,
    dropout: float = 0.0,
    name: str | None = None,
) -> ModelSpec:
    """Return the spec of a pretrained language model's adapters, one pair per targeted linear layer, as `airloom.models.lora.lora` does for others.

    `(in + out) r` values per pair, and the head of a classifier, which is drawn anew and trained in full. Causal models built like Llama or
    GPT-2 have the layers `embed, block1, ..., norm, out`, so that they can be cut (see `hf_stack`); others are one layer, `inner`.

    Paper: E. J. Hu, Y. Shen, P. Wallis et al., "LoRA", 2021, arXiv 2106.09685; the layers are those of peft.

    Arguments
    ---------
    path: a folder as `save_pretrained` writes it (config.json and *.safetensors), or a file of llama2.c (*.bin).
    rank: r, the same for all pairs, at least 1.
    alpha: numerator of the scale; None for `rank`. scaling: as in `lora`.
    targets: last names of linear layers, such as "q_proj"; None takes peft's choice for the architecture.
    head: "causal" predicts next tokens, "classification" one class per text.
    classes: of a classifier, at least 2.
    dropout: on the input of the adapters, 0 to 1.
    name: for messages; default the folder's.

    Raises
    ------
    MissingExtra: transformers or peft is not installed.
    ScenarioError: no such folder, no weights in it, weights of another architecture, or no layer that matches.
    """
    where = Path(path).expanduser()
    if rank < 1 or not 0.0 <= dropout < 1.0:
        raise ScenarioError(f"hf_lora(rank={rank}, dropout={dropout}): allowed: rank at least 1, dropout in [0, 1)")
    if (head == "classification") != (classes is not None) or (classes is not None and classes < 2):
        raise ScenarioError(f"hf_lora(head={head!r}, classes={classes}): allowed: classes >= 2 with head='classification', None with 'causal'")
    peft = _library("peft")
    base, fresh = _read(where, head, classes)
    pad = base.config.pad_token_id or 0 if _sees_ahead(base) else None
    if pad is None:
        base.set_attn_implementation(_causal_attention())
    frozen, last = {id(p): p for p in base.parameters()}, fresh[0] if len(fresh) == 1 else "lm_head"
    options = {"r": rank, "lora_alpha": rank if alpha is None else alpha, "lora_dropout": dropout, "use_rslora": scaling == "alpha/sqrt(r)"}
    config = peft.LoraConfig(**options, target_modules=None if targets is None else list(targets))

    def build() -> nn.Module:
        inner = copy.deepcopy(base, memo=dict(frozen))
        for head_name in fresh:
            _draw(inner, head_name, base.config.initializer_range)
        inner = _injected(peft, config, inner, where)
        for head_name in fresh:
            inner.get_submodule(head_name).requires_grad_(True)
        layered = stack(inner, last, None if head == "causal" else base.config.pad_token_id) if pad is None else None
        return TextModel(inner, pad) if layered is None else layered

    is_layered = isinstance(build(), nn.Sequential)
    components = {"classifier": ["out"] if is_layered else [f"inner.{n}" for n in fresh]} if fresh else None
    return model(build, components=components, dtype=next(base.parameters()).dtype, name=where.name if name is None else name)


def outputs(spec: ModelSpec) -> int:
    """How many tokens a causal model can say: often more than its tokenizer has ids."""
    return int(forward(spec.initial(0), torch.zeros(1, 1, dtype=torch.int64)).shape[-1])


def causal(path: Path | str) -> Any:
    """Return a pretrained causal language model of `transformers` as it is, frozen, from a local folder or a file of llama2.c.

    Raises
    ------
    MissingExtra: transformers is not installed.
    ScenarioError: no such folder, no weights in it, or weights of another architecture.
    """
    return _read(Path(path).expanduser(), "causal", None)[0]


def _library(name: str) -> Any:
    """Import an optional package that must not reach for the network."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra("hf", "a language model of transformers") from error


def _causal_attention() -> str:
    """The name of attention without a mask: looking for padding would read the contents of the tokens, which a dry run does not have."""
    interface = import_module("transformers").AttentionInterface
    interface.register("airloom_causal", import_module("transformers.integrations.sdpa_attention").sdpa_attention_forward)
    return "airloom_causal"


def _sees_ahead(base: Any) -> bool:
    """Whether the features of a token depend on what comes after it, so that padding must be masked."""
    with torch.no_grad():
        ids_BT = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]])
        first_BD = base.base_model(input_ids=ids_BT).last_hidden_state[:, 0]
    return not torch.allclose(first_BD[0], first_BD[1])


def _read(where: Path, head: Head, classes: int | None) -> tuple[Any, list[str]]:
    """Return the pretrained model, frozen, and the names of its modules that have no weights yet."""
    transformers = _library("transformers")
    labels = {} if classes is None else {"num_labels": classes}
    if where.suffix == ".bin" and where.is_file():
        settings, weights = read_llama2c(where)
        config = transformers.LlamaConfig(**settings, pad_token_id=0, **labels)
        base = getattr(transformers, _LLAMA[head])(config)
        missing, unknown = base.load_state_dict(weights, strict=False)
        missing = [key for key in missing if key != "lm_head.weight" or not config.tie_word_embeddings]
        unknown = [key for key in unknown if key != "lm_head.weight"]
    else:
        _look(where)
        auto = getattr(transformers, _AUTO[head])
        told = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # that a new head has no weights yet is no news
        try:
            base, info = auto.from_pretrained(str(where), local_files_only=True, use_safetensors=True, output_loading_info=True, **labels)
        except (OSError, ValueError, KeyError) as error:
            raise ScenarioError(f"hf_lora('{where}'): it cannot be read as a {head} model ({error}); give a folder of `save_pretrained`") from error
        finally:
            transformers.logging.set_verbosity(told)
        missing, unknown = list(info["missing_keys"]), []
        if head == "classification" and base.config.pad_token_id is None:
            base.config.pad_token_id = 0
    fresh = sorted({".".join(key.split(".")[:-1]) for key in missing})
    lost = [n for n in fresh if n.startswith(f"{base.base_model_prefix}.") and "pooler" not in n]  # all else is a new head
    if lost or unknown:
        raise ScenarioError(
            f"hf_lora('{where}'): weights are missing for {(lost + unknown)[:5]}; give the whole model, of the architecture in its config"
        )
    base.config.use_cache = False
    return base.eval().requires_grad_(False), fresh


def _look(where: Path) -> None:
    """Refuse a folder that is not there or holds no weights, before transformers would look for it on the network."""
    if not where.is_dir():
        raise ScenarioError(f"hf_lora('{where}'): there is no such folder; download the model before and give its folder, nothing is downloaded here")
    if not (where / "config.json").is_file():
        raise ScenarioError(f"hf_lora('{where}'): config.json is not there; give a folder as `save_pretrained` writes it")
    if not any(where.glob("*.safetensors")):
        pickled = sorted(file.name for file in (*where.glob("*.bin"), *where.glob("*.pt"), *where.glob("*.pth")))
        hint = f"convert {pickled[0]} with save_pretrained first, pickled files are not read" if pickled else "put model.safetensors there"
        raise ScenarioError(f"hf_lora('{where}'): there are no weights (*.safetensors) in it; {hint}")


def _draw(inner: nn.Module, name: str, std: float) -> None:
    """Draw the weights of a new head from the present random state, as its architecture would."""
    for child in inner.get_submodule(name).modules():
        if isinstance(child, nn.Linear):
            child.weight = nn.Parameter(torch.empty_like(child.weight).normal_(std=std))
            if child.bias is not None:
                child.bias = nn.Parameter(torch.zeros_like(child.bias))


def _injected(peft: Any, config: Any, inner: nn.Module, where: Path) -> nn.Module:
    """Put the adapters in; their names stay those of the model."""
    inject: Callable[..., nn.Module] = peft.inject_adapter_in_model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that GPT-2 stores its matrices the other way round
            return inject(config, inner)
    except ValueError as error:
        linear = sorted({path.rpartition(".")[2] for path, child in inner.named_modules() if isinstance(child, nn.Linear)})
        raise ScenarioError(f"hf_lora('{where}', targets={config.target_modules}): no layer matches; allowed are {linear}") from error
