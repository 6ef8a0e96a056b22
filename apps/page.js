// What Gradio's own components lack: names and keys for galleries and pictures, and a word about
// numbers that are not possible. The page is changed as little as possible, and only where the
// attribute or class that is looked for is there.
(() => {
  'use strict';

  const set = (element, name, value) => {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  };

  // Galleries: one stop of the Tab key each, arrow keys within, tiles named by their captions.
  const TILE = 'button.thumbnail-lg';
  const tilesOf = grid => [...grid.querySelectorAll(TILE)];

  const nameTiles = grid => {
    const tiles = tilesOf(grid);
    const focused = tiles.find(tile => tile === document.activeElement);
    const chosen = tiles.find(tile => tile.classList.contains('selected'));
    const stop = focused || chosen || tiles[0];
    tiles.forEach((tile, i) => {
      const caption = tile.querySelector('.caption-label')?.textContent.trim();
      set(tile, 'aria-label', `${caption || 'picture'}, ${i + 1} of ${tiles.length}`);
      set(tile, 'aria-pressed', String(tile === chosen));
      set(tile, 'tabindex', tile === stop ? '0' : '-1');
    });
  };

  const moved = (tiles, at, key) => {
    const top = tile => Math.round(tile.getBoundingClientRect().top);
    const columns = tiles.filter(tile => top(tile) === top(tiles[0])).length;
    const by = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns}[key];
    return {Home: tiles[0], End: tiles.at(-1)}[key] || (by && tiles[at + by]);
  };

  document.addEventListener('keydown', event => {
    const tile = event.target.closest?.(`.grid-container ${TILE}`);
    if (!tile) return;
    const grid = tile.closest('.grid-container'), tiles = tilesOf(grid);
    const next = moved(tiles, tiles.indexOf(tile), event.key);
    if (!next) return;
    event.preventDefault();
    next.focus();
    nameTiles(grid);
  });

  // A click on a picture needs a position, which a keyboard cannot give: the picture gets its
  // caption as a name and is no tab stop.
  const namePicture = button => {
    const caption = button.closest('.captioned')?.querySelector('.prose')?.textContent.trim();
    set(button, 'aria-label', caption || 'picture');
    set(button, 'tabindex', '-1');
  };

  // A name counts only with a role.
  const giveRole = box => set(box, 'role', 'group');

  // What lies in a box that scrolls is reached by the keyboard too.
  const scrolls = box => box.scrollHeight > box.clientHeight || box.scrollWidth > box.clientWidth;
  const reach = box => {
    if (!scrolls(box)) return;
    const stop = box.matches('.sheet') ? box : box.querySelector('th');  // in a grid only cells
    if (stop) set(stop, 'tabindex', '0');
    if (stop === box) set(box, 'aria-label', 'table');
  };

  const tidy = () => {
    document.querySelectorAll('.grid-container').forEach(nameTiles);
    document.querySelectorAll('.image-container > button').forEach(namePicture);
    document.querySelectorAll('.gradio-container div[aria-label]:not([role])').forEach(giveRole);
    document.querySelectorAll('.sheet, .virtual-table-viewport').forEach(reach);
  };
  let waiting = null;
  const soon = () => {
    waiting ??= setTimeout(() => {
      waiting = null;
      tidy();
    }, 50);
  };
  window.addEventListener('resize', soon);
  new MutationObserver(soon).observe(document, {
    subtree: true,
    childList: true,
    attributes: true,
    attributeFilter: ['class', 'aria-label'],
  });

  // Title of the tab that somebody has clicked, until the page tells of it.
  window.clickedTab = null;
  document.addEventListener('click', event => {
    const button = event.target.closest?.('#tabs button');
    if (button && !button.closest('[role=tabpanel]')) window.clickedTab = button.textContent.trim();
  }, true);
  window.addEventListener('popstate', () => { window.clickedTab = null; });

  // Numbers: Gradio makes 0 steps 1 without a word. What is not possible is told and not taken.
  const before = new WeakMap();  // of a box, its last number that was possible
  const bounded = box => box.matches?.('input[type=number]') && (box.min !== '' || box.max !== '');

  // The range that its number breaks; '' where it is possible.
  const brokenRange = box => {
    const slider = box.closest('.block')?.querySelector('input[type=range]');
    const whole = slider && box.step === '1';
    const from = box.min === '' ? '' : ` from ${box.min}`;
    const to = box.max === '' ? '' : ` to ${box.max}`;
    const low = box.min === '' ? -Infinity : Number(box.min);
    const high = box.max === '' ? Infinity : Number(box.max);
    const number = box.valueAsNumber, missing = Number.isNaN(number);
    const wrong = missing ? slider || box.validity.badInput : number < low || number > high;
    const fits = !wrong && !(whole && !Number.isInteger(number));
    return fits ? '' : `${whole ? 'whole numbers' : 'numbers'}${from}${to}`;
  };

  const unsay = box => box.closest('.block')?.querySelector('.refused')?.remove();

  const refuse = box => {
    const range = brokenRange(box);
    if (!range) return;
    const what = box.value === '' ? 'That' : box.value;
    const stands = before.get(box) ?? box.defaultValue;
    unsay(box);
    const says = document.createElement('p');
    says.className = 'refused';
    says.setAttribute('role', 'alert');
    says.textContent = `${what} cannot be used. Possible: ${range}. The value stays ${stands}.`;
    box.closest('.block')?.append(says);
    box.value = stands;
  };

  const listen = (kind, act) => {
    const heard = event => bounded(event.target) && act(event.target, event);
    document.addEventListener(kind, heard, true);
  };
  listen('focusin', box => {
    if (!brokenRange(box)) before.set(box, box.value);
  });
  listen('input', (box, event) => {
    if (brokenRange(box)) return event.stopImmediatePropagation();
    before.set(box, box.value);
    unsay(box);
  });
  listen('blur', refuse);
  listen('keydown', (box, event) => event.key === 'Enter' && refuse(box));
})();
