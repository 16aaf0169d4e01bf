// How things read: numbers, times, names of settings and of phases.

export const LABELS = {
  prompt: "Prompt", negative: "Negative prompt", model: "Model", width: "Width", height: "Height", steps: "Steps",
  guidance: "Guidance", decoder_steps: "Decoder steps", decoder_guidance: "Decoder guidance", sampler: "Sampler",
  decoder_sampler: "Decoder sampler", schedule: "Schedule", decoder_schedule: "Decoder schedule", shift: "Shift",
  decoder_shift: "Decoder shift", rescale: "Guidance rescale", compression: "Compression", seed: "Seed", count: "Pictures",
  strength: "Redrawn", loras: "LoRA", preset: "Preset", init: "Start picture", license: "Licence", software: "Software",
  version: "Version", key: "Key",
};

export const SAMPLERS = {
  ddpm: "Default (DDPM)", ddim: "DDIM", euler: "Euler", euler_ancestral: "Euler a", dpmpp_2m: "DPM++ 2M",
  dpmpp_2m_sde: "DPM++ 2M SDE", lcm: "LCM",
};
export const SCHEDULES = { default: "Default", sgm_uniform: "SGM Uniform", karras: "Karras", exponential: "Exponential" };
export const PRESETS = { card: "Model card", civitai: "ComfyUI guide", v2: "SoteDiffusion v2" };
const PHASES = { text: "Reading the prompt", "stage c": "Drawing", "stage b": "Refining", "stage a": "Developing", done: "Done" };
const ORIGINS = {
  sote: "SoteDiffusion", a1111: "AUTOMATIC1111", comfyui: "ComfyUI", invokeai: "InvokeAI", sdnext: "SD.Next", fooocus: "Fooocus",
  swarmui: "SwarmUI",
};

export function valueWords(name, value) {
  if (name.endsWith("sampler")) return SAMPLERS[value] || String(value);
  if (name.endsWith("schedule")) return SCHEDULES[value] || String(value);
  return typeof value === "number" ? number(value) : String(value);
}

export const label = (name) => LABELS[name] || sentence(name.replaceAll("_", " "));
export const phaseName = (phase) => PHASES[phase] || sentence(String(phase));
export const originName = (origin) => ORIGINS[origin] || origin;
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const number = (value) => Number(value).toLocaleString("en", { maximumFractionDigits: 4, useGrouping: false });
export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
export const short = (count) => new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(count);
export const size = (wide, high) => `${wide} \u00d7 ${high}`;

export function seconds(value) {
  if (value == null || !isFinite(value)) return "";
  const whole = Math.max(0, Math.round(value));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60 ? `${whole % 60} s` : ""}`.trim();
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export const when = (time) => new Date(time * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

// How far a job is, 0 to 1; its steps are those of both stages and all its pictures.
export function fraction(job) {
  const { step = 0, steps = 0 } = job.progress || {};
  return steps ? Math.min(1, step / steps) : 0;
}

export function progressLine(job) {
  const at = job.progress;
  if (job.state === "queued") return job.position ? `Waiting, ${plural(job.position, "job")} before it` : "Starting soon";
  if (!at) return "Starting";
  const steps = at.steps ? `, step ${at.step} of ${at.steps}` : "";
  return phaseName(at.phase) + steps;
}

export const percent = (job) => `${Math.round(fraction(job) * 100)} %`;
