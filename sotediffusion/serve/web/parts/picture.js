// One picture on the page, small ones as small files; where its address has expired it is asked for again.
import { html, useState } from "../vendor/ui.js";
import { refresh } from "../state/acts.js";

export function Picture({ picture, alt, width, ...rest }) {
  const [tried, setTried] = useState(null);
  const again = () => {
    if (tried === picture.url) return;
    setTried(picture.url);
    refresh(picture.job.id);
  };
  const sharp = width && Math.min(2, Math.ceil(window.devicePixelRatio || 1));
  return html`<img src=${width ? `${picture.url}&width=${width * sharp}` : picture.url} alt=${alt ?? words(picture)} width=${picture.width} height=${picture.height} decoding="async" onError=${again} ...${rest} />`;
}

export function words(picture) {
  const prompt = picture.settings?.prompt || picture.job.request.prompt || "";
  return prompt.length > 160 ? `${prompt.slice(0, 157)}…` : prompt;
}
