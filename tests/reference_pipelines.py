"""diffusers' Stable Cascade pipelines built from objects around the weights of one of our cascades."""

from typing import Any

import torch
from diffusers import StableCascadeCombinedPipeline, StableCascadeDecoderPipeline, StableCascadePriorPipeline
from diffusers.models.unets import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from diffusers.schedulers import DDPMWuerstchenScheduler
from transformers import CLIPImageProcessorPil as CLIPImageProcessor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

from sotediffusion.models.cascade import Cascade
from sotediffusion.models.image_encoder import ImageEncoder
from sotediffusion.models.unet import UNet, UNetConfig

PRIOR = ("tokenizer", "text_encoder", "prior", "scheduler", "image_encoder", "feature_extractor")
KINDS = {"C": "SDCascadeResBlock", "T": "SDCascadeTimestepBlock", "A": "SDCascadeAttnBlock"}


class ExactScheduler(DDPMWuerstchenScheduler):
    """diffusers keeps its offset and times in float32; this one computes in float64, over the same float32 times."""

    def __init__(self) -> None:
        super().__init__()
        self.s = torch.tensor([0.008], dtype=torch.float64)
        self._init_alpha_cumprod = torch.cos(self.s / (1 + self.s) * torch.pi * 0.5) ** 2

    def set_timesteps(self, num_inference_steps: int | None = None, timesteps: Any = None, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, timesteps, device)
        self.timesteps = self.timesteps.double()


class Tokens(dict):  # type: ignore[type-arg]
    """What transformers' tokenizers return."""

    __getattr__ = dict.__getitem__


class ClipTokens:
    """Our tokenizer under transformers' interface."""

    model_max_length = 77

    def __init__(self, tokenizer: Any):
        self.ours = tokenizer

    def __call__(
        self, text: str | list[str], padding: str, return_tensors: str, max_length: int = 77, truncation: bool = False
    ) -> Tokens:
        texts = [text] if isinstance(text, str) else text
        rows = [[self.ours.bos, *self.ours.encode(one), self.ours.eos] for one in texts]
        if truncation:
            rows = [row if len(row) <= 77 else [*row[:76], self.ours.eos] for row in rows]
        length = max_length if padding == "max_length" else max(map(len, rows))
        ids = torch.tensor([row + [self.ours.pad] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return Tokens(input_ids=ids, attention_mask=mask)

    def batch_decode(self, ids: Any) -> list[str]:
        return [str(row) for row in ids]


def to_diffusers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = {}
    for key, value in state.items():
        if "in_proj" in key:
            kind = key.rsplit("_", 1)[1]
            for name, part in zip("qkv", value.chunk(3), strict=True):
                out[key.replace(f"attn.in_proj_{kind}", f"to_{name}.{kind}")] = part
        else:
            key = key.replace("attention.attn.out_proj", "attention.to_out.0")
            out["clip_txt_pooled_mapper" + key[11:] if key.startswith("clip_mapper") else key] = value
    return out


def unet(ours: UNet) -> StableCascadeUNet:
    c: UNetConfig = ours.config
    theirs = StableCascadeUNet(
        in_channels=c.c_latent, out_channels=c.c_latent, timestep_ratio_embedding_dim=c.c_r, patch_size=c.patch,
        conditioning_dim=c.c_cond, block_out_channels=c.widths, num_attention_heads=c.heads, down_num_layers_per_block=c.down,
        up_num_layers_per_block=c.up, down_blocks_repeat_mappers=c.down_repeats, up_blocks_repeat_mappers=c.up_repeats,
        block_types_per_layer=tuple(tuple(KINDS[k] for k in level) for level in c.levels), clip_text_in_channels=c.c_text or None,
        clip_text_pooled_in_channels=c.c_pooled, clip_image_in_channels=c.c_image or None, clip_seq=c.c_seq,
        effnet_in_channels=c.c_effnet or None, pixel_mapper_in_channels=c.c_pixels or None, dropout=c.dropout,
        self_attn=c.self_attn, timestep_conditioning_type=c.conds, switch_level=c.switch_level,
    )  # fmt: skip
    return loaded(theirs, to_diffusers(ours.state_dict()))


def loaded(theirs: Any, state: dict[str, torch.Tensor]) -> Any:
    theirs.load_state_dict(state)
    return theirs.to(next(iter(state.values())).dtype).eval()


def vision(ours: ImageEncoder) -> CLIPVisionModelWithProjection:
    c = ours.config
    theirs = CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=c.width, intermediate_size=c.hidden, projection_dim=c.projection, num_hidden_layers=c.layers,
        num_attention_heads=c.heads, image_size=c.size, patch_size=c.patch, hidden_act=c.act,
    ))  # fmt: skip
    return loaded(theirs, ours.state_dict())


def extractor(size: int) -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def components(cascade: Cascade) -> dict[str, Any]:
    c, a = cascade.config.text, cascade.config.stage_a
    exact = cascade.text.text_projection.weight.dtype == torch.float64
    text = CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=c.vocabulary, hidden_size=c.width, intermediate_size=c.hidden, projection_dim=c.projection,
        num_hidden_layers=c.layers, num_attention_heads=c.heads, hidden_act=c.act, bos_token_id=c.eos - 1, eos_token_id=c.eos,
    ))  # fmt: skip
    vqgan = PaellaVQModel(embed_dim=a.width, bottleneck_blocks=a.bottleneck, num_vq_embeddings=a.codebook, scale_factor=a.scale)
    return {
        "text_encoder": loaded(text, cascade.text.state_dict()),
        "tokenizer": ClipTokens(cascade.tokenizer),
        "prior": unet(cascade.stage_c),
        "decoder": unet(cascade.stage_b),
        "vqgan": loaded(vqgan, {k.replace("codebook", "embedding"): v for k, v in cascade.stage_a.state_dict().items()}),
        "scheduler": ExactScheduler() if exact else DDPMWuerstchenScheduler(),
        "image_encoder": None if cascade.image is None else vision(cascade.image),
        "feature_extractor": None if cascade.image is None else extractor(cascade.image.config.size),
    }


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prior(parts: dict[str, Any]) -> StableCascadePriorPipeline:
    return quiet(StableCascadePriorPipeline(**{k: parts[k] for k in PRIOR}))


def decoder(parts: dict[str, Any]) -> StableCascadeDecoderPipeline:
    names = ("tokenizer", "text_encoder", "decoder", "scheduler", "vqgan")
    return quiet(StableCascadeDecoderPipeline(**{k: parts[k] for k in names}))


def combined(parts: dict[str, Any]) -> StableCascadeCombinedPipeline:
    shared = {k: parts[k] for k in ("tokenizer", "text_encoder", "decoder", "scheduler", "vqgan")}
    own = {"prior_" + k: parts[k] for k in PRIOR}
    return quiet(StableCascadeCombinedPipeline(**shared, **own))
