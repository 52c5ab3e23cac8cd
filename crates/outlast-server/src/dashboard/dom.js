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
  const present = [...old.childNodes];
  const coming = [...wanted.childNodes];
  coming.forEach((child, at) => {
    const there = present[at];
    if (!there) old.append(child);
    else if (!same(there, child)) there.replaceWith(child);
    else if (child.nodeType === Node.TEXT_NODE) {
      if (there.data !== child.data) there.data = child.data;
    } else {
      attributes(there, child);
      alike(there, child);
    }
  });
  present.slice(coming.length).forEach((child) => child.remove());
}

function same(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && a.dataset?.key === b.dataset?.key;
}

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
