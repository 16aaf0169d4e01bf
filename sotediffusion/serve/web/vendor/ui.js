// What the page is made of: Preact with signals, written as tagged templates instead of JSX.
import { h } from "./preact.js";
import htm from "./htm.js";

export { Fragment, createRef, render } from "./preact.js";
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./hooks.js";
export { batch, computed, effect, signal, untracked, useComputed, useSignal, useSignalEffect } from "./signals.js";
export const html = htm.bind(h);
