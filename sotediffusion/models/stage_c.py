"""Stage C, the prior: text -> a 16-channel latent of about 1/42 the picture's side (Wuerstchen v3).

B batch, L text tokens, P pooled texts, h w prior cells. https://arxiv.org/abs/2306.00637.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import layer_norm
from .unet import Conditioning, UNet, UNetConfig


class StageC(UNet):
    """Predicts the noise in a Stage C latent from text."""

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        c = config
        self.clip_txt_pooled_mapper = nn.Linear(c.c_pooled, c.c_cond * c.c_seq)
        self.clip_txt_mapper = nn.Linear(c.c_text, c.c_cond)
        self.clip_img_mapper = nn.Linear(c.c_image, c.c_cond * c.c_seq)
        self.build_body()

    def condition(self, text: Tensor, pooled: Tensor, image: Tensor | None = None, mask: Tensor | None = None) -> Conditioning:
        """Everything that stays the same over the steps.

        text (B, L, c_text) last hidden states before the final norm; pooled (B, P, c_pooled); image (B, I, c_image) CLIP image
        embeddings, zeros when None; mask (B, L), false where a text token must not be seen at all.
        """
        c = self.config
        if image is None:
            image = text.new_zeros(text.shape[0], 1, c.c_image)
        tokens = torch.cat(
            [
                self.clip_txt_mapper(text),
                self.clip_txt_pooled_mapper(pooled).unflatten(-1, (c.c_seq, c.c_cond)).flatten(1, 2),
                self.clip_img_mapper(image).unflatten(-1, (c.c_seq, c.c_cond)).flatten(1, 2),
            ],
            dim=1,
        )
        if mask is not None:
            mask = F.pad(mask.bool(), (0, tokens.shape[1] - mask.shape[1]), value=True)
        return self.condition_tokens(layer_norm(tokens), mask)
