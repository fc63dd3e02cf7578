"""DeepSpeed ZeRO-3 as a training engine. The only file that imports deepspeed.

Owns: the process group, the partitioned model and optimizer, gathering full weights. Does not own: batches, the loss,
Ray. Every method is collective: all ranks call it in the same order, or all of them wait for ever (the driver's
deadline ends such a wait).

Everything runs over gloo on CPU and over nccl on GPU; what else differs is in `deepspeed_settings`. The CPU build's
shared-memory communication op is skipped: it would need a C++ compiler and minutes for no gain at this size.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist

from pgrpo_ray.config import LearnerSection
from pgrpo_ray.errors import ModelError
from pgrpo_ray.learner.deepspeed_settings import engine_settings
from pgrpo_ray.learner.gradient_guard import GradientGuard
from pgrpo_ray.learner.shards import KINDS, MEANS, SQUARES, WEIGHTS, About, Shards, Snapshot

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pgrpo_ray.learner.policy import SampledPolicy

GATHER_NUMEL = 16 << 20
"""Parameters gathered at a time, elements (64 MiB in float32): bounds memory beside the partitioned model."""


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of one learner meet."""

    rank: int
    world_size: int
    host: str
    port: int


class OptimizerStep(NamedTuple):
    """What became of a gradient."""

    grad_norm: float
    """Before clipping; infinite where the gradient is no number."""
    learning_rate: float
    taken: bool
    """False: skipped. Weights, optimizer state and `num_steps` are as before, and the gradient is gone."""


class Zero3Engine:
    """A language model partitioned over the ranks, with its optimizer."""

    def __init__(
        self,
        model: str,
        dtype: str,
        section: LearnerSection,
        rendezvous: Rendezvous,
        score_head_seed: int | None = None,
        frozen: bool = False,
    ):
        """Join the process group and load `model`, each rank keeping its partition. Collective.

        With `score_head_seed` it is a sequence classifier of one label, whose head is drawn from that seed where the
        checkpoint has none; else a causal language model. A `frozen` one is only looked at: it has no optimizer.

        Raises `ModelError` when a classifier's body lacks weights, and for `activation_checkpointing` where the model
        cannot have its layers recomputed.
        """
        self._section = section
        self.rank, self.world_size = rendezvous.rank, rendezvous.world_size
        on_gpu = section.gpus_per_rank > 0
        self.device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
        _join(rendezvous, on_gpu)
        import deepspeed
        from transformers import AutoTokenizer
        from transformers.integrations import HfDeepSpeedConfig

        from pgrpo_ray.learner.policy import SampledPolicy, recompute_layers

        self._deepspeed = deepspeed
        settings = engine_settings(dtype, section, frozen)
        # transformers holds only a weak reference: without ours the model would load whole on every rank.
        self._hf_settings = HfDeepSpeedConfig(settings)
        self.tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        if score_head_seed is None:
            self._model: PreTrainedModel = _causal(model, dtype)
            policy = SampledPolicy(self._model)
            module: torch.nn.Module = policy
        else:
            self._model = module = _classifier(model, dtype, self.tokenizer, score_head_seed)
        self._model.config.use_cache = False
        self._norm: float | None = None
        self.num_steps = 0
        self.guard = GradientGuard(section.grad_spike_factor, section.max_skipped_steps)
        if frozen:
            self._engine, *_ = deepspeed.initialize(model=module, config=settings)
            self._engine.eval()
        else:
            if section.activation_checkpointing:
                recompute_layers(self._model, model)
            optimizer = torch.optim.AdamW(
                module.parameters(),
                lr=section.learning_rate,
                betas=section.adam_betas,
                weight_decay=section.weight_decay,
                fused=True,
            )
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=module, optimizer=optimizer, config=settings
            )
            self._guard_steps()
        if score_head_seed is None:
            self._try_head(policy)

    def scores(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return a classifier's raw scores [B, 1], with gradient (none inside `torch.no_grad()`). Collective."""
        return self._engine(input_ids=input_ids, attention_mask=attention_mask).logits

    def logprobs(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, sampled: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (logprobs, entropy) of a language model's softmax(logits / temperature), float32 [B, T-1], nats.

        Column t is about token t + 1. Where `sampled`, bool [B, T-1], is False both are 0 and cost nothing. Gradient
        as `losses.sampled_logprobs` (none inside `torch.no_grad()`). Collective.
        """
        values = self._engine(
            input_ids=input_ids, attention_mask=attention_mask, sampled=sampled, temperature=temperature
        )
        empty = values.new_zeros(sampled.shape)
        return empty.masked_scatter(sampled, values[0]), empty.masked_scatter(sampled, values[1].detach())

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`, summed over ranks, to the step's. Collective."""
        # ZeRO averages gradients over ranks; our loss is already divided by the global token count, so undo the mean.
        self._engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def step(self, rate_frac: float | None = None) -> OptimizerStep:
        """Apply the gathered gradient once, or skip it where `guard` does not accept its norm. Collective.

        `rate_frac`: share of the learning rate; None: the section's warm-up, then all of it.
        """
        if rate_frac is None:
            rate_frac = min(1.0, (self.num_steps + 1) / max(1, self._section.warmup_steps))
        rate = self._section.learning_rate * rate_frac
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._norm = None
        self._engine.step()
        if self._norm is None:
            raise ModelError("DeepSpeed took a step whose gradient norm nobody judged: install the pinned version.")
        taken = not self._optimizer.overflow
        self.num_steps += taken
        return OptimizerStep(self._norm, rate, taken)

    def reduce(self, sums: torch.Tensor, maxima: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float64 `sums` added and `maxima` maximised over ranks. Collective."""
        sums, maxima = sums.to(self.device), maxima.to(self.device)
        dist.all_reduce(sums, op=dist.ReduceOp.SUM)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        return sums.cpu(), maxima.cpu()

    @property
    def pad_token_id(self) -> int:
        """What a classifier is padded with; its score is read at the last token that is another."""
        return self._model.config.pad_token_id

    def set_training(self, training: bool) -> None:
        """Turn dropout on or off, where the model has any; it starts off. Off again, layers are not recomputed."""
        self._engine.train(training)

    @property
    def parameters(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What `named_weights` yields, by name: dtype (as torch names it) and shape. Gathers nothing."""
        return {
            name: (str(parameter.dtype).removeprefix("torch."), tuple(parameter.ds_shape))
            for name, parameter in self._model.named_parameters()
        }

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, full parameter) in the model's order, tied ones once. Collective: every rank must drain it."""
        for chunk in self._gather_chunks():
            with self._deepspeed.zero.GatheredParameters([p for _, p in chunk], modifier_rank=None):
                for name, parameter in chunk:
                    yield name, parameter.data

    def save_pretrained(self, folder: Path) -> None:
        """Write the model and tokenizer in Hugging Face format, whole or not at all; rank 0 writes. Collective."""
        state = {}
        for name, tensor in self.named_weights():
            if self.rank == 0:
                state[name] = tensor.detach().cpu().clone()
        if self.rank == 0:
            draft = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(draft, ignore_errors=True)
            self._model.save_pretrained(draft, state_dict=state)
            self.tokenizer.save_pretrained(draft)
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
        dist.barrier()

    def snapshot(self) -> Snapshot:
        """Copy what this rank holds of policy and optimizer to its host's memory, 12 bytes an element of its share."""
        from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

        states = list(self._adam.state.values())
        parts: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in (KINDS if states else (WEIGHTS,))}
        for name, parameter in self._model.named_parameters():
            for kind, held in parts.items():
                part = (
                    safe_get_local_fp32_param(parameter)
                    if kind == WEIGHTS
                    else safe_get_local_optimizer_state(parameter, kind)
                )
                held[name] = part.detach().to("cpu", copy=True)
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state()
        about = About(
            rank=self.rank,
            num_ranks=self.world_size,
            num_steps=self.num_steps,
            adam_steps=float(states[0]["step"]) if states else 0.0,
            norms=list(self.guard.norms),
            skipped_in_a_row=self.guard.in_a_row,
            numels=self._numels,
        )
        return Snapshot(about, parts, rng)

    def restore(self, shards: Shards) -> None:
        """Go on from a checkpoint, which any number of ranks may have written. Raises `CheckpointError`."""
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        shards.check_fits(self._numels)
        place, about = (self.rank, self.world_size), shards.about
        if about.adam_steps:
            for flat in self._optimizer.fp32_partitioned_groups_flat:  # as torch's fused AdamW makes it in a first step
                self._adam.state[flat] = {
                    "step": torch.tensor(about.adam_steps, dtype=torch.float32, device=flat.device),
                    MEANS: torch.zeros_like(flat),
                    SQUARES: torch.zeros_like(flat),
                }
        for name, parameter in self._model.named_parameters():
            weights = shards.part(WEIGHTS, name, *place)
            safe_set_local_fp32_param(parameter, weights)
            with torch.no_grad():
                parameter.ds_tensor.copy_(weights)  # what the passes use; DeepSpeed sets only what the optimizer steps
            if about.adam_steps:
                for kind in (MEANS, SQUARES):
                    safe_set_local_optimizer_state(parameter, shards.part(kind, name, *place), kind)
        self.num_steps = about.num_steps
        self.guard.norms.extend(about.norms)
        self.guard.in_a_row = about.skipped_in_a_row
        for device, state in shards.rng(self.rank).items():
            if device == "cpu":
                torch.set_rng_state(state)
            elif self.device.type == device:
                torch.cuda.set_rng_state(state)

    @property
    def _adam(self) -> torch.optim.Optimizer:
        """torch's optimizer, whose parameters are ZeRO-3's flat float32 groups."""
        return self._optimizer.optimizer

    @property
    def _numels(self) -> dict[str, int]:
        return {name: parameter.ds_numel for name, parameter in self._model.named_parameters()}

    def gather(self, mine: list[str]) -> list[str]:
        """Return what all ranks give, rank after rank. Collective; through pickle, for what is rare and small."""
        everyone: list[list[str]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(everyone, mine)
        return [one for some in everyone for one in some]

    def _guard_steps(self) -> None:
        """Have the guard judge every step's norm before DeepSpeed takes the step.

        DeepSpeed 0.19.8 itself skips a step whose norm is infinite, and clears its gradient (in `stage3.step`, right
        after `_get_norm_groups`, which ends in an all-reduce); so what the guard refuses is given out as that. Taking
        the norm beforehand would read all gradients once more.
        """
        from deepspeed.runtime.utils import combine_grad_norm_groups

        norms_of_groups = self._optimizer._get_norm_groups
        self._norm = None

        def judged() -> list[torch.Tensor]:
            norms = norms_of_groups()
            norm = self._norm = float(combine_grad_norm_groups(norms))
            return norms if self.guard.accepts(norm) else [torch.full_like(norms[0], torch.inf)]

        self._optimizer._get_norm_groups = judged

    def _try_head(self, module: "SampledPolicy") -> None:
        """Run body and head apart only where that gives the model's own logits; all ranks decide alike. Collective."""
        ids = torch.arange(8, device=self.device).unsqueeze(0)
        with torch.no_grad():
            same = self._engine(input_ids=ids, attention_mask=torch.ones_like(ids))
        agreed = same.to(self.device, torch.int32)
        dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
        if not agreed.item():
            module.head = None
            if self.rank == 0:
                logging.getLogger(__name__).warning(
                    "%s: its logits are not those of a plain head on its last hidden states, so those of all tokens "
                    "are held at once; learner.micro_batch_tokens bounds them.",
                    type(self._model).__name__,
                )

    def _gather_chunks(self) -> Iterator[list[tuple[str, torch.nn.Parameter]]]:
        chunk: list[tuple[str, torch.nn.Parameter]] = []
        numel = 0
        for name, parameter in self._model.named_parameters():
            if chunk and numel + parameter.ds_numel > GATHER_NUMEL:
                yield chunk
                chunk, numel = [], 0
            chunk.append((name, parameter))
            numel += parameter.ds_numel
        if chunk:
            yield chunk


def _causal(model: str, dtype: str) -> "PreTrainedModel":
    """Load the policy; inside `zero.Init`, as `HfDeepSpeedConfig` is alive."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        model, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
    )


def _classifier(model: str, dtype: str, tokenizer: Any, seed: int) -> "PreTrainedModel":
    """Load a sequence classifier of one label; draw the head that a language model lacks. Collective."""
    import deepspeed
    from transformers import AutoModelForSequenceClassification

    module, info = AutoModelForSequenceClassification.from_pretrained(
        model,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        trust_remote_code=False,
        num_labels=1,
        output_loading_info=True,
    )
    body = f"{module.base_model_prefix}."
    lost = sorted(name for name in info["missing_keys"] if name.startswith(body))
    if lost:
        raise ModelError(
            f"model.base={model!r} lacks {len(lost)} weights of its body, such as {lost[0]}: they would be random. "
            "Give a whole checkpoint."
        )
    parameters = dict(module.named_parameters())
    torch.manual_seed(seed)
    for name in sorted(info["missing_keys"]):
        # Drawn on rank 0 and sent to all. As `reward_model.model.untrained` gets it in one process from this seed:
        # what transformers drew under zero.Init came after the draws of the whole body.
        with deepspeed.zero.GatheredParameters([parameters[name]], modifier_rank=0), torch.no_grad():
            if dist.get_rank() == 0:
                parameters[name].normal_(0.0, getattr(module.config, "initializer_range", 0.02))
    if module.config.pad_token_id is None:
        pad_id = tokenizer.pad_token_id
        module.config.pad_token_id = tokenizer.eos_token_id if pad_id is None else pad_id
    return module


def _join(rendezvous: Rendezvous, on_gpu: bool) -> None:
    """Join the process group. DeepSpeed reads its rendezvous from the environment of this process alone."""
    os.environ.update(
        RANK=str(rendezvous.rank),
        LOCAL_RANK="0",
        WORLD_SIZE=str(rendezvous.world_size),
        MASTER_ADDR=rendezvous.host,
        MASTER_PORT=str(rendezvous.port),
    )
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    if not on_gpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", auto_mpi_discovery=False)
