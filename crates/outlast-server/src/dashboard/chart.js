// Lines over the last hour, or what is known of it. Two lines differ in their dashes too, not in colour alone.

import { h, svg } from './dom.js';

const MINUTE = 60 * 1000;
/** How far back a chart looks: as far as there are samples. */
const REACHES = [5, 15, 30, 60];
const [WIDTH, HEIGHT] = [600, 140];

/**
 * A chart: `series` is [{ name, values, kind }], `at` the times of the values, `format` words for a value, `shaded` spans of
 * time that are outages.
 */
export function chart({ title, unit, at, series, format, shaded }) {
  const now = Date.now();
  const values = series.flatMap((line) => line.values.filter((value) => value !== null));
  const top = nice(Math.max(...values, 0));
  const known = at.length ? (now - at[0]) / MINUTE : 0;
  const minutes = REACHES.find((reach) => reach >= known) ?? REACHES.at(-1);
  const x = (time) => (1 - (now - time) / (minutes * MINUTE)) * WIDTH;
  const y = (value) => HEIGHT - (value / top) * (HEIGHT - 6) - 1;
  const last = (line) => line.values.findLast((value) => value !== null);
  const words = series.map((line) => {
    const value = last(line);
    const most = Math.max(...line.values.filter((known) => known !== null), 0);
    return value === undefined ? `${line.name}: no values yet` : `${line.name}: now ${format(value)}, at most ${format(most)}`;
  });
  return h('figure', { class: 'chart', 'data-key': title },
    h('figcaption', {},
      h('h3', {}, title),
      h('ul', { class: 'legend' }, series.map((line) => {
        const value = last(line);
        return h('li', {},
          svg('svg', { class: 'swatch', viewBox: '0 0 18 4', 'aria-hidden': 'true' }, svg('path', { d: 'M0 2H18', class: `line ${line.kind}` })),
          h('span', { class: 'muted' }, line.name), ' ',
          h('strong', {}, value === undefined ? '–' : format(value)), value === undefined ? '' : h('span', { class: 'muted' }, ` ${unit}`));
      }))),
    h('div', { class: 'plot' },
      h('span', { class: 'top-value' }, format(top)),
      svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': `${title} over the last ${minutes} minutes, ${unit}. ${words.join('. ')}.` },
        shaded.map(([from, to]) => {
          const left = Math.max(0, x(from));
          const width = Math.min(WIDTH, x(to ?? now)) - left;
          return width > 0 && svg('rect', { class: 'outage', x: left.toFixed(1), width: Math.max(1, width).toFixed(1), y: 0, height: HEIGHT });
        }),
        svg('path', { class: 'rule', d: `M0 ${HEIGHT - 1}H${WIDTH}M0 ${y(top / 2)}H${WIDTH}M0 ${y(top)}H${WIDTH}` }),
        series.map((line) => paths(line, at, x, y)))),
    h('div', { class: 'times muted', 'aria-hidden': 'true' }, h('span', {}, `${minutes} min ago`), h('span', {}, 'now')));
}

/** Runs of values; where one is missing, or a sample is late, the line has a gap. */
function paths(line, at, x, y) {
  const runs = [];
  let run = null;
  line.values.forEach((value, index) => {
    const late = index > 0 && at[index] - at[index - 1] > 30000;
    if (value === null || late) run = null;
    if (value === null) return;
    if (!run) runs.push((run = []));
    run.push([x(at[index]), y(value)]);
  });
  const points = (run) => run.map(([left, top]) => `${left.toFixed(1)} ${top.toFixed(1)}`).join('L');
  return [
    line.kind === 'area' && runs.map((run) => svg('path', { class: 'fill', d: `M${run[0][0].toFixed(1)} ${HEIGHT}L${points(run)}L${run.at(-1)[0].toFixed(1)} ${HEIGHT}Z` })),
    // A lone value is a short dash.
    runs.map((run) => svg('path', { class: `line ${line.kind}`, d: `M${points(run)}${run.length === 1 ? 'h2' : ''}` })),
  ];
}

/** The next 1, 2 or 5 times a power of ten. */
function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}
