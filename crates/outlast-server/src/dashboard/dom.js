// Views are functions from state to nodes; what stands on the page is changed to look like them. So focus, selection and
// scrolling stay where they are while numbers change.

/** A node: attributes, handlers (`onclick`), and children, of which empty ones are left out. */
export function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  set(node, attributes);
  node.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return node;
}

/** The same for drawings. */
export function svg(tag, attributes, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  set(node, attributes);
  node.append(...children.flat(Infinity).filter(Boolean));
  return node;
}

function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === 'function') node[name] = value;
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
}

const HANDLERS = ['onclick', 'onsubmit', 'oninput', 'onchange', 'onpointermove', 'onpointerleave'];

/** Makes the children of `parent` look like these. */
export function show(parent, ...children) {
  const wanted = document.createElement(parent.tagName);
  wanted.append(...children.flat(Infinity).filter(Boolean));
  alike(parent, wanted);
}

function alike(old, wanted) {
  const left = {};
  for (const there of old.childNodes) (left[kind(there)] ??= []).push(there);
  const nodes = [...wanted.childNodes].map((child) => {
    const there = left[kind(child)]?.shift();
    if (!there) return child;
    if (child.nodeType !== Node.TEXT_NODE) {
      attributes(there, child);
      alike(there, child);
    } else if (there.data !== child.data) there.data = child.data;
    return there;
  });
  Object.values(left).flat().forEach((there) => there.remove());
  nodes.forEach((node, at) => {
    // What is moved loses the focus. So what stands before the focused one goes to the end, and to its place from there.
    while (old.childNodes[at] !== node && node.contains(document.activeElement)) old.append(old.childNodes[at]);
    if (old.childNodes[at] !== node) old.insertBefore(node, old.childNodes[at] ?? null);
  });
}

/** What may become what. A row has its own key, so that it stays itself when others come and go. */
const kind = (node) => `${node.nodeName} ${node.dataset?.key ?? ''}`;

function attributes(old, wanted) {
  for (const { name } of [...old.attributes]) {
    // Whether a part is open is the reader's affair.
    if (!wanted.hasAttribute(name) && name !== 'open') change(old, name, null);
  }
  for (const { name, value } of wanted.attributes) {
    if (old.getAttribute(name) !== value) change(old, name, value);
  }
  for (const handler of HANDLERS) {
    if (old[handler] !== wanted[handler]) old[handler] = wanted[handler];
  }
}

/**
 * Another value than before, or none. A field that was used no longer follows its attributes, so it is told; while the same
 * is wanted as before, it is left to whoever writes in it.
 */
function change(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else node.setAttribute(name, value);
  if (name === 'selected' || name === 'checked') node[name] = value !== null;
  // The cursor stays where the field holds that already.
  if (name === 'value' && node.nodeName === 'INPUT' && node.value !== (value ?? '')) node.value = value ?? '';
}
