"""A byte-level transformer whose feed-forward layers are Mixtures of Experts.

Called by train_moe_lm.py. The library appears in one place: `Block` holds a `grouped_gemm.nn.MoE`
where a dense model has its MLP.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from grouped_gemm.nn import MoE
from torch import Tensor, nn

VOCABULARY = 256  # bytes


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model."""

    width: int
    layers: int
    heads: int
    experts: int
    top_k: int
    ffn_width: int
    context: int
    aux_loss_coef: float = 0.01

    @staticmethod
    def small() -> "ModelConfig":
        """1.4 million parameters: reads 2 million bytes in about two minutes on two CPU cores."""
        return ModelConfig(128, 2, 4, experts=8, top_k=2, ffn_width=192, context=128)

    @staticmethod
    def large() -> "ModelConfig":
        """82 million parameters, 16 million of them active for a token: for one GPU."""
        return ModelConfig(512, 6, 8, experts=16, top_k=2, ffn_width=512, context=256)


def make_moe(config: ModelConfig) -> MoE:
    return MoE(
        hidden_size=config.width,
        ffn_hidden_size=config.ffn_width,
        num_experts=config.experts,
        top_k=config.top_k,
        normalize_topk=True,
        aux_loss_coef=config.aux_loss_coef,
    )


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Attention, then the Mixture of Experts; both see normalised tokens and add to the stream."""

    def __init__(self, config: ModelConfig, make_ffn: Callable[[ModelConfig], nn.Module]) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.moe_norm = nn.LayerNorm(config.width)
        self.moe = make_ffn(config)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x + self.attention(self.attention_norm(x))
        y, (tokens_per_expert, aux_loss) = self.moe(self.moe_norm(x), return_stats=True)
        return x + y, tokens_per_expert, aux_loss


@dataclass
class ModelOutput:
    """What one forward pass gives."""

    logits: Tensor  # [batch, length, 256]
    aux_loss: Tensor  # scalar, the layers' sum
    tokens_per_expert: Tensor  # int [layers, E]


class MoELanguageModel(nn.Module):
    """Predicts the next byte."""

    def __init__(
        self, config: ModelConfig, make_ffn: Callable[[ModelConfig], nn.Module] = make_moe
    ) -> None:
        super().__init__()
        self.config = config
        self.byte_embedding = nn.Embedding(VOCABULARY, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config, make_ffn) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, VOCABULARY, bias=False)
        for embedding in (self.byte_embedding, self.position_embedding):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> ModelOutput:
        """tokens: int64 [batch, length], length up to the context."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.byte_embedding(tokens) + self.position_embedding(positions)
        loads, aux_losses = [], []
        for block in self.blocks:
            x, load, aux_loss = block(x)
            loads.append(load)
            aux_losses.append(aux_loss)
        logits = self.head(self.norm(x))
        return ModelOutput(logits, torch.stack(aux_losses).sum(), torch.stack(loads))


def next_byte_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats per byte."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


@torch.inference_mode()
def generate(model: MoELanguageModel, prompt: bytes, length: int, seed: int) -> bytes:
    """Continues `prompt` by `length` bytes, sampled at temperature 0.7."""
    device = model.head.weight.device
    generator = torch.Generator().manual_seed(seed)
    text = torch.tensor([list(prompt)], device=device)
    model.eval()
    for _ in range(length):
        logits = model(text[:, -model.config.context :]).logits[0, -1].float().cpu()
        byte = torch.multinomial((logits / 0.7).softmax(-1), 1, generator=generator)
        text = torch.cat([text, byte.view(1, 1).to(device)], dim=1)
    model.train()
    return bytes(text[0].tolist())
