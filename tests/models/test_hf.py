"""Models of transformers with adapters of peft: the formula, what is frozen, rank rows, prices, padding, missing weights; the real small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from airloom.errors import MissingExtra, ScenarioError
from airloom.models import hf
from airloom.models.batch import Batch, Batches
from airloom.models.fast import Fast
from airloom.models.hf import hf_lora
from airloom.models.lora import adapters, fold, thaw
from airloom.models.objective import CrossEntropy, NextToken
from airloom.models.price import gradient_flops
from airloom.models.submodel import layers, ranks
from airloom.models.train import forward, train

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

SMALL: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50, "hidden_size": 16}
IDS = torch.randint(3, 50, (3, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny causal model."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=1)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny encoder, without a classifier."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**SMALL)).save_pretrained(folder)
    return folder


def test_a_causal_model_starts_as_its_base_and_follows_the_formula(llama: Path) -> None:
    spec = hf_lora(llama, rank=4, alpha=6.0, targets=["q_proj", "down_proj"])
    # per layer: q (16 + 16) r, down (32 + 16) r
    assert spec.size == 2 * 4 * (32 + 48) and spec.rank == 4 and len(spec.pairs) == 4
    plain = transformers.LlamaForCausalLM.from_pretrained(llama).eval()
    x = spec.initial(0)
    torch.testing.assert_close(forward(x, IDS), plain(IDS).logits.detach())
    # W + (alpha / r) B A in every targeted layer of the plain model
    y = x + x.spec.params(0.1 * torch.randn(x.spec.size, generator=torch.Generator().manual_seed(1)))
    named = y.named()
    for pair in spec.pairs:
        a, b = spec.pair_leaves(pair)
        block, _, rest = pair.partition(".layer.")
        layer = plain.get_submodule(f"model.layers.{int(block.removeprefix('block')) - 1}.{rest}")
        layer.weight.data += 6.0 / 4 * named[b] @ named[a]
    torch.testing.assert_close(forward(y, IDS), plain(IDS).logits.detach(), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny causal model whose positions are learned."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=16, **off)).save_pretrained(
        folder
    )
    return folder


@pytest.mark.parametrize("folder", ["llama", "gpt2"])
@pytest.mark.parametrize("head", ["causal", "classification"])
def test_runs_of_layers_are_models(folder: str, head: Any, request: pytest.FixtureRequest) -> None:
    path, classes = request.getfixturevalue(folder), 3 if head == "classification" else None
    spec = hf_lora(path, rank=2, head=head, classes=classes)
    assert [n for n in spec.layers if n != "out"] == ["embed", "block1", "block2", "norm"]  # out is not its own where it is the embedding again
    x = spec.initial(0) + spec.params(0.1 * torch.randn(spec.size, generator=torch.Generator().manual_seed(1)))
    ids = torch.cat([IDS, torch.zeros(3, 2, dtype=torch.long)], dim=1)  # padding
    whole, depth = forward(x, ids), len(spec.layers)
    for cut in range(1, depth):
        h = forward(x[layers(0, cut)], ids)
        assert torch.equal(forward(x[layers(cut, depth)], h), whole)


@pytest.mark.parametrize("folder", ["llama", "gpt2"])
def test_a_classifier_of_a_causal_model_reads_the_last_token_of_the_text(folder: str, request: pytest.FixtureRequest) -> None:
    spec = hf_lora(request.getfixturevalue(folder), rank=2, head="classification", classes=3)
    kind = transformers.AutoModelForSequenceClassification
    plain = kind.from_pretrained(request.getfixturevalue(folder), num_labels=3, pad_token_id=0).eval()
    x = spec.initial(0)
    plain.score.weight.data = x.named()["out.weight"]
    ids = torch.cat([IDS, torch.zeros(3, 2, dtype=torch.long)], dim=1)
    torch.testing.assert_close(forward(x, ids), plain(ids, attention_mask=(ids != 0).long()).logits.detach(), rtol=1e-5, atol=1e-6)


def test_rank_rows_are_models_with_their_own_scale(llama: Path) -> None:
    spec = hf_lora(llama, rank=4, targets=["q_proj"])
    y = spec.initial(0) + 0.05
    sub = ranks([1, 3], scale=4 / 2)
    zeroed = y.zeros() | y[sub]
    for pair in spec.pairs:  # twice the rows of B and none of the others
        assert spec.slice(sub).scale[pair] == 2.0
    doubled = spec.slice(ranks(range(4), scale=2.0))
    torch.testing.assert_close(forward(y[sub], IDS), forward(doubled.params(zeroed.flat), IDS))
    batches = Batches(IDS[None, :, :-1], IDS[None, :, 1:])
    small, _ = train(y[sub], batches, lr=0.1, objective=NextToken())
    large, _ = train(doubled.params(zeroed.flat), batches, lr=0.1, objective=NextToken(), only=ranks([1, 3]))
    torch.testing.assert_close((y.zeros() | small).flat, large.flat, rtol=1e-5, atol=1e-6)


def test_products_are_folded_into_a_copy_of_the_weights(llama: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=16, vocab_size=50)).save_pretrained(tmp_path)
    for where, targets in ((llama, ["q_proj", "down_proj"]), (tmp_path, ["c_attn"])):  # GPT-2 keeps its matrices the other way round
        spec = hf_lora(where, rank=2, alpha=6.0, targets=targets)
        x = spec.initial(0)
        before = forward(x, IDS)
        y = x + x.spec.params(0.1 * torch.randn(x.spec.size, generator=torch.Generator().manual_seed(1)))
        w = fold(thaw(y), [thaw(y)], [1.0])
        torch.testing.assert_close(forward(w | w[adapters(w.spec)].zeros(), IDS), forward(y, IDS), rtol=1e-4, atol=1e-5)
        assert torch.equal(forward(x, IDS), before)  # the frozen base is as it was


def test_prices_need_no_contents(llama: Path, bert: Path) -> None:
    labels = torch.zeros(3, dtype=torch.long, device="meta")
    causal = hf_lora(llama, rank=2)
    assert gradient_flops(causal, Batch(IDS.to("meta"), IDS.to("meta")), NextToken()) > 0
    for folder in (llama, bert):
        flops = [
            gradient_flops(hf_lora(folder, rank=r, head="classification", classes=3), Batch(IDS.to("meta"), labels), CrossEntropy()) for r in (1, 4)
        ]
        assert 0 < flops[0] < flops[1]


def test_a_classifier_has_a_new_head_that_is_trained(bert: Path) -> None:
    spec = hf_lora(bert, rank=2, head="classification", classes=3)
    assert "classifier" in spec.components
    one, two = spec.initial(0).named(), spec.initial(1).named()
    assert not torch.equal(one["inner.classifier.weight"], two["inner.classifier.weight"])
    batches = Batches(IDS[None].repeat(4, 1, 1), torch.tensor([0, 1, 2])[None].repeat(4, 1))
    x, log = train(spec.initial(0), batches, lr=0.5)
    assert train(x, batches, lr=0.5)[1].loss < log.loss and forward(x, IDS).shape == (3, 3)


def test_the_fast_path_takes_its_steps_whole_and_sketched(llama: Path, bert: Path) -> None:
    labels, batches = torch.tensor([0, 1, 2])[None].repeat(3, 1), IDS[None].repeat(3, 1, 1)
    worlds = [
        (hf_lora(llama, rank=4), Batches(batches[..., :-1].contiguous(), batches[..., 1:].contiguous()), NextToken()),
        *[(hf_lora(folder, rank=4, head="classification", classes=3), Batches(batches, labels), CrossEntropy()) for folder in (llama, bert)],
    ]
    for spec, data, objective in worlds:
        for x, clip_norm in ((spec.initial(0), 0.5), (spec.initial(0)[ranks([1, 3], scale=2.0)], None)):
            fast = Fast("replay")
            eager, quick = (train(x, data, lr=0.1, objective=objective, clip_norm=clip_norm, trainer=t)[0] for t in (Fast("off"), fast))
            assert not fast.fallbacks
            # three steps in float32: rounding moves values of order one by some 1e-6
            torch.testing.assert_close(quick.flat, eager.flat, rtol=1e-4, atol=1e-4)


def test_padding_at_the_right_changes_nothing(llama: Path, bert: Path) -> None:
    for folder in (llama, bert):
        spec = hf_lora(folder, rank=2, head="classification", classes=3)
        x = spec.initial(0)
        padded = torch.cat([IDS, torch.zeros(3, 4, dtype=torch.long)], dim=1)
        torch.testing.assert_close(forward(x, padded), forward(x, IDS), rtol=1e-4, atol=1e-5)


def test_keys_tell_scales_and_settings_apart(llama: Path) -> None:
    keys = {hf_lora(llama, rank=2, alpha=alpha, scaling=scaling).key for alpha in (2.0, 4.0) for scaling in ("alpha/r", "alpha/sqrt(r)")}  # type: ignore[arg-type]
    assert len(keys) == 4 and hf_lora(llama, rank=2).key == hf_lora(llama, rank=2).key


def test_missing_weights_are_named_and_nothing_is_downloaded(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="there is no such folder; download the model before"):
        hf_lora("meta-llama/Llama-3.2-1B", rank=2)
    with pytest.raises(ScenarioError, match=r"config\.json is not there"):
        hf_lora(tmp_path, rank=2)
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    with pytest.raises(ScenarioError, match=r"no weights \(\*\.safetensors\) in it; put model\.safetensors there"):
        hf_lora(tmp_path, rank=2)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ScenarioError, match=r"convert pytorch_model\.bin with save_pretrained first"):
        hf_lora(tmp_path, rank=2)
    from safetensors.torch import load_file, save_file

    half = {name: value for name, value in load_file(llama / "model.safetensors").items() if "layers.1." not in name}
    save_file(half, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ScenarioError, match=r"weights are missing for \['model\.layers\.1"):
        hf_lora(tmp_path, rank=2)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rank": 0}, "rank at least 1"),
        ({"rank": 2, "dropout": 1.0}, r"dropout in \[0, 1\)"),
        ({"rank": 2, "classes": 3}, "classes >= 2 with head='classification'"),
        ({"rank": 2, "head": "classification"}, "classes >= 2 with head='classification'"),
        ({"rank": 2, "targets": ["nothing"]}, r"no layer matches; allowed are \[.*'q_proj'"),
    ],
)
def test_bad_arguments_are_refused(llama: Path, options: dict[str, Any], what: str) -> None:
    with pytest.raises(ScenarioError, match=what):
        hf_lora(llama, **options)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, llama: Path) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(hf, "import_module", absent)
    with pytest.raises(MissingExtra, match=r"airloom\[hf\]"):
        hf_lora(llama, rank=2)


def test_the_small_pretrained_models_know_stories(data_folder: Path) -> None:
    from airloom.tasks.tokenizer import beside

    for file, most in (("stories260k/stories260K.bin", 1.0), ("babyllama105/model5000.bin", 0.6)):
        path = data_folder / "lm" / file
        ids = torch.tensor([beside(path).ids("Once upon a time, there was a little girl named Lily. She loved to play with her toys in the park.")])
        out = forward(hf_lora(path, rank=2).initial(0), ids[:, :-1])
        assert F.cross_entropy(out[0], ids[0, 1:]).item() < most  # nats per token; a guess is 6.2 and 4.7
