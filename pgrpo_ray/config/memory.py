"""How much memory each role of a run needs, by arithmetic on its config and the models' shapes.

Pure numbers: nothing is loaded or measured. Weights, gradients, optimizer state and KV cache follow exactly from the
formulas; activations, logits and working memory are *estimates* (marked so) of this project's own forward pass: they
leave out fragmentation and whatever a library allocates beside. Peaks that cannot come at the same time are not added.
A test holds the activations of a layer to what torch saves on CPU; nobody has yet held a total against a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pgrpo_ray.config.run import RunConfig

GIB = 2**30
LIBRARIES_GIB = 2.0
"""Of CUDA context, cuBLAS workspaces and NCCL buffers in one process on a GPU, GiB. Ours: a rule of thumb."""
LIVE_PARAMETERS = 10**9
"""Gathered whole at a time by ZeRO-3: DeepSpeed's default of `stage3_max_live_parameters`, which `learner.zero3`
leaves."""
REDUCE_BUCKET = 5 * 10**8
"""Gradients of a ZeRO-3 bucket before they are reduced: DeepSpeed's default of `reduce_bucket_size`."""
SUB_GROUP = 10**9
"""Parameters whose optimizer step is taken at a time: DeepSpeed's default of `sub_group_size`."""
HEAD_CHUNK = 1 << 26
"""Logits made at a time by `algo.losses` (its HEAD_CHUNK_ELEMENTS, which a test holds this to)."""
VLLM_SHARE = 0.92
"""Of a GPU's memory that vLLM 0.32 takes where `rollout.kv_cache_mib` is not set (its `gpu_memory_utilization`)."""

_BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder-only transformer that memory follows from."""

    num_parameters: int
    hidden: int
    intermediate: int
    """Inner width of the (gated) feed-forward part."""
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Part:
    """One thing in memory."""

    name: str
    gib: float
    estimate: bool = False
    """Not exact; see the module."""
    key: str = ""
    """Dotted config key that makes it smaller."""


@dataclass(frozen=True, slots=True)
class RolePlan:
    """What one process of a role holds at its peak."""

    role: str
    processes: int
    gpus: float
    """Of each process; 0: on CPU."""
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()
    reserve_frac: float = 0.1
    """Of its share of the GPU that should stay free, in [0, 1]: estimates leave out fragmentation (ours)."""

    @property
    def exact_gib(self) -> float:
        """What it holds without any estimate."""
        return sum(part.gib for part in self.parts if not part.estimate)

    @property
    def total_gib(self) -> float:
        """Estimates included."""
        return sum(part.gib for part in self.parts)

    def room_gib(self, gpu_gib: float) -> float:
        """Its share of a GPU of `gpu_gib`."""
        return self.gpus * gpu_gib

    def largest(self, estimate: bool) -> Part:
        """Return the largest part that a key makes smaller, estimates counted or not."""
        return max((p for p in self.parts if p.key and (estimate or not p.estimate)), key=lambda part: part.gib)


def kv_bytes_per_token(shape: ModelShape, dtype: str) -> int:
    """Return the KV cache of one token, bytes: a key and a value for each layer and KV head (arXiv 2309.06180, 2)."""
    return 2 * shape.layers * shape.kv_heads * shape.head_size * _BYTES[dtype]


def layer_activation_bytes(shape: ModelShape, dtype: str) -> int:
    """Estimate what one layer keeps of one token for the backward pass, bytes, without checkpointing.

    Counted on transformers' Qwen2 layer, as Korthikanti et al. (arXiv 2205.05198, 4.1) count GPT's, b bytes an element:
    two RMS norms keep a float32 copy and the normalised input (2 x (4 + b) h); the inputs of q, k, v together and of
    gate and up together 2 b h; rotated q, attention's output and its contiguous copy 3 b q with q = heads x head size;
    keys and values repeated for every head 2 b q, and before that 2 b kv; gate, up, silu(gate) and their product 4 b m.
    Attention's scores are recomputed by the fused kernel (arXiv 2205.14135).
    """
    item, hidden = _BYTES[dtype], shape.hidden
    query, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    norms = 2 * (4 + item) * hidden
    return norms + item * (2 * hidden + 5 * query + 2 * kv + 4 * shape.intermediate)


def activation_gib(shape: ModelShape, dtype: str, tokens: int, *, checkpointing: bool) -> float:
    """Estimate the activations of `tokens` padded tokens in one forward and backward pass, GiB.

    With checkpointing each layer keeps its input alone, and one layer at a time is computed again (arXiv 1604.06174).
    """
    layer = layer_activation_bytes(shape, dtype)
    if checkpointing:
        return tokens * (shape.layers * shape.hidden * _BYTES[dtype] + layer) / GIB
    return tokens * shape.layers * layer / GIB


def head_gib(shape: ModelShape, dtype: str, tokens: int) -> float:
    """Estimate what the head takes beside its weights in the passes of `tokens` sampled tokens, GiB.

    A chunk of logits in float32 and in the model's type; the gradient of its weights; the tokens' hidden states, with
    their gradient in float32 and in the model's type. A model whose head cannot be run apart (`learner.policy` says so
    when it is loaded) holds the logits of all tokens instead.
    """
    item = _BYTES[dtype]
    chunk = (4 + item) * min(HEAD_CHUNK, tokens * shape.vocabulary)
    return (chunk + item * shape.vocabulary * shape.hidden + (4 + 2 * item) * tokens * shape.hidden) / GIB


def learner_plan(config: RunConfig, shape: ModelShape) -> RolePlan:
    """Return what one ZeRO-3 rank holds (arXiv 1910.02054, section 5: P parameters over N ranks).

    Of each of its P / N parameters it keeps the weight (2 bytes in bfloat16, 4 in float32), its gradient in float32
    (4), a float32 copy of bfloat16 weights (4), and Adam's two moments (8): 18 or 16 bytes. A reference policy,
    where the KL term wants one, adds its weights. `learner.offload` keeps some of these in the host's memory. On top
    comes the larger of two peaks: activations, head, gathered weights and a bucket of gradients in the backward pass;
    the float32 gradient of a sub-group in the optimizer step.
    """
    learner, dtype = config.learner, config.policy.dtype
    item, share = _BYTES[dtype], shape.num_parameters / learner.num_ranks
    weights, states = share * item / GIB, "Adam moments, float32 copy" if item == 2 else "Adam moments"
    kept = [Part("weights", weights, key="learner.num_ranks")]
    if config.algo.kl_weight > 0:
        kept.append(Part("weights of the reference policy", weights, key="algo.kl_weight"))
    stepped = [
        Part("gradients", share * 4 / GIB, key="learner.num_ranks"),
        Part(states, share * (12 if item == 2 else 8) / GIB, key="learner.num_ranks"),
    ]
    on_host = {"none": [], "optimizer": stepped, "optimizer_and_parameters": kept + stepped}[learner.offload]
    parts = [part for part in kept + stepped if part not in on_host]
    parts += _passes(config, shape, 0.0 if stepped[0] in on_host else min(share, SUB_GROUP) * 4 / GIB)
    parts.append(_libraries(learner.gpus_per_rank))
    notes = []
    if on_host:
        host_gib = sum(part.gib for part in on_host)
        notes.append(f"{host_gib:.1f} GiB of each are in its host's memory, by learner.offload={learner.offload}")
    if not learner.activation_checkpointing:
        tokens = learner.micro_batch_tokens
        recomputed = activation_gib(shape, dtype, tokens, checkpointing=True)
        notes.append(
            f"activations of {tokens:,} tokens would be {recomputed:.1f} GiB with learner.activation_checkpointing=true"
        )
    return RolePlan("learner rank", learner.num_ranks, learner.gpus_per_rank, tuple(parts), tuple(notes))


def _passes(config: RunConfig, shape: ModelShape, step_gib: float) -> list[Part]:
    """Return the larger of two peaks: of the backward pass, and of the optimizer step, which takes `step_gib`."""
    learner, dtype = config.learner, config.policy.dtype
    tokens, recomputed = learner.micro_batch_tokens, learner.activation_checkpointing
    live = min(shape.num_parameters, LIVE_PARAMETERS) + min(shape.num_parameters, REDUCE_BUCKET)
    smaller = "learner.micro_batch_tokens" if recomputed else "learner.activation_checkpointing"
    passes = [
        Part("gathered weights, gradient bucket", live * _BYTES[dtype] / GIB, True),
        Part("activations", activation_gib(shape, dtype, tokens, checkpointing=recomputed), True, smaller),
        Part("head, a chunk of logits", head_gib(shape, dtype, tokens), True, "learner.micro_batch_tokens"),
    ]
    if step_gib > sum(part.gib for part in passes):
        return [Part("float32 gradient of a sub-group", step_gib, True, "learner.num_ranks")]
    return passes


def rollout_plan(config: RunConfig, shape: ModelShape, gpu_gib: float) -> RolePlan:
    """Return what one vLLM engine holds: all weights, and a KV cache of the size that is set or of what is left."""
    rollout, dtype = config.rollout, config.policy.dtype
    longest = config.max_sequence_tokens
    weights = shape.num_parameters * _BYTES[dtype] / GIB
    full = kv_bytes_per_token(shape, dtype) * longest / GIB
    # Sampling: float32 logits of every sequence, their softmax and a sorted copy; what arrives of new weights beside.
    working = 3 * 4 * rollout.max_concurrent * shape.vocabulary / GIB + _arriving_gib(config, shape)
    libraries = _libraries(rollout.gpus_per_worker)
    if rollout.kv_cache_mib is not None:
        cache = rollout.kv_cache_mib / 1024
    else:
        # One that cannot hold a sequence is no cache: then what is needed counts, not what is left.
        left = VLLM_SHARE * gpu_gib - weights - working - libraries.gib if rollout.gpus_per_worker else 0.0
        cache = max(full, left)
    parts = (
        Part("weights", weights, key="policy.dtype"),
        Part("KV cache", cache, rollout.kv_cache_mib is None, "rollout.kv_cache_mib"),
        Part("sampling, weights that arrive", working, True, "rollout.max_concurrent"),
        libraries,
    )
    wanted = rollout.max_concurrent * full
    note = (
        f"the KV cache holds {int(cache / full)} sequences of {longest:,} tokens at full length ({full:.2f} GiB each); "
        f"rollout.max_concurrent={rollout.max_concurrent} of them would fill {wanted:.1f} GiB"
        f"{', so vLLM lets some wait' if wanted > cache else ''}"
    )
    # vLLM leaves what it does not take for itself, and measures before it takes: little more need stay free.
    reserve = 0.05 if rollout.kv_cache_mib is None else 0.1
    return RolePlan("rollout worker", rollout.num_workers, rollout.gpus_per_worker, parts, (note,), reserve)


def _arriving_gib(config: RunConfig, shape: ModelShape) -> float:
    """Return what an engine holds of new weights beside the old: a chunk, or the buffers of `sync.gpu_transfer`."""
    chunk = config.sync.chunk_mib / 1024
    if config.sync.transport == "object_store":
        return chunk
    largest = shape.vocabulary * shape.hidden * _BYTES[config.policy.dtype] / GIB
    return max(chunk, largest) * (2 if config.sync.transport == "nccl" else 1)  # vLLM 0.32.0 fills one, empties one


def colocated(learner: RolePlan, rollout: RolePlan) -> RolePlan:
    """Return what a GPU holds that a learner rank and a rollout worker share."""
    parts = tuple(replace(part, name=f"{plan.role}: {part.name}") for plan in (learner, rollout) for part in plan.parts)
    name = "learner rank with its rollout worker"
    return RolePlan(name, learner.processes, learner.gpus, parts, (*learner.notes, *rollout.notes))


def reward_plan(config: RunConfig, shape: ModelShape) -> RolePlan:
    """Return what one replica of the reward server holds; nothing is kept for a backward pass."""
    section = config.reward_model
    # Without gradient a layer's tensors are freed as it goes; two layers' worth is an upper bound.
    working = 2 * section.batch_size * section.max_length_tokens * layer_activation_bytes(shape, section.dtype) / GIB
    parts = [Part("weights", shape.num_parameters * _BYTES[section.dtype] / GIB, key="reward_model.dtype")]
    if section.kv_cache_mib is not None:
        parts.append(Part("KV cache", section.kv_cache_mib / 1024, key="reward_model.kv_cache_mib"))
    parts += [Part("forward pass", working, True, "reward_model.batch_size"), _libraries(section.gpus)]
    return RolePlan("reward server", section.replicas, section.gpus, tuple(parts))


def lacking(plans: Sequence[RolePlan], gpu_gib: float) -> tuple[list[str], list[str]]:
    """Return (what cannot fit, what may not fit) on GPUs of `gpu_gib`, each with the key to change.

    The first counts exact parts alone; the second counts estimates too, and wants the role's reserve to stay free.
    """
    cannot, may_not = [], []
    for plan in plans:
        if not plan.gpus:
            continue
        room, what = plan.room_gib(gpu_gib), f"each {plan.role}"
        if plan.exact_gib > room:
            part = plan.largest(estimate=False)
            cannot.append(
                f"{what} holds {plan.exact_gib:.1f} GiB at least, and has {room:.1f} GiB. The largest part is "
                f"{part.name} ({part.gib:.1f} GiB): {_FIXES[part.key]}"
            )
        elif plan.total_gib > (1 - plan.reserve_frac) * room:
            part = plan.largest(estimate=True)
            may_not.append(
                f"{what} takes about {plan.total_gib:.1f} of {room:.1f} GiB. The largest part is {part.name} "
                f"({part.gib:.1f} GiB): {_FIXES[part.key]}"
            )
    return cannot, may_not


_FIXES = {
    "learner.num_ranks": "raise learner.num_ranks, which divides it, or move it to the host by learner.offload.",
    "learner.activation_checkpointing": "set learner.activation_checkpointing=true, for a third more computation; or "
    "lower learner.micro_batch_tokens, and with it data.max_prompt_tokens or rollout.max_response_tokens, whose sum it "
    "must hold.",
    "learner.micro_batch_tokens": "lower learner.micro_batch_tokens, and with it data.max_prompt_tokens or "
    "rollout.max_response_tokens, whose sum it must hold; or raise learner.num_ranks to make room.",
    "algo.kl_weight": "set algo.kl_weight=0, which needs no reference policy.",
    "policy.dtype": "set policy.dtype=bfloat16, or take a smaller model: an engine is not split over GPUs.",
    "rollout.kv_cache_mib": "lower rollout.kv_cache_mib.",
    "rollout.max_concurrent": "lower rollout.max_concurrent.",
    "reward_model.dtype": "set reward_model.dtype=bfloat16, or raise reward_model.gpus to 1.",
    "reward_model.kv_cache_mib": "lower reward_model.kv_cache_mib.",
    "reward_model.batch_size": "lower reward_model.batch_size or reward_model.max_length_tokens.",
}


def _libraries(gpus: float) -> Part:
    return Part("libraries", LIBRARIES_GIB if gpus else 0.0, True)
