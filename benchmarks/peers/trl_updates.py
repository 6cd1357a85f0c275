"""Updates of TRL on a tiny model drawn here, written as tensors for `benchmarks/trl.py`; runs in an environment of its own, without airloom.

    python trl_updates.py FILE.safetensors

Per kind ("grpo", "dr_grpo", "rloo"): two updates on the same samples, so that the second has ratios away from 1 and some of them are clipped.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

WORDS = ["<pad>", "<eos>", *"abcdefghijklmn"]
SHAPE = {
    "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
}  # fmt: skip
GROUP, PROMPTS, LENGTH, EPS_LOW, EPS_HIGH, LR = 4, 3, 10, 0.2, 0.28, 0.002


def reward(completions: list[str], **_: Any) -> list[float]:
    """How often the completion says "a", as a share, and a little for its length: groups differ within and between each other."""
    return [c.split().count("a") + 0.1 * len(c.split()) for c in completions]


def watched(trainer_class: Any, watch: dict[str, Any], out: dict[str, torch.Tensor]) -> Any:
    """A trainer that keeps what goes into a loss, the loss and its gradient; rows were shuffled, so each gets its reward again."""

    class Watched(trainer_class):  # type: ignore[misc, valid-type]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            named = dict(model.named_parameters())
            found = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
            at = f"{watch['kind']}.{self.state.global_step}"
            for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"):
                out[f"{at}.{name}"] = inputs[name].detach().clone()
            rows = [ids[kept.bool()] for ids, kept in zip(inputs["completion_ids"], inputs["completion_mask"], strict=True)]
            texts = self.processing_class.batch_decode(rows, skip_special_tokens=True)
            out[f"{at}.rewards"], out[f"{at}.loss"] = torch.tensor([watch["told"][text] for text in texts]), loss.detach().reshape(1).clone()
            for (name, value), slope in zip(named.items(), found, strict=True):
                out[f"{at}.weight.{name}"], out[f"{at}.gradient.{name}"] = value.detach().clone(), slope.clone()
            return loss

    return Watched


def main() -> None:
    """Run the three kinds."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    data = Dataset.from_dict({"prompt": ["a b c", "d e", "f g h i"]})
    out: dict[str, torch.Tensor] = {}
    common: dict[str, Any] = {
        "num_generations": GROUP, "per_device_train_batch_size": GROUP * PROMPTS, "max_completion_length": LENGTH, "num_iterations": 2,
        "max_steps": 2, "beta": 0.0, "epsilon": EPS_LOW, "epsilon_high": EPS_HIGH, "learning_rate": LR, "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0, "report_to": [], "use_cpu": True, "bf16": False, "seed": 0, "logging_strategy": "no", "save_strategy": "no",
        "gradient_checkpointing": False, "disable_tqdm": True,
    }  # fmt: skip
    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "grpo": (GRPOTrainer, GRPOConfig, {"loss_type": "grpo", "scale_rewards": "group"}),
        "dr_grpo": (GRPOTrainer, GRPOConfig, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
        "rloo": (RLOOTrainer, RLOOConfig, {}),
    }
    for kind, (trainer_class, config_class, own) in kinds.items():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
        for value in model.parameters():
            value.data.mul_(8.0) if value.dim() == 2 else None  # chances that differ from each other
        watch: dict[str, Any] = {"kind": kind, "told": {}}

        def rewarded(completions: list[str], watch: dict[str, Any] = watch, **_: Any) -> list[float]:
            watch["told"].update(zip(completions, reward(completions), strict=True))
            return reward(completions)

        with tempfile.TemporaryDirectory() as folder:
            args = config_class(output_dir=folder, **common, **own)
            trainer = watched(trainer_class, watch, out)(
                model=model, reward_funcs=rewarded, args=args, train_dataset=data, processing_class=tokenizer
            )
            trainer.train()
    about = {"shape": SHAPE, "group": GROUP, "length": LENGTH, "eps_low": EPS_LOW, "eps_high": EPS_HIGH}
    save_file({name: value.contiguous() for name, value in out.items()}, sys.argv[1], metadata={"about": json.dumps(about)})


if __name__ == "__main__":
    main()
