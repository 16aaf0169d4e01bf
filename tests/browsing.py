"""Looking at pictures in a browser: until they are whole, and not without end."""

from typing import Any

# `image.decode()` would wait for the same, but has been seen never to answer.
LAST_PIXEL = """(image) => {
  const sheet = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
  sheet.drawImage(image, 0, 0);
  return [image.naturalWidth, sheet.getImageData(image.naturalWidth - 1, image.naturalHeight - 1, 1, 1).data[3]];
}"""


def last_pixel(image: Any, patience_ms: float) -> list[int]:
    """A picture's width and how opaque its last pixel is, when it has come; a picture that cannot be read has no pixel."""
    from playwright import sync_api

    sync_api.expect(image).to_have_js_property("complete", True, timeout=patience_ms)
    found: list[int] = image.evaluate(LAST_PIXEL)
    return found
