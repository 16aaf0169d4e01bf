"""Pictures as prompts: through CLIP's image tower to what Stage C follows beside the text. I pictures, S px of the tower's side.

Prepared as CLIP's own training pictures were (Radford et al. 2021): the shorter side S px, of the longer the middle.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..models.cascade import Cascade
from ..offload import execution_device
from ..pictures.decode import MAX_PIXELS
from ..types import UserError
from ..weights.bundle import WHERE
from ..weights.configs import IMAGE_MEAN, IMAGE_STD

LONGEST = 64  # times the shorter side: what is longer is nearly all cut off, and large before that


def followed(cascade: Cascade, images: Any, image_embeds: Any) -> Any:
    """The image embeddings of a call that names pictures or their embeddings. UserError: both, or what `embed` says."""
    if images is None:
        return image_embeds
    if image_embeds is not None:
        raise UserError("images", "given together with image_embeds; give one of them")
    return embed(cascade, images)


@torch.inference_mode()
def embed(cascade: Cascade, images: Any) -> Tensor:
    """One or several pictures -> CLIP image embeddings (1, I, c_image), which are followed all together.

    Pictures: PIL's, or tensors (3, H, W) in [0, 1] or of uint8, or a tensor (I, 3, H, W) of such. UserError: none of these,
    too large or damaged; weights without an image tower, or with one that Stage C does not understand.
    """
    if cascade.image is None:
        flag, place = WHERE["image"]
        raise UserError("images", f"these weights carry no CLIP image encoder; put in {place} with `sote weights convert "
                                  f"{flag}`, or give embeddings as image_embeds to StableCascadePriorPipeline")
    config, width = cascade.image.config, cascade.stage_c.config.c_image
    if config.projection != width:
        raise UserError("images", f"the image encoder says {config.projection} numbers of a picture where Stage C takes {width}; "
                                  "take both from one model")
    pixels = torch.stack([prepared(picture, config.size) for picture in _pictures(images)])
    network = cascade.use("image")
    return network(pixels.to(execution_device(cascade, "image"), network.visual_projection.weight.dtype))[None]


def prepared(picture: Image.Image, size: int) -> Tensor:
    """An RGB picture as what the tower sees of it, (3, size, size) float32."""
    width, height = picture.size
    short = min(width, height)
    scaled = picture.resize((int(size * width / short), int(size * height / short)), Image.Resampling.BICUBIC)
    left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
    values = np.asarray(scaled.crop((left, top, left + size, top + size)), np.float64) / 255
    normal = (values.astype(np.float32) - np.array(IMAGE_MEAN, np.float32)) / np.array(IMAGE_STD, np.float32)
    return torch.from_numpy(normal).permute(2, 0, 1)


def _pictures(images: Any) -> list[Image.Image]:
    several = isinstance(images, list | tuple) or (isinstance(images, Tensor) and images.dim() == 4)
    found = [_picture(one) for one in (images if several else [images])]
    if not found:
        raise UserError("images", "an empty list shows nothing; give a picture, or leave it out")
    return found


def _picture(given: Any) -> Image.Image:
    picture = _of_tensor(given) if isinstance(given, Tensor) else given
    if not isinstance(picture, Image.Image):
        raise UserError("images", f"a {type(given).__name__} is no picture; give PIL's, tensors (3, height, width) or a list")
    width, height = picture.size
    if width * height > MAX_PIXELS or max(width, height) > LONGEST * min(width, height):
        raise UserError("images", f"{width}x{height} is too large or too long; at most {MAX_PIXELS / 1e6:g} million pixels and a "
                                  f"side {LONGEST} times the other are taken, shrink or crop it")
    try:
        return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:  # PIL reads a file when its pixels are first asked for
        raise UserError("images", f"is damaged or cut short ({str(error)[:120]}); give a whole picture") from None


def _of_tensor(given: Tensor) -> Image.Image:
    values = given.float() / 255 if given.dtype == torch.uint8 else given
    shaped = given.dim() == 3 and given.shape[0] == 3 and given.numel() > 0 and values.is_floating_point()
    if not shaped or not bool(((values >= 0) & (values <= 1)).all()):
        raise UserError("images", f"a tensor {tuple(given.shape)} of {str(given.dtype)[6:]} is no picture; give "
                                  "(3, height, width) in [0, 1], or of uint8")
    return Image.fromarray((values * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())
