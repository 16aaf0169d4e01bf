// One picture on the page; where its address has expired it is asked for again.
import { html, useState } from "../vendor/ui.js";
import { refresh } from "../state/jobs.js";

export function Picture({ picture, alt, ...rest }) {
  const [tried, setTried] = useState(null);
  const again = () => {
    if (tried === picture.url) return;
    setTried(picture.url);
    refresh(picture.job.id);
  };
  return html`<img src=${picture.url} alt=${alt ?? words(picture)} width=${picture.width} height=${picture.height} decoding="async" onError=${again} ...${rest} />`;
}

export function words(picture) {
  const prompt = picture.settings?.prompt || picture.job.request.prompt || "";
  return prompt.length > 160 ? `${prompt.slice(0, 157)}…` : prompt;
}
