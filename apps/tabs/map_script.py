"""What the page of the tab Latent map does itself: thumbnails, clicks, selections, rings."""

# gr.Plot has no event of its own for a point.
HOOK = """
let bound = null;
const hook = () => {
  const plot = document.querySelector('#map-plot .js-plotly-plot');
  if (!plot || plot === bound || !plot.on) return;
  bound = plot;
  plot.on('plotly_hover', e => {
    const tip = element.querySelector('.map-tip'), n = e.points[0].customdata, s = props.value;
    if (!tip || !s || !s.url || n >= s.count) return;
    const k = 96;  // pixels, of whatever size the thumbnails are
    Object.assign(tip.style, {
      display: 'block',
      width: k + 'px',
      height: k + 'px',
      backgroundImage: `url("${s.url}")`,
      backgroundSize: `${k * s.columns}px auto`,
      backgroundPosition: `-${k * (n % s.columns)}px -${k * Math.floor(n / s.columns)}px`,
      left: Math.min(e.event.clientX + 16, window.innerWidth - k - 8) + 'px',
      top: Math.max(8, e.event.clientY - k - 16) + 'px',
    });
  });
  plot.on('plotly_unhover', () => {
    const tip = element.querySelector('.map-tip');
    if (tip) tip.style.display = 'none';
  });
  let before = null;  // two quick clicks are two ends, whatever the server knows by then
  plot.on('plotly_click', e => {
    const index = e.points[0].customdata;
    trigger('select', {index, before});
    before = index;
  });
  plot.on('plotly_selected', e => {  // none: a double click ends the selection
    const short = v => Number(v.toPrecision(4));
    const r = e?.range, l = e?.lassoPoints;
    let corners = [];
    if (r) corners = [[r.x[0], r.y[0]], [r.x[1], r.y[0]], [r.x[1], r.y[1]], [r.x[0], r.y[1]]];
    if (l) {
      const step = Math.max(1, Math.ceil(l.x.length / 40));
      corners = l.x.map((x, i) => [x, l.y[i]]).filter((_, i) => i % step === 0);
    }
    trigger('apply', {region: corners.map(c => c.map(short).join(',')).join(' ')});
  });
};
setInterval(hook, 250);
"""


# Rings chosen points without drawing the map anew.
RING = """ends => {
  const plot = document.querySelector('#map-plot .js-plotly-plot');
  if (!plot?._fullData || !window.Plotly) return;
  const rings = plot._fullData.findIndex(t => t.meta === 'chosen');
  const at = n => {
    for (const t of plot._fullData) {
      const i = t.customdata ? Array.prototype.indexOf.call(t.customdata, n) : -1;
      if (i >= 0) return [t.x[i], t.y[i]];
    }
    return [];
  };
  const points = (ends ? ends.split('-') : []).map(n => at(Number(n)));
  if (rings >= 0) {
    const places = {x: [points.map(p => p[0])], y: [points.map(p => p[1])]};
    window.Plotly.restyle(plot, places, [rings]);
  }
}"""
